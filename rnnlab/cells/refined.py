"""LSTM and GRU whose gates can come close to 0 and 1: refine gates, and biases for uniform gates."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rnnlab.cells.base import Cell
from rnnlab.cells.gru import GRU
from rnnlab.ops.activations import sigmoid, tanh
from rnnlab.typing import Array, Carry, Float, Parts


def refined(f: Float[Array, "B H"], r: Float[Array, "B H"]) -> Float[Array, "B H"]:
    """r (1 - (1 - f)²) + (1 - r) f² (Gu et al., 2020a): between f² and 1 - (1 - f)², as r says."""
    return f * (f + 2 * r * (1 - f))


def uniform_gates(features: int, rngs: nnx.Rngs) -> Float[Array, " H"]:
    """-log(1 / u - 1) with u from U[1/H, 1 - 1/H]: the bias of a gate that starts from u (Gu et al., 2020a)."""
    lowest = 1 / max(features, 3)
    u = jax.random.uniform(rngs.params(), (features,), jnp.float32, minval=lowest, maxval=1 - lowest)
    return -jnp.log(1 / u - 1)


class URLSTM(Cell, without=("chrono",)):
    """The LSTM with uniform gate initialisation and a refine gate; gates in the order f, r, g, o; carry (h, c).

        f = σ(x W_f + h R_f + b_f)          r = σ(x W_r + h R_r + b_r)
        g = tanh(x W_g + h R_g + b_g)       o = σ(x W_o + h R_o + b_o)
        F = r (1 - (1 - f)²) + (1 - r) f²
        c' = F ∘ c + (1 - F) ∘ g            h' = o ∘ tanh(c')

    (Gu et al., 2020a.) b_f starts so that the forget gates are uniform between 0 and 1, and b_r from -b_f:
    units keep for times of all lengths, without a number to choose, as `chrono` needs one. 1 - F stands in the place of
    the input gate.
    """

    gate_names = ("f", "r", "g", "o")
    carry_names = ("h", "c")
    has_candidate = True

    def initialize(self, options: Any, rngs: nnx.Rngs) -> None:
        super().initialize(options, rngs)
        bias, zeros = uniform_gates(self.features, rngs), jnp.zeros(2 * self.features, jnp.float32)
        self.bias[...] += jnp.concatenate([bias, -bias, zeros])

    def gates(self, carry: Carry, z: Parts, u: Parts) -> Carry:
        _, c = carry
        f, r, g, o = map(jnp.add, z, u)
        g = self.candidate(tanh(g), z)
        c = g + refined(sigmoid(f), sigmoid(r)) * (c - g)
        return (sigmoid(o) * tanh(c), c)


class URGRU(GRU, without=("chrono",)):
    """The GRU, reset gate after the product, with uniform gate initialisation and a refine gate; gates in the order r,
    z, n, f; carry (h,).

        r = σ(x W_r + h R_r + b_r)          z = σ(x W_z + h R_z + b_z)          f = σ(x W_f + h R_f + b_f)
        n = tanh(x W_n + b_n + r ∘ (h R_n + c_n))
        F = f (1 - (1 - z)²) + (1 - f) z²
        h' = (1 - F) ∘ n + F ∘ h

    (Gu et al., 2020a.) b_z and b_f start as b_f and b_r of `ur_lstm`.
    """

    gate_names = ("r", "z", "n", "f")
    chrono_signs = ()

    def initialize(self, options: Any, rngs: nnx.Rngs) -> None:
        super().initialize(options, rngs)
        bias, zeros = uniform_gates(self.features, rngs), jnp.zeros(self.features, jnp.float32)
        self.bias[...] += jnp.concatenate([zeros, bias, zeros, -bias])

    def recurrent_offset(self) -> Float[Array, " M"]:
        offset = super().recurrent_offset()
        return jnp.concatenate([offset, jnp.zeros(self.features, offset.dtype)])

    def gates(self, carry: Carry, z: Parts, u: Parts) -> Carry:
        (h,) = carry
        (x_r, x_z, x_n, x_f, *_), (h_r, h_z, h_n, h_f) = z, u
        n = self.candidate(tanh(x_n + sigmoid(x_r + h_r) * h_n), z)
        return (n + refined(sigmoid(x_z + h_z), sigmoid(x_f + h_f)) * (h - n),)
