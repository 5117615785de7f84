"""Activation functions: name -> factory -> callable on arrays of any shape.

The ones with a number of their own are modules that hold it as a `Hyperparameter`: an array that a sweep may vary and
training does not touch. One whose units have trained parameters is a `PerUnit` until a cell says how many there are.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from flax import nnx

from rnnlab.config.bounds import Traced
from rnnlab.config.outside import Table
from rnnlab.config.schema import build
from rnnlab.ops.initializers import InitializerSpec, as_initializer
from rnnlab.typing import Activation, Array, Float


class Hyperparameter(nnx.Variable):
    """A number of a module that enters the compiled step as an array and is not trained."""


def hyperparameter(value: float | jax.Array) -> Hyperparameter:
    """A `Hyperparameter` from a Python number or a traced one."""
    return Hyperparameter(jnp.asarray(value))


class _WithDerivative(jax.custom_jvp):
    """`jax.custom_jvp` of a function of this module, which pickle finds by its name."""

    def __reduce__(self) -> str:
        return self.__qualname__


@_WithDerivative
def sigmoid(x: jax.Array) -> jax.Array:
    """The logistic function, 1 / (1 + exp(-x)).

    As 0.5 tanh(x / 2) + 0.5: 14 ms against 26 ms for `jax.nn.sigmoid` in an LSTM's forward pass compiled for x86 by
    XLA.
    """
    return 0.5 * jnp.tanh(0.5 * x) + 0.5


@sigmoid.defjvp
def _sigmoid_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    y = sigmoid(*primals)
    return y, tangents[0] * (y * (1 - y))


@_WithDerivative
def tanh(x: jax.Array) -> jax.Array:
    """(exp(x) - exp(-x)) / (exp(x) + exp(-x)); its derivative is (1 - y) (1 + y)."""
    return jnp.tanh(x)


@tanh.defjvp
def _tanh_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    y = tanh(*primals)
    return y, tangents[0] * ((1 - y) * (1 + y))


@_WithDerivative
def relu(x: jax.Array) -> jax.Array:
    """max(x, 0), with derivative 0 at 0."""
    return jnp.where(x > 0, x, 0)


@relu.defjvp
def _relu_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    y = relu(*primals)  # From y, so that a backward pass needs the outputs alone, not what they were made of.
    return y, jnp.where(y > 0, tangents[0], 0)


def linear(x: jax.Array) -> jax.Array:
    """x."""
    return x


@_WithDerivative
def softsign(x: jax.Array) -> jax.Array:
    """x / (1 + |x|) (Bergstra et al., 2009); its derivative is (1 - |y|)²."""
    return x / (1 + jnp.abs(x))


@softsign.defjvp
def _softsign_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    y = softsign(*primals)
    rest = 1 - jnp.abs(y)
    return y, tangents[0] * (rest * rest)


@_WithDerivative
def hard_tanh(x: jax.Array) -> jax.Array:
    """x within [-1, 1], with derivative 0 at both ends."""
    return jnp.clip(x, -1, 1)


@hard_tanh.defjvp
def _hard_tanh_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    y = hard_tanh(*primals)
    return y, jnp.where(jnp.abs(y) < 1, tangents[0], 0)


@_WithDerivative
def hard_sigmoid(x: jax.Array) -> jax.Array:
    """x / 6 + 1 / 2 within [0, 1], as PyTorch and Keras 3 have it, with derivative 0 at both ends."""
    return jnp.clip((x + 3) / 6, 0, 1)


@hard_sigmoid.defjvp
def _hard_sigmoid_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    y = hard_sigmoid(*primals)
    return y, jnp.where((y > 0) & (y < 1), tangents[0] / 6, 0)


@_WithDerivative
def swish(x: jax.Array) -> jax.Array:
    """x σ(x) (Ramachandran et al., 2017; also SiLU: Elfwing et al., 2018)."""
    return x * sigmoid(x)


@swish.defjvp
def _swish_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    (x,) = primals
    s = sigmoid(x)
    y = x * s
    return y, tangents[0] * (s + y * (1 - s))


@_WithDerivative
def gelu(x: jax.Array) -> jax.Array:
    """x σ(2 √(2 / π) (x + 0.044715 x³)), the form of Hendrycks and Gimpel (2016) that has no erf, with its tanh as a
    logistic function, whose small values are exact: 5e-4 from x Φ(x) at most."""
    return x * _gelu_gate(x)


_GELU_SCALE, _GELU_CUBE = 2 * math.sqrt(2 / math.pi), 0.044715
_GELU_FLAT = 30.0
"""Past this |x| the logistic function within is 0 or 1 in double precision."""


def _gelu_gate(x: jax.Array) -> jax.Array:
    x = jnp.clip(x, -_GELU_FLAT, _GELU_FLAT)  # The cube of more might overflow.
    return jax.nn.sigmoid(_GELU_SCALE * x * (1 + _GELU_CUBE * (x * x)))


@gelu.defjvp
def _gelu_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    (x,) = primals
    gate, other, near = _gelu_gate(x), _gelu_gate(-x), jnp.clip(x, -_GELU_FLAT, _GELU_FLAT)
    slope = _GELU_SCALE * (1 + 3 * _GELU_CUBE * (near * near))
    return x * gate, tangents[0] * (gate + near * (gate * other) * slope)


class LeakyReLU(nnx.Module):
    """x where x > 0, else slope · x."""

    def __init__(self, slope: Traced[float] = 0.01):
        self.slope = hyperparameter(slope)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.where(x > 0, x, self.slope[...] * x)


class ELU(nnx.Module):
    """x where x > 0, else alpha (exp(x) - 1) (Clevert et al., 2016, eq. 15)."""

    def __init__(self, alpha: Traced[float] = 1.0):
        self.alpha = hyperparameter(alpha)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.where(x > 0, x, self.alpha[...] * jnp.expm1(jnp.where(x > 0, 0, x)))


# --- with trained parameters -----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class PerUnit:
    """An activation whose units have parameters, before it is known how many they are: what the factory of such a one
    gives. A cell takes `for_units` of it, once, in its constructor."""

    make: Callable[[int, nnx.Rngs], Activation]
    """(H, where random numbers come from) -> the activation, a module with its parameters. One whose name ends in
    `bias` counts as a bias, one in `kernel` as a kernel, in decay and penalties."""

    def for_units(self, features: int, rngs: nnx.Rngs) -> Activation:
        """The activation of H units, with parameters of its own."""
        return self.make(features, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        raise TypeError("this activation has parameters for each unit; apply activation.for_units(features, rngs)")


@jax.custom_jvp
def _modrelu(x: jax.Array, bias: jax.Array) -> jax.Array:
    return jnp.sign(x) * jnp.maximum(jnp.abs(x) + bias, 0)  # In diagnostics a unit that may be dead, by this maximum.


@_modrelu.defjvp
def _modrelu_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    y, (_, bias), (dx, dbias) = _modrelu(*primals), primals, tangents
    # From y, which has the sign of x wherever it is not 0; where b ≥ 0 it is 0 at x = 0 alone.
    return y, jnp.where((y != 0) | (bias >= 0), dx, 0) + jnp.sign(y) * dbias


class ModReLU(nnx.Module):
    """sign(x) max(|x| + b, 0), what modReLU (Arjovsky et al., 2016, eq. 8) is for real numbers.

    Where it lets x through its derivative is 1, also at x = 0 for b ≥ 0: with b = 0 it is the identity, and a state of
    zeros passes gradients on. (|x| differentiated by the book has the derivative 0 there.)
    """

    def __init__(self, bias: Float[Array, " H"]):
        """b."""
        self.bias = nnx.Param(bias)

    def __call__(self, x: Float[Array, "... H"]) -> Float[Array, "... H"]:
        return _modrelu(x, self.bias[...])


_NEAR_ZERO = {"name": "uniform", "scale": 0.01}


def modrelu(bias_init: InitializerSpec = _NEAR_ZERO) -> PerUnit:
    """sign(x) max(|x| + b, 0) with a trained b for each unit, from U[±0.01] as in expRNN's and scoRNN's code."""
    draw = as_initializer(bias_init)
    return PerUnit(lambda features, rngs: ModReLU(draw(rngs.params(), (features,), jnp.float32)))


def _no_options(function: Activation) -> Callable[[], Activation]:
    """A factory of the function itself, with its doc."""

    def make() -> Activation:
        return function

    make.__doc__ = function.__doc__
    return make


ACTIVATIONS: Table[Callable[..., Activation]] = Table(
    {
        "tanh": _no_options(tanh),
        "sigmoid": _no_options(sigmoid),
        "relu": _no_options(relu),
        "leaky_relu": LeakyReLU,
        "elu": ELU,
        "softsign": _no_options(softsign),
        "hard_tanh": _no_options(hard_tanh),
        "hard_sigmoid": _no_options(hard_sigmoid),
        "swish": _no_options(swish),
        "gelu": _no_options(gelu),
        "modrelu": modrelu,
        "linear": _no_options(linear),
    },
    "a function of an array",
)

ActivationSpec = Annotated[str | Mapping[str, Any] | Activation, ACTIVATIONS]
"""A name in `ACTIVATIONS`, a section with that name and its parameters, or the function itself."""


def as_activation(spec: str | Mapping[str, Any] | Activation) -> Activation:
    """The activation that an `ActivationSpec` stands for."""
    return spec if callable(spec) else build(ACTIVATIONS, spec, "activation")
