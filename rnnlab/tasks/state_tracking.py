"""Problems whose answer is a state that every input changes, where linear recurrences of positive eigenvalues fail:
the parity of bits, and whether brackets are well-formed."""

import math
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp

from rnnlab.config.bounds import LARGEST_INT, Bound, PositiveInt
from rnnlab.config.errors import ConfigError
from rnnlab.tasks.base import Example, Split
from rnnlab.tasks.symbols import SymbolTask
from rnnlab.typing import Array, Int, PRNGKeyArray, PyTree


class _YesOrNo(SymbolTask):
    """One of two classes after the last step, each half of the time."""

    out_features = 2
    baselines = {"validation": math.log(2), "test": math.log(2)}  # noqa: RUF012


class Parity(_YesOrNo):
    """T bits, each 0 or 1 by chance; the target after the last is 1 where the ones are odd in number, else 0; with
    `scored="every"` after each bit the same of those so far.

    Inputs are tokens [T]. Every bit counts, and no part of them says anything: the best blind answer has ln 2 nats, and
    so has that of any network that misses one bit. A state of two values is enough, but a linear recurrence has to have
    a negative eigenvalue (Grazzi et al., 2025). Long sequences are hard to begin with where the last answer alone is
    scored: see `curriculum`, which raises `length`.

    Loss: cross-entropy of every answer. Metrics: `accuracy`, the share of right answers, and `wrong`, the share of
    sequences with a wrong one; solved below 1 %.
    """

    length: Annotated[int, Bound(2, LARGEST_INT)] = 30
    """T, how many bits there are."""
    scored: Literal["last", "every"] = "last"
    """Which answers there are: the one after the last bit, or one after every bit."""

    def initialize(self, options: Any) -> None:
        self.readout = self.scored
        self.vocabulary = self.in_features = 2
        self.longest_dependency = self.length - 1

    def example(self, data: PyTree, key: PRNGKeyArray, split: Split, index: Int[Array, ""]) -> Example:
        bits = jax.random.randint(key, (self.length,), 0, 2)
        return Example(bits, bits.cumsum() % 2 if self.scored == "every" else bits.sum() % 2)


class Dyck(_YesOrNo):
    """T brackets of k kinds; the target after the last is 1 where they are well-formed, each closed by its own kind in
    the right order, and else 0.

    Inputs are tokens [T]: 0 to k - 1 open, k to 2 k - 1 close. Half of the sequences are well-formed and nest at most
    `depth` deep: a random walk with as many steps up as down, folded between 0 and `depth`. The others have one fault,
    and as many brackets of each sort as without it, so that counting does not tell. Either a part between two levels of
    0 is turned over, so that something closes before it was opened; or, where there are several kinds, in half of the
    cases, two that close change places. These are the Dyck languages of bounded depth (Hewitt et al., 2020), asked as
    yes or no; the faults are our choice. The best blind answer has ln 2 nats.

    Loss: cross-entropy. Metrics: `accuracy`, and `wrong`, the share of sequences that are not right; solved below 1 %.
    """

    length: Annotated[int, Bound(2, LARGEST_INT)] = 40
    """T, an even number of brackets."""
    kinds: PositiveInt = 2
    """k, kinds of brackets."""
    depth: PositiveInt = 4
    """How many brackets may be open at once."""

    def initialize(self, options: Any) -> None:
        least = 2 if self.kinds == 1 else 4
        if self.length % 2:
            raise ConfigError(f"task.length: {self.length} is odd, and brackets come in pairs; it must be even")
        if self.length < least:
            where = f"task.length: {self.length} is too short for {self.kinds} kinds of brackets"
            raise ConfigError(f"{where}; it must be at least {least}")
        self.vocabulary = self.in_features = 2 * self.kinds
        self.longest_dependency = self.length - 1

    def example(self, data: PyTree, key: PRNGKeyArray, split: Split, index: Int[Array, ""]) -> Example:
        keys = jax.random.split(key, 5)
        pairs = self.length // 2
        ups = jnp.arange(self.length) < pairs
        walk = jnp.cumsum(jnp.where(jax.random.permutation(keys[0], ups), 1, -1))
        height = self.depth - jnp.abs(self.depth - walk % (2 * self.depth))
        before = jnp.concatenate([jnp.zeros(1, height.dtype), height[:-1]])
        opens = height > before
        # Brackets of one level open and close in turn: sorted by level, each stands beside its partner.
        partners = jnp.argsort(jnp.maximum(height, before), stable=True).reshape(pairs, 2)
        kinds, exchanged = self._kinds(keys[1], pairs)
        well_formed, by_order = jax.random.bernoulli(keys[2]), jax.random.bernoulli(keys[3])
        by_order = by_order if self.kinds > 1 else True
        closing = jnp.where(well_formed | by_order, kinds, exchanged)
        kind = jnp.zeros(self.length, kinds.dtype).at[partners].set(jnp.stack([kinds, closing], -1))
        part = jnp.cumsum(before == 0)
        turned = part == part[jax.random.randint(keys[4], (), 0, self.length)]
        opens = jnp.where(~well_formed & by_order & turned, ~opens, opens)
        return Example(kind + jnp.where(opens, 0, self.kinds), well_formed.astype(jnp.int32))

    def _kinds(self, key: PRNGKeyArray, pairs: int) -> tuple[Int[Array, " P"], Int[Array, " P"]]:
        """Each pair's kind, not all the same if there are several; and the kinds of those that close, where two that
        differ have changed places."""
        kind_key, first_key, second_key, other_key = jax.random.split(key, 4)
        kinds = jax.random.randint(kind_key, (pairs,), 0, self.kinds)
        if self.kinds == 1:
            return kinds, kinds
        first = jax.random.randint(first_key, (), 0, pairs)
        second = (first + jax.random.randint(second_key, (), 1, pairs)) % pairs
        other = (kinds[first] + jax.random.randint(other_key, (), 1, self.kinds)) % self.kinds
        kinds = kinds.at[second].set(other)
        return kinds, kinds.at[jnp.stack([first, second])].set(jnp.stack([other, kinds[first]]))
