"""One run over two processes on this machine, through gloo: the same parameters, one end for both, restarts."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from rnnlab import cli, train
from rnnlab.config.errors import ConfigError
from rnnlab.parallel import processes
from rnnlab.records.metrics import read_diagnostics, read_metrics
from rnnlab.training.checkpoints import Checkpoints
from rnnlab.training.loop import train_and_evaluate
from scripts.count_collectives import COLLECTIVE
from tests.conftest import CACHE
from tests.tiers import exhaustive_tests
from tests.training.test_loop import final_params, small

ROOT = Path(__file__).parents[2]
LAUNCHERS = ("SLURM_", "OMPI_", "KUBERNETES_", "JOB_COMPLETION_INDEX", "TPU_", "JAX_")


class Pair:
    """Two processes of rnnlab.train on one workdir; what each says goes to a file."""

    def __init__(self, folder: Path, config: dict, slurm: bool = False):
        self.folder, self.workdir, self.slurm = folder, folder / "run", slurm
        (folder / "small.py").write_text(f"def get_config():\n    return {config!r}\n")

    def start(
        self, *words: str, command: Sequence[str] | None = None, port: int | None = None, own: Sequence[str] = ("", "")
    ) -> list[subprocess.Popen]:
        """words: more flags; command: instead of a training, what Python runs before the flags of the processes; port:
        of process 0, if not any; own: a last flag of each process alone, "" for none."""
        if port is None:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
        clean = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHERS)}
        clean |= {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(CACHE)}
        clean |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1", "PYTHONPATH": str(ROOT)}
        training = ["-m", "rnnlab.train", f"--config={self.folder / 'small.py'}", f"--workdir={self.workdir}", *words]
        self.processes = []
        for process in (0, 1):
            line, variables = [f"--coordinator=127.0.0.1:{port}", "--processes=2", f"--process={process}"], {}
            if self.slurm:
                line = []
                variables = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
                variables |= {"SLURM_PROCID": str(process), "SLURM_LOCALID": str(process)}
                variables |= {"JAX_COORDINATOR_PORT": str(port)}
            with (self.folder / f"said{process}").open("w") as file:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, *(command or training), *line, *filter(None, [own[process]])],
                        env=clean | variables,
                        stdout=file,
                        stderr=file,
                        cwd=self.folder,
                    )
                )
        return self.processes

    def wait(self, seconds: float = 200) -> list[int]:
        """The exit statuses."""
        ends = time.monotonic() + seconds
        return [process.wait(max(0.1, ends - time.monotonic())) for process in self.processes]

    def said(self, process: int) -> str:
        return (self.folder / f"said{process}").read_text()

    def steps(self) -> list[int]:
        """Of the checkpoints that are whole."""
        return sorted(int(path.name) for path in (self.workdir / "checkpoints").glob("*") if path.name.isdigit())

    def wait_for_checkpoint(self, after: int = 0) -> None:
        ends = time.monotonic() + 200
        while max(self.steps(), default=-1) <= after:
            assert time.monotonic() < ends
            assert [p.poll() for p in self.processes] == [None, None], self.said(0) + self.said(1)
            time.sleep(0.1)


@pytest.fixture
def pair(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Pair]:
    """A pair on a small run; the fixture's parameter: whether by SLURM's variables, as srun sets them."""
    created = Pair(tmp_path, small(devices=2, diagnostics=("norms",)), getattr(request, "param", False))
    yield created
    for process in created.processes:
        process.kill()
        process.wait()


TRACKER = """
import os

