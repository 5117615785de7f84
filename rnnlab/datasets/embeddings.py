"""Pretrained word vectors from GloVe's and word2vec's text files, for a given list of words.

A file is read line by line and only the wanted rows are kept; what becomes of the table is in `training/loop.py`.
"""

import codecs
import gzip
import math
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rnnlab.config.errors import ConfigError
from rnnlab.datasets.locations import find_given

LARGEST = float(np.finfo(np.float32).max)


class Coverage(NamedTuple):
    """How many of the words a file has."""

    present: int
    missing: int
    share: float
    """present / (present + missing)."""
    token_share: float | None
    """The same with every word counted as often as it occurs; None without counts."""


class Embeddings(NamedTuple):
    """Float32 [V, E], which of its rows are the file's [V], and how many."""

    table: np.ndarray
    from_file: np.ndarray
    coverage: Coverage


def find_embeddings(name: str | os.PathLike[str], data_dir: str | os.PathLike[str] | None = None) -> Path:
    """The file of that name, as in `files.find_given`."""
    return find_given("embedding file", name, data_dir, Path.is_file)


def read_embeddings(
    path: Path,
    words: Sequence[str],
    features: int | None = None,
    *,
    seed: int = 0,
    counts: Sequence[int] | None = None,
) -> Embeddings:
    """The vectors of these words.

    A line is a word and its E values, split by single blanks; a first line of two whole numbers is word2vec's header,
    "count dimension". The values are the last E of a line, since some words of glove.840B hold blanks (". . ."). A
    word that the file has not as it is written takes the row of its lower-case form. The entries of one that has
    neither are drawn from N(m_e, s_e²), where m_e and s_e are mean and standard deviation of column e over the rows
    of the file: such a word has the scale of the others. A word that stands in the file twice has its first row.

    Every line's width is checked, its values only where they are wanted.

    Args:
        path: the file, or its gzip.
        words: V words, row by row.
        features: E, if the file must have that many.
        seed: of the rows that are drawn.
        counts: how often each word occurs, for the coverage.

    Raises:
        ConfigError: no file, an empty or a truncated one, a row of another width, a value that is not a finite number,
            another E than `features`, or none of the words.
    """
    wanted = {form.encode() for word in words for form in (word, word.lower())}
    rows: dict[bytes, np.ndarray] = {}
    header: tuple[int, int] | None = None
    width, why = features, "as asked for"
    count = 0
    for number, line in _lines(path):
        if number == 1 and (header := _header(line)) is not None:
            if features not in (None, header[1]):
                raise ConfigError(f"{path}, line 1: vectors of {header[1]} values; expected {features}, {why}")
            width, why = header[1], "as its header says"
            continue
        if width is None:  # The first word is taken to hold no blank.
            width, why = line.count(b" "), f"as in line {number}"
        count += 1
        word, values = _split(path, number, line, width, why)
        if word in wanted and word not in rows:
            rows[word] = _parse(path, number, values, width)
    if width is None or count == 0:
        raise ConfigError(f"{path} is empty: it holds no word vector")
    if header is not None and count != header[0]:
        raise ConfigError(f"{path}: its header says {header[0]} words, {count} follow; it is truncated or corrupt")
    return _fill(path, words, rows, width, seed, counts)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number, line) of all that are not blank. Bytes, since words may hold characters that Unicode breaks lines at."""
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if zipped else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                line = line.rstrip(b" \r\n")  # word2vec ends its lines with a blank.
                if line:
                    yield number, line
    except FileNotFoundError:
        raise ConfigError(f"embedding file {path} not found") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ConfigError(f"{path} is not a whole gzip file: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None


def _header(line: bytes) -> tuple[int, int] | None:
    """(count, dimension) of a word2vec header."""
    parts = line.split(b" ")
    return (int(parts[0]), int(parts[1])) if len(parts) == 2 and all(p.isdigit() for p in parts) else None


def _split(path: Path, number: int, line: bytes, width: int, why: str) -> tuple[bytes, bytes]:
    """A line's word and its values."""
    blanks = line.count(b" ")
    if blanks == width > 0:
        word, _, values = line.partition(b" ")
        return word, values
    if blanks > width > 0:
        word, *values = line.rsplit(b" ", width)
        if not _is_number(word.split(b" ")[-1]):  # Else the line has a value too many.
            return word, b" ".join(values)
    raise ConfigError(f"{path}, line {number}: {blanks} values after the word; expected {width or 'some'}, {why}")


def _is_number(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _parse(path: Path, number: int, values: bytes, width: int) -> np.ndarray:
    row = np.empty(width, np.float32)
    for column, text in enumerate(values.split(b" ")):
        value = float(text) if _is_number(text) else math.nan
        if not abs(value) <= LARGEST:
            raise ConfigError(f"{path}, line {number}: {text.decode(errors='replace')!r} is not a finite float32")
        row[column] = value
    return row


def _fill(
    path: Path,
    words: Sequence[str],
    rows: dict[bytes, np.ndarray],
    width: int,
    seed: int,
    counts: Sequence[int] | None,
) -> Embeddings:
    """The table of the rows that were found, the others drawn."""
    table = np.zeros((len(words), width), np.float32)
    from_file = np.zeros(len(words), bool)
    for index, word in enumerate(words):
        row = rows.get(word.encode(), rows.get(word.lower().encode()))
        if row is not None:
            table[index], from_file[index] = row, True
    if not from_file.any():
        raise ConfigError(f"{path} holds none of the {len(words)} words")
    mean, std = table[from_file].mean(0, dtype=np.float64), table[from_file].std(0, dtype=np.float64)
    # A draw for every row, so that a word's does not depend on which others are missing.
    drawn = mean + std * np.random.default_rng(seed).standard_normal(table.shape)
    table[~from_file] = drawn[~from_file]
    weights = None if counts is None else np.asarray(counts, np.float64)
    coverage = Coverage(
        present=int(from_file.sum()),
        missing=int((~from_file).sum()),
        share=float(from_file.mean()),
        token_share=None if weights is None else float(weights[from_file].sum() / weights.sum()),
    )
    return Embeddings(table, from_file, coverage)
