"""Watcher: what is watched, be it a run, a sweep, or not there yet, and its answers to the page."""

import secrets
import threading
import time
from pathlib import Path
from typing import Any

from rnnlab.config.errors import ConfigError
from rnnlab.files import as_typed
from rnnlab.records.folders import SweepDir
from rnnlab.records.workdir import Workdir
from rnnlab.watch.run_files import Ticks
from rnnlab.watch.run_view import RunView, locks_of_group
from rnnlab.watch.sweep_view import SweepView

READING_SECONDS = 0.4
"""An answer waits so long for lines; what is left comes with the next one."""
LATELY = 0.5
"""Files are not looked at again so soon, however many pages ask."""
KEPT = 4
"""So many runs of a sweep are kept ready at once."""


class Watcher:
    """The folder that is watched. It may come later; what it is turns out when it is there.

    Raises:
        ConfigError: it is a file, or a folder of something else.
    """

    def __init__(self, workdir: Path):
        self.workdir = workdir
        self._token = secrets.token_hex(4)
        self._lock = threading.Lock()
        self._ticks = Ticks()
        self._view: RunView | SweepView | None = None
        self._runs: dict[str, RunView] = {}
        self._read_at: dict[str, float] = {}
        if workdir.exists() and not workdir.is_dir():
            raise ConfigError(f"--workdir={workdir} is a file, not the folder of a run or a sweep")
        if (problem := self._problem()) is not None:
            raise ConfigError(f"--workdir: {problem}")

    def _problem(self) -> str | None:
        """Why the folder is neither a run's nor a sweep's, and will not become one; None where it may."""
        if not self.workdir.is_dir() or _is_ours(self.workdir):
            return None
        names = sorted(path.name for path in self.workdir.iterdir())
        if all(name.endswith(".lock") for name in names):
            return None  # Empty, or just begun.
        inside = [name for name in names if _is_ours(self.workdir / name)]
        more = f"; in it are {', '.join(inside[:5])}{', …' if len(inside) > 5 else ''}" if inside else ""
        return f"{self.workdir} is not the folder of a run or a sweep: it has no config.json and no sweep.json{more}"

    def waiting(self) -> str | None:
        """The words for what it waits for; None where there is something to watch."""
        if Workdir(self.workdir).config.exists() or SweepDir(self.workdir).manifest.exists():
            return None
        if not self.workdir.exists():
            return f"{self.workdir} does not exist yet"
        return self._problem() or f"{self.workdir} has no config.json yet: the run has not begun"

    def answer(self, run: str, since: int, head: str, token: str, metric: str) -> dict[str, Any]:
        """The answer to a page that has seen all up to a tick of this watcher's token.

        Args:
            run: of a sweep the name of one run; empty for the whole.
            since: the tick; 0 for everything.
            head: the hash of the head that the page has.
            token: of the answer before; another one than this watcher's counts as 0.
            metric: of a sweep: whose curves.
        """
        since = since if token == self._token else 0
        with self._lock:
            answer = self._answer(run, since, head, metric)
        return answer | {"token": self._token}

    def _answer(self, run: str, since: int, head: str, metric: str) -> dict[str, Any]:
        if (missing := self.waiting()) is not None:
            self._view, self._runs = None, {}
            folder = as_typed(str(self.workdir))
            return {"kind": "waiting", "folder": folder, "text": as_typed(missing), "tick": 0, "more": False}
        if self._view is None:
            is_sweep = SweepDir(self.workdir).manifest.exists()
            locks = () if is_sweep else locks_of_group(self.workdir)
            new = SweepView(self.workdir, self._ticks) if is_sweep else RunView(self.workdir, self._ticks, locks=locks)
            self._view = new
        if isinstance(self._view, RunView):
            self._read("", self._view)
            return self._view.answer(since, head)
        if not run:
            self._read("", self._view)
            return self._view.answer(since, head, metric)
        view = self._run(self._view, run)
        if view is None:
            return {"kind": "unknown", "text": f"the sweep has no run {run!r}", "tick": 0, "more": False}
        self._read(run, view)
        return view.answer(since, head)

    def _read(self, name: str, view: RunView | SweepView) -> None:
        now = time.monotonic()
        if view.more or now - self._read_at.get(name, -LATELY) >= LATELY:
            view.read(now + READING_SECONDS)
            self._read_at[name] = time.monotonic()

    def _run(self, sweep: SweepView, name: str) -> RunView | None:
        if name not in self._runs:
            sweep.read(time.monotonic())
            folder = sweep.folder_of(name)
            if folder is None:
                return None
            while len(self._runs) >= KEPT:
                self._runs.pop(next(iter(self._runs)))
            self._runs[name] = RunView(folder, self._ticks, locks=sweep.locks(name))
            self._read_at.pop(name, None)
        return self._runs[name]


def _is_ours(folder: Path) -> bool:
    return Workdir(folder).config.exists() or SweepDir(folder).manifest.exists()
