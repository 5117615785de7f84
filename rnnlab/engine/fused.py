"""The fused backend: a custom VJP whose backward loop holds only what is sequential.

XLA's CPU code decides the form of what follows: a value that several gates cut their parts from is computed without
vector instructions (LSTM, pointwise part, B=8 H=100: 9.1 µs a step against 3.2), so every gate's part is an array of
its own; and what a scan slices from its inputs and stacks to its outputs is copied once more per level of loops, so
the loops read and write the arrays of the whole sequence in place.

Where rows have lengths, chunks past the longest row are not run, forward or backward.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero, custom_vjp_primal_tree_values

from rnnlab.engine.contract import Cotangent, Taps, masked, recur
from rnnlab.engine.plan import LinearisedStep, Plan, linearise, linearise_first, same_gradients
from rnnlab.engine.products import COLUMNS, column_blocks, product, sum_of_products
from rnnlab.ops.linear import rounded
from rnnlab.typing import Carry, Parts, PyTree


class _Stacks(NamedTuple):
    """What the steps leave, over time. `carries` holds one entry more than there are steps: step t goes from entry t to
    entry t + 1, in reverse from t + 1 to t."""

    carries: Carry
    gates: list[jax.Array]
    """What the steps' pullbacks hold beside that, where it is kept."""


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
    blocks: list[jax.Array],
    offset: jax.Array | None,
    carry: Carry,
    x: jax.Array,
    mask: jax.Array | None,
    noise: tuple[jax.Array, ...],
    state_mask: jax.Array | None,
    start: jax.Array | int,
    stacks: _Stacks,
    step: LinearisedStep | None = None,
) -> tuple[Carry, _Stacks]:
    """The last carry of one chunk x [C, B, D], and the stacks with what its steps left from entry `start` on.

    step: with `stacks.gates`, what runs a step and has what is kept for its pullback."""
    cell = plan.cell(params)

    def body(state: tuple[Carry, _Stacks], inputs: tuple) -> tuple[Any, None]:
        carry, stacks = state
        t, z_t, mask_t, noise_t = inputs
        u = product(carry[0] if state_mask is None else carry[0] * state_mask, blocks, plan.compute)
        u = u if offset is None else u + offset
        gates = stacks.gates
        if gates and step is not None:
            new, leaves = step(params, carry, z_t, cell.split(u), noise_t)
            kept = [leaf for leaf, held in zip(leaves, step.trace.holdings, strict=True) if held.kind == "kept"]
            gates = [_put(stack, leaf, t) for stack, leaf in zip(gates, kept, strict=True)]
        else:
            new = cell.gates(carry, [*z_t, *noise_t], cell.split(u))
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
    kernel: jax.Array,
    offset: jax.Array | None,
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
    return _forward(without, params, kernel, offset, carry, x, lengths, noise, state_mask, cotangent, taps)[0]


def _forward(plan, params, kernel, offset, carry, x, lengths, noise, state_mask, cotangent, taps):
    steps = x.shape[0]
    needed = plan.needed(steps, lengths)
    end = steps if needed is None else jnp.minimum(needed * plan.chunk, steps)
    step = linearise_first(plan, params, carry, x, noise) if plan.keep_gates else None
    kept = [] if step is None else step.trace.kept
    stacks = _empty_stacks(plan, steps, carry, kept, plan.keep_carries, end)
    blocks = column_blocks(rounded(kernel, plan.compute))  # XLA leaves it in a loop that may not run at all.
    starts = []
    state = (carry, stacks)
    for length, firsts, count in plan.segments(steps, needed):

        def body(state, first, length=length):
            carry, stacks = state
            x_chunk, noise_chunk = _cut((x, noise), first, length)
            mask = _within(lengths, first, length)
            given = plan, params, blocks, offset, carry, x_chunk, mask, noise_chunk, state_mask, first, stacks
            return _run_chunk(*given, step), carry

        state, start = _scan(body, state, firsts, count, plan.reverse)
        starts.append(start)
    last, stacks = state
    h = stacks.carries[0][:-1] if plan.reverse else stacks.carries[0][1:]
    if plan.keep_carries:
        starts = None
    else:
        stacks = stacks._replace(carries=())
    return (h, last), (params, kernel, offset, x, lengths, noise, state_mask, cotangent, starts, stacks, step, taps)


