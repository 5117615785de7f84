"""Functions of square matrices of which recurrent matrices are made: exponential, Cayley transform, reflections.

All of them are products and solves, with derivatives that JAX makes: exact in reverse, forward and second order. The
products are in full precision, since the default of an accelerator would cost three digits of orthogonality.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.linalg import expm

from rnnlab.typing import Array, Float

product = functools.partial(jnp.matmul, precision="highest")
"""A B, in full precision."""


_IN_PLACE: Any = {"unique_indices": True, "indices_are_sorted": True, "mode": "promise_in_bounds"}
"""For indices that are constants: else XLA looks at each of them when it compiles, for seconds at H=512."""


def skew(lower: Float[Array, " L"], size: int) -> Float[Array, "H H"]:
    """The skew-symmetric matrix whose H (H - 1) / 2 numbers below the diagonal are these, row by row."""
    below = jnp.zeros((size, size), lower.dtype).at[np.tril_indices(size, -1)].set(lower, **_IN_PLACE)
    return below - below.T


def below_diagonal(a: Float[Array, "H H"]) -> Float[Array, " L"]:
    """The numbers that `skew` takes, of any matrix."""
    return a.at[np.tril_indices(a.shape[0], -1)].get(**_IN_PLACE)


def above_diagonal(upper: Float[Array, " L"], size: int) -> Float[Array, "H H"]:
    """The matrix whose numbers above the diagonal are these, row by row, and all others 0."""
    return jnp.zeros((size, size), upper.dtype).at[np.triu_indices(size, 1)].set(upper, **_IN_PLACE)


def size_of(lower: Float[Array, " L"]) -> int:
    """H of L = H (H - 1) / 2."""
    return (1 + math.isqrt(1 + 8 * lower.shape[0])) // 2


# --- orthogonal matrices ---------------------------------------------------------------------------------------------


def polished(q: Float[Array, "H H"]) -> Float[Array, "H H"]:
    """Q (3 I - QᵀQ) / 2: a matrix that is orthogonal but for rounding, with what is left of that error squared.

    A step of Newton's iteration for the polar factor. At an orthogonal matrix it is the identity, and so is its
    derivative along all directions in which Q may move.
    """
    return 1.5 * q - 0.5 * product(q, product(q.T, q))


def error_of_orthogonality(q: Float[Array, "H H"]) -> Float[Array, ""]:
    """max |QᵀQ - I|."""
    return jnp.abs(product(q.T, q) - jnp.eye(q.shape[0], dtype=q.dtype)).max()


def nearest_orthogonal(a: Float[Array, "H H"]) -> Float[Array, "H H"]:
    """A itself where it is orthogonal to 1e-5, else the orthogonal matrix of least distance, its polar factor."""

    def polar(a: jax.Array) -> jax.Array:
        left, _, right = jnp.linalg.svd(a)
        return polished(product(left, right))

    return lax.cond(error_of_orthogonality(a) < 1e-5, lambda a: a, polar, a)


def exponential(a: Float[Array, "H H"]) -> Float[Array, "H H"]:
    """exp(A) of a skew-symmetric matrix; its derivatives hold along skew-symmetric matrices.

    On one x86 core in single precision, with the gradient, 2 ms at H=170; a Cayley transform takes half of it. Sixteen
    terms of Taylor's series with one of several numbers of squarings took as long.
    """
    return polished(expm(a))


def cayley(a: Float[Array, "H H"]) -> Float[Array, "H H"]:
    """(I - A)⁻¹ (I + A) of a skew-symmetric matrix, which is orthogonal; its derivatives hold along such matrices."""
    one = jnp.eye(a.shape[0], dtype=a.dtype)
    return polished(jnp.linalg.solve(one - a, one + a))


def reflections(vectors: Float[Array, "H N"]) -> Float[Array, "H H"]:
    """(I - 2 v₁v₁ᵀ / ‖v₁‖²) ⋯ (I - 2 vₙvₙᵀ / ‖vₙ‖²) of the columns, none of which is zero.

    As I - V S⁻¹ Vᵀ with S upper triangular, the part of VᵀV above its diagonal and half of that diagonal (Puglisi,
    1992): products in place of n steps.
    """
    gram = product(vectors.T, vectors)
    upper = jnp.triu(gram, 1) + jnp.diag(jnp.diag(gram) / 2)
    rest = product(vectors, jax.scipy.linalg.solve_triangular(upper, vectors.T))
    return polished(jnp.eye(vectors.shape[0], dtype=vectors.dtype) - rest)


def _places(size: int, vectors: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the trained numbers of reflections stand in a matrix of their vectors."""
    return np.tril_indices(size, -1, vectors)


