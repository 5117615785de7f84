"""Figures of a metric over the axes of a sweep, drawn from plain data: heat maps, parallel coordinates.

The caller decides which settings are drawn and what they are called.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullFormatter, NullLocator

from rnnlab.plots.style import COLOURS, GREY, NOTHING, PAGE, make_grid, make_panels, save, without_spikes
from rnnlab.plots.sweep import spread
from rnnlab.plots.words import SMALL, TEXT

# --- heat map --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Grid:
    """A table of numbers that `heat_map` draws."""

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
    best: tuple[int, int] | None
    """(Row, column) of the cell that is framed."""


def heat_map(grid: Grid, metric: str, path: Path) -> Path:
    """A metric over two axes, brighter where it is better; the best cell is framed, grey ones have no number.

    Spikes have the colour of the end of the scale.
    """
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
    if grid.best is not None:
        corner = grid.best[1] - 0.5, grid.best[0] - 0.5
        axis.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=COLOURS[1], linewidth=2.4, clip_on=False))
    axis.set_xticks(range(width), list(grid.columns), rotation=30 if _long(grid.columns, width) else 0)
    if _long(grid.columns, width):
        plt.setp(axis.get_xticklabels(), ha="right", rotation_mode="anchor")
    axis.set_yticks(range(height), list(grid.rows))
    axis.tick_params(length=0)
    axis.set_xlabel(grid.x)
    axis.set_ylabel(grid.y)
    _colour_bar(figure, axis, norm, colours, grid.values, metric)
    return save(figure, path)


def _cell(axis: Axes, row: int, column: int, grid: Grid, colours: Colormap, norm: Normalize) -> None:
    value, note = float(grid.values[row, column]), grid.notes[row][column]
    if not np.isfinite(value):
        axis.text(column, row, note or "–", ha="center", va="center", fontsize=6, color="black")
        return
    red, green, blue, _ = colours(float(norm(value)))
    ink = "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"
    lines = f"{value:.3g}" + (f"\n{note}" if note else "")
    axis.text(column, row, lines, ha="center", va="center", fontsize=6.5, color=ink, linespacing=1.1)


def _long(labels: Sequence[str], width: int) -> bool:
    return width > 2 and max(map(len, labels)) > 9


def _norm(values: np.ndarray) -> Normalize:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return Normalize(0, 1)
    logarithmic = spread(finite)
    low, high = without_spikes(finite, logarithmic)
    if logarithmic and high > low:
        return LogNorm(low, high, clip=True)
    return Normalize(low, high if high > low else low + abs(low or 1.0) * 1e-3, clip=True)


def _colour_bar(
    figure: Figure, axis: Axes, norm: Normalize, colours: Colormap, values: np.ndarray, metric: str
) -> None:
    """Draws the bar of colours, with a tip at an end that values go beyond."""
    finite = values[np.isfinite(values)]
    below, above = finite.size and finite.min() < norm.vmin, finite.size and finite.max() > norm.vmax
    extend = "both" if below and above else "min" if below else "max" if above else "neither"
    label = f"{metric}\nbrighter is better"
    figure.colorbar(ScalarMappable(norm, colours), ax=axis, label=label, extend=extend, pad=0.02)


# --- parallel coordinates --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Coordinate:
    """One upright line of `parallel_coordinates`: numbers, or the places of names."""

    label: str
    values: np.ndarray
    """[lines]"""
    names: Sequence[str] | None = None
    """The names that stand at 0, 1, …; None for numbers."""
    logarithmic: bool = False
    """Whether numbers have a logarithmic axis."""


def parallel_coordinates(axes: Sequence[Coordinate], metric: Coordinate, better: float, path: Path) -> Path:
    """A line for every setting through its values, in the colour of its metric, the best on top and outlined.

    Args:
        axes: as many values each as the metric has, the best setting first.
        metric: finite numbers; the last upright line.
        better: 1 where more is better, else -1.
    """
    figure, ((axis,),) = make_panels(1, 1, (PAGE, 3.2))
    axis.grid(False)
    axis.spines[:].set_visible(False)
    norm, colours = _norm(metric.values), plt.get_cmap("viridis" if better > 0 else "viridis_r")
    order = np.arange(len(metric.values))[::-1]
    places = np.stack([_placed(each, order) for each in (*axes, metric)], 1)
    alpha = float(np.clip(40 / max(1, len(order)), 0.25, 0.9))
    lines = [np.stack([np.arange(places.shape[1]), places[line]], 1) for line in order]
    inks = colours(norm(metric.values[order]))
    axis.add_collection(LineCollection(lines[:-1], colors=inks[:-1], alpha=alpha, linewidths=1.2))
    outline = [patheffects.withStroke(linewidth=4.6, foreground="black")]
    axis.plot(*lines[-1].T, color=inks[-1], linewidth=2.8, path_effects=outline)
    for position, each in enumerate((*axes, metric)):
        axis.axvline(position, color=GREY, linewidth=1, zorder=3)
        for height, text in _ticks(each):
            label = axis.text(position + 0.03, height, text, fontsize=SMALL, va="center", zorder=4)
            label.set_path_effects([patheffects.withStroke(linewidth=2.5, foreground="white")])
    axis.set_xticks(range(len(axes) + 1), [*(each.label for each in axes), metric.label], fontsize=TEXT)
    axis.yaxis.set_major_locator(NullLocator())
    axis.yaxis.set_major_formatter(NullFormatter())
    axis.set_xlim(-0.15, len(axes) + 0.35)
    axis.set_ylim(-0.06, 1.06)
    _colour_bar(figure, axis, norm, colours, metric.values, metric.label)
    return save(figure, path)


def _scale(each: Coordinate) -> tuple[np.ndarray, float, float]:
    """(values as they are placed, the lowest, the highest that has a place of its own)"""
    if each.names is not None:
        return np.asarray(each.values, float), 0.0, len(each.names) - 1.0
    low, high = without_spikes(each.values, each.logarithmic)
    change = np.log10 if each.logarithmic else np.asarray
    return np.asarray(change(each.values), float), float(change(low)), float(change(high))


def _placed(each: Coordinate, order: np.ndarray) -> np.ndarray:
    """[lines] heights in [0, 1]; lines that share a name lie side by side, by the order given."""
    values, low, high = _scale(each)
    heights = np.clip((values - low) / (high - low), 0, 1) if high > low else np.full(len(values), 0.5)
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
        ticks = np.unique(np.clip(values, low, high))
        at = ticks if len(ticks) <= 9 else np.linspace(low, high, 5)
        texts = [f"{10**v if each.logarithmic else v:.4g}" for v in at]
        if values.max() > high:
            texts[-1] += " and more"
        if values.min() < low:
            texts[0] += " and less"
        places = [(float(v), text) for v, text in zip(at, texts, strict=True)]
    return [((v - low) / (high - low) if high > low else 0.5, text) for v, text in places]
