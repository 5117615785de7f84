"""The probe that the diagnostics of a training step look at."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnnlab.engine import Taps
from rnnlab.nn.trajectory import Trajectory
from rnnlab.typing import Array, Axes, Float, PyTree


class Probe(NamedTuple):
    """One training step, before its update, on this device's rows of the batch.

    All that runs over rows (trajectories, flows) is this device's own; parameters and gradients are the same on all. A
    diagnostic brings what it has found of its rows together with `gather`, and is then the same on all devices, too.
    """

    trajectories: list[Trajectory]
    """One for every layer and direction."""
    flows: list[Taps]
    """∂L_b/∂carry_t [T, B, H] each and δ_t = ∂L_b/∂u_t [T, B, U], L_b being row b's own loss: one for each
    trajectory."""
    params: PyTree
    """Nested dicts of arrays."""
    gradients: PyTree
    """The gradient of the batch's mean loss, before clipping; like params."""
    clipped: PyTree
    """The same after clipping."""
    updates: PyTree
    """The change that is added to params."""
    axis: Axes | None = None
    """The mesh axes that rows are split over, None for one device."""
    loss: Float[Array, ""] | None = None
    """The batch's mean loss, penalties left out; None where no training step is looked at."""
    grad_norm: Float[Array, ""] | None = None
    """The global norm of `gradients`, likewise."""
    longest_dependency: int | None = None
    """The task's, in steps."""

    def gather(self, tree: PyTree) -> PyTree:
        """Every array with a new first axis, that of the devices, after one exchange between them.

        One for a whole tree, since each waits for the slowest device; the numbers come back in one float type, that of
        the widest array.
        """
        leaves, structure = jax.tree.flatten(tree)
        dtype = jnp.result_type(jnp.float32, *(leaf.dtype for leaf in leaves))
        leaves = [leaf.astype(dtype) for leaf in leaves]
        if self.axis is None:
            return jax.tree.unflatten(structure, [leaf[None] for leaf in leaves])
        flat = lax.all_gather(jnp.concatenate([leaf.ravel() for leaf in leaves]), self.axis)
        pieces = jnp.split(flat, np.cumsum([leaf.size for leaf in leaves])[:-1], axis=1)
        pieces = [piece.reshape(-1, *leaf.shape) for piece, leaf in zip(pieces, leaves, strict=True)]
        return jax.tree.unflatten(structure, pieces)

    def shared(self, function: Callable[[jax.Array], jax.Array], a: jax.Array) -> jax.Array:
        """function of every a[i], stacked, each computed by one of the devices alone.

        For what would otherwise be the same work on every device. function must not reduce over devices.
        """
        if self.axis is None:
            return jnp.stack([function(each) for each in a])
        device, devices = lax.axis_index(self.axis), lax.axis_size(self.axis)
        shape = jax.eval_shape(function, a[0])
        zeros = jnp.zeros(shape.shape, shape.dtype)
        results = [lax.cond(device == index % devices, function, lambda _: zeros, each) for index, each in enumerate(a)]
        return lax.psum(jnp.stack(results), self.axis)
