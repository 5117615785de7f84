"""The adding problem (Hochreiter and Schmidhuber, 1997): remember two marked numbers over a long sequence."""

from collections.abc import Mapping
from typing import Annotated

import jax
import jax.numpy as jnp

from rnnlab.config.bounds import LARGEST_INT, Bound, NonNegativeInt, PositiveInt
from rnnlab.tasks.base import Batch, Example, Split, Task
from rnnlab.typing import Array, Float, Int, PRNGKeyArray, PyTree


class Adding(Task):
    """Input [T, 2]: numbers from U[0, 1], and a marker that is 1 at two steps; target [1]: the sum of the marked two.

    One marker falls uniformly into the first half of the sequence, the other into the second. Always answering 1, the
    mean, has a mean squared error of 1/6 ≈ 0.1667, the variance of the sum of two uniform numbers: below it a network
    has remembered something. Loss: mean squared error. Metric: `within_0.04`, the share of answers off by less than
    0.04.
    """

    baselines: Mapping[Split, float] = {"validation": 1 / 6, "test": 1 / 6}
    solved = ("loss", 0.01)
    larger_is_better = shares = frozenset({"within_0.04"})

    def __init__(
        self,
        length: Annotated[int, Bound(2, LARGEST_INT)] = 150,
        train_size: PositiveInt | None = None,
        validation_size: PositiveInt = 2000,
        test_size: PositiveInt = 10_000,
        data_seed: NonNegativeInt = 0,
    ):
        """length: T, at least 2. train_size: None for fresh sequences without end; the paper has 100 000 fixed ones
        (and 10 000 for the test). data_seed: of the fixed sets, so that every run is tested on the same sequences."""
        self.in_features = 2
        self.out_features = 1
        self.length = length
        self.longest_dependency = length - 1
        self.sizes: dict[Split, int | None] = {
            "train": train_size,
            "validation": validation_size,
            "test": test_size,
        }
        self.data_seed = data_seed

    def size(self, split: Split) -> int | None:
        return self.sizes[split]

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
        values = {"loss": error**2, "within_0.04": (jnp.abs(error) < 0.04).astype(error.dtype)}
        return values, jnp.ones_like(error)
