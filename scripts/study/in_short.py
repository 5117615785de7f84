"""The first lines of docs/study.md: what was found of each part, a sentence or two with numbers and intervals."""

import math
from collections.abc import Callable, Mapping

from scripts.study.comparison import Numbers, compared, error_ratio, foretold, median_words
from scripts.study.cure_table import cure_of, effect
from scripts.study.protocol import TASKS
from scripts.study.relations import growth, lengths_by_method, predict

ByTask = Mapping[str, Mapping[str, Numbers]]
"""The entries of a part, by task and method."""
MOST = 3
"""So many of those that help or hurt are named."""


def in_short(parts: Mapping[str, ByTask], fewest: int) -> list[str]:
    """A line for each part that has something to say.

    Args:
        parts: the entries of each.
        fewest: cells that must have run on a task for it to be spoken of.
    """
    lines = (say({task: of for task, of in parts.get(part, {}).items() if of}, fewest) for part, say in _LINES.items())
    return [line for line in lines if line]


def _named(task: str) -> str:
    return task.replace("_", " ")


def _cells(by_task: ByTask, fewest: int) -> str:
    fastest: list[str] = []
    unsolved: list[str] = []
    solved: dict[str, int] = {}
    for task, of in by_task.items():
        if len(of) < fewest or not TASKS[task].threshold:
            continue
        always = sorted((n for n in of.values() if n.solved == n.count), key=lambda n: n.steps[0])
        for n in always:
            solved[n.entry["method"]] = solved.get(n.entry["method"], 0) + 1
        first = [n for n in always if n.steps[0] == always[0].steps[0]]
        if first:
            names = ", ".join(n.entry["method"] for n in first)
            fastest.append(f"{_named(task)} by {names} at step {median_words(first[0])}")
        else:
            unsolved.append(_named(task))
    if not fastest:
        return ""
    most = max(solved.values())
    names = ", ".join(name for name, count in solved.items() if count == most)
    words = f"- **Cells.** With every seed, these are the first to solve {'; '.join(fastest)}."
    words += f" With every seed, {names} solve {most} of {len(fastest) + len(unsolved)} tasks, and no cell more"
    return words + (f"; no cell solves {', '.join(unsolved)}." if unsolved else ".")


def _cures(by_task: ByTask, fewest: int) -> str:
    words = []
    for task, of in by_task.items():
        every = compared("cures", of)
        if not every:
            continue
        each = []
        for verb, sign in (("help", 1), ("hurt", -1)):
            sure = [(n, b) for n, b, c in every if c.shown == sign]
            sure.sort(key=lambda pair: sign * _log_effect(*pair))
            first = "; ".join(f"{cure_of(n)} {effect(n, b)}" for n, b in sure[:MOST])
            each.append(f"{len(sure)} shown to {verb}" + (f" ({first})" if sure else ""))
        words.append(f"On {_named(task)}, of {len(every)} tried, {' and '.join(each)}.")
    if not words:
        return ""
    return "- **Cures**, by the error with one over that without. " + " ".join(words)


def _log_effect(n: Numbers, base: Numbers) -> float:
    ratio = error_ratio(n, base).value
    return math.log(ratio) if ratio > 0 else -math.inf


def _before(by_task: ByTask, fewest: int) -> str:
    """Whether the gradient before training says which cell solves each task sooner."""
    each = foretold({task: of for task, of in by_task.items() if len(of) >= fewest})
    if not each:
        return ""
    sure = [
        f"{_named(task)} {'sooner' if of.rho > 0 else 'later'}, ρ = {of.words(f', p = {of.p:.2g}')}"
        for task, of in each.items()
        if of.p < 0.05
    ]
    words = "- **Before training.** A cell whose untrained gradient fades or grows less a step "
    if not sure:
        rest = ", ".join(f"{_named(task)} {of.words()}" for task, of in each.items())
        return words + f"is not shown to solve a task sooner or later; Spearman's ρ: {rest}."
    left = len(each) - len(sure)
    return words + f"solves {' and '.join(sure)}" + (f"; nothing is shown on {left} of the tasks." if left else ".")


def _initialisation(by_task: ByTask, fewest: int) -> str:
    whole = predict([n for of in by_task.values() for n in of.values()])
    if whole is None:
        return ""
    each = whole.says()
    if not each:
        return ""
    words = f"- **Initialisation.** Over {len(whole.names)}, Spearman's ρ of the decades that the gradient loses or "
    words += f"grows before training and {', and '.join(each)}"
    if math.isnan(whole.r_squared):
        return words + "."
    slope = whole.slope
    words += f"; of those solved, each decade multiplies the steps by {10**slope.value:.2f} "
    return words + f"({10**slope.low:.2f} to {10**slope.high:.2f}), R² = {whole.r_squared:.2f}."


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
