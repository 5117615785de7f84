"""Cells that are linear in their state: gates see the inputs alone, and the backend `scan` runs all steps at once."""

from dataclasses import InitVar
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rnnlab.cells.base import BaseCell
from rnnlab.cells.output import OutputMap
from rnnlab.cells.shortcut import ShortcutCell
from rnnlab.config.bounds import Positive, PositiveInt, Share, Traced
from rnnlab.config.errors import ConfigError
from rnnlab.engine import Linear, Matrix, Multiply
from rnnlab.ops.activations import ActivationSpec, sigmoid, tanh
from rnnlab.ops.linear import matmul
from rnnlab.typing import Array, Carry, Float, Parts


class _WithOutput(BaseCell):
    """The base of cells that put out y = φ(h' C + x D + c): a linear readout of a state that is linear in the inputs
    could not even tell which inputs belong together."""

    output: InitVar[bool] = True
    """Whether a layer puts out y; else it puts out h itself."""
    output_activation: InitVar[ActivationSpec] = "gelu"
    """φ."""

    def initialize(self, options: Any, rngs: nnx.Rngs) -> None:
        super().initialize(options, rngs)
        if options.output:
            self.output_map = OutputMap(
                self.in_features, self.features, self.features, activation=options.output_activation, rngs=rngs
            )


class MinGRU(_WithOutput, without=("recurrent_init",)):
    """A GRU whose gate and candidate see the input alone; carry (h,).

        z = σ(x W_z + b_z)      n = x W_n + b_n
        h' = (1 - z) ∘ h + z ∘ n            y = φ(h' C + x D + c)

    (Feng et al., 2024, section 3.1.) With positive, n = g(x W_n + b_n), g(a) = a + 1/2 from 0 up and σ(a) below, which
    their form in logarithms needs (appendix B). No matrix meets the state. y is
    not in the paper, whose blocks have further layers around the cell.
    """

    gate_names = ("z", "n")
    chrono_signs = (-1, 0)
    has_candidate = True
    linear = Linear(0)

    positive: bool = False
    """Whether the candidate is above 0."""

    def step(self, carry: Carry, z: Parts, multiply: Multiply) -> Carry:
        (h,), (update, n, *_) = carry, z
        return (h + sigmoid(update) * (self.candidate(_positive(n) if self.positive else n, z) - h),)


class MinLSTM(_WithOutput, without=("recurrent_init",)):
    """An LSTM whose gates and candidate see the input alone, and whose forget and input gate add up to 1; carry (h,).

        f = σ(x W_f + b_f)      i = σ(x W_i + b_i)      n = x W_n + b_n
        h' = (f ∘ h + i ∘ n) / (f + i)      y = φ(h' C + x D + c)

    (Feng et al., 2024, section 3.2.) `positive` and y are those of `mingru`.
    """

    gate_names = ("f", "i", "n")
    chrono_signs = (1, -1, 0)
    has_candidate = True
    linear = Linear(0)

    positive: bool = False
    """Whether the candidate is above 0."""

    def step(self, carry: Carry, z: Parts, multiply: Multiply) -> Carry:
        (h,), (f, i, n, *_) = carry, z
        f, i = sigmoid(f), sigmoid(i)
        return (h + i / (f + i) * (self.candidate(_positive(n) if self.positive else n, z) - h),)


def _positive(a: jax.Array) -> jax.Array:
    return jnp.where(a >= 0, a + 0.5, sigmoid(a))


