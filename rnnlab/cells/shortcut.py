"""The base of cells whose step sees the input itself, not only its products with the gates' kernels."""

from typing import Any

import jax.numpy as jnp
from flax import nnx

from rnnlab.cells.base import BaseCell
from rnnlab.ops.linear import affine
from rnnlab.typing import Array, Float, Parts


class ShortcutCell(BaseCell):
    """A cell whose z has x [B, H] before the gates' parts: the input itself, or x P where D is not H.

    P is `shortcut_kernel` [D, H], drawn as the gates' blocks of the input kernel are.
    """

    def initialize(self, options: Any, rngs: nnx.Rngs) -> None:
        super().initialize(options, rngs)
        drawn = None
        if self.in_features != self.features:
            drawn = nnx.Param(self._draw_gates(options.input_init, rngs, self.in_features, ("x",)))
        self.shortcut_kernel = drawn

    def project(self, x: Float[Array, "... D"]) -> Float[Array, "... M"]:
        kernel, bias = self.input_kernel[...], self.input_bias()
        if self.shortcut_kernel is None:
            return jnp.concatenate([x, affine(x, kernel, bias, self.precision)], axis=-1)
        kernel = jnp.concatenate([self.shortcut_kernel[...], kernel], axis=1)
        return affine(x, kernel, jnp.pad(bias, (self.features, 0)), self.precision)

    def split(self, a: Float[Array, "... M"]) -> Parts:
        return jnp.split(a, 1 + len(self.gate_names), axis=-1)

    @property
    def part_names(self) -> tuple[str, ...]:
        return ("x", *self.gate_names)
