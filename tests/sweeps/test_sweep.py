"""A sweep as a whole: order, resume, changed files, claims, mistakes, exit statuses; the training itself is a stand-in.

One slow test trains for real.
"""

import contextlib
import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from rnnlab import cli, sweep
from rnnlab.config.errors import ConfigError
from rnnlab.files.locks import claimed
from rnnlab.records.workdir import open_workdir
from rnnlab.sweeps.spec.manifest import read_sweep
from tests.helpers import SMALL_RUN
from tests.sweeps import sweeping
from tests.sweeps.sweeping import CELL, RATE, GroupTrainer, put_in_place, run_file


class Trainer(GroupTrainer):
    """Stands in for `loop.train_and_evaluate`: leaves config.json and summary.json; diverges above a rate of 1."""

    def __init__(self) -> None:
        self.trained: list[str] = []
        self.stops_at: str | None = None
        """The run that a signal comes in."""
        self.signal_at: str | None = None
        """The run that a signal comes in too late to stop it."""
        self.fails_at: set[str] = set()

    def __call__(self, config: dict[str, Any], workdir: Path, data_dir: str | None = None, **_: Any) -> dict[str, Any]:
        self.trained.append(workdir.name)
        if workdir.name in self.fails_at:
            raise ConfigError("the data are not there")
        open_workdir(workdir, config)
        rate = config["optimizer"]["learning_rate"]
        status = "interrupted" if workdir.name == self.stops_at else "diverged" if rate > 1 else "finished"
        summary = {"status": status, "steps": config["steps"], "best": {"validation": {"loss": rate}}}
        (workdir / "summary.json").write_text(json.dumps(summary))
        if workdir.name == self.signal_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return summary


@pytest.fixture
def trainer(monkeypatch) -> Trainer:
    return put_in_place(Trainer(), monkeypatch)


@pytest.fixture
def run(tmp_path, trainer) -> Callable[..., int]:
    """Runs a sweep of these fields in tmp_path / "w"; words are further flags."""

    def call(words: Sequence[str] = (), /, **fields: Any) -> int:
        return run_file(tmp_path, {"base": SMALL_RUN} | fields, words)

    return call


def rows(tmp_path: Path) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in sweeping.rows(tmp_path / "w")}


def test_every_run_has_its_folder_its_row_and_its_config(tmp_path, run, trainer):
    assert run(product={RATE: [0.1, 0.2]}, seeds=2) == 0
    assert trainer.trained == ["0000", "0001", "0002", "0003"]
    table_rows = rows(tmp_path)
    assert [(row[RATE], row["seed"]) for row in table_rows.values()] == [(0.1, 0), (0.1, 1), (0.2, 0), (0.2, 1)]
    for name, row in table_rows.items():
        config = json.loads((tmp_path / "w" / "runs" / name / "config.json").read_text())
        assert (config["optimizer"]["learning_rate"], config["seed"]) == (row[RATE], row["seed"])
    assert len((tmp_path / "w" / "runs.csv").read_text().splitlines()) == 5
    assert (tmp_path / "w" / "runs.parquet").exists()


def test_runs_that_are_over_are_not_run_again(run, trainer):
    assert run(seeds=3) == 0
    trainer.trained.clear()
    assert run(seeds=3) == 0
    assert trainer.trained == []


def test_a_sweep_that_is_over_keeps_the_commit_that_it_was_made_by(tmp_path, run, trainer, monkeypatch):
    assert run() == cli.FINISHED
    provenance = {name: read_sweep(tmp_path / "w")[name] for name in ("git_commit", "versions")}
    monkeypatch.setattr("rnnlab.sweeps.spec.manifest.git_commit", lambda: "another")
    monkeypatch.setattr("rnnlab.sweeps.spec.manifest.versions", lambda: {"jax": "another"})
    assert run() == cli.FINISHED
    assert {name: read_sweep(tmp_path / "w")[name] for name in provenance} == provenance
    assert run(seeds=9) == cli.FINISHED
    assert read_sweep(tmp_path / "w")["git_commit"] == "another"


