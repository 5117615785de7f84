"""Trackers get each line once, whatever fails, and none of them stops a run."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab.config.errors import ConfigError
from rnnlab.config.help import render
from rnnlab.records.metrics import MetricsFile, MetricsWriter, read_metrics
from rnnlab.records.run_config import RunOptions, resolve_config
from rnnlab.records.trackers import make_trackers
from rnnlab.records.trackers.sending import Sending
from rnnlab.records.workdir import check_config, open_workdir, read_config
from rnnlab.sweeps.spec.groups import structure
from rnnlab.sweeps.spec.space import config_key
from tests.helpers import SMALL_RUN
from tests.records.recorder import NAME, Recorder


@pytest.fixture(autouse=True)
def forget() -> None:
    Recorder.calls, Recorder.fails = {}, set()


def config(**changes: Any) -> dict[str, Any]:
    return resolve_config(SMALL_RUN | {"trackers": (NAME,)} | changes)


def write(workdir: Path, step: int, steps: list[int], **changes: Any) -> MetricsFile:
    """A run that begins at a step and writes these; it is killed after the last."""
    file = MetricsFile(workdir, step, Sending(config(**changes), workdir))
    for each in steps:
        file.write(each, "train", {"loss": 1 / each}, 1.0)
        file.write(each, "validation", {"loss": 2 / each}, 1.0)
    return file


def sent(workdir: Path) -> list[tuple[int, str]]:
    return [(line["step"], line["split"]) for line in Recorder.lines(workdir)]


def both(*steps: int) -> list[tuple[int, str]]:
    return [(step, split) for step in steps for split in ("train", "validation")]


def test_each_line_is_sent_as_metrics_jsonl_has_it(tmp_path: Path) -> None:
    file = write(tmp_path, 0, [1, 2])
    file.write(3, "train", {"loss": float("inf")}, 2.0)
    file.write(1, "test", {"loss": 0.25}, 2.0)
    numbers = [{k: v if k == "split" else float(v) for k, v in line.items()} for line in read_metrics(tmp_path)]
    assert Recorder.lines(tmp_path) == numbers
    assert len(numbers) == 6


@pytest.mark.parametrize("resumed", [0, 1, 2, 3])
def test_lines_after_the_checkpoint_are_not_sent_again(tmp_path: Path, resumed: int) -> None:
    write(tmp_path, 0, [1, 2, 3])
    write(tmp_path, resumed, [*range(resumed + 1, 4), 4])
    assert sent(tmp_path) == both(1, 2, 3, 4)
    first, second = (run.id for (run,) in Recorder.asked(tmp_path, "start"))
    assert (first, second) == (None, f"id of {tmp_path.name}")


def test_a_tracker_that_comes_later_gets_what_was_before(tmp_path: Path) -> None:
    write(tmp_path, 0, [1, 2, 3], trackers=())
    assert not (tmp_path / "trackers.json").exists()
    write(tmp_path, 2, [3])
    assert sent(tmp_path) == both(1, 2, 3)


@pytest.mark.parametrize("method", ["start", "scalars", "figures", "finish"])
def test_a_tracker_that_fails_is_one_line_and_gets_the_rest_when_the_run_resumes(tmp_path, capsys, method) -> None:
    file = write(tmp_path, 0, [1])
    assert file.sending is not None
    Recorder.fails = {method}
    if method == "start":
        file = write(tmp_path, 1, [])
    file.write(2, "train", {"loss": 1.0}, 1.0)
    file.sending.figures(2, [])
    file.finish("interrupted")
    (warning,) = capsys.readouterr().err.splitlines()
    assert "gets nothing more (ConnectionError the network is gone); the run goes on" in warning
    Recorder.fails = set()
    file.write(3, "train", {"loss": 1.0}, 1.0)
    there = [line for line in both(1, 2) if line != (2, "validation")]
    assert sent(tmp_path) == (there if method in ("figures", "finish") else both(1))
    write(tmp_path, 3, [])
    assert sent(tmp_path) == [*there, (3, "train")]
    assert len(read_metrics(tmp_path)) == 4


class Raises(Recorder):
    def scalars(self, step: int, split: str, values: Any) -> None:
        raise ValueError


class AnswersNoId(Recorder):
    def start(self, run: Any) -> Any:
        return object()


class Changes(Recorder):
    def start(self, run: Any) -> str:
        run.config["task"].clear()
        return "x"

    def scalars(self, step: int, split: str, values: Any) -> None:
        values.clear()


FAILS = [(Raises, "ValueError"), (AnswersNoId, "TypeError its start answers <object"), (Changes, None)]


@pytest.mark.parametrize(("Other", "problem"), FAILS)
def test_one_that_fails_or_meddles_leaves_the_others(tmp_path: Path, capsys, Other: type, problem: str | None) -> None:
    sys.modules["other_tracker"] = type(sys)("other_tracker")
    sys.modules["other_tracker"].Other = Other  # pyright: ignore[reportAttributeAccessIssue]
    try:
        write(tmp_path, 0, [1, 2], trackers=("other_tracker:Other", NAME))
        resolved = config(trackers=("other_tracker:Other", NAME))
    finally:
        del sys.modules["other_tracker"]
    assert Recorder.lines(tmp_path) == read_metrics(tmp_path)
    assert sent(tmp_path) == both(1, 2)
    *_, (run,) = Recorder.asked(tmp_path, "start")
    assert run.config == resolved
    warned = capsys.readouterr().err
    assert warned.count(f"other_tracker:Other gets nothing more ({problem}") == (problem is not None)
    assert warned.count("gets nothing more") == (problem is not None)


def test_scalars_of_diagnostics_are_sent_once(tmp_path: Path) -> None:
    found = {"norms": {"layer 1/h": jnp.ones(3), "loss": jnp.float32(0.5)}, "spectrum": {"radius": jnp.float32(np.inf)}}
    for step, steps in ((0, [0, 4]), (4, [4, 8])):
        writer = MetricsWriter(tmp_path, step, Sending(config(), tmp_path))
        for each in steps:
            writer.observe(each, found, 1.0)
        writer.close()
    values = {"norms/loss": 0.5, "spectrum/radius": float("inf")}
    assert Recorder.asked(tmp_path, "scalars") == [[s, "diagnostics", values] for s in (0, 4, 8)]


DAMAGE = ["{", "[]", f'{{"{NAME}": 3}}', f'{{"{NAME}": {{"id": "x", "sent": {{"train": "1"}}}}}}']


@pytest.mark.parametrize("content", DAMAGE)
def test_damaged_memory_begins_a_new_run(tmp_path: Path, capsys, content: str) -> None:
    (tmp_path / "trackers.json").write_text(content)
    write(tmp_path, 0, [1])
    assert sent(tmp_path) == both(1)
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith(f"warning: {tmp_path / 'trackers.json'} ")
    assert json.loads((tmp_path / "trackers.json").read_text())[NAME]["sent"] == {"train": 1, "validation": 1}


NAMES = {
    "alone": ({}, "adding", (None, "adding", None)),
    "named": ({"project": "p", "name": "n", "group": "g"}, "adding", ("p", "n", "g")),
    "in a sweep": ({}, "sweep/runs/0003", (None, "sweep/0003", "sweep")),
    "in a sweep, named": ({"project": "p", "name": "n", "group": "g"}, "sweep/runs/0003", ("p", "n/0003", "g")),
}


@pytest.mark.parametrize("case", NAMES)
def test_a_run_is_named_by_its_folder_and_grouped_by_its_sweep(tmp_path: Path, case: str) -> None:
    tracking, folder, names = NAMES[case]
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text("{}")
    workdir = tmp_path / folder
    workdir.mkdir(parents=True)
    write(workdir, 0, [], tracking=tracking | {"tags": ["long"]})
    ((run,),) = Recorder.asked(workdir, "start")
    assert (run.project, run.name, run.group) == names
    assert run.in_sweep == ("sweep" in folder)
    assert (run.workdir, run.tags, run.config["steps"]) == (workdir, ("long",), 60)


def test_trackers_make_no_other_run_and_no_other_program(tmp_path: Path) -> None:
    plain, tracked = config(trackers=()), config(tracking={"project": "p"})
    open_workdir(tmp_path, plain)
    check_config(tmp_path, tracked)
    open_workdir(tmp_path, tracked)
    assert read_config(tmp_path)["trackers"] == (NAME,)
    assert config_key(plain) == config_key(tracked)
    assert structure(plain) == structure(tracked)
    with pytest.raises(ConfigError, match="another config"):
        check_config(tmp_path, config(seed=1))


def test_a_run_is_read_without_the_module_of_its_tracker(tmp_path: Path) -> None:
    open_workdir(tmp_path, config())
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace(NAME, "gone.module:Tracker"))
    assert read_config(tmp_path)["trackers"] == ("gone.module:Tracker",)
    check_config(tmp_path, config())


def test_a_run_from_before_trackers_has_none(tmp_path: Path) -> None:
    open_workdir(tmp_path, config())
    path = tmp_path / "config.json"
    old = {name: value for name, value in json.loads(path.read_text()).items() if "track" not in name}
    path.write_text(json.dumps(old))
    assert read_config(tmp_path)["trackers"] == ()


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_one_line_that_names_the_extra(tmp_path, monkeypatch, name: str) -> None:
    """Even where a folder of its name, which the tool itself leaves, looks like one."""
    for module in [each for each in sys.modules if each.split(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    for _ in range(2):
        with pytest.raises(ConfigError, match=rf"trackers: {name} is not installed: pip install 'rnnlab\[{name}\]'"):
            make_trackers(config(trackers=(name,)))
        (tmp_path / name).mkdir(exist_ok=True)
    monkeypatch.delitem(sys.modules, name, raising=False)


MISTAKES = {
    "wanddb": "trackers.0.: unknown tracker 'wanddb'; did you mean wandb",
    "tests.records.recorder:Tracker": "trackers.0.: unknown name in .*recorder.py: 'Tracker'; known: .*Recorder",
    "pathlib:Path": "trackers: pathlib:Path makes .*; it must make a rnnlab.records.trackers.Tracker",
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_is_no_tracker_is_one_line(name: str) -> None:
    with pytest.raises(ConfigError, match=MISTAKES[name]):
        make_trackers(config(trackers=(name,)))


def test_help_says_what_the_fields_of_tracking_mean() -> None:
    text = render(config(), RunOptions)
    for words in ("--config.trackers=", "--config.tracking.project=None", "W&B's project, MLflow's experiment"):
        assert words in text


def test_the_tracker_in_the_docs_writes_each_line_once(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "how_to" / "track_with_wandb_and_mlflow.md"
    match = re.search(r'```python title="csv_tracker.py"\n(.*?)```', page.read_text(encoding="utf-8"), re.S)
    assert match
    (tmp_path / "csv_tracker.py").write_text(match[1])
    words = {"import_from": [str(tmp_path)], "trackers": ["csv_tracker:CsvTracker"]}
    write(tmp_path, 0, [1, 2], **words)
    write(tmp_path, 1, [2, 3], **words).finish("finished", {"steps": 3})
    losses = [line.split(",") for line in (tmp_path / "numbers.csv").read_text().splitlines() if "seconds" not in line]
    assert [(int(step), split) for step, split, name, _ in losses if name == "loss"] == both(1, 2, 3)
    assert losses[-1] == ["3", "", "status", "finished"]
