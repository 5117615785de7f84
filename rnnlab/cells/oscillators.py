"""Networks of oscillators, whose states are positions and velocities."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from rnnlab.cells.base import BaseCell
from rnnlab.cells.independent import DiagonalCell
from rnnlab.config.bounds import NonNegative, Positive, Traced
from rnnlab.engine import Multiply
from rnnlab.ops.activations import sigmoid, tanh
from rnnlab.typing import Array, Carry, Float, Parts


class CoRNN(BaseCell, without=("chrono",)):
    """The coupled oscillatory network; carry (h, v), positions and velocities.

        v' = v + Δt (tanh(x W + [h, v] R + b) - γ h - ε v)
        h' = h + Δt v'

    (Rusch and Mishra, 2021a, eq. 3, with the damping ε v of the step before, as in the authors' code.) Its hidden
    states and its gradients are bounded. The defaults are the authors' for pixel MNIST.
    """

    carry_names = ("h", "v")
    products: ClassVar = {"recurrent": ("h",)}
    meets = 2

    time_step: Traced[Positive] = 0.042
    """Δt."""
    frequency: Traced[NonNegative] = 2.7
    """γ, the square of what an oscillator alone would swing with."""
    damping: Traced[NonNegative] = 4.7
    """ε."""

    def step(self, carry: Carry, z: Parts, multiply: Multiply) -> Carry:
        h, v = carry
        (u,) = multiply("recurrent", jnp.concatenate(carry, -1))
        v = v + self.time_step * (tanh(z[0] + u) - self.frequency * h - self.damping * v)
        return (h + self.time_step * v, v)


class UnICORNN(DiagonalCell, without=("chrono", "recurrent_init")):
    """The undamped independent controlled oscillatory network; carry (h, v), positions and velocities.

        v' = v - Δt σ(c) ∘ (tanh(x W + w ∘ h + b) + α h)
        h' = h + Δt σ(c) ∘ v'

    (Rusch and Mishra, 2021b, eq. 3.) The step is invertible and keeps volumes, its gradients are bounded, and each unit
    learns how fast its time passes, by c. The defaults are the authors' for pixel MNIST, permuted.
    """

    carry_names = ("h", "v")

    time_step: Traced[Positive] = 0.19
    """Δt."""
    frequency: Traced[NonNegative] = 30.65
    """α."""

    def initialize(self, options: Any, rngs: nnx.Rngs) -> None:
        super().initialize(options, rngs)
        self.diagonal_kernel = nnx.Param(jax.random.uniform(rngs.params(), (self.features,), jnp.float32))  # w
        self.pace = nnx.Param(
            jax.random.uniform(rngs.params(), (self.features,), jnp.float32, minval=-0.1, maxval=0.1)
        )  # c

    def diagonals(self) -> dict[str, Float[Array, " H"]]:
        return {"h": self.diagonal_kernel[...]}

    def step(self, carry: Carry, z: Parts, multiply: Multiply) -> Carry:
        h, v = carry
        step = self.time_step * sigmoid(self.pace[...])
        v = v - step * (tanh(z[0] + multiply("h", h)[0]) + self.frequency * h)
        return (h + step * v, v)
