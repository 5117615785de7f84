"""Gradients that a backward pass makes after its loop over time, the same for every backend with a loop of its own."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from rnnlab.engine.contract import Matrix, dropped, kernel_gradient
from rnnlab.ops.linear import Precision


def add_gradient(
    total: Matrix,
    matrix: Matrix,
    value: jax.Array,
    du: jax.Array,
    state_mask: jax.Array | None,
    precision: Precision,
) -> Matrix:
    """A sum of a matrix's gradients, and that of one product: of what met it [C, B, K] and ∂L/∂product [C, B, N]."""
    value = dropped(value, matrix, state_mask)
    kernel = kernel_gradient(matrix, value, du, precision, total.kernel.dtype)
    offset = total.offset
    if offset is not None:
        offset = offset + du.reshape(-1, du.shape[-1]).sum(0, dtype=offset.dtype)
    return dataclasses.replace(total, kernel=total.kernel + kernel, offset=offset)


def plain(cotangent: Any) -> jax.Array:
    """A cotangent as an array."""
    if not isinstance(cotangent, SymbolicZero):
        return cotangent
    return jnp.zeros(cotangent.shape, cotangent.dtype)  # pyright: ignore[reportArgumentType]


def zeros_at_least(dtype: Any, like: jax.Array) -> jax.Array:
    """Zeros of a shape, in dtype or the array's own type, whichever is wider."""
    return jnp.zeros(like.shape, jnp.promote_types(like.dtype, dtype))


def with_sums(leaves: Sequence[jax.Array], used: Sequence[bool], sums: Sequence[jax.Array]) -> list[jax.Array]:
    """The leaves of the parameters' gradients, with the sums in the places of those that the step reads."""
    each = iter(sums)
    return [next(each) if is_read else leaf for leaf, is_read in zip(leaves, used, strict=True)]
