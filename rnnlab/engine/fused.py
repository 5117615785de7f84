"""The fused backend: a custom VJP whose backward loop holds only what is sequential.

Here stands what goes on around a chunk of time: the input's projection, the stacks of what the steps leave, and the
gradients that are one product for the whole chunk. The loops within a chunk are XLA's (`loops`) or generated C++
(`native`).

Where rows have lengths, chunks past the longest row are not run, forward or backward.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero, custom_vjp_primal_tree_values

from rnnlab.engine.chain import Trace, trace_first
from rnnlab.engine.contract import Cotangent, Matrix, Taps
from rnnlab.engine.gradients import plain, with_sums, zeros_at_least
from rnnlab.engine.loops import Chunk, Incoming, XlaLoops, cut, empty_stacks, put
from rnnlab.engine.native.chunks import native_loops
from rnnlab.engine.plan import Plan
from rnnlab.typing import Carry, PyTree


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
        return state, jax.tree.map(lambda stack, a: put(stack, a, i), ys, y)

    entries = jax.tree.leaves(xs)[0].shape[0]
    y = jax.eval_shape(lambda state: body(state, entry(0))[1], state)
    ys = jax.tree.map(lambda a: jnp.zeros((entries, *a.shape), a.dtype), y)
    return lax.fori_loop(0, count, step, (state, ys))


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
    traced = None
    if plan.native:
        loops = native_loops(plan, params, matrices, carry, x, noise, state_mask)
    else:
        traced = trace_first(plan, params, matrices, carry, x, noise) if plan.keep_gates else None
        loops = XlaLoops(plan, params, matrices, state_mask, traced, back=False)
    kept = loops.kept if plan.keep_gates else ()
    stacks = empty_stacks(plan, steps, carry, kept, plan.keep_carries, end)
    starts = []
    state = (carry, stacks)
    for length, firsts, count in plan.segments(steps, needed):

        def body(state, first, length=length):
            carry, stacks = state
            x_chunk, noise_chunk = cut((x, noise), first, length)
            z = plan.project(params, x_chunk)
            chunk = Chunk(first, z, _within(lengths, first, length), noise_chunk)
            return loops.run(carry, chunk, first, stacks), carry

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
    params, matrices, x, lengths, noise, state_mask, cotangent, starts, stacks, traced, taps = residuals
    # Where only the last state is read, there is no dh. As zeros [T, B, H], XLA would make it anew for every chunk, a
    # third of a training step (GRU, T=784 B=64 H=100).
    dh = None if isinstance(cotangents[0], SymbolicZero) else cotangents[0]
    dlast = tuple(plain(a) for a in cotangents[1])
    loops: Any
    if plan.native:
        loops = native_loops(plan, params, matrices, dlast, x, noise, state_mask)
    else:
        loops = XlaLoops(plan, params, matrices, state_mask, traced, back=True if starts is None else None)
    ends = jnp.full(1, x.shape[0]) if lengths is None else lengths

    def body(state, inputs, length):
        dcarry, dparams, dmatrices, scratch = state
        first, start = inputs
        x_chunk, noise_chunk = cut((x, noise), first, length)
        z, pull_project = jax.vjp(plan.project, params, x_chunk)
        chunk = Chunk(first, z, _within(lengths, first, length), noise_chunk)
        leaves, structure = jax.tree.flatten(dparams)
        beside = noise, dcarry, dh, cotangent, ends, leaves, dmatrices, scratch, taps is not None
        trace, back = loops.back(chunk, Incoming(start, stacks, *beside))
        dparams_project, dx = pull_project(_gradient_of_z(trace, back.dz, back.du))
        leaves = with_sums(leaves, trace.used, back.dread)
        dparams = jax.tree.map(jnp.add, jax.tree.unflatten(structure, leaves), dparams_project)
        dtaps = None if taps is None else Taps(back.dnew, jnp.concatenate([back.dnew[0][:, :, :0], *back.du], -1))
        return (back.dcarry, dparams, back.dmatrices, back.scratch), (dx, dtaps)

    # Sums over time are kept in float32 at least, and in the widest type that enters them.
    wide = functools.partial(zeros_at_least, jnp.result_type(jnp.float32, dlast[0].dtype))
    z = jax.eval_shape(plan.project, params, x[0])
    scratch = loops.empty_scratch(x, noise, jnp.result_type(z.dtype, dlast[0].dtype))
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
