"""Cells whose units see nothing of each other's state."""

import abc
from dataclasses import InitVar
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rnnlab.cells.base import BaseCell
from rnnlab.config.bounds import Positive, Traced
from rnnlab.engine import Matrix, Multiply
from rnnlab.ops.activations import ActivationSpec
from rnnlab.typing import Array, Carry, Float, Parts


class DiagonalCell(BaseCell):
    """The base of cells whose state meets diagonal matrices alone: no unit sees another's state."""

    recurrent_parameters = ("diagonal_kernel",)

    @abc.abstractmethod
    def diagonals(self) -> dict[str, Float[Array, " H"]]:
        """The diagonals by their gates, which are the names that a step multiplies with."""

    def matrices(self) -> dict[str, Matrix]:
        return {gate: Matrix(w) for gate, w in self.diagonals().items()}

    def recurrent_matrix(self) -> Float[Array, "H U"]:
        return jnp.concatenate([*self.recurrent_matrices().values()], axis=1)

    def recurrent_matrices(self) -> dict[str, Float[Array, "H H"]]:
        return {gate: jnp.diag(w) for gate, w in self.diagonals().items()}


class IndRNN(DiagonalCell, without=("chrono", "recurrent_init")):
    """The independently recurrent network; carry (h,).

        h' = f(x W + w ∘ h + b)

    (Li et al., 2018, eq. 2.) A unit's gradient over T steps is bounded by |w|^T: with |w| at most 2^(1/T) neither of
    vanishing nor of exploding, in networks of many layers and over thousands of steps. The paper draws w from
    U[0, 2^(1/T)], and, in a last layer that is read at the end, from U[2^(-1/T), 2^(1/T)].
    """

    activation: ActivationSpec = "relu"
    """f."""
    lowest: InitVar[Traced[float]] = 0.0
    """The lower end of the range that w is drawn from."""
    highest: InitVar[Traced[float]] = 1.0
    """Its upper end."""
    bound: Traced[Positive] | None = None
    """The largest |w|, the paper's 2^(1/T); None for no bound."""

    def initialize(self, options: Any, rngs: nnx.Rngs) -> None:
        super().initialize(options, rngs)
        share = jax.random.uniform(rngs.params(), (self.features,), jnp.float32)
        self.diagonal_kernel = nnx.Param(options.lowest + (options.highest - options.lowest) * share)

    def diagonals(self) -> dict[str, Float[Array, " H"]]:
        """w, within its bound."""
        w = self.diagonal_kernel[...]
        return {"h": w if self.bound is None else within(w, jnp.asarray(self.bound, w.dtype))}

    def step(self, carry: Carry, z: Parts, multiply: Multiply) -> Carry:
        return (self.activation(z[0] + multiply("h", carry[0])[0]),)  # pyright: ignore[reportCallIssue]


@jax.custom_vjp
def within(w: Float[Array, " H"], bound: Float[Array, ""]) -> Float[Array, " H"]:
    """w, moved to within ± bound. Beyond the bound, steps against the gradient lead back alone: so training does what
    it would do if weights were moved back after every update."""
    return jnp.clip(w, -bound, bound)


def _within_forward(w: jax.Array, bound: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return within(w, bound), (w, bound)


def _within_backward(saved: tuple[jax.Array, jax.Array], dw: jax.Array) -> tuple[jax.Array, jax.Array]:
    w, bound = saved
    leads_out = ((w >= bound) & (dw < 0)) | ((w <= -bound) & (dw > 0))
    return jnp.where(leads_out, 0, dw), jnp.zeros_like(bound)


within.defvjp(_within_forward, _within_backward)
