"""The temporal order problem (Hochreiter and Schmidhuber, 1997): which of two symbols came, early and late."""

import math
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp

from rnnlab.config.bounds import LARGEST_INT, Bound
from rnnlab.tasks.base import Example, Split
from rnnlab.tasks.symbols import SymbolTask
from rnnlab.typing import Array, Int, PRNGKeyArray, PyTree

TENTHS: dict[int, tuple[int, ...]] = {2: (1, 5), 3: (1, 3, 6)}
"""Where each symbol that counts may stand: from so many tenths of T to one more, the end left out."""
DISTRACTORS = 4


class TemporalOrder(SymbolTask):
    """Two (or three) symbols, A or B, among distractors c to f; the class after the last step is which came in which
    order: AA, AB, BA or BB.

    Inputs are tokens [T]: 0 is A, 1 is B, 2 to 5 are the distractors; the target is the class, the first symbol
    counting most. With `symbols=2` they stand in [0.1 T, 0.2 T) and [0.5 T, 0.6 T), with `symbols=3` in [0.1 T, 0.2 T),
    [0.3 T, 0.4 T) and [0.6 T, 0.7 T), uniformly. These are the problems 6a and 6b of Hochreiter and Schmidhuber (1997)
    for any T, as in Martens and Sutskever (2011) and the code of Pascanu et al. (2013); without the symbols that begin
    and end a sequence, and with one T in place of a random one. The best blind answer has ln 4 or ln 8 nats.

    Loss: cross-entropy. Metrics: `accuracy`, and `wrong`, the share of sequences that are not right; solved below 1 %.
    """

    length: Annotated[int, Bound(10, LARGEST_INT)] = 100
    """T, steps of a sequence."""
    symbols: Literal[2, 3] = 2
    """How many symbols count: 4 classes, or 8."""

    def initialize(self, options: Any) -> None:
        self.ranges = tuple((-(-self.length * n // 10), -(-self.length * (n + 1) // 10)) for n in TENTHS[self.symbols])
        """From where to before where each symbol may stand."""
        self.vocabulary = self.in_features = 2 + DISTRACTORS
        self.out_features = 2**self.symbols
        self.longest_dependency = self.length - 1 - self.ranges[0][0]
        chance = math.log(self.out_features)
        self.baselines = {"validation": chance, "test": chance}

    def example(self, data: PyTree, key: PRNGKeyArray, split: Split, index: Int[Array, ""]) -> Example:
        distractor_key, place_key, symbol_key = jax.random.split(key, 3)
        low, high = jnp.array(self.ranges).T
        places = jax.random.randint(place_key, (self.symbols,), low, high)
        symbols = jax.random.randint(symbol_key, (self.symbols,), 0, 2)
        distractors = jax.random.randint(distractor_key, (self.length,), 2, 2 + DISTRACTORS)
        weights = 2 ** jnp.arange(self.symbols - 1, -1, -1)
        return Example(distractors.at[places].set(symbols), (symbols * weights).sum())
