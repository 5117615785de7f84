"""The study: its entries, what it chooses, its statistics, and its page."""

import dataclasses
import itertools
import json
import math
import os
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flax import nnx
from scipy import stats

from rnnlab.config.errors import ConfigError
from rnnlab.config.schema import resolve
from rnnlab.records.folders import SweepDir
from rnnlab.records.workdir import Workdir
from rnnlab.sweeps.spec.halving import Halving
from rnnlab.sweeps.spec.sections import SweepOptions
from rnnlab.sweeps.spec.space import expand
from rnnlab.sweeps.statistics import holm
from scripts.study import __main__ as command
from scripts.study import costs, training
from scripts.study import entries as of_entries
from scripts.study.comparison import (
    average_ranks,
    compare,
    compared,
    foretold,
    median_interval,
    numbers_of,
    rank_correlation,
)
from scripts.study.entries import PARTS, Entry, cells, entries, halving_share, parameters
from scripts.study.page import write_pages
from scripts.study.planning import runs_of
from scripts.study.protocol import CELLS, SEEDS, SIZES, TASKS, TUNING_SEEDS
from scripts.study.relations import families_of
from scripts.study.training import read_entries, train_entry, write_entry
from tests.generated_series import write_set
from tests.scripts.study_results import content_of, pages_of, write_result


