"""What is measured during training: against the gradient's flow measured alone, and that watching changes nothing."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab import diagnose, plots
from rnnlab.config.errors import ConfigError
from rnnlab.diagnostics import decay_per_step, gradient_flow, memory_horizon
from rnnlab.records.metrics import read_diagnostics, read_metrics
from rnnlab.records.run_config import resolve_config
from rnnlab.records.workdir import read_config
from rnnlab.tasks import TASKS
from rnnlab.training.host_state import Convergence
from rnnlab.training.loop import train_and_evaluate
from rnnlab.training.setup import make_run
from tests.task_with_lengths import Totals
from tests.tiers import exhaustive_tests


def small(**changes: Any) -> dict[str, Any]:
    config: dict[str, Any] = dict(
        task=dict(name="adding", length=6, validation_size=8, test_size=8),
        model=dict(cell=dict(name="lstm", features=4)),
        optimizer=dict(name="adam", learning_rate=0.01, clip_norm=0.5),
        diagnostics=("gradient_flow",),
        diagnostics_every=4,
        steps=12,
        batch_size=4,
        log_every=1,
        eval_every=6,
        checkpoint_every=6,
    )
    return resolve_config(config | changes)


@pytest.fixture(autouse=True)
def _totals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "totals", Totals)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("task", "devices"),
    [
        *exhaustive_tests((dict(name="adding", length=6), 1), (dict(name="adding", length=6), 2)),
        (dict(name="totals", length=8), 2),
    ],
)
def test_flow_of_a_step_is_the_flow_of_its_batch(task: dict[str, Any], devices: int) -> None:
    model = dict(cell=dict(name="lstm", features=4), bidirectional=True)
    run = make_run(small(task=task, devices=devices, model=model))
    state = run.programs.start(0)
    observed_flow = run.programs.observe(state, run.data, run.rows)["gradient_flow"]
    batch = run.task.batch(run.task.data, state.seed, "train", run.rows)
    assert (batch.lengths is None) == (task["name"] == "adding")
    flow = jax.jit(lambda *weights: gradient_flow(run.programs.structure.network(*weights), run.task, batch))
    expected = flow(state.params, state.buffers)
    for name, norms in expected.items():
        np.testing.assert_allclose(observed_flow[f"{name}/h"], norms, rtol=2e-5)
        forward = norms[::-1] if name.endswith("reverse") else norms
        np.testing.assert_allclose(observed_flow[f"{name}/factor"], decay_per_step(forward).factor, rtol=1e-4)
        assert observed_flow[f"{name}/horizon"] == memory_horizon(forward, run.task.longest_dependency)
    assert {name.rpartition("/")[2] for name in observed_flow} == {"h", "c", "delta", "factor", "half_life", "horizon"}


def test_a_program_that_is_watched_is_the_program_that_is_not() -> None:
    texts = set()
    for diagnostics in ((), ("gradient_flow", "norms", "saturation", "spectrum")):
        run = make_run(small(diagnostics=diagnostics))
        state = run.programs.start(0)
        texts.add(run.programs.train.lower(state, run.data, jnp.int32(3), run.rows).as_text())
    assert len(texts) == 1


@pytest.mark.slow
def test_every_number_of_a_run_over_rows_that_differ_in_length_is_that_of_rows_aligned_at_their_ends(
    tmp_path: Path,
) -> None:
    # A linear cell with R = 0.9 I, which a learning rate of 1e-30 leaves as it is.
    cell = dict(name="vanilla", activation="linear", features=4, recurrent_init=dict(name="identity", scale=0.9))
    config = small(
        task=dict(name="totals", length=12, longest_dependency=7),
        model=dict(cell=cell),
        optimizer=dict(name="sgd", learning_rate=1e-30),
        steps=1,
        checkpoint_every=1,
        eval_every=1,
        flight_recorder=dict(steps=1),
    )
    summary = train_and_evaluate(config, tmp_path)["memory_horizon"]
    assert diagnose.main([f"--workdir={tmp_path}", "--measure=horizon,truncation", "--rows=3"]) == 0
    measured = json.loads((tmp_path / "diagnosis.json").read_text())
    (line,) = read_diagnostics(tmp_path)
    of_training = {name.removeprefix("layer 1/"): value for name, value in line["gradient_flow"].items()}
    for horizon in (summary["layer 1"], measured["horizon"]["layer 1"], of_training):
        assert float(horizon["factor"]) == pytest.approx(0.9, rel=1e-5)
        assert float(horizon["half_life"]) == pytest.approx(6.578813, rel=1e-4)
        assert horizon["horizon"] == 7  # 0.9^11 is above a hundredth, but no answer depends on what is that far back.
    for norms in (
        measured["horizon"]["layer 1"]["norms"],
        of_training["h"],
        *(each["layer 1"] for each in json.loads((tmp_path / "gradient_flow.json").read_text()).values()),
    ):
        np.testing.assert_allclose(norms, norms[-1] * 0.9 ** np.arange(12)[::-1], rtol=1e-5)
    ratio = np.array(measured["truncation"]["recurrent"]["ratio"], float)
    assert (np.diff(ratio) > 0).all()  # Each window sees more than the one before: 1, 2, 4, 8, 12.


@pytest.mark.slow
def test_watching_leaves_every_number_of_a_run_as_it_is(tmp_path: Path) -> None:
    watched, alone = tmp_path / "watched", tmp_path / "alone"
    train_and_evaluate(small(), watched)
    train_and_evaluate(small(diagnostics=()), alone)
    first, second = ([line | {"seconds": 0} for line in read_metrics(path)] for path in (watched, alone))
    assert first == second
    assert [line["step"] for line in read_diagnostics(watched)] == [0, 4, 8]
    assert not (alone / "diagnostics.jsonl").exists()
    for name in ("gradient_heat_map.png", "half_life.png"):
        assert (watched / "plots" / name).stat().st_size > 0


@pytest.mark.exhaustive
def test_a_run_made_longer_has_the_lines_of_one_that_was_long_at_once(tmp_path: Path) -> None:
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    train_and_evaluate(small(), whole)
    train_and_evaluate(small(steps=6), pieces)
    train_and_evaluate(small(), pieces)
    first, second = ([line | {"seconds": 0} for line in read_diagnostics(path)] for path in (whole, pieces))
    assert first == second


@pytest.mark.slow
def test_clipped_steps_and_spikes_are_counted(tmp_path: Path) -> None:
    # A gradient of 1000 times the usual size at once: the learning rate throws the weights far away.
    config = small(diagnostics=(), steps=20, optimizer=dict(name="sgd", learning_rate=0.3, clip_norm=0.2), batch_size=2)
    summary = train_and_evaluate(config, tmp_path)
    norms = [line["grad_norm"] for line in read_metrics(tmp_path) if line["split"] == "train"]
    usual, spikes = norms[0], 0
    for step, norm in enumerate(norms):
        spikes += norm > 10 * usual
        usual += (min(norm, 10 * usual) - usual) / min(step + 1, 100)
    assert summary["stability"] == {
        "finite": True,
        "clipped": pytest.approx(sum(n > 0.2 for n in norms) / 20),
        "spikes": spikes,
    }
    assert 0 < summary["stability"]["clipped"] < 1


@pytest.mark.slow
def test_a_spike_is_ten_times_the_running_mean() -> None:
    run = make_run(small(steps=3, optimizer=dict(name="sgd", learning_rate=1e-6)))
    state = run.programs.train(run.programs.start(0), run.data, jnp.int32(2), run.rows)
    usual = float(state.spikes.usual_norm)
    assert usual > 0
    low = jax.tree.map(jnp.copy, state)
    for factor, spikes in ((0.02, 1), (1.0, 0)):
        spikes_before = low.spikes._replace(usual_norm=jnp.float32(usual * factor))
        start = dataclasses.replace(low, optimizer=low.optimizer | {"spikes": spikes_before})
        after = run.programs.train(jax.tree.map(jnp.copy, start), run.data, jnp.int32(3), run.rows)
        assert int(after.spikes.total) == spikes
        assert "clipped" not in after.sums


@pytest.mark.slow
@pytest.mark.parametrize(
    ("clipping", "clips"),
    [
        ({"clip_layer_norm": 1e-9, "clip_norm": 1e9}, 1),
        *exhaustive_tests(({"clip_value": 1e-9}, 1), ({"clip_value": 1e9}, 0)),
    ],
)
def test_any_clipping_that_changes_a_gradient_counts(clipping: dict[str, float], clips: int) -> None:
    run = make_run(small(steps=3, optimizer=dict(name="sgd", learning_rate=1e-6, **clipping)))
    state = run.programs.train(run.programs.start(0), run.data, jnp.int32(3), run.rows)
    assert state.clipped is not None
    assert int(state.clipped.total) == 3 * clips


def test_convergence_is_the_first_evaluation_that_solves_the_task() -> None:
    convergence = Convergence(("loss", 0.01), -1.0)
    for step, loss in enumerate([1.0, float("nan"), 0.01, 0.001]):
        convergence.see(step, {"loss": loss}, seconds=10.0 * step)
    assert convergence.summary() == {"metric": "loss", "threshold": 0.01, "steps": 2, "seconds": 20.0}
    again = Convergence(("loss", 0.01), -1.0)
    again.load(json.loads(json.dumps(convergence.dump())))
    assert again.summary() == convergence.summary()
    assert Convergence(None, 1.0).summary() is None


@pytest.mark.slow
def test_summary_says_how_the_run_went(tmp_path: Path) -> None:
    summary = train_and_evaluate(small(), tmp_path)
    assert summary["convergence"] == {"metric": "loss", "threshold": 0.01, "steps": None, "seconds": None}
    horizon = summary["memory_horizon"]
    flow = json.loads((tmp_path / "gradient_flow.json").read_text())["trained"]["layer 1"]
    assert horizon["longest_dependency"] == 5
    assert horizon["layer 1"]["horizon"] == sum(norm >= 0.01 * flow[-1] for norm in flow) - 1
    assert horizon["layer 1"]["factor"] == pytest.approx(float(decay_per_step(jnp.array(flow)).factor))


def test_horizon_is_the_distance_at_which_a_hundredth_is_left() -> None:
    t = jnp.arange(30)
    assert memory_horizon(0.5 ** (29.0 - t)) == 6  # 1/64 is above a hundredth, 1/128 is not.
    assert memory_horizon(jnp.ones(30)) == 29
    assert memory_horizon(jnp.where(t < 20, 0.5 ** (19.0 - t), 0)) == 6  # Rows that end at step 20.
    assert memory_horizon(jnp.ones(30), 20) == 20  # No further than any answer depends on.
    assert memory_horizon(jnp.zeros(30)) == 0
    assert memory_horizon(jnp.full(30, jnp.nan)) == 0


def test_unknown_diagnostic_is_one_clear_line() -> None:
    with pytest.raises(ConfigError, match=r"diagnostics\[1\]: unknown diagnostic 'flow'; .*known: gradient_flow"):
        small(diagnostics=("gradient_flow", "flow"))
    assert small(diagnostics="gradient_flow")["diagnostics"] == ("gradient_flow",)


OUTSIDE = """
import jax.numpy as jnp
from rnnlab.diagnostics import Diagnostic, DiagnosticFigure


def measure(probe):
    return {"largest": jnp.max(jnp.abs(probe.params["readout"]["kernel"]))}


def draw(steps, lines, style):
    figure, (axis,) = style.make_axes(1)
    axis.plot(steps, style.numbers(line["largest"] for line in lines))
    return figure


largest = Diagnostic(measure, (DiagnosticFigure("largest_weight", draw, "The largest weight."),))
"""


@pytest.mark.exhaustive
def test_a_diagnostic_from_outside_brings_its_figure_and_caption(tmp_path: Path) -> None:
    (tmp_path / "weights.py").write_text(OUTSIDE)
    config = small(diagnostics=("weights:largest", "norms"), import_from=[str(tmp_path)])
    train_and_evaluate(config, tmp_path / "run")
    values = [line["weights:largest"]["largest"] for line in read_diagnostics(tmp_path / "run")]
    assert len(values) == 3
    assert all(value > 0 for value in values)
    assert (tmp_path / "run" / "plots" / "largest_weight.png").exists()
    page = (plots.page(tmp_path / "run", read_config(tmp_path / "run"))).read_text()
    assert page.index('id="norms"') < page.index('id="largest_weight"')
    assert "<figcaption>The largest weight.</figcaption>" in page
