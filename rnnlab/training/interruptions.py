"""Ends of a run from outside: a signal, after which it is saved, and a disk that takes nothing more."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rnnlab.config.errors import ConfigError
from rnnlab.parallel import processes

_seen: list[str] | None = None
"""How many `interruptions` this process is in."""


@contextlib.contextmanager
def interruptions(say: Callable[[str], None]) -> Iterator[list[str]]:
    """A list that a first SIGINT, SIGTERM or SIGHUP appends to; a second one acts as it always does. A SIGHUP that is
    ignored, as under nohup, stays so.

    Within another such context it is that one's: a signal that comes as a run of a sweep ends is not lost to the next.
    """
    global _seen
    if _seen is not None:
        yield _seen
        return
    seen: list[str] = []
    if threading.current_thread() is not threading.main_thread():
        yield seen
        return
    numbers = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    before = {number: signal.getsignal(number) for number in numbers}
    before = {n: handler for n, handler in before.items() if n == signal.SIGINT or handler != signal.SIG_IGN}

    def note(number: int, frame: Any) -> None:
        seen.append(signal.Signals(number).name)
        for each, handler in before.items():
            signal.signal(each, handler)
        say(f"{seen[0]}: saving after this step; once more stops at once")

    for number in before:
        signal.signal(number, note)
    _seen = seen
    try:
        yield seen
    finally:
        _seen = None
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def disk_errors(workdir: Path) -> Iterator[None]:
    """A disk that is full or gone is the user's to mend: one line, whichever of the writers met it first."""
    hook = before = threading.excepthook

    def quiet(failure: threading.ExceptHookArgs) -> None:
        """The writers' threads fail as the main one does, which says it."""
        if not isinstance(failure.exc_value, OSError):
            before(failure)

    threading.excepthook = quiet
    try:
        yield
    except (ConfigError, processes.LostProcess):
        raise
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        hook = quiet  # The threads close after this, as the process ends.
        raise ConfigError(f"cannot write to {workdir}: {cause.strerror or cause}") from error
    finally:
        threading.excepthook = hook
