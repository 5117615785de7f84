"""The fused backend: a custom VJP whose backward loop holds only what is sequential.

XLA's CPU code decides the form of what follows: a value that several gates cut their parts from is computed without
vector instructions (LSTM, pointwise part, B=8 H=100: 9.1 µs a step against 3.2), so every gate's part is an array of
its own; and what a scan slices from its inputs and stacks to its outputs is copied once more per level of loops, so
the loops read and write the arrays of the whole sequence in place.

Where rows have lengths, chunks past the longest row are not run, forward or backward.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero, custom_vjp_primal_tree_values

from rnnlab.engine.chain import Step, Trace, trace_first, trace_step
from rnnlab.engine.contract import (
    Cotangent,
    Matrix,
    Taps,
    dropped,
    masked,
    multiplication,
    products_of,
)
from rnnlab.engine.gradients import add_gradient, plain, with_sums, zeros_at_least
from rnnlab.engine.plan import Plan
from rnnlab.engine.ready import ReadyMatrix, ready_matrices
from rnnlab.typing import Carry, Parts, PyTree


class _Stacks(NamedTuple):
    """The arrays that the steps leave, over time. `carries` holds one entry more than there are steps: step t goes from
    entry t to entry t + 1, in reverse from t + 1 to t."""

    carries: Carry
    gates: list[jax.Array]
    """The arrays that the steps' pullbacks hold beside that, where it is kept."""


def _empty_stacks(
    plan: Plan, steps: int, carry: Carry, gates: Sequence[Any], everything: bool, end: jax.Array | int
) -> _Stacks:
    """For this many steps, of which those before `end` are run, from this carry on; of the carries h alone unless
    `everything`. gates: what a step keeps, as shapes."""
    first = end if plan.reverse else 0
    kept = carry if everything else carry[:1]
    carries = tuple(jnp.zeros((steps + 1, *c.shape), c.dtype).at[first].set(c) for c in kept)
    return _Stacks(carries, [jnp.zeros((steps, *a.shape), a.dtype) for a in gates])


def _put(stack: jax.Array, value: jax.Array, at: jax.Array) -> jax.Array:
    return lax.dynamic_update_index_in_dim(stack, value.astype(stack.dtype), at, 0)


def _cut(tree: PyTree, start: jax.Array | int, length: int) -> PyTree:
    """[T, ...] -> [length, ...]."""
    return jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, start, length), tree)


def _within(lengths: jax.Array | None, first: jax.Array, length: int) -> jax.Array | None:
    """Which rows are within their lengths at the steps of a chunk [C, B]; None for all."""
    return None if lengths is None else (first + jnp.arange(length))[:, None] < lengths


def _scan(body: Callable[..., Any], state: Any, xs: Any, count: jax.Array | None, reverse: bool) -> tuple[Any, Any]:
    """`lax.scan` over the first `count` entries of xs, all if None; what is stacked is zero behind them."""
    if count is None:
        return lax.scan(body, state, xs, reverse=reverse)

    def entry(i: jax.Array | int) -> Any:
        return jax.tree.map(lambda a: lax.dynamic_index_in_dim(a, i, keepdims=False), xs)

    def step(i: jax.Array, loop: tuple[Any, Any]) -> tuple[Any, Any]:
        state, ys = loop
        i = count - 1 - i if reverse else i
        state, y = body(state, entry(i))
        return state, jax.tree.map(lambda stack, a: _put(stack, a, i), ys, y)

    entries = jax.tree.leaves(xs)[0].shape[0]
    y = jax.eval_shape(lambda state: body(state, entry(0))[1], state)
    ys = jax.tree.map(lambda a: jnp.zeros((entries, *a.shape), a.dtype), y)
    return lax.fori_loop(0, count, step, (state, ys))


