"""Agreement with PyTorch and Flax: same weights, same outputs, final states and gradients, in both directions.

Only what these libraries have is compared; peepholes, the reset gate before the product and taps are not among it.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rnnlab.engine import unroll
from tests.helpers import assert_close, dot, float64, random_array, random_carry, random_cell, random_like
from tests.tiers import exhaustive_tests

T, B, D, H = 6, 3, 4, 5
LENGTHS = [4, 1, 6]
BACKENDS = ["fused", "reference"]

Tree = dict[str, Any]


def directions(variant: str) -> tuple[list[nnx.GraphDef], Tree]:
    """Two cells, forward and reverse, with inputs and initial carries: all that a gradient is taken of."""
    cells = [random_cell(variant, seed, in_features=D, features=H) for seed in (0, 1)]
    x = random_array(2, T, B, D)
    carries = [random_carry(nnx.merge(*cell), B, x.dtype, seed) for seed, cell in enumerate(cells)]
    return [graphdef for graphdef, _ in cells], {"cells": [s for _, s in cells], "x": x, "carries": carries}


def run(graphdefs: list[nnx.GraphDef], point: Tree, lengths: list[int] | None, backend: str) -> Any:
    """((h, final carry) of each direction) by `unroll`."""
    rows = None if lengths is None else jnp.array(lengths)
    return [
        unroll(nnx.merge(g, state), point["x"], initial_carry=c, lengths=rows, reverse=reverse, backend=backend)
        for g, state, c, reverse in zip(graphdefs, point["cells"], point["carries"], (False, True), strict=True)
    ]


def weighed(result: Any) -> tuple[jax.Array, Any]:
    """A loss with a random weight on every output and final state, and what it was made of."""
    return dot(result, random_like(result, 7)), result


# --- PyTorch ---------------------------------------------------------------------------------------------------------

TORCH_PEERS = {  # name -> our cell, the class in torch.nn, its arguments
    "tanh": ("vanilla", "RNN", {"nonlinearity": "tanh"}),
    "relu": ("vanilla_relu", "RNN", {"nonlinearity": "relu"}),
    "lstm": ("lstm", "LSTM", {}),
    "gru": ("gru", "GRU", {}),
}


def torch_names(state: nnx.State, suffix: str) -> Tree:
    """Our parameters (or their gradients) under PyTorch's names and in its layout.

    PyTorch has two biases that are added, but for the GRU's n gate, where the second is `recurrent_bias`. Where they
    are added, the gradient of one is the gradient of both.
    """
    values = {name: np.asarray(variable.get_value()) for name, variable in state.items()}
    second = values["bias"]
    if "recurrent_bias" in values:
        second = np.concatenate([second[: 2 * H], values["recurrent_bias"]])
    return {
        f"weight_ih_{suffix}": values["input_kernel"].T,
        f"weight_hh_{suffix}": values["recurrent_kernel"].T,
        f"bias_ih_{suffix}": values["bias"],
        f"bias_hh_{suffix}": second,
    }


def run_torch(kind: str, arguments: Tree, point: Tree, lengths: list[int] | None) -> tuple[Any, Tree]:
    """What `run` returns, and gradients under PyTorch's names, by one bidirectional layer of torch.nn."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")

    def tensor(array: Any) -> Any:
        return torch.tensor(np.array(array), requires_grad=True)

    module = getattr(torch.nn, kind)(D, H, bidirectional=True, **arguments)
    module = module.to(getattr(torch, point["x"].dtype.name))
    weights = torch_names(point["cells"][0], "l0") | torch_names(point["cells"][1], "l0_reverse")
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            value = torch.tensor(np.array(weights[name]))
            if name.startswith("bias_hh"):
                value[: 2 * H if kind == "GRU" else None] = 0  # The first bias holds the sum.
            parameter.copy_(value)

    x = tensor(point["x"])
    starts = [tensor(jnp.stack(parts)) for parts in zip(*point["carries"], strict=True)]
    start = tuple(starts) if len(starts) > 1 else starts[0]
    if lengths is None:
        h, last = module(x, start)
    else:
        packed = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
        h, last = module(packed, start)
        h, _ = torch.nn.utils.rnn.pad_packed_sequence(h, total_length=T)
    lasts = last if isinstance(last, tuple) else (last,)
    result = [(h[:, :, k * H : (k + 1) * H], tuple(part[k] for part in lasts)) for k in (0, 1)]
    result_arrays = jax.tree.map(lambda a: jnp.asarray(a.detach().numpy()), result)
    leaves, cotangents = jax.tree.leaves(result), jax.tree.leaves(random_like(result_arrays, 7))
    sum((a * torch.tensor(np.array(w))).sum() for a, w in zip(leaves, cotangents, strict=True)).backward()
    gradients = {name: parameter.grad for name, parameter in module.named_parameters()}
    gradients |= {"x": x.grad, "start": [s.grad for s in starts]}
    return result_arrays, jax.tree.map(lambda a: a.numpy(), gradients)


