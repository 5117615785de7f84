"""The C++ function that runs the pullbacks of a chunk of time, from the last step to the first."""

from collections.abc import Sequence
from typing import Any

from rnnlab.engine.halves import width_of
from rnnlab.engine.native.emit import Emitter, Place
from rnnlab.engine.native.multiply import Products
from rnnlab.engine.native.program import Program
from rnnlab.engine.native.rules import kind_of
from rnnlab.engine.native.source import Buffer, Source, Switches, at_step, free_places, function, of_rows


def backward_source(program: Program, switches: Switches) -> Source:
    """The function that runs the pullbacks of a chunk [C, B] of steps, from the last one run to the first.

    Its operands are `at` (C, reverse, and where the chunk begins in the carries before, the carries after, the noise,
    the kept arrays and the gradient of h), these arrays, the gradient of the carry after the chunk, and the matrices
    transposed. Results: the gradient of the carry before it, of the products [C, B, N], of the parts of z that have
    one of their own, of the carries, and sums over the steps, and over the rows where parameters have none.
    """
    trace, half = program.trace, program.backward
    operands = [Buffer("at", "int32_t")]
    if switches.mask:
        operands.append(Buffer("mask", "bool"))
    if switches.state_mask:
        operands.append(Buffer("state_mask", switches.real))
    real = kind_of(program.dnew[0].aval.dtype)
    for flag, buffer in (("dh", "dh"), ("factor", "factor"), ("clip_value", "bound"), ("clip_norm", "largest_norm")):
        if getattr(switches, flag):
            operands.append(Buffer(buffer, real))
    places: dict[Any, Place] = {}
    starts = {"before": "at[2]", "after": "at[3]", "noise": "at[4]", "kept": "at[5]"}
    seen: dict[str, None] = {}
    for v, each in zip(program.held, trace.holdings, strict=True):
        if v in half.free:
            continue
        kind, width = kind_of(v.aval.dtype), width_of(v.aval.shape)
        if each.kind == "constant":
            buffer = f"leaf{each.number - len(program.step_consts)}"
            places[v] = of_rows(buffer, v)
        else:
            buffer = f"{each.kind}{each.number}"
            places[v] = at_step(buffer, f"({starts[each.kind]} + t)", width, kind)
        if buffer not in seen:
            operands.append(Buffer(buffer, kind))
            seen[buffer] = None
    for number in switches.totals:
        each = trace.values[number]
        buffer = f"{each.kind}{each.number}"
        if buffer not in seen:
            operands.append(Buffer(buffer, real))
            seen[buffer] = None
    vectors = half.vectors()
    buffers, free = free_places(vectors)
    operands += buffers
    places |= free
    carries = [(n, width_of(v.aval.shape), kind_of(v.aval.dtype)) for n, v in enumerate(program.before)]
    for n, v in enumerate(program.dnew):
        operands.append(Buffer(f"dcarry{n}", carries[n][2]))
        places[v] = Place(f"fresh{n}", str(carries[n][1]), carries[n][1], carries[n][2])
    summed = program.sums
    outputs = [v for group in program.dresults for v in group] + [*program.dbefore, *summed]
    outputs += [program.dz[n] for n in program.own_dz]
    emitter = Emitter(half.equations(), places, outputs)
    products = Products(program, switches, emitter, True)
    operands += products.buffers()

    results = [Buffer(f"dbefore{n}", kind) for n, _, kind in carries]
    homes: dict[Any, Place] = {}

    def home(v: Any, place: Place) -> None:
        if not hasattr(v, "val"):
            homes.setdefault(v, place)

    of_du: list[list[Place]] = []
    for number, each in enumerate(trace.products):
        results.append(Buffer(f"du{number}", real))
        width, of_group = each.columns // each.parts, []
        for part, v in enumerate(program.dresults[number]):
            of_group.append(at_step(f"du{number}", "t", width, real, each.columns, part * width))
            home(v, of_group[-1])
        of_du.append(of_group)
    of_dz = {}
    for n in program.own_dz:
        width, kind = width_of(program.z[n].aval.shape), kind_of(program.z[n].aval.dtype)
        results.append(Buffer(f"dz{n}", kind))
        of_dz[n] = at_step(f"dz{n}", "t", width, kind)
        home(program.dz[n], of_dz[n])
    of_dbefore = [Place(f"next{n}", str(w), w, kind) for n, w, kind in carries]
    for n, v in enumerate(program.dbefore):
        home(v, of_dbefore[n])
    if switches.dnew:
        results += [Buffer(f"dnew{n}", kind) for n, _, kind in carries]
    results += [Buffer(f"sum{n}", kind_of(v.aval.dtype)) for n, v in enumerate(summed)]
    numbers = program.matrix_numbers
    totals = [Buffer(f"total{numbers[trace.products[n].name]}", real) for n in switches.totals]
    operands += dict.fromkeys(totals)
    results += dict.fromkeys(totals)

    inside = half.inside
    for turn, equations in enumerate(inside):
        later = [e for part in inside[turn + 1 :] for e in part]
        emitter.stage(equations, homes, later)
        number = len(trace.products) - 1 - turn
        if number >= 0:
            each = trace.products[number]
            for v, home_of in zip(program.dresults[number], of_du[number], strict=True):
                emitter.put(v, home_of)
            du = Place(of_du[number][0].base, str(each.columns), each.columns, real)
            emitter.places[program.dvalues[number]] = products.times(each.name, du)
    for n, home_of in of_dz.items():
        emitter.put(program.dz[n], home_of)
    for v, home_of in zip(program.dbefore, of_dbefore, strict=True):
        emitter.put(v, home_of)
    lines = ["const long count = at[0], reverse = at[1];"]
    lines += ["for (long i = 0; i < count; ++i) {", "const long t = reverse ? i : count - 1 - i;"]
    lines += _incoming(switches, carries, real)
    lines += emitter.lines
    lines += _sums(emitter, summed, half.summed)
    lines += _outgoing(switches, carries, real)
    if switches.threads == 1:
        lines += _totals(program, switches, emitter)
    lines.append("}")
    before = [f"memcpy(old{n}, dcarry{n} + first * {w}L, rows * {w} * sizeof({k}));" for n, w, k in carries]
    after = [f"memcpy(dbefore{n} + first * {w}L, old{n}, rows * {w} * sizeof({k}));" for n, w, k in carries]
    memory = [(f"{each}{n}", kind, w) for each in ("old", "next") for n, w, kind in carries]
    fresh = switches.mask or switches.clip_value or switches.clip_norm
    if fresh:
        memory += [(f"fresh{n}", kind, w) for n, w, kind in carries]
    else:
        before += [f"{kind}*& fresh{n} = old{n};" for n, _, kind in carries]
    clear = []
    for n, v in enumerate(summed):
        size = f"{width_of(v.aval.shape)} * sizeof({kind_of(v.aval.dtype)})"
        rows = "" if v in half.summed else "batch * "
        clear.append(f"memset(sum{n}, 0, {rows}{size});")
    last = _totals_in_parallel(program, switches) if switches.threads > 1 else []
    text = function(
        "run_back", program, switches, operands, results, "dcarry0", memory, emitter, before, lines, after, clear, last
    )
    return Source(text, tuple(each.name for each in operands), tuple(each.name for each in results))


