"""Every entry of ACTIVATIONS against its formula and the derivative of it, at ordinary and at extreme inputs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rnnlab.ops.activations import ACTIVATIONS, Hyperparameter, as_activation
from tests.helpers import float64

Formula = Callable[[np.ndarray], np.ndarray]


def logistic(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -x))


def below_zero(x: np.ndarray, negative: Any, positive: Any) -> np.ndarray:
    """negative at 0 too: the derivative of a rectifier at its kink is that from the left."""
    return np.where(x > 0, positive, negative)


# name -> (f, f'), of those that have a formula in NumPy.
FORMULAS: dict[str, tuple[Formula, Formula]] = {
    "tanh": (np.tanh, lambda x: 1 / np.cosh(np.clip(x, -300, 300)) ** 2),
    "sigmoid": (logistic, lambda x: logistic(x) * logistic(-x)),
    "relu": (lambda x: np.maximum(x, 0), lambda x: below_zero(x, 0, 1)),
    "leaky_relu": (lambda x: below_zero(x, 0.01 * x, x), lambda x: below_zero(x, 0.01, 1)),
    "elu": (
        lambda x: below_zero(x, np.expm1(np.minimum(x, 0)), x),
        lambda x: below_zero(x, np.exp(np.minimum(x, 0)), 1),
    ),
    "linear": (lambda x: x, np.ones_like),
}

# Parameters other than the defaults, with the names that PyTorch has for them.
PARAMETERS = [("leaky_relu", "slope", 0.2, "leaky_relu", "negative_slope"), ("elu", "alpha", 0.7, "elu", "alpha")]

ORDINARY = np.concatenate([np.linspace(-8, 8, 201), [1e-12, -1e-12]])
EXTREME = np.array([1e4, -1e4, 0.0, -0.0, 1e-30, -1e-30])
EPS = np.finfo(np.float64).eps


@pytest.mark.parametrize("name", FORMULAS)
def test_values_and_derivatives_equal_the_formula(name):
    value, derivative = FORMULAS[name]
    with float64():
        actual, slope = jax.vmap(jax.value_and_grad(as_activation(name)))(jnp.asarray(ORDINARY))
        # The logistic function is half of 1 + tanh: its error is relative to 1, also where its value is small.
        np.testing.assert_allclose(actual, value(ORDINARY), rtol=4 * EPS, atol=EPS if name == "sigmoid" else 0)
        np.testing.assert_allclose(slope, derivative(ORDINARY), rtol=4 * EPS, atol=1e-15)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_derivative_is_that_of_the_values(name):
    with float64():
        f, step = as_activation(name), 1e-5
        x = jnp.linspace(-3.05, 3.05, 62)  # No kink within a step of them.
        slope = jax.vmap(jax.grad(f))(x)
        np.testing.assert_allclose(slope, (f(x + step) - f(x - step)) / (2 * step), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values_and_derivatives_are_right_at_extreme_inputs(name, dtype):
    value, derivative = FORMULAS[name]
    x = EXTREME.astype(dtype)
    exact, rtol = x.astype(np.float64), 4 * np.finfo(dtype).eps
    with jax.enable_x64(dtype == np.float64):
        actual, slope = jax.vmap(jax.value_and_grad(as_activation(name)))(jnp.asarray(x))
        assert actual.dtype == slope.dtype == dtype
        np.testing.assert_allclose(actual, value(exact), rtol=rtol, atol=1e-200)
        np.testing.assert_allclose(slope, derivative(exact), rtol=rtol, atol=1e-200)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_second_derivatives_are_finite(name):
    curvature = jax.vmap(jax.grad(jax.grad(as_activation(name))))(jnp.asarray(EXTREME, jnp.float32))
    assert np.isfinite(curvature).all()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_shape_is_kept_and_elements_do_not_mix(name):
    f, x = as_activation(name), jnp.linspace(-3, 3, 24)
    np.testing.assert_array_equal(f(x.reshape(2, 3, 4)), f(x).reshape(2, 3, 4))


@pytest.mark.parametrize(("name", "parameter", "number", "function", "argument"), PARAMETERS)
def test_parameter_means_what_it_means_in_torch(name, parameter, number, function, argument):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    x = torch.tensor(ORDINARY, requires_grad=True)
    y = getattr(torch.nn.functional, function)(x, **{argument: number})
    y.sum().backward()
    with float64():
        f = as_activation({"name": name, parameter: number})
        actual, slope = jax.vmap(jax.value_and_grad(f))(jnp.asarray(ORDINARY))
        np.testing.assert_allclose(actual, y.detach().numpy(), rtol=4 * EPS)
        np.testing.assert_allclose(slope, x.grad.numpy(), rtol=4 * EPS, atol=1e-15)


@pytest.mark.parametrize(("name", "parameter", "number"), [entry[:3] for entry in PARAMETERS])
def test_parameter_may_be_swept_and_is_not_trained(name, parameter, number):
    x = jnp.asarray(ORDINARY, jnp.float32)
    # x is an argument: of a constant, the compiler takes expm1 itself, and not as its code does (4 units in the last
    # place apart).
    traced = jax.jit(lambda value, x: as_activation({"name": name, parameter: value})(x))
    np.testing.assert_array_equal(traced(number, x), as_activation({"name": name, parameter: number})(x))
    assert not np.allclose(traced(number, x), traced(2 * number, x))
    assert traced._cache_size() == 1
    module = as_activation({"name": name, parameter: number})
    assert len(jax.tree.leaves(nnx.state(module, Hyperparameter))) == 1
    assert not jax.tree.leaves(nnx.state(module, nnx.Param))


def test_a_function_stands_for_itself():
    assert as_activation(jnp.sin) is jnp.sin
