"""Step Jacobians and their products against `jax.jacrev` of a plain loop, and against closed forms."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rnnlab.cells import LSTM, Vanilla
from rnnlab.cells.wrappers import ModifiedCell
from rnnlab.config.errors import ConfigError
from rnnlab.diagnostics.jacobians import eigenvalues, jacobian_bytes, jacobian_products, powers_of_two, step_jacobians
from rnnlab.nn.network import Network
from rnnlab.nn.trajectory import Trajectory, trajectories
from rnnlab.ops.random_streams import Training
from tests.helpers import (
    assert_close,
    by_hand,
    compiled_carries,
    float64,
    in_double,
    loop,
    measured,
    random_array,
    random_carry,
    random_cell,
    with_bad_padding,
)
from tests.tiers import exhaustive_tests, in_tiers, slow_tests

T, B, D, H = 5, 3, 3, 4
LENGTHS = (5, 3, 0)


def run(cell: Any, x: jax.Array, lengths: Any = None, reverse: bool = False, **options: Any) -> Trajectory:
    """A trajectory of a cell alone."""
    lengths = None if lengths is None else jnp.array(lengths)
    carry = random_carry(cell, x.shape[1], x.dtype, 20)
    first, carries = compiled_carries(cell, x, lengths, reverse, carry, **options)
    if lengths is not None:
        x = jnp.where(jnp.arange(x.shape[0])[:, None, None] < lengths[:, None], x, 0)
    return Trajectory("layer 1", cell, x, lengths, reverse, first, carries, **options)


def vanilla(kernel: Any, activation: str) -> Vanilla:
    """A cell with this R, in double precision where that is on."""
    kernel = jnp.asarray(kernel)
    zeros = {"input_init": "zeros", "recurrent_init": "zeros"}  # Nothing to compile.
    cell = Vanilla(D, kernel.shape[0], activation=activation, **zeros, rngs=nnx.Rngs(0))
    nnx.update(cell, in_double(nnx.state(cell)))
    cell.input_kernel[...] = jnp.asarray(random_array(9, D, kernel.shape[0]), kernel.dtype)
    cell.recurrent_kernel[...] = kernel
    return cell


def linear(kernel: Any, steps: int = T, batch: int = 1, lengths: Any = None) -> Trajectory:
    """A trajectory of h' = x W + h R."""
    return run(vanilla(kernel, "linear"), random_array(0, steps, batch, D), lengths)


def rotation(size: int) -> np.ndarray:
    """An orthogonal matrix."""
    return np.linalg.qr(np.random.default_rng(1).normal(size=(size, size)))[0]


class Masked:
    """A cell with one row's state_mask in its own step."""

    def __init__(self, cell: Any, mask: jax.Array):
        self.cell, self.mask, self.precision = cell, mask, cell.precision
        self.project, self.split, self.matrices = cell.project, cell.split, cell.matrices
        self.initial_carry = cell.initial_carry

    def step(self, carry: Any, z: Any, multiply: Any) -> Any:
        return self.cell.step(carry, z, by_hand(self.cell, mask=self.mask[None]))


def plain(cell: Any, x: jax.Array, carry: Any, mask: jax.Array | None = None, shares: Any = None) -> jax.Array:
    """One row's carry [S] after all of x [K, D], a step at a time; shares [K, H]: zoneout of h."""
    cell = cell if mask is None else Masked(cell, mask)
    for k in range(x.shape[0]):
        _, new = loop(cell, x[k : k + 1, None], carry)
        if shares is not None:
            new = (carry[0] + shares[k] * (new[0] - carry[0]), *new[1:])
        carry = new
    return jnp.concatenate(carry, -1)[0]


def joined_jacobian(function: Any, carry: Any) -> jax.Array:
    """[S, S] of a function of one row's carry."""
    return jnp.concatenate(jax.jacrev(function)(carry), -1)[:, 0]


