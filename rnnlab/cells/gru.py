"""Gated recurrent units, in both places of the reset gate."""

from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx

from rnnlab.cells.base import BaseCell, Cell
from rnnlab.engine import Multiply
from rnnlab.ops.activations import sigmoid, tanh
from rnnlab.ops.initializers import as_initializer
from rnnlab.typing import Array, Carry, Float, Parts


class GRU(Cell):
    """Gates in the order r, z, n (that of PyTorch and cuDNN), the reset gate after the product; carry (h,).

        r = σ(x W_r + h R_r + b_r)      z = σ(x W_z + h R_z + b_z)
        n = tanh(x W_n + b_n + r ∘ (h R_n + c_n))
        h' = (1 - z) ∘ n + z ∘ h

    (Cho et al., 2014, in the variant that cuDNN computes.) c_n is `recurrent_bias` [H].
    """

    gate_names = ("r", "z", "n")
    chrono_signs = (0, 1, 0)
    has_candidate = True

    def initialize(self, options: Any, rngs: nnx.Rngs) -> None:
        super().initialize(options, rngs)
        draw = as_initializer(options.bias_init)
        self.recurrent_bias = nnx.Param(draw(rngs.params(), (self.features,), jnp.float32))

    def recurrent_offset(self) -> Float[Array, " M"]:
        c_n = self.recurrent_bias[...]
        return jnp.concatenate([jnp.zeros(2 * self.features, c_n.dtype), c_n])

    def gates(self, carry: Carry, z: Parts, u: Parts) -> Carry:
        (h,) = carry
        (x_r, x_z, x_n, *_), (h_r, h_z, h_n) = z, u
        update = sigmoid(x_z + h_z)
        n = self.candidate(tanh(x_n + sigmoid(x_r + h_r) * h_n), z)
        return (n + update * (h - n),)


class ResetBeforeGRU(BaseCell):
    """Gates in the order r, z, n, the reset gate before the product; carry (h,).

        r = σ(x W_r + h R_r + b_r)      z = σ(x W_z + h R_z + b_z)
        n = tanh(x W_n + (r ∘ h) R_n + b_n)
        h' = (1 - z) ∘ n + z ∘ h

    (Cho et al., 2014, eqs. 5 to 8, with z and 1 - z exchanged to agree with `GRU`.)
    """

    gate_names = ("r", "z", "n")
    products: ClassVar = {"gates": ("r", "z"), "candidate": ("n",)}
    chrono_signs = (0, 1, 0)
    has_candidate = True

    def step(self, carry: Carry, z: Parts, multiply: Multiply) -> Carry:
        (h,) = carry
        x_r, x_z, x_n, *_ = z
        h_r, h_z = multiply("gates", h)
        (h_n,) = multiply("candidate", sigmoid(x_r + h_r) * h)
        n = self.candidate(tanh(x_n + h_n), z)
        return (n + sigmoid(x_z + h_z) * (h - n),)
