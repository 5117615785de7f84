"""Says what the study found, in sentences with their numbers and figures: the first screen of docs/study.md."""

import dataclasses
import itertools
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from rnnlab.files.markdown import markdown_table
from rnnlab.sweeps.spec.question import larger_is_better
from scripts.study.comparison import (
    PLATEAU,
    Numbers,
    average_ranks,
    compared,
    foretold,
    has_threshold,
    median_words,
    on_plateau,
)
from scripts.study.cure_table import BETTER, FEW_RATES, SOONER, shown_better, shown_sooner
from scripts.study.cures import CURE_TASKS, CURES
from scripts.study.figures import draw_cures, draw_growth, draw_prediction, draw_ranks
from scripts.study.protocol import CELLS, TASKS
from scripts.study.relations import Family, common_slope, families_of, growth, lengths_by_method


@dataclasses.dataclass(frozen=True)
class Figures:
    """Where figures are written, and how a page shows them."""

    folder: Path
    page: Path

    def shown(self, draw: Callable[[Path], Path], name: str, words: str) -> list[str]:
        """Draws a figure; the lines that show it."""
        path = draw(self.folder / f"{name}.png")
        link = Path(os.path.relpath(path, self.page.parent)).as_posix()
        return [f"![{words}]({link})", ""]


# --- cells -----------------------------------------------------------------------------------------------------------

FEWEST = 12
"""So many cells must have run on a task for it to count in the mean ranks, which leave out those without threshold."""


def _cells(by_task: Mapping[str, Mapping[str, Numbers]], figures: Figures) -> list[str]:
    lines = ["## Which cell for which kind of memory", "", *_overview(by_task)]
    for task, of in by_task.items():
        so_far = "" if len(of) >= len(CELLS) else f"; {len(of)} of the {len(CELLS)} cells so far"
        lines.append(f"- **{task.replace('_', ' ')}** ({TASKS[task].memory}{so_far}): {_winners(task, of)}.")
    lines += ["", *_prediction(by_task), ""]
    complete = {task: of for task, of in by_task.items() if len(of) >= FEWEST and has_threshold(task)}
    ranks = average_ranks(complete)
    if len(complete) > 1 and len(ranks.means) > 2:
        words = ", ".join(f"{method} {rank:.1f}" for method, rank in ranks.means.items())
        pairs = itertools.combinations(ranks.means.items(), 2)
        apart = [f"{a} and {b}" for (a, of_a), (b, of_b) in pairs if abs(of_a - of_b) >= ranks.critical]
        lines += [
            f"Mean ranks of {len(ranks.means)} cells over {len(complete)} tasks, by share solved, then by the median "
            f"error: {words}. That all cells are alike has p = {ranks.p:.2g} (Friedman). Ranks that differ by "
            f"{ranks.critical:.2f} or more are shown to differ (Nemenyi, 5 %): {', '.join(apart) or 'none'}. The cells "
            "with chrono were told the task's longest dependency.",
            "",
        ]
        lines += figures.shown(
            lambda path: draw_ranks(ranks.means, ranks.critical, path), "ranks", "Mean ranks of the cells"
        )
    return lines


def _overview(by_task: Mapping[str, Mapping[str, Numbers]]) -> list[str]:
    """A table of who solves what."""
    methods = list(dict.fromkeys(method for of in by_task.values() for method in of))
    shares = {
        m: [of[m].solved / of[m].count for task, of in by_task.items() if m in of and has_threshold(task)] or [0.0]
        for m in methods
    }
    rows = []
    for method in sorted(methods, key=lambda method: -sum(shares[method]) / len(shares[method])):
        rows.append([method, *(_solved_at(of[method], of) if method in of else "" for of in by_task.values())])
    head = ["cell", *(task.replace("_", " ") for task in by_task)]
    plateau = any(on_plateau(n) for of in by_task.values() for n in of.values())
    return [
        "The median step at which a cell solves a task, where all of its seeds do; else how many of them do. Where no "
        "cell solves a task, or the study has no threshold for it: its mean metric on the test split. Cells are in the "
        "order of the mean share solved over the tasks that they have run on; an empty field has not run."
        + (
            f" “{PLATEAU}”: a rate that was pruned at the first rung was within 1 % of one that went on: little told "
            "them apart, and it may solve the task."
            if plateau
            else ""
        ),
        "",
        markdown_table(head, rows),
    ]