@pytest.mark.parametrize("variant", in_tiers())
def test_step_jacobians_equal_jacrev_of_a_plain_step(variant: str) -> None:
    with float64():
        graphdef, state = random_cell(variant, in_features=D, features=H)
        cell, x = nnx.merge(graphdef, state), random_array(1, T, B, D)
        mask, shares = 2 * jnp.asarray(np.arange(B * H).reshape(B, H) % 3 > 0, float), random_array(3, T, B, H)
        options = {"noise": (shares,), "state_mask": mask}
        around = ModifiedCell(cell, zoneout=(0,), candidate=False)

        @jax.jit
        def expected(x: jax.Array, carry: Any, mask: jax.Array, share: jax.Array) -> jax.Array:
            return joined_jacobian(lambda c: plain(cell, x[None], c, mask, share[None]), carry)

        times = [4, 0, 2]
        for reverse in (False, True):
            trajectory = run(around, with_bad_padding(x, jnp.array(LENGTHS)), LENGTHS, reverse, **options)
            jacobians = measured(step_jacobians, trajectory, jnp.array(times))
            for k, t in enumerate(times):
                for b in range(B):
                    carry = tuple(a[t, b][None] for a in trajectory.before)
                    wanted = expected(x[t, b], carry, mask[b], shares[t, b])
                    size = sum(a.shape[-1] for a in carry)
                    assert_close(jacobians[k, b], wanted if t < LENGTHS[b] else jnp.eye(size), 1e-13)


@pytest.mark.parametrize("reverse", [True, *slow_tests(False)])
@pytest.mark.parametrize("variant", ["gru_reset_before", *slow_tests("lstm_peepholes"), *exhaustive_tests("gru")])
def test_products_equal_jacrev_of_the_carry_after_k_steps(variant: str, reverse: bool) -> None:
    with float64():
        graphdef, state = random_cell(variant, in_features=D, features=H)
        cell, x = nnx.merge(graphdef, state), random_array(1, T, B, D)
        counts, start = (1, 4), 1
        trajectory = run(cell, x, LENGTHS, reverse)
        jacobians = measured(jacobian_products, trajectory, counts=counts, start=start)
        blocks = measured(jacobian_products, trajectory, counts=counts, start=start, which="h")
        matrix = jax.jit(lambda x, carry: joined_jacobian(lambda c: plain(cell, x, c), carry))
        first_step = jax.jit(lambda x, carry: loop(cell, x, carry))
        for b, length in enumerate(LENGTHS):
            order = list(range(length))[:: -1 if reverse else 1]
            carry = tuple(a[b : b + 1] for a in trajectory.first)
            if order:
                _, carry = first_step(x[jnp.array(order[:start])][:, b : b + 1], carry)
            for k, count in enumerate(counts):
                steps = order[start : start + count]  # Fewer where the row ends.
                size = sum(a.shape[-1] for a in carry)
                jacobian = matrix(x[jnp.array(steps), b], carry) if steps else jnp.eye(size)
                for values, wanted in ((jacobians, jacobian), (blocks, jacobian[:H, :H])):
                    singular = np.linalg.svd(np.asarray(wanted), compute_uv=False)
                    np.testing.assert_allclose(10.0 ** values[k, b], singular, rtol=1e-9, atol=1e-14 * singular[0])


def test_a_linear_network_has_its_kernel_transposed_at_every_step() -> None:
    with float64():
        kernel = random_array(5, H, H)
        jacobians = measured(step_jacobians, linear(kernel, batch=2, lengths=(5, 2)), jnp.arange(T))
        np.testing.assert_array_equal(jacobians[:, 0], np.broadcast_to(kernel.T, (T, H, H)))
        np.testing.assert_array_equal(jacobians[:2, 1], np.broadcast_to(kernel.T, (2, H, H)))
        np.testing.assert_array_equal(jacobians[2:, 1], np.broadcast_to(np.eye(H), (3, H, H)))


