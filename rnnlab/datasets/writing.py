"""Files that are written whole or not at all, and one process at a time: what preparing a corpus rests on."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO

from rnnlab.build import ConfigError

try:
    import fcntl
except ImportError:  # Windows has none; there two processes may prepare the same corpus, each whole.
    fcntl = None


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which gets its name only once all of it is on the disk.

    Raises:
        ConfigError: the disk is full, or the folder cannot be written to; nothing is left behind.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Waits until no other process holds this lock file; a process that dies lets go of it.

    Raises:
        ConfigError: the folder cannot be written to.
    """
    with _opened(path) as file:
        if fcntl is not None:
            with contextlib.suppress(OSError):  # Some network file systems have no locks.
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Whether this process holds the lock file from here to the end of the block; it waits for nobody, and a process
    that dies lets go of it.

    Raises:
        ConfigError: the folder cannot be written to.
    """
    with _opened(path) as file:
        held = True
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held = False
            except OSError:
                pass  # As above.
        yield held


def can_lock(path: Path) -> bool:
    """Whether a lock file there, which is made, keeps two processes apart. A file system that keeps locks within one
    machine says yes as well.

    Raises:
        ConfigError: the folder cannot be written to.
    """
    with _opened(path) as file:
        try:
            return fcntl is not None and fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB) is None
        except BlockingIOError:
            return True
        except OSError:
            return False


def _opened(path: Path) -> IO[str]:
    """A lock file, made where it is not there; what it holds does not matter and stays."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from None
