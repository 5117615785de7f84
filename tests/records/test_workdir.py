"""Who may write to a run's folder, and which runs it may hold: absent fields are their defaults."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from rnnlab import diagnose, evaluate, find_learning_rate, report
from rnnlab.config.errors import ConfigError
from rnnlab.config.overrides import to_json
from rnnlab.files.locks import claimed
from rnnlab.records.folders import SweepDir
from rnnlab.records.metrics import read_metrics
from rnnlab.records.run_config import resolve_config
from rnnlab.records.workdir import Workdir, held, open_workdir, read_config, trainer_of
from rnnlab.sweeps.spec.manifest import make_plan, open_sweep
from rnnlab.sweeps.spec.space import expand, load_sweep
from rnnlab.training.loop import train_and_evaluate
from tests.files.test_locks import start_holder
from tests.helpers import SMALL_RUN
from tests.tiers import exhaustive_tests

CONFIGS = {
    "plain": resolve_config(SMALL_RUN),
    "sections": resolve_config(
        SMALL_RUN
        | dict(
            averaging={},
            flight_recorder={},
            model=dict(cell=dict(name="lstm", features=4), attention="dot", softmax=None),
            optimizer=dict(name="sgd", learning_rate=0.1, schedule=dict(name="plateau", factor=0.5)),
        )
    ),
}


def without_a_field(config: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field of the config, by its path, with the config that lacks it."""
    for name, value in config.items():
        yield path + name, {k: v for k, v in config.items() if k != name}
        if isinstance(value, Mapping):
            for inner, section in without_a_field(value, f"{path}{name}."):
                yield inner, {**config, name: section}


def absent_equals_default() -> Iterator[Any]:
    for which, config in CONFIGS.items():
        for path, lacking in without_a_field(config):
            try:
                same = resolve_config(lacking) == config
            except ConfigError:  # It has no default.
                continue
            yield pytest.param(config, lacking, same, id=f"{which}-{path}")


ABSENT = list(absent_equals_default())


def write_config(workdir: Path, config: Mapping[str, Any]) -> None:
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "config.json").write_text(to_json(config))


def test_fields_that_are_off_are_many() -> None:
    off = [p.id for p in ABSENT if p.values[2]]
    assert len(off) > 60
    assert {"plain-curriculum", "plain-penalties", "plain-model.dropout", "plain-optimizer.gradient_noise"} <= set(off)


@pytest.mark.parametrize(("config", "lacking", "same"), ABSENT)
def test_field_that_a_stored_config_lacks_has_its_default(tmp_path, config, lacking, same) -> None:
    write_config(tmp_path, lacking)
    if same:
        assert read_config(tmp_path) == config
        open_workdir(tmp_path, config)
        assert json.loads((tmp_path / "config.json").read_text()) == json.loads(to_json(config))
    else:
        with pytest.raises(ConfigError, match="holds a run of another config"):
            open_workdir(tmp_path, config)
        assert (tmp_path / "config.json").read_text() == to_json(lacking)


@pytest.mark.parametrize("config", [CONFIGS["plain"] | {"gone": 3}, CONFIGS["plain"] | {"seed": "none"}, [1], "text"])
def test_stored_config_with_a_field_or_value_that_exists_no_more_is_named(tmp_path: Path, config: Any) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"config\.json"):
        open_workdir(tmp_path, CONFIGS["plain"])


def sweep(folder: Path, **fields: Any) -> dict[str, Any]:
    (folder / "mine.py").write_text(f"def get_config():\n    return {dict(base=SMALL_RUN, seeds=2) | fields!r}\n")
    return load_sweep(str(folder / "mine.py"), {})


@pytest.mark.parametrize("older", [False, True], ids=["configs in sweep.json", "configs in the runs' folders"])
def test_sweep_knows_its_runs_when_the_schema_has_a_new_field(tmp_path: Path, older: bool) -> None:
    fields = sweep(tmp_path, product={"optimizer.learning_rate": [0.1, 0.01], "model.cell.name": ["lstm", "gru"]})
    plan = open_sweep(tmp_path, fields, expand(fields))
    stored = json.loads((tmp_path / "sweep.json").read_text())
    for run, setting in zip(stored["runs"], plan.settings, strict=True):
        lacking = {k: v for k, v in setting.config.items() if k != "flight_recorder"}
        lacking["model"] = {k: v for k, v in lacking["model"].items() if k != "attention"}
        write_config(tmp_path / "runs" / setting.name, lacking)
        run["key"] = f"of the schema before {run['name']}"
        run["config"] = lacking
        if older:
            del run["config"]
    del stored["config"]
    if not older:
        stored["config"] = {}
    (tmp_path / "sweep.json").write_text(json.dumps(stored))
    again = make_plan(tmp_path, expand(fields))
    assert (again.added, again.gone) == (0, 0)
    assert [s.name for s in again.settings] == [s.name for s in plan.settings]
    assert again.groups.keys() == plan.groups.keys()
    fields["overrides"] = {"flight_recorder.steps": 7}
    other = make_plan(tmp_path, expand(fields))
    assert (other.added, other.gone) == (8, 8)