@pytest.mark.parametrize("scale", [1e-3, 0.9, 1.0, 1e3])
def test_singular_values_of_a_scaled_rotation_are_its_scale_to_the_k(scale: float) -> None:
    with float64():
        counts = powers_of_two(512)
        jacobians = measured(jacobian_products, linear(scale * rotation(H), steps=512))
        expected = np.array(counts) * math.log10(scale)
        np.testing.assert_allclose(jacobians[:, 0], np.repeat(expected[:, None], H, 1), rtol=0, atol=1e-10)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_products_in_single_precision_do_not_leave_its_range(scale: float) -> None:
    jacobians = measured(jacobian_products, linear(scale * jnp.eye(H), steps=512), counts=(512,))
    np.testing.assert_allclose(jacobians, 512 * math.log10(scale), rtol=1e-5)


def test_singular_values_below_rounding_stand_at_its_bound_and_a_zero_product_at_minus_infinity() -> None:
    with float64():
        jacobians = measured(jacobian_products, linear(np.diag([1, 0.5, 1e-20, 0.0])), counts=(1, 2))[0, 0]
        bound = math.log10(4 * np.finfo(float).eps)
        np.testing.assert_allclose(jacobians, [0, math.log10(0.5), bound, bound], rtol=1e-14)
        assert (measured(jacobian_products, linear(np.zeros((H, H))), counts=(1, 2)) == -np.inf).all()


def test_the_block_of_an_lstms_cell_is_its_forget_gate() -> None:
    forget = 0.7
    with float64():
        zeros = dict.fromkeys(("input_init", "recurrent_init", "bias_init"), "zeros")
        cell = LSTM(D, H, forget_bias=0.0, **zeros, rngs=nnx.Rngs(0))
        nnx.update(cell, in_double(nnx.state(cell)))
        cell.bias[...] = cell.bias[...].at[H : 2 * H].set(math.log(forget / (1 - forget)))
        trajectory = run(cell, random_array(0, 16, B, D))
        jacobians = measured(step_jacobians, trajectory, jnp.arange(16), which="c")
        np.testing.assert_allclose(jacobians, np.broadcast_to(forget * np.eye(H), jacobians.shape), rtol=1e-14)
        assert (measured(step_jacobians, trajectory, jnp.arange(16), which="h") == 0).all()
        products = measured(jacobian_products, trajectory, counts=(1, 4, 16), which="c")
        expected = np.array([1, 4, 16])[:, None, None] * math.log10(forget)
        np.testing.assert_allclose(products, np.broadcast_to(expected, products.shape), rtol=1e-12)


def test_eigenvalues_of_a_scaled_rotation_lie_on_its_circle() -> None:
    with float64():
        jacobians = eigenvalues(measured(step_jacobians, linear(0.8 * rotation(H)), jnp.arange(2)))
    assert jacobians.shape == (2, 1, H)
    np.testing.assert_allclose(np.abs(jacobians), 0.8, rtol=1e-14)
    assert np.abs(jacobians.imag).max() > 0.1


def test_eigenvalues_come_largest_first_and_are_nan_where_a_matrix_is_not_finite() -> None:
    jacobians = eigenvalues(jnp.stack([jnp.diag(jnp.array([0.5, -2.0, 1.0])), jnp.full((3, 3), jnp.inf)]))
    np.testing.assert_array_equal(jacobians[0], [-2, 1, 0.5])
    assert np.isnan(jacobians[1]).all()


def test_a_row_that_is_not_finite_is_nan_and_the_others_are_not() -> None:
    trajectory = run(
        vanilla(jnp.asarray(rotation(H), jnp.float32), "tanh"), random_array(0, T, 2, D).at[1, 1, 0].set(jnp.nan)
    )
    found_at_3 = measured(step_jacobians, trajectory, jnp.array([3]))[0]
    for jacobians in (found_at_3, measured(jacobian_products, trajectory, counts=(4,))[0]):
        assert np.isfinite(jacobians[0]).all()
        assert np.isnan(jacobians[1]).all()


