"""The curriculum: which stage of the task a run is in, and when the next one begins."""

from collections.abc import Mapping, Sequence
from typing import Any

from rnnlab.config.bounds import LARGEST_INT
from rnnlab.training.remembers import Remembers, score, watched


class Curriculum(Remembers):
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
            reached = score(watched(values, self.section["metric"]), self.sign)
            self.passed = self.passed or reached >= score(self.section["threshold"], self.sign)

    def never(self, steps: int) -> Sequence[int]:
        """The boundaries that a run of so many steps does not come to."""
        boundaries = (self.section or {}).get("steps") or ()
        return [boundary for boundary in boundaries if boundary >= steps]
