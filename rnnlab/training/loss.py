"""What a training step minimises: the task's loss on a batch, and the penalties that the config asks for.

The penalties' formulas are in `optim/penalties.py`, what is done with the gradient in `training/programs.py` and
`optim/optimizers.py`.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from rnnlab.engine import Taps
from rnnlab.nn.network import Carries, Hidden, LayerRun, Network
from rnnlab.nn.trajectory import of_layer
from rnnlab.ops.random_streams import Training
from rnnlab.optim.penalties import activation_penalty, gradient_norm_penalty, temporal_activation_penalty
from rnnlab.tasks import Batch, Task
from rnnlab.typing import Array, Float, PyTree

_OF_ROWS = ("activation", "temporal_activation", "gradient_norm")
_OF_WEIGHTS = ("l1", "l2", "orthogonality")


def charges_rows(penalties: Mapping[str, Any] | None) -> bool:
    """Whether a section of penalties has some that depend on what the network does with a row."""
    return penalties is not None and any(penalties[name] is not None for name in _OF_ROWS)


def charges_weights(penalties: Mapping[str, Any] | None) -> bool:
    """Whether a section of penalties has some that depend on the parameters alone."""
    return penalties is not None and any(penalties[name] is not None for name in _OF_WEIGHTS)


def batch_loss(
    graphdef: Any,
    task: Task,
    penalties: Mapping[str, Any] | None,
    params: PyTree,
    buffers: PyTree,
    batch: Batch,
    training: Training | None,
    taps: list[list[Taps]] | None = None,
    first: Carries | None = None,
) -> tuple[Float[Array, ""], tuple[dict[str, jax.Array], Float[Array, " B"], PyTree, Carries, list[tuple]]]:
    """The loss and the rows' penalties, summed over the batch's rows; taps: see `Network.make_taps`; first: what the
    layers begin with, `Network.first_carries` if not given.

    Beside it (the sums of all metrics and of the penalty, the rows' weights, the buffers as the network leaves them,
    the carries that the layers end with, and what each of them saw and put out).
    """
    network: Network = nnx.merge(graphdef, params, buffers)
    runs: list[LayerRun] = []
    last: Carries = []
    hidden = network.hidden(batch.inputs, batch.lengths, taps, training, runs, first=first, last=last)
    values, weights = task.score(network.read(hidden, batch.lengths, training), batch)
    sums = {name: value.sum() for name, value in values.items()}
    total = sums["loss"]
    if penalties is not None and charges_rows(penalties):
        gradients = None
        if penalties["gradient_norm"] is not None:
            gradients = _carry_gradients(graphdef, lax.stop_gradient((params, buffers)), task, batch, training, first)
        rows = _row_penalty(penalties, network, hidden, runs, gradients, batch, training)
        sums["penalty"] = (weights * rows).sum()
        total = total + sums["penalty"]
    _, _, left = nnx.split(network, nnx.Param, ...)
    return total, (sums, weights, nnx.to_pure_dict(left), last, [(run.x, run.h) for run in runs])


def _carry_gradients(
    graphdef: Any,
    state: tuple[PyTree, PyTree],
    task: Task,
    batch: Batch,
    training: Training | None,
    first: Carries | None,
) -> list[list[tuple]]:
    """∂L/∂carry_t of every layer and direction, each a tuple of [T, B, H]."""

    def loss(taps: list) -> jax.Array:
        network: Network = nnx.merge(graphdef, *state)  # In here, where running statistics may change.
        hidden = network.hidden(batch.inputs, batch.lengths, taps, training, first=first)
        return task.score(network.read(hidden, batch.lengths, training), batch)[0]["loss"].sum()

    whole: Network = nnx.merge(graphdef, *state)
    gradients = jax.grad(loss)(whole.make_taps(batch.inputs))
    return [[tap.carry for tap in layer] for layer in gradients]


def _row_penalty(
    penalties: Mapping[str, Any],
    network: Network,
    hidden: Hidden,
    runs: list[LayerRun],
    gradients: list[list[tuple]] | None,
    batch: Batch,
    training: Training | None,
) -> Float[Array, " B"]:
    """What each row is charged."""
    lengths, total = batch.lengths, jnp.zeros(batch.inputs.shape[1])
    if penalties["activation"] is not None:
        total += activation_penalty(network.dropped_output(hidden.h, training), lengths, penalties["activation"])
    if penalties["temporal_activation"] is not None:
        total += temporal_activation_penalty(hidden.h, lengths, penalties["temporal_activation"])
    if gradients is not None:
        for run, dcarries in zip(runs, gradients, strict=True):
            for t, d in zip(of_layer(run, lengths, training), dcarries, strict=True):
                omega = gradient_norm_penalty(
                    t.cell, t.x, t.first, t.carries, d, lengths, t.reverse, t.noise, t.state_mask
                )
                total += penalties["gradient_norm"] * omega
    return total
