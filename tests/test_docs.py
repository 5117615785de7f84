"""The docs are true: a copy of the project gets what docs/how_to shows, every command is understood, code runs."""

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rnnlab.cli import default_workdir

ROOT = Path(__file__).parent.parent
HOW_TO = sorted((ROOT / "docs" / "how_to").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
PAGES += [page for page in sorted((ROOT / "docs").rglob("*.md")) if "results" not in page.parts]
TABLE_TESTS = [
    f"tests/{name}.py"
    for name in (
        "ops/test_activations",
        "ops/test_initializers",
        "optim/test_schedules",
        "tasks/test_tasks",
        "config/test_schema",
        "config/test_config",
        "test_imports",
        "diagnostics/test_saturation",
        "selfcheck/test_selfcheck",
    )
]
"""Those that what docs/how_to adds is tested by, beside test_cells.py."""
PIPED = {"capture_output": True, "text": True}
BLOCK = re.compile(r'```(\w+)(?: title="([^"]+)")?\n(.*?)```', re.S)
ENTERED = "[in the project's environment](index.md#before-you-begin)"
"""A page of docs/how_to may say this in place of `source .venv/bin/activate`."""


def blocks(file: Path) -> list[tuple[str, str, str]]:
    """(language, title, text) of every fenced block."""
    return [m.groups(default="") for m in BLOCK.finditer(file.read_text())]


def files_of(pages: list[Path]) -> dict[str, str]:
    """The files that pages show, path -> text. One that may stand in two places is titled "PATH or PATH"."""
    files: dict[str, str] = {}
    for page in pages:
        for language, title, text in blocks(page):
            for path in title.split(" or ") if language == "python" and title else ():
                assert files.setdefault(path, text) == text, f"{page.name}: another page has another {path}"
    return files


def insert(text: str, diff: str) -> str:
    """The text with a diff's added lines behind its line of context."""
    context = [line[1:] for line in diff.splitlines() if line.startswith(" ")]
    added = [line[1:] for line in diff.splitlines() if line.startswith("+")]
    (anchor,) = context
    assert f"\n{text}".count(f"\n{anchor}\n") == 1, f"{anchor!r} does not stand once"
    return f"\n{text}".replace(f"\n{anchor}\n", "\n".join(["", anchor, *added, ""]))[1:]


@pytest.fixture(scope="module")
def extended(tmp_path_factory) -> Path:
    """A copy of the project with everything in docs/how_to done to it, and the files of all pages."""
    copy = tmp_path_factory.mktemp("extended")
    for name in ("rnnlab", "tests", "configs", "scripts"):
        shutil.copytree(ROOT / name, copy / name)
    (copy / "docs").symlink_to(ROOT / "docs")
    for file in (*ROOT.glob("*.md"), ROOT / "pyproject.toml"):
        shutil.copy(file, copy)
    for path, text in files_of(PAGES).items():
        (copy / path).parent.mkdir(exist_ok=True)
        (copy / path).write_text(text)
    for page in HOW_TO:
        for language, title, text in blocks(page):
            if language == "diff":
                (copy / title).write_text(insert((copy / title).read_text(), text))
    rng = np.random.default_rng(0)
    (copy / "DATA" / "recordings").mkdir(parents=True)
    for part, rows in (("train", 40), ("test", 10)):
        series, targets = rng.standard_normal((rows, 6, 3)), rng.standard_normal(rows)
        np.savez(copy / "DATA" / "recordings" / f"{part}.npz", series=series, targets=targets)
    return copy


def run(folder: Path, *command: str, typed: str | None = None) -> str:
    """The output of a Python command in a folder, whose packages come first. typed: what it reads."""
    environment = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, *command], cwd=folder, env=environment, input=typed, **PIPED)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def outcomes(folder: Path, commands: list[list[str]], *flags: str) -> list[tuple[int, str]]:
    """(Exit status, what was printed) of Python commands, run in one process in a folder."""
    return json.loads(run(folder, "-m", "tests.commands", *flags, typed=json.dumps(commands)).splitlines()[-1])


def shell_commands(page: Path) -> list[list[str]]:
    """The commands of every shell block of a page, in order, as words; a line that goes on is one command."""
    text, commands = page.read_text().replace("\\\n", " "), []
    for block in re.findall(r"```sh\n(.*?)```|((?:^    \S.*\n)+)", text, re.S | re.M):
        for line in "".join(block).splitlines():
            try:
                lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
                lexer.whitespace_split = True
                words = list(lexer)
            except ValueError:  # An indented text with an apostrophe.
                continue
            commands.append([])
            for word in words:
                if set(word) <= set(";&|()<>"):
                    commands.append([])
                elif word != "do" and (commands[-1] or not re.match(r"\w+=", word)):  # NAME=value before a command.
                    commands[-1].append(word)
    return [words for words in commands if words]