def _incoming(switches: Switches, carries: Sequence[tuple[int, int, str]], real: str) -> list[str]:
    """The gradient of the carry after a step: what comes from the future and what h has of its own, within bounds, and
    nothing where the row has ended."""
    lines = []
    if switches.dh:
        w = carries[0][1]
        lines.append(
            f"{{ const {real}* own = dh + ((at[6] + t) * batch + first) * {w}L; "
            f"for (long j = 0; j < rows * {w}; ++j) old0[j] += own[j]; }}"
        )
    if switches.mask or switches.clip_value or switches.clip_norm:
        lines += [f"memcpy(fresh{n}, old{n}, rows * {w} * sizeof({k}));" for n, w, k in carries]
    if switches.mask:
        lines.append("for (long r = 0; r < rows; ++r) if (!mask[t * batch + first + r]) {")
        lines += [f"memset(fresh{n} + r * {w}, 0, {w} * sizeof({k}));" for n, w, k in carries]
        lines.append("}")
    if switches.clip_value:
        lines += [
            f"for (long j = 0; j < rows * {w}; ++j) fresh{n}[j] = clamped_({k}(-*bound), fresh{n}[j], {k}(*bound));"
            for n, w, k in carries
        ]
    if switches.clip_norm:
        lines.append(f"for (long r = 0; r < rows; ++r) {{ {real} most = 0;")
        lines += [f"for (long j = 0; j < {w}; ++j) bounded(fresh{n} + r * {w} + j, &most);" for n, w, _ in carries]
        lines.append(f"const {real} scale = most > 0 ? most : {real}(1); {real} squares = most != most ? most : 0;")
        lines += [
            f"for (long j = 0; j < {w}; ++j) {{ const {real} a = fresh{n}[r * {w} + j] / scale; squares += a * a; }}"
            for n, w, _ in carries
        ]
        lines.append(f"const {real} norm = scale * {real}(sqrt(squares)); if (norm > *largest_norm) {{")
        lines.append(f"const {real} smaller = *largest_norm / norm;")
        lines += [f"for (long j = 0; j < {w}; ++j) fresh{n}[r * {w} + j] *= smaller;" for n, w, _ in carries]
        lines.append("} }")
    if switches.dnew:
        lines += [
            f"memcpy(dnew{n} + (t * batch + first) * {w}L, fresh{n}, rows * {w} * sizeof({k}));" for n, w, k in carries
        ]
    return lines


