"""Figures of a diagnosis, from DIR/diagnosis.json."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rnnlab.diagnostics.diagnosed import DIAGNOSE_AGAIN, read_diagnosis
from rnnlab.files import interpreting, remove
from rnnlab.files.figure_files import FORMATS
from rnnlab.plots.style import (
    COLOURS,
    GREY,
    NOTHING,
    TIME_STEP,
    gradient_symbol,
    hold_spikes,
    log_scale,
    make_axes,
    make_grid,
    numbers,
    powers_of_two,
    save,
    shown,
    span_steps,
    without_spikes,
)
from rnnlab.plots.words import SMALL
from rnnlab.records.workdir import Workdir


def diagnosis(directory: Path, output: Path | None = None) -> list[Path]:
    """OUTPUT/plots/NAME.png for everything that DIR/diagnosis.json holds; those of an earlier diagnosis are removed.

    output: DIR if not given.
    """
    measured = read_diagnosis(Workdir(directory).diagnosis)
    paths = {name: Workdir(output or directory).figure(name) for name in FIGURES}
    with interpreting(Workdir(directory).diagnosis, DIAGNOSE_AGAIN):
        figures = {name: draw(measured[name]) for name, draw in FIGURES.items() if name in measured}
        for path in paths.values():
            for kind in FORMATS:
                remove(path.with_suffix(f".{kind}"))
        return [save(figure, paths[name]) for name, figure in figures.items()]


def _layers(measured: dict[str, Any]) -> dict[str, Any]:
    return {name: values for name, values in measured.items() if name.startswith("layer")}


def _horizon(measured: dict[str, Any]) -> Figure:
    figure, (axis,) = make_axes(1)
    for number, (layer, values) in enumerate(_layers(measured).items()):
        norms = numbers(values["norms"])
        factor = "" if values["factor"] is None else f": × {float(values['factor']):.4g} per step back"
        look = {"color": COLOURS[number % len(COLOURS)], "label": layer + factor}
        axis.plot(range(1, len(norms) + 1), shown(norms, positive=True), linewidth=1.6, **look)
        span_steps(axis, len(norms))
    log_scale(axis)
    hold_spikes(axis)
    axis.set_xlabel(TIME_STEP)
    axis.set_ylabel(f"{gradient_symbol('h')}, root mean square over rows")
    axis.set_title("gradient of the loss that reaches each time step")
    axis.legend()
    return figure


def _jacobians(measured: dict[str, Any]) -> Figure:
    """A row for each layer: eigenvalues on the complex plane, singular values of steps and of their products."""
    layers = _layers(measured)
    figure, axes = make_grid(len(layers), 3, 4.8, 4.0)
    turn = 2 * np.pi * np.linspace(0, 1, 200)
    for (left, middle, right), (layer, values) in zip(axes, layers.items(), strict=True):
        times, eigenvalues = values["times"], numbers(values["eigenvalues"])
        norm = Normalize(1, max(2, max(times) + 1))
        shade = plt.get_cmap("viridis")
        left.plot(np.cos(turn), np.sin(turn), color=GREY, linewidth=1, linestyle="--")
        furthest = np.ones(1)
        for t, points, singular in zip(times, eigenvalues, numbers(values["singular_values"]), strict=True):
            left.scatter(points[:, 0], points[:, 1], s=9, color=shade(norm(t + 1)), linewidths=0)
            furthest = np.append(furthest, np.hypot(*points.T))
            ranks = range(1, len(singular) + 1)
            least = (
                len(singular) * np.finfo(float).eps * np.nanmax(shown(singular), initial=0)
            )  # Below: rounding errors.
            middle.plot(
                ranks, shown(np.where(singular > least, singular, 0), True), color=shade(norm(t + 1)), linewidth=1.2
            )
        left.set_aspect("equal", adjustable="datalim")
        _hold_eigenvalues(left, furthest)
        left.set(
            xlabel=r"real part ($J_t$ = $\partial$carry$_t$ / $\partial$carry$_{t-1}$)",
            ylabel="imaginary part",
            title=f"{layer}: eigenvalues of $J_t$, longest row",
        )
        log_scale(middle)
        hold_spikes(middle)
        middle.axhline(1, color=GREY, linestyle="--", linewidth=1)
        middle.set(xlabel="rank", ylabel="singular value, mean over rows", title=f"{layer}: singular values of $J_t$")
        bar = figure.colorbar(ScalarMappable(norm, shade), ax=[left, middle], label="time step t", pad=0.02)
        bar.outline.set_visible(False)
        _products(right, layer, values)
    return figure


def _hold_eigenvalues(axis: Axes, moduli: np.ndarray) -> None:
    """Ends the plane where the eigenvalues do without their spikes, and says how many lie outside."""
    moduli = moduli[np.isfinite(moduli)]
    end = max(without_spikes(moduli, logarithmic=False)[1], 1.0)
    outside = moduli[moduli > end]
    if outside.size:
        axis.set(xlim=(-1.1 * end, 1.1 * end), ylim=(-1.1 * end, 1.1 * end))
        text = f"outside: {outside.size}, up to |λ| = {outside.max():.3g}"
        axis.annotate(text, (0.02, 0.98), xycoords="axes fraction", va="top", fontsize=SMALL)


def _products(axis: Axes, layer: str, values: dict[str, Any]) -> None:
    """Quantiles of the singular values of a product of k step Jacobians, over k."""
    products, counts = shown(numbers(values["log10_products"])), np.array(values["counts"])
    size = products.shape[1]
    # Below that, rounding errors in double precision; the mean over rows of bounds that differ lies a little above.
    floor = products[:, 0] + np.log10(size * np.finfo(float).eps)
    lost = products <= floor[:, None] + 0.5
    quantiles = {"largest": 0, "upper quarter": 0.25, "median": 0.5, "lower quarter": 0.75, "smallest": 1}
    for number, (name, share) in enumerate(quantiles.items()):
        at = round(share * (size - 1))
        line = np.where(lost[:, at], np.nan, products[:, at])
        if np.isfinite(line).any():
            axis.plot(counts, line, ".-", color=COLOURS[number], label=name, linewidth=1.4)
    if lost.any() and np.isfinite(floor).any():
        low = np.nanmin(floor)
        axis.fill_between(counts, low, floor, color=NOTHING, linewidth=0, label="beyond double precision")
        axis.set_ylim(bottom=low)
    axis.axhline(0, color=GREY, linestyle="--", linewidth=1)
    powers_of_two(axis, values["counts"])
    axis.set(xlabel="steps k", ylabel=r"$\log_{10}$ singular value, mean over rows")
    axis.set_title(f"{layer}: product of the first k of $J_t$")
    if axis.get_legend_handles_labels()[0]:
        axis.legend()


def _lyapunov(measured: dict[str, Any]) -> Figure:
    figure, (axis,) = make_axes(1)
    for number, (layer, values) in enumerate(_layers(measured).items()):
        mean, error = numbers(values["mean"]), numbers(values["error"])
        drawn, index, colour = shown(mean), np.arange(1, len(mean) + 1), COLOURS[number % len(COLOURS)]
        gone = int((mean == -np.inf).sum())
        label = layer + (f" (and {gone} of {len(mean)} at −∞)" if gone else "")
        axis.plot(index, drawn, ".-", color=colour, markersize=4, linewidth=1, label=label)
        axis.fill_between(index, drawn - error, drawn + error, color=colour, alpha=0.25, linewidth=0)
    hold_spikes(axis)
    axis.axhline(0, color=GREY, linestyle="--", linewidth=1)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axis.set(xlabel="exponent, by size", ylabel=r"$\lambda_i$, nats per step")
    axis.set_title("finite-time Lyapunov exponents (band: standard error over rows)")
    axis.legend()
    return figure


def _newton(measured: dict[str, Any]) -> Figure:
    """A panel for each layer: the residual over Newton's iterations, for each kind of Jacobian."""
    layers = _layers(measured)
    figure, axes = make_axes(len(layers))
    for axis, (layer, values) in zip(axes, layers.items(), strict=True):
        for number, (kind, each) in enumerate(values["kinds"].items()):
            course = numbers(each["course"])
            label = f"{kind}: {each['iterations']}" + ("" if float(each["converged"]) == 1 else ", not converged")
            axis.plot(range(len(course)), shown(course, positive=True), ".-", color=COLOURS[number], label=label)
        axis.axhline(float(values["tolerance"]), color=GREY, linestyle="--", linewidth=1, label="converged below")
        log_scale(axis)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.set(xlabel=f"Newton iterations, of {values['steps']} steps", ylabel="residual, largest of all rows")
        axis.set_title(rf"{layer}, $\lambda_1$ = {float(values['exponent']):.3g} nats per step")
        axis.legend()
    return figure


