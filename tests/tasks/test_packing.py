"""Examples that share a row: which ones, where their steps are from, and what a network makes of them."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rnnlab.config.errors import ConfigError
from rnnlab.nn.network import Network
from rnnlab.optim.penalties import terms
from rnnlab.optim.terms import temporal_activation_penalty
from rnnlab.parallel.devices import make_mesh
from rnnlab.records.run_config import resolve_config
from rnnlab.tasks import Batch, Sentences, Speech
from rnnlab.tasks.packing import Packing, first_fit
from rnnlab.training.loss import batch_loss
from rnnlab.training.prefetch import Feed
from rnnlab.training.setup import make_run
from tests.generated_timit import SPEAKERS, write_corpus
from tests.helpers import assert_close, float64, in_double, random_like
from tests.tiers import slow_tests

# --- which examples share a row --------------------------------------------------------------------------------------


def lengths_of(seed: int, count: int, steps: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, steps + 1, count)


def one_by_one(lengths: np.ndarray, steps: int) -> list[list[int]]:
    """The lengths in each row, by the definition: each goes into the first row that has room."""
    rows: list[list[int]] = []
    for length in sorted(lengths.tolist(), reverse=True):
        fitting = [row for row in rows if sum(row) + length <= steps]
        if fitting:
            fitting[0].append(length)
        else:
            rows.append([length])
    return rows


@pytest.mark.parametrize(("count", "steps"), [(1, 5), (40, 3), (200, 12), (60, 50), (300, 50)])
def test_rows_are_those_of_first_fit_decreasing(count: int, steps: int) -> None:
    lengths = lengths_of(count, count, steps)
    order, offsets = first_fit(lengths, steps)
    rows = [lengths[order[start:end]].tolist() for start, end in itertools.pairwise(offsets)]
    assert rows == one_by_one(lengths, steps)
    np.testing.assert_array_equal(np.sort(order), np.arange(count))


def test_the_seed_draws_which_of_equal_examples_share_a_row() -> None:
    lengths = lengths_of(0, 200, 12)
    (first, offsets), (again, _), (other, same) = (first_fit(lengths, 12, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(offsets, same)
    np.testing.assert_array_equal(lengths[first], lengths[other])
    assert (first != other).any()


@pytest.mark.parametrize("xp", [np, jnp])
def test_every_step_of_every_example_has_one_place(xp: Any) -> None:
    lengths = lengths_of(1, 30, 6)
    ends = np.cumsum(lengths)
    packing = Packing(ends - lengths, lengths, 6)
    arrays = [xp.asarray(a) for a in packing.arrays]
    source, begins, length = map(np.asarray, packing.place(arrays, xp.arange(packing.rows), xp))
    inside = np.arange(6) < length[:, None]
    np.testing.assert_array_equal(np.sort(source[inside]), np.arange(ends[-1]))
    np.testing.assert_array_equal(np.sort(source[begins]), ends - lengths)
    np.testing.assert_array_equal(np.diff(source)[inside[:, 1:] & ~begins[:, 1:]], 1)
    assert not begins[~inside].any()
    assert begins[:, 0].all()


# --- what they are to the network ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The fields of a task over sentences of 2 to 14 tokens, of which 10 are trained on."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    for split, lines in {"train": 40, "valid": 9, "test": 7}.items():
        sentences = [" ".join(rng.choice(list("abcdefg"), rng.integers(1, 14))) for _ in range(lines)]
        (folder / f"{split}.txt").write_text("\n".join(sentences) + "\n")
    return {"dataset": "text", "source": str(folder), "data_dir": str(folder), "longest": 10}


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The fields of a task over short utterances."""
    root = tmp_path_factory.mktemp("data")
    write_corpus(root / "TIMIT", SPEAKERS, tuple(f"SX{number}" for number in range(3)), phones=2)
    return {"folder": str(root / "TIMIT"), "cache_dir": str(root / "cache"), "bucket": 1}


def batch_of(task: Any, index: np.ndarray) -> Batch:
    """The training examples with these numbers, in double precision where that is on."""

    @jax.jit
    def make(data: Any) -> Batch:
        rows = jax.vmap(lambda i: task.example(data, jax.random.key(0), "train", i))(jnp.asarray(index))
        inputs, targets = (jnp.swapaxes(a, 0, 1) for a in (rows.inputs, rows.targets))
        return Batch(inputs, targets, rows.length, None if rows.resets is None else rows.resets.T)

    return in_double_floats(make(jax.tree.map(jnp.asarray, task.data)))


def in_double_floats(tree: Any) -> Any:
    return jax.tree.map(lambda a: in_double(a) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree)


def sums_and_gradient(task: Any, model: dict[str, Any], penalties: dict[str, float], batch: Batch) -> tuple[Any, Any]:
    """The sums over all rows of loss, metrics, penalties and weights; the gradient by the parameters at random."""

    def make() -> Network:
        fields = {"vocabulary": task.vocabulary, "readout": "every", **model}
        return Network(task.in_features, task.out_features, **fields, rngs=nnx.Rngs(0))

    graphdef, params, rest = nnx.split(nnx.eval_shape(make), nnx.Param, ...)
    params = jax.tree.map(lambda a: 0.3 * in_double(a), random_like(nnx.to_pure_dict(params), 1))

    def loss(params: Any) -> Any:
        network = nnx.merge(graphdef, params, rest)
        total, (sums, weights, *_) = batch_loss(network, task, batch, None, penalties=terms(penalties))
        return total, sums | {"weights": weights.sum()}

    (_, sums), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return sums, gradient


