"""Distributions over large vocabularies, and their cross-entropy in chunks of the vocabulary, from candidates, and with
words split over devices, so that many logits [T·B, V] are never held, as optax's cross-entropy needs them.

The sums over words are in `nn/word_sums.py`; the module that puts a distribution out is in `nn/softmax.py`.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnnlab.nn.word_sums import How, gradients, local_words, sum_of_others
from rnnlab.ops.linear import Precision, matmul, rounded
from rnnlab.parallel.sharding import held_rows, local_rows
from rnnlab.typing import Array, Bool, Float, Int


class Candidates(NamedTuple):
    """Words that stand for the whole vocabulary in a step's normaliser, the same for every row."""

    words: Int[Array, " S"]
    log_counts: Float[Array, " S"]
    """ln of how often each is expected among them."""


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["h", "kernel", "bias", "candidates"],
    meta_fields=["vocabulary", "chunk", "precision", "axis_name"],
)
@dataclasses.dataclass(frozen=True)
class Distribution:
    """softmax(h Kᵀ + b) over a vocabulary, not worked out. If words are split over devices, each has rows h of its own,
    all of them as many."""

    h: Float[Array, "*TB P"]
    kernel: Float[Array, "V P"]
    """A vector for each word, of this device's words where they are split."""
    bias: Float[Array, " V"]
    candidates: Candidates | None = None
    """None: the normaliser is exact."""
    vocabulary: int | None = None
    """How many words there are on all devices, where rows follow that are none; None: every row is one."""
    chunk: int | None = None
    precision: Precision = "highest"
    axis_name: str | None = None
    """The axis of devices that the words are split over, in equal parts in the order of the axis."""

    def cross_entropy(
        self, targets: Int[Array, "*TB"], inside: Bool[Array, "*TB"] | None = None
    ) -> Float[Array, "*TB"]:
        """-ln p(target), in nats; with candidates an estimate, which converges to it as they become more. Where
        `inside` is False it is 0, and costs next to nothing.

        Gradients, in reverse mode, are those of the very values. If words are split over `axis_name`, call and
        differentiate this inside `jax.shard_map(..., check_vma=False)`: every device of the axis has the values of its
        own rows, their gradients of h, and the gradient that all rows have for its own words.
        """
        how = How(self.chunk, self.precision, self.axis_name)
        h: Any = self.h.reshape(-1, self.h.shape[-1])
        words: Any = targets.reshape(-1)
        valid: Any = None if inside is None else inside.reshape(-1)
        if self.axis_name is not None:
            h, words, valid = jax.tree.map(lambda a: lax.all_gather(a, self.axis_name, tiled=True), (h, words, valid))
        count, back = None, None
        if valid is not None:
            count = valid.sum()
            order = jnp.argsort(~valid, stable=True)
            back = jnp.argsort(order)
            h, words = _reordered(h, order, back), words[order]
        if self.candidates is None:
            nats: Any = _exact(how, h, self.kernel, self._bias_of_words(how), words, count)
        else:
            nats = self._sampled(how, h, words, count)
        local: Any = _local_rows_of(self.axis_name, nats if back is None else nats[back])
        local = local.reshape(targets.shape)
        return local if inside is None else jnp.where(inside, local, 0)

    def logits(self) -> Float[Array, "*TB V"]:
        """h Kᵀ + b, of this device's words: for few rows, such as what is generated."""
        bias = self._bias_of_words(How(self.chunk, self.precision, self.axis_name))
        rows = self.h.reshape(-1, self.h.shape[-1])
        if rows.shape[0] == 1:  # XLA's CPU code for one row times Kᵀ has no vector instructions: 1.7 ms, 0.16 for K hᵀ
            z = matmul(self.kernel, rows.T, self.precision).T + bias  # (V = 10,000, P = 200).
        else:
            z = matmul(rows, self.kernel.T, self.precision) + bias
        return z.reshape(*self.h.shape[:-1], -1)

    def _bias_of_words(self, how: How) -> Float[Array, " V"]:
        """-∞ for the rows that are no words."""
        if self.vocabulary is None:
            return self.bias
        return jnp.where(local_words(how, self.bias.shape[0]) < self.vocabulary, self.bias, -jnp.inf)

    def _sampled(self, how: How, h: Any, targets: Int[Array, " R"], count: Int[Array, ""] | None) -> Float[Array, " R"]:
        """The target's word is there for certain and is not corrected; where it is a candidate too, that one is left
        out. Then Σ exp(z - ln count) has the mean of the exact normaliser (importance sampling: Jean et al., 2015)."""
        assert self.candidates is not None
        words, log_counts = self.candidates
        rows, held = held_rows(jnp.concatenate([words, targets]), self.kernel.shape[0], how.axis_name)
        kernel, bias = self.kernel[rows], self.bias[rows]  # One gather: its gradient is one array [V, P].
        split = words.shape[0]
        offset = jnp.where(held[:split], bias[:split] - log_counts, -jnp.inf)
        others: Any = _log_sum_exp(how, h, kernel[:split], offset, words, targets, count)
        return jax.nn.softplus(others - _of_words(how, h, kernel[split:], bias[split:], held[split:]))


