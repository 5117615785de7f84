"""The matrices of a step in memory, as blocks: one for each segment of a value and of a product's part. And the memory
that what meets them goes through."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnnlab.engine.contract import Matrix
from rnnlab.engine.kernel.programs import Program
from rnnlab.engine.kernel.settings import Settings
from rnnlab.engine.kernel.team import SLOTS
from rnnlab.ops.linear import Precision, rounded


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


def exchange_of(
    program: Program, settings: Settings, meetings: tuple[int, int], steps: int, rows: int, dtype: Any
) -> dict[str, Any]:
    """The memory that values lie in which meet a matrix by tiles, or that the programs of a team exchange. meetings:
    `Program.meetings` of a step."""
    width = 16
    for number, each in enumerate(program.trace.products):
        width = max(width, program.axes["value", number].span)
        width = max(width, sum(program.axes["u", number, part].span for part in range(each.parts)))
    kind = jnp.bfloat16 if settings.precision == "bfloat16" else dtype
    if settings.programs <= 1:
        return {"scratch": ("rows", jax.ShapeDtypeStruct((rows, width), kind))} if settings.streamed else {}
    slots = max(steps * sum(meetings), 1) if settings.interpret else SLOTS
    exchange = {"scratch": ("exchange", jax.ShapeDtypeStruct((slots, rows, width), kind))}
    if meetings[1]:
        columns = 1 << (settings.programs - 1).bit_length()
        exchange["partial"] = (
            "exchange",
            jax.ShapeDtypeStruct((slots, rows, columns), jnp.promote_types(dtype, jnp.float32)),
        )
    return exchange
