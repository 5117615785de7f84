"""Gradient flow against the chain rule worked backwards in NumPy, and the decay it measures where that is known."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rnnlab.diagnostics import gradient_flow, gradient_reach, memory_horizon
from rnnlab.diagnostics.flight import flight
from rnnlab.diagnostics.gradient_flow import decay_per_step
from rnnlab.diagnostics.probe import Probe
from rnnlab.engine import Taps
from rnnlab.nn.network import Network
from rnnlab.nn.trajectory import trajectories
from rnnlab.tasks import Adding, Batch
from tests.helpers import float64, random_array, random_like
from tests.tiers import exhaustive_tests

T, B, H = 7, 3, 4
LENGTHS = (7, 4, 1)
ADDING = Adding(length=T)


def random_network(activation: str = "tanh", **fields: Any) -> Network:
    """For the adding task, with parameters from N(0, 0.5²), in double precision where that is on."""
    cell = {"name": "vanilla", "features": H, "activation": activation}
    network = nnx.eval_shape(lambda: Network(2, 1, cell=cell, **fields, rngs=nnx.Rngs(0)))
    graphdef, params, rest = nnx.split(network, nnx.Param, ...)
    return nnx.merge(graphdef, jax.tree.map(lambda a: jnp.asarray(0.5 * a, float), random_like(params, 0)), rest)


def flow_of(network: Network, batch: Batch, task: Any = ADDING, measure: Any = gradient_flow) -> Any:
    """`gradient_flow`, or another measure, compiled."""
    graphdef, state = nnx.split(network)
    compiled = jax.jit(lambda state, batch: measure(nnx.merge(graphdef, state), task, batch))
    return jax.tree.map(np.asarray, compiled(state, batch))


def states(cell: Any, x: np.ndarray, order: list[int]) -> dict[int, np.ndarray]:
    """h_t of one row of a tanh cell, visiting the steps in this order."""
    h, found = np.zeros(H), {}
    for t in order:
        h = np.tanh(x[t] @ cell.input_kernel[...] + h @ cell.recurrent_kernel[...] + cell.bias[...])
        found[t] = h
    return found


def backwards(cell: Any, h: dict[int, np.ndarray], order: list[int], into: dict[int, np.ndarray]) -> np.ndarray:
    """∂L/∂h_t [T, H]: what reaches h_t from outside the layer (`into`) and through h of the step visited after it."""
    found, after = np.zeros((T, H)), np.zeros(H)
    for t in reversed(order):
        found[t] = after + into.get(t, 0)
        after = (found[t] * (1 - h[t] ** 2)) @ np.asarray(cell.recurrent_kernel[...]).T
    return found


def over_rows(gradients: list[np.ndarray], orders: list[list[int]], reverse: bool = False) -> np.ndarray:
    """Over rows, of the norm so many steps back from the end of each: their root mean square, of those that are so
    long, and where a row is over, what the others go on with in place of all."""
    curves = [
        np.linalg.norm(g, axis=1)[valid if reverse else valid[::-1]] for g, valid in zip(gradients, orders, strict=True)
    ]
    found, scale = np.zeros(T), 1.0
    for k in range(T):
        there = [curve[k] for curve in curves if len(curve) > k]
        if there:
            found[k] = scale * np.sqrt(np.mean(np.square(there)))
        going_on = [curve[k] for curve in curves if len(curve) > k + 1]
        if going_on:
            scale *= np.sqrt(np.mean(np.square(there)) / np.mean(np.square(going_on)))
    return found if reverse else found[::-1]


def problem(lengths: tuple[int, ...] | None) -> tuple[Batch, np.ndarray, list[list[int]]]:
    """A batch, its inputs in NumPy, and each row's valid steps."""
    batch = Batch(random_array(1, T, B, 2), random_array(2, B, 1), None if lengths is None else jnp.array(lengths))
    return batch, np.asarray(batch.inputs), [list(range(n)) for n in lengths or B * (T,)]


@pytest.mark.parametrize("lengths", [LENGTHS, *exhaustive_tests(None)])
def test_flow_through_two_layers_equals_the_chain_rule(lengths: tuple[int, ...] | None) -> None:
    with float64():
        network = random_network(layers=2)
        batch, x, orders = problem(lengths)
        found = flow_of(network, batch)
        outputs = np.asarray(jax.jit(network)(batch.inputs, batch.lengths))
        first, second = (layer.cells[0] for layer in network.layers)
        upper, lower = [], []
        for row, order in enumerate(orders):
            error = 2 * (outputs[row] - np.asarray(batch.targets)[row])
            h1 = states(first, x[:, row], order)
            h2 = states(second, h1, order)
            d2 = backwards(second, h2, order, {order[-1]: error @ np.asarray(network.readout.kernel[...]).T})
            down = {t: (d2[t] * (1 - h2[t] ** 2)) @ np.asarray(second.input_kernel[...]).T for t in order}
            upper.append(d2)
            lower.append(backwards(first, h1, order, down))
    assert list(found) == ["layer 1", "layer 2"]
    np.testing.assert_allclose(found["layer 1"], over_rows(lower, orders), rtol=1e-12)
    np.testing.assert_allclose(found["layer 2"], over_rows(upper, orders), rtol=1e-12)


