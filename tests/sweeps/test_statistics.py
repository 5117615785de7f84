"""Statistics of a sweep against scipy.stats, published numbers and counting by hand."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from rnnlab.sweeps.report.comparison import compare, compare_shares, partners
from rnnlab.sweeps.statistics import (
    LOGARITHMS,
    NOT_NEGATIVE,
    PLAIN,
    SHARE,
    Scale,
    aggregate,
    best_by,
    exact_test,
    holm,
    mean_band,
    mean_interval,
    median_reached,
    paired_test,
    ranked,
    scale_of,
)

SAMPLES = [[1.0, 2.0, 4.0], [0.5, -0.5], [3e-7, 1e-7, 2e-7, 9e-7, 4e-7], [1e9, 1e9 + 1, 1e9 + 5]]


def row(name: str, seed: int, value: Any, status: str = "finished", **axes: Any) -> dict[str, Any]:
    return {"name": name, "m": value, "status": status, "axes": {"a": None, "b": None, **axes, "seed": seed}}


# --- intervals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", SAMPLES)
def test_an_interval_is_that_of_students_t(values):
    mean = mean_interval(values)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    np.testing.assert_allclose([mean.value, mean.low, mean.high], [np.mean(values), low, high], rtol=1e-12)
    assert mean.count == len(values)


def test_a_single_value_has_a_mean_and_no_interval():
    mean = mean_interval([0.25])
    assert (mean.value, mean.count) == (0.25, 1)
    assert math.isnan(mean.low)
    assert math.isnan(mean.high)
    assert math.isnan(mean_interval([]).value)


def test_a_band_leaves_out_what_is_not_there():
    rows = np.array([[1.0, 2.0, 4.0], [1.0, np.nan, 4.0], [np.nan, 3.0, np.nan], [np.nan] * 3])
    bands = np.stack(mean_band(rows), 1)
    for values, band in zip(rows, bands, strict=True):
        alone = mean_interval(values[~np.isnan(values)].tolist())
        np.testing.assert_array_equal(band, [alone.value, alone.low, alone.high])


POSITIVE = [[1e-3, 2e-3, 0.17], [1e21, 1e-3], [3e-7, 1e-7, 2e-7, 9e-7, 4e-7], [700.0, 701.0, 702.0]]


@pytest.mark.parametrize("values", POSITIVE)
def test_an_interval_of_what_cannot_be_negative_is_students_t_of_the_logarithms(values):
    mean = mean_interval(values, LOGARITHMS)
    logs = np.log(values)
    low, high = np.exp(stats.t.interval(0.95, len(values) - 1, loc=logs.mean(), scale=stats.sem(logs)))
    np.testing.assert_allclose([mean.value, mean.low, mean.high], [stats.gmean(values), low, high], rtol=1e-10)
    assert 0 < mean.low < mean.value < mean.high


@pytest.mark.parametrize(
    ("values", "scale", "ends"),
    [
        ([0.99, 0.5, 0.98], SHARE, (0.0, 1.0)),
        ([0.0, 0.0, 1.0], SHARE, (0.0, 1.0)),
        ([0.0, 0.0, 3.0], NOT_NEGATIVE, (0.0, math.inf)),
    ],
)
def test_an_interval_is_cut_where_no_value_can_be(values, scale, ends):
    whole = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert whole[0] < ends[0] or whole[1] > ends[1]
    mean = mean_interval(values, scale)
    np.testing.assert_allclose([mean.low, mean.high], np.clip(whole, *ends), rtol=1e-12)


@pytest.mark.parametrize(
    ("values", "share", "scale"),
    [
        ([0.1, 5.0], False, LOGARITHMS),
        ([0.0, 5.0], False, NOT_NEGATIVE),
        ([-0.1, 5.0], False, PLAIN),
        ([0.1, 0.9], True, SHARE),
        ([0.0, 1.0], True, SHARE),
        ([0.1, 1.2], True, LOGARITHMS),
        ([0.1, math.nan, -math.inf], False, LOGARITHMS),
        ([], False, PLAIN),
        ([math.nan], True, PLAIN),
    ],
)
def test_the_scale_of_a_metric_follows_from_its_values_and_whether_it_is_a_share(values, share, scale):
    assert scale_of(values, share) == scale


def test_a_band_has_the_scale_of_its_intervals():
    rows = np.array([[1.0, 2.0, 4.0], [1.0, np.nan, 4.0], [np.nan, 3.0, np.nan]])
    for scale in (LOGARITHMS, SHARE, NOT_NEGATIVE):
        for values, band in zip(rows, np.stack(mean_band(rows, scale), 1), strict=True):
            alone = mean_interval(values[~np.isnan(values)].tolist(), scale)
            np.testing.assert_array_equal(band, [alone.value, alone.low, alone.high])


# --- tests -----------------------------------------------------------------------------------------------------------


def by_counting(count: int, of: int, other_count: int, other_of: int) -> float:
    """Fisher's p by every way of handing out the runs that came to it: the share of those no likelier than this one."""
    total, every = count + other_count, math.comb(of + other_of, count + other_count)
    ways = [math.comb(of, k) * math.comb(other_of, total - k) for k in range(total + 1)]
    return sum(way for way in ways if way <= ways[count]) / every


