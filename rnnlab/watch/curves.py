"""Curves and heat maps of bounded size, however many lines they are of, and what of them is new since a tick.

When a curve is full, two neighbours become one: the lowest, the highest and the mean of both are kept, so that no
extreme is lost. A tick counts the looks at files in which something was new.
"""

import math
from typing import Any

import numpy as np

ROWS = 128
"""Time steps that a heat map has at most; of more, neighbours are averaged."""
ODD = ("", "nan", "inf", "-inf")
"""The word for a value in a bucket that is no number, by its code."""


class Curve:
    """A number over training steps, in at most `capacity` buckets of as many lines each.

    Args:
        capacity: even.
        tick: when it begins.
    """

    def __init__(self, capacity: int, tick: int):
        self.capacity, self.width, self.count = capacity, 1, 0
        self.last: tuple[float, float] | None = None
        """(Step, value), the value perhaps not finite; of the lowest and the highest it is."""
        self.lowest: tuple[float, float] | None = None
        self.highest: tuple[float, float] | None = None
        self._changed = tick
        # A row each: last step, lowest, highest, mean, how many are finite, code of ODD, tick.
        self._buckets = np.zeros((7, capacity))
        self._rest = np.zeros((2, 0))

    def add(self, steps: np.ndarray, values: np.ndarray, tick: int) -> None:
        """The next values [N] at their steps [N]."""
        self._changed, self.last = tick, (float(steps[-1]), float(values[-1]))
        finite = np.isfinite(values)
        if finite.any():
            low, high = np.where(finite, values, np.inf).argmin(), np.where(finite, values, -np.inf).argmax()
            if self.lowest is None or values[low] < self.lowest[1]:
                self.lowest = float(steps[low]), float(values[low])
            if self.highest is None or values[high] > self.highest[1]:
                self.highest = float(steps[high]), float(values[high])
        points, begin = np.concatenate([self._rest, [steps, values]], axis=1), 0
        while points.shape[1] - begin >= self.width:
            buckets = min(self.capacity - self.count, (points.shape[1] - begin) // self.width)
            end = begin + buckets * self.width
            new = _buckets(points[:, begin:end].reshape(2, buckets, self.width), tick)
            self._buckets[:, self.count : self.count + buckets] = new
            self.count, begin = self.count + buckets, end
            if self.count == self.capacity:
                self._halve(tick)
        self._rest = points[:, begin:].copy()

    def _halve(self, tick: int) -> None:
        left, right = self._buckets[:, ::2], self._buckets[:, 1::2]
        half = self.count = self.capacity // 2
        self.width = 2 * self.width
        count = left[4] + right[4]
        total = np.where(left[4] > 0, left[3] * left[4], 0) + np.where(right[4] > 0, right[3] * right[4], 0)
        merged = [right[0], np.fmin(left[1], right[1]), np.fmax(left[2], right[2])]
        mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        self._buckets[:, :half] = [*merged, mean, count, np.maximum(left[5], right[5]), np.full(half, tick)]

    def since(self, tick: int) -> dict[str, Any] | None:
        """All that is new after a tick: "from", the number of the first bucket that is, and from there on "x" (the last
        step of each), "y" (means), of wide buckets also "low" and "high", and where a value is not finite "odd", pairs
        of a bucket's number and its word. None where nothing is."""
        if self._changed <= tick:
            return None
        begin = int(np.searchsorted(self._buckets[6, : self.count], tick, side="right"))
        buckets = self._buckets[:, begin : self.count]
        if self._rest.shape[1]:
            buckets = np.concatenate([buckets, _buckets(self._rest[:, None], self._changed)], axis=1)
        new: dict[str, Any] = {"from": begin, "x": buckets[0].astype(int).tolist(), "y": short(buckets[3])}
        if self.width > 1:
            new |= {"low": short(buckets[1]), "high": short(buckets[2])}
        odd = np.flatnonzero(buckets[5])
        if odd.size:
            new["odd"] = [[begin + int(at), ODD[int(buckets[5, at])]] for at in odd]
        return new


def _buckets(points: np.ndarray, tick: int) -> np.ndarray:
    """[7, buckets] of points [2, buckets, width]."""
    steps, values = points
    finite = np.isfinite(values)
    count = finite.sum(1)
    low = np.where(finite, values, np.inf).min(1)
    high = np.where(finite, values, -np.inf).max(1)
    mean = np.where(finite, values, 0).sum(1) / np.maximum(count, 1)
    code = np.select([np.isnan(values).any(1), (values == np.inf).any(1), (values == -np.inf).any(1)], [1, 2, 3], 0)
    none = count == 0
    low, high, mean = (np.where(none, np.nan, each) for each in (low, high, mean))
    return np.array([steps[:, -1], low, high, mean, count, code, np.full(len(count), tick)])


class HeatMap:
    """A list of numbers over training steps, in at most `capacity` columns.

    Args:
        capacity: even.
        tick: when it begins.
        logarithmic: whether it is of log10 of the numbers, of those that have one; else of their square roots.
    """

    def __init__(self, capacity: int, tick: int, logarithmic: bool):
        self.capacity, self.logarithmic, self.width = capacity, logarithmic, 1
        self._changed = tick
        self._columns: list[tuple[int, int, np.ndarray, int]] = []
        """(First step, length of the list, [R] in at most ROWS parts, tick)."""
        self._rest: list[tuple[int, int, np.ndarray, int]] = []

    def add(self, step: int, values: Any, tick: int) -> None:
        """The list of the next line."""
        numbers = np.array(values, float)
        with np.errstate(all="ignore"):
            places = np.log10(numbers) if self.logarithmic else np.sqrt(numbers)
        places = np.where(np.isfinite(places), places, np.nan)
        parts = -(-len(places) // ROWS)  # So many time steps in a row of the map.
        padded = np.pad(places, (0, -len(places) % parts), constant_values=np.nan).reshape(-1, parts)
        self._rest.append((step, len(places), _mean(padded, 1), tick))
        self._changed = tick
        if len(self._rest) == self.width:
            self._columns.append(_merged(self._rest, tick))
            self._rest = []
        if len(self._columns) == self.capacity:
            pairs = zip(self._columns[::2], self._columns[1::2], strict=True)
            self._columns = [_merged(list(pair), tick) for pair in pairs]
            self.width = 2 * self.width

    def since(self, tick: int) -> dict[str, Any] | None:
        """All that is new after a tick: "from", and from there on "columns", each [first step, length, hundredths];
        None where nothing is."""
        if self._changed <= tick:
            return None
        begin = sum(column[3] <= tick for column in self._columns)
        columns = self._columns[begin:] + ([_merged(self._rest, self._changed)] if self._rest else [])
        return {
            "from": begin,
            "columns": [[step, length, _hundredths(values)] for step, length, values, _ in columns],
        }


def _merged(columns: list[tuple[int, int, np.ndarray, int]], tick: int) -> tuple[int, int, np.ndarray, int]:
    """Their mean; of a curriculum, whose lists grow, that of the longest."""
    length = max(column[1] for column in columns)
    alike = [column[2] for column in columns if column[1] == length]
    return columns[0][0], length, alike[0] if len(alike) == 1 else _mean(np.array(alike), 0), tick


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """The mean of those that are numbers; NaN where none is."""
    there = ~np.isnan(values)
    count = there.sum(axis)
    return np.where(count > 0, np.where(there, values, 0).sum(axis) / np.maximum(count, 1), np.nan)


def _hundredths(values: np.ndarray) -> list[int | None]:
    return [None if math.isnan(value) else round(100 * value) for value in values.tolist()]


def short(values: Any) -> list[float | None]:
    """Numbers for JSON to six digits; None for what is not finite."""
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in np.asarray(values, float).tolist()]