def small(steps: int = 30, **task: Any) -> Entry:
    """An entry of few short steps."""
    entry = next(e for e in cells("small") if e.name == "cells/adding_200/gru")
    config = dict(entry.without_width) | {"steps": steps, "eval_every": steps // 3, "log_every": steps // 3}
    config["task"] = dict(config["task"]) | {"length": 4, "validation_size": 16, "test_size": 16} | task
    return dataclasses.replace(entry, without_width=config, size=60)


# --- entries ---------------------------------------------------------------------------------------------------------


def test_no_two_entries_share_a_file_and_no_seed_both_chooses_and_counts() -> None:
    names = [entry.name for part in PARTS for entry in PARTS[part]("small")]
    assert len(set(names)) == len(names)
    assert not set(SEEDS) & set(TUNING_SEEDS)


def test_every_cell_meets_every_task_and_a_pattern_chooses_among_them() -> None:
    assert len(entries("cells")) == len(CELLS) * len(TASKS)
    assert [e.name for e in entries("cells", only="copying_50/lem,*_1000/gru")] == [
        "cells/copying_50/lem",
        "cells/adding_1000/gru",
    ]
    with pytest.raises(ConfigError, match=r"^--only: unknown entry 'copying_50/lme'"):
        entries("cells", only="copying_50/lme")


def test_settings_are_chosen_by_a_metric_that_differs_long_before_a_task_is_solved() -> None:
    """The share of wrong sequences is 1 for all of them until then."""
    images_and_series = {"permuted_rows": "accuracy", "japanese_vowels": "accuracy"}
    assert {name: task.metric for name, task in TASKS.items() if task.metric != "loss"} == images_and_series


def test_a_backend_changes_nothing_else_of_an_entry() -> None:
    entry = small()
    fast = entry.run_by("native")
    assert fast.without_width["model"].pop("recurrence") == {"backend": "native"}
    assert fast.without_width == entry.without_width
    assert (fast.name, fast.grid, fast.size) == (entry.name, entry.grid, entry.size)


def test_the_width_of_inputs_is_read_from_the_data_folder_that_the_command_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RNNLAB_DATA", raising=False)
    write_set(tmp_path, "JapaneseVowels")
    (entry,) = entries("cells", only="japanese_vowels/lstm")
    width = entry.run_by("auto", str(tmp_path)).config["model"]["cell"]["features"]
    assert 4 * width * (2 + width + 1) + 3 * (width + 1) <= SIZES["small"]  # Two channels, three classes.
    width += 2
    assert 4 * width * (2 + width + 1) + 3 * (width + 1) > SIZES["small"]


@pytest.mark.parametrize(
    ("size", "only"),
    [
        pytest.param("small", "adding_200/lstm,adding_200/indrnn", marks=pytest.mark.slow),
        *(pytest.param(size, "adding_200/*", marks=pytest.mark.exhaustive) for size in SIZES),
    ],
)
def test_a_network_is_as_wide_as_its_parameters_allow(size: str, only: str) -> None:
    for entry in entries("cells", size, only):
        width = entry.config["model"]["cell"]["features"]
        assert parameters(entry.config) <= SIZES[size] < parameters(entry.config, None, width + 2), entry.name


def test_a_cure_with_parameters_of_its_own_has_a_narrower_cell_whatever_was_sized_before() -> None:
    widths = {}
    for entry in entries("cures", "small", "adding_100/lstm,adding_100/lstm+attention_dot,adding_100/lstm+layer_norm"):
        widths[entry.method] = entry.config["model"]["cell"]["features"]
        assert parameters(entry.config) <= SIZES["small"], entry.name
    assert widths == {"lstm": 48, "lstm+layer_norm": 46, "lstm+attention_dot": 38}


@pytest.mark.parametrize(
    "part",
    [
        pytest.param("cures", marks=pytest.mark.slow),
        *(pytest.param(part, marks=pytest.mark.exhaustive) for part in ("initialisation", "lengths")),
    ],
)
def test_every_entry_is_a_sweep_that_can_be_trained(part: str) -> None:
    for entry in (e for e in entries(part) if e.without_width["task"]["name"] != "pixels"):
        chosen = {path: values[-1] for path, values in entry.grid.items()}
        assert len(expand(resolve(SweepOptions, entry.final(chosen), ""))) == len(SEEDS)
        assert len(expand(resolve(SweepOptions, entry.tuning(), ""))) + len(SEEDS) == runs_of(entry)


def test_runs_of_a_length_end_when_it_is_solved_and_all_others_do_not() -> None:
    (entry,) = entries("lengths", "small", "adding_100/gru_chrono")
    for sweep in (entry.final({"optimizer.learning_rate": 0.01}), entry.tuning()):
        for setting in expand(resolve(SweepOptions, sweep, "")):
            assert setting.config["early_stopping"]["when_solved"]
            assert setting.config["early_stopping"]["metric"] == "loss"
            assert setting.config["eval_every"] == 20
    (entry,) = entries("cells", "small", "adding_200/gru_chrono")
    for sweep in (entry.final({"optimizer.learning_rate": 0.01}), entry.tuning()):
        for setting in expand(resolve(SweepOptions, sweep, "")):
            assert not setting.config["early_stopping"]["when_solved"]
            assert setting.config["eval_every"] == 120


def leave_race(folder: Path, runs: dict[tuple[float, int], tuple[int, int | None]]) -> None:
    """What a sweep leaves of runs {(rate, seed): (last step, step to solved)} that are under way or have solved."""
    folder.mkdir()
    listed = []
    for (rate, seed), (last, solved) in runs.items():
        name = f"{len(listed):04d}"
        listed.append(
            {"name": name, "in_sweep": True, "key": name, "axes": {of_entries.RATE: rate, "seed": seed}, "command": ""}
        )
        run = SweepDir(folder).run(name)
        run.mkdir(parents=True)
        line = {"step": last, "split": "validation", "loss": 0.1, "seconds": 1.0}
        Workdir(run).metrics.write_text(json.dumps(line) + "\n")
        if solved is not None:
            summary = {"status": "stopped_early", "steps": solved, "convergence": {"steps": solved}}
            Workdir(run).summary.write_text(json.dumps(summary))
    manifest = {"axes": [of_entries.RATE, "seed"], "runs": listed, "base": {}, "groups": {}}
    SweepDir(folder).manifest.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("runs", "over"),
    [
        ({(0.1, 0): (40, 40), (0.1, 1): (60, 60), (0.01, 0): (60, None), (0.01, 1): (60, None)}, True),
        ({(0.1, 0): (40, 40), (0.1, 1): (60, None), (0.01, 0): (60, None), (0.01, 1): (60, None)}, False),
        # Another group of runs has not come so far: it may be sooner.
        ({(0.1, 0): (40, 40), (0.1, 1): (60, 60), (0.01, 0): (40, None), (0.01, 1): (40, None)}, False),
        # One of each setting: none is solved by all.
        ({(0.1, 0): (40, 40), (0.1, 1): (60, None), (0.01, 0): (60, 60), (0.01, 1): (60, None)}, False),
    ],
)
def test_a_race_is_over_where_no_other_setting_can_be_sooner(
    tmp_path: Path, runs: dict[tuple[float, int], tuple[int, int | None]], over: bool
) -> None:
    entry = dataclasses.replace(small(), grid={of_entries.RATE: (0.1, 0.01)}, timed=True)
    assert not training.race_is_over(tmp_path / "tuning", entry)
    leave_race(tmp_path / "tuning", runs)
    assert training.race_is_over(tmp_path / "tuning", entry) == over


