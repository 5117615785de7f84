"""Cells with a gate or two, which leave out of the LSTM and the GRU what they can."""

from dataclasses import InitVar
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx

from rnnlab.cells.base import BaseCell, Cell
from rnnlab.config.bounds import Traced
from rnnlab.engine import Multiply
from rnnlab.ops.activations import relu, sigmoid, tanh
from rnnlab.ops.linear import affine
from rnnlab.typing import Array, Carry, Float, Parts


class MGU(BaseCell):
    """The minimal gated unit: gates in the order f, n; carry (h,).

        f = σ(x W_f + h R_f + b_f)          n = tanh(x W_n + (f ∘ h) R_n + b_n)
        h' = (1 - f) ∘ h + f ∘ n

    (Zhou et al., 2016.) A GRU whose one gate is both of its gates; as good with two thirds of the
    parameters.
    """

    gate_names = ("f", "n")
    products: ClassVar = {"gate": ("f",), "candidate": ("n",)}
    chrono_signs = (-1, 0)
    has_candidate = True

    def step(self, carry: Carry, z: Parts, multiply: Multiply) -> Carry:
        (h,), (z_f, z_n, *_) = carry, z
        f = sigmoid(z_f + multiply("gate", h)[0])
        n = self.candidate(tanh(z_n + multiply("candidate", f * h)[0]), z)
        return (h + f * (n - h),)


class JANET(Cell):
    """Just another network: the LSTM's forget gate alone; gates in the order f, c; carry (h,).

        s = x W_f + h R_f + b_f             c = tanh(x W_c + h R_c + b_c)
        h' = σ(s) ∘ h + (1 - σ(s - β)) ∘ c

    (van der Westhuizen and Lasenby, 2018.) With chrono biases (`chrono`), as the paper has them, it is
    better than the LSTM on pixel MNIST; without, b_f starts from 1, as in the authors' code.
    """

    gate_names = ("f", "c")
    chrono_signs = (1, 0)
    has_candidate = True

    writing: Traced[float] = 1.0
    """β, which lets more be written than is forgotten."""
    forget_bias: InitVar[Traced[float]] = 1.0
    """Added to what bias_init draws for the forget gate, unless chrono says how long it keeps."""

    def initialize(self, options: Any, rngs: nnx.Rngs) -> None:
        super().initialize(options, rngs)
        if options.chrono is None:
            self.bias[...] = self.bias[...].at[: self.features].add(options.forget_bias)

    def gates(self, carry: Carry, z: Parts, u: Parts) -> Carry:
        (h,), (z_f, z_c, *_), (u_f, u_c) = carry, z, u
        s = z_f + u_f
        return (sigmoid(s) * h + sigmoid(self.writing - s) * self.candidate(tanh(z_c + u_c), z),)


class LiGRU(Cell):
    """The light gated recurrent unit: gates in the order z, n; carry (h,).

        z = σ(x W_z + h R_z + b_z)          n = max(x W_n + h R_n + b_n, 0)
        h' = z ∘ h + (1 - z) ∘ n

    (Ravanelli et al., 2018.) Made for speech: the best recurrent networks on TIMIT had it. The paper
    normalises x W over batches in the place of b, which is what `model.normalization` is for.
    """

    gate_names = ("z", "n")
    chrono_signs = (1, 0)
    has_candidate = True

    def gates(self, carry: Carry, z: Parts, u: Parts) -> Carry:
        (h,), (z_z, z_n, *_), (u_z, u_n) = carry, z, u
        n = self.candidate(relu(z_n + u_n), z)
        return (n + sigmoid(z_z + u_z) * (h - n),)


class MinimalRNN(BaseCell):
    """The minimal network: parts in the order y, u; carry (h,).

        y = tanh(x W + b_y)                 u = σ(y V + h R + b_u)
        h' = u ∘ h + (1 - u) ∘ y

    (Chen, 2017.) The state is a mean of what the input alone says; networks that meet mean-field theory
    (Chen et al., 2018) can be trained over thousands of steps. V is `latent_kernel`.
    """

    gate_names = ("y", "u")
    products: ClassVar = {"recurrent": ("u",)}
    chrono_signs = (0, 1)
    has_candidate = True

    def initialize(self, options: Any, rngs: nnx.Rngs) -> None:
        super().initialize(options, rngs)
        self.input_kernel = nnx.Param(self._draw_gates(options.input_init, rngs, self.in_features, ("y",)))
        self.latent_kernel = nnx.Param(self._draw_gates(options.input_init, rngs, self.features, ("u",)))

    def project(self, x: Float[Array, "... D"]) -> Float[Array, "... M"]:
        """y, and y V + b_u."""
        of_y, of_u = jnp.split(self.bias[...], 2)
        y = tanh(affine(x, self.input_kernel[...], of_y, self.precision))
        return jnp.concatenate([y, affine(y, self.latent_kernel[...], of_u, self.precision)], -1)

    def step(self, carry: Carry, z: Parts, multiply: Multiply) -> Carry:
        (h,), (y, z_u, *_) = carry, z
        y = self.candidate(y, z)
        return (y + sigmoid(z_u + multiply("recurrent", h)[0]) * (h - y),)


class CFN(BaseCell):
    """The chaos-free network: gates in the order t, e, y; carry (h,).

        t = σ(x W_t + h R_t + b_t)          e = σ(x W_e + h R_e + b_e)
        h' = t ∘ tanh(h) + e ∘ tanh(x W_y)

    (Laurent and von Brecht, 2017.) Without an input the state goes to zero: there is no chaos, and yet it
    models language as well as the LSTM.
    """

    gate_names = ("t", "e", "y")
    products: ClassVar = {"recurrent": ("t", "e")}
    unbiased = ("y",)
    has_candidate = True

    forget_bias: InitVar[Traced[float]] = 1.0
    """Added to what bias_init draws for t, as the paper has it; e starts from -1 times that."""

    def initialize(self, options: Any, rngs: nnx.Rngs) -> None:
        super().initialize(options, rngs)
        self.bias[...] += options.forget_bias * jnp.repeat(jnp.array([1, -1], jnp.float32), self.features)

    def step(self, carry: Carry, z: Parts, multiply: Multiply) -> Carry:
        (h,), (z_t, z_e, z_y, *_) = carry, z
        u_t, u_e = multiply("recurrent", h)
        return (sigmoid(z_t + u_t) * tanh(h) + sigmoid(z_e + u_e) * self.candidate(tanh(z_y), z),)


class STAR(BaseCell):
    """The stackable recurrent cell: gates in the order y, k; carry (h,).

        y = tanh(x W_y + b_y)               k = σ(x W_k + h R + b_k)
        h' = tanh((1 - k) ∘ h + k ∘ y)

    (Turkoglu et al., 2021.) The gradient keeps its size from layer to layer, so that many can be
    stacked.
    """

    gate_names = ("y", "k")
    products: ClassVar = {"recurrent": ("k",)}
    chrono_signs = (0, -1)
    has_candidate = True

    def step(self, carry: Carry, z: Parts, multiply: Multiply) -> Carry:
        (h,), (z_y, z_k, *_) = carry, z
        y = self.candidate(tanh(z_y), z)
        return (tanh(h + sigmoid(z_k + multiply("recurrent", h)[0]) * (y - h)),)
