"""Dropout in all its places: what each mask is, off at evaluation, the same in both backends."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rnnlab.cells import CELLS, BaseCell
from rnnlab.config.errors import ConfigError
from rnnlab.config.schema import resolve
from rnnlab.engine import unroll
from rnnlab.nn.network import Network
from rnnlab.nn.options import ModelOptions
from rnnlab.ops.random_streams import Training
from tests.helpers import assert_close, float64, in_double, random_array, random_like
from tests.tiers import exhaustive_tests

T, B, D, H = 5, 4, 3, 6
RATES = {
    "input": 0.5,
    "between": 0.4,
    "output": 0.5,
    "state": 0.5,
    "candidate": 0.5,
    "zoneout": 0.3,
    "zoneout_cell": 0.4,
    "recurrent_kernel": 0.5,
}


def network(cell: str = "lstm", layers: int = 1, vocabulary: int | None = None, **fields: Any) -> Network:
    return Network(
        D, 2, vocabulary=vocabulary, cell={"name": cell, "features": H}, layers=layers, rngs=nnx.Rngs(0), **fields
    )


def training(seed: int = 0, rows: Any = range(B)) -> Training:
    return Training(jax.random.key(seed), jnp.array(list(rows)))


def cell_run(net: Network, x: jax.Array, step: Training | None, direction: int = 0) -> Any:
    """(h, carry) of the first layer's cell with all that is around it."""
    cell, noise, state_mask = net.layers[0].modified(direction, x.shape[:2], step)
    return unroll(cell, x, noise=noise, state_mask=state_mask)


def outputs(net: Network, x: jax.Array, training: Training | None = None) -> jax.Array:
    """Compiled once for all networks of a kind."""
    return _outputs(*nnx.split(net), x, training)


@functools.partial(jax.jit, static_argnums=0)
def _outputs(graphdef: nnx.GraphDef, state: nnx.State, x: jax.Array, training: Training | None) -> jax.Array:
    return nnx.merge(graphdef, state)(x, training=training)


@pytest.mark.parametrize("same", [False, True])
def test_units_are_dropped_at_their_rate_and_scaled_to_keep_the_mean(same):
    net = network(dropout={"input": 0.25, "same_over_time": same})
    x = jnp.ones((50, 40, 30))
    masks = np.asarray(net._drop("input", x, training(rows=range(40))))
    assert set(np.unique(masks)) == {np.float32(0), np.float32(1 / 0.75)}
    draws = masks[0] if same else masks
    assert abs((draws == 0).mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / draws.size)
    assert (masks == masks[0]).all() == same, "one mask a sequence is constant over time"
    assert (masks[0, 0] != masks[0, 1]).any(), "rows have masks of their own"


def test_masks_depend_on_the_step_and_the_row_alone():
    net = network(dropout=RATES, layers=2)
    x = random_array(1, T, B, D)
    run = jax.jit(lambda x, training: net(x, training=training))
    whole = run(x, training())
    halves = [run(x[:, jnp.array(rows)], training(rows=rows)) for rows in ([0, 1], [2, 3])]
    assert_close(jnp.concatenate(halves), whole, 1e-6)
    np.testing.assert_array_equal(run(x, training()), whole)
    assert (run(x, training(seed=1)) != whole).any(axis=1).all()


@pytest.mark.parametrize(
    "name", ["between", "recurrent_kernel", *exhaustive_tests("input", "output", "state", "candidate")]
)
def test_dropout_is_off_at_evaluation_and_on_in_training(name):
    layers = 2 if name == "between" else 1
    net, plain = network(layers=layers, dropout={name: RATES[name]}), network(layers=layers)
    x = random_array(1, T, B, D)
    np.testing.assert_array_equal(outputs(net, x), outputs(plain, x))
    assert (outputs(net, x, training()) != outputs(plain, x)).any()


@pytest.mark.parametrize("name", [*RATES, "embedding"])
def test_rate_zero_drops_nothing(name):
    vocabulary = {"vocabulary": 7, "embedding": 4} if name == "embedding" else {}
    net, plain = network(dropout={name: 0.0}, **vocabulary), network(**vocabulary)
    x = jnp.arange(T * B).reshape(T, B) % 7 if vocabulary else random_array(1, T, B, D)
    assert_close(outputs(net, x, training()), outputs(plain, x), 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "index"), [("zoneout", 0), ("zoneout_cell", 1)])
def test_zoneout_keeps_the_old_value_or_takes_the_new_and_at_evaluation_its_expectation(name, index):
    # One step from a state of ones.
    rate = 0.3
    net = network(dropout={name: rate})
    x = random_array(1, 1, 200, D)
    cell, noise, _ = net.layers[0].modified(0, (1, 200), training(rows=range(200)))
    start = (jnp.ones((200, H)), jnp.ones((200, H)))
    new = unroll(net.layers[0].cells[0], x, initial_carry=start)[1][index]
    held = unroll(cell, x, noise=noise, initial_carry=start)[1][index]
    kept = jnp.isclose(held, 1.0, rtol=0, atol=1e-6) & ~jnp.isclose(new, 1.0, rtol=0, atol=1e-4)
    assert (kept | jnp.isclose(held, new, rtol=0, atol=1e-6)).all()
    assert abs(kept.mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / kept.size)
    cell, noise, _ = net.layers[0].modified(0, (1, 200), None)
    expected = unroll(cell, x, noise=noise, initial_carry=start)[1][index]
    assert_close(expected, rate * jnp.ones_like(new) + (1 - rate) * new, 1e-6)


