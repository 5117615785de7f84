"""Language models: which targets a batch has, what a stream carries, what is scored; and how both are resumed.

Most tests put positions where tokens were, so that a batch says itself where in the text it comes from. The text is a
small one written here.
"""

import dataclasses
import itertools
import math
import shutil
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab.config.errors import ConfigError
from rnnlab.parallel.devices import make_mesh, replicate
from rnnlab.records.run_config import resolve_config
from rnnlab.tasks import LanguageModel, Sentences, Task, make_task
from rnnlab.tasks.base import frequency_loss
from rnnlab.training.checkpoints import Checkpoints
from rnnlab.training.loop import train_and_evaluate
from rnnlab.training.programs import Programs
from rnnlab.training.run import Run
from rnnlab.training.setup import make_run
from rnnlab.training.state import TrainState
from rnnlab.training.structure import Structure
from tests.helpers import assert_close, float64, random_like
from tests.tiers import exhaustive_tests

WORDS = ["a", "b", "c", "d", "e", "f", "g"]
LINES = {"train": 40, "valid": 9, "test": 7}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with text/, of three splits; sentences have 1 to 8 words, and one of the training text `hapax`."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "text").mkdir()
    rng = np.random.default_rng(0)
    for split, lines in LINES.items():
        sentences = [list(rng.choice(WORDS, rng.integers(1, 9))) for _ in range(lines)]
        if split == "train":
            sentences[3].append("hapax")
        (folder / "text" / f"{split}.txt").write_text("".join(f"{' '.join(words)}\n" for words in sentences))
    return folder


SMALL: dict[str, Any] = {"language_model": {"window": 5}, "sentences": {"longest": 5}}


def section(folder: Path, name: str = "language_model", **fields: Any) -> dict[str, Any]:
    return {"name": name, "dataset": "text", "source": str(folder / "text"), **fields}


def make(folder: Path, name: str = "language_model", streams: tuple[int, int] = (2, 2), **fields: Any) -> Any:
    return make_task(section(folder, name, **fields), str(folder), None, streams)


def programs(task: Task, rows: int, devices: int = 1, rate: float = 1.0, **model: Any) -> Programs:
    """Plain SGD, so that an update is the gradient."""
    model = {"cell": {"name": "lstm", "features": 3}, "learned_carry": True, "embedding": 4} | model
    optimizer = {"name": "sgd", "learning_rate": rate}
    structure = Structure(task, model=model, optimizer=optimizer, run_steps=99)
    run: Any = Programs(structure, make_mesh(rows, devices), batch_size=rows, log_every=7)
    run.train = jax.jit(run.train.__wrapped__)  # Its state is kept.
    return run


def begun(run: Programs) -> TrainState:
    """The state before the first step, its parameters at a random point in double precision."""
    state = jax.tree.map(lambda a: a.astype(float) if a.dtype == jnp.float32 else a, run.start(0))
    params = jax.tree.map(lambda a, b: np.asarray(a) + 0.4 * np.asarray(b), state.params, random_like(state.params, 1))
    return dataclasses.replace(state, params=replicate(run.mesh, params))


def train(run: Programs, state: TrainState, until: int) -> TrainState:
    rows = jnp.arange(run.batch_size, dtype=jnp.uint32)
    return run.train(state, replicate(run.mesh, run.task.data), jnp.int32(until), rows)


def evaluate(run: Programs, state: TrainState, rows: int, split: Any = "validation") -> float:
    size = run.task.size(split)
    assert size is not None
    data = replicate(run.mesh, run.task.data)
    return float(
        run.evaluate(split, size, state.params, state.buffers, data, jnp.arange(rows, dtype=jnp.int32))["loss"]
    )


def places(tokens: np.ndarray, padding: int = 0) -> np.ndarray:
    """The position of every token instead of it, and -1 for padding."""
    return np.concatenate([np.arange(len(tokens)), np.full(padding, -1)]).astype(np.int32)


