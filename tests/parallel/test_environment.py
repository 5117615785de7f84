"""What a command finds around it: JAX's settings, devices that are not there, terminals and locales without UTF-8."""

import io
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import pytest

from rnnlab.config.errors import ConfigError
from rnnlab.files import write_text
from rnnlab.parallel import devices, environment

ROOT = Path(__file__).parents[2]
OTHERS = {
    "jax_default_prng_impl": "rbg",
    "jax_error_checking_behavior_divide": "raise",
    "jax_error_checking_behavior_nan": "raise",
    "jax_error_checking_behavior_oob": "raise",
    "jax_legacy_prng_key": "error",
    "jax_numpy_dtype_promotion": "strict",
    "jax_numpy_rank_promotion": "raise",
    "jax_random_seed_offset": 7,
    "jax_transfer_guard": "disallow",
}
"""Other values of settings that are not True or False."""


@pytest.mark.parametrize("name", environment.SETTINGS)
def test_a_setting_of_jax_that_changes_numbers_is_put_back_and_said(name, monkeypatch, capsys):
    value = environment.SETTINGS[name]
    assert getattr(jax.config, name) == value, "not what JAX does without the setting"
    other = (not value) if isinstance(value, bool) else OTHERS[name]
    monkeypatch.setenv(name.upper(), str(other))
    try:
        jax.config.update(name, other)
        environment.settle()
        assert getattr(jax.config, name) == value
    finally:
        jax.config.update(name, value)
    assert name.upper() not in os.environ  # A process that is started now must not say it again.
    output = capsys.readouterr().err
    assert output.startswith(f"{name.upper()}={other} does not count here: a run is what its config says")
    assert output.endswith("\n")
    assert output.count("\n") == 1
    environment.settle()
    assert capsys.readouterr().err == ""


def test_what_finds_values_that_are_not_finite_is_named_in_place_of_the_settings_that_do_not_count(capsys):
    for name, flag in {"jax_debug_nans": "--config.flight_recorder", "jax_random_seed_offset": "--config.seed"}.items():
        try:
            jax.config.update(name, 1)
            environment.settle()
        finally:
            jax.config.update(name, environment.SETTINGS[name])
        assert flag in capsys.readouterr().err
    named = [name for names in environment.INSTEAD for name in names]
    assert len(named) == len(set(named))
    assert set(named) <= environment.SETTINGS.keys()


def test_a_setting_that_is_as_it_should_be_is_not_said(monkeypatch, capsys):
    monkeypatch.setenv("JAX_ENABLE_X64", "0")
    environment.settle()
    assert capsys.readouterr().err == ""


