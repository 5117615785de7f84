"""The loops within a chunk of time as generated C++: what `loops.XlaLoops` is for XLA."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Literal

from rnnlab.config.errors import ConfigError
from rnnlab.engine.chain import Step, Trace
from rnnlab.engine.checks import innermost
from rnnlab.engine.contract import Cotangent, Matrix
from rnnlab.engine.gradients import add_gradient
from rnnlab.engine.halves import Unsupported, leaves_in_rows, trace_rows
from rnnlab.engine.loops import Back, Chunk, Incoming, Stacks, empty_stacks
from rnnlab.engine.native.backward import backward_source
from rnnlab.engine.native.forward import forward_source
from rnnlab.engine.native.library import call, load, needed_compiler, threads_of_device
from rnnlab.engine.native.multiply import in_pairs
from rnnlab.engine.native.program import Program
from rnnlab.engine.native.rules import kind_of
from rnnlab.engine.native.source import Source, Switches
from rnnlab.engine.plan import Plan
from rnnlab.typing import Carry, PyTree

WIDE = 1 << 18
"""Elements of a matrix from which on XLA's product of all of a chunk's steps makes its gradient faster, but in
bfloat16; and from which on threads share its packing, which costs more than to start them."""


class NativeLoops:
    """Those of one recurrence."""

    def __init__(
        self,
        plan: Plan,
        step: Step,
        program: Program,
        params: PyTree,
        matrices: Mapping[str, Matrix],
        state_mask: jax.Array | None,
        batch: int,
    ):
        """step: traced with rows that no other axis has."""
        self.plan, self.step, self.program, self.matrices = plan, step, program, matrices
        self.state_mask, self.batch, self.cell = state_mask, batch, plan.cell(params)
        self.leaves = jax.tree.leaves(params)
        self.free_forward, self.free_back = program.free_arrays(step, params)
        dtypes = {jnp.dtype(m.kernel.dtype) for m in matrices.values()} or {program.before[0].aval.dtype}
        if len(dtypes) > 1:
            raise Unsupported("matrices of several types")
        real = kind_of(dtypes.pop())
        panel = 2 * needed_compiler().vector_bytes // (8 if real == "double" else 4)
        if plan.precision not in ("highest", "bfloat16"):
            raise Unsupported(f"products in {plan.precision}")
        rounds = plan.precision == "bfloat16"
        pairs = rounds and real == "float" and needed_compiler().has("__AVX512BF16__")
        self.switches = Switches(
            panel, real, rounds, pairs, state_mask=state_mask is not None, threads=min(threads_of_device(), batch)
        )
        self.packed_forward = self._packed(transposed=False)
        self.packed_back = self._packed(transposed=True)

    @property
    def kept(self) -> list[jax.ShapeDtypeStruct]:
        """What a step leaves for its pullback, beside the carries."""
        avals = [self.program.kept[n].aval for n in self.program.saved_kept]
        return [jax.ShapeDtypeStruct((self.batch, *a.shape[1:]), a.dtype) for a in avals]

    def _packed(self, transposed: bool) -> dict[str, jax.Array]:
        """The matrices as products read them, by the names of operands."""
        arrays = {}
        for name, number in self.program.matrix_numbers.items():
            kernel, offset = self.matrices[name].kernel, self.matrices[name].offset
            if kernel.ndim > 1:
                kernel = self._pack(kernel, transposed, in_pairs(self.switches, self.matrices[name]))
            arrays[f"matrix{number}"] = kernel
            if offset is not None:
                arrays[f"offset{number}"] = offset
        return arrays

    def _pack(self, kernel: jax.Array, transposed: bool, paired: bool) -> jax.Array:
        """[..., K, N] as [..., N / panel, K, panel], with zeros behind the last column; in pairs K / 2, of 32 bits."""
        *heads, rows, columns = kernel.shape[:-2] + (kernel.shape[:-3:-1] if transposed else kernel.shape[-2:])
        kind = "_paired" if paired else "_rounded" if self.switches.rounds else ""
        name = f"pack_{'back' if transposed else 'forward'}{kind}"
        shape = (*heads, -(-columns // self.switches.panel), -(-rows // 2) if paired else rows, self.switches.panel)
        result = jax.ShapeDtypeStruct(shape, jnp.uint32 if paired else kernel.dtype)
        threads = self.switches.threads if kernel.size >= WIDE else 1
        source = f"#define THREADS {threads}\n" + self._including("pack.h")
        return call(load(source, name), [result], [kernel], {})[0]

    def _including(self, header: str) -> str:
        """The beginning of a source."""
        real = self.switches.real
        lines = [f"typedef {real} real;", f'#include "{header}"', "", ""]
        return "\n".join(["#define REAL_IS_FLOAT", *lines] if real == "float" else lines)

    # --- forward -----------------------------------------------------------------------------------------------------

    def run(self, carry: Carry, chunk: Chunk, start: Any, stacks: Stacks) -> tuple[Carry, Stacks]:
        """The last carry of a chunk, and the stacks with what its steps left from entry `start` on."""
        program, (carries, gates) = self.program, stacks
        switches = self.switches._replace(
            mask=chunk.mask is not None, everything=len(carries) == len(carry), gates=bool(gates)
        )
        source = self._written(forward_source, program, switches, kind_of(chunk.z.dtype), chunk.z.shape[-1])
        arrays: dict[str, Any] = {**self.packed_forward, **self._beside(chunk)}
        arrays["at"] = _numbers(chunk.z.shape[0], start, self.plan.reverse)
        arrays |= _numbered("carry", carry) | _numbered("stack", carries)
        arrays |= {f"free{n}": self.free_forward[v] for n, v in enumerate(program.forward.vectors())}
        kept = program.saved_kept if gates else []
        arrays |= {f"kept{n}": a for n, a in zip(kept, gates, strict=True)}
        results = self._call(source, "run_forward", arrays, _numbered("new", carry))
        new = tuple(results[f"new{n}"] for n in range(len(carry)))
        left = tuple(results[f"stack{n}"] for n in range(len(carries)))
        return new, Stacks(left, [results[f"kept{n}"] for n in kept])

    def _beside(self, chunk: Chunk) -> dict[str, Any]:
        """What both ways find beside the carries."""
        arrays: dict[str, Any] = {"mask": chunk.mask, "state_mask": self.state_mask, "z": chunk.z}
        arrays |= {f"leaf{n}": self.leaves[n] for n in self.program.row_leaves}
        return arrays | _numbered("noise", chunk.noise)

    # --- back --------------------------------------------------------------------------------------------------------

    def empty_scratch(self, x: jax.Array, noise: tuple[jax.Array, ...], dtype: Any) -> list[jax.Array]:
        """None is needed."""
        return []

    def back(self, chunk: Chunk, incoming: Incoming) -> tuple[Trace, Back]:
        """The gradients of a chunk's steps."""
        start, stacks, noise, dcarry, dh, cotangent, ends, leaves, dmatrices, scratch, tapped = incoming
        program, trace = self.program, self.step.trace
        held = self._held(chunk, start, stacks, noise)
        bounds = Cotangent() if cotangent is None else cotangent
        factor = self._factor(chunk, bounds, ends, dcarry[0].dtype)
        switches = self.switches._replace(
            mask=chunk.mask is not None,
            dh=dh is not None,
            factor=factor is not None,
            clip_value=bounds.clip_value is not None,
            clip_norm=bounds.clip_norm is not None,
            dnew=tapped,
            totals=self._summed_within(dmatrices),
        )
        if program.backward.summed:  # All rows add to them.
            switches = switches._replace(threads=1)
        source = self._written(backward_source, program, switches)
        steps, dtype = chunk.z.shape[0], dcarry[0].dtype
        arrays: dict[str, Any] = {**self.packed_back, **self._beside(chunk), "dh": dh, "factor": factor}
        at = [held[kind][1] for kind in ("before", "after", "noise", "kept")]
        arrays["at"] = _numbers(steps, self.plan.reverse, *at, chunk.first)
        for name, bound in (("bound", bounds.clip_value), ("largest_norm", bounds.clip_norm)):
            arrays[name] = None if bound is None else jnp.asarray(bound, dtype)
        for kind, (over_time, _) in held.items():
            numbers = program.saved_kept if kind == "kept" else range(len(over_time))
            arrays |= {f"{kind}{n}": a for n, a in zip(numbers, over_time, strict=True)}
        arrays |= {f"free{n}": self.free_back[v] for n, v in enumerate(program.backward.vectors())}
        arrays |= _numbered("dcarry", dcarry)
        for n in switches.totals:
            name = trace.products[n].name
            arrays[f"total{program.matrix_numbers[name]}"] = dmatrices[name].kernel
        results = self._call(source, "run_back", arrays, self._shapes_back(steps, dcarry))
        du = [results[f"du{n}"] for n in range(len(trace.products))]
        for n, each in enumerate(trace.products):
            matrix, total = self.matrices[each.name], dmatrices[each.name]
            if n in switches.totals:
                total = _with_offset(total, results[f"total{program.matrix_numbers[each.name]}"], du[n])
            else:
                value = self._met(n, held, steps)
                total = add_gradient(total, matrix, value, du[n], self.state_mask, self.plan.precision)
            dmatrices = {**dmatrices, each.name: total}
        sums = [results[f"sum{n}"] for n in range(len(program.sums))]
        read = [leaf for leaf, is_read in zip(leaves, trace.used, strict=True) if is_read]
        before = tuple(results[f"dbefore{n}"] for n in range(len(dcarry)))
        dnew = tuple(results[f"dnew{n}"] for n in range(len(dcarry))) if tapped else ()
        dz = [results.get(f"dz{n}") for n in range(len(program.z))]
        dread = list(map(jnp.add, read, program.gradients_of_params(self.free_back, sums)))
        return trace, Back(before, du, dz, dread, dmatrices, dnew, scratch)

    def _held(
        self, chunk: Chunk, start: Carry | None, stacks: Stacks, noise: tuple[jax.Array, ...]
    ) -> dict[str, tuple[Sequence[jax.Array], Any]]:
        """By kind, the arrays that the pullbacks hold, and where the chunk begins in them."""
        later = 1 if self.plan.reverse else 0  # Where a step begins in the stack of carries, from its own number.
        first, length = chunk.first, chunk.z.shape[0]
        carries, gates = stacks
        if not self.plan.keep_gates:  # The steps are run again.
            if start is None:
                entry = first + length if self.plan.reverse else first
                start = tuple(lax.dynamic_index_in_dim(a, entry, keepdims=False) for a in carries)
            local = empty_stacks(self.plan, length, start, self.kept, True, length)
            _, (carries, gates) = self.run(start, chunk, 0, local)
            first, noise = 0, chunk.noise
        return {
            "before": (carries, first + later),
            "after": (carries, first + 1 - later),
            "noise": (noise, first),
            "kept": (gates, first),
        }

    def _factor(self, chunk: Chunk, bounds: Cotangent, ends: jax.Array, dtype: Any) -> jax.Array | None:
        """Of what each step hands on [C, B]; None for one."""
        if bounds.scale is None and bounds.cut_every is None:
            return None
        ones = jnp.ones((self.batch, 1), dtype)
        times = chunk.first + jnp.arange(chunk.z.shape[0])
        return jax.vmap(lambda t: bounds.passed((ones,), t, ends, self.plan.reverse)[0][:, 0])(times)

    def _shapes_back(self, steps: int, dcarry: Carry) -> dict[str, Any]:
        program = self.program
        shapes: dict[str, Any] = _numbered("dbefore", dcarry)
        for n, each in enumerate(program.trace.products):
            shapes[f"du{n}"] = jax.ShapeDtypeStruct((steps, self.batch, each.columns), dcarry[0].dtype)
        for n in program.own_dz:
            aval = program.z[n].aval
            shapes[f"dz{n}"] = jax.ShapeDtypeStruct((steps, self.batch, *aval.shape[1:]), aval.dtype)
        shapes |= {f"dnew{n}": jax.ShapeDtypeStruct((steps, *a.shape), a.dtype) for n, a in enumerate(dcarry)}
        for n, v in enumerate(program.sums):
            rows = 1 if v in program.backward.summed else self.batch
            shapes[f"sum{n}"] = jax.ShapeDtypeStruct((rows, *v.aval.shape[1:]), v.aval.dtype)
        return shapes

    def _summed_within(self, dmatrices: Mapping[str, Matrix]) -> tuple[int, ...]:
        """The products whose matrices' gradients the generated code adds up."""
        program, numbers = self.program, []
        for n, each in enumerate(program.trace.products):
            matrix, held = self.matrices[each.name], program.trace.values[n]
            moves = held.kind != "constant" and not (held.kind == "kept" and held.number not in program.saved_kept)
            plain = matrix.kernel.ndim == 2 and not self.switches.rounds and matrix.kernel.size < WIDE
            plain |= in_pairs(self.switches, matrix) and matrix.columns >= self.switches.panel
            masks = matrix.of_state and self.state_mask is not None
            if moves and plain and not masks and kind_of(dmatrices[each.name].kernel.dtype) == self.switches.real:
                numbers.append(n)
        return tuple(numbers)

    def _met(self, number: int, held: Mapping[str, tuple[Sequence[Any], Any]], length: int) -> jax.Array:
        """What met a product's matrix in a chunk [C, B, K]."""
        kind, index = self.step.trace.values[number]
        program = self.program
        if kind in held and (kind != "kept" or index in program.saved_kept):
            arrays, first = held[kind]
            number_of = program.saved_kept.index(index) if kind == "kept" else index
            return lax.dynamic_slice_in_dim(arrays[number_of], first, length)
        variable = program.values_out[number]
        one = jnp.asarray(variable.val) if isinstance(variable, Literal) else self.free_forward[variable]
        return jnp.broadcast_to(one, (length, self.batch, self.matrices[self.step.trace.products[number].name].rows))

    def _written(self, write: Callable[..., Source], *arguments: Any) -> Source:
        """A function in C++.

        Raises:
            ConfigError: the step has what it cannot be written with.
        """
        try:
            return write(*arguments)
        except Unsupported as error:
            raise _refused(self.cell, error) from None

    def _call(self, source: Source, name: str, arrays: Mapping[str, Any], shapes: Mapping[str, Any]) -> dict[str, Any]:
        """The results of generated code by their names. shapes: of those that are no operands."""
        target = load(self._including("runtime.h") + source.text, name)
        numbers = {each: n for n, each in enumerate(source.operands)}
        likes = [shapes.get(each, arrays.get(each)) for each in source.results]
        results: list[Any] = [jax.ShapeDtypeStruct(like.shape, like.dtype) for like in likes]
        aliases = {numbers[each]: n for n, each in enumerate(source.results) if each in numbers}
        results = call(target, results, [arrays[each] for each in source.operands], aliases)
        return dict(zip(source.results, results, strict=True))


