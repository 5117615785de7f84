"""The engine: the only loops over time in the project, derived from a cell's three pieces.

A cell says what happens at one step (`project`, `recurrent_kernel`, `gates`); here that becomes a sequence.
Two backends give the same numbers:
    reference  plain `lax.scan`, differentiated by JAX; forward mode and second derivatives work
    fused      a custom VJP whose backward loop holds only what is sequential
Not here: parameters and equations (`cells/`), stacking and directions (`network.py`).
"""

import functools
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from rnnlab.typing import Array, Carry, Float, Int, PyTree

Backend = Literal["auto", "fused", "reference"]


@runtime_checkable
class FusableCell(Protocol):
    """What the fused backend asks of a cell. `rnnlab.cells.Cell` is the base class that provides most of it."""

    def project(self, x: jax.Array) -> jax.Array:
        """[..., D] -> [..., M]: everything that depends on the input only."""
        ...

    def recurrent_matrix(self) -> jax.Array:
        """R [H, M], built once, outside the loop."""
        ...

    def gates(self, carry: Carry, z: jax.Array, u: jax.Array) -> Carry:
        """One step from z_t [B, M] and u_t = h_{t-1} R [B, M]; pure, and no row may see another row."""
        ...

    def initial_carry(self, batch: int, dtype: Any) -> Carry:
        """Zeros; element 0 is h [B, H]."""
        ...


@runtime_checkable
class StepCell(Protocol):
    """A cell whose state meets more than one matrix in sequence; the reference backend alone can run it."""

    def project(self, x: jax.Array) -> jax.Array: ...

    def step(self, carry: Carry, z: jax.Array) -> Carry: ...

    def initial_carry(self, batch: int, dtype: Any) -> Carry: ...


class Taps(NamedTuple):
    """Zeros that stand beside every step; their gradients are what flows through that step.

    Differentiate a loss with respect to the taps of `unroll` and get, per time step,
        carry  ∂L/∂carry_t, one [T, B, H] array per element of the carry (element 0: ∂L/∂h_t)
        u      δ_t = ∂L/∂u_t [T, B, M], where u_t = h_{t-1} R
    Only their gradients mean anything: the fused backend never reads their values.
    At steps past a row's end all of them are zero.
    """

    carry: Any
    u: Any


def make_taps(cell: FusableCell | StepCell, x: jax.Array) -> Taps:
    """Taps for `unroll(cell, x)` with x [T, B, D]; of a `StepCell`, which has no one u, those of u get none."""
    z = jax.eval_shape(cell.project, x[0])
    carry = jax.eval_shape(lambda: cell.initial_carry(x.shape[1], z.dtype))
    steps = x.shape[0]
    return jax.tree.map(lambda a: jnp.zeros((steps, *a.shape), a.dtype), Taps(carry, z))


