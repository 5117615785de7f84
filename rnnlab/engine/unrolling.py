"""The engine: the only loops over time in the project, derived from a cell's few pieces.

A cell says what happens at one step (`project`, `matrices`, `step`: `contract.py`); here that becomes a
sequence. Six backends give the same numbers:
    reference  plain `lax.scan`, differentiated by JAX; forward mode and second derivatives work
    fused      a custom VJP whose backward loop holds only what is sequential
    native     the same with loops in C++ that is made from the step, for CPUs with a compiler
    scan       all steps at once, in log₂ T rounds, for cells that are linear in their state
    kernel     one kernel a sequence and direction for a GPU or TPU, from the programs of the fused backend
    newton     all steps of any cell at once, by Newton's method
Not here: parameters and equations (`cells/`), stacking and directions (`nn/network.py`).
"""

import math
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.sharding import AbstractMesh, PartitionSpec

from rnnlab.engine.chain import kept_bytes
from rnnlab.engine.checks import check_beside, check_carry, check_lengths, check_resets, check_sequence
from rnnlab.engine.choice import resolve_backend
from rnnlab.engine.contract import (
    Backend,
    Cotangent,
    RecurrentCell,
    Store,
    Taps,
    check_cell,
    products_of,
)
from rnnlab.engine.fused import fused
from rnnlab.engine.newton.backend import newton as by_newton
from rnnlab.engine.newton.options import Iterations, NewtonOptions, check_newton
from rnnlab.engine.plan import Plan
from rnnlab.engine.reference import reference
from rnnlab.engine.resets import restarting
from rnnlab.engine.scan import scanned
from rnnlab.parallel.sharding import explicit_mesh, on_explicit_mesh
from rnnlab.typing import Array, Bool, Carry, Float, Int, Shaped


