"""Classification of series from files: splits, normalisation, scores, recomputed row by row; mistakes in one line."""

import json
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab import cli, evaluate
from rnnlab.config.errors import ConfigError
from rnnlab.tasks import Batch, TimeSeries
from rnnlab.tasks.base import SPLITS
from rnnlab.tasks.time_series import filled, moments, stratified
from rnnlab.training.loop import train_and_evaluate
from rnnlab.training.metric_sums import over_rows
from tests.generated_series import CLASSES, ramps, write_set, write_ts


def make_task(folder: Path, **fields: Any) -> TimeSeries:
    return TimeSeries(path="Ramps", data_dir=str(folder), **fields)


def examples(task: TimeSeries, split: Any) -> list[tuple[np.ndarray, int]]:
    """The valid steps and the class of every example of a split."""
    rows = []
    for index in range(task.size(split) or 0):
        inputs, targets, length, _ = task.example(task.data, jax.random.key(0), split, index)
        rows.append((np.asarray(inputs[: len(inputs) if length is None else int(length)]), int(targets[0])))
    return rows


def test_examples_are_the_series_of_the_files_normalised_by_the_training_part_alone(tmp_path: Path) -> None:
    training, testing = ramps(20, (5, 8), 2, 0), [(100 * values, label) for values, label in ramps(9, (6, 6), 2, 1)]
    write_ts(tmp_path / "Ramps" / "Ramps_TRAIN.ts", training)
    write_ts(tmp_path / "Ramps" / "Ramps_TEST.ts", testing)
    task, raw = make_task(tmp_path), make_task(tmp_path, normalize=False)
    shown = {split: examples(raw, split) for split in SPLITS}
    # The two parts of the training file are all of it, each series once, with its class.
    key = lambda row: (row[0].tolist(), row[1])  # noqa: E731
    both = sorted(map(key, shown["train"] + shown["validation"]))
    written = sorted((np.float32(np.round(v, 6)).tolist(), CLASSES.index(label)) for v, label in training)
    assert [label for _, label in both] == [label for _, label in written]
    np.testing.assert_array_equal(np.concatenate([v for v, _ in both]), np.concatenate([v for v, _ in written]))
    assert [label for _, label in shown["test"]] == [CLASSES.index(label) for _, label in testing]
    steps = np.concatenate([values for values, _ in shown["train"]]).astype(np.float64)
    for split in SPLITS:
        for (values, _), (scaled, _) in zip(shown[split], examples(task, split), strict=True):
            np.testing.assert_allclose(scaled, (values - steps.mean(0)) / steps.std(0), rtol=1e-4, atol=1e-5)
    assert np.abs(np.concatenate([v for v, _ in examples(task, "test")])).max() > 20
    assert task.longest_dependency == max(len(values) for values, _ in training) - 1
    assert task.example(task.data, jax.random.key(0), "train", 0).length is not None
    write_set(tmp_path, steps=(4, 4))
    task = make_task(tmp_path)
    assert task.example(task.data, jax.random.key(0), "train", 0).length is None


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.99])
def test_a_share_of_each_class_is_held_out_by_seed(share: float) -> None:
    labels = np.repeat([0, 1, 2, 3], [1, 2, 10, 100])
    held_out = stratified(labels, share, 0)
    counts = [int(held_out[labels == label].sum()) for label in range(4)]
    assert counts == [0, 1, min(max(round(10 * share), 1), 9), min(round(100 * share), 99)]
    np.testing.assert_array_equal(held_out, stratified(labels, share, 0))
    assert not np.array_equal(held_out, stratified(labels, share, 1))


def test_missing_values_become_the_mean_or_the_value_before() -> None:
    values, mean = np.array([[np.nan, 1], [2, np.nan], [np.nan, np.nan]]), np.array([7.0, 8])
    np.testing.assert_array_equal(filled(values, mean, "mean"), [[7, 1], [2, 8], [7, 8]])
    np.testing.assert_array_equal(filled(values, mean, "last"), [[7, 1], [2, 1], [2, 1]])


def test_moments_are_of_the_values_that_are_there() -> None:
    mean, deviation = moments([np.array([[1, 0.1, np.nan]]), np.array([[3, 0.1, np.nan], [np.nan, 0.1, np.nan]])])
    np.testing.assert_allclose(mean, [2, 0.1, 0])
    np.testing.assert_array_equal(deviation, [1, 1, 1])  # A constant is divided by 1.


