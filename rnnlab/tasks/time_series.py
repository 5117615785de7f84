"""Classification of time series: the sets of the UEA and UCR archive (Bagnall et al., 2018), and a user's own.

Files and their formats are in `datasets/labelled_series.py`.
"""

import os
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnnlab.config.bounds import Bound, NonNegativeInt
from rnnlab.config.errors import ConfigError
from rnnlab.datasets.labelled_series import LabelledSeries, find_set, read_series
from rnnlab.tasks.base import SPLITS, Batch, Example, Split, Task, Weighted, frequency_loss
from rnnlab.typing import Array, Float, Int, PRNGKeyArray, PyTree


class TimeSeries(Task):
    """Input [T, D]: the channels of a series; target [2]: its class, and how many series of its split have that class.

    T is the longest series of the split; where lengths differ, each row has its own. Training and test are those of the
    files; a share of each class of training is held out for validation. Loss: cross-entropy in nats; its baseline
    answers each class by its share of training. Metrics: `accuracy`, and `balanced_accuracy`, the mean over the classes
    of a split of the share of their series that are right: always naming one of C classes has 1 / C.
    """

    larger_is_better = shares = frozenset({"accuracy", "balanced_accuracy"})

    path: str = "JapaneseVowels"
    """The folder that has the files NAME_TRAIN and NAME_TEST (.ts, .csv, .parquet or .npz), one of the two files, or
    the name of a set below the data folder."""
    validation: Annotated[float, Bound(0, 1, low_excluded=True, high_excluded=True)] = 0.2
    """The share of each class of the training file that is held out, at least one series and never the last one."""
    normalize: bool = True
    """Whether each channel has mean 0 and deviation 1 over the training part's steps."""
    missing: Literal["refuse", "mean", "last"] = "refuse"
    """What stands for a missing value: nothing, so that files with one are refused; the channel's mean in training; or
    the value before it, and at the beginning the mean."""
    data_seed: NonNegativeInt = 0
    """Seed of which series are held out."""
    data_dir: str | os.PathLike[str] | None = None
    """The data folder."""

    def initialize(self, options: Any) -> None:
        """Reads the files.

        Raises:
            ConfigError: they are missing or damaged, do not go together, or leave nothing for validation.
        """
        training, testing = map(read_series, find_set(self.path, self.data_dir))
        self.classes = check_classes(training, testing)
        self.in_features, self.out_features = training.values[0].shape[1], len(self.classes)
        for index, each in enumerate(testing.values):
            if each.shape[1] != self.in_features:
                counts = f"{each.shape[1]} channels, where {training.path} has {self.in_features}"
                raise ConfigError(f"{testing.where(index)}: {counts}")
        if self.missing == "refuse":
            for series in (training, testing):
                check_complete(series)
        labels = np.array([self.classes.index(label) for label in training.labels], np.int32)
        held_out = stratified(labels, self.validation, self.data_seed)
        if not held_out.any():
            raise ConfigError(f"{training.path}: every class has one series alone, and none is left for validation")
        of_test = np.array([self.classes.index(label) for label in testing.labels], np.int32)
        values: dict[Split, list[np.ndarray]] = {
            "train": [training.values[i] for i in np.flatnonzero(~held_out)],
            "validation": [training.values[i] for i in np.flatnonzero(held_out)],
            "test": testing.values,
        }
        classes: dict[Split, np.ndarray] = {"train": labels[~held_out], "validation": labels[held_out], "test": of_test}
        mean, deviation = moments(values["train"])
        scale = (mean, deviation) if self.normalize else (np.zeros_like(mean), np.ones_like(mean))
        lengths = {split: np.array([len(each) for each in values[split]], np.int32) for split in SPLITS}
        self.differ = len({length for each in lengths.values() for length in each.tolist()}) > 1
        counts = {split: np.bincount(classes[split], minlength=len(self.classes)) for split in SPLITS}
        self.data = {}
        for split in SPLITS:
            complete = [(filled(each, mean, self.missing) - scale[0]) / scale[1] for each in values[split]]
            padded = np.zeros((len(complete), lengths[split].max(), self.in_features), np.float32)
            for row, each in zip(padded, complete, strict=True):
                row[: len(each)] = each
            targets = np.stack([classes[split], counts[split][classes[split]]], -1).astype(np.int32)
            self.data[split] = {"inputs": padded, "targets": targets}
            if self.differ:
                self.data[split]["lengths"] = lengths[split]
        self.baselines = {split: frequency_loss(counts["train"], counts[split]) for split in ("validation", "test")}
        self.longest_dependency = int(max(each.max() for each in lengths.values())) - 1

    def size(self, split: Split) -> int:
        return len(self.own_data[split]["targets"])

    def example(self, data: PyTree, key: PRNGKeyArray, split: Split, index: Int[Array, ""]) -> Example:
        part = data[split]
        length = part["lengths"][index] if self.differ else None
        return Example(part["inputs"][index], part["targets"][index], length)

    def score(self, outputs: Float[Array, "B C"], batch: Batch) -> tuple[dict[str, Any], jax.Array]:
        true, guessed = self.decided(outputs, batch)
        loss = optax.softmax_cross_entropy_with_integer_labels(outputs, true)
        right = (guessed == true).astype(loss.dtype)
        share = 1 / batch.targets[:, 1].astype(loss.dtype)  # Of its class, so that all classes have the same weight.
        return {
            "loss": loss,
            "accuracy": right,
            "balanced_accuracy": Weighted(right * share, share),
        }, jnp.ones_like(loss)

    def decided(self, outputs: Float[Array, "B C"], batch: Batch) -> tuple[Int[Array, " B"], Int[Array, " B"]]:
        return batch.targets[:, 0], outputs.argmax(-1)


