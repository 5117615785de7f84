"""What holds of the source text: imports run one way, from typing up to the entries; files name their encoding."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "rnnlab"
LAYERS = [
    ["typing", "output", "compiler", "statuses"],
    ["build", "random", "split", "surroundings"],
    ["memory", "files", "checksums"],
    ["norms", "locks"],
    ["initializers", "activations", "linear", "normalization"],
    ["recurrence"],
    ["cells"],
    ["layers"],
    ["cross_entropy"],
    ["softmax"],
    ["network"],
    ["trajectory"],
    ["penalties"],
    ["datasets"],
    ["tasks"],
    ["diagnostics"],
    ["schedules", "averaging"],
    ["optimizers"],
    ["roll_call"],
    ["distributed"],
    ["devices"],
    ["feeding"],
    ["objective"],
    ["state"],
    ["step"],
    ["footprint"],
    ["config"],
    ["workdir", "metrics", "checkpoints"],
    ["plots", "watch"],
    ["run"],
    ["recorder", "recognition", "rerun"],
    ["replay"],
    ["loop"],
    ["sweeps"],
    ["reproduction"],
    ["entry"],
    ["train", "evaluate", "sweep", "report", "benchmark", "find_learning_rate", "diagnose", "generate", "prepare"],
    ["selfcheck"],
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
TOP = len(LAYERS)
"""The rank of the package itself, which imports what it exports."""


def room(path: Path) -> str:
    """The module or folder directly below the package that a file belongs to; an entry is a room of its own."""
    if path == PACKAGE / "datasets" / "prepare.py":
        return "prepare"
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


def test_imports_run_one_way():
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        here = room(path)
        if here == "__init__":
            continue
        assert here in RANK, f"{path} has no layer; name it in this test"
        names = imported(path.read_text(), list(path.relative_to(PACKAGE.parent).parts[:-1])) - {here}
        wrong += [f"{path.name} imports {name or 'rnnlab'}" for name in names if RANK.get(name, TOP) >= RANK[here]]
    assert not wrong


@pytest.mark.parametrize(
    ("line", "package", "room"),
    [
        ("import rnnlab.loop", "rnnlab", "loop"),
        ("import jax, rnnlab.loop as other", "rnnlab", "loop"),
        ("from rnnlab import loop", "rnnlab", "loop"),
        ("from rnnlab.loop import Run", "rnnlab", "loop"),
        ("def function():\n    from rnnlab.loop import Run", "rnnlab", "loop"),
        ("from . import loop", "rnnlab", "loop"),
        ("from .loop import Run", "rnnlab", "loop"),
        ("from .. import loop", "rnnlab.cells", "loop"),
        ("from ..loop import Run", "rnnlab.cells", "loop"),
        ("from .base import Cell", "rnnlab.cells", "cells"),
        ("from rnnlab import Run", "rnnlab", "Run"),
        ("import rnnlab", "rnnlab", ""),
    ],
)
def test_every_way_to_write_an_import_is_seen(line, package, room):
    assert imported(line, package.split(".")) == {room}


def test_orbax_is_imported_in_one_place():
    users = [path.name for path in PACKAGE.rglob("*.py") if "orbax" in path.read_text().replace("orbax-", "")]
    assert [name for name in users if name != "checkpoints.py"] == []


def test_loops_over_time_are_in_the_engine_only():
    # step.py loops over steps and evaluation batches; diagnostics along a run of the engine, over lags and windows.
    allowed = {"recurrence", "step", "diagnostics"}
    files = [path for path in PACKAGE.rglob("*.py") if room(path) != "benchmark"]  # Which measures a plain scan.
    users = {room(path) for path in files if "lax.scan" in path.read_text()}
    assert users <= allowed


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
