"""Cells of one gate for each direction in which information flows: the update gate and the intersection RNN."""

from dataclasses import InitVar
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx

from rnnlab.cells.base import Cell
from rnnlab.cells.shortcut import ShortcutCell
from rnnlab.config.bounds import Traced
from rnnlab.engine import Multiply
from rnnlab.ops.activations import relu, sigmoid, tanh
from rnnlab.typing import Carry, Parts


class UGRNN(Cell):
    """The update-gate RNN; gates in the order c, f; carry (h,).

        c = tanh(x W_c + h R_c + b_c)   f = σ(x W_f + h R_f + b_f)
        h' = f ∘ h + (1 - f) ∘ c

    (Collins, Sohl-Dickstein and Sussillo, 2017, where f is g.) It is known as the smallest of the gated cells, a
    highway network over time.
    """

    gate_names = ("c", "f")
    chrono_signs = (0, 1)
    has_candidate = True

    forget_bias: InitVar[Traced[float]] = 1.0
    """Added to what bias_init draws for f, unless chrono says how long it keeps."""

    def initialize(self, options: Any, rngs: nnx.Rngs) -> None:
        super().initialize(options, rngs)
        if options.chrono is None:
            self.bias[...] = self.bias[...].at[self.features :].add(options.forget_bias)

    def gates(self, carry: Carry, z: Parts, u: Parts) -> Carry:
        (h,), (z_c, z_f, *_), (u_c, u_f) = carry, z, u
        c = self.candidate(tanh(z_c + u_c), z)
        return (c + sigmoid(z_f + u_f) * (h - c),)


class IntersectionRNN(ShortcutCell):
    """The intersection RNN, +RNN; gates in the order y, h, f_y, f_h; carry (y, h), of which y is the output.

        y_in = relu(x W_y + h R_y + b_y)      f_y = σ(x W_fy + h R_fy + b_fy)
        h_in = tanh(x W_h + h R_h + b_h)      f_h = σ(x W_fh + h R_fh + b_fh)
        y' = f_y ∘ x + (1 - f_y) ∘ y_in       h' = f_h ∘ h + (1 - f_h) ∘ h_in

    (Collins, Sohl-Dickstein and Sussillo, 2017, where f is g.) The x of the last line is x P where D is not
    H. It is known for training in stacks: through depth as through time there is a way that is gated only.
    """

    gate_names = ("y", "h", "f_y", "f_h")
    carry_names = ("y", "h")
    products: ClassVar = {"recurrent": ("y", "h", "f_y", "f_h")}

    forget_bias: InitVar[Traced[float]] = 1.0
    """Added to what bias_init draws for f_y and f_h."""

    def initialize(self, options: Any, rngs: nnx.Rngs) -> None:
        super().initialize(options, rngs)
        self.bias[...] = self.bias[...].at[2 * self.features :].add(options.forget_bias)

    def step(self, carry: Carry, z: Parts, multiply: Multiply) -> Carry:
        (_, h), (x, *z) = carry, z
        y_in, h_in, f_y, f_h = map(jnp.add, z, multiply("recurrent", h))
        y_in, h_in = relu(y_in), tanh(h_in)
        return (y_in + sigmoid(f_y) * (x - y_in), h_in + sigmoid(f_h) * (h - h_in))
