"""Statistics of the study: each entry's numbers with intervals, and comparisons with a baseline."""

import dataclasses
import functools
import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from rnnlab.sweeps.spec.question import larger_is_better, shares
from rnnlab.sweeps.statistics import LEVEL, Mean, exact_test, holm, mean_interval, number, scale_of
from scripts.study.cures import CURE_TASKS
from scripts.study.entries import PARTS
from scripts.study.protocol import BASELINE, TASKS


@dataclass(frozen=True)
class Numbers:
    """The results of an entry over its runs."""

    entry: Mapping[str, Any]
    times: list[float]
    """The step at which each run solved the task, infinite where it did not."""
    values: list[float]
    """The metric on the test split of each run, a lost one as the worst value there is: infinite, or accuracy 0."""
    solved: int
    """How many runs solved the task; 0 where the study has no threshold for it."""
    steps: tuple[float, float, float]
    """The median step at which the task was solved and its interval, infinite for runs that did not."""
    mean: Mean
    """The mean of the metric over the runs that have one; a run that diverged has none."""
    diverged: int
    clipped: float
    """The mean share of steps whose gradient was clipped."""
    untrained: float
    trained: float
    """Half-lives of the gradient in time steps, medians over seeds; infinite where it does not fade."""
    change: float
    """By how much the untrained gradient fades or grows a time step: the median of |log factor|."""

    @property
    def count(self) -> int:
        """How many runs there are."""
        return len(self.values)


def numbers_of(entry: Mapping[str, Any]) -> Numbers:
    """The numbers of one JSON file."""
    runs, metric = entry["runs"], entry["metric"]
    worst = 0.0 if metric in larger_is_better() else math.inf
    values = [number(run["test"].get(metric), worst) for run in runs]
    values = [
        value if math.isfinite(value) and run["status"] != "diverged" else worst
        for value, run in zip(values, runs, strict=True)
    ]
    finite = [v for v, run in zip(values, runs, strict=True) if math.isfinite(v) and run["status"] != "diverged"]
    counts = has_threshold(entry["task"])
    times = [number(run["solved_at"], math.inf) if counts else math.inf for run in runs]
    solved = sum(map(math.isfinite, times))
    return Numbers(
        entry,
        times,
        values,
        solved,
        median_interval(times),
        mean_interval(finite, scale_of(finite, share=metric in shares())),
        sum(run["status"] == "diverged" for run in runs),
        float(np.mean([number(run["clipped"], 0.0) for run in runs])),
        _half_life(runs, "untrained"),
        _half_life(runs, "trained"),
        _change(runs),
    )


def has_threshold(task: str) -> bool:
    """Whether some value of a metric counts as having solved a task, by its name."""
    of = (TASKS | CURE_TASKS).get(task)
    return of is None or of.threshold


PLATEAU = "°"
"""Stands behind a cell that solves nothing and whose rate may be at fault: `on_plateau`."""


def on_plateau(n: Numbers) -> bool:
    """Whether no run of an entry solves its task, and a rate that was pruned at the first rung was then within 1 % of
    one that went on, at the best that this one came to later: little told them apart."""
    tuning = [each for each in n.entry.get("tuning", []) if each["mean"] is not None]
    if n.solved or not has_threshold(n.entry["task"]) or not tuning:
        return False
    first = min(each["steps"] for each in tuning)
    pruned = [each["mean"] for each in tuning if each["steps"] == first]
    longer = [each["mean"] for each in tuning if each["steps"] > first]
    return bool(longer) and min(pruned) <= 1.01 * max(longer)


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The median and its interval by order statistics, which needs no distribution (Thompson, 1936): of 8 values the
    second and the seventh, at 93 %, the first and the last at 99 %; the narrowest whose level is at least 95 %."""
    ordered = sorted(values)
    count = len(ordered)
    around = ordered[(count - 1) // 2 : count // 2 + 1]
    middle = sum(around) / len(around)
    for cut in range((count - 1) // 2, 0, -1):
        if 1 - 2 * stats.binom.cdf(cut, count, 0.5) >= LEVEL:
            return middle, ordered[cut], ordered[count - 1 - cut]
    return middle, ordered[0], ordered[-1]


@dataclass(frozen=True)
class Correlation:
    """Spearman's ρ of two lists, infinite values by their rank; all NaN where either list has one value alone."""

    rho: float
    low: float
    """The interval's lower end (Bonett and Wright, 2000); NaN, as is `high`, with fewer than four pairs, and where more
    than half of a list are equal, so that it does not hold."""
    high: float
    p: float
    """By permutations."""
    count: int
    """How many pairs there are."""

    def words(self) -> str:
        """ρ and, in brackets, its interval, where it has one, and p."""
        interval = f"{self.low:.2f} to {self.high:.2f}, " if math.isfinite(self.low) else ""
        return f"{self.rho:.2f} ({interval}p = {self.p:.2g})"


