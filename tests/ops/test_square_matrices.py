"""The functions that recurrent matrices are made of, against SciPy and against what they must leave unchanged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from rnnlab.ops.square_matrices import (
    below_diagonal,
    cayley,
    exponential,
    nearest_orthogonal,
    polished,
    reflections,
    size_of,
    skew,
)
from tests.helpers import float64, random_array

H = 5
SCALES = [0.0, 0.1, 1.0, 10.0, 100.0]
"""A branch of the exponential each."""


def random_skew(seed: int, size: int = H, scale: float = 1.0) -> np.ndarray:
    a = scale * np.random.default_rng(seed).standard_normal((size, size))
    return np.tril(a, -1) - np.tril(a, -1).T


@jax.jit
def value_and_pullback(a: jax.Array, d: jax.Array) -> tuple[jax.Array, jax.Array]:
    value, pull = jax.vjp(exponential, a)
    return value, pull(d)[0]


@pytest.mark.parametrize("scale", SCALES)
def test_exponential_and_its_gradient_equal_those_of_scipy(scale):
    a, d = random_skew(0, scale=scale), np.random.default_rng(1).standard_normal((H, H))
    with float64():
        value, gradient = value_and_pullback(jnp.asarray(a), jnp.asarray(d))
    tolerance = 1e-14 * max(1, np.linalg.norm(a, 2))
    np.testing.assert_allclose(value, scipy.linalg.expm(a), rtol=0, atol=tolerance)
    expected = scipy.linalg.expm_frechet(a.T, d, compute_expm=False)
    gradient, expected = (g - g.T for g in (np.asarray(gradient), expected))  # Skew-symmetric matrices stay such.
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=20 * tolerance * np.abs(expected).max())


@pytest.mark.parametrize("function", [exponential, cayley])
@pytest.mark.parametrize("scale", [0.01, 0.3, 3.0, 30.0])
def test_functions_of_skew_matrices_are_orthogonal_in_single_precision(function, scale):
    q = np.asarray(function(jnp.asarray(random_skew(0, 60, scale), jnp.float32)), float)
    assert np.abs(q.T @ q - np.eye(60)).max() < 2e-6


@pytest.mark.parametrize("function", [exponential, cayley])
def test_zero_gives_the_identity_exactly(function):
    np.testing.assert_array_equal(function(jnp.zeros((H, H))), np.eye(H))


def test_matrices_side_by_side_each_take_their_own_branch():
    with float64():
        stack = jnp.stack([jnp.asarray(random_skew(seed, scale=scale)) for seed, scale in enumerate(SCALES)])
        for value, a in zip(jax.vmap(exponential)(stack), stack, strict=True):
            np.testing.assert_allclose(value, exponential(a), rtol=0, atol=1e-12)


def test_cayley_equals_its_formula():
    a = random_skew(0)
    with float64():
        expected = np.linalg.inv(np.eye(H) - a) @ (np.eye(H) + a)
        np.testing.assert_allclose(cayley(jnp.asarray(a)), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("count", [1, 3, H])
def test_reflections_equal_their_product_one_by_one(count):
    with float64():
        vectors = random_array(0, H, count)
        expected = np.eye(H)
        for v in np.asarray(vectors).T:
            expected = expected @ (np.eye(H) - 2 * np.outer(v, v) / (v @ v))
        np.testing.assert_allclose(reflections(vectors), expected, rtol=0, atol=1e-14)


def test_polish_leaves_values_and_tangents_of_orthogonal_matrices():
    with float64():
        q = jnp.asarray(scipy.linalg.expm(random_skew(0)))
        tangent = q @ random_skew(1)
        value, moved = jax.jvp(polished, (q,), (tangent,))
        np.testing.assert_allclose(value, q, rtol=0, atol=1e-15)
        np.testing.assert_allclose(moved, tangent, rtol=0, atol=1e-14)
        nearly = q + 1e-6 * random_array(2, H, H)
        assert np.abs(polished(nearly).T @ polished(nearly) - np.eye(H)).max() < 1e-11


def test_nearest_orthogonal_matrix_is_the_polar_factor_and_keeps_orthogonal_ones_bit_by_bit():
    q = jnp.asarray(scipy.linalg.expm(random_skew(0)), jnp.float32)
    np.testing.assert_array_equal(nearest_orthogonal(q), q)
    with float64():
        a = random_array(3, H, H)
        np.testing.assert_allclose(nearest_orthogonal(a), scipy.linalg.polar(a)[0], rtol=0, atol=1e-13)


def test_skew_has_the_numbers_below_the_diagonal():
    a = random_skew(0)
    lower = below_diagonal(jnp.asarray(a))
    assert size_of(lower) == H
    np.testing.assert_array_equal(skew(lower, H), jnp.asarray(a))
    assert [size_of(jnp.zeros(size * (size - 1) // 2)) for size in range(1, 70)] == list(range(1, 70))
