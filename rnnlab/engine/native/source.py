"""What the C++ functions of both ways have in common: their switches, their arguments, and the loop over blocks of rows
around the loop over time."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from rnnlab.engine.halves import width_of
from rnnlab.engine.native.emit import Emitter, Place
from rnnlab.engine.native.program import Program
from rnnlab.engine.native.rules import kind_of


class Switches(NamedTuple):
    """What a program has beside the step."""

    panel: int
    """Columns of a packed matrix that lie side by side."""
    real: str = "float"
    """Of the products, in C++."""
    rounds: bool = False
    """Whether the operands of products are rounded to bfloat16."""
    pairs: bool = False
    """Whether they are then multiplied in pairs, as AVX512-BF16 does, where a matrix is not in diagonal blocks."""
    mask: bool = False
    state_mask: bool = False
    everything: bool = True
    """Forward: whether all elements of the carry are kept of every step, or h alone."""
    gates: bool = True
    """Forward: whether what the pullback holds is kept of every step."""
    threads: int = 1
    """How many run blocks of rows side by side."""
    dh: bool = True
    """Back: whether h of every step has a gradient of its own."""
    factor: bool = False
    clip_value: bool = False
    clip_norm: bool = False
    dnew: bool = False
    """Back: whether the gradients of the carries are put out."""
    totals: tuple[int, ...] = ()
    """Back: the products whose matrices' gradients are added up here."""


class Buffer(NamedTuple):
    """An operand, or a result, of a call."""

    name: str
    kind: str


class Source(NamedTuple):
    """A function in C++, and the names of its arguments."""

    text: str
    operands: tuple[str, ...]
    results: tuple[str, ...]
    """Those that are operands, too, share their memory."""


def free_places(variables: Iterable[Any]) -> tuple[list[Buffer], dict[Any, Place]]:
    buffers, places = [], {}
    for number, v in enumerate(variables):
        kind = kind_of(v.aval.dtype)
        buffers.append(Buffer(f"free{number}", kind))
        places[v] = Place(f"free{number}", "0", width_of(v.aval.shape), kind)
    return buffers, places


def at_step(name: str, entry: str, width: int, kind: str, over: int | None = None, start: int = 0) -> Place:
    """The rows of the block in an array [T, B, over] at one step."""
    over = width if over is None else over
    base = f"{name} + ({entry} * batch + first) * {over}L"
    return Place(f"({base} + {start})" if start else f"({base})", str(over), width, kind)


def of_rows(name: str, variable: Any) -> Place:
    """The rows of the block in an array [B, W]."""
    width = width_of(variable.aval.shape)
    return Place(f"({name} + first * {width}L)", str(width), width, kind_of(variable.aval.dtype))


def function(
    name: str,
    program: Program,
    switches: Switches,
    operands: Sequence[Buffer],
    results: Sequence[Buffer],
    of_batch: str,
    memory: Sequence[tuple[str, str, int]],
    emitter: Emitter,
    before: Sequence[str],
    lines: Sequence[str],
    after: Sequence[str],
    sums: Sequence[str] = (),
    last: Sequence[str] = (),
) -> str:
    """The function around the loop over time.

    Args:
        memory: more arrays like the emitter's scratch.
        before, lines, after: of a block of rows.
        sums, last: before and after all blocks.
    """
    largest = max((m.rows * m.columns for m in program.matrices.values()), default=0)
    number = next(n for n, each in enumerate(operands) if each.name == of_batch)
    scratch = [*((*each, 0) for each in memory), *emitter.scratch]
    sizes = " + ".join(f"size_t(block + {rows}) * {width} * sizeof({kind}) + 64" for _, kind, width, rows in scratch)
    text = [
        f'extern "C" XLA_FFI_Error* {name}(XLA_FFI_CallFrame* frame) {{',
        "if (answered(frame)) return nullptr;",
        f"const long batch = argument(frame, {number})->dims[0];",
    ]
    seen = {each.name for each in results}
    for n, each in enumerate(operands):
        if each.name not in seen:
            text.append(f"{each.kind}* const {each.name} = ({each.kind}*)argument(frame, {n})->data;")
        if each.name == "state_mask":
            text.append(f"const long state_width = argument(frame, {n})->dims[1];")
    text += [f"{each.kind}* const {each.name} = ({each.kind}*)result(frame, {n});" for n, each in enumerate(results)]
    text += [
        f"const long fewest = batch_blocks(batch, {largest}L * sizeof({switches.real})), threads = {switches.threads};",
        "const long blocks = (fewest + threads - 1) / threads * threads;",
        "const long block = (batch + blocks - 1) / blocks;",
        *sums,
        "auto run = [=](long number) {",
        "const long first = number * block, rows = first + block < batch ? block : batch - first;",
        "if (rows <= 0) return;",
        f"Scratch scratch({sizes or '64'});",
    ]
    for each, kind, width, rows in scratch:
        pointer = "*" if any(each == m[0] for m in memory) else "* const"
        text.append(f"{kind}{pointer} {each} = scratch.take<{kind}>(size_t(block + {rows}) * {width});")
    text += [*before, *lines, *after, "};"]
    if switches.threads > 1:
        text.append("in_parallel(frame, threads, blocks, run);")
    else:
        text.append("for (long number = 0; number < blocks; ++number) run(number);")
    text += [*last, "return nullptr;", "}"]
    return "\n".join(text) + "\n"
