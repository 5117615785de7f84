"""Augmentation: what each transformation may change and where its randomness comes from; images: test_mnist.py."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab.config.errors import ConfigError
from rnnlab.tasks import TASKS, Adding, Batch, Example, Split, Task, make_task
from rnnlab.tasks.augmentation import add_noise, mask_time, replace_tokens, shift_in_time
from rnnlab.tasks.base import SPLITS
from rnnlab.training.run import Run
from rnnlab.training.setup import make_run
from tests.generated_tasks import small_task
from tests.tiers import exhaustive_tests

STEPS = 8
LENGTHS = [None, 8, 5, 1, 0]


class Sequences(Adding):
    """Five sequences of numbers, of which some steps are valid."""

    def __init__(self, length: int = STEPS):
        super().__init__(length, train_size=5, validation_size=5)

    def example(self, data: Any, key: Any, split: Split, index: Any) -> Example:
        example = super().example(data, key, split, index)
        return example._replace(length=3 + index % (self.length - 3))


class Tokens(Task):
    """Five sequences of tokens below 7 and a target at every step."""

    readout = "every"

    def __init__(self, length: int = STEPS):
        self.in_features = self.out_features = self.vocabulary = 7
        self.length = length

    def size(self, split: Split) -> int:
        return 5

    def example(self, data: Any, key: Any, split: Split, index: Any) -> Example:
        tokens = jax.random.randint(key, (self.length,), 0, 7)
        return Example(tokens, tokens, 3 + index % (self.length - 3))

    def score(self, outputs: Any, batch: Batch) -> Any:
        return {"loss": outputs.sum((0, 2))}, jnp.ones(outputs.shape[1])


class PerStep(Sequences):
    """Numbers with a target at every step."""

    readout = "every"


CASES = {
    "noise": ("sequences", {"noise": 0.3}),
    "time_shift": ("sequences", {"time_shift": 3}),
    "time_mask": ("sequences", {"time_mask": 4}),
    "noise, time_shift and time_mask": ("sequences", {"noise": 0.3, "time_shift": 3, "time_mask": 4}),
    "token_replacement": ("tokens", {"token_replacement": 0.5}),
}
"""name -> (task, section)."""
ALL_OR_LATER = [
    "noise, time_shift and time_mask",
    *exhaustive_tests("noise", "time_shift", "time_mask"),
    "token_replacement",
]
"""Each alone only with the slow tests."""


@pytest.fixture(autouse=True)
def tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tasks above by name."""
    for name, task in {"sequences": Sequences, "tokens": Tokens, "per_step": PerStep}.items():
        monkeypatch.setitem(TASKS, name, task)


@functools.cache
def cached_task(name: str, section: tuple[tuple[str, Any], ...]) -> Task:
    return make_task(name, None, dict(section))


def task_of(case: str) -> Task:
    """One object for all tests, so that they share what is compiled."""
    name, section = CASES[case]
    return cached_task(name, tuple(section.items()))


def plain_task_of(case: str) -> Task:
    """The same without augmentation."""
    return cached_task(CASES[case][0], ())


@functools.cache
def compiled_batch(task: Task) -> Any:
    return jax.jit(task.batch, static_argnums=2)


def draw(task: Task, positions: Any, seed: int = 0, split: Split = "train") -> Batch:
    """A batch in NumPy."""
    batch = compiled_batch(task)(task.data, jnp.int32(seed), split, jnp.asarray(positions, jnp.uint32))
    return jax.tree.map(np.asarray, batch)


def many(function: Any, x: np.ndarray, length: int | None, *args: Any, count: int = 300) -> np.ndarray:
    """What a transformation makes of x under many keys [count, T, ...]."""
    return np.asarray(_many(function, args, count, x, None if length is None else jnp.int32(length)))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _many(function: Any, args: tuple, count: int, x: jax.Array, valid: jax.Array | None) -> jax.Array:
    keys = jax.random.split(jax.random.key(0), count)
    return jax.vmap(lambda key: function(key, x, valid, *args))(keys)


