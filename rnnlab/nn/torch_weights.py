"""Weights of torch.nn.RNN, LSTM and GRU, read into layers and written out of them; torch itself is not needed.

PyTorch has a matrix [G H, D] for all gates and two biases, which are added but for the GRU's n gate; gates are in the
same order here.
"""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from rnnlab.cells import GRU, LSTM, BaseCell, Vanilla
from rnnlab.config.errors import ConfigError, unknown
from rnnlab.files import first_line, read_tensors, write_tensors
from rnnlab.files.path_flag import check_path
from rnnlab.nn.network import Network
from rnnlab.nn.recurrent_layer import RecurrentLayer
from rnnlab.ops.activations import relu, tanh

GATES = {1: "vanilla", 4: "lstm", 3: "gru"}
"""Rows of weight_hh for each unit -> our cell."""
ACTIVATIONS = ("tanh", "relu")
"""Those of torch.nn.RNN, its `nonlinearity`."""


def from_torch(
    weights: Mapping[str, Any] | str | Path, *, activation: str = "tanh", prefix: str = ""
) -> list[RecurrentLayer]:
    """The layers that compute what a torch.nn.RNN, LSTM or GRU with these weights does; apply one after the other.

    Args:
        weights: its `state_dict()`, of tensors or arrays, or the path of a safetensors file of one.
        activation: of a torch.nn.RNN, "tanh" or "relu": its weights do not say it.
        prefix: stands before its names, as "rnn." where it is part of a larger module.

    Returns:
        A layer for each of PyTorch's, [T, B, D] -> ([T, B, O], [B, O]), with both directions where it has them.

    Raises:
        ConfigError: a name is missing or is one too many, a shape does not go with the others, or a module with a
            projection (`proj_size`).
    """
    if activation not in ACTIVATIONS:
        raise ConfigError(f"activation: {unknown('activation', activation, ACTIVATIONS)}")
    if isinstance(weights, str | Path):
        check_path(weights)
        weights, _ = read_tensors(Path(os.path.expanduser(weights)), "write the state_dict of the module again")
    if not isinstance(weights, Mapping):
        raise ConfigError(f"weights: {first_line(weights)} is neither a state_dict nor a path")
    for name in weights:
        if not isinstance(name, str):
            raise ConfigError(f"weights: {name!r} is no name of a weight; they are a state_dict or a path of one")
    arrays = {name.removeprefix(prefix): _array(name, weights[name]) for name in weights if name.startswith(prefix)}
    recurrent = arrays.get("weight_hh_l0")
    if recurrent is None or recurrent.ndim != 2:
        raise ConfigError(_lacks(f"{prefix}weight_hh_l0", weights))
    rows, features = recurrent.shape
    kind = GATES.get(rows // max(features, 1)) if features and rows % features == 0 else None
    if kind is None or any(name.startswith("weight_hr") for name in arrays):
        raise ConfigError(
            f"{prefix}weight_hh_l0 has the shape {recurrent.shape}; [H, H] is an RNN, [4 H, H] an LSTM, "
            "[3 H, H] a GRU; there is no projection"
        )
    layers, used = [], set()
    both = "weight_hh_l0_reverse" in arrays
    count = 1 + max(int(match[1]) for name in arrays if (match := re.fullmatch(r"weight_hh_l(\d+)(_reverse)?", name)))
    for number in range(count):
        wanted = f"weight_ih_l{number}"
        if wanted not in arrays or arrays[wanted].ndim != 2:
            raise ConfigError(_lacks(prefix + wanted, weights))
        section = {"name": kind, "features": features} | ({"activation": activation} if kind == "vanilla" else {})
        layer = RecurrentLayer(
            arrays[wanted].shape[1], cell=section, bidirectional=both, name=f"layers/{number}", rngs=nnx.Rngs(0)
        )
        if number and layer.cells[0].in_features != layers[-1].out_features:
            raise ConfigError(
                f"{prefix}{wanted} has the shape {arrays[wanted].shape}; the layer below puts out "
                f"{layers[-1].out_features} features"
            )
        for direction, cell in enumerate(layer.cells):
            used |= _fill(cell, arrays, f"l{number}" + ("_reverse" if direction else ""), prefix)
        layers.append(layer)
    if others := sorted(arrays.keys() - used):
        raise ConfigError(f"{prefix}{others[0]} is not a weight of torch.nn.RNN, LSTM or GRU; prefix= names one part")
    return layers


def to_torch(
    layers: Network | RecurrentLayer | Iterable[RecurrentLayer], path: str | Path | None = None
) -> dict[str, np.ndarray]:
    """The `state_dict` of the torch.nn.RNN, LSTM or GRU that computes what these layers do, as arrays.

    Args:
        layers: one or several, each on top of the other, or a network, whose readout is left out.
        path: of a safetensors file, which is written where it is not None.

    Raises:
        ConfigError: what is no layer; a cell, or a switch of a layer, that torch.nn does not have.
    """
    if isinstance(layers, Network):
        beside = [layers.connections != "plain", layers.input_projection, layers.embedding, *layers.norms]
        if any(each is not None and each is not False for each in beside):
            raise ConfigError("torch.nn has no counterpart of this network's connections, norms or embedding")
        layers = layers.layers
    if isinstance(layers, RecurrentLayer):
        layers = [layers]
    layers = list(layers) if isinstance(layers, Iterable) else [layers]
    those: list[Any] = layers or ["an empty list"]
    for each in those:
        if not isinstance(each, RecurrentLayer):
            raise ConfigError(
                f"{first_line(each)} is no RecurrentLayer; to_torch takes layers or a network, as run.model"
            )
    arrays: dict[str, np.ndarray] = {}
    for number, layer in enumerate(layers):
        if layer.carries is not None or layer.gains is not None or layer.batch_norms is not None:
            raise ConfigError(f"layer {number + 1}: torch.nn has no learned carry and no normalisation")
        kinds = {type(cell) for cell in layer.cells} | {type(layers[0].cells[0])}
        if len(kinds) > 1:
            raise ConfigError(f"layer {number + 1}: torch.nn has one kind of cell in all layers")
        for direction, cell in enumerate(layer.cells):
            arrays |= _state_dict(cell, f"l{number}" + ("_reverse" if direction else ""))
    if path is not None:
        check_path(path)
        write_tensors(Path(os.path.expanduser(path)), arrays, {"format": "pt"})
    return arrays


def _fill(cell: BaseCell, arrays: Mapping[str, np.ndarray], suffix: str, prefix: str) -> set[str]:
    """Gives a cell the weights of this layer and direction; returns their names."""
    gates, features = len(cell.gate_names), cell.features
    shapes = {
        f"weight_ih_{suffix}": (gates * features, cell.in_features),
        f"weight_hh_{suffix}": (gates * features, features),
    }
    biases = {f"bias_{which}_{suffix}": (gates * features,) for which in ("ih", "hh")}
    if any(name in arrays for name in biases):  # Else the module was made with bias=False.
        shapes |= biases
    for name, shape in shapes.items():
        if name not in arrays:
            raise ConfigError(_lacks(prefix + name, arrays))
        if arrays[name].shape != shape:
            raise ConfigError(f"{prefix}{name} has the shape {arrays[name].shape}; it needs {shape}")
    zeros = np.zeros(gates * features, np.float32)
    first, second = (arrays.get(name, zeros) for name in biases)
    values = {"input_kernel": arrays[f"weight_ih_{suffix}"].T, "recurrent_kernel": arrays[f"weight_hh_{suffix}"].T}
    if isinstance(cell, GRU):
        values["recurrent_bias"] = second[2 * features :]
        second = np.concatenate([second[: 2 * features], zeros[:features]])
    for name, value in (values | {"bias": first + second}).items():
        getattr(cell, name)[...] = jnp.asarray(value)
    return set(shapes)


def _state_dict(cell: BaseCell, suffix: str) -> dict[str, np.ndarray]:
    """A cell's weights under PyTorch's names."""
    values = {name: np.asarray(value.get_value()) for name, value in nnx.state(cell, nnx.Param).items()}
    plain = {"input_kernel", "recurrent_kernel", "bias"} | ({"recurrent_bias"} if type(cell) is GRU else set())
    more = ", ".join(["a parametrised R"] if cell.parametrisation is not None else sorted(values.keys() - plain))
    if type(cell) not in (Vanilla, LSTM, GRU) or more or values.keys() != plain:
        raise ConfigError(
            f"torch.nn has no {type(cell).__name__}{f' with {more}' if more else ''}; it has the cells vanilla (tanh, "
            "relu), lstm and gru"
        )
    if isinstance(cell, Vanilla) and cell.activation not in (tanh, relu):
        raise ConfigError(f"torch.nn.RNN has the activations {' and '.join(ACTIVATIONS)} alone")
    second = np.zeros_like(values["bias"])
    if "recurrent_bias" in values:
        second[2 * cell.features :] = values["recurrent_bias"]
    return {
        f"weight_ih_{suffix}": np.ascontiguousarray(values["input_kernel"].T),
        f"weight_hh_{suffix}": np.ascontiguousarray(values["recurrent_kernel"].T),
        f"bias_ih_{suffix}": values["bias"],
        f"bias_hh_{suffix}": second,
    }


def _array(name: str, value: Any) -> np.ndarray:
    """A tensor of torch, on any device, or an array, as float32."""
    try:
        return np.asarray(value.detach().cpu().float() if hasattr(value, "detach") else value).astype(np.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{name} is not an array of numbers ({first_line(error)})") from None


def _lacks(name: str, there: Iterable[str]) -> str:
    return f"the weights lack {name}, as torch.nn.RNN, LSTM and GRU call it; there are: {', '.join(sorted(there))}"
