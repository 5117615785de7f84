"""Clipping: what bounds a gradient before the optimiser sees it, by value, by layer, by unit, by its global norm.

Each bound may be a traced array. The order of the chain is in `optim/chain.py`, the count of
clipped gradients in `optim/monitors.py`.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rnnlab.ops.safe_norms import global_norm
from rnnlab.optim.monitors import count_clipped
from rnnlab.optim.parameters import layer_of, norms_of_units
from rnnlab.parallel.sharding import UNSPLIT, SplitLeaves
from rnnlab.typing import PyTree


def make_clipping(section: Mapping[str, Any], split: SplitLeaves = UNSPLIT) -> optax.GradientTransformation | None:
    """All that a section clips by, in the order of the chain; None where it clips nothing."""
    table = {
        "clip_value": optax.clip,
        "clip_layer_norm": functools.partial(clip_by_layer_norm, split=split),
        "clip_adaptive": functools.partial(clip_by_unit_ratio, split=split),
        "clip_norm": functools.partial(clip_by_global_norm, split=split),
    }
    bounds = {name: section[name] for name in table if section.get(name) is not None}
    if not bounds:
        return None
    alone = bounds.get("clip_norm") if len(bounds) == 1 else None
    return count_clipped([table[name](bound) for name, bound in bounds.items()], split, alone)


def clip_by_global_norm(max_norm: float | jax.Array, split: SplitLeaves = UNSPLIT) -> optax.GradientTransformation:
    """Scales the whole gradient to norm max_norm where its norm is larger (Pascanu et al., 2013, algorithm 1)."""

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        norm = global_norm(updates, split)
        scale = jnp.where(norm > max_norm, max_norm / norm, 1.0)
        return jax.tree.map(lambda g: (g * scale).astype(g.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def clip_by_layer_norm(max_norm: float | jax.Array, split: SplitLeaves = UNSPLIT) -> optax.GradientTransformation:
    """`clip_by_global_norm` for each layer by itself: an explosion in one leaves the gradient of the others as it is.

    A layer is all that stands below one module of the network: `layers.0` (both directions and learned carries),
    `readout`, `embedding`.
    """
    clip = clip_by_global_norm(max_norm, split)

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        clipped = updates
        for layer in dict.fromkeys(layer_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(updates)):
            inside = lambda path, layer=layer: layer_of(path) == layer  # noqa: E731
            of_layer = jax.tree_util.tree_map_with_path(lambda path, g, i=inside: g if i(path) else None, updates)
            of_layer, _ = clip.update(of_layer, optax.EmptyState())
            clipped = jax.tree.map(lambda all, of_layer: all if of_layer is None else of_layer, clipped, of_layer)
        return clipped, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def clip_by_unit_ratio(
    ratio: float | jax.Array, eps: float = 1e-3, split: SplitLeaves = UNSPLIT
) -> optax.GradientTransformation:
    """Scales each unit's gradient to ratio times the norm of its weights, at least eps, where it is larger (adaptive
    gradient clipping: Brock et al., 2021, eq. 3).

    A unit's weights are a column of a kernel, a word's in a softmax a row; a bias is clipped as a whole, as in the
    authors' code.
    `optax.adaptive_grad_clip` is this too, but takes a kernel of one row as a whole, and its squares overflow: a
    gradient of 1e20 would become 0.
    """

    def clip(path: tuple, g: jax.Array, p: jax.Array) -> jax.Array:
        norm, of_weights = (norms_of_units(path, a, split) for a in (g, p))
        bound = ratio * jnp.maximum(of_weights, eps)
        return (g * jnp.where(norm > bound, bound / norm, 1.0)).astype(g.dtype)

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        return jax.tree_util.tree_map_with_path(clip, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