def unroll(
    cell: RecurrentCell,
    x: Shaped[Array, "T B D"],
    *,
    lengths: Int[Array, " B"] | None = None,
    reverse: bool = False,
    initial_carry: Carry | None = None,
    backend: Backend = "auto",
    chunk: int | None = None,
    unroll_steps: int = 1,
    store: Store = "auto",
    interpret: bool = False,
    newton: NewtonOptions | None = None,
    resets: Bool[Array, "T B"] | None = None,
    reset_carry: Carry | None = None,
    noise: tuple[Float[Array, "T B _"], ...] = (),
    state_mask: Float[Array, "B H"] | None = None,
    cotangent: Cotangent | None = None,
    taps: Taps | None = None,
    carries: list[jax.Array] | None = None,
    iterations: list[Iterations] | None = None,
) -> tuple[Float[Array, "T B H"], Carry]:
    """Runs a cell over a sequence.

    Args:
        cell: a `RecurrentCell`.
        x: inputs [T, B, D]; integers and truth values are taken as numbers, without a gradient.
        lengths: valid steps per row [B], 0 to T. Past its end a row keeps its carry, puts out zeros, and neither
            values nor gradients (NaN included) leave its padding. The fused backend does not run the chunks past the
            longest row, so that a batch costs what its longest row does.
        reverse: from the last valid step of each row to the first; output t still belongs to input t.
        initial_carry: a tuple of arrays like those of `cell.initial_carry(B)`, its zeros if not given: [B, N], N = H
            for most cells. Gradients reach it.
        backend: "reference", "fused", "scan" (of cells that are linear in their state), "kernel" (on a GPU or TPU),
            "native" (on a CPU, with a compiler of C++), "newton", or "auto": fused where the cell allows it.
        chunk: fused only: time steps whose projections and gates are held at once; chosen from the shapes if not given.
            It need not divide T.
        unroll_steps: steps per iteration of the compiled loop.
        store: fused only: what is kept for the backward pass, the rest being recomputed chunk by chunk. "gates":
            the carries and what the derivatives of the gates need of every step, so that nothing is computed again;
            "carries": the carries of every step; "ends": those at the chunks' ends, so that memory beside the outputs
            grows with T / chunk + chunk; "auto": gates, or carries where they would take more than 256 MiB beside them.
            The backend kernel keeps no ends; its "auto" is gates up to 4 GiB.
        interpret: kernel only: runs the kernel's operations one by one, on any platform, for tests.
        newton: newton only: its Jacobians, iterations, tolerance and damping; the defaults of `NewtonOptions` if not
            given. Rows that do not converge are run step by step.
        resets: truth values [T, B], true at the first step of a new episode or sentence (not at the last one of the
            old): there a row begins anew, and neither carries nor gradients cross into it from the step before. In
            reverse a row begins anew at the step before such a one.
        reset_carry: what rows begin anew with, arrays like those of `initial_carry`; the cell's zeros if not given.
            Gradients reach it.
        noise: arrays [T, B, ...] whose slices a step's gates find behind the parts of z (dropout masks, say); they get
            no gradient.
        state_mask: a factor of h_{t-1} where it meets R, the same at every step [B, H], and so of every value that
            meets a matrix of the state; it gets no gradient.
        cotangent: what is done to the gradient at every step of the backward pass.
        taps: zeros made by `make_taps`, to be differentiated with respect to.
        carries: reference, scan and newton only: a list that gets each element of the carry after every step [T, B, H].
        iterations: newton only: a list that gets an `Iterations`: each row's count, residual, and whether it converged.

    Returns:
        h at every step [T, B, H], and the carry after the last step (in reverse: after the first).

    Raises:
        TypeError: the cell is none, but a name, a class or a cell of another library.
        ValueError: shapes or types that do not fit, no steps or no rows, backend="fused" for a cell whose rows see each
            other, backend="scan" for one that is not linear in its state or with a cotangent, backend="newton" with a
            cotangent that clips, a state_mask for one whose state meets no matrix, or `carries` of the fused backend.
    """
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk is {chunk}; it must be at least 1")
    if store not in get_args(Store):
        raise ValueError(f"unknown store {store!r}; known: {', '.join(get_args(Store))}")
    if unroll_steps < 1:
        raise ValueError(f"unroll_steps is {unroll_steps}; it must be at least 1")
    check_cell(cell)
    x = check_sequence(cell, x)
    if lengths is not None:
        lengths = check_lengths(lengths, x)
    if initial_carry is not None:
        initial_carry = check_carry(cell, initial_carry, x)
    check_beside(cell, x, noise, state_mask, taps)
    products = products_of(cell, x, noise)
    if resets is not None:
        resets = check_resets(resets, x)
    if reset_carry is not None:
        if resets is None:
            raise ValueError("reset_carry is what rows begin anew with at resets; it needs resets")
        reset_carry = check_carry(cell, reset_carry, x, "reset_carry")
    cell, noise = restarting(cell, noise, resets, reverse, reset_carry)
    by_itself = backend == "auto"
    backend = resolve_backend(cell, backend, interpret)
    if by_itself and backend == "scan" and cotangent is not None:
        backend = "fused"
    if backend in ("fused", "kernel", "native") and carries is not None:
        raise ValueError(
            f"the {backend} backend does not keep all carries; carries needs backend='reference', 'scan' or 'newton'"
        )
    newton = NewtonOptions() if newton is None else newton
    if backend == "newton":
        check_newton(newton, cotangent)
    elif iterations is not None:
        raise ValueError(f"the {backend} backend makes no iterations; iterations needs backend='newton'")
    if backend == "scan" and cotangent is not None:
        raise ValueError("backend='scan' has no steps to change the cotangent at; use 'fused', 'reference' or 'auto'")

    if chunk is None:
        projected = jax.eval_shape(cell.project, jax.ShapeDtypeStruct(x.shape[1:], x.dtype)).shape[-1]
        steps, batch = x.shape[:2]
        width = max(sum(product.columns for product in products), projected)
        chunk = default_chunk(steps, batch, width, padded=lengths is not None)
    switches = _Switches(backend, by_itself, reverse, chunk, unroll_steps, store, interpret, newton)
    arguments = (x, lengths, initial_carry, noise, state_mask, cotangent, taps)
    mesh = explicit_mesh((nnx.state(cell), arguments) if isinstance(cell, nnx.Module) else arguments)
    if mesh is None:
        h, last, every, counted = _run(switches, cell, *arguments)
    else:
        h, last, every, counted = _run_on(mesh, switches, cell, arguments)
    if carries is not None:
        carries += every
    if iterations is not None:
        iterations += counted
    return h, last


class _Switches(NamedTuple):
    """The static arguments of `unroll`, by its names."""

    backend: Backend
    by_itself: bool
    """Whether "auto" chose the backend."""
    reverse: bool
    chunk: int
    unroll_steps: int
    store: Store
    interpret: bool
    newton: NewtonOptions


def _run_on(mesh: AbstractMesh, switches: _Switches, cell: Any, arguments: tuple[Any, ...]) -> Any:
    """`_run` where axes of a mesh are explicit: within, XLA places the arrays; what comes out lies where the rows of x
    do."""
    rows = jax.typeof(arguments[0]).sharding.spec[1]
    graphdef, state = nnx.split(cell)

    def run(state: Any, *arguments: Any) -> Any:
        return _run(switches, nnx.merge(graphdef, state), *arguments)

    count = len(jax.eval_shape(lambda: cell.initial_carry(1, jnp.float32)))
    over_time, at_end = PartitionSpec(None, rows, None), PartitionSpec(rows, None)
    every = (over_time,) * (0 if switches.backend in ("fused", "kernel", "native") else count)
    of_rows: Any = PartitionSpec(rows)
    counted = (Iterations(of_rows, of_rows, of_rows),) * (switches.backend == "newton")
    places = (over_time, (at_end,) * count, every, counted)
    return on_explicit_mesh(mesh, run, places, state, *arguments)


