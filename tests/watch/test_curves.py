"""Curves and heat maps of bounded size: what they keep, and that pieces sent one after another make the whole."""

from typing import Any

import numpy as np
import pytest

from rnnlab.watch import curves
from rnnlab.watch.curves import Curve, HeatMap


def grow(old: dict[str, Any] | None, new: dict[str, Any] | None) -> dict[str, Any] | None:
    """The page's way to take in an answer."""
    if new is None:
        return old
    begin, old = new["from"], old or {}

    def before(key: str) -> list[Any]:
        return old.get(key, old.get("y", []))[:begin]

    odd = [each for each in old.get("odd", []) if each[0] < begin] + new.get("odd", [])
    joined = {key: before(key) + new[key] for key in ("x", "y", "low", "high", "columns") if key in new}
    return {"from": 0, **joined} | ({"odd": odd} if odd else {})


def values_of(count: int) -> np.ndarray:
    values = np.random.default_rng(count).normal(size=count)
    values[1] = 1e9
    values[2] = -1e9
    if count > 40:
        values[17:29] = np.nan
        values[count - 9] = np.inf
    return values


@pytest.mark.parametrize("count", [3, 8, 9, 50, 1000, 4321])
@pytest.mark.parametrize("pieces", [1, 3, 700])
def test_a_curve_keeps_its_extremes_and_is_sent_piece_by_piece(count: int, pieces: int) -> None:
    curve, sent, seen = Curve(8, 0), None, 0
    steps, values = np.arange(1.0, count + 1), values_of(count)
    for tick, part in enumerate(np.array_split(np.arange(count), min(pieces, count)), 1):
        curve.add(steps[part], values[part], tick)
        if tick % 3 or tick == min(pieces, count):
            sent, seen = grow(sent, curve.since(seen)), tick
    whole = curve.since(0)
    assert whole is not None
    assert sent == whole
    assert curve.since(seen) is None
    assert len(whole["x"]) <= 8
    assert whole["x"][-1] == count
    finite = values[np.isfinite(values)]
    low, high = whole.get("low", whole["y"]), whole.get("high", whole["y"])
    assert max(v for v in high if v is not None) == max(finite)
    assert min(v for v in low if v is not None) == min(finite)
    assert curve.highest == (float(steps[np.nanargmax(np.where(values == np.inf, np.nan, values))]), max(finite))
    assert {word for _, word in whole.get("odd", [])} <= {"nan", "inf"}
    assert bool(whole.get("odd")) == (count > 40)


def test_a_curve_is_the_same_however_its_lines_come() -> None:
    steps, values = np.arange(5000.0), np.random.default_rng(1).normal(size=5000)
    whole, pieces = Curve(64, 0), Curve(64, 0)
    whole.add(steps, values, 1)
    for begin in range(0, 5000, 7):
        pieces.add(steps[begin : begin + 7], values[begin : begin + 7], 1)
    a, b = whole.since(0), pieces.since(0)
    assert a is not None
    assert b is not None
    assert a["x"] == b["x"]
    assert a["low"] == b["low"]
    np.testing.assert_allclose(a["y"], b["y"], rtol=1e-5)


def test_the_mean_of_a_bucket_is_that_of_its_lines() -> None:
    curve, values = Curve(4, 0), values_of(64)
    curve.add(np.arange(64.0), values, 1)
    new = curve.since(0)
    assert new is not None
    parts = [part[np.isfinite(part)] for part in values.reshape(-1, curve.width)]
    means = [part.mean() if part.size else None for part in parts]
    np.testing.assert_allclose(np.array(new["y"], float), np.array(means, float), rtol=1e-5)


def test_one_more_line_is_one_more_point() -> None:
    curve = Curve(2048, 0)
    curve.add(np.arange(1000.0), np.ones(1000), 1)
    curve.add(np.array([1000.0]), np.array([2.0]), 2)
    assert curve.since(1) == {"from": 1000, "x": [1000], "y": [2.0]}


@pytest.mark.parametrize("count", [1, 4, 5, 33])
def test_a_heat_map_is_sent_piece_by_piece(count: int) -> None:
    heat, sent = HeatMap(4, 0, True), None
    for tick in range(1, count + 1):
        heat.add(10 * tick, [10.0**-tick, 1.0, "inf", 0.0], tick)
        sent = grow(sent, heat.since(tick - 1))
    assert sent == heat.since(0)
    assert sent is not None
    first, *_, last = [*sent["columns"], sent["columns"][-1]]
    assert len(sent["columns"]) <= 4
    assert first[0] == 10
    assert last[2][1:] == [0, None, None]


@pytest.mark.parametrize("length", [1, 128, 129, 1000])
def test_a_long_list_has_few_rows_and_its_own_ends(length: int) -> None:
    heat = HeatMap(4, 0, True)
    heat.add(0, 10.0 ** np.linspace(-5, 0, length), 1)
    new = heat.since(0)
    assert new is not None
    ((_, size, values),) = new["columns"]
    assert size == length
    assert len(values) <= curves.ROWS
    assert values[-1] == pytest.approx(0, abs=5) or length == 1


def test_a_heat_map_takes_a_curriculum() -> None:
    heat = HeatMap(4, 0, False)
    for tick, length in enumerate([2, 2, 3, 5, 5, 8], 1):
        heat.add(tick, [0.25] * length, tick)
    new = heat.since(0)
    assert new is not None
    assert [column[1] for column in new["columns"]] == [2, 5, 8]
    assert all(value == 50 for column in new["columns"] for value in column[2])
