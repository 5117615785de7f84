"""From the pieces of a corpus to its files: the pieces' words are merged, a vocabulary is chosen, ids are written."""

import contextlib
import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from rnnlab.config.errors import ConfigError
from rnnlab.datasets.chunks import Chunk, cut, number_all, read_numbered
from rnnlab.datasets.corpus import SPLITS, Corpus
from rnnlab.datasets.vocabulary import END, Level, Vocabulary
from rnnlab.files import whole_file
from rnnlab.parallel import memory

BYTES_A_WORD = 120
"""Bytes that a word takes in a dict of counts, at the least: a vocabulary is chosen from one."""
META = "meta.json"
"""The file of a prepared corpus that says what it is, written last."""
_SMALLER = "take level=character, or a part of the text"


def assemble(
    corpus: Corpus,
    level: Level,
    choose: Callable[[Mapping[str, int]], Vocabulary],
    about: Mapping[str, Any],
    folder: Path,
    processes: int | None,
    say: Callable[[str], None],
    progress: Callable[[int, int], None],
) -> None:
    """Writes a prepared corpus.

    Words are counted and numbered piece by piece, each piece in a file of its own, which an interrupted run leaves for
    the next one; then the vocabulary is chosen, and the pieces' numbers become its ids. Memory grows with
    the number of different words, not with the text; the disk holds up to four bytes a token more until the end.

    Args:
        choose: makes a vocabulary of the training split's counts.
        about: what else meta.json says.
        processes: that read and number; else one a core.
        progress: told how many bytes of how many have been read.

    Raises:
        ConfigError: a file that cannot be read or is not UTF-8, a split without words, a full disk.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    sources = corpus.sources()
    _begin(partial, {**about, "sources": sources})
    for left in folder.glob("*.partial"):  # By a run that was killed while it wrote.
        left.unlink()
    chunks = cut(corpus, level, partial)
    everything = [chunk for split in SPLITS for chunk in chunks[split]]
    total, ready = sum(chunk.size for chunk in everything), 0

    def done(size: int) -> None:
        nonlocal ready
        ready += size
        progress(ready, total)

    with _without_pieces_too_large(partial):
        number_all(everything, processes, done)
        say("counting and writing")
        _finish(corpus, level, choose, {**about, "sources": sources}, chunks, folder, partial)


@contextlib.contextmanager
def _without_pieces_too_large(partial: Path) -> Iterator[None]:
    """Pieces that do not fit into memory now do not do so the next time: they go.

    Raises:
        OutOfMemory: it did not fit.
    """
    try:
        with memory.allocation_failures(_SMALLER):
            yield
    except memory.OutOfMemory:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _finish(
    corpus: Corpus,
    level: Level,
    choose: Callable[[Mapping[str, int]], Vocabulary],
    about: Mapping[str, Any],
    chunks: Mapping[str, Sequence[Chunk]],
    folder: Path,
    partial: Path,
) -> None:
    """From the pieces' own numbers to the files."""
    merged = _merge(chunks)
    try:
        for split in SPLITS:
            if not any(count and word != END[level].encode() for word, count in merged.counted(split)):
                files = ", ".join(str(part.path) for part in corpus.splits[split][:3]) or "no line is left for it"
                raise ConfigError(f"the {split} text is empty ({files})")
        counted = {word.decode(): count for word, count in merged.counted("train") if count}
        vocabulary = choose(counted)
    except ConfigError:  # The pieces are of no use to a run that is right.
        shutil.rmtree(partial, ignore_errors=True)
        raise
    with contextlib.suppress(OSError):
        (folder / META).unlink(missing_ok=True)  # It no longer describes what is there.
    index, unknown = vocabulary.index, vocabulary.unknown
    ids = np.array([index.get(word.decode(), unknown) for word in merged.words], id_type(len(vocabulary)))
    splits = {split: _write(chunks[split], merged, ids, vocabulary, folder / split) for split in SPLITS}
    vocabulary.save(folder)
    written = {"split": corpus.note, "vocabulary": {"size": len(vocabulary), "hash": vocabulary.hash}, "splits": splits}
    with whole_file(folder / META) as file:
        file.write((json.dumps({**about, **written}, indent=1) + "\n").encode())
    shutil.rmtree(partial)


