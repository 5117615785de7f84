"""`python -m rnnlab.diagnose`: what it leaves, on a trained and on an untrained network, and its bad inputs."""

import json
from pathlib import Path

import pytest

from rnnlab import diagnose
from rnnlab.build import ConfigError
from rnnlab.diagnostics.diagnosis import MEASURES
from rnnlab.loop import train_and_evaluate

CONFIG = """
def get_config():
    return dict(
        task=dict(name="adding", length=6, validation_size=8, test_size=8),
        model=dict(cell=dict(name={cell!r}, features=4)),
        optimizer=dict(name="adam", learning_rate=0.01),
        steps=2, batch_size=4, eval_every=2, log_every=1,
    )
"""


def write_config(folder: Path, cell: str = "lstm") -> Path:
    path = folder / "little.py"
    path.write_text(CONFIG.format(cell=cell))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    from rnnlab.config import load_file

    train_and_evaluate(load_file(str(write_config(folder))), folder / "run")
    return folder / "run"


def test_a_run_gets_every_measure_and_its_figure(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert diagnose.main([f"--workdir={trained}"]) == 0
    found = json.loads((trained / "diagnosis.json").read_text())
    assert found["step"] == 2
    assert found["problems"] == []
    for name in MEASURES:
        assert found[name]
        assert (trained / "plots" / f"{name}.png").stat().st_size > 0
    assert len(found["lyapunov"]["layer 1"]["mean"]) == 8
    assert sum(map(float, found["lags"]["layer 1"]["shares"])) == pytest.approx(1, abs=1e-5)  # Written to six digits.
    assert found["truncation"]["all"]["cosine"][-1] == 1
    assert "of 5" in capsys.readouterr().out


def test_what_is_not_defined_for_a_cell_is_left_out_and_the_rest_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, "gru_reset_before")
    words = [f"--config={config}", f"--output={tmp_path / 'out'}"]
    assert diagnose.main([*words, "--measure=lags,horizon", "--rows=2"]) == 0
    found = json.loads((tmp_path / "out" / "diagnosis.json").read_text())
    assert "horizon" in found
    assert "lags" not in found
    assert found["problems"][0].startswith("lags: ")
    assert "left out: lags" in capsys.readouterr().out
    assert diagnose.main([*words, "--measure=lags"]) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "one of --workdir, --config and --atlas says what to diagnose; given: none"),
        (["--atlas", "--workdir=x"], "given: --workdir and --atlas"),
        (["--workdir=nowhere"], "nowhere is not the workdir of a run"),
    ],
)
def test_nothing_or_too_much_to_diagnose_is_one_clear_line(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        diagnose.main(words)


def test_unknown_measure_is_one_clear_line(trained: Path) -> None:
    with pytest.raises(ConfigError, match=r"--measure: unknown measure 'lag'; did you mean lags"):
        diagnose.main([f"--workdir={trained}", "--measure=lag"])


def test_a_workdir_without_a_checkpoint_is_one_clear_line(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((trained / "config.json").read_text())
    with pytest.raises(ConfigError, match="has no checkpoint yet"):
        diagnose.main([f"--workdir={tmp_path}"])


def test_parameters_that_are_not_finite_are_named(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    words = [f"--config={path}", f"--output={tmp_path / 'out'}", "--config.model.cell.recurrent_init=large_normal"]
    with pytest.raises(ConfigError, match=r"not finite"):
        diagnose.main([*words, "--config.model.cell.recurrent_init.stddev=3e38"])
