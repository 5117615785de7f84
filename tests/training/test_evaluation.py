"""Evaluations in parts: where the parts end changes no number, and a signal is answered between them."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab.config.bounds import LARGEST_INT
from rnnlab.records.metrics import read_metrics
from rnnlab.records.run_config import resolve_config
from rnnlab.sweeps.replicas.group_run import run_group
from rnnlab.sweeps.spec.space import Setting
from rnnlab.training import evaluation
from rnnlab.training.evaluation import Halt, Halted, Pace, in_parts
from rnnlab.training.loop import train_and_evaluate
from rnnlab.training.setup import make_run
from tests.helpers import SMALL_RUN
from tests.tiers import exhaustive_tests

RUN = SMALL_RUN | {"steps": 20, "eval_every": 10, "checkpoint_every": 5, "eval_batch_size": 4}


class Every(Pace):
    """So many batches a dispatch, however long they take."""

    def __init__(self, batches: int):
        super().__init__()
        self.batches = batches

    def see(self, batches: int, seconds: float) -> None:
        pass


def numbers(workdir: Path) -> list[dict]:
    """The lines of metrics.jsonl but for the seconds."""
    return [{k: v for k, v in line.items() if k != "seconds"} for line in read_metrics(workdir)]


@pytest.mark.parametrize("batches", [1, 3, 5])
def test_parts_are_all_batches_in_their_order(batches: int) -> None:
    seen: list[range] = []

    def part(sums: int, first: np.int32, until: np.int32) -> tuple[int, int]:
        seen.append(range(first, until))
        return sums + int(until - first), sums

    in_parts(part, 0, 13, Every(batches), None)
    assert [number for each in seen for number in each] == list(range(13))
    assert max(map(len, seen)) == batches


def test_a_dispatch_is_about_half_a_second_and_the_first_one_compiles() -> None:
    pace = Pace()
    pace.see(1, 60.0)
    assert pace.batches == 1
    for batches in (4, 16, 50, 50):
        pace.see(pace.batches, 0.01 * pace.batches)
        assert pace.batches == batches
    pace.see(50, 50.0)
    assert pace.batches == 1


def test_an_evaluation_has_time_to_end_after_a_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted: list[str] = []
    halts, now = Halt(interrupted), 100.0
    monkeypatch.setattr(evaluation.time, "monotonic", lambda: now)
    assert not halts()
    interrupted.append("SIGTERM")
    assert not halts()
    now += evaluation.PATIENCE - 1
    assert not halts()
    now += 1
    assert halts()


@pytest.mark.parametrize("devices", [2, *exhaustive_tests(1)])
def test_means_are_the_same_to_the_last_bit_wherever_the_parts_end(devices: int) -> None:
    run = make_run(resolve_config(RUN | {"devices": devices}))
    state = run.programs.start(0)
    size, rows = run.evaluated_rows("validation")
    assert size % rows.shape[0] != 0

    def found(batches: int) -> dict[str, jax.Array]:
        whole = size, state.evaluated, state.buffers, run.data, rows
        return run.programs.evaluate("validation", *whole, Every(batches))

    for batches in (1, 5):
        jax.tree.map(np.testing.assert_array_equal, found(batches), found(1000))


def test_a_split_may_be_as_long_as_an_int_counts() -> None:
    task = RUN["task"] | {"validation_size": LARGEST_INT}
    run = make_run(resolve_config(RUN | {"task": task, "eval_batch_size": 1000}))
    state, programs = run.programs.start(0), run.programs
    size, rows = run.evaluated_rows("validation")
    whole = state.evaluated, state.buffers, run.data, rows
    last = size // 1000
    sums = programs.begin_sums("validation", *whole)
    _, means = programs.add_batches("validation", size, *whole, sums, np.int32(last), np.int32(last + 1))
    positions = np.arange(1000 * last, size).astype(np.int32)

    @jax.jit
    def score(params: Any, buffers: Any, positions: jax.Array) -> dict[str, jax.Array]:
        batch = run.task.batch(run.task.data, jnp.int32(0), "validation", positions)
        return run.task.score(programs.structure.network(params, buffers)(batch.inputs), batch)[0]

    values = score(state.evaluated, state.buffers, positions)
    assert {name: float(value) for name, value in means.items()} == pytest.approx(
        {name: float(value.mean()) for name, value in values.items()}, rel=1e-5
    )


def alone(workdir: Path) -> bool:
    return train_and_evaluate(RUN, workdir / "runs" / "0")["status"] == "finished"


def replicas(workdir: Path) -> bool:
    settings = [Setting(str(n), {}, resolve_config(RUN | {"seed": n})) for n in range(2)]
    return run_group(settings, workdir, workdir / "groups" / "0", None, lambda _: None, lambda **_: None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("split", "way"),
    [("validation", replicas), *exhaustive_tests(("test", alone), ("validation", alone), ("test", replicas))],
)
def test_a_run_whose_evaluation_was_left_goes_on_as_if_it_had_not_been(
    way: Callable[[Path], bool], split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert way(tmp_path / "whole")
    asked: list[int] = []
    size = RUN["task"][f"{split}_size"]
    real = evaluation.in_parts

    def halting(part: Any, sums: Any, count: int, *rest: Any) -> Any:
        if count == -(-size // 4) and not asked:
            asked.append(count)
            raise Halted
        return real(part, sums, count, *rest)

    for module in ("rnnlab.training.programs", "rnnlab.sweeps.replicas.replicas"):
        monkeypatch.setattr(f"{module}.in_parts", halting)
    assert not way(tmp_path / "left")
    assert asked
    assert way(tmp_path / "left")
    assert numbers(tmp_path / "left" / "runs" / "0") == numbers(tmp_path / "whole" / "runs" / "0")


@pytest.mark.parametrize("split", ["validation", *exhaustive_tests("test")])
def test_an_evaluation_without_an_end_answers_a_signal(
    split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "PATIENCE", 0.0)
    monkeypatch.setattr(evaluation, "SECONDS_PER_DISPATCH", 0.05)
    began, real = threading.Event(), evaluation.in_parts

    def beginning(part: Any, sums: Any, count: int, *rest: Any) -> Any:
        if count > 10**6:
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
            began.set()
        return real(part, sums, count, *rest)

    monkeypatch.setattr("rnnlab.training.programs.in_parts", beginning)
    endless = RUN | {"task": RUN["task"] | {f"{split}_size": LARGEST_INT}}
    assert train_and_evaluate(endless, tmp_path)["status"] == "interrupted"
    assert began.is_set()
