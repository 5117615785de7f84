"""The task speech on a corpus generated in TIMIT's layout: batches, buckets, padding, the score, every config."""

import functools
import importlib.util
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rnnlab.config.errors import ConfigError
from rnnlab.config.reading import load_file
from rnnlab.nn.network import Network
from rnnlab.records.run_config import apply_overrides, resolve_config
from rnnlab.tasks import Batch, Speech, make_task
from rnnlab.training.setup import make_run
from tests.generated_timit import SPEAKERS, write_corpus
from tests.helpers import assert_close, float64, random_like

CONFIG = str(Path(__file__).parents[2] / "configs" / "speech.py")
SENTENCES = tuple(f"SX{number}" for number in range(7))
PAPER = [
    f"{name}-{layers}x{size}{direction}"
    for name, size in (("rnn", 500), ("lstm", 250), ("irnn", 500))
    for layers in (2, 5)
    for direction in ("", "-bidirectional")
]
"""The rows of the paper's table."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The fields of a task that reads a corpus of 21 short training utterances."""
    root = tmp_path_factory.mktemp("data")
    write_corpus(root / "TIMIT", SPEAKERS, SENTENCES, phones=2)
    return {"folder": str(root / "TIMIT"), "cache_dir": str(root / "cache")}


@pytest.fixture(scope="module")
def task(corpus) -> Speech:
    return Speech(**corpus, bucket=4)


def draw(task: Speech, split: str, positions: Any, seed: int = 0) -> Batch:
    batch = _compiled(task)(task.data, jnp.int32(seed), split, jnp.asarray(positions, jnp.uint32))
    return jax.tree.map(np.asarray, batch)


@functools.cache
def _compiled(task: Speech) -> Any:
    return jax.jit(task.batch, static_argnums=2)


def order(task: Speech, positions: Any, seed: int = 0) -> np.ndarray:
    return np.asarray(_order(task)(task.data, jnp.int32(seed), jnp.asarray(positions, jnp.uint32)))


@functools.cache
def _order(task: Speech) -> Any:
    return jax.jit(task.order)


# --- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_row_is_its_utterance_then_zeros_without_a_class(task, split):
    utterances = task.corpus.splits[split]
    batch = draw(task, split, range(len(utterances)))
    np.testing.assert_array_equal(batch.lengths, utterances.lengths)
    assert batch.inputs.shape == (max(utterances.lengths), len(utterances), 120)
    for row, length in enumerate(utterances.lengths):
        rows = utterances.rows(row)
        np.testing.assert_array_equal(batch.inputs[:length, row], utterances.features[rows])
        np.testing.assert_array_equal(batch.targets[:length, row], utterances.targets[rows])
        assert (batch.inputs[length:, row] == 0).all()
        assert (batch.targets[length:, row] == -1).all()


def test_half_precision_on_the_device_rounds_and_does_nothing_else(task, corpus):
    half = Speech(**corpus, bucket=4, storage="float16")
    assert half.data["train"]["features"].nbytes * 2 == task.data["train"]["features"].nbytes
    whole, rounded = (draw(t, "test", [0, 1]) for t in (task, half))
    np.testing.assert_array_equal(rounded.inputs, whole.inputs.astype(np.float16).astype(np.float32))
    assert rounded.inputs.dtype == np.float32


def test_long_training_utterances_are_cut_and_no_frame_is_lost_or_doubled(task, corpus):
    cut = Speech(**corpus, bucket=1, max_frames=10)
    utterances = cut.corpus.splits["train"]
    assert max(utterances.lengths) > 10
    starts, lengths = (cut.data["train"][name] for name in ("starts", "lengths"))
    assert lengths.max() <= 10
    frames = np.concatenate([np.arange(s, s + n) for s, n in zip(starts, lengths, strict=True)])
    np.testing.assert_array_equal(frames, np.arange(utterances.offsets[-1]))
    assert set(utterances.offsets[:-1]) <= set(starts)  # No piece reaches into the next utterance.
    batch = draw(cut, "train", range(cut.epoch))
    assert batch.inputs.shape[0] == lengths.max()
    assert batch.lengths.sum() == utterances.offsets[-1]
    assert cut.steps["validation"] == task.steps["validation"]


