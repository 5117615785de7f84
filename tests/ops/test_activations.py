"""Every entry of ACTIVATIONS against its formula and the derivative of it, at ordinary and at extreme inputs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rnnlab.ops.activations import ACTIVATIONS, Hyperparameter, ModReLU, PerUnit, as_activation
from tests.helpers import float64

Formula = Callable[[np.ndarray], np.ndarray]
EPS = np.finfo(np.float64).eps


def logistic(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -x))


def gelu_sigmoid(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(σ(2 a), 2 σ'(2 a) da/dx), where a is what the tanh of GELU sees."""
    a = np.sqrt(8 / np.pi) * (x + 0.044715 * x**3)
    return logistic(a), logistic(a) * logistic(-a) * np.sqrt(8 / np.pi) * (1 + 3 * 0.044715 * x**2)


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
    "softsign": (lambda x: x / (1 + np.abs(x)), lambda x: 1 / (1 + np.abs(x)) ** 2),
    "hard_tanh": (lambda x: np.clip(x, -1, 1), lambda x: np.where(np.abs(x) < 1, 1, 0)),
    "hard_sigmoid": (lambda x: np.clip((x + 3) / 6, 0, 1), lambda x: np.where(np.abs(x) < 3, 1 / 6, 0)),
    "swish": (lambda x: x * logistic(x), lambda x: logistic(x) * (1 + x * logistic(-x))),
    "gelu": (lambda x: x * gelu_sigmoid(x)[0], lambda x: gelu_sigmoid(x)[0] + x * gelu_sigmoid(x)[1]),
}
# What is made of numbers near 1 has errors that are relative to these: half of 1 + tanh, and (1 - |y|)² at 1e4.
VALUE_ERRORS = {"sigmoid": EPS, "swish": 8 * EPS, "gelu": EPS}
SLOPE_ERRORS = {"gelu": 4 * EPS}
SLOPE_ERRORS_AT_EXTREMES = {"softsign": 1e-4}
"""In units of eps."""

# Parameters other than the defaults, with the names that PyTorch has for them.
PARAMETERS = [("leaky_relu", "slope", 0.2, "leaky_relu", "negative_slope"), ("elu", "alpha", 0.7, "elu", "alpha")]

ORDINARY = np.concatenate([np.linspace(-8, 8, 201), [1e-12, -1e-12]])
EXTREME = np.array([1e4, -1e4, 0.0, -0.0, 1e-30, -1e-30])


def of_numbers(name: str) -> Callable[[jax.Array], jax.Array]:
    """An entry of the table, for one number or several; where it has parameters, all its units have the same."""
    f = as_activation(name)
    if not isinstance(f, PerUnit):
        return f
    one = f.for_units(1, nnx.Rngs(0))
    return lambda x: one(x[..., None])[..., 0]


