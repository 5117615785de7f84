"""Evaluations: the sums of a split, and how they are made in parts, so many batches a dispatch that the host can answer
a signal between them.

Every device adds up its rows batch by batch, wherever the parts end: the numbers are the same to the last bit.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnnlab.nn.connections import Carries
from rnnlab.nn.network import Network
from rnnlab.parallel import processes
from rnnlab.parallel.sharding import sum_over_devices
from rnnlab.tasks import Split, StreamTask
from rnnlab.training.metric_sums import of_split
from rnnlab.training.structure import Structure
from rnnlab.typing import Int, PyTree

SECONDS_PER_DISPATCH = 0.5
"""How long the compiled loop runs before the host looks at signals and the progress line."""
PATIENCE = 20.0
"""Seconds after a signal in which an evaluation may still end by itself, and the run is saved where it is. SLURM and
Kubernetes give 30 and more."""


class Halted(Exception):
    """An evaluation was left unfinished, at a signal. The run goes on from its last checkpoint."""


class Sums(NamedTuple):
    """An evaluation so far."""

    carry: Carries | None
    """The carries that the rows of a stream go on with."""
    totals: PyTree
    """Sums over the rows of each device [devices]: the metrics', and that of the weights."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The sums of a split, each device's share: `ALL_AXES` are mapped."""

    structure: Structure
    row_parts: int
    """How many devices share the rows of a batch."""

    def begin(self, split: Split, params: PyTree, buffers: PyTree, data: PyTree, rows: Int[jax.Array, " B"]) -> Sums:
        """The sums before the first batch; arguments are those of `add`."""
        network = self.structure.network_of_device(params, buffers)
        carry = network.first_carries(rows.shape[0]) if isinstance(self.structure.task, StreamTask) else None
        of_batch = functools.partial(self._of_batch, network, split, 1, data, rows)
        totals = jax.eval_shape(of_batch, carry, jnp.int32(0))[1]
        return Sums(carry, jax.tree.map(lambda a: jnp.zeros((1, *a.shape), a.dtype), totals))

    def add(
        self,
        split: Split,
        size: int,
        params: PyTree,
        buffers: PyTree,
        data: PyTree,
        rows: Int[jax.Array, " B"],
        sums: Sums,
        first: Int[jax.Array, ""],
        until: Int[jax.Array, ""],
    ) -> tuple[Sums, dict[str, Any]]:
        """The sums with those of the batches from `first` to before `until`, and the means so far, over the first
        `size` examples of a split.

        rows: this device's rows of an evaluation batch.
        """
        network = self.structure.network_of_device(params, buffers)

        def add(number: jax.Array, sums: Sums) -> Sums:
            carry, totals = self._of_batch(network, split, size, data, rows, sums.carry, number)
            return Sums(carry, jax.tree.map(jnp.add, sums.totals, jax.tree.map(lambda a: a[None], totals)))

        sums = lax.fori_loop(first, until, add, sums)
        values, weight = sum_over_devices(jax.tree.map(lambda a: a[0], sums.totals))
        return sums, of_split(values, weight)

    def _of_batch(
        self,
        network: Network,
        split: Split,
        size: int,
        data: PyTree,
        rows: Int[jax.Array, " B"],
        carry: Carries | None,
        number: Int[jax.Array, ""],
    ) -> tuple[Carries | None, PyTree]:
        """(The carries that the rows of batch `number`, from 0, end with; the sums of their metrics and weights)."""
        task, width = self.structure.task, rows.shape[0] * self.row_parts
        numbers = number.astype(jnp.uint32) * width + rows.astype(jnp.uint32)  # Beyond 2^31 where a split ends there.
        inside, positions = numbers < size, numbers.astype(jnp.int32)
        batch = task.batch(data, jnp.int32(0), split, jnp.minimum(numbers, size - 1).astype(jnp.int32))
        last: Carries = []
        first = self.structure.first_carries(network, split, positions, carry)
        hidden = network.hidden(batch.inputs, batch.lengths, first=first, last=last, resets=batch.resets)
        values, weights = task.score(network.read(hidden, batch.lengths), batch)
        sums = jax.tree.map(lambda v: jnp.where(inside, v, 0).sum(), (values, weights))
        return (None if carry is None else last), sums


class Pace:
    """How many batches are one dispatch, about half a second. The first dispatch compiles, and is one batch."""

    def __init__(self) -> None:
        self.batches, self._compiled = 1, False

    def see(self, batches: int, seconds: float) -> None:
        """A dispatch of so many has taken so long."""
        if self._compiled:
            self.batches = max(1, min(int(SECONDS_PER_DISPATCH * batches / max(seconds, 1e-9)), 4 * self.batches))
        self._compiled = True


class Halt:
    """Whether an evaluation is to be left unfinished: a signal came `PATIENCE` seconds ago.

    Args:
        interrupted: the signals that have come; see `training/interruptions.py`.
    """

    def __init__(self, interrupted: Sequence[str]):
        self._interrupted = interrupted
        self._since: float | None = None

    def __call__(self) -> bool:
        if not self._interrupted:
            return False
        self._since = self._since or time.monotonic()
        return time.monotonic() - self._since >= PATIENCE


def in_parts(
    part: Callable[[Any, np.int32, np.int32], tuple[Any, PyTree]],
    sums: Any,
    count: int,
    pace: Pace,
    halts: Callable[[], bool] | None,
) -> PyTree:
    """The means over all batches, made part by part.

    Args:
        part: (sums, first batch, the one after the last) -> the sums with these batches, and the means over all so far.
        count: how many batches there are.
        halts: asked after every dispatch.

    Raises:
        Halted: halts said so.
    """
    done = 0
    while True:
        until, began = min(count, done + pace.batches), time.monotonic()
        sums, means = jax.block_until_ready(part(sums, np.int32(done), np.int32(until)))
        pace.see(until - done, time.monotonic() - began)
        halted, pace.batches = processes.agree(halts is not None and halts(), pace.batches)
        if until == count:
            return means
        if halted:
            raise Halted
        done = until
