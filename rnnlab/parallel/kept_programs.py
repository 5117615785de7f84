"""Compiled programs on disk, where later processes find them: JAX's persistent compilation cache, in folders of ours.

JAX's key of a program has its operations, XLA_FLAGS and the version of jaxlib. Programs for a processor hold its
instructions, so that machines that share a home have a folder for each kind of processor.
"""

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import shutil
import warnings
from pathlib import Path
from typing import Any

import jax
from filelock import FileLock, Timeout

from rnnlab.parallel.compiler import hide_false_alarms

MOST_BYTES = 256 * 2**20
"""Of the programs in a folder; past it those go that were used least recently. A ready config has about 0.7 MB."""
MOST_FOLDERS = 6
"""Versions of jaxlib and kinds of processors that have a folder; past it that goes that was used least recently."""
LEAST_SECONDS = 0.1
"""Programs that compile faster are not worth their file."""
PATIENCE = 2.0
"""Seconds to wait for another process that holds a folder."""
_OPTIONS = {
    "jax_compilation_cache_max_size": MOST_BYTES,
    "jax_persistent_cache_min_compile_time_secs": LEAST_SECONDS,
}
"""Settings of JAX, where the environment does not have them."""


def keep(root: Path) -> None:
    """Keeps programs below a folder, where that can be written, unless JAX_COMPILATION_CACHE_DIR names another folder
    or JAX_ENABLE_COMPILATION_CACHE=false. A run is never worse off: what cannot be read is compiled, what cannot be
    written is left."""
    settings: Any = jax.config
    if settings.jax_compilation_cache_dir or not settings.jax_enable_compilation_cache:
        return
    folder = root.absolute() / f"{importlib.metadata.version('jaxlib')}-{processor()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A soft lock, a file that is there or not, would outlive a process that is killed.
        with FileLock(folder / ".lockfile", timeout=PATIENCE, fallback_to_soft=False):  # That of JAX's cache.
            remove_halves(folder)
        os.utime(folder)
        drop_unused(root)
    except (OSError, Timeout, NotImplementedError):  # Read-only, full, without locks, or held: nothing is kept.
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    for name, value in _OPTIONS.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)
    # A disk that fills up meanwhile, a file that is not what it was, a program that is larger than the folder may be.
    for line in ("Error (reading|writing) persistent compilation cache entry", "Cache value for key"):
        warnings.filterwarnings("ignore", line)
    hide_false_alarms()


def processor(description: Path = Path("/proc/cpuinfo")) -> str:
    """A name of what this machine's processor is and can do; where the system does not say that, of the machine."""
    names = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    lines: set[str] = set()
    with contextlib.suppress(OSError):
        lines = {line for line in description.read_text(encoding="utf-8").splitlines() if line.startswith(names)}
    whole = "\n".join([platform.machine(), *(sorted(lines) or [platform.node()])])
    return hashlib.sha256(whole.encode()).hexdigest()[:12]


def remove_halves(folder: Path) -> None:
    """Removes programs that a process left half written, which JAX would neither read nor replace: each is two files,
    of which the second says when it was used last."""
    names = set(os.listdir(folder))
    pairs = {"-cache": "-atime", "-atime": "-cache"}
    for name in names:
        for ending, other in pairs.items():
            if name.endswith(ending) and name.removesuffix(ending) + other not in names:
                (folder / name).unlink(missing_ok=True)


def drop_unused(root: Path) -> None:
    """Removes the folders that were used least recently, but for `MOST_FOLDERS`."""
    folders = sorted((path for path in root.iterdir() if path.is_dir()), key=lambda path: -path.stat().st_mtime)
    for folder in folders[MOST_FOLDERS:]:
        shutil.rmtree(folder, ignore_errors=True)