# --- buckets ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_epochs_draw_no_utterance_twice_each_in_another_order(task):
    assert (task.size("train"), task.epoch) == (21, 20)
    epochs = order(task, range(6 * 20)).reshape(6, 20)
    assert all(len(set(epoch)) == 20 for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 6
    assert not np.array_equal(epochs[0], order(task, range(20), seed=1))


def test_a_whole_number_of_buckets_leaves_nothing_out(corpus):
    whole = Speech(**corpus, bucket=7)
    assert sorted(order(whole, range(21))) == list(range(21))


def with_lengths(task: Speech, lengths: np.ndarray) -> dict[str, Any]:
    """The task's data, with other lengths of the training utterances."""
    return task.data | {"train": task.data["train"] | {"lengths": lengths.astype(np.int32)}}


def test_buckets_hold_neighbours_in_length_follow_in_no_fixed_order_and_leave_others_out_each_epoch(task):
    # So far apart that no blur of a tenth brings one past another.
    data = with_lengths(task, np.random.default_rng(0).permutation(100 * 1.3 ** np.arange(21)))
    rank = np.argsort(np.argsort(data["train"]["lengths"]))
    found = _order(task)(data, jnp.int32(0), jnp.arange(6 * 20, dtype=jnp.uint32))
    firsts, left_out = [], set()
    for epoch in rank[np.asarray(found)].reshape(6, 20):
        kept = sorted(epoch)
        assert {tuple(sorted(bucket)) for bucket in epoch.reshape(5, 4)} == {
            tuple(kept[i : i + 4]) for i in range(0, 20, 4)
        }
        firsts.append(tuple(epoch.reshape(5, 4).min(1)))
        left_out |= {*range(21)} - {*kept}
    assert not any(list(order) == sorted(order) for order in firsts)
    assert len(set(firsts)) == 6
    assert len(left_out) > 2


def test_utterances_of_nearly_one_length_meet_others_each_epoch(task):
    found = _order(task)(with_lengths(task, np.arange(200, 221)), jnp.int32(0), jnp.arange(120, dtype=jnp.uint32))
    buckets = [tuple(sorted(bucket)) for bucket in np.asarray(found).reshape(30, 4)]
    assert len(set(buckets)) == 30


@pytest.mark.parametrize("positions", [[0, 1, 2, 3], [18, 19, 20, 21], [0, 45, 7, 123_456]])
def test_rows_drawn_apart_equal_the_whole_batch(task, positions):
    whole = order(task, positions, seed=3)
    apart = [order(task, [position], seed=3)[0] for position in positions]
    np.testing.assert_array_equal(whole, apart)


# --- padding and neighbours ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["lstm", "irnn"])
def test_padded_batch_equals_single_utterances_in_outputs_and_gradients(task, cell):
    batch = draw(task, "validation", [0, 1])
    assert len(set(batch.lengths.tolist())) > 1
    with float64():
        model = dict(cell=dict(name=cell, features=3), layers=2, bidirectional=True)
        network = nnx.eval_shape(lambda: Network(120, task.out_features, readout="every", **model, rngs=nnx.Rngs(0)))
        graphdef, params, rest = nnx.split(network, nnx.Param, ...)
        params = jax.tree.map(lambda a: jnp.asarray(0.2 * np.asarray(a), float), random_like(params, 1))
        batch = Batch(jnp.asarray(batch.inputs, float), jnp.asarray(batch.targets), jnp.asarray(batch.lengths))

        def loss(params: Any, batch: Batch) -> tuple[jax.Array, tuple]:
            outputs = nnx.merge(graphdef, params, rest)(batch.inputs, batch.lengths)
            values, weights = task.score(outputs, batch)
            return values["loss"].sum(), (outputs, values, weights)

        both = jax.jit(jax.value_and_grad(loss, has_aux=True))
        (_, (outputs, values, weights)), gradients = both(params, batch)
        summed = jax.tree.map(np.zeros_like, gradients)
        for row, length in enumerate(batch.lengths.tolist()):
            alone = Batch(batch.inputs[:length, row : row + 1], batch.targets[:length, row : row + 1], None)
            (_, (single, its_values, its_weights)), gradient = both(params, alone)
            assert_close(outputs[:length, row], single[:, 0], 1e-12)
            assert_close(jax.tree.map(lambda v, row=row: v[row : row + 1], values), its_values, 1e-12)
            assert its_weights[0] == weights[row]
            summed = jax.tree.map(np.add, summed, gradient)
        assert_close(gradients, summed, 1e-12)


def test_results_do_not_change_with_the_neighbours_in_the_bucket(task):
    first, second = draw(task, "test", [2, 0, 1]), draw(task, "test", [2, 5, 6])
    assert not np.array_equal(first.lengths, second.lengths)
    model = dict(cell=dict(name="gru", features=3), bidirectional=True)
    graphdef, state = nnx.split(Network(120, task.out_features, readout="every", **model, rngs=nnx.Rngs(0)))
    run = jax.jit(lambda state, batch: nnx.merge(graphdef, state)(batch.inputs, batch.lengths))
    np.testing.assert_array_equal(run(state, first)[:, 0], run(state, second)[:, 0])


@pytest.mark.parametrize("what", [{"time_mask": 5}, {"noise": 0.5}])
@pytest.mark.slow
def test_augmentation_changes_training_frames_and_leaves_the_padding_alone(task, corpus, what):
    changed = make_task({"name": "speech", **corpus, "bucket": 4}, None, what)
    plain, other = (draw(t, "train", range(20)) for t in (task, changed))
    np.testing.assert_array_equal(plain.lengths, other.lengths)
    np.testing.assert_array_equal(plain.targets, other.targets)
    padding = np.arange(len(plain.inputs))[:, None] >= plain.lengths
    assert (other.inputs[padding] == 0).all()
    assert not np.array_equal(plain.inputs, other.inputs)
    np.testing.assert_array_equal(draw(task, "test", [0]).inputs, draw(changed, "test", [0]).inputs)


# --- the score -------------------------------------------------------------------------------------------------------


def test_score_counts_frames_that_have_a_class(task):
    rng = np.random.default_rng(0)
    outputs = rng.standard_normal((5, 3, 4))
    targets = rng.integers(0, 4, (5, 3))
    targets[2:, 0] = -1
    targets[1, 1] = -1
    targets[:, 2] = -1
    with float64():
        scored = task.score(jnp.asarray(outputs), Batch(jnp.zeros(0), jnp.asarray(targets), None))
        values, weights = jax.tree.map(np.asarray, scored)
    log_p = outputs - np.log(np.exp(outputs).sum(-1, keepdims=True))
    for row in range(3):
        frames = [t for t in range(5) if targets[t, row] >= 0]
        losses = [-log_p[t, row, targets[t, row]] for t in frames]
        np.testing.assert_allclose(values["loss"][row], sum(losses), rtol=1e-12)
        assert values["frame_error"][row] == sum(outputs[t, row].argmax() != targets[t, row] for t in frames)
        assert weights[row] == len(frames)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_baseline_is_the_loss_of_answering_each_class_by_its_share_of_training(task, split):
    training, shown = (task.corpus.splits[s].targets for s in ("train", split))
    training, shown = training[training >= 0], shown[shown >= 0]
    lacking = len(set(shown) - set(training))
    seen = [max(np.sum(training == target), 1) for target in shown]
    expected = -np.mean(np.log(np.array(seen) / (len(training) + lacking)))
    assert task.baselines[split] == pytest.approx(expected, rel=1e-12)


def test_frames_without_a_class_are_not_counted(corpus):
    folded = Speech(**corpus, bucket=4, targets="phones39")
    utterances = folded.corpus.splits["train"]
    assert (utterances.targets == -1).any()
    batch = draw(folded, "train", range(20))
    rows = order(folded, range(20))
    _, weights = folded.score(jnp.zeros((*batch.targets.shape, 39)), batch)
    counted = [(utterances.targets[utterances.rows(row)] >= 0).sum() for row in rows]
    np.testing.assert_array_equal(weights, counted)


# --- configs ---------------------------------------------------------------------------------------------------------


def tiny(preset: str, corpus: dict[str, Any]) -> dict[str, Any]:
    """A preset of configs/speech.py at a width of 3, on the generated corpus."""
    changes = {
        "model.cell.features": 3,
        "steps": 1,
        "batch_size": 2,
        "eval_batch_size": 16,
        "task.bucket": 2,
        "devices": 1,
    } | {f"task.{k}": v for k, v in corpus.items()}
    return apply_overrides(load_file(f"{CONFIG}:{preset}"), {k: str(v) for k, v in changes.items()})


@pytest.mark.parametrize("preset", [*PAPER, "gru-2x250", "gru-2x250-bidirectional", "gru-5x250-bidirectional"])
def test_every_row_of_the_papers_table_is_a_config(preset):
    name, size, *direction = preset.split("-")
    layers, features = map(int, size.split("x"))
    model = resolve_config(load_file(f"{CONFIG}:{preset}"))["model"]
    assert (model["layers"], model["cell"]["features"]) == (layers, features)
    assert model["bidirectional"] == bool(direction)
    assert model["cell"]["name"] == {"rnn": "vanilla"}.get(name, name)
    if name == "irnn":
        assert model["cell"]["recurrent_init"] == {"name": "scaled_identity", "scale": 0.01}


@pytest.mark.parametrize(
    "preset",
    [
        pytest.param(preset, marks=pytest.mark.slow if preset == "irnn-2x500-bidirectional" else pytest.mark.exhaustive)
        for preset in [*PAPER, "gru-2x250", "gru-5x250", "gru-2x250-bidirectional", "gru-5x250-bidirectional"]
    ],
)
def test_every_config_takes_a_step_and_is_evaluated(preset, corpus):
    run = make_run(tiny(preset, corpus))
    before = run.programs.start(0)
    readout = np.asarray(before.params["readout"]["kernel"])  # Five tiny layers of 0.01·I let less through than that.
    after = run.programs.train(before, run.data, jnp.int32(1), run.rows)
    assert bool(after.finite)
    assert int(after.step) == 1
    assert not np.array_equal(readout, after.params["readout"]["kernel"])
    found = run.evaluate(after, "test")
    assert 0 < found["frame_error"] <= 1
    assert found["loss"] == pytest.approx(np.log(183), abs=1)


# --- bad input -------------------------------------------------------------------------------------------------------


def test_a_bucket_larger_than_the_training_split_is_refused(corpus):
    with pytest.raises(ConfigError, match=r"task\.bucket: 22 is more than the 21 training utterances"):
        Speech(**corpus, bucket=22)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ConfigError, match="nowhere"):
        make_task({"name": "speech", "folder": "nowhere"}, str(tmp_path))


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("targets", "phones40", "phones39"),
        ("storage", "float8", "float16"),
        ("normalize", "none", "speaker"),
        ("max_frames", 0, "at least 1"),
        ("bucket", 0, "at least 1"),
        ("bukket", 4, "bucket"),
    ],
)
def test_a_wrong_field_is_one_line_that_says_what_is_allowed(field, value, said, corpus):
    with pytest.raises(ConfigError, match=said):
        make_run(tiny("irnn-2x500", corpus | {field: value}))


