"""What holds of the source text: imports run one way, from typing up to the entries; files name their encoding."""

import ast
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "rnnlab"
ROOMS = [
    *("typing", "config", "files", "parallel", "ops", "engine", "cells", "nn", "datasets", "tasks", "diagnostics"),
    *("optim", "records", "plots", "training", "sweeps", "library", "cli", "selfcheck", "benchmark"),
]
"""From below upwards; above them the commands, which nothing imports."""
RANK = {name: rank for rank, name in enumerate(ROOMS)}
TOP = len(ROOMS)


def room(path: Path) -> str:
    """The module or folder directly below the package that a file belongs to; a command is a room of its own."""
    part = path.relative_to(PACKAGE).parts[0]
    return part.removesuffix(".py")


def imported(text: str, package: list[str]) -> set[str]:
    """The rooms that a module of a package, ["rnnlab", …], imports from; what is no room is the package's own."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            names = [".".join([*above, node.module or "", alias.name]).replace("..", ".") for alias in node.names]
        for name in names:
            first, _, rest = name.lstrip(".").partition(".")
            if first == "rnnlab":
                found.add(rest.split(".")[0])
    return found


def is_command(name: str) -> bool:
    """Whether `python -m rnnlab.NAME` starts a room."""
    if (PACKAGE / name).is_dir():
        return (PACKAGE / name / "__main__.py").exists()
    return '__name__ == "__main__"' in (PACKAGE / f"{name}.py").read_text(encoding="utf-8")


def test_imports_run_one_way():
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        here = room(path)
        if here == "__init__":
            continue
        assert here in RANK or is_command(here), f"{path} is in no room; rooms are {', '.join(ROOMS)}"
        names = imported(path.read_text(encoding="utf-8"), list(path.relative_to(PACKAGE.parent).parts[:-1])) - {here}
        wrong += [
            f"{path.relative_to(PACKAGE)} imports {name or 'rnnlab'}"
            for name in names
            if RANK.get(name, TOP) >= RANK.get(here, TOP)
        ]
    assert not wrong


def test_the_page_of_the_layout_has_the_rooms_in_their_order() -> None:
    page = PACKAGE.parent / "docs" / "concepts" / "layout.md"
    listed = re.findall(r"^ {6}(\w+)/ ", page.read_text(encoding="utf-8"), re.M)
    assert [name for name in listed if name in RANK] == [name for name in ROOMS if (PACKAGE / name).is_dir()]
    assert set(listed) == {path.parent.name for path in PACKAGE.glob("*/__init__.py")}


@pytest.mark.parametrize(
    ("line", "package", "room"),
    [
        ("import rnnlab.tasks", "rnnlab", "tasks"),
        ("import jax, rnnlab.tasks as other", "rnnlab", "tasks"),
        ("from rnnlab import tasks", "rnnlab", "tasks"),
        ("from rnnlab.tasks import Task", "rnnlab", "tasks"),
        ("def function():\n    from rnnlab.tasks import Task", "rnnlab", "tasks"),
        ("from . import tasks", "rnnlab", "tasks"),
        ("from .tasks import Task", "rnnlab", "tasks"),
        ("from .. import tasks", "rnnlab.cells", "tasks"),
        ("from ..tasks import Task", "rnnlab.cells", "tasks"),
        ("from .base import Cell", "rnnlab.cells", "cells"),
        ("from rnnlab import Task", "rnnlab", "Task"),
        ("import rnnlab", "rnnlab", ""),
    ],
)
def test_every_way_to_write_an_import_is_seen(line, package, room):
    assert imported(line, package.split(".")) == {room}


def test_orbax_is_imported_in_one_place():
    users = [path.name for path in PACKAGE.rglob("*.py") if "orbax" in path.read_text().replace("orbax-", "")]
    assert [name for name in users if name != "checkpoints.py"] == []


def test_a_run_begins_without_what_it_needs_at_its_end():
    """Half a second of each start: figures are drawn after training, and SciPy is for a few cells."""
    late = ("matplotlib", "scipy", "tensorboardX", "grain")
    program = f"import sys, rnnlab.train, rnnlab.training.loop; print([n for n in {late} if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, encoding="utf-8", timeout=240
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_loops_over_time_are_in_the_engine_only():
    # `training` loops over steps and evaluation batches; diagnostics along a run of the engine, over lags and windows.
    allowed = {"engine", "training", "diagnostics"}
    files = [path for path in PACKAGE.rglob("*.py") if room(path) != "benchmark"]  # Which measures a plain scan.
    users = {room(path) for path in files if "lax.scan" in path.read_text()}
    assert users <= allowed


@pytest.mark.parametrize(("room", "count"), [("training", 200), ("nn", 60), ("optim", 70)])
def test_functions_and_files_of_a_room_are_short(room, count):
    files = {path.name: path.read_text(encoding="utf-8") for path in (PACKAGE / room).glob("*.py")}
    functions = [
        (node.name, 1 + (node.end_lineno or 0) - node.lineno)
        for text in files.values()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef)
    ]
    assert len(functions) > count
    assert [name for name, lines in functions if lines > 80] == []
    assert [name for name, text in files.items() if len(text.splitlines()) > 300] == []


TEXT = ("read_text", "write_text")
OPENING = ("open", "fdopen", "TemporaryFile", "NamedTemporaryFile")


def without_encoding(text: str) -> list[int]:
    """The lines that read or write text as whatever encoding the user's locale has."""
    lines = []
    for call in (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        words = {word.arg: word.value for word in call.keywords}
        constants = [value.value for value in [*call.args, *words.values()] if isinstance(value, ast.Constant)]
        raw = any(isinstance(value, str) and ("b" in value or "|" in value) for value in constants)
        opens = name in OPENING and ast.unparse(call.func) != "os.open" and not raw
        pipes = any(getattr(words.get(word), "value", False) for word in ("text", "universal_newlines"))
        texts = name in TEXT and isinstance(call.func, ast.Attribute)  # `files.read_text` decodes UTF-8 itself.
        if (texts or opens or pipes) and "encoding" not in words:
            lines.append(call.lineno)
    return lines


def test_every_text_file_names_its_encoding():
    top = PACKAGE.parent
    files = [path for folder in ("rnnlab", "scripts", "configs") for path in sorted((top / folder).rglob("*.py"))]
    wrong = [
        f"{path.relative_to(top)}:{line}"
        for path in files
        for line in without_encoding(path.read_text(encoding="utf-8"))
    ]
    assert not wrong


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("path.read_text()", True),
        ("path.write_text(text)", True),
        ("path.write_text(text, encoding='utf-8')", False),
        ("open(path)", True),
        ("path.open('a')", True),
        ("path.open('rb')", False),
        ("read_text(path, remedy)", False),
        ("path.open(mode='wb')", False),
        ("tarfile.open(path, 'r|gz')", False),
        ("subprocess.run(words, text=True)", True),
        ("subprocess.run(words, text=True, encoding='utf-8')", False),
        ("os.open(path, os.O_RDONLY)", False),
    ],
)
def test_every_way_to_open_a_text_file_is_seen(line, wrong):
    assert bool(without_encoding(line)) == wrong


def resolves(dotted: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    try:
        pkgutil.resolve_name(dotted)
    except (ImportError, AttributeError):
        return False
    return True


def test_what_tests_and_docs_name_is_there():
    """A name that is put together at run time, or patched, is seen by neither ruff nor pyright."""
    top = PACKAGE.parent
    strings = {
        (path.relative_to(top), node.value)
        for path in (top / "tests").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if re.fullmatch(r"rnnlab(\.\w+)+", node.value)
    }
    commands = {
        (path.relative_to(top), name)
        for path in [*top.glob("*.md"), *(top / "docs").glob("*.md")]
        if path.name != "CHANGELOG.md"
        for name in re.findall(r"-m (rnnlab\.\w+|scripts\.\w+)", path.read_text(encoding="utf-8"))
    }
    assert len(strings) > 20
    assert len(commands) > 20
    assert [f"{path}: {name}" for path, name in sorted(strings | commands) if not resolves(name)] == []
