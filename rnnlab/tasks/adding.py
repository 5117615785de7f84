"""The adding problem (Hochreiter and Schmidhuber, 1997): remember two marked numbers over a long sequence."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp

from rnnlab.config.bounds import LARGEST_INT, Bound
from rnnlab.tasks.base import Batch, Example, Split
from rnnlab.tasks.generated import GeneratedTask
from rnnlab.tasks.marks import (
    Marks,
    check_length,
    in_first_half,
    in_first_ten,
    longest,
    marked_inputs,
    squared_error,
)
from rnnlab.typing import Array, Float, Int, PRNGKeyArray, PyTree

LEAST = {"sum": 2, "mean": 3, "signed": 4}
"""The shortest T in which each variant has a place for two marks."""


class Adding(GeneratedTask):
    """Input [T', 2]: numbers, and a marker that is 1 at two steps; target [1]: a sum of the marked two.

    | variant | numbers | T' | marks | target | error of its mean, solved below |
    |---|---|---|---|---|---|
    | sum | [0, 1] | T | one in each half | a + b | 1/6, 0.01 |
    | mean | [0, 1] | [T, 1.1 T) | in [0, 0.1 T) and [0.1 T, 0.5 T) | (a + b) / 2 | 1/24, 0.0025 |
    | signed | [-1, 1] | [T, 1.1 T) | in the first ten, and in the next T / 2 - 1 | 0.5 + (a + b) / 4 | 1/24, 0.0025 |

    Everything is drawn uniformly. "sum" is that of Le, Jaitly and Hinton (2015) and Arjovsky, Shah and Bengio (2016);
    "mean" that of Martens and Sutskever (2011), whom Pascanu, Mikolov and Bengio (2013) follow; "signed" is the first,
    of Hochreiter and Schmidhuber (1997), whose marker is -1 at the first and the last step (they also set a number to 0
    that is marked at the first step, which is left out here). The last two have rows of several lengths, padded.

    Always answering the mean, 1 or 0.5, has the variance of the target as its mean squared error: below it a network
    has remembered something. Loss: mean squared error. Metric: `within_0.04`, the share of answers off by less than
    0.04, the measure of Hochreiter and Schmidhuber. Gated cells, the IRNN and orthogonal matrices solve it; a tanh
    network with small weights does not.
    """

    length: Annotated[int, Bound(2, LARGEST_INT)] = dataclasses.field(default=150, kw_only=False)
    """T, steps of a sequence."""
    variant: Literal["sum", "mean", "signed"] = "sum"
    """Which definition: "sum" (Le et al., 2015), "mean" (Martens and Sutskever, 2011) or "signed" (Hochreiter and
    Schmidhuber, 1997); of the last two T is the least length."""
    in_features, out_features = 2, 1
    baselines: Mapping[Split, float] = {"validation": 1 / 6, "test": 1 / 6}
    solved = ("loss", 0.01)
    larger_is_better = shares = frozenset({"within_0.04"})

    def initialize(self, options: Any) -> None:
        check_length(self.length, LEAST[self.variant], self.variant)
        self.steps = self.length if self.variant == "sum" else longest(self.length)
        self.longest_dependency = self.steps - 1
        if self.variant != "sum":
            self.baselines = {"validation": 1 / 24, "test": 1 / 24}
            self.solved = ("loss", 0.0025)

    def example(self, data: PyTree, key: PRNGKeyArray, split: Split, index: Int[Array, ""]) -> Example:
        if self.variant == "sum":
            return self._sum(key)
        value_key, marks_key = jax.random.split(key)
        signed = self.variant == "signed"
        values = jax.random.uniform(value_key, (self.steps,), minval=-1.0 if signed else 0.0)
        marks = (in_first_ten if signed else in_first_half)(marks_key, self.length)
        total = values[marks.first] + values[marks.second]
        target = 0.5 + total / 4 if signed else total / 2
        return Example(marked_inputs(values, marks, ends=signed), target[None], marks.length)

    def _sum(self, key: PRNGKeyArray) -> Example:
        value_key, first_key, second_key = jax.random.split(key, 3)
        values = jax.random.uniform(value_key, (self.length,))
        middle = self.length // 2
        first = jax.random.randint(first_key, (), 0, middle)
        second = jax.random.randint(second_key, (), middle, self.length)
        inputs = marked_inputs(values, Marks(first, second, jnp.int32(self.length)))
        return Example(inputs, (values[first] + values[second])[None])

    def score(self, outputs: Float[Array, "B 1"], batch: Batch) -> tuple[dict[str, jax.Array], jax.Array]:
        return squared_error(outputs, batch)
