"""The corpora: which files, and which bytes of them, are training, validation and test text.

`tokens.py` says what becomes of the bytes.
"""

import os
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rnnlab.config.errors import ConfigError
from rnnlab.datasets.locations import cached, check_link, data_root, files_below, find_file, writable
from rnnlab.datasets.vocabulary import Level
from rnnlab.files import whole_file

SPLITS = ("train", "validation", "test")
SHARES = (0.9, 0.05, 0.05)
"""Shares of a corpus that comes without a split, in bytes, in the order of its files."""

WIKITEXT_URL = "https://raw.githubusercontent.com/pytorch/examples/main/word_language_model/data/wikitext-2/"
WIKITEXT = {
    "train.txt": "9e9fa1ad55b1c2c95b08e37dd8e653f638fac2c6de904b79e813611eefbc985f",
    "valid.txt": "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
    "test.txt": "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
}
SHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/"
SHAKESPEARE = {"input.txt": "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"}
LM1B_URL = "https://www.statmt.org/lm-benchmark/"
LM1B = {
    "1-billion-word-language-modeling-benchmark-r13output.tar.gz": (
        "01ba60381110baf7f189dfd2b8374de371e8c9a340835793f190bdae9e90a34e"
    )
}
LM1B_TRAIN = tuple(f"training-monolingual.tokenized.shuffled/news.en-{n:05}-of-00100" for n in range(1, 100))
LM1B_HELD_OUT = "heldout-monolingual.tokenized.shuffled/news.en.heldout-{:05}-of-00050"
LM1B_TEST, LM1B_VALIDATION = LM1B_HELD_OUT.format(0), LM1B_HELD_OUT.format(1)
"""The benchmark's results are on held-out shard 0 (Chelba et al., 2013); shard 1 is for validation."""


OWN_SPLITS = "the folder's own"
"""How the splits of a folder came about whose files are named after them."""


class Ambiguous(ConfigError):
    """A folder of which it is not clear which of its files are which split."""


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


def find_corpus(
    dataset: str,
    data_dir: str | os.PathLike[str] | None = None,
    level: Level = "word",
    source: str | os.PathLike[str] | None = None,
    download: bool = True,
    say: Callable[[str], None] = print,
) -> Corpus:
    """The files of a corpus, downloaded if they are not there.

    - `wikitext-2`: train.txt, valid.txt, test.txt.
    - `tinyshakespeare`: input.txt; 90 % of its characters for training, the next 5 % for validation, the rest for
      test. At the word level a cut goes on to the end of its line.
    - `lm1b`: the training shards 1 to 99; held-out shard 1 for validation and 0 for test. A folder that has no shard
      but files 1b_benchmark.*.tokens, a few held-out shards under another name, is split 90/5/5 at line ends.
    - `text`: folder `source` with a file or a folder of files for each split, named as `split_of` says; else all of its
      text files (ENDINGS) in the order of their names, split 90/5/5 by bytes at line ends.

    Raises:
        ConfigError: a file or a shard is missing and cannot be downloaded, or is corrupt; files of a folder of which
            it is not clear which split they are, or not all splits of one.
    """
    root = data_root(data_dir)
    if dataset == "text":
        assert source is not None
        return _folder(Path(source).expanduser())
    if not download and not (root / dataset).is_dir():
        raise ConfigError(f"{root / dataset} is missing")

    def find(url: str, checksums: Mapping[str, str]) -> list[Path]:
        missing = [root / dataset / name for name in checksums if not (root / dataset / name).exists()]
        if missing and not download:
            raise ConfigError(f"{missing[0]} is missing")
        if missing:
            say(f"downloading {', '.join(url + path.name for path in missing)}")
        return [find_file(f"{dataset}/{name}", url + name, sha, data_dir) for name, sha in checksums.items()]

    if dataset == "wikitext-2":
        files = find(WIKITEXT_URL, WIKITEXT)
        splits = {split: _whole([path]) for split, path in zip(SPLITS, files, strict=True)}
        return Corpus(splits, "the corpus's own", root / dataset)
    if dataset == "tinyshakespeare":
        files = find(SHAKESPEARE_URL, SHAKESPEARE)
        # The file is ASCII: a byte is a character.
        return divide(files, at_line_ends=level == "word")
    return _lm1b(root / "lm1b", (lambda: find(LM1B_URL, LM1B)[0]) if download else None, say)


DATASETS = ("lm1b", "wikitext-2", "tinyshakespeare", "text")


def divide(files: Sequence[Path], at_line_ends: bool = True) -> Corpus:
    """The files one after the other, split by SHARES; a cut goes on to the end of its line, unless it is exact."""
    sizes = [path.stat().st_size for path in files]
    total = sum(sizes)
    marks = [int(SHARES[0] * total), int((SHARES[0] + SHARES[1]) * total)]
    if at_line_ends:
        marks = [_line_end(files, sizes, mark) for mark in marks]
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
    where = "at line ends" if at_line_ends else "by characters"
    return Corpus(
        splits, f"90/5/5 {where}, in the order of {files[0].name}" + (" …" if len(files) > 1 else ""), files[0].parent
    )


def _line_end(files: Sequence[Path], sizes: Sequence[int], mark: int) -> int:
    """The first byte of the concatenated files, at or after mark, that begins a line or a file."""
    begin = 0
    for path, size in zip(files, sizes, strict=True):
        if begin <= mark < begin + size:
            try:
                with path.open("rb") as file:
                    file.seek(max(mark - begin - 1, 0))
                    if mark > begin:
                        while (line := file.readline(1 << 20)) and not line.endswith(b"\n"):
                            pass
                    return begin + file.tell()
            except OSError as error:
                raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
        begin += size
    return begin


