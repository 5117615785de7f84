"""Norms and angles of arrays and trees whose squares would overflow or vanish: gradients of 1e30 and of 1e-30.

Clipping by a norm is in `optim/clipping.py`, the meaning of norms in `diagnostics/`.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from rnnlab.parallel.sharding import UNSPLIT, SplitLeaves
from rnnlab.typing import Array, Float, PyTree


def global_norm(tree: PyTree, split: SplitLeaves = UNSPLIT) -> jax.Array:
    """√Σ x² over all leaves, accumulated in float32 at least, finite where the squares would overflow. split: which of
    the leaves are this device's part."""
    whole, parts = ([widened(leaf) for leaf in jax.tree.leaves(each)] for each in split.parted(tree))
    largest = _largest(whole + parts)
    scale = scale_for(split.largest(largest) if parts else largest)
    squares = [jnp.sum((leaf / scale) ** 2) for leaf in whole]
    if parts:
        squares.append(split.total(sum(jnp.sum((leaf / scale) ** 2) for leaf in parts)))  # pyright: ignore
    return scale * jnp.sqrt(sum(squares))


def unit_norms(leaf: jax.Array, split: SplitLeaves = UNSPLIT) -> jax.Array:
    """√Σ x² over the incoming weights of each unit, accumulated as in `global_norm`: [..., O] -> [..., O] with ones for
    all axes but the last. A vector, a bias or a carry, is one unit: [O] -> [1]. split: given where the leaf is this
    device's part of the rows."""
    leaf = widened(leaf)
    axes = tuple(range(max(leaf.ndim - 1, min(leaf.ndim, 1))))
    scale = scale_for(split.largest(jnp.max(jnp.abs(leaf), axis=axes, keepdims=True, initial=0)))
    squares = jnp.sum((leaf / scale) ** 2, axis=axes, keepdims=True)
    return scale * jnp.sqrt(split.total(squares) if split else squares)


def row_norms(a: Float[Array, "... H"]) -> Float[Array, "..."]:
    """√Σ x² over the last axis, accumulated as in `global_norm`; its gradient is 0 where a row is zero."""
    a = widened(a)
    scale = lax.stop_gradient(scale_for(jnp.max(jnp.abs(a), axis=-1, keepdims=True, initial=0)))
    squares = jnp.sum((a / scale) ** 2, axis=-1)
    zero = squares == 0  # There the root's slope is infinite, and that times 0 is not a number.
    return scale[..., 0] * jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, squares)))


def share(part: PyTree, whole: PyTree) -> Float[Array, ""]:
    """⟨part, whole⟩ / ‖whole‖²: shares of parts that sum to the whole sum to 1. Not a number where the whole is 0."""
    _, inner, square, factor = _products(part, whole)
    return inner / square * factor


def alignment(part: PyTree, whole: PyTree) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Cosine between two trees of one shape, and ‖part‖ / ‖whole‖; for equal trees both are exactly 1.

    Where one of them is 0 there is no angle: the cosine is not a number. Nor is the ratio where `whole` is 0.
    """
    of_part, inner, of_whole, factor = _products(part, whole)
    ratio = jnp.sqrt(of_part / of_whole)  # 1 of equal trees; XLA makes a / √(x x) a product with 1 / √, which rounds.
    return inner / of_whole / ratio, ratio * factor


def widened(leaf: jax.Array) -> jax.Array:
    """In float32 at least."""
    return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))


def scale_for(largest: jax.Array) -> jax.Array:
    """The divisor of numbers, of which this is the largest magnitude, that keeps their squares in range."""
    # Within these bounds 1 / scale is a normal number too, which is what the compiler multiplies by.
    low, high = (1e-30, 1e37) if jnp.finfo(largest.dtype).bits < 64 else (1e-300, 1e300)
    return jnp.where(jnp.isfinite(largest), jnp.clip(largest, low, high), 1)


def _largest(leaves: list[jax.Array]) -> jax.Array:
    return jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in leaves if leaf.size]))


def _products(a: PyTree, b: PyTree) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """⟨a, a⟩, ⟨a, b⟩ and ⟨b, b⟩ of both brought to a largest value near 1, and the factor between the two scales."""
    pairs = list(zip(*(map(widened, jax.tree.leaves(tree)) for tree in (a, b)), strict=True))
    of_a, of_b = (scale_for(_largest([pair[i] for pair in pairs])) for i in (0, 1))
    pairs = [(x / of_a, y / of_b) for x, y in pairs]
    product = functools.partial(jnp.vdot, precision="highest")
    aa, ab, bb = (sum(product(pair[i], pair[j]) for pair in pairs) for i, j in ((0, 0), (0, 1), (1, 1)))
    return aa, ab, bb, of_a / of_b  # pyright: ignore[reportReturnType]
