"""Pixel-by-pixel MNIST (Le, Jaitly and Hinton, 2015): a digit read one pixel at a time and named after the last."""

import os
from collections.abc import Mapping
from dataclasses import InitVar
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnnlab.config.bounds import Bound, NonNegativeInt, Positive
from rnnlab.config.errors import ConfigError
from rnnlab.datasets import mnist
from rnnlab.tasks.base import Batch, Example, Split, Task
from rnnlab.typing import Array, Float, Int, PRNGKeyArray, PyTree


class Pixels(Task):
    """Input [784, 1] (or [28, 28] row by row), target: the digit.

    The images stay on the device as bytes. Loss: cross-entropy in nats; chance is ln 10 ≈ 2.303. Metric: `accuracy`.
    """

    baselines: Mapping[Split, float] = {"validation": float(np.log(10)), "test": float(np.log(10))}
    solved = ("accuracy", 0.9)
    larger_is_better = shares = frozenset({"accuracy"})

    order: InitVar[Literal["scanline", "permuted", "rows"]] = "scanline"  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
    """"scanline": top to bottom, left to right; "permuted": by one permutation, fixed by permutation_seed; "rows": one
    row of 28 pixels per step."""
    white: Positive = 255.0
    """The value of a white pixel: 255 leaves the bytes as they are, 1 scales them to 0 to 1."""
    permutation_seed: NonNegativeInt = 0
    """Seed of the permutation of order "permuted"."""
    validation_size: Annotated[int, Bound(1, 59_999)] = 5000
    """How many images are held out from the end of the 60 000 training images."""
    data_dir: str | os.PathLike[str] | None = None
    """The data folder."""

    def initialize(self, options: Any) -> None:
        """Reads the files.

        Raises:
            ConfigError: the files are missing or corrupt, or no training image would be left.
        """
        order, validation_size = options.order, self.validation_size
        train, test = mnist.load(self.data_dir)
        count = len(train.labels)
        if validation_size >= count:
            raise ConfigError(f"task.validation_size: {validation_size} leaves none of the {count} training images")
        self.cut = count - validation_size
        self.sizes: dict[Split, int] = {"train": self.cut, "validation": validation_size, "test": len(test.labels)}
        side = train.images.shape[1]
        self.shape = (side, side) if order == "rows" else (side * side, 1)
        self.in_features = self.shape[1]
        self.longest_dependency = self.shape[0] - 1
        self.out_features = 10
        self.image_shape = (side, side)
        self.reading_order = np.arange(side * side)
        if order == "permuted":
            self.reading_order = np.random.RandomState(self.permutation_seed).permutation(side * side)
        # On the device the pixels lie as they are read, so that a step gathers nothing; `shift_image` finds them again.

        def sequences(images: np.ndarray) -> np.ndarray:
            flat = images.reshape(len(images), -1)
            return flat[:, self.reading_order] if order == "permuted" else flat

        self.data = {
            "train": (sequences(train.images), train.labels),
            "test": (sequences(test.images), test.labels),
            "scale": np.float32(self.white / 255),  # Here, it is an array to the compiled step.
        }

    def size(self, split: Split) -> int:
        return self.sizes[split]

    def example(self, data: PyTree, key: PRNGKeyArray, split: Split, index: Int[Array, ""]) -> Example:
        images, labels = data["test" if split == "test" else "train"]
        row = index + (self.cut if split == "validation" else 0)
        pixels = images[row].astype(jnp.float32) * data["scale"]
        return Example(pixels.reshape(self.shape), labels[row].astype(jnp.int32))

    def score(self, outputs: Float[Array, "B 10"], batch: Batch) -> tuple[dict[str, jax.Array], jax.Array]:
        loss = optax.softmax_cross_entropy_with_integer_labels(outputs, batch.targets)
        right = outputs.argmax(-1) == batch.targets
        return {"loss": loss, "accuracy": right.astype(loss.dtype)}, jnp.ones_like(loss)
