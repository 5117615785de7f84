"""make_report: what a sweep has shown, as blocks of text and figures; write_report: the same as report.md, report.html
and figures.

The numbers come from `statistics.py`, the figures from `figures.py`; here is what is said of them.
"""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnnlab.config.errors import ConfigError, unknown
from rnnlab.config.outside import is_outside
from rnnlab.plots.blocks import Block, Heading, Lines, Paragraph, Picture, Table, write_document
from rnnlab.records.folders import ReportDir
from rnnlab.records.workdir import DONE
from rnnlab.sweeps.report.compared import compared
from rnnlab.sweeps.report.comparison import partners
from rnnlab.sweeps.report.figures import View, draw_coordinates, draw_curves, draw_dots, draw_heat_maps, value_text
from rnnlab.sweeps.report.solved import draw_solved
from rnnlab.sweeps.report.table import make_rows
from rnnlab.sweeps.report.words import goals, interval_text, mean_text, number_text, run_ranges
from rnnlab.sweeps.spec.manifest import read_sweep
from rnnlab.sweeps.spec.question import check_metric, larger_is_better, read_baseline, shares, short_names
from rnnlab.sweeps.statistics import (
    Result,
    Results,
    Scale,
    aggregate,
    best_by,
    median_reached,
    number,
    ranked,
    scale_of,
)
from rnnlab.tasks import find_task

METRIC = "best.validation.loss"
_GROUPS = 24
"""An axis of more values gets no table of its own."""


@dataclass(frozen=True)
class Report:
    """What a sweep has shown."""

    title: str
    blocks: list[Block]
    best: str
    """The line that names the best setting."""


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
        output: a folder.
        command: the line that makes the report, for the report.
        workdir, metric, baseline, group: as of `make_report`.

    Returns:
        Lines for the user: the best setting, and where the report is.

    Raises:
        ConfigError: as `make_report`, or a folder that cannot be written.
    """
    report = make_report(workdir, ReportDir(output).plots, metric, baseline, group, command)
    markdown, page = write_document(output, report.title, report.blocks)
    return [report.best, f"report: {markdown}, {page}"]


def make_report(
    workdir: Path,
    folder: Path,
    metric: str = METRIC,
    baseline: str | None = None,
    group: Sequence[str] = (),
    command: str = "",
) -> Report:
    """The report of a sweep, whose figures are saved.

    Args:
        workdir: of a sweep, over or not.
        folder: of the figures.
        metric: a column of runs.csv that is a number.
        baseline: "axis=value" or several with commas between them; else the sweep file's.
        group: axes; the best setting is named for every combination of their values; else for every axis by itself.
        command: the line that makes the report, for the report.

    Raises:
        ConfigError: no sweep, an unknown metric, axis or value, or no run that is over.
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
    _find_tasks(sweep)
    sign = 1.0 if _short(metric) in larger_is_better() else -1.0
    results = aggregate(rows, axes, metric, sign)
    if not results.settings:
        raise ConfigError(f"{workdir}: no run that is over has {metric}")
    chosen = read_baseline(sweep, baseline, axes, rows)
    pairs, alone = partners(results.settings, chosen) if chosen else ([], [])
    baselines = list({id(other): other for _, other in pairs}.values())
    varying = [path for path in axes if len({repr(r.axes[path]) for r in results.settings}) > 1]
    scale = _scale(metric, results.settings)
    names, claims = short_names(axes), (sweep.get("sweep") or {}).get("claims", ())
    view = View(workdir, metric, sign, scale, results.settings, varying, names, baselines, list(group), claims)

    blocks: list[Block] = _summary(view, sweep, every, rows, results, chosen, command)
    blocks += _best(view, rows)
    if chosen:
        blocks += compared(view, pairs, alone, chosen, goals(rows))
    drawn: list[Picture] = []
    for draw in (draw_solved, draw_dots, draw_heat_maps, draw_curves, draw_coordinates):
        drawn += draw(view, folder)
    blocks += [Heading("Figures"), *drawn] if drawn else []
    blocks += _settings(view, rows)
    blocks += _commands(workdir, rows, metric)
    best = view.description(first := ranked(results.settings, sign)[0])
    return Report(
        f"{workdir.resolve().name}: a sweep of {len(rows)} runs",
        blocks,
        f"best: {best}: {metric} {mean_text(view.mean(first))}",
    )


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
        ("best setting", f"{view.description(best)}: {mean_text(view.mean(best))}"),
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
                f". They have no {view.metric}, whatever they reached before: means, intervals and tests of values are "
                "of the other runs, and how many have none is shown and compared by itself. In the order of settings, "
                f"and in nothing else, each counts as {results.worst:.4g}, the worst of all other runs."
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
        listed = "; ".join(f"{run_ranges(names)} ({status})" for status, names in kinds.items())
        blocks.append(Paragraph(f"Not over, and so in no number here: {len(missing)} of {len(rows)} runs: {listed}."))
    if results.without:
        names = run_ranges(results.without)
        blocks.append(Paragraph(f"Over but without {view.metric}, in no number here: runs {names}."))
    if len(every) > len(rows):
        gone = [row["name"] for row in every if not row["in_sweep"]]
        blocks.append(Paragraph(f"No longer in the sweep's file, not reported: runs {run_ranges(gone)}.", note=True))
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
        head += ["of settings", "seeds", view.scale.mean, "95 % interval", *(["test"] if beside else []), "diverged"]
        table = []
        for result, count in best_by(view.settings, group, view.sign):
            cells = [value_text(result.axes[path]) for path in (*group, *others)]
            table.append([*cells, str(count), *_numbers(view, result, beside)])
        blocks += [Paragraph(f"The best for every {' × '.join(group)}:"), Table(head, table)]
    words = "The best of several is chosen by the same seeds that its mean is over, so that mean flatters it."
    return [*blocks, Paragraph(words, note=True)]


