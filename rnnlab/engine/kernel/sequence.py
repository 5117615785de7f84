"""The kernel backend: a sequence by one kernel forward and one back, with a derivative of its own.

Around the two kernels stands what stands around the fused backend's loops: the input's projection before, and after
them the gradients of the matrices, one product each over all steps.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero, custom_vjp_primal_tree_values

from rnnlab.engine.chain import Step
from rnnlab.engine.contract import Cotangent, Matrix, Taps
from rnnlab.engine.gradients import add_gradient, plain, with_sums, zeros_at_least
from rnnlab.engine.halves import leaves_in_rows, trace_rows
from rnnlab.engine.kernel.axes import unpack
from rnnlab.engine.kernel.backward import Backward
from rnnlab.engine.kernel.forward import Recurrence, run_forward
from rnnlab.engine.kernel.memory import fitted
from rnnlab.engine.kernel.programs import Program
from rnnlab.engine.kernel.settings import Settings
from rnnlab.engine.plan import Plan
from rnnlab.engine.resets import have_rows
from rnnlab.typing import Carry, Parts, PyTree


class KernelPlan(NamedTuple):
    """The static side of one recurrence."""

    base: Plan
    """Its `keep_gates`: whether the way back finds what it needs of every step; else it runs the step again."""
    settings: Settings


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def unroll_kernel(
    plan: KernelPlan,
    params: PyTree,
    matrices: dict[str, Matrix],
    carry: Carry,
    z: Parts,
    lengths: jax.Array | None,
    noise: tuple[jax.Array, ...],
    state_mask: jax.Array | None,
    cotangent: Cotangent | None,
    taps: Taps | None,
) -> tuple[jax.Array, Carry]:
    """h [T, B, H] and the last carry. The taps' values are not read; noise, state_mask, cotangent get no gradient.

    h past a row's end is nothing to be read, and its gradient there must be zero.
    """
    return _forward(plan, False, params, matrices, carry, z, lengths, noise, state_mask, cotangent, taps)[0]


def _step(plan: KernelPlan, params: PyTree, matrices: Any, carry: Carry, z: Parts, noise: Any) -> Step:
    """The step, traced with rows that no other axis has."""
    of_step = jax.eval_shape(lambda: jax.tree.map(lambda a: a[0], (z, noise)))
    return trace_rows(plan.base, params, matrices, carry, *of_step)


def _sequence(plan, step, params, matrices, carry, z, lengths, noise, state_mask) -> Recurrence:
    """All that the kernels read, with whole blocks of rows and whole chunks of steps.

    Raises:
        Unsupported: the step has what a kernel cannot do.
        TooLarge: no program can hold it.
    """
    settings = plan.settings
    leaves = jax.tree.leaves(params)
    rows = have_rows(plan.base.cell(params), params)
    shapes = leaves_in_rows(plan.base, params)
    width = None if state_mask is None else state_mask.shape[1]
    program = Program(step, shapes, matrices, width, settings.pad, settings.widest)
    again = not plan.base.keep_gates and bool(program.saved_kept)
    program, settings = fitted(program, matrices, settings, again)
    steps, batch = z[0].shape[:2]
    more_rows = -batch % settings.rows
    more_steps = 0 if settings.chunk is None else -steps % settings.chunk
    if more_steps and lengths is None:
        lengths = jnp.full(batch, steps)

    def filled(a: jax.Array, over_time: bool = False) -> jax.Array:
        widths = [(0, more_steps), (0, more_rows)] if over_time else [(0, more_rows)]
        return a if not any(n for _, n in widths) else jnp.pad(a, [*widths, *[(0, 0)] * (a.ndim - len(widths))])

    if lengths is not None:
        lengths = filled(jnp.clip(lengths, 0, steps)[:, None].astype(jnp.int32))
    forward, back = program.free_arrays(step, params)
    free = forward | back
    return Recurrence(
        program,
        settings,
        matrices,
        free,
        [filled(a, True) for a in z],
        tuple(filled(a, True) for a in noise),
        tuple(map(filled, carry)),
        lengths,
        None if lengths is None else lengths.reshape(-1, settings.rows).max(1),
        None if state_mask is None else filled(state_mask),
        [filled(leaf) for leaf, has in zip(leaves, rows, strict=True) if has],
        plan.base.reverse,
        steps,
    )


def _forward(plan, keeps, params, matrices, carry, z, lengths, noise, state_mask, cotangent, taps):
    step = _step(plan, params, matrices, carry, z, noise)
    sequence = _sequence(plan, step, params, matrices, carry, z, lengths, noise, state_mask)
    program, (steps, batch) = sequence.program, z[0].shape[:2]
    keep = keeps and plan.base.keep_gates
    saved = program.saved_carries(not plan.base.keep_gates) if keeps else [0]
    carries, kept, last = run_forward(sequence, saved, keep)
    of_saved = program.arrays([program.before[n] for n in saved])
    of_carry = program.arrays(program.before)
    h = unpack(carries, of_saved.axes[:1], of_saved.dtypes[:1])[0][:steps, :batch]
    last = tuple(a[:batch] for a in unpack(last, of_carry.axes, of_carry.dtypes))
    again = z if program.saved_kept and not plan.base.keep_gates else None
    residuals = params, matrices, carry, again, lengths, noise, state_mask, cotangent, taps, step, carries, kept
    return (h, last), residuals


def _kernel_forward(plan: KernelPlan, *primals: Any) -> tuple[Any, Any]:
    (h, last), residuals = _forward(plan, True, *custom_vjp_primal_tree_values(primals))
    return (h, last), (*residuals, h[:, :, :0])


def _kernel_backward(plan, residuals, cotangents):
    params, matrices, carry, z, lengths, noise, state_mask, cotangent, taps, step, carries, kept, like = residuals
    steps, batch = like.shape[:2]
    trace = step.trace
    shaped = [like] if z is None else z  # The steps are not run again: how many there are is all that is needed.
    sequence = _sequence(plan, step, params, matrices, carry, shaped, lengths, noise, state_mask)
    program = sequence.program
    dh = None if isinstance(cotangents[0], SymbolicZero) else cotangents[0]
    dlast = [plain(a) for a in cotangents[1]]
    more_steps, more_rows = carries.shape[0] - steps, carries.shape[1] - batch
    if more_rows or more_steps:
        dh = None if dh is None else jnp.pad(dh, [(0, more_steps), (0, more_rows), (0, 0)])
        dlast = [jnp.pad(a, [(0, more_rows), (0, 0)]) for a in dlast]
    saved = program.saved_carries(not plan.base.keep_gates)
    out = Backward(sequence, saved, carries, kept, dh, dlast, cotangent, taps is not None).run()

    def unpacked(name: str, packed: jax.Array | None, variables: Sequence[Any]) -> list[jax.Array]:
        """The arrays of some variables, without the rows and steps that fill blocks up."""
        if packed is None or not variables:
            return []
        layout = program.arrays(variables)
        arrays = unpack(packed, layout.axes, layout.dtypes)
        return [a[:steps, :batch] if a.ndim == 3 else a[:batch] for a in arrays]

    products = [v for group in program.results for v in group]
    parts = unpacked("du", out.get("du"), products)
    du, first = [], 0
    for each in trace.products:
        group = parts[first : first + each.parts]
        du.append(group[0] if len(group) == 1 else jnp.concatenate(group, -1))
        first += each.parts
    others = iter(unpacked("dz", out.get("dz"), [program.z[n] for n in program.own_dz]))
    dz = [next(others) if n is None else parts[n] for n in trace.same]
    dcarry = tuple(unpacked("dcarry", out["dcarry"], program.before))
    wide = functools.partial(zeros_at_least, jnp.result_type(jnp.float32, dlast[0].dtype))
    dparams, dmatrices = jax.tree.map(wide, (params, matrices))

    carries_of = dict(zip(saved, unpacked("carries", carries, [program.before[n] for n in saved]), strict=True))
    if kept is None:
        met = dict(zip(program.met, unpacked("met", out.get("met"), program.met), strict=False))
    else:
        of_kept = [program.kept[n] for n in program.saved_kept]
        met = dict(zip(of_kept, unpacked("kept", kept, of_kept), strict=True))
    constants = step.constants(params)
    for number, each in enumerate(trace.products):
        kind, index = trace.values[number]
        if kind == "before":
            start, over_time = carry[index][None], carries_of[index]
            pieces = [over_time[1:], start] if plan.base.reverse else [start, over_time[:-1]]
            value = jnp.concatenate(pieces)
        elif kind == "after":
            value = carries_of[index]
        elif kind == "noise":
            value = noise[index]
        elif kind == "kept" and program.kept[index] in met:
            value = met[program.kept[index]]
        else:
            one = constants[index] if kind == "constant" else sequence.free[program.kept[index]]
            value = jnp.broadcast_to(one, (steps, batch, matrices[each.name].rows))
        matrix, total = matrices[each.name], dmatrices[each.name]
        total = add_gradient(total, matrix, value, du[number], state_mask, plan.base.precision)
        dmatrices = {**dmatrices, each.name: total}
    leaves, structure = jax.tree.flatten(dparams)
    dread = program.gradients_of_params(sequence.free, unpacked("sums", out.get("sums"), program.sums))
    dparams = jax.tree.unflatten(structure, with_sums(leaves, trace.used, dread))
    dparams, dmatrices = jax.tree.map(lambda d, p: d.astype(p.dtype), (dparams, dmatrices), (params, matrices))
    dtaps = None
    if taps is not None:
        dnew = tuple(unpacked("dnew", out["dnew"], program.before))
        dtaps = Taps(dnew, jnp.concatenate([dnew[0][:, :, :0], *du], -1))
    return dparams, dmatrices, dcarry, dz, None, None, None, None, dtaps


unroll_kernel.defvjp(_kernel_forward, _kernel_backward, symbolic_zeros=True)
