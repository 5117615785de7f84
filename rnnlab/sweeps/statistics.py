"""Statistics over seeds: means with intervals, comparisons with a baseline by seed, Holm's correction, best settings.

Plain numbers and rows of `table.py` in, plain numbers out; what a reader is told of them is in `report.py`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import stdtr, stdtrit  # scipy.stats has the same two and takes a second more to import.

from rnnlab.sweeps.table import DONE

LEVEL = 0.95
"""Of every interval."""


@dataclass(frozen=True)
class Mean:
    """A mean and its interval."""

    value: float
    low: float
    """NaN, as is `high`, for a single value, which has no interval."""
    high: float
    count: int


def mean_interval(values: Sequence[float]) -> Mean:
    """The mean m and m ± t s / √n, with t the quantile of Student's distribution (1908) with n - 1 degrees of freedom
    and s the standard deviation of the n values, unbiased in its square; NaN for none."""
    mean, low, high = mean_band(np.array(values, float)[None])
    return Mean(float(mean[0]), float(low[0]), float(high[0]), len(values))


def mean_band(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`mean_interval` of every row [S, N] at once: (mean, low, high), each [S]. NaN in a row are left out of it."""
    there = ~np.isnan(values)
    count = there.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(there, values, 0).sum(1) / count
        squares = np.where(there, (values - mean[:, None]) ** 2, 0).sum(1)
        wide = stdtrit(np.maximum(count - 1, 1), (1 + LEVEL) / 2) * np.sqrt(squares / (count - 1) / count)
    wide = np.where(count > 1, wide, np.nan)
    return mean, mean - wide, mean + wide


def paired_test(differences: Sequence[float]) -> float | None:
    """p of the two-sided paired t test (Student, 1908) that the differences have mean 0.

    Not Wilcoxon's signed ranks: of 5 pairs their smallest p is 2 / 2⁵ = 0.06, so the usual 5 seeds could never show
    anything. None where t is undefined: fewer than two pairs, or all differences equal and not 0; all 0 is p = 1.
    """
    found = np.array(differences, float)
    if len(found) < 2 or not np.isfinite(found).all():
        return None
    if np.ptp(found) == 0:
        return 1.0 if found[0] == 0 else None
    t = found.mean() / (found.std(ddof=1) / math.sqrt(len(found)))
    return float(2 * stdtr(len(found) - 1, -abs(t)))


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for there being several (Holm, 1979): the smallest times n, the next times n - 1, …, at most
    1 and none below one before it. Rejecting what is below α errs anywhere with probability at most α."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


# --- settings --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """What the runs of one setting of the axes have come to, over seeds; only those that are over."""

    axes: dict[str, Any]
    rows: list[Mapping[str, Any]] = field(default_factory=list)
    values: dict[Any, float] = field(default_factory=dict)
    """Seed -> metric, the worst of the sweep for what is lost; NaN where no run of the sweep has one."""
    lost: list[str] = field(default_factory=list)
    """Names of the runs that count as the worst: diverged, or with a metric that is not finite."""

    @property
    def diverged(self) -> int:
        """How many runs diverged."""
        return sum(row["status"] == "diverged" for row in self.rows)

    @property
    def mean(self) -> Mean:
        """Of the metric over seeds."""
        return mean_interval(list(self.values.values()))

    def key(self, axes: Sequence[str]) -> tuple[str, ...]:
        """The values of these axes, to group by."""
        return tuple(repr(self.axes[axis]) for axis in axes)


@dataclass(frozen=True)
class Results:
    """All settings of a sweep that have a run that is over."""

    settings: list[Result]
    """In the sweep's order."""
    worst: float
    """What a diverged run counts as."""
    without: list[str]
    """Names of runs that are over and have no value of the metric."""