class LRU(_WithOutput, without=("recurrent_init", "chrono")):
    """A linear recurrent unit: H / 2 complex numbers that turn and shrink; carry (h,), h = [real, imaginary].

        h' = λ ∘ h + γ ∘ (x B + b)      λ = exp(-exp(ν) + i exp(θ))      y = φ(Re(h' C) + x D + c)

    (Orvieto et al., 2023, section 3, where there is no b; γ starts at √(1 - |λ|²), eq. 7.) |λ| < 1 whatever is trained.
    |λ|² is drawn from U[r_min², r_max²], the angle from U[0, max_phase]; B and C as `input_init` and Glorot say, in the
    paper their real and imaginary parts from N(0, 1 / 2D) and N(0, 2 / H). H must be even. Known for the results of
    state space models on long sequences without their theory.
    """

    recurrent_parameters = ("decay", "angle")
    linear = Linear(0, parts=2)

    r_min: InitVar[Traced[Share]] = 0.0
    """The least |λ| at first, but for rounding above 0 and below 1."""
    r_max: InitVar[Traced[Share]] = 1.0
    """The largest, likewise."""
    max_phase: InitVar[Traced[Positive]] = 6.283185307179586
    """The largest angle of λ at first, in radians."""

    def initialize(self, options: Any, rngs: nnx.Rngs) -> None:
        super().initialize(options, rngs)
        if self.features % 2:
            raise ConfigError(f"LRU's features are {self.features}; real and imaginary parts need an even number")
        units = self.features // 2
        first, second = (jax.random.uniform(rngs.params(), (units,), jnp.float32, 1e-6) for _ in range(2))
        squared = options.r_min**2 + first * (options.r_max**2 - options.r_min**2)
        squared = jnp.clip(squared, 1e-12, 1 - 2**-23)  # Of 0 and 1 neither ν nor its gradient is a number.
        self.decay = nnx.Param(jnp.log(-0.5 * jnp.log(squared)))
        self.angle = nnx.Param(jnp.log(options.max_phase * second))
        self.scale = nnx.Param(0.5 * jnp.log1p(-squared))
        self.bias[...] = jnp.zeros_like(self.bias[...])

    def project(self, x: Float[Array, "... D"]) -> Float[Array, "... H"]:
        """γ ∘ (x B), its real parts in front."""
        return super().project(x) * jnp.exp(jnp.tile(self.scale[...], 2))

    def matrices(self) -> dict[str, Matrix]:
        """λ, whose real parts keep a number and whose imaginary parts turn it."""
        size, angle = jnp.exp(-jnp.exp(self.decay[...])), jnp.exp(self.angle[...])
        real, imaginary = size * jnp.cos(angle), size * jnp.sin(angle)
        return {
            "real": Matrix(jnp.tile(real, 2)),
            "imaginary": Matrix(jnp.concatenate([imaginary, -imaginary])),
        }

    def recurrent_matrices(self) -> dict[str, Float[Array, "H H"]]:
        matrices = self.matrices()
        units = self.features // 2
        turned = jnp.roll(jnp.diag(matrices["imaginary"].kernel), units, axis=1)
        return {"h": jnp.diag(matrices["real"].kernel) + turned}

    @property
    def builds_recurrent_matrix(self) -> bool:
        return True

    def step(self, carry: Carry, z: Parts, multiply: Multiply) -> Carry:
        (h,) = carry
        (kept,), (turned,) = multiply("real", h), multiply("imaginary", h)
        real, imaginary = jnp.split(turned, 2, axis=-1)
        return (kept + jnp.concatenate([imaginary, real], axis=-1) + z[0],)


