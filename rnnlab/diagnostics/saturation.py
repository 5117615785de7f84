"""Which units of a cell are stuck: saturated gates, dead rectified units, and the size of what is carried along.

The units are found by `units.py`, in any cell.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnnlab.config.errors import ConfigError
from rnnlab.diagnostics.diagnostic import Diagnostic, DiagnosticFigure, Lines, dots, maps, over
from rnnlab.diagnostics.names import carry_names, inner_cell, part_names
from rnnlab.diagnostics.probe import Probe
from rnnlab.diagnostics.units import Unit, units_of
from rnnlab.nn.trajectory import Trajectory
from rnnlab.ops.safe_norms import row_norms
from rnnlab.typing import Array, Bool, Float

BINS = 20
STEPS = 32
"""So many time steps of a longer sequence have their gates looked at: those of all cost up to two training steps."""


def saturation(probe: Probe) -> dict[str, Float[Array, "..."]]:
    """Shares over all units and the steps of all rows that are within the row; of every layer and direction.

    The shares of sigmoids and tanh are over `steps_looked_at`: all steps of a sequence of at most 32, else 32 of them.
    Dead units and norms are of all steps.

    Returns:
        "layer 1/NAME/QUANTITY" ("layer 1 reverse/…") -> array.
        For the units that `units_of` finds, NAME being theirs (i, f, g, o, output; r, z, n; h):
            of a sigmoid   below 0.01, above 0.99, histogram [20] over [0, 1]
            of a tanh      beyond 0.99: of |tanh|; histogram [20] over [-1, 1]
            of a ReLU      dead: share of the units that are 0 at all steps of all rows
        For the elements of the carry, NAME being h, c:
            norm           [T], the root mean square over rows of the 2-norm of the carry after step t; NaN for a step
                           that no row has
        A quantity of values of which one is not a number is NaN.

    Raises:
        ConfigError: a cell in which no unit saturates or dies.
    """
    local: dict[str, Any] = {}
    finish: dict[str, Callable[..., dict[str, jax.Array]]] = {}
    for trajectory in probe.trajectories:
        layer, inside = trajectory.name, trajectory.inside
        for unit, valid in _units(trajectory):
            key = f"{layer}/{unit.name}"
            local[key] = _alive(unit.value, valid) if unit.kind == "relu" else _counts(unit, valid)
            finish[key] = {"relu": _dead, "sigmoid": _shares_of_sigmoid, "tanh": _shares_of_tanh}[unit.kind]
        for name, carry in zip(carry_names(trajectory.cell, len(trajectory.carries)), trajectory.carries, strict=True):
            key = f"{layer}/{name}/norm"
            local[key] = row_norms(jnp.where(inside[:, :, None], carry, 0)), inside
            finish[key] = _norm
    result: dict[str, jax.Array] = {}
    for key, of_devices in probe.gather(local).items():
        measured = finish[key](of_devices)
        result |= {f"{key}/{name}" if name else key: value for name, value in measured.items()}
    return result


def steps_looked_at(steps: int) -> np.ndarray:
    """The time steps at which gates are looked at: evenly spread, the first and the last among them."""
    return np.linspace(0, steps - 1, min(steps, STEPS)).round().astype(np.int32)


def _units(trajectory: Trajectory) -> list[tuple[Unit, Bool[Array, "S B"]]]:
    """With values [S, B, H], and which of these steps are within their rows: of all T steps for a unit that may be
    dead, else of those looked at. Without units that do not belong to a row each."""
    parts, step, units = trajectory.parts(), trajectory.step(), []
    gates = part_names(trajectory.cell, len(parts) - len(trajectory.noise))

    def values(carry: Any, parts: Any) -> list[jax.Array]:
        rows = len(carry[0])
        units[:] = [unit for unit in units_of(step, carry, parts, gates) if unit.value.shape[:1] == (rows,)]
        return [unit.value.reshape(rows, -1) for unit in units]

    def of_steps(at: Any) -> list[jax.Array]:
        arrays = jax.vmap(values)(*jax.tree.map(lambda a: a[at], (trajectory.before, parts)))
        # A unit that is the next carry was computed before: the compiler drops what is not used.
        carries = [None if unit.carry is None else trajectory.carries[unit.carry][at] for unit in units]
        return [a if carry is None else carry for a, carry in zip(arrays, carries, strict=True)]

    at = steps_looked_at(len(trajectory.x))
    some, every = of_steps(at), of_steps(slice(None))
    if not units:
        name = type(inner_cell(trajectory.cell)).__name__.lower()
        raise ConfigError(
            f"diagnostics: saturation is not defined for {name} with these activations: no unit of it saturates or "
            "dies; leave it out"
        )
    inside = trajectory.inside
    return [
        # One step of life anywhere is not to be missed.
        (unit._replace(value=whole), inside) if unit.kind == "relu" else (unit._replace(value=part), inside[at])
        for unit, part, whole in zip(units, some, every, strict=True)
    ]


def _alive(values: Float[Array, "T B H"], inside: Bool[Array, "T B"]) -> tuple[jax.Array, jax.Array]:
    """Which units are not 0 somewhere, and whether a value is not a number."""
    values = jnp.where(inside[:, :, None], values, 0)
    return jnp.any(values != 0, axis=(0, 1)), jnp.any(jnp.isnan(values))


def _dead(of_devices: tuple[jax.Array, jax.Array]) -> dict[str, jax.Array]:
    alive, lost = of_devices
    return {"dead": jnp.where(jnp.any(lost), jnp.nan, 1 - jnp.mean(jnp.max(alive, axis=0)))}


def _counts(unit: Unit, inside: Bool[Array, "S B"]) -> Float[Array, " bins"]:
    """How many valid values lie in each of BINS equal bins of [0, 1] (a tanh: [-1, 1]) without its tails, in the lower
    tail, in the upper one, and are not numbers.

    All in one pass, as integers: 20 sums of comparisons take 50 ms for T = 100, B = 50, H = 100 on two cores, this one
    1 ms.
    """
    values, low, lowest = (unit.value, 0.0, 0.01) if unit.kind == "sigmoid" else (unit.value, -1.0, -0.99)
    bins = jnp.clip(jnp.floor((values - low) * (BINS / (1 - low))), 0, BINS - 1)
    bins = jnp.where(values < lowest, BINS, bins)
    bins = jnp.where(values > 0.99, BINS + 1, bins)
    bins = jnp.where(jnp.isnan(values), BINS + 2, bins)
    bins = jnp.where(inside[:, :, None], bins, BINS + 3).astype(jnp.int32)
    width = BINS + 4
    units = jnp.arange(values.shape[-1])  # Each has counters of its own: an accelerator's additions seldom collide.
    counts = jnp.zeros(values.shape[-1] * width, jnp.int32).at[units * width + bins].add(1)
    return counts.reshape(-1, width).sum(0)[:-1].astype(jnp.promote_types(values.dtype, jnp.float32))


def _shares_of_sigmoid(of_devices: Float[Array, "devices bins"]) -> dict[str, jax.Array]:
    below, above, histogram = _shares(of_devices)
    return {"below 0.01": below, "above 0.99": above, "histogram": histogram}


def _shares_of_tanh(of_devices: Float[Array, "devices bins"]) -> dict[str, jax.Array]:
    below, above, histogram = _shares(of_devices)
    return {"beyond 0.99": below + above, "histogram": histogram}


def _shares(of_devices: Float[Array, "devices bins"]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """In the lower tail, in the upper one, and in each bin with the tails within."""
    counts = jnp.sum(of_devices, axis=0)
    shares = jnp.where(counts[-1] > 0, jnp.nan, counts / jnp.sum(counts))
    below, above = shares[BINS], shares[BINS + 1]
    # The tails were counted apart; all of each lies in the first or last bin.
    return below, above, shares[:BINS].at[0].add(below).at[-1].add(above)


def _norm(of_devices: tuple[jax.Array, jax.Array]) -> dict[str, jax.Array]:
    """The root mean square over rows within their length."""
    norms, inside = (jnp.concatenate([*a], axis=1) for a in of_devices)
    return {"": row_norms(norms) / jnp.sqrt(jnp.sum(inside, axis=1))}


# --- figures ---------------------------------------------------------------------------------------------------------


def draw_shares(steps: list[int], lines: Lines, style: ModuleType) -> Any:
    """A panel for each layer: the shares of units at the ends of their range, and of dead ones."""
    kinds = {"above 0.99": ("-", " > 0.99"), "below 0.01": (":", " < 0.01"), "beyond 0.99": ("-", ": |·| > 0.99")}
    kinds["dead"] = ("-", ": dead")
    names = [name for name in lines[0] if name.split("/")[-1] in kinds]
    if not names:
        return None
    layers = list(dict.fromkeys(name.split("/")[0] for name in names))
    figure, axes = style.make_axes(len(layers))
    for axis, layer in zip(axes, layers, strict=True):
        units = list(dict.fromkeys(name.split("/")[1] for name in names if name.split("/")[0] == layer))
        for name in names:
            layer_of_name, unit, kind = name.split("/")
            if layer_of_name == layer:
                stroke, label = kinds[kind]
                colour = style.COLOURS[units.index(unit) % len(style.COLOURS)]
                values = 100 * style.shown(over(style, lines, name))
                axis.plot(steps, values, stroke, color=colour, label=unit + label, linewidth=1.4, **dots(steps))
        axis.set(xlabel="training step", ylabel="share of units and steps, %", title=f"{layer}: saturated and dead")
        axis.set_ylim(bottom=0)
        axis.legend()
    return figure


def draw_histograms(steps: list[int], lines: Lines, style: ModuleType) -> Any:
    """A row for each layer, a panel for each unit: how its values are distributed, over training."""
    names = [name for name in lines[0] if name.endswith("/histogram")]
    if not names:
        return None
    layers = list(dict.fromkeys(name.split("/")[0] for name in names))
    groups = [[name for name in names if name.split("/")[0] == layer] for layer in layers]
    figure, axes = style.make_grid(len(groups), max(map(len, groups)), 3.0, 2.8)
    mesh = None
    for row, group in zip(axes, groups, strict=True):
        for axis in row[len(group) :]:
            axis.set_visible(False)
        for axis, name in zip(row, group, strict=False):
            shares = np.array([style.numbers(line[name]) for line in lines])
            layer, unit, _ = name.split("/")
            low = -1 if f"{layer}/{unit}/beyond 0.99" in lines[0] else 0
            bins = np.linspace(low, 1, shares.shape[1] + 1)
            # The square root of the share is style.shown: a few per cent can still be seen.
            mesh = axis.pcolormesh(
                style.edges(steps), bins, np.sqrt(shares).T, cmap="magma", vmin=0, vmax=1, rasterized=True
            )
            axis.set_facecolor(style.NOTHING)
            axis.grid(False)
            axis.set_title(f"{layer}: {unit}")
            axis.set_xlabel("training step")
        row[0].set_ylabel("value")
    if mesh is not None:
        ticks = [0, 0.01, 0.1, 0.25, 0.5, 1]
        bar = figure.colorbar(mesh, ax=[axis for row in axes for axis in row], ticks=np.sqrt(ticks), label="share, %")
        bar.ax.set_yticklabels([f"{100 * tick:g}" for tick in ticks])
    return figure


def draw_carry_norms(steps: list[int], lines: Lines, style: ModuleType) -> Any:
    """log10 ‖h_t‖ over training step and time step, a panel for each layer and element of the carry."""

    def words(name: str) -> tuple[str, str]:
        layer, element, _ = name.split("/")
        return layer, rf"$\Vert {element}_t\Vert$" if len(element) == 1 else f"norm of {element}"

    return maps(steps, lines, style, ("norm",), words, "time step t")


SATURATION = Diagnostic(
    saturation,
    (
        DiagnosticFigure(
            "saturation",
            draw_shares,
            "Shares of gates and activations at the ends of their range, and of units that are always 0.",
        ),
        DiagnosticFigure(
            "saturation_histograms", draw_histograms, "What gates and activations put out, over training."
        ),
        DiagnosticFigure(
            "carry_norms",
            draw_carry_norms,
            "The norm of the state over training step (across) and time step (up), on a logarithmic scale.",
        ),
    ),
)
