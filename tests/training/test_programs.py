"""The compiled programs of a run: what is compiled once, what devices share, when training stops, what is averaged.

One small task with rows of unequal lengths and weights serves all tests, so that a mean over rows, over devices and
over weights are three different numbers.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnnlab.parallel.devices import make_mesh, replicate
from rnnlab.tasks import Batch, Example, Split, Task
from rnnlab.tasks.base import stream
from rnnlab.training.programs import Programs
from rnnlab.training.state import TrainState, means
from rnnlab.training.structure import Structure
from scripts.count_collectives import collectives

T, B, H = 6, 4, 3
LOG_EVERY = 3


class Ragged(Task):
    """Say at every step the input of this step, scaled by an array of the data; rows have 1 to T steps."""

    in_features = 1
    out_features = 1
    readout = "every"
    larger_is_better = frozenset({"near"})

    def __init__(self) -> None:
        self.data = {"scale": np.float32(0.5)}

    def size(self, split: Split) -> int | None:
        return None if split == "train" else 7

    def example(self, data: Any, key: jax.Array, split: Split, index: jax.Array) -> Example:
        value_key, length_key = jax.random.split(key)
        x = jax.random.normal(value_key, (T, 1))
        return Example(x, data["scale"] * x, jax.random.randint(length_key, (), 1, T + 1))

    def score(self, outputs: jax.Array, batch: Batch) -> tuple[dict[str, jax.Array], jax.Array]:
        inside = jnp.arange(T)[:, None] < batch.lengths
        error = jnp.abs(outputs - batch.targets)[:, :, 0]
        loss = jnp.where(inside, error**2, 0).sum(0)
        near = (inside & (error < 0.3)).sum(0).astype(loss.dtype)
        return {"loss": loss, "near": near}, batch.lengths.astype(loss.dtype)


@functools.cache
def programs(devices: int) -> Programs:
    """The programs of one configuration on one or two devices."""
    cell = {"name": "vanilla", "features": H, "activation": {"name": "leaky_relu", "slope": 0.2}}
    model = {"cell": cell, "recurrence": {"backend": "fused"}}
    optimizer = {"name": "adam", "learning_rate": 0.05, "clip_norm": 1.0, "schedule": "cosine", "warmup_steps": 2}
    mesh = make_mesh(B, devices)
    structure = Structure(Ragged(), model=model, optimizer=optimizer, run_steps=20)
    return Programs(structure, mesh, batch_size=B, log_every=LOG_EVERY)


def data_of(run: Programs) -> Any:
    """The task's data on the run's devices."""
    return replicate(run.mesh, run.task.data)


ROWS = np.arange(B, dtype=np.uint32)


def train(run: Programs, until: int, state: TrainState | None = None, seed: int = 0, **numbers: float) -> TrainState:
    """From state, or from the start, to step `until`; numbers by path with __ for the dot, replace the config's."""
    state = run.start(seed) if state is None else jax.tree.map(jnp.copy, state)  # Training donates its state.
    changed = {path.replace("__", "."): jnp.float32(value) for path, value in numbers.items()}
    assert set(changed) <= set(state.numbers)
    state = dataclasses.replace(state, numbers=replicate(run.mesh, state.numbers | changed))
    return run.train(state, data_of(run), jnp.int32(until), jnp.asarray(ROWS))


def host(tree: Any) -> Any:
    """In NumPy."""
    return jax.tree.map(np.asarray, tree)


def assert_equal(actual: Any, expected: Any) -> None:
    """Bit for bit."""
    jax.tree.map(np.testing.assert_array_equal, host(actual), host(expected))


@functools.cache
def by_hand(run: Programs) -> Any:
    """(params, buffers, seed, step) -> the metrics and the gradient's norm of one step: a mean over the whole batch."""

    @jax.jit
    def one(params: Any, buffers: Any, seed: jax.Array, step: jax.Array) -> dict[str, jax.Array]:
        batch = run.task.batch(run.task.data, seed, "train", step * B + jnp.arange(B))

        def mean_loss(params: Any) -> tuple[jax.Array, Any]:
            values, weights = run.task.score(run.structure.network(params, buffers)(batch.inputs, batch.lengths), batch)
            averages = {name: value.sum() / weights.sum() for name, value in values.items()}
            return averages["loss"], averages

        gradient, averages = jax.grad(mean_loss, has_aux=True)(params)
        squares = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient))
        return averages | {"grad_norm": jnp.sqrt(squares), "clipped": (squares > 1.0).astype(float)}

    return one


# --- one program -----------------------------------------------------------------------------------------------------


def test_devices_meet_once_a_step_and_never_inside_the_recurrence() -> None:
    run = programs(2)
    state = run.start(0)
    lowered = run.train.lower(state, data_of(run), jnp.int32(3), jnp.asarray(ROWS))
    assert lowered.as_text().count("stablehlo.all_reduce") == 1, "XLA may merge several, but need not"
    counted = collectives(lowered.compile().as_text())
    assert counted == {"a step": ["all-reduce"], "a time step": [], "elsewhere": []}


