"""Symbols that are repeated after a delay, in the order in which they came: copying, denoising, memorization."""

import math
from collections.abc import Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from rnnlab.config.bounds import LARGEST_INT, Bound, PositiveInt
from rnnlab.config.errors import ConfigError
from rnnlab.tasks.base import Example, Split
from rnnlab.tasks.symbols import SymbolTask
from rnnlab.typing import Array, Bool, Int, PRNGKeyArray, PyTree


class _Repeat(SymbolTask):
    """`items` symbols and `blanks` blanks, a delimiter, and `items` blanks more; the answer is a blank until the
    delimiter, and after it the symbols, one a step.

    Tokens: the symbols are 0 to values - 1, the blank is `values`, the delimiter `values` + 1. `accuracy` is over the
    symbols alone; a sequence with any wrong answer is wrong, one in place of a blank, too.
    """

    readout = "every"
    scattered = False
    """Whether the symbols stand at random places among the blanks, and not before them."""
    random_delay = False
    """Whether a random part of the blanks, at least one, comes before the delimiter, and the rest at the end."""

    def arrange(self, items: int, values: int, blanks: int) -> None:
        """Sets all that follows from these three."""
        self.count, self.sorts, self.blanks = items, values, blanks
        self.steps = 2 * items + blanks + 1
        self.vocabulary = self.in_features = values + 2
        self.out_features = values + 1
        self.longest_dependency = items + blanks + 1
        chance = items * math.log(values) / self.steps
        self.baselines: Mapping[Split, float] = {"validation": chance, "test": chance}

    def remembered(self, targets: Int[Array, "T B"]) -> Bool[Array, "T B"]:
        return targets < self.sorts

    def example(self, data: PyTree, key: PRNGKeyArray, split: Split, index: Int[Array, ""]) -> Example:
        symbol_key, place_key, delay_key = jax.random.split(key, 3)
        symbols = jax.random.randint(symbol_key, (self.count,), 0, self.sorts)
        before = self.blanks
        if self.random_delay:
            before = jax.random.randint(delay_key, (), 1, self.blanks + 1)
        places, delimiter = jnp.arange(self.count), self.count + before
        if self.scattered:
            steps = jnp.arange(self.count + self.blanks)
            draws = jnp.where(steps < delimiter, jax.random.uniform(place_key, steps.shape), -1)
            places = jnp.sort(jax.lax.top_k(draws, self.count)[1])
        blank = jnp.full(self.steps, self.sorts)
        inputs = blank.at[places].set(symbols).at[delimiter].set(self.sorts + 1)
        return Example(inputs, blank.at[delimiter + 1 + jnp.arange(self.count)].set(symbols))


class Copying(_Repeat):
    """Ten of 8 symbols, T - 1 blanks, a delimiter and ten blanks; the answer: T + 10 blanks, then the ten symbols.

    Inputs are tokens [T + 20] (0 to 7 symbols, 8 the blank, 9 the delimiter), targets classes [T + 20] (8 the blank).
    The task is Hochreiter and Schmidhuber's (1997) in the form of Arjovsky et al. (2016). Always answering blanks, and
    symbols by chance, has a cross-entropy of 10 ln 8 / (T + 20) nats a step: on this plateau most networks stay.
    Orthogonal networks leave it; gated ones do for small T, or with `model.cell.chrono`.

    Loss: cross-entropy of every step. Metrics: `accuracy`, the share of the ten symbols that are right, and `wrong`, of
    sequences with a wrong answer at any step; solved below 1 %.
    """

    length: Annotated[int, Bound(1, LARGEST_INT)] = 100
    """T, the delay: a sequence has T + 20 steps, and each symbol is asked for T + 10 steps after it came."""
    variable: bool = False
    """Whether the blanks before the delimiter stand at random places among the symbols: then no fixed delay will do,
    and a network has to find the symbols."""
    random_delay: bool = False
    """Whether 1 to T - 1 blanks, drawn uniformly, stand before the delimiter, and the others at the end: the variant of
    Henaff et al. (2016), as Tallec and Ollivier (2018) describe it."""

    def initialize(self, options: Any) -> None:
        if self.random_delay and self.length < 2:
            raise ConfigError(
                f"task.length: {self.length} is too short for task.random_delay, which draws from 1 to T - 1 blanks; "
                "it must be at least 2"
            )
        self.scattered = self.variable
        self.arrange(items=10, values=8, blanks=self.length - 1)


class Denoising(_Repeat):
    """Ten of 9 symbols at random places among T - 1 blanks, the noise, then a marker and ten blanks; the answer: T + 10
    blanks, then the ten symbols.

    Inputs are tokens [T + 20] (0 to 8 symbols, 9 the blank, 10 the marker), targets classes [T + 20] (9 the blank), as
    Jing et al. (2017) have it. A network has to find what counts, and to forget what does not: gates help, a fixed
    rotation alone does not. Always answering blanks, and symbols by chance, has 10 ln 9 / (T + 20) nats a step.

    Loss: cross-entropy of every step. Metrics: `accuracy`, the share of the ten symbols that are right, and `wrong`, of
    sequences with a wrong answer at any step; solved below 1 %.
    """

    scattered = True
    length: Annotated[int, Bound(1, LARGEST_INT)] = 100
    """T: a sequence has T + 20 steps, and the first T + 9 hold the ten symbols."""

    def initialize(self, options: Any) -> None:
        self.arrange(items=10, values=9, blanks=self.length - 1)


class Memorization(_Repeat):
    """`items` symbols of `values` kinds, T blanks, a trigger and as many blanks as symbols; the answer: blanks until
    the trigger, then the symbols.

    Inputs are tokens [T + 2 items + 1] (the symbols, then the blank, then the trigger), targets classes at every step.
    Martens and Sutskever (2011) and Jaeger (2012) call `bits=5` the 5-bit and `values=5, items=10` the 20-bit problem.
    Jaeger has T - 1 blanks; the code of Pascanu et al. (2013) asks for the first symbol at the trigger itself, here it
    is asked for one step later. Answering blanks, and symbols by chance, has items · ln(values) / (T + 2 items + 1).

    Loss: cross-entropy of every step. Metrics: `accuracy`, the share of the symbols that are right, and `wrong`, of
    sequences with a wrong answer at any step; solved below 1 %.
    """

    length: PositiveInt = 50
    """T, the blanks between the last symbol and the trigger."""
    bits: PositiveInt | None = None
    """So many symbols of two kinds; None: 5, or `items` of `values` kinds where these are set."""
    values: Annotated[int, Bound(2, LARGEST_INT)] | None = None
    """Of how many kinds a symbol may be; together with items."""
    items: PositiveInt | None = None
    """How many symbols there are; together with values."""

    def initialize(self, options: Any) -> None:
        if (options.values is None) != (options.items is None):
            name, other = ("values", "items") if options.items is None else ("items", "values")
            raise ConfigError(f"task.{name}: needs task.{other}, too; for symbols of two kinds set task.bits alone")
        if options.values is not None and options.bits is not None:
            raise ConfigError("task.bits: it stands for symbols of two kinds; leave it None with values and items")
        self.arrange(items=options.items or options.bits or 5, values=options.values or 2, blanks=self.length)
