"""Networks: what stands around the engine. Embedding, projection, layers, directions, learned carries, readouts, taps.

That the engine and the cells are right is in test_recurrence.py and test_cells.py; here they are taken as given.
"""

import copy
import itertools
import pickle
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import treescope
from flax import nnx

from rnnlab.config.errors import ConfigError
from rnnlab.engine import unroll
from rnnlab.nn.network import Network
from tests.helpers import assert_close, dot, float64, jaxtyping_disabled, random_array, random_like, with_bad_padding
from tests.tiers import exhaustive_tests

T, B, D, H, O = 5, 3, 2, 3, 4  # noqa: E741  (the legend's letters)
LENGTHS = (5, 2, 3)
VANILLA = {"name": "vanilla", "features": H}
LSTM = {"name": "lstm", "features": H}

Parts = tuple[nnx.GraphDef, Any, Any]


def abstract(in_features: int = D, out_features: int = O, cell: Any = VANILLA, **fields: Any) -> Network:
    """A network of shapes without numbers: nothing is computed."""
    return nnx.eval_shape(lambda: Network(in_features, out_features, cell=cell, **fields, rngs=nnx.Rngs(0)))


def random_network(seed: int = 0, **fields: Any) -> Parts:
    """A network's graph, its parameters from N(0, 0.5²), and the rest; in double precision where that is on."""
    graphdef, params, rest = nnx.split(abstract(**fields), nnx.Param, ...)
    params = jax.tree.map(lambda a: jnp.asarray(0.5 * a, float), random_like(params, seed))
    return graphdef, params, rest


# --- shapes and inputs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("readout", "expected"), [("last", (B, O)), ("every", (T, B, O))])
@pytest.mark.parametrize("layers", [3, *exhaustive_tests(1)])
@pytest.mark.parametrize("bidirectional", [True, *exhaustive_tests(False)])
@pytest.mark.parametrize("cell", ["lstm", *exhaustive_tests("vanilla", "gru_reset_before")])
def test_outputs_have_the_readouts_shape(
    readout: str, expected: tuple[int, ...], layers: int, bidirectional: bool, cell: str
) -> None:
    networks = []

    def outputs(x: jax.Array) -> jax.Array:
        fields = dict(readout=readout, layers=layers, bidirectional=bidirectional)
        networks.append(Network(D, O, cell={"name": cell, "features": H}, **fields, rngs=nnx.Rngs(0)))
        return networks[0](x)

    assert jax.eval_shape(outputs, jax.ShapeDtypeStruct((T, B, D), jnp.float32)).shape == expected
    (network,) = networks
    width = 2 * H if bidirectional else H
    assert [layer.cells[0].in_features for layer in network.layers] == [D] + [width] * (layers - 1)
    assert network.readout.kernel.shape == (width, O)


# name -> (fields of the network, its inputs: shape and type, what the line says)
NOT_ITS_INPUTS = {
    **{
        f"width {width}": ({}, (T, B, width), "float32", rf"\({T}, {B}, {width}\).*\[..., {D}\]")
        for width in (1, 3, 40)
    },
    "integers of another width": ({}, (T, B, D + 1), "int32", r"\[..., 2\]"),
    "projected, of another width": ({"input_projection": 4}, (T, B, 4), "float32", r"\[..., 2\]"),
    "no features": ({}, (T, B), "float32", r"\(5, 3\).*\[T, B, 2\]"),
    "no steps": ({}, (0, B, D), "float32", "no time steps"),
    "no rows": ({}, (T, 0, D), "float32", "no rows"),
    "tokens that are not integers": ({"vocabulary": 5, "embedding": 2}, (T, B), "float32", "integers"),
    "one-hot tokens": ({"vocabulary": 5}, (T, B, 5), "int32", r"int32\[5, 3, 5\].*\[T, B\]"),
    "no tokens": ({"vocabulary": 5}, (0, B), "int32", "no time steps"),
}