def id_type(size: int) -> type[np.integer[Any]]:
    """The smallest type for the ids of so many entries: bytes where they suffice."""
    return np.uint8 if size <= 1 << 8 else np.uint16 if size <= 1 << 16 else np.int32


def _begin(partial: Path, manifest: Mapping[str, Any]) -> None:
    """The folder of the pieces; those of another text are removed."""
    text = json.dumps(manifest)
    path = partial / "manifest.json"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        shutil.rmtree(partial, ignore_errors=True)
        with whole_file(path) as file:
            file.write(text.encode())


class _Merged(NamedTuple):
    """The different words of the whole corpus, how often each occurs in a split, and for every piece where its words
    are in the list."""

    words: list[bytes]
    counts: dict[str, np.ndarray]
    places: dict[Path, np.ndarray]

    def counted(self, split: str) -> Iterator[tuple[bytes, int]]:
        """Words and counts; the words that came up in later splits are left out, they have none."""
        return zip(self.words, self.counts[split].tolist(), strict=False)


def _merge(chunks: Mapping[str, Sequence[Chunk]]) -> _Merged:
    """One list of words out of those of all pieces: a look-up for each word of a piece, not of the text."""
    ids: defaultdict[bytes, int] = defaultdict()
    ids.default_factory = ids.__len__
    counts, places = {}, {}
    for split in SPLITS:
        total = np.zeros(0, np.int64)
        for chunk in chunks[split]:
            words, counted, _ = read_numbered(chunk.output, with_ids=False)
            at = np.fromiter(map(ids.__getitem__, words), np.uint32, len(words))
            if len(ids) > len(total):
                total = np.concatenate([total, np.zeros(len(ids), np.int64)])
            total[at] += counted  # A piece has each of its words once.
            places[chunk.output] = at
            memory.check({f"{len(ids):,} different words": len(ids) * BYTES_A_WORD}, smaller=_SMALLER)
        counts[split] = total[: len(ids)]
    return _Merged(list(ids), counts, places)


def _write(
    chunks: Sequence[Chunk], merged: _Merged, ids: np.ndarray, vocabulary: Vocabulary, path: Path
) -> dict[str, int]:
    """Writes PATH.npy and PATH_offsets.npy of a split; returns how many tokens, sentences and unknown tokens it has.

    Args:
        ids: of every word of `merged`.
    """
    counts = merged.counts[path.name]
    totals = np.bincount(ids[: len(counts)], counts, len(vocabulary)).astype(np.int64)
    count, sentences = int(totals.sum()), int(totals[vocabulary.end])
    last = read_numbered(chunks[-1].output).ids[-1]
    if ids[merged.places[chunks[-1].output][last]] != vocabulary.end:
        sentences += 1  # A text of characters may break off within a line.
    with (
        _array_file(path.with_name(f"{path.name}.npy"), ids.dtype, count) as tokens_file,
        _array_file(path.with_name(f"{path.name}_offsets.npy"), np.dtype(np.int64), sentences + 1) as offsets_file,
    ):
        begin = ended = 0
        offsets_file.write(np.zeros(1, np.int64).tobytes())
        for chunk in chunks:
            tokens = ids[merged.places[chunk.output]][read_numbered(chunk.output).ids]
            tokens_file.write(tokens.tobytes())
            ends = np.flatnonzero(tokens == vocabulary.end) + (begin + 1)
            offsets_file.write(ends.astype(np.int64).tobytes())
            begin += len(tokens)
            ended += len(ends)
        if ended < sentences:
            offsets_file.write(np.array([count], np.int64).tobytes())
    return {"tokens": count, "sentences": sentences, "unknown": int(totals[vocabulary.unknown])}


@contextlib.contextmanager
def _array_file(path: Path, dtype: np.dtype, count: int) -> Iterator[BinaryIO]:
    """A .npy file [count] whose numbers are still to be written.

    Writing through a memory map would end the process, without a message, where the disk is full.
    """
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (count,)}
    with whole_file(path) as file:
        np.lib.format.write_array_header_1_0(file, header)
        yield file