@pytest.mark.parametrize("peer", TORCH_PEERS)
@pytest.mark.parametrize("backend", ["fused", *exhaustive_tests("reference")])
@pytest.mark.parametrize(
    ("lengths", "double", "tolerance"),
    [*exhaustive_tests((None, False, 1e-5)), (LENGTHS, True, 1e-12)],
    ids=["full-single", "packed-double"],
)
def test_outputs_and_gradients_equal_torch(peer, backend, lengths, double, tolerance):
    variant, kind, arguments = TORCH_PEERS[peer]
    with jax.enable_x64(double):
        graphdefs, point = directions(variant)
        expected, expected_gradients = run_torch(kind, arguments, point, lengths)

        run_ours = jax.value_and_grad(lambda point: weighed(run(graphdefs, point, lengths, backend)), has_aux=True)
        (_, actual), gradients = jax.jit(run_ours)(point)
        names = torch_names(gradients["cells"][0], "l0") | torch_names(gradients["cells"][1], "l0_reverse")
        starts = [jnp.stack(parts) for parts in zip(*gradients["carries"], strict=True)]
        assert_close(actual, expected, tolerance)
        assert_close(names | {"x": gradients["x"], "start": starts}, expected_gradients, tolerance)


# --- Flax ------------------------------------------------------------------------------------------------------------


def flax_simple(state: nnx.State, **options: Any) -> nnx.Module:
    cell = nnx.SimpleCell(D, H, **options)
    cell.dense_i.kernel[...], cell.dense_i.bias[...] = state["input_kernel"][...], state["bias"][...]
    cell.dense_h.kernel[...] = state["recurrent_kernel"][...]
    return cell


def flax_lstm(state: nnx.State, **options: Any) -> nnx.Module:
    cell = nnx.LSTMCell(D, H, **options)
    gates = [(cell.ii, cell.hi), (cell.if_, cell.hf), (cell.ig, cell.hg), (cell.io, cell.ho)]
    for k, (from_input, from_hidden) in enumerate(gates):
        columns = slice(k * H, (k + 1) * H)
        from_input.kernel[...] = state["input_kernel"][:, columns]
        from_hidden.kernel[...] = state["recurrent_kernel"][:, columns]
        from_hidden.bias[...] = state["bias"][columns]
    return cell


def flax_optimized_lstm(state: nnx.State, **options: Any) -> nnx.Module:
    cell = nnx.OptimizedLSTMCell(D, H, **options)
    cell.dense_i.kernel[...] = state["input_kernel"][...]
    cell.dense_h.kernel[...], cell.dense_h.bias[...] = state["recurrent_kernel"][...], state["bias"][...]
    return cell


def flax_gru(state: nnx.State, **options: Any) -> nnx.Module:
    cell = nnx.GRUCell(D, H, **options)
    cell.dense_i.kernel[...], cell.dense_i.bias[...] = state["input_kernel"][...], state["bias"][...]
    cell.dense_h.kernel[...] = state["recurrent_kernel"][...]
    return cell


FLAX_PEERS = {  # name -> our cell, the peer with our parameters
    "SimpleCell": ("vanilla", flax_simple),
    "LSTMCell": ("lstm", flax_lstm),
    "OptimizedLSTMCell": ("lstm", flax_optimized_lstm),
    "GRUCell": ("gru", flax_gru),
}


def run_flax(make_peer: Any, point: Tree, lengths: list[int] | None) -> Any:
    """What `run` returns, by nnx.RNN; its carry is (c, h), and its outputs past a row's end mean nothing."""
    results = []
    rows = None if lengths is None else jnp.array(lengths)
    for state, carry, reverse in zip(point["cells"], point["carries"], (False, True), strict=True):
        cell = make_peer(state, dtype=jnp.float64, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
        layer = nnx.RNN(cell, time_major=True, return_carry=True, reverse=reverse, keep_order=True)
        start = carry[::-1] if len(carry) > 1 else carry[0]
        last, h = layer(point["x"], initial_carry=start, seq_lengths=rows)
        if rows is not None:
            h = jnp.where((jnp.arange(T)[:, None] < rows)[:, :, None], h, 0)
        results.append((h, tuple(last[::-1]) if len(carry) > 1 else (last,)))
    return results


@pytest.mark.slow
@pytest.mark.parametrize("peer", FLAX_PEERS)
@pytest.mark.parametrize("lengths", [LENGTHS, *exhaustive_tests(None)], ids=["padded", "full"])
def test_outputs_and_gradients_equal_flax(peer, lengths):
    variant, make_peer = FLAX_PEERS[peer]
    with float64():
        graphdefs, point = directions(variant)
        if variant == "gru":  # Flax has no second bias for n.
            for state in point["cells"]:
                state["recurrent_bias"].set_value(jnp.zeros(H))
        run_flax_peer = jax.value_and_grad(lambda point: weighed(run_flax(make_peer, point, lengths)), has_aux=True)
        expected = jax.jit(run_flax_peer)(point)
        for backend in BACKENDS:
            run_ours = jax.value_and_grad(lambda p, b=backend: weighed(run(graphdefs, p, lengths, b)), has_aux=True)
            actual = jax.jit(run_ours)(point)
            if variant == "gru":
                for _, gradient in (actual, expected):
                    for state in gradient["cells"]:
                        state["recurrent_bias"].set_value(jnp.zeros(H))
            assert_close(actual, expected, 1e-12)
