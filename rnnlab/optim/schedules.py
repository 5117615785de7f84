"""Schedules of the learning rate by name: step -> factor, after a linear warm-up.

The peak of every schedule is 1, that is the learning rate itself. Floats may be traced arrays: optax's schedules stand
here where they take such numbers, formulas where they do not. The chain in `optim/chain.py` applies the factor.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax

from rnnlab.config.bounds import LARGEST_INT, NON_EMPTY, Bound, NonNegative, Positive, PositiveInt, Traced
from rnnlab.config.errors import ConfigError
from rnnlab.config.fields import fields_of
from rnnlab.config.outside import Table
from rnnlab.config.schema import build, find

Schedule = Callable[[jax.Array], jax.Array]
"""Step (from 0) -> factor of the learning rate."""

Share = Annotated[float, Bound(0, 1, low_excluded=True, high_excluded=True)]
PositiveShare = Annotated[float, Bound(0, 1, low_excluded=True)]


def constant() -> Schedule:
    """1."""
    return lambda step: jnp.ones(())


def linear(final: Traced[NonNegative] = 0.0, steps: PositiveInt | None = None) -> Schedule:
    """From 1 to final over steps (the whole run, less the warm-up, if None), then final."""
    return optax.linear_schedule(1.0, final, _required(steps))  # pyright: ignore[reportReturnType]


def polynomial(
    power: Traced[Positive] = 2.0, final: Traced[NonNegative] = 0.0, steps: PositiveInt | None = None
) -> Schedule:
    """From 1 to final as (1 - step / steps)^power over steps (the whole run, less the warm-up, if None), then final."""
    return optax.polynomial_schedule(1.0, final, power, _required(steps))  # pyright: ignore[reportReturnType]


def cosine(final: Traced[NonNegative] = 0.0, steps: PositiveInt | None = None) -> Schedule:
    """Half a cosine from 1 to final over steps (the whole run, less the warm-up, if None) (Loshchilov and Hutter,
    2017, eq. 5, without restarts)."""
    return optax.cosine_decay_schedule(1.0, _required(steps), alpha=final)  # pyright: ignore[reportReturnType]


def cosine_restarts(
    period: PositiveInt = 1000,
    period_factor: PositiveInt = 1,
    final: Traced[NonNegative] = 0.0,
    decay: Traced[PositiveShare] = 1.0,
) -> Schedule:
    """Half a cosine from 1 to final over period steps, again and again; with every restart the period grows by
    period_factor, and peak and final shrink by decay (SGDR: Loshchilov and Hutter, 2017, eq. 5 and section 3)."""
    # Not `optax.sgdr_schedule`, which ends after a list of periods, each of them a function to be traced.
    # The periods' first steps, as integers: a rounded logarithm would restart a step early or late. The counter of
    # steps has 32 bits, so periods that at least double are few.
    begins, length = [0], period
    while period_factor > 1 and begins[-1] + length <= LARGEST_INT:
        begins.append(begins[-1] + length)
        length *= period_factor

    def schedule(step: jax.Array) -> jax.Array:
        step = jnp.asarray(step)
        if period_factor == 1:
            restarts, since, length = step // period, step % period, float(period)
        else:
            restarts = (step >= jnp.asarray(begins[1:], jnp.int32)).sum()
            since = step - jnp.asarray(begins, jnp.int32)[restarts]
            length = jnp.asarray([float(period * period_factor**i) for i in range(len(begins))])[restarts]
        return decay**restarts * _half_cosine(1.0, final, since / length)

    return schedule


def one_cycle(
    start: Traced[PositiveShare] = 0.04,
    final: Traced[NonNegative] = 4e-6,
    peak_at: Traced[Share] = 0.3,
    steps: PositiveInt | None = None,
) -> Schedule:
    """Half a cosine from start up to 1, reached after the share peak_at of the steps, and half a cosine down to final;
    over steps, or the whole run, less the warm-up, if None (Smith, 2018, section 4.1, there with straight lines; the
    momentum is left as it is)."""
    steps = _required(steps)

    # Not `optax.cosine_onecycle_schedule`, which refuses a traced share.
    def schedule(step: jax.Array) -> jax.Array:
        share = jnp.clip(step / steps, 0, 1)
        rise, fall = share / peak_at, (share - peak_at) / (1 - peak_at)
        return jnp.where(share < peak_at, _half_cosine(start, 1.0, rise), _half_cosine(1.0, final, fall))

    return schedule


def exponential(rate: Traced[Positive] = 0.5, steps: PositiveInt = 1000) -> Schedule:
    """rate^(step / steps)."""
    return lambda step: rate ** (step / steps)  # `optax.exponential_decay` refuses a traced rate.


def inverse_sqrt(timescale: PositiveInt = 1000) -> Schedule:
    """√(timescale / (timescale + step)); with timescale = warmup_steps, that of Vaswani et al. (2017, eq. 3)."""
    return lambda step: jnp.sqrt(timescale / (timescale + jnp.maximum(step, 0)))  # optax has none.


def step(boundaries: Annotated[tuple[PositiveInt, ...], NON_EMPTY], factor: Traced[Positive] = 0.1) -> Schedule:
    """Times factor at every step in boundaries."""

    # Not `optax.piecewise_constant_schedule`, which refuses a traced factor.
    def schedule(step: jax.Array) -> jax.Array:
        return factor ** (step >= jnp.asarray(boundaries, jnp.int32)).sum()

    return schedule


def plateau(
    factor: Traced[Share] = 0.5,
    patience: PositiveInt = 3,
    min_change: Traced[NonNegative] = 0.0,
    minimum: Traced[Annotated[float, Bound(0, 1)]] = 0.01,
) -> Schedule:
    """1 here: the host multiplies the rate by factor after each patience evaluations (by early_stopping.metric) without
    an improvement by more than min_change, down to minimum times the rate; see `rnnlab.training.plateau.Plateau`."""
    return constant()


SCHEDULES: Table[Callable[..., Schedule]] = Table(
    {
        "constant": constant,
        "linear": linear,
        "polynomial": polynomial,
        "cosine": cosine,
        "cosine_restarts": cosine_restarts,
        "one_cycle": one_cycle,
        "exponential": exponential,
        "inverse_sqrt": inverse_sqrt,
        "step": step,
        "plateau": plateau,
    },
    "a function of the step",
)

ScheduleSpec = Annotated[str | Mapping[str, Any], SCHEDULES]


def _half_cosine(start: Any, end: Any, share: jax.Array) -> jax.Array:
    """From start at share 0 to end at share 1."""
    return end + (start - end) * (1 + jnp.cos(jnp.pi * share)) / 2


def _required(steps: int | None) -> int:
    if steps is None:
        raise ConfigError("optimizer.schedule.steps: missing")
    return steps


def _spans(factory: Callable[..., Schedule]) -> bool:
    """Whether its steps, None by default, are those of the run."""
    steps = fields_of(factory).get("steps")
    return steps is not None and steps.default is None


def make_schedule(section: str | Mapping[str, Any], warmup_steps: int, run_steps: int) -> Schedule:
    """A schedule after a linear warm-up from 0 (the first step takes 1 / warmup_steps of the rate).

    One whose `steps` are None by default spans the run, less the warm-up, unless the section says how many.
    """
    fields: dict[str, Any] = {"name": section} if isinstance(section, str) else dict(section)
    factory, _ = find(SCHEDULES, fields, "schedule")
    if _spans(factory) and fields.get("steps") is None:
        fields["steps"] = max(1, run_steps - warmup_steps)
    after = build(SCHEDULES, fields, "schedule")
    if warmup_steps == 0:
        return after
    # Not `optax.linear_schedule`, whose interpolation rounds otherwise: runs would not repeat bit for bit.
    warmup = lambda step: (step + 1) / warmup_steps  # noqa: E731
    return optax.join_schedules([warmup, after], [warmup_steps])  # pyright: ignore[reportReturnType]


def check_schedule(section: str | Mapping[str, Any], warmup_steps: int, run_steps: int) -> str | None:
    """The line that warns of a schedule longer than the run, which ends before the schedule has done what it says.

    Args:
        section: as `make_schedule` takes it.

    Returns:
        None if all of it happens: the warm-up, the steps of a schedule that has an end, every boundary, the first
        restart.
    """
    if warmup_steps > run_steps:
        return f"optimizer.warmup_steps: {warmup_steps}, but the run ends after {run_steps} steps, within the warm-up"
    factory, fields = find(SCHEDULES, section, "schedule")
    steps = (fields.get("steps") or 0) if _spans(factory) else 0
    ends = {
        "steps": steps,
        "boundaries": max(fields.get("boundaries", ()), default=0),
        "period": fields.get("period", 0),
    }
    field = max(ends, key=lambda name: ends[name])
    if warmup_steps + ends[field] <= run_steps:
        return None
    warmup = f" after a warm-up of {warmup_steps}" if warmup_steps else ""
    return (
        f"optimizer.schedule.{field}: {ends[field]}{warmup}, but the run ends after {run_steps} steps, "
        "before the schedule does"
    )


def check_length(
    section: str | Mapping[str, Any], warmup_steps: int, run_steps: tuple[int, int], step: int
) -> str | None:
    """The line on a run that is resumed with another length, where its schedule spans the run and jumps therefore.

    Args:
        section: as `make_schedule` takes it.
        run_steps: of the run before, and now.
        step: at which it is resumed.
    """
    factory, fields = find(SCHEDULES, section, "schedule")
    before, now = run_steps
    if not _spans(factory) or fields.get("steps") is not None or step <= warmup_steps:
        return None
    last = float(make_schedule(section, warmup_steps, before)(jnp.int32(step - 1)))
    following = float(make_schedule(section, warmup_steps, now)(jnp.int32(step)))
    return (
        f"optimizer.schedule spans the run, now {now} steps in place of {before}: at step {step} the learning rate's "
        f"factor goes from {last:.3g} to {following:.3g}; a run of {now} steps from the beginning would differ"
    )
