"""mkdocs.yml, the pages of docs/ and the figures agree; `make docs` builds the site."""

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from rnnlab.config.reading import read_file
from scripts.docs.hooks import fetched, link_out, linked, on_page_markdown, with_colab, with_titles

ROOT = Path(__file__).parents[2]
CONFIG = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


def pages(nav: Any) -> Iterator[str]:
    """The files that the navigation names."""
    for entry in nav:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            yield from [value] if isinstance(value, str) else pages(value)


def test_the_navigation_names_every_page_once() -> None:
    listed = list(pages(yaml.safe_load(CONFIG.partition("\nnav:\n")[2])))
    docs = ROOT / "docs"
    there = {path.relative_to(docs).as_posix() for kind in ("*.md", "*.ipynb") for path in docs.rglob(kind)}
    left_out = {name for name in there if name.startswith("results/") and name.count("/") == 1}  # Tables without text.
    left_out |= {name for name in there if name.startswith("results/checkpoints/") or ".ipynb_checkpoints" in name}
    assert sorted(listed) == sorted(there - left_out)


FAULTS = {
    "[x](other.md)": "other.md",
    "[x](index.md#other)": "no such anchor",
    "![x](x.png)": "x.png",
    "[x](/index.md)": "absolute",
    "": "not included in the",
}
"""What a page may have, and what the build says; a page without its line in the navigation."""


@pytest.mark.slow
@pytest.mark.parametrize("text", FAULTS)
def test_the_build_ends_where_something_is_missing(text: str, tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    validation = "validation:" + CONFIG.partition("\nvalidation:")[2].partition("\nnav:")[0]
    (tmp_path / "mkdocs.yml").write_text(f"site_name: x\n{validation}\nnav: [index.md]\n", encoding="utf-8")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"# X\n\n{text}\n", encoding="utf-8")
    if not text:
        (tmp_path / "docs" / "more.md").touch()
    words = re.findall(r"python -m (mkdocs build .*)", (ROOT / "Makefile").read_text(encoding="utf-8"))[0].split()
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=tmp_path, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 1
    assert text or "more.md" in done.stderr
    assert FAULTS[text] in done.stderr


LINKS = {
    "[how](../CONTRIBUTING.md#test)": ("how", "[how](https://x.org/r/blob/main/CONTRIBUTING.md#test)"),
    "[a](../../configs/adding.py), [b](../cells.md)": (
        "a, [b](../cells.md)",
        "[a](https://x.org/r/blob/main/configs/adding.py), [b](../cells.md)",
    ),
    "![figure](../results/atlas.png)": ("![figure](../results/atlas.png)",) * 2,
}


@pytest.mark.parametrize("text", LINKS)
def test_links_out_of_the_docs_lead_to_the_repository_where_there_is_one(text: str) -> None:
    page = "docs/how_to/x.md" if "../.." in text or "cells" in text else "docs/x.md"
    assert (link_out(text, page, None), link_out(text, page, "https://x.org/r/")) == LINKS[text]


def test_links_of_a_notebook_lead_to_pages_and_one_to_nothing_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    html = '<a href="../cells.md#gru">, <a href="other.ipynb">, <a href="https://x.org/a.md">, <a href="#top">'
    pages = {"cells.md", "tutorials/other.ipynb"}
    assert linked(html, "tutorials/one.ipynb", pages) == (
        '<a href="../cells.html#gru">, <a href="other.html">, <a href="https://x.org/a.md">, <a href="#top">'
    )
    assert not caplog.records
    linked(html, "tutorials/one.ipynb", {"cells.md"})
    (record,) = caplog.records
    assert record.message == "tutorials/one.ipynb has a link to other.ipynb, which is not there"


