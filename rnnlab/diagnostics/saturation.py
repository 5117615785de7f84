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
    number = jnp.ones((), jnp.promote_types(values.dtype, jnp.float32))
    broken = ~probe.all(~(jnp.isnan(values) & valid))
    if unit.kind == "relu":
        dead = jnp.mean(probe.all((values == 0) | ~valid, axis=(0, 1)), dtype=number.dtype)
        return {"dead": jnp.where(broken, jnp.nan, dead)}
    width = values.size // inside.size
    total = probe.mean(jnp.sum(inside, dtype=jnp.int32) * number) * width  # Counted as integers: all of them.

    def share(where: jax.Array) -> jax.Array:
        """Of the elements for which this holds."""
        count = probe.mean(jnp.sum(where & valid, axis=(0, 1, 2), dtype=jnp.int32) * number)
        return jnp.where(broken, jnp.nan, count / total)

    low = 0 if unit.kind == "sigmoid" else -1
    bins = jnp.clip(jnp.floor((values - low) * (BINS / (1 - low))), 0, BINS - 1)
    histogram = jnp.stack([share(bins == index) for index in range(BINS)])
    if unit.kind == "sigmoid":
        return {"below 0.01": share(values < 0.01), "above 0.99": share(values > 0.99), "histogram": histogram}
    return {"beyond 0.99": share(jnp.abs(values) > 0.99), "histogram": histogram}


def _norm(carry: Float[Array, "T B H"], inside: Bool[Array, "T B"], probe: Probe) -> Float[Array, " T"]:
    """Root mean square over rows of the norm over units, scaled first: a ReLU's carry may exceed 1e19."""
    carry = jnp.where(inside[:, :, None], carry, 0).astype(jnp.promote_types(carry.dtype, jnp.float32))
    largest = probe.max(jnp.abs(carry), axis=(1, 2))
    scale = jnp.where(jnp.isfinite(largest), jnp.clip(largest, 1e-30, 1e37), 1)
    squares = jnp.sum((carry / scale[:, None, None]) ** 2, axis=2)
    rows = probe.mean(inside.astype(carry.dtype), axis=1)
    return scale * jnp.sqrt(probe.mean(squares, axis=1) / rows)
