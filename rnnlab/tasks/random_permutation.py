"""The random permutation problem: the last symbol is the first once more, whatever came between them."""

import math
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp

from rnnlab.config.bounds import LARGEST_INT, Bound
from rnnlab.tasks.base import Example, Split
from rnnlab.tasks.symbols import SymbolTask
from rnnlab.typing import Array, Bool, Int, PRNGKeyArray, PyTree


class RandomPermutation(SymbolTask):
    """T symbols of 100: the first is 0 or 1, the last the same, and those between are drawn from the others.

    A network reads tokens, the first T - 1, and predicts the last symbol, or at every step the next. The task is
    Hochreiter and Schmidhuber's (1997, problem 2c: nothing between repeats), under this name in Martens and Sutskever
    (2011); symbols between are drawn each by itself, and the last is scored alone, as in the code of Pascanu et al.
    (2013). Blind answers have ln 2 nats at the last step, ((T - 2) ln 98 + ln 2) / (T - 1) at every step.

    Loss: cross-entropy in nats. Metrics, of the last answer: `accuracy`, and `wrong`, the share of sequences in which
    it is not right; solved below 1 %.
    """

    length: Annotated[int, Bound(2, LARGEST_INT)] = 100
    """T, symbols of a sequence; a network reads one less."""
    symbols: Annotated[int, Bound(3, LARGEST_INT)] = 100
    """How many symbols there are, the two that count among them."""
    scored: Literal["last", "every"] = "last"
    """Which answers the loss is over: the last alone, or the prediction of the next symbol at every step."""

    def initialize(self, options: Any) -> None:
        self.readout = self.scored
        self.causal = self.scored == "every"  # The next symbol is the next input.
        self.vocabulary = self.in_features = self.out_features = self.symbols
        self.longest_dependency = self.length - 2
        chance = math.log(2)
        if self.scored == "every":
            chance = ((self.length - 2) * math.log(self.symbols - 2) + chance) / (self.length - 1)
        self.baselines = {"validation": chance, "test": chance}

    def remembered(self, targets: Int[Array, "T B"]) -> Bool[Array, "T B"]:
        steps = targets.shape[0]
        return jnp.broadcast_to(jnp.arange(steps)[:, None] == steps - 1, targets.shape)

    judged = remembered  # All that comes between is chance.

    def example(self, data: PyTree, key: PRNGKeyArray, split: Split, index: Int[Array, ""]) -> Example:
        end_key, between_key = jax.random.split(key)
        end = jax.random.randint(end_key, (1,), 0, 2)
        between = jax.random.randint(between_key, (self.length - 2,), 2, self.symbols)
        sequence = jnp.concatenate([end, between, end])
        return Example(sequence[:-1], sequence[1:] if self.scored == "every" else sequence[-1])