def unroll(
    cell: FusableCell | StepCell,
    x: Float[Array, "T B D"],
    *,
    lengths: Int[Array, " B"] | None = None,
    reverse: bool = False,
    initial_carry: Carry | None = None,
    backend: Backend = "auto",
    chunk: int | None = None,
    unroll_steps: int = 1,
    remat: bool = False,
    taps: Taps | None = None,
) -> tuple[Float[Array, "T B H"], Carry]:
    """Runs a cell over a sequence.

    Args:
        cell: a `FusableCell` or a `StepCell`.
        x: inputs [T, B, D].
        lengths: valid steps per row [B], 0 to T. Past its end a row keeps its carry, puts out zeros, and neither
            values nor gradients (NaN included) leave its padding.
        reverse: from the last valid step of each row to the first; output t still belongs to input t.
        initial_carry: a tuple of [B, H] arrays; the cell's zeros if not given. Gradients reach it.
        backend: "reference", "fused", or "auto": fused where the cell allows it.
        chunk: fused only: time steps whose projections and gates are held at once; chosen from the shapes if not given.
            It need not divide T.
        unroll_steps: steps per iteration of the compiled loop.
        remat: fused only: keep the carries at the chunks' ends alone and recompute the others in the backward pass.
        taps: zeros made by `make_taps`, to be differentiated with respect to.

    Returns:
        h at every step [T, B, H], and the carry after the last step (in reverse: after the first).

    Raises:
        ValueError: shapes that do not fit, or backend="fused" for a cell without `gates`.
    """
    if x.ndim != 3:
        raise ValueError(f"x has shape {x.shape}; unroll takes [T, B, D] (time first)")
    steps, batch = x.shape[:2]
    if steps == 0:
        raise ValueError("x has no time steps")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk is {chunk}; it must be at least 1")
    if unroll_steps < 1:
        raise ValueError(f"unroll_steps is {unroll_steps}; it must be at least 1")
    mask = None
    if lengths is not None:
        if lengths.shape != (batch,):
            raise ValueError(f"lengths has shape {lengths.shape}; x {x.shape} needs ({batch},)")
        mask = jnp.arange(steps)[:, None] < lengths
        x = jnp.where(mask[:, :, None], x, 0)  # Before the projection: 0 * NaN is NaN, in the backward pass too.
    if initial_carry is None:
        dtype = jax.eval_shape(cell.project, x[0]).dtype
        initial_carry = cell.initial_carry(batch, dtype)

    if resolve_backend(cell, backend) == "reference":
        carries, last = _reference(cell, initial_carry, x, mask, taps, reverse, unroll_steps)
        h = carries[0]
    else:
        assert isinstance(cell, FusableCell)
        graphdef, params = nnx.split(cell)
        kernel = cell.recurrent_matrix()
        if chunk is None:
            chunk = default_chunk(steps, batch, kernel.shape[1])
        plan = _Plan(graphdef, min(chunk, steps), reverse, unroll_steps, remat)
        result: Any = _fused(plan, params, kernel, initial_carry, x, mask, taps)
        h, last = result
    if mask is not None:
        h = jnp.where(mask[:, :, None], h, 0)
    return h, last


def resolve_backend(cell: FusableCell | StepCell, backend: Backend) -> Backend:
    """The backend that `unroll` will use: "auto" is fused where the cell has `gates`."""
    if backend not in ("auto", "fused", "reference"):
        raise ValueError(f"unknown backend {backend!r}; known: auto, fused, reference")
    if isinstance(cell, FusableCell):
        return "fused" if backend == "auto" else backend
    if backend == "fused":
        raise ValueError(
            f"{type(cell).__name__} has no `gates` (its state meets more than one matrix in sequence), "
            "so the fused backend cannot run it; use backend='reference' or 'auto'"
        )
    return "reference"


