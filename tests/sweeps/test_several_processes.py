"""A sweep in two processes on this machine, through gloo: it leaves what one leaves, and both end together."""

import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from rnnlab import cli, sweep
from rnnlab.config.errors import ConfigError
from rnnlab.parallel import devices, messages, processes
from rnnlab.records.metrics import read_metrics
from rnnlab.sweeps.runner import run_sweep
from rnnlab.sweeps.spec.manifest import open_sweep
from rnnlab.sweeps.spec.space import expand, load_sweep
from rnnlab.training.chosen import restore_chosen
from rnnlab.training.setup import make_run
from tests.helpers import SMALL_RUN
from tests.parallel.test_processes import ROOT, Pair

BASE = SMALL_RUN | dict(log_every=5, eval_every=10, early_stopping=dict(patience=3))
SWEEP = dict(base=BASE, zip=[{"seed": [0, 1, 2], "optimizer.learning_rate": [1e-2, 1e30, 3e-3]}])
"""Three replicas, which two devices do not share evenly; one diverges, one stops early."""
SLOW = """
import os, time

class Slow:
    def start(self, run):
        self.path = run.workdir / f"tracked by {os.getpid()}"
        self.path.touch()

    def scalars(self, step, split, values):
        time.sleep(0.1)

    def figures(self, step, paths):
        pass

    def finish(self, status, summary):
        pass
"""