def test_a_cell_with_products_in_bfloat16_has_the_jacobians_of_its_reverse_mode() -> None:
    cell = vanilla(jnp.asarray(rotation(H), jnp.float32), "linear")
    cell.precision = "bfloat16"
    trajectory = run(cell, random_array(0, T, 1, D))
    jacobian = np.asarray(measured(step_jacobians, trajectory, jnp.array([0])))[0, 0]
    np.testing.assert_allclose(jacobian, np.asarray(cell.recurrent_kernel[...]).T, atol=4e-3)
    singular = np.linalg.svd(jacobian, compute_uv=False)
    np.testing.assert_allclose(10 ** measured(jacobian_products, trajectory, counts=(1,))[0, 0], singular, rtol=1e-5)


@pytest.mark.slow
def test_a_network_in_training_with_dropout_and_normalisation_has_jacobians() -> None:
    fields = {"dropout": {"state": 0.5, "candidate": 0.5, "zoneout": 0.1, "recurrent_kernel": 0.2}}
    cell = {"name": "lstm", "features": H}
    network = Network(2, 1, cell=cell, bidirectional=True, normalization={"cell": "layer"}, **fields, rngs=nnx.Rngs(0))
    training = Training(jax.random.key(0), jnp.arange(B))
    for trajectory in trajectories(network, random_array(0, T, B, 2), jnp.array(LENGTHS), training):
        jacobians = step_jacobians(trajectory, jnp.arange(T))
        assert np.isfinite(jacobians).all()
        assert np.abs(jacobians[0, 0] - np.eye(2 * H)).max() > 0.1
        np.testing.assert_array_equal(jacobians[:, 2], np.broadcast_to(np.eye(2 * H), (T, 2 * H, 2 * H)))


@pytest.mark.slow
def test_batch_normalised_cells_have_jacobians_in_evaluation_alone() -> None:
    cell = {"name": "vanilla", "features": H}
    network = Network(2, 1, cell=cell, normalization={"cell": "batch", "steps": T}, rngs=nnx.Rngs(0))
    x = random_array(0, T, B, 2)
    assert np.isfinite(step_jacobians(trajectories(network, x)[0], jnp.arange(T))).all()
    (trajectory,) = trajectories(network, x, training=Training(jax.random.key(0), jnp.arange(B)))
    with pytest.raises(ConfigError, match="layer 1: with batch normalisation inside the cell the rows"):
        step_jacobians(trajectory, jnp.arange(T))


def test_jacobians_that_take_too_much_memory_say_how_much_and_what_samples() -> None:
    cell = nnx.eval_shape(lambda: Vanilla(1, 1300, rngs=nnx.Rngs(0)))
    shape = jax.ShapeDtypeStruct
    trajectory = Trajectory(
        "layer 1", cell, shape((784, 16, 1), "float32"), None, False, (shape((16, 1300), "float32"),), ()
    )
    assert jacobian_bytes(trajectory, 784) == 784 * 16 * 1300**2 * 4
    with pytest.raises(ConfigError) as caught:
        step_jacobians(trajectory, jnp.arange(784))
    assert str(caught.value) == (
        "full Jacobians of 784 steps, 16 rows and a carry of 1300 take 84.8 GB, more than 4.0 GB; "
        "sample fewer with --jacobians (time steps) or --rows"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": 5}, "start is 5; the 5 steps of layer 1 are numbered 0 to 4"),
        ({"counts": [1, 6]}, r"counts are \[1, 6\]; they must ascend from at least 1 to at most 5 steps"),
        ({"counts": [2, 1]}, "they must ascend"),
        ({"counts": []}, "they must ascend"),
        ({"which": "c"}, "layer 1: the carry of Vanilla has no 'c'; known: carry, h"),
    ],
)
def test_products_that_do_not_exist_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        jacobian_products(linear(np.eye(H)), **options)
