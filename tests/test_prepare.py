"""Preparing a corpus: its tokens against a few lines of plain Python, and what happens when something is wrong."""

import contextlib
import errno
import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import pytest

from rnnlab import cli
from rnnlab.config.errors import ConfigError
from rnnlab.datasets import assembly, chunks, text, tokens
from rnnlab.datasets.corpus import SPLITS
from rnnlab.datasets.tokens import Request, TokenSet, load_tokens, prepare, read_tokens
from rnnlab.datasets.vocabulary import Vocabulary
from rnnlab.parallel.memory import OutOfMemory
from rnnlab.prepare import main
from tests.tiers import slow_tests

TEXTS = {
    "train": "the cat , the dog\nthe  Ärger\tof\n\n the <unk> end \n" * 40,
    "valid": "the new cat\nno line feed",
    "test": "\n the end\n",
}


def quiet(*_: Any) -> None:
    """Nobody is told."""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with TEXTS as train.txt, valid.txt and test.txt."""
    folder = tmp_path / "books"
    folder.mkdir()
    for name, content in TEXTS.items():
        (folder / f"{name}.txt").write_bytes(content.encode())
    return folder


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of some 100 bytes, split 20 bytes at a time."""
    monkeypatch.setattr(chunks, "CHUNK", 100)
    monkeypatch.setattr(chunks, "BLOCK", 20)


def load(source: Path, **options: Any) -> TokenSet:
    return load_tokens("text", source.parent, source=source, say=quiet, **options)


def plain_words(content: str) -> list[str]:
    """What PyTorch's word_language_model example does: the words of each line, then <eos>."""
    return [word for line in content.removesuffix("\n").split("\n") for word in [*line.split(), "<eos>"]]


def check(found: TokenSet, expected: dict[str, list[str]], end: str) -> None:
    """The tokens are those words, of the vocabulary of the training words; sentences end where `end` does."""
    counts = Counter(expected["train"])
    for split, words in expected.items():
        ids, offsets = found.splits[split]
        known = [word if word in found.vocabulary else "<unk>" for word in words]
        assert found.vocabulary.decode(ids) == known
        assert isinstance(ids, np.memmap)
        ends = [i + 1 for i, word in enumerate(words) if word == end]
        np.testing.assert_array_equal(offsets, [0, *ends] + ([] if words[-1] == end else [len(words)]))
        assert offsets.dtype == np.int64
        sizes = {"tokens": len(words), "sentences": len(offsets) - 1, "unknown": known.count("<unk>")}
        assert found.meta["splits"][split] == sizes
    for word, count in zip(found.vocabulary.words, found.vocabulary.counts, strict=True):
        if word != "<unk>":
            assert count == counts[word]
    assert found.vocabulary.counts.sum() == len(expected["train"])


# --- what is written -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"vocabulary_size": 5}, {"min_count": 80}])
def test_tokens_are_the_words_of_each_line_and_its_end(
    source: Path, small_pieces: None, options: dict[str, int]
) -> None:
    found = load(source, **options)
    check(found, dict(zip(SPLITS, map(plain_words, TEXTS.values()), strict=True)), "<eos>")
    assert found.splits["train"].tokens.dtype == np.uint8
    assert len(found.vocabulary) == {"vocabulary_size": 5, "min_count": 3}.get(next(iter(options), ""), 9)


def test_tokens_of_characters_are_the_text_itself(source: Path, small_pieces: None) -> None:
    found = load(source, level="character")
    check(found, dict(zip(SPLITS, map(list, TEXTS.values()), strict=True)), "\n")


