"""Images read step by step and named after the last: MNIST pixel by pixel (Le, Jaitly and Hinton, 2015),
Fashion-MNIST, and CIFAR-10, also followed by noise (Chang et al., 2019)."""

import os
from collections.abc import Callable, Mapping
from dataclasses import InitVar
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnnlab.config.bounds import Bound, NonNegativeInt, Positive, PositiveInt
from rnnlab.config.errors import ConfigError
from rnnlab.datasets import cifar, mnist
from rnnlab.tasks.base import Batch, Example, Split, Task
from rnnlab.typing import Array, Float, Int, PRNGKeyArray, PyTree

LOADERS: Mapping[str, Callable[..., tuple[mnist.Images, mnist.Images]]] = {
    "mnist": mnist.load,
    "fashion_mnist": mnist.load_fashion,
    "cifar10": cifar.load,
}
NOISY_LENGTH = 1000
"""T of noise-padded images (Chang et al., 2019)."""


CLASSES = {
    "mnist": tuple("0123456789"),
    "fashion_mnist": (
        *("T-shirt/top", "trouser", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
    ),
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
}
"""What each label of a data set is called."""


class Pixels(Task):
    """Input: a pixel a step, [784, 1] of MNIST and Fashion-MNIST, [1024, 3] of CIFAR-10, or a row a step, [28, 28] or
    [32, 96]; target: one of ten classes.

    A row of a colour image is its reds, then its greens, then its blues. Order "noisy_rows" is the noise-padded
    CIFAR-10 of Chang et al. (2019): the 32 rows, then noise up to T = 1000, so that the image is to be remembered for
    968 steps. Noise and scale are those of the code of coRNN (Rusch and Mishra, 2021) where `white` is 1: pixels from 0
    to 1, not normalised further, and standard normal noise. There one draw of noise follows every image; here each
    image has its own, from its key, which is the same in every epoch and run. With another `white` the noise has that
    deviation.

    The images stay on the device as bytes. Loss: cross-entropy in nats; chance is ln 10 ≈ 2.303. Metric: `accuracy`.
    """

    baselines: Mapping[Split, float] = {"validation": float(np.log(10)), "test": float(np.log(10))}
    solved = ("accuracy", 0.9)
    larger_is_better = shares = frozenset({"accuracy"})

    dataset: Literal["mnist", "fashion_mnist", "cifar10"] = "mnist"
    """The images."""
    order: InitVar[Literal["scanline", "permuted", "rows", "permuted_rows", "noisy_rows"]] = "scanline"  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
    """"scanline": top to bottom, left to right; "permuted": by one permutation, fixed by permutation_seed; "rows": one
    row of pixels per step; "permuted_rows": as many per step, in the order of "permuted"; "noisy_rows": the rows, then
    noise."""
    length: PositiveInt | None = None
    """T of order "noisy_rows", rows and noise together; None: 1000."""
    white: Positive = 255.0
    """The value of a white pixel: 255 leaves the bytes as they are, 1 scales them to 0 to 1."""
    permutation_seed: NonNegativeInt = 0
    """Seed of the permutation of orders "permuted" and "permuted_rows"."""
    validation_size: Annotated[int, Bound(1, 59_999)] = 5000
    """How many images are held out from the end of the training images, 60 000, or 50 000 of CIFAR-10."""
    train_size: PositiveInt | None = None
    """How many of the others are trained on, the first ones; None: all."""
    data_dir: str | os.PathLike[str] | None = None
    """The data folder."""

    def initialize(self, options: Any) -> None:
        """Reads the files.

        Raises:
            ConfigError: the files are missing or corrupt, too few training images would be left or none, or a length
                that the order has not or that is shorter than the image.
        """
        order, validation_size = options.order, self.validation_size
        if self.length is not None and order != "noisy_rows":
            raise ConfigError(f"task.length: order {order!r} is as long as the image; only noisy_rows has a length")
        train, test = LOADERS[self.dataset](self.data_dir)
        count = len(train.labels)
        if validation_size >= count:
            raise ConfigError(f"task.validation_size: {validation_size} leaves none of the {count} training images")
        self.cut = count - validation_size
        trained = self.cut if self.train_size is None else self.train_size
        if trained > self.cut:
            raise ConfigError(f"task.train_size: {trained} is more than the {self.cut} images that are not held out")
        self.sizes: dict[Split, int] = {"train": trained, "validation": validation_size, "test": len(test.labels)}
        side, channels = train.images.shape[1], int(np.prod(train.images.shape[3:]))
        by_rows = order in ("rows", "permuted_rows", "noisy_rows")
        self.shape = (side, side * channels) if by_rows else (side * side, channels)
        self.noisy_steps = 0
        if order == "noisy_rows":
            length = NOISY_LENGTH if self.length is None else self.length
            if length < side:
                raise ConfigError(f"task.length: {length} is too short; it must be at least {side}, the image's rows")
            self.noisy_steps = length - side
        if self.dataset != "mnist":
            self.solved = None  # No accuracy is what the field calls solved.
        self.classes = CLASSES[self.dataset]
        self.in_features = self.shape[1]
        self.longest_dependency = self.shape[0] + self.noisy_steps - 1
        self.out_features = len(CLASSES[self.dataset])
        self.image_shape = (side, side)
        self.reading_order = _reading_order(order, side, channels, self.permutation_seed)
        # On the device the pixels lie as they are read, so that a step gathers nothing; `shift_image` finds them again.

        def sequences(images: np.ndarray) -> np.ndarray:
            planes = images.reshape(len(images), side * side, channels).swapaxes(1, 2).reshape(len(images), -1)
            return planes if order in ("scanline", "rows") and channels == 1 else planes[:, self.reading_order]

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
        steps = pixels.reshape(self.shape)
        if self.noisy_steps:
            noise = jax.random.normal(key, (self.noisy_steps, self.in_features), jnp.float32)
            steps = jnp.concatenate([steps, 255 * data["scale"] * noise])
        return Example(steps, labels[row].astype(jnp.int32))

    def score(self, outputs: Float[Array, "B 10"], batch: Batch) -> tuple[dict[str, jax.Array], jax.Array]:
        loss = optax.softmax_cross_entropy_with_integer_labels(outputs, batch.targets)
        right = outputs.argmax(-1) == batch.targets
        return {"loss": loss, "accuracy": right.astype(loss.dtype)}, jnp.ones_like(loss)


def _reading_order(order: str, side: int, channels: int, seed: int) -> np.ndarray:
    """Which value of an image, counted channel by channel and row by row, each input is."""
    pixels = np.arange(side * side)
    if order in ("permuted", "permuted_rows"):
        pixels = np.random.RandomState(seed).permutation(side * side)
    values = pixels + side * side * np.arange(channels)[:, None]
    if order in ("rows", "permuted_rows", "noisy_rows"):
        return values.reshape(channels, side, side).swapaxes(0, 1).reshape(-1)
    return values.T.reshape(-1)
