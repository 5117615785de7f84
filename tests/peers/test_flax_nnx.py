"""The cases of flax's tests of recurrent layers (tests/nnx/nn/recurrent_test.py).

Values are compared with flax's own in tests/engine/test_peers.py; here is what else they check. Which case is where,
and which have no counterpart, is in cases.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rnnlab.cells import GRU, LSTM, BaseCell, Cell, Vanilla
from rnnlab.engine import unroll
from rnnlab.ops.activations import tanh
from rnnlab.typing import Carry, Parts
from tests.helpers import by_hand, random_array
from tests.peers.adapter import run
from tests.tiers import slow_tests


def lstm() -> LSTM:
    return LSTM(3, 4, rngs=nnx.Rngs(0))


def test_one_step_at_a_time_equals_the_sequence():
    """TestLSTMCell: test_basic, test_lstm_sequence and test_lstm_stateful."""
    cell, x = lstm(), random_array(1, 5, 2, 3)
    h, last = unroll(cell, x, backend="reference")
    carry = cell.initial_carry(2)
    for x_t, h_t in zip(x, h, strict=True):
        carry = cell.step(carry, cell.split(cell.project(x_t)), by_hand(cell))
        np.testing.assert_allclose(carry[0], h_t, rtol=1e-5, atol=1e-6)
    assert [a.shape for a in carry] == [a.shape for a in last] == [(2, 4), (2, 4)]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, *slow_tests(jnp.float16)])
def test_narrow_numbers_stay_narrow(dtype):
    """test_lstm_with_different_dtypes (bfloat16) and TestRNN.test_rnn_with_different_dtypes (float16)."""
    graphdef, state = nnx.split(lstm())
    cell = nnx.merge(graphdef, jax.tree.map(lambda a: a.astype(dtype), state))
    h, last = unroll(cell, jnp.ones((5, 2, 3), dtype))
    assert [h.dtype, *(a.dtype for a in last)] == [dtype] * 3
    wide, _ = unroll(nnx.merge(graphdef, state), jnp.ones((5, 2, 3)))
    np.testing.assert_allclose(h.astype(np.float32), wide, atol=8 * float(jnp.finfo(dtype).eps))


@pytest.mark.slow
def test_any_function_is_an_activation():
    """test_lstm_with_custom_activations: of the vanilla cell, whose activation is a choice."""
    cell = Vanilla(3, 4, activation=jax.nn.elu, rngs=nnx.Rngs(0))
    h, _ = unroll(cell, jnp.ones((1, 1, 3)))
    np.testing.assert_allclose(h[0], jax.nn.elu(cell.project(jnp.ones((1, 3)))), rtol=1e-6)


def test_rows_begin_with_the_carry_that_they_are_given():
    """test_lstm_initialize_carry, with ones."""
    cell, x = lstm(), random_array(1, 1, 2, 3)
    ones = tuple(jnp.ones((2, 4)) for _ in range(2))
    i, f, g, o = cell.split(cell.project(x[0]) + ones[0] @ cell.recurrent_kernel[...])
    c = jax.nn.sigmoid(f) + jax.nn.sigmoid(i) * jnp.tanh(g)
    h, last = unroll(cell, x, initial_carry=ones, backend="reference")
    np.testing.assert_allclose(last[1], c, rtol=1e-6)
    np.testing.assert_allclose(h[0], jax.nn.sigmoid(o) * jnp.tanh(c), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [LSTM, GRU])
@pytest.mark.parametrize("backwards", [False, True])
def test_padded_rows_end_where_their_length_says(kind, backwards):
    """test_lstm_with_variable_sequence_length, TestRNN.test_rnn_with_seq_lengths, test_rnn_reverse, test_rnn_keep_order
    and test_rnn_time_major: rows first or steps first, output t belongs to input t."""
    cell = kind(3, 4, rngs=nnx.Rngs(0))
    x = np.asarray(random_array(1, 2, 5, 3))
    mask = np.arange(5) < np.array([[3], [5]])
    h, last = run(cell, x, mask=mask, backwards=backwards)
    for row, length in enumerate((3, 5)):
        steps = x[row : row + 1, :length]
        alone, (end, *_) = run(cell, steps[:, ::-1] if backwards else steps)
        np.testing.assert_allclose(h[row, :length], alone[0, ::-1] if backwards else alone[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(h[row, length:], 0)
        np.testing.assert_allclose(last[0][row], end[0], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_steps_in_one_iteration_change_nothing(backend):
    """TestRNN.test_rnn_with_unroll."""
    x = np.asarray(random_array(1, 2, 6, 3))
    expected, _ = run(lstm(), x, backend=backend)
    for steps in (2, 4):
        np.testing.assert_allclose(run(lstm(), x, backend=backend, unroll_steps=steps)[0], expected, rtol=1e-6)


class Elman(Cell):
    gate_names = ("h",)

    def gates(self, carry: Carry, z: Parts, u: Parts) -> Carry:
        return (tanh(z[0] + u[0]),)


@pytest.mark.slow
def test_a_cell_of_ones_own_is_unrolled():
    """TestRNN.test_rnn_with_custom_cell."""
    own, known = Elman(3, 4, rngs=nnx.Rngs(7)), Vanilla(3, 4, rngs=nnx.Rngs(7))
    x = np.asarray(random_array(1, 2, 5, 3))
    np.testing.assert_array_equal(run(own, x)[0], run(known, x)[0])


@pytest.mark.slow
def test_the_number_of_rows_is_free():
    """TestRNN.test_rnn_with_variable_batch_size; a row's outputs do not depend on it."""
    cell: BaseCell = lstm()
    x = np.asarray(random_array(1, 5, 5, 3))
    whole, _ = run(cell, x)
    for rows in (1, 2):
        np.testing.assert_allclose(run(cell, x[:rows])[0], whole[:rows], rtol=1e-5, atol=1e-6)
