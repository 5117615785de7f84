"""Runs as replicas of one program: each is the run that it would have been alone, whatever the others do."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab.cells import CELLS
from rnnlab.parallel.devices import replicate
from rnnlab.records.run_config import resolve_config, traced_numbers
from rnnlab.sweeps.replicas.replica_axis import make_replica_mesh
from rnnlab.sweeps.replicas.replicas import ReplicaPrograms
from rnnlab.training.setup import make_run
from rnnlab.training.state import TrainState
from scripts.count_collectives import collectives
from tests.helpers import assert_close, float64, in_double
from tests.tiers import FEW, exhaustive_tests

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
    run = make_run(configs[0], mesh=make_replica_mesh(len(configs), configs[0]["batch_size"]))
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
    states = programs._train(states, programs._placed([STEPS] * 4, np.int32), programs.run.data, programs.run.rows)
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


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["lstm", *exhaustive_tests(*(cell for cell in CELLS if cell != "lstm"))])
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


def in_states(programs: ReplicaPrograms, steps: int) -> TrainState:
    """One replica after so many steps."""
    seed, each = programs.run.seed, programs.run.programs.numbers
    return programs.train(programs.start([seed], [each]), np.array([steps], np.int32))


@pytest.mark.parametrize("side_by_side", [False, pytest.param(True, marks=pytest.mark.exhaustive)])
def test_devices_that_share_a_replica_compute_the_run_on_as_many_devices(side_by_side):
    """One after another bit for bit; and they meet once a step, where the places of several replicas do not."""
    tolerance = 1e-4 if side_by_side else 0.0
    each = config("irnn") | {"devices": 2}
    programs, _ = together([each], side_by_side)
    assert programs.mesh.devices.shape == (1, 2, 1)
    alone = make_run(each)
    state = alone.train(alone.programs.start(0), 20)
    states = in_states(programs, 20)
    wanted = np.array([True])
    assert_close(at(states, 0).params, state.params, tolerance)
    assert int(states.step[0]) == 20
    (values,) = programs.evaluate(states, "validation", wanted)
    assert values == pytest.approx(alone.evaluate(state, "validation"), rel=tolerance)
    if side_by_side:
        (flow,) = programs.flows(states, wanted)
        for layer, norms in alone.gradient_flow({"it": state})["it"].items():
            np.testing.assert_allclose(flow["trained"][layer], norms, rtol=10 * tolerance)
    meets = {"a step": ["all-reduce"], "a time step": [], "elsewhere": []}
    assert collectives(programs._program(1).as_text()) == meets
    spread, states = together([each] * 2, side_by_side)
    assert spread.mesh.devices.shape == (2, 1, 1)
    assert collectives(spread._program(2).as_text()) == meets | {"a step": []}
    for slot in range(2 * side_by_side):
        jax.tree.map(np.testing.assert_array_equal, spread.pick(states, slot), at(states, slot))


@pytest.mark.exhaustive
def test_streams_of_a_replica_that_devices_share_go_on_where_they_were(tmp_path, monkeypatch):
    monkeypatch.setenv("RNNLAB_DATA", str(tmp_path))
    (tmp_path / "text").mkdir()
    for split in ("train", "valid", "test"):
        (tmp_path / "text" / f"{split}.txt").write_text("a b c a c b b a c a b c c a b a " * 4)
    each = config("gru") | {
        "devices": 2,
        "task": dict(name="language_model", window=3, dataset="text", source=str(tmp_path / "text")),
        "model": {"cell": {"name": "gru", "features": 3}, "embedding": 4},
    }
    programs, _ = together([each])
    alone = make_run(each)
    state, states = alone.train(alone.programs.start(0), 5), in_states(programs, 5)
    assert jax.tree.leaves(state.carry)[0].shape == (4, 3)
    jax.tree.map(np.testing.assert_array_equal, at(states, 0), state)
    assert programs.evaluate(states, "test", np.array([True])) == [alone.evaluate(state, "test")]


@dataclasses.dataclass(frozen=True)
class Chip:
    """A device of a process."""

    process_index: int
    id: int
    platform: str = "tpu"


@pytest.mark.parametrize(
    ("replicas", "batch", "processes", "places", "share"),
    [
        (16, 4, 2, 8, 1),
        (5, 4, 2, 8, 1),
        (3, 4, 2, 4, 2),
        (2, 4, 2, 2, 4),
        (2, 6, 2, 4, 2),
        (2, 5, 2, 8, 1),
        (1, 16, 4, 1, 8),
        (1, 16, 1, 1, 8),
    ],
)
def test_all_devices_of_all_processes_are_used_and_a_batch_stays_in_one_where_it_can(
    replicas, batch, processes, places, share
):
    each = 8 // processes
    chips = [Chip(process, number) for number in range(each) for process in range(processes)]
    mesh = make_replica_mesh(replicas, batch, chips)
    assert mesh.devices.shape == (places, share, 1)
    assert len({*mesh.devices.flat}) == 8
    if share <= each:
        assert all(len({chip.process_index for chip in of_replica}) == 1 for of_replica in mesh.devices[:, :, 0])
