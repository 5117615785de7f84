"""Pretrained word vectors: files in the exact formats of GloVe and word2vec, good and bad, and runs from them."""

import gzip
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab.config.errors import ConfigError
from rnnlab.datasets.embeddings import Coverage, find_embeddings, read_embeddings
from rnnlab.tasks import TASKS, Batch, Example, Split, Task
from rnnlab.training.run import Run
from rnnlab.training.setup import make_run

VECTORS = {
    "the": [0.27204, -0.06203, -0.1884],
    ",": [-0.082752, 0.67204, -0.14987],
    ". . .": [-0.1573, -0.29517, 0.30453],
    "naïve\x85\u2028": [1.0, 2.0, 3.0],
    "The": [-1e-05, 5.0, 6.0],
    "42": [7.0, 8.0, 9.0],
}


def rows(vectors: dict[str, list[float]], end: str = "\n") -> bytes:
    return "".join(f"{word} {' '.join(map(str, values))}{end}" for word, values in vectors.items()).encode()


def word2vec(vectors: dict[str, list[float]]) -> bytes:
    """As the original program writes it: a header, and a blank before each line's end."""
    return f"{len(vectors)} 3\n".encode() + rows(vectors, " \n")


MARK = b"\xef\xbb\xbf"
FORMATS = {
    "glove": rows(VECTORS),
    "word2vec": word2vec(VECTORS),
    "gzip": gzip.compress(rows(VECTORS)),
    "CRLF": rows(VECTORS, "\r\n"),
    "byte order mark": MARK + rows(VECTORS),
    "word2vec of Windows": MARK + word2vec(VECTORS).replace(b"\n", b"\r\n"),
    "gzip of Windows": gzip.compress(MARK + rows(VECTORS, "\r\n")),
}


