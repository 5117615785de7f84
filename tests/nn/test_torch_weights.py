"""Weights of torch.nn.RNN, LSTM and GRU: read in they give PyTorch's outputs, written out they come back."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import rnnlab
from rnnlab.config.errors import ConfigError
from tests.helpers import random_array
from tests.tiers import slow_tests

T, B, D, H = 5, 3, 4, 6
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "gru": ("GRU", {"num_layers": 2, "bidirectional": True}),
    "lstm": ("LSTM", {"num_layers": 2}),
    "lstm without biases": ("LSTM", {"bias": False}),
    "relu": ("RNN", {"nonlinearity": "relu", "bidirectional": True}),
    "tanh": ("RNN", {"nonlinearity": "tanh", "num_layers": 2}),
}


def run(layers: list[rnnlab.RecurrentLayer], x: jax.Array) -> np.ndarray:
    """The outputs of the layers one after the other."""
    split = [nnx.split(layer) for layer in layers]

    @jax.jit
    def outputs(states: list[nnx.State], x: jax.Array) -> jax.Array:
        for (graphdef, _), state in zip(split, states, strict=True):
            x, _ = nnx.merge(graphdef, state)(x)
        return x

    return np.asarray(outputs([state for _, state in split], x))


@pytest.mark.parametrize("case", ["gru", *slow_tests(*[case for case in KINDS if case != "gru"])])
def test_outputs_are_those_of_torch_both_ways(case: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    kind, options = KINDS[case]
    activation = options.get("nonlinearity", "tanh")
    module, x = getattr(torch.nn, kind)(D, H, **options), random_array(1, T, B, D).astype(np.float32)
    with torch.no_grad():
        expected = module(torch.tensor(np.array(x)))[0].numpy()
    layers = rnnlab.from_torch(module.state_dict(), activation=activation)
    np.testing.assert_allclose(run(layers, x), expected, rtol=0, atol=1e-6)
    rnnlab.to_torch(layers, tmp_path / "weights.safetensors")
    again = rnnlab.from_torch(tmp_path / "weights.safetensors", activation=activation)
    other = getattr(torch.nn, kind)(D, H, **(options | {"bias": True}))
    other.load_state_dict({name: torch.from_numpy(np.array(a)) for name, a in rnnlab.to_torch(again).items()})
    with torch.no_grad():
        np.testing.assert_allclose(other(torch.tensor(np.array(x)))[0].numpy(), expected, rtol=0, atol=1e-6)


def weights(gates: int = 3, layers: int = 2) -> dict[str, np.ndarray]:
    """A state_dict as torch.nn has it, of random numbers."""
    rng, named = np.random.default_rng(0), {}
    for number in range(layers):
        shapes = {"weight_ih": (gates * H, H if number else D), "weight_hh": (gates * H, H)}
        shapes |= {"bias_ih": (gates * H,), "bias_hh": (gates * H,)}
        named |= {f"{name}_l{number}": rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return named


@pytest.mark.parametrize("gates", [1, 3, 4])
def test_weights_that_are_written_out_come_back_with_their_biases_added(gates: int) -> None:
    named = weights(gates)
    written = rnnlab.to_torch(rnnlab.from_torch({f"rnn.{k}": v for k, v in named.items()} | {"head": 1}, prefix="rnn."))
    assert written.keys() == named.keys()
    for name, array in written.items():
        if name.startswith("weight"):
            np.testing.assert_array_equal(array, named[name])
    both = named["bias_ih_l1"] + named["bias_hh_l1"]
    np.testing.assert_array_equal((written["bias_ih_l1"] + written["bias_hh_l1"])[: 2 * H], both[: 2 * H])
    if gates == 3:
        np.testing.assert_array_equal(written["bias_hh_l1"][2 * H :], named["bias_hh_l1"][2 * H :])


def without(name: str) -> Mapping[str, Any]:
    return {each: array for each, array in weights().items() if each != name}


WRONG: dict[str, tuple[Any, str]] = {
    "missing matrix": (without("weight_hh_l0"), "the weights lack weight_hh_l0, as torch"),
    "missing bias": (without("bias_hh_l1"), "the weights lack bias_hh_l1"),
    "missing layer": (without("weight_ih_l1"), "the weights lack weight_ih_l1"),
    "shape": (weights() | {"weight_ih_l1": np.zeros((3 * H, H + 1))}, "weight_ih_l1 has the shape (18, 7); the layer"),
    "rows": (weights() | {"weight_ih_l0": np.zeros((5, D))}, "weight_ih_l0 has the shape (5, 4); it needs (18, 4)"),
    "gates": (weights() | {"weight_hh_l0": np.zeros((2 * H, H))}, "weight_hh_l0 has the shape (12, 6); [H, H] is"),
    "projection": (weights(4) | {"weight_hr_l0": np.zeros((2, H))}, "there is no projection"),
    "one too many": (weights() | {"head.weight": np.zeros(2)}, "head.weight is not a weight of torch.nn.RNN"),
    "no numbers": (weights() | {"bias_ih_l0": "zeros"}, "bias_ih_l0 is not an array of numbers"),
    "nothing": ({}, "the weights lack weight_hh_l0"),
    "no names": ({3: np.zeros(2)}, "weights: 3 is no name of a weight"),
}


@pytest.mark.parametrize("case", WRONG)
def test_weights_of_another_module_are_one_line(case: str) -> None:
    named, said = WRONG[case]
    with pytest.raises(ConfigError, match=re.escape(said)) as error:
        rnnlab.from_torch(named)
    assert "\n" not in str(error.value)


def test_files_that_are_missing_or_cut_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    remedy = "write the state_dict of the module again"
    with pytest.raises(ConfigError, match=f"is missing; {remedy}"):
        rnnlab.from_torch(path)
    rnnlab.to_torch(rnnlab.from_torch(weights()), path)
    content = path.read_bytes()
    for length in (4, 100, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ConfigError, match=f"(is cut short|is not a whole safetensors file .*); {remedy}"):
            rnnlab.from_torch(path)
    with pytest.raises(ConfigError, match="unknown activation 'relo'; did you mean relu"):
        rnnlab.from_torch(weights(1), activation="relo")


def layer(**cell: Any) -> rnnlab.RecurrentLayer:
    return rnnlab.RecurrentLayer(D, cell={"features": H, **cell}, rngs=nnx.Rngs(0))


class HalfTensor:
    """Behaves as a tensor of torch.bfloat16, which NumPy does not take before it is float."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def detach(self) -> "HalfTensor":
        return self

    def cpu(self) -> "HalfTensor":
        return self

    def float(self) -> np.ndarray:
        return self.array

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("Got unsupported ScalarType BFloat16")


