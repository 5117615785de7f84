"""The loops within a chunk of time as XLA runs them.

XLA's CPU code decides the form of what follows: a value that several gates cut their parts from is computed without
vector instructions (LSTM, pointwise part, B=8 H=100: 9.1 µs a step against 3.2), so every gate's part is an array of
its own; and what a scan slices from its inputs and stacks to its outputs is copied once more per level of loops, so
the loops read and write the arrays of the whole sequence in place.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnnlab.engine.chain import Step, Trace, trace_step
from rnnlab.engine.contract import Cotangent, Matrix, dropped, masked, multiplication, products_of
from rnnlab.engine.gradients import add_gradient
from rnnlab.engine.plan import Plan
from rnnlab.engine.ready import ready_matrices
from rnnlab.typing import Carry, Parts, PyTree


class Stacks(NamedTuple):
    """The arrays that the steps leave, over time. `carries` holds one entry more than there are steps: step t goes from
    entry t to entry t + 1, in reverse from t + 1 to t."""

    carries: Carry
    gates: list[jax.Array]
    """The arrays that the steps' pullbacks hold beside that, where it is kept."""


def empty_stacks(
    plan: Plan, steps: int, carry: Carry, gates: Sequence[Any], everything: bool, end: jax.Array | int
) -> Stacks:
    """For this many steps, of which those before `end` are run, from this carry on; of the carries h alone unless
    `everything`. gates: what a step keeps, as shapes."""
    first = end if plan.reverse else 0
    kept = carry if everything else carry[:1]
    carries = tuple(jnp.zeros((steps + 1, *c.shape), c.dtype).at[first].set(c) for c in kept)
    return Stacks(carries, [jnp.zeros((steps, *a.shape), a.dtype) for a in gates])


def put(stack: jax.Array, value: jax.Array, at: jax.Array) -> jax.Array:
    """A stack with one entry replaced."""
    return lax.dynamic_update_index_in_dim(stack, value.astype(stack.dtype), at, 0)


def cut(tree: PyTree, start: jax.Array | int, length: int) -> PyTree:
    """[T, ...] -> [length, ...]."""
    return jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, start, length), tree)


class Chunk(NamedTuple):
    """What the steps of a chunk find beside the carry."""

    first: Any
    """Number of its first step in the sequence."""
    z: jax.Array
    """[C, B, M]"""
    mask: jax.Array | None
    """Which rows are within their lengths [C, B]; None for all."""
    noise: tuple[jax.Array, ...]


class Incoming(NamedTuple):
    """What the way back of a chunk begins with."""

    start: Carry | None
    """The carry that the chunk begins with; None: it stands in `stacks`."""
    stacks: Stacks
    """Of the whole sequence, as the plan keeps them."""
    noise: tuple[jax.Array, ...]
    """Of the whole sequence."""
    dcarry: Carry
    """The gradient of the carry that the chunk ends with."""
    dh: jax.Array | None
    """That of h at every step of the sequence; None for zeros."""
    cotangent: Cotangent | None
    ends: jax.Array
    """Each row's steps."""
    leaves: list[jax.Array]
    """The parameters' gradients that were summed before."""
    dmatrices: dict[str, Matrix]
    """Those of the matrices."""
    scratch: list[jax.Array]
    """`empty_scratch`, or what the chunk before this one left."""
    tapped: bool
    """Whether `dnew` is read."""


class Back(NamedTuple):
    """The gradients that the steps of a chunk leave."""

    dcarry: Carry
    """Of the carry that the chunk began with."""
    du: list[jax.Array]
    """Of the products [C, B, N]."""
    dz: list[Any]
    """Of the parts of z; None for those that a product's part has, too."""
    dread: list[jax.Array]
    """Of the parameters that the step reads beside its products, with what was summed before."""
    dmatrices: dict[str, Matrix]
    """Of the matrices, likewise."""
    dnew: Carry
    """Of the carry after each step [C, B, ...]."""
    scratch: list[jax.Array]
    """Memory for the next chunk."""


