"""How many Newton iterations run all steps of a layer at once, as the backend newton would.

What the iterations come to does not depend on how the linear recurrence of each is solved; here that of full Jacobians
is solved step by step, which takes no Jacobian at all, but where there is a trust region.
"""

import dataclasses
from collections.abc import Iterable

import jax
import jax.numpy as jnp
from jax import lax

from rnnlab.diagnostics.jacobians import independent_step
from rnnlab.engine.newton.backend import counters, system_of
from rnnlab.engine.newton.options import Iterations, JacobianKind, NewtonOptions, check_bytes, tolerance_of
from rnnlab.engine.newton.solve import Change, by_scan, iterated
from rnnlab.engine.newton.system import Sequence, System, step
from rnnlab.nn.trajectory import Trajectory
from rnnlab.typing import Array, Carry, Float

MOST = 200
"""Iterations after which a layer counts as one that does not converge."""


def newton_iterations(
    trajectory: Trajectory, options: NewtonOptions | None = None
) -> tuple[Iterations, Float[Array, "K B"]]:
    """Each row's iterations, and their residuals from the first guess on, K = max_iterations + 1, zeros once all rows
    have converged.

    Converged is what would be so in float32, whatever the type of the arrays, unless options say otherwise.

    Raises:
        ConfigError: rows that see each other; full Jacobians of a trust region that take too much memory.
    """
    independent_step(trajectory)
    options = options or NewtonOptions(max_iterations=min(MOST, trajectory.x.shape[0]))
    if options.tolerance is None:
        options = dataclasses.replace(options, tolerance=tolerance_of(options, jnp.float32))
    run = trajectory
    mask = None if run.lengths is None else run.inside
    around = run.noise, run.state_mask, None, None, run.reverse, options
    system, sequence = system_of(run.cell, run.x, mask, *around)
    counted = counters(run.cell)
    if options.trust_region is not None:
        check_bytes(run.first, run.x.shape[0], options)
    stepwise = options.jacobian == "full" and options.trust_region is None
    change = (by_loop if stepwise else by_scan)(system, sequence, counted)
    _, iterations, course = iterated(system, sequence, run.first, change, record=True)
    return iterations, course


def by_loop(system: System, sequence: Sequence, counted: Iterable[int]) -> Change:
    """The recurrence of the tangents, solved step by step."""

    def change(before: Carry, missing: Carry, trust: Carry) -> Carry:
        def body(d: Carry, inputs: tuple) -> tuple[Carry, Carry]:
            carry, now, lack, share = inputs
            new, pushed = jax.jvp(lambda carry: step(system, sequence, carry, now), (carry,), (d,))
            pushed = list(pushed)
            for element in counted:  # A count has no gradient, though it is the one before and 1.
                moved = (*carry[:element], carry[element] + 1, *carry[element + 1 :])
                pushed[element] = (step(system, sequence, moved, now)[element] - new[element]) * d[element]
            d = jax.tree.map(lambda a, b, c: a * b + c, share, tuple(pushed), lack)
            finite = jnp.all(jnp.stack([jnp.isfinite(a).all(-1) for a in d]), 0)[:, None]
            d = jax.tree.map(lambda a, b: jnp.where(finite, a, b), d, lack)
            return d, d

        zeros = jax.tree.map(lambda a: jnp.zeros_like(a[0]), missing)
        return lax.scan(body, zeros, (before, sequence.of_steps, missing, trust))[1]

    return change


def kinds_of(trajectory: Trajectory) -> tuple[JacobianKind, ...]:
    """The kinds of Jacobian that differ: blocks are diagonals where the carry has one element."""
    return ("full", "diagonal") if len(trajectory.first) == 1 else ("full", "block", "diagonal")
