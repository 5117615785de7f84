"""A sweep whose points Optuna asks for: what it is told, resume, several processes, mistakes; training is a stand-in.

One slow test trains for real.
"""

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from rnnlab import report, sweep
from rnnlab.config.errors import ConfigError
from rnnlab.files.locks import claimed
from rnnlab.records.workdir import open_workdir
from rnnlab.sweeps import worker
from rnnlab.sweeps.spec.manifest import read_sweep
from rnnlab.sweeps.spec.search import Search
from rnnlab.sweeps.spec.space import load_sweep
from tests.helpers import SMALL_RUN
from tests.sweeps.sweeping import CELL, RATE, GroupTrainer, put_in_place, rows, run_file

FEATURES = "model.cell.features"
RATES = {RATE: dict(low=1e-4, high=1.0, log=True)}


class Trainer(GroupTrainer):
    """Stands in for training: the loss is (log10(rate) - best)² + seed / 100; a rate above `bound` diverges."""

    def __init__(self) -> None:
        self.trained: list[str] = []
        self.stops_at: int | None = None
        """After so many runs a signal comes."""
        self.bound, self.best = 0.3, -2.0

    def __call__(self, config: Mapping[str, Any], workdir: Path, data_dir: str | None = None, **_: Any) -> dict:
        if len(self.trained) == self.stops_at:
            return {"status": "interrupted"}
        self.trained.append(workdir.name)
        open_workdir(workdir, config)
        rate = config["optimizer"]["learning_rate"]
        loss = (math.log10(rate) - self.best) ** 2 + config["seed"] / 100
        status = "diverged" if rate > self.bound else "finished"
        summary = {"status": status, "steps": config["steps"], "best": {"validation": {"loss": loss}}}
        (workdir / "summary.json").write_text(json.dumps(summary))
        return summary


@pytest.fixture
def trainer(monkeypatch) -> Trainer:
    return put_in_place(Trainer(), monkeypatch)


@pytest.fixture
def search(tmp_path) -> Callable[..., int]:
    """Searches in tmp_path / "w": the section of these fields; beside: further ones of the file; words: flags."""
    pytest.importorskip("optuna", reason="the extra optuna is not installed")

    def call(
        words: Sequence[str] = (),
        *,
        beside: Mapping[str, Any] | None = None,
        into: str = "w",
        trials: int = 8,
        batch: int = 4,
        of: Mapping[str, Any] = RATES,
        **fields: Any,
    ) -> int:
        section = dict(trials=trials, batch=batch, of=of) | fields
        return run_file(tmp_path, {"base": SMALL_RUN, "optuna": section} | dict(beside or {}), words, into)

    return call


def points(workdir: Path) -> list[dict[str, Any]]:
    return json.loads((workdir / "optuna.json").read_text())["points"]


def study(workdir: Path) -> Any:
    import optuna
    from optuna.storages import journal

    storage = optuna.storages.JournalStorage(journal.JournalFileBackend(str(workdir / "optuna.journal")))
    return optuna.load_study(study_name=workdir.name, storage=storage)


def names(first: int, end: int) -> list[str]:
    return [f"{n:04}" for n in range(first, end)]


# --- what is asked and told ------------------------------------------------------------------------------------------


def test_every_batch_is_runs_of_the_sweep_whose_names_go_on(tmp_path, search, trainer):
    assert search(trials=10, batch=4, sampler="random", beside=dict(seeds=2)) == 0
    assert trainer.trained == names(0, 20)
    table_rows = rows(tmp_path / "w")
    assert [row["name"] for row in table_rows] == names(0, 20)
    assert [row["seed"] for row in table_rows] == [0, 1] * 10
    assert [{RATE: row[RATE]} for row in table_rows[::2]] == points(tmp_path / "w")
    assert all(1e-4 <= row[RATE] <= 1.0 and row["in_sweep"] for row in table_rows)
    groups = read_sweep(tmp_path / "w")["groups"]
    assert [len(group["runs"]) for group in groups.values()] == [8, 8, 4]
    assert {group["alone"] for group in groups.values()} == {None}


def test_optuna_is_told_the_mean_over_the_seeds(tmp_path, search, trainer):
    trainer.bound = 1.0
    search(beside=dict(seeds=[3, 5]))
    trials = study(tmp_path / "w").trials
    assert [trial.params for trial in trials] == points(tmp_path / "w")
    expected = [(math.log10(trial.params[RATE]) + 2) ** 2 + 0.04 for trial in trials]
    assert [trial.value for trial in trials] == pytest.approx(expected, rel=1e-12)
    assert trials[1].user_attrs == {"runs": ["0002", "0003"], "diverged": 0}


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_what_it_is_told_changes_what_tpe_asks_for_next(tmp_path, search, trainer, sampler):
    asked = []
    for best in (-1.0, -3.0):
        trainer.best = best
        search(trials=24, batch=12, sampler=sampler, into=str(best))
        asked.append([math.log10(point[RATE]) for point in points(tmp_path / str(best))])
        assert study(tmp_path / str(best)).direction.name == "MINIMIZE"
    assert asked[0][:12] == asked[1][:12]
    if sampler == "random":
        assert asked[0] == asked[1]
    else:
        assert sum(asked[0][12:]) > sum(asked[1][12:])


