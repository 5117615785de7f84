"""W&B in its offline mode and MLflow with a local store, each read back by its own means."""

import importlib
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rnnlab.records.metrics import read_metrics
from rnnlab.records.run_config import resolve_config
from rnnlab.training.loop import train_and_evaluate
from tests.helpers import SMALL_RUN

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_programs"), pytest.mark.filterwarnings("default")]

TRACKING = {"project": "memory", "name": "mine", "group": "all", "tags": ["long"]}


def package(name: str) -> Any:
    """The tool's, or the test is skipped."""
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"{name} is not installed ({error}): pip install -e '.[{name}]'")
    if module.__file__ is None:
        pytest.skip(f"{name} is not installed: pip install -e '.[{name}]'")
    return module


def config(tracker: str, **changes: Any) -> dict[str, Any]:
    diagnostics = {"diagnostics": ["norms"], "diagnostics_every": 20}
    return resolve_config(
        SMALL_RUN | diagnostics | {"devices": 1, "trackers": (tracker,), "tracking": TRACKING} | changes
    )


def in_two_parts(tracker: str, workdir: Path) -> dict[str, Any]:
    """A run that is left after the log of step 30 and goes on to its end; the summary."""
    observed = config(tracker, diagnostics=["norms"], diagnostics_every=20)
    train_and_evaluate(observed, workdir, stop_at=30)
    return train_and_evaluate(observed, workdir)


def expected(workdir: Path, split: str) -> list[tuple[int, float]]:
    """(Step, loss) of the lines of a split."""
    return [(line["step"], line["loss"]) for line in read_metrics(workdir) if line["split"] == split]


DIVERGES = {"optimizer": {"name": "adam", "learning_rate": 1e30, "clip_norm": 1.0}}


# --- W&B -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    for name in ("WANDB_DIR", "WANDB_PROJECT", "WANDB_RUN_GROUP", "WANDB_RUN_ID", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    module = package("wandb")
    yield module
    module.teardown()


def records(path: Path) -> list[Any]:
    """What a .wandb file holds: a header of seven bytes, then LevelDB's log of blocks of 32 KiB."""
    from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore

    data, at, parts, found = path.read_bytes(), 7, b"", []
    while at < len(data):
        if (left := 2**15 - at % 2**15) < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        parts, at = parts + data[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):  # Whole, or the last part.
            found.append(Record.FromString(parts))
            parts = b""
    return found


def wandb_files(workdir: Path) -> list[list[Any]]:
    """The records of each part of a run, oldest first."""
    paths = sorted(workdir.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime)
    return [records(path) for path in paths]


def rows(parts: list[list[Any]]) -> list[dict[str, Any]]:
    """The rows of the history."""
    every = [record.history for part in parts for record in part if record.HasField("history")]
    return [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row.item} for row in every]


def test_an_offline_folder_of_wandb_has_the_run_once(wandb: Any, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    summary = in_two_parts("wandb", workdir)
    parts = wandb_files(workdir)
    history = rows(parts)
    for split in ("train", "validation"):
        name = f"{split}/loss"
        assert [(row["step"], row[name]) for row in history if name in row] == expected(workdir, split)
    assert [(row["step"], row["test/loss"]) for row in history if "test/loss" in row] == expected(workdir, "test")
    assert [row["step"] for row in history if "diagnostics/norms/layer 1/bias/weight" in row] == [0, 20, 40]
    assert any("figures/learning_curve/path" in row or "figures/learning_curve" in row for row in history)
    runs = [next(record.run for record in part if record.HasField("run")) for part in parts]
    names = [(run.project, run.display_name, run.run_group, list(run.tags)) for run in runs]
    assert names == [("memory", "mine", "all", ["long"])] * 2
    assert len({run.run_id for run in runs}) == 1
    sent = {item.key: json.loads(item.value_json) for item in runs[0].config.update}
    assert (sent["steps"], sent["task"]["length"]) == (60, 6)
    assert [record.exit.exit_code for part in parts for record in part if record.HasField("exit")] == [0, 0]
    last: dict[str, Any] = {}
    for record in parts[-1]:
        if record.HasField("summary"):
            last |= {item.key: json.loads(item.value_json) for item in record.summary.update}
    assert (last["status"], last["best.validation.loss"]) == ("finished", summary["best"]["validation"]["loss"])


WANDB_ENDS: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "diverged": (DIVERGES, {}, 3),
    "interrupted": ({}, {"stop": lambda step: True}, 130),
}


@pytest.mark.parametrize("status", WANDB_ENDS)
def test_wandb_shows_how_a_run_ended(wandb: Any, tmp_path: Path, no_figures: None, status: str) -> None:
    changes, words, code = WANDB_ENDS[status]
    assert train_and_evaluate(config("wandb", **changes), tmp_path / "run", **words)["status"] == status
    (part,) = wandb_files(tmp_path / "run")
    assert [record.exit.exit_code for record in part if record.HasField("exit")] == [code]
    assert any(record.HasField("preempting") for record in part) == (status == "interrupted")


# --- MLflow ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for a store, which takes seconds to make."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch, store: Path) -> Any:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}/runs.db")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    monkeypatch.chdir(store)  # Artifacts are beside the store.
    return package("mlflow")


def mlflow_run(mlflow: Any, workdir: Path) -> tuple[Any, Callable[[str], list[tuple[int, float]]]]:
    """The one run of a workdir, and (step, value) of its metrics."""
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("memory")
    (run,) = client.search_runs([experiment.experiment_id], f"tags.workdir = '{workdir}'")
    history = lambda name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]  # noqa: E731
    return run, history


def test_a_local_store_of_mlflow_has_the_run_once(mlflow: Any, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    summary = in_two_parts("mlflow", workdir)
    run, history = mlflow_run(mlflow, workdir)
    for split in ("train", "validation", "test"):
        assert history(f"{split}/loss") == expected(workdir, split)
    assert [step for step, _ in history("diagnostics/norms/layer 1/bias/weight")] == [0, 20, 40]
    assert (run.info.run_name, run.info.status) == ("mine", "FINISHED")
    assert {"group": "all", "long": "true", "status": "finished"}.items() <= run.data.tags.items()
    assert (run.data.params["steps"], run.data.params["model.cell.name"]) == ("60", "irnn")
    assert run.data.metrics["best.validation.loss"] == summary["best"]["validation"]["loss"]
    figures = [each.path for each in mlflow.MlflowClient().list_artifacts(run.info.run_id, "figures")]
    assert "figures/learning_curve.png" in figures


MLFLOW_ENDS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "diverged": (DIVERGES, {}, "FAILED"),
    "interrupted": ({}, {"stop": lambda step: True}, "KILLED"),
    "paused": ({}, {"stop_at": 20}, "SCHEDULED"),
}


@pytest.mark.parametrize("status", MLFLOW_ENDS)
def test_mlflow_shows_how_a_run_ended(mlflow: Any, tmp_path: Path, no_figures: None, status: str) -> None:
    changes, words, shown = MLFLOW_ENDS[status]
    assert train_and_evaluate(config("mlflow", **changes), tmp_path / "run", **words)["status"] == status
    run, _ = mlflow_run(mlflow, tmp_path / "run")
    assert (run.info.status, run.data.tags["status"]) == (shown, status)


def test_a_server_that_is_gone_stops_no_run(mlflow: Any, tmp_path: Path, no_figures: None, monkeypatch, capsys) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert train_and_evaluate(config("mlflow", steps=10), tmp_path / "run")["status"] == "finished"
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if "gets nothing more" in line]
    assert "127.0.0.1" in warning