@pytest.fixture
def without_type_checks() -> Iterator[None]:
    """As outside the tests: what the network checks itself is all that is checked."""
    with jaxtyping_disabled():
        yield


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("case", NOT_ITS_INPUTS)
@pytest.mark.parametrize("lengths", [False, True])
def test_inputs_of_another_network_are_refused_with_both_shapes(case, lengths):
    fields, shape, dtype, message = NOT_ITS_INPUTS[case]
    network = abstract(**fields)
    rows = jax.ShapeDtypeStruct((shape[1],), jnp.int32) if lengths else None
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda network, *given: network(*given), network, jax.ShapeDtypeStruct(shape, dtype), rows)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(("shape", "dtype"), [((T,), "int32"), ((B, 1), "int32"), ((B,), "float32"), ((1,), "int32")])
def test_lengths_of_other_rows_are_refused(shape, dtype):
    x, lengths = jax.ShapeDtypeStruct((T, B, D), jnp.float32), jax.ShapeDtypeStruct(shape, dtype)
    with pytest.raises(ValueError, match="lengths h"):
        jax.eval_shape(lambda network, *given: network(*given), abstract(), x, lengths)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_first_carries_of_another_network_are_refused(bidirectional):
    network, x = abstract(bidirectional=bidirectional, layers=2), jax.ShapeDtypeStruct((T, B, D), jnp.float32)
    for other in (abstract(bidirectional=not bidirectional, layers=2), abstract(bidirectional=bidirectional)):
        with pytest.raises(ValueError, match="first has carries for"):
            jax.eval_shape(lambda n, o, x: n.hidden(x, first=o.first_carries(B)), network, other, x)


@pytest.mark.parametrize(("token", "embedding"), [(-1, 2), (5, None), *exhaustive_tests((-1, None), (5, 2))])
def test_tokens_beyond_the_vocabulary_are_refused_where_they_are_known(embedding, token):
    graphdef, params, rest = random_network(vocabulary=5, embedding=embedding)
    network, x = nnx.merge(graphdef, params, rest), jnp.zeros((T, B), jnp.int32).at[-1, 1].set(token)
    with pytest.raises(ValueError, match=r"tokens of this network .* from 0 to 4$"):
        network(x)
    lengths = jnp.full(B, T - 1)  # In the padding anything may stand.
    np.testing.assert_array_equal(network(x, lengths), network(jnp.zeros_like(x), lengths))


def test_integers_are_numbers_in_a_network_too():
    fields = {"normalization": {"input": "layer"}}
    graphdef, params, rest = random_network(**fields)
    x = jnp.asarray(np.random.default_rng(0).integers(0, 9, (T, B, D)))

    def gradients(x):
        return jax.grad(lambda p: nnx.merge(graphdef, p, rest)(x).sum())(params)

    assert_close(gradients(x), gradients(x.astype("float32")), 0)


@pytest.mark.parametrize(
    "fields", [{"vocabulary": 5, "embedding": 2, "bidirectional": True}, *exhaustive_tests({"attention": "dot"})]
)
def test_rows_on_a_mesh_with_explicit_axes_give_the_gradients_of_one_device(fields):
    rows = 4
    with float64():
        graphdef, params, rest = random_network(**fields)
        tokens = jnp.asarray(np.random.default_rng(0).integers(0, 5, (T, rows)))
        x, lengths = tokens if "vocabulary" in fields else random_array(1, T, rows, D), jnp.array([5, 2, 0, 3])

        def loss(params: Any, x: jax.Array, lengths: jax.Array) -> jax.Array:
            return (nnx.merge(graphdef, params, rest)(x, lengths) ** 2).sum()

        gradients = jax.jit(jax.grad(loss))
        expected = gradients(params, x, lengths)
        with jax.set_mesh(jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))):
            x = jax.device_put(x, jax.sharding.PartitionSpec(None, "data"))
            assert_close(gradients(params, x, lengths), expected, 1e-13)


TOKENS = np.array([[0, 3, 2], [1, 1, 4]])


def test_embedding_is_a_lookup() -> None:
    network = nnx.merge(*random_network(vocabulary=5, embedding=4))
    table = np.asarray(network.embedding[...])
    assert table.shape == (5, 4)
    np.testing.assert_array_equal(network.embed(jnp.asarray(TOKENS)), table[TOKENS])


def test_tokens_without_embedding_are_one_hot() -> None:
    network = nnx.merge(*random_network(vocabulary=5))
    np.testing.assert_array_equal(network.embed(jnp.asarray(TOKENS)), np.eye(5)[TOKENS])
    assert network.layers[0].cells[0].in_features == 5


def test_embedding_of_numbers_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.embedding: .* numbers, not tokens; use input_projection"):
        abstract(embedding=4)