def test_a_diverged_run_counts_as_the_worst_of_all(tmp_path, search, trainer):
    trainer.bound = 0.05
    search(trials=16, batch=8)
    table_rows = {row[RATE]: row for row in rows(tmp_path / "w")}
    trials = study(tmp_path / "w").trials
    diverged = [t for t in trials if table_rows[t.params[RATE]]["status"] == "diverged"]
    worst = max(t.value for t in trials if t not in diverged)
    assert len(diverged) > 1
    assert {t.value for t in diverged} == {worst}
    assert all(t.user_attrs["diverged"] == 1 for t in diverged)


def test_where_all_diverge_trials_fail(tmp_path, search, trainer, capsys):
    trainer.bound = 0.0
    assert search() == 0
    assert {trial.state.name for trial in study(tmp_path / "w").trials} == {"FAIL"}
    assert "all runs have diverged" in capsys.readouterr().out


def test_choices_may_be_names_sections_and_whole_numbers(tmp_path, search, trainer):
    cells = ["gru", dict(name="vanilla", activation="relu"), dict(name="vanilla", activation="tanh")]
    of = {CELL: cells, FEATURES: dict(low=4, high=12, integer=True), "model.layers": [1, 2]}
    assert search(trials=12, batch=6, of=of) == 0
    for row, point in zip(rows(tmp_path / "w"), points(tmp_path / "w"), strict=True):
        config = json.loads((tmp_path / "w" / "runs" / row["name"] / "config.json").read_text())
        cell = config["model"]["cell"]
        name, activation = ("gru", None) if point[CELL] == "gru" else (point[CELL]["name"], point[CELL]["activation"])
        assert (cell["name"], cell.get("activation", {}).get("name")) == (name, activation)
        assert (cell["features"], config["model"]["layers"]) == (point[FEATURES], point["model.layers"])
        assert isinstance(cell["features"], int)


def test_no_point_is_asked_for_twice(tmp_path, search, trainer, capsys):
    of = {"model.layers": [1, 2, 3], FEATURES: dict(low=4, high=5, integer=True)}
    assert search(trials=20, batch=4, of=of) == 0
    point_list = {json.dumps(point) for point in points(tmp_path / "w")}
    assert len(point_list) == len(trainer.trained) == 6
    assert "none but these 6 points are proposed" in capsys.readouterr().out


# --- resume ----------------------------------------------------------------------------------------------------------


def test_an_interrupted_search_goes_on_as_if_it_had_not_been(tmp_path, search, trainer):
    search(trials=12, into="whole")
    whole, trainer.trained = trainer.trained, []
    for stop in (0, 2, 7):  # Before the first run, within a batch, within another.
        trainer.stops_at = stop
        assert search(trials=12) == 130
    trainer.stops_at = None
    assert search(trials=12) == 0
    assert trainer.trained == whole
    assert points(tmp_path / "w") == points(tmp_path / "whole")


def test_a_search_that_is_over_is_not_run_again_and_may_be_made_longer(tmp_path, search, trainer):
    search(trials=4)
    trainer.trained.clear()
    assert search(trials=4) == 0
    assert trainer.trained == []
    before = points(tmp_path / "w")
    assert search(trials=9) == 0
    assert trainer.trained == names(4, 9)
    assert points(tmp_path / "w")[:4] == before


def test_optunas_file_is_made_anew_where_it_is_lost(tmp_path, search, trainer):
    search()
    (tmp_path / "w" / "optuna.journal").write_text("{half a li")
    assert search() == 0
    assert len(study(tmp_path / "w").trials) == 8


def test_a_process_waits_for_the_runs_of_a_batch_that_another_holds(tmp_path, search, trainer, monkeypatch):
    held = claimed(tmp_path / "w" / "groups" / "000" / "group.lock")
    waits = []

    def sleep(seconds: float) -> None:
        waits.append(list(trainer.trained))
        held.__exit__(None, None, None)

    monkeypatch.setattr(worker.time, "sleep", sleep)
    assert held.__enter__()
    assert search() == 0
    assert waits == [[]]
    assert trainer.trained == names(0, 8)


def test_of_two_processes_at_the_end_of_a_batch_one_asks(tmp_path, search, trainer):
    search(trials=4)
    loaded = load_sweep(str(tmp_path / "mine.py"), {})
    loaded["optuna"]["trials"] = 8
    first, second = Search(loaded, tmp_path / "w"), Search(loaded, tmp_path / "w")
    assert first.ask(print)
    assert second.ask(pytest.fail)
    assert first.points == second.points
    assert len(second.points) == 8


