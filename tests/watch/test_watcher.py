"""The answers to a page: that nothing in it changes, how a run is doing, and what is new of it."""

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from rnnlab.config.errors import ConfigError
from rnnlab.config.fields import takes
from rnnlab.config.reading import load_file
from rnnlab.config.references import READY, ready_configs
from rnnlab.records.run_config import resolve_config
from rnnlab.tasks import TASKS, make_task
from rnnlab.watch import watcher
from rnnlab.watch.facts import NOTHING, facts_of
from rnnlab.watch.watcher import Watcher
from tests.watch.workdirs import (
    decay,
    diagnostics_line,
    lines_of,
    snapshot,
    train_line,
    validation_line,
    write_lock,
    write_run,
    write_summary,
    write_sweep,
)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "LATELY", 0.0)


class Page:
    """Asks as a page does, and keeps what it is sent."""

    def __init__(self, workdir: Path, run: str = "", metric: str = ""):
        self.watcher, self.run, self.metric = Watcher(workdir), run, metric
        self.curves: dict[str, dict[str, Any]] = {}
        self.head: dict[str, Any] = {}
        self.rows: dict[str, dict[str, Any]] = {}
        self._since, self._hash, self._token = 0, "", ""

    def ask(self) -> dict[str, Any]:
        """The next answer, as it comes out of JSON."""
        answer = self.watcher.answer(self.run, self._since, self._hash, self._token, self.metric)
        answer = json.loads(json.dumps(answer))
        self._since, self._hash, self._token = answer["tick"], answer.get("hash", ""), answer["token"]
        for name, new in answer.get("curves", {}).items():
            old = self.curves.get(name, {"x": [], "y": []})
            self.curves[name] = {key: old[key][: new["from"]] + new[key] for key in ("x", "y")}
        self.head = answer.get("head", self.head)
        self.rows |= {row["name"]: row for row in answer.get("rows", [])}
        return answer

    def panel(self, title: str) -> dict[str, Any]:
        (panel,) = [each for each in self.head["panels"] if each["title"] == title]
        return panel


# --- read-only -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["run", "sweep", "run of a sweep", "waiting"])
def test_nothing_in_the_folder_changes_and_no_lock_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    folder = tmp_path / "work"
    if kind == "run":
        write_run(folder, decay(30))
        (folder / "diagnostics.jsonl").write_text(lines_of(map(diagnostics_line, (0, 10))))
        write_lock(folder / "run.lock")
    elif kind != "waiting":
        write_sweep(folder)
        write_lock(folder / "groups" / "000" / "group.lock")

    def refuse(*words: Any) -> None:
        raise AssertionError("a lock")

    for name in ("flock", "lockf"):
        monkeypatch.setattr(fcntl, name, refuse)
    before = snapshot(tmp_path)
    page = Page(folder, "0001" if kind == "run of a sweep" else "")
    for _ in range(3):
        page.ask()
    assert page.curves or kind == "waiting"
    assert snapshot(tmp_path) == before


# --- a run -----------------------------------------------------------------------------------------------------------


