"""The steps of one sequence, as the backend `newton` sees them: all side by side, or one after another."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from rnnlab.engine.contract import Cotangent, Matrix, Multiply, Taps, masked, multiplication
from rnnlab.engine.newton.options import NewtonOptions
from rnnlab.engine.reference import passed_back
from rnnlab.ops.linear import Precision
from rnnlab.typing import Carry, Parts, PyTree


class System(NamedTuple):
    """The static side."""

    graphdef: Any
    precision: Precision
    reverse: bool
    options: NewtonOptions


class Sequence(NamedTuple):
    """The arrays, time in the order in which the steps run."""

    params: PyTree
    matrices: dict[str, Matrix]
    z: Parts
    """The parts of z, and behind them the noise [T, B, N] each."""
    mask: jax.Array | None
    """Which steps are within their rows [T, B]."""
    taps: Taps | None
    times: jax.Array
    """The number of each step in the order of the inputs [T]."""
    state_mask: jax.Array | None
    cotangent: Cotangent | None
    ends: jax.Array
    """Each row's steps, for the cotangent."""

    @property
    def of_steps(self) -> tuple[Any, ...]:
        """What differs between steps."""
        return self.z, self.mask, self.taps, self.times


Around = Callable[[Multiply], Multiply]


def step(system: System, sequence: Sequence, before: Carry, now: tuple[Any, ...], around: Any = None) -> Carry:
    """One step, from the carry before it [B, N] each; now: its slices of `of_steps`. around: multiply -> multiply."""
    z, mask, tap, time = now
    cell = nnx.merge(system.graphdef, sequence.params)
    start = before
    if sequence.cotangent is not None:
        start = passed_back(system.reverse, before, time, sequence.ends, sequence.cotangent)
    u = None if tap is None else tap.u
    multiply = multiplication(sequence.matrices, system.precision, sequence.state_mask, u)
    new = cell.step(start, z, multiply if around is None else around(multiply))
    if tap is not None:
        new = jax.tree.map(jnp.add, new, tap.carry)
    return masked(mask, new, before)


def all_steps(system: System, sequence: Sequence, before: Carry, around: Any = None) -> Carry:
    """All side by side, from the carries before them [T, B, N] each."""
    return jax.vmap(lambda carry, now: step(system, sequence, carry, now, around))(before, sequence.of_steps)


def one_by_one(system: System, sequence: Sequence, first: Carry) -> Carry:
    """The carries after every step, by a plain loop."""

    def body(carry: Carry, now: tuple[Any, ...]) -> tuple[Carry, Carry]:
        new = step(system, sequence, carry, now)
        return new, new

    return lax.scan(body, first, sequence.of_steps)[1]


def back_one_by_one(system: System, sequence: Sequence, before: Carry, d: Carry) -> Carry:
    """∂L/∂carry after every step, from d, the part of it that comes from outside of the recurrence, by a plain loop."""

    def body(later: Carry, inputs: tuple[Carry, Any, Carry]) -> tuple[Carry, Carry]:
        carry, now, own = inputs
        total = jax.tree.map(jnp.add, later, own)
        (earlier,) = jax.vjp(lambda carry: step(system, sequence, carry, now), carry)[1](total)
        return earlier, total

    zeros = jax.tree.map(lambda a: jnp.zeros_like(a[0]), d)
    return lax.scan(body, zeros, (before, sequence.of_steps, d), reverse=True)[1]


def before_each(first: Carry, carries: Carry) -> Carry:
    """The carry before every step, from the first one and those after every step."""
    return jax.tree.map(lambda start, a: jnp.concatenate([start[None], a[:-1]]), first, carries)
