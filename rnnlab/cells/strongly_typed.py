"""Strongly typed cells, in which no matrix meets the state: gates see this input and the one before."""

import jax.numpy as jnp

from rnnlab.cells.base import BaseCell
from rnnlab.engine import Linear, Multiply
from rnnlab.ops.activations import sigmoid, tanh
from rnnlab.typing import Carry, Parts


class TRNN(BaseCell, without=("recurrent_init",)):
    """The strongly typed RNN; gates in the order z, f; carry (h,).

        f = σ(x W_f + b_f)      h' = f ∘ h + (1 - f) ∘ (x W_z)

    (Balduzzi and Ghifary, 2016.) It is known for gradients that cannot explode: each unit of h is a
    weighted mean of what its input was.
    """

    gate_names = ("z", "f")
    unbiased = ("z",)
    chrono_signs = (0, 1)
    has_candidate = True
    linear = Linear(0)

    def step(self, carry: Carry, z: Parts, multiply: Multiply) -> Carry:
        (h,), (value, f, *_) = carry, z
        value = self.candidate(value, z)
        return (value + sigmoid(f) * (h - value),)


class TGRU(BaseCell, without=("recurrent_init",)):
    """The strongly typed GRU; gates in the order z, f, o, then those of V; carry (h, x V).

        z = x W_z + x⁻ V_z + b_z            f = σ(x W_f + x⁻ V_f + b_f)
        o = tanh(x W_o + x⁻ V_o + b_o)      h' = f ∘ h + z ∘ o

    (Balduzzi and Ghifary, 2016.) It is known for states that keep the meaning of their units, as no matrix turns them.
    x⁻ is the input of the step before, 0 at first. The input kernel is W beside V, and the carry keeps the three parts
    of x V for the next step.
    """

    gate_names = ("z", "f", "o", "V_z", "V_f", "V_o")
    unbiased = ("V_z", "V_f", "V_o")
    carry_names = ("h", "V_z", "V_f", "V_o")
    chrono_signs = (0, 1, 0, 0, 0, 0)
    linear = Linear(0)

    def step(self, carry: Carry, z: Parts, multiply: Multiply) -> Carry:
        h, *earlier = carry
        value, f, o = map(jnp.add, z[:3], earlier)
        return (sigmoid(f) * h + value * tanh(o), *z[3:6])


class TLSTM(TGRU):
    """The strongly typed LSTM; gates in the order z, f, o, then those of V; carry (h, c, x V).

        z = x W_z + x⁻ V_z + b_z            f = σ(x W_f + x⁻ V_f + b_f)
        o = tanh(x W_o + x⁻ V_o + b_o)      c' = f ∘ c + (1 - f) ∘ z        h' = c' ∘ o

    (Balduzzi and Ghifary, 2016.) It is known as the LSTM all of whose products come before its loop. x⁻ and V are
    those of `TGRU`.
    """

    carry_names = ("h", "c", "V_z", "V_f", "V_o")
    linear = Linear(1)

    def step(self, carry: Carry, z: Parts, multiply: Multiply) -> Carry:
        _, c, *earlier = carry
        value, f, o = map(jnp.add, z[:3], earlier)
        c = value + sigmoid(f) * (c - value)
        return (c * tanh(o), c, *z[3:6])
