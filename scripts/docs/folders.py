"""The files that runs and sweeps leave, by the classes that name them (`rnnlab/records`), as tables in Markdown."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rnnlab.files.markdown import markdown_table
from rnnlab.records.folders import GroupDir, RecordingDir, ReportDir, SweepDir
from rnnlab.records.statuses import MEANINGS
from rnnlab.records.workdir import Workdir
from scripts.docs.prose import cell

TITLES = {
    Workdir: "A run",
    SweepDir: "A sweep",
    GroupDir: "A group of a sweep: groups/NAME",
    ReportDir: "A report",
    RecordingDir: "A recording of the flight recorder: recordings/UPDATE",
}


def files_of(kind: type) -> Iterator[tuple[str, str]]:
    """The path of every file and folder that a class names, from its folder, and what is in it; a folder ends in /."""
    folder = Path("FOLDER")
    instance = kind(folder)
    docs = _docs_below_attributes(kind)
    for name, path in vars(instance).items():
        if path != folder:
            yield _shown(path, folder), docs.get(name, "")
    for name, method in inspect.getmembers(kind, inspect.isfunction):
        signature = inspect.signature(method)
        if not name.startswith("_") and signature.return_annotation is Path:
            words = list(signature.parameters.values())[1:]
            arguments: list[Any] = [each.name.upper() for each in words if each.default is inspect.Parameter.empty]
            yield _shown(method(instance, *arguments), folder), inspect.getdoc(method) or ""


def _shown(path: Path, folder: Path) -> str:
    name = path.relative_to(folder).as_posix()
    return name if path.suffix else f"{name}/"


def _docs_below_attributes(kind: type) -> dict[str, str]:
    """Attribute -> the string below its assignment in the constructor."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind.__init__))).body
    assert isinstance(tree, ast.FunctionDef)
    docs, attribute = {}, None
    for statement in tree.body:
        match statement:
            case ast.Assign(targets=[ast.Attribute(attr=name)]):
                attribute = name
            case ast.Expr(value=ast.Constant(value=str(text))) if attribute is not None:
                docs[attribute] = inspect.cleandoc(text)
    return docs


def folders() -> str:
    """A section for each kind of folder."""
    return "\n".join(
        f"## {title}\n\n"
        + markdown_table(["file", "what is in it"], [[f"`{name}`", cell(doc)] for name, doc in files_of(kind)])
        for kind, title in TITLES.items()
    )


def exit_statuses() -> str:
    """The meaning of each exit status."""
    return markdown_table(["exit status", "meaning"], [[str(status), cell(text)] for status, text in MEANINGS.items()])
