"""A forest plot: effects with their intervals, in groups, beside the line of no effect; drawn from plain data."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from rnnlab.plots.style import COLOURS, GREY, PAGE, hold_points, make_panels, name_few_decades, save, unflattened

_ROW = 0.135
"""Inches."""


@dataclass(frozen=True)
class Effect:
    """A row."""

    label: str
    values: Sequence[float]
    """One a seed."""
    mean: float
    """NaN where there is no value."""
    low: float
    """NaN, as is `high`, where there is no interval."""
    high: float
    note: str = ""
    """Stands behind the label."""
    sure: bool | None = None
    """Whether it is drawn as an effect that is shown; None: where its interval leaves out "no effect"."""


@dataclass(frozen=True)
class Column:
    """Groups of effects on one scale."""

    label: str
    """The name of the scale."""
    logarithmic: bool
    nothing: float
    """The value that stands for no effect."""
    groups: Sequence[tuple[str, Sequence[Effect]]]


def forest(columns: Sequence[Column], path: Path) -> Path:
    """Columns side by side: every row's seeds as small points, their mean, and its interval, filled and blue where the
    effect is shown; an arrow at the edge marks an interval that goes on beyond it."""
    heights = [sum(1.4 + sum(map(_height, effects)) for _, effects in column.groups) for column in columns]
    figure, axes = make_panels(1, len(columns), (PAGE, 0.7 + _ROW * max(heights)))
    for axis, column in zip(axes[0], columns, strict=True):
        _draw(axis, column, max(heights))
    return save(figure, path)


def _height(effect: Effect) -> float:
    return 0.85 * effect.label.count("\n") + 1


def _draw(axis: Axes, column: Column, height: float) -> None:
    rows: list[tuple[float, Effect]] = []
    names: list[tuple[float, str]] = []
    y = 0.0
    for title, effects in column.groups:
        names.append((y + 0.1, title))
        y += 1.2
        for effect in effects:
            middle = y + (_height(effect) - 1) / 2
            rows.append((middle, effect))
            names.append((middle, f"{effect.label}{effect.note}"))
            y += _height(effect)
        y += 0.2
    values = np.array([value for _, effect in rows for value in effect.values])
    if column.logarithmic:
        axis.set_xscale("log")
    axis.set_xlim(*_limits(values, column))
    for position, effect in rows:
        axis.scatter(effect.values, [position] * len(effect.values), s=5, color=GREY, alpha=0.7, linewidth=0, zorder=3)
    hold_points(axis)
    left, right = axis.get_xlim()
    for position, effect in rows:
        _draw_interval(axis, position, effect, column.nothing, left, right)
    axis.axvline(column.nothing, color=GREY, linewidth=0.8, linestyle="--", zorder=1)
    axis.set_ylim(height - 0.7, -0.6)
    axis.set_yticks([position for position, _ in names], [name for _, name in names])
    axis.tick_params("y", length=0)
    titles = {title for title, _ in column.groups}
    for tick in axis.get_yticklabels():
        if tick.get_text() in titles:
            tick.set_fontweight("bold")
    axis.grid(False, axis="y")
    if column.logarithmic:
        name_few_decades(axis.xaxis, values)
    axis.set_xlabel(column.label)


def _limits(values: np.ndarray, column: Column) -> tuple[float, float]:
    """The seeds without their spikes, and no effect; intervals may go on beyond."""
    low, high = unflattened(values, column.logarithmic)
    low, high = min(low, column.nothing), max(high, column.nothing)
    if column.logarithmic:
        margin = max((high / low) ** 0.08, 1.2)
        return low / margin, high * margin
    margin = 0.08 * (high - low) or 1.0
    return low - margin, high + margin


def _draw_interval(axis: Axes, position: float, effect: Effect, nothing: float, left: float, right: float) -> None:
    sure = effect.low > nothing or effect.high < nothing if effect.sure is None else effect.sure
    colour = COLOURS[0] if sure else GREY
    if math.isfinite(effect.low):
        ends = np.clip([effect.low, effect.high], left, right)
        axis.plot(ends, [position] * 2, color=colour, linewidth=1.1, solid_capstyle="butt", zorder=2)
        for beyond, edge, mark in ((effect.low < left, 0, "<"), (effect.high > right, 1, ">")):
            if beyond:
                look = {"color": colour, "markersize": 3, "clip_on": False}
                axis.plot([edge], [position], mark, transform=axis.get_yaxis_transform(), **look)
    if left <= effect.mean <= right:
        face = colour if sure else "white"
        axis.scatter(effect.mean, position, s=14, facecolor=face, edgecolor=colour, linewidth=0.9, zorder=4)
