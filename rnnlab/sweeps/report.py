"""write_report: what a sweep has shown, as report.md, report.html and figures.

The numbers come from `statistics.py`, the figures from `figures.py`; here is what is said of them.
"""

import itertools
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rnnlab.build import ConfigError, unknown
from rnnlab.plots.document import Block, Heading, Lines, Paragraph, Picture, Table, write_document
from rnnlab.sweeps.figures import View, draw_coordinates, draw_curves, draw_dots, draw_heat_maps, value_text
from rnnlab.sweeps.manifest import read_sweep
from rnnlab.sweeps.question import check_metric, larger_is_better, read_baseline, short_names
from rnnlab.sweeps.statistics import (
    Comparison,
    Mean,
    Result,
    Results,
    aggregate,
    best_by,
    compare,
    median_reached,
    number,
    ranked,
)
from rnnlab.sweeps.table import DONE, make_rows

ALPHA = 0.05
"""A corrected p below it is called a difference."""
METRIC = "best.validation.loss"
_GROUPS = 24
"""An axis of more values gets no table of its own."""


def write_report(
    workdir: Path,
    output: Path,
    metric: str = METRIC,
    baseline: str | None = None,
    group: Sequence[str] = (),
    command: str = "",
) -> list[str]:
    """Writes OUTPUT/report.md, OUTPUT/report.html and the figures in OUTPUT/plots/.

    Args:
        workdir: of a sweep, over or not.
        output: a folder.
        metric: a column of runs.csv that is a number.
        baseline: "axis=value" or several with commas between them; else the sweep file's.
        group: axes; the best setting is named for every combination of their values; else for every axis by itself.
        command: the line that makes the report, for the report.

    Returns:
        Lines for the user: the best setting, and where the report is.

    Raises:
        ConfigError: no sweep, an unknown metric, axis or value, no run that is over, or a folder that cannot be
            written.
    """
    sweep = read_sweep(workdir)
    every = [row | {"axes": run["axes"]} for row, run in zip(make_rows(workdir, sweep), sweep["runs"], strict=True)]
    rows = [row for row in every if row["in_sweep"]]
    if not any(row["status"] in DONE for row in rows):
        raise ConfigError(f"{workdir}: none of the {len(rows)} runs of the sweep is over; there is nothing to report")
    axes = [path for path in sweep.get("axes", []) if path != "seed"]
    for path in group:
        if path not in axes:
            raise ConfigError(f"--group: {unknown('axis', path, axes)}")
    check_metric(metric, rows)
    sign = 1.0 if metric.split(".", 2)[-1] in larger_is_better() else -1.0
    results = aggregate(rows, axes, metric, sign)
    if not results.settings:
        raise ConfigError(f"{workdir}: no run that is over has {metric}")
    chosen = read_baseline(sweep, baseline, axes, rows)
    comparisons, alone = compare(results.settings, chosen) if chosen else ([], [])
    partners = list({id(each.baseline): each.baseline for each in comparisons}.values())
    varying = [path for path in axes if len({repr(r.axes[path]) for r in results.settings}) > 1]
    view = View(workdir, metric, sign, results.settings, varying, short_names(axes), partners, list(group))

    blocks: list[Block] = _summary(view, sweep, every, rows, results, chosen, command)
    blocks += _best(view, rows)
    if chosen:
        blocks += _comparison(view, comparisons, alone, chosen)
    folder = output / "plots"
    drawn: list[Picture] = []
    for draw in (draw_dots, draw_heat_maps, draw_curves, draw_coordinates):
        drawn += draw(view, folder)
    blocks += [Heading("Figures"), *drawn] if drawn else []
    blocks += _settings(view, rows)
    blocks += _commands(workdir, rows, metric)
    markdown, page = write_document(output, f"{workdir.resolve().name}: a sweep of {len(rows)} runs", blocks)
    best = ranked(results.settings, sign)[0]
    return [f"best: {view.said(best)}: {metric} {_mean(best.mean)}", f"report: {markdown}, {page}"]


# --- sections --------------------------------------------------------------------------------------------------------


