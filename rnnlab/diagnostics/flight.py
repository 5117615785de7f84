"""The flight recorder's notes on one training step: loss, norms at every time step, and the carries themselves."""

import jax

from rnnlab.diagnostics.gradient_flow import aligned, gather_rows, root_mean_square
from rnnlab.diagnostics.names import carry_names
from rnnlab.diagnostics.probe import Probe
from rnnlab.ops.safe_norms import row_norms
from rnnlab.typing import PyTree

SPIKE = 10.0
"""A step is a spike if its gradient's norm exceeds this many times the running mean."""


def flight(probe: Probe) -> dict[str, PyTree]:
    """The notes on a step, before its update:

    loss, grad_norm     of the batch; the norm before clipping
    gradient            {"layer 1": [T]}, the root mean square over rows of ‖∂L_b/∂h_t‖₂
    state               {"layer 1": [T]}, the same of ‖h_t‖₂
    carries             {"layer 1/h": [T, B, H]}, of the whole batch

    Rows shorter than T are `aligned` in gradient and state: the entry k before the last, of a reverse direction the
    entry k, is k steps back from each row's end, and the mean is over the rows that are so long.
    """
    rows: dict[str, jax.Array] = {}
    for trajectory, tap in zip(probe.trajectories, probe.flows, strict=True):
        rows[f"{trajectory.name}/gradient"] = row_norms(tap.carry[0])
        rows[f"{trajectory.name}/state"] = row_norms(trajectory.carries[0])
        names = carry_names(trajectory.cell, len(trajectory.carries))
        for name, carry in zip(names, trajectory.carries, strict=True):
            rows[f"{trajectory.name}/carries/{name}"] = carry
    whole, lengths = gather_rows(probe, rows)
    arrays: dict[str, dict] = {"gradient": {}, "state": {}, "carries": {}}
    for trajectory in probe.trajectories:
        for kind in ("gradient", "state"):
            norms = aligned(whole[f"{trajectory.name}/{kind}"], lengths, trajectory.reverse)
            arrays[kind][trajectory.name] = root_mean_square(*norms)
    for name, array in whole.items():
        layer, _, element = name.partition("/carries/")
        if element:
            arrays["carries"][f"{layer}/{element}"] = array
    return {"loss": probe.loss, "grad_norm": probe.grad_norm, **arrays}