def test_a_cell_that_fails_a_length_is_not_trained_at_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    trained: list[str] = []

    def train(entry: Entry, *words: Any) -> Any:
        trained.append(f"{entry.task}/{entry.method}")
        last = 40 if entry.method == "lem" or entry.task == "adding_100" else None
        return content_of("lengths", entry.task, entry.method, [0.1] * 8, [40] * 7 + [last])

    monkeypatch.setattr(command, "train_entry", train)
    words = [f"--workdir={tmp_path / 'runs'}", f"--results={tmp_path / 'results'}", "--part=lengths"]
    assert command.main([*words, "--only=adding_?00/lem,adding_*/irnn"]) == 0
    assert trained == [
        *(f"adding_100/{name}" for name in ("lem", "irnn")),
        *(f"adding_200/{name}" for name in ("lem", "irnn")),
        "adding_500/lem",
    ]
    output = capsys.readouterr().out
    for length in (500, 1000, 2000, 5000):
        line = f"lengths/adding_{length}/irnn is not trained: not every seed of lengths/adding_200/irnn solves its task"
        assert line in output


def test_a_cure_chooses_among_no_more_settings_than_what_it_is_compared_with() -> None:
    by_name = {(entry.task, entry.method): entry for entry in PARTS["cures"]("small")}
    for (task, method), entry in by_name.items():
        other = by_name[task, method.partition("+")[0]]
        assert runs_of(entry) <= runs_of(other)
        assert entry.halved == ("schedule" not in str(entry.without_width["optimizer"])), method
    for method in ("gru", "gru+cosine"):
        entry = by_name["adding_100", method]
        assert ("halving" in entry.tuning()) == entry.halved


def test_the_plan_reckons_the_steps_that_halving_takes(tmp_path: Path) -> None:
    entry = small(30)
    settings = expand(resolve(SweepOptions, entry.tuning(), ""))
    halving = Halving(resolve(SweepOptions, entry.tuning(), "")["halving"], settings, tmp_path)
    ends = [*halving.rungs, 30]
    steps = sum(count * (end - begin) for count, begin, end in zip(halving.counts, [0, *ends], ends, strict=False))
    assert halving.counts == [5, 2, 1]
    assert halving_share(5) == pytest.approx(steps / (5 * 30))
    assert halving_share(1) == 1


# --- statistics ------------------------------------------------------------------------------------------------------


def result(method: str, values: list[float], solved: list[int | None], task: str = "adding_200") -> dict[str, Any]:
    """The content of the file of a cell on a task."""
    return content_of("cells", task, method, values, solved)


def test_a_median_of_eight_lies_between_the_first_and_the_last_at_ninety_five_percent() -> None:
    assert median_interval([8, 1, 7, 2, 6, 3, 5, 4]) == (4.5, 1, 8)
    assert median_interval([1, 2, 3, 4, math.inf, math.inf, math.inf, math.inf]) == (math.inf, 1, math.inf)
    # Of 20 values the interval is from the 6th to the 15th: 95.9 %.
    assert median_interval(list(range(1, 21))) == (10.5, 6, 15)


def test_numbers_count_lost_runs_as_the_worst() -> None:
    numbers = numbers_of(result("gru", [0.1, math.inf, 0.4], [50, None, None]))
    assert numbers.values == [0.1, math.inf, 0.4]
    assert (numbers.solved, numbers.count, numbers.diverged, numbers.steps[0]) == (1, 3, 1, math.inf)
    assert numbers.mean.value == pytest.approx(0.2)  # Geometric, of those that have one.
    assert (numbers.untrained, numbers.trained) == (1.0, math.inf)


