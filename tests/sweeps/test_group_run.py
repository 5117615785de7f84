"""A group of runs as replicas: each leaves what it would have left alone, through ends, kills and splits."""

import functools
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rnnlab import evaluate
from rnnlab.cells import CELLS, Cell
from rnnlab.config.bounds import PositiveInt, Traced
from rnnlab.config.errors import ConfigError
from rnnlab.ops.activations import ACTIVATIONS, ActivationSpec, as_activation, hyperparameter
from rnnlab.records.metrics import read_metrics
from rnnlab.records.run_config import resolve_config
from rnnlab.sweeps.replicas.group_run import KeptPrograms, run_group
from rnnlab.sweeps.replicas.replicas import ReplicaPrograms
from rnnlab.sweeps.spec.space import Setting
from rnnlab.tasks import Adding
from rnnlab.training.chosen import restore_chosen
from rnnlab.training.loop import train_and_evaluate
from rnnlab.training.setup import make_run
from rnnlab.training.state import TrainState
from tests.helpers import all_around, without_figures
from tests.tiers import exhaustive_tests, in_tiers

pytestmark = pytest.mark.usefixtures("no_figures")


def config(seed: int = 0, learning_rate: float = 1e-2, clip_norm: float = 1.0, **changes: Any) -> dict:
    """A run of a second, with every event that a group knows."""
    fields = dict(
        seed=seed,
        steps=60,
        batch_size=4,
        log_every=5,
        eval_every=10,
        checkpoint_every=20,
        eval_batch_size=32,
        early_stopping=dict(patience=3),
        task=dict(name="adding", length=6, validation_size=50, test_size=40),
        model=dict(cell=dict(name="irnn", features=8, input_init="glorot_uniform")),
        optimizer=dict(
            name="adam",
            learning_rate=learning_rate,
            clip_norm=clip_norm,
            schedule=dict(name="plateau", patience=1, factor=0.5),
        ),
    )
    return resolve_config(fields | changes)


# The first and the third go on to the end; their rates drop on the way, or not. The others end earlier.
CONFIGS = [config(), config(seed=1, learning_rate=1e30), config(seed=2, learning_rate=3e-3, clip_norm=0.05)]
CONFIGS += [config(seed=3, learning_rate=1e-30)]
STATUS = ["finished", "diverged", "finished", "stopped_early"]
SETTINGS = [Setting(f"{n:04}", {}, each) for n, each in enumerate(CONFIGS)]


def run(workdir: Path, say: Callable[[str], None] = lambda text: None, progress: Any = lambda **_: None) -> bool:
    """The group, in one process."""
    return run_group(SETTINGS, workdir, workdir / "groups" / "000", None, say, progress)


PROGRESS: list[dict[str, int]] = []
"""What `whole` says on its way."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The workdir of the group, trained without an interruption."""
    workdir = tmp_path_factory.mktemp("whole")
    with without_figures():
        assert run(workdir, progress=lambda **event: PROGRESS.append(event))
    return workdir


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """The same runs, one after another."""
    workdir = tmp_path_factory.mktemp("alone")
    for setting in SETTINGS:
        train_and_evaluate(setting.config, workdir / "runs" / setting.name)
    return workdir


def folders(*workdirs: Path) -> list[tuple[Path, ...]]:
    return [tuple(each / "runs" / setting.name for each in workdirs) for setting in SETTINGS]


def numbers(folder: Path) -> list[dict]:
    """The lines of metrics.jsonl but for the seconds."""
    return [{k: v for k, v in line.items() if k != "seconds"} for line in read_metrics(folder)]


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def without_times(summary: dict) -> dict:
    """What does not depend on the machine."""
    left = {k: v for k, v in summary.items() if k not in ("seconds", "steps_per_second", "device", "replicas")}
    return left | {"convergence": {k: v for k, v in summary["convergence"].items() if k != "seconds"}}


@functools.cache
def like() -> TrainState:
    return make_run(CONFIGS[0]).programs.start(0)


def state(folder: Path, which: str) -> tuple[int, TrainState]:
    """A run's checkpoint."""
    restored = restore_chosen(folder, which, like())
    return restored.step, restored.state


