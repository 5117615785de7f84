"""Products and the affine map: against plain products in double precision, and what each precision rounds."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab.ops.linear import _NARROW, _POINTWISE, Precision, affine, matmul
from tests.helpers import assert_close, float64, random_array

R, K, M = 6, 5, 4


@pytest.mark.parametrize("shape", [(K,), (1,), (2, 3, _POINTWISE), (3, K), (2, 3, K), (2, 3, _NARROW + 1)])
def test_affine_and_its_gradients_are_those_of_x_w_plus_b(shape):
    with float64():
        x, kernel, bias = random_array(0, *shape), random_array(1, shape[-1], M), random_array(2, M)
        weights = random_array(3, *shape[:-1], M)

        def gradients(function):
            return jax.value_and_grad(lambda *point: jnp.vdot(weights, function(*point)), (0, 1, 2))(x, kernel, bias)

        assert_close(gradients(affine), gradients(lambda x, kernel, bias: x @ kernel + bias), 1e-13)


@pytest.mark.slow
def test_second_derivatives_of_a_narrow_affine_map_are_those_of_x_w_plus_b():
    with float64():
        point = random_array(0, 3, 2), random_array(1, 2, M), random_array(2, M)

        def second(function):
            return jax.hessian(lambda *point: jnp.sum(jnp.sin(function(*point))), (0, 1, 2))(*point)

        assert_close(second(affine), second(lambda x, kernel, bias: x @ kernel + bias), 1e-13)


@pytest.mark.parametrize("width", [1, _POINTWISE - 1, _POINTWISE + 1, _NARROW, _NARROW + 9])
@pytest.mark.parametrize("precision", get_args(Precision))
def test_affine_refuses_inputs_of_another_width_and_says_both_shapes(width, precision):
    x, kernel, bias = random_array(0, 2, width), random_array(1, _POINTWISE, M), random_array(2, M)
    with pytest.raises(ValueError, match=rf"\(2, {width}\).*\({_POINTWISE}, {M}\)"):
        jax.jit(affine, static_argnums=3)(x, kernel, bias, precision)


@pytest.mark.parametrize("width", [_POINTWISE, _NARROW, _NARROW + 1])
@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32"])
def test_affine_takes_integers_as_numbers_and_gives_the_kernel_its_gradient(width, dtype):
    x = jnp.asarray(np.random.default_rng(0).integers(0, 2, (5, width)), dtype)
    kernel, bias = random_array(1, width, M), random_array(2, M)

    def gradients(x):
        return jax.value_and_grad(lambda *p: jnp.sin(affine(x, *p)).sum(), (0, 1))(kernel, bias)

    assert_close(gradients(x), gradients(x.astype(kernel.dtype)), 0)


ROUNDED = {"tf32": lambda a: tf32(a), "bfloat16": lambda a: np.asarray(a.astype(jnp.bfloat16)).astype(np.float64)}
"""What a precision keeps of an array, in double precision."""


def tf32(a: jax.Array) -> np.ndarray:
    """The nearest numbers with 11 significant bits; of two as near the even one."""
    fraction, exponent = np.frexp(np.asarray(a, np.float64))
    return np.ldexp(np.rint(np.ldexp(fraction, 11)), exponent - 11)


@pytest.mark.parametrize("precision", ROUNDED)
def test_operands_are_rounded_and_sums_are_not(precision):
    a, b, d = (random_array(i, *shape) for i, shape in enumerate([(R, K), (K, M), (R, M)]))
    product, pull = jax.vjp(lambda a, b: matmul(a, b, precision), a, b)
    a_r, b_r, d_r = map(ROUNDED[precision], (a, b, d))
    for result, left, right in ((product, a_r, b_r), (pull(d)[0], d_r, b_r.T), (pull(d)[1], a_r.T, d_r)):
        assert result.dtype == jnp.float32
        # Products of two rounded numbers are exact in float32; every one of the sums rounds once.
        bound = left.shape[1] * 2.0**-24 * (np.abs(left) @ np.abs(right))
        assert (np.abs(result - left @ right) <= bound).all()
    assert np.abs(product - a @ b).max() > 1e-4


def test_three_products_in_tf32_are_as_exact_as_one_in_float32_but_for_the_last_bits():
    with float64():
        a, b, d = (random_array(i, *shape) for i, shape in enumerate([(R, K), (K, M), (R, M)]))
        product, pull = jax.vjp(lambda a, b: matmul(a, b, "tf32x3"), *(each.astype(jnp.float32) for each in (a, b)))
        of_a, of_b = pull(d.astype(jnp.float32))
        for result, left, right in ((product, a, b), (of_a, d, b.T), (of_b, a.T, d)):
            bound = (left.shape[1] + 8) * 2.0**-23 * (np.abs(left) @ np.abs(right))
            assert (np.abs(result - left @ right) <= bound).all()


@pytest.mark.parametrize("precision", get_args(Precision))
def test_products_of_what_is_not_finite_are_not_finite(precision):
    a = jnp.array([[jnp.inf, 1.0], [jnp.nan, 1.0], [3e38, 0.0]])
    product = matmul(a, jnp.ones((2, 1)), precision)[:, 0]
    assert not jnp.isfinite(product[:2]).any()
    assert product[2] == pytest.approx(3e38, rel=2e-3)


@pytest.mark.parametrize("precision", get_args(Precision)[1:])
def test_rounding_leaves_the_bias_alone(precision):
    bias = jnp.full(M, 1.001)
    np.testing.assert_array_equal(affine(jnp.zeros((2, K)), jnp.ones((K, M)), bias, precision), jnp.stack([bias] * 2))
