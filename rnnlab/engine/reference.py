"""The reference backend: a plain scan, differentiated by JAX. Every other backend is tested against it."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rnnlab.engine.contract import Cotangent, RecurrentCell, Taps, masked, multiplication
from rnnlab.typing import Carry


def reference(
    cell: RecurrentCell,
    carry: Carry,
    x: jax.Array,
    mask: jax.Array | None,
    taps: Taps | None,
    reverse: bool,
    unroll_steps: int,
    noise: tuple[jax.Array, ...] = (),
    state_mask: jax.Array | None = None,
    cotangent: Cotangent | None = None,
) -> tuple[Carry, Carry]:
    """All carries [T, B, H] and the last one, by a plain scan; taps are added where they stand."""
    z = cell.split(cell.project(x))
    matrices = cell.matrices()

    def body(carry: Carry, inputs: tuple) -> tuple[Carry, Carry]:
        z_t, mask_t, tap, noise_t, t = inputs
        before: Any = carry if cotangent is None else passed_back(reverse, carry, t, ends, cotangent)
        multiply = multiplication(matrices, cell.precision, state_mask, None if tap is None else tap.u)
        new = cell.step(before, [*z_t, *noise_t], multiply)
        if tap is not None:
            new = jax.tree.map(jnp.add, new, tap.carry)
        if cotangent is not None:
            new = _clip(new, cotangent)
        new = masked(mask_t, new, carry)
        return new, new

    ends = jnp.full(1, x.shape[0]) if mask is None else mask.sum(0)
    times = None if cotangent is None else jnp.arange(x.shape[0])
    last, carries = lax.scan(body, carry, (z, mask, taps, noise, times), reverse=reverse, unroll=unroll_steps)
    return carries, last


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def passed_back(reverse: bool, carry: Carry, t: jax.Array, ends: jax.Array, cotangent: Cotangent) -> Carry:
    """The identity, with `cotangent.passed` on the way back."""
    return carry


passed_back.defvjp(
    lambda reverse, carry, t, ends, cotangent: (carry, (t, ends, cotangent)),
    lambda reverse, saved, d: (saved[2].passed(d, saved[0], saved[1], reverse), None, None, None),
)


@jax.custom_vjp
def _clip(carry: Carry, cotangent: Cotangent) -> Carry:
    """The identity, with `cotangent.clipped` on the way back."""
    return carry


_clip.defvjp(lambda carry, cotangent: (carry, cotangent), lambda cotangent, d: (cotangent.clipped(d), None))
