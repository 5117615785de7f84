"""The schedule "plateau": a learning rate that falls where a validation metric no longer improves."""

from collections.abc import Mapping
from typing import Any

from rnnlab.training.remembers import Remembers, score, watched


class Plateau(Remembers):
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
        found = score(watched(values, self.metric), self.sign)
        if self.best is None or found > self.best + self.schedule["min_change"]:
            self.best, self.without = found, 0
            return False
        self.without += 1
        if self.without < self.schedule["patience"]:
            return False
        before, self.without = self.scale, 0
        self.scale = min(before, max(self.schedule["minimum"], before * self.schedule["factor"]))
        return self.scale < before