class Counts:
    def start(self, run):
        self.path = run.workdir / f"tracked by {os.getpid()}"

    def scalars(self, step, split, values):
        with self.path.open("a") as file:
            file.write(f"{step} {split}\\n")

    def figures(self, step, paths):
        pass

    def finish(self, status, summary):
        self.scalars(summary["steps"], status, {})
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "pair",
    [pytest.param(False, id="flags"), pytest.param(True, id="slurm", marks=pytest.mark.exhaustive)],
    indirect=True,
)
def test_two_processes_end_at_the_parameters_of_one(pair: Pair, tmp_path: Path) -> None:
    (pair.folder / "counting.py").write_text(TRACKER)
    pair.start("--config.trackers=counting:Counts")
    assert pair.wait() == [0, 0], pair.said(0) + pair.said(1)
    assert "finished at step 60" in pair.said(0)
    assert "in 2 processes" in pair.said(0)
    assert "Gloo" not in pair.said(0) + pair.said(1)
    assert "step" not in pair.said(1)
    lines = read_metrics(pair.workdir)
    assert [line["step"] for line in lines if line["split"] == "train"] == [10, 20, 30, 40, 50, 60]
    observed = read_diagnostics(pair.workdir)
    (tracked,) = pair.workdir.glob("tracked by *")  # The first process alone sends.
    sent = [f"{line['step']} {line['split']}" for line in lines] + [f"{line['step']} diagnostics" for line in observed]
    assert sorted(tracked.read_text().splitlines()) == sorted([*sent, "60 finished"])
    assert observed
    pair_ends = final_params(small(devices=2), pair.workdir)
    for devices in (1, 2):
        train_and_evaluate(small(devices=devices), tmp_path / f"one{devices}")
        for a, b in zip(pair_ends, final_params(small(devices=devices), tmp_path / f"one{devices}"), strict=True):
            if devices == 2:  # The same two summands.
                np.testing.assert_array_equal(a, b)
            else:
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)  # float32; 2e-6 and 1e-7 were seen.


@pytest.mark.exhaustive
def test_streams_that_the_host_feeds_go_on_over_two_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RNNLAB_DATA", str(tmp_path))
    folder = tmp_path / "text"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for split, words in {"train": 160, "valid": 40, "test": 30}.items():
        (folder / f"{split}.txt").write_text(" ".join(rng.choice(list("abcdefg"), words)) + "\n")
    config = small(devices=2, steps=20, checkpoint_every=10, eval_batch_size=2) | {
        "task": dict(name="language_model", window=4, dataset="text", source=str(folder), on_device=False),
        "model": {"cell": {"name": "gru", "features": 3}, "embedding": 4},
    }
    pair = Pair(tmp_path, config)
    for steps in (10, 20):  # Each process has its rows of what the streams go on from, in the checkpoint too.
        pair.start(f"--config.steps={steps}")
        assert pair.wait() == [0, 0], pair.said(0) + pair.said(1)
    assert "at step 10" in pair.said(0)
    train_and_evaluate(config, tmp_path / "one")
    for a, b in zip(final_params(config, pair.workdir), final_params(config, tmp_path / "one"), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.exhaustive), 1])
def test_killing_one_ends_the_other_and_a_restart_goes_on(pair: Pair, victim: int) -> None:
    processes = pair.start("--config.steps=1000000")
    pair.wait_for_checkpoint()
    processes[victim].kill()
    began = time.monotonic()
    processes[victim].wait()
    other = processes[1 - victim]
    other.wait(60)
    assert time.monotonic() - began < 60
    output = pair.said(1 - victim)
    # JAX may hear of a lost process before the collective does, and says so itself.
    if other.returncode != cli.LOST:
        assert other.returncode == -signal.SIGABRT
        assert "another task died" in output
    else:
        assert other.returncode == cli.LOST
        assert re.search(rf"^error: process {1 - victim} of 2 has lost another one", output, re.MULTILINE)
        assert "Traceback" not in output
    last = max(pair.steps())
    pair.start(f"--config.steps={last + 30}")
    assert pair.wait() == [0, 0], pair.said(0) + pair.said(1)
    assert f"resuming {pair.workdir} at step {last}" in pair.said(0)
    assert f"finished at step {last + 30}" in pair.said(0)


