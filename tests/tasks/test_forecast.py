"""Forecasts of series: windows, splits and scores recomputed by loops over the series; mistakes in one line."""

import json
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab import cli, diagnose, evaluate
from rnnlab.config.errors import ConfigError
from rnnlab.config.schema import resolve
from rnnlab.datasets.systems import lorenz
from rnnlab.tasks import Batch, Forecast
from rnnlab.tasks.base import SPLITS
from rnnlab.training.loop import train_and_evaluate
from rnnlab.training.setup import make_run
from tests.helpers import without_figures


def walk(count: int = 60, columns: int = 2) -> np.ndarray:
    return 10 + np.random.default_rng(0).normal(size=(count, columns)).cumsum(0)


def write_csv(path: Path, values: np.ndarray, names: str = "a,b") -> Path:
    path.write_text(
        names + "\n" + "".join(",".join(map(repr, row)) + "\n" for row in values.tolist()), encoding="utf-8"
    )
    return path


def windows(task: Forecast, split: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    return [
        tuple(map(np.asarray, task.example(task.data, jax.random.key(0), split, jnp.int32(index))[:2]))
        for index in range(task.size(split))
    ]


@pytest.mark.parametrize(("horizon", "burn_in"), [(1, 0), (3, 0), (1, 2), (2, 4)])
def test_windows_of_every_split_are_those_of_a_loop_over_the_series(tmp_path: Path, horizon: int, burn_in: int) -> None:
    values, context = walk(), 5
    path = write_csv(tmp_path / "walk.csv", values)
    task = Forecast(series=str(path), context=context, horizon=horizon, burn_in=burn_in, validation=0.25, test=0.25)
    parts = {"train": values[:30], "validation": values[30:45], "test": values[45:]}
    mean, deviation = values[:30].mean(0), values[:30].std(0)
    for split in SPLITS:
        part, shown = (parts[split] - mean) / deviation, windows(task, split)
        starts = list(
            range(0, 15 + 15 * (split == "train") - context - horizon + 1, 1 if split == "train" else 5 - burn_in)
        )
        assert len(shown) == len(starts)
        for start, (inputs, targets) in zip(starts, shown, strict=True):
            np.testing.assert_allclose(inputs, part[start : start + context], rtol=1e-5, atol=1e-6)
            for step in range(context):
                np.testing.assert_allclose(targets[step], part[start + step + horizon], rtol=1e-5, atol=1e-6)
    assert (task.in_features, task.out_features, task.longest_dependency) == (2, 2, 4)


@pytest.mark.parametrize("predicts", ["value", "change"])
@pytest.mark.parametrize("burn_in", [0, 3])
def test_scores_are_those_of_a_loop_over_the_forecasts(tmp_path: Path, predicts: Any, burn_in: int) -> None:
    path = write_csv(tmp_path / "walk.csv", walk())
    task = Forecast(series=str(path), context=5, horizon=2, burn_in=burn_in, predicts=predicts)
    pairs = windows(task, "validation") + windows(task, "train")
    inputs, targets = (np.stack(arrays, 1) for arrays in zip(*pairs, strict=True))
    outputs = np.random.default_rng(1).normal(size=targets.shape).astype(np.float32)
    values, weights = task.score(jnp.asarray(outputs), Batch(jnp.asarray(inputs), jnp.asarray(targets), None))
    for row in range(len(pairs)):
        squared = absolute = naive_squared = naive_absolute = 0.0
        for step in range(burn_in, 5):
            answer = outputs[step, row] + (inputs[step, row] if predicts == "change" else 0)
            squared += ((answer - targets[step, row]) ** 2).sum() / 2
            absolute += np.abs(answer - targets[step, row]).sum() / 2
            naive_squared += ((inputs[step, row] - targets[step, row]) ** 2).sum() / 2
            naive_absolute += np.abs(inputs[step, row] - targets[step, row]).sum() / 2
        assert weights[row] == 5 - burn_in
        assert values["loss"][row] == pytest.approx(squared, rel=1e-5)
        assert values["absolute_error"][row] == pytest.approx(absolute, rel=1e-5)
        for name, pair in (
            ("over_naive", (squared, naive_squared)),
            ("absolute_over_naive", (absolute, naive_absolute)),
        ):
            assert (values[name].sums[row], values[name].weights[row]) == pytest.approx(pair, rel=1e-5)


@pytest.mark.parametrize("burn_in", [0, 3])
def test_the_baseline_is_the_loss_of_the_last_value(tmp_path: Path, burn_in: int) -> None:
    task = Forecast(series=str(write_csv(tmp_path / "walk.csv", walk(200))), context=5, horizon=3, burn_in=burn_in)
    for split in ("validation", "test"):
        inputs, targets = (jnp.stack(arrays, 1) for arrays in zip(*windows(task, split), strict=True))
        values, weights = task.score(inputs, Batch(inputs, targets, None))
        assert task.baselines[split] == pytest.approx(float(values["loss"].sum() / weights.sum()), rel=1e-5)
        assert float(values["over_naive"].sums.sum() / values["over_naive"].weights.sum()) == pytest.approx(1)


def test_a_series_that_stands_still_in_validation_has_no_naive_error_to_beat(tmp_path: Path) -> None:
    values = walk()
    values[40:] = values[40]
    task = Forecast(series=str(write_csv(tmp_path / "walk.csv", values)), context=2)
    assert task.baselines["validation"] == 0
    assert task.solved is None  # The run would watch a ratio that no batch has.


def test_a_system_is_the_series_of_the_task() -> None:
    task = Forecast(points=100, context=5, interval=0.01, data_seed=3)
    series = np.concatenate([task.data[split] for split in SPLITS]) * task.deviation + task.mean
    np.testing.assert_allclose(series, lorenz(100, 3, 0.01).values, rtol=1e-4, atol=1e-4)


def test_columns_and_kinds_of_a_file(tmp_path: Path) -> None:
    values = walk(60, 3)
    text = "date;a;b;c\r\n" + "".join(f"2020-01-01;{a};{b};{c}\r\n" for a, b, c in values.tolist())
    (tmp_path / "walk.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    np.savez(tmp_path / "walk.npz", values=values[:, [2, 0]])
    one, other = (
        Forecast(series=f"walk.{kind}", columns=columns, context=5, data_dir=str(tmp_path))
        for kind, columns in (("csv", ("c", "a")), ("npz", ()))
    )
    for split in SPLITS:
        np.testing.assert_array_equal(one.data[split], other.data[split])
    assert one.system.names == ("c", "a")


# Each: options, the text of the file, the place in it, the message.
MISTAKES: dict[str, tuple[dict[str, Any], str | None, str, str]] = {
    "shorter than context + horizon": (
        {"context": 40, "horizon": 2},
        None,
        "",
        "9 of its 60 values are for validation, and a window needs 42 (task.context=40 + task.horizon=2)",
    ),
    "text in a column of numbers": (
        {},
        "a,b\n1,2\n3,high\n",
        ":3",
        "'high' in column 'b' is not a number; task.",
    ),
    "no number at all": ({}, "a,b\nlow,high\n", ":2", "'low' in column 'a' is not a number"),
    "no row": ({}, "a,b\n", "", "has no row of values"),
    "empty": ({}, "", "", "is empty"),
    "an empty cell": ({}, "a,b\n1,2\n3,\n", ":3", "no value in column 'b'; each needs one"),
    "not finite": ({}, "a,b\n1,2\n3,inf\n", ":3", "the number in column 'b' is not finite"),
    "too large": ({}, "a,b\n1,2\n3,1e300\n", ":3", "the number in column 'b' is not finite in 32 bits"),
    "a row cut short": ({}, "a,b\n1,2\n3", ":3", "1 cells, where the first line has 2; the file may be cut short"),
    "a constant column": ({"context": 2}, "a,b\n" + "".join(f"{n},0.1\n" for n in range(40)), "", "column 'b' is 0.1"),
    "a column that is not there": ({"columns": ("z",)}, None, "", "unknown column 'z'"),
    "a column twice": ({"columns": ("a", "a")}, None, "", "task.columns names 'a' twice"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_a_file_is_one_line_with_file_and_line(tmp_path: Path, name: str) -> None:
    fields, text, line, message = MISTAKES[name]
    path = write_csv(tmp_path / "walk.csv", walk())
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"^{re.escape(str(path))}{line}:? ?{re.escape(message)}") as caught:
        Forecast(series=str(path), **fields)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"horizon": 0}, "task.horizon: 0 is out of range; it must be at least 1"),
        ({"context": 0}, "task.context: 0 is out of range; it must be at least 1"),
        ({"test": 1.0}, "task.test: 1.0 is out of range"),
    ],
)
def test_a_number_out_of_range_is_one_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        resolve(Forecast, fields, "task")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"context": 5, "burn_in": 5}, "task.burn_in: 5 of 5 forecasts leaves none"),
        ({"validation": 0.5, "test": 0.6}, "task.validation and task.test: 1.1 of the series leaves nothing"),
        ({"series": "lorentz"}, "'lorentz' is neither a system (lorenz, mackey_glass, dysts:NAME) nor a file"),
        ({"series": "nowhere.csv"}, "task.series 'nowhere.csv' not found; looked for"),
        ({"columns": ("x",)}, "task.columns: for a file; task.series=lorenz has columns of its own"),
        ({"points": 50}, "task.series=lorenz: 35 of its 50 values are for train, and a window needs 101 (task.context"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        Forecast(**{"points": 200} | fields)


@pytest.mark.slow
def test_a_network_beats_the_last_value_and_runs_on_alone_as_the_system_does(tmp_path: Path) -> None:
    config = {
        "steps": 2000,
        "batch_size": 16,
        "log_every": 100,
        "eval_every": 1000,
        "eval_batch_size": 20,
        "devices": 1,
        "task": {"name": "forecast", "points": 10_000, "context": 50, "predicts": "change"},
        "model": {"cell": {"name": "gru", "features": 32}},
        "optimizer": {"name": "adam", "learning_rate": 0.01, "schedule": {"name": "cosine"}},
    }
    workdir = tmp_path / "run"
    with without_figures():
        train_and_evaluate(config, workdir)
    assert evaluate.main([f"--workdir={workdir}"]) == cli.FINISHED
    result = json.loads((workdir / "evaluation.json").read_text())
    assert result["over_naive"] < 0.01
    assert result["loss"] == pytest.approx(result["over_naive"] * make_run(config).task.baselines["test"], rel=1e-4)
    with np.load(workdir / "forecast.npz") as arrays:
        errors = ((arrays["forecast"] - arrays["truth"]) / arrays["truth"].std(0)).std()
        assert errors < 0.05
        np.testing.assert_allclose(arrays["free"][:20], arrays["free_truth"][:20], atol=2)
    assert (workdir / "plots" / "forecast.png").exists()
    assert diagnose.main([f"--workdir={workdir}", "--measure=closed_loop", "--rows=4"]) == cli.FINISHED
    loop = json.loads((workdir / "diagnosis.json").read_text())["closed_loop"]
    assert loop["mean"][0] == pytest.approx(0.906, abs=0.1)
    assert loop["deviation"] == pytest.approx([1, 1, 1], abs=0.1)
