"""Every file of a run, a sweep or a report is named in one place."""

import ast
import functools
from pathlib import Path

import pytest

from rnnlab.records.folders import GroupDir, RecordingDir, ReportDir, SweepDir
from rnnlab.records.workdir import Workdir

ROOT = Path(__file__).parents[2]
FOLDERS = (GroupDir, RecordingDir, ReportDir, SweepDir, Workdir)
OF_OTHERS = {"vocabulary.json": "vocabulary.py", "base.py": "sweeps.py"}
"""Files of a prepared corpus, and of a benchmark's own folder, that have the name of one of a run or a sweep."""


@functools.cache
def literals(path: Path) -> list[str]:
    """The texts of a file that stand for themselves, in f-strings, too."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_file_is_named_in_one_place(kind: type) -> None:
    paths = [value for value in vars(kind(Path("x"))).values() if isinstance(value, Path) and value.suffix]
    names = {path.name for path in paths}
    assert names
    sources = [path for folder in ("rnnlab", "scripts") for path in (ROOT / folder).rglob("*.py")]
    users = {(text, path.name) for path in sources for text in literals(path) if text in names}
    allowed = {(name, "workdir.py") for name in names} | {(name, "folders.py") for name in names}
    assert users - set(OF_OTHERS.items()) <= allowed
    assert len(users - set(OF_OTHERS.items())) == len(names)


def test_a_run_of_a_sweep_knows_its_sweep_by_where_it_lies(tmp_path: Path) -> None:
    sweep = SweepDir(tmp_path)
    sweep.run("0001").mkdir(parents=True)
    assert SweepDir.of_run(sweep.run("0001")) is None
    sweep.manifest.touch()
    of_run = SweepDir.of_run(sweep.run("0001"))
    assert of_run is not None
    assert of_run.manifest == sweep.manifest
    assert SweepDir.of_run(tmp_path / "elsewhere" / "0001") is None
