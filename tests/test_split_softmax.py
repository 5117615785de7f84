"""Runs whose softmax is split over devices, against the same runs on one: updates, memory, resume, checkpoints.

What a split distribution computes by itself is tested in test_softmax.py.
"""

import dataclasses
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab.build import ConfigError
from rnnlab.devices import make_mesh
from rnnlab.split import MODEL_AXIS
from rnnlab.state import TrainState
from rnnlab.step import Programs
from rnnlab.tasks import Batch, Example, Split, Task
from rnnlab.tasks.base import stream
from tests.helpers import assert_close, float64, quick_jit, random_like

T, B, V, H = 3, 4, 11, 5
STEPS = 20


class Words(Task):
    """Say the word before the last, of words that are not equally frequent; rows have 1 to T steps."""

    in_features = out_features = vocabulary = V
    readout = "every"

    def size(self, split: Split) -> int | None:
        return None if split == "train" else 6

    def example(self, data: Any, key: jax.Array, split: Split, index: jax.Array) -> Example:
        word_key, length_key = jax.random.split(key)
        words = jax.random.randint(word_key, (T + 1,), 0, V) ** 2 // V
        return Example(words[1:], words[:-1], jax.random.randint(length_key, (), 1, T + 1))

    def score(self, outputs: Any, batch: Batch) -> tuple[dict[str, jax.Array], jax.Array]:
        assert batch.lengths is not None
        inside = jnp.arange(T)[:, None] < batch.lengths
        nats = outputs.cross_entropy(batch.targets)
        return {"loss": jnp.where(inside, nats, 0).sum(0)}, batch.lengths.astype(nats.dtype)
