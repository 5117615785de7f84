"""What stands around the code: the wheel, and the files that repeat something of pyproject.toml."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import rnnlab

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PYTHONS = [name.split()[-1] for name in PROJECT["project"]["classifiers"] if re.search(r" 3\.\d+$", name)]
CONSTRAINTS = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]


def requirements() -> list[Requirement]:
    """What rnnlab and all its extras need, but for themselves."""
    project = PROJECT["project"]
    texts = [*project["dependencies"], *(each for extra in project["optional-dependencies"].values() for each in extra)]
    return [each for each in map(Requirement, texts) if each.name != "rnnlab"]


@pytest.mark.parametrize("python", PYTHONS)
def test_constraints_have_one_version_of_everything_that_is_needed(python):
    linux = {
        "python_version": python,
        "python_full_version": f"{python}.1",
        "sys_platform": "linux",
        "os_name": "posix",
    }
    linux |= {"platform_system": "Linux", "platform_machine": "x86_64"}
    pins: dict[str, list[str]] = {}
    for each in CONSTRAINTS:
        if each.marker is None or each.marker.evaluate(linux):
            pins.setdefault(each.name, []).append(str(each.specifier).removeprefix("=="))
    for needed in requirements():
        if needed.marker is None or needed.marker.evaluate(linux):
            (version,) = pins[needed.name.lower()]
            assert needed.specifier.contains(version, prereleases=True), f"{needed}, not {version}: make lock"


def test_workflow_tests_every_python_of_the_classifiers():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))
    assert workflow["jobs"]["tests"]["strategy"]["matrix"]["python"] == PYTHONS
    assert PROJECT["project"]["requires-python"] == f">={PYTHONS[0]}"


def test_commands_of_the_workflows_are_in_the_makefile():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    texts = [file.read_text(encoding="utf-8") for file in (ROOT / ".github" / "workflows").glob("*.yml")]
    used = {name for text in texts for name in re.findall(r"\bmake ([a-z-]+)", text)}
    assert {"test", "test-slow", "lint"} <= used <= targets


def test_hooks_run_the_ruff_of_the_project():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    pins = [each for hook in hooks for each in hook.get("additional_dependencies", [])]
    (ruff,) = {str(each) for each in requirements() if each.name == "ruff"}
    assert pins == [ruff, ruff]


def test_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    sections = re.findall(r"^## (.*)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert sections[0] == "Unreleased"
    assert sections[1].split(" - ") == [rnnlab.__version__, str(citation["date-released"])]
    assert citation["version"] == rnnlab.__version__


def test_entries_of_the_changelog_are_one_line_each():
    entries = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").partition("## Unreleased")[2].splitlines()
    assert [line for line in entries[1:] if line and not line.startswith(("- ", "### ", "## "))] == []
    assert [line for line in entries if len(line) > 160] == []


def test_addresses_of_the_project_are_those_of_pyproject():
    urls = PROJECT["project"]["urls"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation.get("repository-code") == urls.get("Repository")
    repository = urls.get("Repository", "").partition("github.com/")[2]
    listed = subprocess.run(
        ["git", "ls-files", "*.md", "*.yml", "*.ipynb", "*.py", "*.cff"], cwd=ROOT, capture_output=True
    )
    if listed.returncode != 0:
        pytest.skip("not a clone")
    wrong = [
        f"{name}: {address}"
        for name in listed.stdout.decode().split()
        for address in re.findall(r"https?://[^\s)\"'>]*rnnlab[^\s)\"'>]*", (ROOT / name).read_text(encoding="utf-8"))
        if not address.startswith(tuple(urls.values())) and not (repository and f"/{repository}/" in address)
    ]
    assert wrong == []


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