def test_diverged_runs_are_results(tmp_path, run, trainer):
    assert run(product={RATE: [0.1, 2.0]}) == 0
    assert [row["status"] for row in rows(tmp_path).values()] == ["finished", "diverged"]
    trainer.trained.clear()
    assert run(product={RATE: [0.1, 2.0]}) == 0
    assert trainer.trained == []


def test_a_signal_ends_the_sweep_with_130_and_the_same_command_goes_on(tmp_path, run, trainer):
    trainer.stops_at = "0001"
    assert run(seeds=4) == 130
    assert trainer.trained == ["0000", "0001"]
    assert [row["status"] for row in rows(tmp_path).values()] == ["finished", "interrupted", "waiting", "waiting"]
    trainer.stops_at = None
    assert run(seeds=4) == 0
    assert trainer.trained == ["0000", "0001", "0001", "0002", "0003"]


def test_a_signal_that_comes_as_a_group_ends_keeps_the_next_from_beginning(run, trainer):
    trainer.signal_at = "0001"
    fields = dict(product={CELL: ["irnn", "gru"]}, seeds=2)
    assert run(**fields) == 130
    assert trainer.trained == ["0000", "0001"]
    trainer.signal_at = "0003"
    assert run(**fields) == 0
    assert trainer.trained == ["0000", "0001", "0002", "0003"]


def test_half_a_summary_is_a_run_that_is_not_over(tmp_path, run, trainer):
    run(seeds=3)
    path = tmp_path / "w" / "runs" / "0001" / "summary.json"
    path.write_text(path.read_text()[:20])
    trainer.trained.clear()
    assert run(seeds=3) == 0
    assert trainer.trained == ["0001"]


# --- a changed file --------------------------------------------------------------------------------------------------


def test_runs_keep_their_names_wherever_they_stand_in_a_changed_file(tmp_path, run, trainer, capsys):
    run(product={RATE: [0.1, 0.2]}, seeds=2)
    trainer.trained.clear()
    assert run(product={RATE: [0.05, 0.2, 0.1]}, seeds=[1, 0]) == 0
    assert trainer.trained == ["0004", "0005"]
    table_rows = {(row[RATE], row["seed"]): name for name, row in rows(tmp_path).items()}
    assert (table_rows[0.1, 0], table_rows[0.2, 1]) == ("0000", "0003")
    assert table_rows[0.05, 1] == "0004"
    assert "the sweep has changed: 2 runs are new" in capsys.readouterr().out


def test_runs_that_a_changed_file_lacks_stay_in_the_table(tmp_path, run, capsys):
    run(product={RATE: [0.1, 0.2]})
    assert run(product={RATE: [0.2]}) == 0
    assert "1 are no longer in it and stay in the table" in capsys.readouterr().out
    table_rows = rows(tmp_path)
    assert [row["in_sweep"] for row in table_rows.values()] == [False, True]
    assert [row["status"] for row in table_rows.values()] == ["finished", "finished"]
    assert table_rows["0000"][RATE] == 0.1
    assert table_rows["0000"]["best.validation.loss"] == 0.1


def test_a_run_that_comes_back_is_still_over(tmp_path, run, trainer):
    run(product={RATE: [0.1, 0.2]})
    run(product={RATE: [0.2]})
    trainer.trained.clear()
    assert run(product={RATE: [0.2, 0.1]}) == 0
    assert trainer.trained == []
    assert all(row["in_sweep"] for row in rows(tmp_path).values())


def test_another_way_to_say_the_same_runs_changes_nothing(tmp_path, run, trainer):
    run(product={RATE: [0.1, 1]}, overrides={"steps": 70})
    trainer.trained.clear()
    assert run(runs=[{RATE: 0.1}, {RATE: 1.0}], overrides={"steps": 7e1}) == 0
    assert trainer.trained == []
    assert list(rows(tmp_path)) == ["0000", "0001"]


