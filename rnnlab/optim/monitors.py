"""Monitors of a run's gradients: transformations of the optimiser's chain that keep what they count in their state.

Their order in the chain is in `optim/chain.py`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from rnnlab.diagnostics.flight import SPIKE
from rnnlab.ops.safe_norms import global_norm
from rnnlab.parallel.sharding import UNSPLIT, SplitLeaves
from rnnlab.typing import Array, Bool, Float, Int, PyTree

USUAL_STEPS = 100
"""Over about how many steps the usual norm is a mean."""


class Spikes(NamedTuple):
    """The state of `detect_spikes`."""

    count: Int[Array, ""]  # pyright: ignore[reportIncompatibleMethodOverride]
    """Updates so far."""
    norm: Float[Array, ""]
    """The norm of the last gradient."""
    usual_norm: Float[Array, ""]
    """A running mean of the norm, which a spike is measured against."""
    total: Int[Array, ""]
    """Spikes so far."""


def detect_spikes(split: SplitLeaves = UNSPLIT) -> optax.GradientTransformation:
    """Leaves gradients as they are, and counts those whose global norm exceeds SPIKE times what is usual.

    A spike counts as the largest norm that is none: it raises what is usual, but does not become it.
    """

    def init(params: PyTree) -> PyTree:
        zero, none = jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32)
        return Spikes(none, zero, zero, none)

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        norm = global_norm(updates, split)
        usual = jnp.where(state.count == 0, norm, state.usual_norm)
        spike = norm > SPIKE * usual
        usual = usual + (jnp.minimum(norm, SPIKE * usual) - usual) / jnp.minimum(state.count + 1.0, USUAL_STEPS)
        count = jnp.asarray(optax.safe_increment(state.count))
        return updates, Spikes(count, norm, usual, state.total + spike.astype(jnp.int32))

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


class Clipped(NamedTuple):
    """The state of `count_clipped`."""

    last: Int[Array, ""]
    """1 if the last gradient was changed, else 0."""
    total: Int[Array, ""]
    """How many were so far."""


def count_clipped(
    clippings: Sequence[optax.GradientTransformation],
    split: SplitLeaves = UNSPLIT,
    bound: float | jax.Array | None = None,
) -> optax.GradientTransformation:
    """Clips one way after the other, and counts the gradients that this changes.

    Args:
        clippings: they keep no state.
        split: which parameters are this device's part.
        bound: of `clip_by_global_norm` where it is the only one, whose own rule then tells: the gradients need not be
            read again.
    """

    def init(params: PyTree) -> PyTree:
        return Clipped(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        clipped = updates
        for clip in clippings:
            clipped, _ = clip.update(clipped, optax.EmptyState(), params)
        changed = _differ(updates, clipped, split) if bound is None else global_norm(updates, split) > bound
        last = changed.astype(jnp.int32)
        return clipped, Clipped(last, state.total + last)

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def _differ(before: PyTree, after: PyTree, split: SplitLeaves) -> Bool[Array, ""]:
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    changed = jnp.any(jnp.stack([jnp.any(b != a) for b, a in pairs]))
    return split.largest(changed.astype(jnp.int32)) > 0 if split else changed
