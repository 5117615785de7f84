"""Statistics of a sweep against scipy.stats, published numbers and counting by hand."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from rnnlab.sweeps.statistics import (
    aggregate,
    best_by,
    compare,
    holm,
    mean_band,
    mean_interval,
    median_reached,
    paired_test,
    ranked,
)

SAMPLES = [[1.0, 2.0, 4.0], [0.5, -0.5], [3e-7, 1e-7, 2e-7, 9e-7, 4e-7], [1e9, 1e9 + 1, 1e9 + 5]]


def row(name: str, seed: int, value: Any, status: str = "finished", **axes: Any) -> dict[str, Any]:
    return {"name": name, "m": value, "status": status, "axes": {"a": None, "b": None, **axes, "seed": seed}}


# --- intervals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", SAMPLES)
def test_an_interval_is_that_of_students_t(values):
    found = mean_interval(values)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    np.testing.assert_allclose([found.value, found.low, found.high], [np.mean(values), low, high], rtol=1e-12)
    assert found.count == len(values)


def test_a_single_value_has_a_mean_and_no_interval():
    found = mean_interval([0.25])
    assert (found.value, found.count) == (0.25, 1)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert math.isnan(mean_interval([]).value)


def test_a_band_leaves_out_what_is_not_there():
    rows = np.array([[1.0, 2.0, 4.0], [1.0, np.nan, 4.0], [np.nan, 3.0, np.nan], [np.nan] * 3])
    bands = np.stack(mean_band(rows), 1)
    for values, band in zip(rows, bands, strict=True):
        alone = mean_interval(values[~np.isnan(values)].tolist())
        np.testing.assert_array_equal(band, [alone.value, alone.low, alone.high])


# --- tests -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [*SAMPLES, [-0.1, 0.2, 0.3, -0.05], [5.0, 5.1, 4.9, 5.2]])
def test_the_paired_test_is_the_t_test_of_scipy(values):
    other = np.linspace(0.3, 2.0, len(values))
    expected = stats.ttest_rel(np.array(values) + other, other).pvalue
    differences = (np.array(values) + other) - other
    np.testing.assert_allclose(paired_test(differences.tolist()), expected, rtol=1e-9)


def test_equal_runs_show_nothing_and_what_has_no_t_is_not_tested():
    assert paired_test([0.0, 0.0, 0.0]) == 1.0
    assert paired_test([0.5, 0.5, 0.5]) is None
    assert paired_test([0.5]) is None
    assert paired_test([]) is None
    assert paired_test([0.5, math.nan]) is None


def test_wilcoxon_on_five_pairs_could_never_show_anything():
    assert stats.wilcoxon([1.0, 2.0, 3.0, 4.0, 5.0]).pvalue > 0.05


def test_holm_of_a_known_example():
    # Holm by hand: 0.005 · 4, 0.01 · 3, 0.03 · 2, 0.04 · 1 → 0.06, which may not be below the one before it.
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02], rtol=1e-15)
    assert holm([]) == []
    assert holm([0.4, 0.9]) == [0.8, 0.9]
    assert holm([0.7, 0.6]) == [1.0, 1.0]


def test_holm_rejects_what_its_step_down_rule_rejects():
    random = np.random.default_rng(0)
    for _ in range(50):
        p = random.random(7) ** 4
        rejected = set()
        for rank, index in enumerate(np.argsort(p)):  # The rule as it is published: stop at the first that stands.
            if p[index] > 0.05 / (7 - rank):
                break
            rejected.add(int(index))
        assert {i for i, value in enumerate(holm(p.tolist())) if value <= 0.05} == rejected


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sign", "worst"), [(-1.0, 0.9), (1.0, 0.1)])
def test_a_diverged_run_counts_as_the_worst_of_all_others_whatever_it_reached(sign, worst):
    rows = [
        row("0000", 0, 0.1, a="x"),
        row("0001", 1, 1e-9 if sign < 0 else 1e9, "diverged", a="x"),
        row("0002", 0, 0.9, a="y"),
        row("0003", 1, None, "diverged", a="y"),
        row("0004", 2, "inf", a="y"),
        row("0005", 3, "nan", a="y"),
    ]
    found = aggregate(rows, ["a"], "m", sign)
    x, y = found.settings
    assert found.worst == worst
    assert x.values == {0: 0.1, 1: worst}
    assert y.values == {0: 0.9, 1: worst, 2: worst, 3: worst}
    assert (x.diverged, y.diverged) == (1, 1)
    assert (x.lost, y.lost) == (["0001"], ["0003", "0004", "0005"])


def test_runs_that_are_not_over_are_in_no_number_and_those_without_the_metric_are_named():
    rows = [
        row("0000", 0, 1.0),
        row("0001", 1, 5.0, "interrupted"),
        row("0002", 2, None),
        row("0003", 3, 2.0, "waiting"),
    ]
    found = aggregate(rows, ["a"], "m", -1.0)
    assert [result.values for result in found.settings] == [{0: 1.0}]
    assert found.without == ["0002"]


def test_where_all_diverge_there_is_no_worst():
    found = aggregate([row("0000", 0, 3.0, "diverged"), row("0001", 1, None, "diverged")], ["a"], "m", -1.0)
    assert math.isnan(found.worst)
    assert math.isnan(found.settings[0].mean.value)


def test_the_best_of_a_group_is_by_the_sign_and_without_a_mean_last():
    rows = [row("0000", 0, 2.0, a="x", b=1), row("0001", 0, 3.0, a="x", b=2), row("0002", 0, 1.0, a="y", b=1)]
    for sign, best in ((-1.0, [2.0, 1.0]), (1.0, [3.0, 1.0])):
        settings = aggregate(rows, ["a", "b"], "m", sign).settings
        assert [(r.mean.value, count) for r, count in best_by(settings, ["a"], sign)] == list(
            zip(best, [2, 1], strict=True)
        )
        assert [r.mean.value for r in ranked(settings, sign)] == sorted([1.0, 2.0, 3.0], key=lambda v: -sign * v)


def test_the_median_to_the_threshold_counts_those_that_never_come_there():
    rows = [{"c": 100}, {"c": 300}, {"c": None}]
    assert median_reached(rows, "c") == (2, 300.0)
    assert median_reached([*rows, {"c": None}], "c") == (2, math.inf)
    assert median_reached([{"c": 100}, {"c": 300}], "c") == (2, 200.0)


# --- comparisons -----------------------------------------------------------------------------------------------------


def crossed(values: dict[tuple[str, int], list[float]], **more: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of settings (a, b) with a value for every seed; more: axis -> {value of a: value}."""
    return [
        row(f"{i:03}{seed}", seed, value, a=a, b=b, **{axis: of[a] for axis, of in more.items()})
        for i, ((a, b), seeds) in enumerate(values.items())
        for seed, value in enumerate(seeds)
    ]


