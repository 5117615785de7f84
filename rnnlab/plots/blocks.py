"""The blocks that reports are made of, headings, tables, figures, and how they become Markdown and one HTML page."""

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from rnnlab.files import write_text
from rnnlab.files.markdown import markdown_table
from rnnlab.records.folders import ReportDir


@dataclass(frozen=True)
class Heading:
    """The heading of a section."""

    text: str


@dataclass(frozen=True)
class Paragraph:
    """Plain text; `note` is set smaller."""

    text: str
    note: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of as many cells as the head has, the first of them the row's name; an empty head is left out.

    A cell is one line, a sentence several; a table that is wider than the page is scrolled.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    """A PNG file and what stands under it."""

    path: Path
    caption: str


@dataclass(frozen=True)
class Lines:
    """Lines for a shell or of a file; with a summary, folded away below it unless `is_open`."""

    summary: str
    lines: Sequence[str]
    is_open: bool = False


Block = Heading | Paragraph | Table | Picture | Lines


def write_document(directory: Path, title: str, blocks: Sequence[Block]) -> tuple[Path, Path]:
    """DIRECTORY/report.md, whose figures are the files, and DIRECTORY/report.html, which holds them.

    Raises:
        ConfigError: they cannot be written.
    """
    text = "\n\n".join([f"# {_marked(title)}", *(markdown_of(block, directory) for block in blocks)])
    report = ReportDir(directory)
    write_text(report.markdown, text + "\n")
    return report.markdown, write_page(report.page, title, blocks)


def write_page(path: Path, title: str, blocks: Sequence[Block]) -> Path:
    """An HTML file that stands alone, from page.html.jinja; every text in it is escaped.

    Raises:
        ConfigError: it cannot be written.
    """
    template = _TEMPLATES.get_template("page.html.jinja")
    pairs = [(type(block).__name__, block) for block in blocks]
    write_text(path, template.render(title=title, blocks=pairs, longest_line=_LONGEST_LINE))
    return path


def markdown_of(block: Block, directory: Path) -> str:
    """A block in Markdown; a figure's file by its path from the directory."""
    match block:
        case Heading(text):
            return f"## {_marked(text)}"
        case Paragraph(text):
            return _marked(text)
        case Table(head, rows):
            marked = [[_marked(cell) for cell in row] for row in rows]
            return markdown_table(head or [""] * len(rows[0]), marked).rstrip("\n")
        case Picture(path, caption):
            where = Path(os.path.relpath(path, directory)).as_posix()
            return f"![{_marked(path.stem.replace('_', ' '))}](<{where}>)\n\n{_marked(caption)}"
        case Lines(summary, lines):
            shell = "\n".join(lines)
            return f"<details><summary>{_marked(summary)}</summary>\n\n```sh\n{shell}\n```\n\n</details>"


def _marked(text: str) -> str:
    """Plain text as Markdown: nothing in it is markup."""
    for sign in "\\`*|[]":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.replace("&", "&amp;").replace("<", "&lt;").split())


def _data_uri(path: Path) -> str:
    """A PNG file as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


_LONGEST_LINE = 50
"""Characters of a cell that are one line: no number, name, interval or list of runs is broken."""

_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    keep_trailing_newline=True,
)
_TEMPLATES.filters["data_uri"] = _data_uri
