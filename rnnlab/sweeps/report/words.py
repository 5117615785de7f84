"""How a report writes numbers, intervals, p values and runs."""

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

from rnnlab.sweeps.statistics import Mean


def number_text(value: float, sign: str = "") -> str:
    """Four digits, – for a number that is not finite."""
    return f"{value:{sign}.4g}" if math.isfinite(value) else "–"


def interval_text(mean: Mean) -> str:
    """ "0.1 to 0.2", – where there is none."""
    return f"{number_text(mean.low)} to {number_text(mean.high)}" if math.isfinite(mean.low) else "–"


def mean_text(mean: Mean) -> str:
    """A mean with its interval, if it has one."""
    text = number_text(mean.value)
    return f"{text}, 95 % interval {interval_text(mean)}" if math.isfinite(mean.low) else text


def p_text(p: float) -> str:
    """Two digits."""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def goals(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The goals of runs that count as solved, for people: "loss of 0.01"; rows: of `table.make_rows`."""
    named = {(r["convergence.metric"], r["convergence.threshold"]) for r in rows if r.get("convergence.metric")}
    return [f"{metric} of {threshold:g}" for metric, threshold in sorted(named)]


def run_ranges(names: Iterable[str]) -> str:
    """ "0001, 0004–0007"."""
    numbers = sorted(int(name) for name in names)
    parts = []
    for _, run in itertools.groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        runs = [n for _, n in run]
        ends = f"{runs[0]:04}", f"{runs[-1]:04}"
        parts.append(ends[0] if len(runs) == 1 else f"{ends[0]}, {ends[1]}" if len(runs) == 2 else "–".join(ends))
    return ", ".join(parts)
