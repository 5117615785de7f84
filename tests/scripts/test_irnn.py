"""The reproduction of the IRNN paper: presets, what the files and the page say, budgets, refusals, exported winners.

Training is a stand-in but for the slow tests, which train for real.
"""

import dataclasses
import itertools
import json
import math
import re
import runpy
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from rnnlab.config.errors import ConfigError
from rnnlab.config.reading import load_file
from rnnlab.files import Unwritable
from rnnlab.records.metrics import read_metrics
from rnnlab.records.run_config import resolve_config
from rnnlab.records.workdir import open_workdir
from rnnlab.sweeps.spec.manifest import make_plan, open_sweep
from rnnlab.sweeps.spec.space import expand
from scripts.irnn import __main__ as irnn_command
from scripts.irnn import publication, results_page, runs, stand_ins, winners
from scripts.irnn.experiments import EXPERIMENTS, all_cases, make_case, paper_number
from scripts.irnn.figures import Panel, gradients_over_time, published_and_ours
from scripts.irnn.results import collect, merged, read_results
from scripts.irnn.results_page import panel, read_notes, table
from scripts.irnn.rows import rows
from scripts.irnn.winners import wins

WHOLE_PICTURES = True  # As tests/conftest.py has it.
ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs" / "irnn"
PAPER = json.loads((ROOT / "docs" / "results" / "irnn_paper.json").read_text())
REFERENCES = [
    f"{file}:{preset}" for file in sorted(CONFIGS.glob("*.py")) for preset in runpy.run_path(str(file))["PRESETS"]
]
CASE = make_case("adding", "modern", 150)


# --- configs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.py")), ids=lambda file: file.stem)
def test_every_preset_resolves_and_every_case_has_one(file: Path) -> None:
    flags_of_run = [reference for reference in REFERENCES if reference.startswith(str(file))]
    for reference in flags_of_run:
        config = resolve_config(load_file(reference))
        if "-paper" in reference:
            assert config["optimizer"]["name"] == "sgd"
            assert config["optimizer"]["schedule"]["name"] == "constant"
            assert (config["optimizer"]["clip_norm"] is None) != (config["optimizer"]["clip_value"] is None)
            assert config["batch_size"] == 16
    wanted = {case.reference(network, CONFIGS) for case in all_cases() for network in case.networks}
    assert {reference for reference in wanted if reference.startswith(str(file))} == set(flags_of_run)


def test_paper_configs_have_the_best_settings_of_its_grid() -> None:
    irnn = resolve_config(load_file(f"{CONFIGS / 'adding.py'}:irnn-paper-300"))
    lstm = resolve_config(load_file(f"{CONFIGS / 'adding.py'}:lstm-paper-400"))
    pixels = resolve_config(load_file(f"{CONFIGS / 'pixels.py'}:irnn-paper-permuted"))
    assert irnn["model"]["cell"]["recurrent_init"] == {"name": "identity", "scale": 1.0}
    assert irnn["model"]["readout_init"] == irnn["model"]["cell"]["input_init"]
    assert (irnn["optimizer"]["learning_rate"], irnn["optimizer"]["clip_norm"]) == (0.01, 10.0)
    assert (lstm["model"]["cell"]["forget_bias"], lstm["optimizer"]["clip_norm"]) == (10.0, 100.0)
    assert (pixels["task"]["order"], pixels["optimizer"]["learning_rate"]) == ("permuted", 1e-4)  # Its 1e-9


# --- the paper's numbers ---------------------------------------------------------------------------------------------


