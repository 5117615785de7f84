"""One run in several processes: how they find each other, which one this is, what they agree on, how they end together.

Each process calls the same functions in the same order. Which devices a process uses is in `parallel/devices.py`.
"""

import contextlib
import importlib.util
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax._src.clusters import ClusterEnv
from jax._src.distributed import global_state  # jax.process_count() makes the devices, which `tune_host` sets up.
from jax._src.xla_bridge import backends_are_initialized
from jax.experimental import multihost_utils

from rnnlab.config.errors import ConfigError
from rnnlab.parallel.roll_call import call_roll
from rnnlab.typing import PyTree

HEARTBEAT_SECONDS = 30
"""A process that has not been heard of for so long is lost, and all others end. Where a collective notices that a
connection is closed, as over gloo, they end at once."""

JOIN_SECONDS, LAUNCH_SECONDS = 20, 300
"""How long a process waits for the others to come: where they were started by hand, and by a launcher, which may have
images to fetch."""

LINGER_SECONDS = 4
"""How much longer than its failure the first process lives: `messages.watch` needs half of it."""

_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_here = 1  # How many processes of the run are on this machine, as far as is known.


class LostProcess(RuntimeError):
    """Another process of the run has ended, or cannot be reached."""


class LoneFailure(RuntimeError):
    """A mistake that the other processes of the run do not have: this one cannot go on, nor can they without it."""


