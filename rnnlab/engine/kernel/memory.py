"""How much a program may hold on chip, and so where the matrices of a step are kept: held all of the sequence, or read
again at every step by tiles."""

from collections.abc import Mapping

import jax.numpy as jnp

from rnnlab.engine.contract import Matrix
from rnnlab.engine.kernel.programs import Program
from rnnlab.engine.kernel.settings import Settings
from rnnlab.ops.linear import Precision


class TooLarge(ValueError):
    """A step that no program can hold; the text says how many bytes it takes."""


def matrix_bytes(program: Program, matrices: Mapping[str, Matrix], precision: Precision) -> int:
    """The blocks of all matrices that a step meets, padded."""
    total = 0
    for number, each in enumerate(program.trace.products):
        first = next(n for n, other in enumerate(program.trace.products) if other.name == each.name)
        kernel = matrices[each.name].kernel
        if number != first or kernel.ndim == 1:
            continue
        size = 2 if precision == "bfloat16" else kernel.dtype.itemsize
        columns = sum(program.axes["u", number, part].padded for part in range(each.parts))
        heads = kernel.shape[0] if kernel.ndim == 3 else 1
        total += program.axes["value", number].padded * columns * size // heads
    return total


def fitted(program: Program, matrices: Mapping[str, Matrix], settings: Settings, again: bool) -> Settings:
    """The settings with a place for the matrices. again: whether the way back runs the steps again.

    Compiled for an H100: a program that holds its matrices takes their bytes and those of one or two values. More
    warps for wide states, in bfloat16: an LSTM of 512 spills 1,244 bytes a thread forward with 8, 720 with 16, 600 with
    32; of 1024 22,800 with 8, 1,576 with 32, and 856 in segments of 512.

    Raises:
        TooLarge: there is none.
    """
    held = matrix_bytes(program, matrices, settings.precision)
    widest = max(axis.padded for axis in program.axes.values())
    size = max([jnp.dtype(v.aval.dtype).itemsize for v in program.before], default=4)
    if settings.target == "mosaic":
        return _on_tpu(program, settings, held, size)
    state = max(program.axes[v].padded for v in program.before)
    settings = settings._replace(warps=settings.warps or (8 if state <= 256 else 32))
    if settings.streamed is not None:
        return settings
    copies = 2 if again else 1  # The matrices and their transposes are kept apart.
    if settings.precision == "tf32x3":
        copies *= 2
    elif settings.precision == "highest":
        copies *= 3  # Without tensor cores a held GRU of 128 units spills 6,036 bytes a thread, one by tiles none.
    if copies * held + 2 * settings.rows * widest * size <= settings.chip:
        return settings._replace(streamed=False)
    for tile in (32, 16):
        need = settings.stages * tile * (widest + settings.rows) * size
        if need <= settings.chip and widest * tile <= _LARGEST:
            return settings._replace(streamed=True, tile=tile)
    raise TooLarge(_text(16 * (widest + settings.rows) * size, settings.chip))


_LARGEST = 1 << 20
"""Elements of an array in Triton."""


def _on_tpu(program: Program, settings: Settings, held: int, size: int) -> Settings:
    """With as many rows as fit; blocks over time are held twice, one of them being fetched."""
    kept = [program.kept[n] for n in program.saved_kept]
    results = [v for group in program.results for v in group]
    over_time = [*program.z, *program.noise, *program.before, *program.before, *kept, *results]
    width = sum(-(-program.axes[v].padded // 128) * 128 for v in over_time)
    chunk, rows = settings.chunk or 1, settings.rows
    while True:
        need = held + 2 * chunk * rows * width * size + 4 * rows * width * size
        if need <= settings.chip:
            return settings._replace(streamed=False, rows=rows)
        if rows <= 8:
            raise TooLarge(_text(need, settings.chip))
        rows = -(-rows // 16) * 8


def _text(need: int, chip: int) -> str:
    share = int(100 * (chip / need) ** 0.5)
    return f"{need:,} bytes on chip, of which a program has {chip:,}; {max(share, 1)} % of its units would fit"
