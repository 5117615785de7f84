"""How published cells start, and what their options do; their equations are in test_equations.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rnnlab.cells import CELLS
from rnnlab.cells.independent import within
from rnnlab.config.errors import ConfigError
from rnnlab.engine import unroll
from tests.helpers import make_cell, random_array
from tests.tiers import slow_tests

H = 64


def cell_of(name: str, features: int = H, **options: object) -> nnx.Module:
    return CELLS[name](2, features, rngs=nnx.Rngs(0), **options)


@pytest.mark.parametrize(("name", "forget", "refine"), [("ur_lstm", 0, 1), ("ur_gru", 1, 3)])
def test_forget_gates_of_ur_cells_start_uniform_and_refine_gates_opposed(name, forget, refine):
    bias = np.asarray(cell_of(name).bias[...]).reshape(-1, H)
    gates = np.sort(1 / (1 + np.exp(-bias[forget])))
    assert gates[0] >= 1 / H
    assert gates[-1] <= 1 - 1 / H
    assert np.abs(gates - (np.arange(H) + 0.5) / H).max() < 0.2
    np.testing.assert_array_equal(bias[refine], -bias[forget])
    others = [row for number, row in enumerate(bias) if number not in (forget, refine)]
    np.testing.assert_array_equal(others, 0)


def test_janet_starts_with_a_forget_bias_of_one_or_with_chrono_biases():
    forget, candidate = np.split(np.asarray(cell_of("janet").bias[...]), 2)
    np.testing.assert_array_equal(forget, 1)
    np.testing.assert_array_equal(candidate, 0)
    forget, candidate = np.split(np.asarray(cell_of("janet", chrono=100).bias[...]), 2)
    assert 0 <= forget.min() < forget.max() <= np.log(99)
    np.testing.assert_array_equal(candidate, 0)


def test_the_transform_gates_of_every_layer_of_a_highway_start_from_their_bias():
    cell = cell_of("rhn", depth=3, transform_bias=-1.5)
    biases = np.concatenate([cell.bias[...], cell.recurrent_bias[...]]).reshape(3, 2, H)
    np.testing.assert_array_equal(biases[:, 0], 0)
    np.testing.assert_array_equal(biases[:, 1], -1.5)


def test_a_chaos_free_network_starts_out_keeping_and_hardly_writing():
    cell = cell_of("cfn", forget_bias=1.5)
    np.testing.assert_array_equal(cell.bias[...], np.repeat([1.5, -1.5], cell.features))


def test_weights_of_independent_units_start_within_their_range():
    weights = np.asarray(cell_of("indrnn", lowest=0.9, highest=1.1).diagonal_kernel[...])
    assert 0.9 <= weights.min() < 0.95
    assert 1.05 < weights.max() <= 1.1


def test_weights_beyond_their_bound_act_as_the_bound_and_are_only_led_back():
    w, bound = jnp.array([0.5, 2.0, 2.0, -2.0, -2.0]), jnp.float32(1.0)
    value, pull = jax.vjp(within, w, bound)
    np.testing.assert_array_equal(value, [0.5, 1, 1, -1, -1])
    np.testing.assert_array_equal(pull(jnp.array([-3.0, -3.0, 3.0, -3.0, 3.0]))[0], [-3, 0, 3, -3, 0])
    cell = cell_of("indrnn", lowest=5, highest=6, bound=1.25)
    np.testing.assert_array_equal(cell.diagonals()["h"], 1.25)


def test_the_first_step_of_an_slstm_stores_its_candidate_whatever_the_input_gate_is():
    cell = make_cell("slstm")
    cell.bias[...] = cell.bias[...].at[:4].set(-200.0)
    x = random_array(0, 1, 2, 3)
    _, (h, c, m) = unroll(cell, x)
    z = [np.asarray(a[0]) for a in cell.split(cell.project(x))]
    np.testing.assert_allclose(c, np.tanh(z[2]), rtol=1e-6)
    np.testing.assert_allclose(h, np.tanh(z[2]) / (1 + np.exp(-z[3])), rtol=1e-6)
    np.testing.assert_allclose(m, z[0], rtol=1e-6)


@pytest.mark.slow
def test_an_slstm_and_its_gradient_are_finite_where_its_gates_would_overflow():
    cell = make_cell("slstm_exp")
    cell.bias[...] = jnp.repeat(jnp.array([500.0, 300.0, 0.0, 0.0]), 4)

    def loss(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        h, (_, c, _) = unroll(cell, x)
        return h.sum(), c

    (value, c), gradient = jax.value_and_grad(loss, has_aux=True)(random_array(0, 40, 2, 3))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert np.abs(c).max() <= 1


def test_heads_that_do_not_divide_the_units_are_one_line():
    with pytest.raises(ConfigError, match=r"^model\.cell\.heads: 3 do not divide 64 features; take 2 or 4$"):
        cell_of("slstm", heads=3)


def test_heads_see_their_own_units_only():
    cell = cell_of("slstm", features=8, heads=2)
    blocks = np.asarray(cell.recurrent_matrices()["f"])
    assert (blocks[:4, 4:] == 0).all()
    assert (blocks[4:, :4] == 0).all()
    np.testing.assert_allclose(blocks[:4, :4] @ blocks[:4, :4].T, np.eye(4), atol=1e-6)


@pytest.mark.parametrize("rank", [None, *slow_tests(1)])
def test_a_mogrifier_of_no_rounds_is_the_lstm(rank):
    x = random_array(1, 4, 2, 2)
    lstm, mogrifier = (cell_of(name, 4, **o) for name, o in (("lstm", {}), ("mogrifier", {"rounds": 0, "rank": rank})))
    for name in ("input_kernel", "recurrent_kernel", "bias"):
        setattr(mogrifier, name, getattr(lstm, name))
    np.testing.assert_allclose(unroll(mogrifier, x)[0], unroll(lstm, x)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["cfn", *slow_tests("mlstm")])
def test_a_gate_without_a_bias_puts_nothing_into_a_state_without_input(name):
    cell = make_cell(name)
    assert cell.bias[...].size == 4 * (len(cell.gate_names) - 1)
    z = cell.split(cell.project(jnp.zeros((1, 3))))
    for gate, part in zip(cell.gate_names, z, strict=True):
        if gate in cell.unbiased:
            np.testing.assert_array_equal(part, 0)
