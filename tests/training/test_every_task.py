"""Runs of every task of the table: in two parts as in one, and on two devices as on one."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from rnnlab.records.run_config import resolve_config
from rnnlab.tasks import TASKS
from rnnlab.training.checkpoints import Checkpoints
from rnnlab.training.loop import train_and_evaluate
from rnnlab.training.setup import make_run
from tests.generated_tasks import small_task
from tests.helpers import without_figures

NAMES = [pytest.param(each, marks=() if each == "copying" else pytest.mark.exhaustive) for each in sorted(TASKS)]


def small(name: str, folder: Path, patch: pytest.MonkeyPatch, **changes: Any) -> dict[str, Any]:
    """A config of a few steps; the task's files lie in the folder."""
    sections = dict(
        steps=4,
        batch_size=4,
        log_every=2,
        eval_every=4,
        eval_batch_size=4,
        checkpoint_every=2,
        task=small_task(name, folder, patch),
        model=dict(cell=dict(name="gru", features=3)),
        optimizer=dict(name="adam", learning_rate=0.01),
    )
    return resolve_config(sections | changes)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_run_in_two_parts_ends_bit_for_bit_where_a_whole_one_does(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, folder = small(name, tmp_path, monkeypatch, devices=1), str(tmp_path)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    with without_figures():
        train_and_evaluate(config, whole, folder)
        assert train_and_evaluate(config, parts, folder, stop_at=2)["status"] == "paused"
        train_and_evaluate(config, parts, folder)
    run, states = make_run(config, folder), []
    for workdir in (whole, parts):
        checkpoints = Checkpoints(workdir / "checkpoints")
        latest = checkpoints.restore_latest(run.programs.start(1))
        checkpoints.close()
        assert latest is not None
        assert latest.step == 4
        states.append(jax.tree.leaves((latest.state.params, latest.state.optimizer)))
    for one, other in zip(*states, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_devices_train_and_evaluate_as_one_does(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = []
    for devices in (1, 2):
        run = make_run(small(name, tmp_path, monkeypatch, devices=devices), str(tmp_path))
        state = run.train(run.programs.start(0), 4)
        values.append((run.evaluate(state, "validation"), jax.tree.leaves(jax.device_get(state.params))))
    assert values[1][0] == pytest.approx(values[0][0], rel=1e-5)
    for one, other in zip(values[0][1], values[1][1], strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-6)