def foretold(by_task: Mapping[str, Mapping[str, Numbers]]) -> dict[str, Correlation]:
    """{task: the correlation} of how much the untrained gradient fades or grows a step, and the step to solved; p by
    Holm's correction over all tasks that have one in the plan."""
    each: dict[str, Correlation] = {}
    for task, of in by_task.items():
        pairs = [(n.change, n.steps[0]) for n in of.values() if not math.isnan(n.change)]
        correlation = rank_correlation([change for change, _ in pairs], [steps for _, steps in pairs])
        if not math.isnan(correlation.rho):
            each[task] = correlation
    left = max(0, sum(task.threshold for task in TASKS.values()) - len(each))
    corrected = holm([*(correlation.p for correlation in each.values()), *[1.0] * left])[: len(each)]
    return {task: dataclasses.replace(of, p=p) for (task, of), p in zip(each.items(), corrected, strict=True)}


def median_words(n: Numbers, seconds: float | None = None) -> str:
    """The median step to solved and its interval, for people; as seconds where those of a step are given."""
    if not math.isfinite(n.steps[0]):
        return "–"
    each = (f"{value:.0f}" if seconds is None else f"{value * seconds:.2g}" for value in n.steps)
    middle, low, high = ("∞" if text == "inf" else text for text in each)
    return f"{middle} ({low} to {high})"


def _half_life(runs: Sequence[Mapping[str, Any]], when: str) -> float:
    """The median half-life over runs: log 2 / −log factor."""
    factors = [run["factor"][when] for run in runs if when in run.get("factor", {})]
    lives = [math.inf if factor >= 1 else math.log(2) / -math.log(factor) if factor > 0 else 0.0 for factor in factors]
    return float(np.median(lives)) if lives else math.nan


def _change(runs: Sequence[Mapping[str, Any]]) -> float:
    """The median of |log factor| before training; infinite where a gradient is lost at once, NaN without any."""
    factors = [run["factor"]["untrained"] for run in runs if "untrained" in run.get("factor", {})]
    return float(np.median([abs(math.log(f)) if f > 0 else math.inf for f in factors])) if factors else math.nan


def errors_of(n: Numbers) -> list[float]:
    """The test error of each run: the metric, or 1 minus a metric of which more is better; infinite where a run was
    lost."""
    if n.entry["metric"] in larger_is_better():
        return [
            1 - value if run["status"] != "diverged" else math.inf
            for value, run in zip(n.values, n.entry["runs"], strict=True)
        ]
    return list(n.values)


def error_ratio(n: Numbers, base: Numbers) -> Mean:
    """The geometric mean of the errors over that of a baseline, runs that were lost left out, with Welch's interval of
    the difference of the logarithms (1947); NaN ends with fewer than two runs of either, all NaN with an error of 0."""
    mine, other = ([e for e in errors_of(each) if math.isfinite(e)] for each in (n, base))
    if min(len(mine), len(other)) == 0 or min(*mine, *other) <= 0:
        return Mean(math.nan, math.nan, math.nan, len(mine))
    x, y = np.log(mine), np.log(other)
    middle = float(x.mean() - y.mean())
    if min(len(x), len(y)) < 2:
        return Mean(math.exp(middle), math.nan, math.nan, len(mine))
    a, b = x.var(ddof=1) / len(x), y.var(ddof=1) / len(y)
    if a + b == 0:
        return Mean(math.exp(middle), math.exp(middle), math.exp(middle), len(mine))
    freedom = (a + b) ** 2 / (a**2 / (len(x) - 1) + b**2 / (len(y) - 1))
    wide = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * math.sqrt(a + b)
    return Mean(math.exp(middle), math.exp(middle - wide), math.exp(middle + wide), len(mine))


