"""A cell with something put around its equations: layer normalisation, a dropped kernel or candidate, zoneout.

To the engine it is a cell like any other. Its masks come as the engine's `noise`, drawn outside of the loop.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rnnlab.cells.base import BaseCell, Cell
from rnnlab.ops.linear import ComputeType
from rnnlab.ops.normalization import standardized
from rnnlab.typing import Carry, Parts


class GateGains(nnx.Module):
    """The gains of layer normalisation inside a cell, one for each unit of each gate, of x W and of h R."""

    def __init__(self, width: int):
        """width: M."""
        self.input_gain = nnx.Param(jnp.ones(width))
        self.recurrent_gain = nnx.Param(jnp.ones(width))


class Around(nnx.Module):
    """What all kinds of cells around a cell share. noise: first the candidate's mask [T, B, H] if there is one, then
    for each of `zoneout` the share of the new value [T, B, H or 1]."""

    def __init__(self, cell: BaseCell, *, candidate: bool, zoneout: tuple[int, ...]):
        self.cell, self.candidate, self.zoneout = cell, candidate, zoneout
        self.compute: ComputeType = cell.compute
        self.in_features = cell.in_features

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
    """Around a cell that both backends run."""

    cell: Cell

    def __init__(
        self,
        cell: Cell,
        *,
        gains: GateGains | None = None,
        kernel_mask: jax.Array | None = None,
        candidate: bool = False,
        zoneout: tuple[int, ...] = (),
    ):
        """gains: switches layer normalisation on. kernel_mask [H, M]: a factor of R. candidate: whether the candidate
        has a mask. zoneout: the elements of the carry that are held back."""
        super().__init__(cell, candidate=candidate, zoneout=zoneout)
        self.gains = gains
        self.kernel_mask = None if kernel_mask is None else nnx.Variable(kernel_mask)

    def project(self, x: jax.Array) -> jax.Array:
        if self.gains is None:
            return self.cell.project(x)
        bias = self.cell.bias[...]
        return self._normalized(self.cell.project(x) - bias, self.gains.input_gain[...]) + bias

    def recurrent_matrix(self) -> jax.Array:
        kernel = self.cell.recurrent_matrix()
        return kernel if self.kernel_mask is None else kernel * self.kernel_mask[...]

    def recurrent_offset(self) -> jax.Array | None:
        return None if self.gains is not None else self.cell.recurrent_offset()  # Else it would be normalised away.

    def _normalized(self, a: jax.Array, gain: jax.Array) -> jax.Array:
        return jnp.concatenate([standardized(part) for part in self.split(a)], -1) * gain

    def gates(self, carry: Carry, z: Parts, u: Parts) -> Carry:
        z, shares = self._parts(z)
        if self.gains is not None:
            gains = self.split(self.gains.recurrent_gain[...])
            u = [standardized(part) * gain for part, gain in zip(u, gains, strict=True)]
            offset = self.cell.recurrent_offset()
            if offset is not None:
                u = list(map(jnp.add, u, self.split(offset)))
        return self._zoned_out(carry, self.cell.gates(carry, z, u), shares)


class ModifiedStepCell(Around):
    """Around a cell for the reference backend alone."""

    def step(self, carry: Carry, z: Parts) -> Carry:
        z, shares = self._parts(z)
        cell: Any = self.cell
        return self._zoned_out(carry, cell.step(carry, z), shares)
