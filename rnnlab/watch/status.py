"""How a run is doing, from its files alone: nothing is locked, and nobody is asked."""

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from rnnlab.records.progress_line import duration
from rnnlab.records.workdir import DONE
from rnnlab.watch.tails import parsed

QUIET_SECONDS = 120.0
"""After so long without a line a run is quiet; at least after ten times what lies between two of its lines."""
FRESH_SECONDS = 20.0
"""A run that wrote so lately is at work, whatever its lock file says."""


class Status(NamedTuple):
    """In one word, and in a sentence."""

    word: str
    """waiting, starting, running, quiet, stopped, or the status of summary.json."""
    text: str


def read_object(path: Path) -> dict[str, Any] | None:
    """The object in a file of JSON that others write meanwhile; None where there is none, or not a whole one."""
    try:
        content = parsed(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


class Owner(NamedTuple):
    """Who a lock file says holds it."""

    text: str
    lives: bool | None
    """Whether the process is at work; None where that cannot be seen from here."""


def owner_of(*locks: Path) -> Owner | None:
    """The owner of the first of these lock files that is there: a run removes its own at its end."""
    for path in locks:
        if not path.exists():
            continue
        owner = read_object(path) or {}
        process, host = owner.get("process"), owner.get("host")
        if type(process) is not int or not isinstance(host, str):
            return Owner("another process", None)
        lives = psutil.pid_exists(process) if host == socket.gethostname() else None
        return Owner(f"process {process} on {host} since {owner.get('since', 'an unknown time')}", lives)
    return None


def status_of(
    summary: Mapping[str, Any] | None, owner: Owner | None, changed: float | None, gap: float, begun: bool
) -> Status:
    """The status of a run.

    Args:
        summary: summary.json, if there is one.
        owner: of its lock file.
        changed: when its metrics were last written to.
        gap: seconds between two lines of them.
        begun: whether it has a config.
    """
    ending = str(summary["status"]) if summary and isinstance(summary.get("status"), str) else None
    if ending in DONE:
        return Status(ending, _ENDINGS[ending])
    silence = None if changed is None else max(0.0, time.time() - changed)
    fresh = silence is not None and silence < FRESH_SECONDS and ending is None
    if fresh or (owner is not None and owner.lives is not False):
        who = "" if owner is None else f" by {owner.text}"
        if silence is None:
            return Status("starting", f"begun{who}; no line of metrics yet")
        if silence > max(QUIET_SECONDS, 10 * gap):
            return Status("quiet", f"no line for {duration(silence)}; written{who}")
        return Status("running", f"written{who}")
    if ending is not None:
        return Status(ending, _ENDINGS.get(ending, ""))
    if not begun:
        return Status("waiting", "not begun")
    return Status("stopped", "nobody writes here, and there is no summary.json; the run's command resumes it")


_ENDINGS = {
    "finished": "all steps are made",
    "stopped_early": "ended before its last step, as early stopping says",
    "diverged": "the loss or its gradient is not finite",
    "pruned": "ended before its last step, as halving says",
    "interrupted": "saved and left; the run's command resumes it",
    "paused": "saved and left; goes on later",
}


def modified(path: Path) -> tuple[int, int] | None:
    """Numbers that change when a file is written anew; None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino
