"""The first lines of docs/study.md: what was found of each part, a sentence or two with numbers and intervals."""

from collections.abc import Callable, Mapping

from rnnlab.files.markdown import markdown_table
from rnnlab.sweeps.spec.question import larger_is_better
from rnnlab.sweeps.statistics import holm
from scripts.study.comparison import Numbers, compared, foretold, has_threshold, median_words
from scripts.study.cure_table import BETTER, SOONER, shown_better, shown_sooner
from scripts.study.protocol import BASELINE, TASKS
from scripts.study.relations import common_slope, families_of, growth, lengths_by_method

ByTask = Mapping[str, Mapping[str, Numbers]]
"""The entries of a part, by task and method."""
MOST, MOST_CURES = 3, 8
"""So many cells, and cures, are named."""


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
        counts = ["–", "–"]
        if has_threshold(task):
            shares = [n.solved / n.count for n in of.values()]
            counts = [f"{shares.count(share)} of {len(of)}" for share in (1.0, 0.0)]
        within = f"{TASKS[task].steps} steps"
        rows.append([f"{TASKS[task].memory} ({_named(task)})", _first(task, of), *counts, within])
    if not rows:
        return ""
    words = (
        "The first cells that solve a task with every seed, and the median step at which they do (“≤”: at the first "
    )
    words += "evaluation); of images and series those with the best test accuracy. The columns after them count the "
    words += "cells that solve it with all, and with none, of their 8 seeds within its steps.\n\n"
    return words + markdown_table(["memory", "first cells", "every seed", "no seed", "within"], rows)


def _first(task: str, of: Mapping[str, Numbers]) -> str:
    """The cells that are first on a task, in words."""
    metric = next(iter(of.values())).entry["metric"]
    if metric in larger_is_better():
        best = sorted(of.values(), key=lambda n: -n.mean.value)[:MOST]
        each = [f"{n.entry['method']} {n.mean.value:.3f} ({n.mean.low:.3f} to {n.mean.high:.3f})" for n in best]
        better = [n for n, _, comparison in compared("cells", of) if comparison.shown == 1]
        apart = (
            f"{len(better)} shown to be better than the {BASELINE}"
            if better
            else f"none shown to be better than the {BASELINE}"
        )
        return f"{', '.join(each)}; {apart}"
    always = sorted((n for n in of.values() if n.solved == n.count), key=lambda n: n.steps[0])
    named = [n for n in always if n.steps[0] <= always[min(MOST, len(always)) - 1].steps[0]]
    return ", ".join(f"{n.entry['method']} {_at_most(n)}{median_words(n)}" for n in named) or "none"


def _at_most(n: Numbers) -> str:
    """ "≤ " where the median is the first evaluation: it may have been solved before."""
    return "≤ " if n.steps[0] <= n.entry["config"].get("eval_every", 0) else ""


def _cures(by_task: ByTask, fewest: int) -> str:
    lines = []
    for task, of in by_task.items():
        every = compared("cures", of)
        if not every:
            continue
        each = [f"{BETTER[sign]}: {_some(shown_better(every, sign))}." for sign in (1, -1)]
        each += [f"{SOONER[sign]}: {_some(sure)}." for sign in (1, -1) if (sure := shown_sooner(every, sign))]
        unsure = sum(not c.shown and not c.faster for *_, c in every)
        lines.append(f"    - {_named(task)}. {' '.join(each)} Nothing shown: {unsure} of {len(every)} pairs.")
    if not lines:
        return ""
    words = "- **Cures.** The test error with a cure over that of the same cell without it; below 1 is better:"
    return "\n".join([words, *lines])


def _some(each: list[str]) -> str:
    """The first of them, and how many more there are."""
    more = [f"and {len(each) - MOST_CURES} more"] if len(each) > MOST_CURES else []
    return "; ".join([*each[:MOST_CURES], *more]) or "none"


def _before(by_task: ByTask, fewest: int) -> str:
    """Whether the gradient before training says which cell solves each task sooner."""
    each = foretold({task: of for task, of in by_task.items() if len(of) >= fewest})
    if not each:
        return ""
    sure = [
        f"{_named(task)}, sooner where it changes {'less' if of.rho > 0 else 'more'} (ρ = {of.words()})"
        for task, of in each.items()
        if of.p < 0.05
    ]
    rest = ", ".join(f"{_named(task)} {of.rho:.2f} (p = {of.p:.2g})" for task, of in each.items() if of.p >= 0.05)
    words = "- **Before training.** How much a cell's untrained gradient changes per time step is "
    if sure:
        words += f"shown to go with how soon it solves {'; '.join(sure)}; nothing is shown on the other tasks"
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
    lengths = " and ".join(task.rpartition("_")[2] for task, of in by_task.items() if of)
    words = f"- **Initialisation.** How far the untrained gradient fades or grows over T = {lengths} steps {shown} "
    words += "related to the time to solve or the error, within families of one cell and one number. Spearman's ρ: "
    words += f"{'; '.join(each)}; the least p, uncorrected, is {min(ps):.2g}."
    common = common_slope(families)
    if common is None:
        return words
    slope = common.slope
    words += f" Each decade multiplies the steps to solved by {10**slope.value:.2f} ({10**slope.low:.2f} to "
    return words + f"{10**slope.high:.2f}), R² within families {common.r_squared:.2f}."


def _lengths(by_task: ByTask, fewest: int) -> str:
    fits = {method: growth(by_length) for method, by_length in lengths_by_method(by_task).items()}
    each = []
    for method, of in fits.items():
        if len(of.lengths) >= 3:
            interval = f"{of.exponent.low:.2f} to {of.exponent.high:.2f}"
            each.append(f"{method} {of.exponent.value:.2f} ({interval}; up to T = {of.lengths[-1]})")
    if not each:
        return ""
    words = f"- **Lengths.** The steps that solve the adding problem grow with T to the power of: {', '.join(each)}."
    return words + (" Those with chrono are told T." if "chrono" in words else "")


_LINES: dict[str, Callable[[ByTask, int], str]] = {
    "cells": lambda by_task, fewest: "\n".join(filter(None, (_cells(by_task, fewest), _before(by_task, fewest)))),
    "cures": _cures,
    "initialisation": _initialisation,
    "lengths": _lengths,
}
"""What is said of each part."""