def _solved_at(n: Numbers, of: Mapping[str, Numbers]) -> str:
    if not any(other.solved for other in of.values()):
        return f"{n.mean.value:.3g}"
    if n.solved == n.count:
        return f"{n.steps[0]:.0f}"
    return f"{n.solved} of {n.count}" if n.solved else f"none{PLATEAU}" if on_plateau(n) else "none"


def steps_of(of: Mapping[str, Numbers]) -> int:
    """The steps of a task's runs."""
    return max(int(n.entry["config"]["steps"]) for n in of.values())


def _winners(task: str, of: Mapping[str, Numbers]) -> str:
    """Who solved a task, and how fast; of one that none solves, who is best."""
    always = sorted((n for n in of.values() if n.solved == n.count), key=lambda n: n.steps[0])
    sometimes = sorted((n for n in of.values() if 0 < n.solved < n.count), key=lambda n: -n.solved)
    never = [name for name, n in of.items() if n.solved == 0]
    if not always and not sometimes:
        sign = -1 if next(iter(of.values())).entry["metric"] in larger_is_better() else 1
        best = sorted(of.values(), key=lambda n: sign * n.mean.value)[:3]
        each = (f"{n.entry['method']} {n.mean.value:.3g} ({n.mean.low:.3g} to {n.mean.high:.3g})" for n in best)
        metric = best[0].entry["metric"]
        none = f"none solves it within {steps_of(of)} steps; " if TASKS[task].threshold else ""
        return f"{none}the best {metric} is that of {', '.join(each)}"
    words = []
    if always:
        first = ", ".join(f"{n.entry['method']} ({median_words(n)} steps)" for n in always[:3])
        more = ", ".join(n.entry["method"] for n in always[3:])
        words.append(f"every seed solves it with {first}" + (f", then {more}" if more else ""))
    if sometimes:
        words.append(
            "some seeds with " + ", ".join(f"{n.entry['method']} ({n.solved} of {n.count})" for n in sometimes)
        )
    if never:
        words.append(f"no seed within {steps_of(of)} steps with {', '.join(never)}")
    return "; ".join(words)


def _prediction(by_task: Mapping[str, Mapping[str, Numbers]]) -> list[str]:
    """Whether the gradient before training says who solves a task."""
    words = [f"{task.replace('_', ' ')} {of.words()}, {of.count} cells" for task, of in foretold(by_task).items()]
    if not words:
        return []
    return [
        "How much the gradient fades or grows a step before training, beside the step at which a cell solves the task, "
        f"Spearman's ρ, above 0 where less change goes with sooner: {'; '.join(words)}. p is by permutations and by "
        "Holm's correction over the tasks, the interval is without that correction, and is left out where more than "
        "half of the cells are equal. Cells of one family, as asrnn and exprnn, begin alike and are not independent.",
    ]


# --- cures -----------------------------------------------------------------------------------------------------------


def _cures(by_task: Mapping[str, Mapping[str, Numbers]], figures: Figures) -> list[str]:
    by_task = {task: of for task, of in by_task.items() if compared("cures", of)}
    if not by_task:
        return []
    lines = ["## Which cure helps whom", ""]
    for task, of in by_task.items():
        lines += [f"- **{task.replace('_', ' ')}** ({CURE_TASKS[task].memory}). {_helped(task, of)}"]
    lines += [
        "",
        "Behind each: its error over that of the same cell without it, below 1 where it is smaller, with its interval. "
        f"“{FEW_RATES}”: the cure has no strength, and so five settings where "
        "the cell without it has twenty. In the figure: points are seeds, bars the intervals without correction, blue "
        "what is shown by the corrected tests.",
        "",
    ]
    lines += figures.shown(lambda path: draw_cures(by_task, path), "cures", "The test error with each cure")
    return lines


