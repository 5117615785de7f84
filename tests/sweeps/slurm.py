"""A SLURM for tests: the one that is at hand, or Debian's slurm-wlm started here with one node and four job slots."""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

CONFIG = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=1,sched_interval=2
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=tests Nodes=ALL Default=YES State=UP
"""
"""Without munge, which nothing outside this machine would ask for; config_overrides: four CPUs whatever there is."""


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[None]:
    """SLURM's commands work within this context; the test is skipped where they cannot.

    Args:
        folder: an empty one, for the configuration, the state and the logs of a SLURM that is started here.
    """
    if shutil.which("sbatch") and said("scontrol", "ping", check=False).count("UP"):
        yield
        return
    if missing := [name for name in ("sbatch", "slurmctld", "slurmd") if shutil.which(name) is None]:
        pytest.skip(f"no {', '.join(missing)}; on Debian: apt-get install --no-install-recommends slurm-wlm")
    ports = [_free_port(), _free_port()]
    host = socket.gethostname().partition(".")[0]
    text = CONFIG.format(host=host, controller=ports[0], daemon=ports[1], user=getpass.getuser(), folder=folder)
    (folder / "slurm.conf").write_text(text)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    daemons = []
    try:
        for name in ("slurmctld", "slurmd"):
            with (folder / f"{name}.out").open("w") as file:
                daemons.append(subprocess.Popen([name, "-D"], stdout=file, stderr=file))
        try:
            wait_for(lambda: "idle" in said("sinfo", "--noheader", "--format=%T", check=False), 60)
        except TimeoutError:
            last = [path.read_text().splitlines()[-1:] for path in (*folder.glob("*.log"), *folder.glob("*.out"))]
            pytest.skip(f"SLURM does not start here: {last}")
        yield
        said("scancel", f"--user={getpass.getuser()}", check=False)
        with contextlib.suppress(TimeoutError):
            wait_for(lambda: not said("squeue", "--noheader", check=False), 60)
    finally:
        del os.environ["SLURM_CONF"]
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            daemon.wait(60)


def said(*command: str, check: bool = True) -> str:
    """What a command writes."""
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert not check or result.returncode == 0, f"{command}: {result.stderr}"
    return result.stdout


def wait_for(true: Callable[[], object], seconds: float) -> None:
    """Raises TimeoutError unless it becomes true in time."""
    ends = time.monotonic() + seconds
    while not true():
        if time.monotonic() > ends:
            raise TimeoutError
        time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