@pytest.mark.parametrize("vocabulary", [None, 5])
def test_input_projection_is_linear_before_the_first_cell(vocabulary: int | None) -> None:
    with float64():
        network = nnx.merge(*random_network(vocabulary=vocabulary, input_projection=7))
        x = random_array(1, T, B, D) if vocabulary is None else jnp.asarray(TOKENS)
        seen = x if vocabulary is None else np.eye(vocabulary)[TOKENS]
        projection = network.input_projection
        expected = seen @ projection.kernel[...] + projection.bias[...]
        assert_close(network.embed(x), expected, 1e-14)
    assert network.layers[0].cells[0].in_features == 7


# --- directions, lengths, carries ------------------------------------------------------------------------------------


def function(parts: Parts) -> Any:
    """(params, x, lengths) -> outputs."""
    graphdef, _, rest = parts
    return lambda params, x, lengths=None: nnx.merge(graphdef, params, rest)(x, lengths)


def call(parts: Parts, x: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
    """The network's outputs."""
    return jax.jit(function(parts))(parts[1], x, lengths)


@pytest.mark.parametrize("lengths", [LENGTHS, *exhaustive_tests(None)])
@pytest.mark.parametrize("readout", ["last", "every"])
def test_bidirectional_equals_two_unrolls_side_by_side(readout: str, lengths: tuple[int, ...] | None) -> None:
    with float64():
        parts = random_network(readout=readout, bidirectional=True, cell=LSTM)
        x, rows = random_array(1, T, B, D), None if lengths is None else jnp.array(lengths)
        network = nnx.merge(*parts)

        @jax.jit
        def side_by_side(x: jax.Array, rows: jax.Array | None) -> jax.Array:
            (forward, reverse), out = network.layers[0].cells, network.readout
            h_forward, last_forward = unroll(forward, x, lengths=rows)
            h_reverse, last_reverse = unroll(reverse, x, lengths=rows, reverse=True)
            h = [h_forward, h_reverse] if readout == "every" else [last_forward[0], last_reverse[0]]
            return jnp.concatenate(h, -1) @ out.kernel[...] + out.bias[...]

        assert_close(call(parts, x, rows), side_by_side(x, rows), 1e-13)


@pytest.mark.parametrize(("layers", "bidirectional"), [(2, True), *exhaustive_tests((1, False))])
@pytest.mark.parametrize("readout", ["last", *exhaustive_tests("every")])
def test_each_row_equals_itself_cut_to_its_length(readout: str, layers: int, bidirectional: bool) -> None:
    with float64():
        parts = random_network(readout=readout, layers=layers, bidirectional=bidirectional, learned_carry=True)
        apply, x = jax.jit(function(parts)), random_array(1, T, B, D)
        found = apply(parts[1], with_bad_padding(x, jnp.array(LENGTHS)), jnp.array(LENGTHS))
        for row, length in enumerate(LENGTHS):
            expected = apply(parts[1], x[:length, row : row + 1])
            if readout == "last":
                assert_close(found[row], expected[0], 1e-13)
            else:
                assert_close(found[:length, row], expected[:, 0], 1e-13)


def test_learned_carry_starts_at_zero_and_gets_gradients() -> None:
    network = Network(D, O, cell=LSTM, bidirectional=True, learned_carry=True, rngs=nnx.Rngs(0))
    graphdef, params, rest = nnx.split(network, nnx.Param, ...)
    carries = nnx.to_pure_dict(params)["layers"][0]["carries"]
    assert [leaf.shape for leaf in jax.tree.leaves(carries)] == 4 * [(H,)]  # h and c in each direction.
    assert not any(leaf.any() for leaf in jax.tree.leaves(carries))
    apply = function((graphdef, params, rest))
    gradient = jax.jit(jax.grad(lambda params: jnp.sum(apply(params, random_array(1, T, B, D)))))(params)
    assert all(leaf.all() for leaf in jax.tree.leaves(nnx.to_pure_dict(gradient)["layers"][0]["carries"]))


def test_learned_carry_is_every_rows_first_carry() -> None:
    with float64():
        parts = random_network(cell=LSTM, learned_carry=True, readout="every")
        network, x = nnx.merge(*parts), random_array(1, T, B, D)

        @jax.jit
        def by_hand(x: jax.Array) -> jax.Array:
            carry = tuple(jnp.stack([row[...]] * B) for row in network.layers[0].carries[0])
            h, _ = unroll(network.layers[0].cells[0], x, initial_carry=carry)
            return h @ network.readout.kernel[...] + network.readout.bias[...]

        assert_close(call(parts, x), by_hand(x), 1e-13)


# --- backends and taps -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layers", "bidirectional", "lengths", "learned_carry"),
    # Here each of the four in both ways.
    [
        pytest.param(
            *(layers, both, lengths, learned),
            marks=()
            if (layers, both, lengths is None) in ((1, True, False), (2, False, True))
            else pytest.mark.exhaustive,
        )
        for layers, both, lengths, learned in itertools.product([1, 2], [False, True], [None, LENGTHS], [False, True])
    ],
)
def test_backends_give_equal_gradients_under_every_switch(
    layers: int, bidirectional: bool, lengths: tuple[int, ...] | None, learned_carry: bool
) -> None:
    rows = None if lengths is None else jnp.array(lengths)

    def gradients(backend: str) -> Any:
        graphdef, params, rest = random_network(
            readout="every",
            layers=layers,
            bidirectional=bidirectional,
            learned_carry=learned_carry,
            recurrence={"backend": backend, "chunk": 2 if backend == "fused" else None},
        )
        x = random_array(1, T, B, D)
        weights = random_array(2, T, B, O)

        def loss(params: Any, x: jax.Array, taps: Any) -> jax.Array:
            return dot(nnx.merge(graphdef, params, rest)(x, rows, taps), weights)

        taps = nnx.merge(graphdef, params, rest).make_taps(x)
        assert len(taps) == layers
        assert all(len(directions) == (2 if bidirectional else 1) for directions in taps)
        value, found = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(params, x, taps)
        return value, nnx.to_pure_dict(found[0]), found[1:]

    with float64():
        fused, reference = gradients("fused"), gradients("reference")
    assert_close(fused, reference, 1e-11)
    assert all(leaf.any() for leaf in jax.tree.leaves(reference)), "some gradient is zero and shows nothing"