def test_run_that_left_a_sweep_keeps_its_config_beside_one_with_a_field_that_it_lacks(tmp_path: Path) -> None:
    fields = sweep(tmp_path)
    first = open_sweep(tmp_path, fields, expand(fields))
    stored = json.loads((tmp_path / "sweep.json").read_text())
    del stored["config"]["flight_recorder"]
    (tmp_path / "sweep.json").write_text(json.dumps(stored))
    other = fields | {"overrides": {"flight_recorder.steps": 7}}
    open_sweep(tmp_path, other, expand(other))
    back = make_plan(tmp_path, expand(fields))
    assert [s.name for s in back.settings] == [s.name for s in first.settings]
    assert back.added == 0


def test_a_second_writer_is_one_line_that_names_the_first(tmp_path: Path) -> None:
    process = start_holder(Workdir(tmp_path).lock)
    try:
        pattern = rf"is in use: process {process.pid} on .* writes there"
        with pytest.raises(ConfigError, match=pattern), held(tmp_path):
            raise AssertionError
        assert str(process.pid) in (trainer_of(tmp_path) or "")
        with pytest.raises(ConfigError, match=pattern):
            train_and_evaluate(SMALL_RUN, tmp_path)
        config = tmp_path / "mine.py"
        config.write_text(f"def get_config():\n    return {SMALL_RUN!r}\n")
        with pytest.raises(ConfigError, match=pattern):
            find_learning_rate.main([f"--config={config}", f"--workdir={tmp_path}"])
        assert {path.name for path in tmp_path.iterdir()} == {"run.lock", "mine.py"}
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_only_one_report_is_written_to_a_folder_at_a_time(tmp_path: Path) -> None:
    fields = sweep(tmp_path)
    open_sweep(tmp_path, fields, expand(fields))
    process = start_holder(tmp_path / "report.lock")
    try:
        with pytest.raises(ConfigError, match="is in use"):
            report.main([f"--workdir={tmp_path}"])
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_run_of_a_group_in_training_is_in_use(tmp_path: Path) -> None:
    fields = sweep(tmp_path)
    plan = open_sweep(tmp_path, fields, expand(fields))
    (name,) = plan.groups
    process = start_holder(SweepDir(tmp_path).group(name).lock)
    try:
        workdir = tmp_path / "runs" / plan.settings[1].name
        assert str(process.pid) in (trainer_of(workdir) or "")
        with pytest.raises(ConfigError, match="is in use"), held(workdir):
            raise AssertionError
    finally:
        process.kill()
        process.communicate()
    with held(workdir), claimed(Workdir(workdir).lock) as mine:
        assert not mine
    assert not workdir.exists()  # Nothing but the lock was in it.


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("written", [False, True])
def test_a_folder_that_is_made_and_stays_empty_is_removed(tmp_path, before, written):
    workdir = tmp_path / "run"
    if before:
        workdir.mkdir()
    with contextlib.suppress(ConfigError), held(workdir):
        assert workdir.is_dir()
        if written:
            (workdir / "config.json").write_text("{}")
        raise ConfigError("a mistake")
    assert workdir.exists() == (before or written)


@pytest.fixture(scope="module")
def in_progress(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run that has ended, and whose lock another process holds."""
    workdir = tmp_path_factory.mktemp("in_progress") / "run"
    train_and_evaluate(SMALL_RUN | {"steps": 20, "flight_recorder": {}}, workdir)
    process = start_holder(Workdir(workdir).lock)
    yield workdir
    process.kill()
    process.communicate()


READERS = {
    "evaluate": (evaluate.main, [], 0),
    "diagnose": (diagnose.main, ["--measure=horizon"], 0),
    "html": (diagnose.main, ["--html"], 2),
}


@pytest.mark.slow
@pytest.mark.parametrize("command", ["evaluate", *exhaustive_tests("diagnose", "html")])
def test_readers_write_nothing_to_a_run_in_progress(in_progress: Path, capfd, command: str) -> None:
    main, words, status = READERS[command]
    before = {path: path.stat().st_mtime_ns for path in in_progress.rglob("*")}
    if status:
        with pytest.raises(ConfigError, match=r"trains there; --output names another folder"):
            main([f"--workdir={in_progress}", *words])
    else:
        assert main([f"--workdir={in_progress}", *words]) == 0
        assert f"nothing is written to {in_progress}: process " in capfd.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in in_progress.rglob("*")} == before


@pytest.mark.slow
def test_of_two_trainings_in_one_workdir_one_ends_with_a_line_and_the_other_is_as_alone(tmp_path: Path) -> None:
    config = SMALL_RUN | {"devices": 1, "steps": 3000, "checkpoint_every": 100}
    (tmp_path / "mine.py").write_text(f"def get_config():\n    return {config!r}\n", encoding="utf-8")
    words = ["-m", "rnnlab.train", f"--config={tmp_path / 'mine.py'}", f"--workdir={tmp_path / 'run'}"]
    pipes: dict[str, Any] = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    both = [subprocess.Popen([sys.executable, *words], **pipes) for _ in range(2)]
    output = {process.pid: process.communicate(timeout=300) for process in both}
    (winner,), (loser,) = ([process.pid for process in both if process.returncode == status] for status in (0, 2))
    (line,) = [line for line in output[loser][1].splitlines() if not line.startswith(("E0", "W0", "E1", "W1"))]
    assert line.startswith(f"error: {tmp_path / 'run'} is in use: process {winner} on ")
    assert output[loser][0] == ""
    lines = [(each["step"], each["split"]) for each in read_metrics(tmp_path / "run")]
    assert len(lines) == len(set(lines)) == 300 + 150 + 1
