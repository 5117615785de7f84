"""The schedule "plateau": a learning rate that falls where a validation metric no longer improves."""

from collections.abc import Mapping

from rnnlab.training.remembers import Remembers, score, watched


class Plateau(Remembers):
    """The factor of the learning rate, lowered where a validation metric no longer improves.

    The rule: after `patience` evaluations in a row, none of which beats the best by more than `min_change`, the factor
    becomes max(minimum, factor · it) and the count begins anew; the best stays.

    Args:
        metric, sign: what is watched; see `score`.
        factor, patience, min_change, minimum: of the schedule, `rnnlab.optim.schedules.plateau`.
    """

    remembered = ("scale", "best", "without")

    def __init__(self, metric: str, sign: float, *, factor: float, patience: int, min_change: float, minimum: float):
        self.metric, self.sign = metric, sign
        self.factor, self.patience, self.min_change, self.minimum = factor, patience, min_change, minimum
        self.scale = 1.0
        self.restart()

    def restart(self) -> None:
        """Forgets the best, not the scale: a new stage has begun."""
        self.best: float | None = None
        self.without = 0

    @property
    def reason(self) -> str:
        """For people: why the rate drops."""
        return f"no better validation {self.metric} in {self.patience} evaluations"

    def see(self, values: Mapping[str, float]) -> bool:
        """Takes in an evaluation; True if the rate drops."""
        reached = score(watched(values, self.metric), self.sign)
        if self.best is None or reached > self.best + self.min_change:
            self.best, self.without = reached, 0
            return False
        self.without += 1
        if self.without < self.patience:
            return False
        before, self.without = self.scale, 0
        self.scale = min(before, max(self.minimum, before * self.factor))
        return self.scale < before
