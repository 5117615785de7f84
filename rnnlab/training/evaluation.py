"""Evaluations in parts: so many batches a dispatch that the host can answer a signal between them.

Every device adds up its rows batch by batch, wherever the parts end: the numbers are the same to the last bit. What is
added up is in `programs.Programs`.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from rnnlab.nn.network import Carries
from rnnlab.parallel import processes
from rnnlab.typing import PyTree

SECONDS_PER_DISPATCH = 0.5
"""How long the compiled loop runs before the host looks at signals and the progress line."""
PATIENCE = 20.0
"""Seconds after a signal in which an evaluation may still end by itself, and the run is saved where it is. SLURM and
Kubernetes give 30 and more."""


class Halted(Exception):
    """An evaluation was left unfinished, at a signal. The run goes on from its last checkpoint."""


class Sums(NamedTuple):
    """What an evaluation has come to."""

    carry: Carries | None
    """Of a stream: what its rows go on with."""
    totals: PyTree
    """Sums over the rows of each device [devices]: the metrics', and that of the weights."""


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
        interrupted: the signals that have come; see `loop.interruptions`.
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
    """What the last part gives.

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
