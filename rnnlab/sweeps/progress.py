"""The console line of a sweep: how many of its runs are over, and the time left."""

import contextlib
import math
import sys
import time
from collections.abc import Iterator

from rich.progress import Progress

from rnnlab.files.output import make_console
from rnnlab.records.progress_line import duration, live_line


class SweepProgress:
    """Runs that are over of all, and the time left: a live line on a terminal, plain lines elsewhere.

    Args:
        runs: of the whole sweep.
        done: those that were over when this process began.
        even: whether one run takes about as long as another; else no time left is said.
    """

    def __init__(self, runs: int, done: int, even: bool = True):
        self.runs, self.first, self.done, self.even = runs, done, float(done), even
        self.console = make_console()
        self._began = self._reported_at = time.monotonic()
        self._live: Progress | None = None

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Shows the live line while the block runs; a run by itself has a live line of its own."""
        if not sys.stdout.isatty():
            yield
            return
        self._live = live_line("runs", self.console, left=self.even)
        self._task = self._live.add_task("", total=self.runs, note="")
        self._live.update(self._task, completed=self.done)
        try:
            with self._live:
                yield
        finally:
            self._live = None

    def advance(self, done: float, note: str = "") -> None:
        """So many runs of the sweep are over; one that is half way counts half.

        It never counts backwards: a table that is not the newest, or a rung whose runs have begun, say less.
        """
        self.done = max(self.done, done)
        if self._live is not None:
            self._live.update(self._task, completed=self.done, note=note)
        elif time.monotonic() - self._reported_at > 10:
            self.report(note)

    def report(self, note: str = "") -> None:
        """A line that stays: how far the sweep is."""
        self._reported_at = time.monotonic()
        self.say(
            "  ".join(part for part in (f"{math.floor(self.done)} of {self.runs} runs", note, self.left()) if part)
        )

    def left(self) -> str:
        """ "0:12:30 left", by what this process has done; nothing before that is a run."""
        finished, seconds = self.done - self.first, time.monotonic() - self._began
        return f"{duration(seconds * (self.runs - self.done) / finished)} left" if self.even and finished >= 1 else ""

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, markup=False)
