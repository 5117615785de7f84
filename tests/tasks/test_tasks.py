"""Batches as pure functions of (seed, position), the shuffle, every task's conformance; MNIST is in test_mnist.py."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import InitVar
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab.config.bounds import Bound, PositiveInt
from rnnlab.config.errors import ConfigError
from rnnlab.config.fields import takes
from rnnlab.config.schema import resolve
from rnnlab.tasks import TASKS, Adding, Batch, Example, GeneratedTask, Split, StreamTask, Task, Weighted, make_task
from rnnlab.tasks.base import SPLITS, shuffled, stream
from tests.generated_tasks import small_task, tasks_in_tiers
from tests.tiers import exhaustive_tests


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Task]]:
    """Each task of the table, by its name; those with files on small ones, for batches of four rows."""
    folder, made = tmp_path_factory.mktemp("files"), {}
    with pytest.MonkeyPatch.context() as patch:

        def of(name: str) -> Task:
            if name not in made:
                made[name] = make_task(small_task(name, folder, patch), str(folder), None, (ROWS, ROWS))
            return made[name]

        yield of


ROWS = 4


@functools.cache
def cached_task(name: str, **fields: Any) -> Task:
    """One object for all tests, so that they share what is compiled."""
    return TASKS[name](**fields)


@functools.cache
def compiled_batch(task: Task) -> Any:
    return jax.jit(task.batch, static_argnums=2)


def draw(task: Task, seed: int, split: Split, positions: Any) -> Batch:
    """A batch as the compiled step draws it, in NumPy."""
    batch = compiled_batch(task)(task.data, jnp.int32(seed), split, jnp.asarray(positions, jnp.uint32))
    return jax.tree.map(np.asarray, batch)


# --- the adding problem ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [2, 3, 8, 9])
def test_adding_marks_one_value_in_each_half_and_asks_for_their_sum(length: int) -> None:
    batch = draw(Adding(length=length), 0, "train", range(200))
    values, markers = batch.inputs[..., 0], batch.inputs[..., 1]
    assert batch.inputs.shape == (length, 200, 2)
    assert batch.targets.shape == (200, 1)
    assert batch.lengths is None
    assert values.min() >= 0
    assert values.max() <= 1
    assert ((markers == 0) | (markers == 1)).all()
    middle = length // 2
    np.testing.assert_array_equal(markers[:middle].sum(0), 1)
    np.testing.assert_array_equal(markers[middle:].sum(0), 1)
    np.testing.assert_allclose(batch.targets[:, 0], (values * markers).sum(0), rtol=1e-6)
    assert (markers.sum(1) > 0).all(), "some step is never marked"


def test_adding_has_the_baseline_it_names() -> None:
    task = Adding(length=6)
    batch = draw(task, 3, "train", range(20_000))
    values, weights = task.score(jnp.ones((20_000, 1)), batch)
    # One standard error of this mean is 0.0014.
    assert float(values["loss"].sum() / weights.sum()) == pytest.approx(task.baselines["test"], abs=0.005)
    assert np.var(batch.targets) == pytest.approx(1 / 6, abs=0.005)
    assert float(values["within_0.04"].mean()) == pytest.approx(0.0784, abs=0.01)  # 1 - 0.96²


def test_adding_scores_each_row_by_its_squared_error() -> None:
    batch = Batch(jnp.zeros((2, 3, 2)), jnp.array([[0.5], [1.0], [2.0]]), None)
    values, weights = Adding(length=2).score(jnp.array([[0.5], [1.039], [1.5]]), batch)
    np.testing.assert_allclose(values["loss"], [0, 0.039**2, 0.25], rtol=1e-4, atol=1e-12)
    np.testing.assert_array_equal(values["within_0.04"], [1, 1, 0])
    np.testing.assert_array_equal(weights, [1, 1, 1])


# --- every task ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(TASKS))
def test_examples_and_score_agree_in_shape(generated: Callable[[str], Task], name: str) -> None:
    task, rows = generated(name), 3
    for split in SPLITS:
        size = task.size(split)
        assert (size is None and split == "train") or size >= 1
        batch = jax.eval_shape(functools.partial(task.batch, split=split), task.data, 0, positions=jnp.arange(rows))
        steps, *axes = batch.inputs.shape
        if task.vocabulary is None:
            assert axes == [rows, task.in_features]
        else:
            assert axes == [rows]
            assert task.vocabulary == task.in_features
            assert jnp.issubdtype(batch.inputs.dtype, jnp.integer)
        lead = (rows,) if task.readout == "last" else (steps, rows)
        assert batch.targets.shape[: len(lead)] == lead
        assert batch.lengths is None or batch.lengths.shape == (rows,)
        outputs = jax.ShapeDtypeStruct((*lead, task.out_features), jnp.float32)
        values, weights = jax.eval_shape(task.score, outputs, batch)
        sums = {metric: value.sums if isinstance(value, Weighted) else value for metric, value in values.items()}
        assert {metric: value.shape for metric, value in sums.items()} == dict.fromkeys(values, (rows,))
        assert weights.shape == (rows,)
        assert {"loss"} | task.larger_is_better <= set(values)


@pytest.mark.parametrize("name", tasks_in_tiers())
@pytest.mark.parametrize("split", ["train", *exhaustive_tests("test", "validation")])
def test_rows_drawn_apart_equal_the_whole_batch(generated: Callable[[str], Task], name: str, split: Split) -> None:
    task = generated(name)
    positions = np.array([5, 0, 7, 123_456 if takes(type(task), "data_dir") is False else 3])
    whole = draw(task, 1, split, positions)
    for rows in ([0, 1], [2, 3]):
        part = draw(task, 1, split, positions[rows])
        np.testing.assert_array_equal(part.inputs, whole.inputs[:, rows])
        targets = whole.targets[rows] if task.readout == "last" else whole.targets[:, rows]
        np.testing.assert_array_equal(part.targets, targets)


@pytest.mark.parametrize("name", tasks_in_tiers())
def test_only_training_depends_on_the_seed(generated: Callable[[str], Task], name: str) -> None:
    task = generated(name)
    for split in SPLITS:
        first, again, other = (draw(task, seed, split, [0, 1]).inputs for seed in (0, 0, 1))
        np.testing.assert_array_equal(first, again)
        # The text of a stream stands in its own order.
        assert np.array_equal(first, other) == (split != "train" or isinstance(task, StreamTask)), split


@pytest.mark.parametrize("name", tasks_in_tiers())
def test_splits_share_no_example(generated: Callable[[str], Task], name: str) -> None:
    task = generated(name)
    train, validation, test = (draw(task, 0, split, [0, 1]).inputs for split in SPLITS)
    assert not np.array_equal(train, validation)
    assert not np.array_equal(train, test)
    assert not np.array_equal(validation, test)


# --- options ---------------------------------------------------------------------------------------------------------


class Marked(GeneratedTask):
    """Options of its own beside those of every generated task."""

    marks: PositiveInt = 2
    order: InitVar[str] = "up"
    validation_size = 7
    solved: tuple[str, float] | None = ("loss", 0.5)
    in_features, out_features = 1, 1

    def initialize(self, options: Any) -> None:
        self.longest_dependency = self.marks + 1
        self.direction = options.order

    def example(self, data: Any, key: Any, split: Any, index: Any) -> Example:
        return Example(jnp.zeros((self.marks, 1)), jnp.zeros(1))

    def score(self, outputs: Any, batch: Any) -> Any:
        return {"loss": outputs[:, 0]}, jnp.ones(outputs.shape[0])


class Remarked(Marked):
    data_dir: str | None = None
    marks: Annotated[int, Bound(3)] = 3


class OfThree(Remarked):
    """One whose constructor is its own."""

    def __init__(self, width: PositiveInt = 4, data_dir: str | None = None):
        super().__init__(marks=3, data_dir=data_dir)
        self.in_features = width


SIZES = {"train_size": None, "validation_size": 7, "test_size": 10_000, "data_seed": 0}
OPTIONS = {
    Marked: {"train_size": None, "validation_size": 7, "test_size": 10_000, "data_seed": 0, "marks": 2, "order": "up"},
    Remarked: {
        "train_size": None,
        "validation_size": 7,
        "test_size": 10_000,
        "data_seed": 0,
        "marks": 3,
        "order": "up",
    },
    OfThree: {"width": 4},
}


@pytest.mark.parametrize("factory", OPTIONS, ids=lambda each: each.__name__)
def test_a_task_has_the_options_of_its_base_and_its_own(factory: Any) -> None:
    assert resolve(factory, {}, "task") == OPTIONS[factory]


def test_options_of_a_task_are_attributes_before_initialize(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "marked", Remarked)
    monkeypatch.setitem(TASKS, "of_three", OfThree)
    task: Any = make_task({"name": "marked", "marks": 5, "test_size": 3, "order": "down"}, "folder")
    assert (task.marks, task.longest_dependency, task.direction, task.data_dir) == (5, 6, "down", "folder")
    assert [task.size(split) for split in SPLITS] == [None, 7, 3]
    assert callable(task.order)
    other: Any = make_task({"name": "of_three", "width": 2}, "folder")
    assert (other.in_features, other.marks, other.data_dir, other.longest_dependency) == (2, 3, "folder", 4)


TASK_MISTAKES = [
    ({"marks": 2}, "task.marks: 2 is out of range; it must be at least 3"),
    ({"test_sise": 2}, "unknown field 'task.test_sise'; did you mean task.test_size"),
    ({"solved": None}, "unknown field 'task.solved'; known: "),
    ({"data_dir": "elsewhere"}, "unknown field 'task.data_dir'; did you mean task.data_seed"),
]


@pytest.mark.parametrize(("section", "message"), TASK_MISTAKES)
def test_a_mistake_in_an_inherited_option_is_one_line(section: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(Remarked, section, "task")


class FromFiles(Adding):
    """A task that reads files."""

    def __init__(self, length: int = 4, data_dir: str | None = None):
        super().__init__(length)
        self.data_dir = data_dir


@pytest.mark.parametrize("factory", [FromFiles, functools.partial(FromFiles, length=6)], ids=["class", "partial"])
def test_a_task_with_a_parameter_for_the_data_folder_is_told_it(factory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "from_files", factory)
    assert make_task("from_files", "folder").data_dir == "folder"
    assert make_task({"name": "from_files", "length": 8}, None).data_dir is None
    assert make_task({"name": "adding", "length": 8}, "folder").length == 8
    with pytest.raises(ConfigError, match="unknown field of task 'from_files': 'data_dir'"):
        make_task({"name": "from_files", "data_dir": "elsewhere"}, "folder")


# --- fixed training sets ---------------------------------------------------------------------------------------------


def rows(task: Task, seed: int, count: int) -> list[bytes]:
    """Inputs and target of the first training examples, as something to compare and sort; in batches of 12, which
    do not divide an epoch."""
    found = []
    for start in range(0, count, 12):
        batch = draw(task, seed, "train", range(start, start + 12))
        found += [batch.inputs[:, row].tobytes() + batch.targets[row].tobytes() for row in range(12)]
    return found[:count]


def test_every_epoch_of_a_fixed_set_visits_each_example_once_in_another_order() -> None:
    size = 17
    found = rows(cached_task("adding", length=4, train_size=size), seed=0, count=3 * size)
    epochs = [found[start : start + size] for start in range(0, 3 * size, size)]
    assert len(set(epochs[0])) == size
    assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_a_fixed_set_is_of_the_data_seed_and_its_order_of_the_run() -> None:
    first, other = (rows(cached_task("adding", length=4, train_size=17), seed, 17) for seed in (0, 1))
    assert sorted(first) == sorted(other)
    assert first != other
    elsewhere = rows(cached_task("adding", length=4, train_size=17, data_seed=1), 0, 17)
    assert not set(first) & set(elsewhere)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17, 1000])
def test_shuffle_is_a_permutation_in_every_epoch(size: int) -> None:
    epochs = 4
    index = jax.jit(shuffled, static_argnums=2)(jax.random.key(0), jnp.arange(epochs * size, dtype=jnp.uint32), size)
    orders = np.asarray(index).reshape(epochs, size)
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(size), (epochs, 1)))
    if size >= 16:
        assert len({order.tobytes() for order in orders}) == epochs


def test_shuffle_scatters_neighbours_and_depends_on_the_key() -> None:
    size = 1000
    place = np.arange(size)
    shuffle = jax.jit(shuffled, static_argnums=2)
    orders = [np.asarray(shuffle(jax.random.key(k), jnp.asarray(place, jnp.uint32), size)) for k in range(4)]
    for order in orders:
        # Of a random permutation both correlations have a standard deviation of 0.032, fixed points number 1 ± 1.
        assert abs(np.corrcoef(place, order)[0, 1]) < 0.16
        assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.16
        assert (order == place).sum() < 8
    assert len({order.tobytes() for order in orders}) == len(orders)


# --- streams ---------------------------------------------------------------------------------------------------------


def test_stream_is_the_seed_folded_with_fnv1a_of_the_name() -> None:
    # The published digests: the same data in every version of Python and of this package.
    for name, digest in {"": 0x811C9DC5, "a": 0xE40C292C, "foobar": 0xBF9CF968}.items():
        expected = jax.random.fold_in(jax.random.key(7), np.uint32(digest))
        np.testing.assert_array_equal(jax.random.key_data(stream(7, name)), jax.random.key_data(expected))


def test_streams_differ_by_name_and_by_seed() -> None:
    names = ["params", "order", *(f"examples/{split}" for split in SPLITS)]
    keys = [jax.random.key_data(stream(seed, name)).tobytes() for seed in (0, 1) for name in names]
    assert len(set(keys)) == 2 * len(names)