def test_papers_number_at_equal_steps_is_its_best_so_far() -> None:
    case = make_case("adding", "paper", 150)
    curve = {"curves": {"adding150": {"irnn": [[0, 0.4], [100, 0.1], [200, 0.3], [300, 0.05]]}}}
    assert paper_number(case, "irnn", curve, 250) == 0.1
    assert paper_number(case, "irnn", curve, 50) == pytest.approx(0.25, rel=1e-12)
    assert paper_number(case, "irnn", curve) == 0.05
    assert [paper_number(case, "irnn", curve, step) for step in (0, 100, 999)] == [0.4, 0.1, 0.05]
    assert paper_number(case, "gru", curve) is None
    assert paper_number(make_case("pixels", "modern", None), "irnn", PAPER) == pytest.approx(97.2, abs=0.1)
    assert paper_number(make_case("timit", "modern", None), "lstm-5x250-bidirectional", PAPER) == 29.1
    assert paper_number(make_case("lm1b", "modern", None), "irnn4", PAPER) == 69.4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("adding", "paper", 600), "--length: 600: adding, paper has 150, 200, 300, 400"),
        (("pixels", "paper", 150), "--length: pixels has one length"),
        (("addding", "paper", None), "did you mean adding"),
        (("adding", "papers", None), "did you mean paper"),
    ],
)
def test_a_case_that_is_not_there_is_one_line(flags: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_case(*flags)


# --- tables ----------------------------------------------------------------------------------------------------------


def run_of(seed: int, test: float | None, steps: int = 100, **fields: Any) -> dict[str, Any]:
    """A run as a results' file has it."""
    status = "diverged" if test is None else "finished"
    result = {"seed": seed, "status": status, "steps": steps, "test": test, "validation": test, "best_step": steps}
    result |= {"solved_at": None, "seconds": 30.0, "replicas": 3, "device": "2 × cpu", "hardware": "2 cores"}
    result |= {"git_commit": "0123456789abcdef", "versions": {"jax": "0.10.2"}, "curve": [[10, 0.2], [steps, 0.1]]}
    return result | fields


def results_of(*runs: dict[str, Any], network: str = "irnn") -> dict[str, Any]:
    return {"networks": {network: {"config": {"steps": 100}, "gradient_flow": None, "runs": list(runs)}}}


def test_a_row_sums_up_seeds_in_the_papers_unit() -> None:
    case = make_case("pixels", "modern", None)
    (row,) = rows(case, results_of(run_of(0, 0.97), run_of(1, 0.98), run_of(2, 0.99)), PAPER)
    assert row.ours.value == pytest.approx(98.0, rel=1e-12)
    half = 4.302652729911275 * 1.0 / math.sqrt(3)  # Student's t with 2 degrees of freedom.
    assert row.ours.low == pytest.approx(98.0 - half, rel=1e-9)
    assert row.ours.high == 100.0 < 98 + half
    assert (row.seeds, row.seconds, row.steps) == (3, 30.0, (100, 100))
    assert row.reached is False, "0.97 is below 97.2 %"


def test_a_target_is_reached_by_every_seed_or_not_at_all() -> None:
    assert rows(CASE, results_of(run_of(0, 0.001), run_of(1, 0.009)), PAPER)[0].reached is True
    assert rows(CASE, results_of(run_of(0, 0.001), run_of(1, 0.011)), PAPER)[0].reached is False
    (row,) = rows(CASE, results_of(run_of(0, 0.001), run_of(1, None)), PAPER)
    assert (row.reached, row.diverged, row.ours.value) == (False, 1, 0.001)
    assert rows(CASE, results_of(run_of(0, 0.2), network="tanh"), PAPER)[0].reached is None


def test_an_error_has_a_geometric_mean_and_an_interval_above_0() -> None:
    errors = [0.0005, 0.002, 0.05]
    (row,) = rows(CASE, results_of(*(run_of(seed, error) for seed, error in enumerate(errors))), PAPER)
    logs = [math.log(error) for error in errors]
    mean = sum(logs) / 3
    half = 4.302652729911275 * math.sqrt(sum((each - mean) ** 2 for each in logs) / 2 / 3)
    expected = [math.exp(mean), math.exp(mean - half), math.exp(mean + half)]
    assert [row.ours.value, row.ours.low, row.ours.high] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("experiment", "test", "reached", "learned", "words"),
    [
        ("adding", 0.1648, False, False, "0.1775: no better than ignoring the input"),
        ("adding", 0.1683, False, False, "0.1775: no better than ignoring the input"),
        ("adding", 0.14, True, True, "0.1775: reached"),
        ("adding", None, False, True, "0.1775: short of it"),
        ("pixels", 0.12, False, False, "10.5: no better than ignoring the input"),
        ("pixels", 0.3, True, True, "10.5: reached"),
    ],
)
def test_reached_is_never_said_of_a_network_that_ignores_the_input(experiment, test, reached, learned, words) -> None:
    case = make_case(experiment, "paper", 150 if experiment == "adding" else None)
    curve = [[0, 0.1775], [1000, 0.18]] if experiment == "adding" else [[0, 10.0], [1000, 10.5]]
    paper = {"curves": {case.experiment.curves + str(case.length or ""): {"irnn": curve}}}
    results = results_of(run_of(0, test, steps=1000))
    (row,) = rows(case, results, paper)
    assert (row.reached, row.learned) == (reached, learned)
    assert f"| {words} |" in table([row])


def test_winners_reach_their_target_or_beat_the_paper() -> None:
    assert wins(CASE, rows(CASE, results_of(run_of(0, 0.001)), PAPER)[0])
    assert not wins(CASE, rows(CASE, results_of(run_of(0, 0.05)), PAPER)[0])
    assert wins(CASE, rows(CASE, results_of(run_of(0, 0.001), network="tanh"), PAPER)[0])
    assert wins(CASE, rows(CASE, results_of(run_of(0, 0.001), network="gru"), PAPER)[0]), "the paper has none"
    digits = make_case("pixels", "modern", None)
    for accuracy, better in ((0.984, True), (0.96, False)):  # Short of 98.5, beside the paper's best, 97.2.
        assert wins(digits, rows(digits, results_of(run_of(0, accuracy), network="gru"), PAPER)[0]) is better
    for network, accuracy in (("tanh", 0.6), ("relu", 0.3)):  # Both above the paper's; chance is a tenth.
        row = rows(digits, results_of(run_of(0, accuracy), network=network), PAPER)[0]
        assert wins(digits, row) is (network == "tanh")
    longer = make_case("adding", "modern", 200)  # Where the paper's tanh network is worse than the mean.
    assert not wins(longer, rows(longer, results_of(run_of(0, 0.164), network="tanh"), PAPER)[0])
    paper = make_case("adding", "paper", 150)
    assert not wins(paper, rows(paper, results_of(run_of(0, 0.001)), PAPER)[0])


