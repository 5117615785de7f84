"""Figures of what was measured during training, from WORKDIR/diagnostics.jsonl."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rnnlab.files import interpreting
from rnnlab.plots.runs import last_forward, reads_every_step
from rnnlab.plots.style import (
    COLOURS,
    GREY,
    NOTHING,
    TIME_STEP,
    edges,
    gradient_symbol,
    heat_map,
    hold_spikes,
    log_scale,
    make_axes,
    make_grid,
    numbers,
    save,
    shown,
)
from rnnlab.records.metrics import LINES_AGAIN, read_diagnostics
from rnnlab.records.workdir import Workdir

Lines = list[dict[str, Any]]
"""What one diagnostic found, an entry for each training step that was looked at."""


def observed(workdir: Path, output: Path | None = None) -> list[Path]:
    """OUTPUT/plots/NAME.png for every figure that WORKDIR/diagnostics.jsonl is enough for; no half-life for a task with
    a readout at every step, where it says nothing.

    output: WORKDIR if not given.
    """
    lines = read_diagnostics(workdir)
    found = []
    for name, (diagnostic, draw) in FIGURES.items():
        if name == "half_life" and reads_every_step(workdir):
            continue
        those = [line for line in lines if diagnostic in line]
        if those:
            with interpreting(Workdir(workdir).diagnostics, LINES_AGAIN):
                figure = draw([line["step"] for line in those], [line[diagnostic] for line in those])
                if figure is not None:
                    found.append(save(figure, Workdir(output or workdir).figure(name)))
    return found


def compare_training(workdirs: Mapping[str, Path], path: Path) -> Path:
    """log10 of ‖∂L/∂h_t‖ over that of the last time step, over training step and time step, a panel for each run's last
    layer: red where the gradient has grown on its way back, blue where it has vanished.

    workdirs: label -> a workdir whose diagnostics.jsonl has gradient_flow.
    """
    figure, axes = make_axes(len(workdirs))
    mesh: Any = None
    for axis, (label, workdir) in zip(axes, workdirs.items(), strict=True):
        lines = [line for line in read_diagnostics(workdir) if "gradient_flow" in line]
        with interpreting(Workdir(workdir).diagnostics, LINES_AGAIN):
            name = last_forward(name for name in lines[-1]["gradient_flow"] if name.endswith("/h"))
            norms = np.array([numbers(line["gradient_flow"][name]) for line in lines])
        logs = np.log10(shown(norms, positive=True)) - np.log10(shown(norms[:, -1:], positive=True))
        rows = np.arange(norms.shape[1] + 1) + 0.5
        mesh = axis.pcolormesh(
            edges([line["step"] for line in lines]), rows, logs.T, cmap="RdBu_r", vmin=-10, vmax=10, rasterized=True
        )
        axis.set_facecolor(NOTHING)
        axis.grid(False)
        axis.set(xlabel="training step", ylabel=TIME_STEP, title=label)
    figure.colorbar(mesh, ax=axes, extend="both", label=r"$\log_{10}$ of the gradient at t over that at the last step")
    return save(figure, path)


def _gradient(steps: list[int], lines: Lines) -> Figure | None:
    """log10 ‖∂L/∂h_t‖ over training step and time step, a panel for each layer and element of the carry."""

    def words(name: str) -> tuple[str, str]:
        return name.split("/")[0], gradient_symbol(name.split("/")[-1])

    return _maps(steps, lines, ("h", "c"), words, TIME_STEP)


def _carry_norms(steps: list[int], lines: Lines) -> Figure | None:
    """log10 ‖h_t‖ over training step and time step, a panel for each layer and element of the carry."""

    def words(name: str) -> tuple[str, str]:
        layer, element, _ = name.split("/")
        return layer, rf"$\Vert {element}_t\Vert$" if len(element) == 1 else f"norm of {element}"

    return _maps(steps, lines, ("norm",), words, "time step t")


def _maps(
    steps: list[int], lines: Lines, quantities: tuple[str, ...], words: Callable[[str], tuple[str, str]], time: str
) -> Figure | None:
    names = [name for name in lines[0] if name.split("/")[-1] in quantities]
    if not names:
        return None
    layers = list(dict.fromkeys(name.split("/")[0] for name in names))
    groups = [[name for name in names if name.split("/")[0] == layer] for layer in layers]
    figure, axes = make_grid(len(groups), max(map(len, groups)), 5.6, 3.6)
    for row, group in zip(axes, groups, strict=True):
        for axis in row[len(group) :]:
            axis.set_visible(False)
        for axis, name in zip(row, group, strict=False):
            layer, symbol = words(name)
            heat_map(figure, axis, steps, [numbers(line[name]) for line in lines], 1, rf"$\log_{{10}}$ {symbol}")
            axis.set(xlabel="training step", ylabel=time, title=f"{layer}: {symbol}")
    return figure


def _half_life(steps: list[int], lines: Lines) -> Figure:
    """Left the gradient's factor per step back in time, right its half-life, where it decays."""
    figure, (left, right) = make_axes(2)
    layers = [name.removesuffix("/factor") for name in lines[0] if name.endswith("/factor")]
    for number, layer in enumerate(layers):
        colour = COLOURS[number % len(COLOURS)]
        left.plot(steps, shown(_over(lines, f"{layer}/factor")), ".-", color=colour, label=layer, markersize=4)
        lives = _over(lines, f"{layer}/half_life")
        right.plot(steps, shown(lives, positive=True), ".-", color=colour, linewidth=1.2, markersize=4)
        never = lives == np.inf
        top = np.full(never.sum(), 0.97)
        at = right.get_xaxis_transform()
        right.plot(np.array(steps)[never], top, "^", color=colour, markersize=4, transform=at)
    left.axhline(1, color=GREY, linestyle="--", linewidth=1)
    left.set(title=f"factor of {gradient_symbol('h')} per step back in time", ylabel="factor")
    right.set(title="half-life of the gradient (▲: it does not decay)", ylabel="time steps")
    log_scale(right)
    for axis in (left, right):
        hold_spikes(axis)
        axis.set_xlabel("training step")
    if len(layers) > 1:
        left.legend(frameon=False, fontsize=8)
    return figure