def test_accuracy_and_balanced_accuracy_of_a_split_in_batches_are_those_of_all_its_rows(tmp_path: Path) -> None:
    series = ramps(30, (4, 4), 1, 0)
    uneven = series[:12] + [each for each in series if each[1] == "flat"]  # 4, 4 and 14 of the three.
    for split in ("TRAIN", "TEST"):
        write_ts(tmp_path / "Ramps" / f"Ramps_{split}.ts", uneven)
    task = make_task(tmp_path)
    outputs = np.random.default_rng(0).normal(size=(22, 3)).astype(np.float32)
    targets = task.data["test"]["targets"]
    sums: dict[str, float] = {}
    for rows in (slice(0, 10), slice(10, 20), slice(20, 22)):
        values, _ = task.score(jnp.asarray(outputs[rows]), Batch(jnp.zeros(0), jnp.asarray(targets[rows]), None))
        for name, value in over_rows(values).items():
            sums[name] = sums.get(name, 0.0) + float(value)
    guessed, true = outputs.argmax(1), targets[:, 0]
    recalls = [np.mean(guessed[true == label] == label) for label in range(3)]
    assert sums["accuracy"] / 22 == pytest.approx(np.mean(guessed == true), rel=1e-6)
    balanced = sums["balanced_accuracy"] / sums["weight/balanced_accuracy"]
    assert balanced == pytest.approx(np.mean(recalls), rel=1e-6)
    assert abs(balanced - np.mean(guessed == true)) > 0.01


def test_the_baseline_is_the_loss_of_the_shares_of_training(tmp_path: Path) -> None:
    write_set(tmp_path, count=31)
    task = make_task(tmp_path)
    shares = np.bincount(task.data["train"]["targets"][:, 0]) / task.size("train")
    for split in ("validation", "test"):
        loss = -np.log(shares[task.data[split]["targets"][:, 0]]).mean()
        assert task.baselines[split] == pytest.approx(loss, rel=1e-6)


MISTAKES = {
    "a class of the test alone": (
        "1,2:up",
        "1,2:left",
        ":5: class 'left' has no series in .*_TRAIN.ts",
    ),
    "other channels": ("1,2:up\n3,4", "1,2:1,2:up\n3,4:3,4", ":5: 2 channels, where .*_TRAIN.ts has 1$"),
    "a missing value": ("1,2:up", "1,?:up", ":5: no value at step 2 of channel 1; task.missing=mean or last"),
    "not a number": ("1,2:up", "1,nan:up", ":5: no value at step 2 of channel 1"),
    "an empty test": ("1,2:up\n3,4:down\n", "", " has no series"),
}
SMALL = "@classLabel true up down left\n@equalLength false\n#\n@data\n1,2:up\n3,4:down\n"


@pytest.mark.parametrize("name", MISTAKES)
def test_files_that_do_not_go_together_are_one_line_with_file_and_line(tmp_path: Path, name: str) -> None:
    before, after, message = MISTAKES[name]
    for split in ("TRAIN", "TEST"):
        text = SMALL.replace("1,2:up\n", "1,2:up\n1,2:up\n") if split == "TRAIN" else SMALL.replace(before, after, 1)
        if name == "a class of the test alone" and split == "TEST":
            text = SMALL.replace("1,2:up", "1,2:left")
        (tmp_path / f"Ramps_{split}.ts").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"^{re.escape(str(tmp_path / 'Ramps_TEST.ts'))}{message}"):
        make_task(tmp_path)
    if "value" in name or "number" in name:
        assert make_task(tmp_path, missing="last").data["test"]["inputs"].shape == (2, 2, 1)


def test_a_training_file_of_one_class_is_refused(tmp_path: Path) -> None:
    for split in ("TRAIN", "TEST"):
        (tmp_path / f"Ramps_{split}.ts").write_text(SMALL.replace(":down", ":up"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"Ramps_TRAIN.ts: every series is of class 'up'; at least two"):
        make_task(tmp_path)


def test_a_training_file_of_single_series_leaves_none_for_validation(tmp_path: Path) -> None:
    for split in ("TRAIN", "TEST"):
        (tmp_path / f"Ramps_{split}.ts").write_text(SMALL, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"Ramps_TRAIN.ts: every class has one series alone"):
        make_task(tmp_path)


@pytest.mark.slow
def test_a_network_learns_series_of_a_file_and_evaluate_shows_what_it_confuses(tmp_path: Path) -> None:
    write_set(tmp_path, count=60)
    config = {
        "steps": 150,
        "batch_size": 16,
        "log_every": 50,
        "eval_every": 50,
        "devices": 1,
        "task": {"name": "time_series", "path": "Ramps"},
        "model": {"cell": {"name": "gru", "features": 16}},
        "optimizer": {"name": "adam", "learning_rate": 0.01},
    }
    workdir = tmp_path / "run"
    train_and_evaluate(config, workdir, str(tmp_path))
    assert evaluate.main([f"--workdir={workdir}", f"--data_dir={tmp_path}", "--split=all"]) == cli.FINISHED
    results = json.loads((workdir / "evaluation.json").read_text())
    assert results["test"]["accuracy"] > 0.9
    assert results["test"]["loss"] < 0.5 * make_task(tmp_path).baselines["test"]
    confusion = json.loads((workdir / "confusion.json").read_text())
    for split, size in (("validation", 12), ("test", 60)):
        counts = np.array(confusion[split]["counts"])
        assert counts.sum() == size
        assert np.trace(counts) / size == pytest.approx(results[split]["accuracy"])
        assert np.mean(np.diag(counts) / counts.sum(1)) == pytest.approx(results[split]["balanced_accuracy"])
    assert confusion["test"]["classes"] == list(CLASSES)
    assert (workdir / "plots" / "confusion.png").exists()
