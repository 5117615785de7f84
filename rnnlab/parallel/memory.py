"""Memory: how much there is, and the one line for what needs more.

`training/footprint.py` says what a run needs.
"""

import contextlib
import ctypes
import errno
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import psutil

from rnnlab.config.errors import ConfigError

try:
    import resource
except ImportError:  # Windows has none.
    resource = None

SMALLER = "make the batch, the sequences, the network or the vocabulary smaller"
CGROUPS, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


class OutOfMemory(ConfigError):
    """Something does not fit into memory."""


def at_hand(devices: Sequence[Any] | None = None) -> int | None:
    """Bytes that are free on all of these devices together, which are of one kind; None where nobody says it.

    On CPUs, and without devices: the bytes that this process may still take, by what the machine has free, swap
    included, by its control group and by its own limits.
    """
    if devices and devices[0].platform != "cpu":
        stats = [device.memory_stats() or {} for device in devices]
        if not all("bytes_limit" in each for each in stats):
            return None
        return sum(each["bytes_limit"] - each["bytes_in_use"] for each in stats)
    free = psutil.virtual_memory().available + psutil.swap_memory().free
    return max(0, min([free, *_left_to_group(), *_left_to_process()]) + _free_in_heap())


class _HeapSizes(ctypes.Structure):
    """glibc's struct mallinfo2."""

    _fields_ = [(name, ctypes.c_size_t) for name in (*"abcdefgh", "fordblks", "keepcost")]


def _free_in_heap() -> int:
    """The bytes that this process has freed and keeps (`devices.tune_host`), as far as the C library says."""
    if platform.libc_ver()[0] != "glibc":
        return 0
    try:
        sizes = ctypes.CDLL(None).mallinfo2
    except AttributeError:  # Before version 2.33.
        return 0
    sizes.restype = _HeapSizes
    return sizes().fordblks


def _left_to_process() -> Iterator[int]:
    """The bytes that `ulimit` leaves."""
    if resource is None:
        return
    used = psutil.Process().memory_info()
    for name, taken in (("RLIMIT_AS", used.vms), ("RLIMIT_DATA", getattr(used, "data", 0))):
        limit = resource.getrlimit(getattr(resource, name))[0]
        if limit != resource.RLIM_INFINITY:
            yield limit - taken


def _left_to_group() -> Iterator[int]:
    """The bytes that this process's control groups leave, of version 2 or 1: those of SLURM, Docker, Kubernetes."""
    try:
        lines = MEMBERSHIP.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = CGROUPS / "memory" if controllers else CGROUPS
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            with contextlib.suppress(OSError, ValueError):
                limit, used = (int((folder / name).read_text(encoding="utf-8")) for name in names)
                yield limit - used + _page_cache(folder / "memory.stat")
            if folder == root:
                break


def _page_cache(stat: Path) -> int:
    """Bytes of files in memory, which the system gives up when they are wanted."""
    match = re.search(r"^(?:total_)?inactive_file (\d+)", stat.read_text(encoding="utf-8"), re.M)
    return int(match[1]) if match else 0


def check(parts: Mapping[str, int], devices: Sequence[Any] | None = None, smaller: str = SMALLER) -> None:
    """Compares what is needed at the same time with what is at hand.

    Args:
        parts: {what it is: bytes on all of these devices}.
        devices: as of `at_hand`.
        smaller: what the user can make smaller.

    Raises:
        OutOfMemory: there is less.
    """
    needed, free = sum(parts.values()), at_hand(devices)
    if free is None or needed <= free:
        return
    largest = sorted(parts, key=lambda name: -parts[name])
    listed = ", ".join(f"{name} {size_text(parts[name])}" for name in largest if parts[name] > needed / 100)
    raise OutOfMemory(
        f"out of memory: at least {size_text(needed)} wanted ({listed}), {size_text(free)} at hand; {smaller}"
    )


def size_text(size: float) -> str:
    """ "1.5 GiB"."""
    units = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:.3g} {units[0]}"


@contextlib.contextmanager
def allocation_failures(smaller: str = SMALLER) -> Iterator[None]:
    """Turns whatever comes of an allocation that failed into an OutOfMemory; smaller: as of `check`."""
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError, OSError) as error:
        if (wanted := _wanted(error)) is None:
            raise
        free = at_hand()
        there = "" if free is None else f", {size_text(free)} at hand"
        raise OutOfMemory(f"out of memory: {wanted}{there}; {smaller}") from error


def _wanted(error: Exception) -> str | None:
    """The memory that could not be had, for people; None where memory is not what failed."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError):
        return "the system has none left" if error.errno == errno.ENOMEM else None
    if isinstance(error, jax.errors.JaxRuntimeError):
        if not re.search(r"RESOURCE_EXHAUSTED|out of memory|bad_alloc", text, re.IGNORECASE):
            return None
        size = re.search(r"(\d+) bytes", text)
        return f"{size_text(int(size[1]))} wanted" if size else text[:150]
    return f"{text[:150]}" if text and text != "std::bad_alloc" else "no more was to be had"
