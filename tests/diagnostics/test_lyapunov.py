"""Lyapunov exponents where they are known in closed form, and against the singular values of the whole product."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rnnlab.cells import LSTM, Vanilla, irnn
from rnnlab.config.errors import ConfigError
from rnnlab.diagnostics.jacobians import step_jacobians
from rnnlab.diagnostics.lyapunov import lyapunov_exponents, summary
from rnnlab.nn.trajectory import Trajectory
from tests.helpers import compiled_carries, float64, in_double, measured, random_array, random_cell
from tests.tiers import slow_tests

T, B, D, H = 12, 3, 2, 4
LENGTHS = (12, 5, 0)
STEPS = np.maximum(LENGTHS, 1)[:, None]


def run(cell: Any, x: jax.Array, lengths: Any = None, reverse: bool = False, carry: Any = None) -> Trajectory:
    """A trajectory of a cell alone."""
    lengths = None if lengths is None else jnp.array(lengths)
    first, carries = compiled_carries(cell, x, lengths, reverse, carry)
    return Trajectory("layer 1", cell, x, lengths, reverse, first, carries)


def exponents(trajectory: Trajectory, count: int | None = None) -> np.ndarray:
    """`lyapunov_exponents`, compiled."""
    return np.asarray(measured(lyapunov_exponents, trajectory, count=count))


def vanilla(kernel: Any, activation: str = "linear", bias: float = 0.0) -> Vanilla:
    """A cell with this R, in double precision where that is on."""
    kernel = jnp.asarray(kernel)
    zeros = {"input_init": "zeros", "recurrent_init": "zeros"}  # Nothing to compile.
    cell = Vanilla(D, kernel.shape[0], activation=activation, **zeros, rngs=nnx.Rngs(0))
    nnx.update(cell, in_double(nnx.state(cell)))
    cell.input_kernel[...] = jnp.asarray(random_array(9, D, kernel.shape[0]), kernel.dtype)
    cell.recurrent_kernel[...] = kernel
    cell.bias[...] = jnp.full_like(cell.bias[...], bias)
    return cell


def linear(kernel: Any, steps: int = T, **options: Any) -> Trajectory:
    """Three rows of h' = x W + h R."""
    return run(vanilla(kernel), random_array(0, steps, B, D), **options)


def rotation(size: int) -> np.ndarray:
    """An orthogonal matrix."""
    return np.linalg.qr(np.random.default_rng(1).normal(size=(size, size)))[0]


def total(jacobians: np.ndarray, order: list[int]) -> np.ndarray:
    """The product of some steps' Jacobians [T, S, S] in the order of processing."""
    product = np.eye(jacobians.shape[-1])
    for t in order:
        product = jacobians[t] @ product
    return product


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("scale", [1e-3, 0.9, 1.0, 1.1, 1e3])
def test_a_scaled_rotation_has_the_logarithm_of_its_scale(scale: float, reverse: bool) -> None:
    with float64():
        found = exponents(linear(scale * rotation(H), lengths=LENGTHS, reverse=reverse))
    np.testing.assert_allclose(found[:2], math.log(scale), rtol=0, atol=1e-13)
    np.testing.assert_array_equal(found[2], 0)  # It has no steps.


@pytest.mark.parametrize("steps", [1, 12])
def test_a_diagonal_kernel_has_the_logarithms_of_its_entries_sorted(steps: int) -> None:
    entries = np.array([0.5, -1.2, 1e-12, 0.9, 0.91])
    with float64():
        found = exponents(linear(np.diag(entries), steps))
    expected = np.sort(np.log(np.abs(entries)))[::-1]
    np.testing.assert_allclose(found, np.broadcast_to(expected, (B, 5)), rtol=0, atol=1e-13)


