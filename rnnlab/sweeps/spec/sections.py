"""The sections of a sweep's file and their fields. `space.py` says what they mean for the runs."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

from rnnlab.config.bounds import LARGEST_INT, Bound, NonNegativeInt, OneOf, PositiveInt
from rnnlab.config.errors import ConfigError
from rnnlab.config.schema import resolve


@dataclasses.dataclass(frozen=True, kw_only=True)
class DrawOptions:
    """Random search."""

    count: PositiveInt
    """How many points are drawn; more of them begin with the same ones."""
    seed: NonNegativeInt = 0
    of: Mapping
    """For each path a list, one of whose values is drawn, or a section of `RangeOptions`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RangeOptions:
    """A number that is drawn, to four digits."""

    low: float
    high: float
    log: bool = False
    """Uniform in the logarithm."""
    integer: bool = False
    """A whole number, both ends included."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HalvingOptions:
    """Successive halving (Jamieson and Talwalkar, 2016): all settings train to step `first`, the best 1/eta of them to
    first · eta, the best 1/eta of those to first · eta², and so on to the config's steps."""

    first: PositiveInt
    eta: Annotated[int, Bound(2, LARGEST_INT)] = 3
    metric: str | None = None
    """A metric of the validation, by its best value so far; None: the one that early stopping watches."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptunaOptions:
    """Settings that Optuna asks for, `batch` at a time, each batch after the results of those before it."""

    trials: PositiveInt
    of: Mapping
    """Ranges or lists by path, as in `DrawOptions.of`."""
    batch: PositiveInt = 16
    sampler: Annotated[str, OneOf("sampler", ("random", "tpe"))] = "tpe"
    seed: NonNegativeInt = 0
    """The sampler's."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClaimOptions:
    """Words of a publication on an axis, for the figure of the share of runs that solved the task."""

    axis: str
    """Its path."""
    value: float
    """Where on the axis it stands."""
    says: str
    """The claim, as "plain SGD fails above"."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """The fields of a file in configs/sweeps/, as `get_config` returns them. A point is {path: value} of a run."""

    base: str | Mapping
    """A config's file, as "configs/adding.py:lstm" or "rnnlab:adding:lstm", or a whole config."""
    overrides: Mapping = dataclasses.field(default_factory=dict)
    """{path: value} for every run."""
    product: Mapping = dataclasses.field(default_factory=dict)
    """{path: values}, every value with every other."""
    zip: tuple[Mapping, ...] = ()
    """Sections {path: values} whose values go together; each is one factor of the product, and so are the draws."""
    draws: DrawOptions | None = None
    seeds: PositiveInt | tuple[NonNegativeInt, ...] | None = None
    """So many from 0, or a list, for each point but those that name a seed."""
    runs: tuple[Mapping, ...] = ()
    """Further points; without product, zip and draws they are all."""
    baseline: Mapping | None = None
    """{path: value} of the runs that a report compares with."""
    claims: tuple[ClaimOptions, ...] = ()
    """Words of publications, which a report's figure has beside the share of runs that solved the task."""
    halving: HalvingOptions | None = None
    """The worse settings end early."""
    optuna: OptunaOptions | None = None
    """The points are asked for as results come in, in place of all but base, overrides and seeds."""
    import_from: tuple[str, ...] = ()
    """Further folders of the field of this name in the config; that of the sweep's file if not given."""


def check_range(where: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """A section of `RangeOptions`, complete.

    Raises:
        ConfigError: a mistake in it; where: its path.
    """
    options = resolve(RangeOptions, spec, where)
    low, high = options["low"], options["high"]
    if not low < high:
        raise ConfigError(f"{where}.high: {high:g} is not above low={low:g}")
    if options["log"] and low <= 0:
        raise ConfigError(f"{where}.low: {low:g} has no logarithm; it must be above 0")
    if options["integer"] and not (low.is_integer() and high.is_integer()):
        raise ConfigError(f"{where}: {low:g} to {high:g} are not whole numbers; integer=True needs such")
    return options
