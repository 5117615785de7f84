"""A trained network goes on with a text, token by token: what it has read, and what is drawn from its softmax."""

import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from rnnlab.nn.connections import Carries, Hidden
from rnnlab.nn.cross_entropy import Distribution
from rnnlab.nn.network import Network
from rnnlab.typing import Array, Float, Int, PRNGKeyArray


class Position(NamedTuple):
    """A network's position in a text."""

    carries: Carries
    logits: Float[Array, " V"]
    """The logits of the next token."""


class Generator:
    """Continues texts with a network: a compiled call for the prompt, and one for each block of tokens.

    Args:
        network: one direction, an answer at every step.
        vocabulary: V.
        without: tokens that are never generated.
        top_k, top_p: see `draw`.
    """

    def __init__(
        self,
        network: Network,
        vocabulary: int,
        without: Sequence[int] = (),
        top_k: int | None = None,
        top_p: float | None = None,
    ):
        self._graphdef, self._state = nnx.split(network)
        self._vocabulary, self._without = vocabulary, jnp.array(without, jnp.int32)
        self._top_k, self._top_p = top_k, top_p
        self._reads, self._blocks = jax.jit(self._read), jax.jit(self._block)

    def read(self, tokens: Sequence[int]) -> Position:
        """After these tokens, of which there is at least one, from the network's own first carry."""
        return self._reads(self._state, jnp.array(tokens, jnp.int32), None)

    def follow(self, position: Position, key: PRNGKeyArray, length: int, temperature: float = 1.0) -> Iterator[int]:
        """`length` tokens; token i is drawn with fold_in(key, i). They come in blocks, the first of one token.

        Raises:
            FloatingPointError: the network's logits are not finite.
        """
        number, longest = 0, 1
        while number < length:
            count, begin = min(longest, length - number), time.monotonic()
            block, position = self._blocks(self._state, position, key, number, count, temperature)
            tokens = np.asarray(block)[:count].tolist()
            if time.monotonic() - begin < _SECONDS:
                longest = min(2 * longest, _LONGEST)
            for token in tokens:
                if token == _NOT_FINITE:
                    raise FloatingPointError(f"the network's logits are not finite after {number} generated tokens")
                yield token
                number += 1

    def _read(self, state: nnx.State, tokens: Int[Array, " T"], carries: Carries | None) -> Position:
        network: Network = nnx.merge(self._graphdef, state)
        last: Carries = []
        hidden = network.hidden(tokens[:, None], first=carries, last=last)
        outputs: Any = network.read(Hidden(hidden.h[-1:], hidden.state))  # [1, 1, V]: of the last step alone.
        outputs = outputs.logits() if isinstance(outputs, Distribution) else outputs
        return Position(last, outputs[0, 0, : self._vocabulary])

    def _block(
        self,
        state: nnx.State,
        position: Position,
        key: PRNGKeyArray,
        start: Int[Array, ""],
        count: Int[Array, ""],
        temperature: Float[Array, ""],
    ) -> tuple[Int[Array, " N"], Position]:
        """`count` tokens, the first of which is token `start`, in an array of N = `_LONGEST`, and the position after
        them. A token whose logits are not finite is `_NOT_FINITE`."""

        def step(i: Int[Array, ""], loop: tuple[Array, Position]) -> tuple[Array, Position]:
            tokens, position = loop
            logits = position.logits.at[self._without].set(-jnp.inf)
            token = draw(logits, jax.random.fold_in(key, start + i), temperature, self._top_k, self._top_p)
            shown = jnp.where(jnp.isfinite(position.logits).all(), token, _NOT_FINITE)
            return tokens.at[i].set(shown), self._read(state, token[None], position.carries)

        return lax.fori_loop(0, count, step, (jnp.full(_LONGEST, _NOT_FINITE, jnp.int32), position))


_LONGEST = 64
"""Tokens of a block: a call costs as much as 25 tokens of a small network (LSTM, H = 64, V = 65: 0.19 ms and 7 µs)."""
_SECONDS = 0.05
"""A block that takes so long is not followed by a longer one: text appears without pauses that one sees."""
_NOT_FINITE = -1


def draw(
    logits: Float[Array, " V"],
    key: PRNGKeyArray,
    temperature: Float[Array, ""] | float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Int[Array, ""]:
    """A token from softmax(logits / temperature); temperature 0 takes the most likely one.

    top_k: from the k most likely tokens only. top_p: from the fewest most likely ones that together have a probability
    of p (nucleus sampling: Holtzman et al., 2020, eq. 2), after top_k.
    """
    z = (logits - logits.max()) / jnp.where(temperature > 0, temperature, 1.0)
    most_likely = jnp.argmax(logits)
    if top_k is None and top_p is None:
        token = jax.random.categorical(key, z)
    else:
        z, tokens = lax.top_k(z, min(top_k or len(z), len(z)))
        if top_p is not None:
            shares = jax.nn.softmax(z)
            z = jnp.where(jnp.cumsum(shares) - shares < top_p, z, -jnp.inf)
        token = tokens[jax.random.categorical(key, z)]
    return jnp.where(temperature > 0, token, most_likely).astype(jnp.int32)
