"""How weights are drawn: the law of every entry of INITIALIZERS, and each gate of a cell drawn by itself."""

import inspect
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rnnlab.cells import CELLS, LSTM
from rnnlab.cells.base import BaseCell
from rnnlab.config.errors import ConfigError
from rnnlab.config.fields import takes
from rnnlab.ops.initializers import INITIALIZERS, as_initializer
from tests.helpers import make_cell, shape_of_cell
from tests.tiers import in_tiers

FAN_IN, FAN_OUT = 300, 200

# name -> (standard deviation for fan_in, fan_out; "uniform" or "normal"): mean 0, independent entries.
LAWS = {
    "uniform": (lambda i, o: 0.01 / math.sqrt(3), "uniform"),
    "naive_uniform": (lambda i, o: 0.01 / math.sqrt(3), "uniform"),
    "normal": (lambda i, o: 0.01, "normal"),
    "small_normal": (lambda i, o: 0.001, "normal"),
    "large_normal": (lambda i, o: 1.0, "normal"),
    "glorot_uniform": (lambda i, o: math.sqrt(2 / (i + o)), "uniform"),
    "glorot_normal": (lambda i, o: math.sqrt(2 / (i + o)), "normal"),
    "he_uniform": (lambda i, o: math.sqrt(2 / i), "uniform"),
    "he_normal": (lambda i, o: math.sqrt(2 / i), "normal"),
}
EXACT = {  # name -> every entry
    "zeros": np.zeros((FAN_IN, FAN_OUT)),
    "constant": np.zeros((FAN_IN, FAN_OUT)),
    "identity": np.eye(FAN_IN, FAN_OUT),
    "scaled_identity": 0.01 * np.eye(FAN_IN, FAN_OUT),
}
# name -> the parameter that multiplies what is drawn
SCALES = {
    name: [p for p in ("gain", "scale", "stddev", "value") if p in inspect.signature(f).parameters]
    for name, f in INITIALIZERS.items()
}
SCALED = {name: parameters[0] for name, parameters in SCALES.items() if parameters}
JOINT = [name for name, f in INITIALIZERS.items() if "joint_fan" in inspect.signature(f).parameters]


def draw(spec: Any, shape: tuple[int, int] = (FAN_IN, FAN_OUT), seed: int = 0) -> jax.Array:
    return as_initializer(spec)(jax.random.key(seed), shape, jnp.float32)


def assert_has_law(sample: np.ndarray, stddev: float, shape: str) -> None:
    """Mean, variance and fourth moment within five standard errors, and the bound of a uniform law."""
    unit = np.asarray(sample, np.float64).ravel() / stddev
    fourth, eighth = (9 / 5, 9.0) if shape == "uniform" else (3.0, 105.0)
    standard_error = 1 / math.sqrt(unit.size)
    assert abs(unit.mean()) < 5 * standard_error
    assert abs((unit**2).mean() - 1) < 5 * standard_error * math.sqrt(fourth - 1)
    assert abs((unit**4).mean() - fourth) < 5 * standard_error * math.sqrt(eighth - fourth**2)
    if shape == "uniform":
        assert np.abs(unit).max() <= math.sqrt(3) * (1 + 1e-6)


def test_every_law_below_is_of_an_initializer():
    assert {*LAWS, *EXACT} <= set(INITIALIZERS)


def is_for_square_kernels(name: str) -> bool:
    """Whether the initialiser says so, in an error with its name."""
    try:
        draw(name, (7, 3))
    except ValueError as error:
        return name in str(error)
    return False


@pytest.mark.parametrize("name", INITIALIZERS)
@pytest.mark.parametrize("shape", [(6, 6), (7, 3), (3, 7)])
def test_draw_has_the_shape_and_dtype_asked_for_and_depends_on_the_key_alone(name, shape):
    if shape[0] != shape[1] and is_for_square_kernels(name):
        return
    w = draw(name, shape)
    assert w.shape == shape
    assert w.dtype == jnp.float32
    np.testing.assert_array_equal(w, draw(name, shape))
    if name in EXACT or name in LAWS:
        assert (name in EXACT) == np.array_equal(w, draw(name, shape, seed=1))


@pytest.mark.parametrize("name", LAWS)
def test_entries_have_the_law_of_the_paper(name):
    stddev, shape = LAWS[name]
    assert_has_law(draw(name), stddev(FAN_IN, FAN_OUT), shape)


@pytest.mark.parametrize("name", EXACT)
def test_entries_are_the_given_ones(name):
    np.testing.assert_array_equal(draw(name), EXACT[name].astype(np.float32))


