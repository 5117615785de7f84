"""Tasks that ask for two marked values of a long sequence: where the marks lie, how long a row is, how it is laid out.

The tasks themselves are in `adding.py`, `multiplication.py` and `xor.py`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from rnnlab.config.errors import ConfigError
from rnnlab.tasks.base import Batch
from rnnlab.typing import Array, Float, Int, PRNGKeyArray


class Marks(NamedTuple):
    """Two steps of a sequence, and how many steps it has."""

    first: Int[Array, ""]
    second: Int[Array, ""]
    length: Int[Array, ""]


def longest(length: int) -> int:
    """The steps of a padded row: the longest sequence of [T, 1.1 T)."""
    return length + _tenth(length) - 1


def _tenth(length: int) -> int:
    """How many whole numbers [0, 0.1 T) has."""
    return -(-length // 10)


def in_first_half(key: PRNGKeyArray, length: int) -> Marks:
    """A mark uniform over [0, 0.1 T), another over [0.1 T, 0.5 T), the sequence's length over [T, 1.1 T), as in Martens
    and Sutskever (2011); length: T, at least 3."""
    first_key, second_key, length_key = jax.random.split(key, 3)
    tenth = _tenth(length)
    first = jax.random.randint(first_key, (), 0, tenth)
    second = jax.random.randint(second_key, (), tenth, -(-length // 2))
    return Marks(first, second, jax.random.randint(length_key, (), length, length + tenth))


def in_first_ten(key: PRNGKeyArray, length: int) -> Marks:
    """A mark at one of the first ten steps, another at one of the first T / 2 - 1 that are left, the sequence's length
    uniform over [T, 1.1 T), as in Hochreiter and Schmidhuber (1997); length: T, at least 4.

    Where T is below 20 the first mark, too, lies in the first half.
    """
    first_key, second_key, length_key = jax.random.split(key, 3)
    half = length // 2
    first = jax.random.randint(first_key, (), 0, min(10, half))
    second = jax.random.randint(second_key, (), 0, half - 1)
    second = second + (second >= first)  # The first mark's step is no longer there to be marked.
    return Marks(first, second, jax.random.randint(length_key, (), length, length + _tenth(length)))


def marked_inputs(values: Float[Array, " T"], marks: Marks, ends: bool = False) -> Float[Array, "T 2"]:
    """The values of a row, 0 beyond its length, and beside them a marker that is 1 at the marks.

    ends: whether the marker is -1 at the first and at the last step, where these have no mark.
    """
    steps = jnp.arange(values.shape[0])
    is_marked = (steps == marks.first) | (steps == marks.second)
    marker = is_marked.astype(values.dtype)
    if ends:
        marker = jnp.where(((steps == 0) | (steps == marks.length - 1)) & ~is_marked, -1.0, marker)
    return jnp.stack([jnp.where(steps < marks.length, values, 0), marker], -1)


def check_length(length: int, least: int, variant: str) -> None:
    """Raises a ConfigError where a variant of a task has no place for two marks."""
    if length < least:
        raise ConfigError(f"task.length: {length} is too short for variant {variant!r}, which takes at least {least}")


def squared_error(outputs: Float[Array, "B 1"], batch: Batch) -> tuple[dict[str, jax.Array], jax.Array]:
    """The score of a number: its squared error as the loss, and whether it is off by less than 0.04."""
    error = (outputs - batch.targets)[:, 0]
    values = {"loss": optax.squared_error(error), "within_0.04": (jnp.abs(error) < 0.04).astype(error.dtype)}
    return values, jnp.ones_like(error)
