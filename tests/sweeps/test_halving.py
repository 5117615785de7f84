"""Successive halving: who goes on at a rung, by whom and when it is decided, and that a survivor is the run alone.

Most of it with a stand-in for training; the slow tests train for real.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from rich.progress import TimeRemainingColumn

from rnnlab import report
from rnnlab.config.errors import ConfigError
from rnnlab.files.locks import claimed
from rnnlab.records.metrics import read_metrics
from rnnlab.records.workdir import open_workdir, read_config
from rnnlab.sweeps import worker
from rnnlab.sweeps.progress import SweepProgress
from rnnlab.sweeps.replicas import group_run
from rnnlab.sweeps.replicas.replicas import ReplicaPrograms
from rnnlab.sweeps.spec.manifest import read_sweep
from rnnlab.training.chosen import restore_chosen
from rnnlab.training.setup import make_run
from tests.helpers import SMALL_RUN
from tests.sweeps.sweeping import CELL, RATE, GroupTrainer, put_in_place, rows, run_file

BASE = SMALL_RUN | {"steps": 90, "eval_every": 10}
HALVING = dict(first=10, eta=3)
RATES = [0.5, 0.2, 0.1, 0.7, 0.9, 0.3, 0.4, 0.6, 0.8]
"""The lower the better, in what stands in for training."""


class Trainer(GroupTrainer):
    """Stands in for training: the validation loss at a step is rate + seed / 100 + 1 / step; a rate above 1 diverges at
    step 5."""

    def __init__(self) -> None:
        self.trained: list[tuple[str, int, int]] = []
        """(run, from step, to step)."""
        self.stops_at: tuple[str, int | None] | None = None
        """The run and the `stop_at` that a signal comes in."""
        self.fails_at: set[str] = set()

    def __call__(
        self,
        config: Mapping[str, Any],
        workdir: Path,
        data_dir: str | None = None,
        *,
        stop_at: int | None = None,
        prune: bool = False,
        **_: Any,
    ) -> dict[str, Any]:
        open_workdir(workdir, config)
        lines = read_metrics(workdir)
        first = lines[-1]["step"] if lines else 0
        if workdir.name in self.fails_at:
            raise ConfigError("the data are not there")
        if self.stops_at == (workdir.name, stop_at):
            return {"status": "interrupted"}
        last = min(stop_at or config["steps"], config["steps"])
        self.trained.append((workdir.name, first, last))
        rate = config["optimizer"]["learning_rate"]
        status = "finished" if last == config["steps"] else "pruned" if prune else "paused"
        if rate > 1:
            status, last = "diverged", 5
        with (workdir / "metrics.jsonl").open("a") as file:
            for step in range(first + 10, last + 1, 10):
                loss = rate + config["seed"] / 100 + 1 / step
                line = {"step": step, "split": "validation", "loss": loss, "accuracy": loss}
                file.write(json.dumps(line) + "\n")
        losses = [line["loss"] for line in read_metrics(workdir)]
        best = {"validation": {"loss": min(losses)}} if losses else {}
        summary = {"status": status, "steps": last, "seed": config["seed"], "best": best}
        if status != "paused":
            (workdir / "summary.json").write_text(json.dumps(summary))
        return summary


@pytest.fixture
def trainer(monkeypatch) -> Trainer:
    return put_in_place(Trainer(), monkeypatch)


@pytest.fixture
def run(tmp_path) -> Callable[..., int]:
    """Runs a sweep of these fields in tmp_path / "w"; words are further flags."""

    def call(words: Sequence[str] = (), /, **fields: Any) -> int:
        return run_file(tmp_path, {"base": BASE, "halving": HALVING} | fields, words)

    return call


def ended(tmp_path: Path) -> dict[tuple[Any, int], tuple[str, int]]:
    """(rate, seed) -> (status, steps)."""
    return {(row[RATE], row["seed"]): (row["status"], row["steps"]) for row in rows(tmp_path / "w")}


def rung(tmp_path: Path, index: int) -> dict[str, Any]:
    return json.loads((tmp_path / "w" / "rungs" / f"{index}.json").read_text())


def going_on(tmp_path: Path, index: int) -> list[list[str]]:
    return [setting["runs"] for setting in rung(tmp_path, index)["settings"] if setting["goes_on"]]


# --- who goes on -----------------------------------------------------------------------------------------------------


def test_the_best_third_goes_on_from_each_rung(tmp_path, run, trainer):
    assert run(product={RATE: RATES}) == 0
    result = {rate: end for (rate, _), end in ended(tmp_path).items()}
    assert result[0.1] == ("finished", 90)
    assert result[0.2] == result[0.3] == ("pruned", 30)
    assert {result[rate] for rate in RATES if rate > 0.3} == {("pruned", 10)}
    assert [going_on(tmp_path, n) for n in (0, 1)] == [[["0002"], ["0001"], ["0005"]], [["0002"]]]
    assert not (tmp_path / "w" / "rungs" / "2.json").exists()


def test_no_step_is_trained_twice(tmp_path, run, trainer):
    run(product={RATE: RATES})
    steps = {name: [pair for n, *pair in trainer.trained if n == name] for name in ("0000", "0001", "0002")}
    assert steps == {
        "0000": [[0, 10], [10, 10]],
        "0001": [[0, 10], [10, 30], [30, 30]],
        "0002": [[0, 10], [10, 30], [30, 90]],
    }


def test_a_setting_is_the_mean_of_its_seeds_which_go_on_together(tmp_path, run, trainer):
    # 0.1 with seeds 0 and 60: 0.1 and 0.7; 0.3 with seeds 0 and 10: 0.3 and 0.4, on the mean better.
    runs = [{RATE: 0.1, "seed": 0}, {RATE: 0.1, "seed": 60}, {RATE: 0.3, "seed": 0}, {RATE: 0.3, "seed": 10}]
    assert run(runs=runs, halving=dict(first=10, eta=2)) == 0
    assert going_on(tmp_path, 0) == [["0002", "0003"]]
    assert [s["score"] for s in rung(tmp_path, 0)["settings"]] == pytest.approx([0.45, 0.5])


def test_a_diverged_run_counts_as_the_worst_of_all(tmp_path, run, trainer):
    # 2.0 diverges with both seeds, so it counts 0.9 twice, as does the worst run there is.
    assert run(product={RATE: [2.0, 0.8, 0.1]}, seeds=2) == 0
    settings = rung(tmp_path, 0)["settings"]
    assert [(s["runs"], s["diverged"]) for s in settings] == [
        (["0004", "0005"], 0),
        (["0002", "0003"], 0),
        (["0000", "0001"], 2),
    ]
    assert settings[-1]["score"] == pytest.approx(0.8 + 0.01 + 0.1)
    assert ended(tmp_path)[2.0, 0] == ("diverged", 5)


def test_where_all_diverge_the_sweep_ends(tmp_path, run, trainer):
    assert run(product={RATE: [2.0, 3.0, 4.0]}) == 0
    assert {status for status, _ in ended(tmp_path).values()} == {"diverged"}
    assert rung(tmp_path, 0)["settings"][0]["score"] is None


def test_the_direction_of_a_metric_is_its_own(tmp_path, run, trainer):
    assert run(product={RATE: [0.1, 0.2, 0.3]}, halving=HALVING | dict(metric="accuracy")) == 0
    assert going_on(tmp_path, 0) == [["0002"]]


def test_the_best_value_until_the_rung_counts_not_the_last(tmp_path, run, trainer, monkeypatch):
    def rising(*args: Any, **words: Any) -> bool:
        over = Trainer.group(trainer, *args, **words)
        lines = [{"step": s, "split": "validation", "loss": v} for s, v in ((1, 0.01), (10, 9.0), (20, 0.0))]
        if words["stop_at"] == 10:
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (tmp_path / "w" / "runs" / "0001" / "metrics.jsonl").write_text(text)
        return over

    monkeypatch.setattr(group_run, "run_group", rising)
    assert run(product={RATE: [0.1, 0.2, 0.3]}) == 0
    assert going_on(tmp_path, 0) == [["0001"]]
    assert rung(tmp_path, 0)["settings"][0]["score"] == 0.01


def test_groups_and_runs_alone_are_compared_with_each_other(tmp_path, run, trainer):
    runs = [{CELL: "gru", RATE: 0.1}, {CELL: "gru", RATE: 0.5}, {CELL: "lstm", RATE: 0.2}, {RATE: 0.3}]
    assert run(runs=runs, halving=dict(first=10, eta=2)) == 0
    groups = read_sweep(tmp_path / "w")["groups"].values()
    assert [(group["runs"], group["alone"] is None) for group in groups] == [
        (["0000", "0001"], True),
        (["0002"], False),
        (["0003"], False),
    ]
    assert going_on(tmp_path, 0) == [["0000"], ["0002"]]
    assert [row["status"] for row in rows(tmp_path / "w")] == ["finished", "pruned", "pruned", "pruned"]
    assert [row["steps"] for row in rows(tmp_path / "w")] == [90, 10, 20, 10]


# --- when it is decided, and by whom ---------------------------------------------------------------------------------


def test_an_interrupted_rung_is_decided_when_all_runs_have_come_to_it(tmp_path, run, trainer):
    fields = dict(product={CELL: ["irnn", "gru"], RATE: RATES[:3]})
    trainer.stops_at = ("0004", 10)
    assert run(**fields) == 130
    assert not (tmp_path / "w" / "rungs").exists()
    trainer.stops_at, before = None, len(trainer.trained)
    assert run(**fields) == 0
    assert [name for name, first, _ in trainer.trained[before:] if first == 0] == ["0004", "0005"]
    assert going_on(tmp_path, 0) == [["0002"], ["0005"]]


def test_a_decision_stands(tmp_path, run, trainer):
    trainer.stops_at = ("0002", None)
    fields = dict(product={RATE: RATES})
    assert run(**fields) == 130
    before = {path.name: path.read_bytes() for path in (tmp_path / "w" / "rungs").iterdir()}
    assert set(before) == {"0.json", "1.json"}
    (tmp_path / "w" / "runs" / "0000" / "metrics.jsonl").write_text("")  # Nobody asks for it again.
    trainer.stops_at = None
    assert run(**fields) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "w" / "rungs").iterdir()} == before
    trainer.trained.clear()
    assert run(**fields) == 0
    assert trainer.trained == []


def test_a_process_waits_at_a_rung_for_groups_that_another_holds(tmp_path, run, trainer, monkeypatch):
    """And takes them where the other dies."""
    waits = []
    held = claimed(tmp_path / "w" / "groups" / "001" / "group.lock")

    def sleep(seconds: float) -> None:
        waits.append(list(trainer.trained))
        if len(waits) == 2:
            held.__exit__(None, None, None)

    monkeypatch.setattr(worker.time, "sleep", sleep)
    assert held.__enter__()
    assert run(product={CELL: ["irnn", "gru"], RATE: [0.3, 0.2]}, halving=dict(first=10, eta=4)) == 0
    assert waits == [[("0000", 0, 10), ("0001", 0, 10)]] * 2
    assert [row["status"] for row in rows(tmp_path / "w")] == ["pruned", "finished", "pruned", "pruned"]


def test_a_shard_ends_at_a_rung_that_the_others_have_not_come_to(tmp_path, run, trainer, capsys):
    fields = dict(product={CELL: ["irnn", "gru"], RATE: RATES[:3]})
    assert run(["--shard=0/2"], **fields) == 0
    assert "not all runs have come to step 10" in capsys.readouterr().out
    assert not (tmp_path / "w" / "rungs").exists()
    assert run(["--shard=1/2"], **fields) == 0
    assert len(going_on(tmp_path, 0)) == 2
    run(["--shard=0/2"], **fields)
    run(["--shard=1/2"], **fields)
    run(["--shard=0/2"], **fields)
    assert {row["status"] for row in rows(tmp_path / "w")} == {"finished", "pruned"}


def test_a_group_that_fails_is_named_and_the_rung_waits_for_it(tmp_path, run, trainer):
    trainer.fails_at = {"0003"}
    fields = dict(product={CELL: ["irnn", "gru"], RATE: RATES[:3]})
    with pytest.raises(ConfigError, match=r"group 001 \(.*\): the data are not there; all others are kept"):
        run(**fields)
    assert not (tmp_path / "w" / "rungs").exists()
    trainer.fails_at = set()
    assert run(**fields) == 0
    assert {row["status"] for row in rows(tmp_path / "w")} == {"finished", "pruned"}


# --- what is said ----------------------------------------------------------------------------------------------------


def test_the_rungs_are_said_before_and_as_they_are_decided(run, trainer, capsys):
    assert run(["--dry_run"], product={RATE: RATES}) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "halving at steps 10, 30: 9, then 3, then 1 settings"
    run(product={RATE: RATES})
    output = capsys.readouterr().out
    assert "step 10: 3 of 9 settings go on, loss 0.2 to 0.4" in output
    assert "step 30: 1 of 3 settings go on, loss 0.1333 to 0.1333" in output
    assert "8 pruned, 1 finished" in output
    assert " left" not in output


def test_the_report_tells_pruned_runs_from_others(tmp_path, run, trainer):
    run(product={RATE: RATES[:6]}, seeds=2, halving=dict(first=30))
    assert report.main([f"--workdir={tmp_path / 'w'}"]) == 0
    text = (tmp_path / "w" / "report.md").read_text()
    assert "4 finished, 8 pruned" in text or "8 pruned, 4 finished" in text
    assert "Halving ended 8 of 12 runs (67 %) at step 30" in text
    table = text[text.index("## All settings") :]
    (head,) = (line for line in table.splitlines() if line.startswith("|") and "pruned at" in line)
    column = head.split("|").index(" pruned at ")
    lines = [line.split("|") for line in table.splitlines() if line.startswith("| 0.")]
    assert {cells[1].strip(): cells[column].strip() for cells in lines} == {
        **{str(rate): "step 30" for rate in RATES[:6]},
        "0.1": "–",
        "0.2": "–",
    }


# --- mistakes --------------------------------------------------------------------------------------------------------

CURRICULUM = dict(field="length", values=[4], metric="loss", threshold=0.1)


@pytest.mark.parametrize(
    ("halving", "fields", "message"),
    [
        (dict(first=90), {}, r"halving\.first: 90 is not below steps=90 of run 0000"),
        (dict(first=30), {"zip": [{"steps": [60, 30]}]}, r"halving\.first: 30 is not below steps=30 of run 0001"),
        (dict(first=9), {}, r"halving\.first: at step 9 run 0000 has not been evaluated: eval_every=10"),
        (dict(first=0), {}, r"halving\.first: .*at least 1"),
        (dict(first=10, eta=1), {}, r"halving\.eta: .*at least 2"),
        (dict(first=10, eta=2.5), {}, r"halving\.eta: .*2\.5"),
        (dict(eta=3), {}, r"halving\.first: missing"),
        (dict(first=10, keep=3), {}, r"unknown field 'halving\.keep'"),
        (dict(first=10, metric="los"), {}, r"halving\.metric: unknown metric 'los'; did you mean loss\?"),
        (dict(first=10), {"overrides": {"curriculum": CURRICULUM}}, r"halving: run 0000 has a curriculum of its own"),
    ],
)
def test_mistakes_are_one_line(run, trainer, halving, fields, message):
    fields = {"product": {RATE: [0.1, 0.2]}} | fields
    with pytest.raises(ConfigError, match=message) as caught:
        run(halving=halving, **fields)
    assert "\n" not in str(caught.value)


def test_a_file_that_changes_after_a_decision_is_refused_and_nothing_is_lost(tmp_path, run, trainer):
    run(product={RATE: RATES[:6]})
    before = {row["name"]: row["status"] for row in rows(tmp_path / "w")}
    with pytest.raises(ConfigError, match=r"rungs/0\.json says who goes on, and the runs of the sweep changed since"):
        run(product={RATE: RATES})
    with pytest.raises(ConfigError, match=r"rungs/0\.json says who goes on, and halving of the sweep changed since"):
        run(product={RATE: RATES[:6]}, halving=dict(first=20))
    assert {row["name"]: row["status"] for row in rows(tmp_path / "w")} == before


def test_a_damaged_decision_is_named(tmp_path, run, trainer):
    run(product={RATE: RATES[:6]})
    (tmp_path / "w" / "rungs" / "0.json").write_text("{")
    with pytest.raises(ConfigError, match=r"rungs/0\.json is cut short; remove it"):
        run(product={RATE: RATES[:6]})


# --- for real --------------------------------------------------------------------------------------------------------

REAL = dict(product={RATE: [1e-30, 1e-2, 1e-3]}, seeds=2)
ALONE = dict(overrides={"diagnostics": ["norms"], "diagnostics_every": 10}, product={RATE: [1e-30, 1e-2]})


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields", [pytest.param(REAL, id="replicas"), pytest.param(ALONE, id="alone", marks=pytest.mark.exhaustive)]
)
def test_a_survivor_is_exactly_the_run_without_halving(tmp_path, run, fields):
    """Rungs at 15 and 45: between evaluations, logs and checkpoints."""
    assert run(**fields, halving=dict(first=15, eta=2 if fields is ALONE else 3)) == 0
    (tmp_path / "w").rename(tmp_path / "halved")
    assert run(**fields, halving=None) == 0
    halved, whole = tmp_path / "halved", tmp_path / "w"
    table_rows = {row["name"]: row for row in rows(halved)}
    survivors = [name for name, row in table_rows.items() if row["status"] == "finished"]
    assert len(survivors) == len(table_rows) // len(fields["product"][RATE])
    like = make_run(read_config(whole / "runs" / survivors[0])).programs.start(0)
    for name, row in table_rows.items():
        ours, theirs = (numbers(each / "runs" / name) for each in (halved, whole))
        if name in survivors:
            assert ours == theirs
            for which in ("best", "last"):
                pair = [restore_chosen(each / "runs" / name, which, like) for each in (halved, whole)]
                assert pair[0].step == pair[1].step
                jax.tree.map(np.testing.assert_array_equal, pair[0].state, pair[1].state)
        else:  # The beginning of the run without halving, its best state and what that gives on the test split.
            assert (row["status"], row["steps"]) == ("pruned", 15)
            assert [line for line in theirs if line["step"] <= 15 and line["split"] != "test"] == ours[:-1]
            assert restore_chosen(halved / "runs" / name, "best", like).step == row["best.step"] == 10
            assert math.isfinite(row["best.test.loss"])


@pytest.mark.slow
def test_a_group_that_is_split_for_memory_stops_at_rungs_part_by_part(tmp_path, run, monkeypatch):
    monkeypatch.setattr(ReplicaPrograms, "fitting", lambda programs, replicas: 2)
    monkeypatch.setattr(ReplicaPrograms, "needed", lambda programs, slots: 1)
    assert run(product={RATE: [1e-30, 1e-2, 1e-3, 3e-3]}, halving=dict(first=15, eta=2)) == 0
    assert [row["replicas"] for row in summaries(tmp_path / "w")] == [2, 2, 2, 2]
    table_rows = rows(tmp_path / "w")
    ends = sorted((row["status"], row["steps"]) for row in table_rows)
    assert ends == [("finished", 90), ("pruned", 15), ("pruned", 15), ("pruned", 30)]
    for row in table_rows:  # Nothing twice, and nothing left out.
        steps = [line["step"] for line in numbers(tmp_path / "w" / "runs" / row["name"]) if line["split"] == "train"]
        assert steps == list(range(10, row["steps"] + 1, 10))
    assert list((tmp_path / "w" / "groups").glob("*/checkpoints*")) == []


@pytest.mark.slow
def test_the_rungs_of_a_group_share_one_compilation(run, monkeypatch):
    compiled, program = [], ReplicaPrograms._program

    def counted(programs: ReplicaPrograms, slots: int) -> Any:
        if slots not in programs._compiled:
            compiled.append(slots)
        return program(programs, slots)

    monkeypatch.setattr(ReplicaPrograms, "_program", counted)
    assert run(product={RATE: [1e-30, 1e-2, 1e-3, 3e-3]}, halving=dict(first=15, eta=2)) == 0
    assert compiled == [4]


def summaries(workdir: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((workdir / "runs").glob("*/summary.json"))]


def numbers(folder: Path) -> list[dict]:
    """The lines of metrics.jsonl but for the seconds."""
    return [{k: v for k, v in line.items() if k != "seconds"} for line in read_metrics(folder)]


@pytest.mark.parametrize("even", [True, False])
def test_time_left_is_said_only_where_runs_take_about_as_long_as_each_other(even, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    progress = SweepProgress(runs=4, done=0, even=even)
    with progress.running():
        assert progress._live is not None
        assert any(isinstance(column, TimeRemainingColumn) for column in progress._live.columns) == even
    progress.done = 2.0
    assert progress.left().endswith(" left") == even
