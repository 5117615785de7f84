"""The Penn Treebank, text8 and enwik8: their archives, good and bad, and their tokens; small ones written here."""

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pooch
import pytest

from rnnlab.config.errors import ConfigError
from rnnlab.datasets import text
from rnnlab.datasets.text import find_corpus
from rnnlab.datasets.tokens import TokenSet, load_tokens
from rnnlab.datasets.vocabulary import Vocabulary
from rnnlab.generate import _show
from rnnlab.tasks import make_task

WORDS = {
    "train": " no it was n't black monday \n but while the <unk> N stock-market \n" * 5,
    "valid": " consumers may want \n",
    "test": " no it was n't \n but N \n",
}


def spelled(words: str) -> str:
    """The characters of a text of words as ptb.char.*.txt has them."""
    lines = [" ".join("_".join(line.split())) for line in words.splitlines()]
    return "".join(f" {line} \n" for line in lines)


PTB = {
    **{f"ptb.{split}.txt": words.encode() for split, words in WORDS.items()},
    **{f"ptb.char.{split}.txt": spelled(words).encode() for split, words in WORDS.items()},
}


def ptb_archive(files: dict[str, bytes]) -> bytes:
    """simple-examples.tgz, which has much else in it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        for name, content in {"README": b"hello", **{f"data/{k}": v for k, v in files.items()}}.items():
            member = tarfile.TarInfo(f"./simple-examples/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def zipped(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as pack:
        pack.writestr(name, content)
    return buffer.getvalue()


RNG = np.random.default_rng(0)
TEXT8 = b" anarchism originated as a term of abuse first used against early working class radicals " * 40
ENWIK8 = "<page>\r\n  <title>Ærøskøbing 東京</title>\n".encode() * 50 + bytes([0xE6, 0x9D])  # Cut within a character.


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """What the net has, by URL; the checksums are those of the files written here."""
    files = {
        text.PTB_URL + "simple-examples.tgz": ptb_archive(PTB),
        text.MAHONEY_URL + "text8.zip": zipped("text8", TEXT8),
        text.MAHONEY_URL + "enwik8.zip": zipped("enwik8", ENWIK8),
    }

    def retrieve(url: str, known_hash: str, fname: str, path: Path, **options: Any) -> None:
        if url not in files:
            raise OSError(f"no route to {url}")
        kind, digits = known_hash.split(":")
        assert hashlib.new(kind, files[url]).hexdigest() == digits
        path.mkdir(parents=True, exist_ok=True)
        (path / fname).write_bytes(files[url])

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    assert text.PTB["simple-examples.tgz"].startswith("md5:")
    ptb = hashlib.md5(files[text.PTB_URL + "simple-examples.tgz"]).hexdigest()
    monkeypatch.setitem(text.PTB, "simple-examples.tgz", f"md5:{ptb}")
    for name, content in (("text8", TEXT8), ("enwik8", ENWIK8)):
        archive = files[f"{text.MAHONEY_URL}{name}.zip"]
        monkeypatch.setitem(text.MAHONEY, f"{name}.zip", hashlib.sha256(archive).hexdigest())
        monkeypatch.setitem(text.MAHONEY_FILES, name, hashlib.sha256(content).hexdigest())
    return files


def quiet(*_: Any) -> None:
    """Nobody is told."""


def load(folder: Path, dataset: str, level: Any) -> TokenSet:
    return load_tokens(dataset, folder, level=level, say=quiet)


def decoded(corpus: TokenSet) -> dict[str, list[str]]:
    return {split: corpus.vocabulary.decode(tokens) for split, (tokens, _) in corpus.splits.items()}


# --- what is read ----------------------------------------------------------------------------------------------------


def test_the_treebank_is_downloaded_and_unpacked_once(tmp_path: Path, served: dict[str, bytes]) -> None:
    lines: list[str] = []
    for level in ("word", "character"):
        find_corpus("ptb", tmp_path, level, say=lines.append)  # pyright: ignore[reportArgumentType]
    assert [line.split()[0] for line in lines] == ["downloading", "unpacking"]
    assert {path.name for path in (tmp_path / "ptb").iterdir()} == {"simple-examples.tgz", *PTB}
    assert (tmp_path / "ptb" / "ptb.char.test.txt").read_bytes() == PTB["ptb.char.test.txt"]


def test_words_of_the_treebank_are_its_lines_and_their_ends(tmp_path: Path, served: dict[str, bytes]) -> None:
    words_of = decoded(load(tmp_path, "ptb", "word"))
    for split, name in (("train", "train"), ("validation", "valid"), ("test", "test")):
        expected = [word for line in WORDS[name].splitlines() for word in [*line.split(), "<eos>"]]
        assert words_of[split] == [word if word in words_of["train"] else "<unk>" for word in expected]


def test_characters_of_the_treebank_are_the_words_with_blanks_between_them(
    tmp_path: Path, served: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rnnlab.datasets.chunks.CHUNK", 50)
    corpus = load(tmp_path, "ptb", "character")
    expected = "".join(" ".join(line.split()) + "\n" for line in WORDS["train"].splitlines())
    assert corpus.vocabulary.join(decoded(corpus)["train"]) == expected
    assert corpus.splits["train"].tokens.dtype == np.uint8
    assert "_" not in corpus.vocabulary


def test_files_of_the_treebank_may_lie_there_without_the_archive(tmp_path: Path, served: dict[str, bytes]) -> None:
    (tmp_path / "ptb").mkdir()
    for name in text.PTB_FILES["word"]:
        (tmp_path / "ptb" / name).write_bytes(PTB[name])
    served.clear()
    assert len(load(tmp_path, "ptb", "word").vocabulary) == 13
    with pytest.raises(
        ConfigError, match=r"simple-examples\.tgz is missing and could not be downloaded from https://www"
    ):
        load(tmp_path, "ptb", "character")


@pytest.mark.parametrize(("dataset", "content"), [("text8", TEXT8), ("enwik8", ENWIK8)])
@pytest.mark.parametrize("beside", [False, True])
def test_bytes_are_split_90_5_5_to_the_byte(
    tmp_path: Path, served: dict[str, bytes], dataset: str, content: bytes, beside: bool
) -> None:
    if beside:  # The file without its archive.
        served.clear()
        (tmp_path / dataset).mkdir()
        (tmp_path / dataset / dataset).write_bytes(content)
    corpus = load(tmp_path, dataset, "byte")
    edges = [0, int(0.9 * len(content)), int((0.9 + 0.05) * len(content)), len(content)]
    for (split, words), start, stop in zip(decoded(corpus).items(), edges[:-1], edges[1:], strict=True):
        assert "".join(words).encode("latin-1") == content[start:stop], split
        assert corpus.splits[split].tokens.dtype == np.uint8
    assert len(corpus.vocabulary) == len({*content} | {10}) + 1  # `<unk>`.


def test_splits_of_a_hundred_million_bytes_are_ninety_five_and_five() -> None:
    shares = (0.9 * 10**8, (0.9 + 0.05) * 10**8)
    assert [int(each) for each in shares] == [90_000_000, 95_000_000]


def test_text8_is_read_by_characters_or_by_words_that_no_cut_goes_through(
    tmp_path: Path, served: dict[str, bytes]
) -> None:
    characters = decoded(load(tmp_path, "text8", "character"))
    assert "".join("".join(each) for each in characters.values()) == TEXT8.decode()
    words = decoded(load(tmp_path, "text8", "word"))
    assert [word for each in words.values() for word in each if word != "<eos>"] == TEXT8.decode().split()


def test_bytes_of_a_text_of_ones_own_are_those_of_its_files(tmp_path: Path) -> None:
    contents = {"train": "\ufeffÄ\r\nb\n" * 3, "valid": "b\n", "test": "ü\n"}
    for name, content in contents.items():
        (tmp_path / f"{name}.txt").write_bytes(content.encode())
    corpus = load_tokens("text", tmp_path, level="byte", source=tmp_path, say=quiet)
    assert "".join(decoded(corpus)["train"]).encode("latin-1") == contents["train"].encode()


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "level", "message"),
    [
        ("enwik8", "word", r"^dataset 'enwik8' has level byte, not 'word'"),
        ("enwik8", "character", r"^dataset 'enwik8' has level byte, not 'character'"),
        ("ptb", "byte", r"^dataset 'ptb' has level word or character, not 'byte'"),
        ("enwik9", "byte", r"^unknown dataset 'enwik9'; did you mean enwik8"),
    ],
)
def test_levels_that_a_corpus_has_not_are_one_line(tmp_path: Path, dataset: str, level: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, dataset, level)


def test_a_part_of_the_treebank_is_refused_by_the_name_of_what_is_missing(
    tmp_path: Path, served: dict[str, bytes]
) -> None:
    (tmp_path / "ptb").mkdir()
    (tmp_path / "ptb" / "ptb.train.txt").write_bytes(PTB["ptb.train.txt"])
    with pytest.raises(
        ConfigError, match=r"ptb\.valid\.txt is missing; ptb\.train\.txt, .* are needed, or simple-exam"
    ):
        load(tmp_path, "ptb", "word")


def test_words_in_a_file_of_characters_are_named_with_their_line(tmp_path: Path, served: dict[str, bytes]) -> None:
    (tmp_path / "ptb").mkdir()
    for name in text.PTB_FILES["character"]:
        (tmp_path / "ptb" / name).write_bytes(PTB[name])
    (tmp_path / "ptb" / "ptb.char.valid.txt").write_text(" a _ b \n c _ market \n")
    with pytest.raises(ConfigError, match=r"ptb\.char\.valid\.txt, line 2: 'market'; expected characters with a blank"):
        load(tmp_path, "ptb", "character")


@pytest.mark.parametrize("dataset", ["ptb", "text8", "enwik8"])
def test_an_archive_cut_short_is_one_line(
    tmp_path: Path, served: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, dataset: str
) -> None:
    ((url, content),) = [(k, v) for k, v in served.items() if dataset in k or (dataset == "ptb" and "simple" in k)]
    served[url] = content[: len(content) // 2]
    name = url.rpartition("/")[2]
    if dataset == "ptb":
        monkeypatch.setitem(text.PTB, name, "md5:" + hashlib.md5(served[url]).hexdigest())
    else:
        monkeypatch.setitem(text.MAHONEY, name, hashlib.sha256(served[url]).hexdigest())
    with pytest.raises(ConfigError, match=rf"{name} cannot be unpacked") as caught:
        load(tmp_path, dataset, "byte" if dataset != "ptb" else "word")
    assert "\n" not in str(caught.value)


def test_a_wrong_checksum_names_file_and_source(tmp_path: Path, served: dict[str, bytes]) -> None:
    (tmp_path / "enwik8").mkdir()
    (tmp_path / "enwik8" / "enwik8").write_bytes(ENWIK8[:-1])
    with pytest.raises(ConfigError, match=r"enwik8/enwik8 is truncated or corrupt: expected sha256 .*enwik8\.zip"):
        load(tmp_path, "enwik8", "byte")
    (tmp_path / "ptb").mkdir()
    (tmp_path / "ptb" / "simple-examples.tgz").write_bytes(b"<html>")
    with pytest.raises(ConfigError, match=r"simple-examples\.tgz is truncated or corrupt: expected md5 [0-9a-f]{32}, "):
        load(tmp_path, "ptb", "word")


# --- the task --------------------------------------------------------------------------------------------------------


def test_bytes_stay_bytes_on_the_device_and_are_scored_in_bits(tmp_path: Path, served: dict[str, bytes]) -> None:
    section = {"name": "language_model", "dataset": "enwik8", "level": "byte", "window": 7}
    task: Any = make_task(section, str(tmp_path), None, (3, 2))
    assert {split: array.dtype for split, array in task.data.items()} == dict.fromkeys(task.data, np.dtype(np.uint8))
    batch = jax.jit(task.batch, static_argnums=2)(task.data, jnp.int32(0), "train", jnp.arange(3, dtype=jnp.uint32))
    stream = ENWIK8[: int(0.9 * len(ENWIK8))]
    length = (len(stream) - 1) // 3
    for row in range(3):
        words = task.corpus.vocabulary.decode(np.asarray(batch.inputs)[:, row])
        assert "".join(words).encode("latin-1") == stream[row * length : row * length + 7]
    assert task.derived({"loss": 2 * np.log(2)}) == {"bits_per_character": pytest.approx(2)}
    counts = np.bincount(np.frombuffer(stream, np.uint8), minlength=256)
    shown = np.bincount(np.frombuffer(ENWIK8[len(stream) :][: len(ENWIK8) // 20], np.uint8)[1:], minlength=256)
    seen = counts > 0
    expected = -(shown[seen] * np.log(counts[seen] / counts.sum())).sum() / shown.sum()
    assert task.baselines["validation"] == pytest.approx(expected, rel=1e-3)


def test_bytes_are_shown_as_the_characters_that_they_make(capsys: pytest.CaptureFixture[str]) -> None:
    text_of_bytes = "Ærø 東\n"
    entries = ("<unk>", "\n", *sorted({*text_of_bytes.encode().decode("latin-1")} - {"\n"}))
    vocabulary = Vocabulary(entries, np.ones(len(entries), np.int64), "byte")
    tokens = vocabulary.encode(vocabulary.split(text_of_bytes))
    assert vocabulary.join(vocabulary.decode(tokens)) == text_of_bytes
    _show(vocabulary, [int(token) for token in tokens])
    _show(vocabulary, [int(token) for token in tokens[:1]])  # Half of a character.
    assert capsys.readouterr().out == text_of_bytes + "\N{REPLACEMENT CHARACTER}\n"
