"""Networks whose recurrent matrix is orthogonal, or nearly so, whatever training does."""

import functools
from dataclasses import InitVar
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx

from rnnlab.cells.base import BaseCell
from rnnlab.cells.recurrent_matrices import Exponential
from rnnlab.cells.vanilla import Vanilla
from rnnlab.config.bounds import Positive, Traced
from rnnlab.engine import Matrix, Multiply
from rnnlab.ops.initializers import as_initializer
from rnnlab.typing import Array, Carry, Float, Parts

exprnn = functools.partial(
    Vanilla, activation="modrelu", recurrent="exponential", recurrent_init="cayley", input_init="he_normal"
)
"""h' = modReLU(x W + h R + b; c), R = B exp(A) (Lezcano-Casado and Martínez-Rubio, 2019), known for copying and for
pixels in permuted order. A = -Aᵀ is trained, from 0 on; B is orthogonal and stays what `recurrent_init` drew.

The paper has no b; here it is 0 at first. `recurrent_init="henaff"` for copying. The authors' code trains 170 units by
RMSprop with rate 7e-4, and R with a tenth of it: `optimizer.groups.recurrent=dict(learning_rate_factor=0.1)`.
"""

scornn = functools.partial(Vanilla, activation="modrelu", recurrent="cayley", recurrent_init="cayley")
"""h' = modReLU(x W + h R + b; c), R = B (I - A)⁻¹ (I + A) (Helfrich, Willmott and Ye, 2018, eqs. 5 to 7), the first to
keep R orthogonal by what it is made of. A and B are those of `exprnn`.

The paper has no b; here it is 0 at first. Its D, with 1 and -1 on the diagonal, is a part of B:
`recurrent_init=dict(name="cayley", negative=0.5)` for as many of either.
Published settings: RMSprop, 170, 360 or 512 units with rates 7e-4, 5e-4 and 3e-4, R with a tenth of them.
"""

nnrnn = functools.partial(
    Vanilla, activation="modrelu", recurrent="non_normal", recurrent_init="henaff", input_init="glorot_normal"
)
"""h' = modReLU(x W + h R + b; c), R = P Θ Pᵀ with rotations and a triangle above them (Kerg et al., 2019), known for
what non-normal matrices add: transients that grow before they die.

At first R is Θ, rotations by angles from the whole circle, as in the authors' code. The paper draws γ to 1 by a penalty
and the triangle to 0 by decay, which are not here. Its P has a rate of a tenth or less, Θ the full one.
"""

ornn = functools.partial(Vanilla, recurrent="householder")
"""h' = tanh(x W + h R + b), R a product of reflections (Mhammedi et al., 2017), as many as `recurrent=dict(
name="householder", reflections=n)` says: between a few and all orthogonal matrices."""


class AsRNN(BaseCell, without=("chrono",)):
    """Adaptive-saturated network (Nguyen-Duy, Pham and Nguyen, 2023, section 3); carry (h,).

        h' = tanh((x W + h R + b) V) V⁻¹        V = D Uᵀ,  D = diag(|p| + ε)

    R is orthogonal as in expRNN, and so is U, from the identity on. Where |p| is small, tanh is used near 0, where it
    is a line, and h' is the orthogonal network's; where it is large, units saturate. Known for psMNIST with 16 000
    parameters. The defaults are those of the authors' code for pixels: p from [0.02, 0.02] and ε = 0.01; RMSprop, 122
    units with rate 7e-4, R with a tenth of it, U with all.
    """

    gate_names = ("h",)
    products: ClassVar = {"recurrent": ("h",)}
    recurrent = "exponential"
    recurrent_init = "cayley"
    input_init = "orthogonal"

    epsilon: Traced[Positive] = 0.01
    """ε."""
    saturation_low: InitVar[Traced[float]] = 0.02
    """The least p that is drawn."""
    saturation_high: InitVar[Traced[float]] = 0.02
    """The largest."""

    def initialize(self, options: Any, rngs: nnx.Rngs) -> None:
        super().initialize(options, rngs)
        draw = as_initializer({"name": "uniform", "scale": 0.5})
        middle, width = (options.saturation_low + options.saturation_high) / 2, options.saturation_high
        width = width - options.saturation_low
        self.saturation = nnx.Param(middle + width * draw(rngs.params(), (self.features,), jnp.float32))
        self.saturation_axes = nnx.Param(jnp.zeros(self.features * (self.features - 1) // 2))

    def saturating(self) -> tuple[Float[Array, "H H"], Float[Array, "H H"]]:
        """V and its inverse."""
        scales = jnp.abs(self.saturation[...]) + self.epsilon
        axes = self.saturation_axes[...]
        u = Exponential().matrix(kernel=axes, base=jnp.eye(self.features, dtype=axes.dtype))
        return scales[:, None] * u.T, u / scales

    def matrices(self) -> dict[str, Matrix]:
        saturate, restore = self.saturating()
        inner = {"saturate": Matrix(saturate, of_state=False), "restore": Matrix(restore, of_state=False)}
        return super().matrices() | inner

    def step(self, carry: Carry, z: Parts, multiply: Multiply) -> Carry:
        (h,) = carry
        (a,) = multiply("saturate", z[0] + multiply("recurrent", h)[0])
        return (multiply("restore", jnp.tanh(a))[0],)
