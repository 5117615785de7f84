"""The static side of one fused recurrence: its chunks of time. The loops over time are in `fused`, one step in
`chain`."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from rnnlab.ops.linear import Precision
from rnnlab.typing import PyTree


class Plan(NamedTuple):
    """The static side of one fused recurrence."""

    graphdef: Any
    chunk: int
    reverse: bool
    unroll_steps: int
    keep_carries: bool
    keep_gates: bool
    precision: Precision
    native: bool = False
    """Whether the loops within chunks are generated C++ (`native/`)."""

    def cell(self, params: PyTree) -> Any:
        return nnx.merge(self.graphdef, params)

    def project(self, params: PyTree, x: jax.Array) -> jax.Array:
        return self.cell(params).project(x)

    def needed(self, steps: int, lengths: jax.Array | None) -> jax.Array | None:
        """How many chunks, from the first on, have a step within a row's length; None: all, as far as is known."""
        if lengths is None or steps == self.chunk:  # XLA makes straight code of a loop that runs once for certain.
            return None
        longest = jnp.clip(_longest(lengths.astype(jnp.int32)), 0, steps)
        return (longest + self.chunk - 1) // self.chunk

    def segments(self, steps: int, needed: jax.Array | None) -> list["Segment"]:
        """In order of processing; the remainder stands at the end of time."""
        count, rest = divmod(steps, self.chunk)
        of_whole, of_rest = (None, None) if needed is None else (jnp.minimum(needed, count), needed - count)
        whole = Segment(self.chunk, jnp.arange(count) * self.chunk, of_whole)
        if not rest:
            return [whole]
        remainder = Segment(rest, jnp.full(1, count * self.chunk), of_rest)
        return [remainder, whole] if self.reverse else [whole, remainder]


class Segment(NamedTuple):
    """Chunks of one length, side by side in time."""

    length: int
    firsts: jax.Array
    """First step of each chunk."""
    needed: jax.Array | None
    """How many of them are run, from the first on; none where negative, all where None."""


@jax.custom_batching.custom_vmap
def _longest(lengths: jax.Array) -> jax.Array:
    """The largest of the rows' lengths []; under `vmap` that of all, else XLA would copy all stacks for every chunk."""
    return lengths.max()


@_longest.def_vmap
def _(size: int, batched: list[bool], lengths: jax.Array) -> tuple[jax.Array, bool]:
    return _longest(lengths.reshape(-1)), False
