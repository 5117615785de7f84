"""What evaluations lead to in a run: the curriculum's stages, and a lower rate on a plateau.

Early stopping and the best checkpoint of a run without stages are in test_loop.py.
"""

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab import evaluate
from rnnlab.config.errors import ConfigError
from rnnlab.config.overrides import to_json
from rnnlab.parallel.devices import replicate
from rnnlab.records.metrics import read_metrics
from rnnlab.records.progress_line import ProgressLine
from rnnlab.records.run_config import CurriculumOptions, resolve_config, task_stages
from rnnlab.records.workdir import open_workdir, read_config
from rnnlab.tasks import TASKS, Adding, Example, Split
from rnnlab.training import loop
from rnnlab.training.checkpoints import Checkpoints
from rnnlab.training.curriculum import Curriculum
from rnnlab.training.early_stopping import EarlyStopping
from rnnlab.training.loop import train_and_evaluate
from rnnlab.training.plateau import Plateau
from rnnlab.training.run import Run
from rnnlab.training.setup import make_run
from rnnlab.training.state import TrainState, means
from tests.tiers import exhaustive_tests
from tests.training.test_loop import final_params, numbers, small

pytestmark = pytest.mark.usefixtures("no_figures", "shared_programs")

BY_STEP = dict(field="length", values=(3, 4), steps=(15, 33))
BY_METRIC = dict(field="length", values=(3, 4), metric="loss", threshold=0.5)
RULE: dict[str, Any] = dict(factor=0.5, patience=2, min_change=0.0, minimum=0.2)
PLATEAU: dict[str, Any] = dict(name="plateau", **RULE)


def staged(curriculum: dict[str, Any], **changes: Any) -> dict:
    """A small config with stages of lengths 3, 4 and 6."""
    return small(curriculum=curriculum, **changes)


def validations(monkeypatch: pytest.MonkeyPatch, losses: dict[int, float]) -> None:
    """Evaluations of a run say these losses, step by step."""

    def evaluated(run: Run, state: TrainState, split: str, halts: Any = None) -> dict[str, Any]:
        loss = losses[int(state.step)] if split == "validation" else 1.0
        return run.label | {"loss": loss, "within_0.04": -loss}

    monkeypatch.setattr(Run, "evaluate", evaluated)


def lengths(workdir: Path, split: str) -> dict[int, int]:
    """Step -> length, of the lines of a split."""
    return {line["step"]: line["length"] for line in read_metrics(workdir) if line["split"] == split}


class Killed(BaseException):
    """Stands for SIGKILL: nothing is saved on the way out."""


def killed(config: dict, workdir: Path, at: tuple[int, ...]) -> None:
    """A run that dies at or soon after each of these steps and is started again each time."""
    for step in at:

        def advance(line: ProgressLine, now: int, loss: float | None = None, step: int = step) -> None:
            if now >= step:
                raise Killed

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ProgressLine, "advance", advance)
            with pytest.raises(Killed):
                train_and_evaluate(config, workdir)
    train_and_evaluate(config, workdir)


def assert_same_run(config: dict, one: Path, other: Path) -> None:
    """Bit for bit."""
    for a, b in zip(final_params(config, one), final_params(config, other), strict=True):
        np.testing.assert_array_equal(a, b)
    assert numbers(one) == numbers(other)