def test_a_page_sees_a_run_from_before_it_begins_to_after_it_has_resumed(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    page = Page(folder)
    assert page.ask()["text"] == f"{folder} does not exist yet"
    folder.mkdir()
    write_lock(folder / "run.lock")
    assert page.ask()["kind"] == "waiting"

    write_run(folder)
    answer = page.ask()
    assert (answer["kind"], answer["status"]["word"], answer["curves"]) == ("run", "starting", {})
    assert page.panel("loss")["hint"]

    metrics = folder / "metrics.jsonl"
    with metrics.open("a") as file:
        file.write(lines_of([train_line(10), train_line(20), validation_line(20)]) + '{"step": 30, "sp')
    answer = page.ask()
    assert answer["status"]["word"] == "running"
    assert answer["progress"] == {"step": 20, "steps": 100, "rate": 100.0, "seconds": 0.2, "left": 0.8}
    assert page.curves["train/loss"] == {"x": [10, 20], "y": [0.5, 0.5]}
    with metrics.open("a") as file:
        file.write('lit": "train", "loss": 0.125}\n')
    answer = page.ask()
    assert list(answer["curves"]) == ["train/loss"]
    assert answer["curves"]["train/loss"] == {"from": 2, "x": [30], "y": [0.125]}
    assert "head" not in answer

    write_summary(folder, "interrupted", 30)
    (folder / "run.lock").unlink()
    assert page.ask()["status"]["word"] == "interrupted"

    (folder / "new").write_text(lines_of([train_line(10, 0.75), train_line(20, 0.5), train_line(30, 0.25)]))
    os.replace(folder / "new", metrics)  # As a run does that goes on from a checkpoint.
    write_lock(folder / "run.lock")
    assert page.ask()["status"]["word"] == "running"
    assert page.curves["train/loss"] == {"x": [10, 20, 30], "y": [0.75, 0.5, 0.25]}

    with metrics.open("a") as file:
        file.write(lines_of([train_line(40, "nan")]))
    write_summary(folder, "diverged", 40)
    answer = page.ask()
    assert answer["status"]["word"] == "diverged"
    assert answer["curves"]["train/loss"] == {"from": 3, "x": [40], "y": [None], "odd": [[3, "nan"]]}


@pytest.mark.parametrize(
    ("word", "summary", "process", "host", "silent"),
    [
        ("running", None, None, None, 5),
        ("running", None, None, None, 60),
        ("quiet", None, None, None, 3600),
        ("quiet", None, None, "elsewhere", 3600),
        ("running", None, None, "elsewhere", 30),
        ("stopped", None, 2**22 - 1, None, 3600),
        ("running", None, 2**22 - 1, None, 1),
        ("stopped", None, 0, None, 3600),
        ("running", "interrupted", None, None, 5),
        ("interrupted", "interrupted", 0, None, 5),
        ("finished", "finished", None, None, 5),
        ("stopped_early", "stopped_early", 0, None, 5),
        ("diverged", "diverged", 0, None, 5),
        ("pruned", "pruned", 0, None, 5),
        ("paused", "paused", 0, None, 5),
    ],
)
def test_status_of_a_run(
    tmp_path: Path, word: str, summary: str | None, process: int | None, host: str | None, silent: int
) -> None:
    """process: 0: no lock file; None: this one."""
    write_run(tmp_path, decay(20))
    os.utime(tmp_path / "metrics.jsonl", (time.time() - silent,) * 2)
    if summary:
        write_summary(tmp_path, summary)
    if process != 0:
        write_lock(tmp_path / "run.lock", process, host)
    assert Page(tmp_path).ask()["status"]["word"] == word


def test_damage_costs_no_more_than_itself_and_is_said(tmp_path: Path) -> None:
    write_run(tmp_path, [train_line(10)])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write("{}\n" + lines_of([train_line(20)]))
    for name in ("summary.json", "run.lock", "diagnostics.jsonl"):
        (tmp_path / name).write_text("{half a l")
    page = Page(tmp_path)
    answer = page.ask()
    assert answer["problems"] == ["1 lines of metrics.jsonl cannot be read"]
    assert page.curves["train/loss"]["x"] == [10, 20]
    (tmp_path / "config.json").write_text("[")
    assert page.ask()["kind"] == "run"


NO_JSON_NUMBER = [
    ("metrics.jsonl", f'{{"step": 30, "split": "train", "loss": 1{400 * "0"}}}'),
    ("metrics.jsonl", '{"step": 30, "split": "train", "loss": NaN, "seconds": NaN}'),
    ("summary.json", '{"status": "finished", "steps": NaN}'),
    ("summary.json", f'{{"status": "finished", "steps": 1{400 * "0"}}}'),
    ("config.json", f'{{"steps": 1{400 * "0"}}}'),
    ("config.json", '{"steps": Infinity}'),
    ("diagnostics.jsonl", f'{{"step": 10, "norms": {{"h": [1, 1{400 * "0"}]}}}}'),
]


@pytest.mark.parametrize(("name", "text"), NO_JSON_NUMBER, ids=range(len(NO_JSON_NUMBER)))
def test_a_browser_reads_every_answer_whatever_the_numbers(tmp_path: Path, name: str, text: str) -> None:
    write_run(tmp_path, [train_line(10), train_line(20)])
    with (tmp_path / name).open("a" if name.endswith("l") else "w") as file:
        file.write(text + "\n")
    page = Page(tmp_path)
    json.dumps(page.ask(), allow_nan=False)
    assert page.curves["train/loss"]["x"][:2] == [10, 20]


def test_a_config_of_any_make_is_shown(tmp_path: Path) -> None:
    write_run(tmp_path, [train_line(10), train_line(20)])
    odd = {"task": 3, "model": [], "optimizer": None, "diagnostics": 7}
    for config in ({}, odd, {"task": {"name": ["x"]}, "steps": "many", "optimizer": {"learning_rate": []}}):
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert Page(tmp_path).ask()["curves"]


def test_a_large_file_comes_in_several_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rnnlab.watch import tails

    monkeypatch.setattr(tails, "CHUNK", 2000)
    monkeypatch.setattr(watcher, "READING_SECONDS", 0.0)
    page = Page(write_run(tmp_path, decay(200)))
    answers = [page.ask()]
    while answers[-1]["more"]:
        answers.append(page.ask())
    assert len(answers) > 5
    assert [each["share"] for each in answers] == sorted(each["share"] for each in answers)
    assert len(page.curves["train/loss"]["x"]) == 200
    assert answers[-1]["share"] == 1


# --- its panels ------------------------------------------------------------------------------------------------------


def test_panels_have_what_was_measured_beside_their_levels(tmp_path: Path) -> None:
    write_run(tmp_path, decay(20))
    (tmp_path / "diagnostics.jsonl").write_text(lines_of(map(diagnostics_line, (0, 10, 20))))
    page = Page(tmp_path)
    answer = page.ask()
    assert page.panel("loss")["levels"] == [[pytest.approx(1 / 6), "baseline 0.1667"], [0.01, "solved 0.01"]]
    assert [each["name"] for each in page.panel("loss")["curves"]] == ["train/loss", "validation/loss"]
    assert page.panel("gradient norm before clipping")["levels"] == [[1.0, "clip 1"]]
    assert page.panel("steps per second")["curves"]
    assert page.panel("layer 1: ‖∂L/∂hₜ‖")["map"] == "gradient_flow/layer 1/h"
    assert answer["maps"]["gradient_flow/layer 1/h"]["columns"][1] == [10, 6, [-600, -500, -400, -300, -200, -100]]
    half_life = page.panel("half-life in time steps (▲: no decay)")["curves"][0]["name"]
    assert answer["curves"][half_life]["odd"] == [[0, "inf"], [1, "inf"], [2, "inf"]]
    assert [each["dashed"] for each in page.panel("layer 1: gradient (dashed: after clipping)")["curves"]] == [
        False,
        True,
    ]


@pytest.mark.parametrize(("task", "drawn"), [("adding", True), ("copying", False)])
def test_half_life_is_drawn_where_it_says_something(tmp_path: Path, task: str, drawn: bool) -> None:
    write_run(tmp_path, decay(20), task={"name": task, "length": 6} if drawn else {"name": task})
    (tmp_path / "diagnostics.jsonl").write_text(lines_of(map(diagnostics_line, (0, 10))))
    page = Page(tmp_path)
    page.ask()
    panel = page.panel("half-life in time steps (▲: no decay)")
    assert (bool(panel["curves"]), bool(panel["hint"])) == (drawn, not drawn)


def test_a_panel_without_data_says_what_to_set(tmp_path: Path) -> None:
    page = Page(write_run(tmp_path, decay(20), optimizer={"name": "sgd", "clip_norm": None}))
    page.ask()
    assert "--config.optimizer.clip_norm=1" in page.panel("gradient norm before clipping")["hint"]
    assert "diagnostics_every" in page.panel("norms")["hint"]
    assert "--config.diagnostics=gradient_flow,norms,spectrum shows" in page.panel("spectrum")["hint"]


def test_numbers_of_diagnostics_from_outside_are_shown(tmp_path: Path) -> None:
    write_run(tmp_path, decay(20), diagnostics=["mine.module:Depth"])
    line = {"step": 0, "seconds": 1.0, "mine.module:Depth": {"layer 1/depth": 3.0, "matrix": [[1.0]], "empty": []}}
    (tmp_path / "diagnostics.jsonl").write_text(lines_of([line]))
    page = Page(tmp_path)
    page.ask()
    assert [each["label"] for each in page.panel("mine.module:Depth")["curves"]] == ["layer 1/depth"]


@pytest.mark.parametrize("name", [name for name in ready_configs() if not name.startswith("sweeps/")])
def test_levels_are_those_of_the_task(name: str) -> None:
    section = json.loads(json.dumps(resolve_config(load_file(READY + name))["task"]))
    facts, factory = facts_of(section), TASKS[section["name"]]
    # One that reads data is not made.
    task: Any = factory if takes(factory, "data_dir") else make_task(section)
    assert facts.larger_is_better == task.larger_is_better
    assert facts.baselines == task.baselines
    assert facts.solved == (None if task is factory else task.solved)
    assert facts.reads_every_step == (task.readout == "every")


@pytest.mark.parametrize(
    "section", [None, 3, {}, {"name": "other"}, {"name": "mine.module:Task"}, {"name": "adding", "x": 1}]
)
def test_a_task_of_others_has_no_levels(section: Any) -> None:
    assert facts_of(section) == NOTHING


# --- a sweep ---------------------------------------------------------------------------------------------------------


def test_a_sweep_has_a_row_for_each_run_and_curves_of_one_metric(tmp_path: Path) -> None:
    page = Page(write_sweep(tmp_path / "sweep"))
    answer = page.ask()
    assert answer["kind"] == "sweep"
    assert not answer["more"]
    assert page.head["axes"] == ["optimizer.learning_rate", "seed"]
    assert "train/loss" in page.head["metrics"]
    assert page.head["larger"] == ["validation/within_0.04"]
    assert [page.rows[name]["status"] for name in sorted(page.rows)] == ["finished", "running", "running", "waiting"]
    assert page.rows["0001"]["axes"] == {"optimizer.learning_rate": 0.02, "seed": 0}
    assert page.rows["0001"]["step"] == 20
    assert page.rows["0001"]["best"]["validation/loss"] == page.curves["0001"]["y"][-1]
    assert sorted(page.curves) == ["0000", "0001", "0002"]
    assert page.ask()["rows"] == []

    with (tmp_path / "sweep" / "runs" / "0002" / "metrics.jsonl").open("a") as file:
        file.write(lines_of([validation_line(30, 0.125), train_line(30, "inf")]))
    answer = page.ask()
    assert [row["name"] for row in answer["rows"]] == ["0002"]
    assert answer["rows"][0]["last"]["train/loss"] == "inf"
    assert answer["curves"] == {"0002": {"from": 2, "x": [30], "y": [0.125]}}
    assert len(json.dumps(answer)) < 1500


def test_runs_of_a_group_are_at_work_while_its_lock_is_held(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep")
    old = time.time() - 100
    for path in folder.glob("runs/*/metrics.jsonl"):
        os.utime(path, (old, old))
    page = Page(folder)
    page.ask()
    assert [page.rows[name]["status"] for name in sorted(page.rows)] == ["finished", "stopped", "stopped", "waiting"]
    write_lock(folder / "groups" / "001" / "group.lock")  # The group of the runs 1 and 3.
    page.ask()
    assert [page.rows[name]["status"] for name in sorted(page.rows)] == ["finished", "running", "stopped", "starting"]
    alone = Page(folder / "runs" / "0001")
    assert alone.ask()["status"]["word"] == "running"


def test_a_run_of_a_sweep_is_shown_as_one_alone(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep")
    of_sweep, alone = Page(folder, "0001"), Page(folder / "runs" / "0001")
    of_sweep.ask()
    alone.ask()
    assert of_sweep.curves == alone.curves
    assert of_sweep.head["panels"] == alone.head["panels"]


def test_a_sweep_that_grows_shows_its_new_runs(tmp_path: Path) -> None:
    page = Page(write_sweep(tmp_path / "sweep", runs=2))
    page.ask()
    write_sweep(tmp_path / "sweep", runs=5)
    page.ask()
    assert len(page.rows) == 5


def test_a_sweep_of_any_make_is_shown(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep")
    page = Page(folder)
    page.ask()
    run = {"name": "0001", "in_sweep": True, "axes": {}}
    odd = {
        "runs": [run, {"name": 3}, {"name": "0002", "axes": []}, 7],
        "groups": {"x": 1, "000": {"runs": 3}, "001": {"runs": ["0001", []]}},
    }
    for manifest in (odd, {"runs": {}, "groups": []}, {}):
        (folder / "sweep.json").write_text(json.dumps(manifest))
        assert page.ask()["kind"] == "sweep"
    assert page.head["axes"] == []


@pytest.mark.parametrize("name", ["0009", "../0000", "..", "/etc", "0000/../0001", "０００１", "%2e%2e"])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    folder = write_sweep(tmp_path / "sweep")
    manifest = json.loads((folder / "sweep.json").read_text())
    manifest["runs"].append({"name": "../../secret", "in_sweep": True, "axes": {}})
    (folder / "sweep.json").write_text(json.dumps(manifest))
    write_run(tmp_path / "secret", decay(5))
    page = Page(folder, name)
    answer = page.ask()
    assert answer["kind"] == "unknown"
    page = Page(folder)
    page.ask()
    assert sorted(page.rows) == ["0000", "0001", "0002", "0003"]


# --- folders of something else ---------------------------------------------------------------------------------------


def test_a_folder_of_something_else_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file is a file, not the folder of a run or a sweep"):
        Watcher(tmp_path / "file")
    write_run(tmp_path / "runs" / "adding")
    with pytest.raises(ConfigError, match=r"no config\.json and no sweep\.json; in it are adding$"):
        Watcher(tmp_path / "runs")
