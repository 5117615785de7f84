"""The host's decisions from evaluations: metrics in one order, and memories that survive an interruption.

Nothing in them touches arrays or files: each is plain JSON, which `training/host_state.py` gathers for checkpoints.
"""

import math
import sys
from collections.abc import Mapping
from typing import Any, ClassVar

from rnnlab.config.errors import ConfigError

_LARGEST = sys.float_info.max


def watched(values: Mapping[str, float], metric: str) -> float:
    """A metric among those of an evaluation.

    Raises:
        ConfigError: no example of the split counts for it.
    """
    if metric not in values:
        raise ConfigError(
            f"task: no validation example has a weight for {metric}, which the run watches; watch another metric"
        )
    return values[metric]


def score(value: float, sign: float) -> float:
    """A metric as a finite number, larger is better; not a number is the worst.

    sign: 1 for a metric of which more is better, -1 for a loss or an error.
    """
    value = sign * value
    return -_LARGEST if math.isnan(value) else max(-_LARGEST, min(value, _LARGEST))


class Remembers:
    """An object whose attributes named in `remembered` survive an interruption."""

    remembered: ClassVar[tuple[str, ...]]

    def dump(self) -> dict[str, Any]:
        """The remembered attributes, as JSON."""
        return {name: getattr(self, name) for name in self.remembered}

    def load(self, host: Mapping[str, Any]) -> None:
        """Undoes `dump`."""
        for name in self.remembered:
            setattr(self, name, host[name])
