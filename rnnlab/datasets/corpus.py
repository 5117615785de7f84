"""A corpus: which bytes of which files are training, validation and test text."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rnnlab.config.errors import ConfigError

SPLITS = ("train", "validation", "test")
SHARES = (0.9, 0.05, 0.05)
"""Shares of a corpus that comes without a split, in bytes, in the order of its files."""


class Part(NamedTuple):
    """The bytes start ≤ i < stop of a file."""

    path: Path
    start: int
    stop: int


class Corpus(NamedTuple):
    """The parts of each split, in order, and how the splits came about."""

    splits: Mapping[str, tuple[Part, ...]]
    note: str
    folder: Path
    """Which the files are in."""
    dated: bool = False
    """Whether the files may change: they are the user's."""
    spelled: bool = False
    """Whether its characters stand apart, with a blank between two of them and `_` where the text has a blank."""

    def size(self) -> int:
        """Bytes of all splits."""
        return sum(part.stop - part.start for parts in self.splits.values() for part in parts)

    def sources(self) -> list[list[str | int]]:
        """[file, bytes] of every file, and its time of change in ns if it may change: what was prepared is known by
        it."""
        paths = dict.fromkeys(part.path for parts in self.splits.values() for part in parts)
        return [
            [path.relative_to(self.folder).as_posix(), path.stat().st_size]
            + ([path.stat().st_mtime_ns] if self.dated else [])
            for path in paths
        ]


def whole(files: Sequence[Path]) -> tuple[Part, ...]:
    """All of each file."""
    return tuple(Part(path, 0, path.stat().st_size) for path in files)


def divide(files: Sequence[Path], behind: bytes | None = b"\n") -> Corpus:
    """The files one after the other, split by SHARES.

    behind: a cut goes on to the next such byte; None: it is exact.
    """
    sizes = [path.stat().st_size for path in files]
    total = sum(sizes)
    marks = [int(SHARES[0] * total), int((SHARES[0] + SHARES[1]) * total)]
    if behind is not None:
        marks = [_end(files, sizes, mark, behind) for mark in marks]
    edges = [0, *marks, total]
    splits: dict[str, tuple[Part, ...]] = {}
    for split, low, high in zip(SPLITS, edges[:-1], edges[1:], strict=True):
        parts, begin = [], 0
        for path, size in zip(files, sizes, strict=True):
            start, stop = max(low - begin, 0), min(high - begin, size)
            if start < stop:
                parts.append(Part(path, start, stop))
            begin += size
        splits[split] = tuple(parts)
    where = {b"\n": "at line ends", b" ": "between words", None: "by characters"}[behind]
    return Corpus(
        splits, f"90/5/5 {where}, in the order of {files[0].name}" + (" …" if len(files) > 1 else ""), files[0].parent
    )


def _end(files: Sequence[Path], sizes: Sequence[int], mark: int, behind: bytes) -> int:
    """The first byte of the concatenated files, at or after mark, that begins a file or stands behind such a byte."""
    begin = 0
    for path, size in zip(files, sizes, strict=True):
        if begin <= mark < begin + size:
            at = max(mark - begin - 1, 0)
            try:
                with path.open("rb") as file:
                    file.seek(at)
                    while mark > begin and (block := file.read(1 << 16)):
                        offset = block.find(behind)
                        if offset >= 0:
                            return begin + at + offset + 1
                        at += len(block)
                    return mark if mark == begin else begin + at
            except OSError as error:
                raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
        begin += size
    return begin