@pytest.mark.slow
def test_runs_end_as_alone(whole, alone):
    for (ours, theirs), status in zip(folders(whole, alone), STATUS, strict=True):
        assert summary(ours)["status"] == status
        assert summary(ours)["replicas"] == 4
        assert_near(without_times(summary(ours)), without_times(summary(theirs)))
        assert set(summary(ours)) == {*summary(theirs), "replicas"}
        assert (ours / "config.json").read_text() == (theirs / "config.json").read_text()


@pytest.mark.slow
def test_metrics_are_those_of_the_runs_alone(whole, alone):
    for ours, theirs in folders(whole, alone):
        assert_near(numbers(ours), numbers(theirs))


@pytest.mark.slow
def test_runs_that_end_together_took_equally_long(whole):
    (first,), _, (third,), _ = folders(whole)
    assert summary(first)["seconds"] == summary(third)["seconds"]
    assert summary(first)["steps_per_second"] == summary(third)["steps_per_second"]
    for folder in (first, third):
        assert read_metrics(folder)[-1]["seconds"] == summary(folder)["seconds"]  # The test takes none.


@pytest.mark.slow
@pytest.mark.parametrize("which", ["best", "last"])
def test_checkpoints_are_those_of_the_runs_alone(whole, alone, which):
    for ours, theirs in folders(whole, alone):
        (step, result), (expected_step, expected) = state(ours, which), state(theirs, which)
        assert step == expected_step
        for a, b in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_replica_ends_where_it_solves_its_task_and_the_others_go_on(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Adding, "solved", ("loss", 0.3))
    stops = dict(steps=40, early_stopping=dict(when_solved=True))
    chosen = [config(**stops), config(seed=3, learning_rate=1e-30, **stops)]
    settings = [Setting(f"{n:04}", {}, each) for n, each in enumerate(chosen)]
    assert run_group(settings, tmp_path, tmp_path / "groups" / "0", None, lambda text: None, lambda **_: None)
    solved, other = (json.loads((tmp_path / "runs" / s.name / "summary.json").read_text()) for s in settings)
    assert solved["status"] == "stopped_early"
    assert solved["steps"] == solved["convergence"]["steps"] < 40
    assert (other["status"], other["steps"], other["convergence"]["steps"]) == ("finished", 40, None)


@pytest.mark.slow
def test_evaluate_gives_the_number_of_the_summary(whole):
    ((folder,), *_) = folders(whole)
    assert evaluate.main([f"--workdir={folder}"]) == 0
    content = json.loads((folder / "evaluation.json").read_text())
    assert content["loss"] == pytest.approx(summary(folder)["best"]["test"]["loss"], rel=1e-5)


@pytest.mark.slow
def test_group_that_has_ended_is_not_run_again(whole):
    before = [(folder / "summary.json").stat().st_mtime_ns for (folder,) in folders(whole)]
    assert run(whole, progress=pytest.fail)
    assert [(folder / "summary.json").stat().st_mtime_ns for (folder,) in folders(whole)] == before
    assert not (whole / "groups" / "000" / "checkpoints").exists()


def test_every_run_that_is_written_is_said_at_once(whole):
    last = [(output["ended"], output["running"]) for output in PROGRESS if output["step"] == 60]
    assert last == [(3, 1), (4, 0), (4, 0)]  # Two end there: each as it is written, and the dispatch.


@pytest.mark.slow
def test_run_of_a_group_made_longer_goes_on_alone(whole, tmp_path):
    ((folder,), *_) = folders(whole)
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    longer = train_and_evaluate(CONFIGS[0] | {"steps": 70}, copy)
    assert longer["steps"] == 70
    assert numbers(copy)[: len(numbers(folder)) - 1] == numbers(folder)[:-1]


class Killed(Exception):
    """As a kill between two dispatches."""