def aggregate(rows: Sequence[Mapping[str, Any]], axes: Sequence[str], metric: str, sign: float) -> Results:
    """Settings with their metric by seed.

    Diverged runs, and metrics that are not finite, count as the worst finite value that any run of the sweep has: a
    mean without them would praise the settings that lose their bad seeds, an infinite one could not be compared.

    Args:
        rows: of `table.make_rows`, each with `axes` as sweep.json has them: an axis may be called like a column.
        axes: paths without the seed.
        metric: a column of the rows.
        sign: 1 for a metric of which more is better, else -1.
    """
    over = [row for row in rows if row["status"] in DONE]
    finite = [
        value
        for row in over
        if row["status"] != "diverged" and math.isfinite(value := number(row.get(metric), math.nan))
    ]
    worst = min(finite, key=lambda value: sign * value) if finite else math.nan
    found: dict[tuple[str, ...], Result] = {}
    without = []
    for row in over:
        diverged = row["status"] == "diverged"
        value = number(row.get(metric))
        if value is None and not diverged:
            without.append(row["name"])
            continue
        one = Result({axis: row["axes"].get(axis) for axis in axes})
        result = found.setdefault(one.key(axes), one)
        lost = diverged or value is None or not math.isfinite(value)
        result.rows.append(row)
        result.lost.extend([row["name"]] if lost else [])
        result.values[row["axes"]["seed"]] = worst if lost or value is None else value
    return Results(list(found.values()), worst, without)


def number(value: Any, default: float | None = None) -> Any:
    """A number of a row as a float, in which "nan" and "inf" stand for themselves; default for what is none."""
    if isinstance(value, bool) or value is None:
        return default
    try:
        return float(value)
    except (TypeError, ValueError):
        return default


def ranked(settings: Sequence[Result], sign: float) -> list[Result]:
    """The best mean first, then fewer diverged runs; what has no mean last."""

    def rank(result: Result) -> tuple[bool, float, int]:
        mean = result.mean.value
        return math.isnan(mean), -sign * mean, len(result.lost)

    return sorted(settings, key=rank)


def best_by(settings: Sequence[Result], axes: Sequence[str], sign: float) -> list[tuple[Result, int]]:
    """The best setting of every combination of values of these axes, and of how many it is; in the sweep's order."""
    groups: dict[tuple[str, ...], list[Result]] = {}
    for result in settings:
        groups.setdefault(result.key(axes), []).append(result)
    return [(ranked(group, sign)[0], len(group)) for group in groups.values()]


def median_reached(rows: Sequence[Mapping[str, Any]], column: str) -> tuple[int, float]:
    """How many of these runs came to the task's threshold, and the median of a column, "convergence.steps" or
    "convergence.seconds", over all of them, infinite for those that did not."""
    values = [number(row.get(column), math.inf) for row in rows]
    return sum(math.isfinite(value) for value in values), float(np.median(values)) if values else math.nan


# --- comparisons -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """A setting beside the baseline's, by seed."""

    result: Result
    baseline: Result
    difference: Mean
    """Of setting - baseline, over the seeds that both have."""
    p: float | None
    """See `paired_test`."""
    adjusted: float | None
    """By Holm, over all that were tested."""


def compare(settings: Sequence[Result], baseline: Mapping[str, Any]) -> tuple[list[Comparison], list[Result]]:
    """Every setting with its baseline: the setting that has the baseline's values and otherwise the same.

    Axes that the baseline's values decide in this sweep, as a learning rate that goes with the cell, need not be the
    same.

    Args:
        settings: of `aggregate`.
        baseline: {axis: value}.

    Returns:
        The comparisons, in the order of the settings, and the settings that have no baseline.
    """
    free = _free_axes(settings, list(baseline))
    partners = {r.key(free): r for r in settings if all(same(r.axes[path], v) for path, v in baseline.items())}
    found, alone = [], []
    for result in settings:
        partner = partners.get(result.key(free))
        if partner is None:
            alone.append(result)
        elif partner is not result:
            differences = [v - partner.values[seed] for seed, v in result.values.items() if seed in partner.values]
            found.append((result, partner, differences, paired_test(differences)))
    tested = [p for *_, p in found if p is not None]
    adjusted = iter(holm(tested))
    return [
        Comparison(result, partner, mean_interval(differences), p, None if p is None else next(adjusted))
        for result, partner, differences, p in found
    ], alone


def _free_axes(settings: Sequence[Result], named: Sequence[str]) -> list[str]:
    """The axes whose values the named ones do not decide."""
    axes = [axis for axis in (settings[0].axes if settings else ()) if axis not in named]
    pairs = {axis: {result.key([*named, axis]) for result in settings} for axis in axes}
    deciding = len({result.key(named) for result in settings})
    return [axis for axis in axes if len(pairs[axis]) > deciding]


def same(value: Any, other: Any) -> bool:
    """Whether two values of an axis are the same: 1 and 1.0 are, and so is the text of a number."""
    return value == other or str(value) == str(other)
