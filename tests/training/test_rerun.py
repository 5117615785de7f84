"""A run that is over and is started again: nothing is written anew, and what it has lost is made."""

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from rnnlab import train
from rnnlab.config.errors import ConfigError
from rnnlab.records.workdir import is_done
from rnnlab.training.loop import train_and_evaluate
from rnnlab.training.run import Run
from tests.helpers import SMALL_RUN
from tests.tiers import exhaustive_tests

pytestmark = pytest.mark.usefixtures("shared_programs")

CONFIG = SMALL_RUN | {"devices": 1, "steps": 40}
WORST = CONFIG | {"optimizer": dict(name="sgd", learning_rate=1e20, clip_norm=None)}
ENDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "finished": (CONFIG, {}),
    "stopped_early": (CONFIG | {"early_stopping": dict(patience=1, min_change=1e3)}, {}),
    "diverged": (WORST, {}),
    "pruned": (CONFIG, dict(stop_at=20, prune=True)),
}
"""By status: a config, and how it is trained."""


@pytest.fixture(
    scope="module",
    params=["finished", *exhaustive_tests(*(status for status in ENDS if status != "finished"))],
)
def over(request, tmp_path_factory) -> tuple[str, dict[str, Any], Path]:
    """A run that is over."""
    config, options = ENDS[request.param]
    workdir = tmp_path_factory.mktemp(request.param) / "run"
    assert train_and_evaluate(config, workdir, **options)["status"] == request.param
    return request.param, config, workdir


def contents(folder: Path) -> dict[str, tuple[str, int]]:
    """The hash and the time of change of every file."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in files
    }


def names_and_hashes(folder: Path) -> dict[str, str]:
    return {name: digest for name, (digest, _) in contents(folder).items()}


def fails(*_: Any, **__: Any) -> None:
    raise AssertionError("a run that is over is made anew")


def test_the_same_command_again_writes_nothing_and_says_one_line_with_the_numbers(over, monkeypatch, capsys) -> None:
    status, config, workdir = over
    before = contents(workdir)
    capsys.readouterr()
    monkeypatch.setattr(Run, "__init__", fails)
    summary = train_and_evaluate(config, workdir)
    assert contents(workdir) == before
    assert summary == json.loads((workdir / "summary.json").read_text())
    (line,) = capsys.readouterr().out.splitlines()
    assert f"{status.replace('_', ' ')} at step {summary['steps']} before" in line
    numbers = [summary["final"]["train"], summary["final"]["validation"], summary["best"].get("test")]
    for values in filter(None, numbers):
        assert f"loss {float(values['loss']):.4g}" in line


@pytest.mark.slow
@pytest.mark.parametrize("status", ["stopped_early", *exhaustive_tests("diverged")])
def test_more_steps_leave_a_run_alone_that_ended_by_itself(tmp_path: Path, monkeypatch, capsys, status: str) -> None:
    config, options = ENDS[status]
    train_and_evaluate(config, tmp_path, **options)
    before = contents(tmp_path)
    capsys.readouterr()
    monkeypatch.setattr(Run, "__init__", fails)
    assert train_and_evaluate(config | {"steps": 60}, tmp_path)["status"] == status
    assert contents(tmp_path) == before
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith(". More steps would not change it")
    assert ". ." not in line


@pytest.mark.parametrize("steps", [39, 1])
def test_fewer_steps_are_refused_and_config_json_is_untouched(over, steps: int) -> None:
    _, config, workdir = over
    before = contents(workdir)
    with pytest.raises(ConfigError, match=rf"steps: {steps} is fewer than the 40 of the run in"):
        train_and_evaluate(config | {"steps": steps}, workdir)
    assert contents(workdir) == before


def test_another_config_is_refused_and_config_json_is_untouched(over) -> None:
    _, config, workdir = over
    before = contents(workdir)
    with pytest.raises(ConfigError, match="another config"):
        train_and_evaluate(config | {"seed": 5}, workdir)
    assert contents(workdir) == before


@pytest.mark.slow
def test_figures_that_are_lost_are_drawn_again_and_nothing_else_changes(over, tmp_path: Path) -> None:
    _, config, workdir = over
    shutil.copytree(workdir, tmp_path / "run", copy_function=shutil.copy2)
    shutil.rmtree(tmp_path / "run" / "plots")
    (tmp_path / "run" / "gradient_flow.json").unlink()
    before = contents(tmp_path / "run")
    train_and_evaluate(config, tmp_path / "run")
    after = contents(tmp_path / "run")
    assert {name: after[name] for name in before} == before
    assert names_and_hashes(tmp_path / "run").keys() == names_and_hashes(workdir).keys()
    assert (tmp_path / "run" / "gradient_flow.json").read_bytes() == (workdir / "gradient_flow.json").read_bytes()


def test_handed_on_run_without_checkpoints_is_not_trained_again(over, tmp_path: Path) -> None:
    _, config, workdir = over
    (tmp_path / "run").mkdir()
    for name in ("config.json", "summary.json"):
        shutil.copy(workdir / name, tmp_path / "run" / name)
    before = contents(tmp_path / "run")
    train_and_evaluate(config, tmp_path / "run")
    assert contents(tmp_path / "run") == before


@pytest.mark.slow
@pytest.mark.parametrize("text", [None, *exhaustive_tests('{"status": "fin')])
def test_summary_that_is_lost_is_made_again(tmp_path: Path, text: str | None) -> None:
    first = train_and_evaluate(CONFIG, tmp_path)
    path = tmp_path / "summary.json"
    path.unlink() if text is None else path.write_text(text)
    lines = (tmp_path / "metrics.jsonl").read_text()
    again = train_and_evaluate(CONFIG, tmp_path)
    of_time = {"seconds", "steps_per_second"}
    assert {k: v for k, v in again.items() if k not in of_time} == {k: v for k, v in first.items() if k not in of_time}
    assert again["steps_per_second"] > 0
    assert re.sub(r'"seconds": .*', "", (tmp_path / "metrics.jsonl").read_text()) == re.sub(r'"seconds": .*', "", lines)


@pytest.mark.slow
def test_run_made_longer_has_no_summary_until_it_is_over_again(tmp_path: Path) -> None:
    train_and_evaluate(CONFIG, tmp_path)
    longer = CONFIG | {"steps": 60}

    def interrupt(step: int) -> bool:
        assert not is_done(tmp_path)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_and_evaluate(longer, tmp_path, stop=interrupt)
    assert not (tmp_path / "summary.json").exists()
    summary = train_and_evaluate(longer, tmp_path)
    assert (summary["status"], summary["steps"]) == ("finished", 60)


@pytest.mark.parametrize(("status", "code"), [("finished", 0), ("stopped_early", 0), ("diverged", 3), ("pruned", 0)])
def test_exit_status_is_that_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str, code: int) -> None:
    from rnnlab.training import loop

    (tmp_path / "mine.py").write_text(f"def get_config():\n    return {CONFIG!r}\n")
    monkeypatch.setattr(loop, "train_and_evaluate", lambda *_: {"status": status})
    assert train.main([f"--config={tmp_path / 'mine.py'}", f"--workdir={tmp_path / 'w'}"]) == code
