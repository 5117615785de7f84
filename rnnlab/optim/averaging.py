"""Averaged weights: a running mean of the parameters, which evaluation reads in their place."""

import dataclasses

import jax
import jax.numpy as jnp

from rnnlab.config.bounds import Decay, NonNegativeInt, Traced
from rnnlab.typing import Array, Float, Int, PyTree


@dataclasses.dataclass(frozen=True, kw_only=True)
class AveragingOptions:
    """A running mean of the parameters."""

    decay: Traced[Decay] | None = 0.999
    """The exponential mean's; None for the plain mean over all steps (Polyak and Juditsky, 1992)."""
    start: NonNegativeInt = 0
    """The update from which on it is taken; before that the average is the parameters themselves."""


def averaged(average: PyTree, params: PyTree, step: Int[Array, ""], options: AveragingOptions) -> PyTree:
    """The average after update number `step` (from 0) made these parameters.

    a ← a + w (p - a) with w = max(1 - decay, 1 / n), n the updates since `start`: the plain mean of them at first, so
    that the initial parameters weigh nothing, then the exponential one.
    """
    count = jnp.maximum(step - options.start + 1, 1)
    weight: Float[Array, ""] = 1.0 / count
    if options.decay is not None:
        weight = jnp.maximum(1 - options.decay, weight)
    return jax.tree.map(lambda a, p: a + (weight * (p - a)).astype(a.dtype), average, params)
