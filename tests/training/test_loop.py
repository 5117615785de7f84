"""Whole runs, small: resume, kill, signals, early stopping, divergence, damaged checkpoints, mistakes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab import cli, evaluate, find_learning_rate, train
from rnnlab.benchmark import __main__ as benchmark
from rnnlab.config.errors import ConfigError
from rnnlab.config.help import render
from rnnlab.parallel import devices
from rnnlab.records.metrics import read_metrics
from rnnlab.records.run_config import RunOptions, resolve_config
from rnnlab.tasks import Adding
from rnnlab.training import conclusion
from rnnlab.training.checkpoints import Checkpoints, ocp
from rnnlab.training.clock import TrainingClock
from rnnlab.training.early_stopping import EarlyStopping
from rnnlab.training.loop import train_and_evaluate
from rnnlab.training.run import Run
from rnnlab.training.setup import make_host_state, make_run
from tests.helpers import SMALL_RUN, float64
from tests.tiers import exhaustive_tests

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.usefixtures("no_figures", "shared_programs")


def small(**changes) -> dict:
    """SMALL_RUN on one device, changed; sections are merged field by field."""
    config: dict[str, Any] = SMALL_RUN | {"devices": 1}
    for key, value in changes.items():
        config[key] = config[key] | value if isinstance(value, dict) and key in config else value
    return config


def final_params(config: dict, workdir: Path) -> list[np.ndarray]:
    """The parameters in the last checkpoint."""
    run = make_run(config)
    checkpoints = Checkpoints(workdir / "checkpoints")
    restored = checkpoints.restore(checkpoints.steps()[-1], run.programs.start(0))
    checkpoints.close()
    return [np.asarray(leaf) for leaf in jax.tree.leaves(restored.state.params)]


def numbers(workdir: Path) -> list[dict]:
    """The lines of metrics.jsonl but for the seconds."""
    return [{k: v for k, v in line.items() if k != "seconds"} for line in read_metrics(workdir)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[dict, Path, dict]:
    """A config, the workdir of its finished run, and the summary."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    return small(), workdir, train_and_evaluate(small(), workdir)


def test_workdir_holds_what_the_contract_says(finished):
    _, workdir, summary = finished
    assert summary["status"] == "finished"
    assert summary["steps"] == 60
    assert summary == json.loads((workdir / "summary.json").read_text())
    for name in ("seconds", "steps_per_second", "versions", "device", "git_commit", "final", "best"):
        assert name in summary
    lines = read_metrics(workdir)
    assert [line["step"] for line in lines if line["split"] == "train"] == [10, 20, 30, 40, 50, 60]
    assert [line["step"] for line in lines if line["split"] == "validation"] == [20, 40, 60]
    assert [line["step"] for line in lines if line["split"] == "test"] == [summary["best"]["step"]]
    assert all({"step", "split", "loss", "within_0.04", "seconds"} <= set(line) for line in lines)
    assert all(line["grad_norm"] > 0 for line in lines if line["split"] == "train")
    assert [line["learning_rate"] for line in lines if line["split"] == "train"] == [0.01] * 6
    validation = {line["step"]: line["loss"] for line in lines if line["split"] == "validation"}
    assert summary["best"]["step"] == min(validation, key=validation.__getitem__)
    for name in ("config.json", "plots/learning_curve.png", "plots/gradient_flow.png", "gradient_flow.json"):
        assert (workdir / name).stat().st_size > 0
    (events,) = (workdir / "tensorboard").glob("events*")
    assert b"train/learning_rate" in events.read_bytes()
    resolved = json.loads((workdir / "config.json").read_text())
    assert resolved["model"]["cell"]["recurrent_init"] == {"name": "identity", "scale": 1.0}


def test_training_lowers_the_loss(finished):
    _, workdir, _ = finished
    losses = [line["loss"] for line in read_metrics(workdir) if line["split"] == "train"]
    assert losses[-1] < 0.5 * losses[0]


def test_same_command_again_changes_nothing(finished):
    config, workdir, summary = finished
    before = numbers(workdir)
    again = train_and_evaluate(config, workdir)
    assert again["best"] == summary["best"]
    assert numbers(workdir) == before


