"""Saturation: gates that are held where they are, every unit against a loop, padding, devices, and any cell's names."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from rnnlab.cells import CELLS
from rnnlab.cells.base import BaseCell, Cell
from rnnlab.config.errors import ConfigError
from rnnlab.diagnostics.probe import Probe
from rnnlab.diagnostics.saturation import STEPS, saturation, steps_looked_at
from rnnlab.diagnostics.units import units_of
from rnnlab.nn.network import Network
from rnnlab.nn.trajectory import trajectories
from rnnlab.ops.activations import ModReLU, sigmoid, tanh
from tests.helpers import (
    assert_close,
    at_once,
    float64,
    random_array,
    random_like,
    shape_of_cell,
    with_bad_padding,
)
from tests.tiers import in_tier, slow_tests

T, B, D, H = 6, 4, 2, 3
LENGTHS = (6, 3, 1, 4)

Found = dict[str, np.ndarray]


class MGU(Cell):
    """As a user writes it."""

    gate_names = ("f", "n")

    def gates(self, carry, z, u):
        (h,) = carry
        (z_f, z_n), (u_f, u_n) = z, u
        f = sigmoid(z_f + u_f)
        return (h + f * (jnp.tanh(z_n + f * u_n) - h),)


def new_network(cell: Any, **fields: Any) -> Network:
    section = {"name": cell} if isinstance(cell, str) else cell
    return Network(D, 1, cell={"features": H, **section}, **fields, rngs=nnx.Rngs(0))


def network_of(cell: Any, scale: float = 1.0, **fields: Any) -> Network:
    """With parameters from N(0, scale²), in double precision where that is on."""
    graphdef, params, rest = nnx.split(nnx.eval_shape(lambda: new_network(cell, **fields)), nnx.Param, ...)
    if jax.tree.leaves(rest):
        rest = at_once(lambda: nnx.split(new_network(cell, **fields), nnx.Param, ...)[2])
    return nnx.merge(graphdef, jax.tree.map(lambda a: jnp.asarray(scale * a, float), random_like(params, 1)), rest)


def probe_of(network: Network, x: jax.Array, lengths: jax.Array | None, axis: str | None = None) -> Probe:
    """What saturation reads of one; the rest is empty."""
    return Probe(trajectories(network, x, lengths), [], {}, {}, {}, {}, axis)


def measure(network: Network, x: jax.Array, lengths: tuple[int, ...] | None = None) -> Found:
    """`saturation`, compiled."""
    graphdef, state = nnx.split(network)
    of_batch = jax.jit(lambda state, *batch: saturation(probe_of(nnx.merge(graphdef, state), *batch)))
    found = of_batch(state, x, None if lengths is None else jnp.array(lengths))
    return {key: np.asarray(value) for key, value in found.items()}


def units(found: Found, layer: str = "layer 1") -> set[str]:
    """The names of a layer's units."""
    names = (key.split("/") for key in found)
    return {name for place, name, quantity in names if place == layer and quantity != "norm"}


# --- names -----------------------------------------------------------------------------------------------------------

NAMES = {
    "vanilla": ["h"],
    "irnn": ["h"],
    "lstm": ["i", "f", "g", "o", "output"],
    "gru": ["r", "z", "n"],
    "gru_reset_before": ["r", "z", "n"],
    "sru": ["f", "r"],
    "qrnn": ["n", "f", "o"],
    "hippo_legs": ["n+u", "g"],
    "lmu": ["h+u"],
    "mut1": ["x", "r", "output", "z"],
    "residual_lstm": ["i", "f", "g", "o", "output"],
}
AROUND: dict[str, dict[str, Any]] = {
    "plain": {},
    "zoneout": {"dropout": {"zoneout": 0.1}},
    "layer": {"normalization": {"cell": "layer"}},
    "batch": {"normalization": {"cell": "batch", "steps": T}},
}