def test_a_field_that_changes_for_all_makes_all_runs_new(tmp_path, run, trainer):
    run(seeds=2)
    trainer.trained.clear()
    assert run(["--config.steps=80"], seeds=2) == 0
    assert trainer.trained == ["0002", "0003"]
    assert [row["steps"] for row in rows(tmp_path).values()] == [60, 60, 80, 80]


def test_groups_stay_as_they_are_while_their_runs_do(tmp_path, run, trainer):
    def groups() -> dict[str, list[str]]:
        return {name: group["runs"] for name, group in read_sweep(tmp_path / "w")["groups"].items()}

    trainer.stops_at = "0000"
    run(product={CELL: ["irnn", "gru"]}, seeds=2)
    assert groups() == {"000": ["0000", "0001"], "001": ["0002", "0003"]}
    run(product={CELL: ["irnn", "gru"]}, seeds=3)
    assert groups() == {"000": ["0000", "0001"], "001": ["0002", "0003"], "002": ["0004"], "003": ["0005"]}
    run(product={CELL: ["irnn"]}, seeds=[1, 2])  # The first group has lost a run: what is left of it is a new group.
    assert groups() == {"002": ["0004"], "004": ["0001"]}


# --- several processes -----------------------------------------------------------------------------------------------


def test_a_group_that_another_process_holds_is_left_to_it(tmp_path, run, trainer, capsys):
    with claimed(tmp_path / "w" / "groups" / "000" / "group.lock") as mine:
        assert mine
        assert run(product={CELL: ["irnn", "gru"]}, seeds=2) == cli.INCOMPLETE
    assert trainer.trained == ["0002", "0003"]
    output = capsys.readouterr().out
    assert "not complete: 2 runs of the groups 000 are in the hands of other commands" in output
    assert run(product={CELL: ["irnn", "gru"]}, seeds=2) == 0
    assert trainer.trained == ["0002", "0003", "0000", "0001"]


def test_a_group_whose_process_dies_meanwhile_is_trained_before_the_end(tmp_path, run, trainer, monkeypatch):
    with contextlib.ExitStack() as other:
        assert other.enter_context(claimed(tmp_path / "w" / "groups" / "000" / "group.lock"))
        train = Trainer.__call__

        def dies(self: Trainer, config: dict[str, Any], workdir: Path, *words: Any, **options: Any) -> dict[str, Any]:
            other.close()  # As the kernel does for a process that is killed.
            return train(self, config, workdir, *words, **options)

        monkeypatch.setattr(Trainer, "__call__", dies)
        assert run(product={CELL: ["irnn", "gru"]}, seeds=2) == cli.FINISHED
    assert trainer.trained == ["0002", "0003", "0000", "0001"]


def test_a_shard_works_on_its_groups_only(run, trainer):
    fields = dict(product={CELL: ["irnn", "gru", "lstm"]}, seeds=2)
    assert run(["--shard=1/2"], **fields) == 0
    assert trainer.trained == ["0002", "0003"]
    assert run(["--shard=0/2"], **fields) == 0
    assert trainer.trained == ["0002", "0003", "0000", "0001", "0004", "0005"]


def test_replicas_bounds_the_groups(tmp_path, run):
    run(["--replicas=2"], seeds=5)
    sizes = [len(group["runs"]) for group in read_sweep(tmp_path / "w")["groups"].values()]
    assert sum(sizes) == 5
    assert max(sizes) == 2


# --- what is said ----------------------------------------------------------------------------------------------------


def test_a_dry_run_says_all_and_writes_nothing(tmp_path, run, trainer, capsys):
    assert run(["--dry_run"], product={RATE: [0.1, 0.2], CELL: ["irnn", "gru"]}, seeds=3) == 0
    output = capsys.readouterr().out.splitlines()
    assert output == [
        "group 000  6 replicas over optimizer.learning_rate, seed  model.cell=irnn",
        "group 001  6 replicas over optimizer.learning_rate, seed  model.cell=gru",
        "12 runs in 2 compiled programs; 0 runs are done",
    ]
    assert trainer.trained == []
    assert not (tmp_path / "w").exists()