def test_a_terminal_that_lacks_a_character_shows_a_question_mark(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii", errors="strict"))
    environment.settle()
    print("2 × cpu, ‖δ‖, \udcff", flush=True)
    assert raw.getvalue().decode() == "2 ? cpu, ???, ?" + os.linesep


def test_names_as_python_reads_them_without_utf8_are_written_as_they_were_typed(tmp_path):
    name = "run ü".encode().decode("ascii", "surrogateescape")
    write_text(tmp_path / "page", f"{name} \udcff")
    assert (tmp_path / "page").read_text(encoding="utf-8") == "run ü \ufffd"


@pytest.mark.parametrize("error", [AssertionError(), RuntimeError("Unable to initialize backend 'cuda':\n no GPU")])
def test_devices_that_cannot_be_made_are_one_line(error, monkeypatch):
    def fail():
        raise error

    monkeypatch.setattr(jax, "devices", fail)
    line = r"^JAX_PLATFORMS=cpu: no such device can be used here.*; unset"
    with pytest.raises(ConfigError, match=line) as caught, devices.failures():
        raise AssertionError
    assert "\n" not in str(caught.value)


def test_other_errors_are_none_of_the_devices():
    with pytest.raises(AssertionError, match="mine"), devices.failures():
        raise AssertionError("mine")


@pytest.mark.slow
def test_figures_do_not_depend_on_a_users_settings(tmp_path):
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\n")
    code = "import rnnlab.plots, matplotlib as m; print(m.get_backend().lower(), m.rcParams['text.usetex'])"
    (tmp_path / "work").mkdir()
    done = run(["-c", code], tmp_path / "work", MPLCONFIGDIR=str(tmp_path), MPLBACKEND="nonsense")
    assert done.stdout == "agg False\n", done.stderr


# --- every command, as it is typed -----------------------------------------------------------------------------------

SMALL = (
    "--config.steps=20",
    "--config.task.length=8",
    "--config.model.cell.features=4",
    "--config.log_every=10",
    "--config.eval_every=10",
    "--config.checkpoint_every=10",
)
ADDING = ROOT / "configs" / "adding.py"
SWEEP = f"""
def get_config():
    return dict(base={str(ADDING)!r}, overrides={{"steps": 4, "task.length": 5, "eval_every": 4}},
        product={{"optimizer.learning_rate": [0.01, 0.1]}}, seeds=1)
"""
TEXT = "to be or not to be × that is the question\n" * 200
CHARACTERS = (
    f"--config={ROOT / 'configs' / 'shakespeare.py'}",
    "--config.task.dataset=text",
    "--config.task.source=Bücher",
    "--config.task.window=5",
    "--config.model.cell.features=4",
    "--config.steps=10",
    "--config.eval_batch_size=4",
    "--config.batch_size=4",
)
RUN = "--workdir=run ü"
BARE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
ODD = {"JAX_ENABLE_X64": "1", "JAX_DEBUG_NANS": "1", "MPLBACKEND": "nonsense"}
COMMANDS: dict[str, Sequence[str]] = {
    "train": ("-m", "rnnlab.train", f"--config={ADDING}", RUN, *SMALL),
    "train characters": ("-m", "rnnlab.train", *CHARACTERS, "--workdir=text", "--data_dir=data"),
    "evaluate": ("-m", "rnnlab.evaluate", RUN),
    "diagnose": ("-m", "rnnlab.diagnose", RUN, "--html"),
    "generate": ("-m", "rnnlab.generate", "--workdir=text", "--prompt=to be × ", "--length=20", "--data_dir=data"),
    "sweep": ("-m", "rnnlab.sweep", "--config=sweep.py", "--workdir=sweep ×"),
    "report": ("-m", "rnnlab.report", "--workdir=sweep ×"),
    "find_learning_rate": (
        "-m",
        "rnnlab.find_learning_rate",
        f"--config={ADDING}",
        "--workdir=range",
        *SMALL,
        "--steps=20",
    ),
    "prepare": (
        "-m",
        "rnnlab.prepare",
        "--dataset=text",
        "--source=Bücher",
        "--data_dir=data",
        "--min_count=2",
    ),
}
"""In an order in which each finds what it needs."""


def run(words: Sequence[str], folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, encoding="utf-8", errors="replace"
    )


ENTRIES = sorted(
    [("-m", f"rnnlab.{path.stem}") for path in (ROOT / "rnnlab").glob("*.py") if "cli.run(" in path.read_text("utf-8")]
    + [("-m", "rnnlab.benchmark")]
    + [(str(path),) for path in (ROOT / "scripts").glob("*.py")]
)


@pytest.mark.exhaustive
@pytest.mark.parametrize("words", ENTRIES, ids=lambda words: Path(words[-1]).name)
def test_every_entry_explains_itself_in_a_bare_locale(tmp_path, words):
    done = run([*words, "--help"], tmp_path, **BARE, **ODD)
    assert done.returncode == 0, done.stderr
    assert "--help: this text" in done.stdout


@pytest.mark.exhaustive
def test_every_command_works_in_a_bare_locale_with_odd_settings(tmp_path):
    (tmp_path / "Bücher").mkdir()
    (tmp_path / "Bücher" / "a.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "sweep.py").write_text(SWEEP, encoding="utf-8")
    for name, words in COMMANDS.items():
        done = run(words, tmp_path, **BARE, **ODD)
        assert done.returncode == 0, f"{name}: {done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, f"{name}: {done.stderr}"


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", COMMANDS)
def test_a_device_that_is_not_there_is_one_line_and_leaves_no_workdir(tmp_path, name):
    """A command that needs no device finishes; one that needs a run finds none."""
    (tmp_path / "Bücher").mkdir()
    (tmp_path / "Bücher" / "a.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "sweep.py").write_text(SWEEP, encoding="utf-8")
    done = run(COMMANDS[name], tmp_path, JAX_PLATFORMS="cuda")
    if name == "prepare":
        assert done.returncode == 0, done.stderr
        return
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "data") == ["Bücher", "sweep.py"]
