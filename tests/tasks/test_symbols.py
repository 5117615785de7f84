"""Tasks over symbols: targets by a loop over what a network reads, places, blind answers, scores, what is refused."""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab.config.errors import ConfigError
from rnnlab.config.schema import resolve
from rnnlab.nn.cross_entropy import Distribution
from rnnlab.tasks import TASKS, Batch, make_task
from tests.helpers import assert_shares

ROWS = 2000


@functools.cache
def drawn(name: str, **fields: Any) -> tuple[Any, Any]:
    """A task and many training examples of it, time first."""
    task = make_task({"name": name, **fields})
    batch = jax.jit(task.batch, static_argnums=2)(task.data, 0, "train", jnp.arange(ROWS))
    return task, jax.tree.map(np.asarray, batch)


def cases(table: Sequence[tuple[Any, ...]]) -> list[Any]:
    """A case for each row, named by its task and options."""
    return [pytest.param(*row, id="-".join([row[0], *(f"{k}={v}" for k, v in row[1].items())])) for row in table]


# --- targets, by a loop ----------------------------------------------------------------------------------------------


def repeated(values: int, tokens: Sequence[int]) -> list[int]:
    targets, seen, answers = [], [], None
    for token in tokens:
        targets.append(answers.pop(0) if answers else values)
        if token < values:
            seen.append(token)
        if token == values + 1:
            assert answers is None, "a second delimiter"
            answers = seen
    assert answers == [], "not all symbols were asked for"
    return targets


def in_order(tokens: Sequence[int]) -> int:
    letters = "".join("AB"[token] for token in tokens if token < 2)
    return ["".join(each) for each in itertools.product("AB", repeat=len(letters))].index(letters)


def first_again(tokens: Sequence[int]) -> int:
    assert all(token > 1 for token in tokens[1:])
    return tokens[0]


def next_symbols(tokens: Sequence[int]) -> list[int]:
    return [*tokens[1:], first_again(tokens)]


def odd(tokens: Sequence[int]) -> int:
    state = False
    for token in tokens:
        if token == 1:
            state = not state
    return int(state)


def odd_so_far(tokens: Sequence[int]) -> list[int]:
    return [odd(tokens[: end + 1]) for end in range(len(tokens))]


def well_formed(kinds: int, depth: int, tokens: Sequence[int]) -> int:
    open_ones: list[int] = []
    for token in tokens:
        if token < kinds:
            open_ones.append(token)
        elif not open_ones or open_ones.pop() != token - kinds:
            return 0
        if len(open_ones) > depth:
            return 0
    return int(not open_ones)


TARGETS = [
    ("copying", {"length": 1}, functools.partial(repeated, 8)),
    ("copying", {"length": 7}, functools.partial(repeated, 8)),
    ("copying", {"length": 7, "variable": True}, functools.partial(repeated, 8)),
    ("copying", {"length": 7, "variable": True, "random_delay": True}, functools.partial(repeated, 8)),
    ("denoising", {"length": 7}, functools.partial(repeated, 9)),
    ("memorization", {"length": 6}, functools.partial(repeated, 2)),
    ("memorization", {"length": 6, "values": 5, "items": 10}, functools.partial(repeated, 5)),
    ("temporal_order", {"length": 25}, in_order),
    ("temporal_order", {"length": 25, "symbols": 3}, in_order),
    ("random_permutation", {"length": 9}, first_again),
    ("random_permutation", {"length": 9, "scored": "every"}, next_symbols),
    ("parity", {"length": 9}, odd),
    ("parity", {"length": 9, "scored": "every"}, odd_so_far),
    ("dyck", {"length": 2, "kinds": 1, "depth": 1}, functools.partial(well_formed, 1, 1)),
    ("dyck", {"length": 12, "kinds": 1, "depth": 3}, functools.partial(well_formed, 1, 3)),
    ("dyck", {"length": 4}, functools.partial(well_formed, 2, 4)),
    ("dyck", {"length": 16, "kinds": 3}, functools.partial(well_formed, 3, 4)),
]


@pytest.mark.parametrize(("name", "fields", "loop"), cases(TARGETS))
def test_targets_are_those_of_a_loop_over_the_tokens(name: str, fields: dict[str, Any], loop: Any) -> None:
    task, batch = drawn(name, **fields)
    assert batch.inputs.min() >= 0
    assert batch.inputs.max() == task.vocabulary - 1
    assert batch.targets.min() == 0
    assert batch.targets.max() < task.out_features
    tokens, targets = batch.inputs[:, :500].T.tolist(), np.moveaxis(batch.targets, -1, 0)[:500].tolist()
    assert [loop(row) for row in tokens] == targets


