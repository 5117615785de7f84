"""The vanilla RNN with any activation, and the IRNN as a preset of it."""

from flax import nnx

from rnnlab.cells.base import Cell
from rnnlab.config.bounds import PositiveInt
from rnnlab.ops.activations import ActivationSpec, as_activation
from rnnlab.ops.initializers import InitializerSpec
from rnnlab.typing import Carry, Parts


class Vanilla(Cell):
    """h_t = f(x_t W + h_{t-1} R + b) (Elman, 1990)."""

    def __init__(
        self,
        in_features: int,
        features: PositiveInt,
        *,
        activation: ActivationSpec = "tanh",
        input_init: InitializerSpec = "glorot_uniform",
        recurrent_init: InitializerSpec = "orthogonal",
        bias_init: InitializerSpec = "zeros",
        rngs: nnx.Rngs,
    ):
        super().__init__(
            in_features,
            features,
            input_init=input_init,
            recurrent_init=recurrent_init,
            bias_init=bias_init,
            rngs=rngs,
        )
        self.activation = as_activation(activation)

    def gates(self, carry: Carry, z: Parts, u: Parts) -> Carry:
        return (self.activation(z[0] + u[0]),)


def irnn(
    in_features: int,
    features: PositiveInt,
    *,
    activation: ActivationSpec = "relu",
    input_init: InitializerSpec = "small_normal",
    recurrent_init: InitializerSpec = "identity",
    bias_init: InitializerSpec = "zeros",
    rngs: nnx.Rngs,
) -> Vanilla:
    """The vanilla cell with rectified linear units, R = I, b = 0 and all other weights from N(0, 0.001²)
    (Le, Jaitly and Hinton, 2015, section 3)."""
    return Vanilla(
        in_features,
        features,
        activation=activation,
        input_init=input_init,
        recurrent_init=recurrent_init,
        bias_init=bias_init,
        rngs=rngs,
    )
