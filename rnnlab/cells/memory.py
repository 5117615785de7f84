"""Cells that hold the past by construction: as polynomials of time, or in modules with clocks of their own."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from rnnlab.cells.base import BaseCell
from rnnlab.config.bounds import PositiveInt
from rnnlab.config.errors import ConfigError
from rnnlab.engine import Matrix, Multiply
from rnnlab.ops.activations import sigmoid, tanh
from rnnlab.ops.initializers import as_initializer
from rnnlab.ops.linear import matmul
from rnnlab.typing import Array, Carry, Float, Parts


class LMU(BaseCell, without=("chrono",)):
    """A Legendre memory unit: a linear memory m [N] of the last θ steps of a number u, and a vanilla cell that sees it;
    carry (h, m).

        u = x w_x + h w_h + m w_m
        m' = m Ā + u B̄
        h' = tanh(x W + h R + m' M + b)

    (Voelker et al., 2019, eqs. 5 to 7; Ā, B̄ are A, B of eqs. 1 and 2 held over one step of 1 / θ. The paper's h' has no
    b.) m holds the coefficients of u over the window by shifted Legendre polynomials. Known for permuted MNIST, and for
    remembering 10⁵ steps. w_m is zero and w_h, w_x are drawn as `input_init` draws a column, at first.
    """

    gate_names = ("h",)
    carry_names = ("h", "memory")
    products: ClassVar = {"recurrent": ("h",)}

    order: PositiveInt = 64
    """N."""
    window: PositiveInt = 100
    """θ, in steps."""

    def initialize(self, options: Any, rngs: nnx.Rngs) -> None:
        super().initialize(options, rngs)
        draw = as_initializer(options.input_init)
        rows = {"input": self.in_features, "state": self.features}
        encoders = {name: draw(rngs.params(), (count, 1), jnp.float32) for name, count in rows.items()}
        self.encoder_kernel = nnx.Param(encoders["input"])
        self.state_encoder_kernel = nnx.Param(encoders["state"])
        self.memory_encoder_kernel = nnx.Param(jnp.zeros((self.order, 1)))
        self.memory_kernel = nnx.Param(draw(rngs.params(), (self.order, self.features), jnp.float32))
        kept, written = _legendre_delay(self.order, self.window)
        self.kept, self.written = jnp.asarray(kept, float), jnp.asarray(written, float)

    def project(self, x: Float[Array, "... D"]) -> Float[Array, "... M"]:
        """x W + b, and x w_x beside it."""
        return jnp.concatenate([super().project(x), matmul(x, self.encoder_kernel[...], self.precision)], -1)

    def split(self, a: Float[Array, "... M"]) -> Parts:
        return jnp.split(a, [self.features], axis=-1)

    @property
    def part_names(self) -> tuple[str, ...]:
        return (*self.gate_names, "u")

    def matrices(self) -> dict[str, Matrix]:
        encoders = {
            "state encoder": Matrix(self.state_encoder_kernel[...]),
            "memory encoder": Matrix(self.memory_encoder_kernel[...], of_state=False),
        }
        memory = {
            "memory": Matrix(self.memory_kernel[...], of_state=False),
            "kept": Matrix(lax.stop_gradient(self.kept), of_state=False),
        }
        return super().matrices() | encoders | memory

    def initial_carry(self, batch: int, dtype: Any = jnp.float32) -> Carry:
        return (*super().initial_carry(batch, dtype)[:1], jnp.zeros((batch, self.order), dtype))

    def step(self, carry: Carry, z: Parts, multiply: Multiply) -> Carry:
        (h, m), (x, u) = carry, z
        u = u + multiply("state encoder", h)[0] + multiply("memory encoder", m)[0]
        m = multiply("kept", m)[0] + u * self.written
        return (tanh(x + multiply("recurrent", h)[0] + multiply("memory", m)[0]), m)


def _legendre_delay(order: int, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Ā [N, N], transposed to stand behind m, and B̄ [N]: of θ m' = A m + B u, with u held over one step."""
    row, column = np.meshgrid(np.arange(order), np.arange(order), indexing="ij")
    signs = np.where(row < column, -1.0, (-1.0) ** (row - column + 1))
    a = (2 * row + 1) * signs
    b = (2 * np.arange(order) + 1) * (-1.0) ** np.arange(order)
    both = np.zeros((order + 1, order + 1))
    both[:order, :order], both[:order, order] = a / window, b / window
    import scipy.linalg  # Here: the import takes a tenth of a second.

    held = scipy.linalg.expm(both)
    return held[:order, :order].T, held[:order, order]