def _norms(steps: list[int], lines: Lines) -> Figure:
    """A row for each layer: norms of gradients before and after clipping, of weights, and updates over weights."""
    names = [name.removesuffix("/weight") for name in lines[0] if name.endswith("/weight")]
    names = [name for name in names if name.rpartition("/")[0] not in names]  # Without single gates of a kernel.
    layers = list(dict.fromkeys(name.split("/")[0] for name in names))
    figure, axes = make_grid(len(layers), 3, 4.6, 3.2)
    for row, layer in zip(axes, layers, strict=True):
        for number, name in enumerate(name for name in names if name.split("/")[0] == layer):
            colour = COLOURS[number % len(COLOURS)]
            label = name.removeprefix(f"{layer}/").replace("_", " ")
            draws = [(0, "gradient", "-"), (0, "clipped", ":"), (1, "weight", "-"), (2, "update / weight", "-")]
            for column, kind, style in draws:
                values = shown(_over(lines, f"{name}/{kind}"), positive=True)
                line = "_" if kind == "clipped" else label
                row[column].plot(steps, values, style, color=colour, label=line, linewidth=1.4, **_dots(steps))
        titles = ("gradient norm (dotted: after clipping)", "weight norm", "update norm / weight norm")
        for axis, title in zip(row, titles, strict=True):
            log_scale(axis)
            hold_spikes(axis)
            axis.set(xlabel="training step", title=f"{layer}: {title}")
            axis.title.set_fontsize(10)
        row[0].set_ylabel("2-norm")
        row[1].legend(frameon=False, fontsize=8)
    return figure


def _saturation(steps: list[int], lines: Lines) -> Figure | None:
    """A panel for each layer: the shares of units at the ends of their range, and of dead ones."""
    kinds = {"above 0.99": ("-", " > 0.99"), "below 0.01": (":", " < 0.01"), "beyond 0.99": ("-", ": |·| > 0.99")}
    kinds["dead"] = ("-", ": dead")
    names = [name for name in lines[0] if name.split("/")[-1] in kinds]
    if not names:
        return None
    layers = list(dict.fromkeys(name.split("/")[0] for name in names))
    figure, axes = make_axes(len(layers))
    for axis, layer in zip(axes, layers, strict=True):
        units = list(dict.fromkeys(name.split("/")[1] for name in names if name.split("/")[0] == layer))
        for name in names:
            place, unit, kind = name.split("/")
            if place == layer:
                style, label = kinds[kind]
                colour = COLOURS[units.index(unit) % len(COLOURS)]
                values = 100 * shown(_over(lines, name))
                axis.plot(steps, values, style, color=colour, label=unit + label, linewidth=1.4, **_dots(steps))
        axis.set(xlabel="training step", ylabel="share of units and steps, %", title=f"{layer}: saturated and dead")
        axis.set_ylim(bottom=0)
        axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _histograms(steps: list[int], lines: Lines) -> Figure | None:
    """A row for each layer, a panel for each unit: how its values are distributed, over training."""
    names = [name for name in lines[0] if name.endswith("/histogram")]
    if not names:
        return None
    layers = list(dict.fromkeys(name.split("/")[0] for name in names))
    groups = [[name for name in names if name.split("/")[0] == layer] for layer in layers]
    figure, axes = make_grid(len(groups), max(map(len, groups)), 3.0, 2.8)
    mesh = None
    for row, group in zip(axes, groups, strict=True):
        for axis in row[len(group) :]:
            axis.set_visible(False)
        for axis, name in zip(row, group, strict=False):
            shares = np.array([numbers(line[name]) for line in lines])
            layer, unit, _ = name.split("/")
            low = -1 if f"{layer}/{unit}/beyond 0.99" in lines[0] else 0
            bins = np.linspace(low, 1, shares.shape[1] + 1)
            # The square root of the share is shown: a few per cent can still be seen.
            mesh = axis.pcolormesh(edges(steps), bins, np.sqrt(shares).T, cmap="magma", vmin=0, vmax=1, rasterized=True)
            axis.set_facecolor(NOTHING)
            axis.grid(False)
            axis.set_title(f"{layer}: {unit}")
            axis.set_xlabel("training step")
        row[0].set_ylabel("value")
    if mesh is not None:
        ticks = [0, 0.01, 0.1, 0.25, 0.5, 1]
        bar = figure.colorbar(mesh, ax=[axis for row in axes for axis in row], ticks=np.sqrt(ticks), label="share, %")
        bar.ax.set_yticklabels([f"{100 * tick:g}" for tick in ticks])
    return figure


