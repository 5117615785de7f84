"""Vocabularies: their order, their two special entries, and what is saved."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from rnnlab.config.errors import ConfigError
from rnnlab.datasets.vocabulary import Vocabulary, read_words

COUNTS = {"b": 5, "a": 5, "ä": 5, "<eos>": 6, "c": 9, "rare": 1, "Rare": 1}


def test_order_is_frequency_then_alphabet() -> None:
    vocabulary = Vocabulary.build(COUNTS)
    assert vocabulary.words == ("c", "<eos>", "a", "b", "ä", "Rare", "rare", "<unk>")
    np.testing.assert_array_equal(vocabulary.counts, [9, 6, 5, 5, 5, 1, 1, 0])
    assert vocabulary.counts.dtype == np.int64
    reordered = dict(sorted(COUNTS.items()))
    assert Vocabulary.build(reordered).words == vocabulary.words


def test_size_counts_the_special_entries_and_unknown_stands_where_its_count_puts_it() -> None:
    vocabulary = Vocabulary.build(COUNTS, size=4)
    assert vocabulary.words == ("<unk>", "c", "<eos>", "a")
    np.testing.assert_array_equal(vocabulary.counts, [12, 9, 6, 5])
    assert len(Vocabulary.build(COUNTS, size=1000)) == 8
    assert "<eos>" in Vocabulary.build(COUNTS | {"<eos>": 0}, size=3)


def test_words_rarer_than_min_count_are_left_out_and_the_specials_are_kept() -> None:
    assert Vocabulary.build(COUNTS, min_count=5).words == ("c", "<eos>", "a", "b", "ä", "<unk>")
    assert set(Vocabulary.build(COUNTS, min_count=100).words) == {"<eos>", "<unk>"}


@pytest.mark.parametrize("options", [{}, {"size": 4}, {"min_count": 5}])
def test_no_occurrence_is_lost_and_a_literal_unknown_is_the_same_entry(options: dict[str, int]) -> None:
    counts = COUNTS | {"<unk>": 3}
    vocabulary = Vocabulary.build(counts, **options)
    assert vocabulary.counts.sum() == sum(counts.values())
    kept = set(vocabulary.words) - {"<unk>"}
    assert vocabulary.counts[vocabulary.unknown] == 3 + sum(n for word, n in COUNTS.items() if word not in kept)


def test_size_without_room_for_a_word_is_refused() -> None:
    with pytest.raises(ConfigError, match="size 2 leaves no word beside '<unk>' and '<eos>'"):
        Vocabulary.build(COUNTS, size=2)


def test_encode_makes_other_words_unknown_and_decode_inverts_it() -> None:
    vocabulary = Vocabulary.build(COUNTS, size=5)
    tokens = vocabulary.encode(["c", "nowhere", "a", "<eos>"])
    assert tokens.dtype == np.int32
    np.testing.assert_array_equal(
        tokens, [vocabulary.index["c"], vocabulary.unknown, vocabulary.index["a"], vocabulary.end]
    )
    assert vocabulary.decode(tokens) == ["c", "<unk>", "a", "<eos>"]
    assert vocabulary.encode([]).shape == (0,)


def test_words_stand_between_ascii_whitespace_and_lines_end_sentences() -> None:
    vocabulary = Vocabulary.build(COUNTS)
    words = vocabulary.split(" a\tb\r\nno\u00a0break \u2028 c\n\n")
    assert words == ["a", "b", "<eos>", "no\u00a0break", "\u2028", "c", "<eos>", "<eos>"]
    assert vocabulary.join(["a", "b", "<eos>", "c", "<eos>", "<eos>", "d"]) == "a b\nc\n\nd"


def test_characters_are_split_and_joined_exactly() -> None:
    text = "Ab \n\r\n ä\u2028"
    vocabulary = Vocabulary.build(Counter(text), "character")
    assert vocabulary.join(vocabulary.decode(vocabulary.encode(vocabulary.split(text)))) == text
    assert vocabulary.words[vocabulary.end] == "\n"
    assert vocabulary.unknown == len(vocabulary) - 1


@pytest.mark.parametrize(
    ("level", "counts"),
    [
        ("word", COUNTS | {"\u2028": 2, "\x85": 2, "\\n": 1, "\x1c": 1, "\ufeff": 1}),
        ("character", Counter("aab\n\n\\n\r\u2028\x85\x1c \t\x00😀")),
    ],
)
def test_saved_vocabulary_loads_as_it_was(tmp_path: Path, level: str, counts: dict[str, int]) -> None:
    vocabulary = Vocabulary.build(counts, level)
    vocabulary.save(tmp_path)
    loaded = Vocabulary.load(tmp_path)
    assert (loaded.words, loaded.level, loaded.hash) == (vocabulary.words, level, vocabulary.hash)
    np.testing.assert_array_equal(loaded.counts, vocabulary.counts)
    lines = (tmp_path / "vocabulary.txt").read_bytes().decode().split("\n")
    assert len(lines) == len(vocabulary) + 1


def test_hash_tells_order_words_and_level_apart() -> None:
    counts = {"a": 2, "b": 1, "\n": 0, "<eos>": 0}
    made = [Vocabulary.build(counts), Vocabulary.build({**counts, "b": 3}), Vocabulary.build({**counts, "c": 1})]
    made.append(Vocabulary(made[0].words, made[0].counts, "character"))
    assert len({vocabulary.hash for vocabulary in made}) == 4
    assert Vocabulary.build({**counts, "a": 7}).hash == made[0].hash


def test_changed_words_are_noticed(tmp_path: Path) -> None:
    Vocabulary.build(COUNTS).save(tmp_path)
    path = tmp_path / "vocabulary.txt"
    path.write_text(path.read_text().replace("rare", "rate"))
    with pytest.raises(ConfigError, match=r"vocabulary\.txt was changed: hash [0-9a-f]{64}, expected [0-9a-f]{64}"):
        Vocabulary.load(tmp_path)


@pytest.mark.parametrize("name", ["vocabulary.txt", "vocabulary.json", "vocabulary_counts.npy"])
@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe"])
def test_damaged_vocabulary_is_one_line(tmp_path: Path, name: str, content: bytes | None) -> None:
    Vocabulary.build(COUNTS).save(tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        Vocabulary.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_word_list_is_read_in_its_order_and_lacking_specials_come_first(tmp_path: Path) -> None:
    path = tmp_path / "words"
    path.write_text("c\nnew\n<unk>\na\n")
    vocabulary = Vocabulary.read(path, COUNTS)
    assert vocabulary.words == ("<eos>", "c", "new", "<unk>", "a")
    np.testing.assert_array_equal(vocabulary.counts, [6, 9, 0, 12, 5])


def test_saved_characters_are_read_as_a_list_too(tmp_path: Path) -> None:
    counts = Counter("b\nab")
    Vocabulary.build(counts, "character").save(tmp_path)
    assert Vocabulary.read(tmp_path / "vocabulary.txt", counts, "character").words == ("b", "\n", "a", "<unk>")


def test_list_of_two_numbers_a_line_is_refused(tmp_path: Path) -> None:
    (tmp_path / "words").write_text("12 7\n3 5\n")
    with pytest.raises(ConfigError, match=r"words, line 1: '12 7': on every line two numbers"):
        read_words(tmp_path / "words", "word")
    (tmp_path / "words").write_text("12 7\nthree 5\n")
    assert read_words(tmp_path / "words", "word") == ["12", "three"]


WORD_LISTS = {  # As others write them; all of them are c, new and a.
    "plain": "c\nnew\na\n",
    "no last line feed": "c\nnew\na",
    "CRLF": "c\r\nnew\r\na\r\n",
    "byte order mark": "\ufeffc\nnew\na\n",
    "byte order mark and CRLF": "\ufeffc\r\nnew\r\na\r\n",
    "blank lines": "\nc\n\nnew\n  \na\n\n",
    "blanks around": " c\nnew \n\ta\n",
    "counts": "c 9\nnew 0\na 5\n",
    "counts behind tabs": "c\t9\nnew\t0\na\t5\n",
    "counts and CRLF": "\ufeffc 9\r\nnew 0\r\na 5\r\n",
    "counts in front": "      9 c\n      1 new\n      5 a\n",
}


@pytest.mark.parametrize("kind", WORD_LISTS)
def test_a_word_list_is_read_as_others_write_it(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "words"
    path.write_bytes(WORD_LISTS[kind].encode())
    assert read_words(path, "word") == ["c", "new", "a"]
    assert Vocabulary.read(path, COUNTS).words == ("<eos>", "<unk>", "c", "new", "a")


CHARACTER_LISTS = {  # All of them are a, a blank, the line feed, 1, ü and <unk>.
    "plain": "a\n \n\\n\n1\nü\n<unk>\n",
    "CRLF": "\ufeffa\r\n \r\n\\n\r\n1\r\nü\r\n<unk>\r\n",
    "counts": "a 3\n  2\n\\n 4\n1 1\nü 1\n<unk> 0\n",
    "counts behind tabs": "a\t3\n \t2\n\\n\t4\n1\t1\nü\t1\n<unk>\t0\n",
}


@pytest.mark.parametrize("kind", CHARACTER_LISTS)
def test_a_list_of_characters_is_read_as_others_write_it(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "characters"
    path.write_bytes(CHARACTER_LISTS[kind].encode())
    assert read_words(path, "character") == ["a", " ", "\n", "1", "ü", "<unk>"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\nb\na\n", r"words: the vocabulary has 'a' twice, in lines 1 and 3"),
        ("\n\na 1\nb 1\na 2\n", r"words: the vocabulary has 'a' twice, in lines 3 and 5"),
        ("a 1\nb\nc 3\n", r"words, line 1: 'a 1'; expected one word a line, or on every line a word and its count"),
        ("a\nNew York\n", r"words, line 2: 'New York'; expected one word a line"),
        ("a b 1\n", r"words, line 1: 'a b 1'; expected one word a line"),
        ("no\nsuch\nwords\n", r"words: none of its 3 words \('no', 'such', 'words' …\) is in the training text"),
        ("<unk>\n<eos>\n", r"words: none of its 0 words \(none …\) is in the training text"),
        ("", r"words: none of its 0 words"),
    ],
)
def test_a_word_list_that_is_none_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "words"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        Vocabulary.read(path, COUNTS)