MODELS: dict[str, tuple[dict[str, Any], dict[str, float]]] = {
    "sentences": ({"cell": {"name": "lstm", "features": 3}, "embedding": 4}, {}),
    "sentences, learned carry, softmax": (
        {
            "cell": {"name": "gru", "features": 3},
            "embedding": 3,
            "softmax": {"tied": True},
            "learned_carry": True,
            "normalization": {"cell": "layer"},
            "layers": 2,
        },
        {},
    ),
    # Of these each step's share is its own; temporal_activation has means over as many pairs as a row has.
    "sentences, penalties": (
        {"cell": {"name": "vanilla", "features": 3}, "embedding": 4, "learned_carry": True},
        {"activation": 0.3, "gradient_norm": 0.5},
    ),
    "speech, both directions": ({"cell": {"name": "gru", "features": 3}, "bidirectional": True, "layers": 2}, {}),
}
"""A network of the task in front, and penalties of rows."""


@pytest.mark.parametrize("name", ["sentences", *slow_tests(*(name for name in MODELS if name != "sentences"))])
def test_packed_rows_are_the_sums_of_their_examples(name: str, text: dict[str, Any], spoken: dict[str, Any]) -> None:
    factory, fields = (Speech, spoken) if name.startswith("speech") else (Sentences, text)
    packed: Any = factory(**fields, packed=True)
    alone: Any = factory(**fields)
    if isinstance(alone, Sentences):
        lengths = np.minimum(np.diff(alone.corpus.splits["train"].offsets), alone.longest)
    else:  # Its utterances are of about one length.
        part = alone.data["train"]
        lengths = part["lengths"] = part["lengths"] // np.resize([1, 2, 3, 4], len(part["lengths"]))
        packed.packing = Packing(part["starts"], lengths, packed.steps["train"])
        packed.data["train"]["rows"] = packed.packing.arrays
    order, offsets = first_fit(lengths, packed.packing.steps)
    rows = np.argsort(np.diff(offsets), kind="stable")[[0, -2, -1]]
    examples = np.concatenate([order[offsets[row] : offsets[row + 1]] for row in rows])
    assert len(examples) > 4
    with float64():
        together, apart = batch_of(packed, rows), batch_of(alone, examples)
        assert together.resets is not None
        assert int(together.resets.sum()) == len(examples)
        ours, theirs = (
            sums_and_gradient(packed, *MODELS[name], together),
            sums_and_gradient(alone, *MODELS[name], apart),
        )
        assert_close(ours, theirs, 1e-11)


def test_two_steps_of_two_sentences_are_no_pair(text: dict[str, Any]) -> None:
    h = jnp.asarray([0.0, 1.0, 5.0, 7.0])[:, None, None]
    resets = jnp.asarray([True, False, True, False])[:, None]
    assert float(temporal_activation_penalty(h, None, 1.0, resets)[0]) == (1 + 4) / 2


# --- batches ---------------------------------------------------------------------------------------------------------


def test_an_epoch_has_every_sentence_once_and_the_host_reads_the_same_rows(text: dict[str, Any]) -> None:
    here = Sentences(**text, packed=True)
    host = Sentences(**text, packed=True, on_device=False)
    size = here.size("train")
    data = jax.tree.map(jnp.asarray, here.data)
    epoch = jax.jit(lambda data: here.batch(data, jnp.int32(3), "train", jnp.arange(size, dtype=jnp.uint32)))(data)
    lengths = np.minimum(np.diff(here.corpus.splits["train"].offsets), 10)
    assert int(epoch.lengths.sum()) == lengths.sum()
    assert int(epoch.resets.sum()) == len(lengths)
    assert size < len(lengths)
    read: Any = Feed(host, make_mesh(size, 1), size, 3, block_steps=1).read(0)
    for ours, theirs in zip(epoch, read, strict=True):
        np.testing.assert_array_equal(ours, np.moveaxis(theirs[0], 0, -1))


def config(text: dict[str, Any], **changes: Any) -> dict[str, Any]:
    task = {"name": "sentences", "packed": True} | {key: text[key] for key in ("dataset", "source", "longest")}
    fields: dict[str, Any] = {
        "steps": 6,
        "batch_size": 2,
        "eval_batch_size": 4,
        "log_every": 2,
        "task": task,
        "model": {"cell": {"name": "lstm", "features": 3}, "embedding": 4},
        "optimizer": {"name": "adam", "learning_rate": 0.05},
    }
    return fields | changes


@pytest.mark.slow
def test_a_run_with_packed_rows_is_the_same_on_two_devices_and_in_two_parts(text: dict[str, Any]) -> None:
    states = []
    for devices, stops in ((1, [6]), (2, [4, 6])):
        run = make_run(config(text, devices=devices, penalties={"temporal_activation": 0.1}), text["data_dir"])
        state = run.programs.start(0)
        for stop in stops:
            state = run.train(state, stop)
        states.append((state.params, state.sums["loss"]))
    assert_close(states[0], states[1], 1e-5)


# --- mistakes --------------------------------------------------------------------------------------------------------


def test_what_cannot_be_packed_is_one_line(text: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^unknown field 'task\.packed'; known: "):
        resolve_config(config(text, task={"name": "adding", "packed": True}))
    with pytest.raises(ConfigError, match=r"^unknown field 'task\.packed'; known: "):
        resolve_config(config(text, task={"name": "language_model", "packed": True}))
    model = {"cell": {"name": "lstm", "features": 3}, "normalization": {"cell": "batch", "steps": 7}}
    with pytest.raises(ConfigError, match=r"^model\.normalization\.cell: 'batch' keeps statistics of every time step"):
        make_run(config(text, model=model), text["data_dir"])
