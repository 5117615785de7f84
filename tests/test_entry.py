"""The commands: how they are started, and what they say of a flag or a file that is none."""

import subprocess
import sys
from pathlib import Path

import pytest

from rnnlab import entry, find_learning_rate, sweep, train
from rnnlab.build import ConfigError

ROOT = Path(__file__).parent.parent
COMMANDS = [path.stem for path in sorted((ROOT / "rnnlab").glob("*.py")) if "entry.run(main)" in path.read_text()]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_started_as_a_script_says_how_it_is_started(name: str) -> None:
    script = f"rnnlab/{name}.py"
    done = subprocess.run([sys.executable, script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == entry.MISTAKE
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
