"""Fits the time to solve, to the gradient before training and to the length of a task."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from rnnlab.sweeps.statistics import LEVEL, Mean
from scripts.study.comparison import Correlation, Numbers, rank_correlation


def left_of_gradient(n: Numbers) -> float:
    """log10 of what is left of the gradient at the task's first step before training: T log10(factor a step), median
    over seeds; above 0 where it grows. NaN where no run has a factor above 0."""
    factors = [run["factor"].get("untrained", 0.0) for run in n.entry["runs"]]
    logs = [math.log10(factor) for factor in factors if factor > 0]
    return n.entry["config"]["task"]["length"] * float(np.median(logs)) if logs else math.nan


@dataclass(frozen=True)
class Family:
    """Initialisations of one cell that differ in one number, and whether |log10 of what is left of the gradient| before
    training says how soon a task is solved."""

    names: list[str]
    left: list[float]
    """`left_of_gradient` of each."""
    steps: list[float]
    """The median step at which each is solved; infinite where it is not."""
    errors: list[float]
    """The mean test error of each; infinite where all of its runs diverged."""

    @property
    def distance(self) -> np.ndarray:
        """|left|: how far from handing the gradient on as it is."""
        return np.abs(np.array(self.left))

    @property
    def done(self) -> np.ndarray:
        """Which are solved."""
        return np.isfinite(self.steps)

    @property
    def known(self) -> dict[str, Correlation]:
        """Spearman's ρ of |left| with the time to solve, and with the test error, which says something where nothing is
        solved; those that have one."""
        each = {"time to solve": self.steps, "test error": self.errors}
        correlations = {name: rank_correlation(list(self.distance), values) for name, values in each.items()}
        return {name: one for name, one in correlations.items() if not math.isnan(one.rho)}

    @property
    def signed(self) -> dict[str, float]:
        """Spearman's ρ of what is left itself, in place of |log10| of it; to be looked at, not tested."""
        each = {"time to solve": self.steps, "test error": self.errors}
        return {name: rank_correlation(self.left, each[name]).rho for name in self.known}

    def says(self) -> str:
        """Spearman's ρ in words: "0.34 (-0.31 to 0.77, p = 0.29) with the time to solve", and with the test error."""
        return " and ".join(f"{one.words()} with the {name}" for name, one in self.known.items())


def families_of(entries: Sequence[Numbers]) -> dict[str, Family]:
    """{family: its entries that have a gradient}, by their methods' names without the number."""
    by_family: dict[str, list[Numbers]] = {}
    for n in entries:
        if math.isfinite(left_of_gradient(n)):
            by_family.setdefault(n.entry["method"].rpartition("_")[0], []).append(n)
    return {
        family: Family(
            [f"{n.entry['method']} at {n.entry['config']['task']['length']}" for n in of],
            [left_of_gradient(n) for n in of],
            [n.steps[0] for n in of],
            [n.mean.value if math.isfinite(n.mean.value) else math.inf for n in of],
        )
        for family, of in by_family.items()
    }


@dataclass(frozen=True)
class CommonSlope:
    """log10 of steps = a + slope |log10 of what is left|, with an a of its own for each family, by least squares over
    those solved; a family with one alone says nothing of the slope."""

    slope: Mean
    """Decades of steps for each decade of gradient that is lost or grown, with Student's t interval."""
    intercepts: dict[str, float]
    r_squared: float
    """Of what differs within families, the share that the slope explains."""
    exceptions: list[str]
    """Those whose steps are more than two standard deviations of the residuals away from their line."""


def common_slope(families: Mapping[str, Family]) -> CommonSlope | None:
    """The fit; None where too few are solved for an interval."""
    points = {
        name: (of.distance[of.done], np.log10(np.array(of.steps)[of.done]), np.array(of.names)[of.done])
        for name, of in families.items()
        if of.done.sum() > 1
    }
    if not points:
        return None
    middles = {name: (float(x.mean()), float(y.mean())) for name, (x, y, _) in points.items()}
    x = np.concatenate([x - middles[name][0] for name, (x, _, _) in points.items()])
    y = np.concatenate([y - middles[name][1] for name, (_, y, _) in points.items()])
    freedom, spread = len(x) - len(points) - 1, float(x @ x)
    if freedom < 1 or spread == 0 or y @ y == 0:
        return None
    slope = float(x @ y) / spread
    residuals = y - slope * x
    error = math.sqrt(float(residuals @ residuals) / freedom)
    wide = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error / math.sqrt(spread)
    names = np.concatenate([each for _, _, each in points.values()])
    return CommonSlope(
        Mean(slope, slope - wide, slope + wide, len(x)),
        {name: y - slope * x for name, (x, y) in middles.items()},
        1 - float(residuals @ residuals) / float(y @ y),
        [str(name) for name in names[np.abs(residuals) > max(2 * error, 1e-9)]],
    )


@dataclass(frozen=True)
class Growth:
    """How a method's time to solve grows with the length T: steps = a T^exponent."""

    exponent: Mean
    """With the interval of seeds drawn anew, whose steps are known to the interval of evaluations alone; it leaves out
    that another rate might have been chosen. All NaN with fewer than two lengths."""
    factor: float
    """a."""
    lengths: list[int]
    """Those that every seed solves, which alone are fitted: where some do not, those that do are the fast ones."""
    unsolved: list[int]
    """Those that some seed does not solve."""


def lengths_by_method(by_task: Mapping[str, Mapping[str, Numbers]]) -> dict[str, dict[int, Numbers]]:
    """{method: {length: its numbers}} of entries by task and method."""
    by_method: dict[str, dict[int, Numbers]] = {}
    for of in by_task.values():
        for method, n in of.items():
            by_method.setdefault(method, {})[int(n.entry["config"]["task"]["length"])] = n
    return by_method


RESAMPLES = 10_000
"""So many times seeds are drawn anew for the interval of an exponent."""


def growth(by_length: Mapping[int, Numbers]) -> Growth:
    """The fit over one method's entries, by least squares of logarithms through the median of each length."""
    whole = sorted(length for length, n in by_length.items() if n.solved == n.count)
    unsolved = sorted(set(by_length) - set(whole))
    if len(whole) < 2:
        return Growth(Mean(math.nan, math.nan, math.nan, len(whole)), math.nan, whole, unsolved)
    x = np.log(np.array(whole, float))
    x, middle = x - x.mean(), float(x.mean())

    y = np.log([by_length[length].steps[0] for length in whole])
    slope, height = float(x @ y / (x @ x)), float(y.mean())
    rng = np.random.default_rng(0)
    times = [by_length[length].times for length in whole]
    # A step is known to the interval of evaluations: it is drawn as far as half of that before and behind.
    since = [int(by_length[length].entry["config"]["eval_every"]) for length in whole]
    drawn = np.log(
        [
            np.median(rng.choice(of, (RESAMPLES, len(of))) + far * rng.uniform(-0.5, 0.5, (RESAMPLES, len(of))), axis=1)
            for of, far in zip(times, since, strict=True)
        ]
    )
    low, high = np.quantile(x @ drawn / (x @ x), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Growth(Mean(slope, float(low), float(high), len(whole)), math.exp(height - slope * middle), whole, unsolved)