def _helped(task: str, of: Mapping[str, Numbers]) -> str:
    """Says what each cure is shown to do by the corrected tests, and for how many nothing is shown."""
    every = compared("cures", of)
    words = []
    for sign in (1, -1):
        words.append(f"{BETTER[sign]}: {'; '.join(shown_better(every, sign)) or 'none'}.")
    for sign in (1, -1):
        if sure := shown_sooner(every, sign):
            words.append(f"{SOONER[sign]}: {'; '.join(sure)}.")
    unsure = sum(not c.shown and not c.faster for *_, c in every)
    words.append(f"Nothing shown: {unsure} of {len(every)} pairs.")
    meant = {name for name, cure in CURES.items() if cure.meant_for == task}
    here = [name for name in dict.fromkeys(n.entry["method"].partition("+")[2] for n, *_ in every) if name in meant]
    return " ".join(words) + (f" Run so far of those meant for this task: {', '.join(here)}." if here else "")


# --- initialisation and lengths --------------------------------------------------------------------------------------


def _initialisation(by_task: Mapping[str, Mapping[str, Numbers]], figures: Figures) -> list[str]:
    every = [n for of in by_task.values() for n in of.values()]
    families = families_of(every)
    if not families:
        return []
    common = common_slope(families)
    lines = ["## The gradient before training, and the time to solve", ""]
    lines += [f"- **{family.replace('_', ' ')}**: {_foretold(of)}." for family, of in families.items()]
    if common is not None:
        exceptions = f" Exceptions: {', '.join(common.exceptions)}." if common.exceptions else ""
        slope = f"{common.slope.value:.2g} ({common.slope.low:.2g} to {common.slope.high:.2g})"
        lines += [
            "",
            f"One slope for all {common.slope.count} that are solved, a line for each family: log10 of the steps grows "
            f"by {slope} for each decade of gradient that is lost or grown (R² within families "
            f"{common.r_squared:.2f}).{exceptions}",
        ]
    lines += [""]
    budget = max(int(n.entry["config"]["steps"]) for n in every)
    lines += figures.shown(
        lambda path: draw_prediction(families, common, budget, path),
        "initialisation",
        "The time to solve, and the test error, beside the gradient before training",
    )
    lines += ["In the left panel each family stands 5 % above the one before it, so that equal steps differ.", ""]
    return lines


def _foretold(of: Family) -> str:
    words = [f"{of.done.sum()} of {len(of.steps)} are solved by most seeds"]
    if each := of.says():
        words.append(f"Spearman's ρ of |log10 of what is left of the gradient after T steps| is {each}")
        signed = " and ".join(f"{rho:.2f} with the {name}" for name, rho in of.signed.items())
        words.append(f"without the bars, so that a gradient that grows is more than one that stays, it is {signed}")
    return "; ".join(words)


def _lengths(by_task: Mapping[str, Mapping[str, Numbers]], figures: Figures) -> list[str]:
    by_method = lengths_by_method(by_task)
    if not by_method:
        return []
    fits = {method: growth(by_length) for method, by_length in by_method.items()}
    lines = ["## How the time to solve grows with the length", ""]
    for method, fit in fits.items():
        exponent, at = fit.exponent, ", ".join(map(str, fit.lengths))
        sentence = f"every seed solves T = {at}" if fit.lengths else "no length is solved by every seed"
        if math.isfinite(exponent.value):
            sentence += (
                f"; steps grow as T to the power {exponent.value:.2f} ({exponent.low:.2f} to {exponent.high:.2f}, "
                f"{exponent.count} lengths)"
            )
        if fit.unsolved:
            sentence += f"; not T = {', '.join(map(str, fit.unsolved))}"
        lines.append(f"- **{method}**: {sentence}.")
    lines += [
        "",
        *figures.shown(lambda path: draw_growth(by_method, fits, path), "lengths", "The time to solve by length"),
    ]
    return lines


FINDINGS: dict[str, Callable[[Mapping[str, Mapping[str, Numbers]], Figures], list[str]]] = {
    "cells": _cells,
    "cures": _cures,
    "initialisation": _initialisation,
    "lengths": _lengths,
}
"""The lines of each part, from its entries by task and method."""
