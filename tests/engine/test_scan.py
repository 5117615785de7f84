"""The scan backend: the reference's numbers, of cells that are linear in their state."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rnnlab.cells import CELLS
from rnnlab.config.errors import ConfigError
from rnnlab.engine import Cotangent, make_taps, unroll
from rnnlab.nn.network import Network
from tests.helpers import (
    assert_close,
    dot,
    float64,
    in_double,
    make_cell,
    random_array,
    random_carry,
    random_cell,
    random_like,
    shape_of_cell,
    with_bad_padding,
)
from tests.tiers import in_tier, slow_tests

T, B, D, H = 7, 3, 2, 4
LENGTHS = [7, 0, 4]
RESETS = np.random.default_rng(0).random((T, B)) < 0.3
LINEAR = [name for name in CELLS if shape_of_cell(name).linear is not None]
FIRST = ["mingru", "lru", "qrnn"]
RUNS = [("mingru", False), ("lru", True), *slow_tests(("qrnn", False))]
RUNS += [
    in_tier(name, reverse, central=True, further=name in FIRST or reverse)
    for name in LINEAR
    for reverse in (False, True)
    if (name, reverse) not in [("mingru", False), ("lru", True), ("qrnn", False)]
]


@pytest.mark.parametrize("rows", [*slow_tests("whole", "ends"), "ends and resets"])
@pytest.mark.parametrize(("variant", "reverse"), RUNS)
def test_outputs_carries_and_gradients_equal_the_reference(variant, reverse, rows):
    with float64():
        graphdef, state = random_cell(variant, in_features=D, features=H)
        cell = nnx.merge(graphdef, state)
        x = random_array(1, T, B, D)
        carry, anew = (random_carry(cell, B, x.dtype, seed) for seed in (2, 3))
        taps = jax.tree.map(lambda a: a.astype(float), make_taps(cell, x))
        options: dict[str, Any] = {}
        if rows != "whole":
            x, options["lengths"] = with_bad_padding(x, jnp.array(LENGTHS)), jnp.array(LENGTHS)
        if rows == "ends and resets":
            options |= {"resets": jnp.array(RESETS), "reset_carry": anew}

        def differentiated(backend: str) -> Any:
            def loss(state: nnx.State, x: jax.Array, carry: Any, taps: Any) -> Any:
                carries: list[jax.Array] = []
                run = {"initial_carry": carry, "taps": taps, "carries": carries, "reverse": reverse, "backend": backend}
                result = *unroll(nnx.merge(graphdef, state), x, **run, **options), carries
                return dot(result, random_like(result, 5)), result

            return jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3), has_aux=True))(state, x, carry, taps)

        assert_close(differentiated("scan"), differentiated("reference"), 1e-12)


@pytest.mark.slow
def test_ten_thousand_steps_equal_the_reference():
    with float64():
        graphdef, state = nnx.split(make_cell("lru", D, H))
        state = in_double(state)
        x = random_array(1, 10_000, 1, D)

        def differentiated(backend: str) -> Any:
            def loss(state: nnx.State, x: jax.Array) -> jax.Array:
                return (unroll(nnx.merge(graphdef, state), x, backend=backend)[0] ** 2).mean()

            return jax.jit(jax.value_and_grad(loss, (0, 1)))(state, x)

        assert_close(differentiated("scan"), differentiated("reference"), 1e-9)


@pytest.mark.slow
def test_a_network_runs_on_it_with_layer_normalisation_and_dropout_of_the_candidate():
    fields = {"cell": {"name": "minlstm", "features": H}, "layers": 2, "normalization": {"cell": "layer"}}

    def output(backend: str) -> jax.Array:
        network = Network(D, 1, **fields, recurrence={"backend": backend}, rngs=nnx.Rngs(0))
        return network(random_array(1, T, B, D), jnp.array(LENGTHS))

    assert_close(output("scan"), output("reference"), 1e-5)


@pytest.mark.slow
def test_a_linear_recurrence_with_its_output_map_sees_more_than_a_linear_readout():
    network = Network(D, 1, cell={"name": "lru", "features": H}, rngs=nnx.Rngs(0))
    plain = Network(D, 1, cell={"name": "lru", "features": H, "output": False}, rngs=nnx.Rngs(0))
    x = random_array(1, T, B, D)

    def superposes(network: Network) -> bool:
        zero = network(0 * x)
        return bool(jnp.allclose(network(2 * x) - zero, 2 * (network(x) - zero), atol=1e-5))

    assert superposes(plain)
    assert not superposes(network)


REFUSED = {
    "a cell that is not linear": ("lstm", {}, "LSTM is not linear in its state, as backend='scan' needs"),
    "a cotangent": ("mingru", {"cotangent": Cotangent(scale=jnp.ones(()))}, "has no steps to change the cotangent at"),
}


@pytest.mark.parametrize("size", [0.0, 1.0])
def test_an_lru_has_finite_gradients_at_the_ends_of_its_range(size: float) -> None:
    cell = CELLS["lru"](D, H, r_min=size, r_max=size, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(cell)

    def loss(state: nnx.State) -> jax.Array:
        return (unroll(nnx.merge(graphdef, state), random_array(1, 5, 2, D))[0] ** 2).sum()

    assert all(np.isfinite(a).all() for a in jax.tree.leaves((state, jax.jit(jax.grad(loss))(state))))


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_scan_is_refused_in_one_line(case):
    variant, options, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as error:
        unroll(make_cell(variant, D, H), random_array(1, T, B, D), backend="scan", **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("section", [{"dropout": {"zoneout": 0.5}}, {"cotangent": {"cut_every": 3}}])
def test_changes_between_the_steps_of_a_layer_have_no_scan(section):
    fields = {"cell": {"name": "mingru", "features": H}, "recurrence": {"backend": "scan"}}
    with pytest.raises(ConfigError, match="runs all steps at once; use auto"):
        Network(D, 1, **fields, **section, rngs=nnx.Rngs(0))
