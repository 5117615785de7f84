"""What the table of cures says of a cure's runs. What is measured is `rnnlab.training.loop`'s."""

import math

import pytest

from scripts.measure_mitigations import describe

LOSSES = {
    "one exploded run does not decide": ([0.17, 3960.0, 0.166], "0.17 (0.166 to 3960)"),
    "two": ([0.1, 0.2], "0.15 (0.1 to 0.2)"),
    "one of three diverged": ([0.2, math.nan, 0.1], "0.2 (0.1 to 0.2), 1 of 3 diverged"),
    "half of them": ([0.1, math.inf], "– (0.1), 1 of 2 diverged"),
    "all": ([math.nan, math.nan], "–, 2 of 2 diverged"),
}


@pytest.mark.parametrize(("losses", "words"), LOSSES.values(), ids=LOSSES)
def test_runs_have_a_median_and_a_range_and_no_number_stands_for_a_diverged_one(losses, words) -> None:
    runs = [{"test": {"loss": loss, "within_0.04": 0.5} if not math.isnan(loss) else {}} for loss in losses]
    assert describe({"runs": runs}) == words


def test_of_an_accuracy_a_diverged_run_is_the_lowest() -> None:
    runs = [{"test": {"accuracy": value, "loss": 0.3}} for value in (0.9, 0.8)]
    assert describe({"runs": [*runs, {"test": {}}]}) == "0.8 (0.8 to 0.9), 1 of 3 diverged"
