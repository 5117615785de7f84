"""The vanilla RNN with any activation, and the IRNN as a preset of it."""

import functools

from rnnlab.cells.base import Cell
from rnnlab.ops.activations import ActivationSpec
from rnnlab.typing import Carry, Parts


class Vanilla(Cell, without=("chrono",)):
    """h_t = f(x_t W + h_{t-1} R + b) (Elman, 1990)."""

    activation: ActivationSpec = "tanh"
    """f."""

    def gates(self, carry: Carry, z: Parts, u: Parts) -> Carry:
        return (self.activation(z[0] + u[0]),)  # pyright: ignore[reportCallIssue]


irnn = functools.partial(
    Vanilla, activation="relu", input_init="small_normal", recurrent_init="identity", bias_init="zeros"
)
"""The vanilla cell with rectified linear units, R = I, b = 0 and all other weights from N(0, 0.001²)
(Le, Jaitly and Hinton, 2015, section 3)."""
