"""Vocabularies of words, characters or bytes: built from counts, saved, loaded, and from words to token ids and back.

How a text is cut into words is here too (`Vocabulary.split`); `chunks.py` does the same for whole files.
"""

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from rnnlab.config.errors import ConfigError
from rnnlab.files import first_line, whole_file

Level = Literal["word", "character", "byte"]
UNKNOWN = "<unk>"
END: dict[Level, str] = {"word": "<eos>", "character": "\n", "byte": "\n"}
"""The end of a sentence, by level; a line is a sentence."""


WORDS, COUNTS, ABOUT = "vocabulary.txt", "vocabulary_counts.npy", "vocabulary.json"
"""The files of a vocabulary: a word a line; how often each stands in the training text; level, size and hash."""


@dataclasses.dataclass(frozen=True, eq=False)
class Vocabulary:
    """V entries, the most frequent first, as log-uniform sampling wants them; the alphabet decides between equals.

    Two entries are in every vocabulary and stand where their counts put them. `<unk>` is what any other word becomes;
    its count is that of the words left out and of a literal "<unk>", which WikiText-2 has. The end of a sentence is
    `<eos>` at the word level, else the line feed. It is the only marker: what reads sentences one by one feeds it as
    the first input too, so that it is both <S> and </S> of the 1 Billion Word benchmark. At the byte level each byte is
    named by the character of its number, as in Latin-1.
    """

    words: tuple[str, ...]
    counts: np.ndarray
    """int64 [V], occurrences in the training split."""
    level: Level = "word"

    def __post_init__(self) -> None:
        if len(self.index) != len(self.words):
            seen: set[str] = set()
            twice = next(word for word in self.words if word in seen or seen.add(word))
            raise ConfigError(f"the vocabulary has {twice!r} twice")
        for special in (UNKNOWN, END[self.level]):
            if special not in self.index:
                raise ConfigError(f"the vocabulary lacks {special!r}")
        if len(self.counts) != len(self.words):
            raise ConfigError(f"the vocabulary has {len(self.words)} words and {len(self.counts)} counts")

    @classmethod
    def build(
        cls, counts: Mapping[str, int], level: Level = "word", size: int | None = None, min_count: int | None = None
    ) -> "Vocabulary":
        """The vocabulary of a text: all of its words, or the most frequent.

        Args:
            counts: of every word of the training split, the end of a sentence among them.
            size: V at most, `<unk>` and the end of a sentence included.
            min_count: how often a word must occur to be kept; `<unk>` and the end of a sentence are kept anyway.
        """
        specials = (UNKNOWN, END[level])
        words = sorted(w for w in counts if w not in specials)
        words.sort(key=counts.__getitem__, reverse=True)  # Stable, and in two steps a third of the time.
        if min_count is not None:
            words = [w for w in words if counts[w] >= min_count]
        if size is not None:
            if size <= len(specials):
                raise ConfigError(f"vocabulary size {size} leaves no word beside {specials[0]!r} and {specials[1]!r}")
            words = words[: size - len(specials)]
        counts_of = _with_specials(words, counts, level)
        words = sorted(counts_of, key=lambda w: (-counts_of[w], w))
        return cls(tuple(words), np.array([counts_of[w] for w in words], np.int64), level)

    @classmethod
    def read(cls, path: Path, counts: Mapping[str, int], level: Level = "word") -> "Vocabulary":
        """The words of a user's list, in its order (see `read_words`); a special entry that it lacks comes first.

        Raises:
            ConfigError: what `read_words` raises, or none of the words is in the training text.
        """
        words = read_words(path, level)
        ordinary = [word for word in words if word not in (UNKNOWN, END[level])]
        if not any(counts.get(word) for word in ordinary):
            shown = ", ".join(repr(word) for word in ordinary[:3]) or "none"
            what = "words" if level == "word" else "characters"
            raise ConfigError(f"{path}: none of its {len(ordinary)} {what} ({shown} …) is in the training text")
        try:
            counts_of = _with_specials(words, counts, level)
            missing = [special for special in (END[level], UNKNOWN) if special not in words]
            words = missing + words
            return cls(tuple(words), np.array([counts_of[w] for w in words], np.int64), level)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self.index

    @functools.cached_property
    def index(self) -> dict[str, int]:
        """The token id of every word."""
        return {word: i for i, word in enumerate(self.words)}

    @functools.cached_property
    def hash(self) -> str:
        """Sha256 of level and words: two vocabularies that agree in it give the same tokens."""
        return hashlib.sha256("\n".join([self.level, *self.words]).encode()).hexdigest()

    @property
    def unknown(self) -> int:
        """The id of `<unk>`."""
        return self.index[UNKNOWN]

    @property
    def end(self) -> int:
        """The id of the end of a sentence."""
        return self.index[END[self.level]]

    def split(self, text: str) -> list[str]:
        """A text's words: what stands between ASCII whitespace, and `<eos>` for a line feed; or its characters, or the
        bytes of its UTF-8."""
        if self.level != "word":
            return list(text if self.level == "character" else text.encode().decode("latin-1"))
        return [word.decode() for word in text.encode().replace(b"\n", b" <eos> ").split()]

    def join(self, words: Iterable[str]) -> str:
        """Words as text, `<eos>` as a line feed; the inverse of `split` up to whitespace. Bytes that are not UTF-8 are
        replaced."""
        if self.level != "word":
            text = "".join(words)
            return text if self.level == "character" else text.encode("latin-1").decode(errors="replace")
        text = " ".join("\n" if word == END["word"] else word for word in words)
        return text.replace(" \n", "\n").replace("\n ", "\n")

    def encode(self, words: Iterable[str]) -> np.ndarray:
        """Token ids, int32 [N]; a word that the vocabulary has not becomes `<unk>`."""
        return np.array([self.index.get(word, self.unknown) for word in words], np.int32)

    def decode(self, tokens: Iterable[int]) -> list[str]:
        """The words of token ids."""
        return [self.words[int(token)] for token in tokens]

    def save(self, folder: Path) -> None:
        """Writes vocabulary.txt (a word a line; the line feed as the two characters "\\n"), vocabulary_counts.npy and
        vocabulary.json (level, size, hash)."""
        lines = ["\\n" if word == "\n" else word for word in self.words]
        with whole_file(folder / WORDS) as file:
            file.write("".join(f"{line}\n" for line in lines).encode())
        with whole_file(folder / COUNTS) as file:
            np.save(file, self.counts)
        with whole_file(folder / ABOUT) as file:
            file.write((json.dumps({"level": self.level, "size": len(self), "hash": self.hash}) + "\n").encode())

    @classmethod
    def load(cls, folder: Path) -> "Vocabulary":
        """Reads what `save` wrote.

        Raises:
            ConfigError: a file is missing or damaged, or the words are not those of the hash.
        """
        try:
            about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
            counts = np.load(folder / COUNTS)
            level, expected = about["level"], about["hash"]
        except Exception as error:  # JSON of another make, or a header that NumPy fails at in its own ways.
            raise ConfigError(f"{folder} holds no whole vocabulary: {first_line(error)}") from None
        words = _read_lines(folder / WORDS, level)
        try:
            vocabulary = cls(tuple(words), counts, level)
        except ConfigError as error:
            raise ConfigError(f"{folder / WORDS} was changed: {error}") from None
        if vocabulary.hash != expected:
            raise ConfigError(f"{folder / WORDS} was changed: hash {vocabulary.hash}, expected {expected}")
        return vocabulary


