"""Long short-term memory."""

import jax.numpy as jnp
from flax import nnx

from rnnlab.activations import sigmoid, tanh
from rnnlab.build import PositiveInt
from rnnlab.cells.base import Cell
from rnnlab.initializers import InitializerSpec, as_initializer
from rnnlab.typing import Carry, Parts


class LSTM(Cell):
    """Gates in the order i, f, g, o (that of PyTorch and cuDNN); carry (h, c).

        i = σ(x W_i + h R_i + b_i)      f = σ(x W_f + h R_f + b_f)
        g = tanh(x W_g + h R_g + b_g)   o = σ(x W_o + h R_o + b_o)
        c' = f ∘ c + i ∘ g              h' = o ∘ tanh(c')

    (Hochreiter and Schmidhuber, 1997, with the forget gate of Gers et al., 2000.) With peepholes (Gers and Schmidhuber,
    2000) i and f also see p_i ∘ c and p_f ∘ c, and o sees p_o ∘ c'.
    """

    gate_names = ("i", "f", "g", "o")
    carry_names = ("h", "c")

    def __init__(
        self,
        in_features: int,
        features: PositiveInt,
        *,
        forget_bias: float = 1.0,
        peepholes: bool = False,
        input_init: InitializerSpec = "glorot_uniform",
        recurrent_init: InitializerSpec = "orthogonal",
        bias_init: InitializerSpec = "zeros",
        peephole_init: InitializerSpec = "small_normal",
        rngs: nnx.Rngs,
    ):
        """forget_bias is added to what bias_init draws for the forget gate."""
        super().__init__(
            in_features,
            features,
            input_init=input_init,
            recurrent_init=recurrent_init,
            bias_init=bias_init,
            rngs=rngs,
        )
        self.bias[...] = self.bias[...].at[features : 2 * features].add(forget_bias)
        shape = (3, features)  # The rows are p_i, p_f, p_o.
        draw = as_initializer(peephole_init)
        self.peephole_kernel = nnx.Param(draw(rngs.params(), shape, jnp.float32)) if peepholes else None

    def gates(self, carry: Carry, z: Parts, u: Parts) -> Carry:
        _, c = carry
        i, f, g, o = map(jnp.add, z, u)
        if self.peephole_kernel is not None:
            p_i, p_f, p_o = self.peephole_kernel[...]
            c_new = sigmoid(f + p_f * c) * c + sigmoid(i + p_i * c) * tanh(g)
            return (sigmoid(o + p_o * c_new) * tanh(c_new), c_new)
        c_new = sigmoid(f) * c + sigmoid(i) * tanh(g)
        return (sigmoid(o) * tanh(c_new), c_new)
