"""Figures of a reproduction, from plain data: our learning curves before the published ones, gradients over time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from rnnlab.plots.legends import COMPACT
from rnnlab.plots.style import (
    COLOURS,
    GREY,
    OVER_THE_LAST,
    log_scale,
    make_axes,
    make_grid,
    name_few_decades,
    over_the_last,
    save,
    shown,
    without_spikes,
)

Points = Sequence[tuple[int, float]]
"""[(training step, value)]"""


@dataclass(frozen=True)
class Panel:
    """One pair of axes in `published_and_ours`."""

    title: str
    metric: str
    published: Mapping[str, Points]
    """The paper's curves by network."""
    ours: Mapping[str, Sequence[Points]]
    """Our curves by network, one a seed."""
    colours: Mapping[str, int]
    """The colour of every network, the same in all panels."""
    names: Mapping[str, str]
    """A network's name."""
    equal_steps: bool
    """Whether the published curves end where ours do; else steps are shown on a logarithmic scale."""
    logarithmic: bool
    """Whether the metric's axis is logarithmic."""
    baseline: float | None = None
    """The score of an answer that ignores the input."""


def published_and_ours(panels: Sequence[Panel], path: Path) -> Path:
    """Published curves broad and pale, ours thin and strong in the same colours, a line for every seed."""
    columns = min(len(panels), 2)
    figure, axes = make_grid(-(-len(panels) // columns), columns, 6.4, 4.2)
    flat = [axis for row in axes for axis in row]
    for axis, panel in zip(flat, panels, strict=False):
        _draw(axis, panel)
    for axis in flat[len(panels) :]:
        axis.set_visible(False)
    named = {network: _colour(panel, network) for panel in panels for network in (*panel.ours, *panel.published)}
    names = panels[0].names
    handles = [Line2D([], [], color=c, linewidth=1.6, label=names.get(n, n)) for n, c in named.items()]
    if any(panel.published for panel in panels):
        handles.append(Line2D([], [], color=GREY, alpha=0.3, linewidth=4, label="the paper's"))
    if any(panel.baseline is not None for panel in panels):
        handles.append(Line2D([], [], color=GREY, linestyle="--", linewidth=1, label="input ignored"))
    # Not in the axes: finding room among thousands of points takes seconds.
    columns = len(handles) if columns > 1 else 3
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, **COMPACT)
    figure.set_figheight(figure.get_figheight() + 0.17 * -(-len(handles) // columns))
    return save(figure, path)


def _draw(axis: Axes, panel: Panel) -> None:
    last = max((points[-1][0] for seeds in panel.ours.values() for points in seeds if points), default=1)
    first = min((points[0][0] for seeds in panel.ours.values() for points in seeds if points), default=1)
    for network, points in panel.published.items():
        steps, values = _split(points, panel.logarithmic)
        if panel.equal_steps:  # The line between the last point in reach and the next one is in the picture as well.
            kept = np.searchsorted(steps, last) + 1
            steps, values = steps[:kept], values[:kept]
        axis.plot(steps, values, color=_colour(panel, network), alpha=0.3, linewidth=4, solid_capstyle="round")
    for network, seeds in panel.ours.items():
        for points in seeds:
            few = {"marker": "o", "markersize": 4} if len(points) < 4 else {}
            axis.plot(*_split(points, panel.logarithmic), color=_colour(panel, network), linewidth=1.3, **few)
    if panel.baseline is not None:
        axis.axhline(panel.baseline, color=GREY, linestyle="--", linewidth=1, zorder=0)
    if panel.logarithmic:
        log_scale(axis)
        drawn = np.concatenate([np.asarray(line.get_ydata(), float) for line in axis.lines])
        _, highest = without_spikes(drawn, logarithmic=True)  # An exploded loss would press all others onto the axis.
        axis.set_ylim(top=min(axis.get_ylim()[1], 2 * highest))
    if panel.equal_steps:
        axis.set_xlim(0, last * 1.02)
        axis.xaxis.set_major_locator(MaxNLocator(5))  # Six-digit steps touch each other where there are more.
    else:
        axis.set_xscale("log")
        axis.set_xlim(left=first / 1.1)
        name_few_decades(axis.xaxis, axis.get_xlim())
    axis.set_title(panel.title)
    axis.set_xlabel("training step")
    axis.set_ylabel(panel.metric)


def _colour(panel: Panel, network: str) -> str:
    return COLOURS[panel.colours[network] % len(COLOURS)]


def _split(points: Points, positive: bool) -> tuple[np.ndarray, np.ndarray]:
    steps = np.array([step for step, _ in points], float)
    return steps, shown(np.array([value for _, value in points], float), positive)


def gradients_over_time(flows: Mapping[str, Mapping[str, Any]], colours: Mapping[str, int], path: Path) -> Path:
    """One panel untrained, one trained: ‖∂L/∂h_t‖ of each network over its time steps, over that of the last one, since
    losses differ from network to network.

    Args:
        flows: label -> "t", and norms "untrained" and "trained", as many each.
        colours: label -> number, as in `Panel`.
    """
    moments = ("untrained", "trained")
    figure, axes = make_axes(len(moments))
    for axis, when in zip(axes, moments, strict=True):
        for label, flow in flows.items():
            axis.plot(
                flow["t"],
                over_the_last(flow[when]),
                color=COLOURS[colours[label] % len(COLOURS)],
                label=label,
                linewidth=1.6,
            )
        axis.set_title(when)
        axis.set_xlabel("time step t")
        axis.set_ylabel(OVER_THE_LAST)
    axes[1].sharey(axes[0])
    for axis in axes:
        log_scale(axis)
    peaks = [peak for line in (*axes[0].lines, *axes[1].lines) if (peak := np.nanmax(line.get_ydata(), initial=0)) > 0]
    floor = min(peaks, default=0) / 1e12  # Below, next to nothing of any network's gradient is left.
    if axes[0].get_yscale() == "log" and axes[0].get_ylim()[0] < floor:
        axes[0].set_ylim(bottom=floor)
    figure.legend(handles=axes[0].lines, loc="outside lower center", ncols=len(flows), **COMPACT)
    figure.set_figheight(figure.get_figheight() + 0.17)
    return save(figure, path)