def _outgoing(switches: Switches, carries: Sequence[tuple[int, int, str]], real: str) -> list[str]:
    """What a step hands on to the one that ran before it."""
    lines = []
    if switches.factor:
        lines.append(f"for (long r = 0; r < rows; ++r) {{ const {real} passes = factor[t * batch + first + r];")
        lines += [f"for (long j = 0; j < {w}; ++j) next{n}[r * {w} + j] *= passes;" for n, w, _ in carries]
        lines.append("}")
    if switches.mask:
        lines.append("for (long r = 0; r < rows; ++r) if (!mask[t * batch + first + r]) {")
        lines += [f"for (long j = 0; j < {w}; ++j) next{n}[r * {w} + j] += old{n}[r * {w} + j];" for n, w, _ in carries]
        lines.append("}")
    lines += [f"{{ {kind}* other = old{n}; old{n} = next{n}; next{n} = other; }}" for n, _, kind in carries]
    return lines


def _totals(program: Program, switches: Switches, emitter: Emitter) -> list[str]:
    """Adds up the gradients of matrices, over as many steps at once as stay in a near cache."""
    if not switches.totals:
        return []
    memory = emitter.new_scratch("uint32_t", _pairs_width(program, switches), rows=66).base if switches.rounds else None
    return [
        "const long most = rows < 128 ? 128 / rows : 1, done = i % most + 1;",
        "if (done == most || i == count - 1) {",
        "const long low = reverse ? t - done + 1 : t;",
        *[_add_outer(program, n, "first", "rows", "0", None, memory) for n in switches.totals],
        "}",
    ]


def _totals_in_parallel(program: Program, switches: Switches) -> list[str]:
    """The same after all blocks of rows, a part of each matrix's rows on each thread."""
    if not switches.totals:
        return []
    lines = ["auto add = [=](long part) {", "const long count = at[0], most = batch < 128 ? 128 / batch : 1;"]
    if switches.rounds:
        rows = "(most * batch / 2 + 1)"
        lines.append(f"Scratch scratch(size_t{rows} * {_pairs_width(program, switches)} * sizeof(uint32_t) + 64);")
        lines.append(
            f"uint32_t* const halves = scratch.take<uint32_t>(size_t{rows} * {_pairs_width(program, switches)});"
        )
    lines.append("for (long low = 0; low < count; low += most) {")
    lines.append("const long done = low + most < count ? most : count - low;")
    for n in switches.totals:
        inner = program.matrices[program.trace.products[n].name].rows
        lines.append(f"{{ const long begin = {inner} * part / threads, end = {inner} * (part + 1) / threads;")
        memory = "halves" if switches.rounds else None
        lines.append(_add_outer(program, n, "0", "batch", "begin", "(end - begin)", memory) + " }")
    return [*lines, "}", "};", "in_parallel(frame, threads, threads, add);"]


def _pairs_width(program: Program, switches: Switches) -> int:
    """Columns of both operands of the widest product, for `add_rounded_outer`."""
    matrices = [program.matrices[program.trace.products[n].name] for n in switches.totals]
    return max(m.rows + m.columns for m in matrices)


def _add_outer(
    program: Program, n: int, first: str, rows: str, begin: str, count: str | None, memory: str | None
) -> str:
    """Adds to a matrix's gradient, or to `count` of its rows from `begin` on, what rows from `first` on give in `done`
    steps from `low` on."""
    starts = {"before": "at[2]", "after": "at[3]", "noise": "at[4]", "kept": "at[5]"}
    name = program.trace.products[n].name
    (kind, index), matrix = program.trace.values[n], program.matrices[name]
    inner, columns = matrix.rows, matrix.columns
    total = f"total{program.matrix_numbers[name]} + {begin} * {columns}L"
    return (
        f"{'add_outer' if memory is None else 'add_rounded_outer'}("
        f"{kind}{index} + (({starts[kind]} + low) * batch + {first}) * {inner}L + {begin}, batch * {inner}L, {inner}, "
        f"{count or inner}, du{n} + (low * batch + {first}) * {columns}L, batch * {columns}L, {columns}, {columns}, "
        f"done, {rows}, {total}{'' if memory is None else f', {memory}'});"
    )


def _sums(emitter: Emitter, summed: Sequence[Any], over_rows: Sequence[Any]) -> list[str]:
    lines = []
    for n, v in enumerate(summed):
        width, text = width_of(v.aval.shape), emitter.literal(v)
        if text is None:
            at = emitter.place(v)
            assert at is not None
            text = at.element()
        rows = "" if v in over_rows else f"(first + r) * {width}L + "
        lines.append(f"for (long r = 0; r < rows; ++r) for (long j = 0; j < {width}; ++j) sum{n}[{rows}j] += {text};")
    return lines
