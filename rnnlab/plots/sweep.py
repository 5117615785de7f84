"""Figures of a sweep, drawn from plain data: dots with intervals, heat maps, learning curves, parallel coordinates.

Which settings are drawn and what they are called is decided by who calls.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, LogNorm, Normalize
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullFormatter, NullLocator

from rnnlab.plots.style import COLOURS, GREY, NOTHING, make_axes, make_grid, save

LINES = len(COLOURS)
"""How many curves a panel can hold, a colour each."""
_MANY = 20.0
"""Positive numbers whose largest is so many times the smallest are shown on a logarithmic scale."""


def spread(values: Any) -> bool:
    """Whether numbers belong on a logarithmic scale; NaN and infinite ones do not count."""
    found = np.asarray(values, float).ravel()
    found = found[np.isfinite(found)]
    return bool(found.size) and float(found.min()) > 0 and float(found.max()) > _MANY * float(found.min())


# --- dots ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dots:
    """A setting in `dots`."""

    label: str
    mean: float
    low: float
    high: float
    values: Sequence[float]
    """One a seed."""
    lost: Sequence[bool]
    """Whether that seed counts as the worst."""
    baseline: bool = False


def dots(settings: Sequence[Dots], metric: str, path: Path) -> Path:
    """A row for every setting: its seeds, their mean and its interval; crosses are seeds that count as the worst."""
    figure, ((axis,),) = make_grid(1, 1, 8.0, 1.3 + 0.27 * len(settings))
    logarithmic = spread([value for each in settings for value in each.values])
    colours = [COLOURS[1] if each.baseline else COLOURS[0] for each in settings]
    for place, each in enumerate(settings):
        if np.isfinite([each.low, each.high]).all():
            low = max(each.low, min(each.values) / 3) if logarithmic else each.low  # Below 0 there is no logarithm.
            axis.plot(
                [low, each.high], [place] * 2, color=colours[place], alpha=0.4, linewidth=5, solid_capstyle="butt"
            )
    seeds = [(x, y, lost) for y, each in enumerate(settings) for x, lost in zip(each.values, each.lost, strict=True)]
    places, means = range(len(settings)), [each.mean for each in settings]
    axis.scatter(means, places, s=60, color="white", edgecolor=colours, linewidth=1.8, zorder=2.5)
    if kept := [(x, y) for x, y, lost in seeds if not lost]:
        axis.scatter(*zip(*kept, strict=True), s=14, color=[colours[y] for _, y in kept], zorder=3, linewidth=0)
    if crossed := [(x, y) for x, y, lost in seeds if lost]:
        axis.scatter(*zip(*crossed, strict=True), s=26, color="black", marker="x", linewidth=1, zorder=4)
    if logarithmic:
        axis.set_xscale("log")
    axis.set_yticks(places, [each.label for each in settings], fontsize=8)
    for tick, each in zip(axis.get_yticklabels(), settings, strict=True):
        tick.set_color(COLOURS[1] if each.baseline else "black")
    axis.set_ylim(len(settings) - 0.4, -0.6)
    axis.set_xlabel(metric)
    return save(figure, path)


# --- heat map --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Grid:
    """What `heat_map` draws."""

    x: str
    y: str
    columns: Sequence[str]
    rows: Sequence[str]
    values: np.ndarray
    """[rows, columns], NaN where there is none."""
    notes: Sequence[Sequence[str]]
    """A second line of every cell, such as "2/5 div."; may be empty."""
    better: float
    """1 where more is better, else -1."""


def heat_map(grid: Grid, metric: str, path: Path) -> Path:
    """A metric over two axes, brighter where it is better; the best cell is framed, grey ones have no number."""
    height, width = grid.values.shape
    figure, ((axis,),) = make_grid(1, 1, max(5.0, 2.6 + 0.85 * width), max(3.0, 1.5 + 0.5 * height))
    axis.grid(False)
    axis.spines[:].set_visible(False)
    norm = _norm(grid.values)
    colours = plt.get_cmap("viridis" if grid.better > 0 else "viridis_r")
    axis.set_facecolor(NOTHING)
    shown = np.ma.masked_invalid(grid.values)
    axis.pcolormesh(np.arange(width + 1) - 0.5, np.arange(height + 1) - 0.5, shown, cmap=colours, norm=norm)
    if width * height <= 200:
        for row in range(height):
            for column in range(width):
                _cell(axis, row, column, grid, colours, norm)
    if not shown.mask.all():
        best = np.unravel_index(np.ma.argmax(grid.better * shown), shown.shape)
        corner = float(best[1]) - 0.5, float(best[0]) - 0.5
        axis.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=COLOURS[1], linewidth=2.4, clip_on=False))
    axis.set_xticks(range(width), list(grid.columns), rotation=30 if _long(grid.columns, width) else 0)
    if _long(grid.columns, width):
        plt.setp(axis.get_xticklabels(), ha="right", rotation_mode="anchor")
    axis.set_yticks(range(height), list(grid.rows))
    axis.tick_params(length=0, labelsize=9)
    axis.set_xlabel(grid.x)
    axis.set_ylabel(grid.y)
    figure.colorbar(ScalarMappable(norm, colours), ax=axis, label=f"{metric}\nbrighter is better")
    return save(figure, path)


def _cell(axis: Axes, row: int, column: int, grid: Grid, colours: Colormap, norm: Normalize) -> None:
    value, note = float(grid.values[row, column]), grid.notes[row][column]
    if not np.isfinite(value):
        axis.text(column, row, note or "–", ha="center", va="center", fontsize=7, color="black")
        return
    red, green, blue, _ = colours(float(norm(value)))
    ink = "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"
    lines = f"{value:.3g}" + (f"\n{note}" if note else "")
    axis.text(column, row, lines, ha="center", va="center", fontsize=8, color=ink, linespacing=1.1)


def _long(labels: Sequence[str], width: int) -> bool:
    return width > 2 and max(map(len, labels)) > 9


def _norm(values: np.ndarray) -> Normalize:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return Normalize(0, 1)
    low, high = float(finite.min()), float(finite.max())
    if spread(finite):
        return LogNorm(low, high)
    return Normalize(low, high if high > low else low + abs(low or 1.0) * 1e-3)


# --- learning curves -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """A setting in `ribbons`."""

    label: str
    colour: int
    """Which one; below LINES."""
    steps: np.ndarray
    """[S] training steps."""
    mean: np.ndarray
    """[S] over seeds, as are `low` and `high`, the ends of its interval."""
    low: np.ndarray
    high: np.ndarray
    ends: Sequence[int] = field(default_factory=tuple)
    """The steps at which a seed diverged."""


def ribbons(panels: Sequence[tuple[str, Sequence[Curve]]], metric: str, logarithmic: bool, path: Path) -> Path:
    """Mean and interval over seeds as training goes on, a panel for each title; crosses at the top are seeds that
    diverged there."""
    columns = min(len(panels), 3 if len(panels) != 4 else 2)
    size = (6.4, 4.2) if columns == 1 else (4.6, 3.3)
    figure, axes = make_grid(-(-len(panels) // columns), columns, *size)
    flat = [axis for row in axes for axis in row]
    means = np.concatenate([np.zeros(0), *(curve.mean[np.isfinite(curve.mean)] for _, own in panels for curve in own)])
    for axis, (title, curves) in zip(flat, panels, strict=False):
        for curve in curves:
            colour = COLOURS[curve.colour]
            single = {"marker": "o", "markersize": 3} if len(curve.steps) < 4 else {}
            axis.plot(curve.steps, curve.mean, color=colour, linewidth=1.6, label=curve.label, **single)
            axis.fill_between(curve.steps, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0)
            heights = np.full(len(curve.ends), 0.985 - 0.022 * curve.colour)
            axis.plot(curve.ends, heights, "x", color=colour, markersize=5, transform=axis.get_xaxis_transform())
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("training step")
        if means.size:
            _limits(axis, means, logarithmic)
        axis.legend(frameon=False, fontsize=7, loc="best")
    for axis in flat[len(panels) :]:
        axis.set_visible(False)
    for row in axes:
        row[0].set_ylabel(metric)
    return save(figure, path)


def _limits(axis: Axes, means: np.ndarray, logarithmic: bool) -> None:
    """The same for all panels, so that they can be compared, and by the means: the interval of two seeds that are left,
    or one exploded curve, does not press the others flat."""
    low, high = float(np.quantile(means, 0.002)), float(np.quantile(means, 0.998))
    if logarithmic:
        axis.set_yscale("log")
        axis.set_ylim(low / 3, high * 3)
        return
    margin = 0.25 * (high - low or 1.0)
    axis.set_ylim(low - margin, high + margin)


# --- parallel coordinates --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Coordinate:
    """One upright line of `parallel_coordinates`: numbers, or the places of names."""

    label: str
    values: np.ndarray
    """[lines]"""
    names: Sequence[str] | None = None
    """What stands at 0, 1, …; None for numbers."""
    logarithmic: bool = False
    """Of numbers."""


def parallel_coordinates(axes: Sequence[Coordinate], metric: Coordinate, better: float, path: Path) -> Path:
    """A line for every setting through its values, in the colour of its metric, the best on top.

    Args:
        axes: as many values each as the metric has.
        metric: finite numbers; the last upright line.
        better: 1 where more is better, else -1.
    """
    figure, (axis,) = make_axes(1)
    figure.set_size_inches(2.2 + 1.75 * (len(axes) + 1), 4.6)
    axis.grid(False)
    axis.spines[:].set_visible(False)
    norm, colours = _norm(metric.values), plt.get_cmap("viridis" if better > 0 else "viridis_r")
    order = np.argsort(better * metric.values, kind="stable")
    places = np.stack([_placed(each, order) for each in (*axes, metric)], 1)
    alpha = float(np.clip(40 / max(1, len(order)), 0.25, 0.9))
    lines = [np.stack([np.arange(places.shape[1]), places[line]], 1) for line in order]
    inks = colours(norm(metric.values[order]))
    axis.add_collection(LineCollection(lines[:-1], colors=inks[:-1], alpha=alpha, linewidths=1.2))
    outline = [patheffects.withStroke(linewidth=4.6, foreground="black")]
    axis.plot(*lines[-1].T, color=inks[-1], linewidth=2.8, path_effects=outline)
    for place, each in enumerate((*axes, metric)):
        axis.axvline(place, color=GREY, linewidth=1, zorder=3)
        for height, text in _ticks(each):
            told = axis.text(place + 0.03, height, text, fontsize=8, va="center", zorder=4)
            told.set_path_effects([patheffects.withStroke(linewidth=2.5, foreground="white")])
    axis.set_xticks(range(len(axes) + 1), [*(each.label for each in axes), metric.label], fontsize=9)
    axis.yaxis.set_major_locator(NullLocator())
    axis.yaxis.set_major_formatter(NullFormatter())
    axis.set_xlim(-0.15, len(axes) + 0.35)
    axis.set_ylim(-0.06, 1.06)
    figure.colorbar(ScalarMappable(norm, colours), ax=axis, label=f"{metric.label}\nbrighter is better", pad=0.02)
    return save(figure, path)


def _scale(each: Coordinate) -> tuple[np.ndarray, float, float]:
    """(values as they are placed, the lowest, the highest)"""
    values = np.log10(each.values) if each.logarithmic else np.asarray(each.values, float)
    low, high = (float(values.min()), float(values.max())) if each.names is None else (0.0, len(each.names) - 1.0)
    return values, low, high


def _placed(each: Coordinate, order: np.ndarray) -> np.ndarray:
    """[lines] heights in [0, 1]; lines that share a name lie side by side, by the order given."""
    values, low, high = _scale(each)
    heights = (values - low) / (high - low) if high > low else np.full(len(values), 0.5)
    if each.names is None:
        return heights
    rank = np.empty(len(order))
    rank[order] = np.linspace(-1, 1, len(order)) if len(order) > 1 else 0.0
    return heights + rank * min(0.03, 0.3 / max(1, len(each.names)))


def _ticks(each: Coordinate) -> list[tuple[float, str]]:
    values, low, high = _scale(each)
    if each.names is not None:
        places = [(float(i), name) for i, name in enumerate(each.names)]
    else:
        own = np.unique(values)
        at = own if len(own) <= 9 else np.linspace(low, high, 5)
        places = [(float(v), f"{10**v if each.logarithmic else v:.4g}") for v in at]
    return [((v - low) / (high - low) if high > low else 0.5, text) for v, text in places]
