"""What the study says of its results: sentences with their numbers, fits, and figures."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from scripts.study.comparison import Numbers, error_ratio, numbers_of
from scripts.study.cures import APART, CURES
from scripts.study.figures import joined
from scripts.study.relations import common_slope, families_of, growth, left_of_gradient
from tests.scripts.study_results import content_of, pages_of, write_result


def spread(middle: float) -> list[float]:
    """Eight values around one."""
    return [middle * (1 + 0.01 * n) for n in range(-4, 4)]


@pytest.fixture
def page_of(tmp_path: Path) -> Callable[..., str]:
    """Writes entries into a folder of results, and returns the page that is made of them."""

    def made(*entries: dict[str, Any]) -> str:
        for one in entries:
            write_result(tmp_path / "results", one)
        return pages_of(tmp_path / "results").study

    return made


# --- cells and cures -------------------------------------------------------------------------------------------------


def test_where_no_cell_solves_a_task_the_page_names_the_best(page_of: Callable[..., str]) -> None:
    text = page_of(
        *(
            content_of("cells", "permuted_rows", method, spread(share), [None] * 8, metric="accuracy")
            for method, share in (("lstm", 0.8), ("lem", 0.9), ("gru", 0.7), ("irnn", 0.5))
        )
    )
    assert (
        "; 4 of the 18 cells so far): none solves it within 1000 steps; the best accuracy is that of lem 0.896 ("
        in text
    )
    assert "with 8 seeds of its own beside those that chose: cells 4 of 198, cures 0 of 190," in text
    assert text.index("lem 0.896") < text.index("lstm 0.796") < text.index("gru 0.69")


def test_an_overview_says_who_solves_what_the_best_first(page_of: Callable[..., str]) -> None:
    text = page_of(
        content_of("cells", "adding_200", "gru", spread(0.1), [None] * 8),
        content_of("cells", "adding_200", "lem", spread(0.1), [40, 60] * 4),
        content_of("cells", "copying_50", "lem", spread(0.1), [40] * 3 + [None] * 5),
        content_of("cells", "copying_50", "irnn", spread(0.1), [40] + [None] * 7),
        content_of("cells", "japanese_vowels", "gru", spread(0.9), [None] * 8, metric="accuracy"),
    )
    assert "7 to 29 steps; 1 of the 18 cells so far): the best accuracy is that of gru 0.896 (" in text
    table = text[text.index("| cell |") :].split("\n\n")[0].splitlines()
    assert table[0] == "| cell | adding 200 | copying 50 | japanese vowels |"
    assert table[2:] == ["| lem | 50 | 3 of 8 |  |", "| irnn |  | 1 of 8 |  |", "| gru | none |  | 0.896 |"]


def test_ranks_are_drawn_over_tasks_with_enough_cells(page_of: Callable[..., str], tmp_path: Path) -> None:
    cells = [f"cell{number:02}" for number in range(12)]
    for count, drawn in ((11, False), (12, True)):
        text = page_of(
            *(
                content_of("cells", task, cell, spread(1 + number), [None] * 8)
                for task in ("adding_200", "copying_50")
                for number, cell in enumerate(cells[:count])
            )
        )
        assert ("Mean ranks of 12 cells over 2 tasks" in text) == drawn
        assert ("![Mean ranks of the cells](results/ranks.png)" in text) == drawn
        assert (tmp_path / "results" / "ranks.png").exists() == drawn
    assert "cell00 1.0, cell01 2.0" in text


def test_bars_join_ranks_that_are_close_and_none_is_within_another() -> None:
    assert joined([1.0, 2.0, 2.5, 6.0], 1.6) == [(0, 2)]
    assert joined([1.0, 2.0, 3.0, 4.0], 1.5) == [(0, 1), (1, 2), (2, 3)]
    assert joined([1.0, 5.0], 2.0) == []
    assert joined([1.0, 3.0], 2.0) == []  # As far as the critical difference is different.


def test_the_first_lines_say_what_was_found_with_its_numbers(page_of: Callable[..., str]) -> None:
    cells = [f"cell{number:02}" for number in range(12)]
    text = page_of(
        *(
            content_of("cells", task, cell, spread(1 + n), [40 * steps] * 8, 1 - 1 / (n + 2))
            for n, cell in enumerate(cells)
            for task, steps in (("adding_200", 13 - n), ("copying_50", max(1, n)))
        ),
        *(content_of("cells", "parity_40", cell, spread(1), [None] * 8) for cell in cells),
        *(content_of("cells", "japanese_vowels", cell, spread(0.9), [None] * 8, metric="accuracy") for cell in cells),
        content_of("cells", "temporal_order_200", "gru", spread(1), [40] * 8),  # One cell alone.
        content_of("cures", "adding_100", "lstm", spread(0.1), [None] * 8),
        content_of("cures", "adding_100", "lstm+chrono", spread(0.01), [100] * 8),
        content_of("cures", "adding_100", "lstm+averaging", spread(0.1001), [None] * 8),
    ).splitlines()[4:16]
    words, _, _, _, adding, copying, parity, vowels, _, before, cures, on_adding = text
    assert words.startswith("The first cells that solve a task with every seed, and the median step at which they do")
    first = "cell11 80 (80 to 80), cell10 120 (120 to 120), cell09 160 (160 to 160)"
    assert adding == f"| two numbers, marked (adding 200) | {first} | 12 of 12 | 0 of 12 | 3000 steps |"
    first = "cell00 ≤ 40 (40 to 40), cell01 ≤ 40 (40 to 40), cell02 80 (80 to 80)"
    assert (
        copying
        == f"| ten symbols in order, at a fixed delay (copying 50) | {first} | 12 of 12 | 0 of 12 | 3000 steps |"
    )
    assert parity.endswith(" (parity 40) | none | 0 of 12 | 12 of 12 | 1000 steps |")
    assert " (japanese vowels) | cell00 0.896 (0." in vowels
    assert vowels.endswith("); none shown to be better than the lstm | – | – | 1000 steps |")
    start = "- **Before training.** How much a cell's untrained gradient changes per time step is shown to go with how "
    start += (
        "soon it solves adding 200, sooner where it changes less (ρ = 1.00 (1.00 to 1.00, p = 0.0001)); copying 50, "
    )
    start += "sooner where it changes more (ρ = -1.00 (-1.00 to -0.99, "
    assert before.startswith(start)
    assert cures.startswith(
        "- **Cures.** The test error with a cure over that of the same cell without it; below 1 is "
    )
    assert on_adding == (
        "    - adding 100. Shown to be better: chrono with lstm 0.1 (0.0974 to 0.103), solved by 8 of 8 seeds, without "
        "it by 0. Shown to be worse: none. Shown to solve it in fewer steps: chrono with lstm step 100 (100 to 100), "
        "without it solved by 0 of 8. Nothing shown: 1 of 2 pairs."
    )


def test_a_cell_that_solves_nothing_is_marked_where_its_rates_were_pruned_on_a_plateau(
    page_of: Callable[..., str],
) -> None:
    entries = [content_of("cells", "adding_200", cell, spread(0.1), [None] * 8) for cell in ("lstm", "gru", "lem")]
    entries += [content_of("cells", "adding_200", "irnn", spread(0.1), [40] * 8)]
    plateau, apart = [0.3, 0.1672, 0.1671, 0.05], [0.1690, 0.1691, 0.1670, 0.05]
    for one, means in zip(entries, (plateau, apart, [None, None, 0.1, 0.2], plateau), strict=True):
        one["tuning"] = [{"mean": mean, "steps": 1000 * (1 + (n >= 2))} for n, mean in enumerate(means)]
    text = page_of(*entries)
    rows = text[text.index("| cell |") :].split("\n\n")[0].splitlines()
    assert rows[2:] == ["| irnn | 40 |", "| gru | none |", "| lem | none |", "| lstm | none° |"]
    assert "“°”: a rate that was pruned at the first rung was within 1 % of one that went on" in text


def test_a_cure_is_said_to_help_or_hurt_by_the_corrected_test_alone(page_of: Callable[..., str]) -> None:
    text = page_of(
        content_of("cures", "adding_100", "lstm", spread(0.1), [None] * 8),
        content_of("cures", "adding_100", "lstm+chrono", spread(0.01), [100] * 8),
        content_of("cures", "adding_100", "lstm+gradient_noise", spread(0.2), [None] * 8),
        content_of("cures", "adding_100", "lstm+averaging", spread(0.1001), [None] * 8),
    )
    (line,) = [line for line in text.splitlines() if line.startswith("- **adding 100**")]
    better = "Shown to be better: chrono with lstm 0.1 (0.0974 to 0.103), solved by 8 of 8 seeds, without it by 0. "
    assert f"{better}Shown to be worse: gradient noise with lstm 2 (1.95 to 2.05). Shown to solve it in fewer " in line
    assert (
        " fewer steps: chrono with lstm step 100 (100 to 100), without it solved by 0 of 8. Nothing shown: 1 of 3 "
        in line
    )
    assert line.endswith(" Run so far of those meant for this task: averaging, chrono, gradient_noise.")
    assert "![The test error with each cure](results/cures.png)" in text


def test_cells_without_any_cure_are_no_finding(page_of: Callable[..., str]) -> None:
    text = page_of(content_of("cures", "adding_100", "lstm", spread(0.1), [None] * 8))
    assert "Which cure" not in text
    assert "cures.png" not in text
    assert "### Cures on adding 100" in text


def test_the_table_of_cures_has_what_each_did_and_why_others_are_left_out(tmp_path: Path) -> None:
    for method, values, solved in (
        ("lstm", spread(0.1), [None] * 8),
        ("lstm+chrono", spread(0.01), [100] * 8),
        ("lstm+clip_norm", spread(0.1001), [None] * 8),
        ("gru+clip_norm", spread(0.01), [None] * 8),  # The GRU without it is missing.
        ("lstm+attention_dot", [0.0] * 8, [100] * 8),
    ):
        write_result(tmp_path, content_of("cures", "adding_100", method, values, solved))
    lines = pages_of(tmp_path).cures.splitlines()
    table = [line.split(" | ") for line in lines if " | " in line]
    rows = {cells[0].removeprefix("| ").partition("<br>")[0]: cells for cells in table}
    assert set(rows) >= {name.replace("_", " ") for name in CURES} | set(APART)
    assert rows["chrono"][0] == "| chrono<br>`model.cell.chrono` 50, 100, 200, 400"
    shown = "0.1 (0.0974 to 0.103), solved by 8 of 8 seeds, without it by 0"
    assert rows["chrono"][3:] == [f"lstm **{shown}**, **step 100 (100 to 100), without it solved by 0 of 8**", "– |"]
    assert list(rows).index("chrono") < list(rows).index("zoneout")  # Which has no result.
    assert rows["clip norm"][3].startswith("lstm 1 (0.9")
    assert rows["attention dot"][3].startswith("lstm **solved by 8 of 8 seeds, without it by 0**, **step 100 (100 to ")
    assert rows["pixel shift"][3] == "not run"
    assert rows["highway"][3] == "networks of the study have one layer |"


def test_ratios_of_errors_are_welchs_and_lost_runs_are_left_out() -> None:
    rng = np.random.default_rng(0)
    mine, other = np.exp(rng.normal(0, 0.3, 8)), np.exp(rng.normal(1, 0.9, 8))
    n, base = (numbers_of(content_of("cures", "t", "m", list(v), [None] * 8)) for v in (mine, other))
    ratio = error_ratio(n, base)
    interval = stats.ttest_ind(np.log(mine), np.log(other), equal_var=False).confidence_interval()
    assert (ratio.low, ratio.high) == pytest.approx((math.exp(interval.low), math.exp(interval.high)))
    lost = numbers_of(content_of("cures", "t", "m", [*mine, math.inf], [None] * 9))
    assert error_ratio(lost, base) == ratio
    accuracy = numbers_of(content_of("cures", "t", "m", list(1 - mine / 10), [None] * 8, metric="accuracy"))
    accuracy_base = numbers_of(content_of("cures", "t", "m", list(1 - other / 10), [None] * 8, metric="accuracy"))
    assert error_ratio(accuracy, accuracy_base).value == pytest.approx(ratio.value)
    zero = numbers_of(content_of("cures", "t", "m", [0.0] * 8, [10] * 8))
    assert math.isnan(error_ratio(zero, base).value)


# --- initialisation and lengths --------------------------------------------------------------------------------------


def initialised(method: str, factor: float, steps: int | None) -> dict[str, Any]:
    """An entry of an initialisation, with the gradient's factor a step."""
    return content_of("initialisation", "adding_100", method, spread(0.01), [steps] * 8, factor)


