"""Cells whose state is a weighted sum of inputs: the recurrent additive network and the addition-subtraction unit."""

from typing import ClassVar

from rnnlab.cells.base import BaseCell, Cell
from rnnlab.engine import Multiply
from rnnlab.ops.activations import sigmoid, tanh
from rnnlab.typing import Carry, Parts


class RAN(BaseCell):
    """The recurrent additive network; gates in the order c, i, f; carry (h, c).

        i = σ(x W_i + h R_i + b_i)      f = σ(x W_f + h R_f + b_f)
        c' = i ∘ (x W_c) + f ∘ c        h' = tanh(c')

    (Lee, Levy and Zettlemoyer, 2017.) It is known for what it leaves out of an LSTM: its content
    is linear in the input and does not see the state.
    """

    gate_names = ("c", "i", "f")
    carry_names = ("h", "c")
    products: ClassVar = {"recurrent": ("i", "f")}
    unbiased = ("c",)
    chrono_signs = (0, -1, 1)
    has_candidate = True

    def step(self, carry: Carry, z: Parts, multiply: Multiply) -> Carry:
        (h, c), (content, z_i, z_f, *_) = carry, z
        u_i, u_f = multiply("recurrent", h)
        c_new = sigmoid(z_i + u_i) * self.candidate(content, z) + sigmoid(z_f + u_f) * c
        return (tanh(c_new), c_new)


class ATR(Cell):
    """The addition-subtraction twin-gated recurrent network; carry (h,).

        p = x W + b      q = h R
        h' = σ(p + q) ∘ p + σ(p - q) ∘ h

    (Zhang et al., 2018, where b = 0.) It is known for two gates of one matrix each for x and h: a quarter
    of an LSTM's weights.
    """

    gate_names = ("p",)
    has_candidate = True

    def gates(self, carry: Carry, z: Parts, u: Parts) -> Carry:
        (h,), (p, *_), (q,) = carry, z, u
        return (sigmoid(p + q) * self.candidate(p, z) + sigmoid(p - q) * h,)
