"""Rows that begin anew in mid-sequence: episodes, or sentences packed into one row.

To the backends it is a cell like any other, with the beginnings as one more array of `noise`.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rnnlab.engine.contract import Matrix, Multiply, RecurrentCell
from rnnlab.ops.linear import Precision
from rnnlab.typing import Array, Bool, Carry, Parts


class RestartingCell(nnx.Module):
    """A cell whose carry is put back before the steps that the last array of noise [T, B, 1] marks with 1."""

    def __init__(self, cell: Any, start: Carry | None):
        """start: the carry that rows begin anew with [B, H] each, with gradients; None: the cell's own."""
        self.cell = cell
        self.start = None if start is None else nnx.List([nnx.Variable(a) for a in start])
        self.precision: Precision = cell.precision
        self.mixes_rows: bool = getattr(cell, "mixes_rows", False)
        self.linear = getattr(cell, "linear", None)
        self.in_features = getattr(cell, "in_features", None)

    def project(self, x: jax.Array) -> jax.Array:
        return self.cell.project(x)

    def split(self, a: jax.Array) -> Parts:
        return self.cell.split(a)

    def matrices(self) -> Mapping[str, Matrix]:
        return self.cell.matrices()

    def recurrent_matrices(self) -> dict[str, jax.Array]:
        return self.cell.recurrent_matrices()

    def initial_carry(self, batch: int, dtype: Any = jnp.float32) -> Carry:
        return self.cell.initial_carry(batch, dtype)

    def step(self, carry: Carry, z: Parts, multiply: Multiply) -> Carry:
        *z, begins = z
        return self.cell.step(self.begun(carry, begins), z, multiply)

    def begun(self, carry: Carry, begins: jax.Array) -> Carry:
        """The carry that a step begins with, from the one that the step before ended with; begins: the last array of
        noise there."""
        if self.start is None:
            start = self.cell.initial_carry(carry[0].shape[-2], carry[0].dtype)
        else:
            start = tuple(a[...] for a in self.start)
        return tuple(jnp.where(begins > 0, new, old) for new, old in zip(start, carry, strict=True))


def have_rows(cell: Any, params: Any) -> list[bool]:
    """For each leaf of a cell's parameters, whether it has a row for each of the batch: what rows begin anew with."""
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    anew = isinstance(cell, RestartingCell)
    return [anew and getattr(path[0], "key", None) == "start" for path in paths]


def restarting(
    cell: RecurrentCell,
    noise: tuple[jax.Array, ...],
    resets: Bool[Array, "T B"] | None,
    reverse: bool,
    start: Carry | None = None,
) -> tuple[Any, tuple[jax.Array, ...]]:
    """The cell and its noise, for rows that begin anew where `resets` is true; as they are where it is None.

    In reverse a row begins anew at the last step before a reset.
    """
    if resets is None:
        return cell, noise
    if reverse:
        resets = jnp.concatenate([resets[1:], jnp.zeros_like(resets[:1])])
    return RestartingCell(cell, start), (*noise, resets[:, :, None].astype(jnp.float32))
