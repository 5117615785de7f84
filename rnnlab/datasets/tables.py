"""Tables of numbers that users bring: a column is a channel, a row a time step. CSV, Parquet and NumPy archives.

pyarrow's reader of CSV guesses types and then names no line; here a cell that is not a number is named with its line.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rnnlab.config.errors import ConfigError, unknown
from rnnlab.files import damaged, first_line, read_arrays, read_text

SUFFIXES = (".csv", ".parquet", ".npz")
MISSING = frozenset({"", "?", "na", "n/a", "nan", "null"})
"""Cells, in lower case, that stand for no value."""
REPLACE = "write it again, or name another file"
"""The remedy for a damaged file."""


class Table:
    """Columns of one length, and where each row stands in its file.

    Args:
        path: for messages.
        columns: name -> an array of numbers or texts [N].
        lines: the line of each row in a file of text; None where rows have none.
    """

    def __init__(self, path: Path, columns: dict[str, np.ndarray], lines: Sequence[int] | None = None):
        self.path, self.columns, self.lines = path, columns, lines
        self.names = tuple(columns)
        self.rows = len(next(iter(columns.values()))) if columns else 0

    def where(self, row: int) -> str:
        """The file and the line of a row, for messages."""
        return f"{self.path}, row {row + 1}" if self.lines is None else f"{self.path}:{self.lines[row]}"

    def texts(self, name: str) -> list[str]:
        """The cells of a column as text.

        Raises:
            ConfigError: it is not there.
        """
        return [_text(cell) for cell in self._column(name).tolist()]

    def numbers(self, names: Sequence[str], choice: str) -> np.ndarray:
        """float64 [N, C], NaN where a cell is empty.

        Args:
            choice: how columns are chosen, for messages.

        Raises:
            ConfigError: a column is not there, or a cell is not a finite number; with its line.
        """
        return np.stack([self._numbers(name, choice) for name in names], -1) if names else np.zeros((self.rows, 0))

    def _column(self, name: str) -> np.ndarray:
        if name not in self.columns:
            raise ConfigError(f"{self.path}: {unknown('column', name, self.names)}")
        return self.columns[name]

    def _numbers(self, name: str, choice: str) -> np.ndarray:
        column = self._column(name)
        values = np.empty(self.rows)
        if column.dtype.kind in "fiub":
            values[:] = column
        else:
            for row, cell in enumerate(column.tolist()):
                try:
                    values[row] = number(str(cell))
                except ValueError:
                    raise ConfigError(
                        f"{self.where(row)}: {shortened(str(cell))} in column {name!r} is not a number; {choice}"
                    ) from None
        if too_large(values).any():
            row = int(np.flatnonzero(too_large(values))[0])
            raise ConfigError(f"{self.where(row)}: the number in column {name!r} is not finite in 32 bits")
        return values


def _text(cell: object) -> str:
    """A cell as text: a whole number without a point, and nothing for NaN, which stands for no value."""
    if isinstance(cell, float):
        return str(int(cell)) if cell.is_integer() else "" if cell != cell else str(cell)
    return str(cell).strip()


def number(text: str) -> float:
    """A cell's number, NaN where it stands for no value; raises ValueError for anything else."""
    text = text.strip()
    if text.lower() in MISSING:
        return float("nan")
    if "_" in text:  # Python takes 1_000 for a number.
        raise ValueError(text)
    return float(text)


def too_large(values: np.ndarray) -> np.ndarray:
    """Which values float32, in which networks read them, takes for infinite."""
    return np.abs(values) > np.finfo(np.float32).max


def repeated(names: Sequence[str]) -> str:
    """The first of the names that stands there twice; there is one."""
    return next(name for name in names if names.count(name) > 1)


def shortened(text: str) -> str:
    """A text as Python writes it, at most about 40 characters of it."""
    return repr(text if len(text) <= 40 else text[:37] + "…")


def read_table(path: Path) -> Table:
    """The table in a .csv, .parquet or .npz file.

    CSV: cells apart by commas, semicolons or tabs; the first line has the columns' names, unless all its cells are
    numbers: then columns are called 1, 2, … A byte order mark and Windows' ends of lines are taken as they come.
    Parquet: its columns. NumPy: an array `values` [N] or [N, C], and if wanted `names` [C].

    Raises:
        ConfigError: the file is missing, damaged, of another kind, or has no row.
    """
    readers = {".csv": _read_csv, ".parquet": _read_parquet, ".npz": _read_npz}
    if path.suffix.lower() not in readers:
        raise ConfigError(f"{path}: a table is a file that ends in {', '.join(SUFFIXES)}")
    table = readers[path.suffix.lower()](path)
    if table.rows == 0:
        raise damaged(path, "has no row of values", REPLACE)
    return table


def lines_of(path: Path) -> list[str]:
    """The lines of a text file without a byte order mark, whichever system ended them.

    Raises:
        ConfigError: as `read_text`.
    """
    text = read_text(path, REPLACE).removeprefix("\ufeff")
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _read_csv(path: Path) -> Table:
    lines = lines_of(path)
    first = next(line for line in lines if line.strip())
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO("\n".join(lines)), delimiter=delimiter)
    header: list[str] = []
    rows, numbers = [], []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if not header:
                header = [cell.strip() for cell in cells]
                if not all(map(_is_number, header)):
                    continue
                header = [str(n) for n in range(1, len(cells) + 1)]
            if len(cells) != len(header):
                raise ConfigError(
                    f"{path}:{reader.line_num}: {len(cells)} cells, where the first line has {len(header)}; "
                    "the file may be cut short"
                )
            rows.append(cells)
            numbers.append(reader.line_num)
    except csv.Error as error:
        raise ConfigError(f"{path}:{reader.line_num}: not CSV ({error})") from None
    if len(set(header)) < len(header):
        raise ConfigError(f"{path}:1: two columns are called {repeated(header)!r}; each needs a name of its own")
    columns = dict(zip(header, np.array(rows, dtype=object).reshape(-1, len(header)).T, strict=True))
    return Table(path, columns, numbers)


def _is_number(text: str) -> bool:
    try:
        return not np.isnan(number(text))
    except ValueError:
        return False


def _read_parquet(path: Path) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        content = pyarrow.parquet.read_table(path)
    except FileNotFoundError:
        raise damaged(path, "is missing", REPLACE) from None
    except (OSError, pyarrow.ArrowException) as error:
        raise damaged(path, f"is not a whole Parquet file ({first_line(error)})", REPLACE) from None
    columns = {}
    for name, column in zip(content.column_names, content.columns, strict=True):
        if pyarrow.types.is_floating(column.type) or pyarrow.types.is_integer(column.type):
            columns[name] = column.cast(pyarrow.float64()).to_numpy()  # NaN for a null.
        else:
            columns[name] = np.array(["" if cell is None else str(cell) for cell in column.to_pylist()], dtype=object)
    return Table(path, columns)


def _read_npz(path: Path) -> Table:
    arrays = read_arrays(path, REPLACE, ["values"])
    values = arrays["values"]
    if values.ndim not in (1, 2) or values.dtype.kind not in "fiub":
        raise damaged(path, f"has `values` of {values.dtype} {list(values.shape)}, not numbers [N] or [N, C]", REPLACE)
    values = values.reshape(len(values), -1)
    names = arrays.get("names", np.arange(1, values.shape[1] + 1)).astype(str)
    if names.shape != values.shape[1:]:
        raise damaged(path, f"has `names` of shape {list(names.shape)} for {values.shape[1]} columns", REPLACE)
    return Table(path, dict(zip(names.tolist(), values.T, strict=True)))
