"""Figures of what was measured during training, from WORKDIR/diagnostics.jsonl."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from rnnlab.metrics import read_diagnostics
from rnnlab.plots.style import COLOURS, log_scale, make_axes, save


def observed(workdir: Path) -> list[Path]:
    """WORKDIR/plots/NAME.png for every figure that what was measured is enough for."""
    lines = read_diagnostics(workdir)
    found = []
    for name, (diagnostic, draw) in FIGURES.items():
        those = [line for line in lines if diagnostic in line]
        if those:
            figure = draw([line["step"] for line in those], [line[diagnostic] for line in those])
            found.append(save(figure, workdir / "plots" / f"{name}.png"))
    return found


def _heat_map(steps: list[int], lines: list[dict[str, Any]]) -> Figure:
    """log10 ‖∂L/∂h_t‖ over training step and time step, a panel for each layer."""
    names = [name for name in lines[0] if name.endswith(("/h", "/c"))]
    figure, axes = make_axes(len(names))
    for axis, name in zip(axes, names, strict=True):
        norms = np.array([_numbers(line[name]) for line in lines if len(line[name]) == len(lines[-1][name])])
        shown = [s for s, line in zip(steps, lines, strict=True) if len(line[name]) == len(lines[-1][name])]
        with np.errstate(divide="ignore"):
            logs = np.where(norms > 0, np.log10(np.where(norms > 0, norms, 1)), np.nan)
        finite = logs[np.isfinite(logs)]
        low, high = (finite.min(), finite.max()) if finite.size else (0, 1)
        low, high = max(low, high - 12), max(high, low + 0.1)
        edges = [*shown, shown[-1] + (shown[-1] - shown[-2] if len(shown) > 1 else 1)]
        mesh = axis.pcolormesh(
            edges, np.arange(norms.shape[1] + 1) + 0.5, logs.T, cmap="viridis", vmin=low, vmax=high, rasterized=True
        )
        axis.set_facecolor("#dddddd")
        axis.grid(False)
        axis.set_xlabel("training step")
        axis.set_ylabel("time step t")
        layer, _, what = name.rpartition("/")
        axis.set_title(f"log₁₀ ‖∂L/∂{what}_t‖, {layer}")
        figure.colorbar(mesh, ax=axis, extend="min" if finite.size and finite.min() < low else "neither")
    return figure


def _half_life(steps: list[int], lines: list[dict[str, Any]]) -> Figure:
    """Left the gradient's factor per step back in time, right its half-life, where it decays."""
    figure, (left, right) = make_axes(2)
    layers = [name.removesuffix("/factor") for name in lines[0] if name.endswith("/factor")]
    for number, layer in enumerate(layers):
        colour = COLOURS[number % len(COLOURS)]
        left.plot(steps, _numbers(line[f"{layer}/factor"] for line in lines), color=colour, label=layer, linewidth=1.6)
        lives = _numbers(line[f"{layer}/half_life"] for line in lines)
        right.plot(steps, np.where(np.isfinite(lives), lives, np.nan), ".-", color=colour, linewidth=1.2, markersize=4)
        never = ~np.isfinite(lives)
        right.plot(
            np.array(steps)[never],
            np.full(never.sum(), 0.97),
            "^",
            color=colour,
            markersize=4,
            transform=right.get_xaxis_transform(),
        )
    left.axhline(1, color="#6b6b6b", linestyle="--", linewidth=1)
    left.set_title("gradient's factor per step back in time")
    right.set_title("its half-life in steps (▲ at the top: it does not decay)")
    log_scale(right)
    for axis in (left, right):
        axis.set_xlabel("training step")
    if len(layers) > 1:
        left.legend(frameon=False, fontsize=8)
    return figure


FIGURES: dict[str, tuple[str, Callable[[list[int], list[dict[str, Any]]], Figure]]] = {
    "gradient_heat_map": ("gradient_flow", _heat_map),
    "half_life": ("gradient_flow", _half_life),
}
"""Name of the file -> (the diagnostic it needs, what draws it from the steps and that diagnostic's lines)."""


def _numbers(values: Any) -> np.ndarray:
    """Numbers of a JSON line, in which strings stand for what is not finite."""
    return np.array([float(v) for v in values])