def sequence(length: int | None) -> np.ndarray:
    """[T, 2] without zeros, NaN past the end."""
    x = np.arange(1, 2 * STEPS + 1, dtype=np.float32).reshape(STEPS, 2)
    x[STEPS if length is None else length :] = np.nan
    return x


# --- transformations -------------------------------------------------------------------------------------------------


def shifted(x: np.ndarray, by: int, length: int | None) -> np.ndarray:
    """x moved by that many steps, one step at a time."""
    end, out = len(x) if length is None else length, x.copy()
    for step in range(end):
        out[step] = x[step - by] if 0 <= step - by < end else 0
    return out


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_task_has_its_splits_with_an_augmentation(name: str, tmp_path: Path, monkeypatch) -> None:
    section = small_task(name, tmp_path, monkeypatch)
    plain = make_task(section, str(tmp_path))
    change = {"token_replacement": 0.1} if plain.vocabulary else {"noise": 0.1}
    augmented = make_task(section, str(tmp_path), change)

    def shapes(task: Task, split: Split) -> Any:
        batch = jax.eval_shape(lambda data: task.batch(data, jnp.int32(0), split, jnp.arange(1)), task.data)
        return jax.tree.map(lambda a: (a.shape, a.dtype), batch)

    for split in SPLITS:
        assert augmented.size(split) == plain.size(split)
        if split != "train" or plain.reader is None:
            assert shapes(augmented, split) == shapes(plain, split)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("most", [1, 3, STEPS])
def test_shift_moves_the_valid_steps_by_every_number_up_to_the_most_and_fills_with_zeros(
    length: int | None, most: int
) -> None:
    x = sequence(length)
    allowed = {shifted(x, by, length).tobytes() for by in range(-most, most + 1)}
    assert {found.tobytes() for found in many(shift_in_time, x, length, most)} == allowed


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("most", [1, 3, STEPS])
def test_mask_is_one_span_of_zeros_of_every_width_up_to_the_most_within_the_valid_steps(
    length: int | None, most: int
) -> None:
    x, end = sequence(length), STEPS if length is None else length
    widths, starts = set(), set()
    for found in many(mask_time, x, length, most, count=1000):
        zero = np.flatnonzero((found == 0).all(1))
        widths.add(len(zero))
        starts |= {zero[0]} if len(zero) else set()
        np.testing.assert_array_equal(zero, np.arange(len(zero)) + (zero[0] if len(zero) else 0))
        assert (zero < end).all()
        kept = np.setdiff1d(np.arange(STEPS), zero)
        np.testing.assert_array_equal(found[kept], x[kept])
    assert widths == set(range(min(most, end) + 1))
    assert starts == set(range(end))


def test_widths_and_starts_of_masks_are_uniform() -> None:
    found = (many(mask_time, np.ones(STEPS, np.float32), None, 3, count=8000) == 0).astype(int)
    widths = np.bincount(found.sum(1), minlength=4)
    assert np.abs(widths - 2000).max() < 5 * np.sqrt(8000 * 0.25 * 0.75)
    starts = np.bincount(found[found.sum(1) == 2].argmax(1), minlength=7)
    assert np.abs(starts - starts.mean()).max() < 5 * np.sqrt(starts.mean())


