"""The common part of tasks over a few symbols: tokens go in, classes come out, sequences are right or wrong."""

import jax
import jax.numpy as jnp
import optax

from rnnlab.config.errors import ConfigError
from rnnlab.nn.cross_entropy import Distribution
from rnnlab.tasks.base import Batch, Weighted
from rnnlab.tasks.generated import GeneratedTask
from rnnlab.typing import Array, Bool, Float, Int

ONE_PERCENT = 0.00999
"""The largest share of wrong sequences that counts as solved: fewer than 1 %, as Hochreiter and Schmidhuber (1997) ask
for; with 2000 validation examples 19 of them."""


class SymbolTask(GeneratedTask):
    """Inputs are tokens, which a network takes as one-hot vectors, as the papers do, or through `model.embedding`.

    Loss: cross-entropy in nats of every answer. Metrics: `accuracy`, the share of right answers, and `wrong`, the share
    of sequences with a wrong one; a task may count some answers only.
    """

    larger_is_better = frozenset({"accuracy"})
    shares = frozenset({"accuracy", "wrong"})
    solved = ("wrong", ONE_PERCENT)

    def remembered(self, targets: Int[Array, "T B"]) -> Bool[Array, "T B"]:
        """The answers that `accuracy` is over."""
        return jnp.ones(targets.shape, bool)

    def judged(self, targets: Int[Array, "T B"]) -> Bool[Array, "T B"]:
        """The answers of which one that is wrong makes its sequence wrong."""
        return jnp.ones(targets.shape, bool)

    def score(
        self, outputs: Distribution | Float[Array, "*TB O"], batch: Batch
    ) -> tuple[dict[str, jax.Array | Weighted], jax.Array]:
        if isinstance(outputs, Distribution):
            raise ConfigError("model.softmax: this task's answers are few symbols, not words; leave it None")
        nats = optax.softmax_cross_entropy_with_integer_labels(outputs, batch.targets)
        right, targets = outputs.argmax(-1) == batch.targets, batch.targets
        if self.readout == "last":
            nats, right, targets = nats[None], right[None], targets[None]
        counted, judged = self.remembered(targets), self.judged(targets)
        accuracy = Weighted((right & counted).sum(0).astype(nats.dtype), counted.sum(0).astype(nats.dtype))
        wrong = Weighted((~right & judged).any(0).astype(nats.dtype), 1.0)
        values: dict[str, jax.Array | Weighted] = {"loss": nats.sum(0), "accuracy": accuracy, "wrong": wrong}
        return values, jnp.full(nats.shape[1], float(nats.shape[0]), nats.dtype)
