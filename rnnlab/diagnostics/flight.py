"""What the flight recorder notes of one training step: loss, norms at every time step, and the carries themselves."""

import jax.numpy as jnp

from rnnlab.diagnostics.gradient_flow import root_mean_square
from rnnlab.diagnostics.names import carry_names
from rnnlab.diagnostics.probe import Probe
from rnnlab.norms import row_norms
from rnnlab.typing import PyTree


def flight(probe: Probe) -> dict[str, PyTree]:
    """Of a step, before its update:

    loss, grad_norm     of the batch; the norm before clipping
    gradient            {"layer 1": [T]}, the root mean square over rows of ‖∂L_b/∂h_t‖₂
    state               {"layer 1": [T]}, the same of ‖h_t‖₂
    carries             {"layer 1/h": [T, B, H]}, of the whole batch
    """
    rows: dict[str, dict] = {"gradient": {}, "state": {}, "carries": {}}
    for trajectory, tap in zip(probe.trajectories, probe.flows, strict=True):
        rows["gradient"][trajectory.name] = row_norms(tap.carry[0])
        inside = jnp.where(trajectory.inside[:, :, None], trajectory.carries[0], 0)
        rows["state"][trajectory.name] = row_norms(inside)
        names = carry_names(trajectory.cell, len(trajectory.carries))
        rows["carries"] |= {
            f"{trajectory.name}/{name}": carry for name, carry in zip(names, trajectory.carries, strict=True)
        }
    gathered = {
        kind: {name: jnp.concatenate([*arrays], axis=1) for name, arrays in found.items()}
        for kind, found in probe.gather(rows).items()
    }
    norms = {kind: {name: root_mean_square(a) for name, a in gathered[kind].items()} for kind in ("gradient", "state")}
    return {"loss": probe.loss, "grad_norm": probe.grad_norm, **norms, "carries": gathered["carries"]}
