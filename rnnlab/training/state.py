"""What a run carries from step to step, and what the host reads of it."""

import dataclasses
import functools

import jax

from rnnlab.nn.network import Carries
from rnnlab.typing import Array, Float, Int, PyTree


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "step",
        "seed",
        "finite",
        "params",
        "buffers",
        "average",
        "optimizer",
        "numbers",
        "sums",
        "totals",
        "usual_norm",
        "rate_scale",
        "carry",
    ],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that a run carries from step to step; a checkpoint holds exactly this."""

    step: Int[Array, ""]
    """Updates made so far."""
    seed: Int[Array, ""]
    finite: Array
    """False once a loss or a gradient was not finite; the update that would have followed was not made."""
    params: PyTree
    """What the optimiser changes: nested dicts of arrays."""
    buffers: PyTree
    """What else the network holds, untrained: its rates, and running statistics."""
    average: PyTree
    """The running mean of params, None where it is not asked for."""
    optimizer: PyTree
    numbers: dict[str, Float[Array, ""]]
    """Every float of the sections that the programs are made from, by its path."""
    sums: dict[str, Float[Array, ""]]
    """Since the last log step: per-step sums, their count, and the largest gradient norm."""
    totals: dict[str, Int[Array, ""]]
    """Of the run: how many steps had their gradient clipped, and how many were spikes."""
    usual_norm: Float[Array, ""]
    """A running mean of the gradient's norm before clipping, which a spike is measured against."""
    rate_scale: Float[Array, ""] | None = None
    """What the host multiplies the learning rate by; None unless the schedule is "plateau"."""
    carry: Carries | None = None
    """What each row of the batch ended with, which the next step goes on from; None unless it is a `StreamTask`. Rows
    are split over the devices; all else is the same on all of them."""

    @property
    def evaluated(self) -> PyTree:
        """The parameters that evaluation uses."""
        return self.params if self.average is None else self.average


def means(state: TrainState) -> dict[str, float]:
    """On the host: the means since the last log step, and the largest gradient norm before clipping."""
    sums = {name: float(value) for name, value in state.sums.items()}
    count = max(sums.pop("count"), 1.0)
    largest = sums.pop("largest_grad_norm")
    return {name: value / count for name, value in sums.items()} | {"largest_grad_norm": largest}
