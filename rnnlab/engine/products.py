"""The products of a recurrence in the form that XLA's CPU code runs fastest."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rnnlab.ops.linear import ComputeType, matmul, rounded

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


def product(h: jax.Array, blocks: list[jax.Array], compute: ComputeType) -> jax.Array:
    """h times the kernel that was cut."""
    products = [matmul(h, block, compute) for block in blocks]
    return products[0] if len(products) == 1 else jnp.concatenate(products, axis=-1)


def sum_of_products(rows: jax.Array, columns: jax.Array, dtype: Any, compute: ComputeType) -> jax.Array:
    """rowsᵀ columns, summed in dtype."""
    rows, columns = rounded(rows, compute), rounded(columns, compute)
    return jnp.matmul(rows.T, columns, preferred_element_type=dtype)
