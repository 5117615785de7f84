"""The cell that a search by reinforcement learning found."""

import jax.numpy as jnp

from rnnlab.cells.base import Cell
from rnnlab.ops.activations import relu, sigmoid, tanh
from rnnlab.typing import Carry, Parts


class NAS(Cell):
    """The cell of neural architecture search; eight gates; carry (h, c). With a_k = x W_k + h R_k + b_k,

        p = tanh(tanh(σ(a_1) ∘ relu(a_2)) + c)      q = tanh(σ(a_3) + relu((x W_4 + b_4) ∘ (h R_4)))
        s = tanh(tanh(a_5) ∘ σ(a_6))                v = σ(tanh(a_7) + σ(a_8))
        c' = p ∘ q                                  h' = tanh(c' ∘ tanh(s + v))

    (Zoph and Le, 2017, fig. 8; b = 0 in the authors' code.) The search combined a_4 by a product; torchrecurrent adds
    there. It is known for the perplexity of 62.4 on Penn Treebank.
    """

    gate_names = ("1", "2", "3", "4", "5", "6", "7", "8")
    carry_names = ("h", "c")

    def gates(self, carry: Carry, z: Parts, u: Parts) -> Carry:
        a = [*map(jnp.add, z, u)]
        p = tanh(tanh(sigmoid(a[0]) * relu(a[1])) + carry[1])
        q = tanh(sigmoid(a[2]) + relu(z[3] * u[3]))
        s, v = tanh(tanh(a[4]) * sigmoid(a[5])), sigmoid(tanh(a[6]) + sigmoid(a[7]))
        return (tanh(p * q * tanh(s + v)), p * q)
