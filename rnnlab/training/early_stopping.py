"""Early stopping: the best evaluation so far, and when patience ends."""

from collections.abc import Mapping
from typing import Any

from rnnlab.training.remembers import Remembers, score, watched


class EarlyStopping(Remembers):
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
        return score(watched(values, self.metric), self.sign)

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
