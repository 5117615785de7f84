"""The parts of the reference that follow from the code have all of it."""

import re
from pathlib import Path

import pytest

import rnnlab
from rnnlab.config.fields import fields_of
from rnnlab.config.overrides import field_paths
from rnnlab.records.run_config import resolve_config
from rnnlab.records.statuses import MEANINGS
from scripts.docs.commands import commands, help_of
from scripts.docs.config_fields import TABLES, named, sections
from scripts.docs.folders import TITLES, exit_statuses, files_of
from scripts.docs.hooks import MADE_HERE
from scripts.docs.parts import PARTS
from scripts.docs.prose import cell, prose
from tests.helpers import SMALL_RUN

ROOT = Path(__file__).parents[2]
PAGES = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").rglob("*.md"))]


def test_every_part_stands_on_one_page() -> None:
    assert sorted(name for text in PAGES for name in MADE_HERE.findall(text)) == sorted(PARTS)


def test_every_public_name_is_on_a_page() -> None:
    shown = [name for text in PAGES for name in re.findall(r"^::: rnnlab\.(\w+)$", text, re.M)]
    assert sorted(shown) == sorted(rnnlab.__all__), "docs/reference/ has a line `::: rnnlab.NAME` for each"


@pytest.mark.parametrize("kind", TITLES, ids=lambda kind: kind.__name__)
def test_every_file_of_a_folder_is_explained(kind: type) -> None:
    files = dict(files_of(kind))
    assert [name for name, text in files.items() if not text] == []
    assert {"Workdir": "config.json", "SweepDir": "runs/"}.get(kind.__name__, next(iter(files))) in files


def test_every_exit_status_is_explained() -> None:
    assert [f"| {status} | " in exit_statuses() for status in MEANINGS] == [True] * len(MEANINGS)


def test_every_field_of_a_run_is_in_the_table_of_its_section() -> None:
    section, rows = "", set()
    for line in sections().splitlines():
        section = heading[1] + "." if (heading := re.match(r"## (\S+) ", line)) else section
        rows |= {section + row[1] for row in [re.match(r"\| `(\w+)` \|", line)] if row}
    paths = field_paths(resolve_config(SMALL_RUN))
    under_a_name = re.compile(r"task\.|model\.cell\.|.*_init\.|optimizer\.(b1|b2|eps|schedule\.)")
    assert {path for path in paths if not under_a_name.match(path) and path.split(".")[-1] != "name"} <= rows


@pytest.mark.parametrize("title", [title for title in TABLES if title != "diagnostics"])
def test_every_name_of_a_table_is_there_with_its_own_fields(title: str) -> None:
    text, table = named(title), TABLES[title][0]
    assert [name for name in table if not re.search(rf"^(## |\| \[?`?){name}\b", text, re.M)] == []
    if title not in ("penalties", "cells"):
        fields = {field for factory in table.values() for field in fields_of(factory)}
        assert [field for field in fields if f"| `{field}` | " not in text] == []


def test_a_field_that_names_an_entry_of_a_table_leads_to_the_table() -> None:
    text = sections() + "".join(named(title) for title in TABLES if title != "diagnostics")
    assert [names for names in re.findall(r"one of [^|]*", text) if names.count(",") > 8] == []


@pytest.mark.parametrize("name", commands())
def test_the_flags_of_every_command_are_read(name: str) -> None:
    doc, flags = help_of(name)
    assert f"python -m {name}" in doc
    assert flags
    assert [flag for flag, text, _ in flags if not text or flag == "help"] == []


def test_every_command_that_a_page_starts_is_on_the_page_of_commands() -> None:
    started = {name for text in PAGES for name in re.findall(r"python -m (rnnlab\.\w+)", text)}
    shown = set(re.findall(r"^## (\S+)$", PARTS["commands"](), re.M))
    assert started <= shown == set(commands())


TEXTS = {
    "h_t of <unk>, [T, B] and a*b": r"h\_t of \<unk\>, \[T, B\] and a\*b",
    "`a_b` and --flag_name=x.": "`a_b` and `--flag_name=x`.",
    "--config.a.b, --c": "`--config.a.b`, `--c`",
}


@pytest.mark.parametrize("text", TEXTS)
def test_what_markdown_would_take_for_markup_stands_as_it_is(text: str) -> None:
    assert prose(text) == TEXTS[text]


def test_a_bar_does_not_end_a_cell() -> None:
    assert cell("|w| and `a|b`\nand more") == r"\|w\| and `a\|b` and more"
