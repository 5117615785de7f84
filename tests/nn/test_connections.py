"""What connects layers: residual, highway, skip and dense connections, and attention over time."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rnnlab.config.errors import ConfigError
from rnnlab.nn.attention import Attention
from rnnlab.nn.network import Network
from tests.helpers import assert_close, float64, in_double, random_array, random_like, with_bad_padding
from tests.tiers import slow_tests

T, B, D, H = 5, 3, 5, 4  # So many inputs that their projection is one product, whatever XLA fuses it with.
LENGTHS = jnp.array([5, 2, 3])


def network(cell: str = "lstm", **fields: Any) -> Network:
    """In double precision, at a random point."""
    net = Network(D, 2, cell={"name": cell, "features": H}, rngs=nnx.Rngs(0), **{"layers": 3} | fields)
    graphdef, state = nnx.split(net)
    state = in_double(state)
    moved = jax.tree.map(lambda a, n: jnp.asarray(np.asarray(a) + 0.3 * np.asarray(n)), state, random_like(state, 5))
    return nnx.merge(graphdef, moved)


def last(h: jax.Array) -> jax.Array:
    return jnp.stack([h[n - 1, row] for row, n in enumerate(LENGTHS)])


@pytest.mark.parametrize("bidirectional", [True, *slow_tests(False)])
def test_residual_stack_with_zero_inner_branches_is_the_identity(bidirectional):
    with float64():
        width = 2 * H if bidirectional else H
        net = network("vanilla", connections="residual", input_projection=width, bidirectional=bidirectional)
        for layer in net.layers:
            for cell in layer.cells:
                for parameter in (cell.input_kernel, cell.recurrent_kernel, cell.bias):
                    parameter[...] = jnp.zeros_like(parameter[...])
        x = random_array(0, T, B, D)
        h, state = jax.jit(net.hidden)(x, LENGTHS)
        inside = np.arange(T)[:, None] < np.asarray(LENGTHS)
        embedded = net.embed(jnp.where(inside[:, :, None], x, 0))
        np.testing.assert_array_equal(np.asarray(h)[inside], np.asarray(embedded)[inside])
        np.testing.assert_array_equal(state, last(embedded))


@pytest.mark.slow
def test_connections_are_their_formulas():
    with float64():
        x = random_array(0, T, B, D)

        def layers(net: Network) -> list:
            return [jax.jit(lambda a, layer=layer: layer(a)[0]) for layer in net.layers]

        def found(net: Network) -> jax.Array:
            return jax.jit(lambda a: net.hidden(a).h)(x)

        net = network(connections="residual")
        f, y = layers(net), x
        assert [s is None for s in net.shortcuts] == [False, True, True]
        for index in range(3):
            y = f[index](y) + (net.shortcuts[0](y) if index == 0 else y)
        assert_close(found(net), y, 1e-12)

        net = network(connections="highway")
        f, y = layers(net), x
        for index in range(3):
            gate = jax.nn.sigmoid(net.highway_gates[index](y))
            y = gate * f[index](y) + (1 - gate) * (net.shortcuts[0](y) if index == 0 else y)
        assert_close(found(net), y, 1e-12)

        net = network(connections="skip")
        f, y = layers(net), x
        outs = []
        for index in range(3):
            outs.append(f[index](y))
            y = jnp.concatenate([x, outs[-1]], -1)
        assert_close(found(net), jnp.concatenate(outs, -1), 1e-12)

        net = network(connections="dense")
        y = x
        for each in layers(net):
            y = jnp.concatenate([y, each(y)], -1)
        assert_close(found(net), y, 1e-12)


@pytest.mark.parametrize("connections", ["highway", "dense", *slow_tests("plain", "residual", "skip")])
def test_state_is_what_the_outputs_are_at_the_last_valid_step(connections):
    with float64():
        net = network(connections=connections)
        h, state = jax.jit(net.hidden)(with_bad_padding(random_array(0, T, B, D), LENGTHS), LENGTHS)
        assert_close(state, last(h), 1e-12)
        assert jnp.isfinite(h).all()


def test_highway_begins_near_its_shortcut():
    net = Network(D, 2, cell={"name": "gru", "features": H}, connections="highway", rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(net.highway_gates[0].bias[...], -np.ones(H))


@pytest.mark.parametrize("connections", ["residual", "highway"])
def test_widths_that_cannot_be_joined_are_refused(connections):
    with pytest.raises(ConfigError, match=rf"a {connections} connection cannot join {D} features and {H}; make"):
        network(connections=connections, project_shortcuts=False)
    network(connections=connections, project_shortcuts=False, input_projection=H)


@pytest.mark.parametrize("kind", ["dot", "additive"])
def test_attention_is_its_formula_over_the_valid_steps(kind):
    with float64():
        net = network(layers=1, attention=kind)
        x = with_bad_padding(random_array(0, T, B, D), LENGTHS)
        run = jax.jit(lambda x, n: (net.attention_weights(x, n), net.hidden(x, n), net(x, n)))
        weights, (h, state), outputs = jax.tree.map(np.asarray, run(x, LENGTHS))
        attention = net.attention
        for row, length in enumerate(LENGTHS):
            query = state[row] @ attention.query_kernel[...]
            keys = h[:length, row] @ attention.key_kernel[...]
            if kind == "dot":
                scores = keys @ query / np.sqrt(H)
            else:
                scores = (np.tanh(query + keys) @ attention.score_kernel[...])[:, 0]
            expected = np.exp(scores) / np.exp(scores).sum()
            np.testing.assert_allclose(weights[:length, row], expected, rtol=1e-10)
            assert (weights[length:, row] == 0).all()
            seen = np.concatenate([state[row], expected @ h[:length, row]])
            np.testing.assert_allclose(outputs[row], net.readout(seen[None])[0], rtol=1e-10)


@pytest.mark.parametrize("kind", ["additive", *slow_tests("dot")])
def test_attention_of_an_empty_row_is_zero_and_its_gradient_finite(kind):
    with float64():
        net, x = network(layers=1, attention=kind), random_array(0, T, B, D)
        lengths = jnp.array([0, 5, 1])
        assert (net.attention_weights(x, lengths)[:, 0] == 0).all()
        graphdef, state = nnx.split(net)
        gradient = jax.jit(jax.grad(lambda s: (nnx.merge(graphdef, s)(x, lengths) ** 2).sum()))(state)
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("kind", ["dot", "additive"])
def test_attention_over_many_rows_is_that_of_each_row(kind):
    # XLA's CPU code once gave other weights to 500 rows than to 16.
    steps, batch, features = 200, 500, 48
    attention = Attention(features, kind, rngs=nnx.Rngs(0))
    carries, state = random_array(0, steps + 1, batch, features), random_array(1, batch, features)
    weights = jax.jit(lambda c, s: attention.weights(c[1:], s, None))
    few = weights(carries[:, :16], state[:16])
    np.testing.assert_allclose(weights(carries, state)[:, :16], few, rtol=1e-3, atol=1e-6)


def test_attention_needs_a_readout_at_the_end():
    with pytest.raises(ConfigError, match=r"model.attention: this task wants an answer at every step"):
        network(attention="dot", readout="every")
    with pytest.raises(ValueError, match="this network has no attention"):
        network().attention_weights(jnp.zeros((T, B, D)))
