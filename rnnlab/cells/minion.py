"""Minion recurrent units: GRUs with numbers in the place of gates."""

from typing import ClassVar

from rnnlab.cells.base import BaseCell, Cell
from rnnlab.config.bounds import Rate, Traced
from rnnlab.engine import Multiply
from rnnlab.ops.activations import sigmoid, tanh
from rnnlab.typing import Carry, Parts


class MiRU1(BaseCell):
    """Gates in the order r, h; carry (h,).

        r = σ(x W_r + h R_r + b_r)      h' = λ h + (1 - λ) tanh(x W_h + (r ∘ h) R_h + b_h)

    (Zyarah and Kudithipudi, 2025, first variant: a number in the place of the update gate.) It is
    known for two thirds of a GRU's weights on small devices.
    """

    gate_names = ("r", "h")
    products: ClassVar = {"gate": ("r",), "candidate": ("h",)}
    has_candidate = True

    update: Traced[Rate] = 0.5
    """λ."""

    def step(self, carry: Carry, z: Parts, multiply: Multiply) -> Carry:
        (h,), (z_r, z_h, *_) = carry, z
        r = sigmoid(z_r + multiply("gate", h)[0])
        n = self.candidate(tanh(z_h + multiply("candidate", r * h)[0]), z)
        return (n + self.update * (h - n),)


class MiRU2(Cell, without=("chrono",)):
    """h' = λ h + (1 - λ) tanh(x W + (β h) R + b) (Zyarah and Kudithipudi, 2025, second variant: a number in the place
    of either gate of a GRU). With β = 1 it is a leaky vanilla cell; it is known for a third of a GRU's weights."""

    has_candidate = True

    update: Traced[Rate] = 0.5
    """λ."""
    reset: Traced[float] = 0.5
    """β."""

    def gates(self, carry: Carry, z: Parts, u: Parts) -> Carry:
        (h,) = carry
        n = self.candidate(tanh(z[0] + self.reset * u[0]), z)
        return (n + self.update * (h - n),)
