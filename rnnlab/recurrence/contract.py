"""What the engine asks of a cell, and the pieces of a step that all backends share."""

from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from rnnlab.linear import ComputeType, matmul
from rnnlab.typing import Carry, Parts

Backend = Literal["auto", "fused", "reference"]
Store = Literal["auto", "products", "carries", "ends"]
"""What the fused backend keeps of every step for the backward pass; see `unroll`."""


@runtime_checkable
class FusableCell(Protocol):
    """What the fused backend asks of a cell. `rnnlab.cells.Cell` is the base class that provides most of it."""

    compute: ComputeType
    """What the operands of matrix products are rounded to."""

    def project(self, x: jax.Array) -> jax.Array:
        """[..., D] -> [..., M]: everything that depends on the input only."""
        ...

    def recurrent_matrix(self) -> jax.Array:
        """R [H, M], built once, outside the loop."""
        ...

    def recurrent_offset(self) -> jax.Array | None:
        """c [M], which is added to h R; None for nothing."""
        ...

    def split(self, a: jax.Array) -> Parts:
        """[..., M] -> the gates' parts, side by side in M."""
        ...

    def gates(self, carry: Carry, z: Parts, u: Parts) -> Carry:
        """One step from the parts of z_t and of u_t = h_{t-1} R + c; pure, and no row may see another row."""
        ...

    def initial_carry(self, batch: int, dtype: Any) -> Carry:
        """Zeros; element 0 is h [B, H]."""
        ...


@runtime_checkable
class StepCell(Protocol):
    """A cell whose state meets more than one matrix in sequence; the reference backend alone can run it."""

    def project(self, x: jax.Array) -> jax.Array: ...

    def split(self, a: jax.Array) -> Parts: ...

    def step(self, carry: Carry, z: Parts) -> Carry: ...

    def initial_carry(self, batch: int, dtype: Any) -> Carry: ...


class Taps(NamedTuple):
    """Zeros that stand beside every step; their gradients are what flows through that step.

    Differentiate a loss with respect to the taps of `unroll` and get, per time step,
        carry  ∂L/∂carry_t, one [T, B, H] array per element of the carry (element 0: ∂L/∂h_t)
        u      δ_t = ∂L/∂u_t [T, B, M], where u_t = h_{t-1} R + c
    Only their gradients mean anything: the fused backend never reads their values.
    At steps past a row's end all of them are zero.
    """

    carry: Any
    u: Any


def make_taps(cell: FusableCell | StepCell, x: jax.Array) -> Taps:
    """Taps for `unroll(cell, x)` with x [T, B, D]; of a `StepCell`, which has no one u, those of u get none."""
    z = jax.eval_shape(cell.project, x[0])
    carry = jax.eval_shape(lambda: cell.initial_carry(x.shape[1], z.dtype))
    steps = x.shape[0]
    return jax.tree.map(lambda a: jnp.zeros((steps, *a.shape), a.dtype), Taps(carry, z))


def recur(h: jax.Array, kernel: jax.Array, offset: jax.Array | None, compute: ComputeType) -> jax.Array:
    """u = h R + c."""
    u = matmul(h, kernel, compute)
    return u if offset is None else u + offset


def masked(mask: jax.Array | None, new: Carry, old: Carry) -> Carry:
    """new where the row is still within its length, else old; mask [B]."""
    if mask is None:
        return new
    return jax.tree.map(lambda n, o: jnp.where(mask[:, None], n, o), new, old)
