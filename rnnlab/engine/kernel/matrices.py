"""The products of a step within a kernel."""

import functools
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from rnnlab.engine.contract import Matrix
from rnnlab.engine.kernel.axes import Axis, Segment, Value, segmentwise, without_padding, write
from rnnlab.engine.kernel.blocks import Block, places_of
from rnnlab.engine.kernel.programs import Program
from rnnlab.engine.kernel.settings import Settings
from rnnlab.engine.kernel.team import Team, barrier
from rnnlab.ops.linear import Precision, multiplied, rounded


class Placed(NamedTuple):
    """A segment that meets a matrix: as an array, and where all programs' columns of it are, if not in one."""

    array: jax.Array
    ref: Any
    start: int


class Products:
    """The products of a step within a kernel, forward and back."""

    def __init__(
        self,
        program: Program,
        blocks: Mapping[Block, Any],
        vectors: Mapping[Any, Value],
        state_mask: Value | None,
        settings: Settings,
        team: Team,
        ways: Sequence[bool],
    ):
        """program: with what a program has of the axes. blocks: refs. vectors: of the diagonals and offsets. ways: of
        the products that there will be; True: with transposed matrices."""
        self.program, self.settings, self.team = program, settings, team
        self.vectors, self.state_mask, self.refs = vectors, state_mask, blocks
        self.through_memory = bool(settings.streamed) or team.programs > 1
        """Whether a value lies in memory where it meets a matrix: by tiles, or with other programs' columns."""
        self._unmade: list[Value] = []
        """Makes the rest of what is made of the memory."""
        self._held: dict[tuple[Block, bool], list[jax.Array]] = {}
        if not settings.streamed:  # Read now: within the loop over time they would be read again at every step.
            for key in blocks:
                for transposed in ways if team.programs > 1 else (False,):
                    self._held[key, transposed] = [
                        self._tile(key, transposed, *at) for at in self._tiles(key, transposed)
                    ]

    def begin(self) -> None:
        """Begins a step."""
        self._unmade = []

    def times(self, number: int, value: Value) -> list[Value]:
        """The parts of a value's product."""
        product = self.program.trace.products[number]
        matrix = self.program.matrices[product.name]
        value = self._dropped(value, matrix)
        if matrix.kernel.ndim == 1:
            parts, first = [], 0
            whole = segmentwise(jnp.multiply, value, self.vectors["diagonal", product.name])
            for part in range(matrix.parts):
                count = len(self.program.axes["u", number, part].segments)
                parts.append(Value(whole.taken(range(first, first + count))))
                first += count
        else:
            axis = self.program.axes["value", number]
            (placed,) = self._put([without_padding(value, axis)], [axis])
            parts = []
            for part in range(matrix.parts):
                count = len(self.program.axes["u", number, part].segments)
                sums = [partial(self._sum, product, part, None, j, placed, product.dtype) for j in range(count)]
                parts.append(Value(sums))
            self._made_from_memory(parts)
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
            whole = Value([make for part in du for make in part.taken(range(len(part)))])
            return self._dropped(segmentwise(jnp.multiply, whole, self.vectors["diagonal", product.name]), matrix)
        cleared = [without_padding(part, axis) for part, axis in zip(du, axes, strict=True)]
        placed = self._put(cleared, axes, (also[0], du, axes, also[1], also[2]))

        def back(i: int) -> jax.Array:
            sums = [self._sum(product, part, i, None, piece, dtype) for part, piece in enumerate(placed)]
            return functools.reduce(jnp.add, [each for each in sums if each is not None])

        dvalue = Value([partial(back, i) for i in range(len(self.program.axes["value", number].segments))])
        self._made_from_memory([dvalue])
        return self._dropped(dvalue, matrix)

    def _dropped(self, value: Value, matrix: Matrix) -> Value:
        """Times the state's mask, where the matrix is of the state."""
        mask = self.state_mask
        if mask is None or not matrix.of_state:
            return value
        count = len(value) // len(mask)
        return segmentwise(jnp.multiply, value, Value(mask.taken(range(len(mask))) * count))

    # --- through memory ----------------------------------------------------------------------------------------------

    def _made_from_memory(self, values: Sequence[Value]) -> None:
        """Values that read the memory when they are made: before it is written again, or, in a team, whose other
        programs write it, at once."""
        if self.team.programs > 1:
            for value in values:
                value.arrays()
        else:
            self._unmade += values

    def _put(self, values: Sequence[Value], axes: Sequence[Axis], also: Any = None) -> list[list[Placed]]:
        """The segments of values, each with where it lies in memory; also: a place of `write`."""
        ref = None
        if self.through_memory:
            for value in self._unmade:  # Of what is there now.
                value.arrays()
            self._unmade = []
            if self.team.programs > 1:
                for value in values:  # To make one, the programs may meet.
                    value.arrays()
                ref = self.team.slot("scratch")
            else:
                ref = self.team.refs["scratch"]
                barrier(self.settings)  # All threads have read it.
        placed: list[list[Placed]] = [[] for _ in values]
        column = 0
        for number in range(max(map(len, values))):
            for place, value, axis in zip(placed, values, axes, strict=True):
                if number >= len(value):
                    continue
                array, segment = value[number], axis.segments[number]
                place.append(Placed(array, ref, column))
                if ref is not None:
                    wide = jnp.broadcast_to(array, (ref.shape[0], segment.padded))
                    ref[:, segment.columns(column)] = wide.astype(ref.dtype)
                column += segment.span
            if also is not None:
                write(also, only=number)
        if self.team.programs > 1:
            self.team.meet()
        elif ref is not None:
            barrier(self.settings)
        return placed

    # --- one product -------------------------------------------------------------------------------------------------

    def _sum(self, product: Any, part: int, i: int | None, j: int | None, value: Sequence[Placed], dtype: Any) -> Any:
        """Over the segments of a value: one of the product's (i None), or, of the transposed matrix, of the value's (j
        None)."""
        total = None
        for number, placed in enumerate(value):
            key = Block(product.name, part, number if i is None else i, number if j is None else j)
            if key not in self.refs:  # Of another head.
                continue
            each = self._one(placed, key, i is not None).astype(dtype)
            total = each if total is None else total + each
        return total

    def _segments(self, key: Block, transposed: bool = False) -> tuple[Segment, Segment]:
        """Of the value and of the product; of a transposed matrix the other way round."""
        number = places_of(self.program)[key.name]
        rows = self.program.axes["value", number].segments[key.rows]
        columns = self.program.axes["u", number, key.part].segments[key.columns]
        return (columns, rows) if transposed else (rows, columns)

    def _one(self, placed: Placed, key: Block, transposed: bool) -> jax.Array:
        contracted, kept = self._segments(key, transposed)
        precision, wide = self.settings.precision, jnp.promote_types(placed.array.dtype, jnp.float32)
        if contracted.width == 1 or kept.width == 1:
            line = self._tile(key, transposed) if self.settings.streamed else self._held_tiles(key, transposed)[0]
            product = self._rounded(placed.array).astype(wide) * line.astype(wide)
            if contracted.width == 1:
                return product
            return self.team.joined(jnp.sum(product, axis=1, keepdims=True), jnp.sum, 0.0)

        def dot(a: jax.Array, b: jax.Array) -> jax.Array:
            if self.settings.interpret:
                return multiplied(a, b.T if transposed else b, precision, wide)
            numbers, exactness = (((1,), (1 if transposed else 0,)), ((), ())), _EXACTNESS[precision]
            return lax.dot_general(self._rounded(a), b, numbers, precision=exactness, preferred_element_type=wide)

        if not self.through_memory:
            return dot(placed.array, self._held_tiles(key, transposed)[0])

        def met(start: Any, size: int) -> jax.Array:
            return placed.ref[:, pl.ds(placed.start + start, size)]

        tiles = self._tiles(key, transposed)
        if not self.settings.streamed:
            held = self._held_tiles(key, transposed)
            return functools.reduce(jnp.add, [dot(met(*at), b) for at, b in zip(tiles, held, strict=True)])
        first = tiles[0][1]
        count = contracted.span // first

        def add(k: jax.Array, total: jax.Array) -> jax.Array:
            return total + dot(met(k * first, first), self._tile(key, transposed, k * first, first))

        total = lax.fori_loop(0, count, add, jnp.zeros((placed.array.shape[0], kept.padded), wide))
        for at in tiles[count:]:
            total = total + dot(met(*at), self._tile(key, transposed, *at))
        return total

    def _held_tiles(self, key: Block, transposed: bool) -> list[jax.Array]:
        return self._held[key, transposed and self.team.programs > 1]

    def _tiles(self, key: Block, transposed: bool) -> list[tuple[int, int]]:
        """Where the tiles of a block begin along what is summed over, and how many rows they have: powers of two."""
        contracted, kept = self._segments(key, transposed)
        if not self.through_memory or contracted.width == 1 or kept.width == 1:
            return [(0, contracted.span)]
        tiles, start = [], 0
        while start < contracted.span:
            size = min(self.settings.tile or 32, 1 << ((contracted.span - start).bit_length() - 1))
            tiles.append((start, size))
            start += size
        return tiles

    def _tile(self, key: Block, transposed: bool, start: Any = 0, size: int | None = None) -> jax.Array:
        """Rows of a block, or columns where it is transposed, in what the program has of the others."""
        block = self.refs[key]
        rows, columns = self._segments(key)
        if rows.width == 1 or columns.width == 1:  # It lies as a row.
            return block[:, (columns if rows.width == 1 else rows).columns(0)]
        if size is None or (size == block.shape[0] and not self.through_memory):
            return block[...]
        tile = pl.ds(start, size)
        return block[rows.columns(0), tile] if transposed else block[tile, columns.columns(0)]

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
