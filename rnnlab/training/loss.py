"""The loss that an update minimises: the task's on a batch, and the penalties that the config asks for.

The penalties' formulas are in `optim/terms.py`, the use of the gradient in `training/update.py` and
`optim/chain.py`.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from rnnlab.cells import BaseCell
from rnnlab.engine import Iterations, Taps
from rnnlab.nn.connections import Carries, LayerRun
from rnnlab.nn.network import Network
from rnnlab.ops.random_streams import Training
from rnnlab.optim.penalties import Term, row_penalty, weight_penalty
from rnnlab.optim.terms import ForwardPass, Weights
from rnnlab.parallel.sharding import SplitLeaves
from rnnlab.tasks import Batch, Task, Weighted
from rnnlab.training.metric_sums import check_score, over_rows
from rnnlab.typing import Array, Float, PyTree


def batch_loss(
    network: Network,
    task: Task,
    batch: Batch,
    training: Training | None,
    *,
    penalties: Sequence[Term] = (),
    taps: list[list[Taps]] | None = None,
    first: Carries | None = None,
) -> tuple[Float[Array, ""], tuple[dict[str, jax.Array], Float[Array, " B"], PyTree, Carries, list[tuple]]]:
    """The loss and the rows' penalties, summed over the batch's rows; taps: see `Network.make_taps`; first: the carries
    that the layers begin with, `Network.first_carries` if not given.

    Beside it (the sums of all metrics and of the penalties, the rows' weights, the buffers as the network leaves them,
    the carries that the layers end with, the input and the output of each layer).
    """
    of_rows = any(not term.of_weights for term in penalties)
    untouched = _arrays(network) if of_rows else None  # Before running statistics change.
    runs: list[LayerRun] = []
    last: Carries = []
    newton: list[Iterations] = []
    around: dict[str, Any] = {"first": first, "last": last, "resets": batch.resets, "iterations": newton}
    hidden = network.hidden(batch.inputs, batch.lengths, taps, training, runs, **around)
    scores = task.score(network.read(hidden, batch.lengths, training), batch)
    check_score(scores, batch.inputs.shape[1])
    values, weights = scores
    sums = over_rows(values) | over_rows(_of_newton(newton))
    total = sums["loss"]
    if untouched is not None:
        gradients = functools.partial(_carry_gradients, *untouched, task, batch, training, first)
        forward = ForwardPass(network, batch, hidden, runs, training, gradients)
        charged, each = row_penalty(forward, penalties)
        sums["penalty"] = (weights * charged).sum()
        sums |= {f"penalty/{label}": (weights * charge).sum() for label, charge in each.items()}
        total = total + sums["penalty"]
    _, (_, buffers) = _arrays(network)
    return total, (sums, weights, buffers, last, [(run.x, run.h) for run in runs])


def _of_newton(iterations: Sequence[Iterations]) -> dict[str, Weighted]:
    """Of networks with the backend newton: iterations of a row, of the layer that took most, and the share of rows that
    did not converge in all layers, and were run step by step."""
    if not iterations:
        return {}
    most = functools.reduce(jnp.maximum, [each.number for each in iterations])
    converged = functools.reduce(jnp.logical_and, [each.converged for each in iterations])
    of_rows = {"iterations": most, "step_by_step": ~converged}
    one = jnp.ones((), jnp.float32)
    return {f"newton/{name}": Weighted(a.astype(jnp.float32), one) for name, a in of_rows.items()}


def _arrays(network: Network) -> tuple[nnx.GraphDef, tuple[PyTree, PyTree]]:
    """The parts that `nnx.merge` makes the network of: (graphdef, (parameters, buffers))."""
    graphdef, params, buffers = nnx.split(network, nnx.Param, ...)
    return graphdef, (nnx.to_pure_dict(params), nnx.to_pure_dict(buffers))


def _carry_gradients(
    graphdef: nnx.GraphDef,
    arrays: tuple[PyTree, PyTree],
    task: Task,
    batch: Batch,
    training: Training | None,
    first: Carries | None,
) -> list[list[tuple]]:
    """∂L/∂carry_t of every layer and direction, each a tuple of [T, B, H]."""
    arrays = lax.stop_gradient(arrays)

    def loss(taps: list) -> jax.Array:
        network: Network = nnx.merge(graphdef, *arrays)  # In here, where running statistics may change.
        hidden = network.hidden(batch.inputs, batch.lengths, taps, training, first=first, resets=batch.resets)
        return task.score(network.read(hidden, batch.lengths, training), batch)[0]["loss"].sum()

    whole: Network = nnx.merge(graphdef, *arrays)
    gradients = jax.grad(loss)(whole.make_taps(batch.inputs))
    return [[tap.carry for tap in layer] for layer in gradients]


def charge_weights(
    penalties: Sequence[Term],
    params: PyTree,
    cells: Callable[[PyTree], Mapping[tuple[str | int, ...], BaseCell]],
    split: SplitLeaves,
) -> tuple[dict[str, jax.Array], PyTree]:
    """(The penalties of the weights, their sum and each by its name in the metrics; the sum's gradient).

    Args:
        cells: `Network.cells` with given parameters.
        split: which parameters are this device's part.
    """

    def charge(params: PyTree) -> tuple[jax.Array, dict[str, jax.Array]]:
        return weight_penalty(Weights(params, cells(params)), penalties)

    (total, each), slopes = jax.value_and_grad(charge, has_aux=True)(params)
    if split:
        rest, words = split.parted(params)
        whole = weight_penalty(Weights(rest, cells(params)), penalties)
        parts = weight_penalty(Weights(words), penalties)
        total, each = jax.tree.map(lambda a, b: a + split.total(b), whole, parts)
    return {"penalty": total} | {f"penalty/{label}": value for label, value in each.items()}, slopes