# --- places ----------------------------------------------------------------------------------------------------------


def test_copying_is_ten_symbols_blanks_a_delimiter_and_blanks() -> None:
    task, batch = drawn("copying", length=7)
    assert batch.inputs.shape == batch.targets.shape == (27, ROWS)
    np.testing.assert_array_equal(np.unique(batch.inputs[:10]), np.arange(8))
    np.testing.assert_array_equal(batch.inputs[10:, 0], [8] * 6 + [9] + [8] * 10)
    assert (batch.inputs[10:] == batch.inputs[10:, :1]).all()
    assert (batch.targets[:17] == 8).all()
    np.testing.assert_array_equal(batch.targets[17:], batch.inputs[:10])
    assert task.longest_dependency == 17


@pytest.mark.parametrize(("name", "fields", "values"), [("copying", {"variable": True}, 8), ("denoising", {}, 9)])
def test_scattered_symbols_stand_at_every_place_before_the_delimiter(name: str, fields: Any, values: int) -> None:
    task, batch = drawn(name, length=7, **fields)
    symbols = batch.inputs < values
    np.testing.assert_array_equal(symbols.sum(0), 10)
    np.testing.assert_allclose(symbols[:16].mean(1), 10 / 16, atol=4 * np.sqrt(10 * 6 / 16**2 / ROWS))
    np.testing.assert_array_equal(batch.inputs[16:, 0], [values + 1] + [values] * 10)
    assert (batch.inputs[16:] == batch.inputs[16:, :1]).all()
    np.testing.assert_array_equal(np.unique(batch.inputs[:16]), np.arange(values + 1))
    assert task.longest_dependency == 17


def test_a_random_delay_is_from_one_blank_to_all() -> None:
    _, batch = drawn("copying", length=7, random_delay=True)
    places, counts = np.unique((batch.inputs == 9).argmax(0), return_counts=True)
    np.testing.assert_array_equal(places, np.arange(11, 17))
    assert_shares(counts, 1 / 6)
    assert (batch.inputs[:10] < 8).all()


@pytest.mark.parametrize(("fields", "count", "kinds"), [({"bits": 3}, 3, 2), ({"values": 5, "items": 10}, 10, 5)])
def test_memorization_is_symbols_blanks_a_trigger_and_blanks(fields: Any, count: int, kinds: int) -> None:
    task, batch = drawn("memorization", length=6, **fields)
    np.testing.assert_array_equal(np.unique(batch.inputs[:count]), np.arange(kinds))
    np.testing.assert_array_equal(batch.inputs[count:, 0], [kinds] * 6 + [kinds + 1] + [kinds] * count)
    assert (batch.inputs[count:] == batch.inputs[count:, :1]).all()
    assert task.longest_dependency == count + 7


@pytest.mark.parametrize("length", [10, 25, 40])
@pytest.mark.parametrize("symbols", [2, 3])
def test_symbols_in_order_stand_in_their_tenths_and_nowhere_else(length: int, symbols: int) -> None:
    task, batch = drawn("temporal_order", length=length, symbols=symbols)
    places = np.array([np.flatnonzero(row < 2) for row in batch.inputs.T])
    assert batch.inputs.shape == (length, ROWS)
    assert places.shape == (ROWS, symbols)
    for column, tenth in zip(places.T, {2: (1, 5), 3: (1, 3, 6)}[symbols], strict=True):
        assert set(column) == {p for p in range(length) if tenth * length <= 10 * p < (tenth + 1) * length}
    assert_shares(np.bincount(batch.targets), 2.0**-symbols)
    assert task.longest_dependency == length - 1 - places.min()


def test_a_permutation_begins_with_one_of_two_symbols_that_come_nowhere_else() -> None:
    task, batch = drawn("random_permutation", length=9, symbols=5)
    assert batch.inputs.shape == (8, ROWS)
    assert_shares(np.bincount(batch.inputs[0]), 1 / 2)
    assert_shares(np.bincount(batch.inputs[1:].ravel())[2:], 1 / 3)
    assert task.longest_dependency == 7
    assert drawn("random_permutation", length=2)[1].inputs.shape == (1, ROWS)


