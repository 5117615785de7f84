"""Distributions over large vocabularies, and their cross-entropy in chunks of the vocabulary, from candidates, and with
words split over devices, so that logits [T·B, V] are never held, as optax's cross-entropy needs them.

What puts a distribution out is in `nn/softmax.py`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnnlab.ops.linear import ComputeType, matmul, rounded
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
    meta_fields=["vocabulary", "chunk", "compute", "axis_name"],
)
@dataclasses.dataclass(frozen=True)
class Distribution:
    """softmax(h Kᵀ + b) over a vocabulary, not worked out. Where words are split over devices, each has rows h of its
    own, all of them as many."""

    h: Float[Array, "*TB P"]
    kernel: Float[Array, "V P"]
    """A vector for each word, of this device's words where they are split."""
    bias: Float[Array, " V"]
    candidates: Candidates | None = None
    """None: the normaliser is exact."""
    vocabulary: int | None = None
    """How many words there are on all devices, where rows follow that are none; None: every row is one."""
    chunk: int | None = None
    compute: ComputeType = "float32"
    axis_name: str | None = None
    """The axis of devices that the words are split over, in equal parts in the order of the axis."""

    def cross_entropy(
        self, targets: Int[Array, "*TB"], inside: Bool[Array, "*TB"] | None = None
    ) -> Float[Array, "*TB"]:
        """-ln p(target), in nats; with candidates an estimate, which converges to it as they become more. Where
        `inside` is False it is 0, and costs next to nothing.

        Gradients, in reverse mode, are those of the very values. Where words are split over `axis_name`, this is to be
        called, and differentiated, inside `jax.shard_map(..., check_vma=False)`: every device of the axis has the
        values of its own rows, their gradients of h, and of its own words the gradient of all rows.
        """
        how = _How(self.chunk, self.compute, self.axis_name)
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
        own: Any = _of_own_rows(self.axis_name, nats if back is None else nats[back])
        own = own.reshape(targets.shape)
        return own if inside is None else jnp.where(inside, own, 0)

    def logits(self) -> Float[Array, "*TB V"]:
        """h Kᵀ + b, of this device's words: for few rows, such as what is generated."""
        bias = self._bias_of_words(_How(self.chunk, self.compute, self.axis_name))
        z = matmul(self.h.reshape(-1, self.h.shape[-1]), self.kernel.T, self.compute) + bias
        return z.reshape(*self.h.shape[:-1], -1)

    def _bias_of_words(self, how: "_How") -> Float[Array, " V"]:
        """-∞ for the rows that are no words."""
        if self.vocabulary is None:
            return self.bias
        return jnp.where(_words(how, self.bias.shape[0]) < self.vocabulary, self.bias, -jnp.inf)

    def _sampled(
        self, how: "_How", h: Any, targets: Int[Array, " R"], count: Int[Array, ""] | None
    ) -> Float[Array, " R"]:
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


# --- the sums over words ---------------------------------------------------------------------------------------------


class _How(NamedTuple):
    """What is static of a cross-entropy."""

    chunk: int | None
    compute: ComputeType
    axis_name: str | None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _exact(
    how: _How,
    h: Float[Array, "R P"],
    kernel: Float[Array, "K P"],
    bias: Float[Array, " K"],
    targets: Int[Array, " R"],
    count: Int[Array, ""] | None,
) -> Float[Array, " R"]:
    """-ln p(target), where this device has these words; of the first `count` rows, if given."""
    return _exact_forward(how, h, kernel, bias, targets, count)[0]


def _exact_forward(
    how: _How, h: jax.Array, kernel: jax.Array, bias: jax.Array, targets: jax.Array, count: jax.Array | None
) -> tuple:
    place, held = held_rows(targets, kernel.shape[0], how.axis_name)
    others = _sum_of_others(how, h, kernel, bias, _words(how, kernel.shape[0]), targets, count)
    target = _of_words(how, h, kernel[place], bias[place], held)
    return jax.nn.softplus(others - target), (h, kernel, bias, targets, count, others, target)


def _exact_backward(how: _How, saved: tuple, d: jax.Array) -> tuple:
    h, kernel, bias, targets, count, others, target = saved
    at_target = -d * jax.nn.sigmoid(others - target)  # p - 1, to all digits where p is near 1.
    words = _words(how, kernel.shape[0])
    of = _gradients(how, h, kernel, bias, words, targets, count, jnp.logaddexp(others, target), d, at_target)
    return *of, None, None