def test_other_numbers_seeds_and_ends_do_not_recompile() -> None:
    run = programs(2)
    first = train(run, 2)
    assert int(first.step) == 2
    other = train(run, 4, state=first)
    train(run, 4, seed=1)
    changed = train(run, 4, optimizer__learning_rate=0.01, model__cell__activation__slope=0.0)
    again = train(run, 4)
    assert run.train._cache_size() == 1
    assert_equal(again, other)
    assert not np.array_equal(changed.params["readout"]["bias"], again.params["readout"]["bias"])


def test_training_to_ten_equals_training_to_four_and_on_to_ten() -> None:
    run = programs(2)
    assert_equal(train(run, 10, state=train(run, 4)), train(run, 10))


def test_two_devices_equal_one() -> None:
    one, two = (host(train(programs(devices), 5)) for devices in (1, 2))
    assert_close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(assert_close, two.params, one.params)
    jax.tree.map(assert_close, means(two.sums), means(one.sums))


@pytest.mark.parametrize("devices", [1, 2])
def test_a_checkpoint_is_restored_to_where_a_first_state_lies(devices: int) -> None:
    run = programs(devices)
    places = lambda tree: jax.tree.map(lambda a: (a.shape, a.dtype, a.sharding), tree)  # noqa: E731
    assert places(run.like) == places(run.start(0))


def test_a_network_differs_by_its_seed() -> None:
    run = programs(1)
    kernels = [np.asarray(run.start(seed).params["readout"]["kernel"]) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])


def test_gradient_noise_is_a_function_of_seed_and_step_alone() -> None:
    cell = {"name": "vanilla", "features": H}
    optimizer = {"name": "sgd", "learning_rate": 1.0, "gradient_noise": 1e12, "gradient_noise_decay": 0.0}
    model = {"cell": cell, "recurrence": {"backend": "fused"}}
    structure = Structure(Ragged(), model=model, optimizer=optimizer, run_steps=20)
    run = Programs(structure, make_mesh(B, 2), batch_size=B, log_every=LOG_EVERY)

    def moved(seed: int, step: int, weights: int) -> Any:
        """By one step at these weights; a deviation of 10⁶ leaves nothing of the gradient."""
        state = dataclasses.replace(run.start(weights), seed=jnp.int32(seed), step=jnp.int32(step))
        return host(train(run, step + 1, state=replicate(run.mesh, state)).params)

    for seed, step in ((0, 0), (0, 5), (3, 5)):
        key = jax.random.fold_in(stream(jnp.int32(seed), "gradient_noise"), step)
        expected = jax.tree.map(lambda n: -1e6 * n, optax.tree.random_like(key, run.start(0).params))
        for weights in (0, 1):
            found = moved(seed, step, weights)
            jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=20), found, expected)


# --- averages --------------------------------------------------------------------------------------------------------


def test_means_are_of_the_steps_since_the_last_log_step() -> None:
    run = programs(2)
    state, per_step = run.start(5), []
    for step in range(LOG_EVERY + 2):
        params, buffers = host((state.params, state.buffers))
        per_step.append({k: float(v) for k, v in by_hand(run)(params, buffers, jnp.int32(5), step).items()})
        state = train(run, step + 1, state=state)
        window = per_step[step // LOG_EVERY * LOG_EVERY :]
        expected = {name: np.mean([values[name] for values in window]) for name in per_step[0]}
        expected["largest_grad_norm"] = max(values["grad_norm"] for values in window)
        assert means(state.sums) == pytest.approx(expected, rel=1e-5)
    assert len({values["loss"] for values in per_step}) == len(per_step)


def test_evaluation_of_any_size_is_the_plain_average() -> None:
    run = programs(2)
    state = train(run, 3)

    @jax.jit
    def score_of_each_row(params: Any, buffers: Any) -> Any:
        batch = run.task.batch(run.task.data, jnp.int32(99), "validation", jnp.arange(7))
        return run.task.score(run.structure.network(params, buffers)(batch.inputs, batch.lengths), batch)

    values, weights = host(score_of_each_row(*host((state.params, state.buffers))))
    rows = jnp.arange(4, dtype=jnp.int32)
    for size in (7, 3):  # The evaluation batch of 4 divides neither, and one is less than it.
        found = run.evaluate("validation", size, state.params, state.buffers, data_of(run), rows)
        expected = {name: value[:size].sum() / weights[:size].sum() for name, value in values.items()}
        assert {name: float(value) for name, value in found.items()} == pytest.approx(expected, rel=1e-6)


# --- divergence ------------------------------------------------------------------------------------------------------


def test_training_stops_before_the_update_of_a_loss_that_is_not_finite() -> None:
    run = programs(2)
    absurd = dict(optimizer__learning_rate=1e30)
    before = train(run, 1, **absurd)
    assert bool(before.finite)
    stopped = train(run, 10, **absurd)
    assert not bool(stopped.finite)
    assert int(stopped.step) == 1
    assert_equal((stopped.params, stopped.optimizer), (before.params, before.optimizer))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(host(stopped.params)))
    assert means(stopped.sums) == means(before.sums), "the last finite means are kept"
    assert_equal(train(run, 10, state=stopped), stopped)