def test_the_exact_test_is_that_of_counting_every_way():
    for of, other_of in ((5, 5), (3, 5), (1, 4), (2, 2)):
        for count in range(of + 1):
            for other in range(other_of + 1):
                p = exact_test(count, of, other, other_of)
                assert p == pytest.approx(by_counting(count, of, other, other_of), rel=1e-12)


def test_five_of_five_against_none_of_five_is_two_of_252_ways():
    assert exact_test(5, 5, 0, 5) == pytest.approx(2 / 252, rel=1e-12)
    assert holm([exact_test(5, 5, 0, 5)] * 6 + [1.0] * 36)[0] == pytest.approx(1 / 3, rel=1e-12)


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
def test_a_diverged_run_has_no_value_whatever_it_reached_and_is_the_worst_in_the_order_alone(sign, worst):
    rows = [
        row("0000", 0, 0.1, a="x"),
        row("0001", 1, 1e-9 if sign < 0 else 1e9, "diverged", a="x"),
        row("0002", 0, 0.9, a="y"),
        row("0003", 1, None, "diverged", a="y"),
        row("0004", 2, "inf", a="y"),
        row("0005", 3, "nan", a="y"),
    ]
    results = aggregate(rows, ["a"], "m", sign)
    x, y = results.settings
    assert results.worst == worst
    assert (x.values, y.values) == ({0: 0.1}, {0: 0.9})
    assert (x.score, y.score) == pytest.approx(((0.1 + worst) / 2, (0.9 + 3 * worst) / 4), rel=1e-15)
    assert (x.mean(PLAIN).value, x.mean(PLAIN).count) == (0.1, 1)
    assert (x.diverged, y.diverged) == (1, 1)
    assert (x.lost, y.lost) == (["0001"], ["0003", "0004", "0005"])


def test_runs_that_are_not_over_are_in_no_number_and_those_without_the_metric_are_named():
    rows = [
        row("0000", 0, 1.0),
        row("0001", 1, 5.0, "interrupted"),
        row("0002", 2, None),
        row("0003", 3, 2.0, "waiting"),
    ]
    results = aggregate(rows, ["a"], "m", -1.0)
    assert [result.values for result in results.settings] == [{0: 1.0}]
    assert results.without == ["0002"]


def test_where_all_diverge_there_is_no_worst():
    results = aggregate([row("0000", 0, 3.0, "diverged"), row("0001", 1, None, "diverged")], ["a"], "m", -1.0)
    assert math.isnan(results.worst)
    assert math.isnan(results.settings[0].score)
    assert math.isnan(results.settings[0].mean(PLAIN).value)


def test_the_best_of_a_group_is_by_the_sign_and_without_a_mean_last():
    rows = [row("0000", 0, 2.0, a="x", b=1), row("0001", 0, 3.0, a="x", b=2), row("0002", 0, 1.0, a="y", b=1)]
    for sign, best in ((-1.0, [2.0, 1.0]), (1.0, [3.0, 1.0])):
        settings = aggregate(rows, ["a", "b"], "m", sign).settings
        assert [(r.mean(PLAIN).value, count) for r, count in best_by(settings, ["a"], sign)] == list(
            zip(best, [2, 1], strict=True)
        )
        assert [r.mean(PLAIN).value for r in ranked(settings, sign)] == sorted([1.0, 2.0, 3.0], key=lambda v: -sign * v)


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


def settings_of(rows: list[dict[str, Any]], axes: list[str]) -> Any:
    return aggregate(rows, axes, "m", -1.0).settings


