"""Sums of metrics, and the means that they come to: most over the weights of the loss, a `Weighted` one over its own.

A step of training adds to the sums since the last log line the means of its batch; of a `Weighted` metric the sums
themselves, and under another name their weights, so that a step counts by its weight, and one without any does not.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnnlab.config.errors import ConfigError
from rnnlab.tasks import Weighted
from rnnlab.typing import Array, Float

_WEIGHT = "weight/"
"""The names of weights begin with it, and go on with the metric's."""


def check_score(scores: Any, rows: int) -> None:
    """Raises a ConfigError for what a task's `score` may not return: all but a loss and weights of every row."""
    if not isinstance(scores, tuple) or len(scores) != 2 or not isinstance(scores[0], Mapping):
        raise ConfigError(f"task: score returns {_kind(scores)}; it needs (a dict of sums [B], weights [B])")
    values, weights = scores
    if "loss" not in values or isinstance(values["loss"], Weighted):
        fault = "has no 'loss'" if "loss" not in values else "has a Weighted loss"
        raise ConfigError(f"task: what score returns {fault}; it needs sums [B] of it, and their weights [B] beside")
    own_weights = {name: value.weights for name, value in values.items() if isinstance(value, Weighted)}
    arrays = {f"the weights of {name!r}": array for name, array in own_weights.items() if np.ndim(array)}
    arrays |= {repr(name): getattr(value, "sums", value) for name, value in values.items()} | {"the weights": weights}
    for name, array in arrays.items():
        shape = getattr(array, "shape", None)
        if shape != (rows,):
            kind = f"as {_kind(array)}" if shape is None else f"of shape {shape}"
            raise ConfigError(f"task: score returns {name} {kind}; it needs a number for each row, ({rows},)")


def _kind(value: Any) -> str:
    name = type(value).__name__
    return (
        f"a {name} of {', '.join(type(each).__name__ for each in value)}" if isinstance(value, tuple) else f"a {name}"
    )


def over_rows(values: Mapping[str, Any]) -> dict[str, Float[Array, ""]]:
    """The sums over rows of what a task's `score` returns, and those of weights of their own."""
    sums = {}
    for name, value in values.items():
        if isinstance(value, Weighted):
            weights = jnp.broadcast_to(value.weights, value.sums.shape)
            sums |= {name: _sum(value.sums), _WEIGHT + name: _sum(weights)}
        else:
            sums[name] = value.sum()
    return sums


def _sum(values: jax.Array) -> Float[Array, ""]:
    return values.astype(jnp.promote_types(values.dtype, jnp.float32)).sum()


def of_step(sums: Mapping[str, jax.Array], weight: jax.Array) -> dict[str, Float[Array, ""]]:
    """The numbers that a step adds, from the sums over a batch's rows."""
    summed = {name for name in sums if is_weight(name) or _has_weight(name, sums)}
    return {name: value if name in summed else value / weight for name, value in sums.items()}


def since_log(sums: Mapping[str, Any], count: float) -> dict[str, float]:
    """On the host: the means of what so many steps added. A metric without any weight is left out."""
    means = {}
    for name, value in sums.items():
        weight = float(sums[_WEIGHT + name]) if _has_weight(name, sums) else count
        if weight != 0 and not is_weight(name):
            means[name] = float(value) / weight
    return means


def of_split(sums: Mapping[str, Any], weight: jax.Array) -> dict[str, Any]:
    """The means over a split so far; a `Weighted` metric is left as it is."""
    return {name: value if isinstance(value, Weighted) else value / weight for name, value in sums.items()}


def on_host(means: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of `of_split`. A metric without any weight is left out."""
    numbers = {}
    for name, value in means.items():
        if not isinstance(value, Weighted):
            numbers[name] = float(value)
        elif float(value.weights) != 0:
            numbers[name] = float(value.sums) / float(value.weights)
    return numbers


def is_weight(name: str) -> bool:
    """Whether a sum is that of a metric's own weights."""
    return name.startswith(_WEIGHT)


def _has_weight(name: str, sums: Mapping[str, Any]) -> bool:
    return _WEIGHT + name in sums
