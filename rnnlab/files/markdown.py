"""Tables in Markdown, and the part of a Markdown page that a command writes."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from rnnlab.files.reading import damaged, read_text
from rnnlab.files.writing import write_text

BEGIN, END = "<!-- table -->", "<!-- end of table -->"
"""Between these lines of a page stands what a command has measured."""


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, which ends in a newline. Cells are Markdown, too.

    Libraries for tables pad every cell to the widest: one longer number would rewrite each line of a published table.
    """
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]]) + "\n"


def write_between_marks(page: Path, text: str) -> None:
    """Puts the text, which ends in a newline, between `BEGIN` and `END` of a page.

    Raises:
        ConfigError: the page cannot be read or written, or lacks one of the two.
    """
    before, begin, rest = read_text(page, "restore it").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise damaged(page, f"lacks the line {END if begin else BEGIN!r}", "restore it")
    write_text(page, f"{before}{BEGIN}\n{text}{END}{after}")