def test_merged_runs_are_the_longer_ones_by_seed() -> None:
    old, new = (
        results_of(*runs)["networks"]["irnn"] for runs in ([run_of(0, 0.3, 50), run_of(2, 0.1)], [run_of(0, 0.2)])
    )
    assert [(run["seed"], run["test"]) for run in merged(CASE, old, new)["runs"]] == [(0, 0.2), (2, 0.1)]
    shorter = results_of(run_of(2, 0.05, 60))["networks"]["irnn"]
    assert merged(CASE, old, shorter)["runs"][1]["test"] == 0.1


@pytest.mark.parametrize(
    ("case", "old", "new", "taken"),
    [
        (CASE, 0.1, 0.05, True),
        (CASE, 0.1, 0.2, False),
        (CASE, 0.1, 0.1, False),
        (CASE, 0.1, None, False),
        (CASE, None, 0.2, True),
        (CASE, None, None, False),
        (make_case("pixels", "modern", None), 0.9, 0.95, True),
        (make_case("pixels", "modern", None), 0.9, 0.85, False),
    ],
)
def test_of_two_runs_of_a_length_the_better_one_counts_and_its_gradients(case, old, new, taken) -> None:
    before, after = (
        results_of(run_of(0, value))["networks"]["irnn"] | {"gradient_flow": {"seed": 0, "t": [1], "of": name}}
        for value, name in ((old, "old"), (new, "new"))
    )
    after_both = merged(case, before, after)
    assert (after_both["runs"][0]["test"], after_both["gradient_flow"]["of"]) == (
        (new, "new") if taken else (old, "old")
    )


def test_gradients_are_never_those_of_a_run_that_does_not_count() -> None:
    old = results_of(run_of(0, 0.1), run_of(1, 0.1))["networks"]["irnn"] | {"gradient_flow": {"seed": 0, "of": "old"}}
    better = results_of(run_of(1, 0.01), run_of(0, 0.5))["networks"]["irnn"] | {
        "gradient_flow": {"seed": 0, "of": "new"}
    }
    assert merged(CASE, old, better)["gradient_flow"]["of"] == "old"
    replaced = results_of(run_of(0, 0.01))["networks"]["irnn"]
    assert merged(CASE, old, replaced)["gradient_flow"] is None


# --- the command -----------------------------------------------------------------------------------------------------