def test_comparisons_are_those_of_scipy_with_holms_correction() -> None:
    rng = np.random.default_rng(0)
    draws = [list(rng.uniform(1 + shift, 2 + shift, 8)) for shift in (0, 0.3, 3)]
    base, near, far = (numbers_of(result(name, values, [None] * 8)) for name, values in zip("abc", draws, strict=True))
    found = compare([near, far], [base, base])
    p_near, p_far = (stats.mannwhitneyu(x, draws[0], method="exact").pvalue for x in draws[1:])
    assert found[1].p_error == pytest.approx(6 * p_far)  # Two entries, three tests of each.
    assert found[1].p_error == pytest.approx(6 * 2 / math.comb(16, 8))
    assert found[0].p_error == pytest.approx(max(5 * p_near, 6 * p_far))
    assert found[0].p_solved == found[1].p_solved == 1
    assert (found[0].shown, found[1].shown) == (0, -1)
    assert found[1].delta == -1  # A larger loss is worse.
    # Those that are not trained yet count as well.
    assert compare([far], [base], planned=17)[0].p_error == pytest.approx(51 * p_far)
    solved = numbers_of(result("d", draws[2], [10] * 8))
    (both,) = compare([solved], [base])
    assert both.p_solved == both.p_steps == pytest.approx(3 * 2 / math.comb(16, 8))
    assert (both.faster, both.sooner, found[1].faster) == (1, 1, 0)
    (later,) = compare([numbers_of(result("e", draws[0], [20] * 8))], [solved])
    assert (later.faster, later.sooner, later.more) == (-1, -1, 0)
    assert both.shown == 1  # Who solves a task is better, whatever the error of the others.
    assert compare([base], [solved])[0].shown == -1


def test_equal_values_share_ranks_in_an_exact_test() -> None:
    base, ours = [1.0, 1.0, 2.0, 3.0], [0.5, 1.0, 1.0, 4.0]
    ranks = stats.rankdata([*ours, *base])
    sums = np.array([ranks[list(chosen)].sum() for chosen in itertools.combinations(range(8), 4)])
    far = (np.abs(sums - 18) >= abs(ranks[:4].sum() - 18) - 1e-9).mean()
    mine, other = (numbers_of(result(name, values, [None] * 4)) for name, values in (("a", ours), ("b", base)))
    assert compare([mine], [other])[0].p_error == pytest.approx(min(1.0, 3 * far))
    zeros, ones = (numbers_of(result(name, [value] * 8, [None] * 8)) for name, value in (("c", 0.0), ("d", 1.0)))
    assert compare([ones], [ones])[0].p_error == 1
    assert compare([zeros], [ones])[0].p_error == pytest.approx(3 * 2 / math.comb(16, 8))


def test_the_correction_is_over_all_that_are_planned_with_the_same_baseline() -> None:
    of = {
        method: numbers_of(content_of("cures", "adding_100", method, [value] * 8, [None] * 8))
        for method, value in (
            ("lstm", 1.0),
            ("lstm+chrono", 0.5),
            ("gru", 1.0),
            ("gru+chrono", 0.5),
            ("irnn+cosine", 2),
        )
    }
    found = {n.entry["method"]: comparison.p_error for n, _, comparison in compared("cures", of)}
    planned = {
        cell: sum(e.method.startswith(f"{cell}+") for e in PARTS["cures"]("small") if e.task == "adding_100")
        for cell in ("lstm", "gru")
    }
    assert planned["lstm"] > planned["gru"] > 5
    p = 2 / math.comb(16, 8)
    assert found == {f"{cell}+chrono": pytest.approx(3 * count * p) for cell, count in planned.items()}


def test_a_task_without_a_threshold_has_one_test_to_correct_for() -> None:
    def of(task: str) -> list[Any]:
        return [numbers_of(content_of("cures", task, "m", [value] * 8, [40] * 8)) for value in (0.5, 1.0)]

    p = 2 / math.comb(16, 8)
    for task, tests in (("few_images", 1), ("adding_100", 3)):
        mine, base = of(task)
        (comparison,) = compare([mine], [base], planned=10)
        assert comparison.p_error == pytest.approx(10 * tests * p), task
        assert comparison.p_solved == comparison.p_steps == 1


def test_a_diverged_run_has_no_share_in_a_mean_of_accuracies() -> None:
    numbers = numbers_of(
        content_of("cells", "permuted_rows", "gru", [0.9, math.inf, 0.7], [None] * 3, metric="accuracy")
    )
    assert numbers.mean.value == pytest.approx(0.8)
    assert numbers.values == [0.9, 0.0, 0.7]


def test_ranks_and_the_critical_difference_are_demsars() -> None:
    tasks = {
        task: {
            name: numbers_of(result(name, [value] * 8, [None] * 8)) for name, value in zip("abcd", values, strict=True)
        }
        for task, values in {"one": (1, 2, 3, 4), "two": (1, 2, 4, 3), "three": (2, 1, 3, 3)}.items()
    }
    ranks = average_ranks(tasks)
    assert ranks.means == {"a": pytest.approx(4 / 3), "b": pytest.approx(5 / 3), "c": pytest.approx(10.5 / 3), "d": 3.5}
    # q of 4 methods: Demšar, table 5.
    assert ranks.critical == pytest.approx(2.569 * math.sqrt(4 * 5 / (6 * 3)), rel=1e-3)
    rows = np.array([[1, 2, 3, 4], [1, 2, 4, 3], [2, 1, 3.5, 3.5]])
    means = rows.mean(axis=0)
    raw = 12 * 3 / (4 * 5) * ((means - 2.5) ** 2).sum()
    assert ranks.p == pytest.approx(stats.chi2.sf(raw / (1 - 6 / (3 * (64 - 4))), 3))  # One tie of two.


