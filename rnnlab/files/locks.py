"""Locks between processes: lock files, which filelock holds through the operating system; that frees those of a process
that dies.

Files of a run's folder that only one process may write are kept by `claimed` (waits for nobody) or `alone` (waits). A
lock file says who holds it, for people; a lock file that exists is not for that reason held.
"""

import contextlib
import datetime
import json
import os
import shlex
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from filelock import FileLock, Timeout

from rnnlab.files.writing import unwritable

try:
    import fcntl
except ImportError:  # Windows has none.
    fcntl = None

GRACE = 1.0
"""Seconds for which `holder` may hold a lock that it only asks about, in another process."""


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Waits until no other process holds this lock file. Where the file system has no locks, it goes on at once.

    Raises:
        ConfigError: the folder cannot be written to.
    """
    with _acquired(path, patience=-1) or contextlib.nullcontext():
        yield


@contextlib.contextmanager
def claimed(path: Path, patience: float = 0.0) -> Iterator[bool]:
    """Whether this process holds the lock file from here to the end of the block. Where the file system has no locks it
    does, and one warning says so.

    Args:
        patience: seconds to wait for another process.

    Raises:
        ConfigError: the folder cannot be written to.
    """
    try:
        lock = _acquired(path, patience, _sign)
    except Timeout:
        yield False
        return
    if lock is None:
        _warn(path)
    with lock or contextlib.nullcontext():
        try:
            yield True
        finally:
            # Before the lock is let go of: filelock takes no lock on a file that has lost its name.
            with contextlib.suppress(OSError):
                path.unlink()


def holder(path: Path) -> str | None:
    """Who holds a lock file, for people: "process 71 on box since 10:31:07 (rnnlab.train --config=…)"; None where no
    other process does. Nothing is written: by a shared lock, since filelock asks only by taking the lock itself, in a
    file that it makes and may write to."""
    try:
        file = path.open(encoding="utf-8")
    except OSError:
        return None
    with file:
        try:
            if fcntl is None:
                return None
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None
        except BlockingIOError:
            pass
        except OSError:
            return None
        try:
            owner = json.loads(file.read())
            who = f"process {owner['process']} on {owner['host']} since {owner['since']} ({owner['command']})"
            return None if (owner["process"], owner["host"]) == (os.getpid(), socket.gethostname()) else who
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"


def can_lock(path: Path) -> bool:
    """Whether a lock file there, which is created, keeps two processes apart. A file system that keeps locks within one
    machine says yes as well.

    Raises:
        ConfigError: the folder cannot be written to.
    """
    try:
        with _acquired(path, patience=0) or contextlib.nullcontext() as lock:
            return lock is not None
    except Timeout:
        return True


def _acquired(
    path: Path, patience: float, on_acquired: Callable[[int], None] | None = None
) -> AbstractContextManager[object] | None:
    """The held lock, which the end of its block frees; None where the file system has no locks.

    Args:
        patience: seconds to wait for another process; -1: without end.
        on_acquired: gets the descriptor of the lock file.

    Raises:
        Timeout: another process holds it.
        ConfigError: the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError as error:
        raise unwritable(path, error) from None
    try:
        # A soft lock, a file that is there or not, would outlive a process that is killed.
        return FileLock(path, fallback_to_soft=False, on_acquired=on_acquired).acquire(timeout=patience)
    except Timeout:
        raise
    except PermissionError as error:
        raise unwritable(path, error) from None
    except OSError:
        return None


def _sign(descriptor: int) -> None:
    """Writes into a lock file who holds it."""
    command = shlex.join(["rnnlab" if not sys.argv or not sys.argv[0] else Path(sys.argv[0]).name, *sys.argv[1:]])
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
    owner = {"process": os.getpid(), "host": socket.gethostname(), "since": now, "command": _cut(command)}
    with contextlib.suppress(OSError):  # A full disk: the lock is held all the same.
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, json.dumps(owner).encode())


def _cut(text: str, most: int = 100) -> str:
    return text if len(text) <= most else f"{text[: most - 2]} …"


_warned = False


def _warn(path: Path) -> None:
    global _warned
    if not _warned:
        _warned = True
        consequence = "has no locks: start no second command on the same folder, nothing would stop it"
        print(f"warning: the file system of {path.parent} {consequence}", file=sys.stderr)
