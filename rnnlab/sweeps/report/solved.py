"""The figure of how many runs of a sweep solved their task, over a number that the settings differ in."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rnnlab.plots import sweep as plots
from rnnlab.plots.blocks import Picture
from rnnlab.sweeps.report.figures import View, goes_with, is_number
from rnnlab.sweeps.report.words import goals
from rnnlab.sweeps.statistics import LEVEL, Result, median_reached, share_interval


def draw_solved(view: View, folder: Path) -> list[Picture]:
    """The share of runs that solved the task over a number of it, or over another that was swept, a line for each
    combination of the other axes, and what a publication claims; none where the task names no goal, or nothing has two
    numbers."""
    reached = goals([row for result in view.settings for row in result.rows])
    across = _across(view)
    if not reached or across is None:
        return []
    by, pooled = _beside(view, across)
    lines = [
        plots.Solved(label, colour, *_shares(results, across))
        for colour, (label, results) in enumerate(_parts(view, by).items())
    ]
    if all(len(line.x) < 2 for line in lines):
        return []
    claims = [plots.Claim(claim["value"], claim["says"]) for claim in view.claims if claim["axis"] == across]
    words = f"The share of runs that came to a validation {' or '.join(reached)}, by {view.labels[across]}, with its "
    words += f"{100 * LEVEL:.0f} % interval (Clopper and Pearson)."
    if pooled:
        words += f" Runs of all values of {', '.join(view.labels[path] for path in pooled)} are counted together."
    if claims:
        words += f" Broken lines are claims: {'; '.join(f'{claim.text} ({claim.value:g})' for claim in claims)}."
    path = folder / f"solved_{view.labels[across]}.png"
    return [Picture(plots.solved(lines, view.labels[across], claims, path), words)]


def _across(view: View) -> str | None:
    """The axis of numbers that the share is drawn over: one with a claim, else one of the task's, else that with the
    most values; None where there is none."""
    numbers = [path for path in view.axes if path not in view.group and all(is_number(v) for v in view.values(path))]
    claimed = {claim["axis"] for claim in view.claims}

    def rank(path: str) -> tuple[bool, bool, int]:
        return path in claimed, path.startswith("task."), len(view.values(path))

    return max(numbers, key=rank, default=None)


def _beside(view: View, across: str) -> tuple[list[str], list[str]]:
    """The axes that have a line for each combination of their values, and those whose runs are counted together."""
    others = [path for path in view.axes if path != across and not goes_with(view, path, across)]
    by = view.group or others
    while len(_parts(view, by)) > plots.LINES:
        by = by[:-1]
    return by, [path for path in others if path not in by]


def _parts(view: View, by: Sequence[str]) -> dict[str, list[Result]]:
    """The settings of each combination of values, by its name."""
    parts: dict[str, list[Result]] = {}
    for result in view.settings:
        rest = [path for path in view.axes if path not in by]
        parts.setdefault(view.description(result, leave_out=rest), []).append(result)
    return parts


def _shares(results: Sequence[Result], across: str) -> tuple[list[float], list[tuple[float, float, float]]]:
    """The values of the axis in order, and at each the share of runs that solved the task with its interval."""
    rows: dict[float, list[Mapping[str, Any]]] = {}
    for result in results:
        rows.setdefault(float(result.axes[across]), []).extend(result.rows)
    counts = {x: (median_reached(there, "convergence.steps")[0], len(there)) for x, there in sorted(rows.items())}
    return list(counts), [(count / of, *share_interval(count, of)) for count, of in counts.values()]
