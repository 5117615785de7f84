"""The scan backend, for cells that are linear in their state: all steps at once, in log₂ T rounds.

A step is c_t = A_t c_{t-1} + b_t, with A_t and b_t of the inputs alone (Martin and Cundy, 2018); `linear_scan` joins
all of them. A_t and b_t are read off the cell's own `step`: b_t is what it makes of c = 0, A_t its derivative.
Everything else is computed as in a chunk of the fused backend, all steps side by side.
"""

import jax
import jax.numpy as jnp
from jax import lax

from rnnlab.engine.contract import Linear, RecurrentCell, Taps, multiplication
from rnnlab.engine.linear_scan import linear_scan
from rnnlab.typing import Carry, Parts


def scanned(
    cell: RecurrentCell,
    carry: Carry,
    x: jax.Array,
    mask: jax.Array | None,
    noise: tuple[jax.Array, ...],
    state_mask: jax.Array | None,
    taps: Taps | None,
    reverse: bool,
) -> tuple[Carry, Carry]:
    """All carries [T, B, H] and the last one. mask [T, B]: which steps are within their rows."""
    z: Parts = [*cell.split(cell.project(x)), *noise]
    if reverse:
        z, mask, taps = jax.tree.map(lambda a: a[::-1], (z, mask, taps))
    carries, last = _in_order(cell, carry, z, mask, taps, state_mask)
    return tuple(a[::-1] for a in carries) if reverse else carries, last


def _in_order(
    cell: RecurrentCell,
    first: Carry,
    z: Parts,
    mask: jax.Array | None,
    taps: Taps | None,
    state_mask: jax.Array | None,
) -> tuple[Carry, Carry]:
    """`scanned`, in the order of the steps; rows that run in reverse have their padding first."""
    element, parts = linear_of(cell)
    matrices = cell.matrices()
    tap_u = None if taps is None else taps.u

    def step(before: Carry) -> Carry:
        def one(before: Carry, z: Parts, tap: jax.Array | None) -> Carry:
            return cell.step(before, z, multiplication(matrices, cell.precision, state_mask, tap))

        return jax.vmap(one)(before, z, tap_u)

    def tapped(number: int, a: jax.Array) -> jax.Array:
        return a if taps is None else a + taps.carry[number]

    def held(new: jax.Array, start: jax.Array) -> jax.Array:
        """Before a row begins it has its first carry; behind its end nobody reads it."""
        return new if mask is None else jnp.where(mask[:, :, None], new, start)

    def before_each(new: jax.Array, start: jax.Array) -> jax.Array:
        return jnp.concatenate([start[None], new[:-1]])

    steps = z[0].shape[0]
    zeros = tuple(jnp.zeros((steps, *a.shape), a.dtype) for a in first)
    before = list(zeros)
    for _ in range(max(len(first) - 1, 1)):  # Those beside the linear one that a later step reads, one after another.
        others = [held(tapped(number, a), first[number]) for number, a in enumerate(step((*before,)))]
        others[element] = zeros[element]
        before = [before_each(a, start) for a, start in zip(others, first, strict=True)]

    def of_linear(c: jax.Array) -> jax.Array:
        return step((*before[:element], c, *before[element + 1 :]))[element]

    width = first[element].shape[-1] // parts
    units = jnp.zeros_like(zeros[element])
    b, derivative = jax.linearize(of_linear, zeros[element])
    columns = []
    for part in range(parts):
        unit = units.at[..., part * width : (part + 1) * width].set(1)
        columns.append(jnp.split(derivative(unit), parts, axis=-1))
    a = [[columns[q][p] for q in range(parts)] for p in range(parts)]
    drive = jnp.split(tapped(element, b), parts, axis=-1)
    if mask is not None:
        inside = mask[:, :, None]
        a = [[jnp.where(inside, a[p][q], float(p == q)) for q in range(parts)] for p in range(parts)]
        drive = [jnp.where(inside, part, 0) for part in drive]
    c = jnp.concatenate(linear_scan(a, drive, jnp.split(first[element], parts, axis=-1)), axis=-1)
    before[element] = before_each(c, first[element])
    carries = [c if n == element else tapped(n, new) for n, new in enumerate(step(tuple(before)))]
    if mask is not None:
        latest = lax.cummax(jnp.where(mask, jnp.arange(steps)[:, None], -1))[:, :, None]
        carries = [
            jnp.where(latest < 0, start, jnp.take_along_axis(a, jnp.maximum(latest, 0), 0))
            for a, start in zip(carries, first, strict=True)
        ]
    return tuple(carries), tuple(a[-1] for a in carries)


def linear_of(cell: RecurrentCell) -> Linear:
    """How a cell says that it is linear in its state.

    Raises:
        ValueError: it does not.
    """
    linear = getattr(cell, "linear", None)
    if linear is None:
        kind = type(cell).__name__
        raise ValueError(
            f"{kind} is not linear in its state, as backend='scan' needs (a cell says so by `linear`); "
            "use 'fused', 'reference' or 'auto'"
        )
    return linear
