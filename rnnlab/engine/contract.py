"""What the engine asks of a cell, and the pieces of a step that all backends share."""

import functools
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from rnnlab.ops.linear import ComputeType, matmul
from rnnlab.ops.safe_norms import scale_for
from rnnlab.typing import Array, Carry, Float, Int, Parts

Backend = Literal["auto", "fused", "reference"]
Store = Literal["auto", "gates", "carries", "ends"]
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
        """One step from the parts of z_t and of u_t = h_{t-1} R + c; pure, and no row may see another row.

        Behind the parts of z stand the step's slices of the `noise` that `unroll` was given.
        """
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


def check_cell(cell: Any) -> None:
    """Raises a TypeError for what is no cell: a name, a class, a cell of another library."""
    if not isinstance(cell, type) and isinstance(cell, FusableCell | StepCell):
        return
    kind = type(cell)
    if isinstance(cell, type):
        what = f"the class {cell.__name__}, not an instance of it"
    elif cell is None or isinstance(cell, str):
        what = repr(cell)
    else:
        missing = [name for name in ("project", "split", "initial_carry") if not hasattr(cell, name)]
        what = f"a {kind.__module__}.{kind.__qualname__}, which lacks {', '.join(missing or ['gates or step'])}"
    raise TypeError(
        f"cell is {what}; an instance of a cell is needed, as rnnlab.LSTM(in_features, features, "
        "rngs=flax.nnx.Rngs(0)), or rnnlab.CELLS['lstm'](…) by its name"
    )


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


class Cotangent(NamedTuple):
    """What is done to ∂L/∂carry_t inside the backward pass, at every step within its row's length; None: nothing.

    First, on its way from step t + 1 to t, what comes from the future is scaled and cut; then the gradient that h_t has
    of its own is added; then the sum is clipped. The forward pass is left as it is.
    """

    scale: Float[Array, ""] | None = None
    """Factor of what comes from the future."""
    cut_every: Int[Array, ""] | None = None
    """Nothing passes from one window of this many steps to the one before: truncated backpropagation (Williams and
    Peng, 1990) with windows that do not overlap. They are counted back from each row's last step, in reverse from its
    first, so that the loss of a last state sees a whole window; the one where the row begins may be shorter."""
    clip_value: Float[Array, ""] | None = None
    """Bound of every element."""
    clip_norm: Float[Array, ""] | None = None
    """Bound of each row's 2-norm over all of the carry, kept by scaling the row."""

    def passed(self, d: Carry, t: jax.Array, ends: Int[Array, "#B"], reverse: bool) -> Carry:
        """What step t hands on to the step that ran before it, [B, H] each; ends: how many steps each row has."""
        factor: Any = 1 if self.scale is None else self.scale
        if self.cut_every is not None:
            ends = ends.astype(jnp.int32)
            steps_back = t + 1 if reverse else ends - t  # From the row's end, this step among them.
            first = t == (ends - 1 if reverse else 0)  # The carry before it is the first step's own.
            cut = (steps_back % self.cut_every == 0) & ~first
            factor = factor * jnp.where(cut, 0, 1)[:, None]
        if self.scale is None and self.cut_every is None:
            return d
        return jax.tree.map(lambda a: a * jnp.asarray(factor, a.dtype), d)

    def clipped(self, d: Carry) -> Carry:
        """∂L/∂carry_t [B, H] each, within the bounds, infinity too; what is not a number stays so."""
        if self.clip_value is not None:
            bound = self.clip_value
            d = jax.tree.map(lambda a: jnp.clip(a, -bound, bound).astype(a.dtype), d)
        if self.clip_norm is not None:
            bound = self.clip_norm
            d = jax.tree.map(lambda a: jnp.nan_to_num(a, nan=jnp.nan), d)  # The largest number in place of infinity.
            largest = functools.reduce(jnp.maximum, [jnp.max(jnp.abs(a), -1, keepdims=True) for a in d])
            scale = scale_for(largest)
            norm = scale * jnp.sqrt(sum(jnp.sum((a / scale) ** 2, -1, keepdims=True) for a in d))
            factor = jnp.where(norm > bound, bound / jnp.where(norm > bound, norm, 1), 1)
            d = jax.tree.map(lambda a: (a * factor).astype(a.dtype), d)
        return d


def make_taps(cell: FusableCell | StepCell, x: jax.Array) -> Taps:
    """Taps for `unroll(cell, x)` with x [T, B, D]; of a `StepCell`, which has no one u, those of u get none.

    Raises:
        TypeError: the cell is none.
    """
    check_cell(cell)
    z = jax.eval_shape(cell.project, x)  # Of all steps: batch normalisation has statistics of its own at each.
    carry = jax.eval_shape(lambda: cell.initial_carry(x.shape[1], z.dtype))
    zeros = jax.tree.map(lambda a: jnp.zeros((x.shape[0], *a.shape), a.dtype), carry)
    return Taps(zeros, jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), z))


def recur(h: jax.Array, kernel: jax.Array, offset: jax.Array | None, compute: ComputeType) -> jax.Array:
    """u = h R + c."""
    u = matmul(h, kernel, compute)
    return u if offset is None else u + offset


def masked(mask: jax.Array | None, new: Carry, old: Carry) -> Carry:
    """new where the row is still within its length, else old; mask [B]."""
    if mask is None:
        return new
    return jax.tree.map(lambda n, o: jnp.where(mask[:, None], n, o), new, old)
