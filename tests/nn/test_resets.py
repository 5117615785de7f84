"""Networks over rows that begin anew in mid-sequence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rnnlab.nn.network import Network
from rnnlab.nn.trajectory import trajectories
from tests.helpers import assert_close, float64, in_double, random_array, random_like
from tests.tiers import slow_tests

T, D, OUT = 8, 3, 2
STRETCHES = [(0, 3), (3, 4), (4, 8)]
RESETS = np.isin(np.arange(T), [3, 4])[:, None]


def network(**options: object) -> Network:
    made = Network(D, OUT, cell={"name": "lstm", "features": 4}, readout="every", rngs=nnx.Rngs(0), **options)
    graphdef, params, others = nnx.split(made, nnx.Param, ...)
    return nnx.merge(graphdef, in_double(random_like(params, 1)), in_double(others))


@pytest.mark.parametrize(
    "options",
    [
        {"bidirectional": True, "learned_carry": True},
        *slow_tests(
            {"layers": 2, "bidirectional": True, "learned_carry": True},
            {"normalization": {"cell": "layer"}, "dropout": {"zoneout": 0.3}, "connections": "residual", "layers": 2},
        ),
    ],
)
@pytest.mark.slow
def test_a_network_with_resets_gives_what_it_gives_each_stretch_alone(options):
    with float64():
        graphdef, state = nnx.split(network(**options))
        x = random_array(2, T, 1, D)

        def at_once(state, x):
            y = nnx.merge(graphdef, state)(x, resets=jnp.array(RESETS))
            return (y * random_like(y, 3)).sum(), y

        def alone(state, x):
            y = jnp.concatenate([nnx.merge(graphdef, state)(x[start:end]) for start, end in STRETCHES])
            return (y * random_like(y, 3)).sum(), y

        both = [jax.jit(jax.value_and_grad(run, (0, 1), has_aux=True, allow_int=True)) for run in (at_once, alone)]
        assert_close(*(run(state, x) for run in both), 1e-12)


@pytest.mark.slow
def test_jacobians_of_the_state_end_where_a_row_begins_anew():
    with float64():
        (run,) = trajectories(network(), random_array(2, T, 1, D), resets=jnp.array(RESETS))
        first = run.step()
        for t in range(T):
            carry, parts = jax.tree.map(lambda a, t=t: a[t], (run.before, run.parts()))
            jacobian = jax.tree.leaves(jax.jacobian(first)(carry, parts))
            assert any((np.asarray(a) != 0).any() for a in jacobian) == (not RESETS[t, 0])


def test_batch_normalisation_in_the_cell_refuses_rows_that_begin_anew():
    made = network(normalization={"cell": "batch", "steps": T})
    with pytest.raises(ValueError, match="rows that begin anew have none; use layer"):
        made(random_array(2, T, 1, D), resets=jnp.array(RESETS))


@pytest.mark.parametrize("name", ["clockwork", *slow_tests("hippo_legs")])
def test_a_count_of_steps_in_a_learned_carry_is_not_trained(name):
    layer = Network(D, OUT, cell={"name": name, "features": 4}, learned_carry=True, rngs=nnx.Rngs(0)).layers[0]
    trained = [isinstance(row, nnx.Param) for row in layer.carries[0]]
    assert trained == [each != "steps" for each in layer.cells[0].carry_names]
