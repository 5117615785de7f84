"""The docs are true: docs/extending.md is applied to a copy of the project, README's library code runs."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rnnlab.cli import default_workdir

ROOT = Path(__file__).parent.parent
TABLE_TESTS = [
    f"tests/{name}.py"
    for name in (
        "ops/test_activations",
        "ops/test_initializers",
        "tasks/test_tasks",
        "config/test_schema",
        "config/test_config",
        "test_imports",
        "diagnostics/test_saturation",
        "selfcheck/test_selfcheck",
        "test_docs",
    )
]
"""Those that what docs/extending.md adds is tested by, beside test_cells.py; slow tests are not among them."""
EXTENDING = ROOT / "docs" / "extending.md"
PIPED = {"capture_output": True, "text": True}
BLOCK = re.compile(r'```(\w+)(?: title="([^"]+)")?\n(.*?)```', re.S)


def blocks(file: Path) -> list[tuple[str, str, str]]:
    """(language, title, text) of every fenced block."""
    return [m.groups(default="") for m in BLOCK.finditer(file.read_text())]


def insert(text: str, diff: str) -> str:
    """The text with a diff's added lines behind its line of context."""
    context = [line[1:] for line in diff.splitlines() if line.startswith(" ")]
    added = [line[1:] for line in diff.splitlines() if line.startswith("+")]
    (anchor,) = context
    assert text.count(anchor + "\n") == 1, f"{anchor!r} does not stand once"
    return text.replace(anchor + "\n", "\n".join([anchor, *added]) + "\n")


