"""The probe that diagnostics measure, made of an update's batch and its gradients."""

import jax
import jax.numpy as jnp

from rnnlab.diagnostics.probe import Probe
from rnnlab.engine import Taps
from rnnlab.nn.connections import LayerRun
from rnnlab.nn.trajectory import of_runs
from rnnlab.ops.safe_norms import global_norm
from rnnlab.parallel.sharding import ALL_AXES
from rnnlab.training.state import TrainState
from rnnlab.training.update import Update
from rnnlab.typing import Array, Float, Int, PyTree


def probe_of(update: Update, state: TrainState, data: PyTree, rows: Int[Array, " B"]) -> Probe:
    """The probe of the update that comes after this state; arguments are those of the update."""
    structure = update.structure
    of_batch = update.gradients(state, data, rows, taps=True)
    _, updates = update.apply(state, of_batch)
    network = structure.network_of_device(state.params, state.buffers)
    first = structure.first_carries(network, "train", of_batch.positions, state.carry)
    runs = [
        LayerRun(layer, x, None if first is None else first[index], h, of_batch.batch.resets)
        for index, (layer, (x, h)) in enumerate(zip(network.layers, of_batch.seen, strict=True))
    ]
    clipped, clipping = of_batch.gradients, structure.clipping(state.numbers)
    if clipping is not None:
        clipped, _ = clipping.update(clipped, state.optimizer["clipping"], state.params)
    whole = structure.split.whole
    return Probe(
        of_runs(runs, of_batch.batch.lengths, of_batch.training),
        [_of_rows(tap, of_batch.weights) for layer in of_batch.flows or [] for tap in layer],
        params=whole(state.params),
        gradients=whole(of_batch.gradients),
        clipped=whole(clipped),
        updates=whole(updates),
        axis=ALL_AXES,
        loss=of_batch.values["loss"],
        grad_norm=global_norm(of_batch.gradients, structure.split),
        longest_dependency=structure.task.longest_dependency,
    )


def _of_rows(tap: Taps, weights: Float[Array, " B"]) -> Taps:
    """Gradients of each row's own mean loss, from those of the sum of all losses."""
    each = 1 / jnp.maximum(weights, 1)
    return jax.tree.map(lambda a: a * each[:, None].astype(a.dtype), tap)
