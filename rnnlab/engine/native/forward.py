"""The C++ function that runs the steps of a chunk of time."""

from typing import Any

from rnnlab.engine.halves import width_of
from rnnlab.engine.native.emit import Emitter, Place
from rnnlab.engine.native.multiply import Products, value_place
from rnnlab.engine.native.program import Program
from rnnlab.engine.native.rules import kind_of
from rnnlab.engine.native.source import Buffer, Source, Switches, at_step, free_places, function, of_rows


def forward_source(program: Program, switches: Switches, z_kind: str, z_width: int) -> Source:
    """The function that runs a chunk [C, B] of steps.

    Its operands are `at` (C, where the chunk begins in the stacks, reverse), z [C, B, M], the noise of the chunk, the
    carry, the rows of parameters that have rows, what depends on no row, the matrices, and the stacks of the whole
    sequence, which come back as results behind the new carry.
    """
    trace = program.trace
    vectors = program.forward.vectors()
    operands = [Buffer("at", "int32_t")]
    if switches.mask:
        operands.append(Buffer("mask", "bool"))
    if switches.state_mask:
        operands.append(Buffer("state_mask", switches.real))
    operands.append(Buffer("z", z_kind))
    places: dict[Any, Place] = {}
    column = 0
    for v in program.z:
        width = width_of(v.aval.shape)
        places[v] = at_step("z", "t", width, z_kind, z_width, column)
        column += width
    for number, v in enumerate(program.noise):
        operands.append(Buffer(f"noise{number}", kind_of(v.aval.dtype)))
        places[v] = at_step(f"noise{number}", "t", width_of(v.aval.shape), kind_of(v.aval.dtype))
    for number, v in enumerate(program.before):
        operands.append(Buffer(f"carry{number}", kind_of(v.aval.dtype)))
        width = width_of(v.aval.shape)
        places[v] = Place(f"old{number}", str(width), width, kind_of(v.aval.dtype))
    for number in program.row_leaves:
        v = program.leaf_variables[number]
        operands.append(Buffer(f"leaf{number}", kind_of(v.aval.dtype)))
        places[v] = of_rows(f"leaf{number}", v)
    buffers, free = free_places(vectors)
    operands += buffers
    places |= free

    kept = program.saved_kept if switches.gates else []
    emitter = Emitter(
        program.forward.equations(), places, [*program.values_out, *program.new, *(program.kept[n] for n in kept)]
    )
    products = Products(program, switches, emitter, False)
    operands += products.buffers()
    stacks = list(range(len(program.new))) if switches.everything else [0]
    results = [Buffer(f"new{n}", kind_of(v.aval.dtype)) for n, v in enumerate(program.before)]
    in_place = [Buffer(f"stack{n}", kind_of(program.before[n].aval.dtype)) for n in stacks]
    in_place += [Buffer(f"kept{n}", kind_of(program.kept[n].aval.dtype)) for n in kept]
    operands += in_place
    results += in_place

    homes: dict[Any, Place] = {}
    for n, v in enumerate(program.new):
        width = width_of(program.before[n].aval.shape)
        homes.setdefault(v, Place(f"next{n}", str(width), width, kind_of(program.before[n].aval.dtype)))
    at_kept = {}
    for n in kept:
        aval = program.kept[n].aval
        at_kept[n] = at_step(f"kept{n}", "(start + t)", width_of(aval.shape), kind_of(aval.dtype))
        homes.setdefault(program.kept[n], at_kept[n])
    homes = {v: place for v, place in homes.items() if not hasattr(v, "val")}

    inside = program.forward.inside
    for number, equations in enumerate(inside):
        later = [e for part in inside[number + 1 :] for e in part]
        emitter.stage(equations, homes, later)
        if number < len(trace.products):
            each = trace.products[number]
            value = value_place(emitter, program.values_out[number], program.matrices[each.name].rows)
            out, column = products.times(each.name, value), 0
            for v in program.results[number]:
                width = width_of(v.aval.shape)
                emitter.places[v] = out.shifted(column, width)
                column += width
    for n, v in enumerate(program.new):
        width = width_of(program.before[n].aval.shape)
        emitter.put(v, Place(f"next{n}", str(width), width, kind_of(program.before[n].aval.dtype)))
    for n in kept:
        emitter.put(program.kept[n], at_kept[n])
    carries = [(n, width_of(v.aval.shape), kind_of(v.aval.dtype)) for n, v in enumerate(program.before)]
    lines = [
        "const long count = at[0], start = at[1], reverse = at[2];",
        "for (long i = 0; i < count; ++i) {",
        "const long t = reverse ? count - 1 - i : i;",
        *emitter.lines,
    ]
    if switches.mask:
        lines.append("for (long r = 0; r < rows; ++r) if (!mask[t * batch + first + r]) {")
        lines += [f"memcpy(next{n} + r * {w}, old{n} + r * {w}, {w} * sizeof({k}));" for n, w, k in carries]
        lines.append("}")
    for n, w, kind in carries:
        if n in stacks:
            lines.append(
                f"memcpy(stack{n} + ((start + t + (reverse ? 0 : 1)) * batch + first) * {w}L, next{n}, "
                f"rows * {w} * sizeof({kind}));"
            )
        lines.append(f"{{ {kind}* other = old{n}; old{n} = next{n}; next{n} = other; }}")
    lines.append("}")
    before = [f"memcpy(old{n}, carry{n} + first * {w}L, rows * {w} * sizeof({k}));" for n, w, k in carries]
    after = [f"memcpy(new{n} + first * {w}L, old{n}, rows * {w} * sizeof({k}));" for n, w, k in carries]
    memory = [(f"old{n}", k, w) for n, w, k in carries] + [(f"next{n}", k, w) for n, w, k in carries]
    text = function(
        "run_forward", program, switches, operands, results, "carry0", memory, emitter, before, lines, after
    )
    return Source(text, tuple(each.name for each in operands), tuple(each.name for each in results))
