"""Settings of a sweep beside a baseline: their values by seed, and how many of their runs came to something.

A run without a value, one that diverged, counts among the latter alone: a number in its place would decide the test.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnnlab.sweeps.statistics import Mean, Result, Scale, exact_test, holm, mean_interval, paired_test, same


def partners(
    settings: Sequence[Result], baseline: Mapping[str, Any]
) -> tuple[list[tuple[Result, Result]], list[Result]]:
    """Every setting beside its baseline: the setting that has the baseline's values and otherwise the same.

    Axes that the baseline's values decide in this sweep, as a learning rate that goes with the cell, need not be the
    same.

    Args:
        settings: of `aggregate`.
        baseline: {axis: value}.

    Returns:
        (setting, baseline), in the order of the settings, and the settings that have no baseline.
    """
    free = _free_axes(settings, list(baseline))
    others = {r.key(free): r for r in settings if all(same(r.axes[path], v) for path, v in baseline.items())}
    candidates = [(result, others.get(result.key(free))) for result in settings]
    pairs = [(result, other) for result, other in candidates if other is not None and other is not result]
    return pairs, [result for result, other in candidates if other is None]


@dataclass(frozen=True)
class Comparison:
    """The values of a setting beside those of its baseline, by seed."""

    result: Result
    baseline: Result
    contrast: Mean
    """Over the seeds of which both have a value: on a scale of logarithms the ratio setting / baseline, else the
    difference setting - baseline."""
    p: float | None
    """See `paired_test`; of the logarithms where the scale is one of them."""
    adjusted: float | None
    """p corrected by Holm, over all that were tested."""


def compare(pairs: Sequence[tuple[Result, Result]], scale: Scale) -> list[Comparison]:
    """The values of settings and their baselines (`partners`), over the runs that have one."""
    tested: list[tuple[Result, Result, Mean, float | None]] = []
    for result, other in pairs:
        seeds = [seed for seed in result.values if seed in other.values]
        contrasts = [scale.contrast(result.values[seed], other.values[seed]) for seed in seeds]
        mean = mean_interval(contrasts)
        if scale.logarithms:
            with np.errstate(over="ignore"):
                value, low, high = np.exp([mean.value, mean.low, mean.high]).tolist()
            mean = Mean(value, low, high, mean.count)
        tested.append((result, other, mean, paired_test(contrasts)))
    adjusted = iter(holm([p for *_, p in tested if p is not None]))
    return [
        Comparison(result, other, mean, p, None if p is None else next(adjusted)) for result, other, mean, p in tested
    ]


@dataclass(frozen=True)
class Shares:
    """How many runs of a setting and of its baseline came to something."""

    result: Result
    baseline: Result
    count: int
    of: int
    baseline_count: int
    baseline_of: int
    p: float
    """See `exact_test`."""
    adjusted: float
    """p corrected by Holm, over all comparisons."""


def compare_shares(pairs: Sequence[tuple[Result, Result]], counted: Callable[[Result], int]) -> list[Shares]:
    """How many of all runs are `counted`, in settings and in their baselines (`partners`)."""
    counts = [(counted(a), len(a.rows), counted(b), len(b.rows)) for a, b in pairs]
    p_values = [exact_test(*each) for each in counts]
    return [
        Shares(*pair, *each, p, adjusted)
        for pair, each, p, adjusted in zip(pairs, counts, p_values, holm(p_values), strict=True)
    ]


def _free_axes(settings: Sequence[Result], named: Sequence[str]) -> list[str]:
    """The axes whose values the named ones do not decide."""
    axes = [axis for axis in (settings[0].axes if settings else ()) if axis not in named]
    pairs = {axis: {result.key([*named, axis]) for result in settings} for axis in axes}
    deciding = len({result.key(named) for result in settings})
    return [axis for axis in axes if len(pairs[axis]) > deciding]