class QRNN(BaseCell, without=("recurrent_init",)):
    """A quasi-recurrent network: convolutions over the last `window` inputs, and pooling; carry (h, c, and the inputs'
    projections that later steps need).

        n = tanh(Σ_j x_{t-j} W_nj + b_n)      f = σ(Σ_j x_{t-j} W_fj + b_f)      o = σ(Σ_j x_{t-j} W_oj + b_o)
        c' = f ∘ c + (1 - f) ∘ n              h' = o ∘ c'

    (Bradbury et al., 2017, eqs. 1 and 4, fo-pooling; j from 0 to window - 1.) Before a row's first input stand
    zeros; in windows of a text, its earlier inputs.
    """

    gate_names = ("n", "f", "o")
    carry_names = ("h", "c")
    chrono_signs = (0, 1, 0)
    has_candidate = True
    linear = Linear(1)

    window: PositiveInt = 2
    """How many inputs a step sees."""

    def initialize(self, options: Any, rngs: nnx.Rngs) -> None:
        super().initialize(options, rngs)
        draws = [
            self._draw_gates(options.input_init, rngs, self.in_features, self.gate_names)
            for _ in range(self.window - 1)
        ]
        self.earlier_kernel = nnx.Param(jnp.stack(draws)) if draws else None
        self.carry_names = ("h", "c", *(f"inputs {steps} ahead" for steps in range(1, self.window)))  # pyright: ignore

    def project(self, x: Float[Array, "... D"]) -> Float[Array, "... M"]:
        """x W_0 + b, and beside it x W_j of every later step that sees x."""
        parts = [super().project(x)]
        if self.earlier_kernel is not None:
            parts += [matmul(x, kernel, self.precision) for kernel in self.earlier_kernel[...]]
        return jnp.concatenate(parts, -1)

    def split(self, a: Float[Array, "... M"]) -> Parts:
        return jnp.split(a, self.window * len(self.gate_names), axis=-1)

    @property
    def part_names(self) -> tuple[str, ...]:
        later = [f"{gate}_{steps}" for steps in range(1, self.window) for gate in self.gate_names]
        return (*self.gate_names, *later)

    def initial_carry(self, batch: int, dtype: Any = jnp.float32) -> Carry:
        pending = jnp.zeros((batch, len(self.gate_names) * self.features), dtype)
        return (*super().initial_carry(batch, dtype)[:2], *[pending] * (self.window - 1))

    def step(self, carry: Carry, z: Parts, multiply: Multiply) -> Carry:
        _, c, *pending = carry
        gates = len(self.gate_names)
        n, f, o = z[:gates]
        later = []
        for number, waiting in enumerate(pending, 1):
            sent = jnp.concatenate(z[number * gates : (number + 1) * gates], -1)
            later.append(sent if number == len(pending) else sent + pending[number])
            if number == 1:
                n, f, o = map(jnp.add, (n, f, o), jnp.split(waiting, gates, axis=-1))
        n = self.candidate(tanh(n), [n, f, o, *z[self.window * gates :]])
        c = n + sigmoid(f) * (c - n)
        return (sigmoid(o) * c, c, *later)


class SRU(ShortcutCell, without=("recurrent_init",)):
    """A simple recurrent unit, whose gates see c through a diagonal matrix each; carry (h, c).

        n = x W_n
        f = σ(x W_f + v_f ∘ c + b_f)      r = σ(x W_r + v_r ∘ c + b_r)
        c' = f ∘ c + (1 - f) ∘ n          h' = r ∘ c' + (1 - r) ∘ α x

    (Lei et al., 2018, eqs. 1 to 4.) The x of the last line is x P where D is not H. Fast in deep stacks. It is not
    linear in c, by v. No matrix meets the state.
    """

    gate_names = ("n", "f", "r")
    unbiased = ("n",)
    carry_names = ("h", "c")
    chrono_signs = (0, 1, 0)
    recurrent_parameters = ("peephole_kernel",)
    has_candidate = True

    skip_scale: Traced[Positive] = 3**0.5
    """α, which keeps the variance of h near that of x at first: √(1 + 2 exp(b_r)), √3 for b_r = 0 (section 3.2)."""

    def initialize(self, options: Any, rngs: nnx.Rngs) -> None:
        super().initialize(options, rngs)
        bound = self.features**-0.5
        draw = jax.random.uniform(rngs.params(), (2, self.features), jnp.float32, -bound, bound)
        self.peephole_kernel = nnx.Param(draw)  # The rows are v_f, v_r.

    def matrices(self) -> dict[str, Matrix]:
        v_f, v_r = self.peephole_kernel[...]
        return {"forget": Matrix(v_f, of_state=False), "reset": Matrix(v_r, of_state=False)}

    def step(self, carry: Carry, z: Parts, multiply: Multiply) -> Carry:
        (_, c), (x, n, f, r, *masks) = carry, z
        (seen_f,), (seen_r,) = multiply("forget", c), multiply("reset", c)
        n, past = self.candidate(n, [*z[1:4], *masks]), self.skip_scale * x
        c = n + sigmoid(f + seen_f) * (c - n)
        return (past + sigmoid(r + seen_r) * (c - past), c)
