"""A corpus as token ids: prepared once, then memory-mapped. `prepare.py` is the command, `load_tokens` the library.

A prepared corpus is a folder <data>/<dataset>/prepared/<key> with train.npy, validation.npy and test.npy (token ids),
<split>_offsets.npy (where sentences begin), the vocabulary (see `Vocabulary.save`) and, written last, meta.json.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pooch

from rnnlab.build import ConfigError, unknown
from rnnlab.datasets.chunks import Chunk, cut, number_all, read_numbered
from rnnlab.datasets.files import data_root
from rnnlab.datasets.text import DATASETS, SPLITS, Corpus, find_corpus
from rnnlab.datasets.vocabulary import END, Level, Vocabulary
from rnnlab.datasets.writing import alone, whole_file

VERSION = 1
AUTOMATIC = 256 << 20
"""Bytes of text that are prepared without being asked for; more is the command's."""


class Tokens(NamedTuple):
    """A split: ids [N], and where sentences begin [S + 1], int64. Both are memory maps, not to be written to.

    Sentence i is tokens[offsets[i] : offsets[i + 1]], its `<eos>` (or line feed) the last; offsets[0] is 0 and
    offsets[S] is N. The ids are uint16 where V ≤ 65 536, else int32.
    """

    tokens: np.ndarray
    offsets: np.ndarray


class TokenSet(NamedTuple):
    """A prepared corpus."""

    splits: Mapping[str, Tokens]
    """By "train", "validation", "test"."""
    vocabulary: Vocabulary
    folder: Path
    meta: Mapping[str, Any]
    """meta.json: version, dataset, level, split (how it came about), vocabulary (size, hash), sources, and splits:
    tokens, sentences, unknown (tokens that are `<unk>`) of each."""


class Request(NamedTuple):
    """Which corpus, as which tokens. Of vocabulary_size, min_count and vocabulary at most one is given."""

    dataset: str
    data_dir: str | os.PathLike[str] | None = None
    level: Level = "word"
    vocabulary_size: int | None = None
    min_count: int | None = None
    vocabulary: str | os.PathLike[str] | None = None
    source: str | os.PathLike[str] | None = None

    def command(self) -> str:
        """What prepares it."""
        given = [f"--{name}={value}" for name, value in self._asdict().items() if value is not None]
        return " ".join(["python -m rnnlab.datasets.prepare", *given])


def load_tokens(
    dataset: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    level: Level = "word",
    vocabulary_size: int | None = None,
    min_count: int | None = None,
    vocabulary: str | os.PathLike[str] | None = None,
    source: str | os.PathLike[str] | None = None,
    say: Callable[[str], None] = print,
) -> TokenSet:
    """The tokens of a corpus; one of up to 256 MB that is not prepared is prepared now.

    Args:
        dataset: "lm1b", "wikitext-2", "tinyshakespeare" or "text"; their files and splits are in `find_corpus`.
        data_dir: as in `files.data_root`.
        level: "word" (what stands between ASCII whitespace) or "character".
        vocabulary_size: V at most, the most frequent words of the training split; `<unk>` and `<eos>` are counted.
        min_count: instead, the words that occur that often. With neither, all words of the training split.
        vocabulary: instead, a file of words, one a line (see `Vocabulary.read`).
        source: of "text", the folder of its files.

    Raises:
        ConfigError: files are missing or damaged, or the corpus is too large to be prepared on the way.
    """
    request = Request(dataset, data_dir, level, vocabulary_size, min_count, vocabulary, source)
    return read_tokens(prepare(request, 1, say, limit=AUTOMATIC))


def read_tokens(folder: Path) -> TokenSet:
    """A prepared corpus, from its folder.

    Raises:
        ConfigError: a file is missing or damaged.
    """
    again = f"delete {folder} and prepare it again"
    try:
        meta = json.loads((folder / "meta.json").read_text())
        splits = {
            split: Tokens(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in (split, f"{split}_offsets")))
            for split in SPLITS
        }
        sizes = {split: (meta["splits"][split]["tokens"], meta["splits"][split]["sentences"]) for split in SPLITS}
        expected = meta["vocabulary"]["hash"]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{folder} holds no whole prepared corpus ({error}); {again}") from None
    for split, (tokens, offsets) in splits.items():
        if (len(tokens), len(offsets) - 1) != sizes[split]:
            raise ConfigError(
                f"{folder / split}.npy has {len(tokens)} tokens, meta.json says {sizes[split][0]}; {again}"
            )
    vocabulary = Vocabulary.load(folder)
    if vocabulary.hash != expected:
        raise ConfigError(f"{folder}: the vocabulary is not the one of the tokens; {again}")
    return TokenSet(splits, vocabulary, folder, meta)