class Trainer:
    """Stands in for `run_sweep`: each run takes 10 steps a dispatch, and comes to `loss` / (seed + 1) after 40."""

    def __init__(self) -> None:
        self.trained: list[str] = []
        self.loss = 0.1
        self.late_in: str | None = None
        """The network during which the time ends."""

    def __call__(self, sweep: Mapping[str, Any], workdir: Path, data_dir: str | None, *, stop: runs.Stop) -> str:
        self.trained.append(workdir.name)
        settings = expand(sweep)
        open_sweep(workdir, sweep, settings)
        if self.late_in == workdir.name:
            stop.deadline = 0.0
        statuses = []
        for setting in make_plan(workdir, settings).settings:
            run, steps = workdir / "runs" / setting.name, setting.config["steps"]
            open_workdir(run, setting.config)
            step, status = 0, "running"
            while status == "running":
                step += 10
                status = "finished" if step >= steps else "interrupted" if stop(step) else "running"
            statuses.append(status)
            values = {"loss": self.loss / (setting.config["seed"] + 1)}
            lines = [json.dumps({"step": n, "split": "validation", **values}) for n in range(10, step + 1, 10)]
            (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
            norms = {when: {"layer 1": [1e-3] * 150} for when in ("untrained", "trained")}
            (run / "gradient_flow.json").write_text(json.dumps(norms))
            summary = run_of(setting.config["seed"], None, step) | {"status": status, "convergence": None}
            summary["best"] = {"step": step, "validation": values, "test": values}
            (run / "summary.json").write_text(json.dumps(summary))
        return "interrupted" if "interrupted" in statuses else "finished"


@pytest.fixture
def trainer(monkeypatch) -> Trainer:
    stand_in = Trainer()
    monkeypatch.setattr(runs, "run_sweep", stand_in)
    return stand_in


@pytest.fixture
def reproduce(tmp_path, monkeypatch) -> Callable[..., int]:
    """Runs the command in tmp_path, with --update unless told otherwise; figures are empty files."""

    def drawn(data: Any, *rest: Any) -> Path:
        assert data
        path: Path = rest[-1]
        path.touch()
        return path

    monkeypatch.setattr(results_page, "published_and_ours", drawn)
    monkeypatch.setattr(results_page, "gradients_over_time", drawn)

    def call(*words: str) -> int:
        where = [f"--runs={tmp_path / 'runs'}", f"--results={tmp_path / 'results'}", f"--data_dir={tmp_path}"]
        return irnn_command.main([*where, f"--page={tmp_path / 'REPRODUCTION.md'}", "--update", *words])

    return call


ADDING = ("--experiment=adding", "--config.steps=40")


def test_the_file_holds_numbers_with_seeds_and_where_they_are_from(tmp_path, reproduce, trainer, capsys) -> None:
    assert reproduce(*ADDING, "--networks=irnn,lstm", "--seeds=2") == 0
    results = read_results(tmp_path / "results" / "irnn_adding150_modern.json")
    assert results is not None
    assert (results["experiment"], results["length"], results["variant"]) == ("adding", 150, "modern")
    assert list(results["networks"]) == ["irnn", "lstm"]
    result = results["networks"]["irnn"]
    assert result["config"]["task"]["length"] == 150
    assert [(run["seed"], run["test"], run["steps"]) for run in result["runs"]] == [(0, 0.1, 40), (1, 0.05, 40)]
    assert result["runs"][0]["curve"] == [[10, 0.1], [20, 0.1], [30, 0.1], [40, 0.1]]
    assert {"seconds", "hardware", "git_commit", "versions"} <= set(result["runs"][0])
    assert len(result["gradient_flow"]["trained"]) == len(result["gradient_flow"]["t"]) == 150
    for figure in ("irnn_adding150_modern.png", "irnn_adding150_modern_gradients.png"):
        assert (tmp_path / "results" / figure).exists()
    output = capsys.readouterr().out
    assert "| IRNN | 0.005" in output
    assert "0.01: short of it" in output


def test_a_budget_ends_it_after_saving_and_the_same_command_goes_on(tmp_path, reproduce, trainer, capsys) -> None:
    trainer.late_in = "lstm"
    words = (*ADDING, "--networks=irnn,lstm,gru", "--seeds=1", "--budget_minutes=60", "--noupdate")
    assert reproduce(*words) == 0
    assert trainer.trained == ["irnn", "lstm"]
    assert "the budget is spent; the same command goes on with LSTM, GRU" in capsys.readouterr().out
    path = tmp_path / "runs" / "results" / "irnn_adding150_modern.json"
    networks = (read_results(path) or {})["networks"]
    assert [(run["status"], run["steps"]) for run in networks["lstm"]["runs"]] == [("interrupted", 10)]
    trainer.trained.clear()
    trainer.late_in = None
    assert reproduce(*words) == 0
    assert trainer.trained == ["lstm", "gru"], "what is done is not trained again"
    networks = (read_results(path) or {})["networks"]
    assert [run["steps"] for run in networks["lstm"]["runs"]] == [40]


# --- what is published -----------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def anew(trainer: Trainer, tmp_path: Path, loss: float) -> None:
    """The next runs begin again, and come to another loss."""
    trainer.loss = loss
    shutil.rmtree(tmp_path / "runs")


@pytest.fixture
def exported(monkeypatch) -> list[Path]:
    """The runs whose parameters were exported; their copies hold a summary and a file of parameters."""
    paths: list[Path] = []

    def export(workdir: Path, target: Path, data_dir: str | None) -> None:
        target.mkdir()
        shutil.copyfile(workdir / "summary.json", target / "summary.json")
        (target / "parameters.npz").write_bytes(b"of a run")
        paths.append(workdir)

    monkeypatch.setattr(winners, "export", export)
    return paths


def test_what_is_published_changes_only_when_asked(tmp_path, reproduce, trainer, exported, capsys) -> None:
    trainer.loss = 0.004
    assert reproduce(*ADDING, "--networks=irnn") == 0
    before = contents(tmp_path / "results")
    assert {"irnn_adding150_modern.json", "checkpoints/adding150-irnn/parameters.npz"} <= set(before)
    for words in ((*ADDING, "--networks=irnn"), (*ADDING, "--networks=lstm", "--seeds=1")):
        anew(trainer, tmp_path, 0.001)
        assert reproduce(*words, "--noupdate") == 0
        assert contents(tmp_path / "results") == before
    assert "--update takes these runs in" in capsys.readouterr().out
    assert reproduce("--all", "--budget_minutes=0", "--noupdate") == 0
    assert contents(tmp_path / "results") == before
    assert not (tmp_path / "REPRODUCTION.md").exists()
    assert (tmp_path / "runs" / "results" / "REPRODUCTION.md").exists()


def test_own_results_are_the_published_ones_with_the_own_runs_in_them(tmp_path, reproduce, trainer, exported) -> None:
    assert reproduce(*ADDING, "--networks=irnn", "--seeds=2") == 0
    anew(trainer, tmp_path, 0.08)
    assert reproduce(*ADDING, "--networks=irnn", "--seeds=1", "--noupdate") == 0
    results = read_results(tmp_path / "runs" / "results" / "irnn_adding150_modern.json")
    assert results is not None
    assert [run["test"] for run in results["networks"]["irnn"]["runs"]] == [0.08, 0.05]


@pytest.mark.parametrize("why", ["worse", "interrupted"])
def test_nothing_published_gives_way_to_a_worse_or_an_interrupted_run(
    tmp_path, reproduce, trainer, exported, capsys, why
) -> None:
    trainer.loss = 0.004
    assert reproduce(*ADDING, "--networks=irnn") == 0
    before = contents(tmp_path / "results")
    assert len(exported) == 1
    anew(trainer, tmp_path, 0.005 if why == "worse" else 0.001)
    if why == "interrupted":
        trainer.late_in = "irnn"
    assert reproduce(*ADDING, "--networks=irnn", "--budget_minutes=60") == 0
    assert contents(tmp_path / "results") == before
    assert len(exported) == 1
    if why == "worse":
        output = capsys.readouterr().out
        assert "IRNN, seed 0: validation 0.004 after 40 steps stays published; this run has 0.005 after 40" in output


def test_a_better_run_is_published_with_its_checkpoint(tmp_path, reproduce, trainer, exported) -> None:
    trainer.loss = 0.004
    assert reproduce(*ADDING, "--networks=irnn", "--seeds=2") == 0
    published = tmp_path / "results" / "checkpoints" / "adding150-irnn"
    (published / "evaluation.json").write_text("{}")
    anew(trainer, tmp_path, 0.002)
    assert reproduce(*ADDING, "--networks=irnn", "--seeds=2") == 0
    assert json.loads((published / "summary.json").read_text())["best"]["validation"] == {"loss": 0.001}
    assert not (published / "evaluation.json").exists(), "it is of the checkpoint before"
    results = read_results(tmp_path / "results" / "irnn_adding150_modern.json")
    assert results is not None
    assert [run["test"] for run in results["networks"]["irnn"]["runs"]] == [0.002, 0.001]


@pytest.mark.parametrize("failing", ["results", "figures", "checkpoint"])
def test_what_cannot_be_written_leaves_all_that_is_published(
    tmp_path, reproduce, trainer, exported, monkeypatch, failing
) -> None:
    trainer.loss = 0.004
    assert reproduce(*ADDING, "--networks=irnn") == 0
    before = contents(tmp_path / "results")
    anew(trainer, tmp_path, 0.002)

    def fails(*_: Any) -> None:
        raise Unwritable("cannot write it: No space left on device")

    where = {"results": (irnn_command, "write_results"), "figures": (results_page, "published_and_ours")}
    monkeypatch.setattr(*{**where, "checkpoint": (winners, "export")}[failing], fails)
    with pytest.raises(ConfigError, match="No space left on device"):
        reproduce(*ADDING, "--networks=irnn")
    assert contents(tmp_path / "results") == before
    assert not list((tmp_path / "results").rglob("*.partial"))


def test_all_take_their_places_or_none(tmp_path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text("old")
    before = contents(tmp_path)

    def publish(left_out: str = "", interrupted: bool = False) -> None:
        with publication.together() as files:
            for name in ("a", "b", "d"):
                files.staged(tmp_path / name).write_text("new")
            if left_out:
                files.staged(tmp_path / left_out)
            if interrupted:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish(interrupted=True)
    assert contents(tmp_path) == before
    with pytest.raises(Unwritable, match=r"cannot write .*/c: No such file"):
        publish(left_out="c")
    assert contents(tmp_path) == before
    publish()
    assert contents(tmp_path) == {"a": b"new", "b": b"new", "c": b"old", "d": b"new"}


# --- the command, once more ------------------------------------------------------------------------------------------


def test_steps_end_every_network_alike_and_more_go_on(reproduce, trainer, tmp_path) -> None:
    for steps in (20, 20, 30):
        assert reproduce(*ADDING, "--networks=irnn", "--seeds=2", f"--steps={steps}") == 0
    assert trainer.trained == ["irnn", "irnn"], "at the same step there is nothing to do"
    results = read_results(tmp_path / "results" / "irnn_adding150_modern.json")
    assert results is not None
    assert [run["steps"] for run in results["networks"]["irnn"]["runs"]] == [30, 30]


def test_of_a_curriculum_only_its_last_stage_counts(tmp_path, reproduce, trainer) -> None:
    assert reproduce(*ADDING, "--networks=irnn", "--seeds=2") == 0
    folder = tmp_path / "runs" / "adding150_modern" / "irnn"
    for name, stage in (("0000", {"number": 2, "length": 150}), ("0001", {"number": 1, "length": 50})):
        workdir = folder / "runs" / name
        summary = json.loads((workdir / "summary.json").read_text())
        (workdir / "summary.json").write_text(json.dumps(summary | {"stage": {**stage, "of": 2}}))
        lines = [{**line, "length": 50 if line["step"] <= 20 else 150} for line in read_metrics(workdir)]
        (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    curves = [(run["seed"], run["curve"]) for run in collect(CASE, folder)["runs"]]
    assert curves == [(0, [[30, 0.1], [40, 0.1]])]


def test_a_file_of_another_schema_or_protocol_is_refused(tmp_path, reproduce, trainer) -> None:
    assert reproduce(*ADDING, "--networks=irnn", "--seeds=1") == 0
    trainer.trained.clear()
    with pytest.raises(
        ConfigError, match=r"irnn_adding150_modern.json holds irnn of another protocol \(steps: 40 -> 50"
    ):
        reproduce("--experiment=adding", "--config.steps=50", "--networks=lstm")
    path = tmp_path / "results" / "irnn_adding150_modern.json"
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 0'))
    with pytest.raises(ConfigError, match=r"is of another version \(schema 0, not 1\)"):
        reproduce(*ADDING, "--networks=irnn")
    path.write_text("{")
    with pytest.raises(ConfigError, match=r"irnn_adding150_modern.json is cut short; move it away to measure anew"):
        reproduce(*ADDING)
    assert trainer.trained == []


def test_a_missing_corpus_names_what_it_holds_back(reproduce, trainer, tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"lm1b is held back: 99 of the 99 .*rnnlab\.prepare"):
        reproduce("--experiment=lm1b")
    with pytest.raises(ConfigError, match=r"timit is held back: .*LDC93S1"):
        reproduce("--experiment=timit")
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "train-images-idx3-ubyte.gz").write_bytes(b"no")
    with pytest.raises(ConfigError, match=r"pixels is held back: .*corrupt"):
        reproduce("--experiment=pixels")
    assert trainer.trained == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "--experiment is missing"),
        (("--experiment=adding", "--networks=irn"), "did you mean irnn"),
        (("--all", "--experiment=adding"), "--all is all experiments"),
        (("--experiment=adding", "--config=configs/adding.py"), "the configs are those of configs/irnn"),
    ],
)
def test_a_mistake_in_the_command_is_one_line(reproduce, trainer, words, message) -> None:
    with pytest.raises(ConfigError, match=message):
        reproduce(*words)