@pytest.mark.slow
def test_a_signal_to_either_stops_both_at_the_same_step(pair: Pair) -> None:
    processes = pair.start("--config.steps=1000000")
    pair.wait_for_checkpoint()
    processes[1].send_signal(signal.SIGTERM)
    assert pair.wait(120) == [cli.INTERRUPTED] * 2, pair.said(0) + pair.said(1)
    checkpoints = Checkpoints(pair.workdir / "checkpoints")
    last = checkpoints.steps()[-1]
    checkpoints.close()
    assert f"interrupted at step {last}; the same command resumes" in pair.said(0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("own", "message"),
    [
        (("", "--config.steps=70"), "error: process 1 was not started as process 0 was: config.steps is 70, not 60;"),
        (("", "--process=0"), "error: --process: two of the 2 processes have the number 0;"),
        *exhaustive_tests((("--process=1", ""), "error: process 1 did not find process 0 at 127.0.0.1:")),
        (("", "--help"), "error: process 1 of 2 did not come within 20 s"),
        *exhaustive_tests((None, "error: (--coordinator: port .* is in use|process 1 did not find process 0)")),
    ],
    ids=["steps", "twice 0", "twice 1", "missing", "port"],
)
def test_processes_that_cannot_be_one_run_end_in_time_with_one_line(
    pair: Pair, own: tuple[str, str] | None, message: str
) -> None:
    began = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as other:
        pair.start(port=other.getsockname()[1]) if own is None else pair.start(own=own)
        pair.wait(60)
    assert time.monotonic() - began < 60  # 20 s of waiting; the rest is two starts of Python beside all other tests.
    for process in (0, 1):
        if own is None or own[process] != "--help":
            assert pair.processes[process].returncode == cli.MISTAKE
            assert re.fullmatch(f"{message}.*\n", pair.said(process))
    assert not pair.workdir.exists()


@pytest.mark.slow
def test_two_processes_meet_once_a_step(pair: Pair) -> None:
    program = f"""
import sys
from rnnlab.parallel import processes
processes.start(sys.argv[1].split("=")[1], 2, int(sys.argv[3].split("=")[1]))
import jax.numpy as jnp
from rnnlab.training.setup import make_run
run = make_run({small(devices=2)!r})
given = run.programs.start(0), run.data, jnp.int32(3), run.rows
print("devices", run.mesh.size, "text", run.programs.train.lower(*given).compile().as_text())
"""
    pair.start(command=["-c", program])
    assert pair.wait() == [0, 0], pair.said(0) + pair.said(1)
    for process in (0, 1):
        assert "devices 2 text" in pair.said(process)
        assert re.findall(COLLECTIVE, pair.said(process)) == [("all-reduce", "")]


@pytest.mark.slow
def test_a_mistake_of_one_ends_both(pair: Pair) -> None:
    processes = pair.start("--config.devices=1")
    assert pair.wait(60) == [cli.MISTAKE] * 2
    assert len(processes) == 2
    for process in (0, 1):
        assert "error: devices: 1 asked for, not as many in each of 2 processes" in pair.said(process)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--coordinator=127.0.0.1:1"], "missing: --processes, --process"),
        (["--processes=2", "--process=0"], "missing: --coordinator"),
        (["--coordinator=127.0.0.1:1", "--processes=2", "--process=2"], "--process: 2 is not one of 0 to 1"),
    ],
)
def test_processes_are_given_whole(words: Sequence[str], told: str, tmp_path: Path) -> None:
    config = ROOT / "configs" / "adding.py"
    with pytest.raises(ConfigError, match=re.escape(told)):
        train.main([f"--config={config}", f"--workdir={tmp_path}", *words])


@pytest.mark.parametrize(
    ("variables", "alone"),
    [
        ({}, False),
        ({"SLURM_NTASKS": "1", "SLURM_STEP_NODELIST": "node1"}, True),
        ({"SLURM_NTASKS": "2", "SLURM_STEP_NODELIST": "node1"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, True),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, True),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}, False),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "TPU_WORKER_HOSTNAMES": "a,b"}, False),
    ],
)
def test_a_launcher_of_one_process_is_none(variables: dict, alone: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(LAUNCHERS):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert processes._is_alone() == alone


def test_processes_of_mpirun_that_cannot_be_found_do_not_train_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(LAUNCHERS):
            monkeypatch.delenv(name)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    processes.start()
    assert processes.processes() == 1
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="mpirun started 2 processes"):
        processes.start()


def test_one_process_agrees_with_itself() -> None:
    processes.barrier("alone")
    assert processes.agree(True, 3) == (True, 3)
    assert processes.is_first()
    with pytest.raises(RuntimeError, match="Gloo"), processes.partners():  # An error of its own stays what it is.
        raise RuntimeError("Gloo all-reduce failed")
