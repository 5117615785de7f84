"""Language models: the next word or character of a text, in contiguous streams or sentence by sentence.

Corpora become tokens in `datasets/`; how a large vocabulary's logits are avoided is in `rnnlab/nn/cross_entropy.py`.
"""

import math
import os
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnnlab.config.bounds import PositiveInt
from rnnlab.config.errors import ConfigError
from rnnlab.datasets.tokens import load_tokens
from rnnlab.datasets.vocabulary import Level
from rnnlab.nn.cross_entropy import Distribution
from rnnlab.tasks.base import Batch, Example, Split, StreamTask, Task, frequency_loss
from rnnlab.tasks.packing import Packing
from rnnlab.typing import Array, Bool, Float, Int, PRNGKeyArray, PyTree

ON_DEVICE = 1 << 30
"""Bytes of a training text that lies on the device without being asked for."""


class _Text(Task):
    """The common part of both: a prepared corpus whose tokens lie on the device, and the cross-entropy per token."""

    causal = True
    readout = "every"
    first_target: ClassVar = 0
    """The place in a split of the first token to predict."""

    dataset: str
    """The corpus: "wikitext-2", "ptb", "tinyshakespeare", "text8", "enwik8", "lm1b", or "text" for a folder of your
    own."""
    level: Level = "word"
    """The tokens: words between white space, characters, or bytes."""
    vocabulary_size: PositiveInt | None = None
    """The most frequent words that are kept, `<unk>` and `<eos>` among them; None: all."""
    min_count: PositiveInt | None = None
    """Instead of vocabulary_size: how often a word must occur to be kept."""
    vocabulary_file: str | None = None
    """Instead of both: a file of words, one a line."""
    source: str | None = None
    """The folder of dataset "text"."""
    on_device: bool | None = None
    """Whether the training text lies on every device, or the host reads each batch's part while the devices train;
    None: on the device up to 1 GiB."""
    data_dir: str | os.PathLike[str] | None = None
    """The data folder."""

    def initialize(self, options: Any) -> None:
        """Reads the corpus, which is prepared if need be.

        Raises:
            ConfigError: it is missing or damaged.
        """
        self.corpus = corpus = load_tokens(
            self.dataset,
            self.data_dir,
            level=self.level,
            vocabulary_size=self.vocabulary_size,
            min_count=self.min_count,
            vocabulary=self.vocabulary_file,
            source=self.source,
        )
        self.words = corpus.vocabulary.words
        self.vocabulary = self.in_features = self.out_features = len(self.words)
        self.baselines = {
            split: frequency_loss(corpus.vocabulary.counts, corpus.counts(split, self.first_target))
            for split in ("validation", "test")
        }

    def score(self, outputs: Distribution | Float[Array, "T B V"], batch: Batch) -> tuple[dict[str, Any], jax.Array]:
        steps, rows = batch.targets.shape
        inside = None if batch.lengths is None else jnp.arange(steps)[:, None] < batch.lengths
        if isinstance(outputs, Distribution):
            nats = outputs.cross_entropy(batch.targets, inside)
        else:
            nats = optax.softmax_cross_entropy_with_integer_labels(outputs, batch.targets)
            nats = nats if inside is None else jnp.where(inside, nats, 0)
        weights = jnp.full(rows, steps) if batch.lengths is None else batch.lengths
        return {"loss": nats.sum(0)}, weights.astype(nats.dtype)

    def derived(self, values: dict[str, float]) -> dict[str, float]:
        if self.corpus.vocabulary.level != "word":  # A byte is what papers on enwik8 call a character.
            return {"bits_per_character": values["loss"] / math.log(2)}
        return {"perplexity": math.exp(min(values["loss"], 700.0))}