def _with_specials(words: Sequence[str], counts: Mapping[str, int], level: Level) -> dict[str, int]:
    """Words and special entries with their counts; `<unk>` has those of all words that are not among them."""
    counts_of = {word: counts.get(word, 0) for word in words}
    counts_of[END[level]] = counts.get(END[level], 0)
    counts_of.pop(UNKNOWN, None)
    counts_of[UNKNOWN] = sum(counts.values()) - sum(counts_of.values())
    return counts_of


def _read_lines(path: Path, level: Level) -> list[str]:
    """The entries in a UTF-8 file; a line ends with a line feed and nothing else."""
    try:
        lines = path.read_bytes().decode().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as a vocabulary: {error}") from None
    words = lines[:-1] if lines[-1] == "" else lines
    return ["\n" if word == "\\n" else word for word in words] if level != "word" else words


def read_words(path: Path, level: Level) -> list[str]:
    """The entries of a user's list, one a line; a number that every line has too, behind its word or before it, is its
    count somewhere else, and not read. A character list has the line feed as "\\n".

    Lines end with LF or CRLF; a byte order mark and blank lines are left out.

    Raises:
        ConfigError: no file, not UTF-8, a line of another form, or an entry that stands there twice.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"vocabulary {path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"vocabulary {path} is not UTF-8: {error}") from None
    numbered = [(number, line) for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1) if line]
    forms = _WORD_LINES if level == "word" else _CHARACTER_LINES
    if level == "word":
        numbered = [(number, line.strip(_BLANKS)) for number, line in numbered if line.strip(_BLANKS)]
    fitting = [form for form in forms if all(form.fullmatch(line) for _, line in numbered)]
    form = next(iter(fitting), None)
    if numbered and len(fitting) > 1:
        number, line = numbered[0]
        raise ConfigError(
            f"{path}, line {number}: {line[:60]!r}: on every line two numbers, either of which may be the count; leave "
            "the counts out"
        )
    if form is None:
        one = "word" if level == "word" else "character"
        number, line = next((n, line) for n, line in numbered if not forms[0].fullmatch(line))
        raise ConfigError(
            f"{path}, line {number}: {line[:60]!r}; expected one {one} a line, or on every line a {one} and its count"
        )
    entries: dict[str, int] = {}
    for number, line in numbered:
        matched = form.fullmatch(line)
        assert matched is not None
        entry = "\n" if level != "word" and matched["entry"] == "\\n" else matched["entry"]
        if entry in entries:
            raise ConfigError(f"{path}: the vocabulary has {entry!r} twice, in lines {entries[entry]} and {number}")
        entries[entry] = number
    return list(entries)


_BLANKS = " \t\v\f\r"
_WORD_LINES = [
    re.compile(form)
    for form in (
        rf"(?P<entry>[^{_BLANKS}]+)",
        rf"(?P<entry>[^{_BLANKS}]+)[{_BLANKS}]+\d+",
        rf"\d+[{_BLANKS}]+(?P<entry>[^{_BLANKS}]+)",  # As "uniq -c" writes it.
    )
]
_CHARACTER_LINES = [
    re.compile(form, re.DOTALL) for form in (r"(?P<entry>\\n|<unk>|.)", r"(?P<entry>\\n|<unk>|.)[ \t]+\d+")
]
