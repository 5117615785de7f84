"""The structurally constrained recurrent network."""

from typing import Any

import jax.numpy as jnp
from flax import nnx

from rnnlab.cells.base import BaseCell
from rnnlab.config.bounds import Decay, PositiveInt, Traced
from rnnlab.config.errors import ConfigError
from rnnlab.engine import Matrix, Multiply
from rnnlab.ops.activations import sigmoid
from rnnlab.typing import Carry, Parts


class SCRN(BaseCell, without=("chrono",)):
    """Fast units h and slow ones s, which are the last `context` of all H; carry (h beside s,).

        s' = (1 - α) (x W_s + b_s) + α s        h' = σ(x W_h + s' P + h R + b_h)

    (Mikolov et al., 2015, where b = 0.) As the readout sees h beside s, it is the paper's y = U h + V s;
    torchrecurrent feeds y back in the place of h. `recurrent_kernel` [H, H - context] is R above P. It is known for
    slow units in a vanilla cell that do much of what an LSTM does in language models.
    """

    context: PositiveInt | None = None
    """How many units are slow; a quarter of them if not set (the paper has 40 beside 100)."""
    decay: Traced[Decay] = 0.95
    """α."""

    def initialize(self, options: Any, rngs: nnx.Rngs) -> None:
        self.slow = self.features // 4 if options.context is None else options.context
        fast = self.features - self.slow
        if fast < 1:
            raise ConfigError(
                f"SCRN has {self.features} features, of which context={self.slow} are slow; it needs a fast one"
            )
        super().initialize(options, rngs)
        drawn = self._draw_gates(options.recurrent_init, rngs, self.features, ("h",))
        self.recurrent_kernel = nnx.Param(drawn[:, :fast])

    def matrices(self) -> dict[str, Matrix]:
        return {"recurrent": Matrix(self.recurrent_kernel[...])}

    def step(self, carry: Carry, z: Parts, multiply: Multiply) -> Carry:
        fast = self.features - self.slow
        state = jnp.where(jnp.arange(self.features) < fast, carry[0], z[0] + self.decay * (carry[0] - z[0]))
        (u,) = multiply("recurrent", state)  # From h beside s'.
        return (jnp.concatenate([sigmoid(z[0][:, :fast] + u), state[:, fast:]], axis=-1),)
