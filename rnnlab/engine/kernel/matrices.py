"""The matrices of a step in a kernel: as blocks, one for each segment of a value and of a product's part."""

import functools
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from rnnlab.engine.contract import Matrix
from rnnlab.engine.kernel.axes import Value, segmentwise, without_padding, write
from rnnlab.engine.kernel.launch import barrier
from rnnlab.engine.kernel.programs import Program
from rnnlab.ops.linear import Precision, multiplied, rounded


class Block(NamedTuple):
    """Which part of a matrix an array is."""

    name: str
    part: int
    rows: int
    """The number of the value's segment."""
    columns: int
    """The number of the part's segment."""


def places_of(program: Program) -> dict[str, int]:
    """For each matrix that a step meets the number of its first product."""
    first: dict[str, int] = {}
    for number, each in enumerate(program.trace.products):
        first.setdefault(each.name, number)
    return first


def blocks_of(program: Program, matrices: Mapping[str, Matrix], precision: Precision) -> dict[Block, jax.Array]:
    """All blocks that are not zero [P, P'], padded with zeros; those of one row or column [1, P]."""
    blocks = {}
    for name, number in places_of(program).items():
        matrix, kernel = matrices[name], rounded(matrices[name].kernel, precision)
        if kernel.ndim == 1:
            continue
        width = matrix.columns // matrix.parts
        for part in range(matrix.parts):
            for i, rows in enumerate(program.axes["value", number].segments):
                for j, columns in enumerate(program.axes["u", number, part].segments):
                    if kernel.ndim == 2:
                        start = part * width + columns.start
                        block = kernel[rows.start : rows.start + rows.width, start : start + columns.width]
                    else:
                        of_rows, of_columns = kernel.shape[1], kernel.shape[2] // matrix.parts
                        head, other = rows.start // of_rows, columns.start // of_columns
                        if head != other:
                            continue
                        first, start = rows.start - head * of_rows, part * of_columns + columns.start % of_columns
                        block = kernel[head, first : first + rows.width, start : start + columns.width]
                    if columns.width == 1:
                        block, padded = block.T, (1, rows.padded)
                    else:
                        padded = (rows.padded, columns.padded)
                    blocks[Block(name, part, i, j)] = _padded(block, padded)
    return blocks


def _padded(block: jax.Array, shape: tuple[int, int]) -> jax.Array:
    if block.shape == shape:
        return block
    return jnp.pad(block, [(0, n - m) for n, m in zip(shape, block.shape, strict=True)])


def vectors_of(program: Program, matrices: Mapping[str, Matrix]) -> dict[Any, tuple[jax.Array, Any]]:
    """The diagonals and offsets [1, W], by a key of their own, each with its axis's key."""
    vectors: dict[Any, tuple[jax.Array, Any]] = {}
    for name, number in places_of(program).items():
        matrix = matrices[name]
        if matrix.kernel.ndim == 1:
            vectors["diagonal", name] = matrix.kernel[None], ("value", number)
        if matrix.offset is not None:
            for part, offset in enumerate(jnp.split(matrix.offset, matrix.parts)):
                vectors["offset", name, part] = offset[None], ("u", number, part)
    return vectors


