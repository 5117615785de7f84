"""The readout over a large vocabulary: the words' vectors, and candidates for a step's normaliser.

A distribution and its cross-entropy are in `nn/cross_entropy.py`; tasks use them.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rnnlab.config.errors import ConfigError
from rnnlab.nn.cross_entropy import Candidates, Distribution
from rnnlab.nn.linear import Linear
from rnnlab.nn.options import SoftmaxOptions
from rnnlab.ops.initializers import InitializerSpec, as_initializer
from rnnlab.ops.linear import Precision
from rnnlab.ops.random_streams import Training, named
from rnnlab.parallel.sharding import filled
from rnnlab.typing import Array, Float, PRNGKeyArray


def check_softmax(
    options: SoftmaxOptions, width: int, words: int, vocabulary: int | None, embedding: int | None
) -> None:
    """Checks the section of a network whose readout sees `width` features and puts out `words`.

    Raises:
        ConfigError: a softmax over what is no vocabulary, or one that cannot be tied.
    """
    if words != vocabulary:
        raise ConfigError("model.softmax: this task's answers are not words of its vocabulary; leave it None")
    if not options.tied:
        return
    if embedding is None:
        raise ConfigError("model.softmax.tied: needs model.embedding, the vectors that are shared")
    if embedding != (options.projection or width):
        raise ConfigError(
            f"model.softmax.tied: vectors of {embedding} features (model.embedding) cannot meet an output of "
            f"{options.projection or width}; make them equal, or set model.softmax.projection to {embedding}"
        )


def draw_candidates(key: PRNGKeyArray, samples: int, vocabulary: int) -> Candidates:
    """Words with probability ln((k + 2) / (k + 1)) / ln(V + 1), the log-uniform (Zipfian) distribution of a vocabulary
    that is sorted by frequency, most frequent first (Jozefowicz et al., 2016).

    Words that would be expected more than once are taken for certain and once; the others are drawn, with replacement,
    from the same distribution over what is left, one from each of equal strata of its probability. So
    Σ exp(z) / expected count over the candidates has the mean Σ exp(z) over all words, and with `samples` of V or more
    they are all words.
    """
    certain = _certain(samples, vocabulary)
    words = jnp.arange(certain, dtype=jnp.int32)
    drawn = samples - certain
    if certain == vocabulary:
        return Candidates(words, jnp.zeros(certain))
    low, high = math.log1p(certain), math.log1p(vocabulary)
    u = (jnp.arange(drawn) + jax.random.uniform(key, (drawn,))) / drawn
    # Rounding may put a word next to its own place, at the ends outside.
    tail = jnp.clip(jnp.exp(low + u * (high - low)).astype(jnp.int32) - 1, certain, vocabulary - 1)
    log_counts = math.log(drawn / (high - low)) + jnp.log(jnp.log1p(1 / (tail + 1.0)))
    return Candidates(jnp.concatenate([words, tail]), jnp.concatenate([jnp.zeros(certain), log_counts]))


def _certain(samples: int, vocabulary: int) -> int:
    """How many of the most frequent words are taken for certain: the fewest such that the next is expected at most
    once among the words drawn."""
    if samples >= vocabulary:
        return vocabulary
    k = np.arange(samples)
    expected = (samples - k) * np.log1p(1 / (k + 1)) / (np.log1p(vocabulary) - np.log1p(k))
    return int(np.argmax(expected <= 1))


class Softmax(nnx.Module):
    """A readout that gives a `Distribution`: words' vectors, unless the embedding has them, biases, a projection."""

    def __init__(
        self,
        in_features: int,
        vocabulary: int,
        options: SoftmaxOptions | None = None,
        *,
        kernel_init: InitializerSpec = "glorot_uniform",
        bias_init: InitializerSpec = "zeros",
        rngs: nnx.Rngs,
    ):
        """kernel_init: of h's projection and of the vectors. Rows of zeros that are not words fill up the vectors to a
        multiple of `options.split`; none where that is None."""
        options = options or SoftmaxOptions()
        project, parts = None, options.split or 1
        if options.projection is not None:
            project = Linear(in_features, options.projection, kernel_init=kernel_init, rngs=rngs)
            in_features = options.projection
        self.projection = project
        self.features, self.vocabulary = in_features, vocabulary
        self.chunk, self.samples = options.chunk, options.samples
        # A word's vector is a row, so that gathering some of them reads memory in order.
        table = None
        if not options.tied:
            drawn = as_initializer(kernel_init)(rngs.params(), (in_features, vocabulary), jnp.float32)
            table = nnx.Param(filled(drawn.T, parts))
        self.word_kernel = table
        bias = as_initializer(bias_init)(rngs.params(), (vocabulary,), jnp.float32)
        self.bias = nnx.Param(filled(bias, parts))
        self.precision: Precision = "highest"
        self.axis_name: str | None = None
        """Set where this device has a part of the words."""

    def __call__(
        self, h: Float[Array, "*TB O"], embedding: Float[Array, "V P"] | None = None, training: Training | None = None
    ) -> Distribution:
        """embedding: the words' vectors, where they are tied."""
        kernel = embedding if self.word_kernel is None else self.word_kernel[...]
        assert kernel is not None
        candidates = None
        if training is not None and self.samples is not None and self.samples < self.vocabulary:
            candidates = draw_candidates(named(training.key, "softmax"), self.samples, self.vocabulary)
        h = h if self.projection is None else self.projection(h)
        bias = self.bias[...]
        vocabulary = None if bias.shape[0] == self.vocabulary else self.vocabulary
        return Distribution(h, kernel, bias, candidates, vocabulary, self.chunk, self.precision, self.axis_name)