def test_a_dry_run_of_one_group_names_no_values_that_are_shared(run, capsys):
    assert run(["--dry_run"], product={RATE: [0.1, 0.2]}, seeds=3) == 0
    assert capsys.readouterr().out.splitlines()[0] == "group 000  6 replicas over optimizer.learning_rate, seed"


def test_a_dry_run_knows_what_is_over(run, trainer, capsys):
    run(seeds=2)
    capsys.readouterr()
    assert run(["--dry_run"], product={CELL: ["irnn", "gru"]}, seeds=2) == 0
    assert "2 runs are done" in capsys.readouterr().out


def test_help_says_what_it_takes(capsys):
    with pytest.raises(SystemExit) as left:
        sweep.main(["--help"])
    assert left.value.code == 0
    output = capsys.readouterr().out
    for word in ("--config", "--workdir", "--dry_run", "--shard", "--replicas", "--data_dir", "configs/sweeps/"):
        assert word in output


# --- mistakes --------------------------------------------------------------------------------------------------------


def test_a_run_that_fails_does_not_keep_the_others_from_training(tmp_path, run, trainer):
    trainer.fails_at = {"0000"}
    fields = dict(product={CELL: ["irnn", "gru", "lstm"]})
    with pytest.raises(
        ConfigError, match=r"group 000 \(model.cell=irnn\): the data are not there; all others are kept"
    ):
        run(**fields)
    assert [row["status"] for row in rows(tmp_path).values()] == ["waiting", "finished", "finished"]
    trainer.fails_at = set()
    assert run(**fields) == 0
    assert trainer.trained[3:] == ["0000"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--shard=2/2", r"--shard: '2/2' is not a shard; it is i/n with i from 0 to n - 1"),
        ("--shard=a", r"--shard: 'a' is not a shard"),
        ("--replicas=0", r"replicas"),
        ("--wrkdir=x", r"unknown flag '--wrkdir'; did you mean --workdir\?"),
        ("--config.stps=3", r"base and overrides: unknown field 'stps'; did you mean steps\?"),
        (f"--config.{RATE}=3", r"product.optimizer.learning_rate: optimizer.learning_rate is set by overrides already"),
    ],
)
def test_mistakes_of_the_command_are_one_line(run, word, message):
    with pytest.raises(ConfigError, match=message):
        run([word], product={RATE: [0.1]})


def test_config_is_asked_for():
    with pytest.raises(ConfigError, match=r"--config is missing"):
        sweep.main([])


def test_a_damaged_sweep_json_is_named_and_nothing_is_lost(tmp_path, run):
    run(seeds=2)
    path = tmp_path / "w" / "sweep.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(ConfigError, match=r"sweep\.json is cut short; restore it"):
        run(seeds=2)
    path.unlink()
    with pytest.raises(ConfigError, match=r"w/runs has runs, but no sweep\.json says which"):
        run(seeds=2)
    assert len(list((tmp_path / "w" / "runs").glob("*/summary.json"))) == 2


def test_the_folder_of_a_single_run_is_refused(tmp_path, run):
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"holds a run of rnnlab\.train"):
        run(seeds=2)


# --- for real --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_in_the_table_makes_the_same_run(tmp_path):
    """A base that is no file becomes one, and the run alone is the sweep's."""
    import shlex

    from rnnlab import train

    (tmp_path / "mine.py").write_text(
        f"def get_config():\n    return dict(base={SMALL_RUN!r}, product={{'model.cell': ['irnn']}}, seeds=[3])\n"
    )
    assert sweep.main([f"--config={tmp_path / 'mine.py'}", f"--workdir={tmp_path / 'w'}"]) == 0
    (row,) = rows(tmp_path).values()
    words = shlex.split(row["command"])[3:]
    assert words[-1] == f"--workdir={tmp_path / 'w' / 'runs' / '0000'}"
    assert train.main([*words[:-1], f"--workdir={tmp_path / 'alone'}"]) == 0
    alone = json.loads((tmp_path / "alone" / "summary.json").read_text())
    assert row["best.test.loss"] == pytest.approx(alone["best"]["test"]["loss"], rel=1e-6)
    assert row["steps"] == alone["steps"]
