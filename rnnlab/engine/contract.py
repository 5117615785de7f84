"""The contract between the engine and a cell, and the pieces of a step that all backends share."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx

from rnnlab.engine.products import join_heads, multiply_heads, split_heads, sum_of_products, sum_over_heads
from rnnlab.ops.linear import Precision, matmul
from rnnlab.ops.safe_norms import scale_for
from rnnlab.typing import Array, Carry, Float, Int, Parts

Backend = Literal["auto", "fused", "reference", "scan", "kernel", "newton", "native"]
Store = Literal["auto", "gates", "carries", "ends"]
"""How much the fused backend keeps of every step for the backward pass; see `unroll`."""


Multiply = Callable[[str, jax.Array], Parts]
"""(A matrix's name, a value [B, K]) -> the parts of their product [B, N / parts] each."""


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["kernel", "offset"], meta_fields=["parts", "of_state"]
)
@dataclasses.dataclass(frozen=True)
class Matrix:
    """A matrix that values meet inside of the loop, as a cell gives it for one sequence."""

    kernel: Any  # An array; JAX puts other things in the places of a tree's leaves.
    """[K, N], [heads, K / heads, N / heads] for one in diagonal blocks, the parts side by side in each block, or the
    diagonal [K] alone."""
    offset: Any = None
    """[N], which is added to every product; None for nothing."""
    parts: int = 1
    """How many parts of one width the product is cut into."""
    of_state: bool = True
    """Whether the state meets it, or what is made of the state, so that a mask of the state acts on it."""

    @property
    def rows(self) -> int:
        """K."""
        return self.kernel.shape[-1] if self.kernel.ndim == 1 else self.kernel.shape[-2] * self._heads

    @property
    def columns(self) -> int:
        """N."""
        return self.kernel.shape[-1] * self._heads

    @property
    def _heads(self) -> int:
        return self.kernel.shape[0] if self.kernel.ndim == 3 else 1


class Linear(NamedTuple):
    """Where a cell is linear in its state: which element of the carry is A_t times its old value plus b_t, both of the
    inputs, and of those elements of the carry that are themselves of the inputs alone."""

    element: int
    parts: int = 1
    """Into how many parts of one width it is cut. A_t maps the parts of a unit to each other, and no unit to another:
    of one part it is diagonal, of two it may turn (real, imaginary)."""


@runtime_checkable
class RecurrentCell(Protocol):
    """A cell as the engine needs it. `rnnlab.cells.BaseCell` is the base class that provides most of it.

    A cell whose rows see each other has `mixes_rows` = True; the reference backend alone runs it. One that is linear in
    its state has `linear`, a `Linear`; the scan backend runs it, too.
    """

    precision: Precision
    """The type that operands of matrix products are rounded to."""

    def project(self, x: jax.Array) -> jax.Array:
        """[..., D] -> [..., M]: everything that depends on the input only."""
        ...

    def split(self, a: jax.Array) -> Parts:
        """[..., M] -> the parts that a step takes, side by side in M."""
        ...

    def matrices(self) -> Mapping[str, Matrix]:
        """All that values meet in a step, by name; built once, outside the loop."""
        ...

    def step(self, carry: Carry, z: Parts, multiply: Multiply) -> Carry:
        """The next carry, from the parts of z_t; `multiply(name, value)` wherever a value meets a matrix.

        Pure, and no row may see another row. Behind the parts of z stand the step's slices of the `noise` that `unroll`
        was given.
        """
        ...

    def initial_carry(self, batch: int, dtype: Any) -> Carry:
        """Zeros; element 0 is h [B, H]."""
        ...


def check_cell(cell: Any) -> None:
    """Raises a TypeError for what is no cell: a name, a class, a cell of another library."""
    if not isinstance(cell, type) and isinstance(cell, RecurrentCell):
        return
    kind = type(cell)
    if isinstance(cell, type):
        what = f"the class {cell.__name__}, not an instance of it"
    elif cell is None or isinstance(cell, str):
        what = repr(cell)
    else:
        missing = [name for name in _METHODS if not hasattr(cell, name)]
        what = f"a {kind.__module__}.{kind.__qualname__}, which lacks {', '.join(missing)}"
    raise TypeError(
        f"cell is {what}; an instance of a cell is needed, as rnnlab.LSTM(in_features, features, "
        "rngs=flax.nnx.Rngs(0)), or rnnlab.CELLS['lstm'](…) by its name"
    )


_METHODS = ("project", "split", "matrices", "step", "initial_carry", "precision")


class Taps(NamedTuple):
    """Zeros that stand beside every step; their gradients are what flows through that step.

    Differentiate a loss with respect to the taps of `unroll` and get, per time step,

        carry  ∂L/∂carry_t, one [T, B, H] array per element of the carry (element 0: ∂L/∂h_t)
        u      δ_t = ∂L/∂u_t [T, B, U], where u_t are the step's products, as h_{t-1} R + c: those of several side by
               side, in the order in which the step multiplies

    Only their gradients mean anything: the fused backend never reads their values.
    At steps past a row's end all of them are zero.
    """

    carry: Any
    u: Any


