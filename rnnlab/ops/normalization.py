"""Layer and batch normalisation of what goes from layer to layer, and the standardisation that cells use within."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from rnnlab.ops.random_streams import Training, number
from rnnlab.typing import Array, Axes, Float, Int

EPSILON = 1e-5
"""Added to every variance."""


def standardized(x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """Mean 0 and variance 1 over the last axis (Ba et al., 2016, eq. 3)."""
    centred = x - x.mean(-1, keepdims=True)
    return centred * lax.rsqrt((centred**2).mean(-1, keepdims=True) + EPSILON)


class LayerNormalization(nnx.Module):
    """g ∘ (x - mean) / √(variance + 1e-5) + b, over the features of each step and row (Ba et al., 2016)."""

    def __init__(self, features: int):
        self.gain = nnx.Param(jnp.ones(features))
        self.bias = nnx.Param(jnp.zeros(features))

    def __call__(
        self, x: Float[Array, "T B D"], lengths: Int[Array, " B"] | None = None, training: Training | None = None
    ) -> Float[Array, "T B D"]:
        return standardized(x) * self.gain[...] + self.bias[...]


class Statistic(nnx.Variable):
    """A running mean, which training changes and evaluation reads."""


class BatchNormalization(nnx.Module):
    """g ∘ (x - mean) / √(variance + 1e-5) + b, mean and variance over the valid steps of all rows of the batch, on all
    devices (Ioffe and Szegedy, 2015, over time as in Laurent et al., 2016); at evaluation the running ones."""

    def __init__(self, features: int, decay: float | jax.Array):
        """decay: of the running mean and variance; what a step adds to them has the weight 1 - decay."""
        self.gain = nnx.Param(jnp.ones(features))
        self.bias = nnx.Param(jnp.zeros(features))
        self.mean = Statistic(jnp.zeros(features))
        self.variance = Statistic(jnp.ones(features))
        self.decay = nnx.Variable(number(decay))

    def __call__(
        self, x: Float[Array, "T B D"], lengths: Int[Array, " B"] | None = None, training: Training | None = None
    ) -> Float[Array, "T B D"]:
        mean, variance = self.mean[...], self.variance[...]
        if training is not None:
            mean, variance = _moments(x, lengths, training.axis)
            decay = self.decay[...]
            for running, seen in ((self.mean, mean), (self.variance, variance)):
                running[...] = decay * running[...] + (1 - decay) * lax.stop_gradient(seen).astype(running.dtype)
        return (x - mean) * lax.rsqrt(variance + EPSILON) * self.gain[...] + self.bias[...]


def _moments(x: jax.Array, lengths: jax.Array | None, axis: Axes | None) -> tuple[jax.Array, jax.Array]:
    """Mean and variance [D] over the valid steps of x [T, B, D] on all devices of the axis."""

    def total(value: jax.Array) -> jax.Array:
        return value if axis is None else lax.psum(value, axis)

    valid: Any = jnp.ones((*x.shape[:2], 1), x.dtype)
    if lengths is not None:
        valid = (jnp.arange(x.shape[0])[:, None] < lengths)[:, :, None]
    count = jnp.maximum(total(valid.sum(dtype=x.dtype)), 1)
    mean = total(jnp.where(valid, x, 0).sum((0, 1))) / count
    variance = total(jnp.where(valid, (x - mean) ** 2, 0).sum((0, 1))) / count
    return mean, variance
