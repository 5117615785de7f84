"""The values that a field may take, and whether it enters the compiled program, as marks of its annotation."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import numpy as np

from rnnlab.config.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Bound:
    """The values that a number may take, for use in `Annotated`."""

    low: float
    high: float = float("inf")
    low_excluded: bool = False
    high_excluded: bool = False

    def admits(self, value: float) -> bool:
        low = value > self.low if self.low_excluded else value >= self.low
        high = value < self.high if self.high_excluded else value <= self.high
        return low and high and math.isfinite(value)

    def refuses_rounded(self, value: float) -> bool:
        """Whether a value in range is out of it as a float32, as 0.99999999 is, which has to be below 1."""
        at_low, at_high = float(np.float32(value)) <= self.low, float(np.float32(value)) >= self.high
        return (self.low_excluded and at_low) or (self.high_excluded and at_high)

    def __str__(self) -> str:
        text = f"above {self.low:g}" if self.low_excluded else f"at least {self.low:g}"
        if self.high == float("inf"):
            return text
        high = self.high if isinstance(self.high, int) else f"{self.high:g}"
        return text + (f" and below {high}" if self.high_excluded else f" and at most {high}")


@dataclasses.dataclass(frozen=True)
class OneOf:
    """In `Annotated`: a string that must be one of these names."""

    kind: str
    names: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class NameIn:
    """In `Annotated`: a string that names an entry of a table, or something outside the project."""

    kind: str
    table: Mapping[str, Any]


T = TypeVar("T")
TRACED = object()
"""In `Annotated`: a number with a fraction that enters the compiled program as an array."""
Traced = Annotated[T, TRACED]
"""`Traced[float]`, `Traced[Rate] | None`: runs of a sweep that differ in such fields alone are one program. A number
without the mark is a constant of the program."""
Positive = Annotated[float, Bound(0, low_excluded=True)]
NonNegative = Annotated[float, Bound(0)]
Decay = Annotated[float, Bound(0, 1, high_excluded=True)]
"""The decay rate of a running mean: at least 0 and below 1."""
Rate = Annotated[float, Bound(0, 1, high_excluded=True)]
"""A share of what is dropped: at least 0 and below 1."""
Share = Annotated[float, Bound(0, 1)]
"""A part of a whole, or a size within it: from 0 to 1."""
LARGEST_INT = 2**31 - 1
"""The largest that an int32 array holds: steps, sizes and seeds become such arrays."""
SMALLEST_FLOAT, LARGEST_FLOAT = (float(end) for end in (np.finfo(np.float32).tiny, np.finfo(np.float32).max))
"""The ends of what a float32 array holds: below the smallest, XLA's CPU code computes with 0."""
PositiveInt = Annotated[int, Bound(1, LARGEST_INT)]
NonNegativeInt = Annotated[int, Bound(0, LARGEST_INT)]
NON_EMPTY = object()
"""A mark of `Annotated` for a list that must have an entry."""


def check_float32(value: float, where: str) -> float:
    """The value, which enters compiled programs as a float32.

    Raises:
        ConfigError: it would become 0 or infinity there.
    """
    if 0 < abs(value) < SMALLEST_FLOAT:
        raise ConfigError(f"{where}: {value:g} is too small for float32: it counts as 0; from {SMALLEST_FLOAT:.3g} up")
    if LARGEST_FLOAT < abs(value) < math.inf:
        raise ConfigError(f"{where}: {value:g} is too large for float32; up to {LARGEST_FLOAT:.3g}")
    return value