@pytest.mark.parametrize("projection", [None, 3])
def test_padding_reaches_neither_outputs_nor_gradients(projection: int | None) -> None:
    parts = random_network(input_projection=projection, readout="every")
    apply, params = function(parts), parts[1]
    x, lengths = random_array(1, T, B, D), jnp.array(LENGTHS)
    differentiate = jax.jit(jax.grad(lambda params, x: jnp.sum(apply(params, x, lengths))))
    clean = jnp.where(jnp.arange(T)[:, None, None] < lengths[:, None], x, 0)
    found, expected = differentiate(params, with_bad_padding(x, lengths)), differentiate(params, clean)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_graph_is_hashable_so_that_it_can_be_a_static_argument():
    hash(nnx.graphdef(Network(2, 1, cell={"name": "lstm", "features": 3}, rngs=nnx.Rngs(0))))


@pytest.mark.parametrize("way", ["pickle", *exhaustive_tests("deepcopy", "cloudpickle")])
def test_copies_of_a_network_put_out_the_same(way):
    fields: dict[str, Any] = {"layers": 2, "dropout": {"input": 0.1}, "cotangent": {"scale": 0.5}}
    network = Network(D, O, cell=LSTM, normalization={"between": "batch"}, **fields, rngs=nnx.Rngs(0))
    ways = {"pickle": pickle, "cloudpickle": pickle if way != "cloudpickle" else pytest.importorskip("cloudpickle")}
    found = copy.deepcopy(network) if way == "deepcopy" else pickle.loads(ways[way].dumps(network))
    x = random_array(0, T, B, D)
    assert_close(found(x), network(x), 0)


def test_a_notebook_shows_networks_layers_and_cells_as_trees_with_pictures_of_their_arrays() -> None:
    network = Network(D, O, cell=VANILLA, rngs=nnx.Rngs(0))
    layer = network.layers[0]
    modules = {"Network": network, "RecurrentLayer": layer, "Vanilla": layer.cells[0]}
    for name, module in modules.items():
        shown = module._repr_mimebundle_(include=None, exclude=None)
        assert shown["text/plain"].startswith(name)
        assert "\x1b" not in shown["text/plain"]
        assert "treescope" in shown["text/html"]
        assert len(shown["text/html"]) > len(treescope.render_to_html(module)) > 1000  # The pictures.