def _whole(files: Sequence[Path]) -> tuple[Part, ...]:
    return tuple(Part(path, 0, path.stat().st_size) for path in files)


ENDINGS = (".txt", ".tokens", ".raw")
"""Ends of the names of text files, in any letter case."""
SPLIT_WORDS = {
    "train": ("train", "training", "trainset"),
    "validation": ("valid", "validation", "val", "dev", "development", "heldout", "validset", "valset", "devset"),
    "test": ("test", "testing", "testset", "eval", "evaluation"),
}


def split_of(name: str) -> str | None:
    """The split that a file's or a folder's name says: one of its words, in any letter case, is of SPLIT_WORDS, as in
    "ptb.train.txt", "wiki.valid.tokens", "Train.txt", "devSet-2.txt"; None if it says none.

    Raises:
        Ambiguous: it says two.
    """
    # "ptbTest" is two words, as is "PTBTest".
    words = [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]
    splits = [split for split, words_of_split in SPLIT_WORDS.items() if any(word in words_of_split for word in words)]
    if len(splits) > 1:
        raise Ambiguous(f"{name!r} may be {' or '.join(splits)} text; rename it")
    return splits[0] if splits else None


def _folder(source: Path) -> Corpus:
    """The corpus in a folder of text files."""
    if not source.is_dir():
        raise ConfigError(f"source {source} is not a folder")
    named: dict[str, list[Path]] = {}
    others = []
    for path in _entries(source):
        try:
            split = split_of(path.name)
        except Ambiguous as error:
            raise Ambiguous(f"source {source}: {error}") from None
        if split is not None and (path.is_file() or any(_texts(path))):
            named.setdefault(split, []).append(path)
        elif path.is_file():
            others.append(path)
    for split, paths in named.items():
        if len(paths) > 1:
            raise Ambiguous(
                f"source {source}: {' and '.join(path.name for path in paths)} may each be the {split} text; keep one, "
                f"or put all of them in a folder named {SPLIT_WORDS[split][0]}"
            )
    if named:
        missing = [split for split in SPLITS if split not in named]
        if missing:
            there = ", ".join(f"{paths[0].name} ({split})" for split, paths in named.items())
            wanted = " and ".join(f"{SPLIT_WORDS[split][0]}.txt" for split in missing)
            raise Ambiguous(f"source {source} has {there} but no {wanted}, nor a folder of that name with text files")
        parts = {split: _whole([path] if path.is_file() else list(_texts(path))) for split, (path,) in named.items()}
        return Corpus({split: parts[split] for split in SPLITS}, OWN_SPLITS, source, dated=True)
    if not others:
        raise ConfigError(f"source {source} holds no text file ({', '.join(f'*{ending}' for ending in ENDINGS)})")
    return divide(others)._replace(dated=True)


def _entries(source: Path) -> list[Path]:
    """The text files and the folders in a folder, hidden ones left out, by name."""
    entries = [path for path in sorted(source.iterdir()) if not path.name.startswith(".")]
    for path in entries:
        if path.suffix.lower() in ("", *ENDINGS):
            check_link(path)
    return [path for path in entries if path.is_dir() or path.suffix.lower() in ENDINGS]


def _texts(folder: Path) -> Iterator[Path]:
    """The text files below a folder."""
    return (path for path in files_below(folder) if path.suffix.lower() in ENDINGS)


def _lm1b(folder: Path, find_archive: Callable[[], Path] | None, say: Callable[[str], None]) -> Corpus:
    """The 1 Billion Word benchmark in its own layout, or its held-out shards alone."""
    needed = [*LM1B_TRAIN, LM1B_VALIDATION, LM1B_TEST]
    missing = [name for name in needed if not (folder / name).is_file()]
    tokens = sorted(folder.glob("1b_benchmark.*.tokens"))
    if len(missing) == len(needed) and tokens:
        corpus = divide(tokens)
        return corpus._replace(note=f"held-out shards alone, a small stand-in: {corpus.note}")
    # An archive that is there was downloaded here, and unpacking it may have been interrupted.
    if missing and (len(missing) == len(needed) or (folder / next(iter(LM1B))).exists()):
        unpacked = folder if writable(folder) else cached(folder)
        missing = [name for name in needed if not (unpacked / name).is_file()]
        if find_archive and missing:
            archive = find_archive()
            say(f"unpacking {archive} in {unpacked}")
            _unpack(archive, unpacked, missing)
            missing = [name for name in needed if not (unpacked / name).is_file()]
        folder = unpacked
    if missing:
        check_link(folder / missing[0])
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ConfigError(f"lm1b: shard {folder / missing[0]} is missing{more}; {len(needed)} are needed")
    paths = [folder / name for name in needed]
    return Corpus(
        {"train": _whole(paths[:-2]), "validation": _whole(paths[-2:-1]), "test": _whole(paths[-1:])},
        "training shards 1 to 99; held-out shard 1 for validation, 0 for test",
        folder,
    )


def _unpack(archive: Path, folder: Path, needed: Sequence[str]) -> None:
    """The needed members of the archive, without the folder that all of them are in."""
    try:
        with tarfile.open(archive, "r|gz") as tar:
            for member in tar:
                name = member.name.removeprefix("./").partition("/")[2]
                content = tar.extractfile(member) if name in needed and member.isfile() else None
                if content is not None:
                    with whole_file(folder / name) as file:
                        while block := content.read(1 << 22):
                            file.write(block)
    except (tarfile.TarError, EOFError) as error:
        raise ConfigError(f"{archive} cannot be unpacked: {error}") from None
