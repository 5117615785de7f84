"""The numbers of one run, read as its files grow: curves and heat maps by name."""

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rnnlab.files import is_number
from rnnlab.records.workdir import Workdir
from rnnlab.watch.curves import Curve, HeatMap
from rnnlab.watch.tails import Tail, columns_of, objects_of

BUCKETS = 2048
"""The size of a curve of a run that is looked at by itself."""
COLUMNS = 256
"""The size of a heat map."""
RATE = "train/steps_per_second"
"""The curve that is computed here, from the steps and seconds between two lines of training."""
_LOGARITHMIC = ("h", "c", "norm")
_HISTOGRAM = "histogram"
_MEDIAN = "median singular value"


class Ticks:
    """Counts the looks at files in which something was new."""

    def __init__(self) -> None:
        self.now = 0

    def next(self) -> int:
        """One more."""
        self.now += 1
        return self.now


class RunFiles:
    """metrics.jsonl and, if wanted, diagnostics.jsonl of a run.

    Args:
        folder: the run's, which need not exist yet.
        ticks: counts what is new.
        buckets: of a curve.
        diagnoses: whether diagnostics.jsonl is read, too.
    """

    def __init__(self, folder: Path, ticks: Ticks, buckets: int = BUCKETS, diagnoses: bool = True):
        files = Workdir(folder)
        self.ticks, self.buckets = ticks, buckets
        self.curves: dict[str, Curve] = {}
        """"SPLIT/NAME" of metrics.jsonl, and "DIAGNOSTIC/NAME" of diagnostics.jsonl."""
        self.maps: dict[str, HeatMap] = {}
        self.step = 0
        """The last of any line."""
        self.seconds = 0.0
        """Those of training until there."""
        self.gap = 0.0
        """Seconds of training between the last two lines of it."""
        self.damaged: dict[str, int] = {}
        """File -> how many of its lines cannot be read."""
        self._marks: deque[tuple[float, float]] = deque(maxlen=20)
        """(Step, seconds) of the last lines of training."""
        self._tails: list[tuple[Tail, Callable[[bytes, int], int], bool]] = [(Tail(files.metrics), self._metrics, True)]
        if diagnoses:
            self._tails.append((Tail(files.diagnostics), self._diagnostics, False))

    @property
    def more(self) -> bool:
        """Whether there are lines that were not read yet."""
        return any(tail.more for tail, _, _ in self._tails)

    @property
    def rate(self) -> float | None:
        """Steps per second of training over the last lines; None before there are two."""
        (first, begun), (last, ended) = (self._marks[0], self._marks[-1]) if self._marks else ((0, 0), (0, 0))
        return (last - first) / (ended - begun) if ended > begun else None

    @property
    def share(self) -> float:
        """The share that was read of the bytes that are there."""
        size = sum(tail.size for tail, _, _ in self._tails)
        return sum(tail.offset for tail, _, _ in self._tails) / size if size else 1.0

    @property
    def changed(self) -> float | None:
        """When the last line was written; None where there is none."""
        return max((tail.changed for tail, _, _ in self._tails if tail.changed and tail.size), default=None)

    @property
    def problems(self) -> list[str]:
        """Lines for people: what of the files cannot be read."""
        lines = [f"{tail.path.name} cannot be read: {tail.problem}" for tail, _, _ in self._tails if tail.problem]
        return lines + [f"{count} lines of {name} cannot be read" for name, count in self.damaged.items() if count]

    def read(self) -> None:
        """Takes in what is new, at most a chunk of each file; `more` says whether that is all."""
        for tail, take, is_metrics in self._tails:
            anew, lines = tail.read()
            if anew:
                self._forget(is_metrics)
            if lines:
                damaged = take(lines, self.ticks.next())
                self.damaged[tail.path.name] = self.damaged.get(tail.path.name, 0) + damaged
            elif anew:
                self.ticks.next()

    def _forget(self, metrics: bool) -> None:
        of_metrics = ("train/", "validation/", "test/")
        for table in (self.curves, self.maps):
            for name in [name for name in table if name.startswith(of_metrics) == metrics]:
                del table[name]
        self.damaged.clear()
        if metrics:
            self.step, self.seconds, self.gap = 0, 0.0, 0.0
            self._marks.clear()

    def _add(self, name: str, steps: Any, values: Any, tick: int) -> None:
        if name not in self.curves:
            self.curves[name] = Curve(self.buckets, tick)
        self.curves[name].add(np.asarray(steps, float), np.asarray(values, float), tick)

    def _metrics(self, lines: bytes, tick: int) -> int:
        columns, damaged = columns_of(lines)
        for split, by_name in columns.items():
            for name, (steps, values) in by_name.items():
                if name != "seconds":
                    self._add(f"{split}/{name}", steps, values, tick)
        if "seconds" in columns.get("train", {}):
            self._rates(*columns["train"]["seconds"], tick)
        return damaged

    def _rates(self, steps: np.ndarray, seconds: np.ndarray, tick: int) -> None:
        """Steps per second between lines of training; the first line has none before it."""
        there = np.isfinite(seconds)
        steps, seconds = steps[there], seconds[there]
        if not len(steps):
            return
        self._marks.extend(zip(steps.tolist(), seconds.tolist(), strict=True))
        if self.seconds:
            steps, seconds = np.append(self.step, steps), np.append(self.seconds, seconds)
        passed = np.diff(seconds)
        counts = passed > 0
        if counts.any():
            self._add(RATE, steps[1:][counts], (np.diff(steps)[counts] / passed[counts]), tick)
            self.gap = float(passed[-1])
        self.step, self.seconds = int(steps[-1]), float(seconds[-1])

    def _diagnostics(self, lines: bytes, tick: int) -> int:
        objects, damaged = objects_of(lines)
        points: dict[str, list[tuple[int, Any]]] = {}
        for line in objects:
            for diagnostic, values in line.items():
                for name, value in values.items() if isinstance(values, dict) else ():
                    key = f"{diagnostic}/{name}"
                    if is_number(value):
                        points.setdefault(key, []).append((line["step"], value))
                    elif _are_numbers(value):
                        self._list(key, line["step"], value, points, tick)
        for name, pairs in points.items():
            steps, values = zip(*pairs, strict=True)
            self._add(name, steps, values, tick)
        return damaged

    def _list(self, name: str, step: int, values: list[Any], points: dict[str, Any], tick: int) -> None:
        """A list of numbers of one step: a column of a heat map, or of singular values their median."""
        path, _, quantity = name.rpartition("/")
        if quantity == "singular values":
            points.setdefault(f"{path}/{_MEDIAN}", []).append((step, values[len(values) // 2]))
        elif quantity in _LOGARITHMIC or quantity == _HISTOGRAM:
            if name not in self.maps:
                self.maps[name] = HeatMap(COLUMNS, tick, quantity != _HISTOGRAM)
            self.maps[name].add(step, values, tick)


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and bool(values) and all(map(is_number, values))
