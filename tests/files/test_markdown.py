"""Tables in Markdown, and the part of a page that a command writes."""

from pathlib import Path

import pytest

from rnnlab.config.errors import ConfigError
from rnnlab.files.markdown import BEGIN, END, markdown_table, write_between_marks


def test_a_table_has_a_line_a_row_and_no_padding() -> None:
    assert markdown_table(["a", "bb"], [["1", ""], ["long", "2"]]) == "| a | bb |\n|---|---|\n| 1 |  |\n| long | 2 |\n"


def test_only_what_stands_between_the_marks_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    for _ in range(2):
        write_between_marks(page, "new\n")
        assert page.read_text(encoding="utf-8") == f"before\n{BEGIN}\nnew\n{END}\nafter\n"


def test_a_page_without_marks_is_refused_and_left(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("by hand\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"page\.md lacks the line '<!-- table -->'; restore it"):
        write_between_marks(page, "new\n")
    assert page.read_text(encoding="utf-8") == "by hand\n"
