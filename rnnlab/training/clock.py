"""The seconds that a run has trained."""

import contextlib
import time
from collections.abc import Iterator


class TrainingClock:
    """The seconds that a run has trained: first compilation, updates, evaluations and checkpoints on the way.

    Building the run, the test, figures and, in a sweep, what ends other runs are outside of it.
    """

    def __init__(self) -> None:
        self.before = 0.0
        """Those until the last interruption."""
        self._passed = 0.0
        self._since: float | None = None

    def seconds(self) -> float:
        """Seconds of training so far, those before it was resumed included."""
        return self.before + self._passed + (0.0 if self._since is None else time.monotonic() - self._since)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Counts the block."""
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._stop()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves a block within `running` out; any other one is left out anyhow."""
        running = self._since is not None
        self._stop()
        try:
            yield
        finally:
            self._since = time.monotonic() if running else None

    def _stop(self) -> None:
        if self._since is not None:
            self._passed, self._since = self._passed + time.monotonic() - self._since, None
