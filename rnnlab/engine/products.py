"""The products of a recurrence in the form that XLA's CPU code runs fastest."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rnnlab.ops.linear import Precision, matmul, multiplied, rounded
from rnnlab.typing import Array, Float

COLUMNS = 64
_CACHED_KERNEL = 1 << 18
"""Elements of a kernel that stays in a core's own cache (1 MiB) from step to step."""
_MOST_BLOCKS = 1024
"""More would only be traced, for minutes, until the network is refused: a square kernel of so many takes 16 GiB."""


def column_blocks(kernel: jax.Array) -> list[jax.Array]:
    """A kernel [K, N] as one array, or, where every step reads it from memory, as arrays of 64 columns.

    The product goes through 64 columns at a time, a new page with every row of a wide kernel: on one core [10, 2600] by
    [2600, 650] takes 453 µs, by blocks 379, [32, 2048] by [2048, 512] 679 and 518.
    """
    columns = kernel.shape[1]
    if kernel.size <= _CACHED_KERNEL or columns > COLUMNS * _MOST_BLOCKS:
        return [kernel]
    blocks = [kernel[:, start : start + COLUMNS] for start in range(0, columns, COLUMNS)]
    return list(lax.optimization_barrier(blocks))  # Else XLA cuts them out again at every step.


def product(value: jax.Array, blocks: list[jax.Array], precision: Precision) -> jax.Array:
    """A value times the kernel that was cut."""
    products = [matmul(value, block, precision) for block in blocks]
    return products[0] if len(products) == 1 else jnp.concatenate(products, axis=-1)


def transposed(kernel: jax.Array, precision: Precision) -> list[jax.Array]:
    """The kernel [K, N] transposed, as `column_blocks` cuts it; behind its K columns there may be some of zeros.

    XLA's CPU product works on 64 columns at a time: [8, 400] by [400, 100] takes 6.9 µs, by [400, 128] 5.4. Where the
    rest of 64 matters less, the columns stay as they are.
    """
    rows = kernel.shape[0]
    rest = -rows % COLUMNS if rows < 256 else 0
    return column_blocks(rounded(jnp.pad(kernel, ((0, rest), (0, 0))).T, precision))


def sum_of_products(rows: jax.Array, columns: jax.Array, dtype: Any, precision: Precision) -> jax.Array:
    """rowsᵀ columns, summed in dtype."""
    return multiplied(rows.T, columns, precision, dtype)


# --- in diagonal blocks, one for each head ---------------------------------------------------------------------------


def multiply_heads(value: Float[Array, "R h k"], kernel: Float[Array, "h k n"], precision: Precision) -> jax.Array:
    """Each head's part of a value by its block [R, h, n]."""
    return jax.vmap(functools.partial(matmul, precision=precision), in_axes=(1, 0), out_axes=1)(value, kernel)


def sum_over_heads(
    rows: Float[Array, "R h k"], columns: Float[Array, "R h n"], dtype: Any, precision: Precision
) -> Float[Array, "h k n"]:
    """`sum_of_products` of each head."""
    one = functools.partial(sum_of_products, dtype=dtype, precision=precision)
    return jax.vmap(one, in_axes=(1, 1))(rows, columns)


def join_heads(a: Float[Array, "R h n"], parts: int) -> Float[Array, "R N"]:
    """The parts side by side, and in each of them the heads."""
    rows, heads, width = a.shape
    return jnp.swapaxes(a.reshape(rows, heads, parts, width // parts), 1, 2).reshape(rows, -1)


def split_heads(a: Float[Array, "R N"], heads: int, parts: int) -> Float[Array, "R h n"]:
    """The inverse of `join_heads`."""
    rows, width = a.shape
    return jnp.swapaxes(a.reshape(rows, parts, heads, width // (heads * parts)), 1, 2).reshape(rows, heads, -1)