# --- streams: which targets ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "window"), [(1, 5), (3, 7), (4, 1), (2, 40)])
def test_an_epoch_has_every_target_once_but_the_remainder_and_rows_go_on_where_they_ended(folder, rows, window):
    task: LanguageModel = make(folder, streams=(rows, 1), window=window)
    tokens = task.corpus.splits["train"].tokens
    data = {"train": places(tokens)}
    batch = jax.jit(lambda at: task.batch(data, jnp.int32(0), "train", at))
    length = (len(tokens) - 1) // rows
    steps = length // window
    assert task.size("train") == rows * steps
    for epoch in range(2):
        batches = [batch(jnp.uint32((epoch * steps + step) * rows) + jnp.arange(rows)) for step in range(steps)]
        seen = np.concatenate([b.inputs for b in batches])  # [steps * window, rows]
        np.testing.assert_array_equal(np.concatenate([b.targets for b in batches]), seen + 1)
        np.testing.assert_array_equal(seen, np.arange(steps * window)[:, None] + length * np.arange(rows))
    begins = [bool(task.begins("train", jnp.uint32(p)[None])[0]) for p in range(2 * rows * steps)]
    assert begins == 2 * [position < rows for position in range(rows * steps)]


@pytest.mark.parametrize("rows", [1, 4, 5, 27])
def test_evaluation_scores_every_target_once(folder, rows):
    task: LanguageModel = make(folder, streams=(1, rows), window=6)
    tokens = task.corpus.splits["validation"].tokens
    assert (len(tokens) - 1) % rows or rows == 1  # Streams of unequal lengths; with 27, some of none.
    data = {"validation": places(tokens, 6)}
    size = task.size("validation")
    batch = jax.jit(lambda at: task.batch(data, jnp.int32(0), "validation", at))
    seen: list[list[int]] = [[] for _ in range(rows)]
    for start in range(0, size, rows):
        _, targets, lengths, _ = batch(start + jnp.arange(rows))
        for row in range(rows):
            seen[row] += [int(t) for t in targets[: lengths[row], row]]
    assert sum(seen, []) == list(range(1, len(tokens)))  # noqa: RUF017


# --- streams: what is carried ----------------------------------------------------------------------------------------

MODELS: dict[str, dict[str, Any]] = {
    "lstm": {},
    "gru, two layers, one-hot": {"cell": {"name": "gru", "features": 3}, "layers": 2, "embedding": None},
    "vanilla, skip, softmax": {
        "cell": {"name": "vanilla", "features": 3},
        "layers": 2,
        "connections": "skip",
        "softmax": {"chunk": 4},
    },
}


@pytest.mark.parametrize("name", ["lstm", *exhaustive_tests(*(each for each in MODELS if each != "lstm"))])
def test_the_carry_after_six_windows_is_that_of_one_long_pass(folder, name):
    model = MODELS[name]
    task: LanguageModel = make(folder, streams=(2, 1), window=5)
    with float64():
        run = programs(task, 2, rate=0.0, **model)
        state = begun(run)
        tokens, length = task.corpus.splits["train"].tokens, task.length["train"]
        inputs = np.stack([tokens[row * length :][:30] for row in range(2)], 1).astype(np.int32)

        @jax.jit
        def one_long_pass(params: Any, buffers: Any) -> list:
            last: list = []
            run.structure.network(params, buffers).hidden(jnp.asarray(inputs), last=last)
            return last

        assert_close(train(run, state, 6).carry, one_long_pass(state.params, state.buffers), 1e-12)
        # The epoch after begins with the network's own carry again.
        windows = task.windows["train"]
        assert_close(train(run, state, windows + 1).carry, train(run, state, 1).carry, 0)


def test_gradients_stop_where_a_window_begins(folder):
    task: LanguageModel = make(folder, streams=(2, 1), window=5)
    with float64():
        run = programs(task, 2)
        start = begun(run)
        before = train(run, start, 2)
        after = train(run, before, 3)
        windows = [task.batch(task.data, jnp.int32(0), "train", step * 2 + jnp.arange(2)) for step in range(3)]

        def loss(params: Any, carry: Any, whole: bool) -> jax.Array:
            """Of the third window; whole: with what its carry came from."""
            network, last = run.structure.network(params, before.buffers), []
            if whole:
                inputs = jnp.concatenate([window.inputs for window in windows])
                hidden = network.hidden(inputs)._replace(state=None)
                hidden = hidden._replace(h=hidden.h[10:])
            else:
                hidden = network.hidden(windows[2].inputs, first=carry, last=last)
            values, weights = task.score(network.read(hidden), windows[2])
            return values["loss"].sum() / weights.sum()

        gradient = jax.jit(jax.grad(loss), static_argnums=2)
        truncated = gradient(before.params, before.carry, False)
        made = jax.tree.map(jnp.subtract, before.params, after.params)
        assert_close(made, truncated, 1e-9)
        kernel = lambda tree: np.asarray(tree["layers"][0]["cells"][0]["recurrent_kernel"])  # noqa: E731
        whole = kernel(gradient(before.params, before.carry, True))
        assert np.abs(kernel(made) - whole).max() > 1e-2 * np.abs(whole).max()


