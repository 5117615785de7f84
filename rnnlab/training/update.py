"""What an update leaves: the next state, of the gradients of a batch and what the optimiser's chain made of them."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rnnlab.engine import Taps
from rnnlab.nn.network import Carries
from rnnlab.ops.random_streams import Training
from rnnlab.optim.averaging import averaged
from rnnlab.tasks import Batch
from rnnlab.training.state import TrainState
from rnnlab.typing import Array, Float, Int, PyTree

RUNNING = ("grad_norm", "largest_grad_norm", "count")
"""The sums that every run has, beside those of its metrics."""


class BatchGradients(NamedTuple):
    """What a batch comes to, before the update; rows are this device's own, all else is of the whole batch."""

    batch: Batch
    training: Training
    positions: Int[Array, " B"]
    """Of the rows in the training split."""
    gradients: PyTree
    """Of the mean loss with all penalties, by the parameters."""
    values: dict[str, Float[Array, ""]]
    """Means of the metrics and penalties."""
    weights: Float[Array, " B"]
    buffers: PyTree
    """As the network leaves them."""
    last: Carries
    """What the rows end with."""
    seen: list[tuple]
    """The inputs and outputs of each layer."""
    flows: list[list[Taps]] | None
    """The gradients of the taps of each layer and direction, of an observed step."""


def updated(
    state: TrainState,
    made: BatchGradients,
    updates: PyTree,
    optimizer: dict[str, Any],
    averaging: Mapping[str, Any] | None,
    log_every: int,
) -> TrainState:
    """The state after these updates; where the loss or the gradient is not finite the one before, marked as such.

    Args:
        updates, optimizer: what the optimiser's chain gives, and its state.
        averaging: the resolved section.
        log_every: how many steps `sums` run over.
    """
    norm = optimizer["spikes"].norm
    finite = jnp.isfinite(made.values["loss"]) & jnp.isfinite(norm)

    def keep(new: PyTree, old: PyTree) -> PyTree:
        return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)

    values = made.values | {"grad_norm": norm, "count": 1.0}
    if "clipping" in optimizer:
        values["clipped"] = optimizer["clipping"].last.astype(jnp.float32)
    before = {name: jnp.where(state.step % log_every == 0, 0, total) for name, total in state.sums.items()}
    sums = {name: before[name] + value for name, value in values.items()}
    sums["largest_grad_norm"] = jnp.maximum(before["largest_grad_norm"], norm)
    params, average = optax.apply_updates(state.params, updates), state.average
    if averaging is not None:
        average = keep(averaged(average, params, state.step, averaging), average)
    return dataclasses.replace(
        state,
        step=state.step + finite,
        finite=finite,
        params=keep(params, state.params),
        buffers=keep(made.buffers, state.buffers),
        average=average,
        optimizer=keep(optimizer, state.optimizer),
        sums=keep(sums, before),
        carry=None if state.carry is None else keep(made.last, state.carry),
    )