# --- the page --------------------------------------------------------------------------------------------------------


@pytest.fixture
def short(monkeypatch) -> None:
    """Experiments with few cases, so that a page has two that are trained and three that are held back."""
    lengths = {"modern": (150,), "paper": (150,)}
    monkeypatch.setitem(
        EXPERIMENTS, "adding", dataclasses.replace(EXPERIMENTS["adding"], lengths=lengths, paper_steps=20)
    )
    for name in ("pixels", "permuted"):
        monkeypatch.setitem(EXPERIMENTS, name, dataclasses.replace(EXPERIMENTS[name], held_back=lambda _: "no digits"))


@pytest.mark.slow
def test_all_trains_what_is_missing_and_writes_the_page(
    tmp_path, reproduce, trainer, short, capsys, monkeypatch
) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "irnn_notes.toml").write_text(
        '[adding]\nexplains = "The gradient arrives."\n[adding150_modern]\ntried = "Twice the rate."\n'
    )
    (tmp_path / "results" / "lm1b_standin.md").write_text("| stand-in |\n")
    flow = {"t": [1, 2], "untrained": [0.5, 1.0], "trained": [1.0, 1.0]}
    ended, diverged = {"seed": 0, "status": "finished"}, {"seed": 0, "status": "diverged", "validation": None}
    runs = [{"model": "lstm", "validation": 90.0, "gradient_flow": flow} | ended, {"model": "tanh4"} | diverged]
    runs += [{"model": name, "validation": 95.0} | ended for name in ("lstm", "tanh4")]
    runs[-1]["gradient_flow"] = flow
    stand_in = {"config": {"steps": 7}, "rates": ["1e-3", "3e-3"], "runs": runs}
    (tmp_path / "results" / "lm1b_standin.json").write_text(json.dumps(stand_in))
    drawn = []

    def draw(flows, *rest) -> Path:
        drawn.append(list(flows))
        return gradients_over_time(flows, *rest)

    for module in (results_page, stand_ins):
        monkeypatch.setattr(module, "gradients_over_time", draw)
    assert reproduce("--all", "--seeds=2") == 0
    assert trainer.trained == ["irnn", "lstm", "gru", "tanh", "relu", "irnn", "lstm", "tanh", "relu"]
    text = (tmp_path / "REPRODUCTION.md").read_text()
    assert "| IRNN | 0.005" in text
    assert "The gradient arrives." in text
    assert "Tried: Twice the rate." in text
    assert "Missing: held back: no digits." in text
    assert "python -m scripts.irnn --experiment=pixels --variant=modern\n" in text
    assert "| stand-in |" in text
    assert "python scripts/compare_lm1b.py --steps=7 --rates=1e-3,3e-3 " in text
    assert "(results/lm1b_gradients.png)" in text
    assert ["lstm", "tanh4"] in drawn  # Of each model the better of its two runs.
    assert "python -m scripts.irnn --experiment=adding --length=150 --variant=paper --seeds=2 --steps=20\n" in text
    assert "(results/irnn_adding150_modern_gradients.png)" in text
    assert str(tmp_path) not in text
    trainer.trained.clear()
    assert reproduce("--all", "--seeds=2") == 0
    assert trainer.trained == []
    assert "pixels is held back: no digits" in capsys.readouterr().out