class Cotangent(NamedTuple):
    """Changes of ∂L/∂carry_t inside the backward pass, at every step within its row's length; None: nothing.

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
        """The gradient that step t hands on to the one that ran before it, [B, H] each; ends: each row's steps."""
        factor: Any = 1 if self.scale is None else self.scale
        if self.cut_every is not None:
            factor = factor * jnp.where(self.is_cut(t, ends, reverse), 0, 1)[:, None]
        if self.scale is None and self.cut_every is None:
            return d
        return jax.tree.map(lambda a: a * jnp.asarray(factor, a.dtype), d)

    def is_cut(self, t: jax.Array, ends: jax.Array, reverse: bool) -> jax.Array:
        """Whether a row's window begins with step t, other than its first step; ends: each row's steps."""
        every: Any = self.cut_every
        ends = ends.astype(jnp.int32)
        steps_back = t + 1 if reverse else ends - t  # From the row's end, this step among them.
        first = t == (ends - 1 if reverse else 0)  # The carry before it is the first step's own.
        return (steps_back % every == 0) & ~first

    def clipped(
        self, d: Carry, reduced: Callable[[Any, jax.Array], jax.Array] = lambda by, a: by(a, axis=-1, keepdims=True)
    ) -> Carry:
        """∂L/∂carry_t [B, H] each, within the bounds, infinity too; what is not a number stays so. reduced: a function
        such as `jnp.max` over the units [B, 1], of which an array may have a part."""
        if self.clip_value is not None:
            bound = self.clip_value
            d = jax.tree.map(lambda a: jnp.clip(a, -bound, bound).astype(a.dtype), d)
        if self.clip_norm is not None:
            bound = self.clip_norm
            d = jax.tree.map(lambda a: jnp.nan_to_num(a, nan=jnp.nan), d)  # The largest number in place of infinity.
            largest = functools.reduce(jnp.maximum, [reduced(jnp.max, jnp.abs(a)) for a in d])
            scale = scale_for(largest)
            norm = scale * jnp.sqrt(sum(reduced(jnp.sum, (a / scale) ** 2) for a in d))
            factor = jnp.where(norm > bound, bound / jnp.where(norm > bound, norm, 1), 1)
            d = jax.tree.map(lambda a: (a * factor).astype(a.dtype), d)
        return d


def make_taps(cell: RecurrentCell, x: jax.Array, noise: tuple[jax.Array, ...] = ()) -> Taps:
    """Taps for `unroll(cell, x, noise=noise)` with x [T, B, D].

    Raises:
        TypeError: the cell is none.
    """
    check_cell(cell)
    z = jax.eval_shape(cell.project, x)  # Of all steps: batch normalisation has statistics of its own at each.
    carry = jax.eval_shape(lambda: cell.initial_carry(x.shape[1], z.dtype))
    zeros = jax.tree.map(lambda a: jnp.zeros((x.shape[0], *a.shape), a.dtype), carry)
    width = sum(product.columns for product in products_of(cell, x, noise))
    return Taps(zeros, jnp.zeros((*x.shape[:2], width), z.dtype))


class Product(NamedTuple):
    """One of a step's products."""

    name: str
    """That of its matrix."""
    columns: int
    """N."""
    parts: int
    dtype: Any
    """The type of its result."""


def noting(matrices: Mapping[str, Matrix], precision: Precision, products: list[Product]) -> Multiply:
    """`multiplication`, which notes every product that a step asks for."""
    multiply = multiplication(matrices, precision)

    def noted(name: str, value: jax.Array) -> Parts:
        u = multiply(name, value)
        products.append(Product(name, matrices[name].columns, matrices[name].parts, u[0].dtype))
        return u

    return noted