def test_a_planted_slope_is_found_within_families_and_its_exception_named(page_of: Callable[..., str]) -> None:
    """Each decade of gradient that is lost doubles the steps, of each family from steps of its own."""
    fading = [
        initialised(f"{family}_{n}", 10 ** (-n / 100), round(first * 2**n) if n < 8 else None)
        for family, first in (("relu_gain", 100), ("lstm_forget", 1000))
        for n in range(1, 11)
    ]
    families = families_of([numbers_of(one) for one in fading])
    assert list(families) == ["relu_gain", "lstm_forget"]
    relu = families["relu_gain"]
    assert relu.left == pytest.approx([-n for n in range(1, 11)])
    ranks = [*range(1, 8), 9, 9, 9]
    assert relu.known["time to solve"].rho == pytest.approx(stats.spearmanr(range(1, 11), ranks).statistic)
    assert "test error" not in relu.known  # All have the same.
    common = common_slope(families)
    assert common is not None
    assert common.slope.value == pytest.approx(math.log10(2))
    assert common.intercepts == {"relu_gain": pytest.approx(2), "lstm_forget": pytest.approx(3)}
    assert common.r_squared == pytest.approx(1)
    assert common.exceptions == []
    odd = initialised("relu_gain_3.5", 10 ** (-3.5 / 100), 100_000)
    common = common_slope(families_of([numbers_of(one) for one in [*fading, odd]]))
    assert common is not None
    assert common.exceptions == ["relu_gain_3.5 at 100"]
    text = page_of(*fading, odd)
    assert "- **relu gain**: 8 of 11 are solved by most seeds; Spearman's ρ of |log10" in text
    assert "One slope for all 15 that are solved, a line for each family: log10 of the steps grows by " in text
    assert "Exceptions: relu_gain_3.5 at 100." in text
    assert "(results/initialisation.png)" in text


