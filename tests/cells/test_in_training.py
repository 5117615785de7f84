"""Every cell within a run, with all that can stand around it: dropout, zoneout, normalisation, changed cotangents.

Both backends compute the same, a resumed run is the run that was not stopped, a replica is the run alone, and the
training step lowers for GPUs and TPUs, where there is none.
"""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh

from rnnlab.cells import CELLS
from rnnlab.config.errors import ConfigError
from rnnlab.nn.network import Network
from rnnlab.parallel.sharding import ALL_AXES
from rnnlab.records.run_config import resolve_config, traced_numbers
from rnnlab.sweeps.replicas.replica_axis import REPLICA_AXIS
from rnnlab.sweeps.replicas.replicas import ReplicaPrograms
from rnnlab.training.checkpoints import Checkpoints, SavedCheckpoints
from rnnlab.training.run import Run
from rnnlab.training.setup import make_run
from tests.helpers import (
    all_around,
    assert_close,
    float64,
    gradients_with_all_around,
    random_array,
    with_bad_padding,
)
from tests.tiers import in_tier, in_tiers

T, B, D, H = 5, 4, 2, 4
LENGTHS = (5, 2, 0, 4)


@pytest.mark.parametrize("name", in_tiers(CELLS, central=True, costly=True))
def test_both_backends_have_the_same_gradients_with_all_that_can_stand_around_a_cell(name: str) -> None:
    with float64():
        lengths = jnp.array(LENGTHS)
        x = with_bad_padding(random_array(1, T, B, D), lengths)

        fused, reference = (
            gradients_with_all_around(name, x, lengths, H, {"backend": backend, "chunk": 2})
            for backend in ("fused", "reference")
        )
        assert_close(jax.tree.leaves(fused), jax.tree.leaves(reference), 1e-10)


NO_MATRIX = "has no recurrent matrix to apply it to"
PLACES = {"state": NO_MATRIX, "recurrent_kernel": NO_MATRIX, "candidate": "has no candidate"}


@pytest.mark.parametrize("name", in_tiers(CELLS))
def test_dropout_without_a_place_in_a_cell_is_one_line(name: str) -> None:
    """The cells that the slow tests give all that they have a place for."""
    admitted = all_around(name)["dropout"]
    for rate, message in PLACES.items():

        def network(rate: str = rate) -> Network:
            return Network(D, 2, cell={"name": name, "features": H}, dropout={rate: 0.5}, rngs=nnx.Rngs(0))

        if rate in admitted:
            nnx.eval_shape(network)
        else:
            with pytest.raises(ConfigError, match=rf"^model\.dropout\.{rate}: \w+ {message}"):
                nnx.eval_shape(network)


NUMBERS = [(0, 0.1), (1, 0.03)]
"""(Seed, learning rate) of two runs."""


def config(name: str, seed: int = 0, learning_rate: float = 0.1) -> dict[str, Any]:
    """By plain gradient descent: Adam would make steps of rounding errors."""
    return dict(
        seed=seed,
        steps=4,
        batch_size=B,
        eval_batch_size=4,
        task=dict(name="adding", length=T, validation_size=4, test_size=4),
        model=dict(cell=dict(name=name, features=H), **all_around(name)),
        optimizer=dict(name="sgd", learning_rate=learning_rate, clip_norm=1.0),
    )


@functools.cache
def run_of(name: str) -> Run:
    """A run, alone or of replicas, on one device."""
    device = np.asarray(jax.devices()[:1])[:, None, None]
    return make_run(config(name), mesh=Mesh(device, (REPLICA_AXIS, *ALL_AXES)))


def numbers_of(name: str) -> list[dict[str, float]]:
    return [traced_numbers(resolve_config(config(name, *each)))[1] for each in NUMBERS]


@functools.cache
def trained(name: str, number: int) -> Any:
    """The state of a run after 4 steps, which nothing interrupted."""
    run = run_of(name)
    numbers = {name: jnp.float32(value) for name, value in numbers_of(name)[number].items()}
    state = run.programs.initialize(numbers, jnp.int32(NUMBERS[number][0]), None)
    return run.programs.train(state, run.data, jnp.int32(4), run.rows)


@pytest.mark.parametrize("name", in_tiers(CELLS, central=True, costly=True))
def test_a_run_that_is_resumed_equals_the_run_that_was_not_to_the_bit(name: str, tmp_path: Path) -> None:
    run = run_of(name)
    state = run.programs.train(run.programs.start(0), run.data, jnp.int32(2), run.rows)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(2, state, {"of": 2})
    checkpoints.close()
    state = SavedCheckpoints(tmp_path).restore(2, state).state
    state = run.programs.train(state, run.data, jnp.int32(4), run.rows)
    assert int(state.step) == 4
    jax.tree.map(np.testing.assert_array_equal, state, trained(name, 0))


@pytest.mark.parametrize("name", in_tiers(CELLS, costly=True))
def test_a_replica_equals_the_run_alone(name: str) -> None:
    programs = ReplicaPrograms(run_of(name))
    states = programs.start([seed for seed, _ in NUMBERS], numbers_of(name))
    states = programs.train(states, np.array([4, 4]))
    for n in range(len(NUMBERS)):
        alone = trained(name, n)
        for part in ("params", "optimizer", "sums"):
            assert_close(jax.tree.map(lambda a, n=n: a[n], getattr(states, part)), getattr(alone, part), 1e-5)


@pytest.mark.parametrize("name", [in_tier(name, central=True, costly=name != "lstm") for name in CELLS])
def test_the_training_step_lowers_for_gpus_and_tpus(name: str) -> None:
    run = run_of(name)
    traced = run.programs.train.trace(run.programs.shapes, run.data, jnp.int32(1), run.rows)
    for platform in ("cuda", "tpu"):
        assert "stablehlo.while" in traced.lower(lowering_platforms=(platform,)).as_text()
