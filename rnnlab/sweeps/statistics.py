"""Statistics over seeds: means with intervals, tests, Holm's correction, best settings.

Plain numbers and rows of `table.py` in, plain numbers out; comparisons with a baseline are in `comparison.py`, what a
reader is told of them is in `report.py`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import betaincinv, stdtr, stdtrit  # scipy.stats has the same two and takes a second more to import.

from rnnlab.records.workdir import DONE

LEVEL = 0.95
"""The level of every interval."""


@dataclass(frozen=True)
class Scale:
    """How means, intervals and comparisons of a metric are made."""

    logarithms: bool
    """Whether of logarithms: then means are geometric, and settings are compared by their ratio."""
    low: float = -math.inf
    """No value is below it, and intervals are cut there; those of logarithms end above 0 by themselves."""
    high: float = math.inf

    @property
    def mean(self) -> str:
        """For people: what the mean is."""
        return "geometric mean" if self.logarithms else "mean"

    @property
    def interval(self) -> str:
        """For people: what an interval is."""
        if self.logarithms:
            return "Student's t of the logarithms, which does not reach below 0"
        ends = " and ".join(f"{end:g}" for end in (self.low, self.high) if math.isfinite(end))
        return f"Student's t, cut at {ends}" if ends else "Student's t"

    def contrast(self, value: float, other: float) -> float:
        """The difference of a value from another; on a scale of logarithms, that of the logarithms."""
        return math.log(value) - math.log(other) if self.logarithms else value - other


PLAIN = Scale(False)
LOGARITHMS = Scale(True)
SHARE = Scale(False, 0.0, 1.0)
NOT_NEGATIVE = Scale(False, 0.0)
"""The scale of values that are 0 at times, which have no logarithm."""


def scale_of(values: Any, share: bool = False) -> Scale:
    """The scale of a metric that has these values; share: whether it lies between 0 and 1. NaN and infinite ones do
    not count."""
    finite = np.asarray(values, float).ravel()
    finite = finite[np.isfinite(finite)]
    if not finite.size or finite.min() < 0:
        return PLAIN
    if share and finite.max() <= 1:
        return SHARE
    return LOGARITHMS if finite.min() > 0 else NOT_NEGATIVE


@dataclass(frozen=True)
class Mean:
    """A mean and its interval."""

    value: float
    low: float
    """NaN, as is `high`, for a single value, which has no interval."""
    high: float
    count: int

    def times(self, factor: float) -> "Mean":
        """In another unit."""
        return Mean(factor * self.value, factor * self.low, factor * self.high, self.count)


def mean_interval(values: Sequence[float], scale: Scale = PLAIN) -> Mean:
    """The mean m and m ± t s / √n, with t the quantile of Student's distribution (1908) with n - 1 degrees of freedom
    and s the standard deviation of the n values, unbiased in its square; NaN for none. On a scale of logarithms all
    three are exp of those of the logarithms; on one with ends the interval is cut there."""
    mean, low, high = mean_band(np.array(values, float)[None], scale)
    return Mean(float(mean[0]), float(low[0]), float(high[0]), len(values))


def mean_band(values: np.ndarray, scale: Scale = PLAIN) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`mean_interval` of every row [S, N] at once: (mean, low, high), each [S]. NaN in a row are left out of it."""
    there = ~np.isnan(values)
    alone = np.where(there, values, 0).sum(1)  # A row with one value keeps it: exp(log x) is not always x.
    values = np.log(values) if scale.logarithms else values
    count = there.sum(1)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        mean = np.where(there, values, 0).sum(1) / count
        squares = np.where(there, (values - mean[:, None]) ** 2, 0).sum(1)
        wide = stdtrit(np.maximum(count - 1, 1), (1 + LEVEL) / 2) * np.sqrt(squares / (count - 1) / count)
        wide = np.where(count > 1, wide, np.nan)
        ends = mean - wide, mean + wide
        if scale.logarithms:
            return np.where(count == 1, alone, np.exp(mean)), np.exp(ends[0]), np.exp(ends[1])
        return mean, np.maximum(ends[0], scale.low), np.minimum(ends[1], scale.high)


def share_interval(count: int, of: int) -> tuple[float, float]:
    """The exact interval of a share of which `count` of `of` were seen (Clopper and Pearson, 1934)."""
    tail = (1 - LEVEL) / 2
    low = 0.0 if count == 0 else float(betaincinv(count, of - count + 1, tail))
    high = 1.0 if count == of else float(betaincinv(count + 1, of - count, 1 - tail))
    return low, high


