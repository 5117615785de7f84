"""What a run's host decides from its evaluations: the best so far and when to stop, the curriculum's stage, the rate.

Nothing here touches arrays or files. What each remembers is plain JSON, which `training/loop.py` keeps in every
checkpoint.
"""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from rnnlab.config.bounds import LARGEST_INT
from rnnlab.optim.optimizers import waits_for_plateau

_LARGEST = sys.float_info.max


def score(value: float, sign: float) -> float:
    """A metric as a finite number, larger is better; not a number is the worst.

    sign: 1 for a metric of which more is better, -1 for a loss or an error.
    """
    value = sign * value
    return -_LARGEST if math.isnan(value) else max(-_LARGEST, min(value, _LARGEST))


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
        """Of training so far, those before it was resumed included."""
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


class _Remembers:
    """What is named in `remembered` survives an interruption."""

    remembered: ClassVar[tuple[str, ...]]

    def dump(self) -> dict[str, Any]:
        """What a checkpoint remembers of this, as JSON."""
        return {name: getattr(self, name) for name in self.remembered}

    def load(self, host: Mapping[str, Any]) -> None:
        """Undoes `dump`."""
        for name in self.remembered:
            setattr(self, name, host[name])


class Convergence(_Remembers):
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
        if score(values[metric], self.sign) >= score(threshold, self.sign):
            self.step, self.seconds = step, round(seconds, 3)

    def summary(self) -> dict[str, Any] | None:
        """For summary.json: steps and seconds to the threshold, None where it was not reached."""
        if self.solved is None:
            return None
        metric, threshold = self.solved
        return {"metric": metric, "threshold": threshold, "steps": self.step, "seconds": self.seconds}


class EarlyStopping(_Remembers):
    """The best validation metric so far, and the patience left.

    Args:
        metric, sign: what is watched; see `score`.
        patience: evaluations without an improvement after which it is exhausted; None: never.
        min_change: what an improvement has to exceed for patience to begin anew; any better value is the best.
    """

    remembered = ("best_step", "best_values", "without", "mark")

    def __init__(self, metric: str, sign: float, patience: int | None, min_change: float):
        self.metric, self.sign, self.patience, self.min_change = metric, sign, patience, min_change
        self.restart()

    def restart(self) -> None:
        """Forgets the best: a new stage has begun."""
        self.best_step: int | None = None
        self.best_values: dict[str, float] = {}
        self.without = 0
        self.mark: float | None = None
        """The score at which patience began anew, which the next improvement is measured from."""

    def load(self, host: Mapping[str, Any]) -> None:
        """Undoes `dump`; in older checkpoints the best is the mark."""
        values = host["best_values"]
        super().load({"mark": self.score(values) if values else None, **host})

    @property
    def exhausted(self) -> bool:
        """True once early stopping has run out of patience."""
        return self.patience is not None and self.without >= self.patience

    def score(self, values: Mapping[str, float]) -> float:
        """The watched metric as a finite number, larger is better."""
        return score(values[self.metric], self.sign)

    def see(self, step: int, values: dict[str, float], counts: bool = True) -> bool:
        """Takes in an evaluation; True if it is the best so far. counts: whether it counts for patience."""
        reached = self.score(values)
        if counts:
            if self.mark is None or reached > self.mark + self.min_change:
                self.mark, self.without = reached, 0
            else:
                self.without += 1
        better = not self.best_values or reached > self.score(self.best_values)
        if better:
            self.best_step, self.best_values = step, values
        return better


class Curriculum(_Remembers):
    """Which stage a run is in; without a curriculum, the one there is.

    Args:
        section: the curriculum's section, or None.
        sign: of its metric; see `score`.
    """

    remembered = ("stage", "began", "passed")

    def __init__(self, section: Mapping[str, Any] | None, sign: float):
        self.section, self.sign = section, sign
        self.stages = 1 if section is None else len(section["values"]) + 1
        self.stage = 0
        self.began = 0
        """The step at which the stage began."""
        self.passed = False
        """Whether the stage's metric has reached the threshold."""

    @property
    def ends(self) -> int:
        """The step at which the stage ends at the latest."""
        if self.section is None or self.stage == self.stages - 1:
            return LARGEST_INT
        if self.section["steps"] is not None:
            return self.section["steps"][self.stage]
        return LARGEST_INT if self.section["at_most"] is None else self.began + self.section["at_most"]

    def due(self, step: int) -> bool:
        """Whether the next stage begins at this step."""
        return self.stage < self.stages - 1 and (self.passed or step >= self.ends)

    def advance(self, step: int) -> None:
        """Begins the next stage."""
        self.stage, self.began, self.passed = self.stage + 1, step, False

    def see(self, values: Mapping[str, float]) -> None:
        """Takes in an evaluation of the stage."""
        if self.section is not None and self.section["metric"] is not None:
            reached = score(values[self.section["metric"]], self.sign) >= score(self.section["threshold"], self.sign)
            self.passed = self.passed or reached

    def never(self, steps: int) -> Sequence[int]:
        """The boundaries that a run of so many steps does not come to."""
        boundaries = (self.section or {}).get("steps") or ()
        return [boundary for boundary in boundaries if boundary >= steps]


