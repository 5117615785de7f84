"""The notebooks of docs/tutorials: they run, and they can be read without running."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

import rnnlab

TUTORIALS = Path(__file__).parents[2] / "docs" / "tutorials"
NOTEBOOKS = sorted(TUTORIALS.glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)

MOST_BYTES = 400_000
INSTALL = """try:
    import rnnlab
except ImportError:  # As on Colab.
    %pip install --quiet rnnlab
    import rnnlab"""
OF_A_MACHINE = re.compile(
    r"(?<![\w.:/<])/(tmp|home|root|usr|var|work|content|Users|mnt|opt)/|[A-Z]:\\|\d+ steps/s|\b\d+:\d\d:\d\d left"
)
"""A path of the machine that ran it, or how fast it was."""


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def text(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


@each_notebook
def test_a_notebook_can_be_read_without_running(path: Path) -> None:
    assert path.stat().st_size < MOST_BYTES
    code = cells(path, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)), "run it whole: make notebooks"
    outputs = [output for cell in code for output in cell["outputs"]]
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert "image/png" in kinds
    assert all(output["output_type"] != "error" and output.get("name") != "stderr" for output in outputs)
    shown = [output.get("text", output.get("data", {}).get("text/plain", "")) for output in outputs]
    of_machine = [match[0] for each in shown for match in OF_A_MACHINE.finditer("".join(each))]
    assert of_machine == []
    assert not any("<Figure" not in line and " object at 0x" in line for each in shown for line in each)


@each_notebook
def test_a_notebook_installs_what_is_missing_and_uses_public_names_alone(path: Path) -> None:
    first, *_ = code = [text(cell) for cell in cells(path, "code")]
    assert first.startswith(INSTALL)
    assert not any("%pip" in each for each in code[1:])
    tree = ast.parse("\n".join(code).replace("%pip install --quiet rnnlab", "pass"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not any((module or "").startswith("rnnlab") for module in imported)
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "rnnlab"
    }
    assert used
    assert used <= set(rnnlab.__all__)


@each_notebook
def test_a_notebook_ends_with_what_to_try_next_and_its_links_lead_somewhere(path: Path) -> None:
    written = [text(cell) for cell in cells(path, "markdown")]
    assert written[0].startswith("# ")
    assert "## Try next\n" in written[-1]
    links = [link for each in written for link in re.findall(r"\]\(([^)#\s]+)", each)]
    assert [link for link in links if not (TUTORIALS / link).exists()] == []
    assert any(link in written[-1] for link in links)


def test_the_page_of_the_tutorials_names_every_notebook_with_its_title() -> None:
    page = (TUTORIALS / "index.md").read_text(encoding="utf-8")
    named = dict(re.findall(r"^\d\. \[([^]]+)\]\((\w+\.ipynb)\)", page, re.M))
    titles = {text(cells(path, "markdown")[0]).splitlines()[0].removeprefix("# "): path.name for path in NOTEBOOKS}
    assert named == titles
    assert len(titles) == 5


RUN_WITH_SLOW_TESTS = ("write_a_cell_and_measure_it",)
"""It takes a minute; the others run with the exhaustive tests, and by `make notebooks`."""


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(p, marks=pytest.mark.slow if p.stem in RUN_WITH_SLOW_TESTS else pytest.mark.exhaustive, id=p.stem)
        for p in NOTEBOOKS
    ],
)
def test_a_notebook_runs(path: Path) -> None:
    pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    from scripts.run_notebooks import run

    for cell in run(path).cells:
        if cell.cell_type == "code":
            assert all(output.get("name") != "stderr" for output in cell.outputs), text(cell)