class Products:
    """The products of a step within a kernel, forward and back."""

    def __init__(
        self,
        program: Program,
        blocks: Mapping[Block, Any],
        vectors: Mapping[Any, Value],
        state_mask: Value | None,
        settings: Any,
        scratch: Any = None,
    ):
        """blocks: refs. vectors: of the diagonals and offsets. scratch: a ref [rows, P] for values that meet a matrix
        by tiles; None where the matrices are held."""
        self.program, self.settings = program, settings
        self.vectors, self.state_mask = vectors, state_mask
        self.scratch = scratch
        self._unmade: list[Value] = []
        """Makes the rest of what lies in the scratch."""
        self.blocks = {key: ref if scratch is not None else ref[...] for key, ref in blocks.items()}

    def begin(self) -> None:
        """Begins a step."""
        self._unmade = []

    def times(self, number: int, value: Value) -> list[Value]:
        """The parts of a value's product."""
        product = self.program.trace.products[number]
        matrix = self.program.matrices[product.name]
        value = self._dropped(value, matrix)
        if matrix.kernel.ndim == 1:
            parts = [segmentwise(jnp.multiply, value, self.vectors["diagonal", product.name])]
        else:
            (placed,) = self._put([without_padding(value, self.program.axes["value", number])])
            parts = []
            for part in range(matrix.parts):
                count = len(self.program.axes["u", number, part].segments)
                sums = [partial(self._sum, product, part, None, j, placed, product.dtype) for j in range(count)]
                parts.append(Value(sums))
            self._unmade += parts
        if matrix.offset is not None:
            offsets = [self.vectors["offset", product.name, part] for part in range(matrix.parts)]
            parts = [segmentwise(jnp.add, u, offset) for u, offset in zip(parts, offsets, strict=True)]
        return parts

    def back(self, number: int, du: Sequence[Value], dtype: Any, also: Any = None) -> Value:
        """∂L/∂value of ∂L/∂(the parts). also: where to write these, too, in the places of `write`."""
        product = self.program.trace.products[number]
        matrix = self.program.matrices[product.name]
        axes = [self.program.axes["u", number, part] for part in range(matrix.parts)]
        if matrix.kernel.ndim == 1:
            write((also[0], du, axes, also[1], also[2]))
            return self._dropped(segmentwise(jnp.multiply, du[0], self.vectors["diagonal", product.name]), matrix)
        cleared = [without_padding(part, axis) for part, axis in zip(du, axes, strict=True)]
        placed = self._put(cleared, (also[0], du, axes, also[1], also[2]))

        def back(i: int) -> jax.Array:
            sums = [self._sum(product, part, i, None, piece, dtype) for part, piece in enumerate(placed)]
            return functools.reduce(jnp.add, [each for each in sums if each is not None])

        dvalue = Value([partial(back, i) for i in range(len(self.program.axes["value", number].segments))])
        self._unmade.append(dvalue)
        return self._dropped(dvalue, matrix)

    def _dropped(self, value: Value, matrix: Matrix) -> Value:
        """Times the state's mask, where the matrix is of the state."""
        mask = self.state_mask
        if mask is None or not matrix.of_state:
            return value
        count = len(value) // len(mask)
        return segmentwise(jnp.multiply, value, Value(mask.taken(range(len(mask))) * count))

    def _put(self, values: Sequence[Value], also: Any = None) -> list[list[tuple[jax.Array, int]]]:
        """The segments of values, each with the column of the scratch where it lies; also: a place of `write`."""
        if self.scratch is not None:
            for value in self._unmade:  # Of what is there now.
                value.arrays()
            self._unmade = []
            barrier(self.settings)  # All threads have read it.
        placed: list[list[tuple[jax.Array, int]]] = [[] for _ in values]
        column = 0
        for number in range(max(map(len, values))):
            for place, value in zip(placed, values, strict=True):
                if number >= len(value):
                    continue
                segment = value[number]
                place.append((segment, column))
                if self.scratch is not None:
                    self.scratch[:, column : column + segment.shape[1]] = segment.astype(self.scratch.dtype)
                column += segment.shape[1]
            if also is not None:
                write(also, only=number)
        if self.scratch is not None:
            barrier(self.settings)
        return placed

    def _sum(self, product: Any, part: int, i: int | None, j: int | None, value: Any, dtype: Any) -> Any:
        """Over the segments of a value: one of the product's (i None), or, of the transposed matrix, of the value's (j
        None)."""
        total = None
        for number, (segment, start) in enumerate(value):
            key = Block(product.name, part, number if i is None else i, number if j is None else j)
            if key not in self.blocks:  # Of another head.
                continue
            each = self._one(segment, start, self.blocks[key], key, i is not None).astype(dtype)
            total = each if total is None else total + each
        return total

    def _one(self, segment: jax.Array, start: int, block: Any, key: Block, transposed: bool) -> jax.Array:
        number = places_of(self.program)[key.name]
        rows = self.program.axes["value", number].segments[key.rows]
        columns = self.program.axes["u", number, key.part].segments[key.columns]
        wide = jnp.promote_types(segment.dtype, jnp.float32)
        precision = self.settings.precision
        if rows.width == 1 or columns.width == 1:
            line = block[...] if self.scratch is not None else block
            product = self._rounded(segment).astype(wide) * line.astype(wide)
            sums = columns.width == 1 if not transposed else rows.width == 1
            return jnp.sum(product, axis=1, keepdims=True) if sums and product.shape[1] > 1 else product

        def dot(a: jax.Array, b: jax.Array) -> jax.Array:
            if self.settings.interpret:
                return multiplied(a, b.T if transposed else b, precision, wide)
            numbers, exactness = (((1,), (1 if transposed else 0,)), ((), ())), _EXACTNESS[precision]
            return lax.dot_general(self._rounded(a), b, numbers, precision=exactness, preferred_element_type=wide)

        if self.scratch is None:
            return dot(segment, block)
        tile = min(self.settings.tile, segment.shape[1])

        def add(k: jax.Array, total: jax.Array) -> jax.Array:
            met = self.scratch[:, pl.ds(start + k * tile, tile)]
            piece = block[:, pl.ds(k * tile, tile)] if transposed else block[pl.ds(k * tile, tile), :]
            return total + dot(met, piece)

        width = rows.padded if transposed else columns.padded
        zeros = jnp.zeros((segment.shape[0], width), wide)
        return lax.fori_loop(0, segment.shape[1] // tile, add, zeros)

    def _rounded(self, value: jax.Array) -> jax.Array:
        """An operand beside a block, which is rounded outside; to TF32 tensor cores round it."""
        precision = self.settings.precision
        return rounded(value, precision) if precision == "bfloat16" or self.settings.interpret else value


_EXACTNESS: dict[Precision, Any] = {
    "highest": lax.Precision.HIGHEST,
    "tf32": lax.Precision.DEFAULT,
    "tf32x3": lax.DotAlgorithmPreset.TF32_TF32_F32_X3,
    "bfloat16": lax.Precision.DEFAULT,
}
