"""Matrices of each step of each row: whole ones as one array, or small ones of each unit as lists of their elements.

Small ones are lists so that a unit's numbers lie side by side over units and rows, whatever their size.
"""

from typing import Any

import jax
import jax.numpy as jnp

Square = list[list[jax.Array]]
"""A small matrix for each unit of each step: its elements [T, B, N], by rows."""

Matrices = Square | jax.Array
"""Those, or a whole matrix of each step [T, B, S, S]."""


def times(a: Any, b: Any) -> Any:
    """A B of two `Matrices`."""
    if not isinstance(a, list):
        return jnp.matmul(a, b, precision="highest")  # TF32 would square no error.
    size = range(len(a))
    return [[_sum(a[p][k] * b[k][q] for k in size) for q in size] for p in size]


def applied(a: Any, c: Any) -> Any:
    """A c of vectors c."""
    if not isinstance(a, list):
        return jnp.einsum("...ij,...j->...i", a, c, precision="highest")
    return [_sum(factor * part for factor, part in zip(row, c, strict=True)) for row in a]


def transposed(a: Any) -> Any:
    return [list(column) for column in zip(*a, strict=True)] if isinstance(a, list) else jnp.swapaxes(a, -1, -2)


def scaled(a: Any, factors: Any) -> Any:
    """A with each of its rows times a factor; factors: vectors."""
    if not isinstance(a, list):
        return a * factors[..., None]
    return [[factor * number for number in row] for row, factor in zip(a, factors, strict=True)]


def diagonal(factors: Any) -> Any:
    """The matrices that have these vectors on their diagonal."""
    if not isinstance(factors, list):
        return factors[..., None] * jnp.eye(factors.shape[-1], dtype=factors.dtype)
    return [[one if p == q else jnp.zeros_like(one) for q in range(len(factors))] for p, one in enumerate(factors)]


def solved(a: Any, b: Any) -> Any:
    """A⁻¹ B; b: matrices that stand side by side, [T, B, S, …] or lists of rows.

    Small ones by elimination, in each column with the largest number as its pivot.
    """
    if not isinstance(a, list):
        return jnp.linalg.solve(a, b)
    size, rows = len(a), [[*left, *right] for left, right in zip(a, b, strict=True)]
    for column in range(size):
        for row in range(column + 1, size):
            larger = jnp.abs(rows[row][column]) > jnp.abs(rows[column][column])
            pairs = list(zip(rows[column], rows[row], strict=True))
            rows[column] = [jnp.where(larger, below, above) for above, below in pairs]
            rows[row] = [jnp.where(larger, above, below) for above, below in pairs]
        pivots = rows[column] = [number / rows[column][column] for number in rows[column]]
        for row in {*range(size)} - {column}:
            factor = rows[row][column]
            rows[row] = [number - factor * pivot for number, pivot in zip(rows[row], pivots, strict=True)]
    return [row[size:] for row in rows]


def beside(a: Any, b: Any) -> Any:
    """A and B side by side."""
    if not isinstance(a, list):
        return jnp.concatenate([a, b], -1)
    return [[*left, *right] for left, right in zip(a, b, strict=True)]


def halves(a: Any) -> tuple[Any, Any]:
    """The two that stand side by side."""
    if not isinstance(a, list):
        left, right = jnp.split(a, 2, -1)
        return left, right
    size = len(a)
    return [row[:size] for row in a], [row[size:] for row in a]


def _sum(terms: Any) -> jax.Array:
    first, *others = terms
    for term in others:
        first = first + term
    return first
