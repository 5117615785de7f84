"""Norms of a training step against NumPy: which parameter is which, gates, and numbers at the ends of their range."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rnnlab.diagnostics.norms import norms
from rnnlab.diagnostics.probe import Probe
from rnnlab.nn.network import Network
from rnnlab.nn.trajectory import Trajectory
from tests.helpers import assert_close, float64, random_like

H = 3
TREES = ("gradients", "clipped", "params", "updates")
KINDS = ("gradient", "clipped", "weight", "update")


def probe_of(**fields: Any) -> Probe:
    """Of a network for 2 inputs, with a random tree for everything, in double precision where that is on."""
    network = nnx.eval_shape(lambda: Network(2, 1, cell={"name": "lstm", "features": H}, **fields, rngs=nnx.Rngs(0)))
    params = nnx.to_pure_dict(nnx.state(network, nnx.Param))
    params = jax.tree.map(lambda a: np.zeros(a.shape, jnp.result_type(float)), params)
    trees = [random_like(params, seed) for seed in range(4)]
    return Probe(named_cells(network), [], *trees)


def named_cells(network: Network) -> list[Trajectory]:
    """Trajectories of nothing: norms read the names of the gates."""
    return [
        Trajectory(f"layer {number}" + direction * " reverse", cell, jnp.zeros((0, 0, 0)), None, False, (), ())
        for number, layer in enumerate(network.layers, 1)
        for direction, cell in enumerate(layer.cells)
    ]


def measure(probe: Probe) -> dict[str, np.ndarray]:
    """`norms`, compiled."""
    trees = (probe.params, probe.gradients, probe.clipped, probe.updates)
    measured = jax.jit(lambda *trees: norms(Probe(probe.trajectories, [], *trees)))(*trees)
    return {key: np.asarray(value) for key, value in measured.items()}


def test_every_parameter_and_every_gate_has_the_norms_that_numpy_finds() -> None:
    with float64():
        probe = probe_of(layers=2, bidirectional=True, learned_carry=True, normalization={"between": "layer"})
        expected = {}
        for index, tree in enumerate((probe.gradients, probe.clipped, probe.params, probe.updates)):
            layers = tree["layers"]
            arrays = {"readout/kernel": tree["readout"]["kernel"], "readout/bias": tree["readout"]["bias"]}
            arrays |= {f"layer 2/norms/{name}": tree["norms"][1][name] for name in ("gain", "bias")}
            for number, direction in ((1, 0), (1, 1), (2, 0), (2, 1)):
                position = f"layer {number}" + direction * " reverse"
                cell, carries = layers[number - 1]["cells"][direction], layers[number - 1]["carries"][direction]
                arrays |= {f"{position}/{name}": a for name, a in cell.items()}
                arrays |= {f"{position}/carries/{element}": a for element, a in carries.items()}
                blocks = np.split(np.asarray(cell["recurrent_kernel"]), 4, axis=1)
                arrays |= {f"{position}/recurrent_kernel/{gate}": a for gate, a in zip("ifgo", blocks, strict=True)}
            expected |= {f"{name}/{KINDS[index]}": np.linalg.norm(np.ravel(a)) for name, a in arrays.items()}
        places = [key.removesuffix("/weight") for key in expected if key.endswith("/weight")]
        expected |= {f"{p}/update / weight": expected[f"{p}/update"] / expected[f"{p}/weight"] for p in places}
        measured = measure(probe)
    assert_close(measured, {key: np.asarray(value) for key, value in expected.items()}, 1e-15)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_norms_are_right_where_the_squares_leave_the_range_of_numbers(size: float) -> None:
    probe = probe_of()
    of_ones = jax.tree.map(lambda a: jnp.full(a.shape, size), probe.params)
    measured = measure(probe._replace(gradients=of_ones, updates=of_ones, params=of_ones))
    kernel = "layer 1/recurrent_kernel"
    np.testing.assert_allclose(measured[f"{kernel}/gradient"], size * (4 * H * H) ** 0.5, rtol=1e-6)
    np.testing.assert_allclose(measured[f"{kernel}/f/gradient"], size * H, rtol=1e-6)
    np.testing.assert_allclose(measured["readout/kernel/gradient"], size * H**0.5, rtol=1e-6)
    np.testing.assert_allclose(measured[f"{kernel}/update / weight"], 1, rtol=1e-6)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_is_said_so_and_stays_where_it_is(value: float) -> None:
    probe = probe_of()
    params = probe.gradients
    kernel = params["layers"][0]["cells"][0]["recurrent_kernel"]
    params["layers"][0]["cells"][0]["recurrent_kernel"] = kernel.at[0, H].set(value)  # Of the gate f.
    measured = measure(probe)
    bad = {key for key, norm in measured.items() if not np.isfinite(norm)}
    assert bad == {"layer 1/recurrent_kernel/gradient", "layer 1/recurrent_kernel/f/gradient"}
    assert all(np.isnan(measured[key]) if np.isnan(value) else measured[key] == np.inf for key in bad)


def test_a_weight_of_zero_has_an_infinite_relative_update_and_none_if_it_stays() -> None:
    probe = probe_of()
    zero = jax.tree.map(jnp.zeros_like, probe.params)
    moved = measure(probe._replace(params=zero))
    assert all(value == np.inf for key, value in moved.items() if key.endswith("update / weight"))
    stayed = measure(probe._replace(params=zero, updates=zero))
    assert all(value == 0 for key, value in stayed.items() if key.endswith("update / weight"))


def test_a_vanilla_cell_has_no_gates_to_tell_apart() -> None:
    network = Network(2, 1, cell={"name": "vanilla", "features": H}, rngs=nnx.Rngs(0))
    params = nnx.to_pure_dict(nnx.state(network, nnx.Param))
    measured = norms(Probe(named_cells(network), [], params, params, params, params))
    assert {key for key in measured if "recurrent" in key} == {
        f"layer 1/recurrent_kernel/{kind}" for kind in (*KINDS, "update / weight")
    }


@pytest.mark.parametrize(
    ("cell", "gates"),
    [
        ({"name": "lstm", "peepholes": True, "features": 12}, ["i", "f", "g", "o"]),  # Peepholes [3, 12] are no gates.
        ({"name": "mlstm", "features": 3}, ["i", "f", "g", "o", "m"]),
        ({"name": "minimal_rnn", "features": 3}, []),
        ({"name": "lmu", "features": 4, "order": 2}, []),
        ({"name": "mut1", "features": 3}, ["r", "h"]),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_gates_are_those_that_a_recurrent_kernel_has_columns_of(cell: dict[str, object], gates: list[str]) -> None:
    network = nnx.eval_shape(lambda: Network(2, 1, cell=cell, rngs=nnx.Rngs(0)))
    params = nnx.to_pure_dict(nnx.state(network, nnx.Param))
    probe = Probe(named_cells(network), [], params, params, params, params)
    measured = jax.eval_shape(lambda params: norms(probe._replace(**dict.fromkeys(TREES, params))), params)
    deeper = [key.split("/")[1:] for key in measured if key.endswith("/gradient") and key.count("/") > 2]
    assert sorted(deeper) == [["recurrent_kernel", gate, "gradient"] for gate in sorted(gates)]


def test_half_precision_is_summed_in_single() -> None:
    probe = probe_of()
    half = jax.tree.map(lambda a: jnp.full(a.shape, 300, jnp.float16), probe.params)
    norm = measure(probe._replace(gradients=half))["layer 1/recurrent_kernel/gradient"]
    assert norm == pytest.approx(1800, rel=1e-6)
    assert norm.dtype == np.float32
