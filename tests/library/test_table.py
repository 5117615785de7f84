"""Tables of numbers: columns, rows that differ in what they have, frames of other libraries."""

import math
import sys
from types import SimpleNamespace

import pytest

import rnnlab
from rnnlab.config.errors import ConfigError
from rnnlab.library.table import SHOWN, Table

ROWS = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": "nan", "rate": 0.1}, {"step": 3, "loss": "inf"}]


def test_rows_come_back_as_they_were_and_texts_of_numbers_are_numbers() -> None:
    table = rnnlab.table(ROWS)
    assert (list(table), table.height) == (["step", "loss", "rate"], 3)
    assert table["rate"] == [None, 0.1, None]
    assert math.isnan(table["loss"][1])
    assert table.rows()[2] == {"step": 3, "loss": math.inf}
    assert table.where(step=1).rows() == [ROWS[0]]
    chosen = table.select("rate", "step")
    assert (dict(chosen), chosen.height) == ({"rate": [None, 0.1, None], "step": [1, 2, 3]}, 3)
    with pytest.raises(KeyError, match="unknown column 'losss'; did you mean loss"):
        table["losss"]
    with pytest.raises(ConfigError, match="unknown column 'losss'; did you mean loss"):
        table.select("step", "losss")


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_frame_is_of_the_library_that_is_installed(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    for name in ("pandas", "polars"):
        monkeypatch.setitem(sys.modules, name, None)
    table = Table(ROWS[:1])
    assert table.frame() == {"step": [1], "loss": [0.5]}
    with pytest.raises(ConfigError, match=f"{library} is not installed; pip install {library}"):
        table.frame(library)
    frame = SimpleNamespace(DataFrame=lambda columns, **_: (library, columns))
    monkeypatch.setitem(sys.modules, library, frame)
    assert table.frame() == table.frame(library) == (library, {"step": [1], "loss": [0.5]})


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_real_frame_has_the_same_numbers(library: str) -> None:
    pytest.importorskip(library, reason=f"{library} is not installed")
    frame = Table(ROWS).frame(library)
    assert (frame.shape, list(frame.columns)) == ((3, 3), ["step", "loss", "rate"])
    assert list(frame["step"]) == [1, 2, 3]
    assert list(frame["loss"])[2] == math.inf


@pytest.mark.parametrize("notebook", [False, True])
def test_first_rows_are_printed_and_texts_are_escaped(monkeypatch: pytest.MonkeyPatch, notebook: bool) -> None:
    monkeypatch.setattr("rich.console._is_jupyter", lambda: notebook)
    table = Table([{"name": "<b>", "x": 1 / 3}] * (SHOWN + 1))
    assert repr(table).count("0.333333") == SHOWN
    assert repr(table).endswith("10 of 11 rows")
    assert "&lt;b&gt;" in table._repr_html_()
    assert table._repr_html_().count("<td>0.333333</td>") == SHOWN