def python_commands(page: Path) -> list[list[str]]:
    """The words after `python` of a page's commands, of those that are rnnlab's and the same wherever they are run."""
    words = [words[1:] for words in shell_commands(page) if words[0] == "python" and "$" not in "".join(words)]
    return [each for each in words if each[:2] != ["-m", "pytest"]]


def flags_of(words: list[str]) -> dict[str, str]:
    """The flags of a command, by their names."""
    pairs = [word.removeprefix("--").partition("=") for word in words if word.startswith("--")]
    return {name: value for name, _, value in pairs}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_of_a_page_come_after_the_environment_is_entered(page: Path) -> None:
    text = page.read_text()
    places = [text.find(each) for each in ("source .venv/bin/activate", ENTERED)]
    entered = min((place for place in places if place >= 0), default=-1)
    first = re.search(r"^(```sh\n|    )(for .*\n +)?(python|pip|pytest) ", text, re.M)
    if first is not None and "This page is written by" not in text:
        assert 0 <= entered < first.start(), f"{page.name}: {first[0]!r} comes before the environment is entered"


@pytest.mark.parametrize("page", [ROOT / "README.md", *HOW_TO], ids=lambda page: page.name)
def test_commands_of_a_page_find_what_those_before_them_left(page: Path) -> None:
    made, shown = set(), files_of([page])
    for words in python_commands(page):
        flags = flags_of(words)
        config, workdir = flags.get("config"), flags.get("workdir")
        if config is not None:
            file = config.partition(":")[0]
            assert file == "rnnlab" or file in shown or (ROOT / file).exists(), words
            made.add(workdir or str(default_workdir(config)))
        elif workdir is not None and not workdir.startswith(("/", "docs/results/")):
            assert workdir in made, f"{' '.join(words)}: no command before it makes {workdir}"
        made.add(flags.get("output"))


def test_every_command_of_the_pages_is_understood(extended: Path) -> None:
    """Its module is there, its flags, its config, and every field that it sets; --help ends it early."""
    pages = {page: python_commands(page) for page in PAGES if "This page is written by" not in page.read_text()}
    commands = [words for each in pages.values() for words in each]
    ended = outcomes(extended, [[*words, "--help"] for words in commands])
    wrong = [f"{' '.join(words)}: {said}" for words, (status, said) in zip(commands, ended, strict=True) if status]
    assert not wrong, "\n".join(wrong)
    assert len(commands) > 50


def test_no_command_trains_where_another_one_of_the_pages_has_left_another_run() -> None:
    trained = {}
    for page in PAGES:
        for words in python_commands(page):
            if words[:2] != ["-m", "rnnlab.train"]:
                continue
            flags = flags_of(words)
            fields = {name: value for name, value in flags.items() if name.startswith("config")}
            fields.pop("config.steps", None)  # More of them go on.
            workdir = flags.get("workdir") or str(default_workdir(flags["config"]))
            assert trained.setdefault(workdir, fields) == fields, f"{page.name}: {' '.join(words)}"
    assert len(trained) > 10


SHORT = {"mgu_after.py": 12, "terms.py": 10, "rules.py": 10}
"""How many lines those of the pages may have, imports and documentation of a cell aside."""


@pytest.mark.parametrize("title", SHORT)
def test_a_cell_a_loss_term_and_an_optimiser_are_short(title: str) -> None:
    text = files_of(HOW_TO)[title]
    body = text[text.index("class ") :] if "class " in text else text
    assert len([line for line in body.splitlines() if line.strip()]) <= SHORT[title]


def test_everything_in_how_to_can_be_done_to_the_project(extended: Path) -> None:
    shown = [(title, text) for page in HOW_TO for _, title, text in blocks(page) if title]
    assert len(shown) > 20
    for titles, text in shown:
        added = [line[1:] for line in text.splitlines() if line.startswith("+")] or text.splitlines()
        for title in titles.split(" or "):
            assert set(added) <= set((extended / title).read_text().splitlines())


