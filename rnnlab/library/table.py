"""A table of a run's or a sweep's numbers: columns by name, which pandas or polars take where they are installed."""

import html
import importlib
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from rnnlab.config.errors import ConfigError, unknown

SHOWN = 10
"""Rows that are printed."""
LIBRARIES = ("pandas", "polars")
"""The libraries that a table becomes a frame of; the first that is installed."""
_NUMBERS = {str(x): x for x in (math.nan, math.inf, -math.inf)}
"""The texts that JSON has in the place of these numbers."""


class Table(Mapping[str, list[Any]]):
    """Columns by their names, all as long; None where a row has no such value. It prints its first rows.

    Args:
        rows: mappings, whose names may differ.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]]):
        rows = list(rows)
        names = dict.fromkeys(name for row in rows for name in row)
        self._columns = {name: [_number(row.get(name)) for row in rows] for name in names}
        self.height = len(rows)
        """How many rows there are."""

    def __getitem__(self, name: str) -> list[Any]:
        try:
            return self._columns[name]
        except KeyError:
            raise KeyError(unknown("column", name, self._columns)) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        """How many columns there are."""
        return len(self._columns)

    def rows(self) -> list[dict[str, Any]]:
        """Each row as a dict of the values that it has."""
        lines = zip(*self._columns.values(), strict=True)
        return [{k: v for k, v in zip(self._columns, line, strict=True) if v is not None} for line in lines]

    def where(self, **values: Any) -> "Table":
        """The rows with these values, as in `where(split="validation")`, and the columns that they have.

        Raises:
            ConfigError: no such column.
        """
        for name in values:
            if name not in self._columns:
                raise ConfigError(unknown("column", name, self._columns))
        return Table(row for row in self.rows() if all(row.get(k) == v for k, v in values.items()))

    def select(self, *names: str) -> "Table":
        """The columns of these names, in this order.

        Raises:
            ConfigError: no such column.
        """
        for name in names:
            if name not in self._columns:
                raise ConfigError(unknown("column", name, self._columns))
        chosen = Table(())
        chosen._columns = {name: self._columns[name] for name in names}
        chosen.height = self.height
        return chosen

    def frame(self, library: str | None = None) -> Any:
        """A DataFrame of pandas or polars.

        Args:
            library: "pandas", "polars", or "dict" for a plain dict of columns; None: the first of these that is
                installed.

        Raises:
            ConfigError: another library, or one that is not installed.
        """
        if library not in (None, *LIBRARIES, "dict"):
            raise ConfigError(unknown("library", library, [*LIBRARIES, "dict"]))
        for name in LIBRARIES if library is None else [library]:
            if name == "dict":
                break
            try:
                module = importlib.import_module(name)
            except ImportError:
                if library is not None:
                    raise ConfigError(f"{name} is not installed; pip install {name}, or take the columns") from None
                continue
            options = {"strict": False} if name == "polars" else {}  # Columns of whole numbers and others.
            return module.DataFrame(dict(self._columns), **options)
        return {name: list(values) for name, values in self._columns.items()}

    def __repr__(self) -> str:
        table = RichTable(*self._columns)
        for line in self._shown():
            table.add_row(*line)
        text = io.StringIO()
        Console(file=text, width=max(120, 12 * len(self)), color_system=None, force_jupyter=False).print(table)
        return text.getvalue() + self._left_out()

    def _repr_html_(self) -> str:
        """For notebooks."""

        def cells(tag: str, texts: Sequence[str]) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in texts) + "</tr>"

        lines = [cells("td", line) for line in self._shown()]
        return f"<table>{cells('th', list(self))}{''.join(lines)}</table>{self._left_out()}"

    def _shown(self) -> list[list[str]]:
        lines = list(zip(*self._columns.values(), strict=True))[:SHOWN]
        return [["" if v is None else f"{v:.6g}" if isinstance(v, float) else str(v) for v in line] for line in lines]

    def _left_out(self) -> str:
        return f"{SHOWN} of {self.height} rows" if self.height > SHOWN else f"{self.height} rows"


def _number(value: Any) -> Any:
    return _NUMBERS.get(value, value) if isinstance(value, str) else value
