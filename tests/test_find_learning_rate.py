"""The learning-rate range test: its rates, where it stops, what it suggests and what it leaves behind."""

import functools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rnnlab import find_learning_rate
from rnnlab.config.errors import ConfigError
from rnnlab.config.reading import load_file
from rnnlab.find_learning_rate import conclusion, range_test, smooth, suggestion, too_high
from rnnlab.records.run_config import resolve_config

ROOT = Path(__file__).parent.parent

CONFIG = """
from ml_collections import ConfigDict

PRESETS = {"wild": 1e5}

def get_config(preset=None):
    assert preset is None or preset in PRESETS
    return ConfigDict(dict(
        steps=60,
        batch_size=4,
        devices=1,
        task=dict(name="adding", length=6, validation_size=50, test_size=40),
        model=dict(cell=dict(name="irnn", features=8, input_init="glorot_uniform")),
        optimizer=dict(name="sgd", learning_rate=0.01, schedule="cosine", warmup_steps=20),
    ))
"""


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "little.py"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def adding() -> dict[str, Any]:
    """The range test of configs/adding.py with shorter sequences and fewer units."""
    config = load_file(str(ROOT / "configs" / "adding.py"))
    config.task.length, config.model.cell.features, config.devices = 10, 32, 1
    return range_test(resolve_config(config), 1e-5, 1000.0, 200)


@pytest.mark.slow
def test_rates_rise_by_the_same_factor_and_all_else_is_the_configs(adding: dict[str, Any]) -> None:
    rates = np.array(adding["learning_rates"])
    assert rates[0] == 1e-5
    np.testing.assert_allclose(rates[1:] / rates[:-1], (1000 / 1e-5) ** (1 / 199), rtol=1e-12)
    assert adding["config"]["optimizer"]["clip_norm"] == 1.0
    assert adding["config"]["optimizer"]["name"] == "adam"


def test_the_rate_of_adding_is_sane(adding: dict[str, Any]) -> None:
    # configs/adding.py has 1e-3; the loss is noise below 1e-5 and rises again above 0.1.
    assert 1e-3 <= adding["learning_rate"] <= 5e-2


def test_it_stops_where_a_tenth_of_the_steps_has_four_times_the_lowest_mean_loss(adding: dict[str, Any]) -> None:
    losses = np.array(adding["losses"])
    assert adding["stopped"] == adding["learning_rates"][-1] < 1000
    means = np.exp(np.convolve(np.log(losses), np.ones(21) / 21, "valid"))  # Of 200 steps, an odd number.
    above = means[1:] > 4 * np.minimum.accumulate(means)[:-1]
    assert above[-1]
    assert not above[:-1].any()
    # There it leaps far beyond; this is how far it may go.
    assert not too_high(2.0, 0.5)
    assert too_high(2.01, 0.5)
    assert not too_high(-0.1, -1.0)  # Of a loss below zero four times the lowest says nothing.


def test_smoothed_loss_is_the_geometric_mean_of_a_tenth_of_the_steps_around_it(adding: dict[str, Any]) -> None:
    losses = np.log(adding["losses"])
    for k in (0, 1, 30, len(losses) - 1):
        expected = np.exp(losses[max(0, k - 10) : k + 11].mean())
        assert adding["smoothed"][k] == pytest.approx(expected, rel=1e-12)
    assert smooth([1.0, -3.0, 8.0], 10) == pytest.approx([-1, 2, 2.5])


@pytest.mark.slow
def test_steps_take_the_rates_that_are_reported() -> None:
    """Of gradient descent on batches that never change: the losses are those of that descent, done by hand."""
    import jax
    import jax.numpy as jnp

    from rnnlab.training.loss import batch_loss
    from rnnlab.training.setup import make_run

    config = resolve_config(
        dict(
            steps=12,
            batch_size=2,
            devices=1,
            task=dict(name="adding", length=4),
            model=dict(cell=dict(name="vanilla", features=3)),
            optimizer=dict(name="sgd", learning_rate=99.0, warmup_steps=7),
        )
    )
    found = range_test(config, 1e-3, 0.5, 12)
    run = make_run(config)
    state = run.programs.start(0)
    params, losses = state.params, []

    @jax.jit
    def loss_and_gradient(params: Any, step: jax.Array) -> Any:
        batch = run.task.batch(run.task.data, jnp.int32(0), "train", step * 2 + jnp.arange(2, dtype=jnp.uint32))
        network = functools.partial(run.programs.structure.network, buffers=state.buffers)
        return jax.value_and_grad(lambda p: batch_loss(network(p), run.task, batch, None)[0] / 2)(params)

    for step, rate in enumerate(found["learning_rates"]):
        loss, gradient = loss_and_gradient(params, jnp.uint32(step))
        params = jax.tree.map(lambda p, g, rate=rate: p - rate * g, params, gradient)
        losses.append(float(loss))
    assert len(losses) == 12
    np.testing.assert_allclose(found["losses"], losses, rtol=1e-4)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_the_test(config_file: Path) -> None:
    config = resolve_config(load_file(str(config_file)))
    found = range_test(config, 1e-3, 1e25, 20)
    assert found["stopped"] is not None
    assert len(found["losses"]) < 20
    assert all(math.isfinite(loss) for loss in found["losses"])


