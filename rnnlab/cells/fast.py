"""FastRNN and FastGRNN, small cells for small devices."""

from dataclasses import InitVar
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx

from rnnlab.cells.base import BaseCell, Cell
from rnnlab.config.bounds import Traced
from rnnlab.engine import Multiply
from rnnlab.ops.activations import ActivationSpec, sigmoid, tanh
from rnnlab.ops.linear import affine
from rnnlab.typing import Array, Carry, Float, Parts


class FastRNN(Cell, without=("chrono",)):
    """A vanilla network with a weighted residual connection; carry (h,).

        h' = σ(β) h + σ(α) f(x W + h R + b)

    (Kusupati et al., 2018; two numbers α and β, trained, as in the authors' code.) With σ(α) small and
    σ(β) near 1 the gradient's condition no longer depends on T.
    """

    has_candidate = True

    activation: ActivationSpec = "tanh"
    """f."""
    update: InitVar[Traced[float]] = -3.0
    """Where α starts."""
    retention: InitVar[Traced[float]] = 3.0
    """Where β starts."""

    def initialize(self, options: Any, rngs: nnx.Rngs) -> None:
        super().initialize(options, rngs)
        self.alpha = nnx.Param(jnp.full(1, options.update, jnp.float32))
        self.beta = nnx.Param(jnp.full(1, options.retention, jnp.float32))

    def gates(self, carry: Carry, z: Parts, u: Parts) -> Carry:
        new = self.candidate(self.activation(z[0] + u[0]), z)  # pyright: ignore[reportCallIssue]
        return (sigmoid(self.beta[...]) * carry[0] + sigmoid(self.alpha[...]) * new,)


class FastGRNN(BaseCell):
    """The gated one, whose gate and candidate have one W and one R; parts in the order z, n; carry (h,).

        z = σ(x W + h R + b_z)              n = tanh(x W + h R + b_n)
        h' = (σ(ζ) (1 - z) + σ(ν)) ∘ n + z ∘ h

    (Kusupati et al., 2018.) As good as a GRU with a third of the matrices. The paper goes on to make them
    sparse, of low rank and of whole numbers, for models of some kilobytes; that is not here.
    """

    gate_names = ("z", "n")
    products: ClassVar = {"recurrent": ("n",)}
    chrono_signs = (1, 0)
    has_candidate = True

    zeta: InitVar[Traced[float]] = 1.0
    """Where ζ starts."""
    nu: InitVar[Traced[float]] = -4.0
    """Where ν starts."""

    def initialize(self, options: Any, rngs: nnx.Rngs) -> None:
        super().initialize(options, rngs)
        self.input_kernel = nnx.Param(self._draw_gates(options.input_init, rngs, self.in_features, ("n",)))
        self.gate_scale = nnx.Param(jnp.full(1, options.zeta, jnp.float32))
        self.gate_shift = nnx.Param(jnp.full(1, options.nu, jnp.float32))

    def project(self, x: Float[Array, "... D"]) -> Float[Array, "... M"]:
        """x W + b_z, and x W + b_n."""
        of_z, of_n = jnp.split(self.bias[...], 2)
        a = affine(x, self.input_kernel[...], of_z, self.precision)
        return jnp.concatenate([a, a + (of_n - of_z)], -1)

    def step(self, carry: Carry, z: Parts, multiply: Multiply) -> Carry:
        (h,), (z_z, z_n, *_) = carry, z
        (u,) = multiply("recurrent", h)
        gate, n = sigmoid(z_z + u), self.candidate(tanh(z_n + u), z)
        return ((sigmoid(self.gate_scale[...]) * (1 - gate) + sigmoid(self.gate_shift[...])) * n + gate * h,)
