"""The iterations of the backend `newton`: forward to the carries, and back to their gradients."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnnlab.engine.linear_scan import joined_backwards, joined_steps
from rnnlab.engine.matrices import scaled
from rnnlab.engine.newton.jacobians import Group, jacobians, joined
from rnnlab.engine.newton.options import Iterations, tolerance_of
from rnnlab.engine.newton.system import Sequence, System, all_steps, back_one_by_one, before_each, one_by_one
from rnnlab.engine.newton.trust_region import trusted_steps
from rnnlab.typing import Array, Carry, Float

Change = Callable[[Carry, Carry, Carry], Carry]
"""(Carries before each step, what the carries lack, how far each of their derivatives is trusted) -> what is added."""


def by_scan(system: System, sequence: Sequence, counters: tuple[int, ...]) -> Change:
    """The recurrence of the tangents, or the trust region around it, solved for all steps at once."""
    size = system.options.trust_region

    def solve(group: Group, d: Any, trust: Any) -> Any:
        if size is not None:
            weights = jax.tree.map(functools.partial(jnp.full_like, fill_value=size), d)
            return trusted_steps(group.matrices, d, weights)
        return joined_steps(scaled(group.matrices, trust), d)

    def change(before: Carry, missing: Carry, trust: Carry) -> Carry:
        groups = jacobians(system, sequence, before, counters)
        return _by_groups(groups, missing, lambda group, d: solve(group, d, group.vectors(trust)))

    return change


class Iterated(NamedTuple):
    carries: Carry
    """After every step [T, B, N] each."""
    iterations: Iterations
    course: Float[Array, "K B"]
    """The residuals from the first guess on, where they were asked for."""


def iterated(system: System, sequence: Sequence, first: Carry, change: Change, record: bool = False) -> Iterated:
    """Newton's iterations from the first carry, held over all steps, on.

    A row that has converged is left as it is, so that what comes out does not depend on the other rows. After k
    iterations the first k steps are exact whatever the derivatives are, but for a trust region, which moves steps for
    the sake of later ones; numbers that are not finite are replaced by what the step makes of the carry before.
    record: whether the residual of every iteration is returned.
    """
    options, tolerance = system.options, tolerance_of(system.options, jnp.result_type(*first))
    steps, rows = sequence.times.shape[0], first[0].shape[0]

    def applied(carries: Carry) -> Carry:
        return all_steps(system, sequence, before_each(first, carries))

    def residual(carries: Carry, new: Carry) -> jax.Array:
        each = [_distance(a, b).max((0, 2)) for a, b in zip(carries, new, strict=True)]
        return jnp.max(jnp.stack(each), 0)

    def goes_on(state: Any) -> jax.Array:
        return (state[2] < options.max_iterations) & ~(state[3] <= tolerance).all()  # NaN goes on, too.

    def iterate(state: Any) -> Any:
        carries, new, number, left, needed, course = state
        missing = jax.tree.map(jnp.subtract, new, carries)
        trust = jax.tree.map(lambda a, b: 1 / (1 + options.damping * _distance(a, b)), carries, new)
        added = change(before_each(first, carries), missing, trust)
        moved = jax.tree.map(lambda a, d, b: _finite(a + d, b), carries, added, new)
        goes = ~(left <= tolerance)
        carries = jax.tree.map(lambda a, b: jnp.where(goes[:, None], a, b), moved, carries)
        new = applied(carries)
        left = residual(carries, new)
        return carries, new, number + 1, left, needed + goes, course.at[number + 1].set(left, mode="drop")

    guess = jax.tree.map(lambda a: jnp.broadcast_to(a, (steps, *a.shape)), first)
    guess = lax.fori_loop(0, options.warm_up, lambda _, guess: jax.tree.map(_finite, applied(guess), guess), guess)
    new = applied(guess)
    left = residual(guess, new)
    course = jnp.zeros((options.max_iterations * record + 1, rows), left.dtype).at[0].set(left)
    start = (guess, new, jnp.int32(0), left, jnp.zeros(rows, jnp.int32), course)
    carries, _, _, left, needed, course = lax.while_loop(goes_on, iterate, start)
    return Iterated(carries, Iterations(needed, left, left <= tolerance), course)


def solved(system: System, sequence: Sequence, first: Carry, counters: tuple[int, ...]) -> tuple[Carry, Iterations]:
    """The carries after every step [T, B, N] each, without gradients, and what it took; of rows that did not converge
    by a plain loop."""
    carries, iterations, _ = iterated(system, sequence, first, by_scan(system, sequence, counters))
    return _else(iterations.converged, carries, lambda: one_by_one(system, sequence, first)), iterations


def solved_back(system: System, sequence: Sequence, before: Carry, d: Carry) -> Carry:
    """∂L/∂carry after every step [T, B, N] each, from d, the part of it from outside of the recurrence.

    It is linear, e_t = d_t + J_{t+1}ᵀ e_{t+1}: with full Jacobians one scan solves it, up to rounding; the residual is
    taken with the exact derivatives, and steps of the same kind are made until it is gone.
    """
    options, tolerance = system.options, tolerance_of(system.options, jnp.result_type(*d))
    tiny = float(jnp.finfo(jnp.result_type(*d)).tiny) / tolerance
    groups = jacobians(system, sequence, before)
    _, pull = jax.vjp(lambda carry: all_steps(system, sequence, carry), before)

    def missing(e: Carry) -> Carry:
        def shifted(a: jax.Array) -> jax.Array:
            return jnp.concatenate([a[1:], jnp.zeros_like(a[:1])])

        return jax.tree.map(lambda own, a, b: own + shifted(b) - a, d, e, pull(e)[0])

    def residual(e: Carry, short: Carry) -> jax.Array:
        """Of each row, relative to the largest number of its step: gradients of early steps may be far smaller."""
        size, lack = (jnp.max(jnp.stack([jnp.abs(a).max(2) for a in tree]), 0) for tree in (e, short))
        return (lack / (size + tiny)).max(0)

    def goes_on(state: Any) -> jax.Array:
        return (state[2] < options.max_iterations) & ~(state[3] <= tolerance).all()

    def iterate(state: Any) -> Any:
        e, short, number, left = state
        change = _by_groups(groups, short, lambda group, d: joined_backwards(group.matrices, d))
        goes = ~(left <= tolerance)[:, None]
        e = jax.tree.map(lambda a, c, s: jnp.where(goes, _finite(a + c, a + s), a), e, change, short)
        short = missing(e)
        return e, short, number + 1, residual(e, short)

    zeros = jax.tree.map(jnp.zeros_like, d)
    e, _, _, left = lax.while_loop(goes_on, iterate, (zeros, d, jnp.int32(0), residual(zeros, d)))
    return _else(left <= tolerance, e, lambda: back_one_by_one(system, sequence, before, d))


def _by_groups(groups: list[Group], carry: Carry, solve: Callable[[Group, Any], Any]) -> Carry:
    return joined(groups, [solve(group, group.vectors(carry)) for group in groups], carry)


def _distance(a: jax.Array, b: jax.Array) -> jax.Array:
    """How far b is from a, relative to 1 + the size of a."""
    return jnp.abs(a - b) / (1 + jnp.abs(a))


def _finite(a: jax.Array, other: jax.Array) -> jax.Array:
    """a, where it is not finite other, and 0 where neither is."""
    return jnp.where(jnp.isfinite(a), a, jnp.where(jnp.isfinite(other), other, 0))


def _else(rows: jax.Array, carries: Carry, other: Callable[[], Carry]) -> Carry:
    """Of the rows that are true these carries, of the rest others, which are computed only where they are needed; as a
    loop, since under `vmap` both branches of a condition run."""

    def replace(state: tuple[jax.Array, Carry]) -> tuple[jax.Array, Carry]:
        mixed = jax.tree.map(lambda a, b: jnp.where(rows[:, None], a, b), state[1], other())
        return jnp.zeros_like(state[0]), mixed

    return lax.while_loop(lambda state: state[0], replace, (~rows.all(), carries))[1]
