"""The figures of the study, from the numbers of its entries."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator

from rnnlab.plots.legends import COMPACT
from rnnlab.plots.style import COLOURS, GREY, MARKERS, PAGE, make_axes, make_panels, name_few_decades, save
from rnnlab.plots.words import SMALL
from rnnlab.sweeps.statistics import Mean
from scripts.study.comparison import Comparison, Numbers, compared, error_ratio, errors_of
from scripts.study.relations import CommonSlope, Family, Growth

# --- ranks -----------------------------------------------------------------------------------------------------------


def draw_ranks(ranks: Mapping[str, float], critical: float, path: Path) -> Path:
    """Mean ranks on an axis, the best at the left, below a scale of the critical difference (Demšar, 2006): bars join
    methods that are not shown to differ."""
    methods = sorted(ranks, key=lambda method: ranks[method])
    groups = joined([ranks[method] for method in methods], critical)
    left = (len(methods) + 1) // 2  # So many have their names at the left, the others at the right.
    first = 0.9 + 0.5 * len(groups)
    bottom = first + left - 0.5
    figure, axes = make_panels(1, 1, (PAGE, 0.16 * (bottom + _ABOVE_RANKS)))
    axis = axes[0, 0]
    ends = (0.8, max(len(methods), 1 + critical) + 0.2)
    for number, method in enumerate(methods):
        side, place = (0, number) if number < left else (1, len(methods) - 1 - number)
        rank, y = ranks[method], first + place
        axis.plot([rank, rank, ends[side]], [0, y, y], color="black", linewidth=0.6, solid_joinstyle="miter")
        axis.scatter(rank, 0, s=10, color="black", clip_on=False, zorder=3)
        words = {"ha": ("right", "left")[side], "va": "center_baseline", "fontsize": SMALL}
        move = {"textcoords": "offset points", "xytext": ((-3, 3)[side], -0.5)}
        axis.annotate(f"{method}  {rank:.1f}", (ends[side], y), **words, **move)
    for number, group in enumerate(groups):
        reach = [ranks[methods[group[0]]] - 0.07, ranks[methods[group[1]]] + 0.07]
        axis.plot(reach, [0.6 + 0.5 * number] * 2, color=GREY, linewidth=3, solid_capstyle="butt", zorder=4)
    scale = {"color": "black", "linewidth": 1.0, "marker": "|", "markersize": 6}
    axis.plot([1, 1 + critical], [1 - _ABOVE_RANKS] * 2, **scale)
    at = {"textcoords": "offset points", "xytext": (0, 4), "ha": "center", "fontsize": SMALL}
    axis.annotate(f"critical difference {critical:.2f}", (1 + critical / 2, 1 - _ABOVE_RANKS), **at)
    axis.set_xlim(*ends)
    axis.set_ylim(bottom, -_ABOVE_RANKS)
    axis.grid(False)
    axis.set_yticks([])
    axis.spines[["left", "bottom"]].set_visible(False)
    axis.spines["top"].set(visible=True, position=("data", 0), bounds=(1, len(methods)))
    axis.xaxis.tick_top()
    axis.xaxis.set_label_position("top")
    axis.set_xticks(range(1, len(methods) + 1))
    axis.set_xlabel("mean rank over tasks (1: best); a bar joins methods that are not shown to differ", labelpad=4)
    return save(figure, path)


_ABOVE_RANKS = 4.5
"""Lines of names that the scale of the critical difference, the label and the numbers of the axis take."""


def joined(values: Sequence[float], critical: float) -> list[tuple[int, int]]:
    """(first, last) of each longest run of ordered ranks whose ends are less than the critical difference apart."""
    groups: list[tuple[int, int]] = []
    for first in range(len(values)):
        last = max(n for n in range(first, len(values)) if values[n] - values[first] < critical)
        if last > first and (not groups or last > groups[-1][1]):
            groups.append((first, last))
    return groups


# --- cures -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Effect:
    """A cure on a cell."""

    label: str
    seeds: Sequence[float]
    """Each seed's error over the geometric mean without the cure."""
    ratio: Mean
    shown: bool
    """Whether the corrected tests show a difference."""


