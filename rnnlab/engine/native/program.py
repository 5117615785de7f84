"""A step and its pullback as generated code sees them."""

from collections.abc import Mapping, Sequence
from typing import Any

from rnnlab.engine.chain import Step
from rnnlab.engine.contract import Matrix
from rnnlab.engine.halves import Halves
from rnnlab.engine.native.rules import check


class Program(Halves):
    """The two halves of a step, of operations that there are rules for."""

    def __init__(self, step: Step, leaves: Sequence[Any], matrices: Mapping[str, Matrix]):
        super().__init__(step, leaves, matrices, check)
        names = dict.fromkeys(each.name for each in step.trace.products)
        self.matrix_numbers = {name: number for number, name in enumerate(names)}
        """Of each matrix that the step multiplies by."""