def default_chunk(steps: int, batch: int, width: int) -> int:
    """Chunk length for T, B and gate width M: the largest divisor of T whose gates fit the target, near enough."""
    target = max(16, min(steps, _CHUNK_ELEMENTS // max(1, batch * width)))
    if target >= steps:
        return steps
    divisors = [c for c in range(target // 2, target + 1) if c and steps % c == 0]
    return divisors[-1] if divisors else target


_CHUNK_ELEMENTS = 1 << 19


def _masked(mask: jax.Array | None, new: Carry, old: Carry) -> Carry:
    """new where the row is still within its length, else old; mask [B]."""
    if mask is None:
        return new
    return jax.tree.map(lambda n, o: jnp.where(mask[:, None], n, o), new, old)


# --- reference -------------------------------------------------------------------------------------------------------


def _reference(
    cell: FusableCell | StepCell,
    carry: Carry,
    x: jax.Array,
    mask: jax.Array | None,
    taps: Taps | None,
    reverse: bool,
    unroll_steps: int,
) -> tuple[Carry, Carry]:
    """All carries [T, B, H] and the last one, by a plain scan; taps are added where they stand."""
    z = cell.project(x)
    kernel = cell.recurrent_matrix() if isinstance(cell, FusableCell) else None

    def body(carry: Carry, inputs: tuple[jax.Array, jax.Array | None, Taps | None]) -> tuple[Carry, Carry]:
        z_t, mask_t, tap = inputs
        if isinstance(cell, FusableCell):
            assert kernel is not None
            u = carry[0] @ kernel
            new = cell.gates(carry, z_t, u if tap is None else u + tap.u)
        else:
            new = cell.step(carry, z_t)
        if tap is not None:
            new = jax.tree.map(jnp.add, new, tap.carry)
        new = _masked(mask_t, new, carry)
        return new, new

    last, carries = lax.scan(body, carry, (z, mask, taps), reverse=reverse, unroll=unroll_steps)
    return carries, last


# --- fused -----------------------------------------------------------------------------------------------------------


class _Plan(NamedTuple):
    """What is static in one fused recurrence."""

    graphdef: Any
    chunk: int
    reverse: bool
    unroll_steps: int
    remat: bool

    def project(self, params: PyTree, x: jax.Array) -> jax.Array:
        return nnx.merge(self.graphdef, params).project(x)

    def gates(self, params: PyTree, carry: Carry, z: jax.Array, u: jax.Array) -> Carry:
        return nnx.merge(self.graphdef, params).gates(carry, z, u)

    def segments(self, steps: int) -> list[tuple[slice, int]]:
        """(time slice, number of chunks in it) in the order of processing; the remainder stands at the end of time."""
        count, rest = divmod(steps, self.chunk)
        whole = (slice(0, count * self.chunk), count)
        if not rest:
            return [whole]
        remainder = (slice(count * self.chunk, steps), 1)
        return [remainder, whole] if self.reverse else [whole, remainder]


def _cut(tree: PyTree, where: slice, count: int) -> PyTree:
    """[T, ...] -> [count, chunk, ...] for one segment."""
    return jax.tree.map(lambda a: a[where].reshape(count, -1, *a.shape[1:]), tree)


def _join(plan: _Plan, pieces: list[PyTree]) -> PyTree:
    """Undoes `_cut` for the segments in order of processing: [T, ...]."""
    if plan.reverse:
        pieces = pieces[::-1]
    flat = [jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), piece) for piece in pieces]
    return flat[0] if len(flat) == 1 else jax.tree.map(lambda *a: jnp.concatenate(a), *flat)


def _run_chunk(
    plan: _Plan, params: PyTree, kernel: jax.Array, carry: Carry, x: jax.Array, mask: jax.Array | None
) -> tuple[Carry, Carry]:
    """The last carry, and all carries [C, B, H], of one chunk x [C, B, D]."""

    def body(carry: Carry, inputs: tuple[jax.Array, jax.Array | None]) -> tuple[Carry, Carry]:
        z_t, mask_t = inputs
        new = _masked(mask_t, plan.gates(params, carry, z_t, carry[0] @ kernel), carry)
        return new, new

    return lax.scan(body, carry, (plan.project(params, x), mask), reverse=plan.reverse, unroll=plan.unroll_steps)


def _before(plan: _Plan, start: Carry, carries: Carry) -> Carry:
    """The carry that each step of a chunk began from [C, B, H]."""
    if plan.reverse:
        return jax.tree.map(lambda s, a: jnp.concatenate([a[1:], s[None]]), start, carries)
    return jax.tree.map(lambda s, a: jnp.concatenate([s[None], a[:-1]]), start, carries)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _fused(
    plan: _Plan,
    params: PyTree,
    kernel: jax.Array,
    carry: Carry,
    x: jax.Array,
    mask: jax.Array | None,
    taps: Taps | None,
) -> tuple[jax.Array, Carry]:
    """h [T, B, H] and the last carry; the taps' values are not read."""
    return _fused_forward(plan, params, kernel, carry, x, mask, taps)[0]


def _fused_forward(plan, params, kernel, carry, x, mask, taps):
    segments = plan.segments(x.shape[0])
    starts, outputs = [], []

    def body(carry, inputs):
        last, carries = _run_chunk(plan, params, kernel, carry, *inputs)
        return last, (carry, carries[:1] if plan.remat else carries)

    last = carry
    for where, count in segments:
        last, (start, carries) = lax.scan(body, last, _cut((x, mask), where, count), reverse=plan.reverse)
        starts.append(start)
        outputs.append(carries)
    saved = _join(plan, outputs)
    residuals = (params, kernel, x, mask, starts, None if plan.remat else saved, taps)
    return (saved[0], last), residuals


def _fused_backward(plan, residuals, cotangents):
    params, kernel, x, mask, starts, saved, taps = residuals
    dh, dlast = cotangents
    kernel_t = kernel.T

    def body(accumulated, inputs):
        dcarry, dparams, dkernel = accumulated
        start, carries, x, mask, dh = inputs
        if carries is None:
            carries = _run_chunk(plan, params, kernel, start, x, mask)[1]
        before = _before(plan, start, carries)
        z, pull_project = jax.vjp(plan.project, params, x)
        u = before[0] @ kernel
        # The gates of the whole chunk are linearised at once, so that the loop below holds one product and a few
        # multiplications; `pulls` is the chunk's pullbacks, stacked over time.
        pulls = jax.vmap(lambda *primals: jax.vjp(functools.partial(plan.gates, params), *primals)[1])(before, z, u)
        same = False

        def back(dcarry, inputs):
            nonlocal same
            pull, dh_t, mask_t = inputs
            dcarry = (dcarry[0] + dh_t, *dcarry[1:])
            zeros = jax.tree.map(jnp.zeros_like, dcarry)
            dnew = _masked(mask_t, dcarry, zeros)
            dbefore, dz, du = pull(dnew)
            dbefore = (dbefore[0] + du @ kernel_t, *dbefore[1:])
            if mask_t is not None:
                dbefore = jax.tree.map(jnp.add, dbefore, _masked(mask_t, zeros, dcarry))
            same = dz is du  # The usual case, gates of z + u: one array serves both.
            return dbefore, (dnew, None if same else dz, du)

        dcarry, (dnew, dz, du) = lax.scan(
            back, dcarry, (pulls, dh, mask), reverse=not plan.reverse, unroll=plan.unroll_steps
        )
        dz = du if same else dz
        dkernel = dkernel + jnp.einsum("tbh,tbm->hm", before[0], du, preferred_element_type=dkernel.dtype)
        dparams_project, dx = pull_project(dz)
        pull_params = jax.vjp(lambda p: jax.vmap(functools.partial(plan.gates, p))(before, z, u), params)[1]
        dparams = jax.tree.map(lambda total, *new: total + sum(new), dparams, dparams_project, pull_params(dnew)[0])
        return (dcarry, dparams, dkernel), (dx, None if taps is None else Taps(dnew, du))

    # Sums over time are kept in float32 at least, and in the widest type that enters them.
    wide = functools.partial(_zeros_at_least, jnp.result_type(jnp.float32, dh.dtype))
    accumulated = (dlast, jax.tree.map(wide, params), wide(kernel))
    pieces = []
    for (where, count), start in zip(reversed(plan.segments(x.shape[0])), reversed(starts), strict=True):
        inputs = (start, *_cut((saved, x, mask, dh), where, count))
        accumulated, piece = lax.scan(body, accumulated, inputs, reverse=not plan.reverse)
        pieces.append(piece)
    dx, dtaps = _join(plan, pieces[::-1])
    dcarry, dparams, dkernel = accumulated
    dparams, dkernel = jax.tree.map(lambda d, p: d.astype(p.dtype), (dparams, dkernel), (params, kernel))
    return dparams, dkernel, dcarry, dx, None, dtaps


def _zeros_at_least(dtype: Any, like: jax.Array) -> jax.Array:
    """Zeros of a shape, in dtype or the array's own type, whichever is wider."""
    return jnp.zeros(like.shape, jnp.promote_types(like.dtype, dtype))


_fused.defvjp(_fused_forward, _fused_backward)
