"""The update of a trust region: Levenberg and Marquardt's for the whole course of the carries, in log₂ T rounds.

Newton's d_t = J_t d_{t-1} + r_t goes wherever the tangents lead, however far they hold. With weights W_t, diagonal and
at least 0, the update is for each row the one that minimises

    Σ_t ‖d_t - J_t d_{t-1} - r_t‖² + Σ_t d_tᵀ W_t d_t            d_0 = 0

W = 0 is Newton's. It is what a Kalman smoother makes of states d_t that follow that recurrence with noise of variance
1, each of which was observed to be 0 with noise of variances 1 / W_t (ELK: Gonzalez et al., 2024). With

    P_t = ((J_t P_{t-1} J_tᵀ + I)⁻¹ + W_t)⁻¹     the covariance of d_t, by the observations up to t;  P_0 = 0
    M_t = I - P_t W_t                            how far its prediction is trusted; 1 / (1 + W_t) of a first step

prediction and smoothing (in the form of Bryson and Frazier, 1963, which inverts no covariance) are linear recurrences
with the same matrices, one forwards and one back:

    p_t = J_t M_{t-1} p_{t-1} + r_t              d_t, by the observations before t
    e_t = W_t M_t p_t + (J_{t+1} M_t)ᵀ e_{t+1}   by how much the update is to miss the recurrence of step t
    d_t = M_t p_t - P_t J_{t+1}ᵀ e_{t+1}

`covariances` has the P_t by an associative scan (Särkkä and García-Fernández, 2021): a stretch of steps makes of the
covariance P before it A (I + P N)⁻¹ P Aᵀ + C, and two stretches one after the other are such a stretch again.
"""

from typing import Any

import jax
import jax.numpy as jnp

from rnnlab.engine.linear_scan import joined_backwards, joined_steps
from rnnlab.engine.matrices import applied, beside, diagonal, halves, scaled, solved, times, transposed


def trusted_steps(a: Any, b: Any, weights: Any) -> Any:
    """d_t of all steps [T, ...]; a: the `Matrices` J_t, b and weights: the vectors r_t and those on W_t's diagonal."""
    a = jax.tree.map(lambda part: part.at[0].set(0), a)  # It meets d_0 alone.
    covariance = covariances(a, weights)
    trust = jax.tree.map(jnp.subtract, _one(weights), transposed(scaled(transposed(covariance), weights)))
    through = times(a, jax.tree.map(lambda part: jnp.concatenate([jnp.zeros_like(part[:1]), part[:-1]]), trust))
    filtered = applied(trust, joined_steps(through, b))
    missed = joined_backwards(through, jax.tree.map(jnp.multiply, weights, filtered))
    back = jax.tree.map(
        lambda part: jnp.concatenate([part[1:], jnp.zeros_like(part[:1])]), applied(transposed(a), missed)
    )
    return jax.tree.map(jnp.subtract, filtered, applied(covariance, back))


def covariances(a: Any, weights: Any) -> Any:
    """P_t of all steps, from P = 0 before the first."""
    shares = jax.tree.map(lambda w: 1 / (1 + w), weights)
    observed = times(transposed(a), scaled(a, jax.tree.map(jnp.multiply, weights, shares)))

    def join(left: Any, right: Any) -> Any:
        a1, c1, n1 = left
        a2, c2, n2 = right
        inner = jax.tree.map(jnp.add, _one_like(c1), times(c1, n2))
        by_start, by_noise = halves(solved(inner, beside(a1, c1)))
        c = jax.tree.map(jnp.add, times(times(a2, by_noise), transposed(a2)), c2)
        n = jax.tree.map(jnp.add, times(times(transposed(a1), n2), by_start), n1)
        return times(a2, by_start), c, n

    return jax.lax.associative_scan(join, (scaled(a, shares), diagonal(shares), observed))[1]


def _one(vectors: Any) -> Any:
    return diagonal(jax.tree.map(jnp.ones_like, vectors))


def _one_like(a: Any) -> Any:
    return _one([row[0] for row in a] if isinstance(a, list) else a[..., 0])