def test_a_shard_ends_where_others_have_runs_of_the_batch(search, trainer, capsys):
    fields: dict[str, Any] = dict(of={CELL: ["gru", "lstm", "irnn"], **RATES}, trials=12, batch=12)
    assert search(["--shard=0/2"], **fields) == 0
    assert "not all runs of the batch are over" in capsys.readouterr().out
    assert 0 < len(trainer.trained) < 12
    assert search(["--shard=1/2"], **fields) == 0
    assert sorted(trainer.trained) == names(0, 12)


# --- what is said ----------------------------------------------------------------------------------------------------


def test_a_dry_run_says_what_is_searched_and_writes_nothing(tmp_path, search, trainer, capsys):
    assert search(["--dry_run"], trials=64, batch=16) == 0
    output = capsys.readouterr().out.splitlines()
    assert output[-1] == f"optuna: 64 trials, 16 at a time, by tpe over {RATE}; 0 points are known"
    assert not (tmp_path / "w").exists()


def test_the_best_point_is_said_and_the_report_works(tmp_path, search, trainer, capsys):
    search(beside=dict(seeds=2))
    output = capsys.readouterr().out
    best = min(study(tmp_path / "w").trials, key=lambda trial: trial.value)
    assert f"best so far: {RATE}={best.params[RATE]}: loss {best.value:.4g}" in output
    assert "trials 4 to 7 of 8" in output
    assert report.main([f"--workdir={tmp_path / 'w'}"]) == 0
    assert f"learning_rate {best.params[RATE]:.4g}" in (tmp_path / "w" / "report.md").read_text()


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "beside", "message"),
    [
        (dict(trials=0), {}, r"optuna\.trials: .*at least 1"),
        (dict(sampler="tpee"), {}, r"optuna\.sampler: .*'tpee'; did you mean tpe\?"),
        (dict(of={}), {}, r"optuna\.of: empty"),
        (dict(of={RATE: 0.1}), {}, r"optuna\.of\.optimizer\.learning_rate: 0\.1 is neither a range"),
        (dict(of={RATE: dict(low=1.0, high=0.1)}), {}, r"of\.optimizer\.learning_rate\.high: 0\.1 is not above low=1"),
        (dict(of={RATE: dict(low=-1.0, high=0.1)}), {}, r"learning_rate=-1\.0"),
        (dict(of={"optimizer.lerning_rate": [0.1, 0.2]}), {}, r"did you mean optimizer\.learning_rate\?"),
        (dict(of={"seed": [1, 2]}), {}, r"optuna\.of\.seed: a seed is not searched"),
        ({}, {"overrides": {RATE: 0.1}}, r"optuna\.of\.optimizer\.learning_rate: is set by overrides already"),
        ({}, {"product": {CELL: ["gru"]}}, r"optuna: stands beside base, overrides and seeds only, not product"),
        ({}, {"halving": dict(first=20)}, r"optuna: stands beside base, overrides and seeds only, not halving"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(tmp_path, search, trainer, fields, beside, message):
    with pytest.raises(ConfigError, match=message) as caught:
        search(**fields, beside=beside)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "w").exists()


def test_another_space_than_that_of_the_points_is_refused(tmp_path, search, trainer):
    search()
    with pytest.raises(ConfigError, match=r"optuna\.json has 8 points of another space; take another --workdir"):
        search(of={RATE: dict(low=1e-3, high=1.0, log=True)})
    assert len(rows(tmp_path / "w")) == 8
    assert search() == 0


def test_damaged_points_are_named(tmp_path, search, trainer):
    search()
    (tmp_path / "w" / "optuna.json").write_text("{")
    with pytest.raises(ConfigError, match=r"optuna\.json is cut short; restore it"):
        search()


def test_without_optuna_one_line_says_how_to_install_it(tmp_path, monkeypatch, trainer):
    monkeypatch.setitem(sys.modules, "optuna", None)
    file = {"base": SMALL_RUN, "optuna": dict(trials=4, of=RATES)}
    (tmp_path / "mine.py").write_text(f"def get_config():\n    return {file!r}\n")
    with pytest.raises(ConfigError, match=r"a search needs optuna .*: pip install 'rnnlab\[optuna\]'"):
        sweep.main([f"--config={tmp_path / 'mine.py'}", f"--workdir={tmp_path / 'w'}"])


# --- for real --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_search_trains_its_runs_as_replicas(tmp_path, search):
    assert search(trials=4, batch=2, beside=dict(seeds=2)) == 0
    summaries = [json.loads(path.read_text()) for path in sorted((tmp_path / "w" / "runs").glob("*/summary.json"))]
    assert [summary["replicas"] for summary in summaries] == [4] * 8
    losses = [summary["best"]["validation"]["loss"] for summary in summaries]
    means = [sum(pair) / 2 for pair in zip(losses[::2], losses[1::2], strict=True)]
    assert [trial.value for trial in study(tmp_path / "w").trials] == pytest.approx(means)
