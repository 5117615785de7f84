"""The table of docs/mitigations.md: every technique, what it does, and what the study found of it."""

import math
from collections.abc import Mapping, Sequence

from rnnlab.files.markdown import markdown_table
from scripts.study.comparison import Comparison, Numbers, compared, error_ratio, median_words
from scripts.study.cures import APART, CURE_TASKS, CURES, Cure

NOTHING = ("–", "not run")


FEW_RATES = "five rates"
"""Stands behind a cure that was tuned over fewer settings than the cell without it."""


def cure_of(n: Numbers) -> str:
    """An entry in words: "chrono with lstm"."""
    cell, _, cure = n.entry["method"].partition("+")
    few = cure in CURES and len(CURES[cure].strengths) == 1
    return f"{cure.replace('_', ' ')} with {cell}" + (f" [{FEW_RATES}]" if few else "")


def effect(n: Numbers, base: Numbers) -> str:
    """The error over that without, with its interval; runs that were lost, and seeds that solve the task."""
    ratio = error_ratio(n, base)
    words = [f"{ratio.value:.3g} ({ratio.low:.3g} to {ratio.high:.3g})"] if ratio.value > 0 else []
    if n.diverged or base.diverged:
        words.append(f"{n.diverged} of {n.count} seeds diverged, without it {base.diverged}")
    if n.solved != base.solved:
        words.append(f"solved by {n.solved} of {n.count} seeds, without it by {base.solved}")
    return ", ".join(words) or "no error at all"


def steps_effect(n: Numbers, base: Numbers) -> str:
    """The step at which each solves the task, with its interval."""
    return f"{_when(n)}, without it {_when(base)}"


def _when(n: Numbers) -> str:
    """The median step to solved; where most seeds do not, how many of them do."""
    return f"step {median_words(n)}" if math.isfinite(n.steps[0]) else f"solved by {n.solved} of {n.count}"


BETTER = {1: "Shown to be better", -1: "Shown to be worse"}
"""The words before `shown_better`."""
SOONER = {1: "Shown to solve it in fewer steps", -1: "Shown to solve it in more steps"}
"""The words before `shown_sooner`."""


def shown_better(every: Sequence[tuple[Numbers, Numbers, Comparison]], sign: int) -> list[str]:
    """The cures that are shown to be better (1) or worse (-1), by the share solved or by the error, with their effect;
    those that change most first."""
    sure = [(n, base) for n, base, comparison in every if comparison.shown == sign]
    return [f"{cure_of(n)} {effect(n, base)}" for n, base in sorted(sure, key=lambda pair: sign * _log_effect(*pair))]


def shown_sooner(every: Sequence[tuple[Numbers, Numbers, Comparison]], sign: int) -> list[str]:
    """The cures that are shown to solve a task in fewer steps (1) or in more (-1), with the steps."""
    sure = [(n, base) for n, base, comparison in every if comparison.faster == sign]
    return [
        f"{cure_of(n)} {steps_effect(n, base)}" for n, base in sorted(sure, key=lambda pair: sign * pair[0].steps[0])
    ]


def _log_effect(n: Numbers, base: Numbers) -> float:
    ratio = error_ratio(n, base).value
    return math.log(ratio) if ratio > 0 else -math.inf


def cure_tables(by_task: Mapping[str, Mapping[str, Numbers]]) -> str:
    """The table of the cures with what each did on each task, those with results first, and the table of those that the
    study leaves out.

    Args:
        by_task: the entries of the cures, by task and method.
    """
    found = {
        task: {n.entry["method"]: (n, b, c) for n, b, c in compared("cures", by_task.get(task, {}))}
        for task in CURE_TASKS
    }
    head = ["cure", "against", "what it does", *(task.replace("_", " ") for task in CURE_TASKS)]
    rows = [
        [
            _title(name, cure),
            cure.against,
            cure.formula,
            *(_found(name, cure, task, found[task]) for task in CURE_TASKS),
        ]
        for name, cure in CURES.items()
    ]
    rows.sort(key=lambda row: all(cell in NOTHING for cell in row[3:]))
    apart = [[f"{name}<br>`{one.line}`", one.against, one.formula, one.why] for name, one in APART.items()]
    return "\n".join(
        [
            _table(head, rows),
            "Not in the study:",
            "",
            _table(["technique", "against", "what it does", "why not"], apart),
        ]
    )


def _title(name: str, cure: Cure) -> str:
    values = ", ".join(map(value_words, cure.strengths))
    more = "".join(f"<br>`{path}={value}`" for path, value in cure.more.items())
    return f"{name.replace('_', ' ')}<br>`{cure.path}` {values}{more}"


def value_words(strength: object) -> str:
    """A strength, for people."""
    if isinstance(strength, Mapping):
        return ", ".join(map(str, strength.values()))
    return f"{strength:g}" if isinstance(strength, float) else str(strength)


def _found(name: str, cure: Cure, task: str, found: Mapping[str, tuple[Numbers, Numbers, Comparison]]) -> str:
    """The effect of a cure on a task, cell by cell."""
    if task not in cure.tasks:
        return NOTHING[1]
    lines = []
    for cell in cure.cells:
        if (one := found.get(f"{cell}+{name}")) is None:
            continue
        n, base, comparison = one
        words = effect(n, base)
        line = f"{cell} **{words}**" if comparison.shown else f"{cell} {words}"
        if comparison.faster:
            line += f", **{steps_effect(n, base)}**"
        lines.append(line)
    return "<br>".join(lines) or NOTHING[0]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return markdown_table(head, [[cell.replace("|", "\\|") for cell in row] for row in rows])
