"""The report's section that sets a sweep beside its baseline: values by seed, and how many runs came to something."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rnnlab.plots.blocks import Block, Heading, Paragraph, Table
from rnnlab.sweeps.report.comparison import Comparison, Shares, compare, compare_shares
from rnnlab.sweeps.report.figures import View, value_text
from rnnlab.sweeps.report.words import interval_text, number_text, p_text
from rnnlab.sweeps.statistics import Result, median_reached

ALPHA = 0.05
"""A corrected p below it is called a difference."""
NOTHING = "no difference shown"


def compared(
    view: View,
    pairs: Sequence[tuple[Result, Result]],
    alone: Sequence[Result],
    baseline: Mapping[str, Any],
    goals: Sequence[str],
) -> list[Block]:
    """The section.

    Args:
        pairs: settings and their baselines; see `comparison.partners`.
        alone: the settings that have none.
        baseline: {axis: value}.
        goals: what counts as solved, for people: "loss of 0.01"; empty where the task has nothing.
    """
    named = ", ".join(f"{path}={value_text(v)}" for path, v in baseline.items())
    blocks: list[Block] = [Heading(f"Compared with {named}")]
    if pairs:
        blocks += [Paragraph("Every setting beside the one with the baseline's values and otherwise the same.")]
        blocks += _values(view, compare(pairs, view.scale))
        if goals:
            what = f"solved the task, a validation {' or '.join(goals)}"
            blocks += _shares(view, "solved", what, pairs, lambda r: median_reached(r.rows, "convergence.steps")[0])
        if any(result.lost for pair in pairs for result in pair):
            what = f"diverged, or ended without a finite {view.metric}"
            blocks += _shares(view, "diverged", what, pairs, lambda r: len(r.lost))
    if alone:
        names = "; ".join(view.description(result) for result in alone[:20]) + ("; …" if len(alone) > 20 else "")
        blocks.append(
            Paragraph(f"Without a baseline of the same other values: {len(alone)} settings: {names}.", note=True)
        )
    return blocks


def _corrected(count: int) -> str:
    counted = f"{count} comparison{'s' if count != 1 else ''}"
    return (
        f"corrected by Holm for {counted}: to call any corrected p below {ALPHA} a difference errs anywhere in the "
        f"table with probability at most {ALPHA}"
    )


def _values(view: View, comparisons: Sequence[Comparison]) -> list[Block]:
    tested = sum(each.p is not None for each in comparisons)
    contrast, of = ("ratio", " of the logarithms") if view.scale.logarithms else ("difference", "")
    words = (
        f"Values, run by run of the same seed, over the pairs of runs that both have one. 95 % interval: of the "
        f"{contrast}, Student's t{of}. p: two-sided paired t test{of}, {_corrected(tested)}. Wilcoxon's signed ranks "
        "would assume less, but their smallest p for 5 pairs is 0.06."
    )
    head = [*(view.labels[path] for path in view.axes), view.scale.mean, "baseline"]
    head += [contrast, "95 % interval", "pairs", "p", "p, Holm", ""]
    order = sorted(comparisons, key=lambda c: (math.isnan(c.contrast.value), -view.sign * c.contrast.value))
    return [Paragraph(words), Table(head, [_compared(view, each) for each in order])]


def _compared(view: View, each: Comparison) -> list[str]:
    contrast, pairs = each.contrast, each.contrast.count
    equal, sign = (1.0, "") if view.scale.logarithms else (0.0, "+")
    cells = [value_text(each.result.axes[path]) for path in view.axes]
    cells += [number_text(view.mean(result).value) for result in (each.result, each.baseline)]
    cells += [number_text(contrast.value, sign), interval_text(contrast), str(pairs)]
    if each.p is None or each.adjusted is None:
        return [*cells, "–", "–", "no pair of values" if not pairs else "one pair" if pairs == 1 else "not tested"]
    better = view.sign * (contrast.value - equal) > 0
    verdict = NOTHING if each.adjusted >= ALPHA else "better" if better else "worse"
    return [*cells, p_text(each.p), p_text(each.adjusted), verdict]


def _shares(
    view: View,
    name: str,
    what: str,
    pairs: Sequence[tuple[Result, Result]],
    counted: Callable[[Result], int],
) -> list[Block]:
    every = compare_shares(pairs, counted)
    unlike = [each for each in every if each.count * each.baseline_of != each.baseline_count * each.of]
    words = f"Runs that {what}, of all runs. p: Fisher's exact test, two-sided, {_corrected(len(every))}."
    left = len(every) - len(unlike)
    words += f" {left} settings with the same share as their baseline (p = 1) are left out." if left else ""
    head = [*(view.labels[path] for path in view.axes), name, "baseline", "p", "p, Holm", ""]
    order = sorted(unlike, key=lambda each: (each.p, each.count))
    return [Paragraph(words), *([Table(head, [_shared(view, each) for each in order])] if order else [])]


def _shared(view: View, each: Shares) -> list[str]:
    cells = [value_text(each.result.axes[path]) for path in view.axes]
    cells += [f"{each.count} of {each.of}", f"{each.baseline_count} of {each.baseline_of}"]
    more = each.count * each.baseline_of > each.baseline_count * each.of
    verdict = NOTHING if each.adjusted >= ALPHA else "more" if more else "fewer"
    return [*cells, p_text(each.p), p_text(each.adjusted), verdict]