@pytest.mark.parametrize("scale", [PLAIN, LOGARITHMS, SHARE, NOT_NEGATIVE])
def test_a_setting_is_compared_with_the_one_that_has_the_baselines_values_and_else_the_same(scale: Scale):
    pairs, alone = partners(settings_of(crossed(VALUES), ["a", "b"]), {"a": "x"})
    assert alone == []
    assert [(a.axes, b.axes) for a, b in pairs] == [({"a": "y", "b": b}, {"a": "x", "b": b}) for b in (1, 2)]
    comparisons = compare(pairs, scale)
    change, back = (np.log, np.exp) if scale.logarithms else (np.asarray, np.asarray)
    values = {key: change(seeds) for key, seeds in VALUES.items()}
    p = [stats.ttest_rel(values["y", b], values["x", b]).pvalue for b in (1, 2)]
    np.testing.assert_allclose([c.p for c in comparisons], p, rtol=1e-9)
    np.testing.assert_allclose([c.adjusted for c in comparisons], holm(p), rtol=1e-9)
    for b, each in zip((1, 2), comparisons, strict=True):
        differences = values["y", b] - values["x", b]
        interval = stats.t.interval(0.95, 2, loc=differences.mean(), scale=stats.sem(differences))
        expected = back([differences.mean(), *interval])
        contrast = each.contrast
        np.testing.assert_allclose([contrast.value, contrast.low, contrast.high], expected, rtol=1e-9)
        assert contrast.count == 3


def test_a_baseline_of_all_axes_is_one_setting():
    pairs, alone = partners(settings_of(crossed(VALUES), ["a", "b"]), {"a": "x", "b": 2.0})
    assert alone == []
    assert [other.axes for _, other in pairs] == [{"a": "x", "b": 2}] * 3


def test_what_goes_with_the_baselines_axis_need_not_be_the_same():
    rows = crossed(VALUES, rate={"x": 0.1, "y": 0.2})
    pairs, alone = partners(settings_of(rows, ["a", "b", "rate"]), {"a": "x"})
    assert alone == []
    assert [other.axes["rate"] for _, other in pairs] == [0.1, 0.1]


def test_pairs_are_of_the_same_seed_whatever_the_order_and_only_of_seeds_that_both_have():
    rows = [row("0", 0, 1.0, a="x"), row("1", 1, 5.0, a="x"), row("2", 2, 7.0, a="x")]
    rows += [row("3", 2, 7.5, a="y"), row("4", 3, 99.0, a="y"), row("5", 0, 1.25, a="y")]
    (comparisons,) = compare(partners(settings_of(rows, ["a"]), {"a": "x"})[0], PLAIN)
    assert (comparisons.contrast.value, comparisons.contrast.count) == (0.375, 2)


def test_a_setting_without_a_partner_is_named_and_not_compared():
    values = {key: seeds for key, seeds in VALUES.items() if key != ("x", 2)}
    pairs, alone = partners(settings_of(crossed(values), ["a", "b"]), {"a": "x"})
    assert [setting.axes for setting, _ in pairs] == [{"a": "y", "b": 1}]
    assert [result.axes for result in alone] == [{"a": "y", "b": 2}]


@pytest.mark.parametrize("worst", [0.5, 5.0, 5e3, 1e21])
@pytest.mark.parametrize("scale", [PLAIN, LOGARITHMS])
def test_p_does_not_depend_on_the_worst_value_of_other_runs(worst: float, scale: Scale):
    values = {"x": [0.1, 0.12, 0.11, 0.13, 0.1], "y": [0.05, 0.07, 0.04, 0.3, 0.3]}
    rows = [
        row(f"{a}{seed}", seed, value, "diverged" if value == 0.3 else "finished", a=a)
        for a, seeds in values.items()
        for seed, value in enumerate(seeds)
    ]
    settings = settings_of([*rows, row("z", 0, worst, a="z")], ["a"])
    comparisons = [c for c in compare(partners(settings, {"a": "x"})[0], scale) if c.result.axes["a"] == "y"]
    change = np.log if scale.logarithms else np.asarray
    expected = stats.ttest_rel(change(values["y"][:3]), change(values["x"][:3])).pvalue
    assert [c.p for c in comparisons] == pytest.approx([expected], rel=1e-9)
    assert [c.contrast.count for c in comparisons] == [3]  # Five pairs of runs, of which three have both values.


def test_shares_are_of_all_runs_and_corrected_for_all_comparisons():
    lost = {"x": 0, "y": 5, "z": 2, "w": 0}
    rows = [
        row(f"{a}{seed}", seed, 1.0 + seed, "diverged" if seed < count else "finished", a=a)
        for a, count in lost.items()
        for seed in range(5)
    ]
    shares = compare_shares(partners(settings_of(rows, ["a"]), {"a": "x"})[0], lambda result: len(result.lost))
    assert [(each.count, each.of, each.baseline_count, each.baseline_of) for each in shares] == [
        (5, 5, 0, 5),
        (2, 5, 0, 5),
        (0, 5, 0, 5),
    ]
    p = [stats.fisher_exact([[n, 5 - n], [0, 5]])[1] for n in (5, 2, 0)]
    assert [each.p for each in shares] == pytest.approx(p, rel=1e-12)
    assert [each.adjusted for each in shares] == pytest.approx([3 * p[0], 2 * p[1], 1.0], rel=1e-12)