@pytest.mark.parametrize("length", [None, 5])
def test_noise_has_the_standard_deviation_asked_for_and_leaves_padding_alone(length: int | None) -> None:
    x, end = sequence(length), STEPS if length is None else length
    found = many(add_noise, x, length, 0.5, count=4000)
    noise = (found - x)[:, :end]
    count = noise.size
    assert abs(noise.mean()) < 5 * 0.5 / np.sqrt(count)
    assert abs(noise.std() - 0.5) < 5 * 0.5 / np.sqrt(2 * count)
    np.testing.assert_array_equal(found[:, end:], np.broadcast_to(x[end:], found[:, end:].shape))
    np.testing.assert_array_equal(many(add_noise, x, length, 0.0, count=2), np.stack([x, x]))


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.9])
def test_replaced_tokens_are_the_share_asked_for_and_uniform_over_the_vocabulary(probability: float) -> None:
    vocabulary, end = 5, 6
    tokens = np.full(STEPS, 2, np.int32)
    found = many(replace_tokens, tokens, end, probability, vocabulary, count=4000)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found[:, end:], 2)
    count = found[:, :end].size
    shares = np.bincount(found[:, :end].ravel(), minlength=vocabulary) / count
    assert len(shares) == vocabulary
    expected = np.full(vocabulary, probability / vocabulary)
    expected[2] += 1 - probability
    assert (np.abs(shares - expected) <= 5 * np.sqrt(expected * (1 - expected) / count)).all()


# --- the stream ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("case", ALL_OR_LATER)
def test_training_inputs_change_and_nothing_else_does(case: str) -> None:
    augmented, plain = task_of(case), plain_task_of(case)
    changed, before = draw(augmented, range(10)), draw(plain, range(10))
    assert not np.array_equal(changed.inputs, before.inputs)
    assert (changed.inputs.shape, changed.inputs.dtype) == (before.inputs.shape, before.inputs.dtype)
    np.testing.assert_array_equal(changed.targets, before.targets)
    np.testing.assert_array_equal(changed.lengths, before.lengths)
    padding = np.arange(STEPS)[:, None] >= before.lengths
    np.testing.assert_array_equal(changed.inputs[padding], before.inputs[padding])
    for split in ("validation", "test"):
        assert_same(draw(augmented, range(5), split=split), draw(plain, range(5), split=split))


def assert_same(first: Batch, second: Batch) -> None:
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def versions(case: str, count: int, seed: int = 0) -> dict[bytes, set[bytes]]:
    """What became of each example of the fixed set in the first training rows."""
    augmented, plain = draw(task_of(case), range(count), seed), draw(plain_task_of(case), range(count), seed)
    found: dict[bytes, set[bytes]] = {}
    for row in range(count):
        found.setdefault(plain.inputs[:, row].tobytes(), set()).add(augmented.inputs[:, row].tobytes())
    return found


@pytest.mark.parametrize("case", ALL_OR_LATER)
def test_every_epoch_of_a_fixed_set_is_drawn_anew(case: str) -> None:
    found = versions(case, 50)
    assert len(found) == 5
    assert all(len(changed) > 2 for changed in found.values())


@pytest.mark.parametrize("case", ALL_OR_LATER)
def test_a_rerun_draws_the_same(case: str) -> None:
    name, section = CASES[case]
    assert_same(draw(task_of(case), range(4), 3), draw(make_task(name, None, section), range(4), 3))


