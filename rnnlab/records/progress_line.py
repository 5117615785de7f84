"""The line that says how far a run is: live on a terminal, now and then elsewhere."""

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from rnnlab.files.output import make_console


def live_line(what: str, console: Console, left: bool = True) -> Progress:
    """A bar of how many of what are done, a note, the time passed and, if wanted, that left; on a terminal."""
    return Progress(
        TextColumn(what),
        MofNCompleteColumn(),  # Whole ones: a run that is nearly over is not.
        BarColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        *([TextColumn("left"), TimeRemainingColumn()] if left else []),
        console=console,
    )


class ProgressLine:
    """Steps, steps per second, the last loss and the time left: a live line on a terminal, plain lines elsewhere.

    Args:
        steps: of the whole run.
        start: where it begins.
        quiet: whether nothing is shown: another process speaks.
    """

    def __init__(self, steps: int, start: int, quiet: bool = False):
        self.steps, self.step = steps, start
        self.console = make_console(quiet=quiet)
        self._marks: list[tuple[float, int]] = [(time.monotonic(), start)]
        self._second: tuple[float, int] | None = None
        self._reported_at = time.monotonic()
        self._live: Progress | None = None
        if sys.stdout.isatty() and not quiet:
            self._live = live_line("step", self.console)
            self._task = self._live.add_task("", total=steps, completed=start, note="")

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Shows the live line while the block runs."""
        with self._live or contextlib.nullcontext():
            yield

    def rate(self) -> float:
        """Steps per second over the last marks; 0 before the second."""
        (t0, s0), (t1, s1) = self._marks[0], self._marks[-1]
        return (s1 - s0) / (t1 - t0) if t1 > t0 else 0.0

    def overall_rate(self) -> float:
        """Steps per second since the second mark (the first step compiles), evaluations and checkpoints included."""
        if self._second is None or self.step == self._second[1]:
            return 0.0
        return (self.step - self._second[1]) / (self._marks[-1][0] - self._second[0])

    def advance(self, step: int, loss: float | None = None) -> None:
        """The run has come to this step."""
        self.step = step
        self._marks = [*self._marks[-20:], (time.monotonic(), step)]
        self._second = self._second or self._marks[-1]
        if self._live is not None:
            note = f"{self.rate():.0f} steps/s" + (f"  loss {loss:.4g}" if loss is not None else "")
            self._live.update(self._task, completed=step, note=note)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """A training log step: on a terminal the live line shows it, elsewhere a line at most every ten seconds."""
        if self._live is None and time.monotonic() - self._reported_at > 10:
            self._reported_at = time.monotonic()
            rate = self.rate()
            left = f"  {duration((self.steps - step) / rate)} left" if rate else ""
            self.say(f"step {step}/{self.steps}  {described(values)}  {rate:.0f} steps/s{left}")

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, markup=False)

    def evaluated(self, step: int, split: str, values: Mapping[str, float]) -> None:
        self.say(f"step {step}  {split}  {described(values)}")


def described(values: Mapping[str, float]) -> str:
    """For people: "loss 0.01  accuracy 0.98"."""
    return "  ".join(f"{name} {float(value):.4g}" for name, value in values.items())


def duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