VALUES = {("x", 1): [1.0, 2.0, 4.0], ("y", 1): [2.0, 2.5, 4.1], ("x", 2): [5.0, 5.0, 6.0], ("y", 2): [1.0, 0.5, 1.0]}


def test_a_setting_is_compared_with_the_one_that_has_the_baselines_values_and_else_the_same():
    found, alone = compare(aggregate(crossed(VALUES), ["a", "b"], "m", -1.0).settings, {"a": "x"})
    assert alone == []
    assert [(c.result.axes, c.baseline.axes) for c in found] == [
        ({"a": "y", "b": 1}, {"a": "x", "b": 1}),
        ({"a": "y", "b": 2}, {"a": "x", "b": 2}),
    ]
    p = [stats.ttest_rel(VALUES["y", b], VALUES["x", b]).pvalue for b in (1, 2)]
    np.testing.assert_allclose([c.p for c in found], p, rtol=1e-9)
    np.testing.assert_allclose([c.adjusted for c in found], holm(p), rtol=1e-9)
    np.testing.assert_allclose([c.difference.value for c in found], [np.mean([1.0, 0.5, 0.1]), -4.5])


def test_a_baseline_of_all_axes_is_one_setting():
    found, alone = compare(aggregate(crossed(VALUES), ["a", "b"], "m", -1.0).settings, {"a": "x", "b": 2.0})
    assert alone == []
    assert [c.baseline.axes for c in found] == [{"a": "x", "b": 2}] * 3


def test_what_goes_with_the_baselines_axis_need_not_be_the_same():
    rows = crossed(VALUES, rate={"x": 0.1, "y": 0.2})
    found, alone = compare(aggregate(rows, ["a", "b", "rate"], "m", -1.0).settings, {"a": "x"})
    assert alone == []
    assert [c.baseline.axes["rate"] for c in found] == [0.1, 0.1]


def test_pairs_are_of_the_same_seed_whatever_the_order_and_only_of_seeds_that_both_have():
    rows = [row("0", 0, 1.0, a="x"), row("1", 1, 5.0, a="x"), row("2", 2, 7.0, a="x")]
    rows += [row("3", 2, 7.5, a="y"), row("4", 3, 99.0, a="y"), row("5", 0, 1.25, a="y")]
    ((found,), _) = compare(aggregate(rows, ["a"], "m", -1.0).settings, {"a": "x"})
    assert (found.difference.value, found.difference.count) == (0.375, 2)


def test_a_setting_without_a_partner_is_named_and_not_compared():
    values = {key: seeds for key, seeds in VALUES.items() if key != ("x", 2)}
    found, alone = compare(aggregate(crossed(values), ["a", "b"], "m", -1.0).settings, {"a": "x"})
    assert [c.result.axes for c in found] == [{"a": "y", "b": 1}]
    assert [result.axes for result in alone] == [{"a": "y", "b": 2}]