def products_of(cell: RecurrentCell, x: Any, noise: tuple[jax.Array, ...] = ()) -> tuple[Product, ...]:
    """Those of a step, in their order; x [T, B, D], or its shape.

    Raises:
        ValueError: the step gives something else than a carry, or multiplies what has other rows than the batch.
    """
    products: list[Product] = []

    def step(cell: RecurrentCell, x: jax.Array, noise: tuple[jax.Array, ...]) -> None:
        noted = noting(cell.matrices(), cell.precision, products)

        def multiply(name: str, value: jax.Array) -> Parts:
            if value.ndim != 2 or value.shape[0] != x.shape[1]:
                raise ValueError(
                    f"the step of {type(cell).__name__} multiplies {list(value.shape)} by {name!r}; a value needs all "
                    f"{x.shape[1]} rows of the batch, as of jnp.broadcast_to"
                )
            return noted(name, value)

        z = cell.project(x)
        carry = cell.initial_carry(x.shape[1], z.dtype)
        for a in carry:
            if not jnp.issubdtype(a.dtype, jnp.inexact):
                raise ValueError(
                    f"the carry of {type(cell).__name__} holds {a.dtype}; it needs numbers with a fraction"
                )
        new = cell.step(carry, [a[0] for a in (*cell.split(z), *noise)], multiply)
        if not isinstance(new, tuple) or [a.shape for a in new] != [a.shape for a in carry]:
            arrays = new if isinstance(new, tuple | list) else [new]
            shapes = ", ".join(str(list(getattr(a, "shape", ()))) for a in arrays)
            needed = ", ".join(str(list(a.shape)) for a in carry)
            kind = f"a tuple of {shapes}" if isinstance(new, tuple) else f"no tuple, but {shapes}"
            raise ValueError(
                f"a step of {type(cell).__name__} gives {kind}; it needs the new carry, a tuple of {needed}"
            )

    eval_shape(step, cell, x, noise)
    return tuple(products)


def eval_shape(function: Callable[..., Any], cell: RecurrentCell, *arguments: Any) -> Any:
    """`jax.eval_shape` of a function of a cell, whose parameters may be shapes themselves."""
    if not isinstance(cell, nnx.Module):
        return jax.eval_shape(functools.partial(function, cell), *arguments)
    graphdef, state = nnx.split(cell)
    return jax.eval_shape(lambda state, *rest: function(nnx.merge(graphdef, state), *rest), state, *arguments)


def matrix_of(matrices: Mapping[str, Matrix], name: str, value: jax.Array) -> Matrix:
    """The one that a value [..., K] meets.

    Raises:
        ValueError: there is none of this name, or it has other than K rows.
    """
    if name not in matrices:
        raise ValueError(f"the step multiplies by {name!r}; matrices() has {', '.join(matrices) or 'none'}")
    matrix = matrices[name]
    if value.shape[-1] != matrix.rows:
        raise ValueError(f"the step multiplies {value.shape} by {name!r}, which has {matrix.rows} rows")
    return matrix


def multiplication(
    matrices: Mapping[str, Matrix],
    precision: Precision,
    state_mask: jax.Array | None = None,
    tap: jax.Array | None = None,
) -> Multiply:
    """The `multiply` of one step, in plain JAX.

    state_mask [B, H]: a factor of what meets a matrix of the state. tap [B, U]: added to the products.
    """
    column = 0

    def multiply(name: str, value: jax.Array) -> Parts:
        nonlocal column
        matrix = matrix_of(matrices, name, value)
        u = times(dropped(value, matrix, state_mask), matrix, precision)
        if tap is not None:
            u = u + tap[..., column : column + matrix.columns]
            column += matrix.columns
        return jnp.split(u, matrix.parts, axis=-1)

    return multiply


def dropped(value: jax.Array, matrix: Matrix, state_mask: jax.Array | None) -> jax.Array:
    """A value [..., K], times the state's mask [B, H] where it is of the state: once for each H of K."""
    if state_mask is None or not matrix.of_state:
        return value
    return value * jnp.tile(state_mask, (1, matrix.rows // state_mask.shape[-1]))


def times(value: Float[Array, "B K"], matrix: Matrix, precision: Precision) -> Float[Array, "B N"]:
    """The product, with the offset."""
    if matrix.kernel.ndim == 1:
        u = value * matrix.kernel
    elif matrix.kernel.ndim == 2:
        u = matmul(value, matrix.kernel, precision)
    else:
        heads = split_heads(value, matrix.kernel.shape[0], 1)
        u = join_heads(multiply_heads(heads, matrix.kernel, precision), matrix.parts)
    return u if matrix.offset is None else u + matrix.offset


def kernel_gradient(
    matrix: Matrix, value: Float[Array, "... K"], du: Float[Array, "... N"], precision: Precision, dtype: Any = None
) -> jax.Array:
    """∂L/∂kernel from what met the matrix and ∂L/∂(their product), summed over all leading axes, in dtype."""
    # As matrices: with two axes to sum over, XLA transposes du first.
    rows, columns = value.reshape(-1, value.shape[-1]), du.reshape(-1, du.shape[-1])
    dtype = dtype or matrix.kernel.dtype
    if matrix.kernel.ndim == 1:
        return (rows * columns).sum(0, dtype=dtype)
    if matrix.kernel.ndim == 2:
        return sum_of_products(rows, columns, dtype, precision)
    heads = matrix.kernel.shape[0]
    return sum_over_heads(split_heads(rows, heads, 1), split_heads(columns, heads, matrix.parts), dtype, precision)


def masked(mask: jax.Array | None, new: Carry, old: Carry) -> Carry:
    """new where the row is still within its length, else old; mask [B]."""
    if mask is None:
        return new
    return jax.tree.map(lambda n, o: jnp.where(mask[:, None], n, o), new, old)
