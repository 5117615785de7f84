"""The state that a run carries from step to step, and the means that the host reads of it."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax

from rnnlab.nn.connections import Carries
from rnnlab.optim.monitors import Clipped, Spikes
from rnnlab.training.metric_sums import since_log
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
    """The arrays that the optimiser changes, in nested dicts."""
    buffers: PyTree
    """The network's other arrays: its rates, and running statistics."""
    average: PyTree
    """The running mean of params, None where it is not asked for."""
    optimizer: dict[str, PyTree]
    """The state of each part of the optimiser's chain, by its name; see `optim.chain.make_optimizer`."""
    numbers: dict[str, Float[Array, ""]]
    """Every float of the sections that the programs are made from, by its path."""
    sums: dict[str, Float[Array, ""]]
    """Since the last log step: per-step sums, see `training/metric_sums.py`, their count, the largest gradient norm."""
    rate_scale: Float[Array, ""] | None = None
    """The factor with which the host multiplies the learning rate; None unless the schedule is "plateau"."""
    carry: Carries | None = None
    """The carry that each row of the batch ended with, where the next step goes on; None unless the task is a
    `StreamTask`. Rows are split over the devices; all else is the same on all of them."""

    @property
    def evaluated(self) -> PyTree:
        """The parameters that evaluation uses."""
        return self.params if self.average is None else self.average

    @property
    def spikes(self) -> Spikes:
        """The norm of the gradients, and how many were spikes."""
        return self.optimizer["spikes"]

    @property
    def clipped(self) -> Clipped | None:
        """How many gradients were clipped; None where nothing is."""
        return self.optimizer.get("clipping")

    @property
    def learning_rates(self) -> dict[str, Float[Array, ""]]:
        """Those of the last update by their names in metrics, the optimizer's and those of its groups; 0 before the
        first."""
        return {"learning_rate": self.optimizer["learning_rate"].rate, **self.optimizer["learning_rate"].of_groups}


def means(sums: Mapping[str, Any]) -> dict[str, float]:
    """On the host: the means since the last log step, and the largest gradient norm before clipping."""
    others = {name: value for name, value in sums.items() if name not in ("count", "largest_grad_norm")}
    count, largest = max(float(sums["count"]), 1.0), float(sums["largest_grad_norm"])
    return since_log(others, count) | {"largest_grad_norm": largest}


def logged(sums: Mapping[str, Any], learning_rates: Mapping[str, Any]) -> dict[str, float]:
    """`means`, and the learning rates of the last step, to the digits that a float32 has."""
    return means(sums) | {name: float(f"{float(rate):.7g}") for name, rate in learning_rates.items()}