def test_state_dropout_is_one_mask_a_sequence_on_the_state_where_it_meets_the_kernel():
    net = network("vanilla", dropout={"state": 0.5})
    x = random_array(1, T, B, D)
    _, _, mask = net.layers[0].modified(0, (T, B), training())
    cell = net.layers[0].cells[0]
    h, expected = jnp.zeros((B, H)), []
    for t in range(T):
        h = jnp.tanh(cell.project(x[t]) + (h * mask) @ cell.recurrent_matrix())
        expected.append(h)
    assert_close(cell_run(net, x, training())[0], jnp.stack(expected), 1e-5)
    assert set(np.unique(mask)) == {0.0, 2.0}


@pytest.mark.parametrize("cell", ["lstm", "gru", "gru_reset_before"])
@pytest.mark.slow
def test_candidate_dropout_scales_or_removes_what_enters_the_state(cell):
    net = network(cell, dropout={"candidate": 0.25})
    x = random_array(1, 1, B, D)  # One step from zero: c = i g, or h = (1 - z) n.
    plain = cell_run(network(cell), x, None)[1][-1]
    ratio = cell_run(net, x, training())[1][-1] / plain
    assert set(np.unique(np.round(ratio, 4))) == {0.0, np.float32(1.3333)}


def test_weight_drop_removes_elements_of_the_kernel_for_all_rows_and_steps():
    net, x = network(dropout={"recurrent_kernel": 0.5}), random_array(1, T, B, D)
    modified, _, _ = net.layers[0].modified(0, (T, B), training())
    cell = net.layers[0].cells[0]
    kernel, dropped = cell.recurrent_kernel[...], modified.matrices()["recurrent"].kernel
    assert ((dropped == 0) | jnp.isclose(dropped, 2 * kernel)).all()
    assert 0.3 < (dropped == 0).mean() < 0.7
    found = cell_run(net, x, training())
    cell.recurrent_kernel[...] = dropped
    assert_close(found, cell_run(net, x, None), 1e-6)


@pytest.mark.slow
def test_embedding_dropout_removes_whole_words():
    net = network(vocabulary=50, embedding=8, dropout={"embedding": 0.5})
    words = jnp.tile(jnp.arange(50)[:, None], (1, B))
    found = net.embed(words, training())
    gone = (found == 0).all(-1)
    assert (gone == gone[:, :1]).all(), "a word is gone from all rows"
    assert 10 < gone[:, 0].sum() < 40
    assert_close(found[~gone], 2 * net.embed(words)[~gone], 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "lengths", "layers", "bidirectional"),
    [("gru", None, 2, False), *exhaustive_tests(("lstm", [5, 2, 0, 4], 1, True), ("irnn", [5, 2, 0, 4], 2, True))],
)
def test_both_backends_have_the_same_gradients_with_everything_on(cell, lengths, layers, bidirectional):
    rates = {k: v for k, v in RATES.items() if cell == "lstm" or k != "zoneout_cell"}
    rates = {k: v for k, v in rates.items() if cell != "irnn" or k != "candidate"}
    with float64():
        x, rows = random_array(1, T, B, D), None if lengths is None else jnp.array(lengths)

        def gradients(backend: str) -> Any:
            net = network(
                cell,
                layers=layers,
                bidirectional=bidirectional,
                dropout=rates,
                normalization={"cell": "layer"},
                cotangent={"clip_norm": 0.1, "scale": 0.9, "cut_every": 3},
                recurrence={"backend": backend, "chunk": 2},
            )
            graphdef, params, rest = nnx.split(net, nnx.Param, ...)
            params = in_double(params)
            params = jax.tree.map(lambda a, n: a + 0.3 * n, params, random_like(params, 7))

            def loss(params: Any) -> jax.Array:
                return (nnx.merge(graphdef, params, in_double(rest))(x, rows, training=training()) ** 2).sum()

            return jax.jit(jax.value_and_grad(loss))(params)

        fused, reference = gradients("fused"), gradients("reference")
        assert_close(jax.tree.leaves(fused), jax.tree.leaves(reference), 1e-10)


class Diagonal(BaseCell):
    """A cell whose state meets no matrix."""

    def step(self, carry: Any, z: Any, multiply: Any) -> Any:
        return (jnp.tanh(z[0] + carry[0]),)


@pytest.mark.parametrize(
    ("cell", "rates", "message"),
    [
        ("vanilla", {"candidate": 0.1}, "model.dropout.candidate: Vanilla has no candidate"),
        ("gru", {"zoneout_cell": 0.1}, "model.dropout.zoneout_cell: GRU has no cell state"),
        ("hippo_legs", {"zoneout_cell": 0.1}, "model.dropout.zoneout_cell: HiPPOLegS has no cell state of H units"),
        ("lmu", {"zoneout_cell": 0.1}, "model.dropout.zoneout_cell: LMU has no cell state of H units"),
        ("diagonal", {"state": 0.1}, "model.dropout.state: Diagonal has no recurrent matrix"),
        ("diagonal", {"recurrent_kernel": 0.1}, "model.dropout.recurrent_kernel: Diagonal has no recurrent matrix"),
        ("lstm", {"embedding": 0.1}, "model.dropout.embedding: this network has no embedding"),
    ],
)
def test_dropout_without_a_place_is_refused(cell, rates, message, monkeypatch):
    monkeypatch.setitem(CELLS, "diagonal", Diagonal)
    with pytest.raises(ConfigError, match=message):
        network(cell, dropout=rates)


@pytest.mark.parametrize("rate", [1.0, -0.1, 1.5])
def test_rates_outside_their_range_are_refused(rate):
    section = {"cell": {"name": "lstm", "features": H}, "dropout": {"state": rate}}
    with pytest.raises(ConfigError, match=r"model.dropout.state: .* out of range; it must be at least 0 and below 1"):
        resolve(ModelOptions, section, "model")
