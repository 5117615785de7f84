"""The cases of Keras' tests of recurrent layers (keras/src/layers/rnn/*_test.py), with the numbers that they expect.

All weights are constants there: 0.01 for the inputs, 0.02 for the state, 0.03 for biases. Which case is where, and
which have no counterpart, is in cases.py.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rnnlab.cells import BaseCell
from rnnlab.engine import Multiply
from rnnlab.nn.recurrent_layer import RecurrentLayer
from rnnlab.typing import Carry, Parts
from tests.peers.adapter import constant_cell, run
from tests.tiers import exhaustive_tests, slow_tests

GRU_BEFORE = "gru_reset_after_false"
WEIGHTS = {"input_kernel": 0.01, "recurrent_kernel": 0.02}
HOLES = [[True, True, False, True], [True, False, False, True]]
ENDS = [[True, True, True, False], [True, True, False, False]]


def keras_cell(layer: str, in_features: int, features: int, bias: float = 0.03, forget_bias: float = 1.0) -> BaseCell:
    """Their SimpleRNN, LSTM (whose forget gate's bias is 1 whatever the others are) or GRU (with two biases)."""
    kind = {"simple_rnn": "vanilla", GRU_BEFORE: "gru_reset_before"}.get(layer, layer)
    cell = constant_cell(kind, in_features, features, WEIGHTS | {"bias": bias, "recurrent_bias": bias})
    if layer == "lstm":
        cell.bias[...] = cell.bias[...].at[features : 2 * features].set(forget_bias)
    if layer == "gru":  # Both biases of r and z are in one here.
        cell.bias[...] = cell.bias[...].at[: 2 * features].set(2 * bias)
    return cell


def sequence(batch: int, steps: int, width: int) -> np.ndarray:
    return np.arange(batch * steps * width, dtype=np.float32).reshape(batch, steps, width)


STATE = np.arange(4, dtype=np.float32).reshape(2, 2)
BACKWARDS: dict[str, Any] = {"backwards": True}


class Case(NamedTuple):
    """One of theirs, and the last output of each row: one number where all units are alike."""

    test: str
    layer: str
    shape: tuple[int, int, int]
    features: int
    expected: list[Any]
    cell: Mapping[str, Any] = {}
    options: Mapping[str, Any] = {}
    calls: int = 1
    """So often its layer is called with the same sequence; it goes on where it ended."""


RNN, LSTM, GRU = "simple_rnn", "lstm", "gru"
LSTM_STATE = {"initial": (STATE, STATE)}
CASES = [
    Case("simple_rnn_test.py::test_correctness", RNN, (2, 3, 4), 4, [0.405432, 0.73605347]),
    Case("simple_rnn_test.py::test_correctness", RNN, (2, 3, 4), 4, [0.11144729, 0.5528889], {}, BACKWARDS),
    Case("simple_rnn_test.py::test_statefulness", RNN, (2, 3, 4), 4, [0.40559256, 0.7361247], calls=2),
    Case("simple_rnn_test.py::test_masking", RNN, (2, 4, 3), 4, [0.32951632, 0.61799484], {}, {"mask": HOLES}),
    Case(
        *("simple_rnn_test.py::test_masking", RNN, (2, 4, 3), 4, [0.07376196, 0.43645123]),
        options={"mask": HOLES} | BACKWARDS,
    ),
    Case(
        *("simple_rnn_test.py::test_pass_initial_state", RNN, (2, 4, 3), 4, [0.33621645, 0.6262637]),
        options={"initial": (np.arange(8, dtype=np.float32).reshape(2, 4),)},
    ),
    Case("lstm_test.py::test_correctness", LSTM, (3, 6, 4), 3, [0.6288687, 0.86899155, 0.9460773]),
    Case("lstm_test.py::test_correctness", LSTM, (3, 6, 4), 3, [0.35622165, 0.74789524, 0.8872726], {}, BACKWARDS),
    Case(
        *("lstm_test.py::test_correctness", LSTM, (3, 6, 4), 3, [0.57019705, 0.8661914, 0.9459622]),
        {"forget_bias": 0.03},
    ),
    Case(
        *("lstm_test.py::test_correctness", LSTM, (3, 6, 4), 3, [0.54986924, 0.86226785, 0.9443936]),
        {"bias": 0.0, "forget_bias": 0.0},
    ),
    Case("lstm_test.py::test_statefulness", LSTM, (2, 3, 4), 4, [0.3124785, 0.6863672], calls=2),
    Case(
        *("lstm_test.py::test_pass_initial_state", LSTM, (2, 4, 3), 2),
        [[0.20574439, 0.3558822], [0.64930826, 0.66276]],
        options=LSTM_STATE,
    ),
    Case(
        *("lstm_test.py::test_pass_initial_state", LSTM, (2, 4, 3), 2),
        [[0.13281618, 0.2790356], [0.5839337, 0.5992567]],
        options=LSTM_STATE | BACKWARDS,
    ),
    Case("lstm_test.py::test_masking", LSTM, (2, 4, 3), 2, [0.11755939, 0.28556206], {}, {"mask": ENDS}),
    Case("gru_test.py::test_correctness", GRU, (3, 6, 4), 3, [0.5217289, 0.6371659, 0.39384964]),
    Case("gru_test.py::test_correctness", GRU, (3, 6, 4), 3, [0.24406259, 0.611516, 0.3928808], {}, BACKWARDS),
    Case("gru_test.py::test_correctness", GRU_BEFORE, (3, 6, 4), 3, [0.51447755, 0.6426879, 0.40208298]),
    Case("gru_test.py::test_correctness", GRU, (3, 6, 4), 3, [0.49988455, 0.64701194, 0.4103359], {"bias": 0.0}),
    Case("gru_test.py::test_statefulness", GRU, (2, 3, 4), 4, [0.29542392, 0.5885018], calls=2),
    Case(
        *("gru_test.py::test_pass_initial_state", GRU, (2, 4, 3), 2),
        [[0.23774096, 0.33508456], [0.83659905, 1.0227708]],
        options={"initial": (STATE,)},
    ),
    Case(
        *("gru_test.py::test_pass_return_state", GRU, (2, 4, 3), 2),
        [[0.13486053, 0.23261218], [0.78257304, 0.9691353]],
        options={"initial": (STATE,)} | BACKWARDS,
    ),
    Case("gru_test.py::test_masking", GRU, (2, 4, 3), 2, [0.19393763, 0.30818558], {}, {"mask": HOLES}),
    Case("gru_test.py::test_masking", GRU, (2, 4, 3), 2, [0.11669192, 0.28380975], {}, {"mask": HOLES} | BACKWARDS),
]
DEFAULT = (22,)
"""A masked one, backwards."""
LATER = range(0, len(CASES), 3)
REST = sorted({*range(len(CASES))} - {*DEFAULT, *LATER})


def check(actual: Any, expected: Any) -> None:
    """Within the last digit that they give; a number of a row stands for all its units."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    expected = np.broadcast_to(expected.reshape(expected.shape + (1,) * (actual.ndim - expected.ndim)), actual.shape)
    np.testing.assert_allclose(actual, expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("number", [*DEFAULT, *slow_tests(*LATER), *exhaustive_tests(*REST)])
def test_last_outputs_are_those_that_keras_expects(number):
    case = CASES[number]
    cell = keras_cell(case.layer, case.shape[2], case.features, **case.cell)
    options = dict(case.options)
    h = np.zeros(0)
    for _ in range(case.calls):
        h, options["initial"] = run(cell, sequence(*case.shape), **options)
    last = options["initial"][0]
    check(last, case.expected)
    if "mask" not in case.options:
        np.testing.assert_array_equal(last, h[:, 0 if case.options.get("backwards") else -1])


@pytest.mark.parametrize(
    ("layer", "mask", "expected"),
    [
        (RNN, HOLES, [[0.0599281, 0.15122814, 0, 0.32394567], [0.3969304, 0, 0, 0.608085]]),
        *slow_tests(
            (LSTM, ENDS, [[0.01588910, 0.05552048, 0.11755939, 0], [0.14185596, 0.28556206, 0, 0]]),
            (GRU, HOLES, [[0.03606692, 0.09497581, 0, 0.19393763], [0.16051409, 0, 0, 0.30818558]]),
        ),
    ],
)
def test_masked_steps_put_out_zeros_and_keep_the_state(layer, mask, expected):
    """test_masking of simple_rnn_test.py, lstm_test.py and gru_test.py with zero_output_for_mask."""
    h, _ = run(keras_cell(layer, 3, 2), sequence(2, 4, 3), mask=mask)
    check(h, expected)


# --- Bidirectional ---------------------------------------------------------------------------------------------------


def both_directions(forward: BaseCell, backward: BaseCell, x: np.ndarray, **options: Any) -> tuple[Any, Any]:
    """(outputs [B, T, 2 H], the last carry of each direction) of a layer of these two cells."""
    section = {"name": "vanilla", "features": forward.features}
    layer = RecurrentLayer(x.shape[2], cell=section, bidirectional=True, rngs=nnx.Rngs(0))
    layer.cells = nnx.List([forward, backward])
    carries: list[Carry] = []
    outputs, _ = layer(jnp.asarray(x).swapaxes(0, 1), last=carries, **options)
    return np.asarray(outputs).swapaxes(0, 1), carries


@pytest.mark.slow
def test_both_directions_stand_side_by_side():
    """bidirectional_test.py::test_correctness, whose merge modes are means, products and sums of the halves."""
    x, forward = sequence(2, 3, 4), keras_cell(RNN, 4, 2)
    outputs, ((ahead,), (back,)) = both_directions(forward, keras_cell(RNN, 4, 2), x)
    check(ahead, [0.39687276, 0.7237238])
    check(back, [0.10004295, 0.53391594])
    check((ahead + back) / 2, [0.24845785, 0.6288199])
    np.testing.assert_array_equal(outputs[:, 0, 2:], back)
    other = constant_cell("vanilla", 4, 2, {"input_kernel": 0.03, "recurrent_kernel": 0.02, "bias": 0.01})
    _, ((ahead,), (back,)) = both_directions(forward, other, x)
    check(ahead * back, [0.08374989, 0.6740834])
    outputs, _ = both_directions(keras_cell(GRU, 4, 2), keras_cell(GRU, 4, 2), x)
    expected = [[0.20937867, 0.34462988, 0.40290534], [0.59829646, 0.6734641, 0.6479671]]
    check(outputs[..., :2] + outputs[..., 2:], expected)


@pytest.mark.slow
def test_both_directions_go_on_from_their_carries():
    """bidirectional_test.py::test_statefulness, test_pass_initial_state and test_return_state."""
    x, cell = sequence(2, 4, 3), keras_cell(LSTM, 3, 2)
    _, once = both_directions(cell, cell, x)
    check(once[0][0], [0.1990008, 0.52335435])
    check(once[0][1], [0.35567185, 1.0492687])
    check(once[1][0], [0.12659755, 0.44717982])
    check(once[1][1], [0.2501858, 0.941473])
    _, twice = both_directions(cell, cell, x, first=once)
    check(twice[0][0], [0.26234663, 0.6137073])
    check(twice[1][0], [0.16959146, 0.5381646])
    first = [(jnp.asarray(STATE), jnp.asarray(2 * STATE)), (jnp.asarray(3 * STATE), jnp.asarray(4 * STATE))]
    _, last = both_directions(cell, cell, x, first=first)
    check(last[0][0], [[0.20794602, 0.4577124], [0.6682636, 0.6711909]])
    check(last[1][0], [[0.14046375, 0.48191673], [0.60943645, 0.60950446]])


# --- Cells of one's own, stacks --------------------------------------------------------------------------------------


class TwoStates(BaseCell):
    """rnn_test.py::TwoStatesRNNCell: the output is the sum of two states, each with a matrix."""

    gate_names = ("a",)
    carry_names = ("h", "a", "b")
    products: ClassVar = {"first": ("a",), "second": ("b",)}

    def step(self, carry: Carry, z: Parts, multiply: Multiply) -> Carry:
        _, a, b = carry
        a, b = z[0] + multiply("first", a)[0], z[0] + multiply("second", b)[0]
        return (a + b, a, b)


ONES = {"input_kernel": 1.0, "recurrent_kernel": 1.0}


def one_state(in_features: int, features: int) -> BaseCell:
    """rnn_test.py::OneStateRNNCell."""
    return constant_cell("vanilla", in_features, features, ONES, activation="linear")


def two_states(in_features: int, features: int) -> BaseCell:
    return TwoStates(in_features, features, input_init=ones, recurrent_init=ones, rngs=nnx.Rngs(0))


def ones(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    return jnp.ones(shape, dtype)


@pytest.mark.slow
def test_cells_of_ones_count():
    """rnn_test.py::test_forward_pass_single_state to test_masking, with one state and with two."""
    for make, times in ((one_state, 1), (two_states, 2)):
        h, last = run(make(3, 2), np.ones((1, 2, 3)))
        check(h, [[3 * times, 9 * times]])
        for state in last[1:]:
            check(state, [9])
        _, again = run(make(3, 2), np.ones((1, 2, 3)), initial=last)
        check(again[0], [45 * times])
        initial = tuple(jnp.ones((2, 2)) for _ in last)
        check(run(make(2, 2), np.ones((2, 3, 2)), initial=initial)[1][0], [22 * times] * 2)
    check(run(one_state(4, 2), sequence(2, 3, 4), backwards=True)[1][0], [202, 538])
    h, last = run(one_state(3, 2), sequence(2, 4, 3), mask=ENDS)
    check(last[0], [57, 126])


@pytest.mark.slow
def test_layers_of_different_widths_stand_on_each_other():
    """stacked_rnn_cells_test.py: test_correctness_* and test_statefullness_*."""
    x = sequence(2, 3, 4)
    for make, times, twice in ((one_state, 1, [34092, 173196]), (two_states, 2, [136368, 692784])):
        below, above = make(4, 3), make(3, 2)
        h, first = run(below, x)
        outputs, second = run(above, h)
        expected = np.array([[18, 156, 786], [162, 1020, 4386]])
        check(outputs, expected * times**2)
        check(first[-1], [158, 782])
        check(second[-1], [786 * times, 4386 * times])
        h, _ = run(below, x, initial=first)
        check(run(above, h, initial=second)[1][0], twice)


@pytest.mark.slow
def test_a_mask_reaches_every_layer():
    """stacked_rnn_cells_test.py::test_stacked_lstm_cell_mask."""
    x, mask = np.ones((2, 3, 4)), [[True] * 3, [True, True, False]]
    cells = [constant_cell("lstm", width, 1, ONES) for width in (4, 1)]
    for cell in cells:
        cell.bias[...] = cell.bias[...].at[1:2].set(1.0)
    h, _ = run(cells[0], x, mask=mask)
    _, last = run(cells[1], h, mask=mask)
    np.testing.assert_allclose(last[0], [[0.7793], [0.5998]], atol=5e-5)