def test_each_row_of_the_table_of_contributing_has_a_page() -> None:
    """The row links to it, and the page says how to do it outside the project and in it."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    table = text[text.index("| to add |") :].split("\n\n")[0].splitlines()[2:]
    pages = [ROOT / link for row in table for link in re.findall(r"\((docs/how_to/add_\w+\.md)\)", row.split("|")[1])]
    assert len(pages) == len(table)
    assert set(pages) == {page for page in HOW_TO if page.name.startswith("add_")}


def test_every_page_of_how_to_is_on_its_index() -> None:
    text = (ROOT / "docs" / "how_to" / "index.md").read_text()
    assert [page.name for page in HOW_TO if f"({page.name})" not in text] == ["index.md"]


@pytest.mark.slow
def test_everything_new_passes_the_tests_that_read_the_tables(extended: Path) -> None:
    diffs = [text for page in HOW_TO for language, _, text in blocks(page) if language == "diff"]
    names = re.findall(r'^\+ *"(\w+)": ', "\n".join(diffs), re.M)
    assert len(names) > 7
    whole = ["test_schema", "test_config", "test_imports"]  # What is said of the tables as wholes.
    pytest_run = ("-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", "-m", "not exhaustive")
    said = run(extended, *pytest_run, "tests/cells/test_cells.py", *TABLE_TESTS, "-k", " or ".join([*names, *whole]))
    passed = re.search(r"(\d+) passed", said)
    assert passed is not None
    assert int(passed[1]) >= 15 * len(names) + 300


@pytest.mark.slow
def test_commands_that_add_something_train(extended: Path, tmp_path: Path) -> None:
    """Each command of a page that shows a file for it, with fewer and shorter steps."""
    small = ["--config.steps=4", "--config.eval_every=4"]
    commands = []
    for page in HOW_TO:
        modules = [path.removesuffix(".py") for path in files_of([page])]
        for words in python_commands(page):
            if words[1] == "rnnlab.train" and any(f"={each}:" in word for word in words for each in modules):
                length = [] if "--data_dir=DATA" in words else ["--config.task.length=9"]
                commands.append([*words, *small, *length, f"--workdir={tmp_path / str(len(commands))}"])
    assert len(commands) > 10
    for words, (status, said) in zip(commands, outcomes(extended, commands, "--without_figures"), strict=True):
        assert status == 0, f"{' '.join(words)}: {said}"
        assert "finished at step 4" in said, said
    (number,) = [index for index, words in enumerate(commands) if any("terms:slowness" in word for word in words)]
    lines = [json.loads(line) for line in (tmp_path / str(number) / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["penalty/slow"] > 0
    (number,) = [index for index, words in enumerate(commands) if any("Orthogonal" in word for word in words)]
    (line, *_) = (tmp_path / str(number) / "diagnostics.jsonl").read_text().splitlines()
    assert json.loads(line)["spectrum"]["layer 1/h/distance from orthogonality"] < 1e-5
    assert list(tmp_path.glob("*/plots/largest_unit.png"))


@pytest.mark.exhaustive
def test_a_study_of_its_own_goes_on_and_is_evaluated_from_elsewhere(tmp_path: Path) -> None:
    for path, text in files_of([ROOT / "docs" / "how_to" / "run_an_ablation_outside_the_project.md"]).items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def said(*words: str) -> str:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-m", *words], cwd=elsewhere, env=environment, **PIPED)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    train = ("rnnlab.train", "--config=../ablation/first.py", "--workdir=run", "--config.task.length=8")
    assert "finished at step 4" in said(*train, "--config.steps=4")
    assert "finished at step 8" in said(*train, "--config.steps=8")
    config = json.loads((elsewhere / "run" / "config.json").read_text())
    assert config["model"]["cell"]["name"] == "parts:Damped"
    assert config["import_from"] == [str(tmp_path / "ablation")]
    (elsewhere / "run").rename(elsewhere / "moved")
    assert "loss" in said("rnnlab.evaluate", "--workdir=moved", "--test_lengths=8,16")


@pytest.mark.exhaustive
def test_runs_of_the_new_cells_sweep_are_those_of_their_own_numbers(extended: Path, tmp_path: Path) -> None:
    small = ["--config.steps=4", "--config.eval_every=4", "--config.task.length=8"]
    sweep = ["-m", "rnnlab.sweep", "--config=leaky_rate.py", f"--workdir={tmp_path / 's'}", *small]
    cell = ["--config.model.cell=leaky", "--config.model.cell.rate=0.1"]
    alone = ["-m", "rnnlab.train", "--config=configs/adding.py", f"--workdir={tmp_path / 'r'}", *cell, *small]
    assert [status for status, _ in outcomes(extended, [sweep, alone])] == [0, 0]
    with (tmp_path / "s" / "runs.csv").open(encoding="utf-8") as file:
        rows = {float(row["model.cell.rate"]): row for row in csv.DictReader(file)}
    assert len(rows) == len({row["final.validation.loss"] for row in rows.values()}) == 3
    summary = json.loads((tmp_path / "r" / "summary.json").read_text(encoding="utf-8"))
    loss = float(rows[0.1]["final.validation.loss"])
    assert summary["final"]["validation"]["loss"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.slow
def test_every_line_of_the_python_pages_runs_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("configs", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "to-export").symlink_to("python")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    pages = [ROOT / "docs" / "python.md", ROOT / "docs" / "how_to" / "export_and_load_weights.md"]
    codes = [(page.name, text) for page in pages for language, _, text in blocks(page) if language == "python"]
    for page, code in codes:
        exec(compile(code, page, "exec"), names)
    assert len(codes) > 5
    assert names["run"].summary["status"] == "finished"


@pytest.mark.slow
def test_library_code_of_the_readme_runs():
    (code,) = [
        text for language, _, text in blocks(ROOT / "README.md") if language == "python" and "nnx.Module" in text
    ]
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    exec(compile(code, "README.md", "exec"), {})