def test_only_files_with_something_new_are_named_and_written(
    tmp_path, reproduce, trainer, short, exported, capsys
) -> None:
    def changed(*words: str) -> tuple[set[str], set[str]]:
        """The files that a command names, and those that it writes."""
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
        assert reproduce(*words) == 0
        after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
        written = {str(path) for path, time in after.items() if before.get(path) != time and "runs" not in path.parts}
        output = re.sub(r"^nothing new; .*", "", capsys.readouterr().out, flags=re.M)
        return set(re.findall(r"\S+\.(?:json|png|md)(?= |$)", output, re.M)), written

    for words in (("--experiment=adding", "--networks=irnn"), ("--all", "--budget_minutes=0")):
        named, written = changed(*words)
        assert named == {name for name in written if "checkpoints" not in name}
        assert named
        assert changed(*words) == (set(), set())
    named, written = changed("--experiment=adding", "--networks=irnn,lstm")
    assert named == written == {str(tmp_path / "results" / "irnn_adding150_modern.json")}


def test_all_without_time_trains_nothing_and_says_what_is_missing(tmp_path, reproduce, trainer, short) -> None:
    assert reproduce("--all", "--budget_minutes=0") == 0
    assert trainer.trained == []
    assert "Missing: not trained yet." in (tmp_path / "REPRODUCTION.md").read_text()


