"""A cell with something put around its equations: layer normalisation, a dropped kernel or candidate, zoneout.

To the engine it is a cell like any other. Its masks come as the engine's `noise`, drawn outside of the loop.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rnnlab.cells.base import BaseCell
from rnnlab.engine import Matrix, Multiply
from rnnlab.ops.linear import Precision
from rnnlab.ops.normalization import standardized
from rnnlab.typing import Array, Carry, Float, Parts


class GateGains(nnx.Module):
    """The gains of layer normalisation inside a cell, one for each column of x W and of the step's products, where it
    has any."""

    def __init__(self, input_width: int, recurrent_width: int):
        """M, U."""
        self.input_gain = nnx.Param(jnp.ones(input_width))
        if recurrent_width:  # Checkpoints take no empty arrays.
            self.recurrent_gain = nnx.Param(jnp.ones(recurrent_width))


class Around(nnx.Module):
    """The base of cells around a cell. noise: first the candidate's mask [T, B, H] if there is one, then
    for each of `zoneout` the share of the new value [T, B, H or 1]."""

    def __init__(self, cell: BaseCell, *, candidate: bool, zoneout: tuple[int, ...]):
        self.cell, self.candidate, self.zoneout = cell, candidate, zoneout
        self.precision: Precision = cell.precision
        self.in_features = cell.in_features
        self.linear = None if zoneout else cell.linear

    def project(self, x: jax.Array) -> jax.Array:
        return self.cell.project(x)

    def split(self, a: jax.Array) -> Parts:
        return self.cell.split(a)

    def recurrent_matrices(self) -> dict[str, jax.Array]:
        """Without the masks of a training step."""
        return self.cell.recurrent_matrices()

    def initial_carry(self, batch: int, dtype: Any = jnp.float32) -> Carry:
        return self.cell.initial_carry(batch, dtype)

    def _parts(self, z: Parts) -> tuple[Parts, Parts]:
        """(what the cell sees, the shares of zoneout)."""
        seen = len(z) - len(self.zoneout)
        return z[:seen], z[seen:]

    def _zoned_out(self, old: Carry, new: Carry, shares: Parts) -> Carry:
        """Krueger et al. (2017): d ∘ old + (1 - d) ∘ new, which at evaluation is the expectation over d."""
        mixed = list(new)
        for index, share in zip(self.zoneout, shares, strict=True):
            mixed[index] = old[index] + share * (new[index] - old[index])
        return tuple(mixed)


class ModifiedCell(Around):
    """Around a cell whose rows do not see each other; both backends run it."""

    def __init__(
        self,
        cell: BaseCell,
        *,
        gains: GateGains | None = None,
        kernel_masks: Mapping[str, jax.Array] | None = None,
        candidate: bool = False,
        zoneout: tuple[int, ...] = (),
    ):
        """gains: switches layer normalisation on, of a cell with x W + b. kernel_masks: factors of its matrices, each
        [K, N]. candidate: whether the candidate has a mask. zoneout: the elements of the carry that are held back."""
        super().__init__(cell, candidate=candidate, zoneout=zoneout)
        self.gains = gains
        self.kernel_masks = nnx.Dict({name: nnx.Variable(mask) for name, mask in (kernel_masks or {}).items()})

    def project(self, x: jax.Array) -> jax.Array:
        if self.gains is None:
            return self.cell.project(x)
        bias = self.cell.input_bias()
        parts = map(standardized, self.split(self.cell.project(x) - bias))
        return jnp.concatenate([*parts], -1) * self.gains.input_gain[...] + bias

    def matrices(self) -> dict[str, Matrix]:
        matrices = dict(self.cell.matrices())
        for name, mask in self.kernel_masks.items():
            matrices[name] = dataclasses.replace(matrices[name], kernel=matrices[name].kernel * mask[...])
        if self.gains is not None:  # What is added before the norm would be normalised away.
            matrices = {name: dataclasses.replace(matrix, offset=None) for name, matrix in matrices.items()}
        return matrices

    def step(self, carry: Carry, z: Parts, multiply: Multiply) -> Carry:
        z, shares = self._parts(z)
        if self.gains is not None and hasattr(self.gains, "recurrent_gain"):
            multiply = self._normalized(multiply, self.gains.recurrent_gain[...])
        return self._zoned_out(carry, self.cell.step(carry, z, multiply), shares)

    def _normalized(self, multiply: Multiply, gains: Float[Array, " U"]) -> Multiply:
        """Every product of a step, each part standardised, times its gain, plus the offset."""
        column = 0
        offsets = {name: matrix.offset for name, matrix in self.cell.matrices().items()}

        def normalized(name: str, value: jax.Array) -> Parts:
            nonlocal column
            parts = []
            for part in multiply(name, value):
                width = part.shape[-1]
                parts.append(standardized(part) * gains[column : column + width])
                column += width
            offset = offsets[name]
            if offset is not None:
                parts = list(map(jnp.add, parts, jnp.split(offset, len(parts))))
            return parts

        return normalized