@pytest.mark.parametrize(
    ("cell", "around"),
    [
        in_tier(cell, around, further=around != "plain" and cell != "lstm")
        for cell in CELLS
        if cell != "lru"
        for around in AROUND
        if AROUND[around].get("normalization", {}).get("cell") != "batch" or isinstance(shape_of_cell(cell), Cell)
    ],
)
def test_units_are_named_by_their_gates_whatever_stands_around_the_cell(cell: str, around: str) -> None:
    names = shapes({"name": cell, "features": 4}, bidirectional=True, **AROUND[around])  # Heads divide 4.
    for layer in ("layer 1", "layer 1 reverse"):
        assert units(names, layer) == set(NAMES[cell]) if cell in NAMES else units(names, layer)


def test_a_cell_without_a_unit_that_saturates_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match="saturation is not defined for lru"):
        shapes({"name": "lru", "features": 4})


@pytest.mark.parametrize("switch", ["peepholes", "normalize_cell"])
def test_the_lstms_switches_leave_the_names_as_they_are(switch: str) -> None:
    assert units(shapes({"name": "lstm", switch: True})) == set(NAMES["lstm"])


def shapes(cell: Any, **fields: Any) -> Found:
    """What `measure` would return of a network, without numbers."""
    x = jnp.zeros((T, B, D))
    return jax.eval_shape(lambda: saturation(probe_of(new_network(cell, **fields), x, None)))


def kinds_of(function: Callable[..., Any], gates: str = "ab") -> list[tuple[str, str]]:
    """(name, kind) of the units of a function (h, a, b) -> h."""
    arrays = [random_array(seed, B, H) for seed in range(1 + len(gates))]
    found = units_of(lambda carry, z: (function(*carry, *z),), (arrays[0],), arrays[1:], gates)
    return [(unit.name, unit.kind) for unit in found]


@pytest.mark.parametrize("function", [sigmoid, jax.nn.sigmoid, jax.jit(sigmoid), lambda a: 0.5 * (1 + jnp.tanh(a / 2))])
def test_a_logistic_function_is_one_sigmoid_however_it_is_written(function: Callable[..., Any]) -> None:
    assert kinds_of(lambda h, a, b: function(a) * b + h) == [("a", "sigmoid")]


@pytest.mark.parametrize("function", [tanh, jnp.tanh, jax.nn.tanh, jax.checkpoint(lambda a: jnp.tanh(a))])
def test_a_hyperbolic_tangent_is_seen_however_it_is_written(function: Callable[..., Any]) -> None:
    assert kinds_of(lambda h, a, b: 0.5 * function(b) + 0.25) == [("b", "tanh")]


RELUS = [
    jax.nn.relu,
    lambda a: jnp.maximum(a, 0),
    lambda a: jnp.maximum(0.0, a),
    lambda a: jnp.where(a > 0, a, 0),
    lambda a: jnp.where(a < 0, 0.0, a),
    lambda a: ModReLU(jnp.full(H, -0.5))(a),
]


@pytest.mark.parametrize("function", RELUS)
def test_a_relu_is_seen_however_it_is_written(function: Callable[..., Any]) -> None:
    assert kinds_of(lambda h, a, b: function(a + h)) == [("a", "relu")]


NO_UNITS = [
    lambda a: jnp.where(a > 0, 0, a),
    lambda a: jnp.where(a > 0, 2 * a, 0),
    jax.nn.elu,
    jax.nn.leaky_relu,
    jnp.abs,
]


@pytest.mark.parametrize("function", NO_UNITS)
def test_what_is_neither_bounded_nor_rectified_is_no_unit(function: Callable[..., Any]) -> None:
    assert kinds_of(lambda h, a, b: function(a)) == []