@pytest.fixture(params=FORMATS)
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The vectors above, in every format."""
    path = tmp_path / "vectors.txt"
    path.write_bytes(FORMATS[request.param])
    return path


def write(folder: Path, content: bytes) -> Path:
    path = folder / "vectors.txt"
    path.write_bytes(content)
    return path


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("features", [None, 3])
def test_rows_are_those_of_the_file_in_the_order_of_the_words(file: Path, features: int | None) -> None:
    words = list(reversed(VECTORS))
    found = read_embeddings(file, words, features)
    assert found.table.dtype == np.float32
    np.testing.assert_array_equal(found.table, np.float32([VECTORS[word] for word in words]))
    assert found.from_file.all()
    assert found.coverage == Coverage(present=6, missing=0, share=1.0, token_share=None)


def test_a_word_not_found_as_written_takes_its_lower_case_row(file: Path) -> None:
    found = read_embeddings(file, ["THE", "The", "the"])
    np.testing.assert_array_equal(found.table, np.float32([VECTORS["the"], VECTORS["The"], VECTORS["the"]]))
    assert found.from_file.all()


def test_lower_case_takes_nothing_from_a_capital(tmp_path: Path) -> None:
    found = read_embeddings(write(tmp_path, b"Paris 1 2\nx 3 4\n"), ["paris", "x"])
    np.testing.assert_array_equal(found.from_file, [False, True])


def test_the_first_of_two_rows_counts(tmp_path: Path) -> None:
    path = write(tmp_path, b"a 1 2\na 3 4\n")
    np.testing.assert_array_equal(read_embeddings(path, ["a"]).table, [[1, 2]])


def test_coverage_counts_words_and_tokens(file: Path) -> None:
    found = read_embeddings(file, ["the", "zyx", "THE", "zyxw"], counts=[70, 20, 0, 10])
    np.testing.assert_array_equal(found.from_file, [True, False, True, False])
    assert found.coverage == Coverage(present=2, missing=2, share=0.5, token_share=0.7)


def test_missing_words_have_mean_and_deviation_of_the_rows_found_in_every_dimension(file: Path) -> None:
    known = list(VECTORS)
    found = read_embeddings(file, [*known, *(f"missing{i}" for i in range(4000))])
    real, drawn = np.float32(list(VECTORS.values())), found.table[~found.from_file]
    mean, std = real.mean(0), real.std(0)
    assert drawn.shape == (4000, 3)
    assert (np.abs(drawn.mean(0) - mean) < 5 * std / np.sqrt(4000)).all()
    assert (np.abs(drawn.std(0) / std - 1) < 5 / np.sqrt(8000)).all()
    np.testing.assert_array_equal(found.table[found.from_file], real)


def test_drawn_rows_are_of_the_seed(file: Path) -> None:
    words = ["the", "The", "zyx"]
    first, again, other = (read_embeddings(file, words, seed=seed).table for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first[:2], other[:2])
    assert (first[2] != other[2]).all()


def test_only_wanted_rows_are_held(tmp_path: Path) -> None:
    import tracemalloc

    path = write(tmp_path, b"".join(b"word%d %s\n" % (i, b"0.12345 " * 99 + b"1") for i in range(10_000)))
    assert path.stat().st_size > 8_000_000
    tracemalloc.start()
    read_embeddings(path, ["word5", "word9999"], 100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200_000


# --- mistakes --------------------------------------------------------------------------------------------------------

BAD = {
    "empty": (b"", None, " is empty: it holds no word vector"),
    "blank lines": (b"\n \n", None, " is empty: it holds no word vector"),
    "header alone": (b"0 3\n", None, " is empty: it holds no word vector"),
    "words alone": (b"the\n", None, ", line 1: 0 values after the word; expected some, as in line 1"),
    "a value short": (b"a 1 2 3\nb 1 2\n", None, ", line 2: 2 values after the word; expected 3, as in line 1"),
    "a value long": (b"a 1 2 3\nb 1 2 3 4\n", None, ", line 2: 4 values after the word; expected 3, as in line 1"),
    "no number": (b"x 1 2 3\na 1 two 3\n", None, ", line 2: 'two' is not a finite float32"),
    "not finite": (b"a 1 nan 3\n", None, ", line 1: 'nan' is not a finite float32"),
    "too large": (b"a 1 1e39 3\n", None, ", line 1: '1e39' is not a finite float32"),
    "fewer than asked": (b"a 1 2 3\n", 4, ", line 1: 3 values after the word; expected 4, as asked for"),
    "more than asked": (b"a 1 2 3\n", 2, ", line 1: 3 values after the word; expected 2, as asked for"),
    "header against asked": (b"1 3\na 1 2 3\n", 4, ", line 1: vectors of 3 values; expected 4, as asked for"),
    "header against rows": (b"1 3\na 1 2\n", None, ", line 2: 2 values after the word; expected 3, as its header says"),
    "cut": (b"3 2\na 1 2\nb 1 2\n", None, ": its header says 3 words, 2 follow; it is truncated or corrupt"),
    "none of the words": (b"b 1 2\n", None, " holds none of the 1 words"),
    "cut gzip": (gzip.compress(b"a 1 2\n" * 100)[:-9], None, " is not a whole gzip file: "),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_by_name_and_line(name: str, tmp_path: Path) -> None:
    content, features, message = BAD[name]
    path = write(tmp_path, content)
    with pytest.raises(ConfigError) as caught:
        read_embeddings(path, ["a"], features)
    assert str(caught.value).startswith(f"{path}{message}")
    assert "\n" not in str(caught.value)


def test_a_file_is_found_as_named_or_below_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "glove" / "some.txt"
    path.parent.mkdir()
    path.write_bytes(b"a 1\n")
    monkeypatch.delenv("RNNLAB_DATA", raising=False)
    assert find_embeddings(path) == path
    assert find_embeddings("glove/some.txt", tmp_path) == path
    monkeypatch.setenv("RNNLAB_DATA", str(tmp_path))
    assert find_embeddings("glove/some.txt") == path
    monkeypatch.chdir(path.parent)
    with pytest.raises(ConfigError) as caught:
        find_embeddings("other.txt")
    assert str(caught.value) == (
        f"embedding file 'other.txt' not found; looked for {path.parent / 'other.txt'} and {tmp_path / 'other.txt'}"
    )


# --- runs ------------------------------------------------------------------------------------------------------------


class Words(Task):
    """Which of the first two words a sequence of words begins with."""

    words = (*VECTORS, "zyx")

    def __init__(self, named: bool = True):
        self.in_features = self.vocabulary = 7
        self.out_features = 1
        if not named:
            self.words = None

    def size(self, split: Split) -> int:
        return 8

    def example(self, data: Any, key: Any, split: Split, index: Any) -> Example:
        tokens = jax.random.randint(key, (5,), 0, 7)
        return Example(tokens, tokens[0].astype(jnp.float32)[None])

    def score(self, outputs: Any, batch: Batch) -> Any:
        return {"loss": ((outputs - batch.targets) ** 2)[:, 0]}, jnp.ones(len(outputs))


def run(file: Path, named: bool = True, devices: int = 2, **model: Any) -> Run:
    cell = dict(name="irnn", features=4)
    fields = dict(cell=cell, embedding=3, embedding_file=str(file)) | model
    return make_run(
        dict(
            steps=5,
            batch_size=4,
            task=dict(name="words", named=named),
            model=fields,
            optimizer=dict(name="adamw", learning_rate=1e-2),
            devices=devices,
        )
    )


@pytest.fixture
def glove(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(TASKS, "words", Words)
    return write(tmp_path, FORMATS["glove"])


@pytest.mark.slow
@pytest.mark.parametrize("trained", [True, False])
def test_a_run_starts_from_the_file_and_changes_the_table_only_if_it_is_trained(glove: Path, trained: bool) -> None:
    ready = run(glove, embedding_trained=trained)
    state = ready.programs.start(0)
    holder = "params" if trained else "buffers"
    assert "embedding" not in getattr(state, "buffers" if trained else "params")
    before = np.asarray(getattr(state, holder)["embedding"])
    np.testing.assert_array_equal(before, read_embeddings(glove, Words.words, 3).table)
    state = ready.programs.train(state, ready.data, jnp.int32(5), ready.rows)
    assert bool(state.finite)
    after = np.asarray(getattr(state, holder)["embedding"])
    assert np.array_equal(before, after) != trained


@pytest.mark.parametrize("trained", [True, False])
def test_what_a_table_holds_reaches_the_output(glove: Path, trained: bool) -> None:
    ready = run(glove, embedding_trained=trained)
    state = ready.programs.start(0)
    network = ready.programs.structure.network(state.params, state.buffers)
    seen = network.embed(jnp.array([[0, 2]]))
    np.testing.assert_array_equal(seen, np.float32([[VECTORS["the"], VECTORS[". . ."]]]))


RUN_MISTAKES = [
    (dict(named=False), "model.embedding_file: this task has no words"),
    (dict(embedding=None), "model.embedding_file: needs model.embedding, the vectors' dimension"),
    (dict(embedding=None, embedding_file=None, embedding_trained=False), "model.embedding_trained=False: needs model."),
    (dict(embedding_file="nowhere.txt"), "embedding file 'nowhere.txt' not found; looked for "),
]


@pytest.mark.parametrize(("fields", "message"), RUN_MISTAKES, ids=[message[:30] for _, message in RUN_MISTAKES])
def test_mistakes_in_a_run_are_one_line(glove: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run(glove, **fields)
    assert str(caught.value).startswith(message)


# --- the real rows ---------------------------------------------------------------------------------------------------


def test_real_rows_of_glove_are_read(real_data: Path) -> None:
    if not (real_data / "glove" / "glove.840B.300d.txt").is_file():
        pytest.skip("RNNLAB_DATA has no glove/glove.840B.300d.txt")
    path = find_embeddings("glove/glove.840B.300d.txt", real_data)
    found = read_embeddings(path, ["the", "PEOPLE", "...", "$", "zyxwv"], 300)
    np.testing.assert_array_equal(found.from_file, [True, True, True, True, False])
    np.testing.assert_array_equal(found.table[1, :3], np.float32([-0.19686, 0.11579, -0.41091]))
    assert np.isfinite(found.table).all()
    norms = np.linalg.norm(found.table, axis=1)
    assert norms.min() > 2
    assert norms.max() < 15
