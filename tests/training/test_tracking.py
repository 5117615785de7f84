"""Runs and replicas of sweeps tell their trackers all that is in their workdirs, once, and how they ended."""

import json
from pathlib import Path
from typing import Any

import pytest

from rnnlab.records.metrics import read_metrics
from rnnlab.records.run_config import resolve_config
from rnnlab.sweeps.runner import run_sweep
from rnnlab.sweeps.spec.space import resolve_sweep
from rnnlab.training.loop import train_and_evaluate
from rnnlab.training.run import Run
from tests.helpers import SMALL_RUN, event_file_loader
from tests.records.recorder import NAME, Recorder
from tests.tiers import exhaustive_tests

pytestmark = [pytest.mark.usefixtures("no_figures", "shared_programs"), pytest.mark.slow]  # Each trains several runs.


@pytest.fixture(autouse=True)
def forget() -> None:
    Recorder.calls, Recorder.fails = {}, set()


def config(**changes: Any) -> dict[str, Any]:
    return resolve_config(SMALL_RUN | {"devices": 1, "trackers": (NAME,)} | changes)


def statuses(workdir: Path) -> list[str]:
    return [status for status, _ in Recorder.asked(workdir, "finish")]


def assert_all_sent(workdir: Path) -> None:
    """Each line of metrics.jsonl once, in its order; a test that an earlier stop made too is not sent again."""
    lines = [
        [{k: v if k == "split" else float(v) for k, v in line.items() if k != "seconds"} for line in each]
        for each in (read_metrics(workdir), Recorder.lines(workdir))
    ]
    there, sent = ([line for line in each if line["split"] != "test"] for each in lines)
    assert sent == there
    assert all(line in lines[1] for line in lines[0])


def test_a_run_that_resumes_is_one_run_to_its_tracker(tmp_path: Path) -> None:
    train_and_evaluate(config(), tmp_path, stop_at=30)
    summary = train_and_evaluate(config(), tmp_path)
    assert_all_sent(tmp_path)
    assert [run.id for (run,) in Recorder.asked(tmp_path, "start")] == [None, f"id of {tmp_path.name}"]
    assert statuses(tmp_path) == ["paused", "finished"]
    _, last = Recorder.asked(tmp_path, "finish")[-1]
    assert last == summary == json.loads((tmp_path / "summary.json").read_text())
    assert len(Recorder.asked(tmp_path, "figures")) == 2


@pytest.mark.parametrize("failed", [{"scalars"}, *exhaustive_tests({"start"}, {"finish"}, None)])
def test_a_run_that_is_over_sends_what_a_tracker_lacks(tmp_path: Path, capsys, failed: set[str] | None) -> None:
    """failed: what the tracker refused while the run trained; None: there was no tracker."""
    Recorder.fails = failed or set()
    train_and_evaluate(config(trackers=() if failed is None else (NAME,)), tmp_path)
    Recorder.fails = set()
    for sends in (True, False):
        summary = train_and_evaluate(config(), tmp_path)
        assert (f"; sent to {NAME}. " in capsys.readouterr().out.splitlines()[-1]) == sends
    assert_all_sent(tmp_path)
    assert Recorder.asked(tmp_path, "finish") == [["finished", summary]]


ENDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "stopped_early": ({"early_stopping": {"patience": 1, "min_change": 1e9}}, {}),
    "diverged": ({"optimizer": {"name": "adam", "learning_rate": 1e30, "clip_norm": 1.0}}, {}),
    "pruned": ({}, {"stop_at": 20, "prune": True}),
    "interrupted": ({}, {"stop": lambda step: True}),
}


@pytest.mark.parametrize("status", ["interrupted", *exhaustive_tests("stopped_early", "diverged", "pruned")])
def test_a_tracker_hears_how_the_run_ended(tmp_path: Path, status: str) -> None:
    changes, words = ENDS[status]
    assert train_and_evaluate(config(**changes), tmp_path, **words)["status"] == status
    assert statuses(tmp_path) == [status]
    assert_all_sent(tmp_path)


@pytest.mark.parametrize(("error", "status"), [(ZeroDivisionError, "crashed"), (KeyboardInterrupt, "interrupted")])
def test_a_tracker_hears_of_an_exception(tmp_path: Path, monkeypatch, error: type[BaseException], status: str) -> None:
    def fails(*_: Any) -> None:
        raise error

    monkeypatch.setattr(Run, "evaluate", fails)
    with pytest.raises(error):
        train_and_evaluate(config(), tmp_path)
    assert Recorder.asked(tmp_path, "finish") == [[status, {}]]


def test_a_tracker_that_fails_stops_no_run(tmp_path: Path, capsys) -> None:
    whole = train_and_evaluate(config(trackers=()), tmp_path / "whole")
    Recorder.fails = {"scalars"}
    summary = train_and_evaluate(config(), tmp_path / "run")
    assert (summary["status"], summary["best"]) == ("finished", whole["best"])
    assert capsys.readouterr().err.count("gets nothing more") == 1
    assert Recorder.asked(tmp_path / "run", "finish") == []


def hparams(workdir: Path) -> tuple[dict[str, float], dict[str, float]]:
    """The last row of TensorBoard's table: its parameters and its metrics."""
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData  # pyright: ignore

    axes, best = {}, {}
    for path in sorted((workdir / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime):
        for value in (value for event in event_file_loader(path) for value in event.summary.value):
            if value.tag == "_hparams_/session_start_info":
                start = HParamsPluginData.FromString(value.metadata.plugin_data.content).session_start_info
                axes = {name: each.number_value for name, each in start.hparams.items()}
            elif value.tag.startswith("best/"):
                best[value.tag] = value.simple_value
    return axes, best


def test_replicas_of_a_sweep_are_a_run_each_in_one_group(tmp_path: Path) -> None:
    rates = {"optimizer.learning_rate": [1e-2, 1e30]}
    sweep = resolve_sweep({"base": config(devices=None), "product": rates, "seeds": [0, 1]}, "the sweep")
    assert run_sweep(sweep, tmp_path, stop=lambda step: step >= 30) == "interrupted"
    assert run_sweep(sweep, tmp_path) == "finished"
    for number, end in enumerate(["finished", "finished", "diverged", "diverged"]):
        workdir = tmp_path / "runs" / f"{number:04}"
        assert statuses(workdir) == (["interrupted", end] if end == "finished" else [end])
        assert_all_sent(workdir)
        runs = [run for (run,) in Recorder.asked(workdir, "start")]
        assert {(run.name, run.group) for run in runs} == {(f"{tmp_path.name}/{number:04}", tmp_path.name)}
        assert len(runs) == len(statuses(workdir))
        _, summary = Recorder.asked(workdir, "finish")[-1]
        assert summary["replicas"] == 4
        axes, best = hparams(workdir)
        assert axes == {"optimizer.learning_rate": rates["optimizer.learning_rate"][number // 2], "seed": number % 2}
        losses = {f"best/{split}.loss": summary["best"][split]["loss"] for split in ("validation", "test") if best}
        assert {name: best[name] for name in losses} == pytest.approx(losses, rel=1e-6)
        assert bool(best) == (end == "finished")