def test_names_follow_the_data() -> None:
    def step(h: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
        first = jnp.tanh(a)
        both = jnp.tanh(b * first + c)
        again = jnp.tanh(2 * a)
        return jnp.tanh(d + a) + jnp.tanh(h + both) + again

    assert [name for name, _ in kinds_of(step, "abcd")] == ["a", "b+c", "a 2", "d", "output"]


def test_a_parameters_own_function_is_no_unit() -> None:
    assert kinds_of(lambda h, a, b: jnp.tanh(a) * jax.nn.sigmoid(jnp.ones(H))) == [("a", "tanh")]


# --- values ----------------------------------------------------------------------------------------------------------


def sigma(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def loop_of(cell: str, network: Network, x: np.ndarray, lengths: tuple[int, ...]) -> tuple[dict, dict]:
    """The units' values at all valid steps [·, H], and the rows' carries at each step, by their equations."""
    inner: Any = network.layers[0].cells[0]
    w, r, b = (np.asarray(getattr(inner, name)[...]) for name in ("input_kernel", "recurrent_kernel", "bias"))
    values: dict[str, list] = {name: [] for name in NAMES.get(cell, ["f", "n"])}
    carries: dict[str, list] = {}
    for row, length in enumerate(lengths):
        h = c = np.zeros(H)
        for t in range(length):
            z, u = np.split(x[t, row] @ w + b, len(b) // H), np.split(h @ r, len(b) // H)
            if cell == "lstm":
                i, f, o = (sigma(z[k] + u[k]) for k in (0, 1, 3))
                g = np.tanh(z[2] + u[2])
                c = f * c + i * g
                units = (i, f, g, o, np.tanh(c))
                h = o * np.tanh(c)
            elif cell == "gru":
                reset, update = sigma(z[0] + u[0]), sigma(z[1] + u[1])
                n = np.tanh(z[2] + reset * (u[2] + np.asarray(inner.recurrent_bias[...])))
                units = (reset, update, n)
                h = (1 - update) * n + update * h
            elif cell == "mgu":
                f = sigma(z[0] + u[0])
                n = np.tanh(z[1] + f * u[1])
                units, h = (f, n), (1 - f) * h + f * n
            else:
                h = np.tanh(z[0] + u[0]) if cell == "vanilla" else np.maximum(z[0] + u[0], 0)
                units = (h,)
            for name, value in zip(values, units, strict=True):
                values[name].append(value)
            for name, value in (("h", h), ("c", c))[: 2 if cell == "lstm" else 1]:
                carries.setdefault(name, [[] for _ in x])[t].append(value)
    return {name: np.array(value) for name, value in values.items()}, carries


def expected_of(cell: str, network: Network, x: np.ndarray, lengths: tuple[int, ...]) -> Found:
    """`saturation` from the loop."""
    values, carries = loop_of(cell, network, x, lengths)
    found = {}
    for name, value in values.items():
        if cell == "irnn":
            found["h/dead"] = np.mean(np.all(value == 0, axis=0))
            continue
        bounded = name in ("g", "n", "h", "output")
        found[f"{name}/histogram"] = np.histogram(value, 20, (-1 if bounded else 0, 1))[0] / value.size
        if bounded:
            found[f"{name}/beyond 0.99"] = np.mean(np.abs(value) > 0.99)
        else:
            found[f"{name}/below 0.01"], found[f"{name}/above 0.99"] = np.mean(value < 0.01), np.mean(value > 0.99)
    for name, rows in carries.items():
        found[f"{name}/norm"] = np.array([np.sqrt(np.mean(np.sum(np.square(at), axis=1))) for at in rows])
    return {f"layer 1/{key}": np.asarray(value, float) for key, value in found.items()}


@pytest.mark.parametrize("lengths", [None, LENGTHS])
@pytest.mark.parametrize("cell", ["irnn", "lstm", *slow_tests("vanilla", "gru", "mgu")])
def test_all_that_is_measured_equals_a_loop_over_rows_and_steps(cell: str, lengths: Any, monkeypatch: Any) -> None:
    monkeypatch.setitem(CELLS, "mgu", MGU)
    with float64():
        network, x = network_of(cell, scale=2.0), 2 * random_array(5, T, B, D)
        if cell == "irnn":
            bias = network.layers[0].cells[0].bias
            bias[...] = bias[...] - jnp.array([0.0, 1e6, 1.0])
        seen = x if lengths is None else with_bad_padding(x, jnp.array(lengths))
        found = measure(network, seen, lengths)
        assert_close(found, expected_of(cell, network, np.asarray(x), lengths or (T,) * B), 1e-14)
    if cell == "irnn":
        assert 0 < found["layer 1/h/dead"] < 1
    else:
        assert any(0 < value < 1 for key, value in found.items() if "0.99" in key)


def test_long_sequences_have_their_gates_looked_at_at_steps_that_are_evenly_spread() -> None:
    assert steps_looked_at(STEPS).tolist() == list(range(STEPS))
    at = steps_looked_at(3 * STEPS)
    assert (len(at), at[0], at[-1]) == (STEPS, 0, 3 * STEPS - 1)
    assert set(np.diff(at)) == {3, 4}
    with float64():
        network, x = network_of("gru", scale=2.0), random_array(5, 3 * STEPS, B, D)
        values, carries = loop_of("gru", network, np.asarray(x), (3 * STEPS,) * B)
        found = measure(network, x)
    for name, value in values.items():
        # The loop goes through rows first.
        looked_at = value.reshape(B, 3 * STEPS, H)[:, at]
        expected = np.histogram(looked_at, 20, (-1 if name == "n" else 0, 1))[0] / looked_at.size
        np.testing.assert_allclose(found[f"layer 1/{name}/histogram"], expected, rtol=1e-14)
    norms = [np.sqrt(np.mean(np.sum(np.square(step), axis=1))) for step in carries["h"]]
    np.testing.assert_allclose(found["layer 1/h/norm"], norms, rtol=1e-12)


@pytest.mark.parametrize("activation", ["irnn", {"name": "vanilla", "activation": lambda a: 2 * jax.nn.relu(a)}])
def test_one_step_of_life_is_found_anywhere_in_a_long_sequence(activation: Any) -> None:
    network = network_of(activation)
    cell = network.layers[0].cells[0]
    cell.input_kernel[...] = jnp.zeros((D, H)).at[0, 0].set(1)
    cell.recurrent_kernel[...], cell.bias[...] = jnp.zeros((H, H)), jnp.zeros(H)
    between = 1
    assert between not in steps_looked_at(3 * STEPS)
    x = jnp.zeros((3 * STEPS, B, D)).at[between, 1, 0].set(1e-6)
    assert measure(network, x)["layer 1/h/dead"] == pytest.approx(2 / 3)


def test_gates_held_by_their_biases_are_saturated_exactly() -> None:
    network = network_of("lstm", scale=0.01)
    network.layers[0].cells[0].bias[...] = jnp.repeat(jnp.array([-9.0, 9.0, 9.0, 0.0]), H)
    found = measure(network, random_array(0, T, B, D), LENGTHS)
    shares = {key.removeprefix("layer 1/"): float(value) for key, value in found.items() if "0." in key}
    assert shares == {
        "i/below 0.01": 1,
        "i/above 0.99": 0,
        "f/below 0.01": 0,
        "f/above 0.99": 1,
        "g/beyond 0.99": 1,
        "o/below 0.01": 0,
        "o/above 0.99": 0,
        "output/beyond 0.99": 0,
    }
    assert found["layer 1/i/histogram"].tolist() == [1] + [0] * 19
    assert found["layer 1/g/histogram"].tolist() == [0] * 19 + [1]


def test_a_unit_that_lives_in_one_row_at_one_step_is_not_dead() -> None:
    network = network_of("irnn")
    cell = network.layers[0].cells[0]
    cell.input_kernel[...] = jnp.zeros((D, H)).at[0, 0].set(1)
    cell.recurrent_kernel[...], cell.bias[...] = jnp.zeros((H, H)), jnp.zeros(H)
    x = jnp.zeros((T, B, D)).at[2, 1, 0].set(1e-6)
    assert measure(network, x, LENGTHS)["layer 1/h/dead"] == pytest.approx(2 / 3)
    assert measure(network, x, (6, 2, 1, 4))["layer 1/h/dead"] == 1  # Now it is padding.


def test_a_unit_that_lives_in_padding_alone_is_dead() -> None:
    network = network_of("irnn")
    cell = network.layers[0].cells[0]
    cell.input_kernel[...], cell.bias[...] = jnp.full((D, H), -1.0), jnp.ones(H)  # Padding is 0: there they would live.
    assert measure(network, jnp.ones((T, B, D)), LENGTHS)["layer 1/h/dead"] == 1


def test_a_step_that_no_row_has_has_no_norm() -> None:
    norm = measure(network_of("vanilla"), random_array(0, T, B, D), (3, 1, 0, 2))["layer 1/h/norm"]
    assert np.isfinite(norm).tolist() == [True] * 3 + [False] * 3


def test_a_carry_whose_square_overflows_has_its_norm() -> None:
    network = network_of("irnn")
    cell = network.layers[0].cells[0]
    cell.input_kernel[...], cell.recurrent_kernel[...] = jnp.zeros((D, H)), jnp.zeros((H, H))
    cell.bias[...] = jnp.full(H, 1e30)
    np.testing.assert_allclose(
        measure(network, jnp.zeros((T, B, D)))["layer 1/h/norm"], np.full(T, 3**0.5 * 1e30), rtol=1e-6
    )


def test_what_is_not_a_number_is_said_so() -> None:
    x = jnp.zeros((T, B, D)).at[2, 1, 0].set(jnp.nan)
    for cell in ("lstm", {"name": "vanilla", "activation": jax.nn.relu}):
        found = measure(network_of(cell), x)
        assert all(np.isnan(value).all() for key, value in found.items() if "norm" not in key)
        assert np.isfinite(found["layer 1/h/norm"][:2]).all()
        assert np.isnan(found["layer 1/h/norm"][2:]).all()


@pytest.mark.parametrize("cell", ["lstm", "irnn"])
def test_two_devices_with_different_lengths_measure_what_one_does(cell: str) -> None:
    with float64():
        network, x = network_of(cell, scale=2.0), random_array(5, T, B, D)
        lengths, rows = jnp.array([6, 5, 1, 2]), PartitionSpec(None, "rows")
        graphdef, state = nnx.split(network)
        mesh = jax.make_mesh((2,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))

        def of_rows(state: Any, x: jax.Array, lengths: jax.Array) -> dict[str, jax.Array]:
            found = saturation(probe_of(nnx.merge(graphdef, state), x, lengths, "rows"))
            return jax.tree.map(lambda a: a[None], found)

        specs = (PartitionSpec(), rows, PartitionSpec("rows"))
        spread = jax.shard_map(of_rows, mesh=mesh, in_specs=specs, out_specs=PartitionSpec("rows"), check_vma=False)
        found = jax.tree.map(np.asarray, jax.jit(spread)(state, x, lengths))
        one = measure(network, x, (6, 5, 1, 2))
    for device in range(2):
        assert_close({key: value[device] for key, value in found.items()}, one, 1e-14)


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["linear", "elu", "leaky_relu"])
def test_a_cell_in_which_nothing_saturates_is_refused_in_one_line(activation: str) -> None:
    message = r"diagnostics: saturation is not defined for vanilla with these activations: .*; leave it out"
    with pytest.raises(ConfigError, match=message) as error:
        shapes({"name": "vanilla", "activation": activation})
    assert "\n" not in str(error.value)


class StepOnly(BaseCell):
    """A cell of a user without matrices, whose units are not all named and whose carry is not at all."""

    gate_names = ("a",)
    carry_names = ()

    def step(self, carry, z, multiply):
        h, m = carry
        return (jnp.tanh(z[0] + jax.nn.sigmoid(h) * m), h)

    def initial_carry(self, batch, dtype=jnp.float32):
        return (jnp.zeros((batch, self.features), dtype),) * 2


def test_a_cell_without_names_of_its_carry_is_measured(monkeypatch: Any) -> None:
    monkeypatch.setitem(CELLS, "step_only", StepOnly)
    found = shapes("step_only")
    assert units(found) == {"a", "output"}
    assert {key for key in found if key.endswith("norm")} == {"layer 1/h/norm", "layer 1/carry 2/norm"}
