"""Statistics of the study: each entry's numbers with intervals, and comparisons with a baseline."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from rnnlab.sweeps.spec.question import larger_is_better, shares
from rnnlab.sweeps.statistics import LEVEL, Mean, exact_test, holm, mean_interval, number, scale_of, share_interval
from scripts.study.protocol import BASELINE


@dataclass(frozen=True)
class Numbers:
    """The results of an entry over its runs."""

    entry: Mapping[str, Any]
    values: list[float]
    """The metric on the test split of each run, a lost one as the worst value there is: infinite, or accuracy 0."""
    solved: int
    steps: tuple[float, float, float]
    """The median step at which the task was solved and its interval, infinite for runs that did not."""
    share: tuple[float, float]
    """The interval of the share solved."""
    mean: Mean
    """The mean of the metric over the runs that have one."""
    diverged: int
    clipped: float
    """The mean share of steps whose gradient was clipped."""
    untrained: float
    trained: float
    """Half-lives of the gradient in time steps, medians over seeds; infinite where it does not fade."""

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
    finite = [value for value in values if math.isfinite(value)]
    times = [number(run["solved_at"], math.inf) for run in runs]
    solved = sum(map(math.isfinite, times))
    return Numbers(
        entry,
        values,
        solved,
        median_interval(times),
        share_interval(solved, len(runs)),
        mean_interval(finite, scale_of(finite, share=metric in shares())),
        sum(run["status"] == "diverged" for run in runs),
        float(np.mean([number(run["clipped"], 0.0) for run in runs])),
        _half_life(runs, "untrained"),
        _half_life(runs, "trained"),
    )


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
    """An entry beside its baseline."""

    p_error: float
    """p of the two-sided rank test (Mann and Whitney, 1947) on the test metric, exact; Holm's correction."""
    p_solved: float
    """p of Fisher's exact test on the share solved; Holm's correction."""
    delta: float
    """Cliff's δ: how much likelier a run of the entry is better than one of the baseline than worse; -1 to 1."""


def compare(entries: Sequence[Numbers], baselines: Sequence[Numbers]) -> list[Comparison]:
    """Each entry beside its baseline; Holm's correction over all of them."""
    errors, shares, deltas = [], [], []
    for mine, other in zip(entries, baselines, strict=True):
        better = 1 if mine.entry["metric"] in larger_is_better() else -1
        greater = [(a > b) - (a < b) for a in mine.values for b in other.values]
        deltas.append(better * sum(greater) / len(greater))
        errors.append(_rank_test(mine.values, other.values))
        shares.append(exact_test(mine.solved, mine.count, other.solved, other.count))
    return [
        Comparison(error, share, delta) for error, share, delta in zip(holm(errors), holm(shares), deltas, strict=True)
    ]


def _rank_test(mine: Sequence[float], other: Sequence[float]) -> float:
    """p of the two-sided test by ranks; exact where no values are equal."""
    both = [*mine, *other]
    if len(set(both)) == 1:
        return 1.0
    ranks = stats.rankdata(both)  # Infinite values have ranks, too.
    method = "exact" if len(set(both)) == len(both) else "asymptotic"
    test = stats.mannwhitneyu(ranks[: len(mine)], ranks[len(mine) :], alternative="two-sided", method=method)
    return float(test.pvalue)


def average_ranks(by_task: Mapping[str, Mapping[str, Numbers]]) -> tuple[dict[str, float], float]:
    """Each method's rank by its mean over the tasks that all have, and Nemenyi's critical difference at 5 % (Demšar,
    2006): methods whose ranks differ by less are not shown to differ."""
    methods = sorted(set.intersection(*(set(of) for of in by_task.values()))) if by_task else []
    if len(methods) < 2:
        return {}, math.nan
    table = []
    for of in by_task.values():
        sign = -1 if next(iter(of.values())).entry["metric"] in larger_is_better() else 1
        keys = [(-of[m].solved, sign * float(np.median(of[m].values))) for m in methods]
        order = {key: rank for rank, key in enumerate(sorted(set(keys)))}
        table.append(stats.rankdata([order[key] for key in keys]))
    ranks = np.mean(table, axis=0)
    quantile = stats.studentized_range.ppf(0.95, len(methods), np.inf) / math.sqrt(2)
    critical = quantile * math.sqrt(len(methods) * (len(methods) + 1) / (6 * len(table)))
    return dict(sorted(zip(methods, map(float, ranks), strict=True), key=lambda item: item[1])), float(critical)


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Spearman's ρ and its p; infinite values count by their rank."""
    if len(set(x)) < 2 or len(set(y)) < 2:
        return math.nan, math.nan
    test = stats.spearmanr(stats.rankdata(x), stats.rankdata(y))
    return float(test.statistic), float(test.pvalue)  # pyright: ignore[reportAttributeAccessIssue]