@pytest.mark.parametrize("size", [7, *slow_tests(1, 1000)])
def test_pieces_do_not_show(source: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    text = " ".join(np.random.default_rng(0).choice(["a", "bb", "\n", "  ", "é\n\n"], 60))
    (source / "train.txt").write_text(text + " " * 50 + "\n" * 30 + text)
    words, letters = plain_words((source / "train.txt").read_text()), list((source / "train.txt").read_text())
    monkeypatch.setattr(chunks, "CHUNK", size)
    monkeypatch.setattr(chunks, "BLOCK", 1 + size // 30)
    rest = [plain_words(TEXTS[name]) for name in ("valid", "test")]
    check(load(source), dict(zip(SPLITS, [words, *rest], strict=True)), "<eos>")
    rest = [list(TEXTS[name]) for name in ("valid", "test")]
    check(load(source, level="character"), dict(zip(SPLITS, [letters, *rest], strict=True)), "\n")


def test_several_processes_write_what_one_does(source: Path, tmp_path: Path, small_pieces: None) -> None:
    one, two = (prepare(Request("text", tmp_path / str(count), source=source), count, quiet) for count in (1, 2))
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in two.iterdir())
    assert len(names) == 10
    for name in names:
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_more_than_65536_words_are_int32(source: Path) -> None:
    words = [f"w{i}" for i in range(65_534)]
    (source / "train.txt").write_text("\n".join(words))
    assert load(source).splits["train"].tokens.dtype == np.uint16
    (source / "train.txt").write_text("\n".join([*words, "more"]))
    found = load(source)
    assert len(found.vocabulary) == 65_537
    assert found.splits["train"].tokens.dtype == np.int32
    assert found.vocabulary.decode(found.splits["train"].tokens[-2:]) == ["more", "<eos>"]


def test_a_given_vocabulary_is_taken_as_it_is(source: Path, tmp_path: Path) -> None:
    other = load(source, vocabulary_size=4)
    found = load(source, vocabulary=other.folder / "vocabulary.txt")
    assert found.vocabulary.hash == other.vocabulary.hash
    np.testing.assert_array_equal(found.splits["train"].tokens, other.splits["train"].tokens)
    assert found.folder != other.folder


def test_a_word_list_of_another_make_gives_the_same_tokens(source: Path, tmp_path: Path) -> None:
    found = []
    for name, form in {"plain": "{}\n", "crlf": "{}\r\n", "counted": "{}\t7\n"}.items():
        words = tmp_path / name / "words.txt"
        words.parent.mkdir()
        words.write_bytes(("\ufeff" * (name == "crlf") + "".join(map(form.format, ("the", "cat", "dog")))).encode())
        found.append(load(source, vocabulary=words))
    assert len({each.folder for each in found}) == 1
    assert found[0].meta["splits"]["train"]["unknown"] < found[0].meta["splits"]["train"]["tokens"] / 2


@pytest.mark.parametrize(
    ("level", "size"),
    [
        ("character", 10**6),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in [("word", 5), ("word", 10**6), ("character", 5)]),
    ],
)
def test_line_ends_and_byte_order_marks_are_no_part_of_the_text(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: Any, size: int
) -> None:
    monkeypatch.setattr(chunks, "CHUNK", size)
    plain = load(source, level=level)
    other = tmp_path / "crlf" / "books"
    other.mkdir(parents=True)
    for name, content in TEXTS.items():
        (other / f"{name}.txt").write_bytes(("\ufeff" + content.replace("\n", "\r\n")).encode())
    found = load(other, level=level)
    assert found.vocabulary.words == plain.vocabulary.words
    for split in SPLITS:
        np.testing.assert_array_equal(found.splits[split].tokens, plain.splits[split].tokens)
        np.testing.assert_array_equal(found.splits[split].offsets, plain.splits[split].offsets)


def test_a_byte_order_mark_alone_is_an_empty_text(source: Path) -> None:
    (source / "test.txt").write_bytes(b"\xef\xbb\xbf")
    with pytest.raises(ConfigError, match=r"the test text is empty"):
        load(source)


@pytest.mark.parametrize("level", ["word", "character"])
def test_lines_of_old_macs_are_refused(source: Path, level: Any) -> None:
    (source / "valid.txt").write_bytes(b"one line\rand another\r")
    with pytest.raises(ConfigError, match=r"valid\.txt: its lines end with CR alone; they have to end with LF or CRLF"):
        load(source, level=level)