def test_all_leaves_out_a_file_of_another_version_and_goes_on(tmp_path, reproduce, trainer, short, capsys) -> None:
    reproduce("--all", "--seeds=1")
    path = tmp_path / "results" / "irnn_adding150_modern.json"
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 0'))
    assert reproduce("--all", "--seeds=1") == 0
    text = (tmp_path / "REPRODUCTION.md").read_text()
    assert "adding150_modern is left out: " in capsys.readouterr().out
    assert "is of another version (schema 0, not 1)" in text
    assert "### Adding problem, T = 150: `modern`" not in text
    assert "### Adding problem, T = 150: `paper`" in text


def test_notes_of_an_unknown_section_or_field_are_refused(tmp_path) -> None:
    path = tmp_path / "irnn_notes.toml"
    path.write_text('[adding150_modrn]\ntried = "x"\n')
    with pytest.raises(ConfigError, match="did you mean adding150_modern"):
        read_notes(tmp_path)
    path.write_text('[adding]\ntried = "x"\n')
    with pytest.raises(ConfigError, match=r"unknown field of \[adding\] 'tried'; known: explains"):
        read_notes(tmp_path)


# --- figures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "top"),
    [([700.0, 400.0, 200.0], (700.0, 1500.0)), ([0.2, 0.1, 1e21, 0.01, 0.02], (0.2, 1.0))],
    ids=["perplexities", "a spike"],
)
def test_a_figure_shows_errors_of_any_size_but_no_spike(monkeypatch, values, top) -> None:
    figures_drawn: list[Any] = []
    monkeypatch.setattr("scripts.irnn.figures.save", lambda figure, path: figures_drawn.append(figure))
    curve = [[10 * i, value] for i, value in enumerate(values, 1)]
    drawn = panel(CASE, results_of(run_of(0, 0.1, curve=curve)), PAPER)
    published_and_ours([dataclasses.replace(drawn, published={}, baseline=None)], Path("unused"))
    (axis,) = figures_drawn[0].axes
    assert top[0] <= axis.get_ylim()[1] <= top[1]


