"""How large gradients, weights and updates are, parameter by parameter, and gate by gate for recurrent kernels."""

import jax
import jax.numpy as jnp

from rnnlab.diagnostics.names import gates_of_kernel, parameter_name
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
    found: dict[str, jax.Array] = {}
    kinds = {"gradient": probe.gradients, "clipped": probe.clipped, "weight": probe.params, "update": probe.updates}
    for kind, tree in kinds.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            name = parameter_name(path)
            gates = _gates(name, leaf, probe)
            if gates:
                by_gate = _gate_norms(leaf.reshape(leaf.shape[0], len(gates), leaf.shape[0]))
                found |= {f"{name}/{gate}/{kind}": by_gate[index] for index, gate in enumerate(gates)}
                found[f"{name}/{kind}"] = row_norms(by_gate)
            else:
                found[f"{name}/{kind}"] = row_norms(leaf.ravel())
    names = [name.removesuffix("/weight") for name in found if name.endswith("/weight")]
    found |= {f"{name}/update / weight": _ratio(found[f"{name}/update"], found[f"{name}/weight"]) for name in names}
    return {f"{name}/{kind}": found[f"{name}/{kind}"] for name in names for kind in (*kinds, "update / weight")}


def _gates(name: str, leaf: jax.Array, probe: Probe) -> list[str]:
    """The gates of a recurrent kernel [H, M] of more than one block; else none."""
    if not name.endswith("/recurrent_kernel") or leaf.ndim != 2 or not leaf.shape[0]:
        return []
    count, rest = divmod(leaf.shape[1], leaf.shape[0])
    return [] if rest or count < 2 else gates_of_kernel(name, count, probe.trajectories)


def _ratio(update: jax.Array, weight: jax.Array) -> jax.Array:
    ratio = update / jnp.where(weight == 0, 1, weight)
    return jnp.where((weight == 0) & (update > 0), jnp.inf, ratio)


def _gate_norms(blocks: Float[Array, "H G J"]) -> Float[Array, " G"]:
    return row_norms(jnp.moveaxis(blocks, 1, 0).reshape(blocks.shape[1], -1))
