"""The backward kernel: the pullback of every step, from the last to the first, and what is summed over them."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from rnnlab.engine.contract import Cotangent
from rnnlab.engine.kernel.axes import Value, read, without_padding, write
from rnnlab.engine.kernel.forward import Inputs, Recurrence, run_step, scratch_of
from rnnlab.engine.kernel.launch import call
from rnnlab.engine.kernel.programs import Arrays, Program, read_by


def run_backward(
    sequence: Recurrence,
    saved: Sequence[int],
    carries: jax.Array,
    kept: jax.Array | None,
    dh: jax.Array | None,
    dlast: Sequence[jax.Array],
    cotangent: Cotangent | None,
    with_dnew: bool,
) -> dict[str, jax.Array]:
    """Packed: "du" and "dz" of all steps, "dcarry" of the first carry, "sums" over the steps, "dnew" of every carry
    where asked for, and, where nothing is kept, what "met" the matrices.

    carries, kept: as the forward kernel left them; kept None where the steps are run again."""
    program, settings, steps = sequence.program, sequence.settings, carries.shape[0]
    batch, reverse = carries.shape[1], sequence.reverse
    again = kept is None and bool(program.saved_kept)
    inputs = Inputs(sequence, program.backward, _also(program, again))
    carry = program.arrays(program.before)
    of_saved = program.arrays([program.before[n] for n in saved])
    if again:
        inputs.add("z", "time", sequence.z, program.arrays(program.z))
    if again or any(h.kind == "noise" for h in program.trace.holdings):
        inputs.add("noise", "time", sequence.noise, program.arrays(program.noise))
    inputs.add("start", "rows", sequence.start, carry)
    inputs.add_packed("carries", "time", carries, of_saved)
    chunk = settings.chunk or steps
    across = steps > chunk
    if across:
        inputs.add_packed("edge", "edge", carries, of_saved)
    inputs.add_packed("kept", "time", kept, program.arrays([program.kept[n] for n in program.saved_kept]))
    if dh is not None:
        inputs.add("dh", "time", [dh], program.arrays(program.dnew[:1]))
    inputs.add("dlast", "rows", dlast, program.arrays(program.dnew))
    numbers = [] if cotangent is None else [a for a in cotangent if a is not None]
    if numbers:
        wide = jnp.result_type(carries.dtype, jnp.float32)
        inputs.arrays["cotangent"] = "whole", jnp.stack([a.astype(wide) for a in numbers])[None]
    outputs = _outputs(program, again, with_dnew, steps, batch) | scratch_of(sequence, batch)

    def unroll_backward(refs: Mapping[str, Any]) -> None:
        j = pl.program_id(1)
        first = (j if reverse else steps // chunk - 1 - j) * chunk
        known, products, lengths = inputs.begin(refs)
        changes = _cotangent(cotangent, refs)
        begins = (first + chunk == steps) if reverse else (first == 0)
        if across:

            @pl.when(j == 0)
            def _() -> None:
                refs["dcarry"][...] = refs["dlast"][...]
                if "sums" in refs:
                    refs["sums"][...] = jnp.zeros(refs["sums"].shape, refs["sums"].dtype)

        def before_step(t: jax.Array) -> dict[int, Value]:
            """The saved elements of the carry before step t of the chunk."""
            start = inputs.read(refs, "start")
            edge = [start[n] for n in saved]
            if across:
                outside = inputs.read(refs, "edge", 0)
                edge = [_where(begins, a, b) for a, b in zip(edge, outside, strict=True)]
            at = jnp.minimum(t + 1, chunk - 1) if reverse else jnp.maximum(t - 1, 0)
            is_edge = t == (chunk - 1 if reverse else 0)
            inner = inputs.read(refs, "carries", at)
            return {n: _where(is_edge, a, b) for n, a, b in zip(saved, edge, inner, strict=True)}

        def body(k: jax.Array, state: tuple[list[Value], list[Value]]) -> Any:
            dcarry, sums = state
            t = k if reverse else chunk - 1 - k
            time = first + t
            if dh is not None:
                (of_h,) = inputs.read(refs, "dh", t)
                dcarry = [_plus(dcarry[0], of_h), *dcarry[1:]]
            dnew, inside = dcarry, None if lengths is None else time < lengths
            if inside is not None:
                dnew = [[jnp.where(inside, a, jnp.zeros_like(a)) for a in value] for value in dcarry]
            if changes is not None:
                dnew = _clipped(changes, dnew, carry)
            before = before_step(t)
            step = None
            if again:
                every = [before[n] for n in range(len(program.before))]
                z, noise = inputs.read(refs, "z", t), inputs.read(refs, "noise", t)
                step = run_step(program, known, every, z, noise, products)
                _write_some(refs, "met", step, _met(program), _met(program), program, t)
            values = _held(program, inputs, refs, saved, known, before, step, t)
            values.update(zip(program.dnew, dnew, strict=True))
            du: dict[int, list[Value]] = {}
            count = len(program.trace.products)

            def exchange(number: int, sent: list[Any]) -> list[Value]:
                number = count - 1 - number
                parts = [
                    read_by(v, lambda _, a=a: a, program.axes["u", number, part], settings.rows)
                    for part, (v, a) in enumerate(zip(program.dresults[number], sent, strict=True))
                ]
                du[number] = parts
                value: Any = program.dvalues[number]
                return [products.back(number, parts, value.aval.dtype)]

            result = program.backward.step(values, program.axes, exchange)
            if count:
                write(refs["du"], [part for number in range(count) for part in du[number]], t)
            own = program.own_dz
            _write_some(refs, "dz", result, [program.dz[n] for n in own], [program.z[n] for n in own], program, t)
            if with_dnew:
                write(refs["dnew"], dnew, t)
            dbefore = [
                read_by(v, result, axis, settings.rows) for v, axis in zip(program.dbefore, carry.axes, strict=True)
            ]
            if changes is not None:
                ends = jnp.full((1, 1), sequence.steps) if lengths is None else lengths
                dbefore = _passed(changes, dbefore, time, ends, reverse)
            if inside is not None:
                past = [[jnp.where(inside, jnp.zeros_like(a), a) for a in value] for value in dcarry]
                dbefore = [_plus(a, b) for a, b in zip(dbefore, past, strict=True)]
            more = [read_by(v, result, program.axes[v], settings.rows) for v in program.sums]
            return dbefore, [_plus(a, b) for a, b in zip(sums, more, strict=True)]

        begin = inputs.read(refs, "dlast") if not across else read(refs["dcarry"], carry.axes, carry.dtypes)
        summed = program.arrays(program.sums)
        if across and program.sums:
            totals = read(refs["sums"], summed.axes, summed.dtypes)
        else:
            totals = [
                [jnp.zeros((settings.rows, each.padded), dtype) for each in axis.segments]
                for axis, dtype in zip(*summed, strict=True)
            ]
        dcarry, totals = lax.fori_loop(0, chunk, body, (begin, totals))
        write(refs["dcarry"], dcarry)
        if program.sums:
            write(refs["sums"], totals)

    return call(unroll_backward, "unroll_backward", settings, steps, not reverse, inputs.arrays, outputs)


def _also(program: Program, again: bool) -> list[Any]:
    """Further free variables that the kernel reads: those of the forward half, where it is run again."""
    return program.forward.vectors() if again else []


def _met(program: Program) -> list[Any]:
    """The kept arrays that met a matrix."""
    return [program.kept[h.number] for h in program.trace.values if h.kind == "kept"]


def _outputs(program: Program, again: bool, with_dnew: bool, steps: int, batch: int) -> dict[str, Any]:
    products = [v for group in program.results for v in group]
    carry = program.arrays(program.before)
    layouts = {"du": program.arrays(products), "dz": program.arrays([program.z[n] for n in program.own_dz])}
    if with_dnew:
        layouts["dnew"] = carry
    if again:
        layouts["met"] = program.arrays(_met(program))
    outputs: dict[str, Any] = {
        name: ("time", jax.ShapeDtypeStruct((steps, batch, layout.padded), layout.memory))
        for name, layout in layouts.items()
        if layout.axes
    }
    ends = {"dcarry": carry, "sums": program.arrays(program.sums)}
    for name, layout in ends.items():
        if layout.axes:
            outputs[name] = "rows", jax.ShapeDtypeStruct((batch, layout.padded), layout.memory)
    return outputs


def _held(
    program: Program,
    inputs: Inputs,
    refs: Mapping[str, Any],
    saved: Sequence[int],
    known: Mapping[Any, Value],
    before: Mapping[int, Value],
    step: Any,
    t: jax.Array,
) -> dict[Any, Value]:
    """The values of all that the pullback holds, and of the free variables."""
    values = dict(known)
    after = dict(zip(saved, inputs.read(refs, "carries", t), strict=True))
    noise = inputs.read(refs, "noise", t)
    kept = dict(zip(program.saved_kept, inputs.read(refs, "kept", t), strict=False))
    leaves = program.leaf_variables
    for variable, each in zip(program.held, program.trace.holdings, strict=True):
        if variable in program.backward.free:
            continue
        if each.kind == "before":
            values[variable] = before[each.number]
        elif each.kind == "after":
            values[variable] = after[each.number] if step is None else step(program.new[each.number])
        elif each.kind == "noise":
            values[variable] = noise[each.number]
        elif each.kind == "kept":
            values[variable] = kept[each.number] if step is None else step(program.kept[each.number])
        else:  # A parameter that has rows.
            values[variable] = known[leaves[each.number - len(program.step_consts)]]
    return values


def _write_some(
    refs: Mapping[str, Any],
    name: str,
    read: Any,
    variables: Sequence[Any],
    keys: Sequence[Any],
    program: Program,
    t: Any,
) -> None:
    """What a step made of some variables, where it is asked for; keys: of their axes."""
    if name in refs:
        rows = refs[name].shape[1]
        write(refs[name], [read_by(v, read, program.axes[k], rows) for v, k in zip(variables, keys, strict=True)], t)


def _where(condition: Any, one: Value, other: Value) -> Value:
    return [jnp.where(condition, a, b) for a, b in zip(one, other, strict=True)]


def _plus(one: Value, other: Value) -> Value:
    return [a + b for a, b in zip(one, other, strict=True)]


def _cotangent(cotangent: Cotangent | None, refs: Mapping[str, Any]) -> Cotangent | None:
    """Its numbers as a kernel holds them, [1, 1]."""
    if cotangent is None:
        return None
    fields, column = {}, 0
    for name, number in cotangent._asdict().items():
        if number is not None:
            fields[name] = refs["cotangent"][:, column : column + 1].astype(number.dtype)
            column += 1
    return Cotangent(**fields)


def _passed(cotangent: Cotangent, d: Sequence[Value], t: jax.Array, ends: jax.Array, reverse: bool) -> list[Value]:
    """`Cotangent.passed` of a carry in segments; ends [B, 1]."""
    factor: Any = 1 if cotangent.scale is None else cotangent.scale
    if cotangent.cut_every is not None:
        factor = factor * jnp.where(cotangent.is_cut(t, ends, reverse), 0, 1)
    return [[a * jnp.asarray(factor, a.dtype) for a in value] for value in d]


def _clipped(cotangent: Cotangent, d: Sequence[Value], carry: Arrays) -> list[Value]:
    """`Cotangent.clipped` of a carry in segments."""
    cleared = [without_padding(value, axis) for value, axis in zip(d, carry.axes, strict=True)]
    flat = iter(cotangent.clipped(tuple(a for value in cleared for a in value)))
    return [[next(flat) for _ in value] for value in cleared]
