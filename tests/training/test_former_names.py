"""Runs that earlier versions began: their checkpoints are restored, and go on to the numbers that they were to have.

former_run.tar.xz is the workdir of a run over 12 steps, stopped at step 6 by the version before the parts of the
optimiser's chain had names: CONFIG, trained with `stop_at=6`.
"""

import contextlib
import tarfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab.records.metrics import read_metrics
from rnnlab.training.checkpoints import Checkpoints
from rnnlab.training.former_names import former_names
from rnnlab.training.loop import train_and_evaluate

CONFIG: dict[str, Any] = dict(
    seed=3,
    steps=12,
    batch_size=4,
    log_every=4,
    eval_every=4,
    checkpoint_every=100,
    eval_batch_size=4,
    devices=1,
    task=dict(name="adding", length=6, validation_size=8, test_size=8),
    model=dict(cell=dict(name="irnn", features=3)),
    averaging={},
    penalties=dict(l2=dict(recurrent=1e-3)),
    optimizer=dict(
        name="adam",
        learning_rate=1e-2,
        clip_norm=0.5,
        gradient_noise=0.01,
        schedule=dict(name="plateau", patience=1),
    ),
)
TRAIN = {"loss": 0.1406629979610443, "grad_norm": 2.3484835624694824, "clipped": 1.0, "penalty": 0.003329991828650236}
TEST = {"loss": 0.16964347660541534, "within_0.04": 0.125}
"""The last lines of its metrics.jsonl, had it not been stopped."""


@pytest.mark.slow
def test_a_run_that_an_earlier_version_began_goes_on_as_it_would_have(tmp_path: Path) -> None:
    with tarfile.open(Path(__file__).with_name("former_run.tar.xz")) as archive:
        archive.extractall(tmp_path, filter="data")
    summary = train_and_evaluate(CONFIG, tmp_path / "run")
    assert (summary["status"], summary["steps"]) == ("finished", 12)
    assert summary["stability"] == {"finite": True, "clipped": 1.0, "spikes": 0}
    lines = {line["split"]: line for line in read_metrics(tmp_path / "run")}
    assert {name: lines["train"][name] for name in TRAIN} == pytest.approx(TRAIN, rel=1e-5)
    assert lines["train"]["learning_rate"] == 0.01
    assert {name: lines["test"][name] for name in TEST} == pytest.approx(TEST, rel=1e-5)


RULES = {
    "adam": {"optimizer/rule/count": "0/count", "optimizer/rule/mu/readout/bias": "0/mu/readout/bias"},
    "sgd": {},
    "adamw": {"optimizer/rule/0/count": "0/0/count"},
}


@pytest.mark.parametrize("state", ["", "state/", "best/"])
@pytest.mark.parametrize("clips", [False, True])
@pytest.mark.parametrize("noise", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_every_part_of_the_chain_is_where_its_number_was(rule: str, noise: bool, clips: bool, state: str) -> None:
    first = int(clips)  # Clipping kept nothing, and had a number.
    expected: dict[str, str | None] = {
        "step": "step",
        "params/readout/bias": "params/readout/bias",
        "optimizer/spikes/count": "step",
        "optimizer/spikes/norm": None,
        "optimizer/spikes/usual_norm": "usual_norm",
        "optimizer/spikes/total": "totals/spikes",
    }
    if clips:
        expected |= {"optimizer/clipping/last": None, "optimizer/clipping/total": "totals/clipped"}
    if noise:
        expected |= {"optimizer/noise/count": f"optimizer/{first}/count"}
    for name, former in RULES[rule].items():
        number, _, rest = former.partition("/")
        expected[name] = f"optimizer/{int(number) + first + noise}/{rest}"
    rate = f"optimizer/{1 + first + noise}/count"
    expected |= {"optimizer/learning_rate/count": rate, "optimizer/learning_rate/rate": None}
    stored = {state + former for former in expected.values() if former} | {f"{state}totals/clipped"}
    names, over = former_names([state + name for name in expected], stored)
    assert names == {state + name: former and state + former for name, former in expected.items()}
    assert stored - {former for former in names.values() if former} <= over == {f"{state}totals/clipped"}


def test_names_of_this_version_are_themselves() -> None:
    wanted = ["step", "optimizer/spikes/count", "optimizer/rule/mu/readout/bias", "optimizer/learning_rate/rate"]
    assert former_names(wanted, wanted) == ({name: name for name in wanted}, set())


@pytest.mark.parametrize("state", ["", "state/", "best/"])
@pytest.mark.parametrize("name", ["penalty/l2", "weight/recall"])
def test_sums_that_a_checkpoint_lacks_begin_at_zero(name: str, state: str) -> None:
    before = [f"{state}params/kernel", f"{state}sums/loss"]
    new = f"{state}sums/{name}"
    assert former_names([*before, new], before) == ({each: each for each in before} | {new: None}, set())
    assert former_names([*before, new], [*before, new])[0][new] == new


@pytest.mark.parametrize("clips", [False, True])
def test_a_checkpoint_of_an_earlier_version_is_read_whether_or_not_it_clips(clips: bool, tmp_path: Path) -> None:
    """It counted what was clipped where nothing was, too."""
    one, two, three = jnp.int32(1), jnp.float32(2), jnp.int32(3)
    params = {"readout": {"bias": jnp.ones(2)}}
    stored = {"step": one, "params": params, "usual_norm": two, "totals": {"spikes": three, "clipped": one}}
    stored["optimizer"] = {str(int(clips) + 1): {"count": one}}
    wanted = {"step": one, "params": params, "optimizer": {"spikes": {"usual_norm": two, "total": three}}}
    wanted["optimizer"]["learning_rate"] = {"count": one}
    if clips:
        wanted["optimizer"]["clipping"] = {"total": one}
    with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
        checkpoints.save(1, stored, {"of": 1})
        checkpoints.wait()
        restored = checkpoints.restore(1, jax.tree.map(jnp.zeros_like, wanted))
    jax.tree.map(np.testing.assert_array_equal, restored.state, wanted)
