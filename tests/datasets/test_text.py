"""Which bytes of which files are training, validation and test text; the corpora are small ones written here."""

import hashlib
import io
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pooch
import pytest

from rnnlab.config.errors import ConfigError
from rnnlab.datasets import text
from rnnlab.datasets.corpus import Corpus, Part
from rnnlab.datasets.locations import cached
from rnnlab.datasets.text import find_corpus


def contents(corpus: Corpus) -> dict[str, bytes]:
    """The bytes of each split."""
    return {
        split: b"".join(path.read_bytes()[start:stop] for path, start, stop in parts)
        for split, parts in corpus.splits.items()
    }


def declare(monkeypatch: pytest.MonkeyPatch, checksums: dict[str, str], name: str, content: bytes) -> None:
    monkeypatch.setitem(checksums, name, hashlib.sha256(content).hexdigest())


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """What the net has, by URL; anything else cannot be downloaded."""
    files: dict[str, bytes] = {}

    def retrieve(url: str, known_hash: str, fname: str, path: Path, **options: Any) -> None:
        if url not in files:
            raise OSError(f"no route to {url}")
        assert known_hash == "sha256:" + hashlib.sha256(files[url]).hexdigest()
        path.mkdir(parents=True, exist_ok=True)
        (path / fname).write_bytes(files[url])

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    return files


# --- WikiText-2, tiny Shakespeare ------------------------------------------------------------------------------------


def test_wikitext_is_downloaded_once_and_keeps_its_split(
    tmp_path: Path, server: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in text.WIKITEXT:
        server[text.WIKITEXT_URL + name] = f" {name} \n".encode()
        declare(monkeypatch, text.WIKITEXT, name, server[text.WIKITEXT_URL + name])
    said: list[str] = []
    expected = {"train": b" train.txt \n", "validation": b" valid.txt \n", "test": b" test.txt \n"}
    assert contents(find_corpus("wikitext-2", tmp_path, say=said.append)) == expected
    server.clear()
    assert contents(find_corpus("wikitext-2", tmp_path, say=said.append)) == expected
    assert len(said) == 1
    assert said[0].startswith("downloading https://raw.githubusercontent.com/pytorch/examples/")


def test_without_network_the_missing_file_and_its_address_are_named(tmp_path: Path, server: dict[str, bytes]) -> None:
    with pytest.raises(ConfigError) as caught:
        find_corpus("wikitext-2", tmp_path, say=lambda _: None)
    for part in (str(tmp_path / "wikitext-2" / "train.txt"), text.WIKITEXT_URL + "train.txt", "by hand"):
        assert part in str(caught.value)


def test_a_link_to_a_file_that_is_not_there_is_not_downloaded(tmp_path: Path, server: dict[str, bytes]) -> None:
    (tmp_path / "wikitext-2").mkdir()
    (tmp_path / "wikitext-2" / "train.txt").symlink_to(tmp_path / "moved")
    with pytest.raises(ConfigError, match=r"train\.txt: a link to .*moved, which is not there"):
        find_corpus("wikitext-2", tmp_path, say=lambda _: None)


def test_nothing_is_downloaded_where_that_is_not_wanted(tmp_path: Path, server: dict[str, bytes]) -> None:
    for dataset in ("wikitext-2", "tinyshakespeare", "lm1b"):
        (tmp_path / dataset).mkdir()
        with pytest.raises(ConfigError, match="is missing"):
            find_corpus(dataset, tmp_path, download=False, say=lambda _: pytest.fail("downloads"))


def test_shakespeare_is_split_by_characters_and_for_words_at_line_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f"line {n:03}\n" for n in range(111)]  # 999 characters.
    content = "".join(lines).encode()
    (tmp_path / "tinyshakespeare").mkdir()
    (tmp_path / "tinyshakespeare" / "input.txt").write_bytes(content)
    declare(monkeypatch, text.SHAKESPEARE, "input.txt", content)
    by_character = contents(find_corpus("tinyshakespeare", tmp_path, "character"))
    assert [len(part) for part in by_character.values()] == [899, 50, 50]
    by_line = contents(find_corpus("tinyshakespeare", tmp_path, "word"))
    assert [len(part) for part in by_line.values()] == [900, 54, 45]
    assert b"".join(by_character.values()) == b"".join(by_line.values()) == content


