"""How much gradient reaches each time step: ‖∂L/∂h_t‖ from the engine's taps, in one backward pass."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnnlab.network import Network
from rnnlab.tasks import Batch, Task
from rnnlab.typing import Array, Float


def gradient_flow(network: Network, task: Task, batch: Batch) -> dict[str, Float[Array, " T"]]:
    """The root mean square over the batch's rows of ‖∂L_b/∂h_t‖₂ at each step t, L_b being row b's own loss.

    Args:
        network: a network of this task.
        task: gives the loss.
        batch: T steps of B rows.

    Returns:
        Per layer and direction ("layer 1", "layer 1 reverse") an array [T]. A row past its end counts as zero.
    """

    def loss(taps: list) -> jax.Array:
        values, weights = task.score(network(batch.inputs, batch.lengths, taps), batch)
        return (values["loss"] / jnp.maximum(weights, 1)).sum()

    gradients = jax.grad(loss)(network.make_taps(batch.inputs))
    return {
        f"layer {number}" + (" reverse" if direction else ""): _root_mean_square(tap.carry[0])
        for number, directions in enumerate(gradients, 1)
        for direction, tap in enumerate(directions)
    }


def _root_mean_square(gradient: Float[Array, "T B H"]) -> Float[Array, " T"]:
    """Over rows, of the norm over units."""
    return norms(norms(gradient)) / math.sqrt(gradient.shape[1])


def norms(a: Float[Array, "... H"]) -> Float[Array, "..."]:
    """‖a‖₂ over the last axis; scaled first, since the squares of what vanishes underflow (in float32 below 1e-19)."""
    tiny = jnp.finfo(a.dtype).tiny
    largest = jnp.max(jnp.abs(a), axis=-1, keepdims=True)
    # The reciprocal of the scale is a normal number as well: a compiler may multiply by it.
    scale = jnp.where(jnp.isfinite(largest), jnp.clip(largest, tiny, 1 / tiny), 1)
    return scale[..., 0] * jnp.sqrt(jnp.sum((a / scale) ** 2, axis=-1))


class Decay(NamedTuple):
    """How fast a gradient changes on its way back in time."""

    factor: Float[Array, ""]
    """Of its norm, per step back in time: below 1 it vanishes, above it explodes."""
    half_life: Float[Array, ""]
    """Steps back in time after which it has halved; infinite where it does not decay."""

    @property
    def doubling_time(self) -> Float[Array, ""]:
        """Steps back in time after which it has doubled; infinite where it does not grow."""
        grows = self.factor > 1
        time = jnp.log(2.0) / jnp.log(jnp.where(grows, self.factor, 2))
        return jnp.where(grows, time, jnp.where(jnp.isnan(self.factor), jnp.nan, jnp.inf))


def decay_per_step(norms: Float[Array, " T"]) -> Decay:
    """The rate of exponential decay of ‖∂L/∂h_t‖ back in time; may be traced.

    A least-squares line through log ‖∂L/∂h_t‖ over the steps where it is neither zero (or subnormal) nor infinite nor
    NaN. With fewer than two such steps there is no line: factor and half-life are 0 where the other norms are zeros
    (nothing comes through a single step), NaN where one of them is not finite.
    """
    lost = ~jnp.isfinite(norms)
    used = ~lost & (norms >= jnp.finfo(norms.dtype).tiny)  # The logarithm of what is below may be -inf on a CPU.
    weights = used.astype(norms.dtype)
    count = weights.sum()
    t = jnp.arange(norms.shape[0], dtype=norms.dtype)
    y = jnp.log(jnp.where(used, norms, 1))
    t = weights * (t - (weights * t).sum() / jnp.maximum(count, 1))
    slope = (t * y).sum() / jnp.maximum((t**2).sum(), 0.5)  # Of two steps side by side it is 0.5.
    factor = jnp.exp(-slope)
    half_life = jnp.where(slope > 0, jnp.log(2.0) / jnp.where(slope > 0, slope, 1), jnp.inf)
    without = jnp.where(lost.any(), jnp.nan, 0.0)
    return Decay(*(jnp.where(count < 2, without, a).astype(norms.dtype) for a in (factor, half_life)))