def under_way(workdir: Path, copy: Path) -> Path:
    """A copy of a finished run that has all but its summary, as if it was killed before it wrote that."""
    shutil.copytree(workdir, copy)
    (copy / "summary.json").unlink()
    return copy


def test_lines_of_steps_after_the_checkpoint_are_written_once(finished, tmp_path):
    # As after a kill between the lines of steps 50 and 60 and the checkpoint of 60.
    config, workdir, _ = finished
    shutil.rmtree(under_way(workdir, tmp_path / "run") / "checkpoints" / "60")
    assert train_and_evaluate(config, tmp_path / "run")["steps"] == 60
    assert numbers(tmp_path / "run") == numbers(workdir)


@pytest.mark.slow
def test_a_run_within_double_precision_is_the_same(finished, tmp_path):
    config, workdir, _ = finished
    with float64():
        train_and_evaluate(config, tmp_path / "run")
    assert numbers(tmp_path / "run") == numbers(workdir)


@pytest.mark.slow
def test_run_made_longer_equals_the_long_run(finished, tmp_path):
    config, workdir, _ = finished
    short = small(steps=30)  # 30 is between two evaluations and checkpoints.
    train_and_evaluate(short, tmp_path / "run")
    train_and_evaluate(config, tmp_path / "run")
    for a, b in zip(final_params(config, tmp_path / "run"), final_params(config, workdir), strict=True):
        np.testing.assert_array_equal(a, b)


ALL_CURES = dict(
    clip_layer_norm=0.5,
    clip_adaptive=0.5,
    gradient_noise=1e-3,
    max_norm=2.0,
    schedule=dict(name="cosine_restarts", period=20, decay=0.5),
)