def test_a_learned_carry_is_trained_in_the_windows_that_begin_a_stream(folder):
    task: LanguageModel = make(folder, streams=(2, 1), window=5)
    with float64():
        run = programs(task, 2)
        states = [begun(run)]
        for step in range(task.windows["train"] + 1):
            states.append(train(run, states[-1], step + 1))
        learned = [np.stack(jax.tree.leaves(state.params["layers"][0]["carries"])) for state in states]
        changed = [bool((a != b).any()) for a, b in itertools.pairwise(learned)]
        assert changed == [True] + [False] * (task.windows["train"] - 1) + [True]


@pytest.mark.exhaustive
def test_two_devices_are_one(folder):
    task: LanguageModel = make(folder, streams=(4, 4), window=3)
    with float64():
        found = []
        for devices in (1, 2):
            run = programs(task, 4, devices)
            state = train(run, begun(run), 5)
            assert int(state.step) == 5
            found.append(jax.tree.map(np.asarray, (state.params, state.carry, evaluate(run, state, 4))))
        assert_close(found[1], found[0], 1e-10)


# --- resume ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_stage_with_another_window_begins_with_the_first_carry(folder):
    curriculum = {"field": "window", "values": (3,), "steps": (2,)}
    config = {
        "task": section(folder, window=5),
        "model": {"cell": {"name": "gru", "features": 3}, "embedding": 4},
        "curriculum": curriculum,
    }
    run = make_run(
        {
            "optimizer": {"name": "sgd", "learning_rate": 0.1},
            "seed": 0,
            "steps": 4,
            "batch_size": 2,
            "eval_batch_size": 2,
            "devices": 1,
        }
        | config,
        str(folder),
    )
    run.enter(0)
    state = run.train(run.programs.start(0), 2)
    assert jax.tree.leaves(state.carry)[0].any()
    run.enter(1)
    assert not jax.tree.leaves(run.at_stage(state).carry)[0].any()


def last_state(config: dict[str, Any], workdir: Path, folder: Path) -> Any:
    """Parameters and carry in the last checkpoint."""
    checkpoints = Checkpoints(workdir / "checkpoints")
    restored = checkpoints.restore(checkpoints.steps()[-1], make_run(config, str(folder)).programs.start(0))
    checkpoints.close()
    return restored.step, jax.tree.map(np.asarray, (restored.state.params, restored.state.carry))


