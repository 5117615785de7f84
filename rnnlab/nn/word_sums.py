"""Sums over the words of a softmax, chunk by chunk, forward and for the gradient.

From the one to the other logits are kept as long as they are few; else they are computed again.

The cross-entropies made of these sums are in `nn/cross_entropy.py`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnnlab.ops.linear import Precision, matmul, rounded
from rnnlab.typing import Array, Float, Int


class How(NamedTuple):
    """The static fields of a cross-entropy."""

    chunk: int | None
    precision: Precision
    axis_name: str | None


def local_words(how: How, count: int) -> Int[Array, " K"]:
    """The words that this device has."""
    first = 0 if how.axis_name is None else count * lax.axis_index(how.axis_name)
    return first + jnp.arange(count, dtype=jnp.int32)


def sum_of_others(
    how: How,
    h: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    words: jax.Array,
    targets: jax.Array,
    count: jax.Array | None,
    keep: bool = False,
) -> tuple[Float[Array, " R"], Float[Array, "C W R"] | None]:
    """ln Σ exp(h kᵀ + b) over those of `words` that are not the row's target, on all devices; of the first `count`
    rows, if given. And the logits of every chunk, where they are to be kept and `keeps_logits`.

    A chunk's logits lie [words, rows], so that sums over words run along the vector units (T·B = 700, P = 200,
    V = 33 278 on 2 cores, all words in one chunk: forward 95 ms, [rows, words] 126; with the gradient 229 and 391).
    """
    rows = _Rows.of(h.shape[0], count)
    width, ht = _width(how, rows.width, kernel.shape[0]), rounded(h, how.precision).T
    dtype = jnp.result_type(h, kernel, bias)
    keep = keep and keeps_logits(how, h, kernel, count)

    def body(start: Any, first: Any, carry: tuple[Any, ...]) -> tuple[Any, ...]:
        part, offset, word = _chunk((kernel, bias, words), start, width)

        def of_rows(at: Any, carry: tuple[Any, ...]) -> tuple[Any, ...]:
            largest, total = (rows.take(a, at) for a in carry[:2])
            z = matmul(part, rows.take(ht, at, axis=1), how.precision) + offset[:, None]
            logits = carry[2] if carry[2] is None else lax.dynamic_update_index_in_dim(carry[2], z, first // width, 0)
            out = (start + jnp.arange(width) < first)[:, None] | (word[:, None] == rows.take(targets, at))
            z = jnp.where(out, -jnp.inf, z)
            new = jnp.maximum(largest, z.max(0))
            total = total * jnp.exp(largest - new) + jnp.exp(z - new).sum(0)
            return rows.put(carry[0], new, at), rows.put(carry[1], total, at), logits

        return rows.over(of_rows, carry)

    logits = lax.empty((-(-kernel.shape[0] // width), width, h.shape[0]), dtype) if keep else None
    lowest = jnp.full(h.shape[0], jnp.finfo(dtype).min, dtype)  # Not -inf, which minus itself is no number.
    largest, total, logits = _over_chunks(kernel.shape[0], width, body, (lowest, jnp.zeros_like(lowest), logits))
    if how.axis_name is not None:
        of_all = lax.pmax(largest, how.axis_name)
        total = lax.psum(total * jnp.exp(largest - of_all), how.axis_name)
        largest = of_all
    return largest + jnp.log(total), logits


MOST_LOGITS = 1 << 28
"""Bytes of logits that a device keeps for the gradient."""


def keeps_logits(how: How, h: jax.Array, kernel: jax.Array, count: jax.Array | None) -> bool:
    """Whether the logits are kept from the values to the gradient: where nobody asks for chunks, and all rows count.

    The gradient is then three products in place of four. (T·B, V) = (700, 33 278), P = 650, on 2 cores of a Zen 3: a
    training step of 1.5 s in place of 1.8; P = 200: 0.46 in place of 0.61.
    """
    size = h.shape[0] * kernel.shape[0] * jnp.result_type(h, kernel).itemsize
    return how.chunk is None and count is None and size <= MOST_LOGITS


def gradients(
    how: How,
    h: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    words: jax.Array,
    targets: jax.Array,
    count: jax.Array | None,
    normaliser: Float[Array, " R"],
    d: Float[Array, " R"],
    at_target: Float[Array, " R"],
    logits: Float[Array, "C W R"] | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients of h, kernel and bias; that of a logit z is d exp(z - normaliser), at the row's target `at_target`.

    logits: those that `sum_of_others` kept.
    """
    rows, ours = _Rows.of(h.shape[0], count), rounded(h, how.precision)
    width = _width(how, rows.width, kernel.shape[0])

    def body(start: Any, first: Any, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        dh, dkernel, dbias = carry
        part, offset, word = _chunk((kernel, bias, words), start, width)
        part = rounded(part, how.precision)
        # Words that the chunk before has had get the same gradient again; h must not.
        new = jnp.where((start + jnp.arange(width) < first)[:, None], 0, part)

        def of_rows(at: Any, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            dh, dpart, doffset = carry
            block_h, block_d = rows.take(ours, at), rows.take(d, at)
            z = _logits_again(how, part, block_h, offset) if logits is None else logits[first // width]
            slope = block_d * jnp.exp(z - rows.take(normaliser, at))
            dz = jnp.where(word[:, None] == rows.take(targets, at), rows.take(at_target, at), slope)
            dpart = rows.plus(dpart, matmul(dz, block_h, how.precision).astype(kernel.dtype))
            dh = rows.put(dh, rows.take(dh, at) + matmul(dz.T, new, how.precision), at)
            return dh, dpart, rows.plus(doffset, dz.sum(1).astype(bias.dtype))

        nothing = jnp.zeros(part.shape, kernel.dtype), jnp.zeros(width, bias.dtype)
        dh, dpart, doffset = rows.over(of_rows, (dh, *nothing))
        dkernel = lax.dynamic_update_slice_in_dim(dkernel, dpart, start, 0)
        dbias = lax.dynamic_update_slice_in_dim(dbias, doffset, start, 0)
        return dh, dkernel, dbias

    sums = jnp.zeros(h.shape, jnp.result_type(h, kernel, bias)), jnp.zeros_like(kernel), jnp.zeros_like(bias)
    dh, dkernel, dbias = _over_chunks(kernel.shape[0], width, body, sums)
    return dh.astype(h.dtype), dkernel, dbias


def _logits_again(how: How, part: jax.Array, h: jax.Array, offset: jax.Array) -> jax.Array:
    return matmul(part, h.T, how.precision) + offset[:, None]


BLOCK_ROWS = {"cpu": 512}
"""How many rows, where only the first so many count, are taken at a time; on other platforms 4096."""


class _Rows(NamedTuple):
    """Rows all at once, or, where only the first so many count, in blocks up to the last of those."""

    width: int
    """Rows of a block."""
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


def _width(how: How, rows: int, words: int) -> int:
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
