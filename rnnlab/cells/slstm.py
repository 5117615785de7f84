"""The scalar LSTM of xLSTM, with exponential gates."""

from dataclasses import InitVar
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.scipy.linalg import block_diag

from rnnlab.cells.base import Cell
from rnnlab.config.bounds import PositiveInt, Traced
from rnnlab.config.errors import ConfigError
from rnnlab.engine import Matrix
from rnnlab.ops.activations import sigmoid, tanh
from rnnlab.ops.initializers import as_initializer
from rnnlab.typing import Array, Carry, Float, Parts

BEFORE_ANYTHING = -1e4
"""m where nothing has been written: what was there before the first step weighs exp(-10 000)."""


class SLSTM(Cell, without=("chrono",)):
    """Gates in the order i, f, g, o; carry (h, c, m).

        i = exp(x W_i + h R_i + b_i)        f = σ(x W_f + h R_f + b_f), or exp
        g = tanh(x W_g + h R_g + b_g)       o = σ(x W_o + h R_o + b_o)
        C' = f C + i g      N' = f N + i    h' = o ∘ C' / N'

    (Beck et al., 2024, eqs. 8 to 14.) The paper's stabiliser state is any m by whose exponential C and N are divided
    (eqs. 15 to 17). Here it is m = log N, in place of the running maximum: then N is 1 at every step, c = C / N is a
    mean of what was written, and neither overflows. With heads, h meets one diagonal block of R a head. Exponential
    gates let a new input outweigh all that was stored. In the authors' code the forget gate is logistic, recurrent
    kernels start from zero, and there are four heads.
    """

    gate_names = ("i", "f", "g", "o")
    carry_names = ("h", "c", "m")
    has_candidate = True

    heads: PositiveInt = 1
    """How many diagonal blocks R has; 1 for a whole matrix."""
    forget: Literal["sigmoid", "exp"] = "sigmoid"
    """The function of the forget gate."""
    forget_bias: InitVar[Traced[float]] = 1.0
    """Added to what bias_init draws for the forget gate."""

    def initialize(self, options: Any, rngs: nnx.Rngs) -> None:
        if self.features % self.heads:
            divisors = [count for count in range(1, self.features + 1) if self.features % count == 0]
            near = sorted(sorted(divisors, key=lambda count: abs(count - self.heads))[:2])
            choice = " or ".join(map(str, near))
            raise ConfigError(f"model.cell.heads: {self.heads} do not divide {self.features} features; take {choice}")
        super().initialize(options, rngs)
        self.bias[...] = self.bias[...].at[self.features : 2 * self.features].add(options.forget_bias)
        if self.heads > 1:
            draw, width = as_initializer(options.recurrent_init), self.features // self.heads
            blocks = [
                [draw(rngs.params(), (width, width), jnp.float32) for _ in self.gate_names] for _ in range(self.heads)
            ]
            self.recurrent_kernel = nnx.Param(jnp.stack([jnp.concatenate(of_head, 1) for of_head in blocks]))

    def matrices(self) -> dict[str, Matrix]:
        if self.heads == 1:
            return super().matrices()
        return {"recurrent": Matrix(self.recurrent_kernel[...], parts=len(self.gate_names))}

    def recurrent_matrix(self) -> Float[Array, "H M"]:
        if self.heads == 1:
            return super().recurrent_matrix()
        of_gates = jnp.split(self.recurrent_kernel[...], len(self.gate_names), 2)
        return jnp.concatenate([block_diag(*blocks) for blocks in of_gates], 1)

    @property
    def builds_recurrent_matrix(self) -> bool:
        return self.heads > 1 or self.parametrisation is not None

    def initial_carry(self, batch: int, dtype: Any = jnp.float32) -> Carry:
        h, c, m = super().initial_carry(batch, dtype)
        return h, c, m + BEFORE_ANYTHING

    def gates(self, carry: Carry, z: Parts, u: Parts) -> Carry:
        _, c, m = carry
        i, f, g, o = map(jnp.add, z, u)
        share, m = weighed(i, m + (f if self.forget == "exp" else log_sigmoid(f)))
        c = c + share * (self.candidate(tanh(g), z) - c)
        return (sigmoid(o) * c, c, m)


@jax.custom_jvp
def log_sigmoid(x: jax.Array) -> jax.Array:
    return jnp.minimum(x, 0) - jnp.log1p(jnp.exp(-jnp.abs(x)))


@log_sigmoid.defjvp
def _log_sigmoid_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    y = log_sigmoid(*primals)
    return y, tangents[0] * (1 - jnp.exp(y))


@jax.custom_jvp
def weighed(new: jax.Array, old: jax.Array) -> tuple[jax.Array, jax.Array]:
    """exp(new) as a share of exp(new) + exp(old), and the logarithm of that sum."""
    difference = new - old
    return sigmoid(difference), jnp.maximum(new, old) + jnp.log1p(jnp.exp(-jnp.abs(difference)))


@weighed.defjvp
def _weighed_jvp(primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    share, total = weighed(*primals)
    dnew, dold = tangents
    difference = dnew - dold
    return (share, total), (share * (1 - share) * difference, dold + share * difference)
