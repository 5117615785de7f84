"""A corpus as token ids: prepared once, then memory-mapped. `prepare.py` is the command, `load_tokens` the library.

A prepared corpus is a folder <data>/<dataset>/prepared/<key>, or one of our cache that stands for it, with train.npy,
validation.npy and test.npy (token ids), <split>_offsets.npy (where sentences begin), the vocabulary (see
`Vocabulary.save`) and, written last, meta.json.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rnnlab.config.errors import ConfigError, unknown
from rnnlab.datasets.assembly import META, assemble
from rnnlab.datasets.corpus import SPLITS
from rnnlab.datasets.locations import cached, data_root, writable
from rnnlab.datasets.text import DATASETS, LEVELS, OWN_SPLITS, Ambiguous, find_corpus
from rnnlab.datasets.vocabulary import END, Level, Vocabulary, read_words
from rnnlab.files import first_line
from rnnlab.files.cache import named_cache
from rnnlab.files.locks import alone

VERSION = 1
AUTOMATIC = 256 << 20
"""Bytes of text that are prepared without being asked for; more is the command's."""


class Tokens(NamedTuple):
    """A split: ids [N], and where sentences begin [S + 1], int64. Both are memory maps, not to be written to.

    Sentence i is tokens[offsets[i] : offsets[i + 1]], its `<eos>` (or line feed) the last; offsets[0] is 0 and
    offsets[S] is N. The ids are uint8 where V ≤ 256, uint16 where V ≤ 65 536, else int32.
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

    def counts(self, split: str, first: int = 0) -> np.ndarray:
        """How often each entry of the vocabulary occurs in a split [V], from its token `first` on.

        Raises:
            ConfigError: a token is not among them.
        """
        tokens, size = self.splits[split].tokens[first:], len(self.vocabulary)
        if len(tokens) and (tokens.min() < 0 or tokens.max() >= size):
            raise ConfigError(
                f"{self.folder / split}.npy has tokens from {tokens.min()} to {tokens.max()}, the vocabulary {size} "
                f"entries; delete {self.folder} and prepare it again"
            )
        return np.bincount(tokens, minlength=size)


class Request(NamedTuple):
    """Which corpus, as which tokens. At most one of vocabulary_size, min_count and vocabulary is set."""

    dataset: str
    data_dir: str | os.PathLike[str] | None = None
    level: Level = "word"
    vocabulary_size: int | None = None
    min_count: int | None = None
    vocabulary: str | os.PathLike[str] | None = None
    source: str | os.PathLike[str] | None = None

    def command(self) -> str:
        """The command that prepares it."""
        flags = [f"--{name}={value}" for name, value in self._asdict().items() if value is not None]
        flags += [f"--cache_dir={cache}"] if (cache := named_cache()) else []
        return " ".join(["python -m rnnlab.prepare", *flags])


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
        dataset: one of DATASETS; their files and splits are in `find_corpus`.
        data_dir: as in `files.data_root`.
        level: "word" (what stands between ASCII whitespace), "character" or "byte".
        vocabulary_size: V at most, the most frequent words of the training split; `<unk>` and `<eos>` are counted.
        min_count: instead, the words that occur that often. With neither, all words of the training split.
        vocabulary: instead, a file of words, one a line (see `Vocabulary.read`).
        source: of "text", the folder of its files.

    Raises:
        ConfigError: files are missing or damaged, or the corpus is too large to be prepared on the way.
    """
    request = Request(dataset, data_dir, level, vocabulary_size, min_count, vocabulary, source)
    corpus = read_tokens(prepare(request, 1, say, limit=AUTOMATIC))
    if warning := check_unknown(corpus):
        say(f"warning: {warning}")
    return corpus


def check_unknown(corpus: TokenSet) -> str | None:
    """The line on a corpus of which most is `<unk>`, in any split."""
    sizes = corpus.meta["splits"]
    most = [split for split in SPLITS if sizes[split]["unknown"] > sizes[split]["tokens"] / 2]
    if not most:
        return None
    shares = ", ".join(
        f"{sizes[split]['unknown'] / sizes[split]['tokens']:.0%} of the {split} text ({sizes[split]['unknown']} of "
        f"{sizes[split]['tokens']} tokens)"
        for split in most
    )
    return f"{shares} is <unk>, not in the vocabulary of {len(corpus.vocabulary)} entries"


def read_tokens(folder: Path) -> TokenSet:
    """A prepared corpus, from its folder.

    Raises:
        ConfigError: a file is missing or damaged.
    """
    again = f"delete {folder} and prepare it again"
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        splits = {
            split: Tokens(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in (split, f"{split}_offsets")))
            for split in SPLITS
        }
        sizes = {split: (meta["splits"][split]["tokens"], meta["splits"][split]["sentences"]) for split in SPLITS}
        expected = meta["vocabulary"]["hash"]
    except Exception as error:  # JSON of another make, or a header that NumPy fails at in its own ways.
        raise ConfigError(f"{folder} holds no whole prepared corpus ({first_line(error)}); {again}") from None
    for split, (tokens, offsets) in splits.items():
        if (len(tokens), len(offsets) - 1) != sizes[split]:
            raise ConfigError(
                f"{folder / split}.npy has {len(tokens)} tokens, meta.json says {sizes[split][0]}; {again}"
            )
    vocabulary = Vocabulary.load(folder)
    if vocabulary.hash != expected:
        raise ConfigError(f"{folder}: the vocabulary is not the one of the tokens; {again}")
    return TokenSet(splits, vocabulary, folder, meta)


