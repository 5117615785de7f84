"""What a training step minimises: the task's loss on a batch, and the penalties that the config asks for.

The penalties' formulas are in `optim/terms.py`, what is done with the gradient in `training/programs.py` and
`optim/optimizers.py`.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx
from jax import lax

from rnnlab.engine import Taps
from rnnlab.nn.network import Carries, LayerRun, Network
from rnnlab.ops.random_streams import Training
from rnnlab.optim.penalties import row_penalty, terms
from rnnlab.optim.terms import ForwardPass
from rnnlab.tasks import Batch, Task
from rnnlab.training.metric_sums import over_rows
from rnnlab.typing import Array, Float, PyTree


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

    Beside it (the sums of all metrics and of the penalties, the rows' weights, the buffers as the network leaves them,
    the carries that the layers end with, and what each of them saw and put out).
    """
    network: Network = nnx.merge(graphdef, params, buffers)
    runs: list[LayerRun] = []
    last: Carries = []
    hidden = network.hidden(batch.inputs, batch.lengths, taps, training, runs, first=first, last=last)
    values, weights = task.score(network.read(hidden, batch.lengths, training), batch)
    sums = over_rows(values)
    total = sums["loss"]
    if any(not term.of_weights for term in terms(penalties)):
        state = lax.stop_gradient((params, buffers))
        gradients = functools.partial(_carry_gradients, graphdef, state, task, batch, training, first)
        forward = ForwardPass(network, batch, hidden, runs, training, gradients)
        charged, each = row_penalty(forward, penalties or {})
        sums["penalty"] = (weights * charged).sum()
        sums |= {f"penalty/{label}": (weights * charge).sum() for label, charge in each.items()}
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
