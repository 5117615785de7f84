"""A text with tables and figures that becomes Markdown and, by the pieces of `page.py`, one HTML page."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rnnlab.files import write_text
from rnnlab.plots.run_page import escaped, figure, table, write_page


@dataclass(frozen=True)
class Heading:
    """Of a section."""

    text: str


@dataclass(frozen=True)
class Paragraph:
    """Plain text; `note` is set smaller."""

    text: str
    note: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of as many cells as the head has; an empty head is none."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Picture:
    """A PNG file and what stands under it."""

    path: Path
    caption: str


@dataclass(frozen=True)
class Lines:
    """Lines for a shell, folded away below a line that says what they are."""

    summary: str
    lines: Sequence[str]


Block = Heading | Paragraph | Table | Picture | Lines


def write_document(directory: Path, title: str, blocks: Sequence[Block]) -> tuple[Path, Path]:
    """DIRECTORY/report.md, whose figures are the files, and DIRECTORY/report.html, which holds them.

    Raises:
        ConfigError: they cannot be written.
    """
    text = "\n\n".join([f"# {_marked(title)}", *(_markdown(block, directory) for block in blocks)])
    write_text(directory / "report.md", text + "\n")
    parts = [f"<h1>{escaped(title)}</h1>", *map(_html, blocks)]
    return directory / "report.md", write_page(directory / "report.html", title, parts)


def _markdown(block: Block, directory: Path) -> str:
    match block:
        case Heading(text):
            return f"## {_marked(text)}"
        case Paragraph(text):
            return _marked(text)
        case Table(head, rows):
            columns = len(head) or len(rows[0])
            lines = [head or [""] * columns, ["---"] * columns, *([_marked(cell) for cell in row] for row in rows)]
            return "\n".join(f"| {' | '.join(line)} |" for line in lines)
        case Picture(path, caption):
            where = Path(os.path.relpath(path, directory)).as_posix()
            return f"![{_marked(path.stem.replace('_', ' '))}](<{where}>)\n\n{_marked(caption)}"
        case Lines(summary, lines):
            shell = "\n".join(lines)
            return f"<details><summary>{_marked(summary)}</summary>\n\n```sh\n{shell}\n```\n\n</details>"


def _html(block: Block) -> str:
    match block:
        case Heading(text):
            return f"<h2>{escaped(text)}</h2>"
        case Paragraph(text, note):
            return f"<p{' class=note' if note else ''}>{escaped(text)}</p>"
        case Table(head, rows):
            return table(head, [(row[0], row[1:]) for row in rows])
        case Picture(path, caption):
            return figure(path, caption)
        case Lines(summary, lines):
            shell = escaped("\n".join(lines))
            return f"<details><summary>{escaped(summary)}</summary><pre>{shell}</pre></details>"


def _marked(text: str) -> str:
    """Plain text as Markdown: nothing in it is markup."""
    for sign in "\\`*|[]":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.replace("&", "&amp;").replace("<", "&lt;").split())