@pytest.mark.parametrize(
    "fields", [{"length": 12, "kinds": 1, "depth": 3}, {"length": 16, "kinds": 3}], ids=["one_kind", "three"]
)
def test_brackets_nest_to_their_depth_and_counting_tells_nothing(fields: dict[str, Any]) -> None:
    kinds, depth = fields["kinds"], fields.get("depth", 4)
    _, batch = drawn("dyck", **fields)
    assert batch.targets.mean() == pytest.approx(1 / 2, abs=0.045)
    steps = np.where(batch.inputs < kinds, 1, -1)
    assert steps.cumsum(0)[:, batch.targets == 1].max() == depth
    for kind in range(kinds):
        np.testing.assert_array_equal((batch.inputs == kind).sum(0), (batch.inputs == kind + kinds).sum(0))
    faulty = batch.targets == 0
    of_order = steps.cumsum(0).min(0) < 0
    assert not (of_order & ~faulty).any()
    # The share of faults that a counter without kinds sees: all of one kind, else half.
    assert of_order[faulty].mean() == pytest.approx(1 if kinds == 1 else 1 / 2, abs=0.065)


# --- blind answers ---------------------------------------------------------------------------------------------------

BASELINES = [
    ("copying", {"length": 7}, 10 * math.log(8) / 27),
    ("copying", {"length": 7, "variable": True}, 10 * math.log(8) / 27),
    ("copying", {"length": 7, "random_delay": True}, 10 * math.log(8) / 27),
    ("denoising", {"length": 7}, 10 * math.log(9) / 27),
    ("memorization", {"length": 6}, 5 * math.log(2) / 17),
    ("memorization", {"length": 6, "values": 5, "items": 10}, 10 * math.log(5) / 27),
    ("temporal_order", {"length": 25}, math.log(4)),
    ("temporal_order", {"length": 25, "symbols": 3}, math.log(8)),
    ("random_permutation", {"length": 9}, math.log(2)),
    ("random_permutation", {"length": 9, "scored": "every"}, (7 * math.log(98) + math.log(2)) / 8),
    ("parity", {"length": 9}, math.log(2)),
    ("parity", {"length": 9, "scored": "every"}, math.log(2)),
    ("dyck", {"length": 16, "kinds": 3}, math.log(2)),
]


@pytest.mark.parametrize(("name", "fields", "baseline"), cases(BASELINES))
def test_a_blind_answer_has_the_loss_that_the_task_names(name: str, fields: Any, baseline: float) -> None:
    task, batch = drawn(name, **fields)
    assert task.baselines == {"validation": pytest.approx(baseline), "test": pytest.approx(baseline)}
    # What comes how often at each step; with a random delay, so many steps after the delimiter.
    targets = batch.targets if task.readout == "every" else batch.targets[None]
    if "random_delay" in fields:
        starts = (batch.inputs == 9).argmax(0)
        targets = np.stack([np.roll(column, -start) for column, start in zip(targets.T, starts, strict=True)], 1)
    counts = np.stack([np.bincount(row, minlength=task.out_features) for row in targets])
    logits = np.log(np.maximum(counts, 1e-6))[:, None].repeat(ROWS, 1)
    outputs = logits if task.readout == "every" else logits[0]
    shown = targets if task.readout == "every" else targets[0]
    values, weights = task.score(jnp.asarray(outputs), Batch(batch.inputs, jnp.asarray(shown), None))
    # 98 classes of 2000 rows fit themselves by 98 / 4000 nats.
    assert float(values["loss"].sum() / weights.sum()) == pytest.approx(baseline, abs=0.003, rel=0.007)
    assert float(values["wrong"].sums.mean()) > 0.4


# --- scores ----------------------------------------------------------------------------------------------------------


def score(task: Any, batch: Any, wrong: list[tuple[int, ...]]) -> tuple[float, float]:
    """Accuracy and share of wrong sequences of ten rows, right but for the answers at these places."""
    targets = batch.targets[..., :10]
    answers = targets.copy()
    for place in wrong:
        answers[place] = (answers[place] + 1) % task.out_features
    outputs = 30 * jax.nn.one_hot(answers, task.out_features)
    values, weights = task.score(outputs, Batch(batch.inputs[:, :10], jnp.asarray(targets), None))
    steps = len(targets) if task.readout == "every" else 1
    np.testing.assert_array_equal(weights, steps)
    assert float(values["loss"].sum()) == pytest.approx(30 * len(wrong), abs=1e-3)
    shares = [
        values[name].sums.sum() / np.broadcast_to(values[name].weights, 10).sum() for name in ("accuracy", "wrong")
    ]
    return float(shares[0]), float(shares[1])


