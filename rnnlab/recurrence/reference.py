"""The reference backend: a plain scan, differentiated by JAX. Every other backend is tested against it."""

import jax
import jax.numpy as jnp
from jax import lax

from rnnlab.recurrence.contract import FusableCell, StepCell, Taps, masked, recur
from rnnlab.typing import Carry, Parts


def reference(
    cell: FusableCell | StepCell,
    carry: Carry,
    x: jax.Array,
    mask: jax.Array | None,
    taps: Taps | None,
    reverse: bool,
    unroll_steps: int,
) -> tuple[Carry, Carry]:
    """All carries [T, B, H] and the last one, by a plain scan; taps are added where they stand."""
    z = cell.split(cell.project(x))
    fusable = isinstance(cell, FusableCell)
    kernel, offset = (cell.recurrent_matrix(), cell.recurrent_offset()) if fusable else (None, None)

    def body(carry: Carry, inputs: tuple[Parts, jax.Array | None, Taps | None]) -> tuple[Carry, Carry]:
        z_t, mask_t, tap = inputs
        if isinstance(cell, FusableCell):
            assert kernel is not None
            u = recur(carry[0], kernel, offset, cell.compute)
            new = cell.gates(carry, z_t, cell.split(u if tap is None else u + tap.u))
        else:
            new = cell.step(carry, z_t)
        if tap is not None:
            new = jax.tree.map(jnp.add, new, tap.carry)
        new = masked(mask_t, new, carry)
        return new, new

    last, carries = lax.scan(body, carry, (z, mask, taps), reverse=reverse, unroll=unroll_steps)
    return carries, last
