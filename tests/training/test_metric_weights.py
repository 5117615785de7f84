"""Metrics with weights of their own: the means of a run are those that NumPy computes over all that counts."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab.config.errors import ConfigError
from rnnlab.records.metrics import read_metrics
from rnnlab.sweeps.replicas.replica_axis import make_replica_mesh
from rnnlab.sweeps.replicas.replicas import ReplicaPrograms
from rnnlab.tasks import TASKS, Batch, Example, GeneratedTask, Split, StreamTask, Weighted
from rnnlab.training.loop import train_and_evaluate
from rnnlab.training.run import Run
from rnnlab.training.setup import make_run
from rnnlab.training.state import TrainState, means

pytestmark = pytest.mark.slow  # Each trains or compiles several programs.

STEPS, LAST = 70, 10


class Recall(GeneratedTask):
    """The loss is over 70 steps, `recall` over the last ten, fewer in some rows and none in every third, `even` over
    the even rows, and `never` over nothing."""

    readout = "every"
    in_features, out_features = 2, 1
    validation_size, test_size = 23, 8
    larger_is_better = frozenset({"recall"})

    def example(self, data: Any, key: Any, split: Any, index: Any) -> Example:
        inputs = jax.random.normal(key, (STEPS, 2))
        counted = jnp.arange(STEPS) >= STEPS - jnp.where(index % 3 == 0, 0, LAST - index % 5)
        return Example(inputs, (inputs.sum(-1), counted, jnp.full(STEPS, index)))

    def score(self, outputs: Any, batch: Batch) -> tuple[dict[str, Any], jax.Array]:
        targets, counted, index = batch.targets
        right = (outputs[:, :, 0] > 0) == (targets > 0)
        values = {
            "loss": ((outputs[:, :, 0] - targets) ** 2).sum(0),
            "recall": Weighted((right & counted).sum(0), counted.sum(0)),
            "even": Weighted(jnp.where(index[0] % 2 == 0, right[0], 0).astype(jnp.float32), index[0] % 2 == 0),
            "never": Weighted(jnp.zeros(targets.shape[1]), 0.0),
            "first": right[0] * float(STEPS),
        }
        return values, jnp.full(targets.shape[1], float(STEPS))


def by_hand(outputs: np.ndarray, targets: Any) -> dict[str, float]:
    """The metrics over all rows, of arrays [T, B, ...]."""
    values, counted, index = (np.asarray(each) for each in targets)
    right = (outputs[:, :, 0] > 0) == (values > 0)
    numbers = {
        "loss": float(((outputs[:, :, 0].astype(np.float64) - values) ** 2).mean()),
        "first": float(right[0].mean()),
    }
    if counted.any():
        numbers["recall"] = float(right[counted].mean())
    even = index[0] % 2 == 0
    return numbers | ({"even": float(right[0][even].mean())} if even.any() else {})


class Streamed(Recall, StreamTask):
    """Rows go on where they ended before."""

    def streams(self, split: Split) -> int:
        return 4

    def size(self, split: Split) -> int:
        return 12

    def begins(self, split: Split, positions: Any) -> Any:
        return positions % 12 < 4


class Read(Recall):
    """The host reads the training examples."""

    def initialize(self, options: Any) -> None:
        self.data = {}
        self.reader = self._read

    def size(self, split: Split) -> int:
        return 24 if split == "train" else 23

    def _read(self, index: np.ndarray) -> Example:
        index = index.astype(np.int64)
        inputs = np.sin(np.arange(STEPS * 2).reshape(STEPS, 2) * (1.0 + index[..., None, None])).astype(np.float32)
        counted = np.arange(STEPS) >= STEPS - np.where(index % 3 == 0, 0, LAST - index % 5)[..., None]
        steps: Any = np.broadcast_to(index[..., None], counted.shape).astype(np.uint32)
        return Example(inputs, (inputs.sum(-1), counted, steps))  # pyright: ignore


CLASSES = {"recall": Recall, "streamed": Streamed, "read": Read}


@pytest.fixture(autouse=True)
def _named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, each in CLASSES.items():
        monkeypatch.setitem(TASKS, name, each)


def config(task: str = "recall", **changes: Any) -> dict[str, Any]:
    sections = dict(
        steps=6,
        batch_size=4,
        log_every=3,
        eval_every=6,
        eval_batch_size=8,
        devices=2,
        task=task,
        model=dict(cell=dict(name="irnn", features=3)),
        optimizer=dict(name="adam", learning_rate=0.05),
    )
    return sections | changes


def outputs_of(run: Run, state: TrainState, params: Any, batch: Batch, split: Split, positions: Any) -> Any:
    network, last = run.programs.structure.network(params, state.buffers), []
    carry = state.carry
    first = None if carry is None else run.programs.structure.first_carries(network, split, positions, carry)
    hidden = network.hidden(batch.inputs, batch.lengths, first=first, last=last)
    return network.read(hidden, batch.lengths), last


def evaluated_by_hand(run: Run, state: TrainState, size: int, at_once: int) -> dict[str, float]:
    """Over the whole validation split."""
    outputs, targets = [], []
    for start in range(0, size, at_once):
        positions = jnp.arange(start, min(start + at_once, size))
        batch = run.task.batch(run.data, jnp.int32(0), "validation", positions)
        found, last = outputs_of(run, state, state.evaluated, batch, "validation", positions)
        outputs.append(found)
        targets.append(batch.targets)
        state = state if state.carry is None else state.__class__(**{**vars(state), "carry": last})
    joined = jax.tree.map(lambda *parts: np.concatenate(parts, 1), *targets)
    return by_hand(np.concatenate(outputs, 1), joined)


@pytest.mark.parametrize(
    ("task", "devices", "averaging"),
    [
        ("recall", 2, {"decay": 0.5}),
        ("streamed", 2, None),
        *(
            pytest.param(*each, marks=pytest.mark.exhaustive)
            for each in [("recall", 1, None), ("recall", 2, None), ("read", 2, None)]
        ),
    ],
)
def test_evaluation_is_the_mean_over_all_that_counts(task: str, devices: int, averaging: Any) -> None:
    run = make_run(config(task, devices=devices, averaging=averaging))
    state = run.train(run.programs.start(0), 2)
    expected = evaluated_by_hand(run, state, run.task.size("validation") or 0, 4 if task == "streamed" else 8)
    assert run.evaluate(state, "validation") == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("task", "devices"),
    [
        ("recall", 2),
        *(pytest.param(*each, marks=pytest.mark.exhaustive) for each in [("recall", 1), ("streamed", 2), ("read", 2)]),
    ],
)
def test_training_sums_are_over_all_that_counts_since_the_last_log(task: str, devices: int) -> None:
    """The loss and other metrics are means over steps, as they always were; a step may have no weight."""
    run = make_run(config(task, devices=devices))
    state, outputs, targets = run.programs.start(0), [], []
    for step in range(3):
        positions = jnp.arange(4) + 4 * step
        batch = run.task.batch(run.data_at(step), state.seed, "train", positions)
        outputs.append(outputs_of(run, state, state.params, batch, "train", positions)[0])
        targets.append(batch.targets)
        state = run.train(state, step + 1)
    joined = jax.tree.map(lambda *parts: np.concatenate(parts, 1), *targets)
    expected = by_hand(np.concatenate(outputs, 1), joined)
    numbers = means(state.sums)
    assert {name: numbers[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert set(numbers) == set(expected) | {"grad_norm", "largest_grad_norm"}


@pytest.mark.slow
def test_a_replica_has_the_metrics_of_the_run_alone() -> None:
    settings = [config(seed=seed, devices=None) for seed in range(2)]
    programs = ReplicaPrograms(make_run(settings[0], mesh=make_replica_mesh(2, settings[0]["batch_size"])))
    states = programs.start([0, 1], [programs.run.programs.numbers] * 2)
    states = programs.train(states, np.array([3, 3], np.int32))
    found = programs.evaluate(states, "validation", np.array([True, True]))
    alone = make_run(settings[0] | {"devices": 1})
    for seed in range(2):
        state = alone.train(alone.programs.start(seed), 3)
        assert found[seed] == pytest.approx(alone.evaluate(state, "validation"), rel=1e-4)
        sums = jax.tree.map(lambda a: a[seed], states.sums)  # noqa: B023
        assert means(sums) == pytest.approx(means(state.sums), rel=1e-4)


@pytest.mark.slow
def test_a_metric_without_any_weight_is_not_there(tmp_path: Path) -> None:
    train_and_evaluate(config(), tmp_path)
    for line in read_metrics(tmp_path):
        assert "never" not in line
        assert 0 <= line["recall"] <= 1
        assert not any(name.startswith("weight") for name in line)


@pytest.mark.parametrize(
    "changes",
    [
        {"early_stopping": {"metric": "never"}},
        {"curriculum": {"field": "train_size", "values": [8], "metric": "never", "threshold": 1.0}},
    ],
)
def test_watching_a_metric_without_any_weight_is_one_line(changes: Any, tmp_path: Path) -> None:
    message = "^task: no validation example has a weight for never, which the run watches; watch another"
    with pytest.raises(ConfigError, match=message):
        train_and_evaluate(config(task={"name": "recall", "train_size": 16}, **changes), tmp_path)


class WithoutLoss(Recall):
    def score(self, outputs: Any, batch: Batch) -> tuple[dict[str, Any], jax.Array]:
        values, weights = super().score(outputs, batch)
        return {name: value for name, value in values.items() if name != "loss"}, weights


class WithWeightedLoss(Recall):
    def score(self, outputs: Any, batch: Batch) -> tuple[dict[str, Any], jax.Array]:
        values, weights = super().score(outputs, batch)
        return values | {"loss": Weighted(values["loss"], weights)}, weights


@pytest.mark.parametrize(("task", "fault"), [(WithoutLoss, "has no 'loss'"), (WithWeightedLoss, "has a Weighted loss")])
def test_the_loss_has_the_weights_that_score_returns(task: Any, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "wrong", task)
    with pytest.raises(ConfigError, match=f"^task: what score returns {fault}; it needs sums"):
        make_run(config("wrong"))


def score_changed(change: Any) -> type[Recall]:
    class Changed(Recall):
        def score(self, outputs: Any, batch: Batch) -> Any:
            return change(*super().score(outputs, batch))

    return Changed


SHAPES = {
    "a loss of all rows": (
        lambda v, w: (v | {"loss": v["loss"].sum()}, w),
        r"'loss' of shape \(\); .* each row, \(4,\)",
    ),
    "weights of one row": (lambda v, w: (v, w[:1]), r"the weights of shape \(1,\)"),
    "a scalar to be weighted": (lambda v, w: (v | {"a": Weighted(w.sum(), w)}, w), r"'a' of shape \(\)"),
    "weights of other rows": (lambda v, w: (v | {"a": Weighted(w, w[:3])}, w), r"the weights of 'a' of shape \(3,\)"),
    "no weights": (lambda v, w: v, "score returns a dict; it needs"),
    "a pair in the place of Weighted": (
        lambda v, w: (v | {"a": (w, w)}, w),
        "'a' as a tuple of .*; it needs a number for each row",
    ),
}


@pytest.mark.parametrize("case", SHAPES)
def test_a_score_of_another_shape_than_the_rows_is_one_line(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    change, message = SHAPES[case]
    monkeypatch.setitem(TASKS, "wrong", score_changed(change))
    with pytest.raises(ConfigError, match=message):
        make_run(config("wrong", devices=1))
