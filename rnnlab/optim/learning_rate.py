"""The learning rate of each step, applied and kept where a run reads it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rnnlab.optim.schedules import Schedule
from rnnlab.typing import Array, Float, Int, PyTree


class LearningRate(NamedTuple):
    """The state of `scale_by_learning_rate`."""

    count: Int[Array, ""]  # pyright: ignore[reportIncompatibleMethodOverride]
    """Updates so far."""
    rate: Float[Array, ""]
    """That of the last update, with all factors."""


def scale_by_learning_rate(peak: float | jax.Array, schedule: Schedule) -> optax.GradientTransformationExtraArgs:
    """Updates times -peak · schedule(step), and times the extra argument `rate_scale` where one is given."""

    def init(params: PyTree) -> PyTree:
        return LearningRate(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float32))

    def update(
        updates: PyTree,
        state: PyTree,
        params: PyTree = None,
        *,
        rate_scale: Float[Array, ""] | None = None,
        **others: Any,
    ) -> tuple[PyTree, PyTree]:
        rate = peak * schedule(state.count)
        updates = jax.tree.map(lambda u: jnp.asarray(-rate, u.dtype) * u, updates)
        if rate_scale is not None:
            updates = jax.tree.map(lambda u: (u * rate_scale).astype(u.dtype), updates)
            rate = rate * rate_scale
        count = jnp.asarray(optax.safe_increment(state.count))
        return updates, LearningRate(count, jnp.asarray(rate, state.rate.dtype))

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]