SCORES = [
    ("copying", {"length": 7}, [], (1, 0)),
    ("copying", {"length": 7}, [(20, 3), (21, 3), (17, 4)], (0.97, 0.2)),
    ("copying", {"length": 7}, [(3, 3)], (1, 0.1)),
    ("random_permutation", {"length": 9, "scored": "every"}, [(3, 3), (7, 2)], (0.9, 0.1)),
    ("temporal_order", {"length": 25}, [(3,), (5,)], (0.8, 0.2)),
    ("parity", {"length": 10, "scored": "every"}, [(3, 3), (4, 3), (9, 5)], (0.97, 0.2)),
]


@pytest.mark.parametrize(("name", "fields", "wrong", "expected"), cases(SCORES))
def test_accuracy_is_of_what_is_remembered_and_one_mistake_makes_a_sequence_wrong(
    name: str, fields: Any, wrong: Any, expected: Any
) -> None:
    task, batch = drawn(name, **fields)
    assert score(task, batch, wrong) == pytest.approx(expected)
    assert task.solved[0] == "wrong"
    assert 0.0095 < task.solved[1] < 0.01
    assert task.larger_is_better == {"accuracy"}


# --- what is refused -------------------------------------------------------------------------------------------------

REFUSED = [
    ({"name": "copying", "length": 0}, "task.length: 0 is out of range; it must be at least 1 "),
    ({"name": "copying", "length": 1, "random_delay": True}, "task.length: 1 is too short .* at least 2"),
    ({"name": "denoising", "length": 0}, "task.length: 0 is out of range; it must be at least 1 "),
    ({"name": "memorization", "length": 0}, "task.length: 0 is out of range; it must be at least 1 "),
    ({"name": "memorization", "values": 5}, "task.values: needs task.items"),
    ({"name": "memorization", "items": 5}, "task.items: needs task.values"),
    ({"name": "memorization", "values": 5, "items": 10, "bits": 5}, "task.bits: .* leave it None"),
    ({"name": "memorization", "values": 1, "items": 10}, "task.values: 1 is out of range; it must be at least 2 "),
    ({"name": "temporal_order", "length": 9}, "task.length: 9 is out of range; it must be at least 10 "),
    ({"name": "temporal_order", "symbols": 4}, "task.symbols: 4"),
    ({"name": "random_permutation", "length": 1}, "task.length: 1 is out of range; it must be at least 2 "),
    ({"name": "random_permutation", "symbols": 2}, "task.symbols: 2 is out of range; it must be at least 3 "),
    ({"name": "random_permutation", "scored": "first"}, "task.scored: .*first"),
    ({"name": "parity", "scored": "first"}, "task.scored: .*first"),
    ({"name": "parity", "length": 1}, "task.length: 1 is out of range; it must be at least 2 "),
    ({"name": "dyck", "length": 0}, "task.length: 0 is out of range; it must be at least 2 "),
    ({"name": "dyck", "length": 7}, "task.length: 7 is odd"),
    ({"name": "dyck", "length": 2}, "task.length: 2 is too short for 2 kinds of brackets; it must be at least 4"),
    ({"name": "dyck", "depth": 0}, "task.depth: 0 is out of range; it must be at least 1 "),
]


@pytest.mark.parametrize(("section", "message"), REFUSED)
def test_what_does_not_go_with_the_definition_is_refused_in_one_line(section: Any, message: str) -> None:
    factory = TASKS[section["name"]]
    with pytest.raises(ConfigError, match=message) as error:
        factory(**resolve(factory, {k: v for k, v in section.items() if k != "name"}, "task"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("scored", ["last", "every"])
def test_a_second_direction_would_read_the_next_symbol_where_that_is_asked_for(scored: str) -> None:
    """A network that reads backwards has seen each target but the last as an input."""
    _, batch = drawn("random_permutation", length=9, scored=scored)
    seen = scored == "every" and bool((batch.targets[:-1] == batch.inputs[1:]).all())
    assert TASKS["random_permutation"](length=9, scored=scored).causal == seen == (scored == "every")


def test_a_softmax_over_words_is_refused() -> None:
    task, batch = drawn("parity", length=9)
    with pytest.raises(ConfigError, match=r"model\.softmax: .* leave it None"):
        task.score(Distribution(jnp.zeros((ROWS, 3)), jnp.zeros((2, 3)), jnp.zeros(2)), batch)