class HiPPOLegS(BaseCell, without=("recurrent_init",)):
    """A gated cell that sees a memory m [N] of all that a number u ever was, scaled to the time that has passed;
    carry (h, m, k), k the steps so far.

        u = x w_x + h w_h + b_u
        m' = (I + A / 2k)⁻¹ ((I - A / 2k) m + B u / k), of the first step (u, 0, …)
        n = tanh(x W_n + m' M_n + b_n)      g = σ(x W_g + m' M_g + b_g)
        h' = (1 - g) ∘ h + g ∘ n

    (Gu et al., 2020b, theorem 2 and section 4, by the bilinear rule of their experiments; A_nj = √((2n+1)(2j+1)) below
    the diagonal, n + 1 on it, B_n = √(2n+1), n from 0.) m holds the coefficients of u so far by scaled Legendre
    polynomials. The system is solved in log₂ N rounds: below its diagonal A is a product of two vectors. Known for
    permuted MNIST (98.3 %), and for not needing to know how long sequences are.
    """

    gate_names = ("n", "g")
    carry_names = ("h", "memory", "steps")
    chrono_signs = (0, -1)
    recurrent_parameters = ("memory_kernel", "state_encoder_kernel")
    has_candidate = True

    order: PositiveInt = 64
    """N."""

    def initialize(self, options: Any, rngs: nnx.Rngs) -> None:
        super().initialize(options, rngs)
        draw = as_initializer(options.input_init)
        self.encoder_kernel = nnx.Param(draw(rngs.params(), (self.in_features, 1), jnp.float32))
        self.encoder_bias = nnx.Param(jnp.zeros(1))
        self.state_encoder_kernel = nnx.Param(draw(rngs.params(), (self.features, 1), jnp.float32))
        self.memory_kernel = nnx.Param(self._draw_gates(options.input_init, rngs, self.order, self.gate_names))

    def project(self, x: Float[Array, "... D"]) -> Float[Array, "... M"]:
        """x W + b, and x w_x + b_u beside it."""
        u = matmul(x, self.encoder_kernel[...], self.precision) + self.encoder_bias[...]
        return jnp.concatenate([super().project(x), u], -1)

    def split(self, a: Float[Array, "... M"]) -> Parts:
        return jnp.split(a, [self.features, 2 * self.features], axis=-1)

    @property
    def part_names(self) -> tuple[str, ...]:
        return (*self.gate_names, "u")

    def matrices(self) -> dict[str, Matrix]:
        return {
            "state encoder": Matrix(self.state_encoder_kernel[...]),
            "memory": Matrix(self.memory_kernel[...], parts=2, of_state=False),
        }

    def initial_carry(self, batch: int, dtype: Any = jnp.float32) -> Carry:
        widths = (self.features, self.order, 1)
        return tuple(jnp.zeros((batch, width), dtype) for width in widths)

    def step(self, carry: Carry, z: Parts, multiply: Multiply) -> Carry:
        (h, m, steps), (x_n, x_g, u, *masks) = carry, z
        steps = lax.stop_gradient(steps)
        m = _scaled_legendre(m, u + multiply("state encoder", h)[0], steps)
        m_n, m_g = multiply("memory", m)
        n = self.candidate(tanh(x_n + m_n), [x_n, x_g, *masks])
        return (h + sigmoid(x_g + m_g) * (n - h), m, steps + 1)


def _scaled_legendre(m: Float[Array, "B N"], u: Float[Array, "B 1"], steps: Float[Array, "B 1"]) -> Float[Array, "B N"]:
    """m of one step more, after so many."""
    order = m.shape[-1]
    number = jnp.arange(order, dtype=m.dtype)
    root = jnp.sqrt(2 * number + 1)
    half = 0.5 / jnp.maximum(steps, 1)
    below = jnp.cumsum(root * m, -1) - root * m  # Σ_{k<n} √(2k+1) m_k.
    right = m - half * (root * below + (number + 1) * m) + 2 * half * root * u
    # (1 + half (n + 1)) y_n + half √(2n+1) s_n = right_n, with s_{n+1} = s_n + √(2n+1) y_n: s is a linear recurrence.
    scale = 1 / (1 + half * (number + 1))
    kept, added = (1 - half * number) * scale, root * right * scale

    def joined(left: tuple[jax.Array, ...], right: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        return left[0] * right[0], left[1] * right[0] + right[1]

    sums = lax.associative_scan(joined, (kept, added), axis=-1)[1]
    y = scale * (right - half * root * jnp.pad(sums[:, :-1], ((0, 0), (1, 0))))
    first = jnp.concatenate([u, jnp.zeros_like(m[:, 1:])], -1)
    return jnp.where(steps > 0, y, first)


class Clockwork(BaseCell, without=("chrono",)):
    """A clockwork RNN: modules of H / `modules` units; module i, from 0, moves only at every 2ⁱ-th step, and sees
    itself and the slower ones; carry (h, t), t the steps so far.

        h'_i = tanh(x W_i + Σ_{j ≥ i} h_j R_ji + b_i) where 2ⁱ divides t, else h_i

    (Koutník et al., 2014, eqs. 1 to 5, with their exponential periods.) The modules must divide H.
    """

    carry_names = ("h", "steps")
    products: ClassVar = {"recurrent": ("h",)}

    modules: PositiveInt = 4
    """How many there are."""

    def initialize(self, options: Any, rngs: nnx.Rngs) -> None:
        super().initialize(options, rngs)
        if self.features % self.modules:
            raise ConfigError(f"Clockwork's modules are {self.modules}; they must divide its features, {self.features}")

    def _module_of_unit(self) -> np.ndarray:
        return np.arange(self.features) // (self.features // self.modules)

    def recurrent_matrix(self) -> Float[Array, "H H"]:
        """R, zero where a faster module would be seen by a slower one."""
        module = self._module_of_unit()
        return self.recurrent_kernel[...] * (module[:, None] >= module)

    def initial_carry(self, batch: int, dtype: Any = jnp.float32) -> Carry:
        return (*super().initial_carry(batch, dtype)[:1], jnp.zeros((batch, 1), dtype))

    def step(self, carry: Carry, z: Parts, multiply: Multiply) -> Carry:
        h, steps = carry
        steps = lax.stop_gradient(steps)
        moves = jnp.mod(steps, 2.0 ** self._module_of_unit()) == 0
        return (jnp.where(moves, tanh(z[0] + multiply("recurrent", h)[0]), h), steps + 1)
