"""The forward kernel: all steps of a sequence, the carry in registers and the matrices on chip."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from rnnlab.engine.contract import Matrix
from rnnlab.engine.kernel.axes import Value, pack, read, segmentwise, write
from rnnlab.engine.kernel.blocks import blocks_of, exchange_of, vectors_of
from rnnlab.engine.kernel.launch import call
from rnnlab.engine.kernel.matrices import Products
from rnnlab.engine.kernel.programs import Arrays, Program, read_by
from rnnlab.engine.kernel.rules import run_half
from rnnlab.engine.kernel.settings import Settings
from rnnlab.engine.kernel.team import Team
from rnnlab.typing import Carry, Parts


class Recurrence(NamedTuple):
    """All that both kernels read of a sequence; arrays have whole blocks of rows and whole chunks of steps."""

    program: Program
    settings: Settings
    matrices: Mapping[str, Matrix]
    free: Mapping[Any, Any]
    """The arrays of the free variables of both halves."""
    z: Parts
    noise: tuple[jax.Array, ...]
    start: Carry
    lengths: jax.Array | None
    """[B, 1]."""
    longest: jax.Array | None
    """Of each block of rows [blocks]: past it no step is run."""
    state_mask: jax.Array | None
    row_leaves: Sequence[jax.Array]
    """The parameters that have rows."""
    reverse: bool
    steps: int
    """The time steps of the sequence, without those that fill a chunk up."""


class Inputs:
    """The arrays of a kernel, packed, by name, and what reads them again within it."""

    def __init__(self, sequence: Recurrence, half: Any, also: Sequence[Any] = ()):
        """half: whose free variables are needed; also: further ones."""
        self.sequence, program = sequence, sequence.program
        self.arrays: dict[str, tuple[Any, Any]] = {}
        self.layouts: dict[str, Arrays] = {}
        keys: dict[Any, tuple[jax.Array, Any, Any]] = {}
        for variable in dict.fromkeys([*half.vectors(), *also]):
            array = jnp.reshape(sequence.free[variable], (1, -1))
            keys[variable] = array, program.axes[variable], variable.aval.dtype
        for key, (array, axis) in vectors_of(program, sequence.matrices).items():
            keys[key] = array, program.axes[axis], array.dtype
        self.vector_keys = list(keys)
        self.blocks = blocks_of(program, sequence.matrices, sequence.settings.precision)
        if keys:
            arrays, axes, dtypes = zip(*keys.values(), strict=True)
            self.add("vectors", "whole", arrays, Arrays(axes, dtypes))
        self.arrays |= {f"block {n}": ("whole", block) for n, block in enumerate(self.blocks.values())}
        self.beside_keys = [program.leaf_variables[n] for n in program.row_leaves]
        beside = [*sequence.row_leaves]
        axes = [program.axes[v] for v in self.beside_keys]
        if sequence.state_mask is not None:
            beside.append(sequence.state_mask)
            axes.append(program.mask_axis)
        if beside:
            self.add("beside", "rows", beside, Arrays(tuple(axes), tuple(a.dtype for a in beside)))
        if sequence.lengths is not None:
            self.arrays["lengths"] = "rows", sequence.lengths
            self.arrays["longest"] = "numbers", sequence.longest

    def add(self, name: str, kind: Any, arrays: Any, layout: Arrays) -> None:
        if layout.axes:
            self.arrays[name] = kind, pack(arrays, layout.axes, layout.memory)
            self.layouts[name] = layout

    def add_packed(self, name: str, kind: Any, packed: jax.Array | None, layout: Arrays) -> None:
        if packed is not None:
            self.arrays[name] = kind, packed
            self.layouts[name] = layout

    def within(self, refs: Mapping[str, Any], team: Team, ways: Sequence[bool]) -> "Within":
        """What a program reads of them. ways: of `Products`."""
        return Within(self, refs, team, ways)


class Within:
    """The arrays of a kernel as one program reads them; those of no step are read now, as within the loop over time
    they would be read again at every step."""

    def __init__(self, inputs: Inputs, refs: Mapping[str, Any], team: Team, ways: Sequence[bool]):
        sequence = inputs.sequence
        self.refs, self.team = refs, team
        self.program = program = sequence.program.own(team)
        self.layouts = {name: layout.own(team) for name, layout in inputs.layouts.items()}
        once = [[Value.of(value.arrays()) for value in self.read(name)] for name in ("vectors", "beside")]
        vectors, beside = dict(zip(inputs.vector_keys, once[0], strict=True)), once[1]
        state_mask = beside.pop() if sequence.state_mask is not None else None
        self.outside = vectors | dict(zip(inputs.beside_keys, beside, strict=True))
        """The values of the free variables, and of the parameters with rows."""
        blocks = {key: refs[f"block {n}"] for n, key in enumerate(inputs.blocks)}
        self.products = Products(program, blocks, self.outside, state_mask, sequence.settings, team, ways)
        self.lengths = refs["lengths"][...] if "lengths" in refs else None

    def read(self, name: str, t: Any = None) -> list[Value]:
        """The arrays of one name; none where there are none."""
        if name not in self.layouts:
            return []
        return read(self.refs[name], self.layouts[name].axes, self.layouts[name].dtypes, t)

    def count(self, first: Any, chunk: int) -> Any:
        """How many steps of a chunk are run: none past the longest row of the block."""
        return jnp.clip(self.refs["longest"][self.team.block] - first, 0, chunk) if "longest" in self.refs else chunk


def run_step(
    within: Within, before: Sequence[Value], z: Sequence[Value], noise: Sequence[Value]
) -> Callable[[Any], Any]:
    """A step's values; what it returns reads a variable."""
    program, products = within.program, within.products
    values = dict(within.outside)
    for variables, arrays in ((program.before, before), (program.z, z), (program.noise, noise)):
        values.update(zip(variables, arrays, strict=True))
    rows = products.settings.rows
    products.begin()

    def exchange(number: int, sent: list[Any]) -> list[Value]:
        variable = program.values_out[number]
        value = read_by(variable, lambda _: sent[0], program.axes["value", number], rows)
        return products.times(number, value)

    return run_half(program.forward, values, program.axes, exchange, within.team.joined)


