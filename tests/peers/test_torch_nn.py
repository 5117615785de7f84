"""The cases of PyTorch's tests of torch.nn.RNN, LSTM, GRU and their cells (test/test_nn.py, test/test_modules.py with
the inputs of torch/testing/_internal/common_modules.py, test/nn/test_packed_sequence.py).

Values are compared with PyTorch's own in tests/engine/test_peers.py; here is what else they check. Which case is where,
and which have no counterpart, is in cases.py.
"""

import copy
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rnnlab.cells import CELLS, BaseCell
from rnnlab.config.errors import ConfigError
from rnnlab.engine import unroll
from rnnlab.nn.network import Network
from rnnlab.ops.random_streams import Training
from tests.helpers import assert_close, dot, float64, jaxtyping_disabled, random_array, random_cell, random_like
from tests.tiers import exhaustive_tests, slow_tests

KINDS = ["lstm", *slow_tests("vanilla", "vanilla_relu", "gru")]
D, H = 10, 20


def cell_of(name: str) -> BaseCell:
    return CELLS[name.partition("_relu")[0]](D, H, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("name", ["vanilla", "lstm", "gru"])
def test_inputs_and_carries_that_do_not_fit_are_refused(name):
    """test_RNN_cell_no_broadcasting, test_*_cell_forward_input_size, test_*_cell_forward_hidden_size,
    test_rnn_args_check; module_error_inputs_torch_nn_RNN_GRU_Cell and module_error_inputs_torch_nn_LSTMCell."""
    cell = cell_of(name)
    x = jnp.ones((4, 3, D))

    def carry(*shape: int) -> Any:
        return tuple(jnp.ones(shape) for _ in cell.carry_names)

    for width in (D + 1, D - 1):
        with pytest.raises(ValueError, match=f"takes {D} features"):
            unroll(cell, jnp.ones((4, 3, width)))
    for wrong in ((3, H + 1), (5, H), (1, H), (3, 1), (H,)):
        with pytest.raises(ValueError, match="initial_carry"):
            unroll(cell, x, initial_carry=carry(*wrong))
    with pytest.raises(ValueError, match="initial_carry"):
        unroll(cell, x, initial_carry=(*carry(3, H), *carry(3, H)))


@pytest.mark.parametrize(
    "sizes", [(10, 0), (0, 5), (-1, 5), (3.5, 5), ("10", 5), (3, 5.5)], ids=lambda sizes: f"{sizes}"
)
def test_sizes_that_are_no_positive_whole_numbers_are_refused(sizes):
    """test_RNN_input_size_zero; module_error_inputs_torch_nn_RNN_GRU. A cell of no units is refused, too
    (test_RNN_cell_forward_zero_hidden_size)."""
    for name in ("vanilla", "lstm", "gru"):
        with jaxtyping_disabled(), pytest.raises(ConfigError, match=r"'s (in_)?features: "):
            CELLS[name](*sizes, rngs=nnx.Rngs(0))


def test_no_layers_are_refused():
    """module_error_inputs_torch_nn_RNN_GRU, num_layers of 0."""
    with pytest.raises(ConfigError, match=r"model\.layers: 0 is out of range"):
        Network(D, 2, cell={"name": "gru", "features": H}, layers=0, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("name", KINDS)
def test_without_a_carry_rows_begin_with_zeros(name):
    """test_rnn_initial_hidden_state."""
    cell = cell_of(name)
    x, zeros = random_array(1, 4, 3, D), tuple(jnp.zeros((3, H)) for _ in cell.carry_names)
    assert_close(unroll(cell, x), unroll(cell, x, initial_carry=zeros), 0)


def points(name: str, steps: int = 3, rows: int = 2) -> tuple[Any, Any, Any]:
    """In double precision: the cell split, x and the initial carry."""
    graphdef, state = random_cell(name)
    x = random_array(1, steps, rows, 3)
    return graphdef, state, (x, random_like(nnx.merge(graphdef, state).initial_carry(rows, x.dtype), 2))


@pytest.mark.parametrize("read", [0, *exhaustive_tests(1)])
def test_a_loss_of_one_element_of_the_carry_alone_has_its_gradient(read):
    """test_lstmcell_backward_only_one_output_grad."""
    with float64():
        graphdef, state, (x, carry) = points("lstm")

        def gradients(backend: str) -> Any:
            def loss(state: nnx.State, carry: Any) -> jax.Array:
                return unroll(nnx.merge(graphdef, state), x, initial_carry=carry, backend=backend)[1][read].sum()

            return jax.jit(jax.grad(loss, (0, 1)))(state, carry)

        fused = gradients("fused")
        assert_close(fused, gradients("reference"), 1e-12)
        assert all(jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(fused))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm", "gru", *exhaustive_tests("vanilla")])
@pytest.mark.parametrize(
    ("lengths", "reverse"),
    [
        ((2, 4, 5), True),
        ((5, 0, 1), False),
        *exhaustive_tests(((2, 4, 5), False), ((5, 0, 1), True), ((5, 5, 3), True)),
    ],
    ids=["unsorted", "empty", "unsorted, forward", "empty, reverse", "sorted"],
)
def test_rows_of_different_lengths_equal_each_row_by_itself(name, reverse, lengths):
    """test_variable_sequence, with gradients: the rows need not be sorted, and one may be empty."""
    with float64():
        graphdef, state, (x, carry) = points(name, steps=5, rows=3)
        weights = random_like(unroll(nnx.merge(graphdef, state), x), 7)

        def together(state: nnx.State, x: jax.Array, carry: Any) -> jax.Array:
            rows = jnp.array(lengths)
            result = unroll(nnx.merge(graphdef, state), x, lengths=rows, initial_carry=carry, reverse=reverse)
            return dot(result, weights)

        def alone(state: nnx.State, x: jax.Array, carry: Any) -> jax.Array:
            total = jnp.zeros(())
            for row, length in enumerate(lengths):
                at = slice(row, row + 1)
                first = tuple(a[at] for a in carry)
                steps = x[:length, at][::-1] if reverse else x[:length, at]
                h, last = (
                    (steps[..., :0], first)
                    if not length
                    else unroll(nnx.merge(graphdef, state), steps, initial_carry=first, backend="reference")
                )
                if length:
                    total += dot(h[::-1] if reverse else h, weights[0][:length, at])
                total += dot(last, tuple(a[at] for a in weights[1]))
            return total

        actual, expected = (jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(state, x, carry) for loss in (together, alone))
        assert_close(actual, expected, 1e-12)


@pytest.mark.slow
def test_a_gradient_can_be_taken_again():
    """test_rnn_retain_variables."""
    cell, x = cell_of("lstm"), random_array(1, 4, 3, D)
    loss, gradient = jax.vjp(lambda x: unroll(cell, x)[0].sum(), x)
    assert_close(gradient(jnp.ones_like(loss)), gradient(jnp.ones_like(loss)), 0)


def network(**fields: Any) -> Network:
    return Network(D, 2, cell={"name": "gru", "features": H}, layers=2, rngs=nnx.Rngs(0), **fields)


@pytest.mark.slow
def test_dropout_between_layers_is_on_in_training_alone_and_another_at_every_step():
    """test_RNN_dropout, test_RNN_dropout_state; test_modules.py::test_if_train_and_eval_modes_differ."""
    x = random_array(1, 4, 3, D)
    plain, dropped = network(), network(dropout={"between": 0.5})
    first, second = (Training(jax.random.key(seed), jnp.arange(3)) for seed in (0, 1))
    np.testing.assert_array_equal(dropped(x), plain(x))
    np.testing.assert_array_equal(dropped(x, training=first), dropped(x, training=first))
    assert (dropped(x, training=first) != dropped(x, training=second)).any()
    assert (dropped(x, training=first) != plain(x, training=first)).any()
    np.testing.assert_array_equal(network(dropout={"between": 0.0})(x, training=first), plain(x, training=first))


@pytest.mark.slow
@pytest.mark.parametrize("bidirectional", [True, *exhaustive_tests(False)])
@pytest.mark.parametrize("way", ["pickle", "split", *exhaustive_tests("deepcopy")])
def test_saved_layers_put_out_the_same(way, bidirectional):
    """test_modules.py::test_pickle and test_save_load, of two layers in one direction and in both."""
    net, x = network(bidirectional=bidirectional), random_array(1, 4, 3, D)
    copies = {
        "pickle": lambda: pickle.loads(pickle.dumps(net)),
        "deepcopy": lambda: copy.deepcopy(net),
        "split": lambda: nnx.merge(*nnx.split(net)),
    }
    np.testing.assert_array_equal(copies[way]()(x), net(x))