# --- derivatives -----------------------------------------------------------------------------------------------------


# Two functions with derivatives of their own: the exact one adds the target's part in the chunk where the word stands,
# the other leaves its target to JAX. As one function they would round otherwise.


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _exact(
    how: How,
    h: Float[Array, "R P"],
    kernel: Float[Array, "K P"],
    bias: Float[Array, " K"],
    targets: Int[Array, " R"],
    count: Int[Array, ""] | None,
) -> Float[Array, " R"]:
    """-ln p(target), where this device has these words; of the first `count` rows, if given."""
    return _exact_forward(how, h, kernel, bias, targets, count, keep=False)[0]


def _exact_forward(
    how: How,
    h: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    targets: jax.Array,
    count: jax.Array | None,
    keep: bool = True,
) -> tuple:
    rows, held = held_rows(targets, kernel.shape[0], how.axis_name)
    others, logits = sum_of_others(how, h, kernel, bias, local_words(how, kernel.shape[0]), targets, count, keep)
    target = _of_words(how, h, kernel[rows], bias[rows], held)
    return jax.nn.softplus(others - target), (h, kernel, bias, targets, count, others, target, logits)


def _exact_backward(how: How, saved: tuple, d: jax.Array) -> tuple:
    h, kernel, bias, targets, count, others, target, logits = saved
    at_target = -d * jax.nn.sigmoid(others - target)  # p - 1, to all digits where p is near 1.
    words = local_words(how, kernel.shape[0])
    of = gradients(how, h, kernel, bias, words, targets, count, jnp.logaddexp(others, target), d, at_target, logits)
    return *of, None, None


_exact.defvjp(_exact_forward, _exact_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _log_sum_exp(
    how: How,
    h: Float[Array, "R P"],
    kernel: Float[Array, "K P"],
    bias: Float[Array, " K"],
    words: Int[Array, " K"],
    targets: Int[Array, " R"],
    count: Int[Array, ""] | None,
) -> Float[Array, " R"]:
    """ln Σ exp(h kᵀ + b) over those of `words` that are not the row's target, on all devices; of the first `count`
    rows, if given."""
    return sum_of_others(how, h, kernel, bias, words, targets, count)[0]


def _log_sum_exp_forward(how: How, *operands: Any) -> tuple:
    others, logits = sum_of_others(how, *operands, keep=True)
    return others, (*operands, others, logits)


def _log_sum_exp_backward(how: How, saved: tuple, d: jax.Array) -> tuple:
    h, kernel, bias, words, targets, count, others, logits = saved
    of = gradients(how, h, kernel, bias, words, targets, count, others, d, jnp.zeros_like(d), logits)
    return *of, None, None, None


_log_sum_exp.defvjp(_log_sum_exp_forward, _log_sum_exp_backward)


@jax.custom_vjp
def _reordered(h: Float[Array, "R P"], order: Int[Array, " R"], back: Int[Array, " R"]) -> Float[Array, "R P"]:
    """h[order]; its gradient is put back by `back`, the inverse, instead of scattered."""
    return h[order]


_reordered.defvjp(lambda h, order, back: (h[order], back), lambda back, d: (d[back], None, None))


# --- words split over devices ----------------------------------------------------------------------------------------


def _of_words(
    how: How, h: Float[Array, "R P"], kernel: Float[Array, "R P"], bias: Float[Array, " R"], held: jax.Array
) -> Float[Array, " R"]:
    """Each row's logit of one word, on all devices."""
    if how.precision in ("tf32", "bfloat16"):
        h, kernel = (rounded(a, how.precision).astype(jnp.float32) for a in (h, kernel))
    return _summed(how.axis_name, jnp.where(held, (h * kernel).sum(1) + bias, 0))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _summed(axis_name: str | None, a: jax.Array) -> jax.Array:
    """The sum over devices, all of which go on to compute the same: each one's part has the gradient of the sum (as
    Shoeybi et al., 2019, split a layer)."""
    return a if axis_name is None else lax.psum(a, axis_name)


_summed.defvjp(lambda axis_name, a: (_summed(axis_name, a), None), lambda axis_name, _, d: (d,))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _local_rows_of(axis_name: str | None, a: Float[Array, " R"]) -> Float[Array, " R"]:
    """This device's rows of what all have computed of the rows of all: each then needs the gradients of all of them."""
    return a if axis_name is None else local_rows(a, axis_name)


_local_rows_of.defvjp(
    lambda axis_name, a: (_local_rows_of(axis_name, a), None),
    lambda axis_name, _, d: (d if axis_name is None else lax.all_gather(d, axis_name, tiled=True),),
)