class XlaLoops:
    """Those of one recurrence; `native.chunks.NativeLoops` has the same methods."""

    def __init__(
        self,
        plan: Plan,
        params: PyTree,
        matrices: Mapping[str, Matrix],
        state_mask: jax.Array | None,
        traced: Step | None,
        back: bool | None,
    ):
        """traced: one step, where what it leaves is kept. back: which way the loops are run; None: both."""
        self.plan, self.params, self.matrices, self.state_mask = plan, params, matrices, state_mask
        self.traced = traced
        self.ready = ready_matrices(matrices, plan.precision, forward=back is not True, back=back is not False)

    @property
    def kept(self) -> Sequence[jax.ShapeDtypeStruct]:
        """What a step leaves for its pullback, beside the carries."""
        return () if self.traced is None else self.traced.trace.kept

    def run(self, carry: Carry, chunk: Chunk, start: jax.Array | int, stacks: Stacks) -> tuple[Carry, Stacks]:
        """The last carry of a chunk, and the stacks with what its steps left from entry `start` on; what their
        pullbacks hold only if `stacks` has room for it."""
        plan, cell, traced = self.plan, self.plan.cell(self.params), self.traced

        def multiply(name: str, value: jax.Array) -> Parts:
            ready = self.ready[name]
            return ready.times(dropped(value, ready.matrix, self.state_mask), plan.precision)

        def body(state: tuple[Carry, Stacks], inputs: tuple) -> tuple[Any, None]:
            carry, stacks = state
            t, z_t, mask_t, noise_t = inputs
            gates = stacks.gates
            if gates and traced is not None:
                names = [each.name for each in traced.trace.products]
                new, kept = traced.forward(self.params, carry, z_t, noise_t, lambda n, value: multiply(names[n], value))
                gates = [put(stack, a, t) for stack, a in zip(gates, kept, strict=True)]
            else:
                new = cell.step(carry, [*z_t, *noise_t], multiply)
            new = masked(mask_t, new, carry)
            after = t if plan.reverse else t + 1
            carries = tuple(put(stack, c, after) for stack, c in zip(stacks.carries, new, strict=False))
            return (new, Stacks(carries, gates)), None

        times = jnp.arange(chunk.z.shape[0]) + start
        inputs = times, cell.split(chunk.z), chunk.mask, chunk.noise
        return lax.scan(body, (carry, stacks), inputs, reverse=plan.reverse, unroll=plan.unroll_steps)[0]

    def empty_scratch(self, x: jax.Array, noise: tuple[jax.Array, ...], dtype: Any) -> list[jax.Array]:
        """An array for each product: of one for all, XLA would copy the whole at every product but the last."""
        products = products_of(self.plan.cell(self.params), x, noise)
        return [jnp.zeros((self.plan.chunk, x.shape[1], each.columns), dtype) for each in products]

    def back(self, chunk: Chunk, incoming: Incoming) -> tuple[Trace, Back]:
        """The gradients of a chunk's steps."""
        start, stacks, noise, dcarry, dh, cotangent, ends, leaves, dmatrices, scratch, _ = incoming
        plan, matrices = self.plan, self.matrices
        length, rows = chunk.z.shape[:2]
        first, mask = chunk.first, chunk.mask
        cell = plan.cell(self.params)
        later = 1 if plan.reverse else 0  # Where in the stack of carries a step begins, counted from its own number.
        if start is None:
            before = cut(stacks.carries, first + later, length)
        else:
            local = empty_stacks(plan, length, start, [], True, length)
            _, local = self.run(start, chunk, 0, local)
            before = cut(local.carries, later, length)
        parts = cell.split(chunk.z)
        traced = self.traced
        if traced is None:
            one = jax.tree.map(lambda a: a[0], (before, parts, chunk.noise))
            traced = trace_step(plan, self.params, matrices, *one)
        trace, constants = traced.trace, traced.constants(self.params)

        # Where nothing is kept, the gates of the whole chunk are computed at once, so that the loop below holds the
        # products alone and a few multiplications.
        after, kept = ((), []) if plan.keep_gates else self._all_at_once(traced, before, parts, chunk.noise)
        pieces = {"before": before, "after": after, "noise": chunk.noise, "kept": kept}
        whole = {
            "before": (stacks.carries, first + later),
            "after": (stacks.carries, first + 1 - later),
            "noise": (noise, first),
            "kept": (stacks.gates, first),
        }
        beside = [] if plan.keep_gates else [pieces[h.kind][h.number] for h in trace.holdings if h.kind != "constant"]

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
                side, column, matrix = scratch[number], 0, self.ready[trace.products[number].name]
                for part in du:  # Put side by side in memory: XLA's concatenation is slower.
                    side = lax.dynamic_update_slice(side, part[None].astype(side.dtype), (t, 0, column))
                    column += part.shape[-1]
                scratch[number] = side
                dvalue = matrix.back_times(lax.dynamic_index_in_dim(side, t, keepdims=False), plan.precision)
                return dropped(dvalue, matrix.matrix, self.state_mask)

            dbefore, dz, more = traced.backward(held_at(t, own), dnew, multiply_back)
            dread = list(map(jnp.add, dread, more))
            if cotangent is not None:
                dbefore = cotangent.passed(dbefore, first + t, ends, plan.reverse)
            if mask_t is not None:
                dbefore = jax.tree.map(jnp.add, dbefore, masked(mask_t, zeros, dcarry))
            dz = [a if n is None else None for n, a in zip(trace.same, dz, strict=True)]
            return (dbefore, scratch, dread), (dnew, dz)

        dread = [leaf for leaf, is_read in zip(leaves, trace.used, strict=True) if is_read]
        (dcarry, scratch, dread), (dnew, dz) = lax.scan(
            back,
            (dcarry, scratch, dread),
            (jnp.arange(length), beside, mask),
            reverse=not plan.reverse,
            unroll=plan.unroll_steps,
        )
        du = [a[:length] for a in scratch]
        for number, each in enumerate(trace.products):
            kind, index = trace.values[number]
            if kind == "constant":
                value = jnp.broadcast_to(constants[index], (length, rows, matrices[each.name].rows))
            elif kind != "before" and plan.keep_gates:
                arrays, start_of = whole[kind]
                value = cut(arrays[index], start_of, length)
            else:
                value = pieces[kind][index]
            matrix, total = matrices[each.name], dmatrices[each.name]
            total = add_gradient(total, matrix, value, du[number], self.state_mask, plan.precision)
            dmatrices = {**dmatrices, each.name: total}
        return trace, Back(dcarry, du, dz, dread, dmatrices, dnew, scratch)

    def _all_at_once(self, traced: Step, before: Carry, parts: Parts, noise: Any) -> tuple[Carry, list[jax.Array]]:
        """The carries after all steps of a chunk, side by side, and what they leave."""
        names = [each.name for each in traced.trace.products]

        def step(before: Carry, z: Parts, noise: Any) -> tuple[Carry, list[jax.Array]]:
            multiply = multiplication(self.matrices, self.plan.precision, self.state_mask)
            return traced.forward(self.params, before, z, noise, lambda n, value: multiply(names[n], value))

        return jax.vmap(step)(before, parts, noise)
