"""Which units of a cell are stuck: saturated gates, dead rectified units, and the size of what is carried along.

The units are found by `units.py`, in any cell.
"""

from typing import Any

import jax
import jax.numpy as jnp

from rnnlab.build import ConfigError
from rnnlab.diagnostics.names import carry_names, gate_names, inner_cell
from rnnlab.diagnostics.probe import Probe
from rnnlab.diagnostics.units import Unit, units_of
from rnnlab.trajectory import Trajectory
from rnnlab.typing import Array, Bool, Float

BINS = 20


def saturation(probe: Probe) -> dict[str, Float[Array, "..."]]:
    """Shares over all units and the steps of all rows that are within the row; of every layer and direction.

    Returns:
        "layer 1/NAME/QUANTITY" ("layer 1 reverse/…") -> array.
        For the units that `units_of` finds, NAME being theirs (i, f, g, o, output; r, z, n; h):
            of a sigmoid   below 0.01, above 0.99, histogram [20] over [0, 1]
            of a tanh      beyond 0.99: of |tanh|; histogram [20] over [-1, 1]
            of a ReLU      dead: share of the units that are 0 at all steps of all rows
        For the elements of the carry, NAME being h, c:
            norm           [T], the root mean square over rows of the 2-norm of the carry after step t; NaN for a step
                           that no row has
        What says something about values of which one is not a number is NaN.

    Raises:
        ConfigError: a cell in which no unit saturates or dies.
    """
    found: dict[str, jax.Array] = {}
    for trajectory in probe.trajectories:
        inside, measured = trajectory.inside, {}
        for unit in _units(trajectory):
            measured |= {f"{unit.name}/{key}": value for key, value in _measure(unit, inside, probe).items()}
        names = carry_names(trajectory.cell, len(trajectory.carries))
        for name, carry in zip(names, trajectory.carries, strict=True):
            measured[f"{name}/norm"] = _norm(carry, inside, probe)
        found |= {f"{trajectory.name}/{key}": value for key, value in measured.items()}
    return found


def _units(trajectory: Trajectory) -> list[Unit]:
    """With values [T, B, H]; without those that do not belong to a row each."""
    parts, step, found = trajectory.parts(), trajectory.step(), []
    gates = gate_names(trajectory.cell, len(parts) - len(trajectory.noise))

    def values(carry: Any, parts: Any) -> list[jax.Array]:
        rows = len(carry[0])
        found[:] = [unit for unit in units_of(step, carry, parts, gates) if unit.value.shape[:1] == (rows,)]
        return [unit.value.reshape(rows, -1) for unit in found]

    arrays = jax.vmap(values)(trajectory.before, parts)
    if not arrays:
        name = type(inner_cell(trajectory.cell)).__name__.lower()
        raise ConfigError(
            f"diagnostics: saturation is not defined for {name} with these activations: no unit of it saturates or "
            "dies; leave it out"
        )
    return [unit._replace(value=array) for unit, array in zip(found, arrays, strict=True)]


def _measure(unit: Unit, inside: Bool[Array, "T B"], probe: Probe) -> dict[str, jax.Array]:
    values, valid = unit.value, inside[:, :, None]
    if unit.kind == "relu":
        number = jnp.promote_types(values.dtype, jnp.float32)
        dead = jnp.mean(probe.all((values == 0) | ~valid, axis=(0, 1)), dtype=number)
        return {"dead": jnp.where(probe.all(~(jnp.isnan(values) & valid)), dead, jnp.nan)}
    low = 0.0 if unit.kind == "sigmoid" else -1.0
    counts = _counts(values, valid, low, probe)
    shares = jnp.where(counts[-1] > 0, jnp.nan, counts / jnp.sum(counts))
    below, above = shares[BINS], shares[BINS + 1]
    # The tails were counted apart; all of each lies in the first or last bin.
    histogram = shares[:BINS].at[0].add(below).at[-1].add(above)
    if unit.kind == "sigmoid":
        return {"below 0.01": below, "above 0.99": above, "histogram": histogram}
    return {"beyond 0.99": below + above, "histogram": histogram}


def _counts(
    values: Float[Array, "T B H"], valid: Bool[Array, "T B 1"], low: float, probe: Probe
) -> Float[Array, " bins"]:
    """How many valid values lie in each of BINS equal bins of [low, 1] without its tails, in the lower tail, in the
    upper one, and are not numbers; divided by the number of devices.

    All in one pass, as integers: 20 sums of comparisons take 50 ms for T = 100, B = 50, H = 100 on two cores, this one
    1 ms.
    """
    bins = jnp.clip(jnp.floor((values - low) * (BINS / (1 - low))), 0, BINS - 1)
    bins = jnp.where(values < (0.01 if low == 0 else -0.99), BINS, bins)
    bins = jnp.where(values > 0.99, BINS + 1, bins)
    bins = jnp.where(jnp.isnan(values), BINS + 2, bins)
    bins = jnp.where(valid, bins, BINS + 3).astype(jnp.int32)
    width = BINS + 4
    units = jnp.arange(values.shape[-1])  # Each has counters of its own: an accelerator's additions seldom collide.
    found = jnp.zeros(values.shape[-1] * width, jnp.int32).at[units * width + bins].add(1)
    counts = found.reshape(-1, width).sum(0)[:-1]
    return probe.mean(counts.astype(jnp.promote_types(values.dtype, jnp.float32))[None], axis=0)


def _norm(carry: Float[Array, "T B H"], inside: Bool[Array, "T B"], probe: Probe) -> Float[Array, " T"]:
    """Root mean square over rows of the norm over units, scaled first: a ReLU's carry may exceed 1e19."""
    carry = jnp.where(inside[:, :, None], carry, 0).astype(jnp.promote_types(carry.dtype, jnp.float32))
    largest = probe.max(jnp.abs(carry), axis=(1, 2))
    scale = jnp.where(jnp.isfinite(largest), jnp.clip(largest, 1e-30, 1e37), 1)
    squares = jnp.sum((carry / scale[:, None, None]) ** 2, axis=2)
    rows = probe.mean(inside.astype(carry.dtype), axis=1)
    return scale * jnp.sqrt(probe.mean(squares, axis=1) / rows)
