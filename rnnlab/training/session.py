"""A run as it is trained: its arrays, its host's memory, its files, and whether it goes on."""

import time
from collections.abc import Sequence

import jax

from rnnlab.records.metrics import MetricsWriter, NoMetrics
from rnnlab.records.progress_line import ProgressLine
from rnnlab.records.workdir import Workdir
from rnnlab.training.checkpoints import Checkpoints
from rnnlab.training.evaluation import Halt, Pace
from rnnlab.training.flight_recorder import FlightRecorder
from rnnlab.training.host_state import HostState
from rnnlab.training.run import Run
from rnnlab.training.state import TrainState


class Session:
    """A run as it is trained: its arrays, its host's memory and its files.

    Args:
        run: with the stage entered that the state is in.
        host: its host's memory.
        state: at the step that it goes on from.
        files: of its workdir.
        checkpoints, writer, progress: where its states, its numbers and its lines go.
        last: the step at which it is left at the latest.
        prune: whether it has ended there, `pruned`, or goes on later, `paused`.
        saved: the step of its last checkpoint, if there is one.
        interrupted: the signals that have come; see `interruptions`.
        began: when the command did, of `time.monotonic`.
    """

    def __init__(
        self,
        run: Run,
        host: HostState,
        state: TrainState,
        files: Workdir,
        checkpoints: Checkpoints,
        writer: MetricsWriter | NoMetrics,
        progress: ProgressLine,
        *,
        last: int,
        prune: bool,
        saved: int | None,
        interrupted: Sequence[str],
        began: float,
    ):
        self.run, self.host, self.state, self.files = run, host, state, files
        self.checkpoints, self.writer, self.progress = checkpoints, writer, progress
        self.last, self.prune, self.saved, self.began = last, prune, saved, began
        self.step = self._first = int(state.step)
        self.recorder = FlightRecorder(run, files.recordings, run.flight_recorder)
        self.pace = Pace()
        self.interrupted, self.halts = interrupted, Halt(interrupted)
        self.cut: str | None = None
        """"diverged" or "interrupted", where one of these ends it."""
        self.measured = False
        """Whether it is measured though it was interrupted, as if it ended here."""

    # --- its end -----------------------------------------------------------------------------------------------------

    @property
    def exhausted(self) -> bool:
        """Whether early stopping ends the run here; a stage that begins here begins with all patience."""
        return self.host.exhausted and not self.host.curriculum.due(self.step)

    @property
    def goes_on(self) -> bool:
        """Whether there is an update to make."""
        return self.cut is None and self.step < self.last and not self.exhausted

    @property
    def status(self) -> str:
        """That of a run that stops here: what cut it short, if anything, `paused` where it has not ended."""
        if self.cut is not None:
            return self.cut
        if self.exhausted:
            return "stopped_early"
        if self.step >= self.run.intervals.steps:
            return "finished"
        return "pruned" if self.prune and self.step >= self.last else "paused"

    def best_state(self) -> TrainState:
        """The state of the best evaluation; the last one where there was none."""
        best, words = self.host.stopping.best_step, self.run.programs.structure.word_leaves
        self.checkpoints.wait()
        return self.state if best in (None, self.step) else self.checkpoints.restore(best, self.state, words).state

    # --- its updates -------------------------------------------------------------------------------------------------

    def enter_next_stage(self) -> None:
        """The curriculum's: another task, the same parameters."""
        self.host.enter_next_stage(self.step)
        self.run.enter(self.host.curriculum.stage)
        self.state = self.run.at_stage(self.state)
        self.recorder.forget()
        self.progress.say(f"step {self.step}  {self.run.described_stage()}")
        self.pace = Pace()

    def advance(self, due: int) -> None:
        """One dispatch of about half a second, not past the step at which something is due."""
        mark, before = time.monotonic(), self.step
        target = min(before + self.pace.batches, self.last, self.host.curriculum.ends, due)
        self.state = jax.block_until_ready(self.run.train(self.state, target))
        self.step = int(self.state.step)
        if before == self._first:
            self.progress.say(f"first step after {time.monotonic() - self.began:.1f} s")
        self.pace.see(max(1, self.step - before), time.monotonic() - mark)
        if not bool(self.state.finite):
            self.cut = "diverged"
        else:
            self.progress.advance(self.step, self.host.train.get("loss"))

    def change_rate(self, scale: float) -> None:
        """The factor of the learning rate from here on."""
        self.state = self.run.with_rate_scale(self.state, scale)
        self.recorder.forget()