class Places(NamedTuple):
    """Where a prepared corpus may be, in the order in which it is looked for, and where it is made."""

    folders: tuple[Path, ...]
    made_in: Path


def places(request: Request) -> Places:
    """Below the data folder or in our cache: there first, and there only it is made, where --cache_dir (RNNLAB_CACHE)
    names it or nothing may be written below the data folder.

    Raises:
        ConfigError: a mistake in the request.
    """
    folder = data_root(request.data_dir).absolute() / request.dataset
    key = Path("prepared", _key(request))
    ours, theirs = cached(folder) / key, folder / key
    if named_cache():
        return Places((ours, theirs), ours)
    return Places((theirs, ours), theirs if writable(folder) else ours)


def _key(request: Request) -> str:
    """The name of a prepared corpus: level, vocabulary, and of which text, if it is the user's."""
    dataset, _, level, size, min_count, vocabulary, source = request
    if dataset not in DATASETS:
        raise ConfigError(unknown("dataset", dataset, DATASETS))
    if level not in END:
        raise ConfigError(f"level {level!r} is not known; allowed: {', '.join(END)}")
    if level not in LEVELS.get(dataset, (level,)):
        raise ConfigError(f"dataset {dataset!r} has level {' or '.join(LEVELS[dataset])}, not {level!r}")
    limits = {"vocabulary_size": size, "min_count": min_count, "vocabulary": vocabulary}
    limited_by = [name for name, value in limits.items() if value is not None]
    if len(limited_by) > 1:
        raise ConfigError(f"{' and '.join(limited_by)}: at most one of {', '.join(limits)} says what the vocabulary is")
    if (source is None) == (dataset == "text"):
        wanted = "needs a source, the folder of its files" if source is None else "is in the data folder; no source"
        raise ConfigError(f"dataset {dataset!r} {wanted}")
    key = f"{level}-all"
    if size is not None:
        key = f"{level}-size{size}"
    elif min_count is not None:
        key = f"{level}-count{min_count}"
    elif vocabulary is not None:
        words = read_words(Path(vocabulary).expanduser(), level)
        content = "".join(f"{word}\n" for word in ("\\n" if word == "\n" else word for word in words))
        key = f"{level}-{Path(vocabulary).stem}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"
    if source is not None:
        path = Path(source).expanduser().resolve()
        key = f"{path.name}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}-{key}"
    return key


def prepare(
    request: Request,
    processes: int | None = None,
    say: Callable[[str], None] = print,
    progress: Callable[[int, int], None] = lambda done, total: None,
    limit: int | None = None,
) -> Path:
    """Prepares a corpus unless that is done; returns its folder.

    Args:
        processes: that read and number; else one a core.
        progress: told how many bytes of how many are done.
        limit: a larger corpus is refused with the command that prepares it.

    Raises:
        ConfigError: a mistake in the request; a file that is missing, empty or not UTF-8; a full disk.
    """
    where = places(request)
    folder = find_prepared(request, where)
    if folder is not None:
        return folder
    folder = where.made_in
    if not writable(folder):
        raise ConfigError(f"nothing can be written in {folder.parent}; --cache_dir names another folder")
    corpus = find_corpus(request.dataset, request.data_dir, request.level, request.source, say=say)
    if limit is not None and corpus.size() > limit:
        raise ConfigError(
            f"{request.dataset} has {corpus.size() / 1e9:.1f} GB of text and is not prepared; first run "
            f"{request.command()}"
        )
    with alone(folder.with_name(f"{folder.name}.lock")):
        if find_prepared(request, where) is None:  # Another process may have been at it.
            say(f"preparing {request.dataset} ({corpus.size() / 1e6:.1f} MB; split: {corpus.note}) in {folder}")
            about = {"version": VERSION, "dataset": request.dataset, "level": request.level}

            def choose(counts: Mapping[str, int]) -> Vocabulary:
                if request.vocabulary is not None:
                    return Vocabulary.read(Path(request.vocabulary).expanduser(), counts, request.level)
                return Vocabulary.build(counts, request.level, request.vocabulary_size, request.min_count)

            assemble(corpus, request.level, choose, about, folder, processes, say, progress)
    return folder


def find_prepared(request: Request, where: Places | None = None) -> Path | None:
    """The folder of a corpus that is prepared, by this version and from files that, as far as they are there, have not
    changed since.

    Args:
        where: `places` of the request.

    Raises:
        ConfigError: a mistake in the request.
    """
    metas = {folder: _meta(folder) for folder in (where or places(request)).folders}
    metas = {folder: meta for folder, meta in metas.items() if meta is not None and meta.get("version") == VERSION}
    if not metas:
        return None
    try:
        corpus = find_corpus(request.dataset, request.data_dir, request.level, request.source, download=False)
    except Ambiguous:  # Files of one split may have been taken for another's where they were divided.
        matching = [folder for folder, meta in metas.items() if meta.get("split") == OWN_SPLITS]
        if not matching:
            raise
        return matching[0]
    except ConfigError:
        return next(iter(metas))
    matching = [folder for folder, meta in metas.items() if _made_from(meta) == (corpus.sources(), corpus.note)]
    return matching[0] if matching else None


def _meta(folder: Path) -> dict[str, Any] | None:
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return meta if isinstance(meta, dict) else None


def _made_from(meta: Mapping[str, Any]) -> tuple[Any, Any]:
    """The files, and how they were split."""
    return meta.get("sources"), meta.get("split")