def _spectrum(steps: list[int], lines: Lines) -> Figure:
    """A row for each layer: spectral radius, range of singular values, distance from orthogonality, by gate."""
    blocks = [name.removesuffix("/spectral radius") for name in lines[0] if name.endswith("/spectral radius")]
    layers = list(dict.fromkeys(name.split("/")[0] for name in blocks))
    figure, axes = make_grid(len(layers), 3, 4.6, 3.2)
    for row, layer in zip(axes, layers, strict=True):
        mine = [name for name in blocks if name.split("/")[0] == layer]
        for number, name in enumerate(mine):
            look: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "linewidth": 1.4}
            dots = _dots(steps)
            row[0].plot(steps, shown(_over(lines, f"{name}/spectral radius")), label=name.split("/")[1], **look, **dots)
            _range(row[1], steps, lines, f"{name}/singular values", look, bands=len(mine) == 1)
            row[2].plot(steps, shown(_over(lines, f"{name}/distance from orthogonality")), **look, **dots)
        row[0].axhline(1, color=GREY, linestyle="--", linewidth=1)
        row[1].axhline(1, color=GREY, linestyle="--", linewidth=1)
        row[0].set_title(r"spectral radius $\rho(R)$")
        row[1].set_title("singular values: " + ("range, middle half, median" if len(mine) == 1 else "range"))
        row[2].set_title(r"$\Vert R^\top R - I\Vert_F / \sqrt{H}$")
        row[0].set_ylabel(layer)
        if len(mine) > 1:
            row[0].legend(frameon=False, fontsize=8)
        for axis in row:
            hold_spikes(axis)
            axis.title.set_fontsize(10)
            axis.set_xlabel("training step")
    return figure


def _range(axis: Axes, steps: list[int], lines: Lines, name: str, look: dict[str, Any], bands: bool) -> None:
    """The largest and the smallest; with bands also the middle half and the median."""
    values = shown(np.array([numbers(line[name]) for line in lines]))
    at = [round(share * (values.shape[1] - 1)) for share in (0, 0.25, 0.5, 0.75, 1)]
    largest, upper, median, lower, smallest = (values[:, index] for index in at)
    for line in (largest, smallest, *([median] if bands else [])):
        axis.plot(steps, line, **look, **_dots(steps))
    if bands:
        axis.fill_between(steps, smallest, largest, color=look["color"], alpha=0.12, linewidth=0)
        axis.fill_between(steps, lower, upper, color=look["color"], alpha=0.25, linewidth=0)


FIGURES: dict[str, tuple[str, Callable[[list[int], Lines], Figure | None]]] = {
    "gradient_heat_map": ("gradient_flow", _gradient),
    "half_life": ("gradient_flow", _half_life),
    "norms": ("norms", _norms),
    "saturation": ("saturation", _saturation),
    "saturation_histograms": ("saturation", _histograms),
    "carry_norms": ("saturation", _carry_norms),
    "spectrum": ("spectrum", _spectrum),
}
"""Name of the file -> (the diagnostic it needs, what draws it from the steps and that diagnostic's lines; None where
they lack what it shows)."""


def _over(lines: Lines, name: str) -> np.ndarray:
    """A scalar over training."""
    return numbers(line.get(name) for line in lines)


def _dots(steps: list[int]) -> dict[str, Any]:
    """Few points are marked: between gaps a line alone would not show them."""
    return {"marker": ".", "markersize": 4} if len(steps) < 40 else {}
