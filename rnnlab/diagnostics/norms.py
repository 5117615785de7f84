"""How large gradients, weights and updates are, parameter by parameter, and gate by gate for recurrent kernels."""

from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from rnnlab.diagnostics.diagnostic import Diagnostic, DiagnosticFigure, Lines, dots, over
from rnnlab.diagnostics.names import inner_cell, parameter_name
from rnnlab.diagnostics.probe import Probe
from rnnlab.ops.safe_norms import row_norms
from rnnlab.typing import Array, Float


def norms(probe: Probe) -> dict[str, Float[Array, ""]]:
    """2-norms of what a training step is made of.

    Returns:
        "PARAMETER/QUANTITY" -> scalar. PARAMETER is "layer 1/input_kernel", "layer 1 reverse/bias", "readout/kernel",
        and for each gate's block of columns of a recurrent kernel also "layer 1/recurrent_kernel/f"; QUANTITY is
            gradient   of the mean loss, before clipping
            clipped    the same after clipping
            weight
            update     what is added to the weight
            update / weight
        A norm is finite where its squares would overflow and infinite or not a number where a value is. update / weight
        is 0 for an update of 0, and otherwise infinite for a weight of 0.
    """
    by_name: dict[str, jax.Array] = {}
    kinds = {"gradient": probe.gradients, "clipped": probe.clipped, "weight": probe.params, "update": probe.updates}
    for kind, tree in kinds.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            name = parameter_name(path)
            gates = _gates(name, leaf, probe)
            if gates:
                by_gate = _gate_norms(leaf.reshape(leaf.shape[0], len(gates), -1))
                by_name |= {f"{name}/{gate}/{kind}": by_gate[index] for index, gate in enumerate(gates)}
                by_name[f"{name}/{kind}"] = row_norms(by_gate)
            else:
                by_name[f"{name}/{kind}"] = row_norms(leaf.ravel())
    names = [name.removesuffix("/weight") for name in by_name if name.endswith("/weight")]
    by_name |= {
        f"{name}/update / weight": _ratio(by_name[f"{name}/update"], by_name[f"{name}/weight"]) for name in names
    }
    return {f"{name}/{kind}": by_name[f"{name}/{kind}"] for name in names for kind in (*kinds, "update / weight")}


def _gates(name: str, leaf: jax.Array, probe: Probe) -> tuple[str, ...]:
    """The gates of a recurrent kernel that is R [K, U] itself, of more than one gate; else none."""
    layer, _, parameter = name.rpartition("/")
    cell = next((inner_cell(each.cell) for each in probe.trajectories if each.name == layer), None)
    if cell is None or cell.builds_recurrent_matrix or parameter != "recurrent_kernel":
        return ()
    gates = cell.recurrent_gates
    is_whole = leaf.shape == (cell.meets * cell.features, len(gates) * cell.features)
    return gates if is_whole and len(gates) > 1 else ()


def _ratio(update: jax.Array, weight: jax.Array) -> jax.Array:
    ratio = update / jnp.where(weight == 0, 1, weight)
    return jnp.where((weight == 0) & (update > 0), jnp.inf, ratio)


def _gate_norms(blocks: Float[Array, "H G J"]) -> Float[Array, " G"]:
    return row_norms(jnp.moveaxis(blocks, 1, 0).reshape(blocks.shape[1], -1))


# --- figures ---------------------------------------------------------------------------------------------------------


def draw_norms(steps: list[int], lines: Lines, style: ModuleType) -> Any:
    """A row for each layer: norms of gradients before and after clipping, of weights, and updates over weights."""
    names = [name.removesuffix("/weight") for name in lines[0] if name.endswith("/weight")]
    names = [name for name in names if name.rpartition("/")[0] not in names]  # Without single gates of a kernel.
    layers = list(dict.fromkeys(name.split("/")[0] for name in names))
    figure, axes = style.make_grid(len(layers), 3, 4.6, 3.2)
    for row, layer in zip(axes, layers, strict=True):
        for number, name in enumerate(name for name in names if name.split("/")[0] == layer):
            colour = style.COLOURS[number % len(style.COLOURS)]
            label = name.removeprefix(f"{layer}/").replace("_", " ")
            draws = [(0, "gradient", "-"), (0, "clipped", ":"), (1, "weight", "-"), (2, "update / weight", "-")]
            for column, kind, stroke in draws:
                values = style.shown(over(style, lines, f"{name}/{kind}"), positive=True)
                line = "_" if kind == "clipped" else label
                row[column].plot(steps, values, stroke, color=colour, label=line, linewidth=1.4, **dots(steps))
        titles = ("gradient norm (dotted: after clipping)", "weight norm", "update norm / weight norm")
        for axis, title in zip(row, titles, strict=True):
            style.log_scale(axis)
            style.hold_spikes(axis)
            axis.set(xlabel="training step", title=f"{layer}: {title}")
        row[0].set_ylabel("2-norm")
        row[1].legend()
    return figure


NORMS = Diagnostic(
    norms, (DiagnosticFigure("norms", draw_norms, "Norms of gradients, weights and updates over training."),)
)
