"""Chooses which settings of a sweep are drawn, in which figure, and what is left out; `plots/sweep.py` and
`plots/sweep_axes.py` draw.

Every function returns figures with their captions, none where the sweep has nothing for it.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rnnlab.plots import sweep as plots
from rnnlab.plots import sweep_axes
from rnnlab.plots.blocks import Picture
from rnnlab.records.folders import SweepDir
from rnnlab.records.metrics import read_metrics
from rnnlab.sweeps.spec.question import shares
from rnnlab.sweeps.statistics import Mean, Result, Scale, best_by, mean_band, number, ranked, scale_of

DOTS, PANELS, COORDINATES, STRANDS, GRIDS, GRID_SIDE = 40, 12, 8, 400, 3, 40
"""At most: rows of dots, panels of curves, upright lines, lines through them, heat maps, values on a side of one."""


@dataclass(frozen=True)
class View:
    """The part of a sweep that is shown, and how."""

    workdir: Path
    metric: str
    sign: float
    """1 for a metric of which more is better, else -1."""
    scale: Scale
    settings: list[Result]
    axes: list[str]
    """Paths that differ between the settings."""
    labels: dict[str, str]
    """Path -> the shortest end of it that no other axis has."""
    baselines: list[Result]
    group: list[str]
    """The axes that the user grouped by, or none."""
    claims: Sequence[Mapping[str, Any]] = ()
    """Those of the sweep's file; see `sections.ClaimOptions`."""

    def mean(self, result: Result) -> Mean:
        """The mean of a setting, over the runs that have a value."""
        return result.mean(self.scale)

    def description(self, result: Result, leave_out: Sequence[str] = ()) -> str:
        """The name of a setting: "identity, gain 0.9"."""
        words = [
            f"{self.labels[path]} {value_text(value)}" if not isinstance(value, str) else value_text(value)
            for path in self.axes
            if path not in leave_out
            for value in [result.axes[path]]
        ]
        return ", ".join(words) or "all runs"

    def values(self, path: str) -> list[Any]:
        """The values of an axis: numbers in order, others as the sweep has them."""
        values = list({repr(r.axes[path]): r.axes[path] for r in self.settings}.values())
        return sorted(values) if all(is_number(v) for v in values) else values


def value_text(value: Any) -> str:
    """A value of an axis, for people."""
    if value is None:
        return "–"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 40 else text[:39] + "…"


def is_number(value: Any) -> bool:
    """Whether a value of an axis is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


# --- dots ------------------------------------------------------------------------------------------------------------


def draw_dots(view: View, folder: Path) -> list[Picture]:
    """Every setting's seeds, mean and interval, the best at the top."""
    order = ranked(view.settings, view.sign)
    if not any(result.values for result in order):
        return []
    rows = []
    for result in _best_and_baselines(order, view.baselines, DOTS):
        mean = view.mean(result)
        is_baseline = any(result is each for each in view.baselines)
        values = list(result.values.values())
        rows.append(
            plots.Dots(view.description(result), mean.value, mean.low, mean.high, values, len(result.lost), is_baseline)
        )
    words = f"Every setting's seeds, their {view.scale.mean} and its 95 % interval ({view.scale.interval}), as in the "
    words += "table; what goes on beyond the picture has an arrow there."
    words += " A cross at the edge is a run that diverged and has no value." if any(row.lost for row in rows) else ""
    words += " Red: the baseline." if any(row.baseline for row in rows) else ""
    words += _left_out(len(view.settings) - len(rows), "the best and the baseline")
    return [Picture(plots.dots(rows, view.metric, view.sign, folder / "settings.png"), words)]


