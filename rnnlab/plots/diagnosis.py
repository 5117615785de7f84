"""Figures of a diagnosis, from DIR/diagnosis.json."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from rnnlab.plots.style import COLOURS, log_scale, make_axes, save


def diagnosis(directory: Path) -> list[Path]:
    """DIR/plots/NAME.png for everything that was measured."""
    measured = json.loads((directory / "diagnosis.json").read_text())
    return [
        save(draw(measured[name]), directory / "plots" / f"{name}.png")
        for name, draw in FIGURES.items()
        if name in measured
    ]


def _layers(measured: dict[str, Any]) -> dict[str, Any]:
    return {name: values for name, values in measured.items() if name.startswith("layer")}


def _numbers(values: Any) -> np.ndarray:
    """Nested lists of numbers, in which strings stand for what is not finite."""
    return np.array(values, dtype=object).astype(float)


def _horizon(measured: dict[str, Any]) -> Figure:
    figure, (axis,) = make_axes(1)
    for number, (layer, values) in enumerate(_layers(measured).items()):
        norms = _numbers(values["norms"])
        label = f"{layer}: {float(values['factor']):.4g} per step back"
        axis.plot(range(1, len(norms) + 1), np.where(norms > 0, norms, np.nan), color=COLOURS[number % 6], label=label)
    log_scale(axis)
    axis.set_xlabel("time step t")
    axis.set_title("‖∂L/∂h_t‖, root mean square over rows")
    axis.legend(frameon=False, fontsize=8)
    return figure


def _jacobians(measured: dict[str, Any]) -> Figure:
    """A row for each layer: eigenvalues on the complex plane, and singular values of products over k steps."""
    layers = _layers(measured)
    figure, axes = plt.subplots(len(layers), 2, figsize=(10.4, 4.4 * len(layers)), squeeze=False, layout="constrained")
    turn = 2 * np.pi * np.linspace(0, 1, 200)
    for (left, right), (layer, values) in zip(axes, layers.items(), strict=True):
        times, eigenvalues = values["times"], _numbers(values["eigenvalues"])
        shades = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(times)))
        left.plot(np.cos(turn), np.sin(turn), color="#6b6b6b", linewidth=1, linestyle="--")
        for t, points, shade in zip(times, eigenvalues, shades, strict=True):
            left.scatter(points[:, 0], points[:, 1], s=9, color=shade, label=f"t = {t + 1}", linewidths=0)
        left.set_aspect("equal", adjustable="datalim")
        left.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
        left.set_title(f"{layer}: eigenvalues of ∂h_t/∂h_t₋₁, one row")
        products = _numbers(values["log10_products"])
        quantiles = {"largest": 0, "upper quarter": 0.25, "median": 0.5, "lower quarter": 0.75, "smallest": 1}
        for number, (name, share) in enumerate(quantiles.items()):
            at = round(share * (products.shape[1] - 1))
            shown = np.where(np.isfinite(products[:, at]), products[:, at], np.nan)
            right.plot(values["counts"], shown, ".-", color=COLOURS[number], label=name, linewidth=1.4)
        right.axhline(0, color="#6b6b6b", linestyle="--", linewidth=1)
        right.set_xscale("log", base=2)
        right.set_xlabel("steps k")
        right.set_title(f"{layer}: log₁₀ singular values over k steps")
        right.legend(frameon=False, fontsize=7)
        for axis in (left, right):
            axis.grid(alpha=0.25, linewidth=0.6)
            axis.spines[["top", "right"]].set_visible(False)
    return figure


def _lyapunov(measured: dict[str, Any]) -> Figure:
    figure, (axis,) = make_axes(1)
    for number, (layer, values) in enumerate(measured.items()):
        mean, error = _numbers(values["mean"]), _numbers(values["error"])
        shown = np.where(np.isfinite(mean), mean, np.nan)
        place, colour = np.arange(1, len(mean) + 1), COLOURS[number % 6]
        gone = int((mean == -np.inf).sum())
        label = layer + (f" ({gone} at −∞)" if gone else "")
        axis.plot(place, shown, ".-", color=colour, markersize=4, linewidth=1, label=label)
        axis.fill_between(place, shown - error, shown + error, color=colour, alpha=0.25, linewidth=0)
    axis.axhline(0, color="#6b6b6b", linestyle="--", linewidth=1)
    axis.set_xlabel("exponent")
    axis.set_title("Lyapunov exponents, nats per step (band: standard error over rows)", fontsize=10)
    axis.legend(frameon=False, fontsize=8)
    return figure


def _lags(measured: dict[str, Any]) -> Figure:
    """A row for each layer: the gradient's parts by lag and gate, and what a window of so many steps sees."""
    figure, axes = plt.subplots(
        len(measured), 2, figsize=(10.4, 3.8 * len(measured)), squeeze=False, layout="constrained"
    )
    for (left, right), (layer, values) in zip(axes, measured.items(), strict=True):
        norms = _numbers(values["norms"])
        lags = np.arange(len(norms) - 1)  # The last part is all that lies beyond.
        for number, gate in enumerate(values["gates"]):
            part = norms[:-1, number]
            left.plot(lags, np.where(part > 0, part, np.nan), color=COLOURS[number % 6], label=gate, linewidth=1.4)
        log_scale(left)
        left.set_title(f"{layer}: part of ‖∂L/∂R‖ from k steps back, by gate")
        if len(values["gates"]) > 1:
            left.legend(frameon=False, fontsize=8)
        for number, name in enumerate(("cosine", "ratio")):
            right.plot(lags, _numbers(values[name])[:-1], color=COLOURS[number], label=name, linewidth=1.4)
        right.axhline(1, color="#6b6b6b", linestyle="--", linewidth=1)
        right.set_title(f"{layer}: the sum up to k against the whole")
        right.legend(frameon=False, fontsize=8)
        for axis in (left, right):
            axis.set_xlabel("steps back k")
            axis.grid(alpha=0.25, linewidth=0.6)
            axis.spines[["top", "right"]].set_visible(False)
    return figure


def _truncation(measured: dict[str, Any]) -> Figure:
    figure, axes = make_axes(2)
    for axis, what in zip(axes, ("cosine", "ratio"), strict=True):
        for number, name in enumerate(name for name in measured if name != "windows"):
            label = {"all": "all parameters", "recurrent": "recurrent kernels"}[name]
            axis.plot(measured["windows"], _numbers(measured[name][what]), ".-", color=COLOURS[number], label=label)
        axis.axhline(1, color="#6b6b6b", linestyle="--", linewidth=1)
        axis.set_xscale("log", base=2)
        axis.set_xlabel("window of truncated backpropagation, steps")
        axis.set_title({"cosine": "cosine with the full gradient", "ratio": "norm over the full one's"}[what])
    axes[0].legend(frameon=False, fontsize=8)
    return figure


FIGURES: dict[str, Callable[[dict[str, Any]], Figure]] = {
    "horizon": _horizon,
    "jacobians": _jacobians,
    "lyapunov": _lyapunov,
    "lags": _lags,
    "truncation": _truncation,
}
"""Name of a measure and of its figure -> what draws it."""
