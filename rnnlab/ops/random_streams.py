"""Random streams: one per purpose, named, and one per row of a batch. The draws themselves are jax.random's."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnnlab.typing import Array, Axes, Float, Int, PRNGKeyArray


def named(key: PRNGKeyArray, name: str) -> PRNGKeyArray:
    """The stream of one purpose: fold_in(key, name)."""
    # FNV-1a: the same number for a name in every process, unlike hash().
    digest = 0x811C9DC5
    for byte in name.encode():
        digest = ((digest ^ byte) * 0x01000193) & 0xFFFFFFFF
    return jax.random.fold_in(key, np.uint32(digest))


def stream(seed: jax.Array, name: str) -> PRNGKeyArray:
    """The random stream of one purpose in a run: fold_in(seed, name)."""
    return named(jax.random.key(seed), name)


def high_word(step: Int[Array, ""], factor: int) -> Int[Array, ""]:
    """⌊step · factor / 2^32⌋ of two numbers from 0 to 2^32 - 1, in 32-bit arithmetic."""
    step = step.astype(jnp.uint32)
    a, b = (step & 0xFFFF, step >> 16), (jnp.uint32(factor & 0xFFFF), jnp.uint32(factor >> 16))
    crossed = a[0] * b[1], a[1] * b[0]
    middle = (a[0] * b[0] >> 16) + (crossed[0] & 0xFFFF) + (crossed[1] & 0xFFFF)
    return a[1] * b[1] + (crossed[0] >> 16) + (crossed[1] >> 16) + (middle >> 16)


def seed_of_span(seed: Int[Array, ""], span: Int[Array, ""]) -> Int[Array, ""]:
    """The seed of the examples from 2^32 · span on: the run's own for the first 2^32, others after them."""
    other = jax.random.randint(jax.random.fold_in(stream(seed, "span"), span), (), 0, np.iinfo(np.int32).max)
    return jnp.where(span == 0, seed, other)


class Training(NamedTuple):
    """The facts of a training step that a network needs; None stands for evaluation."""

    key: PRNGKeyArray
    """The key of this step; the same on all devices."""
    rows: Int[Array, " B"]
    """The rows' numbers in the whole batch: what is drawn for a row is the same on any number of devices."""
    axis: Axes | None = None
    """The axes of devices that the batch is split over."""

    def mask(self, name: str, rate: Float[Array, ""], *shape: int) -> Float[Array, "*shape B _"]:
        """Dropout masks: 0 with probability `rate`, else 1 / (1 - rate); shape: the axes before B, and the last one."""
        *before, features = shape
        keys = jax.vmap(lambda row: jax.random.fold_in(named(self.key, name), row))(self.rows)
        keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, (*before, features)), out_axes=len(before))
        return keep(keys) / (1 - rate)

    def shared_mask(self, name: str, rate: Float[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
        """The same for something that all rows share, such as a kernel."""
        return jax.random.bernoulli(named(self.key, name), 1 - rate, shape) / (1 - rate)


def number(value: float | jax.Array) -> jax.Array:
    """A number of a config, which may be traced already, as float32."""
    return jnp.asarray(value, jnp.float32)
