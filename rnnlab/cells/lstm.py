"""Long short-term memory."""

from collections.abc import Callable
from dataclasses import InitVar
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rnnlab.cells.base import Cell
from rnnlab.config.bounds import Traced
from rnnlab.ops.activations import sigmoid, tanh
from rnnlab.ops.initializers import InitializerSpec, as_initializer
from rnnlab.ops.normalization import standardized
from rnnlab.typing import Array, Carry, Float, Parts


class LSTM(Cell):
    """Gates in the order i, f, g, o (that of PyTorch and cuDNN); carry (h, c).

        i = σ(x W_i + h R_i + b_i)      f = σ(x W_f + h R_f + b_f)
        g = tanh(x W_g + h R_g + b_g)   o = σ(x W_o + h R_o + b_o)
        c' = f ∘ c + i ∘ g              h' = o ∘ tanh(c')

    (Hochreiter and Schmidhuber, 1997, with the forget gate of Gers et al., 2000.) With peepholes (Gers and Schmidhuber,
    2000) i and f also see p_i ∘ c and p_f ∘ c, and o sees p_o ∘ c'. With normalize_cell the last tanh sees the
    standardised g_c ∘ c' + b_c (Ba et al., 2016, eq. 22).
    """

    gate_names = ("i", "f", "g", "o")
    carry_names = ("h", "c")
    chrono_signs = (-1, 1, 0, 0)
    recurrent_parameters = ("recurrent_kernel", "peephole_kernel")  # Peepholes are diagonal matrices.
    has_candidate = True

    forget_bias: InitVar[Traced[float]] = 1.0
    """Added to what bias_init draws for the forget gate, unless chrono says how long it keeps."""
    peepholes: InitVar[bool] = False
    """Whether the gates i, f and o see c."""
    normalize_cell: InitVar[bool] = False
    """Whether the last tanh sees c standardised."""
    peephole_init: InitVar[InitializerSpec] = "small_normal"
    """How the peepholes are drawn."""

    def initialize(self, options: Any, rngs: nnx.Rngs) -> None:
        super().initialize(options, rngs)
        features = self.features
        if options.chrono is None:
            self.bias[...] = self.bias[...].at[features : 2 * features].add(options.forget_bias)
        shape = (3, features)  # The rows are p_i, p_f, p_o.
        draw = as_initializer(options.peephole_init)
        self.peephole_kernel = nnx.Param(draw(rngs.params(), shape, jnp.float32)) if options.peepholes else None
        self.cell_gain = nnx.Param(jnp.ones(features)) if options.normalize_cell else None
        self.cell_bias = nnx.Param(jnp.zeros(features)) if options.normalize_cell else None

    def gates(
        self, carry: Carry, z: Parts, u: Parts, normalize: Callable[[jax.Array], jax.Array] | None = None
    ) -> Carry:
        """normalize: what the last tanh sees c' through, in place of normalize_cell's."""
        _, c = carry
        i, f, g, o = map(jnp.add, z, u)
        if self.peephole_kernel is not None:
            p_i, p_f, _ = self.peephole_kernel[...]
            i, f = i + p_i * c, f + p_f * c
        c_new = sigmoid(f) * c + sigmoid(i) * self.candidate(tanh(g), z)
        if self.peephole_kernel is not None:
            o = o + self.peephole_kernel[...][2] * c_new
        return (sigmoid(o) * tanh((normalize or self._normalized)(c_new)), c_new)

    def _normalized(self, c: Float[Array, "B H"]) -> Float[Array, "B H"]:
        if self.cell_gain is None or self.cell_bias is None:
            return c
        return standardized(c) * self.cell_gain[...] + self.cell_bias[...]
