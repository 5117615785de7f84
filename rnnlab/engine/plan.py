"""What is static in one fused recurrence: its chunks of time, and what the pullback of one step holds.

A step's pullback to (carry, z, u) holds the outputs of tanh and its like. Some of these are the carries themselves; the
others are what the forward pass keeps of every step, or what the backward pass computes again. The loops over time are
in `fused`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend.core import ClosedJaxpr, Jaxpr, Var, jaxpr_as_fun

from rnnlab.ops.linear import ComputeType
from rnnlab.typing import Carry, Parts, PyTree


class Plan(NamedTuple):
    """What is static in one fused recurrence."""

    graphdef: Any
    chunk: int
    reverse: bool
    unroll_steps: int
    keep_carries: bool
    keep_gates: bool
    compute: ComputeType

    def cell(self, params: PyTree) -> Any:
        return nnx.merge(self.graphdef, params)

    def project(self, params: PyTree, x: jax.Array) -> jax.Array:
        return self.cell(params).project(x)

    def gates(self, params: PyTree, carry: Carry, z: Parts, u: Parts) -> Carry:
        return self.cell(params).gates(carry, z, u)

    def linearised(self, params: PyTree, before: Carry, z: Parts, u: Parts, noise: tuple[jax.Array, ...]) -> Any:
        """One step, and its pullback to (before, z, u): a pytree that holds the outputs of tanh and its like; sums and
        products of them are computed where they are used."""

        def gates(before: Carry, z: Parts, u: Parts) -> Carry:
            return self.gates(params, before, [*z, *noise], u)

        return jax.vjp(jax.checkpoint(gates, prevent_cse=False, policy=_is_expensive), before, z, u)

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


class Held(NamedTuple):
    """Where to find one of the arrays that a step's pullback holds."""

    kind: Literal["before", "after", "noise", "constant", "kept"]
    number: int
    """In the carry before or after the step, in the noise, of all that it holds, or among those that are kept."""


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, eq=False)
class Trace:
    """What is static in a linearised step."""

    jaxpr: Jaxpr
    """(parameters, before, z, u, noise) -> (new carry, all that the pullback holds)."""
    pullback: Any
    """The pullback without what it holds: a tree's structure."""
    holdings: tuple[Held, ...]
    """For all that it holds, in order."""
    kept: tuple[jax.ShapeDtypeStruct, ...]
    """What has to be kept of a step for it."""


class LinearisedStep(NamedTuple):
    """One step and its pullback to (before, z, u), traced once: the forward and the backward pass run the same program,
    so that what one leaves is what the other takes. (Where arrays lie on devices changes how many arrays a second trace
    of the same step holds.)"""

    trace: Trace
    consts: list[Any]
    """Arrays that the cell's functions close over."""

    def __call__(
        self, params: PyTree, before: Carry, z: Parts, u: Parts, noise: tuple[jax.Array, ...]
    ) -> tuple[Carry, list[jax.Array]]:
        """The new carry, and all that the pullback holds, in order."""
        run = jaxpr_as_fun(ClosedJaxpr(self.trace.jaxpr, self.consts))
        results = run(*jax.tree.leaves((params, before, z, u, noise)))
        return tuple(results[: len(before)]), results[len(before) :]

    def pullback(self, held: Sequence[jax.Array]) -> Callable[[Carry], Any]:
        """∂L/∂(before, z, u) of ∂L/∂new; held: as a call returns it."""
        return jax.tree.unflatten(self.trace.pullback, held)


def linearise(plan: Plan, params: PyTree, before: PyTree, z: PyTree, u: PyTree, noise: PyTree) -> LinearisedStep:
    """A step of these arguments' shapes."""
    closed, (_, pull) = jax.make_jaxpr(plan.linearised, return_shape=True)(params, before, z, u, noise)
    jaxpr = closed.jaxpr
    constants = jaxpr.invars[: len(jax.tree.leaves(params))]
    places: dict[int, Held] = {id(var): Held("constant", 0) for var in (*jaxpr.constvars, *constants)}
    places |= {id(var): Held("after", number) for number, var in enumerate(jaxpr.outvars[: len(before)])}
    last = len(jaxpr.invars) - len(noise)
    places |= {id(var): Held("noise", number) for number, var in enumerate(jaxpr.invars[last:])}
    begun = jaxpr.invars[len(constants) : len(constants) + len(before)]
    places |= {id(var): Held("before", number) for number, var in enumerate(begun)}
    holdings, kept = [], []
    held_variables = zip(jaxpr.outvars[len(before) :], jax.tree.leaves(pull), strict=True)
    for number, (var, shape) in enumerate(held_variables):
        held = places.get(id(var), None if isinstance(var, Var) else Held("constant", 0))
        if held is None:
            held = Held("kept", len(kept))
            kept.append(shape)
        holdings.append(held._replace(number=number) if held.kind == "constant" else held)
    trace = Trace(jaxpr, jax.tree.structure(pull), tuple(holdings), tuple(kept))
    return LinearisedStep(trace, closed.consts)


def linearise_first(
    plan: Plan, params: PyTree, before: Carry, x: jax.Array, noise: tuple[jax.Array, ...]
) -> LinearisedStep:
    """The same, from the arrays of the whole sequence [T, B, ...]."""
    parts = jax.eval_shape(lambda: plan.cell(params).split(plan.project(params, x[0])))
    return linearise(plan, params, before, parts, parts, jax.eval_shape(lambda: tuple(a[0] for a in noise)))


def kept_bytes(plan: Plan, params: PyTree, carry: Carry, x: jax.Array, noise: tuple[jax.Array, ...]) -> int:
    """What `keep_gates` keeps of all steps x [T, B, D], beside the carries."""
    kept = linearise_first(plan, params, carry, x, noise).trace.kept
    return x.shape[0] * sum(a.size * a.dtype.itemsize for a in kept)


def same_gradients(gates: Callable[..., Carry], *primals: Any) -> list[bool]:
    """For every part whether z and u have one and the same gradient, as in gates of z + u."""
    same = []

    def trace(*primals: Any) -> None:
        new, pull = jax.vjp(gates, *primals)
        _, dz, du = pull(new)
        same.extend(a is b for a, b in zip(dz, du, strict=True))

    jax.eval_shape(trace, *primals)
    return same


def _is_expensive(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive.name not in _CHEAP


# fmt: off
_CHEAP = frozenset({
    "add", "sub", "mul", "neg", "sign", "max", "min", "abs", "select_n", "gt", "ge", "lt", "le", "eq", "ne", "and",
    "or", "not", "stop_gradient", "copy", "clamp", "convert_element_type", "broadcast_in_dim", "reshape", "squeeze",
    "slice", "concatenate", "split",
})
# fmt: on
"""Primitives that cost less to compute again than to read back."""