def _fused_forward(plan: Plan, *primals: Any) -> tuple[Any, Any]:
    """With symbolic zeros, every array comes with a note whether it is differentiated."""
    return _forward(plan, *custom_vjp_primal_tree_values(primals))


def _fused_backward(plan, residuals, cotangents):
    params, kernel, offset, x, lengths, noise, state_mask, cotangent, starts, stacks, kept_step, taps = residuals
    # Where only the last state is read, there is no dh. As zeros [T, B, H], XLA would make it anew for every chunk, a
    # third of a training step (GRU, T=784 B=64 H=100).
    dh = None if isinstance(cotangents[0], SymbolicZero) else cotangents[0]
    dlast = tuple(_plain(a) for a in cotangents[1])
    features = kernel.shape[0]
    # XLA's CPU product works on 64 columns at a time: [8, 400] by [400, 100] takes 6.9 µs, by [400, 128] 5.4. Where the
    # rest of 64 matters less, the columns stay as they are.
    rest = -features % COLUMNS if features < 256 else 0
    blocks_back = column_blocks(rounded(jnp.pad(kernel, ((0, rest), (0, 0))).T, plan.compute))
    blocks = [] if starts is None else column_blocks(rounded(kernel, plan.compute))
    cell = plan.cell(params)

    def gates_of(params: PyTree, before: Carry, z: Parts, u: Parts, noise: tuple[jax.Array, ...]) -> Carry:
        return plan.gates(params, before, [*z, *noise], u)

    ends = jnp.full(1, x.shape[0]) if lengths is None else lengths
    later = 1 if plan.reverse else 0  # Where in the stack of carries a step begins, counted from its own number.

    def body(state, inputs, length):
        dcarry, dparams, dkernel, doffset, scratch = state
        first, start = inputs
        x_chunk, noise_chunk = _cut((x, noise), first, length)
        mask = _within(lengths, first, length)
        if start is None:
            before = _cut(stacks.carries, first + later, length)
        else:
            local = _empty_stacks(plan, length, start, [], True, length)
            _, local = _run_chunk(plan, params, blocks, offset, start, x_chunk, mask, noise_chunk, state_mask, 0, local)
            before = _cut(local.carries, later, length)
        z, pull_project = jax.vjp(plan.project, params, x_chunk)
        rows = (before[0] if state_mask is None else before[0] * state_mask).reshape(-1, features)
        u = recur(rows, kernel, offset, plan.compute).reshape(z.shape)
        z, u = cell.split(z), cell.split(u)
        one = jax.tree.map(lambda a: a[0], (before, z, u, noise_chunk))
        same = same_gradients(functools.partial(gates_of, params, noise=one[-1]), *one[:-1])
        step = kept_step or linearise(plan, params, *one)
        leaves = step(params, *one)[1]

        # Where nothing is kept, the gates of the whole chunk are linearised at once, so that the loop below holds one
        # product and a few multiplications.
        held = jax.vmap(lambda *arguments: step(params, *arguments)[1])
        chunk_leaves = [] if plan.keep_gates else held(before, z, u, noise_chunk)

        def pull_at(t: jax.Array, own: list[jax.Array]) -> Callable[[Carry], Any]:
            """The pullback of step t of the chunk; own: what it holds, where nothing is kept."""

            def entry(stack: jax.Array, at: jax.Array) -> jax.Array:
                return lax.dynamic_index_in_dim(stack, at, keepdims=False)

            if not plan.keep_gates:
                return step.pullback(own)
            places = {
                "before": (stacks.carries, first + later + t),
                "after": (stacks.carries, first + 1 - later + t),
                "noise": (noise, first + t),
                "kept": (stacks.gates, first + t),
            }
            found = []
            for kind, number in step.trace.holdings:
                if kind == "constant":
                    found.append(leaves[number])
                else:
                    arrays, at = places[kind]
                    found.append(entry(arrays[number], at))
            return step.pullback(found)

        def back(state, inputs):
            dcarry, scratch = state
            t, own, mask_t = inputs
            if dh is not None:
                dcarry = (dcarry[0] + lax.dynamic_index_in_dim(dh, first + t, keepdims=False), *dcarry[1:])
            zeros = jax.tree.map(jnp.zeros_like, dcarry)
            dnew = masked(mask_t, dcarry, zeros)
            if cotangent is not None:
                dnew = cotangent.clipped(dnew)
            dbefore, dz, du = pull_at(t, own)(dnew)
            column = 0
            for part in du:
                scratch = lax.dynamic_update_slice(scratch, part[None], (t, 0, column))
                column += part.shape[-1]
            du_t = lax.dynamic_index_in_dim(scratch, t, keepdims=False)
            back_h = product(du_t, blocks_back, plan.compute)[:, :features]
            back_h = back_h if state_mask is None else back_h * state_mask
            dbefore = (dbefore[0] + back_h, *dbefore[1:])
            if cotangent is not None:
                dbefore = cotangent.passed(dbefore, first + t, ends, plan.reverse)
            if mask_t is not None:
                dbefore = jax.tree.map(jnp.add, dbefore, masked(mask_t, zeros, dcarry))
            return (dbefore, scratch), (dnew, [None if s else a for s, a in zip(same, dz, strict=True)])

        (dcarry, scratch), (dnew, dz) = lax.scan(
            back,
            (dcarry, scratch),
            (jnp.arange(length), chunk_leaves, mask),
            reverse=not plan.reverse,
            unroll=plan.unroll_steps,
        )
        du = scratch[:length]
        if all(same):
            dz = du
        else:
            dz = jnp.concatenate([b if a is None else a for a, b in zip(dz, cell.split(du), strict=True)], -1)
        # As matrices: with two axes to sum over, XLA transposes du first.
        columns = du.reshape(-1, kernel.shape[1])
        dkernel = dkernel + sum_of_products(rows, columns, dkernel.dtype, plan.compute)
        if offset is not None:
            doffset = doffset + columns.sum(0, dtype=dkernel.dtype)
        dparams_project, dx = pull_project(dz)
        all_gates = jax.vmap(gates_of, in_axes=(None, 0, 0, 0, 0))
        pull_params = jax.vjp(lambda p: all_gates(p, before, z, u, noise_chunk), params)[1]
        dparams = jax.tree.map(lambda total, *new: total + sum(new), dparams, dparams_project, pull_params(dnew)[0])
        return (dcarry, dparams, dkernel, doffset, scratch), (dx, None if taps is None else Taps(dnew, du))

    # Sums over time are kept in float32 at least, and in the widest type that enters them.
    wide = functools.partial(_zeros_at_least, jnp.result_type(jnp.float32, dlast[0].dtype))
    z = jax.eval_shape(plan.project, params, x[0])
    scratch = jnp.zeros((plan.chunk, *z.shape), jnp.result_type(z.dtype, dlast[0].dtype))
    state = (dlast, *jax.tree.map(wide, (params, kernel, offset)), scratch)
    segments = plan.segments(x.shape[0], plan.needed(x.shape[0], lengths))
    pieces = []
    for segment, start in zip(reversed(segments), reversed(starts or [None] * len(segments)), strict=True):
        length, firsts, count = segment
        one_chunk = functools.partial(body, length=length)
        state, piece = _scan(one_chunk, state, (firsts, start), count, not plan.reverse)
        pieces.append(jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), piece))
    if not plan.reverse:
        pieces = pieces[::-1]
    dx, dtaps = pieces[0] if len(pieces) == 1 else jax.tree.map(lambda *a: jnp.concatenate(a), *pieces)
    dcarry, *sums, _ = state
    dparams, dkernel, doffset = jax.tree.map(lambda d, p: d.astype(p.dtype), tuple(sums), (params, kernel, offset))
    return dparams, dkernel, doffset, dcarry, dx, None, None, None, None, dtaps


def _plain(cotangent: Any) -> jax.Array:
    """A cotangent as an array."""
    if not isinstance(cotangent, SymbolicZero):
        return cotangent
    return jnp.zeros(cotangent.shape, cotangent.dtype)  # pyright: ignore[reportArgumentType]


def _zeros_at_least(dtype: Any, like: jax.Array) -> jax.Array:
    """Zeros of a shape, in dtype or the array's own type, whichever is wider."""
    return jnp.zeros(like.shape, jnp.promote_types(like.dtype, dtype))


fused.defvjp(_fused_forward, _fused_backward, symbolic_zeros=True)
