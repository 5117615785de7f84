"""Averaged weights: a running mean of the parameters, which evaluation reads in their place."""

from collections.abc import Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from rnnlab.config.bounds import Decay, NonNegativeInt
from rnnlab.typing import Array, Float, Int, PyTree


def averaging_options(*, decay: Decay | None = 0.999, start: NonNegativeInt = 0) -> dict[str, Any]:
    """decay: of the exponential mean; None for the plain mean over all steps (Polyak and Juditsky, 1992). start: the
    update from which on it is taken; before that the average is the parameters themselves."""
    return {"decay": decay, "start": start}


AveragingSpec = Annotated[Mapping[str, Any], averaging_options]


def averaged(average: PyTree, params: PyTree, step: Int[Array, ""], options: Mapping[str, Any]) -> PyTree:
    """The average after update number `step` (from 0) made these parameters.

    a ← a + w (p - a) with w = max(1 - decay, 1 / n), n the updates since `start`: the plain mean of them at first, so
    that the initial parameters weigh nothing, then the exponential one.
    """
    count = jnp.maximum(step - options["start"] + 1, 1)
    weight: Float[Array, ""] = 1.0 / count
    if options["decay"] is not None:
        weight = jnp.maximum(1 - options["decay"], weight)
    return jax.tree.map(lambda a, p: a + (weight * (p - a)).astype(a.dtype), average, params)