def paired_test(differences: Sequence[float]) -> float | None:
    """p of the two-sided paired t test (Student, 1908) that the differences have mean 0.

    Not Wilcoxon's signed ranks: of 5 pairs their smallest p is 2 / 2⁵ = 0.06, so the usual 5 seeds could never show
    anything. None where t is undefined: fewer than two pairs, or all differences equal and not 0; all 0 is p = 1.
    """
    array = np.array(differences, float)
    if len(array) < 2 or not np.isfinite(array).all():
        return None
    if np.ptp(array) == 0:
        return 1.0 if array[0] == 0 else None
    t = array.mean() / (array.std(ddof=1) / math.sqrt(len(array)))
    return float(2 * stdtr(len(array) - 1, -abs(t)))


def exact_test(count: int, of: int, other_count: int, other_of: int) -> float:
    """p of Fisher's exact test, two-sided, that both have the same share: `count` of `of`, `other_count` of
    `other_of`."""
    from scipy.stats import fisher_exact  # Here: the import takes a second.

    _, p = fisher_exact([[count, of - count], [other_count, other_of - other_count]])
    return float(p)  # pyright: ignore[reportArgumentType]


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
    """The runs of one setting of the axes, over seeds; only those that are over."""

    axes: dict[str, Any]
    worst: float
    """See `Results`."""
    rows: list[Mapping[str, Any]] = field(default_factory=list)
    values: dict[Any, float] = field(default_factory=dict)
    """Seed -> metric, of the runs that have one."""
    lost: list[str] = field(default_factory=list)
    """Names of the runs that have none: diverged, or with a metric that is not finite."""

    @property
    def diverged(self) -> int:
        """How many runs diverged."""
        return sum(row["status"] == "diverged" for row in self.rows)

    @property
    def score(self) -> float:
        """Settings are ordered by this, and nothing else is: the mean over all seeds, in which a lost run counts as the
        worst value of the sweep. A mean without it would praise the settings that lose their bad seeds."""
        return mean_interval([self.values.get(row["axes"]["seed"], self.worst) for row in self.rows]).value

    def mean(self, scale: Scale) -> Mean:
        """The mean of the metric over the runs that have a value."""
        return mean_interval(list(self.values.values()), scale)

    def key(self, axes: Sequence[str]) -> tuple[str, ...]:
        """The values of these axes, to group by."""
        return tuple(repr(self.axes[axis]) for axis in axes)


@dataclass(frozen=True)
class Results:
    """All settings of a sweep that have a run that is over."""

    settings: list[Result]
    """In the sweep's order."""
    worst: float
    """The worst finite value of the metric that any run has; NaN where none has one."""
    without: list[str]
    """Names of runs that are over and have no value of the metric."""


def aggregate(rows: Sequence[Mapping[str, Any]], axes: Sequence[str], metric: str, sign: float) -> Results:
    """Settings with their metric by seed.

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
    results: dict[tuple[str, ...], Result] = {}
    without = []
    for row in over:
        diverged = row["status"] == "diverged"
        value = number(row.get(metric))
        if value is None and not diverged:
            without.append(row["name"])
            continue
        one = Result({axis: row["axes"].get(axis) for axis in axes}, worst)
        result = results.setdefault(one.key(axes), one)
        result.rows.append(row)
        if diverged or value is None or not math.isfinite(value):
            result.lost.append(row["name"])
        else:
            result.values[row["axes"]["seed"]] = value
    return Results(list(results.values()), worst, without)


def number(value: Any, default: float | None = None) -> Any:
    """A number of a row as a float, in which "nan" and "inf" stand for themselves; default for what is not a number."""
    if isinstance(value, bool) or value is None:
        return default
    try:
        return float(value)
    except (TypeError, ValueError):
        return default


def ranked(settings: Sequence[Result], sign: float) -> list[Result]:
    """The best score first, then fewer lost runs; what has no score last."""

    def rank(result: Result) -> tuple[bool, float, int]:
        score = result.score
        return math.isnan(score), -sign * score, len(result.lost)

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


def same(value: Any, other: Any) -> bool:
    """Whether two values of an axis are the same: 1 and 1.0 are, and so is the text of a number."""
    return value == other or str(value) == str(other)
