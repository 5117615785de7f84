"""Matrices in the form that the fused backend's loops multiply by, forward and back. The products themselves are in
`products.py`."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnnlab.engine.contract import Matrix
from rnnlab.engine.products import column_blocks, join_heads, multiply_heads, product, split_heads, transposed
from rnnlab.ops.linear import Precision, rounded
from rnnlab.typing import Parts


class ReadyMatrix(NamedTuple):
    """A matrix in the form that a loop multiplies by."""

    matrix: Matrix
    forward: list[jax.Array]
    back: list[jax.Array]

    def times(self, value: jax.Array, precision: Precision) -> Parts:
        """The parts of value [B, K] times the matrix."""
        kernel, offset, parts = self.matrix.kernel, self.matrix.offset, self.matrix.parts
        if kernel.ndim == 1:
            u = value * kernel
        elif kernel.ndim == 2:
            u = product(value, self.forward, precision)
        else:
            u = join_heads(multiply_heads(split_heads(value, kernel.shape[0], 1), self.forward[0], precision), parts)
        return jnp.split(u if offset is None else u + offset, parts, axis=-1)

    def back_times(self, du: jax.Array, precision: Precision) -> jax.Array:
        """du [B, N] times the matrix transposed, [B, K]."""
        kernel = self.matrix.kernel
        if kernel.ndim == 1:
            return du * kernel
        if kernel.ndim == 2:
            return product(du, self.back, precision)[:, : kernel.shape[0]]
        heads = split_heads(du, kernel.shape[0], self.matrix.parts)
        return join_heads(multiply_heads(heads, self.back[0], precision), 1)


def ready_matrices(
    matrices: Mapping[str, Matrix], precision: Precision, forward: bool, back: bool
) -> dict[str, ReadyMatrix]:
    """All of them, for the loops that are run; XLA leaves the making of it in a loop that may not run at all."""
    ready = {}
    for name, matrix in matrices.items():
        kernel = matrix.kernel
        if kernel.ndim == 1:
            ready[name] = ReadyMatrix(matrix, [], [])
        elif kernel.ndim == 2:
            blocks = column_blocks(rounded(kernel, precision)) if forward else []
            ready[name] = ReadyMatrix(matrix, blocks, transposed(kernel, precision) if back else [])
        else:
            blocks = rounded(kernel, precision)
            ready[name] = ReadyMatrix(matrix, [blocks], [jnp.swapaxes(blocks, 1, 2)])
    return ready