@pytest.mark.slow
def test_a_run_stopped_or_killed_within_an_epoch_ends_bit_for_bit_where_it_would_have(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("rnnlab.plots", mock.MagicMock())
    flow = {"layer 1": [0.5, 1.0]}
    monkeypatch.setattr(Run, "gradient_flow", lambda *_: {"untrained": flow, "trained": flow})
    config = {
        "steps": 9,
        "batch_size": 2,
        "eval_batch_size": 2,
        "log_every": 3,
        "eval_every": 6,
        "checkpoint_every": 6,
        "devices": 1,
        "task": section(folder, window=7),
        "model": {"cell": {"name": "gru", "features": 3}, "dropout": {"output": 0.2}},
        "optimizer": {"name": "adam", "learning_rate": 0.05},
    }
    assert make(folder, window=7).windows["train"] > 9  # One epoch has all of it.
    train_and_evaluate(config, tmp_path / "whole", str(folder))
    assert (tmp_path / "whole" / "vocabulary.json").exists()
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")  # After step 9, before its checkpoint.
    shutil.rmtree(tmp_path / "killed" / "checkpoints" / "9")
    (tmp_path / "killed" / "summary.json").unlink()
    train_and_evaluate(config, tmp_path / "killed", str(folder))
    train_and_evaluate(config | {"steps": 4}, tmp_path / "stopped", str(folder))
    train_and_evaluate(config, tmp_path / "stopped", str(folder))
    expected = last_state(config, tmp_path / "whole", folder)
    assert expected[0] == 9
    for name in ("killed", "stopped"):
        found = last_state(config, tmp_path / name, folder)
        assert found[0] == 9
        jax.tree.map(np.testing.assert_array_equal, found[1], expected[1])


# --- what is scored --------------------------------------------------------------------------------------------------


def nats(params: Any, inputs: np.ndarray, targets: np.ndarray) -> list[float]:
    """-ln p of every target: a tanh network, step by step."""
    cell = {name: np.asarray(a) for name, a in params["layers"][0]["cells"][0].items()}
    table, kernel, bias = (
        np.asarray(a) for a in (params["embedding"], *map(params["readout"].get, ("kernel", "bias")))
    )
    h, found = np.zeros(cell["bias"].size), []
    for word, target in zip(inputs, targets, strict=True):
        h = np.tanh(table[word] @ cell["input_kernel"] + cell["bias"] + h @ cell["recurrent_kernel"])
        z = h @ kernel + bias
        found.append(float(np.log(np.exp(z).sum()) - z[target]))
    return found


TANH = {"cell": {"name": "vanilla", "features": 3}, "learned_carry": False}


@pytest.mark.parametrize("rows", [3, *exhaustive_tests(1)])
def test_perplexity_is_that_of_numpy_stream_by_stream(folder, rows):
    task: LanguageModel = make(folder, streams=(1, rows), window=6)
    with float64():
        run = programs(task, 1, **TANH)
        state = begun(run)
        loss = evaluate(run, state, rows, "test")
    tokens = np.asarray(task.corpus.splits["test"].tokens)
    length = math.ceil((len(tokens) - 1) / rows)
    found: list[float] = []
    for start in range(0, len(tokens) - 1, length):
        part = tokens[start : start + length + 1]
        found += nats(state.params, part[:-1], part[1:])
    assert len(found) == len(tokens) - 1
    expected = np.exp(np.mean(found))
    np.testing.assert_allclose(task.derived({"loss": loss})["perplexity"], expected, rtol=1e-10)
    assert np.mean(found) > 0.5


def test_perplexity_of_sentences_is_that_of_numpy_sentence_by_sentence(folder):
    task: Sentences = make(folder, "sentences", longest=3)
    with float64():
        run = programs(task, 1, **TANH)
        state = begun(run)
        loss = evaluate(run, state, 4)  # Of 9 sentences: the last batch is not full.
    tokens, offsets = (np.asarray(a) for a in task.corpus.splits["validation"])
    end, found = task.corpus.vocabulary.index["<eos>"], []
    for start, stop in itertools.pairwise(offsets):
        assert tokens[stop - 1] == end
        found += nats(state.params, np.concatenate([[end], tokens[start : stop - 1]]), tokens[start:stop])
    assert len(found) == len(tokens)
    np.testing.assert_allclose(task.derived({"loss": loss})["perplexity"], np.exp(np.mean(found)), rtol=1e-10)


def test_characters_are_scored_in_bits_and_with_the_same_streams(folder):
    task: LanguageModel = make(folder, level="character", window=6)
    assert task.derived({"loss": 3 * math.log(2)}) == {"bits_per_character": pytest.approx(3)}
    text = (folder / "text" / "train.txt").read_text()
    words = task.corpus.vocabulary.words
    inputs = task.batch(task.data, jnp.int32(0), "train", jnp.arange(2)).inputs
    half = (len(text) - 1) // 2
    assert ["".join(words[i] for i in row) for row in inputs.T] == [text[:6], text[half : half + 6]]


@pytest.mark.parametrize("name", ["language_model", "sentences"])
def test_the_baseline_is_the_loss_of_always_answering_how_frequent_words_are(folder, name):
    def words(split: str) -> list[str]:
        return (folder / "text" / f"{split}.txt").read_text().replace("\n", " <eos>\n").split()

    counts = Counter(words("train"))
    task = make(folder, name, **SMALL[name])
    for split, file in {"validation": "valid", "test": "test"}.items():
        shown = words(file)[1 if name == "language_model" else 0 :]  # The first word of a stream is not predicted.
        expected = -np.mean([np.log(counts[word] / counts.total()) for word in shown])
        np.testing.assert_allclose(task.baselines[split], expected, rtol=1e-12)


def test_a_word_that_training_lacks_counts_once_in_the_baseline():
    found = frequency_loss(np.array([3, 1, 0, 0]), np.array([1, 0, 2, 0]))
    np.testing.assert_allclose(found, -(np.log(3 / 5) + 2 * np.log(1 / 5)) / 3, rtol=1e-15)


@pytest.mark.parametrize(("level", "validation", "test"), [("word", 965.0, 912.0)])
def test_real_baselines_are_the_perplexities_of_the_training_unigram(real_data, level, validation, test):
    if not (real_data / "wikitext-2").is_dir():
        pytest.skip("RNNLAB_DATA has no wikitext-2")
    baselines = LanguageModel(dataset="wikitext-2", level=level, data_dir=real_data).baselines
    assert [round(math.exp(baselines[split])) for split in ("validation", "test")] == [validation, test]


def test_docs_name_the_characters_of_shakespeare(real_data):
    if not (real_data / "tinyshakespeare").is_dir():
        pytest.skip("RNNLAB_DATA has no tinyshakespeare")
    task = LanguageModel(dataset="tinyshakespeare", level="character", data_dir=real_data)
    size = len(task.words)
    assert "<unk>" in task.words
    docs = (Path(__file__).parents[2] / "docs" / "language_models.md").read_text(encoding="utf-8")
    assert f"{size} characters with `--level=character`, {size - 1} of the text and `<unk>`" in docs


@pytest.mark.slow
@pytest.mark.parametrize("name", ["language_model", *exhaustive_tests("sentences")])
def test_a_softmax_in_chunks_trains_as_the_full_one(folder, name):
    task = make(folder, name, **SMALL[name])
    with float64():
        full, chunked = programs(task, 2), programs(task, 2, softmax={"chunk": 4})
        first = begun(full)
        kernel = first.params["readout"]["kernel"]
        readout = {"word_kernel": kernel.T, "bias": first.params["readout"]["bias"]}
        other = dataclasses.replace(begun(chunked), params=first.params | {"readout": readout})
        one, two = train(full, first, 3), train(chunked, other, 3)
        readout = two.params["readout"]
        turned = two.params | {"readout": {"kernel": readout["word_kernel"].T, "bias": readout["bias"]}}
        assert_close(turned, one.params, 1e-10)
        assert_close(two.sums, one.sums, 1e-10)
        assert np.abs(np.asarray(kernel - one.params["readout"]["kernel"])).max() > 1e-3
        np.testing.assert_allclose(evaluate(chunked, two, 2), evaluate(full, one, 2), rtol=1e-12)


# --- sentences -------------------------------------------------------------------------------------------------------


def test_an_epoch_has_every_sentence_once_cut_after_the_longest(folder):
    task: Sentences = make(folder, "sentences", longest=4)
    tokens, offsets = (np.asarray(a) for a in task.corpus.splits["train"])
    data = {"train": (jnp.asarray(places(tokens, 4)), jnp.asarray(offsets, jnp.int32), None)}
    batch = jax.jit(lambda at: task.batch(data, jnp.int32(0), "train", at))
    inputs, targets, lengths, _ = batch(jnp.arange(len(offsets) - 1))
    order = np.argsort(targets[0])
    assert not (order == np.arange(len(order))).all()
    np.testing.assert_array_equal(targets[0][order], offsets[:-1])
    np.testing.assert_array_equal(lengths[order], np.minimum(np.diff(offsets), 4))
    np.testing.assert_array_equal(inputs[0], task.corpus.vocabulary.end)
    np.testing.assert_array_equal(inputs[1:], targets[:-1])


def test_a_closer_look_is_at_sentences_of_all_lengths(folder):
    task: Sentences = make(folder, "sentences")
    _, offsets, order = task.data["validation"]
    lengths = np.diff(offsets)[order]
    data = jax.tree.map(jnp.asarray, task.data)
    three = task.batch(data, jnp.int32(0), "validation", jnp.asarray(task.sample(3)))
    np.testing.assert_array_equal(three.lengths, lengths[[0, (len(lengths) - 1) // 2, -1]])
    assert lengths[0] < lengths[-1]
    np.testing.assert_array_equal(task.sample(1000), np.arange(len(lengths)))
    stream = make(folder, "language_model")  # Rows that go by no length: the first.
    np.testing.assert_array_equal(stream.sample(2), [0, 1])


@pytest.mark.slow
def test_gradients_are_measured_over_the_longest_sentence_however_many_are_shorter(tmp_path):
    (tmp_path / "text").mkdir()
    for split in LINES:  # More than the 32 rows that are measured, the long one first.
        (tmp_path / "text" / f"{split}.txt").write_text("a b c d e f\n" + 40 * "a\n")
    run = make_run(
        resolve_config(
            {
                "steps": 1,
                "batch_size": 2,
                "task": section(tmp_path, "sentences"),
                "model": {"cell": {"name": "lstm", "features": 3}, "embedding": 4},
                "optimizer": {"name": "sgd", "learning_rate": 0.1},
            }
        ),
        str(tmp_path),
    )
    (norms,) = run.gradient_flow({"untrained": run.programs.start(0)})["untrained"].values()
    assert len(norms) == 7  # The end of the sentence, too.
    assert min(norms) > 0


@pytest.mark.slow
def test_sentences_never_leak_into_each_other(folder):
    task: Sentences = make(folder, "sentences")
    tokens, offsets, order = task.data["validation"]
    assert list(np.diff(offsets)[order]) == sorted(np.diff(offsets))
    rows = jnp.arange(len(offsets) - 1)
    changed = int(np.argmax(np.diff(offsets)[1:])) + 1  # Its neighbour before has it for padding.
    assert np.diff(offsets)[changed - 1] < task.steps["validation"]
    hapax = task.corpus.vocabulary.index["hapax"]
    other = tokens.copy()
    other[offsets[changed] : offsets[changed + 1] - 1] = hapax
    assert hapax not in tokens
    with float64():
        run = programs(task, 1)
        state = begun(run)

        def losses(params: Any, tokens: Any) -> jax.Array:
            data = {"validation": (tokens, jnp.asarray(offsets), jnp.asarray(order))}
            batch = task.batch(data, jnp.int32(0), "validation", rows)
            network = run.structure.network(params, state.buffers)
            return task.score(network(batch.inputs, batch.lengths), batch)[0]["loss"]

        before, after = (np.asarray(jax.jit(losses)(state.params, t)) for t in (tokens, other))
        assert list(np.flatnonzero(before != after)) == [list(order).index(changed)]
        jacobian = jax.jit(jax.jacrev(losses))(state.params, other)
        of_hapax = np.abs(np.asarray(jacobian["embedding"][:, hapax])).max(1)
        assert list(np.flatnonzero(of_hapax)) == [list(order).index(changed)]


@pytest.mark.slow
def test_what_stands_behind_a_sentence_is_not_looked_at(folder):
    task: Sentences = make(folder, "sentences")
    hapax = task.corpus.vocabulary.index["hapax"]
    with float64():
        run = programs(task, 1)
        state = begun(run)

        @jax.jit
        def losses(params: Any, filling: Any) -> jax.Array:
            data = jax.tree.map(jnp.asarray, task.data)
            batch: Any = task.batch(data, jnp.int32(0), "validation", jnp.arange(9))
            inside = jnp.arange(task.steps["validation"])[:, None] < batch.lengths
            batch = batch._replace(inputs=jnp.where(inside, batch.inputs, filling))
            batch = batch._replace(targets=jnp.where(inside, batch.targets, filling))
            return task.score(run.structure.network(params, state.buffers)(batch.inputs, batch.lengths), batch)[0][
                "loss"
            ]

        table = state.params["embedding"]
        broken = state.params | {"embedding": table.at[hapax].set(jnp.nan)}
        np.testing.assert_array_equal(losses(broken, hapax), losses(state.params, 0))


# --- mistakes --------------------------------------------------------------------------------------------------------


def test_more_streams_than_the_text_allows_are_one_line_that_says_how_many_it_does(folder):
    targets = len(make(folder, window=5).corpus.splits["train"].tokens) - 1
    most = targets // 5
    assert make(folder, streams=(most, 1), window=5).windows["train"] == 1
    with pytest.raises(ConfigError) as caught:
        make(folder, streams=(most + 1, 1), window=5)
    message = f"too few for {most + 1} streams (batch_size, a window of 5 each); at most {most}"
    assert str(caught.value) == f"task: the train split of text has {targets + 1} tokens, {message}"
    with pytest.raises(ConfigError, match=r"the validation split .* too few for 400 streams \(eval_batch_size\)"):
        make(folder, streams=(1, 400), window=5)


@pytest.mark.parametrize("name", ["language_model", "sentences"])
def test_networks_that_read_backwards_are_refused(folder, name):
    with pytest.raises(ConfigError, match=r"^model\.bidirectional: this task needs False"):
        programs(make(folder, name), 2, bidirectional=True, learned_carry=False)
