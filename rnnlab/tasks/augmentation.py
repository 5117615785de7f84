"""Augmentation: random changes of one training example [T, D], pure functions of a key; all off by default.

Which examples are changed and where the keys come from is in `base.py`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnnlab.config.bounds import Bound, NonNegative, PositiveInt
from rnnlab.config.errors import ConfigError
from rnnlab.typing import Array, Bool, Float, Int, Num, PRNGKeyArray, PyTree

Length = Int[Array, ""] | None
"""Valid steps of one example; None for all of them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentationOptions:
    """Changes of training examples; None: nothing. Validation and test examples stay as they are.

    It is done in the order pixel_shift, time_shift, token_replacement, noise, time_mask.
    """

    noise: NonNegative | None = None
    """Standard deviation of what is added to numbers."""
    time_shift: PositiveInt | None = None
    """By how many steps at most a sequence is moved."""
    time_mask: PositiveInt | None = None
    """How many steps at most are set to zero together."""
    token_replacement: Annotated[float, Bound(0, 1, high_excluded=True)] | None = None
    """The probability that a token gives way to one drawn from the vocabulary."""
    pixel_shift: PositiveInt | None = None
    """By how many pixels at most an image is moved up or down and left or right."""


# --- transformations of one example ----------------------------------------------------------------------------------


def add_noise(key: PRNGKeyArray, x: Float[Array, " T *D"], length: Length, std: jax.Array | float) -> jax.Array:
    """x + N(0, std²) at every valid step."""
    noise = jnp.asarray(std, x.dtype) * jax.random.normal(key, x.shape, x.dtype)
    return jnp.where(_valid(x, length), x + noise, x)


def shift_in_time(key: PRNGKeyArray, x: Num[Array, " T *D"], length: Length, most: int) -> jax.Array:
    """x'_t = x_{t-s}, s uniform over -most, …, most; zero where that lies outside the valid steps."""
    by = jax.random.randint(key, (), -most, most + 1)
    valid = _valid(x, length)
    # Padding may hold anything; it must not be shifted in.
    padded = jnp.pad(jnp.where(valid, x, 0), [(most, most), *[(0, 0)] * (x.ndim - 1)])
    return jnp.where(valid, lax.dynamic_slice_in_dim(padded, most - by, x.shape[0]), x)


def mask_time(key: PRNGKeyArray, x: Num[Array, " T *D"], length: Length, most: int) -> jax.Array:
    """Zero at w steps in a row, w uniform over 0, …, most, anywhere among the valid steps (SpecAugment's time masking;
    Park et al., 2019, section 2)."""
    width_key, start_key = jax.random.split(key)
    steps = jnp.int32(x.shape[0]) if length is None else length.astype(jnp.int32)
    width = jnp.minimum(jax.random.randint(width_key, (), 0, most + 1), steps)
    start = jax.random.randint(start_key, (), 0, steps - width + 1)
    step = _steps(x)
    return jnp.where((step >= start) & (step < start + width), 0, x)


def replace_tokens(
    key: PRNGKeyArray, tokens: Int[Array, " T"], length: Length, probability: jax.Array | float, vocabulary: int
) -> jax.Array:
    """Every valid token gives way, with this probability, to one drawn uniformly from the vocabulary; that may be the
    same, so a share of probability · (1 - 1/vocabulary) changes."""
    which_key, token_key = jax.random.split(key)
    replaced = jax.random.uniform(which_key, tokens.shape, jnp.float32) < probability
    drawn = jax.random.randint(token_key, tokens.shape, 0, vocabulary, tokens.dtype)
    return jnp.where(replaced & _valid(tokens, length), drawn, tokens)


class ReadingOrder(NamedTuple):
    """How an image of V values, a pixel of each channel, became a sequence; int32 [V] each."""

    values: jax.Array | np.ndarray
    """Which value, counted channel by channel and row by row from the top, each input is."""
    places: jax.Array | np.ndarray
    """Where in the sequence each value stands: the inverse."""


def shift_image(
    key: PRNGKeyArray, x: Num[Array, "T D"], most: int, order: ReadingOrder, shape: tuple[int, int]
) -> jax.Array:
    """The sequence of the image moved by (dy, dx), each uniform over -most, …, most, filled with black (zero).

    Every input asks for the pixel that comes to lie under it, so the image itself is never put together. All channels
    move together. Inputs behind the image, such as noise, stay.
    """
    height, width = shape
    dy, dx = jax.random.randint(key, (2,), -most, most + 1)
    channel, pixel = order.values // (height * width), order.values % (height * width)
    row, column = pixel // width - dy, pixel % width - dx
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    source = order.places[jnp.where(inside, (channel * height + row) * width + column, 0)]
    flat = x.reshape(-1)
    moved = jnp.where(inside, flat[source], 0)
    return jnp.concatenate([moved, flat[moved.shape[0] :]]).reshape(x.shape)