@pytest.mark.slow
def test_run_made_longer_equals_the_long_run_with_every_option_of_the_optimizer(tmp_path):
    config = small(optimizer=ALL_CURES)
    train_and_evaluate(small(optimizer=ALL_CURES, steps=30), tmp_path / "run")
    train_and_evaluate(config, tmp_path / "run")
    train_and_evaluate(config, tmp_path / "long")
    for a, b in zip(final_params(config, tmp_path / "run"), final_params(config, tmp_path / "long"), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_run_made_longer_says_what_that_changes(tmp_path, capsys):
    longer = dict(schedule="cosine"), dict(patience=3)
    train_and_evaluate(small(steps=30, optimizer=longer[0], early_stopping=longer[1]), tmp_path)
    capsys.readouterr()
    train_and_evaluate(small(steps=32, optimizer=longer[0], early_stopping=longer[1]), tmp_path)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert [line.split(";")[0] for line in said] == [
        "warning: optimizer.schedule spans the run, now 32 steps in place of 30: at step 30 the learning rate's factor "
        "goes from 0.00274 to 0.00961",
        "warning: step 30, the end before, was evaluated although eval_every is 20",
    ]
    assert said[1].endswith("it counts for the best checkpoint and for when the task is solved")


@pytest.mark.slow
def test_schedule_longer_than_the_run_is_said_once(tmp_path, capsys):
    config = small(steps=4, optimizer=dict(schedule=dict(name="linear", steps=5)))
    assert train_and_evaluate(config, tmp_path)["status"] == "finished"
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    (said,) = warnings
    assert said == "warning: optimizer.schedule.steps: 5, but the run ends after 4 steps, before the schedule does"


def test_checkpoints_keep_the_last_two_and_the_best(finished):
    _, workdir, summary = finished
    kept = {int(p.name) for p in (workdir / "checkpoints").iterdir()}
    assert kept == {40, 60, summary["best"]["step"]}


def test_evaluate_gives_the_number_of_the_summary(finished, capsys):
    _, workdir, summary = finished
    assert summary["best"]["step"] < summary["steps"]  # Or best and last would be one checkpoint.
    assert evaluate.main([f"--workdir={workdir}"]) == 0
    result = json.loads((workdir / "evaluation.json").read_text())
    assert result["loss"] == pytest.approx(summary["best"]["test"]["loss"], rel=1e-6)
    assert result["step"] == summary["best"]["step"]
    assert "loss" in capsys.readouterr().out
    assert evaluate.main([f"--workdir={workdir}", "--checkpoint=last", "--split=validation"]) == 0
    result = json.loads((workdir / "evaluation.json").read_text())
    assert result["loss"] == pytest.approx(summary["final"]["validation"]["loss"], rel=1e-6)


@pytest.mark.slow
def test_evaluate_takes_the_last_checkpoint_where_none_has_a_score(tmp_path):
    train_and_evaluate(small(steps=20, checkpoint_every=10), tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "20")  # As if killed before the first evaluation, at 20.
    assert evaluate.main([f"--workdir={tmp_path}"]) == 0
    assert json.loads((tmp_path / "evaluation.json").read_text())["step"] == 10


@pytest.mark.slow
def test_one_device_equals_two(finished, tmp_path):
    config, workdir, summary = finished
    two = train_and_evaluate(config | {"devices": 2}, tmp_path / "two")
    assert two["device"].startswith("2")
    assert two["final"]["validation"]["loss"] == pytest.approx(summary["final"]["validation"]["loss"], rel=1e-4)
    for a, b in zip(final_params(config, tmp_path / "two"), final_params(config, workdir), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.slow
def test_cell_that_the_fused_backend_cannot_run_says_which_one_it_uses(tmp_path, capsys):
    model = dict(cell=dict(name="lstm", features=4), normalization=dict(cell="batch", steps=6))
    assert train_and_evaluate(small(steps=4, model=model), tmp_path)["status"] == "finished"
    assert "reference backend" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Of Orbax's readers, which gave up.
@pytest.mark.parametrize("damage", ["truncate", *exhaustive_tests("remove")])
def test_damaged_checkpoint_falls_back_to_the_one_before(finished, tmp_path, capsys, damage):
    config, workdir, _ = finished
    copy = under_way(workdir, tmp_path / "run")
    for file in (copy / "checkpoints" / "60" / "state").rglob("*"):
        if file.is_file() and file.parent.name == "d":
            file.unlink() if damage == "remove" else os.truncate(file, file.stat().st_size // 2)
    train_and_evaluate(config, copy)
    said = capsys.readouterr().out
    assert "checkpoint 60" in said
    assert "falling back" in said
    assert "at step 40" in said
    for a, b in zip(final_params(config, copy), final_params(config, workdir), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Of Orbax's readers, which gave up.
def test_no_readable_checkpoint_is_a_clear_error(finished, tmp_path):
    config, workdir, _ = finished
    copy = under_way(workdir, tmp_path / "run")
    for file in (copy / "checkpoints").rglob("*"):
        if file.is_file() and file.parent.name == "d":
            file.unlink()
    with pytest.raises(ConfigError, match=r"none of the checkpoints .* can be read"):
        train_and_evaluate(config, copy)


def test_restored_state_shares_no_memory_with_the_loader(tmp_path, monkeypatch):
    # It is donated to the next step, which writes over it.
    state = devices.replicate(devices.make_mesh(1, 1), {"kernel": jnp.ones((8, 8)), "step": jnp.int32(3)})
    checkpoints, loaded = Checkpoints(tmp_path), []
    checkpoints.save(1, state, {})
    checkpoints.wait()
    load = ocp.load
    monkeypatch.setattr(ocp, "load", lambda *words: loaded.append(load(*words)) or loaded[0])
    restored = checkpoints.restore(1, state).state
    checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    ours, theirs = ({leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(tree)} for tree in (restored, loaded))
    assert len(theirs) == 2
    assert not ours & theirs


def test_another_config_on_the_same_workdir_is_refused_with_the_difference(finished):
    _, workdir, _ = finished
    with pytest.raises(ConfigError, match=r"optimizer\.learning_rate: 0\.01 -> 0\.02"):
        train_and_evaluate(small(optimizer=dict(learning_rate=0.02)), workdir)


def test_early_stopping_stops_after_patience_and_stays_stopped(tmp_path):
    # With this rate the first evaluation is never beaten by so much.
    config = small(steps=400, early_stopping=dict(metric="loss", patience=2, min_change=100.0))
    summary = train_and_evaluate(config, tmp_path)
    assert summary["status"] == "stopped_early"
    assert summary["steps"] == 60
    assert summary["best"]["step"] == 20
    assert train_and_evaluate(config, tmp_path)["steps"] == 60


def test_a_run_ends_at_the_first_evaluation_that_solves_its_task_where_that_is_wanted(tmp_path, monkeypatch):
    losses = {20: 1.0, 40: 0.009, 60: 0.5}
    monkeypatch.setattr(Run, "evaluate", lambda run, state, split, halts=None: {"loss": losses[int(state.step)]})
    config = small(early_stopping=dict(when_solved=True))
    for _ in range(2):  # The same command leaves it as it is.
        summary = train_and_evaluate(config, tmp_path)
        assert (summary["status"], summary["steps"]) == ("stopped_early", 40)
        assert summary["convergence"]["steps"] == 40


def test_a_run_cannot_end_at_a_solution_that_its_task_does_not_name(tmp_path, monkeypatch):
    monkeypatch.setattr(Adding, "solved", None)
    with pytest.raises(ConfigError, match=r"^early_stopping.when_solved: the task adding has no value that counts"):
        train_and_evaluate(small(early_stopping=dict(when_solved=True)), tmp_path)


def test_checkpoint_of_the_best_value_is_kept_where_it_is_better_by_less_than_min_change(tmp_path, monkeypatch):
    losses = {20: 1.0, 40: 0.9, 60: 0.95}
    monkeypatch.setattr(Run, "evaluate", lambda run, state, split, halts=None: {"loss": losses[int(state.step)]})
    config = small(early_stopping=dict(patience=2, min_change=0.5))
    assert train_and_evaluate(config, tmp_path)["best"]["step"] == 40
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.best_step() == 40
    checkpoints.close()


# Patience 2, min_change 0.1; each value is compared with the last one that improved on its own mark by more than that.
WATCHED = {
    "what is a little better is the best, and patience runs": ([1.0, 0.95, 0.93], 30, True),
    "small changes add up": ([1.0, 0.95, 0.89, 0.85, 0.8], 50, True),
    "a large one begins patience anew": ([1.0, 0.95, 0.5, 0.51], 30, False),
    "what is worse is not the best": ([1.0, 1.2, 1.1], 10, True),
    "equal is not better": ([1.0, 1.0], 10, False),
}


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize(("values", "best", "exhausted"), WATCHED.values(), ids=WATCHED)
def test_best_is_the_best_value_and_min_change_is_for_patience_alone(values, best, exhausted, sign) -> None:
    stopping = EarlyStopping("m", sign, patience=2, min_change=0.1)
    improved = []
    for step, value in enumerate(values, 1):
        kept = EarlyStopping("m", sign, patience=2, min_change=0.1)
        kept.load(json.loads(json.dumps(stopping.dump())))  # As after an interruption.
        stopping = kept
        if stopping.see(10 * step, {"m": -sign * value}):
            improved.append(10 * step)
    assert stopping.best_step == improved[-1] == best
    assert stopping.best_values == {"m": -sign * min(values)}
    assert stopping.exhausted == exhausted


def test_evaluation_at_an_old_end_is_for_the_best_and_not_for_patience() -> None:
    config = resolve_config(small(eval_every=10, early_stopping=dict(patience=2)))
    ended, whole = (make_host_state(config | {"steps": steps}, None, lambda *_: -1.0) for steps in (25, 40))
    for memory, losses in ((ended, {10: 1.0, 20: 2.0, 25: 0.5, 30: 0.9}), (whole, {10: 1.0, 20: 2.0, 30: 0.9})):
        for step, loss in losses.items():
            memory.see(step, {"loss": loss}, 0.0)
    assert (ended.stopping.without, ended.stopping.mark) == (whole.stopping.without, whole.stopping.mark)
    assert (ended.stopping.best_step, whole.stopping.best_step) == (25, 30)
    assert str(ended.check_length(25, 25)).endswith("it counts for the best checkpoint")


def test_early_stopping_goes_on_from_a_checkpoint_that_has_no_mark() -> None:
    stopping = EarlyStopping("loss", -1.0, patience=2, min_change=0.1)
    stopping.load({"best_step": 20, "best_values": {"loss": 1.0}, "without": 1})
    assert stopping.see(40, {"loss": 0.95})
    assert stopping.exhausted
    fresh = EarlyStopping("loss", -1.0, patience=2, min_change=0.1)
    fresh.load({"best_step": None, "best_values": {}, "without": 0})
    assert fresh.see(20, {"loss": 5.0})
    assert not fresh.without


def test_seconds_are_those_of_training_alone(tmp_path, monkeypatch) -> None:
    """By a clock on which an evaluation on the way takes a second, building and the test a thousand."""
    now, evaluate_run = [0.0], Run.evaluate

    def takes_long(run: Run, state: Any, split: str, halts: Any) -> dict[str, float]:
        now[0] += 1000 if split == "test" else 1
        return evaluate_run(run, state, split, halts)

    def builds_long(config: Any, data_dir: str | None) -> Run:
        now[0] += 1000
        return make_run(config, data_dir)

    monkeypatch.setattr("rnnlab.training.clock.time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(Run, "evaluate", takes_long)
    monkeypatch.setattr("rnnlab.training.loop.make_run", builds_long)
    summary = train_and_evaluate(small(), tmp_path)
    lines = read_metrics(tmp_path)
    assert [line["seconds"] for line in lines if line["split"] == "validation"] == [1, 2, 3]
    assert [line["seconds"] for line in lines if line["split"] == "test"] == [3]
    assert summary["seconds"] == 3
    assert now == [2003]


def test_training_clock_counts_what_runs_and_adds_what_was_before(monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr("rnnlab.training.clock.time", SimpleNamespace(monotonic=lambda: now[0]))

    def passes(seconds: float) -> float:
        now[0] += seconds
        return clock.seconds()

    clock = TrainingClock()
    clock.before = 7.0
    assert passes(1) == 7
    with clock.running():
        assert passes(2) == 9
        with clock.paused():
            assert passes(4) == 9
            with clock.paused():
                assert passes(8) == 9
            assert passes(16) == 9
        assert passes(32) == 41
    assert passes(64) == 41
    with clock.paused():
        assert passes(1) == 41
    assert passes(1) == 41


@pytest.mark.slow
def test_early_stopping_knows_that_more_accuracy_is_better(tmp_path):
    config = small(eval_every=10, task=dict(validation_size=500), early_stopping=dict(metric="within_0.04"))
    summary = train_and_evaluate(config, tmp_path)
    shares = {line["step"]: line["within_0.04"] for line in read_metrics(tmp_path) if line["split"] == "validation"}
    assert shares[10] < max(shares.values())  # Or the first would be the best, whichever way they are compared.
    assert summary["best"]["step"] == max(shares, key=shares.__getitem__)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("metric", "values", "best"),
    [
        *exhaustive_tests(("loss", [NAN, 2.0, 3.0], 40)),
        ("loss", [NAN, NAN, 1e30], 60),
        *exhaustive_tests(("loss", [INF, NAN, NAN], 20)),
        ("within_0.04", [NAN, 0.0, NAN], 40),
    ],
    ids=str,
)
def test_evaluation_that_is_not_a_number_is_the_worst(tmp_path, monkeypatch, metric, values, best):
    validation = iter(values)

    def evaluate(run, state, split, halts):
        return {"loss": 1.0, "within_0.04": 0.5} | ({metric: next(validation)} if split == "validation" else {})

    monkeypatch.setattr(Run, "evaluate", evaluate)
    config = small(early_stopping=dict(metric=metric))
    train_and_evaluate(config | {"steps": 20}, tmp_path)  # The second run reads the first evaluation back.
    assert train_and_evaluate(config, tmp_path)["best"]["step"] == best
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.best_step() == best
    checkpoints.close()


def test_files_of_a_run_are_json_where_a_value_is_not_finite(tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "evaluate", lambda run, state, split, halts=None: {"loss": NAN, "within_0.04": -INF})
    train_and_evaluate(small(steps=20), tmp_path)
    evaluate.main([f"--workdir={tmp_path}"])
    for name in ("summary.json", "metrics.jsonl", "evaluation.json"):
        text = (tmp_path / name).read_text()
        assert '"loss": "nan"' in text
        assert '"within_0.04": "-inf"' in text
        assert "NaN" not in text
        assert "Infinity" not in text


def test_unknown_metric_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown metric 'acuracy'; this task has: loss, within_0\.04"):
        train_and_evaluate(small(early_stopping=dict(metric="acuracy")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_divergence_stops_with_step_last_metrics_and_advice(tmp_path, capsys):
    # R = 1e20 I: the state overflows within six steps.
    cell = dict(name="irnn", features=8, input_init="glorot_uniform", recurrent_init=dict(name="identity", scale=1e20))
    config = small(model=dict(cell=cell))
    summary = train_and_evaluate(config, tmp_path)
    assert summary["status"] == "diverged"
    assert summary["steps"] == 0
    said = capsys.readouterr().out
    assert "diverged at step 1" in said
    assert "learning_rate" in said


DIVERGES = dict(steps=200, optimizer=dict(name="sgd", learning_rate=1e6, clip_norm=None))


def test_divergence_later_reports_the_last_finite_means(tmp_path, capsys):
    summary = train_and_evaluate(small(**DIVERGES), tmp_path)
    assert summary["status"] == "diverged"
    said = capsys.readouterr().out
    assert f"diverged at step {summary['steps'] + 1}" in said
    assert "loss" in said.split("Last finite means:")[1]


def test_divergence_right_after_a_log_step_reports_what_was_logged(tmp_path, capsys):
    summary = train_and_evaluate(small(**DIVERGES, log_every=1), tmp_path)
    assert summary["status"] == "diverged"
    means = capsys.readouterr().out.split("Last finite means:")[1]
    assert f" loss {summary['final']['train']['loss']:.4g} " in means


def test_divergence_after_a_loss_of_zero_reports_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(conclusion, "means", lambda state: {"loss": 0.0})
    assert train_and_evaluate(small(**DIVERGES), tmp_path)["status"] == "diverged"
    assert "Last finite means: loss 0." in capsys.readouterr().out


# --- in a process of its own -----------------------------------------------------------------------------------------

CONFIG = """
from ml_collections import ConfigDict
PRESETS = {"wide": 16}
def get_config(preset=None):
    assert preset is None or preset in PRESETS
    return ConfigDict(%r)
"""


def start(tmp_path: Path, workdir: Path, *flags: str, **changes) -> subprocess.Popen:
    """`python -m rnnlab.train` on a small config."""
    config = tmp_path / "config.py"
    config.write_text(CONFIG % small(**changes))
    command = [sys.executable, "-m", "rnnlab.train", f"--config={config}", f"--workdir={workdir}", *flags]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition, process: subprocess.Popen, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, "took too long"
        time.sleep(0.02)


def whole_checkpoints(workdir: Path) -> set[str]:
    """The steps of checkpoints that are written to the end; one that is being written has another name."""
    return {path.name for path in (workdir / "checkpoints").glob("*") if path.name.isdigit()}


@pytest.mark.slow
def test_run_killed_at_random_moments_ends_as_the_run_that_was_not(tmp_path):
    long = dict(steps=1000, eval_every=50, checkpoint_every=50, log_every=50)
    whole = start(tmp_path, tmp_path / "whole", **long)
    out, err = whole.communicate()
    assert whole.returncode == 0, err
    generator = np.random.default_rng(int(time.time()))
    kills = 0
    for _ in range(3):
        process = start(tmp_path, tmp_path / "killed", **long)
        before = whole_checkpoints(tmp_path / "killed")
        wait_for(lambda: process.poll() is not None or whole_checkpoints(tmp_path / "killed") != before, process)  # noqa: B023
        time.sleep(generator.uniform(0, 0.5))
        if process.poll() is None:
            kills += 1
            process.send_signal(signal.SIGKILL)
        process.communicate()
    assert kills >= 2
    last = start(tmp_path, tmp_path / "killed", **long)
    out, err = last.communicate()
    assert last.returncode == 0, err
    assert "resuming" in out
    config = small(**long)
    for a, b in zip(final_params(config, tmp_path / "killed"), final_params(config, tmp_path / "whole"), strict=True):
        np.testing.assert_array_equal(a, b)
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.exhaustive)])
def test_signal_saves_and_leaves_a_resumable_run(tmp_path, number):
    workdir = tmp_path / "run"
    long = dict(steps=1_000_000, eval_every=500, checkpoint_every=1_000_000, log_every=100)
    process = start(tmp_path, workdir, **long)
    wait_for(lambda: (workdir / "metrics.jsonl").exists() and (workdir / "metrics.jsonl").stat().st_size, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert str(summary["steps"]) in {p.name for p in (workdir / "checkpoints").iterdir()}
    assert "the same command resumes" in out
    done = start(tmp_path, workdir, **(long | dict(steps=summary["steps"] + 10)))
    out, err = done.communicate()
    assert done.returncode == 0, err
    assert f"resuming {workdir} at step {summary['steps']}" in out


@pytest.mark.slow
def test_command_exits_2_with_one_line_and_leaves_nothing(tmp_path):
    process = start(tmp_path, tmp_path / "run", "--config.model.cell.name=lsmt")
    out, err = process.communicate()
    assert process.returncode == 2
    assert out == ""
    assert err.count("\n") == 1
    assert "did you mean lstm" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_command_exits_3_when_it_diverges(tmp_path):
    process = start(tmp_path, tmp_path / "run", "--config.optimizer.learning_rate=1e30", "--config.optimizer.name=sgd")
    out, err = process.communicate()
    assert process.returncode == 3, out + err


# --- mistakes on the command line ------------------------------------------------------------------------------------


@pytest.fixture
def config_file(tmp_path) -> Path:
    file = tmp_path / "small.py"
    file.write_text(CONFIG % small())
    return file


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--workdir=W", "--wrokdir=x"], "did you mean --workdir"),
        (["--workdir=W", "--seed=1"], "unknown flag '--seed'; did you mean --config.seed\\?"),
        (["--workdir=W", "--learning_rate", "1"], "did you mean --config.optimizer.learning_rate\\?"),
        (["--workdir=W", "--model.cell=gru"], "did you mean --config.model.cell\\?"),
        (["--workdir=W", "stray"], "unexpected argument 'stray'"),
        (["--workdir=W", "--config"], "--config needs a value"),
        (["--workdir=W", "--config.task.lenght=3"], "did you mean task.length"),
        (["--workdir=W", "--config.task.length=1"], "at least 2"),
        (["--workdir=W", "--config.task.length=long"], "'long' is a str; expected an int"),
        (["--workdir=W", "--config.task=ading"], "did you mean adding"),
        (["--workdir=W", "--config.optimizer.name=adm"], "did you mean adam"),
        (["--workdir=W", "--config.optimizer.learning_rate=0"], "above 0"),
        (["--workdir=W", "--config.optimizer.learning_rate=-1"], "above 0"),
        (["--workdir=W", "--config.optimizer.schedule=step", "--config.optimizer.schedule.boundaries=()"], "empty"),
        (["--workdir=W", "--config.optimizer.max_norm=0"], "above 0"),
        (["--workdir=W", "--config.model.cell.recurrent_init=identiy"], "did you mean identity"),
        (["--workdir=W", "--config.model.cell.activation=rleu"], "did you mean relu"),
        (["--workdir=W", "--config.devices=3"], "not divisible by 3 devices|3 asked for"),
        (
            [
                "--workdir=W",
                "--config.model.normalization.cell=batch",
                "--config.model.normalization.steps=6",
                "--config.model.recurrence.backend=fused",
            ],
            "auto",
        ),
        (["--workdir=W", "--config.model.embedding=4"], "use input_projection"),
    ],
)
def test_mistake_is_one_clear_line(tmp_path, config_file, flags, message):
    words = [f"--config={config_file}", *(flag.replace("=W", f"={tmp_path / 'run'}") for flag in flags)]
    with pytest.raises(ConfigError, match=message):
        train.main(words)
    assert not (tmp_path / "run").exists()


def test_train_without_a_config_names_what_is_missing():
    with pytest.raises(ConfigError, match="--config is missing"):
        train.main(["--workdir=runs/adding"])


@pytest.mark.parametrize(
    ("reference", "folder"),
    [
        ("configs/adding.py", "runs/adding"),
        ("configs/adding.py:lstm", "runs/adding-lstm"),
        ("/elsewhere/adding.long.py:lstm", "runs/adding.long-lstm"),
    ],
)
def test_default_workdir_is_named_after_the_config_and_its_preset(reference, folder):
    assert cli.default_workdir(reference) == Path(folder)


def test_train_without_a_workdir_takes_the_default_one_and_says_so(tmp_path, config_file, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [f"--config={config_file}:wide", "--config.steps=4"]
    assert train.main(words) == 0
    assert json.loads((tmp_path / "runs" / "small-wide" / "summary.json").read_text())["status"] == "finished"
    assert capsys.readouterr().out.splitlines()[0] == "a new run in runs/small-wide"
    assert train.main(words) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("runs/small-wide: finished at step 4 before")


def test_unknown_preset_and_file_are_named(tmp_path, config_file):
    with pytest.raises(ConfigError, match=r"unknown preset of .* 'wid'; did you mean wide"):
        train.main([f"--config={config_file}:wid", f"--workdir={tmp_path / 'run'}"])
    with pytest.raises(ConfigError, match=r"unknown preset of .* 'WIDE'; did you mean wide"):
        train.main([f"--config={config_file}:WIDE", f"--workdir={tmp_path / 'run'}"])
    with pytest.raises(ConfigError, match=r"did you mean .*small\.py"):
        train.main([f"--config={str(config_file).replace('small', 'smal')}", f"--workdir={tmp_path / 'run'}"])


def test_batch_that_devices_do_not_divide_names_the_sizes_that_they_do(tmp_path):
    with pytest.raises(ConfigError, match=r"5 is not divisible by 2 devices; sizes that are: 4, 6"):
        train_and_evaluate(small(batch_size=5, devices=2), tmp_path / "run")


@pytest.mark.parametrize(("batch_size", "devices", "says"), [(5, None, True), (4, None, False), (5, 1, False)])
@pytest.mark.slow
def test_a_run_says_which_cores_are_idle(batch_size, devices, says, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("rnnlab.parallel.devices.cores", lambda: 2)
    train_and_evaluate(small(batch_size=batch_size, devices=devices, steps=1), tmp_path)
    line = "batch_size 5 is split over 1 of 2 cores; 4 or 6 would use them all\n"
    assert (line in capsys.readouterr().out) == says


def test_unwritable_workdir_is_one_clear_line(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(ConfigError, match="cannot write"):
        train_and_evaluate(small(), blocked / "run")


@pytest.mark.slow
def test_full_disk_is_one_clear_line_and_the_checkpoint_before_stays(tmp_path, monkeypatch):
    train_and_evaluate(small(steps=20), tmp_path)

    def full(self, *args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Checkpoints, "save", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        train_and_evaluate(small(), tmp_path)
    monkeypatch.undo()
    assert train_and_evaluate(small(), tmp_path)["status"] == "finished"


def test_evaluate_names_what_is_missing(finished, tmp_path):
    _, workdir, _ = finished
    for words, message in [
        ([], "--workdir is missing"),
        ([f"--workdir={tmp_path}"], "has no config.json"),
        ([f"--workdir={workdir}", "--checkpoint=7"], "no checkpoint of step 7; there are"),
        ([f"--workdir={workdir}", "--checkpoint=first"], "neither best nor last"),
        ([f"--workdir={workdir}", "--split=tset"], "split"),
    ]:
        with pytest.raises(ConfigError, match=message):
            evaluate.main(words)


def help_of(main: Callable[[list[str]], int], capsys, *words: str) -> str:
    """What --help prints."""
    with pytest.raises(SystemExit) as ended:
        main([*words, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_help_lists_every_field(config_file, capsys):
    said = help_of(train.main, capsys, f"--config={config_file}", "--config.task.length=9")
    assert said.endswith(render(resolve_config(small(task=dict(length=9))), RunOptions) + "\n")
    assert "--config.model.cell.recurrent_init.name=identity" in said


@pytest.mark.parametrize("module", [train, evaluate, benchmark, find_learning_rate])
def test_help_says_what_an_entry_does_and_names_every_flag_once(module, capsys):
    said = help_of(module.main, capsys)
    assert said.startswith(module.__doc__.strip())
    listed = [line.split(":")[0].strip() for line in said.split("Flags:\n")[1].splitlines()]
    assert listed == sorted(set(listed))
    assert "--help" in listed
    assert "--h" not in listed
    with pytest.raises(SystemExit):
        module.main(["-h"])
    assert capsys.readouterr().out == said