@pytest.mark.slow
def test_killed_group_goes_on_as_if_it_had_not_been(whole, tmp_path):
    def kill(step: int, **_: Any) -> None:
        if step == 50:
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path, progress=kill)
    ended = [folder / "summary.json" for (folder,) in folders(tmp_path) if (folder / "summary.json").exists()]
    written = [path.stat().st_mtime_ns for path in ended]
    assert len(ended) == 2  # At 40 there was a checkpoint, of the others.
    lines: list[str] = []
    assert run(tmp_path, lines.append)
    assert lines[0] == "resuming 2 runs at step 40"
    assert [path.stat().st_mtime_ns for path in ended] == written
    assert_same(tmp_path, whole)


@pytest.mark.exhaustive
def test_signal_saves_and_leaves_a_resumable_group(whole, tmp_path):
    def stop(step: int, **_: Any) -> None:
        if step == 25:
            os.kill(os.getpid(), signal.SIGTERM)

    assert not run(tmp_path, progress=stop)
    lines: list[str] = []
    assert run(tmp_path, lines.append)
    assert lines[0] == "resuming 3 runs at step 25"
    assert_same(tmp_path, whole)


@pytest.mark.slow
def test_signal_is_heard_between_the_runs_that_end(whole, tmp_path):
    def stop(step: int, ended: int, **_: Any) -> None:
        if step == 60 and ended == 3:  # Two end at 60.
            os.kill(os.getpid(), signal.SIGTERM)

    assert not run(tmp_path, progress=stop)
    written = [(folder / "summary.json").exists() for (folder,) in folders(tmp_path)]
    assert written.count(True) == 3
    lines: list[str] = []
    for number in range(2):  # Another signal before anything is written changes nothing.
        signals = [signal.SIGTERM] if number == 0 else []

        def interrupt(text: str, signals: list[int] = signals) -> None:
            lines.append(text)
            if text.startswith("resuming") and signals:
                os.kill(os.getpid(), signals.pop())

        assert run(tmp_path, interrupt) == bool(number)
    assert [text for text in lines if text.startswith("resuming")] == ["resuming 1 runs at step 60"] * 2
    assert_same(tmp_path, whole)


@pytest.mark.slow
def test_more_replicas_than_memory_are_split(whole, tmp_path, monkeypatch):
    needed = ReplicaPrograms.needed
    monkeypatch.setattr(ReplicaPrograms, "available", lambda programs: needed(programs, 4) + 1)
    lines: list[str] = []
    assert run(tmp_path, lines.append)
    assert "split into 2 groups of at most 2" in lines[0]
    for (ours,), (theirs,) in zip(folders(tmp_path), folders(whole), strict=True):
        assert summary(ours)["replicas"] == 2
        assert_near(numbers(ours), numbers(theirs))


def test_settings_of_two_structures_are_refused(tmp_path):
    wider = config(model=dict(cell=dict(name="irnn", features=9)))
    settings = [SETTINGS[0], Setting("0001", {}, wider)]
    with pytest.raises(ConfigError, match=r"0000 and 0001 are not one program: .*model\.cell\.features: 8 -> 9"):
        run_group(settings, tmp_path, tmp_path / "groups" / "000", None, print, print)
    assert not (tmp_path / "runs").exists()


def assert_same(ours: Path, theirs: Path) -> None:
    """Two sweeps that left the same, bit for bit."""
    for one, other in folders(ours, theirs):
        assert numbers(one) == numbers(other)
        assert without_times(summary(one)) == without_times(summary(other))
        for which in ("best", "last"):
            jax.tree.map(np.testing.assert_array_equal, state(one, which), state(other, which))


def assert_near(actual: Any, expected: Any) -> None:
    """Nested dicts and lists, equal but for rounding."""
    assert type(actual) is type(expected)
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for key in expected:
            assert_near(actual[key], expected[key])
    elif isinstance(expected, list):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            assert_near(one, other)
    elif isinstance(expected, float):
        assert actual == pytest.approx(expected, rel=1e-3, abs=1e-6)
    else:
        assert actual == expected


# --- numbers of one's own cells and activations ----------------------------------------------------------------------


