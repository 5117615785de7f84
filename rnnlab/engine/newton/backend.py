"""The backend as `unroll` calls it."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from rnnlab.engine.contract import Cotangent, Taps
from rnnlab.engine.newton.options import Iterations, NewtonOptions, check_bytes
from rnnlab.engine.newton.solve import solved, solved_back
from rnnlab.engine.newton.system import Sequence, System, all_steps, before_each
from rnnlab.typing import Carry


def newton(
    cell: Any,
    first: Carry,
    x: jax.Array,
    mask: jax.Array | None,
    noise: tuple[jax.Array, ...],
    state_mask: jax.Array | None,
    cotangent: Cotangent | None,
    taps: Taps | None,
    reverse: bool,
    options: NewtonOptions,
) -> tuple[Carry, Carry, Iterations]:
    """All carries [T, B, N] each, the last one, and what it took. mask [T, B]: which steps are within their rows.

    Raises:
        ConfigError: full Jacobians that take too much memory.
    """
    check_bytes(first, x.shape[0], options)
    system, sequence = system_of(cell, x, mask, noise, state_mask, cotangent, taps, reverse, options)
    constant, start = lax.stop_gradient((sequence, first))
    carries, iterations = solved(system, constant._replace(cotangent=None), start, counters(cell))
    # The carries are constants from here on; each step is made once more of the one before, and what comes back to it
    # from later steps is added by `_recurrent`.
    carries: Carry = lax.stop_gradient(carries)
    new = all_steps(system, sequence, before_each(first, carries))
    result: Any = _recurrent(system, constant, before_each(start, carries), new)
    carries = result
    last = tuple(a[-1] for a in carries)
    return tuple(a[::-1] for a in carries) if reverse else carries, last, lax.stop_gradient(iterations)


def system_of(
    cell: Any,
    x: jax.Array,
    mask: jax.Array | None,
    noise: tuple[jax.Array, ...],
    state_mask: jax.Array | None,
    cotangent: Cotangent | None,
    taps: Taps | None,
    reverse: bool,
    options: NewtonOptions,
) -> tuple[System, Sequence]:
    """The steps of x in the order in which they run."""
    steps, batch = x.shape[:2]
    graphdef, params = nnx.split(cell)
    of_time: Any = [*cell.split(cell.project(x)), *noise], mask, taps, jnp.arange(steps)
    ends = jnp.full(batch, steps) if mask is None else mask.sum(0)
    if reverse:
        of_time = jax.tree.map(lambda a: a[::-1], of_time)
    z, mask, taps, times = of_time
    sequence = Sequence(params, dict(cell.matrices()), z, mask, taps, times, state_mask, cotangent, ends)
    return System(graphdef, cell.precision, reverse, options), sequence


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _recurrent(system: System, sequence: Sequence, before: Carry, new: Carry) -> Carry:
    """new, the carries after every step; on the way back each gets the gradient that comes from the later ones, too."""
    return new


def _forward(system: System, sequence: Sequence, before: Carry, new: Carry) -> tuple[Carry, Any]:
    return new, (sequence, before)


def _backward(system: System, saved: Any, d: Carry) -> tuple[None, None, Carry]:
    sequence, before = saved
    return None, None, solved_back(system, sequence, before, d)


_recurrent.defvjp(_forward, _backward)


def counters(cell: Any) -> tuple[int, ...]:
    """The elements of the carry that count steps: a cell names them "steps", and they have no gradient."""
    while not hasattr(cell, "carry_names") and hasattr(cell, "cell"):
        cell = cell.cell
    return tuple(number for number, name in enumerate(getattr(cell, "carry_names", ())) if name == "steps")