def no_reflections(drawn: Float[Array, "H H"], vectors: int) -> Float[Array, " L"]:
    """The numbers of `reflection_vectors` that are the axes."""
    return jnp.zeros(len(_places(drawn.shape[0], vectors)[0]), drawn.dtype)


def reflection_vectors(kernel: Float[Array, " L"], size: int, vectors: int) -> Float[Array, "H N"]:
    """Vectors for `reflections`: the i-th is 0 above its i-th number, which is 1, and has these numbers below."""
    return jnp.eye(size, vectors, dtype=kernel.dtype).at[_places(size, vectors)].set(kernel, **_IN_PLACE)


# --- quasi-triangular matrices ---------------------------------------------------------------------------------------


def rotations(angles: Float[Array, " N"], scales: Float[Array, " N"], size: int) -> Float[Array, "H H"]:
    """γ times rotations by θ two by two on the diagonal; the last of an odd number is γ cos θ."""
    pairs = np.arange(size // 2)
    cosines, sines = scales * jnp.cos(angles), scales * jnp.sin(angles)
    blocks = jnp.diag(jnp.repeat(cosines, 2)[:size])
    blocks = blocks.at[2 * pairs, 2 * pairs + 1].set(-sines[: size // 2])
    return blocks.at[2 * pairs + 1, 2 * pairs].set(sines[: size // 2])


def schur_arrays(drawn: Any) -> dict[str, np.ndarray]:
    """The arrays of `NonNormal` by the real Schur form of a matrix, its pairs of complex eigenvalues first."""
    drawn = np.asarray(drawn)
    theta, base = np.eye(len(drawn)), np.eye(len(drawn))
    if np.isfinite(drawn).all():
        below = np.tril(drawn, -1)
        below[np.arange(1, len(drawn), 2), np.arange(0, len(drawn) - 1, 2)] = 0
        if below.any():
            import scipy.linalg  # Here: the import takes a tenth of a second.

            theta, base, _ = scipy.linalg.schur(  # pyright: ignore[reportAssignmentType]
                drawn.astype(float), output="real", sort=lambda real, imaginary: abs(imaginary) > 1e-6
            )
        else:  # It is of that form already.
            theta = drawn.astype(float)
    pairs = np.arange(len(drawn) // 2)
    first, second = theta[2 * pairs, 2 * pairs], theta[2 * pairs + 1, 2 * pairs + 1]
    sines = theta[2 * pairs + 1, 2 * pairs]
    equal = np.abs(first - second) <= 1e-5 * (np.abs(first) + np.abs(second)) + 1e-7
    cosines = np.where(equal, (first + second) / 2, np.copysign(np.hypot(first, second) / np.sqrt(2), first + second))
    angles, scales = np.arctan2(sines, cosines), np.hypot(sines, cosines)
    if len(drawn) % 2:
        angles = np.append(angles, 0 if theta[-1, -1] >= 0 else np.pi)
        scales = np.append(scales, np.abs(theta[-1, -1]))
    theta[2 * pairs, 2 * pairs + 1] += sines  # The rotation has -γ sin θ there.
    arrays = {"angles": angles, "scales": scales, "upper": theta[np.triu_indices(len(theta), 1)], "base": base}
    return {name: array.astype(drawn.dtype) for name, array in arrays.items()}
