"""The fields of a sweep's file, each section's as the parameters of a function. What they mean is in `space.py`."""

from collections.abc import Mapping
from typing import Annotated, Any

from rnnlab.config.bounds import LARGEST_INT, Bound, NonNegativeInt, OneOf, PositiveInt
from rnnlab.config.errors import ConfigError
from rnnlab.config.schema import resolve


def draw_options(*, count: PositiveInt, seed: NonNegativeInt = 0, of: Mapping) -> dict[str, Any]:
    """Random search: `count` points, drawn from the seed. More of them begin with the same ones.

    of: for each path a list, one of whose values is drawn, or a section of `range_options`.
    """
    return {"count": count, "seed": seed, "of": of}


def range_options(*, low: float, high: float, log: bool = False, integer: bool = False) -> dict[str, Any]:
    """U[low, high], or with log U in the logarithm, to four digits; integer: a whole number, both ends included."""
    return {"low": low, "high": high, "log": log, "integer": integer}


def halving_options(
    *, first: PositiveInt, eta: Annotated[int, Bound(2, LARGEST_INT)] = 3, metric: str | None = None
) -> dict[str, Any]:
    """Successive halving (Jamieson and Talwalkar, 2016): all settings train to step `first`, the best 1/eta of them to
    first · eta, the best 1/eta of those to first · eta², and so on to the config's steps.

    metric: of the validation, by its best value so far; else the one that early stopping watches.
    """
    return {"first": first, "eta": eta, "metric": metric}


def optuna_options(
    *,
    trials: PositiveInt,
    of: Mapping,
    batch: PositiveInt = 16,
    sampler: Annotated[str, OneOf("sampler", ("random", "tpe"))] = "tpe",
    seed: NonNegativeInt = 0,
) -> dict[str, Any]:
    """Settings that Optuna asks for, `batch` at a time, each batch after the results of those before it.

    of: as of `draw_options`. seed: of the sampler.
    """
    return {"trials": trials, "of": of, "batch": batch, "sampler": sampler, "seed": seed}


DrawSpec = Annotated[Mapping[str, Any], draw_options]
HalvingSpec = Annotated[Mapping[str, Any], halving_options]
OptunaSpec = Annotated[Mapping[str, Any], optuna_options]


def sweep_options(
    *,
    base: str | Mapping,
    overrides: Mapping = {},
    product: Mapping = {},
    zip: tuple[Mapping, ...] = (),
    draws: DrawSpec | None = None,
    seeds: PositiveInt | tuple[NonNegativeInt, ...] | None = None,
    runs: tuple[Mapping, ...] = (),
    baseline: Mapping | None = None,
    halving: HalvingSpec | None = None,
    optuna: OptunaSpec | None = None,
    import_from: tuple[str, ...] = (),
) -> dict[str, Any]:
    """What `get_config` of a file in configs/sweeps/ returns.

    base: a config's file, as "configs/adding.py:lstm", or a whole config. overrides: {path: value} for every run.
    product: {path: values}, every value with every other. zip: such sections whose values go together; each is one
    factor of the product, and so are the draws. runs: further points, each {path: value}; without product, zip and
    draws they are all. seeds: so many from 0, or a list, for each of these points but those that name a seed.
    baseline: {path: value} of the runs that a report compares with. halving: the worse settings end early. optuna: the
    points are asked for as results come in, in place of all but base, overrides and seeds. import_from: further folders
    of the field of this name in the config; that of the sweep's file if not given.
    """
    return {
        "base": base,
        "overrides": overrides,
        "product": product,
        "zip": zip,
        "draws": draws,
        "seeds": seeds,
        "runs": runs,
        "baseline": baseline,
        "halving": halving,
        "optuna": optuna,
        "import_from": import_from,
    }


def check_range(where: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """A section of `range_options`, complete.

    Raises:
        ConfigError: a mistake in it; where: its path.
    """
    found = resolve(range_options, spec, where)
    low, high = found["low"], found["high"]
    if not low < high:
        raise ConfigError(f"{where}.high: {high:g} is not above low={low:g}")
    if found["log"] and low <= 0:
        raise ConfigError(f"{where}.low: {low:g} has no logarithm; it must be above 0")
    if found["integer"] and not (low.is_integer() and high.is_integer()):
        raise ConfigError(f"{where}: {low:g} to {high:g} are no whole numbers; integer=True needs such")
    return found
