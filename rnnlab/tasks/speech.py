"""TIMIT frame classification (Le, Jaitly and Hinton, 2015, section 4.4): which phone, or state, each 10 ms belong to.

Files, features and classes are in `datasets/timit.py`, phone strings and their error rate in `training/recognition.py`.
"""

import os
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from rnnlab.config.bounds import PositiveInt
from rnnlab.config.errors import ConfigError
from rnnlab.datasets import timit
from rnnlab.datasets.features import FEATURES
from rnnlab.ops.random_streams import stream
from rnnlab.tasks.base import SPLITS, Batch, Example, Split, Task, frequency_loss
from rnnlab.tasks.packing import Packing
from rnnlab.typing import Array, Float, Int, PRNGKeyArray, PyTree

SPREAD = 0.1
"""By which share, up or down, lengths are blurred before they are sorted: batches are not the same ones every epoch."""


class Speech(Task):
    """Input [T, 120]: filter banks, Δ and ΔΔ; target [T]: the class of each frame, -1 where there is none.

    T is the longest utterance of the split; beyond its length an utterance is zero. Loss: cross-entropy in nats,
    metric: `frame_error`, both per frame that has a class. The features of all splits lie on the device one utterance
    after the other, without padding: the full corpus is 1.4 million frames, 0.7 GB in float32.

    Training batches hold utterances of similar length: an epoch sorts them by a length blurred by `SPREAD`, cuts them
    into groups of `bucket`, and shuffles the groups. The rest, fewer than `bucket` utterances, is drawn anew
    for each epoch. With `packed` they hold rows instead: as long as the longest utterance, with as many whole
    utterances as they have room for, in place of one and padding; which of them share a row is the same in every epoch.
    """

    readout = "every"
    shares = frozenset({"frame_error"})

    folder: str = "timit"
    """The corpus, in the data folder."""
    targets: str = "phones61"
    """The classes: "phones61", "phones48", "phones39", "states", or a file or folder of alignments."""
    normalize: Literal["speaker", "training"] = "speaker"
    """Whose mean and deviation each feature is normalised by: each speaker's, or those of the training split."""
    bucket: PositiveInt = 16
    """How many utterances of similar length follow each other in training; as a rule the batch size."""
    packed: bool = False
    """Whether several utterances share a row in training, in place of padding; batch_size counts rows, and bucket has
    no meaning."""
    max_frames: PositiveInt | None = None
    """Training utterances that are longer are cut into equal pieces; None cuts none."""
    storage: Literal["float32", "float16"] = "float32"
    """Type of the features on the device; float16 halves their memory and rounds them to 11 bits."""
    skip_bad: bool = False
    """Whether to go on without the recordings that cannot be used."""
    cache_dir: str | None = None
    """The folder where features are kept."""
    data_dir: str | os.PathLike[str] | None = None
    """The data folder."""

    def initialize(self, options: Any) -> None:
        """Reads the corpus.

        Raises:
            ConfigError: see `timit.load`, or a bucket that holds more than the training split.
        """
        corpus = timit.load(
            self.data_dir,
            self.folder,
            targets=self.targets,
            normalize=self.normalize,
            skip_bad=self.skip_bad,
            cache_dir=self.cache_dir,
        )
        max_frames, bucket = self.max_frames, self.bucket
        self.corpus = corpus
        self.in_features, self.out_features = FEATURES, corpus.classes
        self.data: dict[Split, dict[str, Any]] = {}
        self.sizes: dict[Split, int] = {}
        self.steps: dict[Split, int] = {}
        for split in SPLITS:
            utterances = corpus.splits[split]
            limit = max_frames if split == "train" and max_frames is not None else int(utterances.lengths.max())
            starts, lengths = _pieces(utterances.offsets, limit)
            self.sizes[split], self.steps[split] = len(lengths), int(lengths.max())
            self.data[split] = _on_device(utterances, starts, lengths, self.steps[split], self.storage)
        self.packing: Packing | None = None
        training = self.sizes["train"]
        if self.packed:
            part = self.data["train"]
            self.packing = Packing(part.pop("starts"), part.pop("lengths"), self.steps["train"])
            part["rows"] = self.packing.arrays
            self.sizes["train"] = self.packing.rows
        elif bucket > training:
            raise ConfigError(f"task.bucket: {bucket} is more than the {training} training utterances")
        self.epoch = training // bucket * bucket
        counts = {
            split: np.bincount(corpus.splits[split].targets + 1, minlength=corpus.classes + 1)[1:] for split in SPLITS
        }
        self.baselines = {s: frequency_loss(counts["train"], counts[s]) for s in ("validation", "test")}

    def size(self, split: Split) -> int:
        return self.sizes[split]

    def order(self, data: PyTree, seed: jax.Array, positions: Int[Array, " B"]) -> Int[Array, " B"]:
        if self.packing is not None:
            return super().order(data, seed, positions)
        epochs, offsets = positions // self.epoch, positions % self.epoch
        order = lambda epoch: self._order(data["train"]["lengths"], seed, epoch)  # noqa: E731
        # As a rule a batch lies in one epoch, and one sort does for all its rows.
        return lax.cond(
            (epochs == epochs[0]).all(),
            lambda: order(epochs[0])[offsets],
            lambda: jax.vmap(lambda epoch, offset: order(epoch)[offset])(epochs, offsets),
        )

    def _order(self, lengths: Int[Array, " N"], seed: jax.Array, epoch: Int[Array, ""]) -> Int[Array, " E"]:
        """The utterances of an epoch one after the other, E = N less the remainder by `bucket`."""
        blur, drop, shuffle = jax.random.split(jax.random.fold_in(stream(seed, "order"), epoch), 3)
        size = len(lengths)
        rank = jnp.log(lengths.astype(jnp.float32))
        rank += jax.random.uniform(blur, (size,), jnp.float32, -SPREAD, SPREAD)
        if self.epoch < size:
            rank = jnp.where(jax.random.permutation(drop, size) < size - self.epoch, jnp.inf, rank)
        groups = jnp.argsort(rank)[: self.epoch].reshape(-1, self.bucket)
        return jax.random.permutation(shuffle, groups).reshape(-1).astype(jnp.uint32)

    def example(self, data: PyTree, key: PRNGKeyArray, split: Split, index: Int[Array, ""]) -> Example:
        part, steps = data[split], self.steps[split]
        if split == "train" and self.packing is not None:
            source, begins, length = self.packing.place(part["rows"], index, jnp)
            valid = jnp.arange(steps) < length
            inputs = jnp.where(valid[:, None], part["features"][source].astype(jnp.float32), 0)
            return Example(inputs, jnp.where(valid, part["targets"][source], -1), length, begins)
        start, length = part["starts"][index], part["lengths"][index]
        features, targets = (lax.dynamic_slice_in_dim(part[name], start, steps) for name in ("features", "targets"))
        valid = jnp.arange(steps) < length
        inputs = jnp.where(valid[:, None], features.astype(jnp.float32), 0)
        return Example(inputs, jnp.where(valid, targets, -1), length)

    def score(self, outputs: Float[Array, "T B O"], batch: Batch) -> tuple[dict[str, jax.Array], jax.Array]:
        counted = batch.targets >= 0
        classes = jnp.where(counted, batch.targets, 0)
        losses = optax.softmax_cross_entropy_with_integer_labels(outputs, classes)
        wrong = outputs.argmax(-1) != classes
        values = {"loss": losses, "frame_error": wrong.astype(losses.dtype)}
        sums = {name: jnp.where(counted, value, 0).sum(0) for name, value in values.items()}
        return sums, counted.sum(0).astype(losses.dtype)


def _pieces(offsets: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each utterance, or each of the equal pieces of one longer than `limit` frames, starts, and its length."""
    starts, lengths = [], []
    for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        count = -(-(end - start) // limit)
        cuts = [start + (end - start) * number // count for number in range(count + 1)]
        starts += cuts[:-1]
        lengths += np.diff(cuts).tolist()
    return np.array(starts, np.int32), np.array(lengths, np.int32)


def _on_device(
    utterances: timit.Utterances, starts: np.ndarray, lengths: np.ndarray, steps: int, storage: str
) -> dict[str, np.ndarray]:
    """A split's arrays, with `steps` rows more at the end: a slice of so many may start at any utterance."""
    frames = len(utterances.targets)
    features = np.zeros((frames + steps, FEATURES), storage)
    features[:frames] = utterances.features
    targets = np.full(frames + steps, -1, np.int32)
    targets[:frames] = utterances.targets
    return {"features": features, "targets": targets, "starts": starts, "lengths": lengths}