def baseline_of(part: str, method: str) -> str | None:
    """The method that another one of its part is compared with, on the same task; None where there is none."""
    return {"cells": BASELINE, "cures": method.partition("+")[0]}.get(part)


@dataclass(frozen=True)
class Comparison:
    """An entry beside its baseline. All p are by Holm's correction over the tests of all entries: three of each where
    the study has a threshold for the task, else that of the error alone."""

    p_error: float
    """p of the two-sided rank test (Mann and Whitney, 1947) on the test metric, exact."""
    p_solved: float
    """p of Fisher's exact test on the share solved."""
    p_steps: float
    """p of the rank test on the step at which the task is solved, infinite where it is not."""
    delta: float
    """Cliff's δ: how much likelier a run of the entry is better than one of the baseline than worse; -1 to 1."""
    more: int
    """How many more of its runs solve the task."""
    sooner: float
    """Cliff's δ of the step at which the task is solved, above 0 where the entry is sooner."""

    @property
    def shown(self) -> int:
        """1 where it is shown to be better, -1 where worse, 0 where no difference is shown: by the share solved, else
        by the error."""
        if self.p_solved < 0.05:
            return 1 if self.more > 0 else -1
        return int(np.sign(self.delta)) if self.p_error < 0.05 else 0

    @property
    def faster(self) -> int:
        """1 where it is shown to solve the task in fewer steps, -1 in more, 0 where neither is shown."""
        return int(np.sign(self.sooner)) if self.p_steps < 0.05 else 0


def compare(entries: Sequence[Numbers], baselines: Sequence[Numbers], planned: int = 0) -> list[Comparison]:
    """Each entry beside its baseline, all of one task; Holm's correction over the tests of all of them.

    Args:
        planned: how many entries there are going to be; those that are missing count as well, so that a difference that
            is shown stays so.
    """
    tests: list[tuple[float, float, float]] = []
    effects: list[tuple[float, int, float]] = []
    for mine, other in zip(entries, baselines, strict=True):
        better = 1 if mine.entry["metric"] in larger_is_better() else -1
        error, delta = _rank_test(mine.values, other.values)
        steps, later = _rank_test(mine.times, other.times)
        tests.append((error, exact_test(mine.solved, mine.count, other.solved, other.count), steps))
        effects.append((better * delta, mine.solved - other.solved, 0.0 - later))
    count = 3 if all(has_threshold(n.entry["task"]) for n in entries) else 1
    flat = [p for each in tests for p in each[:count]]
    corrected = holm([*flat, *[1.0] * (count * max(0, planned - len(tests)))])
    each = [[*corrected[count * n : count * (n + 1)], *[1.0] * (3 - count)] for n in range(len(tests))]
    return [Comparison(ps[0], ps[1], ps[2], *of) for ps, of in zip(each, effects, strict=True)]


def compared(part: str, of: Mapping[str, Numbers]) -> list[tuple[Numbers, Numbers, Comparison]]:
    """(Entry, baseline, comparison) of all of a task that have a baseline; the correction is over all that are planned
    with the same one."""
    beside: list[tuple[Numbers, Numbers, Comparison]] = []
    for name in dict.fromkeys(baseline_of(part, method) for method in of):
        if (base := of.get(name or "")) is None:
            continue
        mine = [n for method, n in of.items() if method != name and baseline_of(part, method) == name]
        planned = _planned(part).get((base.entry["task"], name or ""), 0)
        comparisons = compare(mine, [base] * len(mine), planned)
        beside += [(n, base, comparison) for n, comparison in zip(mine, comparisons, strict=True)]
    return beside


@functools.cache
def _planned(part: str) -> dict[tuple[str, str], int]:
    """How many entries of a part have a baseline on a task: {(task, baseline): count}."""
    counts: dict[tuple[str, str], int] = {}
    for entry in PARTS[part]("small"):
        name = baseline_of(part, entry.method)
        if name is not None and name != entry.method:
            counts[entry.task, name] = counts.get((entry.task, name), 0) + 1
    return counts


SPLITS = 20_000
"""Up to so many ways to deal out the values, all are counted; eight and eight have 12 870."""


