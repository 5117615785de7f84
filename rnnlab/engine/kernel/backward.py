"""The backward kernel: the pullback of every step, from the last to the first, and what is summed over them."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from rnnlab.engine.contract import Cotangent
from rnnlab.engine.kernel.axes import Place, Value, read, segmentwise, without_padding, write
from rnnlab.engine.kernel.blocks import exchange_of
from rnnlab.engine.kernel.forward import Inputs, Recurrence, fill, run_step, zeros
from rnnlab.engine.kernel.launch import call
from rnnlab.engine.kernel.programs import Arrays, Program, read_by
from rnnlab.engine.kernel.rules import run_half
from rnnlab.engine.kernel.team import Team


class Backward:
    """The kernel of one sequence."""

    def __init__(
        self,
        sequence: Recurrence,
        saved: Sequence[int],
        carries: jax.Array,
        kept: jax.Array | None,
        dh: jax.Array | None,
        dlast: Sequence[jax.Array],
        cotangent: Cotangent | None,
        with_dnew: bool,
    ):
        """carries, kept: as the forward kernel left them, of the elements `saved` of the carry; kept None where the
        steps are run again, or nothing is kept. with_dnew: whether ∂L/∂carry_t of every step is asked for."""
        self.sequence, self.saved, self.cotangent, self.with_dnew = sequence, saved, cotangent, with_dnew
        self.program = program = sequence.program
        self.steps, self.batch = carries.shape[:2]
        self.chunk = sequence.settings.chunk or self.steps
        self.across = self.steps > self.chunk
        """Whether the kernel goes through time in chunks."""
        self.again = kept is None and bool(program.saved_kept)
        """Whether the steps are run again."""
        self.carry = program.arrays(program.before)
        self.inputs = inputs = Inputs(sequence, program.backward, program.forward.vectors() if self.again else ())
        of_saved = program.arrays([program.before[n] for n in saved])
        if self.again:
            inputs.add("z", "time", sequence.z, program.arrays(program.z))
        if self.again or any(h.kind == "noise" for h in program.trace.holdings):
            inputs.add("noise", "time", sequence.noise, program.arrays(program.noise))
        inputs.add("start", "rows", sequence.start, self.carry)
        inputs.add_packed("carries", "time", carries, of_saved)
        if self.across:
            inputs.add_packed("edge", "edge", carries, of_saved)
        inputs.add_packed("kept", "time", kept, program.arrays([program.kept[n] for n in program.saved_kept]))
        if dh is not None:
            inputs.add("dh", "time", [dh], program.arrays(program.dnew[:1]))
        inputs.add("dlast", "rows", dlast, program.arrays(program.dnew))
        numbers = [] if cotangent is None else [a for a in cotangent if a is not None]
        if numbers:
            wide = jnp.result_type(carries.dtype, jnp.float32)
            inputs.arrays["cotangent"] = "whole", jnp.stack([a.astype(wide) for a in numbers])[None]

    def run(self) -> dict[str, jax.Array]:
        """Packed: "du" and "dz" of all steps, "dcarry" of the first carry, "sums" over the steps, "dnew" where it is
        asked for, and, where the steps are run again, what "met" the matrices."""
        settings, reverse = self.sequence.settings, self.sequence.reverse
        dtype, meetings = self.sequence.start[0].dtype, self._meetings()
        outputs = self._outputs() | exchange_of(self.program, settings, meetings, self.steps, self.batch, dtype)
        return call(self._kernel, "unroll_backward", settings, self.steps, not reverse, self.inputs.arrays, outputs)

    def _meetings(self) -> tuple[int, int]:
        program = self.program
        meetings = [program.meetings(program.backward, True)]
        if self.again:
            meetings.append(program.meetings(program.forward, False))
        if self.cotangent is not None and self.cotangent.clip_norm is not None:
            meetings.append((0, 2 * self.carry.segments))
        products, joins = map(sum, zip(*meetings, strict=True))
        return products, joins

    def _over_time(self, program: Program) -> dict[str, Arrays]:
        """How what is made of every step lies in memory."""
        return {
            "du": program.arrays([v for group in program.results for v in group]),
            "dz": program.arrays([program.z[n] for n in program.own_dz]),
            "dnew": program.arrays(program.before if self.with_dnew else []),
            "met": program.arrays(program.met if self.again else []),
        }

    def _outputs(self) -> dict[str, Any]:
        program = self.program
        outputs: dict[str, Any] = {
            name: ("time", jax.ShapeDtypeStruct((self.steps, self.batch, layout.padded), layout.memory))
            for name, layout in self._over_time(program).items()
        }
        for name, layout in {"dcarry": self.carry, "sums": program.arrays(program.sums)}.items():
            outputs[name] = "rows", jax.ShapeDtypeStruct((self.batch, layout.padded), layout.memory)
        return {name: (kind, a) for name, (kind, a) in outputs.items() if a.shape[-1]}

    def _kernel(self, refs: Mapping[str, Any], team: Team) -> None:
        settings, reverse = self.sequence.settings, self.sequence.reverse
        j = pl.program_id(1) if self.across else 0
        first = (j if reverse else self.steps // self.chunk - 1 - j) * self.chunk if self.across else 0
        loop = _Loop(self, refs, team, first)
        program, carry = loop.program, loop.carry
        if self.across:

            @pl.when(j == 0)
            def _() -> None:
                refs["dcarry"][...] = refs["dlast"][...]
                if "sums" in refs:
                    refs["sums"][...] = jnp.zeros(refs["sums"].shape, refs["sums"].dtype)

        begin = loop.within.read("dlast")
        summed = program.arrays(program.sums)
        totals = [
            [jnp.zeros((settings.rows, segment.padded), dtype) for segment in axis.segments]
            for axis, dtype in zip(*summed, strict=True)
        ]
        if self.across:
            begin = read(refs["dcarry"], carry.axes, carry.dtypes)
            if program.sums:
                totals = [value.arrays() for value in read(refs["sums"], summed.axes, summed.dtypes)]
        state = [value.arrays() for value in begin], totals
        team.met, (dcarry, totals) = lax.fori_loop(0, loop.count, loop.step, (team.met, state))
        if self.sequence.lengths is not None:
            over_time = {name: layout for name, layout in self._over_time(program).items() if name in refs}
            fill(loop.count, self.chunk, [zeros(refs[name], layout) for name, layout in over_time.items()])
        write((refs["dcarry"], list(map(Value.of, dcarry)), carry.axes, 0, None))
        if program.sums:
            write((refs["sums"], list(map(Value.of, totals)), summed.axes, 0, None))


class _Loop:
    """A chunk of time within the kernel."""

    def __init__(self, backward: Backward, refs: Mapping[str, Any], team: Team, first: Any):
        """first: the first step of the chunk."""
        self.backward, self.refs, self.team, self.first = backward, refs, team, first
        self.rows = backward.sequence.settings.rows
        self.within = within = backward.inputs.within(refs, team, (True, False) if backward.again else (True,))
        self.program, self.products, self.lengths = within.program, within.products, within.lengths
        self.carry = self.program.arrays(self.program.before)
        self.count = within.count(first, backward.chunk)
        self.cotangent = _read_cotangent(backward.cotangent, refs)

    def step(self, k: jax.Array, state: tuple[Any, tuple[list[list[jax.Array]], list[list[jax.Array]]]]) -> Any:
        """The k-th step back: how often the team has met, ∂L/∂carry before the step, and the sums."""
        backward, program, refs = self.backward, self.program, self.refs
        reverse, carry = backward.sequence.reverse, self.carry
        self.team.met, lists = state
        dcarry, sums = (list(map(Value.of, values)) for values in lists)
        t = k if reverse else self.count - 1 - k
        time = self.first + t
        if "dh" in refs:
            dcarry = [segmentwise(jnp.add, dcarry[0], self.within.read("dh", t)[0]), *dcarry[1:]]
        dnew, inside = dcarry, None if self.lengths is None else time < self.lengths
        if inside is not None:
            dnew = [_where(inside, value, _zeros(value)) for value in dcarry]
        if self.cotangent is not None:
            dnew = _clipped(self.cotangent, dnew, carry, self.team)
        self.products.begin()
        values = self._held(t)
        values.update(zip(program.dnew, dnew, strict=True))
        result = self._pullback(values, t)
        places: list[Place] = []
        if backward.with_dnew:
            places.append((refs["dnew"], dnew, carry.axes, 0, t))
        if "dz" in refs:
            keys = [program.z[n] for n in program.own_dz]
            dz = [self._full(result, program.dz[n], program.z[n]) for n in program.own_dz]
            places.append((refs["dz"], dz, program.arrays(keys).axes, 0, t))
        write(*places)
        dbefore = [self._full(result, v, key) for v, key in zip(program.dbefore, program.before, strict=True)]
        if self.cotangent is not None:
            ends = jnp.full((1, 1), backward.sequence.steps) if self.lengths is None else self.lengths
            dbefore = _passed(self.cotangent, dbefore, time, ends, reverse)
        if inside is not None:
            past = [_where(inside, _zeros(value), value) for value in dcarry]
            dbefore = [segmentwise(jnp.add, a, b) for a, b in zip(dbefore, past, strict=True)]
        more = [self._full(result, v, v) for v in program.sums]
        totals = [segmentwise(jnp.add, a, b) for a, b in zip(sums, more, strict=True)]
        after = [value.arrays() for value in dbefore], [value.arrays() for value in totals]
        return self.team.met, after

    def _pullback(self, values: dict[Any, Value], t: jax.Array) -> Any:
        """Reads the results of the step's pullback; writes ∂L/∂products. values: of all that it is made of."""
        program, refs = self.program, self.refs
        count = len(program.trace.products)
        spans = [sum(program.axes[v].span for v in group) for group in program.results]

        def exchange(number: int, sent: list[Any]) -> list[Value]:
            number = count - 1 - number
            du = [
                read_by(v, lambda _, a=a: a, program.axes["u", number, part], self.rows)
                for part, (v, a) in enumerate(zip(program.dresults[number], sent, strict=True))
            ]
            value: Any = program.dvalues[number]
            return [self.products.back(number, du, value.aval.dtype, (refs["du"], sum(spans[:number]), t))]

        return run_half(program.backward, values, program.axes, exchange, self.team.joined)

    def _full(self, result: Any, variable: Any, key: Any) -> Value:
        """A result in all rows. key: of its axis; a number has none of its own."""
        return read_by(variable, result, self.program.axes[key], self.rows)

    def _before(self, t: jax.Array) -> dict[int, Value]:
        """The saved elements of the carry before step t of the chunk."""
        backward, within = self.backward, self.within
        reverse, chunk, saved = backward.sequence.reverse, backward.chunk, backward.saved
        start = within.read("start")
        edge = [start[n] for n in saved]
        if backward.across:
            begins = (self.first + chunk == backward.steps) if reverse else (self.first == 0)
            edge = [_where(begins, a, b) for a, b in zip(edge, within.read("edge", 0), strict=True)]
        at = jnp.minimum(t + 1, chunk - 1) if reverse else jnp.maximum(t - 1, 0)
        is_edge = t == (chunk - 1 if reverse else 0)
        inner = within.read("carries", at)
        return {n: _where(is_edge, a, b) for n, a, b in zip(saved, edge, inner, strict=True)}

    def _held(self, t: jax.Array) -> dict[Any, Value]:
        """The values of all that the pullback holds, and of the free variables."""
        program, refs, within, saved = self.program, self.refs, self.within, self.backward.saved
        before, noise = self._before(t), within.read("noise", t)
        if self.backward.again:
            every = [before[n] for n in range(len(program.before))]
            step = run_step(within, every, within.read("z", t), noise)
            if "met" in refs:
                axes = program.arrays(program.met).axes
                write((refs["met"], [self._full(step, v, v) for v in program.met], axes, 0, t))
            after = dict(enumerate(map(step, program.new)))
            kept = dict(enumerate(map(step, program.kept)))
        else:
            after = dict(zip(saved, within.read("carries", t), strict=True))
            kept = dict(zip(program.saved_kept, within.read("kept", t), strict=True))
        leaves = {n: program.leaf_variables[n] for n in program.row_leaves}
        constants = {len(program.step_consts) + n: within.outside[v] for n, v in leaves.items()}
        kinds = {"before": before, "after": after, "noise": noise, "kept": kept, "constant": constants}
        values = dict(within.outside)
        for variable, each in zip(program.held, program.trace.holdings, strict=True):
            if variable not in program.backward.free:
                values[variable] = kinds[each.kind][each.number]
        return values


def _where(condition: Any, one: Value, other: Value) -> Value:
    return segmentwise(lambda a, b: jnp.where(condition, a, b), one, other)


def _zeros(like: Value) -> Value:
    return segmentwise(jnp.zeros_like, like)


def _read_cotangent(cotangent: Cotangent | None, refs: Mapping[str, Any]) -> Cotangent | None:
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
    return [segmentwise(lambda a: a * jnp.asarray(factor, a.dtype), value) for value in d]


def _clipped(cotangent: Cotangent, d: Sequence[Value], carry: Arrays, team: Team) -> list[Value]:
    """`Cotangent.clipped` of a carry in segments."""

    def reduced(reduce: Any, a: jax.Array) -> jax.Array:
        one = reduce(a, axis=-1, keepdims=True)
        return team.joined(one, reduce, 0.0) if a.shape[1] > 1 else one

    cleared = [without_padding(value, axis).arrays() for value, axis in zip(d, carry.axes, strict=True)]
    flat = iter(cotangent.clipped(tuple(a for arrays in cleared for a in arrays), reduced))
    return [Value.of([next(flat) for _ in arrays]) for arrays in cleared]