def test_figures_are_drawn_from_results_with_infinite_losses_and_without_a_papers_curve(tmp_path) -> None:
    exploded = run_of(0, 0.2, curve=[[10, "inf"], [20, "nan"], [100, 0.2]])
    for case in (CASE, make_case("adding", "paper", 150), make_case("adding", "modern", 5000)):
        panels = [panel(case, results_of(exploded, run_of(1, 0.1)), PAPER)]
        assert published_and_ours(panels, tmp_path / "curves.png").stat().st_size > 10_000
    flow = {"t": [1, 2, 3], "untrained": [0.0, 1e-30, 1.0], "trained": ["nan", 0.5, 1.0]}
    assert gradients_over_time({"IRNN": flow}, {"IRNN": 0}, tmp_path / "flow.png").stat().st_size > 10_000


# --- for real --------------------------------------------------------------------------------------------------------

SMALL = (
    "--experiment=adding",
    "--config.task.length=10",
    "--config.steps=600",
    "--config.eval_every=100",
    "--config.log_every=100",
    "--config.checkpoint_every=100",
    "--config.task.validation_size=200",
    "--config.task.test_size=200",
    "--config.model.cell.features=16",
    "--config.optimizer.learning_rate=0.01",
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "seeds", [pytest.param(1, id="alone", marks=pytest.mark.exhaustive), pytest.param(2, id="replicas")]
)
def test_an_exported_winner_evaluates_to_the_published_number(tmp_path, reproduce, seeds) -> None:
    from rnnlab import evaluate

    words = (*SMALL, "--networks=gru", f"--seeds={seeds}")
    assert reproduce(*words, "--steps=200") == 0
    path = tmp_path / "results" / "irnn_adding150_modern.json"
    runs = (read_results(path) or {})["networks"]["gru"]["runs"]
    assert all(run["status"] == "interrupted" and 200 <= run["steps"] < 600 for run in runs)
    assert all(run["test"] > 0 for run in runs)
    assert not (tmp_path / "results" / "checkpoints").exists(), "it is not at its end"
    assert reproduce(*words) == 0
    runs = (read_results(path) or {})["networks"]["gru"]["runs"]
    assert [run["steps"] for run in runs] == [600] * seeds
    best = min(runs, key=lambda run: run["validation"])
    assert best["test"] < 0.01
    (workdir,) = (tmp_path / "results" / "checkpoints").iterdir()
    assert workdir.name == "adding150-gru"
    assert (workdir / "parameters.npz").stat().st_size < 10_000
    shutil.rmtree(tmp_path / "runs")
    assert evaluate.main([f"--workdir={workdir}", f"--output={tmp_path}"]) == 0
    evaluated = json.loads((tmp_path / "evaluation.json").read_text())
    assert (evaluated["loss"], evaluated["step"]) == (pytest.approx(best["test"], rel=1e-6), best["best_step"])


def test_parameters_of_another_network_or_a_damaged_file_are_one_line(tmp_path) -> None:
    from rnnlab.training.checkpoints import Restored
    from rnnlab.training.chosen import export_parameters, restore_chosen
    from rnnlab.training.setup import make_run

    def state(features: int) -> Any:
        fields = dict(task=dict(name="adding", length=4), steps=1, batch_size=2)
        model = dict(cell=dict(name="irnn", features=features))
        return make_run({**fields, "model": model, "optimizer": dict(name="sgd", learning_rate=0.1)}).programs.start(0)

    small = state(2)
    path = tmp_path / "parameters.npz"
    export_parameters(Restored(7, small, {"x": 1}), path)
    restored = restore_chosen(tmp_path, "best", small)
    assert (restored.step, restored.host) == (7, {"x": 1})
    np.testing.assert_array_equal(restored.state.params["readout"]["kernel"], small.params["readout"]["kernel"])
    with pytest.raises(ConfigError, match="is of another network: params/"):
        restore_chosen(tmp_path, "best", state(3))
    with pytest.raises(ConfigError, match="holds that of step 7 alone, not 8"):
        restore_chosen(tmp_path, "8", small)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ConfigError, match=r"parameters.npz is not a whole archive of arrays .*; restore it"):
        restore_chosen(tmp_path, "best", small)


def test_steps_that_span_little_more_than_a_decade_have_numbers_that_do_not_touch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr("scripts.irnn.figures.save", lambda figure, path: drawn.append(figure))
    points = [(step, 0.1) for step in range(20, 401, 20)]
    panel = Panel("T", "loss", {}, {"gru": [points]}, {"gru": 0}, {"gru": "GRU"}, False, True)
    published_and_ours([panel], tmp_path / "x.png")
    (figure,) = drawn
    FigureCanvasAgg(figure).draw()
    axis = figure.axes[0]
    low, high = axis.get_xlim()
    ticks = [*zip(axis.get_xticks(), axis.get_xticklabels(), strict=True)]
    ticks += zip(axis.get_xticks(minor=True), axis.get_xticklabels(minor=True), strict=True)
    labels = [label for at, label in sorted(ticks, key=lambda tick: tick[0]) if low <= at <= high and label.get_text()]
    assert [label.get_text() for label in labels] == ["20", "50", "100", "200"]
    boxes = [label.get_window_extent() for label in labels]
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))