@pytest.mark.parametrize("shape", [(40, 40), (60, 20), (20, 60)])
@pytest.mark.parametrize("gain", [1.0, 0.3])
def test_singular_values_of_orthogonal_are_the_gain(shape, gain):
    values = np.linalg.svd(draw({"name": "orthogonal", "gain": gain}, shape), compute_uv=False)
    np.testing.assert_allclose(values, gain, rtol=1e-5)


@pytest.mark.parametrize(("name", "low", "high"), [("henaff", -np.pi, np.pi), ("cayley", 0, np.pi / 2)])
@pytest.mark.parametrize("size", [2000, 2001])
def test_rotations_are_by_angles_uniform_in_their_range(name, low, high, size):
    w = np.asarray(draw(name, (size, size)), float)
    even = np.arange(0, size - 1, 2)
    angles = np.arctan2(w[even + 1, even], w[even, even])
    assert low <= angles.min() < low + 0.02
    assert high - 0.02 < angles.max() <= high + 1e-6
    assert abs(angles.mean() - (low + high) / 2) < 4 * (high - low) / math.sqrt(12 * len(angles))
    expected = np.diag(np.append(np.repeat(np.cos(angles), 2), [1] * (size % 2)))
    expected[even + 1, even], expected[even, even + 1] = np.sin(angles), -np.sin(angles)
    np.testing.assert_allclose(w, expected, atol=1e-6)


def test_a_share_of_the_rows_of_cayley_change_their_sign():
    plain, turned = (np.asarray(draw({"name": "cayley", "negative": share}, (10, 10))) for share in (0.0, 0.3))
    np.testing.assert_array_equal(turned, plain * np.where(np.arange(10) < 3, -1, 1)[:, None])


def test_orthogonal_is_uniform_over_orthogonal_matrices():
    # The trace of a uniform orthogonal matrix has mean 0 and variance 1; of a QR factor without its signs put right
    # it has not.
    traces = jax.vmap(lambda key: jnp.trace(as_initializer("orthogonal")(key, (8, 8))))(
        jax.random.split(jax.random.key(0), 4000)
    )
    np.testing.assert_allclose([traces.mean(), (traces**2).mean()], [0, 1], atol=0.1)


@pytest.mark.parametrize("name", SCALED)
def test_scale_multiplies_the_draw(name):
    one, half = (draw({"name": name, SCALED[name]: scale}, (5, 5)) for scale in (1.0, 0.5))
    assert one.any()
    np.testing.assert_array_equal(half, one / 2)


@pytest.mark.parametrize("name", SCALED)
def test_traced_scale_gives_the_draw_of_a_number(name):
    traced = jax.jit(lambda scale: draw({"name": name, SCALED[name]: scale}, (5, 5)))
    scales = [0.0, 0.3, 2.0]
    for scale in scales:
        np.testing.assert_allclose(traced(scale), draw({"name": name, SCALED[name]: scale}, (5, 5)), rtol=1e-6)
    assert traced._cache_size() == 1


def test_every_law_has_a_scale_but_zeros():
    assert {*LAWS, *EXACT, "orthogonal"} - set(SCALED) == {"zeros"}


@pytest.mark.parametrize("name", JOINT)
@pytest.mark.parametrize("joint", [False, True])
def test_joint_fan_counts_input_and_hidden_units_for_both_kernels(name, joint):
    inputs, hidden = 50, 200
    init = {"name": name, "joint_fan": joint}
    cell = make_cell("vanilla", inputs, hidden, input_init=init, recurrent_init=init)
    stddev, shape = LAWS[name]
    for kernel, rows in ((cell.input_kernel, inputs), (cell.recurrent_kernel, hidden)):
        assert kernel.shape == (rows, hidden)
        assert_has_law(kernel[...], stddev(inputs + hidden if joint else rows, hidden), shape)


def test_joint_fan_can_be_swept_over_gains():
    def kernel(gain: Any) -> jax.Array:
        init = {"name": "glorot_uniform", "joint_fan": True, "gain": gain}
        return make_cell("gru", 3, 4, recurrent_init=init).recurrent_kernel[...]

    np.testing.assert_allclose(jax.jit(kernel)(0.5), kernel(1.0) / 2, rtol=1e-6)


def gate_blocks(cell: nnx.Module, array: jax.Array) -> list[np.ndarray]:
    return np.split(np.asarray(array), len(cell.gate_names), axis=-1)


def with_free_matrix(name: str) -> dict[str, Any]:
    """Options with which R is its parameter, also of a preset that has another."""
    return {"recurrent": "free"} if takes(CELLS[name], "recurrent") else {}


def cells_that_take(*parameters: str) -> list[str]:
    return [name for name, factory in CELLS.items() if all(takes(factory, each) for each in parameters)]