@pytest.mark.parametrize("lengths", [None, LENGTHS])
@pytest.mark.slow
def test_flow_in_reverse_runs_towards_the_end(lengths: tuple[int, ...] | None) -> None:
    with float64():
        network = random_network(bidirectional=True)
        batch, x, orders = problem(lengths)
        found = flow_of(network, batch)
        outputs = np.asarray(jax.jit(network)(batch.inputs, batch.lengths))
        gradients: dict[str, list[np.ndarray]] = {"layer 1": [], "layer 1 reverse": []}
        for row, valid in enumerate(orders):
            error = 2 * (outputs[row] - np.asarray(batch.targets)[row])
            into = error @ np.asarray(network.readout.kernel[...]).T
            directions = zip(network.layers[0].cells, (valid, valid[::-1]), (into[:H], into[H:]), strict=True)
            for name, (cell, order, part) in zip(gradients, directions, strict=True):
                h = states(cell, x[:, row], order)
                gradients[name].append(backwards(cell, h, order, {order[-1]: part}))
    assert list(found) == list(gradients)
    for name, expected in gradients.items():
        np.testing.assert_allclose(found[name], over_rows(expected, orders, name.endswith("reverse")), rtol=1e-12)


class EveryStep:
    """A target at every step, squared errors summed over a row's steps."""

    readout = "every"

    @staticmethod
    def score(outputs: jax.Array, batch: Batch) -> tuple[dict[str, jax.Array], jax.Array]:
        errors = ((outputs - batch.targets) ** 2).sum(-1)
        inside = jnp.arange(T)[:, None] < (T if batch.lengths is None else batch.lengths)
        return {"loss": jnp.where(inside, errors, 0).sum(0)}, jnp.ones(B)


@pytest.mark.parametrize("lengths", [LENGTHS, *exhaustive_tests(None)])
def test_reach_is_that_of_each_rows_last_answer_alone(lengths: tuple[int, ...] | None) -> None:
    with float64():
        network = random_network(bidirectional=True, readout="every")
        batch, x, orders = problem(lengths)
        batch = batch._replace(targets=random_array(2, T, B, 1))
        found = flow_of(network, batch, EveryStep(), gradient_reach)
        graphdef, state = nnx.split(network)
        outputs = jax.jit(lambda state, *words: nnx.merge(graphdef, state)(*words))(state, batch.inputs, batch.lengths)
        outputs = np.asarray(outputs)
        flows: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        for row, valid in enumerate(orders):
            for number, order in enumerate((valid, valid[::-1])):
                answered = order[-1]
                error = 2 * (outputs[answered, row] - np.asarray(batch.targets)[answered, row])
                part = (error @ np.asarray(network.readout.kernel[...]).T)[number * H : (number + 1) * H]
                cell = network.layers[0].cells[number]
                flows[number].append(backwards(cell, states(cell, x[:, row], order), order, {answered: part}))
    assert list(found) == ["layer 1", "layer 1 reverse"]
    for norms, expected, reverse in zip(found.values(), flows, (False, True), strict=True):
        np.testing.assert_allclose(norms, over_rows(expected, orders, reverse), rtol=1e-12)


@pytest.mark.slow
def test_reach_of_an_answer_after_the_last_step_is_the_flow() -> None:
    network, (batch, _, _) = random_network(), problem(LENGTHS)
    found = flow_of(network, batch, measure=gradient_reach)
    np.testing.assert_array_equal(found["layer 1"], flow_of(network, batch)["layer 1"])


def test_rows_end_together_and_before_the_longest_one_begins_there_is_no_flow() -> None:
    batch, _, _ = problem((4, 2, 3))
    flow = flow_of(random_network(), batch)["layer 1"]
    np.testing.assert_array_equal(flow[: T - 4], 0)
    assert (flow[T - 4 :] > 0).all()


