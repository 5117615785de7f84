"""The memory of a run's host beside the arrays: the last numbers, early stopping, curriculum, plateau, convergence."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from rnnlab.training.clock import TrainingClock
from rnnlab.training.curriculum import Curriculum
from rnnlab.training.early_stopping import EarlyStopping
from rnnlab.training.plateau import Plateau
from rnnlab.training.remembers import Remembers, score, watched


class Convergence(Remembers):
    """The first evaluation at which the task was solved.

    Args:
        solved: (metric, threshold) of the task; None where it has none.
        sign: of that metric; see `score`.
    """

    remembered = ("step", "seconds")

    def __init__(self, solved: tuple[str, float] | None, sign: float):
        self.solved, self.sign = solved, sign
        self.step: int | None = None
        self.seconds: float | None = None

    def see(self, step: int, values: Mapping[str, float], seconds: float) -> None:
        """An evaluation of the last stage's task; seconds: of training until then."""
        if self.solved is None or self.step is not None:
            return
        metric, threshold = self.solved
        if score(watched(values, metric), self.sign) >= score(threshold, self.sign):
            self.step, self.seconds = step, round(seconds, 3)

    def summary(self) -> dict[str, Any] | None:
        """For summary.json: steps and seconds to the threshold, None where it was not reached."""
        if self.solved is None:
            return None
        metric, threshold = self.solved
        return {"metric": metric, "threshold": threshold, "steps": self.step, "seconds": self.seconds}


def following(step: int, every: int) -> int:
    """The first multiple of `every` after step."""
    return (step // every + 1) * every


@dataclasses.dataclass(frozen=True)
class Intervals:
    """When something is due, in steps: `steps` is the length of the run, the others are how often."""

    steps: int
    log: int
    evaluation: int
    checkpoint: int
    diagnostics: int | None = None
    """None where nothing is observed."""


class HostState:
    """The host's memory of a run beside the state; a checkpoint holds it as JSON."""

    def __init__(
        self,
        intervals: Intervals,
        stopping: EarlyStopping,
        curriculum: Curriculum,
        convergence: Convergence,
        plateau: Plateau | None = None,
        ends_solved: bool = False,
    ):
        self.intervals, self.ends_solved = intervals, ends_solved
        self.stopping, self.curriculum, self.plateau, self.convergence = stopping, curriculum, plateau, convergence
        self.train: dict[str, float] = {}
        """The last means that were logged."""
        self.validation: dict[str, float] = {}
        """The last evaluation of this stage."""
        self.clock = TrainingClock()

    @property
    def exhausted(self) -> bool:
        """Whether the run ends here before its last step: patience is used up, or the task is solved."""
        return self.stopping.exhausted or (self.ends_solved and self.convergence.step is not None)

    def logs(self, step: int) -> bool:
        """Whether the means of training are written at this step."""
        return step % self.intervals.log == 0 or step in (self.intervals.steps, self.curriculum.ends)

    def evaluates(self, step: int) -> bool:
        """Whether the run is evaluated at this step."""
        return step % self.intervals.evaluation == 0 or step == self.intervals.steps

    def check_length(self, planned: int, step: int) -> str | None:
        """The line on a run that is resumed at this step with another length than planned, where its old end was
        evaluated and no other run would be."""
        every = self.intervals.evaluation
        if step != planned or planned % every == 0:
            return None
        solved = " and for when the task is solved" if self.convergence.solved is not None else ""
        return (
            f"step {planned}, the end before, was evaluated although eval_every is {every}; it counts for the best "
            f"checkpoint{solved}"
        )

    def see(self, step: int, values: dict[str, float], seconds: float) -> tuple[bool, bool]:
        """Takes in an evaluation: (it is the best so far, the plateau's scale has dropped).

        seconds: of training.
        """
        self.validation = values
        planned = step % self.intervals.evaluation == 0  # A run made longer goes on as if it had not ended elsewhere.
        improved, lowered = self.stopping.see(step, values, planned), False
        if self.curriculum.stage + 1 == self.curriculum.stages:
            self.convergence.see(step, values, seconds)
        if planned:
            self.curriculum.see(values)
            lowered = self.plateau is not None and self.plateau.see(values)
        return improved, lowered

    def enter_next_stage(self, step: int) -> None:
        """The curriculum's: what was best before does not count."""
        self.curriculum.advance(step)
        self.stopping.restart()
        if self.plateau is not None:
            self.plateau.restart()
        self.validation = {}

    def dump(self, seconds: float) -> dict[str, Any]:
        """As JSON; seconds: of training."""
        return {
            "stopping": self.stopping.dump(),
            "curriculum": self.curriculum.dump(),
            "plateau": None if self.plateau is None else self.plateau.dump(),
            "convergence": self.convergence.dump(),
            "train": self.train,
            "validation": self.validation,
            "seconds": seconds,
        }

    def load(self, host: Mapping[str, Any]) -> None:
        """Undoes `dump`."""
        self.stopping.load(host["stopping"])
        self.curriculum.load(host["curriculum"])
        if self.plateau is not None:
            self.plateau.load(host["plateau"])
        self.convergence.load(host["convergence"])
        self.train, self.validation = dict(host["train"]), dict(host["validation"])
        self.clock.before = host["seconds"]
