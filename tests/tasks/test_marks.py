"""Tasks of two marked values: definitions by a loop over the raw rows, baselines, bounds of marks and lengths."""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab.config.errors import ConfigError
from rnnlab.records.run_config import resolve_config
from rnnlab.tasks import Batch, Task, make_task
from rnnlab.training.loop import train_and_evaluate
from tests.helpers import SMALL_RUN, assert_shares
from tests.tiers import slow_tests

Rows = list[tuple[np.ndarray, np.ndarray, float]]

SUM = {"name": "adding"}
MEAN = {"name": "adding", "variant": "mean"}
SIGNED = {"name": "adding", "variant": "signed"}
PRODUCT = {"name": "multiplication"}
XOR = {"name": "xor"}
PADDED = [MEAN, SIGNED, PRODUCT, XOR]
LEAST = [(SUM, 2), (MEAN, 3), (SIGNED, 4), (PRODUCT, 3), (XOR, 3)]


def label(section: Any) -> Any:
    return section.get("variant", section["name"]) if isinstance(section, dict) else None


@functools.cache
def cached_batch(name: str, variant: str, length: int, count: int) -> tuple[Task, Batch]:
    section = {"name": name, "length": length} | ({"variant": variant} if name == "adding" else {})
    task = make_task(section)
    batch = jax.jit(task.batch, static_argnums=2)(task.data, jnp.int32(7), "train", jnp.arange(count))
    return task, jax.tree.map(np.asarray, batch)


def drawn(section: dict[str, Any], length: int, count: int = 6000) -> tuple[Task, Batch]:
    return cached_batch(section["name"], section.get("variant", "sum"), length, count)


def raw_rows(batch: Batch) -> Rows:
    """(Values, marker, target) of each row without its padding."""
    steps, count, _ = batch.inputs.shape
    lengths = [steps] * count if batch.lengths is None else batch.lengths.tolist()
    return [
        (batch.inputs[:n, row, 0], batch.inputs[:n, row, 1], float(batch.targets[row, 0]))
        for row, n in enumerate(lengths)
    ]


ANSWERS: dict[str, Callable[[float, float], float]] = {
    "sum": lambda a, b: a + b,
    "mean": lambda a, b: (a + b) / 2,
    "signed": lambda a, b: 0.5 + (a + b) / 4,
    "multiplication": lambda a, b: a * b,
    "xor": lambda a, b: float(a != b),
}


@pytest.mark.parametrize("section", [SUM, *PADDED], ids=label)
@pytest.mark.parametrize("length", [20, *slow_tests(4)])
def test_target_is_what_a_loop_over_the_raw_row_finds(section: dict[str, Any], length: int) -> None:
    answer = ANSWERS["sum" if section == SUM else label(section)]
    for values, marker, target in raw_rows(drawn(section, length)[1]):
        marked = [value for value, mark in zip(values.tolist(), marker.tolist(), strict=True) if mark == 1]
        assert len(marked) == 2
        assert target == pytest.approx(answer(*marked), rel=1e-5)


@pytest.mark.parametrize("section", [SUM, *PADDED], ids=label)
def test_values_are_uniform_over_their_range(section: dict[str, Any]) -> None:
    values = np.concatenate([values for values, _, _ in raw_rows(drawn(section, 20)[1])])
    if section == XOR:
        assert set(values.tolist()) == {0.0, 1.0}
        assert_shares(np.bincount(values.astype(int)), 1 / 2)
        return
    low = -1.0 if section == SIGNED else 0.0
    shares, _ = np.histogram(values, bins=10, range=(low, 1.0))
    assert shares.sum() == values.size
    assert_shares(shares, 0.1)


MARKS = [
    # (task, T, the first mark, the second mark, the lengths): from, to before
    (SUM, 20, (0, 10), (10, 20), (20, 21)),
    (SUM, 9, (0, 4), (4, 9), (9, 10)),
    (MEAN, 3, (0, 1), (1, 2), (3, 4)),
    (MEAN, 20, (0, 2), (2, 10), (20, 22)),
    (MEAN, 43, (0, 5), (5, 22), (43, 48)),
    (PRODUCT, 20, (0, 2), (2, 10), (20, 22)),
    (XOR, 20, (0, 2), (2, 10), (20, 22)),
    (SIGNED, 4, (0, 2), (0, 2), (4, 5)),
    (SIGNED, 43, (0, 10), (0, 21), (43, 48)),
]


@pytest.mark.parametrize(("section", "length", "first", "second", "lengths"), MARKS, ids=label)
def test_marks_and_lengths_reach_exactly_their_bounds(
    section: dict[str, Any], length: int, first: tuple, second: tuple, lengths: tuple
) -> None:
    task, batch = drawn(section, length)
    rows = raw_rows(batch)
    places = np.array([np.flatnonzero(marker == 1) for _, marker, _ in rows])
    if section == SIGNED:  # Its second mark may lie before the first.
        assert set(places.ravel().tolist()) == set(range(*second))
        assert (places[:, 0] < first[1]).all()
    else:
        assert set(places[:, 0].tolist()) == set(range(*first))
        assert set(places[:, 1].tolist()) == set(range(*second))
        error = np.sqrt(((second[1] - second[0]) ** 2 - 1) / 12 / len(rows))  # Of the mean of uniform places.
        assert places[:, 1].mean() == pytest.approx((second[0] + second[1] - 1) / 2, abs=4 * error)
    drawn_lengths = [batch.inputs.shape[0]] if batch.lengths is None else batch.lengths.tolist()
    assert set(drawn_lengths) == set(range(*lengths))
    assert batch.inputs.shape[0] == lengths[1] - 1
    assert task.longest_dependency == lengths[1] - 2
    assert (batch.lengths is None) == (section == SUM)


