"""Pieces of text to token ids, by several processes: what a worker does, and how a text is cut into its pieces.

A piece's ids are its own, in the order in which its words appear; `assembly.py` makes them the vocabulary's. So a text
is read once, and its words are counted and numbered in one pass: 28 MB/s on one core, against 16 for counting them with
a Counter and then looking each of them up.
"""

import codecs
import functools
import multiprocessing
import os
import signal
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rnnlab.config.errors import ConfigError
from rnnlab.datasets.corpus import Corpus, Part
from rnnlab.datasets.vocabulary import END, Level
from rnnlab.files import whole_file
from rnnlab.parallel.memory import OutOfMemory

CHUNK = 16 << 20
"""Bytes of a piece."""
BLOCK = 1 << 18
"""Bytes of a piece that are split at a time: a word is an object of some 40 bytes."""
SEPARATOR = b"\xff"
"""Between the words of a saved piece; no UTF-8 text has this byte."""


class Chunk(NamedTuple):
    """A piece of a part: the bytes start ≤ i < stop, whether it is the part's last, and where its ids go."""

    part: Part
    last: bool
    level: Level
    spelled: bool
    """As of `Corpus`."""
    output: Path

    @property
    def size(self) -> int:
        return self.part.stop - self.part.start


class Numbered(NamedTuple):
    """The words of a piece (as UTF-8), how often each occurs [n], and which of them stands where, [T] in 0..n-1."""

    words: list[bytes]
    counts: np.ndarray
    ids: np.ndarray


def cut(corpus: Corpus, level: Level, folder: Path) -> dict[str, list[Chunk]]:
    """The pieces of every split, cut behind a blank, a tab or a line feed; their ids go to files in the folder.

    Raises:
        ConfigError: a file cannot be read.
    """
    chunks: dict[str, list[Chunk]] = {}
    for split, of_split in corpus.splits.items():
        pieces = [piece for part in of_split for piece in _pieces(part)]
        chunks[split] = [
            Chunk(piece, last, level, corpus.spelled, folder / f"{split}-{number:06}.npz")
            for number, (piece, last) in enumerate(pieces)
        ]
    return chunks


def _pieces(part: Part) -> Iterator[tuple[Part, bool]]:
    """A part's pieces, and whether each is its last."""
    try:
        with part.path.open("rb") as file:
            start = part.start
            while start < part.stop:
                stop = min(start + CHUNK, part.stop)
                file.seek(stop)
                while stop < part.stop:
                    block = file.read(1 << 12)
                    at = next((i for i, byte in enumerate(block) if byte in b" \t\n"), None)
                    stop = min(stop + (len(block) if at is None else at + 1), part.stop)
                    if at is not None or not block:
                        break
                yield Part(part.path, start, stop), stop == part.stop
                start = stop
    except OSError as error:
        raise ConfigError(f"{part.path} cannot be read: {error.strerror or error}") from None


def number_all(chunks: Sequence[Chunk], processes: int | None, done: Callable[[int], None]) -> None:
    """Writes the file of every piece that has none yet; `done` is told the bytes of each as it is finished.

    Raises:
        ConfigError: a file that is not UTF-8 or cannot be read, a full disk, a worker that was killed.
    """
    if processes is None:
        processes = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    todo = []
    for chunk in chunks:
        if chunk.output.exists():
            done(chunk.size)
        else:
            todo.append(chunk)
    if processes == 1 or len(todo) < 2:
        for chunk in todo:
            done(number(chunk))
        return
    # A fork of this process would take the threads of JAX with it; the server forks before there are any.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(min(processes, len(todo)), context, _begin_worker) as pool:
        try:
            for future in as_completed([pool.submit(number, chunk) for chunk in todo]):
                done(future.result())
        except BrokenProcessPool:
            raise OutOfMemory("a worker was killed, perhaps for want of memory; take fewer --processes") from None
        finally:
            pool.shutdown(cancel_futures=True)