def native_loops(
    plan: Plan,
    params: PyTree,
    matrices: Mapping[str, Matrix],
    carry: Carry,
    x: jax.Array,
    noise: tuple[jax.Array, ...],
    state_mask: jax.Array | None,
) -> NativeLoops:
    """Those of a recurrence, from the arrays of the whole sequence [T, B, ...].

    Raises:
        ConfigError: the step has what generated code cannot do; no compiler, or it fails.
    """
    cell = plan.cell(params)
    of_step = jax.eval_shape(lambda: (cell.split(cell.project(x[0])), tuple(a[0] for a in noise)))
    try:
        step = trace_rows(plan, params, matrices, carry, *of_step)
        program = Program(step, leaves_in_rows(plan, params), matrices)
        return NativeLoops(plan, step, program, params, matrices, state_mask, x.shape[1])
    except Unsupported as error:
        raise _refused(cell, error) from None


def _refused(cell: Any, why: Unsupported) -> ConfigError:
    name = type(innermost(cell)).__name__
    return ConfigError(f"a step of {name} has {why}, which backend='native' cannot run; use 'auto'")


def _numbers(*numbers: Any) -> jax.Array:
    return jnp.stack([jnp.asarray(a, jnp.int32) for a in numbers])


def _numbered(name: str, arrays: Iterable[Any]) -> dict[str, Any]:
    return {f"{name}{n}": a for n, a in enumerate(arrays)}


def _with_offset(total: Matrix, kernel: jax.Array, du: jax.Array) -> Matrix:
    """A sum of a matrix's gradients, with another for its kernel."""
    offset = total.offset
    if offset is not None:
        offset = offset + du.reshape(-1, du.shape[-1]).sum(0, dtype=offset.dtype)
    return dataclasses.replace(total, kernel=kernel, offset=offset)
