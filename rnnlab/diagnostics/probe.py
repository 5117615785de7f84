"""What the diagnostics of a training step look at."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnnlab.recurrence import Taps
from rnnlab.trajectory import Trajectory
from rnnlab.typing import Array, Float, PyTree


class Probe(NamedTuple):
    """One training step, before its update, on this device's rows of the batch.

    What runs over rows (trajectories, flows) is this device's own; parameters and gradients are the same on all. A
    diagnostic reduces over rows with `mean` and `all`, and is then the same on all devices, too.
    """

    trajectories: list[Trajectory]
    """Of every layer and direction."""
    flows: list[Taps]
    """∂L_b/∂carry_t [T, B, H] each and δ_t = ∂L_b/∂u_t [T, B, M], L_b being row b's own loss: one for each trajectory.
    Of a `StepCell`, which has no one u, `u` is zero."""
    params: PyTree
    """Nested dicts of arrays."""
    gradients: PyTree
    """Of the batch's mean loss, before clipping; like params."""
    clipped: PyTree
    """The same after clipping."""
    updates: PyTree
    """What is added to params."""
    loss: Float[Array, ""]
    """The batch's mean loss, penalties left out."""
    grad_norm: Float[Array, ""]
    """The global norm of `gradients`."""
    axis: str | None = None
    """The mesh axis that rows are split over, None for one device."""

    def mean(self, a: jax.Array, axis: int | tuple[int, ...] | None = None) -> jax.Array:
        """The mean over these axes of this device and over all devices."""
        mean = jnp.mean(a, axis)
        return mean if self.axis is None else lax.pmean(mean, self.axis)

    def all(self, a: jax.Array, axis: int | tuple[int, ...] | None = None) -> jax.Array:
        """Whether all are true, over these axes of this device and over all devices."""
        found = jnp.all(a, axis)
        return found if self.axis is None else lax.pmin(found.astype(jnp.int32), self.axis).astype(bool)

    def max(self, a: jax.Array, axis: int | tuple[int, ...] | None = None) -> jax.Array:
        """The largest over these axes of this device and over all devices."""
        found = jnp.max(a, axis)
        return found if self.axis is None else lax.pmax(found, self.axis)