class Kept(Cell):
    """h' = h + ε (f(z + u) - h), ε kept in one of several ways."""

    def __init__(
        self,
        in_features: int,
        features: PositiveInt,
        *,
        epsilon: Traced[float] = 0.1,
        way: str = "attribute",
        activation: ActivationSpec = "tanh",
        rngs: nnx.Rngs,
    ):
        super().__init__(in_features, features, rngs=rngs)
        self.activation = as_activation(activation)
        if way == "attribute":
            self.epsilon = epsilon
        elif way == "hyperparameter":
            self.epsilon = hyperparameter(epsilon)
        elif way == "tuple":
            self.options = (epsilon,)
        elif way == "array":
            array = jnp.asarray(epsilon)
            self.rate = lambda: array
        else:
            self.rate = (lambda: epsilon) if way == "closure" else functools.partial(lambda a: a, epsilon)
        self.way = way

    def gates(self, carry, z, u):
        ways = {"attribute": lambda: self.epsilon, "hyperparameter": lambda: self.epsilon[...]}
        ways |= {"tuple": lambda: self.options[0], "closure": lambda: self.rate(), "partial": lambda: self.rate()}
        ways["array"] = lambda: self.rate()
        return (carry[0] + ways[self.way]() * (self.activation(z[0] + u[0]) - carry[0]),)


def of_epsilon(epsilon: float, **cell: Any) -> Setting:
    changes = dict(steps=6, log_every=2, eval_every=6, checkpoint_every=6, early_stopping={})
    model = dict(cell=dict(name="kept", features=4, epsilon=epsilon, **cell))
    return Setting(f"{epsilon}", {}, config(model=model, **changes))


@pytest.mark.slow
@pytest.mark.parametrize("way", ["attribute", *exhaustive_tests("hyperparameter")])
def test_number_of_a_cell_is_each_replicas_own(way, tmp_path, monkeypatch):
    monkeypatch.setitem(CELLS, "kept", Kept)
    settings = [of_epsilon(epsilon, way=way) for epsilon in (0.01, 0.1, 0.5)]
    assert run_group(settings, tmp_path, tmp_path / "group", None, lambda _: None, lambda **_: None)
    losses = [numbers(tmp_path / "runs" / setting.name)[-1]["loss"] for setting in settings]
    assert len(set(losses)) == 3
    train_and_evaluate(settings[1].config, tmp_path / "alone")
    np.testing.assert_allclose(numbers(tmp_path / "alone")[-1]["loss"], losses[1], rtol=1e-5)


@pytest.mark.parametrize("way", ["closure", *exhaustive_tests("tuple", "partial")])
def test_number_that_the_program_holds_as_a_constant_is_named_before_the_first_step(way, tmp_path, monkeypatch):
    monkeypatch.setitem(CELLS, "kept", Kept)
    settings = [of_epsilon(epsilon, way=way) for epsilon in (0.1, 0.5)]
    make_run(settings[0].config)  # Alone it may be trained.
    with pytest.raises(ConfigError, match=r"^model\.cell\.epsilon: .*self\.name = name.*hyperparameter") as raised:
        run_group(settings, tmp_path, tmp_path / "group", None, lambda _: None, lambda **_: None)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "runs").exists()


def test_array_that_a_closure_holds_is_refused_alone_and_in_a_sweep(monkeypatch):
    monkeypatch.setitem(CELLS, "kept", Kept)
    settings = [of_epsilon(epsilon, way="array") for epsilon in (0.1, 0.5)]
    for build in (lambda: make_run(settings[0].config), lambda: KeptPrograms().of(settings, None)):
        with pytest.raises(ConfigError, match=r"an array in a function's closure.*self\.name = name"):
            build()


def scaled(scale: Traced[float] = 1.0) -> Callable[[jax.Array], jax.Array]:
    return lambda x: jnp.tanh(scale * x)


def test_number_of_an_activation_that_is_a_function_is_named(monkeypatch):
    monkeypatch.setitem(CELLS, "kept", Kept)
    monkeypatch.setitem(ACTIVATIONS, "scaled", scaled)
    settings = [of_epsilon(0.1 * (1 + scale), activation=dict(name="scaled", scale=scale)) for scale in (1.0, 2.0)]
    with pytest.raises(ConfigError, match=r"^model\.cell\.activation\.scale: "):
        KeptPrograms().of(settings, None)