_exact.defvjp(_exact_forward, _exact_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _log_sum_exp(
    how: _How,
    h: Float[Array, "R P"],
    kernel: Float[Array, "K P"],
    bias: Float[Array, " K"],
    words: Int[Array, " K"],
    targets: Int[Array, " R"],
    count: Int[Array, ""] | None,
) -> Float[Array, " R"]:
    """ln Σ exp(h kᵀ + b) over those of `words` that are not the row's target, on all devices; of the first `count`
    rows, if given."""
    return _sum_of_others(how, h, kernel, bias, words, targets, count)


def _log_sum_exp_forward(how: _How, *operands: Any) -> tuple:
    others = _sum_of_others(how, *operands)
    return others, (*operands, others)


def _log_sum_exp_backward(how: _How, saved: tuple, d: jax.Array) -> tuple:
    h, kernel, bias, words, targets, count, others = saved
    of = _gradients(how, h, kernel, bias, words, targets, count, others, d, jnp.zeros_like(d))
    return *of, None, None, None


_log_sum_exp.defvjp(_log_sum_exp_forward, _log_sum_exp_backward)


def _sum_of_others(
    how: _How,
    h: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    words: jax.Array,
    targets: jax.Array,
    count: jax.Array | None,
) -> Float[Array, " R"]:
    """`_log_sum_exp`, chunk by chunk.

    A chunk's logits lie [words, rows], so that sums over words run along the vector units (T·B = 700, P = 200,
    V = 33 278 on 2 cores, all words in one chunk: forward 95 ms, [rows, words] 126; with the gradient 229 and 391).
    """
    rows = _Rows.of(h.shape[0], count)
    width, ht = _width(how, rows.width, kernel.shape[0]), rounded(h, how.compute).T

    def body(start: Any, first: Any, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        part, offset, own = _chunk((kernel, bias, words), start, width)

        def of_rows(at: Any, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            largest, total = (rows.take(a, at) for a in carry)
            z = matmul(part, rows.take(ht, at, axis=1), how.compute) + offset[:, None]
            out = (start + jnp.arange(width) < first)[:, None] | (own[:, None] == rows.take(targets, at))
            z = jnp.where(out, -jnp.inf, z)
            new = jnp.maximum(largest, z.max(0))
            total = total * jnp.exp(largest - new) + jnp.exp(z - new).sum(0)
            return rows.put(carry[0], new, at), rows.put(carry[1], total, at)

        return rows.over(of_rows, carry)

    dtype = jnp.result_type(h, kernel, bias)
    lowest = jnp.full(h.shape[0], jnp.finfo(dtype).min, dtype)  # Not -inf: what is subtracted from itself.
    largest, total = _over_chunks(kernel.shape[0], width, body, (lowest, jnp.zeros_like(lowest)))
    if how.axis_name is not None:
        of_all = lax.pmax(largest, how.axis_name)
        total = lax.psum(total * jnp.exp(largest - of_all), how.axis_name)
        largest = of_all
    return largest + jnp.log(total)


def _gradients(
    how: _How,
    h: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    words: jax.Array,
    targets: jax.Array,
    count: jax.Array | None,
    normaliser: Float[Array, " R"],
    d: Float[Array, " R"],
    at_target: Float[Array, " R"],
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of h, kernel and bias, where that of a logit is d exp(z - normaliser), and `at_target` at the row's target."""
    rows, ours = _Rows.of(h.shape[0], count), rounded(h, how.compute)
    width = _width(how, rows.width, kernel.shape[0])

    def body(start: Any, first: Any, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        dh, dkernel, dbias = carry
        part, offset, own = _chunk((kernel, bias, words), start, width)
        part = rounded(part, how.compute)
        # Words that the chunk before has had get the same gradient again; h must not.
        new = jnp.where((start + jnp.arange(width) < first)[:, None], 0, part)

        def of_rows(at: Any, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            dh, dpart, doffset = carry
            own_h, own_d = rows.take(ours, at), rows.take(d, at)
            z = matmul(part, own_h.T, how.compute) + offset[:, None]
            slope = own_d * jnp.exp(z - rows.take(normaliser, at))
            dz = jnp.where(own[:, None] == rows.take(targets, at), rows.take(at_target, at), slope)
            dpart = rows.plus(dpart, matmul(dz, own_h, how.compute).astype(kernel.dtype))
            dh = rows.put(dh, rows.take(dh, at) + matmul(dz.T, new, how.compute), at)
            return dh, dpart, rows.plus(doffset, dz.sum(1).astype(bias.dtype))

        nothing = jnp.zeros(part.shape, kernel.dtype), jnp.zeros(width, bias.dtype)
        dh, dpart, doffset = rows.over(of_rows, (dh, *nothing))
        dkernel = lax.dynamic_update_slice_in_dim(dkernel, dpart, start, 0)
        dbias = lax.dynamic_update_slice_in_dim(dbias, doffset, start, 0)
        return dh, dkernel, dbias

    sums = jnp.zeros(h.shape, jnp.result_type(h, kernel, bias)), jnp.zeros_like(kernel), jnp.zeros_like(bias)
    dh, dkernel, dbias = _over_chunks(kernel.shape[0], width, body, sums)
    return dh.astype(h.dtype), dkernel, dbias


BLOCK_ROWS = {"cpu": 512}
"""How many rows, where only the first so many count, are taken at a time; on other platforms 4096."""


class _Rows(NamedTuple):
    """Rows all at once, or, where only the first so many count, in blocks up to the last of those."""

    width: int
    """Of a block."""
    valid: jax.Array | None
    """How many count; None: all."""

    @classmethod
    def of(cls, rows: int, count: jax.Array | None) -> "_Rows":
        """The largest blocks of up to `BLOCK_ROWS` that rows are a multiple of."""
        if count is None:
            return cls(rows, None)
        most = min(rows, BLOCK_ROWS.get(jax.default_backend(), 4096))
        return cls(max(width for width in range(1, most + 1) if rows % width == 0), count)

    def over(self, body: Callable[[Any, Any], Any], carry: Any) -> Any:
        """body(first row, carry) for every block."""
        if self.valid is None:
            return body(0, carry)
        return lax.fori_loop(0, -(-self.valid // self.width), lambda i, carry: body(i * self.width, carry), carry)

    def take(self, a: jax.Array, at: Any, axis: int = 0) -> jax.Array:
        return a if self.valid is None else lax.dynamic_slice_in_dim(a, at, self.width, axis)

    def put(self, a: jax.Array, block: jax.Array, at: Any) -> jax.Array:
        return block if self.valid is None else lax.dynamic_update_slice_in_dim(a, block, at, 0)

    def plus(self, a: jax.Array, more: jax.Array) -> jax.Array:
        return more if self.valid is None else a + more


def _width(how: _How, rows: int, words: int) -> int:
    """How many words at a time: by default, on a CPU, their logits fit a core's cache."""
    if how.chunk is not None:
        return min(how.chunk, words)
    held = 2**19 if jax.default_backend() == "cpu" else 2**26
    return min(max(256, held // max(rows, 1) // 128 * 128), words)


def _over_chunks(words: int, width: int, body: Callable[[Any, Any, Any], Any], carry: Any) -> Any:
    """body(start, first, carry) for chunks of words [start, start + width). The last one starts early enough to be
    whole; what it has before `first` was in the chunk before."""
    if width == words:
        return body(0, 0, carry)
    step = lambda i, carry: body(jnp.minimum(i * width, words - width), i * width, carry)  # noqa: E731
    return lax.fori_loop(0, -(-words // width), step, carry)


def _chunk(arrays: tuple[jax.Array, ...], start: Any, width: int) -> tuple[jax.Array, ...]:
    return tuple(lax.dynamic_slice_in_dim(a, start, width) for a in arrays)


@jax.custom_vjp
def _reordered(h: Float[Array, "R P"], order: Int[Array, " R"], back: Int[Array, " R"]) -> Float[Array, "R P"]:
    """h[order]; its gradient is put back by `back`, the inverse, instead of scattered."""
    return h[order]


_reordered.defvjp(lambda h, order, back: (h[order], back), lambda back, d: (d[back], None, None))


# --- words split over devices ----------------------------------------------------------------------------------------


def _words(how: _How, count: int) -> Int[Array, " K"]:
    """The words that this device has."""
    first = 0 if how.axis_name is None else count * lax.axis_index(how.axis_name)
    return first + jnp.arange(count, dtype=jnp.int32)


def _of_words(
    how: _How, h: Float[Array, "R P"], kernel: Float[Array, "R P"], bias: Float[Array, " R"], held: jax.Array
) -> Float[Array, " R"]:
    """Each row's logit of one word, on all devices."""
    if how.compute != "float32":
        h, kernel = (a.astype(how.compute).astype(jnp.float32) for a in (h, kernel))
    return _summed(how.axis_name, jnp.where(held, (h * kernel).sum(1) + bias, 0))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _summed(axis_name: str | None, a: jax.Array) -> jax.Array:
    """The sum over devices, all of which go on to compute the same: each one's part has the gradient of the sum (as
    Shoeybi et al., 2019, split a layer)."""
    return a if axis_name is None else lax.psum(a, axis_name)


_summed.defvjp(lambda axis_name, a: (_summed(axis_name, a), None), lambda axis_name, _, d: (d,))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _of_own_rows(axis_name: str | None, a: Float[Array, " R"]) -> Float[Array, " R"]:
    """This device's rows of what all have computed of the rows of all: each then needs the gradients of all of them."""
    return a if axis_name is None else local_rows(a, axis_name)


_of_own_rows.defvjp(
    lambda axis_name, a: (_of_own_rows(axis_name, a), None),
    lambda axis_name, _, d: (d if axis_name is None else lax.all_gather(d, axis_name, tiled=True),),
)
