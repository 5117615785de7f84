"""Series with a class each, of one length or several: the archive's .ts files, tables and NumPy archives.

The readers of aeon and sktime take undeclared labels and files that are cut short as they come, name no line, and write
labels in lower case; `tests/datasets/test_labelled_series.py` compares the values with aeon's.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rnnlab.config.errors import ConfigError
from rnnlab.datasets.locations import data_root
from rnnlab.datasets.tables import REPLACE, Table, lines_of, number, read_table, repeated, shortened, too_large
from rnnlab.files import damaged, read_arrays

SUFFIXES = (".ts", ".npz", ".parquet", ".csv")
FOLDERS = ("", "time_series", "Multivariate_ts", "Univariate_ts")
"""Below the data folder, where a set's folder may lie: the last two are those of the archive's own zip files."""


class LabelledSeries(NamedTuple):
    """The series of one file."""

    path: Path
    values: list[np.ndarray]
    """float64 [T, D] each, NaN where there is no value."""
    labels: list[str]
    classes: tuple[str, ...]
    """In the order of the header, else sorted, as numbers where all are."""
    lines: list[int] | None
    """Where each stands in a file of text."""
    line_a_step: bool = False
    """Whether its steps stand in a line each, from that one on."""

    def where(self, index: int, step: int = 0) -> str:
        """The file and the line of a series or its step, for messages."""
        if self.lines is None:
            return f"{self.path}, series {index + 1}"
        return f"{self.path}:{self.lines[index] + (step if self.line_a_step else 0)}"


def find_set(path: str, data_dir: str | os.PathLike[str] | None = None) -> tuple[Path, Path]:
    """The files of training and of test: NAME_TRAIN.ts and NAME_TEST.ts, or those of another of SUFFIXES.

    Args:
        path: either of the two, the folder that has them, or such a path without _TRAIN.ts; as it stands, else below
            the data folder or one of FOLDERS in it.

    Raises:
        ConfigError: neither is there, or only one, or files of several sets or kinds are.
    """
    root, name = data_root(data_dir), Path(path).expanduser()
    looked = [name] if name.is_absolute() else [name, *(root / folder / name for folder in FOLDERS)]
    for each in looked:
        training = _training_files(each)
        if len(training) > 1:
            names = ", ".join(file.name for file in training[:10]) + (", …" if len(training) > 10 else "")
            raise ConfigError(f"task.path: {each} has {names}; name the one that is meant")
        if training:
            pair = training[0], training[0].with_name(training[0].name.replace("_TRAIN.", "_TEST."))
            for file in pair:
                if not file.is_file():
                    raise ConfigError(f"task.path: {file} is missing; a set is NAME_TRAIN and NAME_TEST of one kind")
            return pair
    paths = ", ".join(dict.fromkeys(str(each.absolute()) for each in looked))
    raise ConfigError(
        f"task.path: {path!r} has no NAME_TRAIN and NAME_TEST that end in {', '.join(SUFFIXES)}; looked at {paths}; "
        "sets of the UEA and UCR archive: https://timeseriesclassification.com"
    )


def _training_files(path: Path) -> list[Path]:
    """The training files that a path may mean; in a folder the one of its name, if there is one."""
    if path.is_dir():
        files = sorted(f for f in path.iterdir() if f.suffix in SUFFIXES and f.stem.endswith("_TRAIN"))
        return [f for f in files if f.stem == f"{path.name}_TRAIN"] or files
    if path.suffix in SUFFIXES and path.is_file():
        if not path.stem.endswith(("_TRAIN", "_TEST")):
            raise ConfigError(f"task.path: {path} is neither NAME_TRAIN{path.suffix} nor NAME_TEST{path.suffix}")
        return [path.with_name(path.name.replace("_TEST.", "_TRAIN."))]
    return [f for suffix in SUFFIXES if (f := path.with_name(f"{path.name}_TRAIN{suffix}")).is_file()]


def read_series(path: Path) -> LabelledSeries:
    """The series of a file.

    .ts: the format of the UEA and UCR archive (Bagnall et al., 2018), without time stamps. NumPy: `series` [N, T, D] or
    [N, T], `labels` [N], and if wanted `lengths` [N]. A table has a column `label`; with a column `series`, which names
    the series of each row, a row is a time step and every other column a channel; without one a row is a series of one
    channel and the other columns are its steps, the last ones empty where it is shorter.

    Raises:
        ConfigError: the file is missing, damaged, or has no series; with the line where there is one.
    """
    if path.suffix == ".ts":
        series = _read_ts(path)
    elif path.suffix == ".npz":
        series = _read_npz(path)
    else:
        table = read_table(path)
        series = _of_steps(table) if "series" in table.names else _of_rows(table)
    if not series.values:
        raise damaged(path, "has no series", REPLACE)
    if "" in series.labels:
        raise ConfigError(f"{series.where(series.labels.index(''))}: a series without a label; each needs its class")
    return series


def sorted_classes(labels: Sequence[str]) -> tuple[str, ...]:
    """The different ones, as numbers where all are."""
    names = set(labels)
    try:
        return tuple(sorted(names, key=lambda name: (float(name), name)))
    except ValueError:
        return tuple(sorted(names))


# --- .ts -------------------------------------------------------------------------------------------------------------


class _Header(NamedTuple):
    classes: tuple[str, ...]
    channels: int | None
    steps: int | None
    """T, where all series have as many."""
    equal: bool
    end: int
    """The line of @data."""


def _read_header(path: Path, lines: list[str]) -> _Header:
    """Reads what stands before @data; leaves out words that say nothing about the values."""
    words: dict[str, list[str]] = {}
    for line, text in enumerate(lines, 1):
        text = text.strip()
        if not text or text.startswith(("#", "%")):
            continue
        where = f"{path}:{line}"
        if not text.startswith("@"):
            raise ConfigError(f"{where}: values before the line @data; {REPLACE}")
        name, *values = text[1:].split() or [""]
        if not name:
            raise ConfigError(f"{where}: no word after @; {REPLACE}")
        name, truth = name.lower(), values[0].lower() if values else ""
        words[name] = values
        if name in ("timestamps", "targetlabel") and truth == "true":
            other = "series with time stamps" if name == "timestamps" else "a set for regression"
            raise ConfigError(f"{where}: {text}: {other} is not read; take one with classes and values alone")
        if name == "classlabel" and (truth != "true" or len(values) == 1):
            what = "names no class" if truth == "true" else "the series have no classes"
            raise ConfigError(f"{where}: {text}: {what}; a line @classLabel true and the classes' names is needed")
        if name == "classlabel" and len(set(values)) < len(values):
            raise ConfigError(f"{where}: @classLabel names {repeated(values)!r} twice; {REPLACE}")
        if name in ("dimensions", "dimension", "serieslength") and not (truth.isdecimal() and int(truth) > 0):
            raise ConfigError(f"{where}: {text}: needs a whole number above 0")
        if name == "data":
            if "classlabel" not in words:
                raise ConfigError(f"{where}: no line @classLabel true and the classes' names before @data; {REPLACE}")
            channels = words.get("dimensions", words.get("dimension"))
            if channels is None and words.get("univariate", [""])[0].lower() == "true":
                channels = ["1"]
            equal = words.get("equallength", [""])[0].lower() == "true"
            steps = words.get("serieslength") if equal else None
            as_number = lambda value: None if value is None else int(value[0])  # noqa: E731
            return _Header(tuple(words["classlabel"][1:]), as_number(channels), as_number(steps), equal, line)
    raise ConfigError(f"{path}:{_last_line(lines)}: the file ends without a line @data; it is cut short: {REPLACE}")


def _read_ts(path: Path) -> LabelledSeries:
    lines = lines_of(path)
    header = _read_header(path, lines)
    channels, steps, classes = header.channels, header.steps, set(header.classes)
    values, labels, places = [], [], []
    last = _last_line(lines)
    for line, text in enumerate(lines[header.end :], header.end + 1):
        text = text.strip()
        if not text or text.startswith("#"):
            continue
        where, short = f"{path}:{line}", "; the file may be cut short" if line == last else ""
        *parts, label = text.split(":")
        label = label.strip()
        if label not in classes:
            names = ", ".join(header.classes[:10]) + (", …" if len(header.classes) > 10 else "")
            raise ConfigError(f"{where}: {shortened(label)} is not a class of @classLabel ({names}){short}")
        if len(parts) != (channels or len(parts)) or not parts:
            raise ConfigError(
                f"{where}: {len(parts)} channels, where the header or the first series has {channels}{short}"
            )
        series = [_channel(where, number, part) for number, part in enumerate(parts, 1)]
        for each, channel in enumerate(series, 1):
            if len(channel) != len(series[0]):
                raise ConfigError(
                    f"{where}: channel {each} has {len(channel)} values, where channel 1 has {len(series[0])}{short}"
                )
        if header.equal and len(series[0]) != (steps or len(series[0])):
            raise ConfigError(f"{where}: {len(series[0])} values a channel, where @equalLength asks for {steps}")
        channels, steps = len(parts), len(series[0])
        values.append(np.stack(series, -1))
        labels.append(label)
        places.append(line)
    return LabelledSeries(path, values, labels, header.classes, places)


def _last_line(lines: list[str]) -> int:
    """The number of the last one that holds anything."""
    return max((line for line, text in enumerate(lines, 1) if text.strip()), default=0)


def _channel(where: str, channel: int, text: str) -> np.ndarray:
    """The values of one channel; raises ConfigError for text, and for what is not finite."""
    cells = text.split(",")
    try:
        values = np.array([number(cell) for cell in cells])
    except ValueError:
        cell = next(cell for cell in cells if _is_text(cell))
        raise ConfigError(f"{where}: {shortened(cell.strip())} in channel {channel} is not a number") from None
    if too_large(values).any():
        value = np.flatnonzero(too_large(values))[0] + 1
        raise ConfigError(f"{where}: value {value} of channel {channel} is not finite in 32 bits")
    return values


def _is_text(cell: str) -> bool:
    try:
        number(cell)
    except ValueError:
        return True
    return False


# --- tables and arrays -----------------------------------------------------------------------------------------------


def _of_steps(table: Table) -> LabelledSeries:
    """A row is a time step, column `series` says of which series."""
    names, labels = table.texts("series"), table.texts("label")
    channels = [name for name in table.names if name not in ("series", "label")]
    if not channels:
        raise ConfigError(f"{table.path}: no column beside series and label; each other column is a channel")
    numbers = table.numbers(channels, "all but series and label are channels")
    starts = [row for row in range(table.rows) if row == 0 or names[row] != names[row - 1]]
    seen: set[str] = set()
    for start, end in zip(starts, [*starts[1:], table.rows], strict=True):
        if not names[start]:
            raise ConfigError(f"{table.where(start)}: no name in column 'series'; each row needs that of its series")
        if names[start] in seen:
            raise ConfigError(
                f"{table.where(start)}: series {names[start]!r} goes on behind another; keep its rows together"
            )
        seen.add(names[start])
        for row in range(start, end):
            if labels[row] != labels[start]:
                raise ConfigError(f"{table.where(row)}: label {labels[row]!r} in a series of {labels[start]!r}")
    values = np.split(numbers, starts[1:])
    lines = None if table.lines is None else [table.lines[start] for start in starts]
    labels = [labels[start] for start in starts]
    return LabelledSeries(table.path, values, labels, sorted_classes(labels), lines, line_a_step=True)


def _of_rows(table: Table) -> LabelledSeries:
    """A row is a series of one channel."""
    labels = table.texts("label")
    numbers = table.numbers([name for name in table.names if name != "label"], "all but label are steps")
    values = []
    for row, steps in enumerate(numbers):
        there = np.flatnonzero(~np.isnan(steps))
        if not there.size:
            raise ConfigError(f"{table.where(row)}: a series without a value")
        values.append(steps[: there[-1] + 1, None])
    lines = None if table.lines is None else list(table.lines)
    return LabelledSeries(table.path, values, labels, sorted_classes(labels), lines)


def _read_npz(path: Path) -> LabelledSeries:
    arrays = read_arrays(path, REPLACE, ["series", "labels"])
    series, labels = arrays["series"], arrays["labels"]
    if (
        series.ndim not in (2, 3)
        or 0 in series.shape[1:]
        or series.dtype.kind not in "fiub"
        or labels.shape != series.shape[:1]
    ):
        shapes = f"`series` of {series.dtype} {list(series.shape)} and `labels` {list(labels.shape)}"
        raise damaged(path, f"has {shapes}, not numbers [N, T, D] or [N, T] and [N]", REPLACE)
    lengths = arrays.get("lengths", np.full(len(series), series.shape[1]))
    if lengths.shape != labels.shape or lengths.dtype.kind not in "iu":
        raise damaged(path, f"has `lengths` of {lengths.dtype} {list(lengths.shape)}, not whole numbers [N]", REPLACE)
    outside = np.flatnonzero((lengths < 1) | (lengths > series.shape[1]))
    if outside.size:
        raise ConfigError(
            f"{path}, series {outside[0] + 1}: a length of {lengths[outside[0]]}, not 1 to {series.shape[1]}"
        )
    values = [row[:length].reshape(length, -1).astype(np.float64) for row, length in zip(series, lengths, strict=True)]
    infinite = [i for i, row in enumerate(values) if too_large(row).any()]
    if infinite:
        raise ConfigError(f"{path}, series {infinite[0] + 1}: a value that is not finite in 32 bits")
    names = labels.astype(str).tolist()
    return LabelledSeries(path, values, names, sorted_classes(names), None)