def _closed_loop(measured: dict[str, Any]) -> Figure:
    """The largest exponent as it settles, and all that were taken, beside the system's largest."""
    figure, (left, right) = make_axes(2)
    mean, error = numbers(measured["mean"]), numbers(measured["error"])
    left.plot(numbers(measured["time"]), shown(numbers(measured["course"])), color=COLOURS[0], label="network, so far")
    right.errorbar(range(1, len(mean) + 1), shown(mean), shown(error), fmt=".", color=COLOURS[0], label="network")
    for axis in (left, right):
        if measured["system"] is not None:
            system = float(measured["system"])
            axis.axhline(system, color=COLOURS[1], linestyle="--", linewidth=1, label=f"system's largest, {system:g}")
        axis.set_ylabel("Lyapunov exponent, nats per unit of time")
        axis.legend()
    left.set(xlabel="time in the closed loop", title="largest exponent, mean over rows")
    right.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    right.set(xlabel="exponent, by size", title="leading exponents, with standard errors")
    return figure


def _lags(measured: dict[str, Any]) -> Figure:
    """A row for each layer: the gradient's parts by lag and gate, and what a window of so many steps sees."""
    layers = _layers(measured)
    figure, axes = make_grid(len(layers), 2, 5.2, 3.6)
    part = r"$\Vert\partial L/\partial R\Vert$"
    for (left, right), (layer, values) in zip(axes, layers.items(), strict=True):
        norms = numbers(values["norms"])
        lags = np.arange(len(norms) - 1)  # The last part is all that lies beyond.
        for number, gate in enumerate(values["gates"]):
            colour = COLOURS[number % len(COLOURS)]
            left.plot(lags, shown(norms[:-1, number], positive=True), color=colour, label=gate, linewidth=1.4)
        log_scale(left)
        left.set(ylabel=f"part of {part}", title=f"{layer}: {part} by the steps k that it came back")
        if len(values["gates"]) > 1:
            left.legend()
        for number, (name, label) in enumerate({"cosine": "cosine", "ratio": "norm over the whole one's"}.items()):
            right.plot(lags, shown(numbers(values[name])[:-1]), color=COLOURS[number], label=label, linewidth=1.4)
        right.axhline(1, color=GREY, linestyle="--", linewidth=1)
        beyond = f" (beyond {len(norms) - 2} together, not drawn)" if "note" in measured else ""
        right.set_title(r"the parts up to k against the whole $\partial L/\partial R$")
        right.legend()
        for axis in (left, right):
            hold_spikes(axis)
            axis.set_xlabel(f"steps back k{beyond}")
    return figure