_FURTHEST = 10.0
"""The axis ends a little beyond this factor and one over it: what lies further out is named at the edge."""
_PALE = "#a3a3a3"
"""Seeds, beside bars."""
_PITCH, _LANE = 0.18, 0.34
"""Inches from a row to the next; seeds stand so much of that below their bar."""


def draw_cures(by_task: Mapping[str, Mapping[str, Numbers]], path: Path) -> Path:
    """Each cure's error over that of the same cell without it, blue where it is shown to differ, in a column for each
    task and a group for each cell; what lies beyond a factor of ten is an arrow at the edge, with its value."""
    columns: dict[str, dict[str, list[_Effect]]] = {}
    for task, of in by_task.items():
        for n, base, comparison in compared("cures", of):
            groups = columns.setdefault(task, {})
            groups.setdefault(base.entry["method"], []).append(_effect(n, base, comparison))
    height = max(sum(1 + len(effects) for effects in groups.values()) for groups in columns.values())
    figure, axes = make_panels(1, len(columns), (PAGE, 0.9 + _PITCH * height))
    for axis, (task, groups) in zip(axes[0], columns.items(), strict=True):
        _draw_effects(axis, groups)
        axis.set_ylim(height - 0.3, -0.6)
        axis.set_xlabel(f"test error on {task.replace('_', ' ')}, over that without the cure (ratio)")
    point = {"linewidth": 1.3, "marker": "o", "markersize": 4.5}
    handles = [
        Line2D([], [], color=COLOURS[0], **point, label="mean and interval, shown to differ"),
        Line2D([], [], color=GREY, markerfacecolor="white", **point, label="not shown to differ"),
        Line2D([], [], color=_PALE, linestyle="", marker="o", markersize=2.2, label="a seed"),
        Line2D([], [], color=GREY, linestyle="", marker=">", markersize=3.5, label="beyond the axis, its value beside"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, **COMPACT)
    return save(figure, path)


def _effect(n: Numbers, base: Numbers, comparison: Comparison) -> _Effect:
    without = [error for error in errors_of(base) if math.isfinite(error)]
    middle = math.exp(float(np.mean(np.log(without)))) if without and min(without) > 0 else math.nan
    seeds = [error / middle for error in errors_of(n) if math.isfinite(error / middle)]
    lost = sum(not math.isfinite(error) for error in errors_of(n))
    label = n.entry["method"].partition("+")[2] + (f" ({lost} lost)" if lost else "")
    return _Effect(label, seeds, error_ratio(n, base), comparison.shown != 0)


def _draw_effects(axis: Axes, groups: Mapping[str, Sequence[_Effect]]) -> None:
    """A row for each effect under the name of its cell, in the order of the means."""
    axis.set_xscale("log")
    every = [effect for effects in groups.values() for effect in effects]
    drawn = [1.0, *(value for of in every for value in (*of.seeds, *_parts(of.ratio)) if math.isfinite(value))]
    ends = max(min(drawn), 1 / _FURTHEST), min(max(drawn), _FURTHEST)
    margin = max((ends[1] / ends[0]) ** 0.06, 1.05)
    axis.set_xlim(ends[0] / margin, ends[1] * margin)
    axis.axvline(1, color=GREY, linewidth=0.8, linestyle="--", zorder=1)
    names: list[str] = []
    for cell, effects in groups.items():
        names.append(cell)
        for effect in sorted(effects, key=lambda of: of.ratio.value if math.isfinite(of.ratio.value) else math.inf):
            _draw_ratio(axis, len(names), effect, ends)
            _draw_seeds(axis, len(names) + _LANE, effect, ends)
            names.append(effect.label)
    axis.set_yticks(range(len(names)), names)
    for label in axis.get_yticklabels():
        if label.get_text() in groups:
            label.set_fontweight("bold")
    axis.tick_params("y", length=0)
    axis.grid(False, axis="y")
    name_few_decades(axis.xaxis, axis.get_xlim(), few=2 * _FURTHEST**2)


def _parts(ratio: Mean) -> tuple[float, float, float]:
    return ratio.low, ratio.value, ratio.high


def _draw_ratio(axis: Axes, y: float, effect: _Effect, ends: tuple[float, float]) -> None:
    low, mean, high = _parts(effect.ratio)
    colour = COLOURS[0] if effect.shown else GREY
    if math.isfinite(low) and low < ends[1] and high > ends[0]:
        reach = [low if low >= ends[0] else axis.get_xlim()[0], high if high <= ends[1] else axis.get_xlim()[1]]
        look = {"linewidth": 1.5 if effect.shown else 1.0, "solid_capstyle": "butt", "zorder": 2}
        axis.plot(reach, [y, y], color=colour, **look)
    if ends[0] <= mean <= ends[1]:
        face = colour if effect.shown else "white"
        axis.scatter(mean, y, s=16, facecolor=face, edgecolor=colour, linewidth=0.9, zorder=4)
    whole = _plain(mean) + (f" ({_plain(low)} to {_plain(high)})" if math.isfinite(low) else "")
    for edge, is_mean, is_end, end in (
        (0, mean < ends[0], low < ends[0], low),
        (1, mean > ends[1], high > ends[1], high),
    ):
        if is_mean or is_end:
            is_named = is_mean or ends[0] <= mean <= ends[1]  # Else the other edge has the whole.
            _name_beyond(axis, y, edge, "" if not is_named else whole if is_mean else _plain(end), colour, 1.2)


def _draw_seeds(axis: Axes, y: float, effect: _Effect, ends: tuple[float, float]) -> None:
    inside = [value for value in effect.seeds if ends[0] <= value <= ends[1]]
    axis.scatter(inside, [y] * len(inside), s=5, color=_PALE, linewidth=0, zorder=3)
    is_mean_beyond = effect.ratio.value < ends[0] or effect.ratio.value > ends[1]
    for edge in (0, 1):
        beyond = sorted(value for value in effect.seeds if (value > ends[1] if edge else value < ends[0]))
        if beyond:  # Where their mean is beyond, too, its interval says enough.
            words = " to ".join(map(_plain, dict.fromkeys((beyond[0], beyond[-1])))) if not is_mean_beyond else ""
            _name_beyond(axis, y, edge, words, _PALE, -1.2)


def _name_beyond(axis: Axes, y: float, edge: int, words: str, colour: str, up: float) -> None:
    """An arrow at the left (0) or right (1) edge, with words inside of it, so many points above its height."""
    at: Any = axis.get_yaxis_transform()
    axis.plot([edge], [y], "<>"[edge], transform=at, color=colour, markersize=3.5, clip_on=False, zorder=5)
    place: Any = {"xytext": (-5 if edge else 5, up), "textcoords": "offset points", "ha": ("left", "right")[edge]}
    ground = {"facecolor": "white", "edgecolor": "none", "pad": 0.2}
    look: Any = {"va": "center_baseline", "fontsize": 6, "bbox": ground, "zorder": 3.5}
    axis.annotate(words, (edge, y), xycoords=at, **place, **look)


def _plain(value: float) -> str:
    """Three digits, or the whole part where that has more."""
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


# --- initialisation and lengths --------------------------------------------------------------------------------------


def draw_prediction(families: Mapping[str, Family], common: CommonSlope | None, budget: int, path: Path) -> Path:
    """The median step to solved, those not solved at the top, and the test error over what is left of the gradient
    before training; lines of one slope through those solved where its interval leaves out 0. Each family is drawn 5 %
    above the one before it, so that equal steps can be told apart."""
    figure, (axis, errors) = make_axes(2)
    top = budget * 1.5
    if common is not None and common.slope.low <= 0 <= common.slope.high:
        common = None
    for number, (family, of) in enumerate(families.items()):
        aside = 1.05 ** (number - (len(families) - 1) / 2)
        steps = [aside * (step if math.isfinite(step) else top) for step in of.steps]
        # Open, so that one behind another is seen.
        look: Any = {"facecolor": "none", "edgecolor": COLOURS[number], "marker": MARKERS[number], "linewidth": 0.8}
        for each, values in ((axis, steps), (errors, of.errors)):
            each.scatter(of.left, values, s=20, label=family.replace("_", " "), **look)
        if common is not None and family in common.intercepts:
            left = np.array(of.left)[of.done]
            x = np.linspace(left.min(), left.max(), 200)
            y = aside * 10 ** (common.slope.value * np.abs(x) + common.intercepts[family])
            axis.plot(x, y, color=COLOURS[number], linewidth=0.7, alpha=0.6)
    axis.axhline(top / 1.2, color=GREY, linestyle=":", linewidth=0.8)
    for each, label in ((axis, "median training step at which it is solved"), (errors, "test error")):
        each.set_yscale("log")
        each.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        each.set_xlabel("log10 of what is left of the gradient at t = 1, before training")
        each.set_ylabel(label)
    low = axis.get_ylim()[0]
    name_few_decades(axis.yaxis, (low, budget))
    ticks = [tick for tick in axis.get_yticks() if low <= tick <= budget]
    axis.set_yticks([*ticks, top], [*(f"{tick:g}" for tick in ticks), "not\nsolved"])
    axis.yaxis.set_minor_locator(NullLocator())
    axis.legend()
    return save(figure, path)


def draw_growth(by_method: Mapping[str, Mapping[int, Numbers]], fits: Mapping[str, Growth], path: Path) -> Path:
    """The median step to solved over the length, with its interval over seeds, and the fitted powers; methods stand
    side by side, and an arrow marks an interval without an upper end."""
    figure, (axis,) = make_axes(1)
    every = sorted({length for by_length in by_method.values() for length in by_length})
    apart = 0.02 * math.log(max(every) / min(every) if len(every) > 1 else 2)
    drawn: list[float] = []
    endless: list[tuple[float, float, str]] = []
    for number, (method, by_length) in enumerate(by_method.items()):
        lengths = [length for length in sorted(by_length) if math.isfinite(by_length[length].steps[0])]
        if not lengths:
            continue
        aside = math.exp(apart * (number - (len(by_method) - 1) / 2))
        middle, low, high = np.array([by_length[length].steps for length in lengths]).T
        x, ends = aside * np.array(lengths), np.where(np.isfinite(high), high, middle)
        colour = COLOURS[number]
        axis.errorbar(
            x, middle, np.stack([middle - low, ends - middle]), fmt="none", capsize=2, elinewidth=0.8, ecolor=colour
        )
        axis.scatter(x, middle, s=14, color=colour, marker=MARKERS[number], linewidth=0, label=method, zorder=3)
        drawn += [*middle, *low, *ends]
        endless += [(x[n], middle[n], colour) for n in np.flatnonzero(~np.isfinite(high))]
        fit = fits[method]
        if math.isfinite(fit.factor):
            x = np.array([min(fit.lengths), max(fit.lengths)])
            axis.plot(
                aside * x,
                fit.factor * x**fit.exponent.value,
                color=colour,
                linestyle=_LINES[number],
                linewidth=0.8,
                alpha=0.7,
            )
    axis.set_xscale("log")
    axis.set_yscale("log")
    if drawn:
        margin = max(1.1, math.sqrt(2 * min(drawn) / max(drawn)))
        axis.set_ylim(min(drawn) / margin, max(drawn) * margin)
    for place, middle, colour in endless:
        top = axis.get_ylim()[1]
        axis.plot([place, place], [middle, top], color=colour, linewidth=0.8)
        axis.plot([place], [top], "^", color=colour, markersize=3.5, clip_on=False)
    axis.set_xticks(every, list(map(str, every)))
    axis.xaxis.set_minor_locator(NullLocator())
    name_few_decades(axis.yaxis, axis.get_ylim())
    axis.set_xlabel("length T of the adding problem, time steps")
    axis.set_ylabel("median training step at which it is solved")
    if drawn:
        axis.legend()
    return save(figure, path)


_LINES = ["-", "--", "-.", ":", (0, (6, 1)), (0, (6, 1, 1, 1, 1, 1))]
"""The line of each colour."""
