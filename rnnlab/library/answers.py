"""The outputs of a network for inputs that a user gives, and the gradient over time, each a compiled call."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rnnlab.config.errors import ConfigError
from rnnlab.diagnostics import gradient_reach
from rnnlab.engine import check_lengths, check_range
from rnnlab.files import first_line
from rnnlab.nn.cross_entropy import Distribution
from rnnlab.nn.inputs import check_inputs
from rnnlab.nn.network import Network
from rnnlab.tasks import Batch, Task


def outputs_of(network: Network, x: Any, lengths: Any, count: int) -> np.ndarray:
    """The first `count` outputs of each answer; see `LoadedRun.predict`."""
    try:
        x, lengths = _numbers(x, "input"), None if lengths is None else _numbers(lengths, "lengths")
        check_inputs(x, network.vocabulary, network.in_features)
        if lengths is not None:
            check_lengths(lengths, x)
        if network.vocabulary is not None:
            check_range(x, 0, network.vocabulary - 1, "tokens of this network")
    except ValueError as error:
        raise ConfigError(f"predict: {first_line(error)}") from None
    return np.asarray(_outputs(*nnx.split(network), x, lengths))[..., :count]


def _numbers(values: Any, what: str) -> jax.Array:
    array = np.asarray(values)  # Rows of unequal lengths are a ValueError.
    if array.dtype.kind in "OSUVMm":
        raise ValueError(f"the {what} holds {array.dtype}; it is numbers")
    return jnp.asarray(array)


def gradients_of(network: Network, task: Task, batch: Batch) -> dict[str, np.ndarray]:
    """See `LoadedRun.gradients`."""
    try:
        norms = _norms(*nnx.split(network), task, batch)
    except ConfigError:
        raise
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"gradients: the batch does not go with the network: {first_line(error)}") from None
    return {layer: np.asarray(each) for layer, each in norms.items()}


@functools.partial(jax.jit, static_argnums=0)
def _outputs(graphdef: nnx.GraphDef, state: nnx.State, x: jax.Array, lengths: jax.Array | None) -> jax.Array:
    outputs = nnx.merge(graphdef, state)(x, lengths)
    return outputs.logits() if isinstance(outputs, Distribution) else outputs


@functools.partial(jax.jit, static_argnums=(0, 2))
def _norms(graphdef: nnx.GraphDef, state: nnx.State, task: Task, batch: Batch) -> dict[str, jax.Array]:
    return gradient_reach(nnx.merge(graphdef, state), task, batch)