def test_a_common_slope_is_that_of_a_regression_with_an_intercept_for_each_family() -> None:
    """Of least squares with two dummy variables, solved by NumPy."""
    rng = np.random.default_rng(0)
    left, steps = rng.uniform(0.5, 8, (2, 6)), rng.integers(50, 3000, (2, 6))
    entries = [
        initialised(f"f{of}_{n}", 10 ** (-left[of, n] / 100), int(steps[of, n])) for of in range(2) for n in range(6)
    ]
    common = common_slope(families_of([numbers_of(one) for one in entries]))
    assert common is not None
    y = np.log10(steps).ravel()
    design = np.stack([left.ravel(), np.repeat([1, 0], 6), np.repeat([0, 1], 6)], 1)
    (slope, *intercepts), (rest,), *_ = np.linalg.lstsq(design, y)
    error = math.sqrt(rest / 9 * np.linalg.inv(design.T @ design)[0, 0])
    assert common.slope.value == pytest.approx(slope)
    assert common.slope.high - common.slope.value == pytest.approx(stats.t.ppf(0.975, 9) * error)
    assert list(common.intercepts.values()) == pytest.approx(intercepts)
    assert common.r_squared == pytest.approx(1 - rest / (6 * np.log10(steps).var(1)).sum())


def test_where_nothing_is_solved_the_test_error_says_whether_the_gradient_foretold_it(
    page_of: Callable[..., str],
) -> None:
    fading = [
        content_of("initialisation", "adding_100", f"tanh_gain_{n}", spread(0.01 * n), [None] * 8, 10 ** (-n / 100))
        for n in range(1, 6)
    ]
    families = families_of([numbers_of(one) for one in fading])
    (of_errors,) = families["tanh_gain"].known.values()  # None is solved, so that there is no time to solve.
    assert of_errors.rho == pytest.approx(1)
    assert common_slope(families) is None
    text = page_of(*fading)
    assert "0 of 5 are solved by most seeds; Spearman's ρ of |log10 of what is left of the gradient after T" in text
    signed = "without the bars, so that a gradient that grows is more than one that stays, it is -1.00 with the test"
    assert f"is 1.00 (1.00 to 1.00, p = 0.017) with the test error; {signed} error." in text
    short = "is related to the time to solve or the error, within families of one cell and one number. Spearman's ρ: "
    short += "test error 1.00 (tanh gain); the least p, uncorrected, is 0.017."
    assert short in text
    assert "nan" not in text.partition("## Tables")[0]