def _run_chunk(
    plan: Plan,
    params: PyTree,
    ready: Mapping[str, ReadyMatrix],
    carry: Carry,
    x: jax.Array,
    mask: jax.Array | None,
    noise: tuple[jax.Array, ...],
    state_mask: jax.Array | None,
    start: jax.Array | int,
    stacks: _Stacks,
    traced: Step | None = None,
) -> tuple[Carry, _Stacks]:
    """The last carry of one chunk x [C, B, D], and the stacks with what its steps left from entry `start` on.

    traced: with `stacks.gates`, what runs a step and has what is kept for its pullback."""
    cell = plan.cell(params)

    def multiply(name: str, value: jax.Array) -> Parts:
        return ready[name].times(dropped(value, ready[name].matrix, state_mask), plan.precision)

    def body(state: tuple[Carry, _Stacks], inputs: tuple) -> tuple[Any, None]:
        carry, stacks = state
        t, z_t, mask_t, noise_t = inputs
        gates = stacks.gates
        if gates and traced is not None:
            products = traced.trace.products
            new, kept = traced.forward(params, carry, z_t, noise_t, lambda n, value: multiply(products[n].name, value))
            gates = [_put(stack, a, t) for stack, a in zip(gates, kept, strict=True)]
        else:
            new = cell.step(carry, [*z_t, *noise_t], multiply)
        new = masked(mask_t, new, carry)
        after = t if plan.reverse else t + 1
        carries = tuple(_put(stack, c, after) for stack, c in zip(stacks.carries, new, strict=False))
        return (new, _Stacks(carries, gates)), None

    times = jnp.arange(x.shape[0]) + start
    state, _ = lax.scan(
        body,
        (carry, stacks),
        (times, cell.split(cell.project(x)), mask, noise),
        reverse=plan.reverse,
        unroll=plan.unroll_steps,
    )
    return state


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def fused(
    plan: Plan,
    params: PyTree,
    matrices: dict[str, Matrix],
    carry: Carry,
    x: jax.Array,
    lengths: jax.Array | None,
    noise: tuple[jax.Array, ...],
    state_mask: jax.Array | None,
    cotangent: Cotangent | None,
    taps: Taps | None,
) -> tuple[jax.Array, Carry]:
    """h [T, B, H] and the last carry. The taps' values are not read; noise, state_mask, cotangent get no gradient.

    h past a row's end is nothing to be read, and its gradient there must be zero.
    """
    without = plan._replace(keep_carries=False, keep_gates=False)
    return _forward(without, params, matrices, carry, x, lengths, noise, state_mask, cotangent, taps)[0]


def _forward(plan, params, matrices, carry, x, lengths, noise, state_mask, cotangent, taps):
    steps = x.shape[0]
    needed = plan.needed(steps, lengths)
    end = steps if needed is None else jnp.minimum(needed * plan.chunk, steps)
    traced = trace_first(plan, params, matrices, carry, x, noise) if plan.keep_gates else None
    kept = () if traced is None else traced.trace.kept
    stacks = _empty_stacks(plan, steps, carry, kept, plan.keep_carries, end)
    ready = ready_matrices(matrices, plan.precision, forward=True, back=False)
    starts = []
    state = (carry, stacks)
    for length, firsts, count in plan.segments(steps, needed):

        def body(state, first, length=length):
            carry, stacks = state
            x_chunk, noise_chunk = _cut((x, noise), first, length)
            mask = _within(lengths, first, length)
            chunk = plan, params, ready, carry, x_chunk, mask, noise_chunk, state_mask, first, stacks
            return _run_chunk(*chunk, traced), carry

        state, start = _scan(body, state, firsts, count, plan.reverse)
        starts.append(start)
    last, stacks = state
    h = stacks.carries[0][:-1] if plan.reverse else stacks.carries[0][1:]
    if plan.keep_carries:
        starts = None
    else:
        stacks = stacks._replace(carries=())
    return (h, last), (params, matrices, x, lengths, noise, state_mask, cotangent, starts, stacks, traced, taps)


def _fused_forward(plan: Plan, *primals: Any) -> tuple[Any, Any]:
    """With symbolic zeros, every array comes with a note whether it is differentiated."""
    return _forward(plan, *custom_vjp_primal_tree_values(primals))