def prepared_folder(request: Request) -> Path:
    """Where the corpus is once it is prepared: below the data folder, or, if nothing may be written there, in the
    user's cache.

    Raises:
        ConfigError: a mistake in the request.
    """
    dataset, _, level, size, min_count, vocabulary, source = request
    if dataset not in DATASETS:
        raise ConfigError(unknown("dataset", dataset, DATASETS))
    if level not in END:
        raise ConfigError(f"level {level!r} is not known; allowed: {', '.join(END)}")
    limits = {"vocabulary_size": size, "min_count": min_count, "vocabulary": vocabulary}
    given = [name for name, value in limits.items() if value is not None]
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)}: at most one of {', '.join(limits)} says what the vocabulary is")
    if (source is None) == (dataset == "text"):
        wanted = "needs a source, the folder of its files" if source is None else "is in the data folder; no source"
        raise ConfigError(f"dataset {dataset!r} {wanted}")
    key = f"{level}-all"
    if size is not None:
        key = f"{level}-size{size}"
    elif min_count is not None:
        key = f"{level}-count{min_count}"
    elif vocabulary is not None:
        try:
            content = Path(vocabulary).expanduser().read_bytes()
        except OSError as error:
            raise ConfigError(f"vocabulary {vocabulary} cannot be read: {error.strerror or error}") from None
        key = f"{level}-{Path(vocabulary).stem}-{hashlib.sha256(content).hexdigest()[:8]}"
    if source is not None:
        path = Path(source).expanduser().resolve()
        key = f"{path.name}-{hashlib.sha256(str(path).encode()).hexdigest()[:8]}-{key}"
    folder = data_root(request.data_dir).absolute() / dataset
    if not _writable(folder):
        where = hashlib.sha256(str(folder).encode()).hexdigest()[:8]
        folder = Path(pooch.os_cache("rnnlab")) / f"{dataset}-{where}"
    return folder / "prepared" / key