@pytest.mark.parametrize(
    ("measure", "readout"), [(gradient_flow, "last"), (gradient_reach, "last"), (gradient_reach, "every")]
)
def test_rows_that_decay_alike_give_the_factor_of_each_alone_wherever_they_end(measure: Any, readout: Any) -> None:
    with float64():
        network = random_network("linear", readout=readout)
        task: Any = EveryStep() if readout == "every" else Adding(length=T)
        targets = jnp.array([1.0, 100.0, 1e4])[:, None]
        targets = jnp.broadcast_to(targets, (T, B, 1)) if readout == "every" else targets
        batch = Batch(random_array(1, T, B, 2), targets, jnp.array([T, T // 2, T // 4]))

        def measured(state: nnx.State, lengths: jax.Array) -> Any:
            whole = nnx.merge(nnx.graphdef(network), state)
            norms = measure(whole, task, batch._replace(lengths=lengths))["layer 1"]
            return (*decay_per_step(norms), memory_horizon(norms))

        compiled = jax.jit(measured)
        for factor in (0.3, 0.97, 1.2):
            network.layers[0].cells[0].recurrent_kernel[...] = factor * jnp.eye(H)
            found, half_life, horizon = map(float, compiled(nnx.state(network), batch.lengths))
            assert found == pytest.approx(factor, rel=1e-12)
            assert half_life == (pytest.approx(-math.log(2) / math.log(factor), rel=1e-12) if factor < 1 else math.inf)
            assert horizon == min(T - 1, math.log(0.01) // math.log(factor) if factor < 1 else math.inf)


def test_the_flight_recorder_notes_rows_aligned_at_their_ends_as_large_as_they_are() -> None:
    # What it notes is for the size of what blew up: nothing is scaled where a row is left out.
    network = random_network(bidirectional=True)
    batch, _, _ = problem(LENGTHS)
    gradients = [random_array(3 + number, T, B, H) for number in range(2)]

    @jax.jit
    def noted(gradients: list[jax.Array]) -> Any:
        runs = trajectories(network, batch.inputs, batch.lengths)
        flows = [Taps((a,), jnp.zeros((T, B, H))) for a in gradients]
        return flight(Probe(runs, flows, {}, {}, {}, {})), {run.name: run.carries[0] for run in runs}

    found, states = noted(gradients)
    assert list(states) == ["layer 1", "layer 1 reverse"]
    for (name, state), gradient in zip(states.items(), gradients, strict=True):
        reverse = name.endswith("reverse")
        for kind, array in (("gradient", gradient), ("state", state)):
            rows = [np.linalg.norm(np.asarray(array)[:n, row], axis=-1) for row, n in enumerate(LENGTHS)]
            rows = rows if reverse else [row[::-1] for row in rows]
            means = [np.sqrt(np.mean([row[k] ** 2 for row in rows if len(row) > k])) for k in range(T)]
            np.testing.assert_allclose(found[kind][name], means if reverse else means[::-1], rtol=1e-6)


@pytest.mark.parametrize("factor", [1e-4, 1.2, *exhaustive_tests(0.3, 0.9, 0.999)])
def test_a_linear_cell_with_a_scaled_identity_decays_by_that_scale(factor: float) -> None:
    cell = {"name": "vanilla", "features": H, "activation": "linear"}
    recurrent = {"name": "identity", "scale": factor}
    network = Network(2, 1, cell=cell | {"recurrent_init": recurrent}, rngs=nnx.Rngs(0))
    batch, _, _ = problem(None)
    found, half_life = decay_per_step(jnp.asarray(flow_of(network, batch)["layer 1"]))
    assert found == pytest.approx(factor, rel=1e-4)
    assert half_life == pytest.approx(-math.log(2) / math.log(factor) if factor < 1 else math.inf, rel=1e-3)


def test_decay_ignores_steps_without_gradient_and_needs_two() -> None:
    norms = jnp.array([0.0, 0.25, 0.5, 1.0, 0.0, jnp.inf, jnp.nan, 1e-45])
    factor, half_life = decay_per_step(norms)
    assert factor == pytest.approx(0.5, rel=1e-5)
    assert half_life == pytest.approx(1.0, rel=1e-5)
    assert decay_per_step(jnp.array([0.0, 1.0, 0.0])) == (0.0, 0.0)
    assert decay_per_step(jnp.zeros(3)) == (0.0, 0.0)
    assert jnp.isnan(jnp.stack(decay_per_step(jnp.array([0.0, 1.0, jnp.nan])))).all()


@pytest.mark.parametrize("factor", [1e-3, 0.5, 0.97, 1.0, 1.3, 20.0])
def test_traced_decay_of_a_geometric_sequence_is_its_ratio(factor: float) -> None:
    with float64():
        norms = 3.0 * factor ** -jnp.arange(40.0)
        found = jax.jit(lambda norms: (*(decay := decay_per_step(norms)), decay.doubling_time))(norms)
    half, double = -math.log(2) / math.log(factor) if factor != 1 else math.inf, math.inf
    if factor > 1:
        half, double = math.inf, -half
    np.testing.assert_allclose(found, (factor, half, double), rtol=1e-13)


def test_decay_is_exact_where_steps_in_between_have_no_gradient() -> None:
    with float64():
        norms = jnp.where(jnp.arange(30) % 7 == 3, jnp.inf, 0.8 ** -jnp.arange(30.0)).at[5].set(0)
        assert decay_per_step(norms).factor == pytest.approx(0.8, rel=1e-13)