class LanguageModel(_Text, StreamTask):
    """The next token at every step of windows that follow each other: truncated backpropagation through time.

    The training text is cut into as many contiguous streams as a batch has rows; row r of every batch goes on where the
    one before it ended, with the network's carry, and begins again, with the network's own, when the stream is over.
    The rest of a stream after its last whole window, and of the text after the last stream, is not trained on.
    Validation and test are cut into eval_batch_size streams and scored to the last token; with one stream every token
    has all before it as its context.

    Loss: nats per token; metric: `perplexity`, or `bits_per_character`.
    """

    first_target: ClassVar = 1
    dataset = "wikitext-2"
    window: PositiveInt = 35
    """T, steps of a batch."""

    def initialize(self, options: Any) -> None:
        """Reads the corpus and cuts it into streams.

        Raises:
            ConfigError: the corpus is missing or damaged, or too short for a window in every stream.
        """
        super().initialize(options)
        window = self.window
        self.data, self.length, self.windows = {}, {}, {}
        for split, rows in self.rows.items():
            tokens = self.corpus.splits[split].tokens
            targets = len(tokens) - 1
            self.length[split] = targets // rows if split == "train" else -(-targets // rows)
            whole = self.length[split] // window
            self.windows[split] = whole if split == "train" else -(-self.length[split] // window)
            if targets < rows or self.windows[split] == 0:
                of, per = (
                    ("eval_batch_size", 1) if split != "train" else (f"batch_size, a window of {window} each", window)
                )
                raise ConfigError(
                    f"task: the {split} split of {self.dataset} has {len(tokens)} tokens, too few for {rows} streams "
                    f"({of}); at most {max(targets // per, 0)}"
                )
            if not _fits(tokens, self.on_device if split == "train" else True):
                self.reader = self._read
                continue
            # A window past the end of the text must not be moved back, as `dynamic_slice` would, where it has targets.
            self.data[split] = np.pad(tokens, (0, 0 if split == "train" else window))

    def size(self, split: Split) -> int:
        return self.rows[split] * self.windows[split]

    def order(self, data: PyTree, seed: jax.Array, positions: Int[Array, " B"]) -> Int[Array, " B"]:
        return positions % self.size("train")

    def begins(self, split: Split, positions: Int[Array, " B"]) -> Bool[Array, " B"]:
        return positions.astype(jnp.uint32) % self.size(split) < self.rows[split]

    def example(self, data: PyTree, key: PRNGKeyArray, split: Split, index: Int[Array, ""]) -> Example:
        index = index.astype(jnp.int32)
        row, passed, start = self._place(split, index)
        tokens = jax.lax.dynamic_slice_in_dim(data[split], start, self.window + 1).astype(jnp.int32)
        length = None
        if split != "train":
            left = jnp.minimum(self.length[split], len(self.corpus.splits[split].tokens) - 1 - row * self.length[split])
            length = jnp.clip(left - passed, 0, self.window)
        return Example(tokens[:-1], tokens[1:], length)

    def _place(self, split: Split, index: Any) -> tuple[Any, Any, Any]:
        """The stream of windows, how many of its tokens come before, and where in the text they begin."""
        row, number = index % self.rows[split], index // self.rows[split]
        passed = number * self.window
        return row, passed, row * self.length[split] + passed

    def _read(self, index: np.ndarray) -> Example:
        _, _, start = self._place("train", index)
        text: Any = self.corpus.splits["train"].tokens
        tokens = text[start[..., None] + np.arange(self.window + 1)].astype(np.int32)
        return Example(tokens[..., :-1], tokens[..., 1:])


class Sentences(_Text):
    """The next token of single sentences, shuffled anew every epoch, that know nothing of each other: 1 Billion Word.

    The end of a sentence, `<eos>`, is predicted, and is the first input, too. In training a sentence is cut after
    `longest` tokens; validation and test are scored whole. Loss and metric are those of `LanguageModel`.

    With `packed` a training example is a row of `longest` steps with as many whole sentences as it has room for, in
    place of one and padding; which of them share a row is the same in every epoch.
    """

    by_length = True

    dataset = "lm1b"
    longest: PositiveInt = 50
    """T of a training batch."""
    packed: bool = False
    """Whether several sentences share a row in training, in place of padding; batch_size counts rows."""

    def initialize(self, options: Any) -> None:
        super().initialize(options)
        self.data, self.steps = {}, {}
        self.packing: Packing | None = None
        for split, (tokens, offsets) in self.corpus.splits.items():
            lengths = np.diff(offsets)
            self.steps[split] = min(self.longest, int(lengths.max())) if split == "train" else int(lengths.max())
            on_device = _fits(tokens, self.on_device if split == "train" else True)
            if split == "train" and self.packed:
                self.packing = Packing(offsets[:-1], np.minimum(lengths, self.longest), self.longest)
            if not on_device:
                self.reader = self._read
            elif split == "train" and self.packing is not None:
                self.data[split] = (np.asarray(tokens), self.packing.arrays)
            else:
                # Scored by length, so that a batch ends where its longest sentence does.
                order = None if split == "train" else np.argsort(lengths, kind="stable").astype(np.int32)
                self.data[split] = (np.pad(tokens, (0, self.steps[split])), np.asarray(offsets, np.int32), order)
        self.longest_dependency = max(self.steps.values()) - 1  # Over all splits: validation and test are whole.

    def size(self, split: Split) -> int:
        if split == "train" and self.packing is not None:
            return self.packing.rows
        return len(self.corpus.splits[split].offsets) - 1

    def example(self, data: PyTree, key: PRNGKeyArray, split: Split, index: Int[Array, ""]) -> Example:
        if split == "train" and self.packing is not None:
            tokens, arrays = data[split]
            return self._row(tokens, arrays, index, jnp)
        tokens, offsets, order = data[split]
        index = index if order is None else order[index]
        start, end = offsets[index], offsets[index + 1]
        targets = jax.lax.dynamic_slice_in_dim(tokens, start, self.steps[split]).astype(jnp.int32)
        inputs = jnp.concatenate([jnp.full(1, self.corpus.vocabulary.end, jnp.int32), targets[:-1]])
        return Example(inputs, targets, jnp.minimum(end - start, self.steps[split]).astype(jnp.int32))

    def _row(self, tokens: Any, arrays: Any, index: Any, xp: Any) -> Example:
        """The packed rows with these numbers; xp: as of `Packing.place`."""
        assert self.packing is not None
        source, begins, length = self.packing.place(arrays, index, xp)
        inside = xp.arange(self.packing.steps) < length[..., None]
        targets = xp.where(inside, tokens[source], 0).astype(np.int32)
        before = xp.concatenate([xp.zeros_like(targets[..., :1]), targets[..., :-1]], -1)
        inputs = xp.where(begins, np.int32(self.corpus.vocabulary.end), before)
        return Example(inputs, targets, length.astype(np.int32), begins)

    def _read(self, index: np.ndarray) -> Example:
        tokens: Any = self.corpus.splits["train"].tokens
        if self.packing is not None:
            return self._row(tokens, self.packing.arrays, index, np)
        offsets: Any = self.corpus.splits["train"].offsets
        start, lengths = offsets[index], np.minimum(offsets[index + 1] - offsets[index], self.steps["train"])
        step = np.arange(self.steps["train"])
        inside = step < lengths[..., None]
        targets = np.where(inside, tokens[np.where(inside, start[..., None] + step, 0)], 0).astype(np.int32)
        end = np.full((*index.shape, 1), self.corpus.vocabulary.end, np.int32)
        inputs: Any = np.concatenate([end, targets[..., :-1]], -1)
        return Example(inputs, targets, lengths.astype(np.int32))


def _fits(tokens: np.ndarray, on_device: bool | None) -> bool:
    """Whether the text is to lie on the device, which counts in 32 bits."""
    if on_device is None:
        return tokens.nbytes <= ON_DEVICE
    if on_device and len(tokens) >= 1 << 31:
        raise ConfigError(f"task.on_device: {len(tokens)} tokens are more than a device can count (2³¹)")
    return on_device