# --- the comparison --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def comparison() -> Any:
    path = Path(__file__).parents[2] / "scripts" / "compare_speech.py"
    spec = importlib.util.spec_from_file_location("compare_speech", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_context_is_the_neighbours_of_a_frame_within_its_utterance(task, comparison):
    x, y = comparison.frames_in_context(task, "train", 2)
    utterances = task.corpus.splits["train"]
    np.testing.assert_array_equal(y, utterances.targets)
    windows = x.reshape(len(x), 5, 120)
    for number in (0, 1, 20):
        rows = utterances.rows(number)
        for t in (rows.start, rows.start + 1, rows.stop - 1):
            for place, neighbour in enumerate(range(t - 2, t + 3)):
                inside = min(max(neighbour, rows.start), rows.stop - 1)
                np.testing.assert_array_equal(windows[t, place], utterances.features[inside])


@pytest.mark.slow
def test_framewise_network_learns_the_tones_of_the_generated_corpus(task, comparison):
    found = comparison.train_framewise(task, 1, (8,), seed=0, epochs=12)
    assert found["test"]["loss"] < 0.95 * np.log(61)


def test_intervals_are_students(comparison):
    row = {"runs": [{"seed": s, "test": {"frame_error": e}} for s, e in enumerate((0.50, 0.52, 0.57))]}
    comparison.summarize(row)
    assert row["mean"] == pytest.approx(0.53, rel=1e-12)
    # t(0.975, 2) = 4.302653; the standard deviation of the three is √0.0013.
    half = 4.302653 * np.sqrt(0.0013 / 3)
    assert row["interval"] == pytest.approx([0.53 - half, 0.53 + half], rel=1e-6)
    row = {"runs": [{"seed": s, "test": {"frame_error": e}} for s, e in enumerate((0.02, 0.3))]}
    comparison.summarize(row)
    assert row["interval"] == [0.0, 1.0]  # No share is beyond.


@pytest.mark.parametrize("direction", ["forwards", "both directions"])
def test_every_network_of_the_comparison_is_a_config(comparison, direction):
    for name in comparison.RECURRENT:
        resolved = resolve_config(comparison.config_of(f"{direction}, {name}", 0, "timit", 10))
        assert resolved["model"]["bidirectional"] == (direction == "both directions")
        assert resolved["model"]["cell"]["features"] == comparison.UNITS
