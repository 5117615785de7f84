"""Linear recurrences c_t = A_t c_{t-1} + b_t, all steps at once in log₂ T rounds.

Two steps one after the other are such a step again, (A_2 A_1, A_2 b_1 + b_2); `lax.associative_scan` joins all of them
(Blelloch, 1990). The backend `scan` has such a recurrence, the backend `newton` one for every iteration.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rnnlab.engine.matrices import Square, applied, times, transposed
from rnnlab.typing import Parts

Vectors = Parts | jax.Array
"""What they act on: the elements [T, B, N] of each unit's vector, or [T, B, S]."""


def joined_steps(a: Any, b: Any) -> Any:
    """c_t of all steps [T, ...], from c = 0; a: `Matrices`, b: the `Vectors` that are added."""

    def join(left: Any, right: Any) -> Any:
        carried = applied(right[0], left[1])
        return times(right[0], left[0]), jax.tree.map(jnp.add, carried, right[1])

    return lax.associative_scan(join, (a, b))[1]


def joined_backwards(a: Any, d: Any) -> Any:
    """e_t = d_t + A_{t+1}ᵀ e_{t+1} of all steps, from 0 behind the last: `joined_steps` in reverse."""
    back = jax.tree.map(lambda part: jnp.concatenate([part[1:], jnp.zeros_like(part[:1])])[::-1], transposed(a))
    return _flipped(joined_steps(back, _flipped(d)))


@jax.custom_vjp
def linear_scan(a: Square, b: Parts, first: Parts) -> Parts:
    """c_t = A_t c_{t-1} + b_t for all t; the gradient is such a scan of its own, backwards."""
    return joined_steps(a, [part.at[0].add(extra) for part, extra in zip(b, applied(_at(a, 0), first), strict=True)])


def _linear_scan_forward(a: Square, b: Parts, first: Parts) -> tuple[Parts, Any]:
    c = linear_scan(a, b, first)
    return c, (a, c, first)


def _linear_scan_backward(saved: Any, d: Parts) -> tuple[Square, Parts, Parts]:
    """∂L/∂c_t = ∂L/∂c_t beside the scan + A_{t+1}ᵀ ∂L/∂c_{t+1}."""
    a, c, first = saved
    total = joined_backwards(a, d)
    before = [jnp.concatenate([start[None], part[:-1]]) for part, start in zip(c, first, strict=True)]
    da = [[of_row * column for column in before] for of_row in total]
    return da, total, applied(_at(transposed(a), 0), [part[0] for part in total])


linear_scan.defvjp(_linear_scan_forward, _linear_scan_backward)


def _at(tree: Any, t: int) -> Any:
    return jax.tree.map(lambda a: a[t], tree)


def _flipped(tree: Any) -> Any:
    return jax.tree.map(lambda a: a[::-1], tree)
