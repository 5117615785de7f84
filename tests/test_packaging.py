"""What stands around the code: the wheel, and the files that repeat something of pyproject.toml."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def run(folder: Path, *command: str, packages: Path | None = None) -> str:
    """The output of a Python command in a folder; packages: where modules are looked for first."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {} if packages is None else {"PYTHONPATH": str(packages)}
    words = [sys.executable, *command]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_wheel_trains_a_ready_config_in_an_empty_folder(tmp_path):
    pytest.importorskip("hatchling")
    offline = ("--quiet", "--no-deps", "--no-index")
    run(ROOT, "-m", "pip", "wheel", *offline, "--no-build-isolation", f"--wheel-dir={tmp_path}", str(ROOT))
    (wheel,) = tmp_path.glob("rnnlab-*.whl")
    installed, empty = tmp_path / "installed", tmp_path / "empty"
    run(tmp_path, "-m", "pip", "install", *offline, f"--target={installed}", str(wheel))
    empty.mkdir()
    code = (
        "import rnnlab, rnnlab.config.references as r; print(rnnlab.__file__, *r.ready_configs().values(), sep='\\n')"
    )
    package, *configs = map(Path, run(empty, "-c", code, packages=installed).splitlines())
    assert package == installed / "rnnlab" / "__init__.py"
    assert (package.parent / "py.typed").exists()
    there = {file.relative_to(package.parent) for file in configs}
    assert there == {file.relative_to(ROOT) for file in (ROOT / "configs").rglob("*.py")}
    changes = ("--config.steps=4", "--config.task.length=5", "--config.model.cell.features=3")
    run(empty, "-m", "rnnlab.train", "--config=rnnlab:adding:gru", *changes, packages=installed)
    summary = json.loads((empty / "runs" / "adding-gru" / "summary.json").read_text(encoding="utf-8"))
    assert summary["status"] == "finished"
    planned = run(
        empty, "-m", "rnnlab.sweep", "--config=rnnlab:sweeps/gain_around_one", "--dry_run", packages=installed
    )
    assert "programs" in planned
