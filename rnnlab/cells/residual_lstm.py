"""The residual LSTM."""

from dataclasses import InitVar
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx

from rnnlab.cells.shortcut import ShortcutCell
from rnnlab.config.bounds import Traced
from rnnlab.engine import Multiply
from rnnlab.ops.activations import sigmoid, tanh
from rnnlab.ops.initializers import InitializerSpec, as_initializer
from rnnlab.typing import Carry, Parts


class ResidualLSTM(ShortcutCell):
    """An LSTM with a way from its input to its output; gates in the order i, f, g, o; carry (h, c).

        i = σ(x W_i + h R_i + p_i ∘ c + b_i)    f = σ(x W_f + h R_f + p_f ∘ c + b_f)
        g = tanh(x W_g + h R_g + b_g)           c' = f ∘ c + i ∘ g
        o = σ(x W_o + h R_o + p_o ∘ c' + b_o)   h' = o ∘ (tanh(c') R_m + x)

    (Kim, El-Khamy and Lee, 2017.) The x of the last line is x P where D is not H; torchrecurrent has a P in
    any case. It is known for stacks of ten layers, whose output gates also weigh the way around each layer.
    """

    gate_names = ("i", "f", "g", "o")
    carry_names = ("h", "c")
    products: ClassVar = {"recurrent": ("i", "f", "g", "o"), "projection": ("m",)}
    chrono_signs = (-1, 1, 0, 0)
    recurrent_parameters = ("recurrent_kernel", "peephole_kernel")

    forget_bias: InitVar[Traced[float]] = 1.0
    """Added to what bias_init draws for the forget gate, unless chrono says how long it keeps."""
    peephole_init: InitVar[InitializerSpec] = "small_normal"
    """How the peepholes are drawn."""

    def initialize(self, options: Any, rngs: nnx.Rngs) -> None:
        super().initialize(options, rngs)
        if options.chrono is None:
            self.bias[...] = self.bias[...].at[self.features : 2 * self.features].add(options.forget_bias)
        shape = (3, self.features)  # The rows are p_i, p_f, p_o.
        self.peephole_kernel = nnx.Param(as_initializer(options.peephole_init)(rngs.params(), shape, jnp.float32))

    def step(self, carry: Carry, z: Parts, multiply: Multiply) -> Carry:
        (h, c), (x, *z), (p_i, p_f, p_o) = carry, z, self.peephole_kernel[...]
        i, f, g, o = map(jnp.add, z, multiply("recurrent", h))
        c_new = sigmoid(f + p_f * c) * c + sigmoid(i + p_i * c) * tanh(g)
        (m,) = multiply("projection", tanh(c_new))
        return (sigmoid(o + p_o * c_new) * (m + x), c_new)
