"""Figures of a sweep's settings, drawn from plain data: dots with intervals, learning curves; see `sweep_axes.py`, too.

The caller decides which settings are drawn and what they are called.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from rnnlab.plots.legends import COMPACT
from rnnlab.plots.style import COLOURS, GREY, PAGE, make_grid, make_panels, save, without_spikes
from rnnlab.plots.words import SMALL

LINES = len(COLOURS)
"""How many curves a panel can hold, a colour each."""
_NAMED = 10
"""So many values of an axis have a tick each."""
_MANY = 20.0
"""Positive numbers whose largest is so many times the smallest are shown on a logarithmic scale."""


def spread(values: Any) -> bool:
    """Whether numbers belong on a logarithmic scale; NaN and infinite ones do not count."""
    flat = np.asarray(values, float).ravel()
    flat = flat[np.isfinite(flat)]
    return bool(flat.size) and float(flat.min()) > 0 and float(flat.max()) > _MANY * float(flat.min())


# --- dots ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dots:
    """A setting in `dots`."""

    label: str
    mean: float
    """NaN, as are `low` and `high`, where no run has a value."""
    low: float
    high: float
    values: Sequence[float]
    """One a seed, of those that have one."""
    lost: int
    """How many seeds have none."""
    baseline: bool = False


def dots(settings: Sequence[Dots], metric: str, better: float, path: Path) -> Path:
    """A row for every setting: its seeds, their mean and its interval, whole; crosses at the worse edge are seeds
    without a value. An arrow at the edge marks an interval that goes on beyond the picture.

    Args:
        better: 1 where more is better, else -1.
    """
    figure, ((axis,),) = make_panels(1, 1, (PAGE, 0.6 + 0.16 * len(settings)))
    values = [value for each in settings for value in each.values]
    logarithmic = spread(values)
    if logarithmic:
        axis.set_xscale("log")
    left, right = _reach(values, [end for each in settings for end in (each.low, each.high)], logarithmic)
    axis.set_xlim(left, right)
    colours = [COLOURS[1] if each.baseline else COLOURS[0] for each in settings]
    edge = axis.get_yaxis_transform()  # 0 to 1 across, rows down.
    for row, (each, colour) in enumerate(zip(settings, colours, strict=True)):
        if np.isfinite([each.low, each.high]).all():
            ends = np.clip([each.low, each.high], left, right)
            axis.plot(ends, [row] * 2, color=colour, alpha=0.4, linewidth=3.5, solid_capstyle="butt")
        reached = [*each.values, *(end for end in (each.low, each.high) if not np.isnan(end))]
        for beyond, at, marker in (
            (any(v < left for v in reached), 0.008, "<"),
            (any(v > right for v in reached), 0.992, ">"),
        ):
            if beyond:
                axis.plot(at, row, marker=marker, color=colour, markersize=4, transform=edge, clip_on=False)
        inside = [value for value in each.values if left <= value <= right]
        axis.scatter(inside, [row] * len(inside), s=7, color=colour, zorder=3, linewidth=0)
        if left <= each.mean <= right:
            axis.scatter(each.mean, row, s=24, color="white", edgecolor=colour, linewidth=1.2, zorder=2.5)
        crosses = (0.03 + 0.015 * np.arange(each.lost)) if better > 0 else (0.97 - 0.015 * np.arange(each.lost))
        axis.plot(crosses, [row] * each.lost, "x", color="black", markersize=3.5, transform=edge, zorder=4)
    axis.set_yticks(range(len(settings)), [each.label for each in settings])
    for tick, each in zip(axis.get_yticklabels(), settings, strict=True):
        tick.set_color(COLOURS[1] if each.baseline else "black")
    axis.set_ylim(len(settings) - 0.4, -0.6)
    axis.set_xlabel(metric)
    return save(figure, path)


def _reach(values: Sequence[float], ends: Sequence[float], logarithmic: bool) -> tuple[float, float]:
    """The ends of an axis: it goes over all values but spikes, and over what lies within half as much beyond them
    of the ends of intervals, which of two seeds can be thousands of times as wide."""
    low, high = without_spikes(values, logarithmic)
    reached = np.array([low, high, *ends])
    if logarithmic:
        with np.errstate(divide="ignore"):
            reached = np.log10(reached)
    low, high = reached[:2]
    half = 0.5 * (high - low or abs(low) or 1.0)
    reached = np.clip(reached[np.isfinite(reached)], low - half, high + half)
    margin = 0.08 * (np.ptp(reached) or 1.0)
    limits = np.array([reached.min() - margin, reached.max() + margin])
    left, right = 10.0**limits if logarithmic else limits
    return float(left), float(right)


# --- runs that solved their task --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Solved:
    """A line of `solved`."""

    label: str
    colour: int
    """The number of its colour, below LINES."""
    x: Sequence[float]
    shares: Sequence[tuple[float, float, float]]
    """At each x the share of runs and the ends of its interval."""


@dataclass(frozen=True)
class Claim:
    """Something said of a place on the axis of `solved`."""

    value: float
    text: str


def solved(lines: Sequence[Solved], x: str, claims: Sequence[Claim], path: Path) -> Path:
    """The share of runs that solved their task over a number, each line a little beside the others, which would lie on
    it at 0 and at 1; claims stand where they are said to hold."""
    figure, ((axis,),) = make_grid(1, 1, 6.4, 4.6)
    places = np.array([*(value for line in lines for value in line.x), *(claim.value for claim in claims)])
    logarithmic = spread(places)
    scaled = np.log if logarithmic else float
    if logarithmic:
        axis.set_xscale("log")
    for number, line in enumerate(lines):
        aside = (number - (len(lines) - 1) / 2) * 0.012
        values = np.array(line.x, float)
        values = values * 2**aside if logarithmic else values + aside * (np.ptp(places) or 1.0)
        share, low, high = np.array(line.shares).T
        colour = COLOURS[line.colour]
        axis.plot(values, share, "o-", color=colour, linewidth=1.6, markersize=3.5, label=line.label)
        axis.vlines(values, low, high, color=colour, alpha=0.35, linewidth=2)
    for row, claim in enumerate(claims):  # Above the axes: within them words would cover a bar.
        axis.axvline(claim.value, color=GREY, linestyle="--", linewidth=1.2, zorder=1)
        ends = [scaled(end) for end in (places.min(), claim.value, places.max())]
        third = int(3 * (ends[1] - ends[0]) / ((ends[2] - ends[0]) or 1.0))
        axis.annotate(
            claim.text,
            (claim.value, 1),
            xycoords=axis.get_xaxis_transform(),
            xytext=(0, 3 + 9 * row),
            textcoords="offset points",
            ha=("left", "center", "right", "right")[third],  # Words at an end go inwards: the figure stays narrow.
            va="bottom",
            fontsize=SMALL,
            color=GREY,
        )
    axis.set_ylim(-0.04, 1.04)
    swept = sorted({value for line in lines for value in line.x})
    if len(swept) <= _NAMED:
        axis.set_xticks(swept, [f"{value:g}" for value in swept])
        axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlabel(x)
    axis.set_ylabel("share of runs that solved the task")
    axis.legend()
    return save(figure, path)


# --- learning curves -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """A setting in `ribbons`."""

    label: str
    colour: int
    """The number of its colour, below LINES."""
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
    figure, axes = make_grid(-(-len(panels) // columns), columns, *((6.4, 4.6) if columns == 1 else (4.6, 4.0)))
    flat = [axis for row in axes for axis in row]
    every_curve = [curve for _, curves in panels for curve in curves]
    named = {(curve.label, curve.colour) for curve in every_curve}
    alike = len(panels) > 1 and len(named) == len({label for label, _ in named}) <= LINES
    means = np.concatenate([np.zeros(0), *(curve.mean[np.isfinite(curve.mean)] for curve in every_curve)])
    for axis, (title, curves) in zip(flat, panels, strict=False):
        for curve in curves:
            colour = COLOURS[curve.colour]
            single = {"marker": "o", "markersize": 3} if len(curve.steps) < 4 else {}
            axis.plot(curve.steps, curve.mean, color=colour, linewidth=1.6, label=curve.label, **single)
            axis.fill_between(curve.steps, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0)
            heights = np.full(len(curve.ends), 0.985 - 0.022 * curve.colour)
            axis.plot(curve.ends, heights, "x", color=colour, markersize=5, transform=axis.get_xaxis_transform())
        axis.set_title(title)
        axis.set_xlabel("training step")
        if means.size:
            _limits(axis, means, logarithmic)
        if not alike:
            axis.legend()
    for axis in flat[len(panels) :]:
        axis.set_visible(False)
    for row in axes:
        row[0].set_ylabel(metric)
    if alike:
        lines = {line.get_label(): line for axis in figure.axes for line in axis.get_legend_handles_labels()[0]}
        figure.legend(handles=list(lines.values()), loc="outside lower center", ncols=3, **COMPACT)
        figure.set_figheight(figure.get_figheight() + 0.2 * -(-len(lines) // 3))
    return save(figure, path)


def _limits(axis: Axes, means: np.ndarray, logarithmic: bool) -> None:
    """The same for all panels, so that they can be compared, and by the means without their spikes: the interval of two
    seeds that are left, or one exploded curve, does not press the others flat. Means from 0 to 1, as shares are, have
    no spikes: the few that fall to 0 are those that learn."""
    within = not logarithmic and means.min() >= 0 and means.max() <= 1
    low, high = (means.min(), means.max()) if within else without_spikes(means, logarithmic)
    if logarithmic:
        axis.set_yscale("log")
        axis.set_ylim(low / 3, high * 3)
        return
    margin = (0.05 if within else 0.25) * (high - low or 1.0)
    axis.set_ylim(low - margin, high + margin)