def _fused_backward(plan, residuals, cotangents):
    params, matrices, x, lengths, noise, state_mask, cotangent, starts, stacks, traced_forward, taps = residuals
    # Where only the last state is read, there is no dh. As zeros [T, B, H], XLA would make it anew for every chunk, a
    # third of a training step (GRU, T=784 B=64 H=100).
    dh = None if isinstance(cotangents[0], SymbolicZero) else cotangents[0]
    dlast = tuple(plain(a) for a in cotangents[1])
    ready = ready_matrices(matrices, plan.precision, forward=starts is not None, back=True)
    cell = plan.cell(params)
    ends = jnp.full(1, x.shape[0]) if lengths is None else lengths
    later = 1 if plan.reverse else 0  # Where in the stack of carries a step begins, counted from its own number.

    def body(state, inputs, length):
        dcarry, dparams, dmatrices, scratch = state
        first, start = inputs
        x_chunk, noise_chunk = _cut((x, noise), first, length)
        mask = _within(lengths, first, length)
        if start is None:
            before = _cut(stacks.carries, first + later, length)
        else:
            local = _empty_stacks(plan, length, start, [], True, length)
            _, local = _run_chunk(plan, params, ready, start, x_chunk, mask, noise_chunk, state_mask, 0, local)
            before = _cut(local.carries, later, length)
        z, pull_project = jax.vjp(plan.project, params, x_chunk)
        parts = cell.split(z)
        traced = traced_forward
        if traced is None:
            one = jax.tree.map(lambda a: a[0], (before, parts, noise_chunk))
            traced = trace_step(plan, params, matrices, *one)
        trace, constants = traced.trace, traced.constants(params)

        # Where nothing is kept, the gates of the whole chunk are computed at once, so that the loop below holds the
        # products alone and a few multiplications.
        def run_steps(params: PyTree) -> tuple[Carry, list[jax.Array]]:
            """All steps of the chunk side by side."""

            def step(before: Carry, z: Parts, noise: Any) -> tuple[Carry, list[jax.Array]]:
                multiply = multiplication(matrices, plan.precision, state_mask)
                names = [each.name for each in trace.products]
                return traced.forward(params, before, z, noise, lambda n, value: multiply(names[n], value))

            return jax.vmap(step)(before, parts, noise_chunk)

        after, kept = ((), []) if plan.keep_gates else run_steps(params)
        chunk = {"before": before, "after": after, "noise": noise_chunk, "kept": kept}
        whole = {
            "before": (stacks.carries, first + later),
            "after": (stacks.carries, first + 1 - later),
            "noise": (noise, first),
            "kept": (stacks.gates, first),
        }
        beside = [] if plan.keep_gates else [chunk[h.kind][h.number] for h in trace.holdings if h.kind != "constant"]

        def held_at(t: jax.Array, beside: list[jax.Array]) -> list[jax.Array]:
            """The arrays that the pullback of step t of the chunk holds. beside: those that the chunk has."""
            arrays, held = iter(beside), []
            for kind, number in trace.holdings:
                if kind == "constant":
                    held.append(constants[number])
                elif plan.keep_gates:
                    stack, at = whole[kind]
                    held.append(lax.dynamic_index_in_dim(stack[number], at + t, keepdims=False))
                else:
                    held.append(next(arrays))
            return held

        def back(state, inputs):
            dcarry, scratch, dread = state
            scratch = list(scratch)
            t, own, mask_t = inputs
            if dh is not None:
                dcarry = (dcarry[0] + lax.dynamic_index_in_dim(dh, first + t, keepdims=False), *dcarry[1:])
            zeros = jax.tree.map(jnp.zeros_like, dcarry)
            dnew = masked(mask_t, dcarry, zeros)
            if cotangent is not None:
                dnew = cotangent.clipped(dnew)

            def multiply_back(number: int, du: Parts) -> jax.Array:
                side, column, matrix = scratch[number], 0, ready[trace.products[number].name]
                for part in du:  # Put side by side in memory: XLA's concatenation is slower.
                    side = lax.dynamic_update_slice(side, part[None].astype(side.dtype), (t, 0, column))
                    column += part.shape[-1]
                scratch[number] = side
                dvalue = matrix.back_times(lax.dynamic_index_in_dim(side, t, keepdims=False), plan.precision)
                return dropped(dvalue, matrix.matrix, state_mask)

            dbefore, dz, more = traced.backward(held_at(t, own), dnew, multiply_back)
            dread = list(map(jnp.add, dread, more))
            if cotangent is not None:
                dbefore = cotangent.passed(dbefore, first + t, ends, plan.reverse)
            if mask_t is not None:
                dbefore = jax.tree.map(jnp.add, dbefore, masked(mask_t, zeros, dcarry))
            return (dbefore, scratch, dread), (
                dnew,
                [a if n is None else None for n, a in zip(trace.same, dz, strict=True)],
            )

        leaves, structure = jax.tree.flatten(dparams)
        dread = [leaf for leaf, is_read in zip(leaves, trace.used, strict=True) if is_read]
        (dcarry, scratch, dread), (dnew, dz) = lax.scan(
            back,
            (dcarry, scratch, dread),
            (jnp.arange(length), beside, mask),
            reverse=not plan.reverse,
            unroll=plan.unroll_steps,
        )
        du = [a[:length] for a in scratch]
        dz = _gradient_of_z(trace, dz, du)
        for number, each in enumerate(trace.products):
            kind, index = trace.values[number]
            if kind == "constant":
                value = jnp.broadcast_to(constants[index], (length, x.shape[1], matrices[each.name].rows))
            elif kind != "before" and plan.keep_gates:
                arrays, start_of = whole[kind]
                value = _cut(arrays[index], start_of, length)
            else:
                value = chunk[kind][index]
            matrix, total = matrices[each.name], dmatrices[each.name]
            total = add_gradient(total, matrix, value, du[number], state_mask, plan.precision)
            dmatrices = {**dmatrices, each.name: total}
        dparams_project, dx = pull_project(dz)
        leaves = with_sums(leaves, trace.used, dread)
        dparams = jax.tree.map(jnp.add, jax.tree.unflatten(structure, leaves), dparams_project)
        dtaps = None if taps is None else Taps(dnew, jnp.concatenate([dnew[0][:, :, :0], *du], -1))
        return (dcarry, dparams, dmatrices, scratch), (dx, dtaps)

    # Sums over time are kept in float32 at least, and in the widest type that enters them.
    wide = functools.partial(zeros_at_least, jnp.result_type(jnp.float32, dlast[0].dtype))
    z = jax.eval_shape(plan.project, params, x[0])
    # An array for each product: of one for all, XLA would copy the whole at every product but the last.
    dtype = jnp.result_type(z.dtype, dlast[0].dtype)
    scratch = [jnp.zeros((plan.chunk, x.shape[1], each.columns), dtype) for each in products_of(cell, x, noise)]
    state = (dlast, *jax.tree.map(wide, (params, matrices)), scratch)
    segments = plan.segments(x.shape[0], plan.needed(x.shape[0], lengths))
    pieces = []
    for segment, start in zip(reversed(segments), reversed(starts or [None] * len(segments)), strict=True):
        length, firsts, count = segment
        one_chunk = functools.partial(body, length=length)
        state, piece = _scan(one_chunk, state, (firsts, start), count, not plan.reverse)
        pieces.append(jax.tree.map(_joined, piece))
    if not plan.reverse:
        pieces = pieces[::-1]
    dx, dtaps = pieces[0] if len(pieces) == 1 else jax.tree.map(lambda *a: jnp.concatenate(a), *pieces)
    dcarry, *sums, _ = state
    dparams, dmatrices = jax.tree.map(lambda d, p: d.astype(p.dtype), tuple(sums), (params, matrices))
    return dparams, dmatrices, dcarry, dx, None, None, None, None, dtaps


def _joined(a: jax.Array) -> jax.Array:
    """Chunks side by side [N, C, ...] as their steps [N C, ...]; their arrays may be empty."""
    return a.reshape(a.shape[0] * a.shape[1], *a.shape[2:])


def _gradient_of_z(trace: Trace, dz: list[Any], du: Sequence[jax.Array]) -> jax.Array:
    """∂L/∂z [C, B, M] from its parts, those left out being parts of ∂L/∂u [C, B, N] of the products."""
    counts = [each.parts for each in trace.products]
    if trace.same == tuple(range(sum(counts))):
        return du[0] if len(du) == 1 else jnp.concatenate(du, -1)
    parts = [part for each, count in zip(du, counts, strict=True) for part in jnp.split(each, count, axis=-1)]
    return jnp.concatenate([a if n is None else parts[n] for n, a in zip(trace.same, dz, strict=True)], -1)


fused.defvjp(_fused_forward, _fused_backward, symbolic_zeros=True)
