"""The commands: how they are started, and what they say of a flag or a file that is none."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

import rnnlab
from rnnlab import cli, find_learning_rate, sweep, train
from rnnlab.config.errors import ConfigError
from rnnlab.config.reading import load_file
from rnnlab.datasets.locations import data_root
from rnnlab.files.path_flag import PathParser
from rnnlab.records import statuses

ROOT = Path(__file__).parent.parent
COMMANDS = [path.stem for path in sorted((ROOT / "rnnlab").glob("*.py")) if "cli.run(main)" in path.read_text()]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_started_as_a_script_says_how_it_is_started(name: str) -> None:
    script = f"rnnlab/{name}.py"
    done = subprocess.run([sys.executable, script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == cli.MISTAKE
    assert done.stderr == f"error: {script} is a part of a package; run it as: python -m rnnlab.{name}\n"


@pytest.mark.parametrize("main", [train.main, find_learning_rate.main, sweep.main], ids=["train", "rate", "sweep"])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("README.md", "# a page\n", "README.md is not a Python file"),
        ("none.py", "x = 1\n", "none.py: AttributeError: .*get_config"),
        ("page.py", "# a page: ```\n```\n", "page.py: SyntaxError"),
        ("binary.py", "\0\x01", "binary.py: (SyntaxError|ValueError): .*null bytes"),
        ("exits.py", "import sys\nsys.exit()\n", "exits.py: SystemExit"),
    ],
)
def test_a_file_that_is_no_config_is_one_clear_line(
    main, name: str, content: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=message):
        main([f"--config={tmp_path / name}", f"--workdir={tmp_path / 'run'}"])
    assert not (tmp_path / "run").exists()


def test_a_field_of_the_base_is_named_to_a_sweep(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean --config\.optimizer\.learning_rate\?"):
        sweep.main([f"--config={ROOT}/configs/sweeps/gain_around_one.py", "--learning_rate=1", f"--workdir={tmp_path}"])


def parsed_path(word: str) -> str:
    values = flags.FlagValues()
    cli.path_flag(values, "workdir", None, "a folder")
    cli.parse(values, [word], None)
    return values.workdir


def test_a_path_flag_knows_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parsed_path("--workdir=~/runs/x") == f"{tmp_path}/runs/x"
    assert parsed_path("--workdir=runs/~x") == "runs/~x"


@pytest.mark.parametrize("name", ["a b", "a\nb", "[a]", "a\\b", "a#b%20", "ü", "\udcc3\udcbc", "x" * 255])
def test_a_path_flag_takes_any_name(tmp_path: Path, name: str) -> None:
    assert parsed_path(f"--workdir={tmp_path / name}") == str(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x" * 256, "File name too long"),
        ("ü" * 128 + "/run", "File name too long"),
        ("a/" * 3000, "File name too long"),
        ("a\udcff", "is not UTF-8"),
        ("file/run", "Not a directory"),
    ],
)
def test_a_path_that_cannot_be_is_one_line(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=message) as error:
        parsed_path(f"--workdir={tmp_path}/{name}")
    assert "--workdir" in str(error.value)


ADDRESSES = {
    "gs://bucket/run": r"mount it, as with gcsfuse bucket FOLDER, and name the folder",
    "S3://bucket/run": r"mount it, as with mount-s3 bucket FOLDER, and name the folder",
    "gs://": "mount it, as with gcsfuse BUCKET FOLDER",
    "file:///tmp/run": "name the path alone: what follows file://",
    "https://host/run": "mount or copy what is there, and name the folder",
}
PACKAGES = [path.parent.name for path in (ROOT / "rnnlab").glob("*/__main__.py")]


def path_flags(module: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The flags of a command that take a path."""
    kept: list[flags.FlagValues] = []

    def keep(values: flags.FlagValues, *_: object, **__: object) -> None:
        kept.append(values)
        raise SystemExit

    main = importlib.import_module(module).main
    with monkeypatch.context() as patch:
        patch.setattr(cli, "parse", keep)
        with pytest.raises(SystemExit):
            main([])
    return [name for name in kept[0] if isinstance(kept[0][name].parser, PathParser)]