# --- the 1 Billion Word benchmark ------------------------------------------------------------------------------------


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Folder lm1b with all 99 training and 50 held-out shards, each a line that is its name."""
    folder = tmp_path / "lm1b"
    for name in (*text.LM1B_TRAIN, *(text.LM1B_HELD_OUT.format(n) for n in range(50))):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(Path(name).name + "\n")
    return folder


def test_benchmark_trains_on_99_shards_and_holds_out_two(shards: Path) -> None:
    found = contents(find_corpus("lm1b", shards.parent))
    assert found["train"].decode().split() == [f"news.en-{n:05}-of-00100" for n in range(1, 100)]
    assert found["validation"] == b"news.en.heldout-00001-of-00050\n"
    assert found["test"] == b"news.en.heldout-00000-of-00050\n"


@pytest.mark.parametrize("name", [text.LM1B_TRAIN[16], text.LM1B_TEST, text.LM1B_VALIDATION])
def test_missing_shard_is_named(shards: Path, name: str) -> None:
    (shards / name).unlink()
    (shards / name).symlink_to("elsewhere")
    with pytest.raises(ConfigError, match=f"{shards / name}: a link to elsewhere, which is not there"):
        find_corpus("lm1b", shards.parent)
    (shards / name).unlink()
    with pytest.raises(ConfigError, match=f"shard {shards / name} is missing; 101 are needed"):
        find_corpus("lm1b", shards.parent)
    (shards / text.LM1B_TRAIN[40]).unlink()
    with pytest.raises(ConfigError, match="is missing and 1 more; 101 are needed"):
        find_corpus("lm1b", shards.parent)


def test_held_out_shards_alone_are_split_at_line_ends_and_said_to_be_a_stand_in(tmp_path: Path) -> None:
    folder = tmp_path / "lm1b"
    folder.mkdir()
    files = {"dev": "".join(f"dev {n}\n" for n in range(100)), "test": "".join(f"test {n}\n" for n in range(100))}
    for name, content in files.items():
        (folder / f"1b_benchmark.{name}.tokens").write_text(content)
    corpus = find_corpus("lm1b", tmp_path)
    found = contents(corpus)
    total = "".join(files.values()).encode()
    assert b"".join(found.values()) == total
    assert all(part.endswith(b"\n") for part in found.values())
    assert [len(part) / len(total) for part in found.values()] == pytest.approx([0.9, 0.05, 0.05], abs=0.01)
    assert "stand-in" in corpus.note


def archive(folder: Path) -> bytes:
    """The tar.gz as it is offered: all in one folder, with a file that is not wanted."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        tar.add(folder, "1-billion-word-language-modeling-benchmark-r13output")
        tar.add(folder / text.LM1B_TEST, "1-billion-word-language-modeling-benchmark-r13output/README")
    return buffer.getvalue()