def _run(
    switches: _Switches,
    cell: Any,
    x: jax.Array,
    lengths: jax.Array | None,
    initial_carry: Carry | None,
    noise: tuple[jax.Array, ...],
    state_mask: jax.Array | None,
    cotangent: Cotangent | None,
    taps: Taps | None,
) -> tuple[jax.Array, Carry, Carry, tuple[Iterations, ...]]:
    """`unroll` of arguments that fit: h, the last carry, and of the backends that have them all carries, and what the
    iterations came to."""
    steps, batch = x.shape[:2]
    backend, by_itself, reverse, chunk, unroll_steps, store, interpret, options = switches
    mask = None
    if lengths is not None:
        mask = jnp.arange(steps)[:, None] < lengths
        x = jnp.where(mask[:, :, None], x, 0)  # Before the projection: 0 * NaN is NaN, in the backward pass too.
    carry: Carry
    if initial_carry is None:
        carry = cell.initial_carry(batch, jax.eval_shape(cell.project, x[0]).dtype)
    else:
        carry = initial_carry
    noise, state_mask = lax.stop_gradient((noise, state_mask))
    every: Carry = ()
    counted: tuple[Iterations, ...] = ()
    if backend == "reference":
        every, last = reference(cell, carry, x, mask, taps, reverse, unroll_steps, noise, state_mask, cotangent)
        h = every[0]
    elif backend == "scan":
        every, last = scanned(cell, carry, x, mask, noise, state_mask, taps, reverse)
        h = every[0]
    elif backend == "newton":
        every, last, of_rows = by_newton(cell, carry, x, mask, noise, state_mask, cotangent, taps, reverse, options)
        h, counted = every[0], (of_rows,)
    else:
        graphdef, params = nnx.split(cell)
        matrices = dict(cell.matrices())
        plan = Plan(
            graphdef,
            min(chunk, steps),
            reverse,
            unroll_steps,
            keep_carries=store != "ends",
            keep_gates=store in ("auto", "gates"),
            precision=cell.precision,
            native=backend == "native",
        )
        most = _KERNEL_BYTES if backend == "kernel" else _GATES_BYTES
        if store == "auto" and kept_bytes(plan, params, matrices, carry, x, noise) > most:
            plan = plan._replace(keep_gates=False)
        beside = (lengths, noise, state_mask, cotangent, taps)
        result: Any
        if backend == "kernel":
            from rnnlab.engine.kernel.backend import Refused, kernel  # Pallas takes a second to import.

            try:
                result = kernel(plan, params, matrices, carry, x, *beside, interpret=interpret)
            except Refused:
                if not by_itself:
                    raise
                return _run(switches._replace(backend="fused"), cell, x, lengths, carry, *beside[1:])
        else:
            result = fused(plan, params, matrices, carry, x, *beside)
        h, last = result
    if mask is not None:
        h = jnp.where(mask[:, :, None], h, 0)
    return h, last, every, counted


def default_chunk(steps: int, batch: int, width: int, padded: bool = False) -> int:
    """Chunk length for T, B (of one device) and gate width M, and whether rows may be shorter than T.

    As long as what the backward pass computes again of a chunk, about four arrays [C, B, M], stays in a cache of 2 MiB,
    and long enough that its C B rows pay for adding up the weights' gradients once a chunk; of such, one that divides
    T.
    On one core with the rows of one of two devices, store="gates" and "carries": LSTM, B=64 M=512: 298 to 303 ms a step
    for chunks of 4 to 28, and 286 to 311 for 4 to 8; LSTM, B=8 M=400: 20.6 to 21.2 ms for 14 to 112. Between these no
    rule is better than another; before gates were kept, 112 steps cost 16 % more than 8 (B=64) and 196 of a vanilla
    network of 100 cost 40 % more than 112.
    Whole chunks of padded rows are left out, so there are at least four, as long as half of those rows are in each.
    """
    longest = min(steps, max(_CACHED_ELEMENTS // (batch * width), math.ceil(_ROWS / batch), 8))
    if padded:
        longest = min(longest, max(math.ceil(steps / 4), math.ceil(_ROWS / (2 * batch)), 8))
    for chunk in range(longest, longest // 2, -1):  # A remainder is compiled as a second pair of loops.
        if steps % chunk == 0:
            return chunk
    return math.ceil(steps / math.ceil(steps / longest))


_CACHED_ELEMENTS = 1 << 17
_ROWS = 512
_GATES_BYTES = 1 << 28
_KERNEL_BYTES = 1 << 32
