"""A network in a few lines, for people."""

from typing import TYPE_CHECKING

import jax
from flax import nnx

if TYPE_CHECKING:
    from rnnlab.nn.network import Network


def described(network: "Network") -> str:
    """A line for each part of a network that has parameters: its name, what it maps to what, how many it has."""
    inputs = f"tokens below {network.vocabulary}" if network.vocabulary else f"{network.in_features} features"
    lines = [("parameters", f"{inputs}, answered at {_WHEN[network.readout_at]}", _count(network))]
    if isinstance(network.embedding, nnx.Param):
        lines.append(("embedding", " × ".join(map(str, network.embedding.shape)), network.embedding.size))
    if network.input_projection is not None:
        lines.append(("input projection", "", _count(network.input_projection)))
    for number, layer in enumerate(network.layers):
        cell = layer.cells[0]
        both = " in both directions" if len(layer.cells) > 1 else ""
        what = f"{cell.in_features} → {type(cell).__name__} of {cell.features}{both}"
        lines.append((f"layer {number + 1}", what, _count(layer)))
    if network.attention is not None:
        lines.append(("attention", type(network.attention).__name__, _count(network.attention)))
    lines.append(("readout", type(network.readout).__name__, _count(network.readout)))
    name_width, what_width = max(len(name) for name, *_ in lines), max(len(what) for _, what, _ in lines)
    rows = [f"  {name:{name_width}}  {what:{what_width}}  {count:>9,}" for name, what, count in lines]
    return "\n".join(["Network", *rows])


_WHEN = {"last": "the last step", "every": "every step"}


def _count(module: nnx.Module) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))
