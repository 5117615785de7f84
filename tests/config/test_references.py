"""Names of configs: rnnlab:NAME is the file of that name in configs/, from any folder and from a wheel."""

from pathlib import Path

import pytest

from rnnlab import sweep, train
from rnnlab.cli import default_workdir
from rnnlab.config import references
from rnnlab.config.errors import ConfigError
from rnnlab.config.reading import load_file, read_file
from rnnlab.config.references import read_reference, ready_configs

ROOT = Path(__file__).parents[2]
SWEEPS = [name for name in ready_configs() if name.startswith("sweeps/")]


def test_every_file_in_configs_is_ready():
    files = {
        file.relative_to(ROOT / "configs").with_suffix("").as_posix(): file for file in (ROOT / "configs").rglob("*.py")
    }
    assert ready_configs() == files
    assert {"adding", "irnn/pixels", "sweeps/init_by_activation"} < set(files)


@pytest.mark.parametrize(
    ("ready", "path"),
    [
        ("rnnlab:adding", "configs/adding.py"),
        ("rnnlab:adding:lstm", "configs/adding.py:lstm"),
        ("rnnlab:irnn/adding:lstm-paper-400", "configs/irnn/adding.py:lstm-paper-400"),
        ("rnnlab:irnn/lm1b", "configs/irnn/lm1b.py"),  # It reads another config.
    ],
)
def test_ready_config_is_that_of_its_file_from_any_folder(ready, path, tmp_path, monkeypatch):
    expected = load_file(str(ROOT / path))
    monkeypatch.chdir(tmp_path)
    assert load_file(ready) == expected
    assert default_workdir(ready) == default_workdir(path)


@pytest.mark.parametrize("name", SWEEPS)
def test_base_of_a_ready_sweep_is_a_ready_config(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = read_file(f"rnnlab:{name}")["base"]
    assert base.startswith("rnnlab:")
    assert "task" in load_file(base)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (
            "rnnlab:addng",
            r"^unknown config 'rnnlab:addng'; did you mean rnnlab:adding\? known: rnnlab:adding, .*pixels",
        ),
        ("rnnlab:adding.py", r"^unknown config 'rnnlab:adding\.py'; did you mean rnnlab:adding\? known: "),
        ("rnnlab:", r"^unknown config 'rnnlab:'; known: rnnlab:adding, "),
        ("rnnlab:../adding", r"^unknown config 'rnnlab:\.\./adding'; did you mean rnnlab:adding"),
        ("rnnlab:adding:lsmt", r"^unknown preset of rnnlab:adding 'lsmt'; did you mean lstm\? known: exprnn, "),
        ("rnnlab:sweeps/gain_around_one", r"^rnnlab:sweeps/gain_around_one: the file of a sweep, for python -m "),
        ("configs/adding.py", r"^unknown config 'configs/adding\.py'; known: rnnlab:adding, "),
    ],
)
def test_unknown_ready_config_names_the_nearest_and_all(reference, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        train.main([f"--config={reference}", "--workdir=run"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", [train, sweep])
def test_help_lists_the_ready_configs(module, capsys):
    with pytest.raises(SystemExit):
        module.main(["--help"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  --config:")]
    assert line.endswith(", ".join(f"rnnlab:{name}" for name in ready_configs()))


def test_configs_in_the_package_come_before_those_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(references, "__file__", str(tmp_path / "rnnlab" / "config" / "references.py"))
    for folder, name in [("configs", "beside"), ("rnnlab/configs", "inside")]:
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / f"{name}.py").write_text("")
        assert list(ready_configs()) == [name]


def test_a_file_named_as_the_package_is_a_file():
    assert read_reference("rnnlab").file == Path("rnnlab")
    assert read_reference("./rnnlab:adding").file == Path("rnnlab")