@pytest.mark.parametrize("name", FORMULAS)
def test_values_and_derivatives_equal_the_formula(name):
    value, derivative = FORMULAS[name]
    with float64():
        actual, slope = jax.vmap(jax.value_and_grad(as_activation(name)))(jnp.asarray(ORDINARY))
        np.testing.assert_allclose(actual, value(ORDINARY), rtol=4 * EPS, atol=VALUE_ERRORS.get(name, 0))
        np.testing.assert_allclose(slope, derivative(ORDINARY), rtol=4 * EPS, atol=SLOPE_ERRORS.get(name, 1e-15))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_derivative_is_that_of_the_values(name):
    with float64():
        f, step = of_numbers(name), 1e-5
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
        atol = 1e-200 + SLOPE_ERRORS_AT_EXTREMES.get(name, 0) * float(np.finfo(dtype).eps)
        np.testing.assert_allclose(slope, derivative(exact), rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_second_derivatives_are_finite(name):
    curvature = jax.vmap(jax.grad(jax.grad(of_numbers(name))))(jnp.asarray(EXTREME, jnp.float32))
    assert np.isfinite(curvature).all()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_shape_is_kept_and_elements_do_not_mix(name):
    f, x = of_numbers(name), jnp.linspace(-3, 3, 24)
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


# --- with parameters for each unit -----------------------------------------------------------------------------------

BIASES = np.array([-1.0, -0.5, 0.0, 0.5])


def modrelu(x: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(The value, its derivative by x, that by b); between the kinks of |x| + b = 0 they are zero."""
    inside = np.abs(x) <= -b
    return (
        np.where(inside, 0, np.sign(x) * (np.abs(x) + b)),
        np.where(inside & (b < 0), 0.0, 1.0),
        np.where(inside, 0, np.sign(x)),
    )


def test_modrelu_equals_its_formula_with_the_derivative_of_the_identity_at_zero():
    x = np.concatenate([ORDINARY, EXTREME, [0.5, -0.5, 1.0, -1.0]])[:, None] + np.zeros(len(BIASES))
    with float64():
        y, pull = jax.vjp(lambda x, b: ModReLU(b)(x), jnp.asarray(x), jnp.asarray(BIASES))
        value, by_x, by_b = modrelu(x, BIASES)
        np.testing.assert_array_equal(y, value)
        dx, db = pull(jnp.ones_like(y))
        np.testing.assert_array_equal(dx, by_x)
        np.testing.assert_allclose(db, by_b.sum(0), rtol=1e-15)
        np.testing.assert_array_equal(dx[x == 0].reshape(-1, len(BIASES)), [[0, 0, 1, 1]] * 3)


def test_modrelu_has_a_bias_for_each_unit_drawn_near_zero():
    one, other = (as_activation("modrelu").for_units(400, nnx.Rngs(seed)) for seed in (0, 1))
    (name,) = nnx.to_pure_dict(nnx.state(one, nnx.Param))
    assert name == "bias"
    assert one.bias.shape == (400,)
    assert 0.0098 < np.abs(one.bias[...]).max() <= 0.01
    assert np.abs(one.bias[...].mean()) < 4 * 0.01 / np.sqrt(3 * 400)
    assert not np.array_equal(one.bias[...], other.bias[...])
    fixed = as_activation({"name": "modrelu", "bias_init": {"name": "constant", "value": -0.25}})
    np.testing.assert_array_equal(fixed.for_units(3, nnx.Rngs(0)).bias[...], -0.25)


def test_an_activation_without_its_units_says_what_it_lacks():
    with pytest.raises(TypeError, match=r"activation\.for_units\(features, rngs\)"):
        as_activation("modrelu")(jnp.ones(3))


@pytest.mark.parametrize(
    ("name", "torch_name"),
    [("softsign", "softsign"), ("hard_tanh", "hardtanh"), ("hard_sigmoid", "hardsigmoid"), ("swish", "silu")],
)
def test_names_mean_what_they_mean_in_torch(name, torch_name):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    x = torch.tensor(ORDINARY, requires_grad=True)
    y = getattr(torch.nn.functional, torch_name)(x)
    y.sum().backward()
    with float64():
        actual, slope = jax.vmap(jax.value_and_grad(as_activation(name)))(jnp.asarray(ORDINARY))
        np.testing.assert_allclose(actual, y.detach().numpy(), rtol=4 * EPS, atol=8 * EPS)
        slope_error = 5e-9 if name == "hard_sigmoid" else 1e-15  # PyTorch has 1 / 6 in single precision.
        np.testing.assert_allclose(slope, x.grad.numpy(), rtol=4 * EPS, atol=slope_error)


def test_gelu_is_the_tanh_form_of_torch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    expected = torch.nn.functional.gelu(torch.tensor(ORDINARY), approximate="tanh").numpy()
    with float64():
        np.testing.assert_allclose(as_activation("gelu")(jnp.asarray(ORDINARY)), expected, rtol=0, atol=16 * EPS)


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "swish", "gelu", "softsign", "hard_tanh", "hard_sigmoid"])
def test_loops_compute_no_error_function(name):
    assert "erf" not in str(jax.make_jaxpr(jax.value_and_grad(as_activation(name)))(1.0))
