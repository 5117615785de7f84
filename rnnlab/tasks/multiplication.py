"""The multiplication problem (Hochreiter and Schmidhuber, 1997): the product of two marked numbers of a sequence."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import jax

from rnnlab.config.bounds import LARGEST_INT, Bound
from rnnlab.tasks.base import Batch, Example, Split
from rnnlab.tasks.generated import GeneratedTask
from rnnlab.tasks.marks import in_first_half, longest, marked_inputs, squared_error
from rnnlab.typing import Array, Float, Int, PRNGKeyArray, PyTree


class Multiplication(GeneratedTask):
    """Input [T', 2]: numbers from U[0, 1], and a marker that is 1 at two steps; target [1]: the product of the two.

    Lengths T' and marks as in the variant "mean" of `adding`, both as in Martens and Sutskever (2011): T' in
    [T, 1.1 T), padded, marks in [0, 0.1 T) and [0.1 T, 0.5 T). A network cannot add up what it has seen so far, as it
    can for a sum. Always answering the mean, 1/4, has a mean squared error of 7/144 ≈ 0.0486; solved: below 0.0025.
    Loss: mean squared error. Metric: `within_0.04`, the share of answers off by less than 0.04. Gated cells solve it.
    """

    length: Annotated[int, Bound(3, LARGEST_INT)] = dataclasses.field(default=150, kw_only=False)
    """T, the least steps of a sequence."""
    in_features, out_features = 2, 1
    baselines: Mapping[Split, float] = {"validation": 7 / 144, "test": 7 / 144}
    solved = ("loss", 0.0025)
    larger_is_better = shares = frozenset({"within_0.04"})

    def initialize(self, options: Any) -> None:
        self.steps = longest(self.length)
        self.longest_dependency = self.steps - 1

    def example(self, data: PyTree, key: PRNGKeyArray, split: Split, index: Int[Array, ""]) -> Example:
        value_key, marks_key = jax.random.split(key)
        values = jax.random.uniform(value_key, (self.steps,))
        marks = in_first_half(marks_key, self.length)
        target = values[marks.first] * values[marks.second]
        return Example(marked_inputs(values, marks), target[None], marks.length)

    def score(self, outputs: Float[Array, "B 1"], batch: Batch) -> tuple[dict[str, jax.Array], jax.Array]:
        return squared_error(outputs, batch)
