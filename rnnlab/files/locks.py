"""Locks between processes: lock files, held by flock, which a process that dies lets go of.

Files of a run's folder that only one process may write are kept by `claimed` (waits for nobody) or `alone` (waits). A
lock file says who holds it, for people; that the file is there means nothing.
"""

import contextlib
import datetime
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from rnnlab.files import unwritable

try:
    import fcntl
except ImportError:  # Windows has none.
    fcntl = None

GRACE = 1.0
"""Seconds for which `holder` may hold a lock that it only asks about, in another process."""


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Waits until no other process holds this lock file.

    Raises:
        ConfigError: the folder cannot be written to.
    """
    with _opened(path) as file:
        if fcntl is not None:
            with contextlib.suppress(OSError):  # Some network file systems have no locks.
                fcntl.flock(file, fcntl.LOCK_EX)
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
    end = time.monotonic() + patience
    while True:
        file = _opened(path)
        held = _lock(file)
        # A holder removes its file as it ends: a lock on one that has lost its name keeps nobody out.
        if held is not False and _is_at(path, file):
            break
        file.close()
        if held is False and time.monotonic() >= end:
            yield False
            return
        time.sleep(0.05)
    with file:
        if held is None:
            _warn(path)
        with contextlib.suppress(OSError):  # A full disk: the lock is held all the same.
            file.truncate(0)
            file.write(json.dumps(_here()))
            file.flush()
        try:
            yield True
        finally:
            with contextlib.suppress(OSError):
                path.unlink()


def holder(path: Path) -> str | None:
    """Who holds a lock file, for people: "process 71 on box since 10:31:07 (rnnlab.train --config=…)"; None where no
    other process does. Nothing is written."""
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
            told = json.loads(file.read())
            who = f"process {told['process']} on {told['host']} since {told['since']} ({told['command']})"
            return None if (told["process"], told["host"]) == (os.getpid(), socket.gethostname()) else who
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"


def can_lock(path: Path) -> bool:
    """Whether a lock file there, which is made, keeps two processes apart. A file system that keeps locks within one
    machine says yes as well.

    Raises:
        ConfigError: the folder cannot be written to.
    """
    with _opened(path) as file:
        return _lock(file) is not None


def _lock(file: IO[str]) -> bool | None:
    """Whether this process holds the file's lock now; None where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError:
        return None


def _is_at(path: Path, file: IO[str]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except OSError:
        return False


def _here() -> dict[str, str | int]:
    """Who this process is."""
    command = shlex.join(["rnnlab" if not sys.argv or not sys.argv[0] else Path(sys.argv[0]).name, *sys.argv[1:]])
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
    return {"process": os.getpid(), "host": socket.gethostname(), "since": now, "command": _cut(command)}


def _cut(text: str, most: int = 100) -> str:
    return text if len(text) <= most else f"{text[: most - 2]} …"


_warned = False


def _warn(path: Path) -> None:
    global _warned
    if not _warned:
        _warned = True
        told = "has no locks: start no second command on the same folder, nothing would stop it"
        print(f"warning: the file system of {path.parent} {told}", file=sys.stderr)


def _opened(path: Path) -> IO[str]:
    """A lock file, made where it is not there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a", encoding="utf-8")
    except OSError as error:
        raise unwritable(path, error) from None
