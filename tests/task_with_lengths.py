"""A task whose rows differ in length and are read at their last step, as a user would write one outside the project."""

from typing import Any

import jax
import jax.numpy as jnp

from rnnlab.tasks import Example, Split, Task
from rnnlab.typing import Array, Float, Int, PRNGKeyArray, PyTree

SIZE = 8


class Totals(Task):
    """The sum of a row's inputs [T, 2], scaled from row to row; rows have T, T / 2 and T / 4 steps by turns."""

    in_features, out_features = 2, 1

    def __init__(self, length: int = 12, longest_dependency: int | None = None):
        self.length, self.longest_dependency = length, longest_dependency

    def size(self, split: Split) -> int | None:
        return None if split == "train" else SIZE

    def example(self, data: PyTree, key: PRNGKeyArray, split: Split, index: Int[Array, ""]) -> Example:
        turn = index.astype(jnp.int32) % 3
        inputs = (1 + 9 * turn) * jax.random.uniform(key, (self.length, 2))
        length = self.length // 2**turn
        inside = jnp.arange(self.length)[:, None] < length
        return Example(inputs, jnp.where(inside, inputs, 0).sum(keepdims=True)[0], length)

    def score(self, outputs: Float[Array, "B 1"], batch: Any) -> tuple[dict[str, jax.Array], jax.Array]:
        losses = ((outputs - batch.targets) ** 2).sum(-1)
        return {"loss": losses}, jnp.ones_like(losses)
