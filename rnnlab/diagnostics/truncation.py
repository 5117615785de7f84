"""The errors of truncated backpropagation through time: its gradient beside the full one, for several windows.

How far back a gradient comes from, lag by lag, is in `lags.py`; to train with truncation, set
`model.cotangent.cut_every`.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.core import Tracer

from rnnlab.config.errors import ConfigError
from rnnlab.nn.network import Network
from rnnlab.ops.safe_norms import alignment
from rnnlab.tasks import Batch, Task
from rnnlab.typing import Array, Float, Int, PyTree


class TruncationBias(NamedTuple):
    """A truncated gradient against the full one, for each of K windows."""

    cosine: Float[Array, " K"]
    """Between the two; not a number where one of them is 0."""
    ratio: Float[Array, " K"]
    """‖truncated‖ / ‖full‖; not a number where the full one is 0."""


def truncation_bias(
    network: Network, task: Task, batch: Batch, windows: Int[Array, " K"] | None = None
) -> dict[str, TruncationBias]:
    """The bias of the batch's gradient under `cut_every=k`: windows of k steps that do not overlap (Williams and Peng,
    1990), cut in all layers and directions, against that of the mean loss itself.

    Windows are counted back from each row's last step, as in training: a loss at the last step sees k steps, whether k
    divides T or not.

    Other changes of its gradient by the network (`model.cotangent`) are left out of both. All windows run one after the
    other in one loop: K + 1 gradients of time, two of memory.

    Args:
        network: a network of this task.
        task: gives the loss.
        batch: T steps of B rows.
        windows: steps per window, at least 1; `default_windows(T)` if not given. They may be traced: other windows
            need no other program. From T on nothing is cut.

    Returns:
        "all" for all parameters side by side, "recurrent" for the recurrent kernels alone.

    Raises:
        ConfigError: a window of less than one step.
    """
    steps = batch.inputs.shape[0]
    if windows is None:
        windows = default_windows(steps)
    elif not isinstance(windows, Tracer) and np.min(windows, initial=1) < 1:
        raise ConfigError(f"truncation: a window of {np.min(windows)} steps; it must be at least 1")
    windows = jnp.asarray(windows)
    graphdef, variables, rest = nnx.split(network, nnx.Param, ...)
    params = nnx.to_pure_dict(variables)

    def loss(params: PyTree, window: jax.Array) -> jax.Array:
        cut = with_windows(nnx.merge(graphdef, params, rest), window)
        values, weights = task.score(cut(batch.inputs, batch.lengths, resets=batch.resets), batch)
        return values["loss"].sum() / jnp.maximum(weights.sum(), 1)

    def against_full(full: PyTree, numbered: tuple[jax.Array, jax.Array]) -> tuple[PyTree, dict[str, TruncationBias]]:
        number, window = numbered
        gradient = jax.grad(loss)(params, window)
        full = jax.tree.map(lambda kept, new: jnp.where(number == 0, new, kept), full, gradient)
        groups = {"all": jax.tree.leaves(full), "recurrent": _recurrent(network, full)}
        parts = {"all": jax.tree.leaves(gradient), "recurrent": _recurrent(network, gradient)}
        return full, {name: TruncationBias(*alignment(parts[name], whole)) for name, whole in groups.items() if whole}

    # The full gradient is the first window's, of all T steps: one program for all, so that equal windows are equal.
    all_windows = jnp.concatenate([jnp.array([steps], windows.dtype), windows])
    nothing = jax.tree.map(jnp.zeros_like, params)
    _, biases = lax.scan(against_full, nothing, (jnp.arange(len(all_windows)), all_windows))
    return jax.tree.map(lambda a: a[1:], biases)


def default_windows(steps: int) -> Int[Array, " K"]:
    """1, 2, 4, ... below T, and T."""
    return jnp.array([*(2**i for i in range((steps - 1).bit_length())), steps], jnp.int32)


def with_windows(network: Network, window: Int[Array, ""] | None) -> Network:
    """A copy that backpropagates within windows of so many steps, which may be traced, or through all of time (None),
    and does nothing else to its gradient."""
    copy: Network = nnx.merge(*nnx.split(network))
    for layer in copy.layers:
        layer.cotangent = None
        layer.cut_every = None if window is None else nnx.data(window)
        if layer.recurrence.backend == "scan":  # It has no steps to cut at.
            layer.recurrence = dataclasses.replace(layer.recurrence, backend="auto")
    return copy


def _recurrent(network: Network, params: PyTree) -> list[jax.Array]:
    """The leaves that what meets the states of its cells is made of."""
    leaves: list[tuple[Any, jax.Array]] = jax.tree_util.tree_leaves_with_path(params)
    cells = network.cells()
    paths = [(tuple(key.key for key in keys), leaf) for keys, leaf in leaves]
    return [leaf for path, leaf in paths if path[:-1] in cells and path[-1] in cells[path[:-1]].recurrent_parameters]
