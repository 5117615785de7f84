"""Cells with one gate: the simple gated unit, the deep one, the simple gated recurrent network, LightRU and MiRU."""

from typing import ClassVar

import jax

from rnnlab.cells.base import BaseCell, Cell
from rnnlab.engine import Multiply
from rnnlab.ops.activations import hard_sigmoid, sigmoid, tanh
from rnnlab.typing import Array, Carry, Float, Parts


class SGU(BaseCell):
    """The simple gated unit; gates in the order g, z; carry (h,).

        s = tanh(((x W_g + b_g) ∘ h) R_g)       z = hard_sigmoid(x W_z + h R_z + b_z)
        h' = (1 - z) ∘ h + z ∘ softplus(s ∘ h)

    (Gao and Glowacka, 2016.) It is known for a multiplicative gate in the place of a GRU's reset gate.
    """

    gate_names = ("g", "z")
    products: ClassVar = {"inner": ("g",), "gate": ("z",)}
    chrono_signs = (0, -1)
    has_candidate = True

    def step(self, carry: Carry, z: Parts, multiply: Multiply) -> Carry:
        (h,), (x_g, x_z, *_) = carry, z
        s = tanh(multiply("inner", x_g * h)[0])
        n = self.candidate(self.output(s * h, multiply), z)
        return (h + hard_sigmoid(x_z + multiply("gate", h)[0]) * (n - h),)

    def output(self, value: Float[Array, "B H"], multiply: Multiply) -> Float[Array, "B H"]:
        """The candidate, from s ∘ h."""
        return jax.nn.softplus(value)


class DSGU(SGU):
    """The deep simple gated unit, an `sgu` with one more product; gates in the order g, z; carry (h,).

        s = tanh(((x W_g + b_g) ∘ h) R_g)       z = hard_sigmoid(x W_z + h R_z + b_z)
        h' = (1 - z) ∘ h + z ∘ σ((s ∘ h) R_o)

    (Gao and Glowacka, 2016.) Its candidate is bounded, so that it is known for a wider range of learning
    rates than an SGU has.
    """

    products: ClassVar = {"inner": ("g",), "output": ("o",), "gate": ("z",)}

    def output(self, value: Float[Array, "B H"], multiply: Multiply) -> Float[Array, "B H"]:
        return sigmoid(multiply("output", value)[0])


class SGRN(Cell):
    """The simple gated recurrent network; carry (h,).

        p = x W + b      f = σ(p + h R)      h' = tanh((1 - f) ∘ p + f ∘ h)

    (Zu and Wei, 2020.) It is known for the number of weights of a vanilla cell.
    """

    gate_names = ("p",)
    has_candidate = True

    def gates(self, carry: Carry, z: Parts, u: Parts) -> Carry:
        (h,), (p, *_), (q,) = carry, z, u
        n = self.candidate(p, z)
        return (tanh(n + sigmoid(p + q) * (h - n)),)


class LightRU(BaseCell):
    """The light recurrent unit; gates in the order h, f; carry (h,).

        f = σ(x W_f + h R_f + b_f)      h' = (1 - f) ∘ h + f ∘ tanh(x W_h)

    (Ye et al., 2024.) It is known for one product a step that acts through the gate alone.
    """

    gate_names = ("h", "f")
    products: ClassVar = {"recurrent": ("f",)}
    unbiased = ("h",)
    chrono_signs = (0, -1)
    has_candidate = True

    def step(self, carry: Carry, z: Parts, multiply: Multiply) -> Carry:
        (h,), (z_h, z_f, *_) = carry, z
        return (h + sigmoid(z_f + multiply("recurrent", h)[0]) * (self.candidate(tanh(z_h), z) - h),)
