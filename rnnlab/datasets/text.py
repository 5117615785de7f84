"""The corpora: which files, and which bytes of them, are training, validation and test text.

`tokens.py` says what becomes of the bytes.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from rnnlab.config.errors import ConfigError
from rnnlab.datasets.archives import unpack
from rnnlab.datasets.corpus import SPLITS, Corpus, divide, whole
from rnnlab.datasets.locations import cached, check_file, check_link, data_root, files_below, find_file, writable
from rnnlab.datasets.vocabulary import Level

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
PTB_URL = "https://www.fit.vutbr.cz/~imikolov/rnnlm/"
PTB = {"simple-examples.tgz": "md5:30177ea32e27c525793142b6bf2c8e2d"}
PTB_FILES: Mapping[Level, tuple[str, ...]] = {
    "word": ("ptb.train.txt", "ptb.valid.txt", "ptb.test.txt"),
    "character": ("ptb.char.train.txt", "ptb.char.valid.txt", "ptb.char.test.txt"),
}
"""The files of each level: Mikolov's, of words, and of characters with a blank between two of them and `_` for a blank.
No checksum of them is published, only of their archive."""
MAHONEY_URL = "https://mattmahoney.net/dc/"
MAHONEY = {
    "text8.zip": "a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232",
    "enwik8.zip": "547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc",
}
MAHONEY_FILES = {
    "text8": "6e890197040d37d85beb962ae1f041ff1d9a9ca8d20c7d99c85027eebf51dca7",
    "enwik8": "2b49720ec4d78c3c9fabaee6e4179a5e997302b3a70029f30f2d582218c024a8",
}
"""The file in each archive: 100 000 000 bytes."""

OWN_SPLITS = "the folder's own"
"""How the splits of a folder came about whose files are named after them."""


class Ambiguous(ConfigError):
    """A folder of which it is not clear which of its files are which split."""


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
    - `ptb`: the Penn Treebank as Mikolov cut it; its archive has files of words and others of characters.
    - `tinyshakespeare`: input.txt; 90 % of its characters for training, the next 5 % for validation, the rest for
      test. At the word level a cut goes on to the end of its line.
    - `text8`, `enwik8`: 90, 5 and 5 MB in their order; a cut between words where these are read, else exact.
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

    def find_one(url: str, checksums: Mapping[str, str], name: str) -> Callable[[], Path] | None:
        return (lambda: find(url, {name: checksums[name]})[0]) if download else None

    if dataset == "wikitext-2":
        files = find(WIKITEXT_URL, WIKITEXT)
        splits = {split: whole([path]) for split, path in zip(SPLITS, files, strict=True)}
        return Corpus(splits, "the corpus's own", root / dataset)
    if dataset == "tinyshakespeare":
        files = find(SHAKESPEARE_URL, SHAKESPEARE)
        # The file is ASCII: a byte is a character.
        return divide(files, b"\n" if level == "word" else None)
    if dataset == "ptb":
        return _ptb(root / dataset, level, find_one(PTB_URL, PTB, "simple-examples.tgz"), say)
    if dataset in MAHONEY_FILES:
        return _mahoney(root / dataset, level, find_one(MAHONEY_URL, MAHONEY, f"{dataset}.zip"), say)
    return _lm1b(root / "lm1b", find_one(LM1B_URL, LM1B, next(iter(LM1B))), say)


LEVELS: Mapping[str, tuple[Level, ...]] = {"ptb": ("word", "character"), "enwik8": ("byte",)}
"""Those of corpora that have not all."""
DATASETS = ("lm1b", "wikitext-2", "ptb", "tinyshakespeare", "text8", "enwik8", "text")


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
        parts = {split: whole([path] if path.is_file() else list(_texts(path))) for split, (path,) in named.items()}
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

        def name_of(member: str) -> str | None:
            name = member.partition("/")[2]  # All of them are in one folder.
            return name if name in missing else None

        folder, missing = _unpacked(folder, needed, name_of, find_archive, say)
    if missing:
        check_link(folder / missing[0])
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ConfigError(f"lm1b: shard {folder / missing[0]} is missing{more}; {len(needed)} are needed")
    paths = [folder / name for name in needed]
    return Corpus(
        {"train": whole(paths[:-2]), "validation": whole(paths[-2:-1]), "test": whole(paths[-1:])},
        "training shards 1 to 99; held-out shard 1 for validation, 0 for test",
        folder,
    )


def _ptb(folder: Path, level: Level, find_archive: Callable[[], Path] | None, say: Callable[[str], None]) -> Corpus:
    """The Penn Treebank's files of a level, from Mikolov's archive or beside it."""
    names = PTB_FILES[level]
    wanted = {name for files in PTB_FILES.values() for name in files}
    there = [name for name in names if (folder / name).is_file()]
    if there and len(there) < len(names) and not (folder / next(iter(PTB))).exists():
        missing = next(name for name in names if name not in there)
        raise ConfigError(f"ptb: {folder / missing} is missing; {', '.join(names)} are needed, or {next(iter(PTB))}")

    def name_of(member: str) -> str | None:
        name = member.rpartition("/")[2]
        return name if name in wanted else None

    folder, missing = _unpacked(folder, names, name_of, find_archive, say)
    if missing:
        raise ConfigError(f"ptb: {folder / missing[0]} is missing")
    splits = {split: whole([folder / name]) for split, name in zip(SPLITS, names, strict=True)}
    return Corpus(splits, "the corpus's own", folder, spelled=level == "character")


def _mahoney(folder: Path, level: Level, find_archive: Callable[[], Path] | None, say: Callable[[str], None]) -> Corpus:
    """text8 or enwik8, from its archive or beside it."""
    name = folder.name
    where, missing = _unpacked(folder, [name], lambda member: name if member == name else None, find_archive, say)
    if missing:
        raise ConfigError(f"{where / name} is missing")
    check_file(where / name, MAHONEY_FILES[name], f"the file in {MAHONEY_URL}{name}.zip")
    # text8 is one line.
    return divide([where / name], b" " if level == "word" else None)


def _unpacked(
    folder: Path,
    needed: Sequence[str],
    name_of: Callable[[str], str | None],
    find_archive: Callable[[], Path] | None,
    say: Callable[[str], None],
) -> tuple[Path, list[str]]:
    """The folder with the needed files, or the one of our cache that stands for it, where what is missing is unpacked;
    and what is missing all the same.

    name_of: as of `unpack`. find_archive: None where nothing is to be unpacked.
    """

    def missing_in(where: Path) -> list[str]:
        return [name for name in needed if not (where / name).is_file()]

    if not missing_in(folder):
        return folder, []
    for name in needed:
        check_link(folder / name)
    where = folder if writable(folder) else cached(folder)
    if find_archive and missing_in(where):
        archive = find_archive()
        say(f"unpacking {archive} in {where}")
        unpack(archive, where, name_of)
    return where, missing_in(where)