def test_archive_is_downloaded_and_unpacked_and_an_interrupted_unpacking_goes_on(
    tmp_path: Path, shards: Path, server: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = contents(find_corpus("lm1b", tmp_path))
    (name,) = text.LM1B
    server[text.LM1B_URL + name] = archive(shards)
    declare(monkeypatch, text.LM1B, name, server[text.LM1B_URL + name])
    shutil.rmtree(shards)
    said: list[str] = []
    assert contents(find_corpus("lm1b", tmp_path, say=said.append)) == expected
    assert [line.split()[0] for line in said] == ["downloading", "unpacking"]
    kept = {path.name for path in shards.rglob("*") if path.is_file()}
    assert kept == {name} | {Path(shard).name for shard in (*text.LM1B_TRAIN, text.LM1B_VALIDATION, text.LM1B_TEST)}
    (shards / text.LM1B_TRAIN[5]).unlink()
    assert contents(find_corpus("lm1b", tmp_path, say=said.append)) == expected
    assert [line.split()[0] for line in said[2:]] == ["unpacking"]


def test_archive_in_a_read_only_folder_is_unpacked_in_our_cache(
    tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = contents(find_corpus("lm1b", tmp_path))
    (name,) = text.LM1B
    content = archive(shards)
    declare(monkeypatch, text.LM1B, name, content)
    shutil.rmtree(shards)
    shards.mkdir()
    (shards / name).write_bytes(content)
    monkeypatch.setenv("RNNLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(text, "writable", lambda folder: False)
    for said in ([], []):
        corpus = find_corpus("lm1b", tmp_path, say=said.append)
        assert contents(corpus) == expected
        assert corpus.folder.is_relative_to(tmp_path / "cache")
    assert [path.name for path in shards.iterdir()] == [name]
    assert not said  # It is unpacked once.


def test_archive_cut_short_is_one_line(
    tmp_path: Path, shards: Path, server: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    (name,) = text.LM1B
    server[text.LM1B_URL + name] = archive(shards)[:200]
    declare(monkeypatch, text.LM1B, name, server[text.LM1B_URL + name])
    shutil.rmtree(shards)
    with pytest.raises(ConfigError, match="cannot be unpacked"):
        find_corpus("lm1b", tmp_path, say=lambda _: None)
    assert not list(shards.rglob("*.partial"))


# --- any folder of text ----------------------------------------------------------------------------------------------

Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def put(name: str, content: str) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)

    return put


@pytest.mark.parametrize("valid", ["valid", "validation"])
def test_files_and_folders_named_after_splits_are_the_splits(tmp_path: Path, write: Write, valid: str) -> None:
    write("train/b.txt", "b\n")
    write("train/a/a.txt", "a\n")
    write("train/notes.md", "no\n")
    write(f"{valid}.txt", "c\n")
    write("test/d.txt", "d\n")
    write("other.txt", "no\n")
    found = contents(find_corpus("text", source=tmp_path))
    assert found == {"train": b"a\nb\n", "validation": b"c\n", "test": b"d\n"}


def test_folder_without_a_named_split_is_refused(tmp_path: Path, write: Write) -> None:
    write("train.txt", "a\n")
    write("test/empty", "")
    with pytest.raises(
        ConfigError, match=r"has train\.txt \(train\) but no valid\.txt and test\.txt, nor a folder of that name"
    ):
        find_corpus("text", source=tmp_path)


NAMES = {  # How others name the files of a corpus.
    "PTB": ("ptb.train.txt", "ptb.valid.txt", "ptb.test.txt"),
    "WikiText": ("wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens"),
    "WikiText, raw": ("wiki.train.raw", "wiki.valid.raw", "wiki.test.raw"),
    "capitals": ("Train.txt", "VALID.TXT", "Test.txt"),
    "camel case": ("ptbTrain.txt", "ptbDev.txt", "PTBTest.txt"),
    "tokens": ("train.tokens", "validation.tokens", "test.tokens"),
    "others": ("a-training-1.txt", "a_val.txt", "a testset.txt"),
    "in the order of their names": ("1-train.txt", "2-dev.txt", "3-eval.txt"),
    "folders": ("Train/a.txt", "dev-set/b.txt", "my.test/c/d.txt"),
}


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_splits_are_recognised_by_one_rule(tmp_path: Path, write: Write, names: tuple[str, ...]) -> None:
    for split, name in zip(text.SPLITS, names, strict=True):
        write(name, f"{split}\n")
    write("other.txt", "neither\n")
    write(".test.txt", "hidden\n")
    found = contents(find_corpus("text", source=tmp_path))
    assert found == {split: f"{split}\n".encode() for split in text.SPLITS}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["train.txt", "ptb.train.txt", "valid.txt", "test.txt"],
            r"ptb\.train\.txt and train\.txt may each be the train",
        ),
        (["train.txt", "valid.txt", "Dev.txt", "test.txt"], r"Dev\.txt and valid\.txt may each be the validation text"),
        (
            ["train.txt", "valid.txt", "test.txt", "test/a.txt"],
            r"test and test\.txt may each be the test text; keep one",
        ),
        (["train.txt", "valid.txt", "train_test.txt"], r"'train_test\.txt' may be train or test text; rename it"),
        (
            ["ptb.train.txt", "ptb.test.txt"],
            r"has ptb\.test\.txt \(test\), ptb\.train\.txt \(train\) but no valid\.txt",
        ),
        (["a.txt", "test.txt"], r"has test\.txt \(test\) but no train\.txt and valid\.txt"),
    ],
)
def test_what_may_be_another_split_is_never_trained_on(
    tmp_path: Path, write: Write, names: list[str], message: str
) -> None:
    for name in names:
        write(name, "a\n")
    with pytest.raises(ConfigError, match=message):
        find_corpus("text", source=tmp_path)


@pytest.mark.parametrize("name", ["latest.txt", "contest.txt", "devil.txt", "retrain.txt", "value.txt", "attest.txt"])
def test_a_word_within_a_word_is_no_split(tmp_path: Path, write: Write, name: str) -> None:
    write(name, "a\n" * 100)
    assert len(contents(find_corpus("text", source=tmp_path))["train"]) == 180