def test_weights_in_half_precision_are_read() -> None:
    for name, tensor in rnnlab.to_torch(rnnlab.from_torch({k: HalfTensor(v) for k, v in weights().items()})).items():
        if "weight" in name:
            np.testing.assert_array_equal(tensor, weights()[name])


@pytest.mark.parametrize("layers", [5, None, "lstm", [3], rnnlab.LSTM(2, 3, rngs=nnx.Rngs(0)), []], ids=range(6))
def test_what_is_no_layer_is_one_line(layers: Any) -> None:
    with pytest.raises(ConfigError, match=r"is no RecurrentLayer; to_torch takes layers or a network") as error:
        rnnlab.to_torch(layers)
    assert "\n" not in str(error.value)


def test_layers_that_torch_does_not_have_are_one_line() -> None:
    for cell, said in {
        ("gru_reset_before", ()): "torch.nn has no ResetBeforeGRU; it has the cells",
        ("lstm", (("peepholes", True),)): "torch.nn has no LSTM with peephole_kernel",
        ("vanilla", (("activation", "elu"),)): "torch.nn.RNN has the activations tanh and relu alone",
        ("vanilla", (("recurrent", "cayley"),)): "torch.nn has no Vanilla with a parametrised R",
    }.items():
        with pytest.raises(ConfigError, match=re.escape(said)):
            rnnlab.to_torch(layer(name=cell[0], **dict(cell[1])))
    with pytest.raises(ConfigError, match=r"layer 2: torch\.nn has one kind of cell"):
        rnnlab.to_torch([layer(name="gru"), layer(name="lstm")])
    network = rnnlab.Network(D, 1, cell={"name": "gru", "features": H}, connections="residual", rngs=nnx.Rngs(0))
    with pytest.raises(ConfigError, match="no counterpart of this network's connections"):
        rnnlab.to_torch(network)


def test_a_networks_layers_are_written_without_its_readout() -> None:
    network = rnnlab.Network(D, 1, cell={"name": "lstm", "features": H}, layers=2, rngs=nnx.Rngs(0))
    written = rnnlab.to_torch(network)
    assert len(written) == 8
    np.testing.assert_array_equal(written["bias_ih_l0"], jnp.asarray(network.layers[0].cells[0].bias[...]))