def _best_and_baselines(order: Sequence[Result], baselines: Sequence[Result], count: int) -> list[Result]:
    """At most so many of a ranking: the baselines, of too many the best, and the best others."""
    baseline_ids = {id(result) for result in baselines}
    kept = [result for result in order if id(result) in baseline_ids][: max(1, count // 4)]
    chosen = {id(result) for result in kept}
    chosen |= {id(r) for r in [each for each in order if id(each) not in chosen][: count - len(kept)]}
    return [result for result in order if id(result) in chosen]


def _left_out(count: int, shown: str) -> str:
    return f" Settings left out: {count}; shown are {shown}." if count > 0 else ""


# --- heat maps -------------------------------------------------------------------------------------------------------


def draw_heat_maps(view: View, folder: Path) -> list[Picture]:
    """The metric over pairs of axes that were crossed with each other."""
    if len(view.group) > 1:
        pairs = [(view.group[0], view.group[1])]
    else:
        sides = [path for path in view.axes if 2 <= len(view.values(path)) <= GRID_SIDE]
        sides = [path for path in sides if not any(goes_with(view, path, other) for other in sides)]
        pairs = [pair for pair in itertools.combinations(sides, 2) if _filled(view, pair)]
    pictures = []
    for y, x in pairs[:GRIDS]:
        columns, rows = view.values(x), view.values(y)
        if not all(is_number(v) for v in rows):
            rows.reverse()  # Names are read from the top, numbers grow upwards.
        values, notes = np.full((len(rows), len(columns)), np.nan), [[""] * len(columns) for _ in rows]
        shown, places = [result for result, _ in best_by(view.settings, [y, x], view.sign)], {}
        for result in shown:
            i, j = rows.index(result.axes[y]), columns.index(result.axes[x])
            lost, count = len(result.lost), len(result.rows)
            values[i, j] = view.mean(result).value
            places[id(result)] = i, j
            notes[i][j] = "all\ndiverged" if lost == count else f"{lost}/{count} div." if lost else ""
        grid = sweep_axes.Grid(
            view.labels[x],
            view.labels[y],
            [value_text(v) for v in columns],
            [value_text(v) for v in rows],
            values,
            notes,
            view.sign,
            next((places[id(result)] for result in ranked(shown, view.sign) if result.values), None),
        )
        name = f"heat_map_{view.labels[y]}_{view.labels[x]}.png"
        words = f"{view.metric}, {view.scale.mean} over seeds, by {view.labels[y]} and {view.labels[x]}"
        if len(view.axes) > 2:
            words += "; of the other axes the best"
        words += ". The frame is the best; “2/5 div.”: so many runs diverged and are not in the mean; grey: no number."
        pictures.append(Picture(sweep_axes.heat_map(grid, view.metric, folder / name), words))
    if pictures and len(pairs) > GRIDS:
        left_out = ", ".join(f"{view.labels[y]} × {view.labels[x]}" for y, x in pairs[GRIDS:])
        last = pictures[-1]
        pictures[-1] = Picture(last.path, f"{last.caption} Left out: {left_out}; --group=axis,axis draws one of them.")
    return pictures


def goes_with(view: View, path: str, other: str) -> bool:
    """Whether another axis decides this one, as the cell does a learning rate that is zipped with it; of two that
    decide each other the later one goes with the earlier."""
    both = len({result.key([path, other]) for result in view.settings})
    decides, decided = (both == len({result.key([each]) for result in view.settings}) for each in (other, path))
    return path != other and decides and (not decided or view.axes.index(other) < view.axes.index(path))


def _filled(view: View, pair: tuple[str, str]) -> bool:
    """Whether at least half of a pair's grid has a setting: zipped and drawn axes have few."""
    there = {result.key(pair) for result in view.settings}
    return 2 * len(there) >= len(view.values(pair[0])) * len(view.values(pair[1]))


# --- learning curves -------------------------------------------------------------------------------------------------


def draw_curves(view: View, folder: Path) -> list[Picture]:
    """Mean and interval over seeds against the training step, from every run's metrics.jsonl."""
    section, _, rest = view.metric.partition(".")
    split, _, name = rest.partition(".")
    if section not in ("best", "final") or not name:
        split, name = "validation", "loss"
    split = "train" if split == "train" else "validation"

    panels = _panels(view)
    raw = [(title, [(r, label, c, *_read(view.workdir, r, split, name)) for r, label, c in p]) for title, p in panels]
    raw = [(title, [line for line in lines if np.isfinite(line[4]).any()]) for title, lines in raw]
    raw = [(title, lines) for title, lines in raw if lines]
    if not raw:
        return []
    every = np.concatenate([line[4].ravel() for _, lines in raw for line in lines])
    logarithmic, scale = plots.spread(every), scale_of(every, name in shares())
    drawn = []
    for title, lines in raw:
        curves = []
        for result, label, colour, steps, values in lines:
            mean, low, high = mean_band(values, scale)
            ends = [int(row["steps"]) for row in result.rows if row["status"] == "diverged"]
            caption = f"{label} ({len(ends)} of {len(result.rows)} diverged)" if ends else label
            curves.append(plots.Curve(caption, colour, steps, mean, low, high, ends))
        drawn.append((title, curves))
    label = f"{'training' if split == 'train' else split} {name.replace('_', ' ')}"
    words = f"{label[:1].upper()}{label[1:]} over training: {scale.mean} and 95 % interval ({scale.interval}) over"
    words += (
        " seeds. A run that stopped early keeps its last value; one that diverged (a cross at its step) has none after."
    )
    chosen, shown = sum(len(results) for _, results in panels), sum(len(curves) for _, curves in drawn)
    best = f"the best {plots.LINES}{' of every panel' if len(panels) > 1 else ''}"
    words += _left_out(len(view.settings) - chosen, f"{best}, the baseline among them")
    words += f" Settings that ended before there was anything to draw: {chosen - shown}." if chosen > shown else ""
    return [Picture(plots.ribbons(drawn, label, logarithmic, folder / "learning_curves.png"), words)]


def _panels(view: View) -> list[tuple[str, list[tuple[Result, str, int]]]]:
    """Panels of (setting, label, colour): one, or one for every value of the axis by which the most can be drawn."""
    if len(view.settings) <= plots.LINES or not view.axes:
        split = None
    else:
        sizes: dict[str, tuple[int, int]] = {}
        for path in view.axes:
            counts = [sum(r.axes[path] == v for r in view.settings) for v in view.values(path)]
            if len(counts) <= PANELS:
                sizes[path] = sum(min(n, plots.LINES) for n in counts), -len(counts)
        grouped = [path for path in view.group if path in sizes]
        split = grouped[0] if grouped else max(sizes, key=lambda path: sizes[path]) if sizes else None
    parts: list[tuple[str, list[Result]]]
    if split is None:
        parts = [("", view.settings)]
    else:
        titles = [(f"{view.labels[split]} = {value_text(v)}", v) for v in view.values(split)]
        parts = [(title, [r for r in view.settings if r.axes[split] == v]) for title, v in titles]
    chosen = [(t, _best_and_baselines(ranked(results, view.sign), view.baselines, plots.LINES)) for t, results in parts]
    leave_out = [split] if split else []
    labels = list(dict.fromkeys(view.description(r, leave_out) for r in view.settings))
    few = len(labels) <= plots.LINES
    panels = []
    for title, results in chosen:
        ordered = sorted(results, key=lambda r: labels.index(view.description(r, leave_out)))
        named = [(r, view.description(r, leave_out)) for r in ordered]
        panels.append((title, [(r, label, labels.index(label) if few else i) for i, (r, label) in enumerate(named)]))
    return panels


def _read(workdir: Path, result: Result, split: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps [S] and values [S, seeds] of a setting; NaN where a run has none."""
    runs = []
    for row in result.rows:
        lines = [line for line in read_metrics(SweepDir(workdir).run(row["name"])) if line.get("split") == split]
        runs.append({line["step"]: number(line.get(name), math.nan) for line in lines})
    steps = sorted({step for run in runs for step in run})
    values = np.array([[run.get(step, math.nan) for run in runs] for step in steps]).reshape(len(steps), len(runs))
    values[~np.isfinite(values)] = math.nan
    for column, row in enumerate(result.rows):
        there = np.flatnonzero(np.isfinite(values[:, column]))
        if row["status"] == "stopped_early" and there.size:
            values[there[-1] :, column] = values[there[-1], column]
    return np.array(steps, float), values


# --- parallel coordinates --------------------------------------------------------------------------------------------


def draw_coordinates(view: View, folder: Path) -> list[Picture]:
    """Every setting as a line through its values and its mean."""
    order = [r for r in ranked(view.settings, view.sign) if r.values]
    if len(order) < 2 or len(view.axes) < 2:
        return []
    shown = [order[i] for i in np.unique(np.linspace(0, len(order) - 1, min(len(order), STRANDS)).round().astype(int))]
    axes = []
    for path in view.axes[:COORDINATES]:
        values = view.values(path)
        if all(is_number(v) for v in values):
            numbers = np.array([float(r.axes[path]) for r in shown])
            # Uniform draws from 0 up may span decades, too, but few of them lie far below the others.
            logarithmic = plots.spread(numbers) and float(numbers.max()) > 5 * float(np.median(numbers))
            axes.append(sweep_axes.Coordinate(view.labels[path], numbers, logarithmic=logarithmic))
        else:
            places = np.array([float(values.index(r.axes[path])) for r in shown])
            axes.append(sweep_axes.Coordinate(view.labels[path], places, [value_text(v) for v in values]))
    means = np.array([view.mean(result).value for result in shown])
    metric = sweep_axes.Coordinate(view.metric, means, logarithmic=plots.spread(means))
    words = f"Every setting is a line through its values, coloured by its {view.scale.mean} over the seeds that "
    words += "have a value; the best is outlined."
    words += _left_out(len(order) - len(shown), "evenly many of every rank")
    if len(view.axes) > COORDINATES:
        words += f" Left out, too: the axes {', '.join(view.labels[path] for path in view.axes[COORDINATES:])}."
    path = folder / "parallel_coordinates.png"
    return [Picture(sweep_axes.parallel_coordinates(axes, metric, view.sign, path), words)]
