"""The figures of the study, from the numbers of its entries."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from rnnlab.plots.forest import Column, Effect, forest
from rnnlab.plots.style import COLOURS, GREY, MARKERS, PAGE, make_axes, make_panels, save
from scripts.study.comparison import Comparison, Numbers, compared, error_ratio, errors_of
from scripts.study.relations import CommonSlope, Family, Growth


def draw_ranks(ranks: Mapping[str, float], critical: float, path: Path) -> Path:
    """Mean ranks, the best first, and the critical difference (Demšar, 2006): bars join methods that are not shown to
    differ."""
    methods = sorted(ranks, key=lambda method: ranks[method])
    values = [ranks[method] for method in methods]
    groups = joined(values, critical)
    figure, axes = make_panels(1, 1, (PAGE, 0.8 + 0.17 * len(methods)))
    axis = axes[0, 0]
    axis.scatter(values, range(len(methods)), color=COLOURS[0], s=16, zorder=3)
    axis.set_yticks(range(len(methods)), methods)
    axis.set_ylim(len(methods) - 0.4, -0.6)
    right = max(values)
    for number, (first, last) in enumerate(groups):
        x = right + 0.5 + 0.35 * number
        axis.plot([x, x], [first - 0.25, last + 0.25], color=GREY, linewidth=1.6, solid_capstyle="butt")
    axis.set_xlim(min(values) - 0.5, right + 0.8 + 0.35 * len(groups))
    axis.set_xlabel(f"mean rank over tasks; a bar joins methods less than {critical:.1f} apart")
    return save(figure, path)


def joined(values: Sequence[float], critical: float) -> list[tuple[int, int]]:
    """(first, last) of each longest run of ordered ranks whose ends are less than the critical difference apart."""
    groups: list[tuple[int, int]] = []
    for first in range(len(values)):
        last = max(n for n in range(first, len(values)) if values[n] - values[first] < critical)
        if last > first and (not groups or last > groups[-1][1]):
            groups.append((first, last))
    return groups


def draw_cures(by_task: Mapping[str, Mapping[str, Numbers]], path: Path) -> Path:
    """Each cure's error over that of the same cell without it, blue where it is shown to differ, in a column for each
    task and a group for each cell."""
    columns = []
    for task, of in by_task.items():
        groups, beside = [], compared("cures", of)
        for cell in dict.fromkeys(base.entry["method"] for _, base, _ in beside):
            rows = [_effect(*each) for each in beside if each[1].entry["method"] == cell]
            if rows:
                groups += [(cell, sorted(rows, key=lambda row: row.mean if math.isfinite(row.mean) else math.inf))]
        columns.append(Column(f"error on {task.replace('_', ' ')}, over that without", True, 1.0, groups))
    return forest([column for column in columns if column.groups], path)


def _effect(n: Numbers, base: Numbers, comparison: Comparison) -> Effect:
    ratio = error_ratio(n, base)
    middle = math.exp(float(np.mean(np.log([e for e in errors_of(base) if math.isfinite(e)] or [math.nan]))))
    values = [error / middle for error in errors_of(n) if math.isfinite(error)]
    lost = n.count - len(values)
    note = f" ({lost} lost)" if lost else ""
    name, sure = n.entry["method"].partition("+")[2], comparison.shown != 0
    return Effect(name, values, ratio.value, ratio.low, ratio.high, note, sure)


def draw_prediction(families: Mapping[str, Family], common: CommonSlope | None, budget: int, path: Path) -> Path:
    """The median step to solved, those not solved at the top, and the test error over what is left of the gradient
    before training; lines of one slope through those solved."""
    figure, (axis, errors) = make_axes(2)
    top = budget * 1.5
    for number, (family, of) in enumerate(families.items()):
        steps = [step if math.isfinite(step) else top for step in of.steps]
        look = {"color": COLOURS[number], "marker": MARKERS[number], "s": 14, "alpha": 0.8, "linewidth": 0}
        axis.scatter(of.left, steps, label=family.replace("_", " "), **look)
        errors.scatter(of.left, of.errors, label=family.replace("_", " "), **look)
        if common is not None and family in common.intercepts:
            left = np.array(of.left)[of.done]
            x = np.linspace(left.min(), left.max(), 200)
            y = 10 ** (common.slope.value * np.abs(x) + common.intercepts[family])
            axis.plot(x, y, color=COLOURS[number], linewidth=1.0, alpha=0.6)
    axis.axhline(top / 1.2, color=GREY, linestyle=":", linewidth=0.8)
    words = "median step at which it is solved\n(above the dotted line: not solved)"
    for each, label in ((axis, words), (errors, "test error")):
        each.set_yscale("log")
        each.set_xlabel("log10 of what is left of the gradient at t = 1")
        each.set_ylabel(label)
    _plain_ticks(axis)
    axis.legend()
    return save(figure, path)


def _plain_ticks(axis: Axes) -> None:
    """Steps as numbers, on a logarithmic axis that may span less than a decade."""
    low, high = axis.get_ylim()
    ticks = [tick for power in range(1, 6) for n in (1, 2, 5) if low <= (tick := n * 10**power) <= high]
    axis.set_yticks(ticks, list(map(str, ticks)))
    axis.yaxis.set_minor_locator(NullLocator())


def draw_growth(by_method: Mapping[str, Mapping[int, Numbers]], fits: Mapping[str, Growth], path: Path) -> Path:
    """The median step to solved over the length, with its interval over seeds, and the fitted powers."""
    figure, (axis,) = make_axes(1)
    for number, (method, by_length) in enumerate(by_method.items()):
        lengths = [length for length in sorted(by_length) if math.isfinite(by_length[length].steps[0])]
        if not lengths:
            continue
        middle, low, high = np.array([by_length[length].steps for length in lengths]).T
        high = np.where(np.isfinite(high), high, middle)
        ends = np.stack([middle - low, high - middle])
        look = {"color": COLOURS[number], "marker": MARKERS[number], "markersize": 3.5}
        axis.errorbar(lengths, middle, ends, linestyle="", capsize=2, linewidth=0.8, label=method, **look)
        fit = fits[method]
        if math.isfinite(fit.factor):
            x = np.array([min(fit.lengths), max(fit.lengths)])
            axis.plot(x, fit.factor * x**fit.exponent.value, color=COLOURS[number], linewidth=1.0, alpha=0.6)
    axis.set_xscale("log")
    axis.set_yscale("log")
    every = sorted({length for by_length in by_method.values() for length in by_length})
    axis.set_xticks(every, list(map(str, every)))
    axis.xaxis.set_minor_locator(NullLocator())
    _plain_ticks(axis)
    axis.set_xlabel("length T of the adding problem, steps")
    axis.set_ylabel("median step at which it is solved")
    axis.legend()
    return save(figure, path)