@pytest.mark.parametrize("name", in_tiers(cells_that_take("recurrent_init")))
def test_each_gate_of_the_recurrent_kernel_is_orthogonal_by_itself(name):
    cell = make_cell(name, 3, 16, recurrent_init="orthogonal", **with_free_matrix(name))
    blocks = np.split(np.asarray(cell.recurrent_kernel[...]), max(len(cell.recurrent_gates), 1), axis=1)
    for k, block in enumerate(blocks):
        for rows in np.split(block, cell.meets):
            np.testing.assert_allclose(rows.T @ rows, np.eye(rows.shape[1]), atol=1e-5)
        assert not any(np.array_equal(block, other) for other in blocks[:k])


@pytest.mark.parametrize("name", in_tiers(cells_that_take("input_init")))
def test_each_gate_of_the_input_kernel_has_the_fan_of_one_gate(name):
    cell = make_cell(name, 100, 200, input_init="glorot_uniform")
    for block in gate_blocks(cell, cell.input_kernel[...]):
        assert_has_law(block, math.sqrt(2 / (100 + 200)), "uniform")


@pytest.mark.parametrize("name", in_tiers(cells_that_take("input_init", "recurrent_init")))
def test_cell_takes_a_section_or_a_function_for_every_initializer(name):
    def threes(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jnp.full(shape, 3, dtype)

    for init in (threes, {"name": "constant", "value": 3.0}):
        cell = make_cell(name, 2, 4, input_init=init, recurrent_init=init, **with_free_matrix(name))
        assert (cell.input_kernel[...] == 3).all()
        assert (cell.recurrent_kernel[...] == 3).all()


OTHER_BIASES = ("ur_gru", "ur_lstm", "cfn", "rhn")
"""Cells whose papers start from other biases; tests/cells/test_published_cells.py has them."""


@pytest.mark.parametrize("name", in_tiers(name for name in CELLS if name not in OTHER_BIASES))
def test_bias_starts_at_zero_but_for_the_forget_gate(name):
    cell, forgets = make_cell(name, 2, 4), takes(CELLS[name], "forget_bias")
    biased = [gate for gate in cell.gate_names if gate not in cell.unbiased]
    for gate, block in zip(biased, np.split(cell.bias[...], len(biased)), strict=True):
        np.testing.assert_array_equal(block, float(gate[0] == "f" and forgets), err_msg=gate)


def test_forget_bias_is_added_to_the_bias_of_the_second_gate():
    cell = LSTM(2, 3, forget_bias=0.5, bias_init={"name": "constant", "value": 0.25}, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(cell.bias[...], np.repeat([0.25, 0.75, 0.25, 0.25], 3))


@pytest.mark.parametrize(
    "name", in_tiers([name for name in cells_that_take("chrono") if 1 in shape_of_cell(name).chrono_signs])
)
def test_chrono_biases_keep_for_2_to_the_longest_steps(name: str) -> None:
    cheap = {"recurrent_init": "zeros"} if takes(CELLS[name], "recurrent_init") else {}
    cell = make_cell(name, 2, 4000, **cheap, chrono=101)
    signs = dict(zip(cell.gate_names, cell.chrono_signs, strict=True))
    biased = [sign for gate, sign in signs.items() if gate not in cell.unbiased]
    blocks = list(zip(biased, np.split(np.asarray(cell.bias[...]), len(biased)), strict=True))
    keep = next(block for sign, block in blocks if sign == 1)
    steps = 1 + np.exp(keep)  # 1 / (1 - σ(b)), after which a gate has kept 1 / e.
    assert 2 <= steps.min() < 2.2
    assert 100.8 < steps.max() <= 101
    assert abs(steps.mean() - 51.5) < 4 * 99 / math.sqrt(12 * 4000), "uniform"
    for sign, block in blocks:
        np.testing.assert_array_equal(block, sign * keep)


def test_chrono_of_a_cell_that_says_nothing_of_it_is_refused() -> None:
    class Plain(BaseCell):
        def step(self, carry: Any, z: Any, multiply: Any) -> Any:
            return carry

    with pytest.raises(ConfigError, match="Plain has no chrono_signs; leave chrono out"):
        Plain(2, 3, chrono=10, rngs=nnx.Rngs(0))


def test_irnn_is_the_identity_with_small_inputs_and_no_bias():
    cell = make_cell("irnn", 100, 200)
    np.testing.assert_array_equal(cell.recurrent_kernel[...], np.eye(200))
    np.testing.assert_array_equal(cell.bias[...], 0)
    assert_has_law(cell.input_kernel[...], 0.001, "normal")


def test_unknown_initializer_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean orthogonal"):
        as_initializer("ortogonal")
    with pytest.raises(ConfigError, match="did you mean gain"):
        as_initializer({"name": "orthogonal", "gian": 1.0})