def _writable(folder: Path) -> bool:
    """Whether files can be made in a folder that may not exist yet. A read-only mode counts for root too."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return os.access(folder, os.W_OK) and bool(folder.stat().st_mode & 0o222)


def prepare(
    request: Request,
    processes: int | None = None,
    say: Callable[[str], None] = print,
    progress: Callable[[int, int], None] = lambda done, total: None,
    limit: int | None = None,
) -> Path:
    """Prepares a corpus unless that is done; returns its folder.

    Words are counted and numbered piece by piece, each piece in a file of its own, which an interrupted run leaves for
    the next one; then the vocabulary is made, and the pieces' numbers become its ids. The corpus is never in memory;
    the disk holds up to four bytes a token more until the end.

    Args:
        processes: that read and number; else one a core.
        progress: told how many bytes of how many are done.
        limit: a larger corpus is refused with the command that prepares it.

    Raises:
        ConfigError: a mistake in the request; a file that is missing, empty or not UTF-8; a full disk.
    """
    folder = find_prepared(request)
    if folder is not None:
        return folder
    folder = prepared_folder(request)
    corpus = find_corpus(request.dataset, request.data_dir, request.level, request.source, say=say)
    if limit is not None and corpus.size() > limit:
        raise ConfigError(
            f"{request.dataset} has {corpus.size() / 1e9:.1f} GB of text and is not prepared; first run "
            f"{request.command()}"
        )
    with alone(folder.with_name(f"{folder.name}.lock")):
        if find_prepared(request) is None:  # Another process may have been at it.
            say(f"preparing {request.dataset} ({corpus.size() / 1e6:.1f} MB; split: {corpus.note}) in {folder}")
            _prepare(request, corpus, folder, processes, say, progress)
    return folder


def find_prepared(request: Request) -> Path | None:
    """The folder of a corpus that is prepared, by this version and from files that, as far as they are there, have not
    changed since.

    Raises:
        ConfigError: a mistake in the request.
    """
    folder = prepared_folder(request)
    try:
        meta = json.loads((folder / "meta.json").read_text())
    except (OSError, ValueError):
        return None
    if meta.get("version") != VERSION:
        return None
    try:
        corpus = find_corpus(request.dataset, request.data_dir, request.level, request.source, download=False)
    except ConfigError:
        return folder
    return folder if meta.get("sources") == corpus.sources() else None


def _prepare(
    request: Request,
    corpus: Corpus,
    folder: Path,
    processes: int | None,
    say: Callable[[str], None],
    progress: Callable[[int, int], None],
) -> None:
    partial = folder.with_name(f"{folder.name}.partial")
    _begin(partial, {"version": VERSION, "level": request.level, "sources": corpus.sources()})
    chunks = cut(corpus.splits, request.level, partial)
    everything = [chunk for split in SPLITS for chunk in chunks[split]]
    total, ready = sum(chunk.size for chunk in everything), 0

    def done(size: int) -> None:
        nonlocal ready
        ready += size
        progress(ready, total)

    number_all(everything, processes, done)
    say("counting and writing")
    counts = {split: _count(chunks[split]) for split in SPLITS}
    end = END[request.level].encode()
    for split in SPLITS:
        if not counts[split].keys() - {end}:
            files = ", ".join(str(part.path) for part in corpus.splits[split][:3]) or "no file is left for it"
            raise ConfigError(f"{request.dataset}: the {split} text is empty ({files})")
    words = {word.decode(): count for word, count in counts["train"].items()}
    if request.vocabulary is None:
        vocabulary = Vocabulary.build(words, request.level, request.vocabulary_size, request.min_count)
    else:
        vocabulary = Vocabulary.read(Path(request.vocabulary).expanduser(), words, request.level)
    with contextlib.suppress(OSError):
        (folder / "meta.json").unlink(missing_ok=True)  # What is there now is no longer what it describes.
    splits = {split: _assemble(chunks[split], counts[split], vocabulary, folder, split) for split in SPLITS}
    vocabulary.save(folder)
    meta = {
        "version": VERSION,
        "dataset": request.dataset,
        "level": request.level,
        "split": corpus.note,
        "vocabulary": {"size": len(vocabulary), "hash": vocabulary.hash},
        "splits": splits,
        "sources": corpus.sources(),
    }
    with whole_file(folder / "meta.json") as file:
        file.write((json.dumps(meta, indent=1) + "\n").encode())
    shutil.rmtree(partial)


def _begin(partial: Path, manifest: dict[str, Any]) -> None:
    """The folder of the pieces; those of another text are removed."""
    text = json.dumps(manifest)
    path = partial / "manifest.json"
    if not path.exists() or path.read_text() != text:
        shutil.rmtree(partial, ignore_errors=True)
        with whole_file(path) as file:
            file.write(text.encode())


def _count(chunks: list[Chunk]) -> dict[bytes, int]:
    """How often each word occurs in all of the pieces."""
    total: dict[bytes, int] = {}
    for chunk in chunks:
        words, counts, _ = read_numbered(chunk.output, with_ids=False)
        for word, count in zip(words, counts.tolist(), strict=True):
            total[word] = total.get(word, 0) + count
    return total


def _assemble(
    chunks: list[Chunk], counts: Mapping[bytes, int], vocabulary: Vocabulary, folder: Path, split: str
) -> dict[str, int]:
    """Writes a split's tokens and offsets; returns how many tokens, sentences and unknown tokens it has."""
    dtype = np.dtype(np.uint16 if len(vocabulary) <= 1 << 16 else np.int32)
    end, count = vocabulary.end, sum(counts.values())
    ends = counts.get(vocabulary.words[end].encode(), 0)
    last = read_numbered(chunks[-1].output)
    closed = last.words[last.ids[-1]] == vocabulary.words[end].encode()
    sentences = ends if closed else ends + 1  # A text of characters may break off within a line.
    unknown, begin = 0, 0
    index = {word.encode(): i for i, word in enumerate(vocabulary.words)}
    with (
        _array_file(folder / f"{split}.npy", dtype, count) as tokens_file,
        _array_file(folder / f"{split}_offsets.npy", np.dtype(np.int64), sentences + 1) as offsets_file,
    ):
        offsets_file.write(np.zeros(1, np.int64).tobytes())
        for chunk in chunks:
            words, _, ids = read_numbered(chunk.output)
            places = np.array([index.get(word, vocabulary.unknown) for word in words], dtype)
            tokens = places[ids]
            tokens_file.write(tokens.tobytes())
            offsets_file.write((np.flatnonzero(tokens == end) + (begin + 1)).astype(np.int64).tobytes())
            unknown += int(np.count_nonzero(tokens == vocabulary.unknown))
            begin += len(tokens)
        if not closed:
            offsets_file.write(np.array([count], np.int64).tobytes())
    return {"tokens": count, "sentences": sentences, "unknown": unknown}


@contextlib.contextmanager
def _array_file(path: Path, dtype: np.dtype, count: int) -> Iterator[BinaryIO]:
    """A .npy file [count] whose numbers are still to be written.

    Writing through a memory map would end the process, without a message, where the disk is full.
    """
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (count,)}
    with whole_file(path) as file:
        np.lib.format.write_array_header_1_0(file, header)
        yield file