def _settings(view: View, rows: Sequence[Mapping[str, Any]]) -> list[Block]:
    beside = _tested(view, rows)
    named = goals(rows)
    head = [*(view.labels[path] for path in view.axes), "seeds", view.scale.mean, "95 % interval"]
    pruned = any(row["status"] == "pruned" for row in rows)
    head += [*(["test"] if beside else []), "diverged", *(["pruned at"] if pruned else [])]
    head += [*(["solved", "steps", "seconds"] if named else []), "runs"]
    table = []
    for result in ranked(view.settings, view.sign):
        cells = [*(value_text(result.axes[path]) for path in view.axes), *_numbers(view, result, beside)]
        if pruned:
            steps = {f"step {row['steps']}": None for row in result.rows if row["status"] == "pruned"}
            cells.append(", ".join(steps) or "–")
        if named:
            reached, steps = median_reached(result.rows, "convergence.steps")
            seconds = median_reached(result.rows, "convergence.seconds")[1]
            cells += [f"{reached} of {len(result.rows)}", number_text(steps), number_text(seconds)]
        table.append([*cells, run_ranges([row["name"] for row in result.rows])])
    words = (
        f"The {view.scale.mean} and its 95 % interval ({view.scale.interval}) over the seeds that have a value. The "
        f"best first, by the {'arithmetic ' if view.scale.logarithms else ''}mean."
    )
    if named:
        words += (
            f" Solved: runs that came to a validation {' or '.join(named)}; steps and seconds until then are medians "
            "over all runs, – where not more than half came to it. The clock of runs that were trained as replicas is "
            "that of their group."
        )
    blocks: list[Block] = [Heading("All settings"), Paragraph(words)]
    return [*blocks, Table(head, table)]


def _commands(workdir: Path, rows: Sequence[Mapping[str, Any]], metric: str) -> list[Block]:
    lines = []
    for row in rows:
        words = [word for word in shlex.split(row["command"]) if not word.startswith("--workdir=")]
        value = number(row.get(metric))
        result = f", {metric} {value:.4g}" if value is not None else ""
        lines += [f"# {row['name']}: {row['status']}{result}"]
        lines += [shlex.join([*words, f"--workdir={workdir}-alone/{row['name']}"])]
    return [Heading("Commands"), Lines(f"each of the {len(rows)} runs once more, by itself", lines)]


# --- cells -----------------------------------------------------------------------------------------------------------


def _short(metric: str) -> str:
    """ "best.test.loss" -> "loss"."""
    return metric.split(".", 2)[-1]


def _find_tasks(sweep: Mapping[str, Any]) -> None:
    """Looks up the runs' tasks: one from outside the project says of which metrics more is better."""
    for run in sweep["runs"]:
        config = {**sweep.get("config", {}), **run.get("config", {})}
        if is_outside(config.get("task", {}).get("name")):
            find_task(config)


def _scale(metric: str, settings: Sequence[Result]) -> Scale:
    """The scale of means and intervals of a metric: the same for all settings."""
    return scale_of([v for result in settings for v in result.values.values()], _short(metric) in shares())


def _tested(view: View, rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, ...], float]:
    """The test's mean of a validation metric by the settings' keys; empty where there is none."""
    column = view.metric.replace("best.validation.", "best.test.")
    if column == view.metric or not any(number(row.get(column)) is not None for row in rows):
        return {}
    axes = list(view.settings[0].axes)
    settings = aggregate(rows, axes, column, view.sign).settings
    scale = _scale(column, settings)
    return {result.key(axes): result.mean(scale).value for result in settings}


def _numbers(view: View, result: Result, beside: Mapping[tuple[str, ...], float]) -> list[str]:
    mean = view.mean(result)
    cells = [str(mean.count), number_text(mean.value), interval_text(mean)]
    if beside:
        cells.append(number_text(beside.get(result.key(list(result.axes)), math.nan)))
    return [*cells, f"{result.diverged} of {len(result.rows)}"]