def _truncation(measured: dict[str, Any]) -> Figure:
    figure, axes = make_axes(2)
    labels = {"all": "all parameters", "recurrent": "recurrent kernels"}
    for axis, what in zip(axes, ("cosine", "ratio"), strict=True):
        for number, (name, label) in enumerate(labels.items()):
            if name in measured:
                values = shown(numbers(measured[name][what]))
                axis.plot(measured["windows"], values, ".-", color=COLOURS[number], label=label)
        axis.axhline(1, color=GREY, linestyle="--", linewidth=1)
        powers_of_two(axis, measured["windows"])
        hold_spikes(axis)
        axis.set(
            xlabel="window of truncated backpropagation, steps", ylabel={"cosine": "cosine", "ratio": "ratio"}[what]
        )
        axis.set_title({"cosine": "cosine with the full gradient", "ratio": "norm over the full gradient's"}[what])
    axes[0].legend()
    return figure


def _values(measured: dict[str, Any]) -> Figure:
    """A row for each layer, a panel for each unit and element of the carry: a histogram of its values."""
    layers = _layers(measured)
    figure, axes = make_grid(len(layers), max(map(len, layers.values())), 3.0, 2.7)
    for row, (layer, units) in zip(axes, layers.items(), strict=True):
        for axis in row[len(units) :]:
            axis.set_visible(False)
        for axis, (name, unit) in zip(row, units.items(), strict=False):
            edges, shares = numbers(unit["edges"]), 100 * numbers(unit["shares"])
            axis.stairs(shares, edges, fill=True, color=COLOURS[0], alpha=0.8)
            axis.set(xlabel="value", title=f"{layer}: {name}")
            notes = [f"{100 * float(value):.3g} % {what}" for what, value in unit["notes"].items()]
            axis.annotate(
                "\n".join(notes), (0.5, 0.97), xycoords="axes fraction", ha="center", va="top", fontsize=SMALL
            )
            axis.set_ylim(0, 1.3 * max(float(np.nanmax(shares, initial=0)), 1))
        row[0].set_ylabel("share of units and steps, %")
    return figure


FIGURES: dict[str, Callable[[dict[str, Any]], Figure]] = {
    "horizon": _horizon,
    "jacobians": _jacobians,
    "lyapunov": _lyapunov,
    "lags": _lags,
    "truncation": _truncation,
    "values": _values,
    "closed_loop": _closed_loop,
    "newton": _newton,
}
"""Name of a measure and of its figure -> what draws it."""