def test_a_gradient_that_grows_is_as_far_from_the_edge_as_one_that_fades() -> None:
    assert left_of_gradient(numbers_of(initialised("a", 10**0.02, 10))) == pytest.approx(2)
    assert math.isnan(left_of_gradient(numbers_of(initialised("a", 0.0, 10))))
    assert families_of([numbers_of(initialised("a_1", 0.0, 10))] * 5) == {}


def solving(length: int, steps: list[int | None]) -> Numbers:
    """An entry of a length."""
    return numbers_of(
        content_of("lengths", f"adding_{length}", "lem", spread(0.01), steps, length=length, eval_every=6)
    )


def test_a_planted_power_of_the_length_is_found_from_lengths_that_every_seed_solves() -> None:
    planted = {length: solving(length, [round(3 * length**1.5)] * 8) for length in (100, 400, 900)}
    fit = growth(planted | {1600: solving(1600, [10] * 4 + [None] * 4)})
    assert fit.exponent.value == pytest.approx(1.5)
    assert fit.exponent.low < 1.5 < fit.exponent.high
    assert fit.exponent.high - fit.exponent.low < 0.001  # 6 steps between evaluations beside 3000 and more.
    assert fit.factor == pytest.approx(3)
    assert (fit.lengths, fit.unsolved) == ([100, 400, 900], [1600])
    assert math.isnan(growth({100: planted[100]}).exponent.value)
    flat = growth({length: solving(length, [240] * 8) for length in (100, 400, 900)}).exponent
    assert flat.value == pytest.approx(0, abs=1e-12)
    # The median of eight that are uniform over 6 steps of 240 has a deviation of 1 step.
    assert -flat.low == pytest.approx(flat.high, rel=0.2)
    assert 0.002 < flat.high < 0.01
    two = growth({length: planted[length] for length in (100, 400)}).exponent
    assert (two.value, two.low, two.high) == pytest.approx((1.5, 1.5, 1.5), abs=0.001)