def test_the_signed_variant_marks_the_ends_by_minus_one_unless_they_are_chosen() -> None:
    for _, marker, _ in raw_rows(drawn(SIGNED, 20)[1]):
        assert marker[-1] == -1
        assert marker[0] in (-1, 1)
        assert set(marker[1:-1].tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("section", PADDED, ids=label)
def test_padding_is_zero(section: dict[str, Any]) -> None:
    _, batch = drawn(section, 20)
    assert batch.lengths is not None
    for row, length in enumerate(batch.lengths.tolist()):
        assert not batch.inputs[length:, row].any()


BASELINES = [(SUM, 1 / 6, 1.0), (MEAN, 1 / 24, 0.5), (SIGNED, 1 / 24, 0.5), (PRODUCT, 7 / 144, 0.25)]


@pytest.mark.parametrize(("section", "expected", "answer"), BASELINES, ids=label)
def test_baseline_is_the_error_of_the_best_constant(section: dict[str, Any], expected: float, answer: float) -> None:
    task, batch = drawn(section, 20)
    assert task.baselines == {"validation": expected, "test": expected}
    assert batch.targets.mean() == pytest.approx(answer, abs=4 * math.sqrt(expected / 6000))
    values, weights = task.score(jnp.full((6000, 1), answer), batch)
    assert float(values["loss"].sum() / weights.sum()) == pytest.approx(expected, rel=0.05)


def test_the_baseline_of_xor_is_that_of_a_fair_coin() -> None:
    task, batch = drawn(XOR, 20)
    assert task.baselines["test"] == math.log(2)
    assert_shares(np.bincount(np.asarray(batch.targets).astype(int).ravel()), 1 / 2)
    values, _ = task.score(jnp.zeros((6000, 1)), batch)
    np.testing.assert_allclose(values["loss"], math.log(2), rtol=1e-6)


def test_xor_is_scored_by_the_side_of_the_logit() -> None:
    batch = Batch(jnp.zeros((3, 4, 2)), jnp.array([[1.0], [1.0], [0.0], [0.0]]), None)
    values, weights = make_task("xor").score(jnp.array([[2.0], [-2.0], [-0.5], [3.0]]), batch)
    np.testing.assert_allclose(values["loss"], np.log1p(np.exp([-2.0, 2.0, -0.5, 3.0])), rtol=1e-5)
    np.testing.assert_array_equal(values["accuracy"], [1, 0, 1, 0])
    np.testing.assert_array_equal(weights, [1, 1, 1, 1])


SOLVED = [(SUM, ("loss", 0.01)), (MEAN, ("loss", 0.0025)), (SIGNED, ("loss", 0.0025)), (PRODUCT, ("loss", 0.0025))]


@pytest.mark.parametrize(
    ("section", "solved"), [*SOLVED, (XOR, ("accuracy", pytest.approx(0.99, abs=2e-5)))], ids=label
)
def test_solved_is_that_of_the_field(section: dict[str, Any], solved: tuple[str, float]) -> None:
    assert make_task(section | {"length": 20}).solved == solved


@pytest.mark.parametrize(("section", "least"), LEAST, ids=label)
def test_a_length_without_a_place_for_two_marks_is_one_line(section: dict[str, Any], least: int) -> None:
    assert drawn(section, least)[1].inputs.shape[1] == 6000
    config = SMALL_RUN | {"task": section | {"length": least - 1}}
    with pytest.raises(ConfigError, match=rf"^task.length: {least - 1} is .*at least {least}( and|$)"):
        make_task(resolve_config(config)["task"])


def test_an_unknown_variant_is_one_line_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"task.variant: 'means' .*mean"):
        resolve_config(SMALL_RUN | {"task": {"name": "adding", "variant": "means"}})


def test_the_sum_is_drawn_as_it_was_before_there_were_variants() -> None:
    # The numbers of the commit before: published results and running sweeps depend on them.
    example = make_task({"name": "adding", "length": 6}).example(None, jax.random.key(3), "train", jnp.uint32(0))
    np.testing.assert_array_equal(example.inputs[:, 1], EXPECTED_MARKS)
    np.testing.assert_array_equal(example.inputs[:, 0], np.array(EXPECTED_VALUES, np.float32))
    assert example.length is None


EXPECTED_MARKS = [0, 1, 0, 0, 1, 0]
EXPECTED_VALUES = [
    *(0.008695363998413086, 0.04398846626281738, 0.3115730285644531),
    *(0.16774213314056396, 0.5754284858703613, 0.8673391342163086),
]


@pytest.mark.parametrize(
    "section",
    [*slow_tests(XOR), *(pytest.param(each, marks=pytest.mark.exhaustive) for each in (MEAN, SIGNED, PRODUCT))],
    ids=label,
)
def test_a_gru_solves_the_task(section: dict[str, Any], tmp_path: Path) -> None:
    config = SMALL_RUN | {
        "steps": 4000,
        "early_stopping": {"when_solved": True},
        "batch_size": 32,
        "log_every": 500,
        "eval_every": 500,
        "checkpoint_every": 4000,
        "task": section | {"length": 10, "validation_size": 500, "test_size": 2000},
        "model": {"cell": {"name": "gru", "features": 32}},
        "optimizer": {"name": "adam", "learning_rate": 1e-2, "clip_norm": 1.0, "schedule": "cosine"},
    }
    assert train_and_evaluate(resolve_config(config), tmp_path)["status"] == "stopped_early"
