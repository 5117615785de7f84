"""Connections between layers: the arrays that they hand on, the input of each, and the modules that this takes.

The formulas are those of `ModelOptions.connections`.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from rnnlab.config.errors import ConfigError
from rnnlab.nn.linear import Linear
from rnnlab.nn.options import Connections, ModelOptions
from rnnlab.nn.recurrent_layer import RecurrentLayer
from rnnlab.ops.normalization import BatchNormalization, LayerNormalization
from rnnlab.typing import Array, Bool, Carry, Float


class Hidden(NamedTuple):
    """The outputs of a layer, or of the stack, and its last state."""

    h: Float[Array, "T B O"]
    state: Float[Array, "B O"]
    """After the last valid step, of a second direction after the first."""


Carries = list[list[Carry]]
"""The carries of every layer, of each of its directions."""


def check_carries(first: Carries | None, layers: Iterable[RecurrentLayer]) -> None:
    """Raises a ValueError for carries that are not one for each direction of each layer."""
    directions = [len(layer.cells) for layer in layers]
    if first is not None and list(map(len, first)) != directions:
        raise ValueError(f"first has carries for {list(map(len, first))} directions; the layers have {directions}")


class LayerRun(NamedTuple):
    """One layer's input and what ran on it, for diagnostics and penalties that look into the layers."""

    layer: RecurrentLayer
    x: Float[Array, "T B D"]
    first: list[Carry] | None = None
    """The carries that its directions began with, if not with their own initial ones."""
    h: Float[Array, "T B O"] | None = None
    """Its outputs."""
    resets: Bool[Array, "T B"] | None = None
    """The steps at which its rows began anew."""


def make_norm(kind: str | None, features: int, decay: Any) -> nnx.Module | None:
    """The module that normalises a layer's input, by its name in the options; decay: of running statistics."""
    if kind == "batch":
        return BatchNormalization(features, decay)
    return LayerNormalization(features) if kind == "layer" else None


def make_shortcut(options: ModelOptions, in_features: int, out_features: int, rngs: nnx.Rngs) -> Linear | None:
    """The linear map s past a layer; None where it is the identity, or the connections have none.

    Raises:
        ConfigError: the widths differ, and `project_shortcuts` is off.
    """
    if options.connections not in ("residual", "highway") or in_features == out_features:
        return None
    if not options.project_shortcuts:
        raise ConfigError(
            f"model.connections: a {options.connections} connection cannot join {in_features} features and "
            f"{out_features}; make the widths agree (model.input_projection) or set model.project_shortcuts"
        )
    return Linear(in_features, out_features, rngs=rngs)


def make_highway_gate(in_features: int, out_features: int, rngs: nnx.Rngs) -> Linear:
    """The argument of a highway's gate g, which is nearly closed at first."""
    return Linear(in_features, out_features, bias_init={"name": "constant", "value": -1.0}, rngs=rngs)


def width_after(connections: Connections, first: int, in_features: int, out_features: int) -> int:
    """How many features the layer after one sees; first: how many the first layer sees."""
    return {"skip": first + out_features, "dense": in_features + out_features}.get(connections, out_features)


def connect(
    connections: Connections,
    first: Hidden,
    below: Hidden,
    out: Hidden,
    *,
    shortcut: Linear | None = None,
    gate: Linear | None = None,
) -> Hidden:
    """The next layer's input, from outputs and states alike.

    Args:
        first, below, out: the inputs of the first layer and of this one, and its outputs.
        shortcut, gate: of this layer, as `make_shortcut` and `make_highway_gate` give them.
    """
    if connections == "plain":
        return out
    if connections in ("skip", "dense"):
        beside = first if connections == "skip" else below
        return Hidden(*(jnp.concatenate(parts, -1) for parts in zip(beside, out, strict=True)))
    past = shortcut or (lambda a: a)
    if gate is None:
        return Hidden(*(past(x) + y for x, y in zip(below, out, strict=True)))
    gates = (jax.nn.sigmoid(gate(x)) for x in below)
    return Hidden(*(g * y + (1 - g) * past(x) for g, x, y in zip(gates, below, out, strict=True)))
