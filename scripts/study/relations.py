"""Fits the time to solve, to the gradient before training and to the length of a task."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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
class Prediction:
    """How well |log10 of what is left of the gradient| before training says how soon a task is solved."""

    names: list[str]
    left: list[float]
    """`left_of_gradient` of each."""
    steps: list[float]
    """The median step at which each is solved; infinite where it is not."""
    errors: list[float]
    """The mean test error of each; infinite where all of its runs diverged."""
    correlation: Correlation
    """Of |left| and steps."""
    with_error: Correlation
    """Of |left| and the test error, which says something also where nothing is solved."""
    separation: float
    """The chance that one that most seeds solve has the smaller |left| than one that most do not (ties count half);
    NaN where there are none of either."""
    slope: Mean
    """Decades of steps for each decade of gradient that is lost or grown, by least squares over those solved, with
    Student's t interval; all NaN with fewer than three."""
    intercept: float
    r_squared: float
    exceptions: list[str]
    """Those solved whose steps are more than two standard deviations of the residuals away from the line."""

    def says(self) -> list[str]:
        """What is known of Spearman's ρ: "the time to solve is 0.34 (-0.31 to 0.77, p = 0.29)", and of the error."""
        each = {"time to solve": self.correlation, "test error": self.with_error}
        return [f"the {of} is {one.words(f', p = {one.p:.2g}')}" for of, one in each.items() if not math.isnan(one.rho)]


def predict(entries: Sequence[Numbers]) -> Prediction | None:
    """The prediction over entries of one task or of several; None with fewer than four that have a gradient."""
    pairs = [(n, left_of_gradient(n)) for n in entries]
    pairs = [(n, left) for n, left in pairs if math.isfinite(left)]
    if len(pairs) < 4:
        return None
    names = [f"{n.entry['method']} at {n.entry['config']['task']['length']}" for n, _ in pairs]
    left, steps = [left for _, left in pairs], [n.steps[0] for n, _ in pairs]
    distance = np.abs(left)
    done = np.isfinite(steps)
    correlation = rank_correlation(list(distance), steps)
    errors = [n.mean.value if math.isfinite(n.mean.value) else math.inf for n, _ in pairs]
    slope, intercept, r_squared = Mean(math.nan, math.nan, math.nan, int(done.sum())), math.nan, math.nan
    exceptions: list[str] = []
    if done.sum() > 2 and np.ptp(distance[done]) > 0:
        x, y = distance[done], np.log10(np.array(steps)[done])
        line = _line(x, y)
        slope, intercept, r_squared = line.slope, line.intercept, line.r_squared
        residuals = y - (slope.value * x + intercept)
        spread = math.sqrt(float((residuals**2).sum()) / (len(x) - 2))
        exceptions = [
            name
            for name, residual in zip(np.array(names)[done], residuals, strict=True)
            if spread > 0 and abs(residual) > 2 * spread
        ]
    return Prediction(
        names,
        left,
        steps,
        errors,
        correlation,
        rank_correlation(list(distance), errors),
        _separation(distance[done], distance[~done]),
        slope,
        intercept,
        r_squared,
        exceptions,
    )


def _separation(solved: np.ndarray, other: np.ndarray) -> float:
    if not solved.size or not other.size:
        return math.nan
    below = (solved[:, None] < other).mean() + 0.5 * (solved[:, None] == other).mean()
    return float(below)


@dataclass(frozen=True)
class Growth:
    """How a method's time to solve grows with the length T: steps = a T^exponent."""

    exponent: Mean
    """With Student's t interval of the slope; NaN ends with two lengths, all NaN with fewer."""
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


def growth(by_length: Mapping[int, Numbers]) -> Growth:
    """The fit over one method's entries, by least squares of logarithms through the median of each length, whose runs
    share what was chosen for them."""
    whole = sorted(length for length, n in by_length.items() if n.solved == n.count)
    unsolved = sorted(set(by_length) - set(whole))
    points = [(math.log(length), math.log(by_length[length].steps[0])) for length in whole]
    if len(points) < 2:
        return Growth(Mean(math.nan, math.nan, math.nan, len(points)), math.nan, whole, unsolved)
    line = _line(*np.array(points).T)
    return Growth(line.slope, math.exp(line.intercept), whole, unsolved)


class _Line(NamedTuple):
    slope: Mean
    """With Student's t interval; NaN ends with two points."""
    intercept: float
    r_squared: float


def _line(x: np.ndarray, y: np.ndarray) -> _Line:
    """The line of least squares."""
    fit: Any = stats.linregress(x, y)
    freedom, slope = len(x) - 2, float(fit.slope)
    wide = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * float(fit.stderr) if freedom else math.nan
    return _Line(Mean(slope, slope - wide, slope + wide, len(x)), float(fit.intercept), float(fit.rvalue) ** 2)