class Plateau(_Remembers):
    """The factor of the learning rate, lowered where a validation metric no longer improves.

    The rule: after `patience` evaluations in a row, none of which beats the best by more than `min_change`, the factor
    becomes max(minimum, factor · it) and the count begins anew; the best stays.

    Args:
        schedule: the section of the schedule "plateau".
        metric, sign: what is watched; see `score`.
    """

    remembered = ("scale", "best", "without")

    def __init__(self, schedule: Mapping[str, Any], metric: str, sign: float):
        self.schedule, self.metric, self.sign = schedule, metric, sign
        self.scale = 1.0
        self.restart()

    def restart(self) -> None:
        """Forgets the best, not the scale: a new stage has begun."""
        self.best: float | None = None
        self.without = 0

    @property
    def reason(self) -> str:
        """For people: why the rate drops."""
        return f"no better validation {self.metric} in {self.schedule['patience']} evaluations"

    def see(self, values: Mapping[str, float]) -> bool:
        """Takes in an evaluation; True if the rate drops."""
        found = score(values[self.metric], self.sign)
        if self.best is None or found > self.best + self.schedule["min_change"]:
            self.best, self.without = found, 0
            return False
        self.without += 1
        if self.without < self.schedule["patience"]:
            return False
        before, self.without = self.scale, 0
        self.scale = min(before, max(self.schedule["minimum"], before * self.schedule["factor"]))
        return self.scale < before


class Memory:
    """What the host remembers of a run beside the state; a checkpoint holds it as JSON.

    Args:
        config: resolved.
        solved: of the task; see `Convergence`.
        sign: (metric, path of the field that names it) -> 1 for a metric of which more is better, else -1.

    Raises:
        ConfigError: a metric that the task does not have.
    """

    def __init__(self, config: Mapping[str, Any], solved: tuple[str, float] | None, sign: Callable[[str, str], float]):
        self.config = config
        watched, curriculum = config["early_stopping"], config["curriculum"]
        schedule, metric = config["optimizer"]["schedule"], watched["metric"]
        better = sign(metric, "early_stopping.metric")
        self.stopping = EarlyStopping(metric, better, watched["patience"], watched["min_change"])
        named = (curriculum or {}).get("metric")
        self.curriculum = Curriculum(curriculum, 1.0 if named is None else sign(named, "curriculum.metric"))
        self.plateau = Plateau(schedule, metric, better) if waits_for_plateau(config["optimizer"]) else None
        self.convergence = Convergence(solved, 1.0 if solved is None else sign(solved[0], "task"))
        self.train: dict[str, float] = {}
        """The last means that were logged."""
        self.validation: dict[str, float] = {}
        """The last evaluation of this stage."""
        self.clock = TrainingClock()

    def logs(self, step: int) -> bool:
        """Whether the means of training are written at this step."""
        return step % self.config["log_every"] == 0 or step in (self.config["steps"], self.curriculum.ends)

    def evaluates(self, step: int) -> bool:
        """Whether the run is evaluated at this step."""
        return step % self.config["eval_every"] == 0 or step == self.config["steps"]

    def check_length(self, planned: int, step: int) -> str | None:
        """The line on a run that is resumed at this step with another length than planned, where its old end was
        evaluated and no other run would be."""
        every = self.config["eval_every"]
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
        planned = step % self.config["eval_every"] == 0  # A run made longer goes on as if it had not ended elsewhere.
        improved, lowered = self.stopping.see(step, values, planned), False
        if self.curriculum.stage + 1 == self.curriculum.stages:
            self.convergence.see(step, values, seconds)
        if planned:
            self.curriculum.see(values)
            lowered = self.plateau is not None and self.plateau.see(values)
        return improved, lowered

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
