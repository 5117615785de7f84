"""Finite-time Lyapunov exponents of a layer: the rates at which directions of the carry grow or die out over a run.

The largest, λ₁, is the rate of the gradient: ∂carry_T / ∂carry_0 grows like exp(λ₁ T), so gradients vanish at that rate
per step where λ₁ < 0 and explode where λ₁ > 0. The Jacobians themselves are `jacobians.py`'s.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnnlab.config.errors import ConfigError
from rnnlab.diagnostics.jacobians import check_memory, in_order, independent_step, pulled, pushed
from rnnlab.nn.trajectory import Trajectory
from rnnlab.typing import Array, Float, Int


def lyapunov_exponents(trajectory: Trajectory, count: int | None = None) -> Float[Array, "B N"]:
    """λ_i = (1/T) log σ_i(J_T ⋯ J_1) in nats per step, largest first, for every row over its own valid steps.

    By the discrete QR method (Benettin et al., 1980; for recurrent networks Engelken, Wolf and Abbott, 2023, and Vogt
    et al., 2022): Q_t R_t = J_t Q_{t-1} at every step, λ_i = (1/T) Σ_t log |(R_t)_ii|. An arbitrary Q_0 would leave a
    transient of order log(S) / T, as much as the exponents themselves in a run of 100 steps, so Q_0 comes from the same
    method run backwards on J_tᵀ, which ends in the right singular vectors of the product. Their sum is
    (1/T) Σ_t log |det J_t| exactly; exponents that differ by less than about 1/T may mix.

    Holds one Q, never the Jacobians of several steps. A row without steps has zeros, one whose derivatives are not
    finite NaN. A direction that dies out exactly (ReLU units that are off) has -inf; so has one that a single step
    shrinks below 2 S eps, which the arithmetic cannot tell from it.

    Args:
        count: how many, the leading ones; all S if not given.

    Raises:
        ConfigError: not 1 to S, rows that see each other, or S² numbers a row take too much memory.
    """
    rows, size = trajectory.first[0].shape[0], sum(a.shape[-1] for a in trajectory.first)
    count = size if count is None else count
    if not 1 <= count <= size:
        raise ConfigError(f"{count} Lyapunov exponents; {trajectory.name} has a carry of {size}, so 1 to {size}")
    if count == size:
        check_memory(trajectory, 1)
    step, steps = independent_step(trajectory), in_order(trajectory)
    # All axes do for all exponents, and give those of a diagonal product without rounding; fewer must not miss one.
    start = np.eye(size) if count == size else np.linalg.qr(np.random.default_rng(0).normal(size=(size, count)))[0].T
    dtype = jnp.result_type(*trajectory.first)
    q = jnp.broadcast_to(jnp.asarray(start, dtype)[:, None], (count, rows, size))

    def back(q: jax.Array, inputs: tuple) -> tuple[jax.Array, None]:
        before, parts, inside = inputs
        return orthonormalized(pulled(step, before, parts, inside, q))[0], None

    def forward(state: tuple[jax.Array, jax.Array], inputs: tuple) -> tuple[tuple[jax.Array, jax.Array], None]:
        (q, growth), (before, parts, inside) = state, inputs
        q, logs = orthonormalized(pushed(step, before, parts, inside, q))
        return (q, growth + jnp.where(inside, logs, 0)), None

    with jax.default_matmul_precision("highest"):  # With operands rounded to 10 bits, as on a GPU, Q is not orthogonal.
        q, _ = lax.scan(back, q, steps, reverse=True)
        (_, growth), _ = lax.scan(forward, (q, jnp.zeros((count, rows), dtype)), steps)
    exponents = growth / jnp.maximum(steps[2].sum(0), 1)
    return -jnp.sort(-exponents.T, axis=1)


class Summary(NamedTuple):
    """Lyapunov exponents over the rows of a batch."""

    mean: Float[Array, " N"]
    """-inf where one row's is."""
    error: Float[Array, " N"]
    """The standard error of the mean; NaN where it has none (one row, or an infinite mean)."""


def summary(exponents: Float[Array, "B N"], lengths: Int[Array, " B"] | None = None) -> Summary:
    """Mean and standard error over the rows, without those that have no steps."""
    used = jnp.ones(exponents.shape[0], bool) if lengths is None else lengths > 0
    mean = jnp.mean(exponents, axis=0, where=used[:, None])
    error = jnp.std(exponents, axis=0, ddof=1, where=used[:, None]) / jnp.sqrt(used.sum())
    return Summary(mean, jnp.where(jnp.isfinite(error), error, jnp.nan))


def orthonormalized(vectors: Float[Array, "N B S"]) -> tuple[Float[Array, "N B S"], Float[Array, "N B"]]:
    """Q and log |R_ii| of each row's N vectors as columns; those that depend on the ones before become zero, and -inf.

    By the classical Gram-Schmidt process, twice, as orthogonal as by reflections (Giraud et al., 2005). Reflections put
    an arbitrary direction in the place of a column that died out, which then is missing from the columns behind it; and
    XLA's batched QR is slower on a CPU (16 matrices of 100 × 100 in double precision on 2 cores: 90 ms against 11 ms).
    """
    number, _, size = vectors.shape
    smallest = 2 * size * jnp.finfo(vectors.dtype).eps

    def one(q: jax.Array, inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        i, v = inputs
        largest = jnp.max(jnp.abs(v), axis=-1)
        scale = jnp.where(largest == 0, 1, largest)
        v = v / scale[:, None]  # Squares of what is left neither overflow nor vanish.
        for _ in range(2):
            v = v - jnp.einsum("bns,bn->bs", q, jnp.einsum("bns,bs->bn", q, v))
        norm = jnp.linalg.norm(v, axis=-1)
        dead = norm <= smallest  # Not so for NaN.
        v = jnp.where(dead[:, None], 0, v / jnp.where(dead, 1, norm)[:, None])
        return q.at[:, i].set(v), jnp.where(dead, -jnp.inf, jnp.log(norm) + jnp.log(scale))

    q, logs = lax.scan(one, jnp.zeros((vectors.shape[1], number, size), vectors.dtype), (jnp.arange(number), vectors))
    return jnp.moveaxis(q, 1, 0), logs
