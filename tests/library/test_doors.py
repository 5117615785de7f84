"""`import rnnlab` stays fast: what opens and starts runs is imported when it is called."""

import ast
from pathlib import Path

import rnnlab
from rnnlab import library


def test_the_doors_import_nothing_of_the_project_before_they_are_called() -> None:
    tree = ast.parse(Path(library.__file__ or "").read_text(encoding="utf-8"))
    modules = [node.module for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert modules == ["collections.abc", "pathlib", "typing"]
    assert not any(isinstance(node, ast.Import) for node in tree.body)


def test_every_door_is_a_public_name_of_the_package() -> None:
    assert set(library.__all__) <= set(rnnlab.__all__)
    assert [name for name in rnnlab.__all__ if not hasattr(rnnlab, name)] == []