def test_the_identity_has_zeros_also_with_units_that_stay_positive() -> None:
    with float64():
        np.testing.assert_array_equal(exponents(linear(np.eye(H))), 0)
        cell = irnn(D, H, rngs=nnx.Rngs(0))
        nnx.update(cell, in_double(nnx.state(cell)))
        carry = (jnp.ones((B, H)),)
        trajectory = run(cell, random_array(0, 784, B, D), carry=carry)
        assert (trajectory.carries[0] > 0).all()
        np.testing.assert_array_equal(exponents(trajectory), 0)


def test_an_lstm_with_a_constant_forget_gate_keeps_it_along_half_the_directions_and_loses_the_others() -> None:
    forget, steps = 0.7, 500
    with float64():
        zeros = dict.fromkeys(("input_init", "recurrent_init", "bias_init"), "zeros")
        cell = LSTM(D, H, forget_bias=0.0, **zeros, rngs=nnx.Rngs(0))
        nnx.update(cell, in_double(nnx.state(cell)))
        cell.bias[...] = cell.bias[...].at[H : 2 * H].set(math.log(forget / (1 - forget)))
        carry = (jnp.zeros((B, H)), random_array(0, B, H))
        found = exponents(run(cell, jnp.zeros((steps, B, D)), carry=carry))
    # (h, c)_T = (o tanh' f^T, f^T) c_0: h adds 1 / 2 T of the logarithm of 1 + (o tanh')², with o = 1/2 and tanh' → 1.
    expected = math.log(forget) + math.log(1 + 0.25) / (2 * steps)
    np.testing.assert_allclose(found[:, :H], expected, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(found[:, H:], -np.inf)


@pytest.mark.parametrize(
    "variant", ["lstm_peepholes", *slow_tests("vanilla_relu", "vanilla_elu", "gru", "gru_reset_before")]
)
def test_the_sum_is_the_mean_of_log_determinants(variant: str) -> None:
    with float64():
        graphdef, state = random_cell(variant, in_features=D, features=H)
        trajectory = run(nnx.merge(graphdef, state), random_array(1, T, B, D), LENGTHS, reverse=True)
        jacobians = np.asarray(measured(step_jacobians, trajectory, jnp.arange(T)))
        found = exponents(trajectory)
    expected = np.linalg.slogdet(jacobians)[1].sum(0) / STEPS[:, 0]
    np.testing.assert_allclose(found.sum(1), expected, rtol=1e-11)  # Of ReLU units that are off, both -inf.
    assert (found[:, 1:] <= found[:, :-1]).all()


@pytest.mark.parametrize("reverse", [False, True])
def test_exponents_are_the_singular_values_of_the_whole_product(reverse: bool) -> None:
    with float64():
        # Directions that the exponents tell apart within these steps: by a factor of 2 or more a step.
        kernel = np.diag([1.2, 0.5, 0.2, 0.08]) + 0.05 * np.random.default_rng(2).normal(size=(4, 4))
        trajectory = run(vanilla(kernel, "tanh"), 0.05 * random_array(1, 16, B, D), (16, 14, 15), reverse)
        jacobians = np.asarray(measured(step_jacobians, trajectory, jnp.arange(16)))
        found = exponents(trajectory)
    for row, length in enumerate((16, 14, 15)):
        order = list(range(length))[:: -1 if reverse else 1]
        singular = np.linalg.svd(total(jacobians[:, row], order), compute_uv=False)
        resolved = singular > 1e-10 * singular[0]
        assert resolved.sum() >= 2
        np.testing.assert_allclose(found[row, resolved], np.log(singular[resolved]) / length, rtol=0, atol=1e-6)


def test_fewer_exponents_are_the_leading_ones() -> None:
    entries = np.array([0.1, 0.9, 0.02, 0.4])
    with float64():
        trajectory = linear(rotation(4) @ np.diag(entries) @ rotation(4).T, 40)
        np.testing.assert_allclose(exponents(trajectory, 2), exponents(trajectory)[:, :2], rtol=0, atol=1e-12)
        np.testing.assert_allclose(exponents(linear(np.diag(entries), 40), 2)[0], np.log([0.9, 0.4]), atol=1e-12)
        np.testing.assert_array_equal(exponents(linear(np.diag(entries), lengths=LENGTHS), 2)[2], 0)  # It has no steps.


def test_a_layer_whose_units_are_all_off_has_minus_infinity() -> None:
    with float64():
        found = exponents(run(vanilla(rotation(H), "relu", bias=-100.0), random_array(0, T, B, D)))
    np.testing.assert_array_equal(found, -np.inf)


@pytest.mark.slow
def test_as_many_exponents_are_finite_as_the_product_has_rank() -> None:
    size = 8
    with float64():
        # Through the axes one after another: e_1 → e_2 → … → e_8 → 0, beside a direction that stays.
        shift = np.eye(size, k=1)
        shift[0, 1] = 0
        shift[0, 0] = 0.5
        for steps in (1, 3, 6):
            found = exponents(linear(shift, steps))
            rank = np.linalg.matrix_rank(np.linalg.matrix_power(shift, steps))
            np.testing.assert_array_equal(np.isfinite(found).sum(1), rank)
            np.testing.assert_allclose(found[:, rank - 1], math.log(0.5), atol=1e-14)
        # Units of random ReLU networks that are off at some steps.
        for seed in range(3):
            kernel = np.random.default_rng(seed).normal(size=(size, size)) * 0.7
            trajectory = run(vanilla(kernel, "relu", bias=0.5), random_array(seed, 3, B, D))
            jacobians = np.asarray(measured(step_jacobians, trajectory, jnp.arange(3)))
            found = exponents(trajectory)
            for row in range(B):
                rank = np.linalg.matrix_rank(total(jacobians[:, row], [0, 1, 2]))
                assert 0 < rank < size
                assert np.isfinite(found[row]).sum() == rank
                singular = np.linalg.svd(total(jacobians[:, row], [0, 1, 2]), compute_uv=False)[:rank]
                np.testing.assert_allclose(found[row, :rank].sum(), np.log(singular).sum() / 3, atol=1e-10)


def test_a_row_that_is_not_finite_is_nan_and_the_others_are_not() -> None:
    x = random_array(0, T, B, D).at[5, 1, 0].set(jnp.nan)
    found = exponents(run(vanilla(rotation(H), "tanh"), x))
    assert np.isnan(found[1]).all()
    assert np.isfinite(found[[0, 2]]).all()


def test_single_precision_does_not_leave_its_range_and_bfloat16_has_exponents() -> None:
    for scale in (1e-30, 1e30):
        np.testing.assert_allclose(exponents(linear(scale * np.eye(H), 512)), math.log(scale), rtol=1e-5)
    cell = vanilla(np.asarray(0.5 * rotation(H), np.float32))
    cell.precision = "bfloat16"
    np.testing.assert_allclose(exponents(run(cell, random_array(0, T, B, D))), math.log(0.5), atol=0.02)


def test_the_summary_has_the_mean_and_its_standard_error_over_rows_with_steps() -> None:
    values = jnp.array([[1.0, 0.0], [2.0, -jnp.inf], [4.0, -1.0], [100.0, 100.0]])
    mean, error = jax.jit(summary)(values, jnp.array([3, 1, 2, 0]))
    np.testing.assert_allclose(mean, [7 / 3, -np.inf], rtol=1e-6)
    np.testing.assert_allclose(error, [np.std([1, 2, 4], ddof=1) / math.sqrt(3), np.nan], rtol=1e-6)
    one = jax.jit(summary)(values[:1])
    np.testing.assert_array_equal(one.mean, values[0])
    assert np.isnan(one.error).all()


@pytest.mark.parametrize("count", [0, 5])
def test_more_exponents_than_directions_are_one_line(count: int) -> None:
    with pytest.raises(ConfigError, match=f"{count} Lyapunov exponents; layer 1 has a carry of 4, so 1 to 4"):
        lyapunov_exponents(linear(np.eye(H)), count)