def test_a_text_that_is_mostly_unknown_is_said_with_numbers(source: Path, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("cat\nof\n")
    said: list[str] = []
    for _ in range(2):  # Where it is prepared, and wherever it is read again.
        load_tokens("text", source.parent, source=source, vocabulary=words, say=said.append)
        assert said[-1] == (
            "warning: 60% of the train text (360 of 600 tokens), 62% of the validation text (5 of 8 tokens) is <unk>, "
            "not in the vocabulary of 4 entries"
        )
        said.clear()
    load_tokens("text", source.parent, source=source, say=said.append)
    assert not [line for line in said if "warning" in line]


def test_what_was_divided_before_its_names_were_recognised_is_prepared_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "ptb"
    folder.mkdir()
    for number, split in enumerate(SPLITS):
        (folder / f"{number}.{split}.txt").write_text(f"{split} text\n" * 20)
    with monkeypatch.context() as patch:
        patch.setattr(text, "split_of", lambda name: None)
        assert "test" in load(folder).vocabulary
    assert set(load(folder).vocabulary.words) == {"train", "text", "<eos>", "<unk>"}
    (folder / "test.txt").write_text("which of the two\n")
    assert set(load(folder).vocabulary.words) == {"train", "text", "<eos>", "<unk>"}  # As it was prepared.
    with monkeypatch.context() as patch:
        patch.setattr(text, "split_of", lambda name: None)
        load(folder)
    with pytest.raises(ConfigError, match="may each be the test text"):
        load(folder)


def test_corpora_in_folders_of_the_same_name_do_not_meet(source: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "books"
    other.mkdir(parents=True)
    for name in TEXTS:
        (other / f"{name}.txt").write_text("another\n")
    made = [load_tokens("text", tmp_path, source=folder, say=quiet) for folder in (source, other)]
    assert made[0].folder != made[1].folder
    assert "another" in made[1].vocabulary
    assert "another" not in made[0].vocabulary


# --- again, and after an interruption --------------------------------------------------------------------------------


def test_what_is_prepared_is_not_prepared_again(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(source)
    monkeypatch.setattr(tokens, "assemble", lambda *_: pytest.fail("prepares again"))
    again = load(source)
    assert again.meta == first.meta
    for path in source.iterdir():
        path.unlink()
    assert load(source).meta == first.meta  # The text is no longer needed.


def test_a_changed_text_is_prepared_again(source: Path) -> None:
    assert "newly" not in load(source).vocabulary
    (source / "train.txt").write_text("newly written\n")
    assert "newly" in load(source).vocabulary


@pytest.mark.parametrize("stop", [1, 4])
def test_interrupted_run_leaves_no_final_file_and_goes_on_where_it_was(
    source: Path, small_pieces: None, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    request = Request("text", source.parent, source=source)
    numbered: list[Path] = []
    number = chunks.number

    def counted(chunk: chunks.Chunk) -> int:
        if len(numbered) == stop:
            raise KeyboardInterrupt
        numbered.append(chunk.output)
        return number(chunk)

    monkeypatch.setattr(chunks, "number", counted)
    with pytest.raises(KeyboardInterrupt):
        prepare(request, 1, quiet)
    folder = tokens.places(request).made_in
    assert not folder.exists()
    done, stop = list(numbered), 10**6
    shown: list[tuple[int, int]] = []
    prepare(request, 1, quiet, lambda ready, total: shown.append((ready, total)))
    assert set(numbered[len(done) :]).isdisjoint(done)
    assert shown[-1] == (sum(len(text.encode()) for text in TEXTS.values()),) * 2
    check(read_tokens(folder), dict(zip(SPLITS, map(plain_words, TEXTS.values()), strict=True)), "<eos>")
    assert not list(folder.parent.rglob("*.partial"))


def test_interrupted_writing_leaves_no_half_written_file(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = assembly._write

    def interrupted(*arguments: Any) -> Any:
        if arguments[-1].name == "test":
            raise KeyboardInterrupt
        return write(*arguments)

    monkeypatch.setattr(assembly, "_write", interrupted)
    request = Request("text", source.parent, source=source)
    with pytest.raises(KeyboardInterrupt):
        prepare(request, 1, quiet)
    folder = tokens.places(request).made_in
    assert {path.name for path in folder.iterdir()} == {
        f"{split}{kind}.npy" for split in ("train", "validation") for kind in ("", "_offsets")
    }
    assert tokens.find_prepared(request) is None
    monkeypatch.setattr(assembly, "_write", write)
    (folder / "train.npy.123.partial").write_text("of a run that was killed")
    load(source)
    assert not list(folder.parent.rglob("*.partial"))


def test_pieces_of_another_text_are_not_taken(
    source: Path, small_pieces: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = Request("text", source.parent, source=source)
    with monkeypatch.context() as patch:
        patch.setattr(assembly, "_merge", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare(request, 1, quiet)
    (source / "train.txt").write_text(TEXTS["train"].replace("cat", "cow"))
    assert "cow" in load(source).vocabulary


# --- what is wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["word", "character"])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_file_that_is_not_utf8_is_named_with_the_line(
    source: Path, small_pieces: None, level: Any, processes: int
) -> None:
    (source / "train.txt").write_bytes(b"good line\n" * 41 + b"b\xe4d line\n" + b"good line\n" * 20)
    with pytest.raises(ConfigError, match=r"train\.txt, line 42: byte 0xe4 is not UTF-8"):
        prepare(Request("text", source.parent, level, source=source), processes, quiet)


@pytest.mark.parametrize(("name", "split"), [("train", "train"), ("valid", "validation"), ("test", "test")])
@pytest.mark.parametrize("content", ["", " \n\n"])
def test_an_empty_text_is_refused(source: Path, name: str, split: str, content: str) -> None:
    (source / f"{name}.txt").write_text(content)
    with pytest.raises(ConfigError, match=rf"the {split} text is empty \(.*books"):
        load(source)
    assert not list(source.parent.rglob("*.partial"))


def test_a_vocabulary_that_is_none_leaves_no_pieces(source: Path, tmp_path: Path) -> None:
    (tmp_path / "words").write_text("zebra\n")
    with pytest.raises(ConfigError, match=r"words: none of its 1 words \('zebra' …\) is in the training text"):
        load(source, vocabulary=tmp_path / "words")
    assert not list(source.parent.rglob("*.partial"))


@pytest.mark.parametrize("fails", ["merging", "choosing"])
def test_words_that_do_not_fit_into_memory_leave_no_pieces(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    def no_memory(*_: Any, **__: Any) -> Any:
        raise MemoryError

    if fails == "merging":
        monkeypatch.setattr("rnnlab.parallel.memory.at_hand", lambda devices=None: 100)
    else:
        monkeypatch.setattr("rnnlab.datasets.assembly._Merged.counted", no_memory)
    with pytest.raises(OutOfMemory, match="different words" if fails == "merging" else "out of memory: no more"):
        load(source)
    assert not list(tmp_path.rglob("*.partial"))


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    request = Request("text", source.parent, source=source)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ConfigError, match=r"^cannot write .*: No space left on device$"):
            prepare(request, 1, quiet)
    assert not tokens.places(request).made_in.exists()
    left = [path.name for path in source.parent.rglob("*") if path.is_file() and path.parent != source]
    assert left == ["books-" + left[0][6:14] + "-word-all.lock"]
    load(source)


@pytest.mark.parametrize("content", [b"[]", b"3", b"null", b"{}"])
@pytest.mark.parametrize("name", ["meta.json", "vocabulary.json", "test.npy"])
def test_a_file_of_another_make_is_one_line(source: Path, name: str, content: bytes) -> None:
    folder = load(source).folder
    (folder / name).write_bytes(content)
    with pytest.raises(ConfigError, match=r"^[^\n]*$"):
        read_tokens(folder)
    if name == "meta.json":
        assert tokens.find_prepared(Request("text", source.parent, source=source)) is None


def test_a_header_with_a_flipped_bit_is_one_line(source: Path) -> None:
    """NumPy parses it as Python: it has errors of many types for it."""
    folder = load(source).folder
    path = folder / "test_offsets.npy"
    content = path.read_bytes()
    for bit in range(8 * 10, 8 * content.index(b"\n"), 37):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with contextlib.suppress(ConfigError):
            read_tokens(folder)


def test_a_token_that_is_not_in_the_vocabulary_is_one_line(source: Path) -> None:
    corpus = load(source)
    path = corpus.folder / "validation.npy"
    ids = np.load(path)
    ids[1] = len(corpus.vocabulary)
    np.save(path, ids)
    with pytest.raises(ConfigError, match=r"validation\.npy has tokens from 0 to \d+, the vocabulary \d+ entries"):
        read_tokens(corpus.folder).counts("validation")


@pytest.mark.parametrize("kept", [0, 10, -1])
@pytest.mark.parametrize("name", ["train.npy", "test_offsets.npy", "meta.json", "vocabulary.txt"])
def test_a_damaged_file_is_one_line(source: Path, name: str, kept: int) -> None:
    folder = load(source).folder
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: kept - 1] if kept < 0 else content[:kept])
    with pytest.raises(ConfigError) as caught:
        read_tokens(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_tokens_of_another_length_are_refused(source: Path) -> None:
    found = load(source)
    np.save(found.folder / "test.npy", np.zeros(7, np.uint16))
    with pytest.raises(ConfigError, match=r"test\.npy has 7 tokens, meta\.json says 4; delete .* and prepare it again"):
        load(source)


def test_tokens_of_another_vocabulary_are_refused(source: Path) -> None:
    found = load(source)
    Vocabulary.build({"other": 1}).save(found.folder)
    with pytest.raises(ConfigError, match="the vocabulary is not the one of the tokens"):
        load(source)


def test_a_large_corpus_is_not_prepared_on_the_way(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "AUTOMATIC", 100)
    with pytest.raises(ConfigError) as caught:
        load(source, min_count=2)
    assert str(caught.value).endswith(
        f"first run python -m rnnlab.prepare --dataset=text --data_dir={source.parent} --level=word "
        f"--min_count=2 --source={source}"
    )
    prepare(Request("text", source.parent, min_count=2, source=source), 1, quiet)
    assert len(load(source, min_count=2).vocabulary) == 9


def test_a_read_only_data_folder_is_left_alone(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name: tmp_path / "cache" / name)
    data = tmp_path / "data"
    data.mkdir(mode=0o555)
    found = load_tokens("text", data, source=source, say=quiet)
    assert found.folder.is_relative_to(tmp_path / "cache" / "rnnlab")
    assert not list(data.iterdir())
    monkeypatch.setattr(tokens, "assemble", lambda *_: pytest.fail("prepares again"))
    assert load_tokens("text", data, source=source, say=quiet).folder == found.folder


def test_what_is_prepared_in_a_read_only_data_folder_is_used(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name: tmp_path / "cache" / name)
    made = load_tokens("text", tmp_path / "data", source=source, say=quiet)
    monkeypatch.setattr(tokens, "writable", lambda folder: folder.is_relative_to(tmp_path / "cache"))
    assert load_tokens("text", tmp_path / "data", source=source, say=quiet).folder == made.folder
    (source / "train.txt").write_text("changed\n")
    again = load_tokens("text", tmp_path / "data", source=source, say=quiet)
    assert again.folder.is_relative_to(tmp_path / "cache" / "rnnlab")
    assert "changed" in again.vocabulary


def test_a_cache_folder_that_is_named_takes_all_that_is_made(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, cache = tmp_path / "data", tmp_path / "my cache"
    data.mkdir()
    monkeypatch.setenv("RNNLAB_CACHE", "")  # The flag sets it; taken back after the test.
    words = ["--dataset=text", f"--source={source}", f"--data_dir={data}", f"--cache_dir={cache}", "--processes=1"]
    assert main(words) == cli.FINISHED
    assert not list(data.iterdir())
    assert load_tokens("text", data, source=source, say=quiet).folder.is_relative_to(cache)
    monkeypatch.setenv("RNNLAB_CACHE", str(tmp_path / "other"))
    assert Request("text", data, source=source).command().endswith(f"--cache_dir={tmp_path / 'other'}")


def test_where_nothing_can_be_written_the_flag_is_named(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "writable", lambda folder: False)
    with pytest.raises(ConfigError, match=r"^nothing can be written in .*; --cache_dir names another folder$"):
        load_tokens("text", tmp_path, source=source, say=quiet)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(vocabulary_size=10, min_count=2), "vocabulary_size and min_count: at most one of"),
        (dict(level="letter"), "level 'letter' is not known; allowed: word, character"),
        (dict(dataset="wikitext2"), "wikitext-2"),
        (dict(source=None), "dataset 'text' needs a source"),
        (dict(dataset="lm1b"), "dataset 'lm1b' is in the data folder"),
        (dict(vocabulary="nowhere"), "vocabulary nowhere cannot be read"),
    ],
)
def test_mistakes_in_the_request_are_one_line(source: Path, options: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = dict(dataset="text", data_dir=source.parent, source=source, say=quiet) | options
    with pytest.raises(ConfigError, match=message):
        load_tokens(given.pop("dataset"), **given)


# --- the command -----------------------------------------------------------------------------------------------------


def test_command_prepares_says_what_it_made_and_then_that_it_is_there(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--dataset=text", f"--source={source}", f"--data_dir={source.parent}", "--min_count=80", "--processes=1"]
    assert main(words) == cli.FINISHED
    said = capsys.readouterr().out
    assert "vocabulary: 3 entries; 46.67% of the training tokens are <unk>" in said
    assert "train: 600 tokens, 160 sentences" in said
    assert main(words) == cli.FINISHED
    assert capsys.readouterr().out.strip().endswith("is there already; nothing to do")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--dataset is needed: lm1b, wikitext-2, ptb, tinyshakespeare, text8, enwik8, text"),
        (["--dataset=enwik9"], "enwik9"),
        (["--dataset=text", "--source=nowhere"], "source nowhere is not a folder"),
        (["--dataset=wikitext-2", "--vocabulary_size=2"], "vocabulary_size"),
    ],
)
def test_mistakes_in_the_command_are_config_errors(tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        main([*words, f"--data_dir={tmp_path}"])


# --- the real files --------------------------------------------------------------------------------------------------


@pytest.fixture
def real(real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., TokenSet]:
    """Prepares a real corpus; what is made of it goes to a folder of this test."""

    def made(dataset: str, **options: Any) -> TokenSet:
        if not (real_data / dataset).is_dir():
            pytest.skip(f"RNNLAB_DATA has no {dataset}")
        (tmp_path / dataset).mkdir(exist_ok=True)
        for path in (real_data / dataset).iterdir():
            if path.is_file():
                (tmp_path / dataset / path.name).symlink_to(path)
        return load_tokens(dataset, tmp_path, say=quiet, **options)

    return made


def test_real_wikitext_has_its_published_sizes(real: Callable[..., TokenSet]) -> None:
    found = real("wikitext-2")
    assert len(found.vocabulary) == 33_278
    words = {split: sizes["tokens"] - sizes["sentences"] for split, sizes in found.meta["splits"].items()}
    assert words == {"train": 2_051_910, "validation": 213_886, "test": 241_211}
    assert sum(sizes["tokens"] for sizes in found.meta["splits"].values()) == 2_088_628 + 217_646 + 245_569


def test_real_shakespeare_has_65_characters_and_unknown(real: Callable[..., TokenSet]) -> None:
    found = real("tinyshakespeare", level="character")
    assert len(found.vocabulary) == 65 + 1
    assert [len(found.splits[split].tokens) for split in SPLITS] == [1_003_854, 55_770, 55_770]
    assert found.vocabulary.join(found.vocabulary.decode(found.splits["train"].tokens[:15])) == "First Citizen:\n"


def test_real_held_out_text_of_the_benchmark_is_whole(real: Callable[..., TokenSet]) -> None:
    found = real("lm1b", vocabulary_size=10_000)
    sizes = found.meta["splits"].values()
    assert sum(size["sentences"] for size in sizes) == 24_321
    assert (
        sum(size["tokens"] - size["sentences"] for size in sizes) == 616_671
    )  # wc -w leaves one out that it cannot print.
    assert len(found.vocabulary) == 10_000
    assert json.loads((found.folder / "meta.json").read_text())["split"].startswith("held-out shards alone")