def _steps(x: Num[Array, " T *D"]) -> jax.Array:
    """0, …, T-1, to compare with x."""
    return jnp.arange(x.shape[0]).reshape(-1, *[1] * (x.ndim - 1))


def _valid(x: Num[Array, " T *D"], length: Length) -> Bool[Array, "..."]:
    return jnp.ones((), bool) if length is None else _steps(x) < length


# --- a section -------------------------------------------------------------------------------------------------------


class Augmented(NamedTuple):
    """The `data` of a task that augments: so runs that differ in noise share one program."""

    data: PyTree
    """The task's own."""
    numbers: dict[str, Any]
    """noise, token_replacement and reading_order, those that are on."""


class Augmentation:
    """The transformations of a resolved section, for one task.

    Args:
        section: resolved, with the fields of `AugmentationOptions`.
        inputs: shape and type of one example's inputs [T, *D].
        vocabulary: of the task, if its inputs are tokens.
        readout: where the task has targets.
        image_shape, reading_order: (height, width), and which value of an image each of the inputs is; see `Task`.

    Raises:
        ConfigError: a transformation that these inputs do not have, or one longer than they are.
    """

    def __init__(
        self,
        section: Mapping[str, Any],
        *,
        inputs: jax.ShapeDtypeStruct,
        vocabulary: int | None = None,
        readout: str = "last",
        image_shape: tuple[int, int] | None = None,
        reading_order: np.ndarray | None = None,
    ):
        self.time_shift, self.time_mask = section["time_shift"], section["time_mask"]
        self.pixel_shift, self.image_shape = section["pixel_shift"], image_shape
        self.vocabulary = vocabulary
        on = [name for name, value in section.items() if value is not None]
        for name in on:
            if vocabulary is not None and name in ("noise", "time_shift", "time_mask"):
                raise ConfigError(f"augmentation.{name}: this task's inputs are tokens, not numbers")
            if name in ("time_shift", "time_mask") and section[name] > inputs.shape[0]:
                raise ConfigError(f"augmentation.{name}: {section[name]} is more than the {inputs.shape[0]} steps")
        if vocabulary is None and "token_replacement" in on:
            raise ConfigError("augmentation.token_replacement: this task's inputs are numbers, not tokens")
        if readout == "every" and "time_shift" in on:
            raise ConfigError("augmentation.time_shift: this task has a target at every step, which would not follow")
        self.numbers: dict[str, Any] = {
            name: np.float32(section[name]) for name in ("noise", "token_replacement") if name in on
        }
        if "pixel_shift" in on:
            if image_shape is None or reading_order is None:
                raise ConfigError("augmentation.pixel_shift: this task's inputs are not images")
            if self.pixel_shift >= min(image_shape):
                raise ConfigError(
                    f"augmentation.pixel_shift: {self.pixel_shift} moves an image of {image_shape[0]} × "
                    f"{image_shape[1]} pixels out of sight; it must be below {min(image_shape)}"
                )
            values = np.asarray(reading_order, np.int32).reshape(-1)
            self.numbers["reading_order"] = ReadingOrder(values, np.argsort(values).astype(np.int32))

    def __call__(
        self, numbers: dict[str, Any], key_of: Callable[[str], PRNGKeyArray], x: Num[Array, " T *D"], length: Length
    ) -> Num[Array, " T *D"]:
        """One example's inputs, changed. numbers: `self.numbers`, perhaps traced; key_of: name -> its key."""
        if self.pixel_shift is not None and self.image_shape is not None:
            x = shift_image(key_of("pixel_shift"), x, self.pixel_shift, numbers["reading_order"], self.image_shape)
        if self.time_shift is not None:
            x = shift_in_time(key_of("time_shift"), x, length, self.time_shift)
        if "token_replacement" in numbers and self.vocabulary is not None:
            x = replace_tokens(key_of("token_replacement"), x, length, numbers["token_replacement"], self.vocabulary)
        if "noise" in numbers:
            x = add_noise(key_of("noise"), x, length, numbers["noise"])
        if self.time_mask is not None:
            x = mask_time(key_of("time_mask"), x, length, self.time_mask)
        return x