def test_a_folder_of_our_cache_does_not_depend_on_the_locale(tmp_path: Path) -> None:
    name = "Bücher".encode().decode("ascii", "surrogateescape")  # As Python reads it where there is no UTF-8.
    assert cached(tmp_path / name / "text") == cached(tmp_path / "Bücher" / "text")


def test_links_in_a_corpus_are_followed(tmp_path: Path, write: Write) -> None:
    write("elsewhere/a.txt", "a\n")
    write("elsewhere/deeper/b.txt", "b\n")
    write("books/test.txt", "t\n")
    (tmp_path / "books" / "valid.txt").symlink_to(tmp_path / "elsewhere" / "a.txt")
    (tmp_path / "books" / "train").mkdir()
    (tmp_path / "books" / "train" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "linked").symlink_to(tmp_path / "books")
    for source in ("books", "linked"):
        found = contents(find_corpus("text", source=tmp_path / source))
        assert found == {"train": b"a\nb\n", "validation": b"a\n", "test": b"t\n"}


@pytest.mark.parametrize(
    ("link", "target", "message"),
    [
        ("train.txt", "nowhere.txt", r"train\.txt: a link to nowhere\.txt, which is not there"),
        ("train", "nowhere", "train: a link to nowhere, which is not there"),
        ("test/more", "nowhere", "more: a link to nowhere, which is not there"),
        ("test/more", ".", r"more: a link to \., a folder that it is in"),
        ("test/more", "../..", r"more: a link to \.\./\.\., a folder that it is in"),
    ],
)
def test_links_that_lead_nowhere_are_named(tmp_path: Path, write: Write, link: str, target: str, message: str) -> None:
    write("books/valid.txt", "v\n")
    write("books/test/a.txt", "t\n")
    if not link.startswith("train"):
        write("books/train.txt", "a\n")
    (tmp_path / "books" / link).symlink_to(target)
    with pytest.raises(ConfigError, match=message):
        find_corpus("text", source=tmp_path / "books")


def test_other_files_are_split_in_the_order_of_their_names(tmp_path: Path, write: Write) -> None:
    for name in ("c", "a", "b"):
        write(f"{name}.txt", "".join(f"{name} {n}\n" for n in range(100)))
    write("prepared/word-all/vocabulary.txt", "the\n")
    found = contents(find_corpus("text", source=tmp_path))
    total = b"".join((tmp_path / f"{name}.txt").read_bytes() for name in "abc")
    assert b"".join(found.values()) == total
    assert all(part.endswith(b"\n") for part in found.values())
    assert len(found["train"]) == pytest.approx(0.9 * len(total), abs=6)


def test_a_cut_behind_a_line_end_stays_and_one_between_files_too(tmp_path: Path, write: Write) -> None:
    write("a.txt", "x" * 89 + "\n")
    write("b.txt", "yyyy\n" + "zzzz\n")
    assert contents(find_corpus("text", source=tmp_path)) == {
        "train": b"x" * 89 + b"\n",
        "validation": b"yyyy\n",
        "test": b"zzzz\n",
    }


def test_sources_tell_an_edited_file(tmp_path: Path, write: Write) -> None:
    write("a.txt", "one\ntwo\n")
    before = find_corpus("text", source=tmp_path).sources()
    assert find_corpus("text", source=tmp_path).sources() == before
    (tmp_path / "a.txt").touch()
    assert find_corpus("text", source=tmp_path).sources() != before


def test_source_without_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no text file \(\*\.txt, \*\.tokens, \*\.raw\)"):
        find_corpus("text", source=tmp_path)
    with pytest.raises(ConfigError, match="nowhere is not a folder"):
        find_corpus("text", source=tmp_path / "nowhere")


# --- the real files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "level", "sizes"),
    [
        ("wikitext-2", "word", [10_797_148, 1_121_681, 1_256_449]),
        ("tinyshakespeare", "character", [1_003_854, 55_770, 55_770]),
    ],
)
def test_real_corpora_have_their_sizes(real_data: Path, dataset: str, level: Any, sizes: list[int]) -> None:
    if not (real_data / dataset).is_dir():
        pytest.skip(f"RNNLAB_DATA has no {dataset}")
    splits = find_corpus(dataset, real_data, level).splits
    assert [sum(stop - start for _, start, stop in parts) for parts in splits.values()] == sizes
    assert all(isinstance(part, Part) for parts in splits.values() for part in parts)
