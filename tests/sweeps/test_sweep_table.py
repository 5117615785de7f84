"""runs.csv and runs.parquet: what a row says, what a crash leaves, several writers at once."""

import csv
import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from rnnlab.config.errors import ConfigError
from rnnlab.records.workdir import is_done, read_summary
from rnnlab.sweeps.report.table import make_rows, write_table

SUMMARY: dict[str, Any] = {
    "status": "finished",
    "steps": 60,
    "final": {"train": {"loss": 0.5}, "validation": {"loss": 0.25}},
    "best": {"step": 40, "validation": {"loss": 0.125}, "test": {"loss": "inf"}},
    "stability": {"finite": True, "clipped": None, "spikes": 3},
    "convergence": {"metric": "loss", "threshold": 0.01, "steps": None, "seconds": None},
    "seconds": 1.5,
    "steps_per_second": 40.0,
    "seed": 1,
    "versions": {"jax": "1"},
}
AXES = {"0000": {"cell": "lstm", "rate": 0.1, "seed": 0}, "0001": {"cell": "gru", "rate": 1e-9, "seed": 1}}


def sweep_of(axes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    runs = [{"name": n, "in_sweep": n != "0009", "axes": a, "command": f"train {n}"} for n, a in axes.items()]
    return {"runs": runs}


def write_summary(workdir: Path, name: str, **changes: Any) -> None:
    folder = workdir / "runs" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(SUMMARY | changes, indent=2))


def read_csv(workdir: Path) -> list[dict[str, str]]:
    with (workdir / "runs.csv").open() as file:
        return list(csv.DictReader(file))


def read_parquet(workdir: Path) -> pyarrow.Table:
    return pyarrow.parquet.read_table(workdir / "runs.parquet")


def test_a_row_has_axes_numbers_of_the_summary_and_the_command(tmp_path):
    write_summary(tmp_path, "0000")
    row = make_rows(tmp_path, sweep_of(AXES))[0]
    assert row == {
        "name": "0000",
        "in_sweep": True,
        "status": "finished",
        "cell": "lstm",
        "rate": 0.1,
        "seed": 0,
        "steps": 60,
        "seconds": 1.5,
        "steps_per_second": 40.0,
        "final.train.loss": 0.5,
        "final.validation.loss": 0.25,
        "best.step": 40,
        "best.validation.loss": 0.125,
        "best.test.loss": "inf",
        "stability.finite": True,
        "stability.clipped": None,
        "stability.spikes": 3,
        "convergence.metric": "loss",
        "convergence.threshold": 0.01,
        "convergence.steps": None,
        "convergence.seconds": None,
        "command": "train 0000",
    }
    assert list(row)[-1] == "command"


def test_an_axis_called_like_what_was_measured_has_a_column_of_its_own(tmp_path):
    write_summary(tmp_path, "0000", steps=30)
    row = make_rows(tmp_path, sweep_of({"0000": {"steps": 60, "seed": 0}}))[0]
    assert (row["config.steps"], row["steps"]) == (60, 30)


def test_both_files_say_the_same(tmp_path):
    write_summary(tmp_path, "0000")
    write_summary(tmp_path, "0001", best={"step": 20, "validation": {"loss": 1e-17}, "test": {"loss": "nan"}})
    write_table(tmp_path, sweep_of(AXES))
    table, lines = read_parquet(tmp_path), read_csv(tmp_path)
    assert table.column_names == list(lines[0])
    assert table["best.validation.loss"].to_pylist() == [0.125, 1e-17]
    assert [float(line["best.validation.loss"]) for line in lines] == [0.125, 1e-17]
    assert [line["rate"] for line in lines] == ["0.1", "1e-09"]
    inf, nan = table["best.test.loss"].to_pylist()
    assert inf == math.inf
    assert math.isnan(nan)
    assert table.schema.field("seed").type == pyarrow.int64()
    assert table.schema.field("in_sweep").type == pyarrow.bool_()


def test_runs_without_a_summary_have_rows(tmp_path):
    (tmp_path / "runs" / "0001").mkdir(parents=True)
    write_table(tmp_path, sweep_of(AXES))
    assert [line["status"] for line in read_csv(tmp_path)] == ["waiting", "started"]


@pytest.mark.parametrize("text", ["", '{"status": "finished", "st', "[1]", "{}", '{"status": 3}', "\x00\x00", "\xff"])
def test_half_a_summary_is_none(tmp_path, text):
    write_summary(tmp_path, "0000")
    (tmp_path / "runs" / "0000" / "summary.json").write_bytes(text.encode("latin-1"))
    assert read_summary(tmp_path / "runs" / "0000") is None
    assert not is_done(tmp_path / "runs" / "0000")
    assert [row["status"] for row in write_table(tmp_path, sweep_of(AXES))] == ["started", "waiting"]


@pytest.mark.parametrize(
    ("status", "done"), [("finished", True), ("stopped_early", True), ("diverged", True), ("interrupted", False)]
)
def test_what_is_over(tmp_path, status, done):
    write_summary(tmp_path, "0000", status=status)
    assert is_done(tmp_path / "runs" / "0000") == done


def test_axes_that_only_some_runs_have_are_columns_of_all(tmp_path):
    axes = {"0000": {"rate": 0.1, "seed": 0}, "0009": {"clip": 2, "seed": 0}}
    write_table(tmp_path, sweep_of(axes))
    table = read_parquet(tmp_path)
    assert table["rate"].to_pylist() == [0.1, None]
    assert table["clip"].to_pylist() == [None, 2]
    assert table["in_sweep"].to_pylist() == [True, False]


def test_an_axis_of_numbers_and_names_is_text(tmp_path):
    axes = {"0000": {"x": 1, "y": 1, "seed": 0}, "0001": {"x": "one", "y": 0.5, "seed": 0}}
    write_table(tmp_path, sweep_of(axes))
    assert read_parquet(tmp_path)["x"].to_pylist() == ["1", "one"]
    assert read_parquet(tmp_path)["y"].to_pylist() == [1.0, 0.5]


def test_text_with_commas_quotes_and_lines_survives(tmp_path):
    write_table(tmp_path, sweep_of({"0000": {"x": 'a,"b"\n', "seed": 0}}))
    assert read_csv(tmp_path)[0]["x"] == 'a,"b"\n'
    assert read_parquet(tmp_path)["x"].to_pylist() == ['a,"b"\n']


def test_only_infinities_are_numbers_still(tmp_path):
    write_summary(tmp_path, "0000")
    write_table(tmp_path, sweep_of(AXES))
    assert read_parquet(tmp_path)["best.test.loss"].to_pylist() == [math.inf, None]


def test_a_table_of_no_runs_can_be_written(tmp_path):
    write_table(tmp_path, {"runs": []})
    assert read_csv(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot write .*file"):
        write_table(tmp_path / "file", sweep_of(AXES))


def test_several_writers_leave_whole_files(tmp_path):
    axes = {f"{n:04}": {"rate": n / 7, "seed": n} for n in range(40)}
    with ThreadPoolExecutor(3) as pool:  # A lock is the open file's, so threads exclude each other like processes.
        writers = [pool.submit(write_table, tmp_path, sweep_of(axes)) for _ in range(9)]
        writers[0].result()
        while not all(writer.done() for writer in writers):
            assert len(read_csv(tmp_path)) == 40
            assert read_parquet(tmp_path).num_rows == 40
    for writer in writers:
        assert len(writer.result()) == 40
    assert not list(tmp_path.glob("*.partial"))
