"""The curriculum: which stage of the task a run is in, and when the next one begins."""

from collections.abc import Mapping, Sequence

from rnnlab.config.bounds import LARGEST_INT
from rnnlab.records.run_config import CurriculumOptions
from rnnlab.training.remembers import Remembers, score, watched


class Curriculum(Remembers):
    """Which stage a run is in; without a curriculum, the one there is.

    Args:
        options: of the curriculum, if there is one.
        sign: of its metric; see `score`.
    """

    remembered = ("stage", "began", "passed")

    def __init__(self, options: CurriculumOptions | None, sign: float):
        self.options, self.sign = options, sign
        self.stages = 1 if options is None else len(options.values) + 1
        self.stage = 0
        self.began = 0
        """The step at which the stage began."""
        self.passed = False
        """Whether the stage's metric has reached the threshold."""

    @property
    def ends(self) -> int:
        """The step at which the stage ends at the latest."""
        options = self.options
        if options is None or self.stage == self.stages - 1:
            return LARGEST_INT
        if options.steps is not None:
            return options.steps[self.stage]
        return LARGEST_INT if options.at_most is None else self.began + options.at_most

    def due(self, step: int) -> bool:
        """Whether the next stage begins at this step."""
        return self.stage < self.stages - 1 and (self.passed or step >= self.ends)

    def advance(self, step: int) -> None:
        """Begins the next stage."""
        self.stage, self.began, self.passed = self.stage + 1, step, False

    def see(self, values: Mapping[str, float]) -> None:
        """Takes in an evaluation of the stage."""
        options = self.options
        if options is not None and options.metric is not None and options.threshold is not None:
            reached = score(watched(values, options.metric), self.sign) >= score(options.threshold, self.sign)
            self.passed = self.passed or reached

    def never(self, steps: int) -> Sequence[int]:
        """The boundaries that a run of so many steps does not come to."""
        boundaries = None if self.options is None else self.options.steps
        return [boundary for boundary in boundaries or () if boundary >= steps]
