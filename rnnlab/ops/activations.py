"""Activation functions: name -> factory -> callable on arrays of any shape.

The ones with a parameter are modules that hold it as a `Hyperparameter`: an array that a sweep may vary and training
does not touch.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from flax import nnx

from rnnlab.config.bounds import Traced
from rnnlab.config.outside import Table
from rnnlab.config.schema import build
from rnnlab.typing import Activation


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
    """The logistic function as 0.5 tanh(x / 2) + 0.5: 14 ms against 26 ms for `jax.nn.sigmoid` in an LSTM's forward
    pass compiled for x86 by XLA."""
    return 0.5 * jnp.tanh(0.5 * x) + 0.5


@sigmoid.defjvp
def _sigmoid_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    y = sigmoid(*primals)
    return y, tangents[0] * (y * (1 - y))


@_WithDerivative
def tanh(x: jax.Array) -> jax.Array:
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


ACTIVATIONS: Table[Callable[..., Activation]] = Table(
    {
        "tanh": lambda: tanh,
        "sigmoid": lambda: sigmoid,
        "relu": lambda: relu,
        "leaky_relu": LeakyReLU,
        "elu": ELU,
        "linear": lambda: linear,
    },
    "a function of an array",
)

ActivationSpec = Annotated[str | Mapping[str, Any] | Activation, ACTIVATIONS]
"""A name in `ACTIVATIONS`, a section with that name and its parameters, or the function itself."""


def as_activation(spec: str | Mapping[str, Any] | Activation) -> Activation:
    """The activation that an `ActivationSpec` stands for."""
    return spec if callable(spec) else build(ACTIVATIONS, spec, "activation")