def test_programs_are_kept_for_runs_of_the_same_constants_alone(monkeypatch):
    monkeypatch.setitem(CELLS, "kept", Kept)
    kept = KeptPrograms()
    kept.of([of_epsilon(0.1, way="closure")], None)
    with pytest.raises(ConfigError, match=r"^model\.cell\.epsilon: "):
        kept.of([of_epsilon(0.5, way="closure")], None)


def test_a_smaller_group_takes_slots_that_are_compiled_where_idle_ones_cost_nothing(monkeypatch) -> None:
    programs = KeptPrograms().of(SETTINGS, None)
    assert programs.slots_for(3) == 4  # Two devices.
    programs._compiled = {8: "eight", 6: "six", 2: "two"}
    assert [programs.slots_for(n) for n in (2, 3, 6, 7, 9)] == [2, 6, 6, 8, 10]
    monkeypatch.setattr(programs, "side_by_side", True)
    assert programs.slots_for(3) == 4
    monkeypatch.setattr(programs, "side_by_side", False)
    monkeypatch.setattr("rnnlab.sweeps.replicas.replicas.processes.processes", lambda: 2)
    assert programs.slots_for(3) == 4


def test_a_program_that_has_no_room_any_more_gives_way_to_a_smaller_one(monkeypatch) -> None:
    programs = KeptPrograms().of(SETTINGS, None)
    programs._compiled = {8: "eight", 6: "six"}
    monkeypatch.setattr(programs, "needed", lambda slots: 100 * slots)
    monkeypatch.setattr(programs, "available", lambda: 1000)
    monkeypatch.setattr("rnnlab.sweeps.replicas.replicas._SHARE_OF_MEMORY", 0.45)
    monkeypatch.setattr("rnnlab.training.footprint.check_replicas", lambda *words: None)
    monkeypatch.setattr(programs, "_program", lambda slots: None)
    assert programs.fitting(4) == 4
    assert programs._compiled == {}


@pytest.mark.slow
def test_a_smaller_group_of_the_same_programs_ends_as_it_did_in_the_larger_one(whole, tmp_path) -> None:
    kept = KeptPrograms()
    for workdir, settings in ((tmp_path / "first", SETTINGS), (tmp_path / "second", SETTINGS[1:3])):
        folder = workdir / "groups" / "000"
        assert run_group(settings, workdir, folder, None, lambda text: None, lambda **_: None, kept=kept)
    assert kept._last is not None
    assert set(kept._last[1]._compiled) == {4}
    for setting in SETTINGS[1:3]:
        ours, theirs = (workdir / "runs" / setting.name for workdir in (tmp_path / "second", whole))
        assert without_times(summary(ours)) == without_times(summary(theirs))
        assert summary(ours)["replicas"] == 2
        assert numbers(ours) == numbers(theirs)
        for which in ("best", "last"):
            pair = [state(folder, which) for folder in (ours, theirs)]
            assert pair[0][0] == pair[1][0]
            for a, b in zip(*(jax.tree.leaves(each) for _, each in pair), strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "cell",
    [
        *in_tiers(CELLS),
        *exhaustive_tests({"name": "vanilla", "activation": "modrelu"}),
        *exhaustive_tests(*({"name": "vanilla", "activation": name} for name in ACTIVATIONS if name != "modrelu")),
        *exhaustive_tests(*({"name": "vanilla", "recurrent": name} for name in ("spectral", "skew", "scaled"))),
    ],
    ids=lambda cell: cell if isinstance(cell, str) else list(cell.values())[1],
)
def test_no_number_of_ours_is_a_constant(cell):
    around = {}  # Of an activation its own numbers alone: those of what stands around it are those of the cells.
    if isinstance(cell, str):
        around = all_around(cell) | {"layers": 2}
        around["dropout"] |= {"between": 0.5}
        around["normalization"] |= {"input": "batch"}
        cell = {"name": cell}
    programs = make_run(config(model=dict(cell=cell | {"features": 4}, **around))).programs
    assert programs.constants({name: 0.75 * number for name, number in programs.numbers.items()}) == []
