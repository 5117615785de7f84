"""Layer and batch normalisation: their formulas, their invariances, and the running statistics."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rnnlab.nn.network import Network
from rnnlab.ops.normalization import EPSILON, BatchNormalization, LayerNormalization
from rnnlab.ops.random_streams import Training
from tests.helpers import assert_close, float64, in_double, random_array
from tests.tiers import slow_tests

T, B, D, H = 6, 4, 3, 5
TRAINING = Training(jax.random.key(0), jnp.arange(B))


def network(cell: str = "lstm", **fields: Any) -> Network:
    return Network(D, 2, cell={"name": cell, "features": H}, rngs=nnx.Rngs(0), **fields)


def test_layer_normalization_is_its_formula():
    with float64():
        x = random_array(0, T, B, D)
        norm = LayerNormalization(D)
        norm.gain[...], norm.bias[...] = random_array(1, D), random_array(2, D)
        a = np.asarray(x)
        expected = (a - a.mean(-1, keepdims=True)) / np.sqrt(a.var(-1, keepdims=True) + EPSILON)
        assert_close(norm(x), jnp.asarray(expected * norm.gain[...] + norm.bias[...]), 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["lstm", *slow_tests("vanilla", "gru")])
def test_cell_with_layer_normalization_does_not_see_the_scale_of_its_kernels(cell):
    net = network(cell, normalization={"cell": "layer"})
    x = 10 * random_array(0, T, B, D)
    before = net.hidden(x).h
    unnormalized = network(cell).hidden(x).h
    assert jnp.abs(before - unnormalized).max() > 0.01
    for kernel in (net.layers[0].cells[0].input_kernel, net.layers[0].cells[0].recurrent_kernel):
        kernel[...] = 7 * kernel[...]
    # From the second step on: R meets a state of zeros first. The variances' 1e-5 is what remains of the scale.
    assert_close(net.hidden(x).h, before, 2e-2)


def test_layer_normalization_in_the_cell_is_its_formula():
    with float64():
        net = in_double_network(network("lstm", normalization={"cell": "layer"}))
        layer, x = net.layers[0], random_array(0, T, B, D)
        cell, gains = layer.cells[0], layer.gains[0]
        gains.input_gain[...], gains.recurrent_gain[...] = random_array(1, 4 * H), random_array(2, 4 * H)
        cell.bias[...] = random_array(3, 4 * H)

        def norm(a: np.ndarray) -> np.ndarray:
            a = a.reshape(B, 4, H)
            return ((a - a.mean(-1, keepdims=True)) / np.sqrt(a.var(-1, keepdims=True) + EPSILON)).reshape(B, -1)

        def sigmoid(a: np.ndarray) -> np.ndarray:
            return 1 / (1 + np.exp(-a))

        h, result = np.zeros((B, H)), net.hidden(x).h
        c = h
        for t in range(T):
            z = norm(np.asarray(x[t] @ cell.input_kernel[...])) * gains.input_gain[...] + cell.bias[...]
            u = norm(h @ np.asarray(cell.recurrent_kernel[...])) * gains.recurrent_gain[...]
            i, f, g, o = np.split(np.asarray(z + u), 4, -1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            np.testing.assert_allclose(result[t], h, rtol=1e-10)


def in_double_network(net: Network) -> Network:
    graphdef, state = nnx.split(net)
    return nnx.merge(graphdef, in_double(state))


@pytest.mark.parametrize("lengths", [None, [6, 0, 3, 1]])
def test_batch_normalization_standardises_the_valid_steps_and_remembers_them(lengths):
    with float64():
        x = 5 + 3 * random_array(0, T, B, D)
        rows = None if lengths is None else jnp.array(lengths)
        norm = BatchNormalization(D, 0.9)
        norm.mean[...], norm.variance[...] = jnp.zeros(D), jnp.ones(D)
        y = norm(x, rows, TRAINING)
        valid = np.arange(T)[:, None] < np.array(lengths or [T] * B)
        seen, out = np.asarray(x)[valid], np.asarray(y)[valid]
        np.testing.assert_allclose(out.mean(0), 0, atol=1e-12)
        np.testing.assert_allclose(out.var(0), seen.var(0) / (seen.var(0) + EPSILON), rtol=1e-10)
        np.testing.assert_allclose(norm.mean[...], 0.1 * seen.mean(0), rtol=1e-6)
        np.testing.assert_allclose(norm.variance[...], 0.9 + 0.1 * seen.var(0), rtol=1e-6)
        # At evaluation the running ones, unchanged.
        remembered = np.asarray(norm.mean[...])
        expected = (np.asarray(x) - remembered) / np.sqrt(np.asarray(norm.variance[...]) + EPSILON)
        np.testing.assert_allclose(norm(x, rows), expected, rtol=1e-10)
        np.testing.assert_array_equal(norm.mean[...], remembered)


def test_batch_statistics_and_their_gradients_agree_between_one_and_two_devices():
    with float64():
        x = random_array(0, T, B, D)
        weights = random_array(1, T, B, D)

        def run(x: jax.Array, weights: jax.Array, axis: str | None) -> Any:
            def loss(x: jax.Array) -> Any:
                norm = BatchNormalization(D, 0.9)
                y = norm(x, None, TRAINING._replace(axis=axis))
                return (y * weights).sum(), (y, norm.mean[...], norm.variance[...])

            return jax.grad(loss, has_aux=True)(x)

        mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        split, whole = jax.sharding.PartitionSpec(None, "data"), jax.sharding.PartitionSpec()
        two = jax.shard_map(
            lambda x, w: run(x, w, "data"),
            mesh=mesh,
            in_specs=(split, split),
            out_specs=(split, (split, whole, whole)),
            check_vma=False,
        )
        assert_close(jax.jit(two)(x, weights), run(x, weights, None), 1e-10)


@pytest.mark.parametrize("kind", ["batch", *slow_tests("layer")])
def test_norms_between_layers_and_on_the_input_are_where_they_say(kind):
    net = network(layers=3, normalization={"between": kind, "input": None})
    assert [norm is not None for norm in net.norms] == [False, True, True]
    net = network(layers=2, normalization={"input": kind})
    assert [norm is not None for norm in net.norms] == [True, False]
    x = 100 + random_array(0, T, B, D)
    moved = net(3 * x + 50, training=TRAINING)
    if kind == "batch":
        assert_close(moved, net(x, training=TRAINING), 1e-2)
