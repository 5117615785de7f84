"""Bistable recurrent cells, whose units feed back on themselves."""

from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx

from rnnlab.cells.base import BaseCell
from rnnlab.cells.independent import DiagonalCell
from rnnlab.engine import Multiply
from rnnlab.ops.activations import sigmoid, tanh
from rnnlab.typing import Array, Carry, Float, Parts


class NBRC(BaseCell):
    """The recurrently neuromodulated bistable cell; gates in the order a, c, h; carry (h,).

        a = 1 + tanh(x W_a + h R_a + b_a)       c = σ(x W_c + h R_c + b_c)
        h' = c ∘ h + (1 - c) ∘ tanh(x W_h + a ∘ h)

    (Vecoven, Ernst and Drion, 2021, with the biases of their code.) It is known for memory that does not
    fade: where a > 1 a unit has two stable states, and no matrix stands between h and its candidate.
    """

    gate_names = ("a", "c", "h")
    products: ClassVar = {"recurrent": ("a", "c")}
    unbiased = ("h",)
    chrono_signs = (0, 1, 0)
    has_candidate = True

    def step(self, carry: Carry, z: Parts, multiply: Multiply) -> Carry:
        return _bistable(self, carry, z, multiply("recurrent", carry[0]))


class BRC(DiagonalCell, without=("recurrent_init",)):
    """The bistable cell: `nbrc` whose R_a and R_c are diagonal, so that no unit sees another; carry (h,).

        a = 1 + tanh(x W_a + w_a ∘ h + b_a)     c = σ(x W_c + w_c ∘ h + b_c)
        h' = c ∘ h + (1 - c) ∘ tanh(x W_h + a ∘ h)

    (Vecoven, Ernst and Drion, 2021.) `diagonal_kernel` [2 H] is w_a beside w_c, ones at first, as in the
    authors' code.
    """

    gate_names, unbiased, chrono_signs = NBRC.gate_names, NBRC.unbiased, NBRC.chrono_signs
    has_candidate = True

    def initialize(self, options: Any, rngs: nnx.Rngs) -> None:
        super().initialize(options, rngs)
        self.diagonal_kernel = nnx.Param(jnp.ones(2 * self.features))

    def diagonals(self) -> dict[str, Float[Array, " H"]]:
        return dict(zip(("a", "c"), jnp.split(self.diagonal_kernel[...], 2), strict=True))

    def step(self, carry: Carry, z: Parts, multiply: Multiply) -> Carry:
        return _bistable(self, carry, z, multiply("a", carry[0]) + multiply("c", carry[0]))


def _bistable(cell: BaseCell, carry: Carry, z: Parts, u: Parts) -> Carry:
    """The next carry; u: what the gates a and c see of h."""
    (h,), (z_a, z_c, z_h, *_), (u_a, u_c) = carry, z, u
    n = cell.candidate(tanh(z_h + (1 + tanh(z_a + u_a)) * h), z)
    return (n + sigmoid(z_c + u_c) * (h - n),)
