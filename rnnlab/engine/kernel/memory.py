"""How much a program may hold on chip, and so where the matrices of a step are kept: held all of the sequence, or read
again at every step by tiles, by one program or by a team that shares the columns."""

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


def fitted(
    program: Program, matrices: Mapping[str, Matrix], settings: Settings, again: bool
) -> tuple[Program, Settings]:
    """The settings with a place for the matrices, and the program cut for it. again: whether the way back runs the
    steps again.

    Raises:
        TooLarge: there is none.
    """
    held = matrix_bytes(program, matrices, settings.precision)
    widest = max(axis.padded for axis in program.axes.values())
    size = max([jnp.dtype(v.aval.dtype).itemsize for v in program.before], default=4)
    if settings.target == "mosaic":
        return program, _on_tpu(program, settings, held, size)
    if not settings.programs:
        whole = program.padded_by(lambda width: width)
        # Interpreted, a team is run again at every meeting, and nothing is spilled.
        settings = settings._replace(programs=1 if settings.interpret else _team_for(whole, settings))
    copies = 2 if again else 1  # The matrices and their transposes are kept apart.
    if settings.programs > 1:
        program = program.padded_by(settings.pad)
        held = copies * matrix_bytes(program, matrices, settings.precision) // settings.programs
        return program, _in_team(settings, held)
    state = max(program.axes[v].padded for v in program.before)
    settings = settings._replace(warps=settings.warps or (8 if state <= 256 else 32))
    if settings.streamed is not None:
        return program, settings
    if settings.precision == "tf32x3":
        copies *= 2
    elif settings.precision == "highest":
        copies *= 3  # Without tensor cores a held GRU of 128 units spills 6,036 bytes a thread, one by tiles none.
    if copies * held + 2 * settings.rows * widest * size <= settings.chip:
        return program, settings._replace(streamed=False)
    for tile in (32, 16):
        need = settings.stages * tile * (widest + settings.rows) * size
        if need <= settings.chip and widest * tile <= _LARGEST:
            return program, settings._replace(streamed=True, tile=tile)
    raise TooLarge(_text(16 * (widest + settings.rows) * size, settings.chip))


WIDEST_ALONE = 256, 128
"""Units of a state that one program of a GPU holds, and in exact float32, which has no tensor cores. Compiled for an
H100, it spilled of an LSTM of 512 600 bytes a thread forward, of one of 1024 3,332 on the way back (bfloat16, 32
warps); exact, of one of 256 312 with 8 warps and 972 with 16; a team spilled none of the last."""


def _team_for(program: Program, settings: Settings) -> int:
    """How many programs share the columns of a step: as few columns as a product may have in each of them, but half of
    the device's programs at most (`team`). program: without padding.

    Raises:
        TooLarge: these hold too few.
    """
    exact = settings.precision == "highest"
    if max(program.axes[v].width for v in program.before) <= WIDEST_ALONE[exact]:
        return 1
    widest = max(segment.width for axis in program.axes.values() for segment in axis.segments)
    columns, most = settings.least, settings.cores // 2
    while -(-widest // columns) > most:
        columns *= 2
    if columns > WIDEST_ALONE[exact]:
        size = 4 * settings.rows
        where = f"of registers for an array, of which {most} programs have"
        raise TooLarge(_text(size * widest, size * WIDEST_ALONE[exact] * most, where, 1))
    return -(-widest // columns)


def _in_team(settings: Settings, held: int) -> Settings:
    """held: bytes of the matrices in a program.

    Compiled for an H100, matrices held in float32 were copied into registers: an LSTM of 512 spilled 652 bytes a
    thread, of 768 13,300; by tiles neither spilled any. In bfloat16 a program takes 28 KB beside what it holds.
    """
    settings = settings._replace(warps=settings.warps or 4)
    if settings.streamed is None:
        fits = held + (32 << 10) <= settings.chip
        settings = settings._replace(streamed=not (fits and settings.precision == "bfloat16"))
    if settings.streamed:  # Two tiles are on their way while one is met; tiles of 128 spilled 28 bytes, exact.
        return settings._replace(tile=settings.tile or 64, stages=3)
    return settings._replace(tile=settings.tile or 128)


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


def _text(need: int, chip: int, where: str = "on chip, of which a program has", power: float = 0.5) -> str:
    """power: how the units grow with the bytes."""
    share = int(100 * (chip / need) ** power)
    return f"{need:,} bytes {where} {chip:,}; {max(share, 1)} % of its units would fit"
