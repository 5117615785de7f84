"""The first lines of docs/study.md: what was found of each part, a sentence or two with numbers and intervals."""

import math
from collections.abc import Callable, Mapping

from rnnlab.files.markdown import markdown_table
from rnnlab.sweeps.spec.question import larger_is_better
from rnnlab.sweeps.statistics import holm
from scripts.study.comparison import Numbers, compared, error_ratio, foretold, has_threshold, median_words
from scripts.study.cure_table import cure_of, effect
from scripts.study.protocol import TASKS
from scripts.study.relations import common_slope, families_of, growth, lengths_by_method

ByTask = Mapping[str, Mapping[str, Numbers]]
"""The entries of a part, by task and method."""
MOST = 3
"""So many of those that help or hurt are named."""


def in_short(parts: Mapping[str, ByTask], fewest: int) -> list[str]:
    """The lines of each part that has something to say.

    Args:
        parts: the entries of each.
        fewest: cells that must have run on a task for it to be spoken of.
    """
    lines = (say({task: of for task, of in parts.get(part, {}).items() if of}, fewest) for part, say in _LINES.items())
    return [line for line in lines if line]


def _named(task: str) -> str:
    return task.replace("_", " ")


def _cells(by_task: ByTask, fewest: int) -> str:
    """Who solves each task with every seed, in the fewest steps; on images and series who is best on the test split."""
    rows = []
    for task, of in by_task.items():
        if len(of) < fewest:
            continue
        metric = next(iter(of.values())).entry["metric"]
        if metric in larger_is_better():
            best = sorted(of.values(), key=lambda n: -n.mean.value)[:MOST]
            first = [f"{n.entry['method']} {n.mean.value:.3f} ({n.mean.low:.3f} to {n.mean.high:.3f})" for n in best]
        else:
            always = sorted((n for n in of.values() if n.solved == n.count), key=lambda n: n.steps[0])
            first = [f"{n.entry['method']} {median_words(n)}" for n in always[:MOST]]
        counts = ["–", "–"]
        if has_threshold(task):
            shares = [n.solved / n.count for n in of.values()]
            counts = [f"{shares.count(share)} of {len(of)}" for share in (1.0, 0.0)]
        rows.append([f"{TASKS[task].memory} ({_named(task)})", ", ".join(first) or "none", *counts])
    if not rows:
        return ""
    words = "The first cells that solve a task with every seed, and the median step at which they do; of images and "
    words += "series those with the best test accuracy. “Every seed”, “no seed”: so many cells solve it.\n\n"
    return words + markdown_table(["memory", "first cells", "every seed", "no seed"], rows)


def _cures(by_task: ByTask, fewest: int) -> str:
    lines = []
    for task, of in by_task.items():
        every = compared("cures", of)
        if not every:
            continue
        each, unsure = [], sum(not c.shown for _, _, c in every)
        for verb, sign in (("help", 1), ("hurt", -1)):
            sure = [(n, b) for n, b, c in every if c.shown == sign]
            sure.sort(key=lambda pair: sign * _log_effect(*pair))
            first = "; ".join(f"{cure_of(n)} {effect(n, b)}" for n, b in sure[:MOST])
            more = f"; and {len(sure) - MOST} more" if len(sure) > MOST else ""
            each.append(f"Shown to {verb}: {first or 'none'}{more}.")
        lines.append(f"    - {_named(task)}. {' '.join(each)} Not shown to do either: {unsure} of {len(every)} pairs.")
    if not lines:
        return ""
    return "\n".join(["- **Cures**, the test error with one over that without:", *lines])


def _log_effect(n: Numbers, base: Numbers) -> float:
    ratio = error_ratio(n, base).value
    return math.log(ratio) if ratio > 0 else -math.inf


def _before(by_task: ByTask, fewest: int) -> str:
    """Whether the gradient before training says which cell solves each task sooner."""
    each = foretold({task: of for task, of in by_task.items() if len(of) >= fewest})
    if not each:
        return ""
    sure = [f"{_named(task)} (ρ = {of.words()})" for task, of in each.items() if of.p < 0.05]
    rest = ", ".join(f"{_named(task)} {of.rho:.2f} (p = {of.p:.2g})" for task, of in each.items() if of.p >= 0.05)
    words = "- **Before training.** How much a cell's untrained gradient fades or grows a step is "
    if sure:
        words += f"shown to go with how soon it solves {', '.join(sure)}; nothing is shown on the other tasks"
    else:
        words += f"not shown to go with how soon it solves any of {len(each)} tasks"
    return words + (f": Spearman's ρ {rest}." if rest else ".")


def _initialisation(by_task: ByTask, fewest: int) -> str:
    families = families_of([n for of in by_task.values() for n in of.values()])
    each: list[str] = []
    ps: list[float] = []
    for what in ("time to solve", "test error"):
        correlated = {name: family.known[what] for name, family in families.items() if what in family.known}
        if correlated:
            words = ", ".join(f"{one.rho:.2f} ({_named(name)})" for name, one in correlated.items())
            each.append(f"{what} {words}")
            ps += [one.p for one in correlated.values()]
    if not each:
        return ""
    shown = "is" if min(holm(ps)) < 0.05 else "is not shown to be"
    words = (
        f"- **Initialisation.** How far the gradient fades or grows over T steps before training {shown} related to "
    )
    words += "the time to solve or the error, within families of one cell and one number. Spearman's ρ: "
    words += f"{'; '.join(each)}; the least p, uncorrected, is {min(ps):.2g}."
    common = common_slope(families)
    if common is None:
        return words
    slope = common.slope
    words += f" Each decade multiplies the steps to solved by {10**slope.value:.2f} ({10**slope.low:.2f} to "
    return words + f"{10**slope.high:.2f}), R² within families {common.r_squared:.2f}."


def _lengths(by_task: ByTask, fewest: int) -> str:
    exponents = {method: growth(by_length).exponent for method, by_length in lengths_by_method(by_task).items()}
    each = [f"{m} {e.value:.2f} ({e.low:.2f} to {e.high:.2f})" for m, e in exponents.items() if math.isfinite(e.value)]
    return f"- **Lengths.** Steps to solve grow with T to the power of: {', '.join(each)}." if each else ""


_LINES: dict[str, Callable[[ByTask, int], str]] = {
    "cells": lambda by_task, fewest: "\n".join(filter(None, (_cells(by_task, fewest), _before(by_task, fewest)))),
    "cures": _cures,
    "initialisation": _initialisation,
    "lengths": _lengths,
}
"""What is said of each part."""
