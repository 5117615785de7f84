"""What the flight recorder notes of one training step: loss, norms at every time step, and the carries themselves."""

import jax
import jax.numpy as jnp
from jax import lax

from rnnlab.diagnostics.gradient_flow import root_mean_square
from rnnlab.diagnostics.names import carry_names
from rnnlab.diagnostics.probe import Probe
from rnnlab.typing import PyTree


def flight(probe: Probe) -> dict[str, PyTree]:
    """Of a step, before its update:

    loss, grad_norm     of the batch; the norm before clipping
    gradient            {"layer 1": [T]}, the root mean square over rows of ‖∂L_b/∂h_t‖₂
    state               {"layer 1": [T]}, the same of ‖h_t‖₂
    carries             {"layer 1/h": [T, B, H]}, of the whole batch
    """
    carries = {}
    for trajectory in probe.trajectories:
        names = carry_names(trajectory.cell, len(trajectory.carries))
        for name, carry in zip(names, trajectory.carries, strict=True):
            carries[f"{trajectory.name}/{name}"] = _all_rows(carry, probe)
    return {
        "loss": probe.loss,
        "grad_norm": probe.grad_norm,
        "gradient": {
            trajectory.name: root_mean_square(tap.carry[0], probe)
            for trajectory, tap in zip(probe.trajectories, probe.flows, strict=True)
        },
        "state": {
            trajectory.name: root_mean_square(jnp.where(trajectory.inside[:, :, None], trajectory.carries[0], 0), probe)
            for trajectory in probe.trajectories
        },
        "carries": carries,
    }


def _all_rows(a: jax.Array, probe: Probe) -> jax.Array:
    """[T, B, H] of all devices, rows in order."""
    return a if probe.axis is None else lax.all_gather(a, probe.axis, axis=1, tiled=True)
