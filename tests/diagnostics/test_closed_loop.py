"""A network on its own forecasts: its run and its exponents against a loop that is written out here."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rnnlab.config.errors import ConfigError
from rnnlab.diagnostics.closed_loop import PARTS, check_closed_loop, closed_loop, free_run
from rnnlab.diagnostics.diagnosis import MEASURES, measures_of
from rnnlab.nn.network import Network
from rnnlab.tasks import Adding, Forecast
from tests.tiers import slow_tests


def make_task(**fields: Any) -> Forecast:
    return Forecast(**{"points": 120, "context": 4, "predicts": "change"} | fields)


def make_network(**fields: Any) -> Network:
    cell = {"name": "vanilla", "features": 4, "activation": "tanh"}
    return Network(3, 3, readout="every", rngs=nnx.Rngs(0), **{"cell": cell} | fields)


@pytest.mark.parametrize(
    ("predicts", "fields"),
    [
        ("change", {"learned_carry": True}),
        *slow_tests(("value", {"layers": 2, "cell": {"name": "lstm", "features": 3}})),
    ],
    ids=["change", "value"],
)
def test_a_free_run_answers_its_own_answers(predicts: Any, fields: dict) -> None:
    task, network = make_task(predicts=predicts), make_network(**fields)
    inputs = jax.random.normal(jax.random.key(0), (4, 2, 3))
    free = free_run(network, task, inputs, 6)
    together = jnp.concatenate([inputs, free[:-1]])  # In one pass, each answer behind the inputs that it is from.
    answers = task.answers(together, network(together))
    np.testing.assert_allclose(free, answers[3:], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_exponents_are_those_of_the_map_written_out() -> None:
    with jax.enable_x64(True):
        task, network = make_task(), make_network()
        graphdef, state = nnx.split(network)
        state = jax.tree.map(lambda a: jnp.asarray(a, float), state)  # A chaotic loop would double rounding errors.
        network, inputs = nnx.merge(graphdef, state), jax.random.normal(jax.random.key(0), (4, 2, 3), float)
        loop = closed_loop(network, task, inputs, count=7, steps=2 * PARTS, burn_in=3)
        cell, readout = network.layers[0].cells[0], network.readout

        def step(at: jax.Array) -> jax.Array:
            value, h = at[:3], at[3:]
            z = value @ cell.input_kernel[...] + h @ cell.recurrent_kernel[...] + cell.bias[...]
            h = jnp.tanh(z)
            return jnp.concatenate([value + h @ readout.kernel[...] + readout.bias[...], h])

        step, jacobian = jax.jit(step), jax.jit(jax.jacfwd(step))
        exponents = np.zeros((2, 7))
        for row in range(2):
            at = jnp.zeros(7)
            for value in inputs[:, row]:
                at = step(at.at[:3].set(value))
            q = np.linalg.qr(np.random.default_rng(0).normal(size=(7, 7)))[0]
            for number in range(3 + 2 * PARTS):
                q, r = np.linalg.qr(np.asarray(jacobian(at)) @ q)
                exponents[row] += np.log(np.abs(np.diag(r))) if number >= 3 else 0
                at = step(at)
    exponents = -np.sort(-exponents, axis=1) / (2 * PARTS * 0.02)
    np.testing.assert_allclose(loop.exponents.mean, exponents.mean(0), rtol=1e-6)
    np.testing.assert_allclose(loop.exponents.error, exponents.std(0, ddof=1) / np.sqrt(2), rtol=1e-4)
    assert (loop.interval, loop.exponent) == (0.02, 0.9056)
    np.testing.assert_allclose(loop.course[-1], loop.exponents.mean[0], rtol=1e-6)


def test_the_loop_is_measured_by_itself_where_answers_are_the_next_inputs_alone() -> None:
    others = [name for name in MEASURES if name not in ("closed_loop", "newton")]
    assert measures_of(make_task()) == [*others, "closed_loop"]
    assert measures_of(make_task(horizon=2)) == others == measures_of(Adding())
    with pytest.raises(ConfigError, match=r"an answer 2 steps ahead is not the next input; task.horizon=1"):
        check_closed_loop(make_task(horizon=2))
    with pytest.raises(ConfigError, match="are those of the task forecast"):
        check_closed_loop(Adding())
