"""Cells that are steps of a stable differential equation, with a matrix that is skew but for a little."""

from typing import Any, ClassVar

import jax.numpy as jnp

from rnnlab.cells.base import BaseCell, Cell
from rnnlab.config.bounds import NonNegative, Positive, Share, Traced
from rnnlab.engine import Multiply
from rnnlab.ops.activations import sigmoid, tanh
from rnnlab.typing import Array, Carry, Float, Parts


class Antisymmetric(Cell, without=("chrono",)):
    """The antisymmetric network; carry (h,).

        h' = h + ε tanh(x W + h R + b),     R = A - Aᵀ - γ I

    (Chang et al., 2019, eq. 10.) The eigenvalues of A - Aᵀ are imaginary: the equation that it is a step of neither
    grows nor decays, but for what γ takes away. γ is `recurrent.gamma`. There is no code of the authors.
    """

    recurrent = "skew"
    recurrent_init = "glorot_normal"

    step_size: Traced[Positive] = 0.1
    """ε."""

    def gates(self, carry: Carry, z: Parts, u: Parts) -> Carry:
        return (carry[0] + self.step_size * tanh(z[0] + u[0]),)


class GatedAntisymmetric(Antisymmetric):
    """The antisymmetric network with an input gate of the same matrix; carry (h,).

        g = σ(x W_g + h R + b_g)
        h' = h + ε g ∘ tanh(x W_h + h R + b_h)

    (Chang et al., 2019, eqs. 12 and 13.)
    """

    gate_names = ("g", "h")
    products: ClassVar = {"recurrent": ("h",)}

    def gates(self, carry: Carry, z: Parts, u: Parts) -> Carry:
        return (carry[0] + self.step_size * sigmoid(z[0] + u[0]) * tanh(z[1] + u[0]),)


class Lipschitz(BaseCell, without=("chrono",)):
    """The Lipschitz network; carry (h,).

        h' = h + ε (h S(A) + tanh(x W + h S(R) + b)),   S(M) = (1 - β) (M + Mᵀ) + β (M - Mᵀ) - γ I

    (Erichson et al., 2021, by Euler's method.) β shifts the eigenvalues between the real and the
    imaginary axis, γ to the left. `recurrent_kernel` has A and R side by side. The defaults are the authors' for pixel
    MNIST.
    """

    gate_names = ("h",)
    products: ClassVar = {"recurrent": ("linear", "h")}
    recurrent_init = "glorot_normal"

    step_size: Traced[Positive] = 0.03
    """ε."""
    linear_skewness: Traced[Share] = 0.75
    """β of A: 0.5 for A itself, 1 for eigenvalues that are imaginary but for γ."""
    linear_damping: Traced[NonNegative] = 0.001
    """γ of A."""
    skewness: Traced[Share] = 0.75
    """β of R."""
    damping: Traced[NonNegative] = 0.001
    """γ of R."""

    def recurrent_matrix(self) -> Float[Array, "H U"]:
        a, r = jnp.split(self.recurrent_kernel[...], 2, axis=1)
        parts = (a, self.linear_skewness, self.linear_damping), (r, self.skewness, self.damping)
        return jnp.concatenate([self._shifted(*each) for each in parts], 1)

    def _shifted(self, m: Float[Array, "H H"], skewness: Any, damping: Any) -> Float[Array, "H H"]:
        """S(M)."""
        return m + (1 - 2 * skewness) * m.T - damping * jnp.eye(self.features, dtype=m.dtype)

    def step(self, carry: Carry, z: Parts, multiply: Multiply) -> Carry:
        (h,) = carry
        linear, u = multiply("recurrent", h)
        return (h + self.step_size * (linear + tanh(z[0] + u)),)