def _rank_test(mine: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """p of the two-sided test by ranks, and Cliff's δ, above 0 where mine are greater. p is the share of all ways to
    deal out the values whose sum of ranks is as far from the middle, also where values are equal; with many values by
    the normal approximation."""
    both = [*mine, *other]
    if len(set(both)) == 1:
        return 1.0, 0.0
    greater = [(a > b) - (a < b) for a in mine for b in other]
    delta = sum(greater) / len(greater)
    ranks = stats.rankdata(both)  # Infinite values have ranks, too.
    if math.comb(len(both), len(mine)) > SPLITS:
        test = stats.mannwhitneyu(ranks[: len(mine)], ranks[len(mine) :], alternative="two-sided")
        return float(test.pvalue), delta
    dealt = np.array(list(itertools.combinations(range(len(both)), len(mine))))
    middle = ranks.sum() * len(mine) / len(both)
    far = np.abs(ranks[dealt].sum(axis=1) - middle)
    return float((far >= abs(ranks[: len(mine)].sum() - middle) - 1e-9).mean()), delta


@dataclass(frozen=True)
class Ranks:
    """Ranks of methods over tasks (Demšar, 2006)."""

    means: dict[str, float]
    """Each method's mean rank over the tasks that all have, the best first."""
    critical: float
    """Nemenyi's critical difference at 5 %: methods whose ranks differ by less are not shown to differ."""
    p: float
    """Of Friedman's test that all are alike; NaN for two methods, or one task."""


def average_ranks(by_task: Mapping[str, Mapping[str, Numbers]]) -> Ranks:
    """The ranks by the share solved, then by the median error."""
    methods = sorted(set.intersection(*(set(of) for of in by_task.values()))) if by_task else []
    if len(methods) < 2:
        return Ranks({}, math.nan, math.nan)
    table = []
    for of in by_task.values():
        sign = -1 if next(iter(of.values())).entry["metric"] in larger_is_better() else 1
        keys = [(-of[m].solved, sign * float(np.median(of[m].values))) for m in methods]
        order = {key: rank for rank, key in enumerate(sorted(set(keys)))}
        table.append(stats.rankdata([order[key] for key in keys]))
    ranks = np.mean(table, axis=0)
    quantile = stats.studentized_range.ppf(0.95, len(methods), np.inf) / math.sqrt(2)
    critical = quantile * math.sqrt(len(methods) * (len(methods) + 1) / (6 * len(table)))
    p = float(stats.friedmanchisquare(*np.transpose(table)).pvalue) if len(methods) > 2 and len(table) > 1 else math.nan
    means = sorted(zip(methods, map(float, ranks), strict=True), key=lambda item: item[1])
    return Ranks(dict(means), float(critical), p)


ORDERS, DRAWS = 5040, 100_000
"""Up to so many orders of a list, all are counted; else so many are drawn."""


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> Correlation:
    """Spearman's ρ; its interval by Fisher's z with a variance of (1 + ρ²/2) / (n - 3); its p, the share of the orders
    of y whose ρ is as far from 0, which holds also where values are equal."""
    count = len(x)
    if len(set(x)) < 2 or len(set(y)) < 2:
        return Correlation(math.nan, math.nan, math.nan, math.nan, count)
    a, b = ((ranks - ranks.mean()) / ranks.std() for ranks in (stats.rankdata(x), stats.rankdata(y)))
    rho = min(1.0, max(-1.0, float(a @ b) / count))
    if math.factorial(count) <= ORDERS:
        orders = b[np.array(list(itertools.permutations(range(count))))]
    else:
        orders = np.random.default_rng(0).permuted(np.tile(b, (DRAWS, 1)), axis=1)
    far = int((np.abs(orders @ a) >= count * abs(rho) - 1e-9).sum())
    p = far / len(orders) if len(orders) != DRAWS else (far + 1) / (DRAWS + 1)
    low = high = math.nan
    if count > 3 and max(_most_equal(x), _most_equal(y)) <= count / 2:
        wide = float(stats.norm.ppf((1 + LEVEL) / 2)) * math.sqrt((1 + rho**2 / 2) / (count - 3))
        low, high = (float(np.tanh(np.arctanh(rho) + sign * wide)) if abs(rho) < 1 else rho for sign in (-1, 1))
    return Correlation(rho, low, high, p, count)


def _most_equal(values: Sequence[float]) -> int:
    """How often the commonest value is there."""
    return Counter(values).most_common(1)[0][1]
