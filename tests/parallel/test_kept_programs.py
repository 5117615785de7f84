"""Compiled programs on disk: found again without a word and to the bit, bounded, and never in the way of a command."""

import json
import os
import resource
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

from rnnlab.parallel import kept_programs

CLEAN = {k: v for k, v in os.environ.items() if not k.startswith(("XLA_", "TF_CPP", "JAX_", "RNNLAB_CACHE"))}
OPTIONS = ("jax_compilation_cache_dir", "jax_enable_compilation_cache", *kept_programs._OPTIONS)


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """JAX's settings as a user has them, and afterwards as the tests have them."""
    before = {name: getattr(jax.config, name) for name in OPTIONS}
    for name in OPTIONS:
        monkeypatch.delenv(name.upper(), raising=False)
    jax.config.update("jax_compilation_cache_dir", None)
    with warnings.catch_warnings():
        yield
    for name, value in before.items():
        jax.config.update(name, value)


# --- which folder ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "same"),
    [
        ("", True),
        ("cpu MHz\t: 2500.0", True),  # Changes from one moment to the next.
        ("flags\t\t: fpu avx2 avx512f", False),
        ("model name\t: another", False),
        ("CPU part\t: 0xd0c", False),
    ],
)
def test_unlike_processors_have_a_folder_each(line: str, same: bool, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    text = "processor\t: 0\nmodel name\t: one\nflags\t\t: fpu avx2\n"
    here.write_text(text * 2, encoding="utf-8")
    there.write_text(f"{text}{line}\n", encoding="utf-8")
    assert (kept_programs.processor(here) == kept_programs.processor(there)) == same


def test_a_machine_that_does_not_name_its_processor_has_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = []
    for machine in ("node1", "node2"):
        monkeypatch.setattr("platform.node", lambda machine=machine: machine)
        names.append(kept_programs.processor(tmp_path / "none"))
    assert len(set(names)) == 2


def test_folders_used_least_recently_go(tmp_path: Path) -> None:
    most = kept_programs.MOST_FOLDERS
    for age in range(most + 2):
        folder = tmp_path / f"version{age}"
        folder.mkdir()
        (folder / "program-cache").touch()
        os.utime(folder, (0, 1e9 - age))
    kept_programs.drop_unused(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"version{age}" for age in range(most)]


def test_programs_half_written_go(tmp_path: Path) -> None:
    for name in ("whole-cache", "whole-atime", "cut-cache", "left-atime", ".lockfile"):
        (tmp_path / name).touch()
    kept_programs.remove_halves(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"whole-cache", "whole-atime", ".lockfile"}


# --- when ------------------------------------------------------------------------------------------------------------


def test_settings_of_the_user_count(unset: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jax.config.update("jax_enable_compilation_cache", False)
    kept_programs.keep(tmp_path)
    jax.config.update("jax_enable_compilation_cache", True)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("JAX_COMPILATION_CACHE_MAX_SIZE", "77")
    jax.config.update("jax_compilation_cache_max_size", 77)
    kept_programs.keep(tmp_path)
    (folder,) = tmp_path.iterdir()
    assert jax.config.jax_compilation_cache_dir == str(folder)
    assert jax.config.jax_compilation_cache_max_size == 77
    kept_programs.keep(tmp_path / "other")
    assert jax.config.jax_compilation_cache_dir == str(folder)


@pytest.mark.parametrize("fault", ["a file in its place", "held", "no locks"])
def test_a_folder_that_cannot_be_used_is_left_alone(
    fault: str, unset: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "programs"
    if fault == "a file in its place":
        root.touch()
    else:
        error: Any = {"held": kept_programs.Timeout(str(root)), "no locks": NotImplementedError()}[fault]

        def refuse(*_: Any, **__: Any) -> None:
            raise error

        monkeypatch.setattr(kept_programs, "FileLock", refuse)
    kept_programs.keep(root)
    assert jax.config.jax_compilation_cache_dir is None
    assert capfd.readouterr() == ("", "")


# --- what comes of it ------------------------------------------------------------------------------------------------

PROGRAM = """
import pathlib, sys
import jax, jax.numpy as jnp
import rnnlab
from rnnlab.parallel import kept_programs
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name) if name.endswith("cache_hits") else None)
kept_programs.keep(pathlib.Path(sys.argv[1]))
for power in range(1, 5):
    print(float(jax.jit(lambda x: jnp.tanh(x @ x + power).sum())(jnp.ones((8, 8)))))
print(len(hits))
"""
EVERY = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}


def start(root: Path, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(root)],
        env=CLEAN | EVERY | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def answer(process: "subprocess.Popen[str]") -> tuple[list[str], int]:
    """(Numbers, how many programs were on disk) of a process that printed nothing else."""
    said, complaints = process.communicate(timeout=240)
    assert (process.returncode, complaints) == (0, "")
    *numbers, hits = said.split()
    return numbers, int(hits)


@pytest.mark.slow
def test_processes_share_a_small_folder(tmp_path: Path) -> None:
    """Each evicts what others write and read; a disk that is full meanwhile costs programs alone."""
    bound = 9000  # Some of the programs.
    small = {"JAX_COMPILATION_CACHE_MAX_SIZE": str(bound)}
    together = [answer(process) for process in [start(tmp_path, **small) for _ in range(3)]]
    assert all(numbers == together[0][0] for numbers, _ in together)
    (folder,) = tmp_path.iterdir()
    kept = list(folder.glob("*-cache"))
    assert kept
    assert sum(path.stat().st_size for path in kept) <= bound
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        process = start(tmp_path / "full")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert answer(process) == (together[0][0], 0)
    assert answer(start(tmp_path / "full"))[0] == together[0][0]
    numbers, hits = answer(start(tmp_path / "full"))
    assert numbers == together[0][0]
    assert hits >= 4


COMMAND = """
import atexit, json, runpy, sys
import jax
count = {}
def see(name, **_):
    count[name] = count.get(name, 0) + 1
jax.monitoring.register_event_listener(see)
atexit.register(lambda: print("\\n" + json.dumps(count)))
runpy.run_module("rnnlab.train", run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
def test_a_command_starts_again_from_its_programs_silently_and_to_the_bit(tmp_path: Path) -> None:
    words = [f"--cache_dir={tmp_path / 'cache'}", "--config=rnnlab:adding:lstm", "--config.steps=4"]
    words += ["--config.log_every=2", "--config.task.length=12", "--config.model.cell.features=8"]
    answers = []
    for start in ("first", "second"):
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, *words, f"--workdir={tmp_path / start}"],
            env=CLEAN,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=240,
        )
        assert (done.returncode, done.stderr) == (0, "")
        metrics = [json.loads(line) for line in (tmp_path / start / "metrics.jsonl").read_text().splitlines()]
        numbers = [{name: value for name, value in row.items() if name != "seconds"} for row in metrics]
        flow = (tmp_path / start / "gradient_flow.json").read_text()
        answers.append((numbers, flow, json.loads(done.stdout.splitlines()[-1])))
    (numbers, flow, first), (again, flow_again, second) = answers
    assert (again, flow_again) == (numbers, flow)
    hits, misses = "/jax/compilation_cache/cache_hits", "/jax/compilation_cache/cache_misses"  # Those that are written.
    assert second[hits] >= first[misses] >= 5
    assert len(list((tmp_path / "cache" / "programs").glob("*/*-cache"))) >= first[misses]