def _summary(
    view: View,
    sweep: Mapping[str, Any],
    every: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    results: Results,
    baseline: Mapping[str, Any],
    command: str,
) -> list[Block]:
    statuses = [row["status"] for row in rows]
    counts = [f"{statuses.count(s)} {s.replace('_', ' ')}" for s in dict.fromkeys(statuses)]
    sizes = sorted({len(result.rows) for result in view.settings})
    seeds = f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else str(sizes[0])
    best = ranked(view.settings, view.sign)[0]
    facts = [
        ("runs", f"{len(rows)}: {', '.join(counts)}"),
        ("settings", f"{len(view.settings)} with {seeds} seed{'s' if seeds != '1' else ''} each"),
        ("axes", ", ".join(f"{path} ({len(view.values(path))})" for path in view.axes) or "the seed alone"),
        ("metric", f"{view.metric}, {'more' if view.sign > 0 else 'less'} is better"),
        ("best setting", f"{view.said(best)}: {_mean(best.mean)}"),
        ("baseline", ", ".join(f"{path}={value_text(v)}" for path, v in baseline.items()) or "none named"),
        ("versions", ", ".join(f"{name} {v}" for name, v in (sweep.get("versions") or {}).items())),
        ("commit", sweep.get("git_commit") or ""),
        ("made by", command),
    ]
    blocks: list[Block] = [Heading("Summary"), Table([], [fact for fact in facts if fact[1]])]
    diverged, lost = sum(r.diverged for r in view.settings), sum(len(r.lost) for r in view.settings)
    if lost:
        words = f"{diverged} of {len(rows)} runs diverged"
        words += f", and {lost - diverged} ended without a finite {view.metric}" if lost > diverged else ""
        if math.isnan(results.worst):
            words += f"; no run has a finite {view.metric}, so there is nothing to rank."
        else:
            words += (
                f". Each counts as {results.worst:.4g}, the worst {view.metric} of all other runs, in every mean, "
                "interval, ranking and test below, whatever it reached before; none is left out."
            )
        blocks.append(Paragraph(words))
    pruned = [row for row in rows if row["status"] == "pruned"]
    if pruned:
        steps = sorted({row["steps"] for row in pruned})
        words = (
            f"Halving ended {len(pruned)} of {len(rows)} runs ({100 * len(pruned) / len(rows):.0f} %) at step "
            f"{', '.join(map(str, steps))}. They count with what they had come to by then: what differs from "
            "them was trained for longer, too."
        )
        blocks.append(Paragraph(words))
    missing = [row for row in rows if row["status"] not in DONE]
    if missing:
        kinds = {row["status"]: [r["name"] for r in missing if r["status"] == row["status"]] for row in missing}
        told = "; ".join(f"{_ranges(names)} ({status})" for status, names in kinds.items())
        blocks.append(Paragraph(f"Not over, and so in no number here: {len(missing)} of {len(rows)} runs: {told}."))
    if results.without:
        blocks.append(Paragraph(f"Over but without {view.metric}, in no number here: runs {_ranges(results.without)}."))
    if len(every) > len(rows):
        gone = [row["name"] for row in every if not row["in_sweep"]]
        blocks.append(Paragraph(f"No longer in the sweep's file, not reported: runs {_ranges(gone)}.", note=True))
    return blocks


def _best(view: View, rows: Sequence[Mapping[str, Any]]) -> list[Block]:
    groups = [view.group] if view.group else [[path] for path in view.axes if len(view.values(path)) <= _GROUPS]
    if not groups:
        return []
    beside = _tested(view, rows)
    blocks: list[Block] = [Heading("Best settings")]
    for group in groups:
        others = [path for path in view.axes if path not in group]
        head = [*(view.labels[path] for path in group), *(view.labels[path] for path in others)]
        head += ["of settings", "seeds", "mean", "95 % interval", *(["test"] if beside else []), "diverged"]
        table = []
        for result, count in best_by(view.settings, group, view.sign):
            cells = [value_text(result.axes[path]) for path in (*group, *others)]
            table.append([*cells, str(count), *_numbers(result, beside)])
        blocks += [Paragraph(f"The best for every {' × '.join(group)}:"), Table(head, table)]
    words = "The best of several is chosen by the same seeds that its mean is over, so that mean flatters it."
    return [*blocks, Paragraph(words, note=True)]


def _comparison(
    view: View, comparisons: Sequence[Comparison], alone: Sequence[Result], baseline: Mapping[str, Any]
) -> list[Block]:
    named = ", ".join(f"{path}={value_text(v)}" for path, v in baseline.items())
    blocks: list[Block] = [Heading(f"Compared with {named}")]
    tested = sum(each.p is not None for each in comparisons)
    if comparisons:
        words = (
            "Every setting beside the one with the baseline's values and otherwise the same, run by run of the same "
            f"seed. p: two-sided paired t test, corrected by Holm for {tested} comparisons: to call any corrected p "
            f"below {ALPHA} a difference errs anywhere in the table with probability at most {ALPHA}. Wilcoxon's "
            "signed ranks would assume less, but their smallest p for 5 pairs is 0.06."
        )
        head = [view.labels[path] for path in view.axes]
        head += ["mean", "baseline", "difference", "95 % interval", "pairs", "p", "p, Holm", ""]
        order = sorted(comparisons, key=lambda c: (math.isnan(c.difference.value), -view.sign * c.difference.value))
        blocks += [Paragraph(words), Table(head, [_compared(view, each) for each in order])]
    if alone:
        told = "; ".join(view.said(result) for result in alone[:20]) + ("; …" if len(alone) > 20 else "")
        blocks.append(
            Paragraph(f"Without a baseline of the same other values: {len(alone)} settings: {told}.", note=True)
        )
    return blocks