def _begin_worker() -> None:
    """Ctrl-C is the parent's to handle, and a worker ends when its parent does, even if that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        sentinel = parent.sentinel
        threading.Thread(target=lambda: (wait([sentinel]), os._exit(1)), daemon=True).start()


def number(chunk: Chunk) -> int:
    """Reads a piece, counts and numbers its words, and writes its file; returns the bytes read.

    Raises:
        ConfigError: not UTF-8 (file and line), or the file cannot be read or written.
    """
    path, start, stop = chunk.part
    try:
        with path.open("rb") as file:
            file.seek(start)
            data = file.read(stop - start)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
    if len(data) != stop - start:
        raise ConfigError(f"{path} became shorter while it was read")
    if chunk.level == "byte":
        words, counts, ids = _number_bytes(data)
    else:
        data = _checked_lines(data, path, start)
        if chunk.spelled:
            data = _unspelled(data, path, start)
        numbered = _number_words(data, chunk.last) if chunk.level == "word" else _number_characters(data.decode())
        words, counts, ids = numbered
    small = np.uint16 if len(words) <= 1 << 16 else np.uint32
    with whole_file(chunk.output) as file:
        saved = np.frombuffer(SEPARATOR.join(words), np.uint8)
        np.savez(file, words=saved, counts=counts, ids=ids.astype(small, copy=False))
    return chunk.size


def _checked_lines(data: bytes, path: Path, start: int) -> bytes:
    """The bytes of a file from `start` on, UTF-8, as plain lines."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        line = _line_of(path, start + error.start)
        raise ConfigError(f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8") from None
    return _plain_lines(data, path) if start == 0 else data.replace(b"\r\n", b"\n")


def _unspelled(data: bytes, path: Path, start: int) -> bytes:
    """The text whose characters stand apart, `_` for a blank.

    Raises:
        ConfigError: two characters stand together.
    """
    characters = data.split()
    if (wrong := next((each for each in characters if len(each) > 1 and len(each.decode()) > 1), None)) is not None:
        line = _line_of(path, start + data.index(wrong))
        raise ConfigError(
            f"{path}, line {line}: {wrong.decode()[:60]!r}; expected characters with a blank between two of them, and "
            "_ for a blank"
        )
    return data.translate(None, b" \t").replace(b"_", b" ")


def _plain_lines(data: bytes, path: Path) -> bytes:
    """The beginning of a file without a byte order mark; its lines end with LF where they did with CRLF.

    Raises:
        ConfigError: they end with CR alone, as on old Macs.
    """
    data = data.removeprefix(codecs.BOM_UTF8)
    if b"\r" not in data:
        return data
    if b"\n" not in data:
        raise ConfigError(f"{path}: its lines end with CR alone; they have to end with LF or CRLF")
    return data.replace(b"\r\n", b"\n")


def _number_words(data: bytes, last: bool) -> Numbered:
    """The words between ASCII whitespace, `<eos>` for each line feed and behind a last line that has none."""
    end = END["word"].encode()
    ids: defaultdict[bytes, int] = defaultdict()
    ids.default_factory = ids.__len__
    blocks, start = [], 0
    while start < len(data):
        stop = data.find(b" ", start + BLOCK) + 1 or len(data)
        words = data[start:stop].replace(b"\n", b" " + end + b" ").split()
        if stop == len(data) and last and not data.endswith(b"\n"):
            words.append(end)
        blocks.append(np.fromiter(map(ids.__getitem__, words), np.uint32, len(words)))
        start = stop
    numbers = np.concatenate(blocks) if blocks else np.zeros(0, np.uint32)  # A byte order mark alone is not a word.
    return Numbered(list(ids), np.bincount(numbers, minlength=len(ids)), numbers)


def _number_characters(text: str) -> Numbered:
    """The characters, in the order of their code points."""
    codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
    histogram = np.bincount(codes)
    distinct = np.flatnonzero(histogram)
    places = np.zeros(len(histogram), np.uint32)
    places[distinct] = np.arange(len(distinct))
    return Numbered([chr(code).encode() for code in distinct], histogram[distinct], places[codes])


def _number_bytes(data: bytes) -> Numbered:
    """The bytes in their order, each named by the character of its number."""
    codes = np.frombuffer(data, np.uint8)
    histogram = np.bincount(codes, minlength=256)
    distinct = np.flatnonzero(histogram)
    places = np.zeros(256, np.uint32)
    places[distinct] = np.arange(len(distinct))
    return Numbered([chr(code).encode() for code in distinct], histogram[distinct], places[codes])


def _line_of(path: Path, position: int) -> int:
    """The line, from 1, that a byte is in."""
    line, left = 1, position
    with path.open("rb") as file:
        for block in iter(functools.partial(file.read, 1 << 20), b""):
            line += block[:left].count(b"\n")
            left -= min(left, len(block))
            if left == 0:
                break
    return line


def read_numbered(path: Path, with_ids: bool = True) -> Numbered:
    """Reads what `number` wrote.

    Raises:
        ConfigError: the file is damaged.
    """
    try:
        with np.load(path) as saved:
            words, counts = saved["words"].tobytes().split(SEPARATOR), saved["counts"]
            words = words if len(counts) else []  # A piece may be all blanks.
            return Numbered(words, counts, saved["ids"] if with_ids else np.empty(0, np.uint32))
    except Exception as error:  # zipfile and numpy raise half a dozen kinds.
        raise ConfigError(f"{path} is damaged ({error}); delete it and prepare again") from None
