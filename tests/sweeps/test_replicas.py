"""Runs as replicas of one program: each is the run that it would have been alone, whatever the others do."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab.cells import CELLS
from rnnlab.parallel.devices import replicate
from rnnlab.records.run_config import resolve_config, traced_numbers
from rnnlab.sweeps.replicas.replicas import ReplicaPrograms, make_replica_mesh
from rnnlab.training.setup import make_run
from rnnlab.training.state import TrainState
from tests.helpers import assert_close, float64, in_double
from tests.tiers import FEW

STEPS = 100
NUMBERS = [(0, 1e-2, 1.0), (1, 3e-3, 0.1), (2, 2e-2, 10.0)]
"""(Seed, learning rate, clip norm): three replicas, which two devices do not share evenly."""


def config(cell: str, seed: int = 0, learning_rate: float = 1e-2, clip_norm: float = 1.0, **changes: Any) -> dict:
    """A small run; changes: fields of the optimizer."""
    return dict(
        seed=seed,
        steps=STEPS,
        batch_size=4,
        log_every=30,
        eval_batch_size=8,
        task=dict(name="adding", length=5, validation_size=12, test_size=8),
        model=dict(cell=dict(name=cell, features=4)),
        optimizer=dict(name="adam", learning_rate=learning_rate, clip_norm=clip_norm, **changes),
    )


def numbers(config: dict) -> dict[str, float]:
    """Those of a resolved config."""
    return traced_numbers(config)[1]


def together(configs: list[dict], side_by_side: bool | None = None) -> tuple[ReplicaPrograms, TrainState]:
    """The programs of these configs, which are of one structure, and the states before the first step."""
    run = make_run(configs[0], mesh=make_replica_mesh(len(configs)))
    programs = ReplicaPrograms(run, side_by_side)
    resolved = [resolve_config(each) for each in configs]
    resolved += [resolved[0]] * (programs.slots(len(configs)) - len(configs))
    return programs, programs.start([each["seed"] for each in resolved], [numbers(each) for each in resolved])


def at(states: TrainState, n: int) -> TrainState:
    return jax.tree.map(lambda a: a[n], states)


def double(state: TrainState) -> TrainState:
    """What is trained in double precision, where that is on."""
    floats = lambda a: in_double(a) if jnp.issubdtype(a.dtype, jnp.floating) else a  # noqa: E731
    return jax.tree.map(floats, state)


def compare(configs: list[dict], tolerance: float) -> TrainState:
    """Three replicas at step 100 against three runs, each alone on two devices. Returns the replicas."""
    programs, states = together(configs)
    states = jax.device_put(double(states), programs.split)
    states = programs._train(states, programs._placed([STEPS] * 4, np.int32), programs.run.data, programs.rows)
    jax.block_until_ready(states)  # Two programs at once on two devices may wait for each other.
    alone = make_run(configs[0] | {"devices": 2})
    for n, each in enumerate(configs):
        resolved = resolve_config(each)
        arguments = {name: jnp.float32(value) for name, value in numbers(resolved).items()}
        state = alone.programs.initialize(arguments, jnp.int32(resolved["seed"]), None)
        state = replicate(alone.mesh, double(state))
        state = alone.programs.train(state, alone.data, jnp.int32(STEPS), alone.rows)
        assert int(state.step) == STEPS
        for part in ("params", "optimizer", "sums"):
            assert_close(getattr(at(states, n), part), getattr(state, part), tolerance)
        assert int(at(states, n).clipped.total) == int(state.clipped.total)
    return states


def of_cell(cell: str) -> list[dict]:
    return [config(cell, *each) for each in NUMBERS]


# Of every structure a cell has a shorter test in tests/cells/test_in_training.py.
EVERY_CELL = [pytest.param(cell, marks=pytest.mark.slow if cell in FEW else pytest.mark.exhaustive) for cell in CELLS]


@pytest.mark.parametrize("cell", EVERY_CELL)
def test_replica_equals_the_run_alone_at_step_100(cell):
    compare(of_cell(cell), 2e-4)


@pytest.mark.parametrize("cell", EVERY_CELL)
def test_replica_equals_the_run_alone_at_step_100_in_double_precision(cell):
    with float64():
        compare(of_cell(cell), 1e-10)


@pytest.mark.slow
def test_replicas_have_factors_of_their_own_for_a_group_of_parameters():
    factors = (0.0, 0.1, 2.0)
    configs = [config("irnn", groups={"recurrent": {"learning_rate_factor": factor}}) for factor in factors]
    states = compare(configs, 2e-4)
    kernel = states.params["layers"][0]["cells"][0]["recurrent_kernel"]
    np.testing.assert_array_equal(kernel[0], np.eye(4))
    rates = states.learning_rates
    np.testing.assert_allclose(rates["learning_rate/recurrent"][:3], 1e-2 * np.float32(factors))
    np.testing.assert_allclose(rates["learning_rate"], 1e-2)


@pytest.mark.slow
def test_replicas_side_by_side_equal_those_one_after_another():
    configs = [config("irnn", *each) for each in NUMBERS]
    until, wanted = np.array([10, 0, 7, 3], np.int32), np.array([True, False, True, False])
    collected = []
    for side_by_side in (False, True):
        programs, states = together(configs, side_by_side)
        states = programs.train(states, until)
        np.testing.assert_array_equal(states.step, until)
        values = programs.evaluate(states, "validation", wanted)
        collected.append((states.params, [{k: np.float32(v) for k, v in values[n].items()} for n in (0, 2)]))
    assert_close(collected[1], collected[0], 1e-5)


def test_replica_that_is_done_stays_as_it_is():
    programs, states = together([config("irnn", *each) for each in NUMBERS])
    before = jax.device_get(programs.take(states, np.arange(4)))
    after = jax.device_get(programs.train(states, np.array([3, 0, 0, 0], np.int32)))
    assert not np.array_equal(after.params["readout"]["kernel"][0], before.params["readout"]["kernel"][0])
    jax.tree.map(np.testing.assert_array_equal, at(after, 1), at(before, 1))