# --- suggestions -----------------------------------------------------------------------------------------------------


def test_the_rate_is_where_the_loss_is_lowest_before_it_explodes() -> None:
    x = np.linspace(-5, 1, 400)  # The loss falls around 10^-2, is lowest at 10^-1 and explodes.
    losses = 1 - 1 / (1 + np.exp(-8 * (x + 2))) + np.exp(9 * x - 4 + math.log(0.5))
    assert suggestion(list(10.0**x), list(losses)) == pytest.approx(10.0 ** x[np.argmin(losses)])


def test_a_lower_loss_behind_a_first_rise_is_none() -> None:
    # Pixels, IRNN: 5 at 3e-5, 10 at 2e-4, then 2.3, the loss of a network that ignores its input.
    rates = list(10.0 ** np.arange(-6, 0))
    assert suggestion(rates, [30.0, 20.0, 5.0, 10.0, 2.3, 2.3]) == rates[2]
    assert suggestion(rates, [30.0, 20.0, 5.0, 7.4, 2.3, 2.3]) == rates[4]  # Less than half as much again.
    assert suggestion(rates, [-1.0, -2.0, -5.0, -3.0, -4.0, -4.5]) == rates[2]


def test_a_batch_that_explodes_alone_is_not_taken_for_a_rate_that_is_too_high() -> None:
    rates = list(np.geomspace(1e-7, 10, 200))
    losses = [1 / (1 + (rate / 1e-3) ** 0.5) + (rate / 0.5) ** 4 for rate in rates]
    quiet = suggestion(rates, smooth(losses, 200))
    losses[60] *= 1000
    assert quiet is not None
    assert quiet > 1e-2
    assert suggestion(rates, smooth(losses, 200)) == quiet


@pytest.mark.parametrize("smoothed", [[], [1.0], [1.0, 2.0, 3.0]])
def test_a_loss_that_never_falls_suggests_nothing(smoothed: list[float]) -> None:
    rates = [0.1, 0.2, 0.3][: len(smoothed)]
    assert suggestion(rates, smoothed) is None
    if smoothed:
        found = dict(learning_rates=rates, stopped=None, learning_rate=None)
        assert conclusion(found).startswith("the loss never fell between learning rates of 0.1 and")


# --- the command -----------------------------------------------------------------------------------------------------


def test_command_writes_json_and_figure_and_names_one_rate_and_where_it_goes(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [f"--config={config_file}:wild", "--lowest=1e-4", "--highest=100", "--steps=40"]
    assert find_learning_rate.main(words) == 0
    workdir = tmp_path / "runs" / "little-wild-find_learning_rate"
    assert sorted(path.name for path in workdir.iterdir()) == ["find_learning_rate.json", "plots"]
    assert (workdir / "plots" / "find_learning_rate.png").stat().st_size > 0
    found = json.loads((workdir / "find_learning_rate.json").read_text())
    figure, said = capsys.readouterr().out.splitlines()
    rate = f"{found['learning_rate']:.2g}"
    assert said.startswith(f"learning rate {rate}: --config.optimizer.learning_rate={rate}")
    assert said.count(rate) == 2
    assert figure == "figure: runs/little-wild-find_learning_rate/plots/find_learning_rate.png"


@pytest.mark.slow
def test_divergence_at_the_first_step_is_exit_status_3(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The first step's loss is taken before any update: only weights that overflow by themselves diverge there.
    words = [f"--config={config_file}", f"--workdir={tmp_path / 'out'}"]
    words.append("--config.model.cell.recurrent_init=identity")
    words.append("--config.model.cell.recurrent_init.scale=1e30")
    assert find_learning_rate.main(words) == 3
    assert "not finite at the first step" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "find_learning_rate.json").read_text())["losses"] == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lowest=0"], "--lowest: 0.0 is out of range"),
        (["--lowest=-1"], "--lowest: -1.0 is out of range"),
        (["--highest=nan"], "--highest: nan is out of range"),
        (["--highest=inf"], "--highest: inf is out of range"),
        (["--highest=1e-7"], "--highest: 1e-07 is not above --lowest=1e-07"),
        (["--lowest=1e-20", "--highest=1e20"], "more than 1e30 times"),
        (["--steps=9"], "--steps: 9 is too few"),
        (["--steps=many"], "many"),
        (["--lowes=1"], "did you mean --lowest"),
        (["--config.optimizer.learning_rat=1"], "did you mean optimizer.learning_rate"),
        (["stray"], "unexpected argument"),
    ],
    ids=str,
)
def test_mistake_is_one_clear_line(config_file: Path, tmp_path: Path, flags: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        find_learning_rate.main([f"--config={config_file}", f"--workdir={tmp_path / 'out'}", *flags])
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_missing_config_and_unwritable_workdir_are_named(config_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--config is missing"):
        find_learning_rate.main([])
    with pytest.raises(ConfigError, match=r"--workdir=.*: Not a directory"):
        find_learning_rate.main([f"--config={config_file}", f"--workdir={config_file / 'out'}", "--steps=10"])