def test_another_seed_changes_the_same_examples_otherwise() -> None:
    # Of one example alone: else the seed's order of the examples would do.
    task = make_task({"name": "adding", "length": STEPS, "train_size": 1}, None, {"noise": 0.1})
    first, again, other = (draw(task, range(3), seed).inputs for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()


@pytest.mark.parametrize("case", ALL_OR_LATER)
def test_halves_of_a_batch_equal_its_rows(case: str) -> None:
    positions = np.array([5, 0, 7, 123_456])
    whole = draw(task_of(case), positions)
    for rows in ([0, 1], [2, 3]):
        np.testing.assert_array_equal(draw(task_of(case), positions[rows]).inputs, whole.inputs[:, rows])


def test_one_more_transformation_leaves_the_draws_of_the_others() -> None:
    alone = draw(task_of("time_shift"), range(10)).inputs
    both = draw(cached_task("sequences", (("time_shift", 3), ("noise", 0.0))), range(10)).inputs
    np.testing.assert_array_equal(alone, both)


@pytest.mark.parametrize(
    ("name", "field", "values"), [("sequences", "noise", (0.1, 0.2)), ("tokens", "token_replacement", (0.1, 0.2))]
)
def test_tasks_that_differ_in_a_number_share_one_program(name: str, field: str, values: tuple[float, float]) -> None:
    texts = []
    for value in values:
        task = make_task(name, None, {field: value})
        lowered = jax.jit(task.batch, static_argnums=2).lower(task.data, 0, "train", jnp.arange(4, dtype=jnp.uint32))
        texts.append(lowered.as_text())
    assert texts[0] == texts[1]


@pytest.mark.parametrize("section", [None, {}, {"noise": None, "time_mask": None}])
def test_without_augmentation_the_task_is_as_it_was(section: Any) -> None:
    task = make_task("sequences", None, section)
    assert task.augmentation is None
    assert task.data is None


# --- runs ------------------------------------------------------------------------------------------------------------


def config(**changes: Any) -> dict[str, Any]:
    return (
        dict(
            steps=20,
            batch_size=4,
            log_every=10,
            eval_every=10,
            checkpoint_every=10,
            devices=1,
            task=dict(name="adding", length=6, train_size=7, validation_size=10, test_size=10),
            model=dict(cell=dict(name="irnn", features=4, input_init="glorot_uniform")),
            optimizer=dict(name="adam", learning_rate=1e-2),
            augmentation=dict(noise=0.1, time_shift=2),
        )
        | changes
    )


def trained(run: Run, *until: int) -> Any:
    state = run.programs.start(0)
    for step in until:
        state = jax.block_until_ready(run.programs.train(state, run.data, jnp.int32(step), run.rows))
    return jax.tree.map(np.asarray, state.params)


@pytest.mark.slow
def test_a_run_is_the_same_on_two_devices_and_in_pieces() -> None:
    one, two = make_run(config()), make_run(config(devices=2))
    whole = trained(one, 20)
    pieces = trained(one, 7, 20)
    jax.tree.map(np.testing.assert_array_equal, whole, pieces)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-6), whole, trained(two, 20))
    plain = trained(make_run(config(augmentation={})), 20)
    assert not np.allclose(plain["readout"]["kernel"], whole["readout"]["kernel"], atol=1e-3)


# --- mistakes --------------------------------------------------------------------------------------------------------

MISTAKES = [
    ("tokens", {"noise": 0.1}, "augmentation.noise: this task's inputs are tokens, not numbers"),
    ("tokens", {"time_mask": 2}, "augmentation.time_mask: this task's inputs are tokens"),
    ("tokens", {"time_shift": 2}, "augmentation.time_shift: this task's inputs are tokens"),
    ("sequences", {"token_replacement": 0.1}, "augmentation.token_replacement: this task's inputs are numbers"),
    ("per_step", {"time_shift": 1}, "augmentation.time_shift: this task has a target at every step"),
    ("sequences", {"pixel_shift": 1}, "augmentation.pixel_shift: this task's inputs are not images"),
    ("sequences", {"time_mask": 9}, "augmentation.time_mask: 9 is more than the 8 steps"),
    ("sequences", {"time_shift": 9}, "augmentation.time_shift: 9 is more than the 8 steps"),
    ("sequences", {"time_mask": 0}, "augmentation.time_mask: 0 is out of range; it must be at least 1"),
    ("sequences", {"time_shift": 0}, "augmentation.time_shift: 0 is out of range; it must be at least 1"),
    ("sequences", {"noise": -0.1}, "augmentation.noise: -0.1 is out of range; it must be at least 0"),
    ("tokens", {"token_replacement": 1.0}, "augmentation.token_replacement: 1.0 is out of range; it must be at least"),
    ("sequences", {"nose": 0.1}, "unknown field 'augmentation.nose'; did you mean augmentation.noise"),
]


@pytest.mark.parametrize(("name", "section", "message"), MISTAKES, ids=lambda value: str(value)[:40])
def test_mistakes_are_one_line(name: str, section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_task(name, None, section)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