def test_a_rank_correlation_takes_what_is_infinite_by_its_rank() -> None:
    perfect = rank_correlation([1, 2, 3, math.inf], [-math.inf, -40, -30, -20])
    assert (perfect.rho, perfect.low, perfect.high, perfect.count) == (1, 1, 1, 4)
    assert perfect.p == 2 / 24  # Of all orders of four, the two that are as far from none.
    assert math.isnan(rank_correlation([1, 1, 1], [1, 2, 3]).rho)


def test_a_rank_correlation_of_many_ties_has_no_interval_and_a_p_that_holds() -> None:
    """Ten of twelve are equal: two cells alone solve a task, with the largest x; so far are 2 of the 66 pairs."""
    of = rank_correlation(range(12), [math.inf] * 10 + [5, 5])
    assert math.isnan(of.low)
    assert of.p == pytest.approx(2 / 66, rel=0.1)
    assert of.words() == f"{of.rho:.2f} (p = {of.p:.2g})"


def test_a_rank_correlation_has_the_interval_of_bonett_and_wright() -> None:
    """Of 12 pairs, one pair of neighbours swapped at each end; z ± 1.96 sqrt((1 + ρ²/2) / 9)."""
    of = rank_correlation(range(12), [1, 0, *range(2, 10), 11, 10])
    rho = 1 - 6 * 4 / (12 * 143)
    wide = 1.959964 * math.sqrt((1 + rho**2 / 2) / 9)
    assert of.rho == pytest.approx(rho)
    assert (of.low, of.high) == pytest.approx((math.tanh(math.atanh(rho) - wide), math.tanh(math.atanh(rho) + wide)))
    assert math.isnan(rank_correlation([1, 2, 3], [1, 3, 2]).low)


# --- costs -----------------------------------------------------------------------------------------------------------