# --- curriculum ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def by_step(tmp_path_factory) -> tuple[dict, Path, dict, list[Run]]:
    """Config, workdir, summary and the `Run` of three stages that begin at given steps."""
    workdir, runs = tmp_path_factory.mktemp("staged") / "run", []

    def kept(*words: Any) -> Run:
        runs.append(make_run(*words))
        return runs[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_run", kept)
        summary = train_and_evaluate(staged(BY_STEP), workdir)
    return staged(BY_STEP), workdir, summary, runs


@pytest.mark.slow
def test_stages_begin_at_the_steps_given(by_step) -> None:
    _, workdir, summary, _ = by_step
    train = {10: 3, 15: 3, 20: 4, 30: 4, 33: 4, 40: 6, 50: 6, 60: 6}
    assert lengths(workdir, "train") == train
    assert lengths(workdir, "validation") == {20: 4, 40: 6, 60: 6}
    assert summary["stage"] == {"number": 3, "of": 3, "length": 6}
    assert summary["final"]["validation"]["length"] == 6


@pytest.mark.slow
def test_stages_are_runs_of_their_tasks_one_after_the_other(by_step) -> None:
    config, workdir, summary, _ = by_step
    state, plain = None, {key: value for key, value in config.items() if key != "curriculum"}
    for length, until in ((3, 15), (4, 33), (6, 60)):
        run = make_run(plain | {"task": plain["task"] | {"length": length}})
        state = run.programs.start(0) if state is None else run.with_empty_sums(state)
        state = run.programs.train(state, run.data, jnp.int32(until), run.rows)
    for a, b in zip(jax.tree.leaves(state.params), final_params(config, workdir), strict=True):
        np.testing.assert_array_equal(a, b)
    assert run.evaluate(state, "validation") == {
        k: v for k, v in summary["final"]["validation"].items() if k != "length"
    }


@pytest.mark.slow
def test_evaluation_and_means_of_a_stage_are_of_its_task_alone(tmp_path) -> None:
    config = staged(BY_STEP, steps=20)
    train_and_evaluate(config, tmp_path)
    run = make_run(small(task=dict(length=4)))
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    state = checkpoints.restore(20, run.programs.start(0)).state
    checkpoints.close()
    lines = {line["split"]: line for line in read_metrics(tmp_path)}
    for name, value in run.evaluate(state, "validation").items():
        assert lines["validation"][name] == value
    assert float(state.sums["count"]) == 5  # Since step 15, not 10.
    assert lines["train"]["loss"] == means(state.sums)["loss"]


@pytest.mark.slow
def test_one_program_a_stage(by_step) -> None:
    *_, runs = by_step
    (run,) = runs
    assert [programs.train._cache_size() for programs in run.stages] == [1, 1, 1]


@pytest.mark.exhaustive
def test_two_devices_compile_one_program_a_stage_too(tmp_path, monkeypatch) -> None:
    runs = []
    enter = Run.enter
    monkeypatch.setattr(Run, "enter", lambda run, stage: (runs.append(run), enter(run, stage))[1])
    config = staged(BY_STEP, devices=2, optimizer=dict(schedule=PLATEAU | {"patience": 1, "min_change": 9.0}))
    train_and_evaluate(config | {"eval_every": 5}, tmp_path)
    assert [programs.train._cache_size() for programs in runs[0].stages] == [1, 1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("at", [(6, 22, 50), *exhaustive_tests(((15, 20, 34),))], ids=str)
def test_run_killed_in_any_stage_ends_as_the_run_that_was_not(tmp_path, by_step, at) -> None:
    _, workdir, *_ = by_step
    config = staged(BY_STEP, checkpoint_every=5)
    killed(config, tmp_path / "killed", at)
    assert_same_run(config, tmp_path / "killed", workdir)


@pytest.mark.exhaustive
def test_run_killed_after_the_threshold_was_passed_ends_as_the_run_that_was_not(tmp_path) -> None:
    config = staged(BY_METRIC | {"threshold": 0.3, "at_most": 25}, eval_every=5, checkpoint_every=5, seed=1)
    train_and_evaluate(config, tmp_path / "whole")
    seen = lengths(tmp_path / "whole", "validation")
    assert set(seen.values()) == {3, 4, 6}
    ends = [max(step for step, length in seen.items() if length == value) for value in (3, 4)]
    killed(config, tmp_path / "killed", (6, ends[0] + 1, ends[1] + 1, 55))
    assert_same_run(config, tmp_path / "killed", tmp_path / "whole")


@pytest.mark.slow
def test_run_made_longer_where_a_stage_would_begin_equals_the_long_run(tmp_path, by_step) -> None:
    config, workdir, *_ = by_step
    summary = train_and_evaluate(staged(BY_STEP, steps=15), tmp_path)
    assert summary["stage"] == {"number": 1, "of": 3, "length": 3}
    train_and_evaluate(config, tmp_path)
    for a, b in zip(final_params(config, tmp_path), final_params(config, workdir), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("metric", ["loss", "within_0.04"])
def test_a_stage_ends_at_the_first_evaluation_that_passes_the_threshold(tmp_path, monkeypatch, metric) -> None:
    validations(monkeypatch, {10: 0.6, 20: 0.5, 30: 0.4, 40: 0.9, 50: 0.7, 60: 0.1})
    threshold = 0.5 if metric == "loss" else -0.5
    curriculum = BY_METRIC | {"metric": metric, "threshold": threshold}
    train_and_evaluate(staged(curriculum, eval_every=10), tmp_path)
    assert lengths(tmp_path, "validation") == {10: 3, 20: 3, 30: 4, 40: 6, 50: 6, 60: 6}


def test_a_stage_ends_after_at_most_so_many_of_its_steps(tmp_path, monkeypatch) -> None:
    validations(monkeypatch, {10: 0.4, 20: 0.9, 30: 0.9, 40: 0.9, 50: 0.9, 60: 0.9})
    train_and_evaluate(staged(BY_METRIC | {"at_most": 25}, eval_every=10), tmp_path)
    assert lengths(tmp_path, "validation") == {10: 3, 20: 4, 30: 4, 40: 6, 50: 6, 60: 6}
    assert lengths(tmp_path, "train")[35] == 4


@pytest.mark.slow
def test_best_and_patience_start_anew_in_every_stage(tmp_path, monkeypatch, capsys) -> None:
    # Short sequences are easy: no later loss is as low as those of the first stage.
    losses = {5: 0.1, 10: 0.2, 15: 0.3, 20: 0.8, 25: 0.9, 30: 0.95, 35: 2.0, 40: 1.5, 45: 1.6, 50: 1.7, 55: 1.8}
    validations(monkeypatch, losses)
    config = staged(BY_STEP, eval_every=5, early_stopping=dict(metric="loss", patience=3))
    summary = train_and_evaluate(config, tmp_path)
    assert (summary["status"], summary["steps"], summary["best"]["step"]) == ("stopped_early", 55, 40)
    assert summary["best"]["validation"] == {"length": 6, "loss": 1.5, "within_0.04": -1.5}
    assert evaluate.main([f"--workdir={tmp_path}"]) == 0
    assert json.loads((tmp_path / "evaluation.json").read_text())["step"] == 40


def test_early_stopping_gives_way_to_a_stage_that_begins_at_the_same_step(tmp_path, monkeypatch) -> None:
    validations(monkeypatch, dict.fromkeys(range(5, 65, 5), 1.0))
    config = staged(BY_STEP, eval_every=5, early_stopping=dict(metric="loss", patience=2))
    assert train_and_evaluate(config, tmp_path / "a")["steps"] == 30  # 20 is the second stage's best, 25, 30.
    config["curriculum"] = BY_STEP | {"steps": (15, 30)}
    assert train_and_evaluate(config, tmp_path / "b")["steps"] == 45


@pytest.mark.slow
def test_run_that_ends_before_the_last_stage_says_so(tmp_path, capsys) -> None:
    summary = train_and_evaluate(staged(BY_STEP | {"steps": (15, 60)}), tmp_path)
    said = capsys.readouterr().out
    assert summary["stage"] == {"number": 2, "of": 3, "length": 4}
    assert summary["best"]["test"]["length"] == 4
    assert "curriculum.steps: no stage begins at step 60: the run ends at step 60" in said
    assert "finished in stage 2 of 3" in said
    assert said.count("stage 2 of 3: length 4") == 1
    evaluate.main([f"--workdir={tmp_path}"])
    result = json.loads((tmp_path / "evaluation.json").read_text())
    assert result["loss"] == pytest.approx(summary["best"]["test"]["loss"], rel=1e-6)
    assert result["length"] == 4


@pytest.mark.slow
def test_a_run_without_stages_has_no_trace_of_them(tmp_path) -> None:
    summary = train_and_evaluate(small(steps=20), tmp_path)
    train, validation = [set(line) for line in read_metrics(tmp_path) if line["step"] == 20][:2]
    assert validation == {"step", "split", "loss", "within_0.04", "seconds"}
    assert train == validation | {"clipped", "grad_norm", "largest_grad_norm", "learning_rate"}
    assert "stage" not in summary
    assert make_run(small()).programs.start(0).rate_scale is None


def test_stages_of_a_resolved_config_end_with_the_task_itself(tmp_path) -> None:
    config = resolve_config(staged(BY_STEP | {"values": (3.0, 4)}))
    values = [section["length"] for section in task_stages(config)]
    assert values == [3, 4, 6]
    assert all(type(value) is int for value in values)
    open_workdir(tmp_path, config)
    assert read_config(tmp_path) == config
    assert to_json(resolve_config(read_config(tmp_path))) == to_json(config)


MISTAKES = [
    ({"field": "lenght"}, "curriculum.field: unknown field 'task.lenght'; did you mean task.length?"),
    ({"field": "train_size"}, "curriculum.field: task.train_size is None, not a number; numbers: task.data_seed"),
    ({"field": None}, "curriculum.field: None is None; expected a str"),
    ({"values": ()}, r"curriculum.values: empty; it lists the stages before the last \(task.length=6\)"),
    ({"values": ("short", 4)}, r"curriculum.values\[0\]: 'short' is a str; expected an int or a float"),
    ({"values": (3, 1)}, "curriculum.values: stage 2: task.length: 1 is out of range; it must be at least 2"),
    ({"values": (3, 4.5)}, "curriculum.values: stage 2: task.length: 4.5 is a float; expected an int"),
    ({"values": (3, 3)}, "curriculum.values: stages 1 and 2 are both 3$"),
    ({"values": (3, 6)}, r"stages 2 and 3 are both 6 \(the last stage is task.length itself\)"),
    ({"steps": (20, 20)}, r"curriculum.steps: \(20, 20\) do not ascend"),
    ({"steps": (20,)}, "curriculum.steps: 1 steps for 2 values"),
    ({"steps": (0, 5)}, r"curriculum.steps\[0\]: 0 is out of range"),
    ({"steps": None}, "curriculum: needs either steps or metric and threshold, and not both"),
    ({"metric": "loss", "threshold": 1.0}, "curriculum: needs either steps or metric and threshold, and not both"),
    ({"threshold": 1.0}, "curriculum.threshold: goes with curriculum.metric"),
    ({"at_most": 5}, "curriculum.at_most: goes with curriculum.metric"),
    ({"steps": None, "metric": "loss"}, "curriculum.threshold: goes with curriculum.metric"),
    ({"steps": None, "metric": "acuracy", "threshold": 1.0}, "curriculum.metric: unknown metric 'acuracy'; this task"),
    ({"stages": (1, 2)}, "unknown field 'curriculum.stages'"),
]


@pytest.mark.parametrize(("change", "message"), MISTAKES, ids=[str(change) for change, _ in MISTAKES])
def test_mistake_in_a_curriculum_is_one_clear_line(tmp_path, change, message) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        train_and_evaluate(staged(BY_STEP | change), tmp_path / "run")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_field_that_changes_the_network_is_one_clear_line(monkeypatch) -> None:
    class Wide(Adding):
        def __init__(self, length: int = 6, width: int = 3):
            super().__init__(length)
            if width > 8:
                raise ConfigError(f"task.width: {width} is too wide")
            self.in_features = width

        def example(self, data: Any, key: jax.Array, split: Split, index: jax.Array) -> Example:
            found = super().example(data, key, split, index)
            return found._replace(inputs=jnp.pad(found.inputs, ((0, 0), (0, self.in_features - 2))))

    monkeypatch.setitem(TASKS, "wide", Wide)
    config = small() | {"task": dict(name="wide"), "curriculum": dict(field="width", values=(2,), steps=(5,))}
    message = r"task.width changes what is trained: .*kernel is float32\[2, 8\] in stage 1, float32\[3, 8\] in the last"
    with pytest.raises(ConfigError, match=message):
        make_run(config)
    config["curriculum"]["values"] = (9,)
    with pytest.raises(ConfigError, match=r"curriculum.values: stage 1: task.width: 9 is too wide"):
        make_run(config)


# --- plateau ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "losses", "scales"),
    [
        ({}, [3, 2, 1], [1, 1, 1]),
        ({}, [3, 3, 3, 3, 3], [1, 1, 0.5, 0.5, 0.25]),
        ({}, [3, 4, 2, 3, 3, 1.9], [1, 1, 1, 1, 0.5, 0.5]),
        ({}, [3, 4, 4, 2.9, 3, 3], [1, 1, 0.5, 0.5, 0.5, 0.25]),  # The best stays when the rate drops.
        ({"patience": 1}, [3, 3, 3, 3, 3], [1, 0.5, 0.25, 0.2, 0.2]),
        ({"patience": 1, "min_change": 0.5}, [3, 2.5, 2.4], [1, 0.5, 0.5]),
        ({"patience": 1, "factor": 0.1, "minimum": 0.0}, [1, float("nan"), float("inf")], [1, 0.1, 0.01]),
        ({"patience": 1, "minimum": 1.0}, [1, 1, 1], [1, 1, 1]),
    ],
    ids=str,
)
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_rate_drops_after_patience_evaluations_without_improvement(changes, losses, scales, sign) -> None:
    plateau, found, drops = Plateau("m", sign, **(RULE | changes)), [], []
    for loss in losses:
        kept = Plateau("m", sign, **(RULE | changes))
        kept.load(json.loads(json.dumps(plateau.dump())))  # As after an interruption.
        plateau = kept
        drops.append(plateau.see({"m": -sign * loss}))
        found.append(plateau.scale)
    assert found == pytest.approx(scales, rel=1e-12)
    assert drops == [later < earlier for earlier, later in zip([1, *scales], scales, strict=False)]


LOSSES = {5: 1.0, 10: 1.0, 15: 2.0, 20: 0.5, 25: 0.6, 30: 0.7, 35: 0.8, 40: 0.5, 45: 0.1, 50: 0.2, 55: 0.3, 60: 0.4}
DROPS = {15: 0.5, 30: 0.25, 40: 0.2, 55: 0.2}
"""Step -> factor from there on, for LOSSES and PLATEAU."""
DECAYING = dict(name="sgd", momentum=0.9, learning_rate=0.02, weight_decay=0.1, schedule=PLATEAU, warmup_steps=4)


@pytest.mark.slow
def test_run_on_a_plateau_equals_runs_at_the_lower_rates(tmp_path, monkeypatch, capsys) -> None:
    config = small(eval_every=5) | {"optimizer": DECAYING}
    validations(monkeypatch, LOSSES)
    train_and_evaluate(config, tmp_path)
    said = capsys.readouterr().out
    assert said.count("learning rate times") == 3
    assert "step 15  learning rate times 0.5: no better validation loss in 2 evaluations" in said
    run = make_run(config | {"optimizer": DECAYING | {"schedule": "constant"}})
    state = run.programs.start(0)
    for until, scale in {**dict.fromkeys([15], 1.0), 30: 0.5, 40: 0.25, 60: 0.2}.items():
        rate = {"optimizer.learning_rate": jnp.float32(0.02 * scale)}
        state = dataclasses.replace(state, numbers=replicate(run.mesh, state.numbers | rate))
        state = run.programs.train(state, run.data, jnp.int32(until), run.rows)
    for a, b in zip(jax.tree.leaves(state.params), final_params(config, tmp_path), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("at", [(12, 27), *exhaustive_tests(((16, 41),))], ids=str)
def test_run_on_a_plateau_that_is_killed_ends_as_the_run_that_was_not(tmp_path, monkeypatch, at) -> None:
    config = small(eval_every=5, checkpoint_every=5, optimizer=dict(schedule=PLATEAU))
    validations(monkeypatch, LOSSES)
    train_and_evaluate(config, tmp_path / "whole")
    killed(config, tmp_path / "killed", at)
    assert_same_run(config, tmp_path / "killed", tmp_path / "whole")


@pytest.mark.slow
def test_an_end_between_two_evaluations_counts_for_no_plateau_and_no_threshold(tmp_path, monkeypatch) -> None:
    validations(monkeypatch, LOSSES | {12: 0.1})
    curriculum = BY_METRIC | {"threshold": 0.1}
    config = staged(curriculum, eval_every=5, steps=20, optimizer=dict(schedule=PLATEAU))
    train_and_evaluate(config, tmp_path / "whole")
    train_and_evaluate(config | {"steps": 12}, tmp_path / "longer")
    train_and_evaluate(config, tmp_path / "longer")
    for a, b in zip(final_params(config, tmp_path / "longer"), final_params(config, tmp_path / "whole"), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_new_stage_keeps_the_rate_and_forgets_the_best(tmp_path, monkeypatch, capsys) -> None:
    losses = {5: 0.1, 10: 0.2, 15: 0.3, 20: 5.0, 25: 4.0, 30: 3.0, 35: 9.0, 40: 8.0, 45: 7.0, 50: 7.0, 55: 7.0, 60: 1.0}
    validations(monkeypatch, losses)
    train_and_evaluate(staged(BY_STEP, eval_every=5, optimizer=dict(schedule=PLATEAU)), tmp_path)
    drops = [line for line in capsys.readouterr().out.splitlines() if "learning rate times" in line]
    assert [line.split(":")[0] for line in drops] == [
        "step 15  learning rate times 0.5",
        "step 55  learning rate times 0.25",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"factor": 1.0}, "optimizer.schedule.factor: 1.0 is out of range; it must be above 0 and below 1"),
        ({"factor": 0.0}, "optimizer.schedule.factor: 0.0 is out of range"),
        ({"patience": 0}, "optimizer.schedule.patience: 0 is out of range"),
        ({"min_change": -1.0}, "optimizer.schedule.min_change: -1.0 is out of range"),
        ({"minimum": 2.0}, "optimizer.schedule.minimum: 2.0 is out of range; it must be at least 0 and at most 1"),
    ],
    ids=str,
)
def test_mistake_in_a_plateau_is_one_clear_line(change, message) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_config(small(optimizer=dict(schedule=PLATEAU | change)))


# --- started again ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_finished_run_started_again_reports_the_same(tmp_path) -> None:
    config = staged(BY_STEP, optimizer=dict(schedule=PLATEAU))
    first = train_and_evaluate(config, tmp_path)
    again = train_and_evaluate(config, tmp_path)
    assert first["final"]["train"]["loss"] > 0
    for name in ("status", "steps", "final", "best", "stage"):
        assert again[name] == first[name]


def test_a_diverged_run_started_again_reports_the_last_finite_means(tmp_path, capsys) -> None:
    optimizer = dict(name="sgd", learning_rate=1e6, clip_norm=None)
    config = small(steps=200, log_every=1, optimizer=optimizer)
    first = train_and_evaluate(config, tmp_path)
    words = [capsys.readouterr().out.splitlines()[-1]]
    again = train_and_evaluate(config, tmp_path)
    words.append(capsys.readouterr().out.splitlines()[-1])
    assert first["status"] == again["status"] == "diverged"
    assert first["steps"] > 0
    assert again["final"] == first["final"]
    loss = f"  loss {first['final']['train']['loss']:.4g}  "
    assert [loss in line and "diverged at step" in line for line in words] == [True, True], words


def test_what_is_remembered_is_all_that_changes() -> None:
    stopping, plateau = EarlyStopping("loss", -1.0, 2, 0.0), Plateau("loss", -1.0, **RULE)
    curriculum = Curriculum(CurriculumOptions(**BY_METRIC), -1.0)
    watchers = (stopping, plateau, curriculum)
    before = [dict(vars(each)) for each in watchers]
    curriculum.advance(5)
    for step, loss in ((5, 0.4), (10, 0.6), (15, 0.7), (20, 0.8)):
        stopping.see(step, {"loss": loss})
        plateau.see({"loss": loss})
        curriculum.see({"loss": loss})
    for each, old in zip(watchers, before, strict=True):
        assert {name for name, value in vars(each).items() if old[name] != value} == set(each.remembered)


def test_a_checkpoint_that_no_training_wrote_is_one_line(tmp_path) -> None:
    """A published network's, put into a new workdir: it holds the parameters, and nothing that the host remembered."""
    run = make_run(small())
    with contextlib.closing(Checkpoints(tmp_path / "checkpoints")) as checkpoints:
        checkpoints.save(1, run.programs.start(0), {"of": "another make"})
        checkpoints.wait()
    with pytest.raises(ConfigError, match=r"checkpoints/1 lacks 'stopping'; remove it, or take another --workdir$"):
        train_and_evaluate(small(), tmp_path)