class Sweeping(Pair):
    """Two processes of rnnlab.sweep on one workdir."""

    def __init__(self, folder: Path, fields: dict[str, Any]):
        super().__init__(folder, fields)
        (folder / "slow.py").write_text(SLOW)

    def sweep(self, *words: str, own: tuple[str, str] = ("", "")) -> None:
        self.start(
            command=["-m", "rnnlab.sweep", f"--config={self.folder / 'small.py'}", *self.where(own), *words], own=own
        )

    def sweep_in_one(self, *words: str) -> None:
        """The same in one process."""
        command = [sys.executable, "-m", "rnnlab.sweep", f"--config={self.folder / 'small.py'}", *self.where(("", ""))]
        with (self.folder / "said0").open("w") as file:
            process = subprocess.Popen(
                [*command, *words, "--processes=1"],
                env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
                stdout=file,
                stderr=file,
                cwd=self.folder,
            )
        self.processes = [process]

    def where(self, own: tuple[str, str]) -> list[str]:
        """The workdir, unless each process has its own."""
        return [] if own[0].startswith("--workdir") else [f"--workdir={self.workdir}"]

    def wait_for(self, there: Callable[[], bool]) -> None:
        ends = time.monotonic() + 200
        while not there():
            assert time.monotonic() < ends
            assert {p.poll() for p in self.processes} == {None}, self.said(0)
            time.sleep(0.02)

    def alone(self) -> str:
        """The same command in this process, on two devices."""
        return run_sweep(load_sweep(str(self.folder / "small.py"), {}), self.workdir)


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, Any]], Sweeping]]:
    made: list[Sweeping] = []

    def make(fields: dict[str, Any]) -> Sweeping:
        made.append(Sweeping(tmp_path, fields))
        return made[-1]

    yield make
    for process in (process for each in made for process in getattr(each, "processes", ())):
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of SWEEP in this process, on two devices."""
    one = Sweeping(tmp_path_factory.mktemp("whole"), SWEEP)
    assert one.alone() == "finished"
    return one.workdir


@functools.cache
def like() -> Any:
    return make_run(BASE).programs.start(0)


def assert_same(ours: Path, theirs: Path) -> None:
    """Two sweeps that left the same, bit for bit, but for times and where they ran."""
    names = sorted(path.name for path in (theirs / "runs").iterdir())
    assert sorted(path.name for path in (ours / "runs").iterdir()) == names
    assert not any((ours / "groups").glob("*/checkpoints*"))
    for name in names:
        both = [folder / "runs" / name for folder in (ours, theirs)]
        lines = [[{k: v for k, v in line.items() if k != "seconds"} for line in read_metrics(each)] for each in both]
        assert lines[0] == lines[1]
        summaries = [json.loads((each / "summary.json").read_text()) for each in both]
        for summary in summaries:
            del summary["seconds"], summary["steps_per_second"], summary["device"], summary["convergence"]["seconds"]
        assert summaries[0] == summaries[1]
        assert (both[0] / "gradient_flow.json").read_text() == (both[1] / "gradient_flow.json").read_text()
        for which in ("best", "last"):
            states = [restore_chosen(each, which, like()) for each in both]
            assert states[0].step == states[1].step
            jax.tree.map(np.testing.assert_array_equal, states[0].state, states[1].state)


@pytest.mark.slow
def test_two_processes_one_of_which_was_killed_leave_what_one_leaves(pair, whole):
    two = pair(SWEEP)
    two.sweep("--config.trackers=slow:Slow")
    two.wait_for(lambda: (two.workdir / "groups" / "000" / "checkpoints" / "20").is_dir())
    two.processes[1].kill()
    assert two.wait(100) == [cli.LOST, -signal.SIGKILL]
    assert re.search(r"^error: process 0 of 2 has lost another one.*\n\Z", two.said(0), re.MULTILINE)
    assert "Traceback" not in two.said(0)
    two.sweep("--config.trackers=slow:Slow")
    assert two.wait() == [0, 0], two.said(0) + two.said(1)
    assert re.search(r"^resuming [23] runs at step [24]0$", two.said(0), re.MULTILINE)
    assert "3 runs in 1 compiled program" in two.said(0)
    assert two.said(1) == ""
    # Process 0 alone has the trackers: one of each of the two commands.
    assert {len([*run.glob("tracked by *")]) for run in (two.workdir / "runs").iterdir()} <= {1, 2}
    assert_same(two.workdir, whole)


@pytest.mark.exhaustive
def test_a_signal_to_either_stops_both_and_one_process_goes_on(pair, whole):
    two = pair(SWEEP)
    two.sweep("--config.trackers=slow:Slow")
    two.wait_for(lambda: "replicas on" in two.said(0))
    two.processes[1].send_signal(signal.SIGTERM)
    assert two.wait(100) == [cli.INTERRUPTED] * 2, two.said(0) + two.said(1)
    assert re.search(r"^interrupted after 0 of 3 runs; the same command resumes$", two.said(0), re.MULTILINE)
    assert two.alone() == "finished"
    assert_same(two.workdir, whole)


@pytest.mark.exhaustive
def test_two_processes_go_on_with_what_one_that_was_killed_began(pair, whole):
    two = pair(SWEEP)
    two.sweep_in_one("--config.trackers=slow:Slow")
    two.wait_for(lambda: (two.workdir / "groups" / "000" / "checkpoints" / "20").is_dir())
    two.processes[0].kill()
    assert two.wait() == [-signal.SIGKILL]
    two.sweep("--config.trackers=slow:Slow")
    assert two.wait() == [0, 0], two.said(0) + two.said(1)
    assert re.search(r"^resuming [23] runs at step [24]0$", two.said(0), re.MULTILINE)
    assert_same(two.workdir, whole)


@pytest.mark.exhaustive
def test_a_run_by_itself_is_spread_too_and_a_mistake_of_all_spoils_its_group_only(pair, tmp_path):
    two = pair(dict(base=BASE, runs=[{"batch_size": 3}, {"batch_size": 4}]))
    two.sweep()
    assert two.wait() == [cli.MISTAKE] * 2
    message = (
        r"error: group 000 \(batch_size=3\): batch_size 3 is not divisible by 2 devices; .*; or start fewer processes"
    )
    for process in (0, 1):
        assert re.search(
            rf"^{message}; all others are kept, the same command goes on$", two.said(process), re.MULTILINE
        )
    from rnnlab.training.loop import train_and_evaluate

    train_and_evaluate(BASE | {"batch_size": 4, "devices": 2}, tmp_path / "alone")
    ours, theirs = (read_metrics(folder) for folder in (two.workdir / "runs" / "0001", tmp_path / "alone"))
    assert [line["loss"] for line in ours] == [line["loss"] for line in theirs]


@pytest.mark.exhaustive
@pytest.mark.parametrize("when", ["before", "in a group"])
def test_a_failure_of_the_first_ends_both_with_one_line(pair, when):
    """Before anything is trained both have the mistake; in a group the first alone, and the other waits for it."""
    two = pair(SWEEP)
    if when == "in a group":
        loaded = load_sweep(str(two.folder / "small.py"), {})
        open_sweep(two.workdir, loaded, expand(loaded))
    damaged = two.workdir / "runs" / "0001" / "config.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("{")
    two.sweep()
    assert two.wait(120) == ([cli.MISTAKE] * 2 if when == "before" else [cli.MISTAKE, cli.LOST])
    for process in (0, 1):
        (line,) = [line for line in two.said(process).splitlines() if "error" in line]
        assert "Traceback" not in two.said(process)
        assert ("has runs, but no sweep.json" if when == "before" else str(damaged)) in line
    if when == "in a group":
        assert line.startswith("error: process 0 of 2 has ended: ")


@pytest.mark.exhaustive
def test_a_host_without_the_workdir_ends_all_with_one_line(pair, tmp_path):
    two = pair(SWEEP)
    two.sweep(own=(f"--workdir={tmp_path / 'one'}", f"--workdir={tmp_path / 'other'}"))
    assert two.wait(100) == [cli.MISTAKE] * 2
    for process in (0, 1):
        message = "has to be a folder that all processes share; process 1 of 2 does not see the sweep.json"
        assert re.fullmatch(rf"error: --workdir: .* {message} that process 0 wrote there\n", two.said(process))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--processes=2"], "missing: --coordinator, --process"),
        (["--coordinator=127.0.0.1:1", "--processes=2", "--process=2"], "--process: 2 is not one of 0 to 1"),
        (["--processes=1", "--process=1", "--coordinator=a:1"], "--process: 1 is not one of 0 to 0"),
        (["--submit=slurm", "--jobs=2", "--processes=2"], "--processes: with --submit=slurm each job is a process"),
    ],
)
def test_mistakes_in_the_processes_of_a_sweep_are_one_line(words, message, tmp_path):
    (tmp_path / "small.py").write_text(f"def get_config():\n    return {SWEEP!r}\n")
    with pytest.raises(ConfigError, match=re.escape(message)):
        sweep.main([f"--config={tmp_path / 'small.py'}", f"--workdir={tmp_path / 'w'}", *words])
    assert not (tmp_path / "w").exists()


def test_one_process_is_alone_whatever_the_launcher_says(monkeypatch):
    for name, value in {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "a,b"}.items():
        monkeypatch.setenv(name, value)
    processes.start(processes=1)
    assert processes.processes() == 1
    assert messages.from_first(lambda: {"a": [1]}) == {"a": [1]}


def test_processes_of_unlike_numbers_of_devices_are_one_line(monkeypatch):
    class Chip:
        device_kind = "TPU v5e"

        def __init__(self, process: int):
            self.process_index = process

    monkeypatch.setattr(jax, "devices", lambda: [Chip(process) for process in (0, 0, 1, 1, 2)])
    with pytest.raises(ConfigError, match=r"not equally many devices \(2 × TPU v5e in process 0, 1 in process 2\)"):
        devices.all_devices()