def test_a_cost_is_the_ratio_of_two_runs_times_without_the_step_that_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    now, trained, entered = [0.0], [], []

    def make(config: Any, data_dir: str | None) -> Any:
        def train(step: Any, target: int) -> Any:
            first = int(step.step) == 0
            now[0] += 1000 if first else (target - int(step.step)) * config["seconds"]
            trained.append((config["seconds"], target - int(step.step)))
            return SimpleNamespace(step=target, finite=target != config.get("diverges at"))

        first = SimpleNamespace(start=lambda seed: SimpleNamespace(step=0))
        return SimpleNamespace(programs=first, train=train, stages=["short", "long"], enter=entered.append)

    monkeypatch.setattr(costs, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(costs, "make_run", make)
    monkeypatch.setattr(costs, "hardware", lambda: "a core")
    monkeypatch.setattr(costs, "TURNS", 1)  # A median of more would hide the step that compiles.
    monkeypatch.setattr(costs, "resolve_config", lambda config: config)
    monkeypatch.setattr(costs.jax, "block_until_ready", lambda state: state)
    own, other = (costs._Steps({"seconds": seconds}, None) for seconds in (3, 2))
    assert costs.cost_of(own, other) == costs.Cost(1.5, 3000.0, "a core")
    assert trained == [(3, 1), (2, 1)] + costs.TURNS * [(3, costs.STEPS), (2, costs.STEPS)]
    assert entered == [1, 1]  # The last stage.
    assert costs.cost_of(other, other) == costs.Cost(1.0, 2000.0, "a core")
    diverging = costs._Steps({"seconds": 2, "diverges at": 1 + costs.STEPS}, None)
    assert costs.cost_of(own, diverging) is costs.cost_of(diverging, own) is None


def test_costs_are_kept_beside_each_other_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    asked: list[tuple[dict[str, Any], dict[str, Any]]] = []
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(costs, "_Steps", lambda config, data_dir: made.append(config) or config)
    monkeypatch.setattr(costs, "cost_of", lambda *both: asked.append(both) or costs.Cost(0.876, 2.0, "a core"))
    words = ["--costs", "--backend=native", f"--results={tmp_path}"]
    assert command.main([*words, "--only=adding_200/lstm,adding_200/gru"]) == 0
    assert command.main([*words, "--part=cures", "--only=adding_100/gru+zoneout"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "cells/adding_200/lstm: 0.88 of its baseline's, 2 ms",
        "cells/adding_200/gru: 0.88 of its baseline's, 2 ms",
        "cures/adding_100/gru+zoneout: 0.88 of its baseline's, 2 ms",
    ]
    assert len(made) == 4  # The baseline of a task once.
    (itself, baseline), (gru, lstm), (zoneout, plain) = asked
    assert itself is baseline is lstm
    assert (gru["model"]["cell"]["name"], lstm["model"]["cell"]["name"]) == ("gru", "lstm")
    assert zoneout["model"]["dropout"] == {"zoneout": 0.01}
    assert "dropout" not in plain["model"]
    assert all(c["devices"] == 1 and c["model"]["recurrence"] == {"backend": "native"} for c in made)
    for method in ("lstm", "gru", "lem"):
        write_result(tmp_path, result(method, [0.1] * 8, [500] * 8))
    rows = {line.split(" | ")[0]: line.split(" | ") for line in pages_of(tmp_path).study.splitlines() if " | " in line}
    # 500 steps of 0.876 times the 2 ms of its baseline.
    assert (rows["| gru"][5], rows["| gru"][-1]) == ("0.88 (0.88 to 0.88)", "0.88 |")
    assert (rows["| lem"][5], rows["| lem"][-1]) == ("–", "– |")


@pytest.mark.slow
def test_a_cost_is_measured_of_runs_as_the_study_trains_them() -> None:
    entry = small()
    (pair,) = costs.measure_costs([(entry, dataclasses.replace(entry, method="other"))], None)
    assert pair[0] is entry
    assert pair[1] is not None
    assert 0 < pair[1].ratio < math.inf
    assert 0 < pair[1].milliseconds < math.inf


# --- the page and the command ----------------------------------------------------------------------------------------


def test_the_page_says_who_solves_a_task_and_the_table_can_be_sorted(tmp_path: Path) -> None:
    results = tmp_path / "results"
    for method, values, solved in (
        ("lstm", [0.1] * 8, [None] * 8),
        ("gru_chrono", [0.001 + 0.0001 * i for i in range(8)], [40] * 8),
        ("lem", [0.005] * 8, [40] * 3 + [None] * 5),
    ):
        write_result(results, result(method, values, solved))
    text, _, words = pages_of(results)
    assert words.startswith("3 entries in ")
    assert (
        "**adding 200** (two numbers, marked; 3 of the 18 cells so far): every seed solves it with gru_chrono (40 (40 "
        "to 40) steps); some seeds "
        "with lem (3 of 8); no seed within 1000 steps with lstm." in text
    )
    assert "| gru_chrono | – | – | 8 of 8 | 40 (40 to 40) | – | 0.00133 (" in text
    assert text.startswith("# Title\n")
    assert text.endswith("Protocol\n")
    assert (results / "table.html").read_text().count("<tr>") == 4
    assert pages_of(results).study == text


def test_tables_mark_numbers_at_an_end_of_the_grid_and_means_that_are_arithmetic(tmp_path: Path) -> None:
    entries = [
        result("lstm", [0.1] * 8, [None] * 8) | {"chosen": {"optimizer.learning_rate": 0.03}},
        result("gru", [0.0] + [0.1] * 7, [40] * 8) | {"chosen": {"optimizer.learning_rate": 0.01}},
        content_of("cures", "few_images", "lstm", [0.9] * 8, [40] * 8, metric="accuracy"),
        content_of("cures", "few_images", "lstm+zoneout", [0.95] * 8, [40] * 8, metric="accuracy")
        | {"chosen": {"optimizer.learning_rate": 0.0003, "model.dropout.zoneout": 0.05}},
        content_of("cures", "few_images", "lstm+chrono", [0.8] * 8, [40] * 8, metric="accuracy")
        | {"chosen": {"optimizer.learning_rate": 0.01, "model.cell.chrono": 400}},
        content_of("lengths", "adding_100", "lem", [0.1] * 8, [40] * 8)
        | {"chosen": {"optimizer.learning_rate": 0.03}},  # Which has a rate more.
    ]
    for entry in entries:
        write_result(tmp_path / "results", entry)
    text = pages_of(tmp_path / "results").study
    assert "| lstm | 0.03* | – | 0 of 8 | – | – | 0.1 (0.1 to 0.1) |" in text
    assert "| gru | 0.01 | – | 8 of 8 | 40 (40 to 40) | – | 0.0875 (" in text
    assert ") ‡ | " in text
    zoneout = text.index("| lstm+zoneout | 0.0003* | 0.05 | – | – | – | 0.95 (0.95 to 0.95) |")
    plain = text.index("| lstm | – | – | – | – | – | 0.9 (0.9 to 0.9) |")  # No threshold for few images.
    chrono = text.index("| lstm+chrono | 0.01 | 400* | – | – | – | 0.8 (0.8 to 0.8) |")
    assert zoneout < plain < chrono  # The better ones first.
    assert "| lem | 0.03 | – | 8 of 8 |" in text
    assert "smallest of its grid in 1 and the largest in 1 of these 6 entries (“*” in the tables)" in text


def test_an_exponent_of_minus_infinity_is_null_in_the_file_and_said_on_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = {"mean": np.array([-math.inf]), "error": np.array([math.nan])}
    run = SimpleNamespace(model=nnx.Dict(), task=None, batch=lambda rows: ())
    monkeypatch.setattr(training, "load", lambda *words, **more: run)
    monkeypatch.setattr(training, "subject_of", lambda *words: None)
    monkeypatch.setitem(training.MEASURES, "lyapunov", lambda subject: {"layer 1": measured})
    exponent = training._lyapunov(tmp_path, None)
    assert exponent == {"mean": None, "error": None}
    entry = result("indrnn", [0.1] * 8, [None] * 8) | {"lyapunov": exponent}
    write_entry(tmp_path, dataclasses.replace(small(), method="indrnn"), entry)
    assert "| -∞ | – |" in pages_of(tmp_path).study


def test_every_core_is_a_device_before_parameters_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To count them is to use JAX, after which there can be no more devices: replicas would share one core."""
    order: list[str] = []
    monkeypatch.setattr(command.devices, "use_all_cores", lambda: order.append("devices"))
    monkeypatch.setattr(command, "entries", lambda *words: order.append("entries") or [])
    assert command.main([f"--workdir={tmp_path / 'runs'}", f"--results={tmp_path / 'results'}"]) == 0
    assert order == ["devices", "entries"]


FAQ_TASKS = ("copying_50", "random_permutation_100", "parity_40", "multiplication_100")


def test_the_faq_says_who_solves_what_as_the_published_results_do() -> None:
    root = Path(__file__).parents[2]
    published = [numbers_of(entry) for entry in read_entries(root / "docs" / "results" / "study")]
    answer = (root / "docs" / "faq.md").read_text().partition("### Which cell remembers what?")[2].partition("\n## ")[0]
    rows = [line.split("|")[2:4] for line in answer.splitlines() if line.startswith("| to ")]
    for (every, none), task in zip(rows, FAQ_TASKS, strict=True):
        of = {n.entry["method"]: n.solved / n.count for n in published if n.entry["task"] == task}
        assert re.findall(r"`(\w+)`", every) == sorted(method for method, share in of.items() if share == 1), task
        assert re.findall(r"`(\w+)`", none) == sorted(method for method, share in of.items() if share == 0), task


def test_the_faq_says_what_the_gradient_before_training_foretells_as_the_published_results_do() -> None:
    published = [numbers_of(entry) for entry in read_entries(Path(__file__).parents[2] / "docs" / "results" / "study")]
    by_task: dict[str, dict[str, Any]] = {}
    for n in published:
        if n.entry["part"] == "cells":
            by_task.setdefault(n.entry["task"], {})[n.entry["method"]] = n
    of_cells = foretold(by_task)
    assert len(of_cells) == 5
    assert {task: of.rho < 0 for task, of in of_cells.items() if of.p < 0.05} == {"parity_40": True}
    counts = [of.count for of in of_cells.values()]
    answer = (Path(__file__).parents[2] / "docs" / "faq.md").read_text().partition("### Does the gradient before")[2]
    assert f"with {min(counts)} to {max(counts)} cells" in " ".join(answer.split())
    families = families_of([n for n in published if n.entry["part"] == "initialisation"])
    ps = [one.p for family in families.values() for one in family.known.values()]
    assert len(ps) > 4
    assert min(holm(ps)) >= 0.05


@pytest.mark.parametrize(("status", "requeued"), [(0, False), (130, True), (2, False)])
def test_a_job_of_slurm_goes_back_to_the_queue_where_it_saved(tmp_path: Path, status: int, requeued: bool) -> None:
    said = tmp_path / "said"
    for name, lines in (("srun", f'echo "$@" >> {said}; exit {status}'), ("scontrol", f'echo scontrol "$@" >> {said}')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{lines}\n")
        (tmp_path / name).chmod(0o755)
    script = Path(__file__).parents[2] / "scripts" / "slurm" / "study.sbatch"
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    done = subprocess.run(["bash", str(script), "--part=cures"], env=environment, check=False)
    assert done.returncode == status
    command = "--wait=120 python -m scripts.study --backend=native --part=cures"
    assert said.read_text().splitlines() == [command, *(["scontrol requeue 7"] if requeued else [])]


def test_entries_whose_files_are_missing_are_left_out_and_the_others_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def train(entry: Entry, *words: Any) -> Any:
        if entry.task == "japanese_vowels":
            raise ConfigError("no JapaneseVowels")
        return result(entry.method, [0.1] * 8, [None] * 8)

    monkeypatch.setattr(command, "train_entry", train)
    words = [f"--workdir={tmp_path / 'runs'}", f"--results={tmp_path / 'results'}", f"--data_dir={tmp_path}"]
    with pytest.raises(ConfigError, match=r"^1 of 2 entries were left out; their lines say why$"):
        command.main([*words, "--only=japanese_vowels/lstm,multiplication_100/lstm"])
    assert "cells/japanese_vowels/lstm is left out: no JapaneseVowels" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "results").rglob("*.json")] == ["lstm.json"]


def test_no_results_and_a_bad_shard_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no results; python -m scripts\.study trains them"):
        write_pages(tmp_path, tmp_path / "study.md", tmp_path / "mitigations.md")
    with pytest.raises(ConfigError, match=r"^--costs: nothing of --part=lengths has a baseline; cells and cures have$"):
        command.main(["--costs", "--part=lengths", f"--results={tmp_path}"])
    for text in ("2/2", "a/b", "1", "-1/2"):
        with pytest.raises(ConfigError, match=r"^--shard: .* is not i/n with i from 0 to n - 1"):
            command._shard(text)


@pytest.mark.slow
def test_an_entry_stops_resumes_and_leaves_the_file_of_one_that_did_not(
    tmp_path: Path, no_figures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_entries, "SEEDS", SEEDS[:2])
    entry, asked = small(), [0]

    def stop(step: int) -> bool:
        asked[0] += 1
        return asked[0] in (3, 4, 9, 10)

    made: list[dict[str, Any]] = []
    for folder, stops in (("whole", lambda step: False), ("stopped", stop)):
        left: dict[str, Any] | None = None
        for _ in range(10):
            left = train_entry(entry, tmp_path / folder, None, stops)
            if left is not None:
                break
        assert left is not None
        write_entry(tmp_path, entry, left)
        made.append(left)
    whole, stopped = made
    assert asked[0] > 10
    for key in ("chosen", "tuning", "parameters", "config", "lyapunov"):
        assert whole[key] == stopped[key], key
    kept = ("seed", "status", "steps", "solved_at", "test", "factor", "clipped")
    assert [[r[k] for k in kept] for r in whole["runs"]] == [[r[k] for k in kept] for r in stopped["runs"]]
    assert [r["seed"] for r in whole["runs"]] == list(SEEDS[:2])
    best = min((s for s in whole["tuning"] if s["steps"] == 30), key=lambda s: s["mean"])
    assert whole["chosen"] == best["values"]
    assert sorted(s["steps"] for s in whole["tuning"]) == [10, 10, 10, 20, 30]
    assert whole["parameters"] <= 60


@pytest.mark.slow
def test_a_timed_entry_takes_the_rate_that_is_solved_first_and_leaves_the_others_there(
    tmp_path: Path, no_figures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_entries, "SEEDS", SEEDS[:2])
    rates = (1e-5, 1e-2)
    entry = dataclasses.replace(small(900), size=1000, grid={of_entries.RATE: rates}, timed=True)
    made = train_entry(entry, tmp_path, None, lambda step: False)
    assert made is not None
    assert made["chosen"] == {of_entries.RATE: 1e-2}
    slow, fast = made["tuning"]
    assert slow["solved_at"] is None
    assert slow["steps"] == fast["steps"] == fast["solved_at"] < 300  # Before the first rung.
    again = train_entry(entry, tmp_path, None, lambda step: False)
    assert again == made
    assert all(run["solved_at"] == run["steps"] for run in made["runs"])
