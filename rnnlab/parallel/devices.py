"""The devices that a run uses: the mesh, the host's cores as devices, and the allocator.

One process uses all of a CPU: XLA runs the small products of a recurrent step on one core, so the batch is split over
one CPU device per core instead.
"""

import collections
import contextlib
import ctypes
import importlib
import os
import platform
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from threadpoolctl import threadpool_limits

from rnnlab.config.errors import ConfigError
from rnnlab.parallel import processes
from rnnlab.parallel.sharding import ALL_AXES, DATA_AXIS, MODEL_AXIS
from rnnlab.typing import PyTree

BATCHES = PartitionSpec(None, ALL_AXES)
"""How arrays [step, row of the batch, ...] lie on the devices."""


def tune_host(batch_size: int, devices: int | None = None) -> None:
    """Sets up the host for one run; must come before the first use of JAX's devices, and does nothing after it.

    Makes as many CPU devices as divide the batch, at most one per core (or `devices`), each of several processes its
    share of both, and keeps freed buffers in the process: with glibc's defaults every step returns them to the
    operating system, and the page faults cost up to half of a large step (a plain-scan LSTM step, T=784 B=128 H=128:
    937 ms against 399). On a few cores malloc gets one arena, as all others return what is larger than 64 MiB whatever
    they are told (LSTM, T=784 B=128 H=128: 207 ms against 176; B=16 H=100: 17 and 18, IRNN 4.7 and 4.3); on many,
    devices would wait for each other at every small product. The library behind `jnp.linalg` on a CPU, OpenBLAS, gets
    one thread: its own wait for each other in a loop, beside one device per core (singular values of four [100, 100]
    kernels: 1.5 ms against 11).
    """
    sharing = processes.processes()
    count = max(1, devices // sharing) if devices else largest_divisor(max(1, batch_size // sharing), process_cores())
    with contextlib.suppress(RuntimeError):  # The devices are made already: a notebook, or a second run in one process.
        jax.config.update("jax_num_cpu_devices", count)
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        if cores() <= _CORES_OF_AN_ARENA:
            libc.mallopt(_M_ARENA_MAX, 1)
    importlib.import_module("scipy.linalg.cython_lapack")  # JAX loads it when it is needed; its threads are set now.
    threadpool_limits(1, user_api="blas")


def use_all_cores() -> str | None:
    """Sets up the host for runs of several batch sizes, such as a sweep's: a CPU device of every core, where the first
    run would make as many as divide its batch. Must come before the first use of JAX's devices, as `tune_host`.

    Returns:
        A warning where it came too late, and several cores have one device.

    Raises:
        ConfigError: there are no devices.
    """
    count = process_cores() * processes.processes()
    tune_host(count, count)
    available = all_devices()
    if len(available) > 1 or available[0].platform != "cpu" or count == 1:
        return None
    return (
        f"{count} cores have one CPU device, since JAX was used before; runs as replicas are split over devices: call "
        f'jax.config.update("jax_num_cpu_devices", {count}) at the beginning'
    )


@contextlib.contextmanager
def failures() -> Iterator[None]:
    """Turns whatever comes of devices that cannot be made, such as JAX_PLATFORMS=cuda where there is no GPU, into a
    ConfigError; JAX has several exceptions for it, some of them without a word."""
    try:
        yield
    except (RuntimeError, AssertionError) as error:
        reason = _why_no_devices(error)
        if reason is None:
            raise
        platforms = jax.config.values["jax_platforms"]
        asked = f"JAX_PLATFORMS={platforms}" if platforms else "JAX"
        raise ConfigError(
            f"{asked}: no such device can be used here{reason and f' ({reason})'}; unset JAX_PLATFORMS, or name "
            "another, such as cpu"
        ) from None


def _why_no_devices(error: Exception) -> str | None:
    """JAX's line on devices that it cannot make, if that is behind an error; None where there are devices."""
    if processes.processes() == 1:
        try:
            jax.devices()
        except (RuntimeError, AssertionError) as again:
            error = again
        else:
            return None
    elif "initialize backend" not in str(error):  # To ask again would be to wait for the others.
        return None
    return " ".join(str(error).split())[:200]


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if _LINUX else os.cpu_count() or 1


_LINUX = hasattr(os, "sched_getaffinity")
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_CORES_OF_AN_ARENA = 4


def process_cores() -> int:
    """How many of them are left to it where the others of the run are on the same machine."""
    return max(1, cores() // processes.processes_here())


def idle_cores(batch_size: int, devices: int) -> str | None:
    """The remark on a batch that leaves cores of this machine idle; None where all are used, or none can be.

    devices: how many CPU devices of this process the batch is split over.
    """
    count, sharing = process_cores(), processes.processes()
    if devices >= count:
        return None
    whole = count * sharing
    sizes = [size for size in (batch_size // whole * whole, -(-batch_size // whole) * whole) if size]
    listed = " or ".join(map(str, dict.fromkeys(sizes)))
    return f"batch_size {batch_size} is split over {devices} of {count} cores; {listed} would use them all"


def largest_divisor(n: int, limit: int) -> int:
    """The largest divisor of n that does not exceed limit."""
    return max(d for d in range(1, min(n, max(1, limit)) + 1) if n % d == 0)


def all_devices() -> list[Any]:
    """Those of all processes.

    Raises:
        ConfigError: there are none, or one process has more than another.
    """
    with failures():
        available = jax.devices()
    counts = collections.Counter(device.process_index for device in available)
    first, odd = counts[0], next((process for process, count in counts.items() if count != counts[0]), None)
    if odd is not None:
        what = f"{first} × {available[0].device_kind} in process 0, {counts[odd]} in process {odd}"
        raise ConfigError(
            f"the processes have not equally many devices ({what}); start each with as many: cores by taskset or "
            "--cpus-per-task, GPUs by CUDA_VISIBLE_DEVICES"
        )
    return available


def make_mesh(batch_size: int, devices: int | None = None, split: int | None = 1) -> Mesh:
    """A mesh with the axes `DATA_AXIS` and `MODEL_AXIS`. The batch is split over both.

    Args:
        batch_size: of the whole run.
        devices: how many to use; None for the largest number at hand that divides the batch, and that `split` divides.
        split: how many of them share the words of a softmax: the length of `MODEL_AXIS`; None: all CPUs of one process
            (a step of T·B = 700, P = 200, V = 33 278 took 312 ms on two, and 374 where each had all words), else one.

    Raises:
        ConfigError: no devices, more than there are, or a number that does not divide the batch or is not divisible by
            `split`.
    """
    available = all_devices()
    sharing = processes.processes()
    all_share = split is None and available[0].platform == "cpu" and sharing == 1
    split = split or 1
    if split > (devices or len(available)):
        what = f"{len(available)} at hand ({available[0].platform})" if devices is None else f"devices={devices}"
        raise ConfigError(f"model.softmax.split: {split} devices asked for, {what}")
    if devices is None:
        if batch_size % split:
            raise ConfigError(f"batch_size {batch_size} is not divisible by the {split} devices of model.softmax.split")
        counts = range(split, len(available) + 1, split)
        devices = max((d for d in counts if batch_size % d == 0 and d % sharing == 0), default=split * sharing)
    if devices > len(available):
        raise ConfigError(f"devices: {devices} asked for, {len(available)} at hand ({available[0].platform})")
    if devices % split:
        raise ConfigError(f"devices: {devices} is not divisible by model.softmax.split={split}")
    if devices % sharing:
        raise ConfigError(f"devices: {devices} asked for, not as many in each of {sharing} processes")
    if batch_size % devices:
        below = batch_size // devices * devices
        sizes = ", ".join(str(s) for s in (below, below + devices) if s)
        counts = ", ".join(str(d) for d in range(1, len(available) + 1) if batch_size % d == 0)
        raise ConfigError(
            f"batch_size {batch_size} is not divisible by {devices} devices; "
            f"sizes that are: {sizes}; device counts that divide it: {counts}"
            f"{'; or start fewer processes' if sharing > 1 else ''}"
        )
    if sharing > 1:
        each = devices // sharing
        owned = [[d for d in available if d.process_index == process][:each] for process in range(sharing)]
        if short := [process for process, held in enumerate(owned) if len(held) < each]:
            raise ConfigError(f"devices: {each} in each process asked for, process {short[0]} has fewer")
        available = [device for held in owned for device in held]
    grid = np.asarray(available[:devices]).reshape(-1, devices if all_share else split)
    return Mesh(grid, (DATA_AXIS, MODEL_AXIS), axis_types=(AxisType.Auto, AxisType.Auto))


def replicate(mesh: Mesh, tree: PyTree) -> PyTree:
    """The tree on every device of the mesh, whole; each of several processes has the whole of it."""
    sharding = NamedSharding(mesh, PartitionSpec())
    if processes.processes() == 1:
        return jax.device_put(tree, sharding)
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), tree)


def describe(mesh: Mesh) -> str:
    """For people: "2 × cpu", "8 × NVIDIA H100 in 2 processes"."""
    first = mesh.devices.flat[0]
    kind = first.device_kind
    shared = f" in {processes.processes()} processes" if processes.processes() > 1 else ""
    return f"{mesh.devices.size} × {kind}{shared}"