@pytest.fixture(scope="module")
def extended(tmp_path_factory) -> Path:
    """A copy of the project with everything in docs/extending.md done to it."""
    copy = tmp_path_factory.mktemp("extended")
    for name in ("rnnlab", "tests", "configs", "docs", "scripts"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in (*ROOT.glob("*.md"), ROOT / "pyproject.toml"):
        shutil.copy(file, copy)
    for language, title, text in blocks(ROOT / "docs" / "extending.md"):
        if language == "python":
            (copy / title).parent.mkdir(exist_ok=True)
            (copy / title).write_text(text)
        elif language == "diff":
            (copy / title).write_text(insert((copy / title).read_text(), text))
    return copy


def run(folder: Path, *command: str) -> str:
    """The output of a Python command in a folder, whose packages come first."""
    environment = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def shell_commands(page: str) -> list[list[str]]:
    """The commands of every shell block of a page, in order, as words; a line that goes on is one command."""
    text, commands = page.replace("\\\n", " "), []
    for block in re.findall(r"```sh\n(.*?)```|((?:^    \S.*\n)+)", text, re.S | re.M):
        for line in "".join(block).splitlines():
            for command in re.split(r"&&|;", line.partition("#")[0]):
                words = command.split()
                commands.append(words[1:] if words[:1] == ["do"] else words)
    return [words for words in commands if words]


def flags_of(words: list[str]) -> dict[str, str]:
    """The flags of a command, by their names."""
    pairs = [word.removeprefix("--").partition("=") for word in words if word.startswith("--")]
    return {name: value for name, _, value in pairs}


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
PAGES += [page for page in sorted((ROOT / "docs").rglob("*.md")) if "results" not in page.parts]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_of_a_page_come_after_the_environment_is_entered(page: Path) -> None:
    text = page.read_text()
    entered = text.find("source .venv/bin/activate")
    first = re.search(r"^(```sh\n|    )(for .*\n +)?(python|pip|pytest) ", text, re.M)
    if first is not None and "This page is written by" not in text:
        assert 0 <= entered < first.start(), f"{page.name}: {first[0]!r} comes before source .venv/bin/activate"


def test_commands_of_the_readme_can_be_typed_in_order() -> None:
    made, checked = set(), 0
    for words in shell_commands((ROOT / "README.md").read_text()):
        if words[0] != "python" or "$" in "".join(words):
            continue
        flags = flags_of(words)
        checked += 1
        if words[1] == "-m":
            module = words[2].replace(".", "/")
            assert (ROOT / f"{module}.py").exists() or (ROOT / module).is_dir(), words
        else:
            assert (ROOT / words[1]).exists(), words
        config, workdir = flags.get("config"), flags.get("workdir")
        if config is not None:
            assert (ROOT / config.partition(":")[0]).exists(), words
            made.add(workdir or str(default_workdir(config)))
        elif workdir is not None and not workdir.startswith(("/", "docs/results/")):
            assert workdir in made, f"{' '.join(words)}: no command before it makes {workdir}"
    assert checked > 20


def test_no_command_trains_where_another_one_of_the_pages_has_left_another_run() -> None:
    trained = {}
    for page in PAGES:
        for words in shell_commands(page.read_text()):
            if words[1:3] != ["-m", "rnnlab.train"] or "$" in "".join(words):
                continue
            flags = flags_of(words)
            fields = {name: value for name, value in flags.items() if name.startswith("config")}
            fields.pop("config.steps", None)  # More of them go on.
            workdir = flags.get("workdir") or str(default_workdir(flags["config"]))
            assert trained.setdefault(workdir, fields) == fields, f"{page.name}: {' '.join(words)}"
    assert len(trained) > 10


def test_new_cell_is_twelve_lines_or_fewer():
    (cell,) = [text for _, title, text in blocks(ROOT / "docs" / "extending.md") if title == "rnnlab/cells/mgu.py"]
    body = cell[cell.index("class ") :]
    assert len([line for line in body.splitlines() if line.strip()]) <= 12


def test_everything_in_extending_can_be_done_to_the_project(extended):
    for _, title, text in blocks(ROOT / "docs" / "extending.md"):
        added = [line[1:] for line in text.splitlines() if line.startswith("+")] or text.splitlines()
        assert not title or set(added) <= set((extended / title).read_text().splitlines())


@pytest.mark.slow
def test_everything_new_passes_the_tests_that_read_the_tables(extended):
    titles = [Path(title) for language, title, _ in blocks(ROOT / "docs" / "extending.md") if language == "python"]
    cells = [title.stem for title in titles if title.parent.name == "cells"]
    pytest_run = ("-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider")
    of_cells = run(extended, *pytest_run, "tests/cells/test_cells.py", "-m", "", "-k", " or ".join(cells))
    others = run(extended, *pytest_run, *TABLE_TESTS)
    for said, at_least in ((of_cells, 20 * len(cells)), (others, 300)):
        passed = re.search(r"(\d+) passed", said)
        assert passed is not None
        assert int(passed[1]) >= at_least


@pytest.mark.slow
def test_commands_of_extending_train(extended, tmp_path):
    commands = [text for language, _, text in blocks(ROOT / "docs" / "extending.md") if language == "sh"]
    for number, text in enumerate(commands):
        words = text.replace("\\\n", " ").split()
        assert words[:2] == ["python", "-m"]
        words = [f"--workdir={tmp_path / str(number)}" if w.startswith("--workdir") else w for w in words[1:]]
        small = ["--config.steps=4", "--config.eval_every=4", "--config.task.length=8"]
        said = run(extended, *words, *small)
        assert "rnnlab.train" not in words or "finished at step 4" in said


@pytest.mark.slow
def test_a_study_of_its_own_goes_on_and_is_evaluated_from_elsewhere(tmp_path):
    for _, title, text in blocks(ROOT / "docs" / "extending.md"):
        if title.startswith("study/"):
            (tmp_path / title).parent.mkdir(exist_ok=True)
            (tmp_path / title).write_text(text)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def said(*words: str) -> str:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-m", *words], cwd=elsewhere, env=environment, **PIPED)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    train = ("rnnlab.train", "--config=../study/memory.py", "--workdir=run", "--config.task.length=8")
    assert "finished at step 4" in said(*train, "--config.steps=4")
    assert "finished at step 8" in said(*train, "--config.steps=8")
    config = json.loads((elsewhere / "run" / "config.json").read_text())
    assert config["model"]["cell"]["name"] == "cells:Orthogonal"
    assert config["import_from"] == [str(tmp_path / "study")]
    (elsewhere / "run").rename(elsewhere / "moved")
    assert "loss" in said("rnnlab.evaluate", "--workdir=moved")

    rng = np.random.default_rng(0)
    (tmp_path / "data" / "recordings").mkdir(parents=True)
    for part, rows in (("train", 40), ("test", 10)):
        series, targets = rng.standard_normal((rows, 6, 3)), rng.standard_normal(rows)
        np.savez(tmp_path / "data" / "recordings" / f"{part}.npz", series=series, targets=targets)
    (command,) = [text for language, _, text in blocks(EXTENDING) if language == "sh" and "watch:" in text]
    more = [word for word in command.replace("\\\n", " ").split()[3:] if word.startswith("--config.")]
    task = ("--config.task=recordings:Recordings", f"--data_dir={tmp_path / 'data'}", "--config.diagnostics_every=2")
    said("rnnlab.train", "--config=../study/memory.py", "--workdir=all", "--config.steps=4", *more, *task)
    lines = [json.loads(line) for line in (elsewhere / "all" / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["penalty/slow"] > 0
    assert (elsewhere / "all" / "plots" / "largest_unit.png").exists()
    seen = [json.loads(line) for line in (elsewhere / "all" / "diagnostics.jsonl").read_text().splitlines()]
    assert [line["spectrum"]["layer 1/h/distance from orthogonality"] < 1e-5 for line in seen] == [True, True]


SHORT = {"study/terms.py": 10, "study/rules.py": 10}


@pytest.mark.parametrize("title", SHORT)
def test_a_loss_term_and_an_optimiser_are_ten_lines_or_fewer(title: str) -> None:
    (text,) = [text for _, each, text in blocks(EXTENDING) if each == title]
    assert len([line for line in text.splitlines() if line.strip()]) <= SHORT[title]


@pytest.mark.slow
def test_runs_of_the_new_cells_sweep_are_those_of_their_own_numbers(extended, tmp_path):
    small = ["--config.steps=4", "--config.eval_every=4", "--config.task.length=8"]
    run(extended, "-m", "rnnlab.sweep", "--config=configs/sweeps/leaky_rate.py", f"--workdir={tmp_path / 's'}", *small)
    with (tmp_path / "s" / "runs.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len({row["final.validation.loss"] for row in rows}) == 3
    cell = ["--config.model.cell=leaky", f"--config.model.cell.rate={rows[1]['model.cell.rate']}"]
    run(extended, "-m", "rnnlab.train", "--config=configs/adding.py", f"--workdir={tmp_path / 'r'}", *cell, *small)
    summary = json.loads((tmp_path / "r" / "summary.json").read_text(encoding="utf-8"))
    assert summary["final"]["validation"]["loss"] == pytest.approx(float(rows[1]["final.validation.loss"]), rel=1e-5)


@pytest.mark.slow
def test_every_line_of_the_python_page_runs_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("configs", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    codes = [text for language, _, text in blocks(ROOT / "docs" / "python.md") if language == "python"]
    for code in codes:
        exec(compile(code, "docs/python.md", "exec"), names)
    assert len(codes) > 5
    assert names["run"].summary["status"] == "finished"


@pytest.mark.slow
def test_library_code_of_the_readme_runs():
    (code,) = [
        text for language, _, text in blocks(ROOT / "README.md") if language == "python" and "nnx.Module" in text
    ]
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    exec(compile(code, "README.md", "exec"), {})