def fill(first: Any, end: int, places: Sequence[tuple[Any, ...]]) -> None:
    """Writes what is to be read of steps that are not run: the places of `write`, without their time."""

    def body(t: jax.Array, _: None) -> None:
        write(*[(*place, t) for place in places])

    lax.fori_loop(first, end, body, None)


def zeros(ref: Any, layout: Arrays) -> tuple[Any, ...]:
    """A place for `fill`."""
    nothing = [Value.of([jnp.zeros((1, 1), ref.dtype)] * len(axis.segments)) for axis in layout.axes]
    return ref, nothing, layout.axes, 0


def run_forward(
    sequence: Recurrence, saved: Sequence[int], keep: bool
) -> tuple[jax.Array, jax.Array | None, jax.Array]:
    """The carries of all steps, those elements of it that are to be saved, what is kept of them, and the last carry,
    all packed."""
    program, settings, steps = sequence.program, sequence.settings, sequence.z[0].shape[0]
    batch = sequence.start[0].shape[0]
    inputs = Inputs(sequence, program.forward)
    inputs.add("z", "time", sequence.z, program.arrays(program.z))
    inputs.add("noise", "time", sequence.noise, program.arrays(program.noise))
    carry = program.arrays(program.before)
    inputs.add("start", "rows", sequence.start, carry)
    kept = [program.kept[n] for n in program.saved_kept] if keep else []

    def over_time(layout: Arrays) -> tuple[Any, Any]:
        return "time", jax.ShapeDtypeStruct((steps, batch, layout.padded), layout.memory)

    of_saved = program.arrays([program.before[n] for n in saved])
    outputs: dict[str, tuple[Any, Any]] = {"carries": over_time(of_saved)}
    if kept:
        outputs["kept"] = over_time(program.arrays(kept))
    outputs["last"] = "rows", jax.ShapeDtypeStruct((batch, carry.padded), carry.memory)
    meetings = program.meetings(program.forward, False)
    outputs |= exchange_of(program, settings, meetings, steps, batch, sequence.start[0].dtype)
    chunk = settings.chunk or steps
    across = steps > chunk

    def unroll_forward(refs: Mapping[str, Any], team: Team) -> None:
        j = pl.program_id(1) if across else 0
        first = ((steps // chunk - 1 - j) if sequence.reverse else j) * chunk if across else 0
        within = inputs.within(refs, team, (False,))
        own, lengths, count = within.program, within.lengths, within.count(first, chunk)
        carry, of_saved, of_kept = (own.arrays(a) for a in (own.before, [own.before[n] for n in saved], kept))
        if across:

            @pl.when(j == 0)
            def _() -> None:
                refs["last"][...] = refs["start"][...]

        def body(k: jax.Array, state: Any) -> Any:
            team.met, carried = state
            t = count - 1 - k if sequence.reverse else k
            before = [Value.of(arrays) for arrays in carried]
            step = run_step(within, before, within.read("z", t), within.read("noise", t))
            new = [read_by(v, step, axis, settings.rows) for v, axis in zip(own.new, carry.axes, strict=True)]
            if lengths is not None:
                inside = first + t < lengths
                new = [segmentwise(partial(jnp.where, inside), a, b) for a, b in zip(new, before, strict=True)]
            places = [(refs["carries"], [new[n] for n in saved], of_saved.axes, 0, t)]
            if kept:
                values = [read_by(v, step, axis, settings.rows) for v, axis in zip(kept, of_kept.axes, strict=True)]
                places.append((refs["kept"], values, of_kept.axes, 0, t))
            write(*places)
            arrays = [value.arrays() for value in new]
            return team.met, arrays

        begin = [value.arrays() for value in read(refs["last" if across else "start"], carry.axes, carry.dtypes)]
        team.met, last = lax.fori_loop(0, count, body, (team.met, begin))
        if lengths is not None:  # Past its end a row keeps its carry.
            held = [Value.of((begin if sequence.reverse else last)[n]) for n in saved]
            places = [(refs["carries"], held, of_saved.axes, 0)]
            fill(count, chunk, [*places, zeros(refs["kept"], of_kept)] if kept else places)
        write((refs["last"], [Value.of(arrays) for arrays in last], carry.axes, 0, None))

    out = call(unroll_forward, "unroll_forward", settings, steps, sequence.reverse, inputs.arrays, outputs)
    return out["carries"], out.get("kept"), out["last"]
