"""What holds of every page: its links and the anchors that they name are there, and its Python runs in order."""

import json
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import rnnlab
from rnnlab import train
from rnnlab.records.run_config import resolve_config
from scripts.docs.hooks import MADE_HERE
from scripts.docs.parts import PARTS

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^( *)```.*?^\1```", re.S | re.M)
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")


@cache
def prose(page: Path) -> str:
    """The text of a page without its code."""
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", page.read_text(encoding="utf-8")))


@cache
def anchors(page: Path) -> set[str]:
    """Those of a page's headings: lower case, no punctuation, a hyphen for each blank; or as { #this } stands there."""
    text = MADE_HERE.sub(lambda match: PARTS[match[1]](), page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ +(.+?)\s*$", FENCE.sub("", text), re.M)
    names = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    return set(names) | {"".join(each) for each in re.findall(r'(?:id|name)="([^"]+)"|\{ #(\S+) \}', text)}


def relative_links(page: Path) -> list[str]:
    """The links of a page that lead to a file, or to a heading."""
    links = [(first or second).strip("<>") for first, second in LINK.findall(prose(page))]
    return [link for link in links if not re.match(r"[a-z]+:", link)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    broken = []
    for link in relative_links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


# --- the README -------------------------------------------------------------------------------------------------------

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_is_read_in_minutes() -> None:
    lines = README.splitlines()
    assert len(lines) <= 110
    assert [line for line in lines if len(line) > 120] == []


def test_speeds_of_the_readme_are_those_that_were_measured() -> None:
    measured = (ROOT / "docs" / "results" / "benchmark.md").read_text(encoding="utf-8")
    head, _, *lines = map(cells_of, measured.partition("\n\n")[0].splitlines())  # The first table: a training step.
    table = README[README.index("## Speed") : README.index("Measured by")]
    shown = [cells_of(line) for line in table.splitlines() if line.startswith("|")]
    columns = [head.index(name) for name in shown[0][1:]]
    rows = {tuple(cells[:2]): [cells[column] for column in columns] for cells in lines}
    for first, *ratios in shown[2:]:
        cell, _, shape = first.partition(", ")
        assert rows[cell.lower(), shape] == ratios
    assert len(shown) == 6


def cells_of(row: str) -> list[str]:
    """The texts of a table's row."""
    return [each.strip() for each in row.strip("|").split("|")]


def test_results_of_the_readme_are_those_of_the_published_runs() -> None:
    results = ROOT / "docs" / "results"
    runs = json.loads((results / "runs.json").read_text(encoding="utf-8"))
    for path in results.glob("checkpoints/*/summary.json"):
        runs[path.parent.name] = json.loads(path.read_text(encoding="utf-8"))
    names = {"configs/adding.py": "adding-irnn", "configs/adding.py:tanh": "adding-tanh"}
    rows = re.findall(r"^\| .*\(`(.*)`\) \| .* \| (accuracy )?([\d.]+)( %)?", README, re.M)
    assert len(rows) == 4
    for name, accuracy, shown, percent in rows:
        best = runs[names.get(name, name)]["best"]["test"]
        value = 100 * best["accuracy"] if accuracy else best["loss"]
        digits = len(shown.partition(".")[2])
        assert (f"{value:.{digits}f}", bool(percent)) == (shown, bool(accuracy))


def test_the_readme_cites_this_version() -> None:
    assert f"version = {{{rnnlab.__version__}}}" in README


# --- code ------------------------------------------------------------------------------------------------------------

DOCS = ROOT / "docs"
CODE = re.compile(r'```(\w+)(?: title="([^"]+)")?\n(.*?)```', re.S)
RUNS_ALONE = ("faq.md", "concepts/engine.md", "concepts/random_numbers.md", "concepts/traced_numbers.md")


def code(page: str, language: str, title: str = "") -> list[str]:
    """The blocks of a page in a language that have this title."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return [each[3] for each in CODE.finditer(text) if (each[1], each[2] or "") == (language, title)]


def execute(page: str) -> dict[str, Any]:
    """Runs the Python of a page in order; returns its names."""
    names: dict[str, Any] = {}
    for block in code(page, "python"):
        exec(compile(block, page, "exec"), names)
    return names


@pytest.mark.slow
@pytest.mark.parametrize("page", RUNS_ALONE)
def test_every_line_of_a_page_runs_in_order(page: str) -> None:
    assert execute(page)


def test_the_config_of_its_page_is_one() -> None:
    config = resolve_config(execute("concepts/config.md")["get_config"]("lstm"))
    assert config["model"]["cell"]["name"] == "lstm"


@pytest.mark.slow
def test_the_first_steps_lead_to_a_cell_of_ones_own_and_its_gradient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cell,) = code("getting_started.md", "python", "my_cells.py")
    (tmp_path / "my_cells.py").write_text(cell, encoding="utf-8")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # As `python -m` does.
    (command,) = [block for block in code("getting_started.md", "sh") if "my_cells" in block]
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:3] == ["python", "-m", "rnnlab.train"]
    assert train.main([*words[3:], "--config.steps=4", "--config.eval_every=4"]) == 0
    names = execute("getting_started.md")
    assert names["norms"].shape == (50,)
    assert names["figure"].axes
