"""docs/cells.md is what its command writes."""

import json

import pytest

from rnnlab.cells import CELLS
from rnnlab.files.markdown import BEGIN, END
from scripts import describe_cells
from scripts.describe_cells import MEASURED, PAGE, main, page, parameters, products, section, source

AGAIN = "python -m scripts.describe_cells writes it again"


def written() -> str:
    return PAGE.read_text().partition(BEGIN)[2].partition(END)[0]


@pytest.mark.slow
def test_every_cell_has_a_row_that_equals_the_code() -> None:
    rows = [line.split(" | ") for line in written().splitlines() if line.startswith("| [")]
    assert [row[0] for row in rows] == [f"| [{name}](#{name})" for name in CELLS], AGAIN
    for name, row in zip(CELLS, rows, strict=True):
        assert row[1:4] == [f"{parameters(name):,}", products(name), ", ".join(describe_cells.backends_of(name))], AGAIN
        assert row[-1] == f"{source(name)} |", AGAIN
        assert source(name), "no brackets with a year"


def test_numbers_are_those_that_the_code_says() -> None:
    assert (parameters("vanilla"), parameters("gru")) == (100 * 201, 3 * 100 * 201 + 100)
    assert [products(name) for name in ("vanilla", "mingru", "indrnn")] == ["1", "0", "a diagonal"]
    assert products("gru_reset_before") == "2: gates, candidate"
    assert source("irnn") == "Le, Jaitly and Hinton, 2015, section 3"


def test_equations_stand_as_in_the_docstring() -> None:
    text = section("lstm")
    assert text.startswith("## lstm\n\n")
    assert text.count("```") == 2
    assert "\n- `peepholes=False`: " in text


@pytest.mark.slow
def test_the_whole_page_is_what_the_command_writes() -> None:
    assert written().strip("\n") == page(json.loads(MEASURED.read_text())["cells"]).strip("\n"), AGAIN


@pytest.mark.exhaustive
def test_measuring_gives_every_cell_its_half_life_and_cost(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(describe_cells, "CELLS", {name: CELLS[name] for name in ("lstm", "lmu")})
    monkeypatch.setattr(describe_cells, "SHAPE", (6, 4, 1, 8))
    monkeypatch.setattr(describe_cells, "WIDTH", 8)
    describe_cells._shapes.cache_clear()
    output, measured = tmp_path / "cells.md", tmp_path / "cells.json"
    output.write_text(f"# Cells\n\n{BEGIN}\n{END}\n")
    assert main(["--measure", f"--output={output}", f"--measured={measured}"]) == 0
    describe_cells._shapes.cache_clear()
    assert all(row["cost"] > 0 and row["factor"] > 0 for row in json.loads(measured.read_text())["cells"].values())
    assert output.read_text().count("## ") == 2