@pytest.mark.parametrize("module", [*COMMANDS, *(f"{name}.__main__" for name in PACKAGES)])
def test_an_address_is_no_path_to_any_command(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = path_flags(f"rnnlab.{module}", monkeypatch)
    without = ("prepare", "benchmark.__main__", "selfcheck.__main__", "accelerator_check.__main__")
    assert "workdir" in names or module in without
    for name in names:
        for address, remedy in ADDRESSES.items():
            with pytest.raises(ConfigError, match=f"--{name}={address}: '{address}' is an address, .*{remedy}"):
                importlib.import_module(f"rnnlab.{module}").main([f"--{name}={address}"])
    assert list(tmp_path.iterdir()) == []


DOORS = {
    "load": lambda folder: rnnlab.load(folder),
    "load_sweep": lambda folder: rnnlab.load_sweep(folder),
    "run_training": lambda folder: rnnlab.run_training(f"{ROOT}/configs/adding.py", folder),
    "run_sweep": lambda folder: rnnlab.run_sweep(f"{ROOT}/configs/sweeps/gain_around_one.py", folder),
    "data_dir": lambda folder: data_root(folder),
}


@pytest.mark.parametrize("door", DOORS)
def test_an_address_is_no_path_in_python(door: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("gs://bucket/run", Path("gs://bucket/run")):
        with pytest.raises(ConfigError, match=r"is an address, .* as with gcsfuse bucket FOLDER"):
            DOORS[door](folder)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["RNNLAB_DATA", "RNNLAB_CACHE"])
def test_an_address_is_no_path_in_the_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RNNLAB_DATA", raising=False)
    monkeypatch.setenv(name, "gs://bucket/data")
    with pytest.raises(ConfigError, match="'gs://bucket/data' is an address"):
        data_root()


def test_a_flag_that_is_a_number_is_not_nan() -> None:
    values = flags.FlagValues()
    flags.DEFINE_float("share", 0.5, "", 0.0, flag_values=values)
    with pytest.raises(ConfigError, match=r"^--share: nan is not a non-negative number$"):
        cli.parse(values, ["--share=nan"], "A command.")


def test_an_empty_path_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--workdir=: an empty path; \. is the current folder"):
        parsed_path("--workdir=")
    assert parsed_path("--workdir=.") == "."


def test_a_config_is_found_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.py").write_text("def get_config():\n    return {'steps': 3}\n")
    assert load_file("~/mine.py").steps == 3
    with pytest.raises(ConfigError, match="unknown config"):
        load_file("x" * 300)


def test_every_flag_that_is_a_path_is_a_path_flag() -> None:
    names = "workdir|output|source|data_dir|cache_dir|runs|results|page|vocabulary"
    plain = re.compile(rf'DEFINE_string\(\s*"(?:{names})"')
    files = [*(ROOT / "rnnlab").rglob("*.py"), *(ROOT / "scripts").glob("*.py")]
    assert [str(path) for path in files if plain.search(path.read_text(encoding="utf-8"))] == []


# --- exit statuses ---------------------------------------------------------------------------------------------------


def test_every_exit_status_has_one_meaning() -> None:
    numbers = {name: value for name, value in vars(statuses).items() if name.isupper() and isinstance(value, int)}
    assert sorted(numbers.values()) == sorted(statuses.MEANINGS)


SAYING = [*(ROOT / "rnnlab").rglob("*.py"), *(ROOT / "scripts").glob("*.py")]


@pytest.mark.parametrize("path", [p for p in SAYING if "\nExit status: " in p.read_text()], ids=lambda path: path.stem)
def test_a_command_ends_with_statuses_of_the_table(path: Path) -> None:
    said = re.search(r"^Exit status: (.*?)\"\"\"", path.read_text(), re.M | re.S)
    assert said
    assert {int(number) for number in re.findall(r"\b\d+\b", said[1])} <= statuses.MEANINGS.keys()
    assert not re.search(r"^[A-Z_]+ = \d\n\"\"\"The exit status", path.read_text(), re.M)
