"""Invented utterances as a task, for `speech.py`: the same batch at every step, in another order."""

from typing import Any

import jax
import numpy as np

from rnnlab.tasks import Batch, Example, Speech, Split, Task


class Utterances(Task):
    """Input [T, D]; target [T]: the class of each frame, -1 beyond the length."""

    readout = "every"

    def __init__(self, file: str):
        """file: npz of x [N, T, D], classes [N, T] and lengths [N]; the same for all splits."""
        with np.load(file) as arrays:
            x, classes, lengths = arrays["x"], arrays["classes"].astype(np.int32), arrays["lengths"].astype(np.int32)
        inside = np.arange(x.shape[1]) < lengths[:, None]
        self.data = (np.where(inside[:, :, None], x, 0), np.where(inside, classes, -1), lengths)
        self.in_features, self.out_features = x.shape[2], int(classes.max()) + 1

    def size(self, split: Split) -> int:
        return len(self.data[2])

    def example(self, data: Any, key: jax.Array, split: Split, index: jax.Array) -> Example:
        x, classes, lengths = data
        return Example(x[index], classes[index], lengths[index])

    def score(self, outputs: jax.Array, batch: Batch) -> tuple[dict[str, jax.Array], jax.Array]:
        return Speech.score(self, outputs, batch)  # pyright: ignore[reportArgumentType]
