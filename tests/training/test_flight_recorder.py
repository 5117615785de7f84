"""The flight recorder and its replay: what is kept is what happened, and interventions act on it."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rnnlab import diagnose
from rnnlab.cells import GRU
from rnnlab.config.errors import ConfigError
from rnnlab.diagnostics.flight import SPIKE
from rnnlab.nn.trajectory import trajectories
from rnnlab.records.folders import RecordingDir
from rnnlab.records.metrics import read_metrics
from rnnlab.records.run_config import resolve_config
from rnnlab.training.flight_recorder import read_recording
from rnnlab.training.loop import train_and_evaluate
from rnnlab.training.replay import _spectral_bound, blame
from rnnlab.training.setup import make_run

pytestmark = pytest.mark.slow  # Each trains or compiles several programs.


def exploding(**changes: Any) -> dict[str, Any]:
    """Calm for 23 updates; the gradient of the 24th is of 10¹¹, that of the 25th is not finite."""
    cell = dict(name="vanilla", features=4, activation="leaky_relu", recurrent_init="identity")
    config: dict[str, Any] = dict(
        task=dict(name="adding", length=8, validation_size=8, test_size=8),
        model=dict(cell=cell),
        optimizer=dict(name="sgd", learning_rate=0.1),
        flight_recorder=dict(steps=3),
        steps=30,
        batch_size=4,
        log_every=1,
        eval_every=30,
        checkpoint_every=30,
        devices=2,
    )
    return resolve_config(config | changes)


@pytest.fixture(scope="module")
def diverged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("diverged")
    assert train_and_evaluate(exploding(), workdir)["status"] == "diverged"
    return workdir


@pytest.fixture(scope="module")
def replayed(diverged: Path) -> dict[str, Any]:
    assert diagnose.main([f"--workdir={diverged}", "--replay", "--recording=24"]) == 0
    return json.loads((diverged / "replay.json").read_text())


def norms_of(workdir: Path) -> dict[int, float]:
    """{number of the update: its gradient norm}."""
    return {line["step"]: line["grad_norm"] for line in read_metrics(workdir) if line["split"] == "train"}


def test_recordings_come_in_the_order_of_their_updates_however_many_digits_these_have(tmp_path: Path) -> None:
    updates = [7, 99_999_999, 100_000_000, 2_000_000_000, 10_000_000_000]
    for name in (*(f"{update:08}" for update in updates), "notes"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "recording.json").write_text("{}")
    assert [int(each.folder.name) for each in RecordingDir.all_in(tmp_path)] == updates


def test_a_spike_and_the_end_are_recorded_with_the_updates_before_them(diverged: Path) -> None:
    found = [read_recording(diverged, update).record for update in (24, 25)]
    assert [each.folder.name for each in RecordingDir.all_in(diverged / "recordings")] == ["00000024", "00000025"]
    assert [each["reason"] for each in found] == ["spike", "not finite"]
    norms = norms_of(diverged)
    for record in found:
        updates = [line["update"] for line in record["updates"]]
        assert updates == list(range(record["update"] - 3, record["update"] + 1))
        assert record["start"] == record["update"] - 4
        for line in record["updates"]:
            if line["update"] in norms:  # What is not finite is not logged.
                assert line["grad_norm"] == pytest.approx(norms[line["update"]], rel=1e-5)
    usual = float(found[0]["updates"][-1]["usual_norm"])
    assert norms[24] > SPIKE * usual
    assert not np.isfinite(float(found[1]["updates"][-1]["grad_norm"]))


@pytest.mark.slow
def test_recorder_leaves_every_number_of_a_run_as_it_is(diverged: Path, tmp_path: Path) -> None:
    train_and_evaluate(exploding(flight_recorder=None), tmp_path)
    assert norms_of(tmp_path) == norms_of(diverged)
    assert not (tmp_path / "recordings").exists()


@pytest.mark.slow
def test_carries_are_those_of_the_whole_batch_of_the_update(diverged: Path) -> None:
    run = make_run(exploding(devices=1, flight_recorder=None))
    state = run.programs.train(run.programs.start(0), run.data, jnp.int32(23), run.rows)
    batch = run.task.batch(run.task.data, state.seed, "train", np.uint32(23 * 4) + run.rows)
    (expected,) = trajectories(run.programs.structure.network(state.params, state.buffers), batch.inputs)
    with np.load(diverged / "recordings" / "00000024" / "carries.npz") as carries:
        np.testing.assert_allclose(carries["layer 1/h"], expected.carries[0], rtol=1e-3)


@pytest.mark.slow
def test_recordings_are_as_many_as_asked_for_and_the_last(tmp_path: Path) -> None:
    train_and_evaluate(exploding(flight_recorder=dict(steps=1, at_most=1)), tmp_path)
    assert [each.folder.name for each in RecordingDir.all_in(tmp_path / "recordings")] == ["00000025"]


@pytest.mark.slow
def test_recording_does_not_reach_back_into_another_stage(tmp_path: Path) -> None:
    curriculum = dict(field="length", values=(7,), steps=(1,))
    config = exploding(curriculum=curriculum, flight_recorder=dict(steps=8))
    config["optimizer"]["learning_rate"] = 1.0
    train_and_evaluate(config, tmp_path)
    found = read_recording(tmp_path, None).record
    assert found["stage"] == 1
    assert found["start"] == 1
    assert {len(line["state"]["layer 1"]) for line in found["updates"]} == {8}


@pytest.mark.slow
def test_replay_makes_the_recorded_updates_again_to_the_bit(replayed: dict[str, Any]) -> None:
    assert replayed["deviation"] == 0
    assert replayed["interventions"]["as it was"]["finite"] is False


@pytest.mark.slow
def test_replay_says_what_would_have_held_the_gradient(replayed: dict[str, Any]) -> None:
    held = {label.split(" ")[0]: each["held"] for label, each in replayed["interventions"].items()}
    assert set(held) == {"as", "clip_norm", "cotangent.clip_norm", "learning_rate", "recurrent", "spectral"}
    limit = SPIKE * replayed["calm_norm"]
    for each in replayed["interventions"].values():
        norms = [float(line["grad_norm"]) for line in each["updates"]]
        assert each["held"] == all(norm <= limit for norm in norms)
    assert not held["as"]
    assert held["recurrent"]  # Only its state grows: a smaller gain holds it, a lower rate comes too late.
    assert not held["learning_rate"]


@pytest.mark.slow
def test_interventions_begin_where_the_recording_does(replayed: dict[str, Any]) -> None:
    was, *others = replayed["interventions"].values()
    for each in others:  # They differ in weights (gain, spectral bound) or only after the first update.
        assert each["updates"][0]["update"] == was["updates"][0]["update"]
    for label in ("learning_rate 0.01",):
        first, other = was["updates"][0], replayed["interventions"][label]["updates"][0]
        assert float(other["grad_norm"]) == pytest.approx(float(first["grad_norm"]), rel=1e-5)
        assert other["grad_norm"] != 0
        assert replayed["interventions"][label]["updates"][1]["loss"] != was["updates"][1]["loss"]


def lines_of(gradient: list[list[float]], state: list[list[float]], layer: str = "layer 1") -> list[dict[str, Any]]:
    return [{"gradient": {layer: g}, "state": {layer: s}} for g, s in zip(gradient, state, strict=True)]


def test_blame_names_the_time_step_where_the_gradient_outgrows_its_entry() -> None:
    calm, wild = [1.0, 1.0, 1.0, 1.0, 0.0], [90.0, 70.0, 21.0, 2.0, 0.0]
    (found,) = blame(lines_of([calm, wild], [[1.0] * 5, [1.0, 2.0, 5.0, 11.0, 12.0]]))
    assert found["time_step"] == 2
    assert found["peak"] == 0
    assert found["entry_growth"] == 2
    assert found["growth"] == 90
    assert found["state_time_step"] == 3
    (found,) = blame(lines_of([calm[::-1], wild[::-1]], [[1.0] * 5, [12.0, 11.0, 5.0, 2.0, 1.0]], "layer 1 reverse"))
    assert (found["time_step"], found["state_time_step"], found["peak"]) == (2, 1, 4)


def test_blame_of_what_only_enters_large_or_is_no_number() -> None:
    (large,) = blame(lines_of([[1.0, 1.0], [50.0, 50.0]], [[1.0, 1.0], [1.0, 1.0]]))
    assert large["time_step"] is None
    assert large["entry_growth"] == 50
    assert large["state_time_step"] is None
    nan = float("nan")
    (lost,) = blame(lines_of([[1.0, 1.0], [nan, nan]], [[1.0, 1.0], [1.0, nan]]))
    assert (lost["time_step"], lost["state_time_step"], lost["peak"]) == (1, 1, 0)


def test_layer_that_grew_most_comes_first() -> None:
    calm = {"gradient": {"layer 1": [1.0], "layer 2": [1.0]}, "state": {"layer 1": [1.0], "layer 2": [1.0]}}
    wild = {"gradient": {"layer 1": [2.0], "layer 2": [3.0]}, "state": calm["state"]}
    assert [each["layer"] for each in blame([calm, wild])] == ["layer 2", "layer 1"]


def test_spectral_bound_acts_on_every_gate_by_itself_and_only_above_one() -> None:
    small, large = (np.diag([0.5, scale]).astype(np.float32) for scale in (0.9, 3.0))
    cell = GRU(1, 2, rngs=nnx.Rngs(0))
    cell.recurrent_kernel[...] = jnp.hstack([small, large, small])
    cell.set_recurrent_matrices(_spectral_bound)
    expected = np.hstack([small, np.diag([0.5, 1.0]), small])
    np.testing.assert_allclose(cell.recurrent_kernel[...], expected, atol=1e-6)
    np.testing.assert_array_equal(cell.bias[...], np.zeros(6))


@pytest.mark.slow
def test_run_without_a_recording_or_with_another_is_one_clear_line(diverged: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no recording of update 7; there are: 24, 25"):
        diagnose.main([f"--workdir={diverged}", "--replay", "--recording=7"])
    config = exploding(flight_recorder=None, steps=1)
    train_and_evaluate(config, tmp_path)
    with pytest.raises(ConfigError, match="has no recording: nothing spiked, or the run had no flight recorder"):
        diagnose.main([f"--workdir={tmp_path}", "--replay"])
    with pytest.raises(ConfigError, match="--replay: needs --workdir"):
        diagnose.main(["--replay"])
