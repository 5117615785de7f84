"""The three mutations of the GRU that a search over 10 000 architectures ended with (Jozefowicz et al., 2015)."""

from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx

from rnnlab.cells.base import BaseCell
from rnnlab.cells.shortcut import ShortcutCell
from rnnlab.engine import Multiply
from rnnlab.ops.activations import sigmoid, tanh
from rnnlab.ops.initializers import as_initializer
from rnnlab.typing import Array, Carry, Float, Parts


class _SeesInput(ShortcutCell):
    """A mutation with one gate that sees x itself. Its bias c is `recurrent_bias` [H]."""

    sees_input: ClassVar[str]
    """That gate."""

    def initialize(self, options: Any, rngs: nnx.Rngs) -> None:
        super().initialize(options, rngs)
        draw = as_initializer(options.bias_init)
        self.recurrent_bias = nnx.Param(draw(rngs.params(), (self.features,), jnp.float32))

    def recurrent_offset(self) -> Float[Array, " U"]:
        c = self.recurrent_bias[...]
        return jnp.concatenate([c if gate == self.sees_input else 0 * c for gate in self.recurrent_gates])


class MUT1(_SeesInput):
    """Gates in the order z, r; carry (h,).

        z = σ(x W_z + b_z)      r = σ(x W_r + h R_r + b_r)
        h' = z ∘ tanh(tanh(x) + (r ∘ h) R_h + c) + (1 - z) ∘ h

    (Jozefowicz et al., 2015.) The x of the last line is x P where D is not H; torchrecurrent puts x W_h + b_h there in
    any case. c is `recurrent_bias` [H]. It is known as the best of the three on arithmetic.
    """

    gate_names = ("z", "r")
    products: ClassVar = {"gate": ("r",), "candidate": ("h",)}
    chrono_signs = (-1, 0)
    sees_input = "h"

    def step(self, carry: Carry, z: Parts, multiply: Multiply) -> Carry:
        (h,), (x, x_z, x_r) = carry, z
        r = sigmoid(x_r + multiply("gate", h)[0])
        return (h + sigmoid(x_z) * (tanh(tanh(x) + multiply("candidate", r * h)[0]) - h),)


class MUT2(_SeesInput):
    """Gates in the order z, h; carry (h,).

        z = σ(x W_z + h R_z + b_z)      r = σ(x + h R_r + c)
        h' = z ∘ tanh(x W_h + (r ∘ h) R_h + b_h) + (1 - z) ∘ h

    (Jozefowicz et al., 2015.) The x of r is x P where D is not H; torchrecurrent puts x W_r + b_r there in
    any case. c is `recurrent_bias` [H]. Its reset gate sees each unit's own input.
    """

    gate_names = ("z", "h")
    products: ClassVar = {"gates": ("z", "r"), "candidate": ("h",)}
    chrono_signs = (-1, 0)
    sees_input = "r"

    def step(self, carry: Carry, z: Parts, multiply: Multiply) -> Carry:
        (h,), (x, x_z, x_h) = carry, z
        h_z, h_r = multiply("gates", h)
        n = tanh(x_h + multiply("candidate", sigmoid(x + h_r) * h)[0])
        return (h + sigmoid(x_z + h_z) * (n - h),)


class MUT3(BaseCell):
    """Gates in the order z, r, h; carry (h,).

        z = σ(x W_z + tanh(h) R_z + b_z)      r = σ(x W_r + h R_r + b_r)
        h' = z ∘ tanh(x W_h + (r ∘ h) R_h + b_h) + (1 - z) ∘ h

    (Jozefowicz et al., 2015.) It is a GRU whose update gate sees a bounded state.
    """

    gate_names = ("z", "r", "h")
    products: ClassVar = {"update": ("z",), "reset": ("r",), "candidate": ("h",)}
    chrono_signs = (-1, 0, 0)
    has_candidate = True

    def step(self, carry: Carry, z: Parts, multiply: Multiply) -> Carry:
        (h,), (x_z, x_r, x_h, *_) = carry, z
        update = sigmoid(x_z + multiply("update", tanh(h))[0])
        r = sigmoid(x_r + multiply("reset", h)[0])
        n = self.candidate(tanh(x_h + multiply("candidate", r * h)[0]), z)
        return (h + update * (n - h),)
