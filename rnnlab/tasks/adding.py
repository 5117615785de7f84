"""The adding problem (Hochreiter and Schmidhuber, 1997): remember two marked numbers over a long sequence."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax

from rnnlab.config.bounds import LARGEST_INT, Bound
from rnnlab.tasks.base import Batch, Example, Split
from rnnlab.tasks.generated import GeneratedTask
from rnnlab.typing import Array, Float, Int, PRNGKeyArray, PyTree


class Adding(GeneratedTask):
    """Input [T, 2]: numbers from U[0, 1], and a marker that is 1 at two steps; target [1]: the sum of the marked two.

    One marker falls uniformly into the first half of the sequence, the other into the second. Always answering 1, the
    mean, has a mean squared error of 1/6 ≈ 0.1667, the variance of the sum of two uniform numbers: below it a network
    has remembered something. Loss: mean squared error. Metric: `within_0.04`, the share of answers off by less than
    0.04.
    """

    length: Annotated[int, Bound(2, LARGEST_INT)] = dataclasses.field(default=150, kw_only=False)
    """T, steps of a sequence."""
    in_features, out_features = 2, 1
    baselines: Mapping[Split, float] = {"validation": 1 / 6, "test": 1 / 6}
    solved = ("loss", 0.01)
    larger_is_better = shares = frozenset({"within_0.04"})

    def initialize(self, options: Any) -> None:
        self.longest_dependency = self.length - 1

    def example(self, data: PyTree, key: PRNGKeyArray, split: Split, index: Int[Array, ""]) -> Example:
        value_key, first_key, second_key = jax.random.split(key, 3)
        values = jax.random.uniform(value_key, (self.length,))
        middle = self.length // 2
        first = jax.random.randint(first_key, (), 0, middle)
        second = jax.random.randint(second_key, (), middle, self.length)
        steps = jnp.arange(self.length)
        marker = (steps == first) | (steps == second)
        return Example(jnp.stack([values, marker.astype(values.dtype)], -1), (values[first] + values[second])[None])

    def score(self, outputs: Float[Array, "B 1"], batch: Batch) -> tuple[dict[str, jax.Array], jax.Array]:
        error = (outputs - batch.targets)[:, 0]
        values = {"loss": optax.squared_error(error), "within_0.04": (jnp.abs(error) < 0.04).astype(error.dtype)}
        return values, jnp.ones_like(error)