def test_the_interval_of_an_exponent_is_that_of_seeds_drawn_anew() -> None:
    """Half of the seeds take twice as long at T = 400: medians of eight drawn anew are 200, 300 or 400, beside 100 at
    T = 100, each end with a chance far above a fortieth."""
    fit = growth({100: solving(100, [100] * 8), 400: solving(400, [200] * 4 + [400] * 4)}).exponent
    assert fit.value == pytest.approx(math.log(3) / math.log(4))
    assert (fit.low, fit.high) == pytest.approx((0.5, 1), abs=0.03)  # Steps are known to 6.


def test_the_page_has_the_exponents_and_what_is_not_solved(page_of: Callable[..., str]) -> None:
    text = page_of(
        *(
            content_of("lengths", f"adding_{length}", "lem", spread(0.01), [steps] * 8, length=length, eval_every=6)
            for length, steps in ((100, 300), (200, 600), (500, 1500), (1000, None))
        )
    )
    assert (
        "- **lem**: every seed solves T = 100, 200, 500; steps grow as T to the power 1.00 (1.00 to 1.00, 3 lengths); "
        "not T = 1000." in text
    )
    words = (
        "- **Lengths.** The steps that solve the adding problem grow with T to the power of: lem 1.00 (1.00 to 1.00; "
    )
    assert f"{words}up to T = 500).\n" in text
    assert "(results/lengths.png)" in text
