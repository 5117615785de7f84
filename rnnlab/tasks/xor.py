"""The XOR problem (Martens and Sutskever, 2011): whether two marked bits of a long sequence differ."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax

from rnnlab.config.bounds import LARGEST_INT, Bound
from rnnlab.tasks.base import Batch, Example, Split
from rnnlab.tasks.generated import GeneratedTask
from rnnlab.tasks.marks import in_first_half, longest, marked_inputs
from rnnlab.tasks.symbols import ONE_PERCENT
from rnnlab.typing import Array, Float, Int, PRNGKeyArray, PyTree


class Xor(GeneratedTask):
    """Input [T', 2]: random bits, and a marker that is 1 at two steps; target [1]: 1 where the marked bits differ.

    Lengths T' and marks as in the variant "mean" of `adding`, both as in Martens and Sutskever (2011): T' in
    [T, 1.1 T), padded, marks in [0, 0.1 T) and [0.1 T, 0.5 T). One bit alone says nothing, so a network gets a gradient
    only once it remembers both. Loss: cross-entropy in nats of a logistic output; chance is ln 2 ≈ 0.693. Metric:
    `accuracy`; solved: fewer than 1 % wrong. Gated cells solve it.
    """

    length: Annotated[int, Bound(3, LARGEST_INT)] = dataclasses.field(default=50, kw_only=False)
    """T, the least steps of a sequence."""
    in_features, out_features = 2, 1
    baselines: Mapping[Split, float] = {"validation": math.log(2), "test": math.log(2)}
    solved = ("accuracy", 1 - ONE_PERCENT)
    larger_is_better = shares = frozenset({"accuracy"})

    def initialize(self, options: Any) -> None:
        self.steps = longest(self.length)
        self.longest_dependency = self.steps - 1

    def example(self, data: PyTree, key: PRNGKeyArray, split: Split, index: Int[Array, ""]) -> Example:
        bit_key, marks_key = jax.random.split(key)
        bits = jax.random.bernoulli(bit_key, 0.5, (self.steps,)).astype(jnp.float32)
        marks = in_first_half(marks_key, self.length)
        target = jnp.abs(bits[marks.first] - bits[marks.second])
        return Example(marked_inputs(bits, marks), target[None], marks.length)

    def score(self, outputs: Float[Array, "B 1"], batch: Batch) -> tuple[dict[str, jax.Array], jax.Array]:
        losses = optax.sigmoid_binary_cross_entropy(outputs, batch.targets)[:, 0]
        right = ((outputs > 0) == (batch.targets > 0.5))[:, 0].astype(losses.dtype)
        return {"loss": losses, "accuracy": right}, jnp.ones_like(losses)
