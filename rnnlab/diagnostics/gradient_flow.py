"""How much gradient reaches each time step: ‖∂L/∂h_t‖ from the engine's taps, in one backward pass."""

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
    """Over rows, of the norm over units; scaled first, since the squares of what vanishes underflow below 1e-19."""
    largest = jnp.max(jnp.abs(gradient), axis=(1, 2), keepdims=True)
    scale = jnp.where(jnp.isfinite(largest), jnp.clip(largest, 1e-30, 1e37), 1)
    squares = jnp.sum((gradient / scale) ** 2, axis=-1)
    return scale[:, 0, 0] * jnp.sqrt(jnp.mean(squares, axis=-1))


def decay_per_step(norms: Float[Array, " T"]) -> tuple[float, float]:
    """The factor by which the gradient changes per step back in time, and its half-life in steps.

    A least-squares line through log ‖∂L/∂h_t‖ over the steps where it is not zero.

    Returns:
        (factor, half-life); the half-life is infinite where the gradient does not decay.
    """
    t = jnp.arange(norms.shape[0])
    valid = (norms > 0) & jnp.isfinite(norms)
    if int(valid.sum()) < 2:
        return 0.0, 0.0
    t, y = t[valid], jnp.log(norms[valid])
    slope = float(jnp.polyfit(t.astype(jnp.float32), y, 1)[0])
    factor = float(jnp.exp(-slope))
    return factor, float(jnp.log(2) / slope) if slope > 0 else float("inf")