def check_classes(training: LabelledSeries, testing: LabelledSeries) -> tuple[str, ...]:
    """The classes that training has series of.

    Raises:
        ConfigError: a series of the test has another one, or there is one alone.
    """
    there = set(training.labels)
    classes = tuple(name for name in training.classes if name in there)
    for index, label in enumerate(testing.labels):
        if label not in there:
            names = ", ".join(classes[:10]) + (", …" if len(classes) > 10 else "")
            raise ConfigError(f"{testing.where(index)}: class {label!r} has no series in {training.path} ({names})")
    if len(classes) == 1:
        raise ConfigError(f"{training.path}: every series is of class {classes[0]!r}; at least two classes are needed")
    return classes


def check_complete(series: LabelledSeries) -> None:
    """Raises ConfigError for the first missing value, with its line."""
    for index, values in enumerate(series.values):
        if np.isnan(values).any():
            step, channel = np.argwhere(np.isnan(values))[0].tolist()
            raise ConfigError(
                f"{series.where(index, step)}: no value at step {step + 1} of channel {channel + 1}; "
                "task.missing=mean or last puts one there"
            )


def stratified(labels: Int[np.ndarray, " N"], share: float, seed: int) -> np.ndarray:
    """Which of N series are held out [N]: of each class about that share, one at least, never all."""
    draw = np.random.default_rng(seed)
    held_out = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = draw.permutation(np.flatnonzero(labels == label))
        held_out[members[: min(max(round(share * len(members)), 1), len(members) - 1)]] = True
    return held_out


def moments(series: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each channel [D] over all steps that have a value; 1 for the deviation of a constant."""
    steps = np.concatenate(series)
    count = np.maximum((~np.isnan(steps)).sum(0), 1)
    mean = np.nansum(steps, 0) / count
    deviation = np.sqrt(np.nansum((steps - mean) ** 2, 0) / count)
    return mean, np.where(deviation > 1e-12 * np.abs(mean), deviation, 1.0)


def filled(values: np.ndarray, mean: np.ndarray, missing: str) -> np.ndarray:
    """A series [T, D] with a number in place of each missing value."""
    if missing == "last":
        values = values.copy()
        for step in range(1, len(values)):
            values[step] = np.where(np.isnan(values[step]), values[step - 1], values[step])
    return np.where(np.isnan(values), mean, values)
