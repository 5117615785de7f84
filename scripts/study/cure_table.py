"""The table of docs/mitigations.md: every technique, what it does, and what the study found of it."""

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
    """The error over that without, with its interval; runs that were lost, seeds that solve it, and steps to solved
    where their intervals do not overlap."""
    ratio = error_ratio(n, base)
    words = [f"{ratio.value:.3g} ({ratio.low:.3g} to {ratio.high:.3g})"] if ratio.value > 0 else []
    if n.diverged or base.diverged:
        words.append(f"{n.diverged} of {n.count} diverged and without it {base.diverged}")
    if n.solved != base.solved:
        words.append(f"{n.solved} of {n.count} solved and without it {base.solved}")
    elif n.steps[2] < base.steps[1] or base.steps[2] < n.steps[1]:
        words.append(f"at step {median_words(n)} and without it {median_words(base)}")
    return ", ".join(words) or "no error at all"


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
    values = ", ".join(map(_value, cure.strengths))
    more = "".join(f"<br>`{path}={value}`" for path, value in cure.more.items())
    return f"{name.replace('_', ' ')}<br>`{cure.path}` {values}{more}"


def _value(strength: object) -> str:
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
        sure = comparison.shown or comparison.faster
        lines.append(f"{cell} **{words}**" if sure else f"{cell} {words}")
    return "<br>".join(lines) or NOTHING[0]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return markdown_table(head, [[cell.replace("|", "\\|") for cell in row] for row in rows])