def test_notebooks_open_on_colab_where_the_project_has_an_address_on_github() -> None:
    lines = "1. [One](one.ipynb): a line\n   and another.\n2. [Two](two.ipynb): two.\n"
    colab = "[Open on Colab](https://colab.research.google.com/github/me/lab/blob/main/docs/tutorials"
    page = "docs/tutorials/index.md"
    assert with_colab(lines, page, "https://github.com/me/lab/") == (
        f"1. [One](one.ipynb): a line\n   and another. {colab}/one.ipynb).\n"
        f"2. [Two](two.ipynb): two. {colab}/two.ipynb).\n"
    )
    for elsewhere in (None, "https://x.org/me/lab"):
        assert with_colab(lines, page, elsewhere) == lines


LABELS = {
    "[cells.md](../cells.md#gru) has": "[Cells](../cells.md#gru) has",
    "[docs/cells.md](../cells.md)": "[Cells](../cells.md)",
    "[Cells](../cells.md), [cells.md](none.md), [none.md](none.md)": None,
}


@pytest.mark.parametrize("text", LABELS)
def test_a_link_that_is_named_by_its_file_has_the_title_of_the_page(text: str) -> None:
    assert with_titles(text, "docs/how_to/x.md") == (LABELS[text] or text)


def test_a_figure_leads_to_itself_at_its_full_size() -> None:
    page = SimpleNamespace(file=SimpleNamespace(src_uri="x.md"))
    text = "![a](results/a.png)\n\n![b](<plots/b.png>)\n\nHere: ![c](c.png)\n"
    shown = "[![a](results/a.png)](results/a.png)\n\n[![b](<plots/b.png>)](<plots/b.png>)\n\nHere: ![c](c.png)\n"
    assert on_page_markdown(text, page) == shown


TAGS = {
    '<script src="https://x.org/a.js"></script>': ["https://x.org/a.js"],
    "<link rel=stylesheet href='//x.org/a.css'>": ["//x.org/a.css"],
    '<img alt="a" src="../a.png"> <script src="assets/a.js"></script>': [],
    '<a href="https://x.org">x</a> <link rel="canonical" href="https://x.org/a.html">': [],
}


@pytest.mark.parametrize("html", TAGS)
def test_what_a_page_would_fetch_from_another_host_is_seen(html: str) -> None:
    assert fetched(html) == TAGS[html]


def test_a_link_to_what_is_not_there_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    link_out("[x](../none.py) and [y](../../x.md)", "docs/x.md", None)
    assert [record.message for record in caplog.records] == [
        "docs/x.md has a link to ../none.py, which is not there",
        "docs/x.md has a link to ../../x.md, which is not there",
    ]


FIGURES = sorted(path for path in (ROOT / "docs" / "results").rglob("*.png") if "checkpoints" not in path.parts)
PAGES = [path for path in (ROOT / "docs").rglob("*.md") if "checkpoints" not in path.parts]


def test_every_figure_is_on_a_page() -> None:
    shown = {
        (page.parent / name).resolve()
        for page in PAGES
        for name in re.findall(r"!\[[^]]*\]\(<?([^)>]+)>?\)", page.read_text(encoding="utf-8"))
    }
    assert [str(path.relative_to(ROOT)) for path in FIGURES if path not in shown] == []


GALLERY = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")


def test_every_figure_of_the_gallery_has_its_command_below_it() -> None:
    figures = re.split(r"^!\[", GALLERY, flags=re.M)[1:]
    assert len(figures) > 10
    assert [each.partition("]")[0] for each in figures if "```sh\n" not in each] == []


def test_commands_of_the_gallery_name_what_is_there() -> None:
    text = GALLERY.replace("\\\n", " ")
    commands = re.findall(r"\bpython (-m \S+|\S+)", text)
    missing = [name for name in commands if name[0] != "-" and not (ROOT / name).exists()]
    missing += [name for name in commands if name[0] == "-" and find_spec(name.removeprefix("-m ")) is None]
    assert commands
    assert missing == []
    for reference in re.findall(r"--config=([^\s$]+)", text):
        assert read_file(f"{ROOT}/{reference.removesuffix(':')}")