def start(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    account: Mapping[str, Any] | None = None,
    seconds: float | None = None,
) -> None:
    """Joins the other processes of the run, if there are any; must come before the first use of JAX's devices.

    SLURM (srun), Open MPI, TPU pods and indexed jobs of Kubernetes are found by JAX itself.

    Args:
        coordinator: "host:port", where process 0 listens; with it the next two.
        processes: how many there are.
        process: which one this is, from 0.
        account: what has to be the same in all of them: nested dicts of plain values.
        seconds: how long it waits for the others; if not given, `JOIN_SECONDS`, or `LAUNCH_SECONDS` under a launcher.

    Raises:
        ConfigError: some of the three without the others, others that cannot be found, or that were started in another
            way.
    """
    flags = {"coordinator": coordinator, "processes": processes, "process": process}
    missing = [name for name, value in flags.items() if value is None]
    if processes == 1 and not process:
        return  # Under a launcher, too: each of those that it starts is alone.
    if 0 < len(missing) < 3:
        raise ConfigError(f"--coordinator, --processes and --process go together; missing: --{', --'.join(missing)}")
    if processes is not None and process is not None and not 0 <= process < processes:
        raise ConfigError(f"--process: {process} is not one of 0 to {processes - 1} (--processes={processes})")
    if jax.distributed.is_initialized() or (missing and _is_alone()):
        return
    global _here
    on_one_machine = coordinator is not None and coordinator.rpartition(":")[0] in _LOOPBACK
    _here = processes or 1 if on_one_machine else int(os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", "1"))
    # Its handler of SIGTERM would take the place of the one that saves and ends.
    jax.config.update("jax_enable_preemption_service", False)
    local: Any = None
    if missing:
        if (launched := _launched()) is None or backends_are_initialized():
            return  # Alone; or a notebook, or a second run in one process: not what a launcher starts.
        coordinator, processes, process, local = launched
    assert coordinator is not None
    assert processes is not None
    assert process is not None
    if processes > 1:
        wait = (LAUNCH_SECONDS if missing else JOIN_SECONDS) if seconds is None else seconds
        call_roll(coordinator, processes, process, account or {}, wait)
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            local,
            cluster_detection_method="deactivate",
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except Exception as error:
        raise ConfigError(f"cannot join the other processes ({coordinator}): {_reason(error)}") from error


def _launched() -> tuple[str, int, int, Any] | None:
    """(Coordinator, processes, process, local devices) as a launcher's variables say; None without one."""
    if (launch := _detected(None)) is not None or (started := int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1"))) == 1:
        return launch
    # JAX knows Open MPI 4 itself, 5 through mpi4py. Each would train alone, and write over the others.
    if importlib.util.find_spec("mpi4py") is None or (launch := _detected("mpi4py")) is None:
        raise ConfigError(
            f"mpirun started {started} processes, which find each other through mpi4py (pip install it), "
            "or by --coordinator, --processes and --process"
        )
    return launch


def _detected(method: str | None) -> tuple[str, int, int, Any] | None:
    """The processes that JAX detects in the environment, by one of its methods or by whichever fits."""
    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    try:
        detected = ClusterEnv.auto_detect_unset_distributed_params(address, None, None, None, method, LAUNCH_SECONDS)
    except Exception as error:
        raise ConfigError(f"the launcher does not say who the other processes are: {_reason(error)}") from error
    address, processes, process, local = detected
    if address is None or processes is None or process is None:
        return None
    return address, processes, process, local


def _is_alone() -> bool:
    """Whether a launcher says that this process is the only one: JAX would give it one device of many.

    A pod of Kubernetes that is not one of an indexed job is alone, too, and so is what sbatch starts without srun.
    """
    says = os.environ.get
    tpu = says("TPU_WORKER_HOSTNAMES") or says("TPU_PROCESS_ADDRESSES")
    pod = "KUBERNETES_SERVICE_HOST" in os.environ and "JOB_COMPLETION_INDEX" not in os.environ
    return says("OMPI_COMM_WORLD_SIZE") == "1" or says("SLURM_NTASKS") == "1" or bool(pod and not tpu)


def processes() -> int:
    """How many processes the run has."""
    return global_state.num_processes


def processes_here() -> int:
    """How many of them share this machine's cores; 1 where each has cores of its own (SLURM gives it them)."""
    return _here if processes() > 1 else 1


def is_first() -> bool:
    """Whether this is the process that writes files and speaks to the user."""
    return global_state.process_id == 0


def barrier(name: str) -> None:
    """Waits until all processes are here."""
    if processes() > 1:
        multihost_utils.sync_global_devices(name)


def agree(flag: bool, number: int) -> tuple[bool, int]:
    """(Whether any process has the flag, the first one's number): the same in all of them."""
    if processes() == 1:
        return flag, number
    answers = np.asarray(multihost_utils.process_allgather(np.array([flag, number], np.int32)))
    return bool(answers[:, 0].any()), int(answers[0, 1])


def which(flag: bool) -> list[int]:
    """The numbers of the processes that have the flag."""
    return np.flatnonzero(multihost_utils.process_allgather(np.int32(flag))).tolist()


def fewest(number: int) -> int:
    """The smallest of what the processes say."""
    if processes() == 1:
        return number
    return int(np.asarray(multihost_utils.process_allgather(np.int32(number))).min())


def on_host(tree: PyTree) -> PyTree:
    """Arrays that every process has whole, as NumPy's where there are several processes: what only one of them computes
    with must not be an array of all."""
    return tree if processes() == 1 else jax.device_get(tree)


def leave(status: int) -> None:
    """Ends this process, which has failed, without waiting for the others as what runs at exit would."""
    sys.stderr.flush()
    if is_first():
        # JAX aborts the others, with a trace, as soon as the first one is gone: they get the time to say it themselves.
        time.sleep(LINGER_SECONDS)
    os._exit(status)


@contextlib.contextmanager
def partners() -> Iterator[None]:
    """Says in one line what it means when the others are no longer there.

    Raises:
        LostProcess: another process has ended, or cannot be reached.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError, RuntimeError, OSError) as error:
        if processes() == 1 or isinstance(error, ConfigError | LostProcess) or not _LOST.search(str(error)):
            raise
        raise LostProcess(
            f"process {global_state.process_id} of {processes()} has lost another one, which says why or was killed "
            f"({_reason(error)}); the same command on all of them resumes from the last checkpoint"
        ) from error


_LOST = re.compile(r"gloo|nccl|barrier|coordination|heartbeat|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED", re.IGNORECASE)


def _reason(error: Any) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}…"
