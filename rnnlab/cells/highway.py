"""Recurrent highway networks: several layers within a step."""

from dataclasses import InitVar
from typing import Any

import jax.numpy as jnp
from flax import nnx

from rnnlab.cells.base import BaseCell
from rnnlab.config.bounds import PositiveInt, Traced
from rnnlab.engine import Multiply
from rnnlab.ops.activations import sigmoid, tanh
from rnnlab.ops.initializers import as_initializer
from rnnlab.typing import Array, Carry, Float, Parts


class RecurrentHighway(BaseCell, without=("chrono",)):
    """The recurrent highway network with coupled gates; gates in the order h, t; carry (h,).

        a = tanh(x W_h + s R_h1 + b_h)      t = σ(x W_t + s R_t1 + b_t)         in the first layer
        a = tanh(s R_hl + b_hl)             t = σ(s R_tl + b_tl)                in layer l after it
        s ← (1 - t) ∘ s + t ∘ a

    (Zilly et al., 2017.) s is h in the first layer, and the last one's is h'. R has the layers side by
    side. The authors' language models have ten layers.
    """

    gate_names = ("h", "t")
    has_candidate = True

    depth: PositiveInt = 3
    """How many layers a step has."""
    transform_bias: InitVar[Traced[float]] = -2.0
    """Added to what bias_init draws for t of every layer: below 0 the layers carry at first more than they change."""

    @property
    def products(self) -> dict[str, tuple[str, ...]]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return {f"layer {layer}": (f"h {layer}", f"t {layer}") for layer in range(1, self.depth + 1)}

    def initialize(self, options: Any, rngs: nnx.Rngs) -> None:
        super().initialize(options, rngs)
        draw, further = as_initializer(options.bias_init), self.depth - 1
        of_gates = options.transform_bias * jnp.repeat(jnp.array([0, 1], jnp.float32), self.features)
        self.bias[...] += of_gates
        biases = [draw(rngs.params(), (self.features,), jnp.float32) for _ in range(2 * further)]
        self.recurrent_bias = nnx.Param(jnp.concatenate(biases) + jnp.tile(of_gates, further)) if further else None

    def recurrent_offset(self) -> Float[Array, " U"] | None:
        if self.recurrent_bias is None:
            return None
        bias = self.recurrent_bias[...]
        return jnp.concatenate([jnp.zeros(2 * self.features, bias.dtype), bias])

    def step(self, carry: Carry, z: Parts, multiply: Multiply) -> Carry:
        (s,) = carry
        for layer, name in enumerate(self.products):
            a, t = multiply(name, s)
            if layer == 0:
                a, t = a + z[0], t + z[1]
            s = s + sigmoid(t) * (self.candidate(tanh(a), z) - s)
        return (s,)