def _compared(view: View, each: Comparison) -> list[str]:
    cells = [value_text(each.result.axes[path]) for path in view.axes]
    difference, pairs = each.difference, each.difference.count
    cells += [_number(each.result.mean.value), _number(each.baseline.mean.value), _number(difference.value, "+")]
    cells += [_interval(difference), str(pairs)]
    if each.p is None or each.adjusted is None:
        return [*cells, "–", "–", "no seed in common" if not pairs else "one pair" if pairs == 1 else "not tested"]
    verdict = "no difference shown"
    if each.adjusted < ALPHA:
        verdict = "better" if view.sign * difference.value > 0 else "worse"
    return [*cells, _p(each.p), _p(each.adjusted), verdict]


def _settings(view: View, rows: Sequence[Mapping[str, Any]]) -> list[Block]:
    beside = _tested(view, rows)
    goals = {(r["convergence.metric"], r["convergence.threshold"]) for r in rows if r.get("convergence.metric")}
    head = [*(view.labels[path] for path in view.axes), "seeds", "mean", "95 % interval"]
    pruned = any(row["status"] == "pruned" for row in rows)
    head += [*(["test"] if beside else []), "diverged", *(["pruned at"] if pruned else [])]
    head += [*(["reached", "steps", "seconds"] if goals else []), "runs"]
    table = []
    for result in ranked(view.settings, view.sign):
        cells = [*(value_text(result.axes[path]) for path in view.axes), *_numbers(result, beside)]
        if pruned:
            steps = {f"step {row['steps']}": None for row in result.rows if row["status"] == "pruned"}
            cells.append(", ".join(steps) or "–")
        if goals:
            reached, steps = median_reached(result.rows, "convergence.steps")
            seconds = median_reached(result.rows, "convergence.seconds")[1]
            cells += [f"{reached} of {len(result.rows)}", _number(steps), _number(seconds)]
        table.append([*cells, _ranges([row["name"] for row in result.rows])])
    blocks: list[Block] = [Heading("All settings"), Paragraph("Mean and 95 % interval (Student's t) over seeds.")]
    if goals:
        told = " or ".join(f"{metric} {threshold:g}" for metric, threshold in sorted(goals))
        blocks[-1] = Paragraph(
            f"Mean and 95 % interval (Student's t) over seeds. Reached: runs that came to a validation {told}; steps "
            "and seconds until then are medians over all runs, – where not more than half came to it. The clock of "
            "runs that were trained as replicas is that of their group."
        )
    return [*blocks, Table(head, table)]


def _commands(workdir: Path, rows: Sequence[Mapping[str, Any]], metric: str) -> list[Block]:
    lines = []
    for row in rows:
        words = [word for word in shlex.split(row["command"]) if not word.startswith("--workdir=")]
        value = number(row.get(metric))
        told = f", {metric} {value:.4g}" if value is not None else ""
        lines += [f"# {row['name']}: {row['status']}{told}"]
        lines += [shlex.join([*words, f"--workdir={workdir}-alone/{row['name']}"])]
    return [Heading("Commands"), Lines(f"each of the {len(rows)} runs once more, by itself", lines)]


# --- cells -----------------------------------------------------------------------------------------------------------


def _tested(view: View, rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, ...], Result]:
    """The settings with the test's value of a validation metric, by their key; empty where there is none."""
    column = view.metric.replace("best.validation.", "best.test.")
    if column == view.metric or not any(number(row.get(column)) is not None for row in rows):
        return {}
    axes = list(view.settings[0].axes)
    return {result.key(axes): result for result in aggregate(rows, axes, column, view.sign).settings}


def _numbers(result: Result, beside: Mapping[tuple[str, ...], Result]) -> list[str]:
    mean = result.mean
    # The worst value has no spread of its own.
    interval = "–" if len(result.lost) == len(result.rows) else _interval(mean)
    cells = [str(mean.count), _number(mean.value), interval]
    if beside:
        test = beside.get(result.key(list(result.axes)))
        cells.append("–" if test is None else _number(test.mean.value))
    return [*cells, f"{result.diverged} of {len(result.rows)}"]


def _mean(mean: Mean) -> str:
    words = f"{_number(mean.value)}"
    return f"{words}, 95 % interval {_interval(mean)}" if mean.count > 1 and math.isfinite(mean.low) else words


def _interval(mean: Mean) -> str:
    return f"{_number(mean.low)} to {_number(mean.high)}" if math.isfinite(mean.low) else "–"


def _number(value: float, sign: str = "") -> str:
    return f"{value:{sign}.4g}" if math.isfinite(value) else "–"


def _p(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def _ranges(names: Iterable[str]) -> str:
    """ "0001, 0004–0007"."""
    numbers = sorted(int(name) for name in names)
    parts = []
    for _, run in itertools.groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        found = [n for _, n in run]
        ends = f"{found[0]:04}", f"{found[-1]:04}"
        parts.append(ends[0] if len(found) == 1 else f"{ends[0]}, {ends[1]}" if len(found) == 2 else "–".join(ends))
    return ", ".join(parts)
