"""Imports run one way: from typing up to the entries."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "rnnlab"
LAYERS = [
    ["typing"],
    ["build"],
    ["initializers", "activations"],
    ["recurrence"],
    ["cells"],
    ["network"],
    ["datasets"],
    ["tasks"],
    ["diagnostics"],
    ["optimizers"],
    ["devices"],
    ["step"],
    ["config"],
    ["workdir", "metrics", "checkpoints"],
    ["plots"],
    ["loop"],
    ["entry"],
    ["train", "evaluate", "benchmark"],
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def room(path: Path) -> str:
    """The module or folder directly below the package that a file belongs to."""
    part = path.relative_to(PACKAGE).parts[0]
    return part.removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The rooms that a file imports from."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "rnnlab":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("rnnlab."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("rnnlab.")}
    return found


def test_imports_run_one_way():
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        here = room(path)
        if here == "__init__":
            continue
        assert here in RANK, f"{path} has no layer; name it in this test"
        wrong += [f"{path.name} imports {name}" for name in imported(path) - {here} if RANK[name] >= RANK[here]]
    assert not wrong


def test_orbax_is_imported_in_one_place():
    users = [path.name for path in PACKAGE.rglob("*.py") if "orbax" in path.read_text().replace("orbax-", "")]
    assert [name for name in users if name != "checkpoints.py"] == []


def test_loops_over_time_are_in_the_engine_only():
    allowed = {"recurrence.py", "step.py"}  # step.py loops over steps and evaluation batches.
    files = [path for path in PACKAGE.rglob("*.py") if room(path) != "benchmark"]  # Which measures a plain scan.
    users = {path.name for path in files if "lax.scan" in path.read_text()}
    assert users <= allowed
