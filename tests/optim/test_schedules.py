"""Schedules of the learning rate, each against its formula, and the warning of one longer than the run."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnnlab.config.errors import ConfigError
from rnnlab.config.numbers import merge_numbers, split_numbers
from rnnlab.config.schema import resolve
from rnnlab.optim.schedules import SCHEDULES, ScheduleSpec, check_length, check_schedule, make_schedule
from tests.helpers import float64


def cosine(share: float, final: float = 0.0) -> float:
    """Half a cosine at this share of its way."""
    return final + (1 - final) * (1 + math.cos(math.pi * share)) / 2


RESTARTS = {0: 1, 1: 0.5, 2: 1, 3: cosine(0.25), 4: 0.5, 6: 1, 10: 0.5, 14: 1, 22: 0.5, 30: 1, 2 * (2**20 - 1): 1}
"""Periods of 2, 4, 8, … steps."""


@pytest.mark.parametrize(
    ("section", "warmup_steps", "run_steps", "expected"),
    [
        ("constant", 0, 10, {0: 1, 9: 1, 99: 1}),
        ("linear", 0, 20, {0: 1, 5: 0.75, 19: 0.05, 20: 0, 21: 0}),
        (dict(name="linear", final=0.1, steps=10), 0, 99, {0: 1, 5: 0.55, 10: 0.1, 98: 0.1}),
        ("linear", 5, 25, {0: 0.2, 3: 0.8, 4: 1, 5: 1, 15: 0.5, 25: 0}),  # The run less the warm-up.
        ("cosine", 0, 20, {0: 1, 5: cosine(0.25), 10: 0.5, 19: cosine(0.95), 20: 0, 30: 0}),
        (dict(name="cosine", final=0.1, steps=10), 0, 99, {0: 1, 3: cosine(0.3, 0.1), 10: 0.1, 50: 0.1}),
        (dict(name="cosine", steps=10), 10, 99, {0: 0.1, 9: 1, 10: 1, 15: 0.5, 20: 0, 21: 0}),
        (dict(name="exponential", rate=0.25, steps=4), 0, 10, {0: 1, 1: 0.25**0.25, 2: 0.5, 4: 0.25, 8: 0.0625}),
        (dict(name="exponential", rate=0.25, steps=4), 2, 10, {0: 0.5, 1: 1, 2: 1, 4: 0.5}),
        (dict(name="step", factor=0.1, boundaries=(3, 6)), 0, 10, {0: 1, 2: 1, 3: 0.1, 5: 0.1, 6: 0.01, 99: 0.01}),
        (dict(name="polynomial", power=3.0), 0, 20, {0: 1, 5: 0.75**3, 10: 0.125, 20: 0, 30: 0}),
        (dict(name="polynomial", power=0.5, final=0.2, steps=10), 5, 99, {5: 1, 10: 0.2 + 0.8 * 0.5**0.5, 15: 0.2}),
        ("polynomial", 0, 10, {5: 0.25}),
        (dict(name="inverse_sqrt", timescale=10), 0, 99, {0: 1, 10: 0.5**0.5, 30: 0.5, 990: 0.1}),
        (dict(name="inverse_sqrt", timescale=4), 4, 99, {0: 0.25, 3: 1, 4: 1, 16: 0.5, 100: 0.2}),  # Vaswani et al.
        ("one_cycle", 0, 100, {0: 0.04, 15: 0.52, 30: 1, 65: (1 + 4e-6) / 2, 100: 4e-6, 200: 4e-6}),
        (dict(name="one_cycle", start=0.5, final=0.1, peak_at=0.25, steps=8), 2, 99, {2: 0.5, 3: 0.75, 4: 1, 7: 0.55}),
        (
            dict(name="cosine_restarts", period=4),
            0,
            99,
            {0: 1, 2: 0.5, 3: cosine(0.75), 4: 1, 6: 0.5, 40: 1, 41: cosine(0.25)},
        ),
        (dict(name="cosine_restarts", period=2, period_factor=2), 0, 99, RESTARTS),
        (dict(name="cosine_restarts", period=4, final=0.2, decay=0.5), 3, 99, {3: 1, 5: 0.6, 7: 0.5, 9: 0.3, 11: 0.25}),
        ("constant", 4, 10, {0: 0.25, 1: 0.5, 3: 1, 4: 1}),
        ("cosine", 1, 11, {0: 1, 1: 1, 6: 0.5}),
        ("linear", 10, 5, {0: 0.1, 4: 0.5}),  # A run that ends within its warm-up.
    ],
    ids=str,
)
def test_schedule_equals_its_formula(
    section: str | dict[str, Any], warmup_steps: int, run_steps: int, expected: dict[int, float]
) -> None:
    with float64():  # Integers would be divided in single precision.
        schedule = make_schedule(section, warmup_steps, run_steps)
        found = [float(schedule(jnp.float64(step))) for step in expected]
    np.testing.assert_allclose(found, list(expected.values()), rtol=1e-12, atol=1e-15)
    schedule = make_schedule(section, warmup_steps, run_steps)
    found = [float(schedule(jnp.int32(step))) for step in expected]
    np.testing.assert_allclose(found, list(expected.values()), rtol=2e-6, atol=1e-7)


REQUIRED: dict[str, dict[str, Any]] = {"step": {"boundaries": (20, 60)}}
"""What a schedule has no default for."""


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_peaks_at_one_and_stays_positive(name: str) -> None:
    section = {"name": name} | resolve(SCHEDULES[name], REQUIRED.get(name, {}), "optimizer.schedule")
    with float64():
        schedule = make_schedule(section, 0, 100)
        factors = [float(schedule(jnp.float64(step))) for step in range(100)]
    assert max(factors) == pytest.approx(1, rel=1e-12)
    assert min(factors) > 0


def test_one_cycle_equals_optax_where_the_peak_is_at_a_whole_step() -> None:
    with float64():
        ours = make_schedule(dict(name="one_cycle", start=0.1, final=0.01, peak_at=0.25), 0, 40)
        theirs = optax.cosine_onecycle_schedule(40, 1.0, pct_start=0.25, div_factor=10.0, final_div_factor=10.0)
        steps = jnp.arange(50.0)
        np.testing.assert_allclose(
            [float(ours(step)) for step in steps], [float(theirs(step)) for step in steps], rtol=1e-12
        )


@pytest.mark.parametrize("period_factor", [1, 2, 3])
def test_restarts_equal_those_of_optax(period_factor: int) -> None:
    periods = [5 * period_factor**i for i in range(4)]
    common = dict(init_value=0.0, warmup_steps=0)
    peaks = [0.5**i for i in range(4)]
    cycles = [
        dict(peak_value=peak, end_value=0.1 * peak, decay_steps=period, **common)
        for peak, period in zip(peaks, periods, strict=True)
    ]
    fields = dict(period=5, period_factor=period_factor, decay=0.5, final=0.1)
    with float64():
        ours = make_schedule(dict(name="cosine_restarts", **fields), 0, sum(periods))
        theirs = optax.sgdr_schedule(cycles)
        steps = jnp.arange(sum(periods), dtype=float)
        np.testing.assert_allclose(
            [float(ours(step)) for step in steps], [float(theirs(step)) for step in steps], rtol=1e-12
        )


@pytest.mark.parametrize("name", SCHEDULES)
def test_traced_numbers_equal_python_numbers_and_share_one_program(name: str) -> None:
    section = {"name": name} | resolve(SCHEDULES[name], REQUIRED.get(name, {}), "optimizer.schedule")
    structure, numbers = split_numbers(section, ScheduleSpec)

    def factors(numbers: dict[str, Any]) -> jax.Array:
        return jax.vmap(make_schedule(merge_numbers(structure, numbers), 5, 100))(jnp.arange(100.0))

    compiled = jax.jit(factors)
    with float64():
        for factor in (1.0, 0.7):
            scaled = {path: factor * value for path, value in numbers.items()}
            found = compiled({path: jnp.float64(value) for path, value in scaled.items()})
            np.testing.assert_allclose(found, factors(scaled), rtol=1e-12)
    assert compiled._cache_size() == 1


# --- longer than the run, or empty -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "warmup_steps", "run_steps", "message"),
    [
        (dict(name="linear", steps=101), 0, 100, "optimizer.schedule.steps: 101, but the run ends after 100 steps"),
        (dict(name="one_cycle", steps=100), 1, 100, "optimizer.schedule.steps: 100 after a warm-up of 1, but the run"),
        (dict(name="step", boundaries=(50, 101)), 0, 100, "optimizer.schedule.boundaries: 101, but the run ends"),
        (dict(name="cosine_restarts", period=60), 50, 100, "optimizer.schedule.period: 60 after a warm-up of 50"),
        ("constant", 101, 100, "optimizer.warmup_steps: 101, but the run ends after 100 steps, within the warm-up"),
    ],
    ids=str,
)
def test_schedule_longer_than_the_run_is_one_warning(
    section: Any, warmup_steps: int, run_steps: int, message: str
) -> None:
    warning = check_schedule(section, warmup_steps, run_steps)
    assert warning is not None
    assert warning.startswith(message)
    assert "\n" not in warning


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_resumed_run_of_another_length_says_what_becomes_of_its_rate(name: str) -> None:
    section = {"name": name} | ({"boundaries": (5,)} if name == "step" else {})
    same, longer = (make_schedule(section, 10, steps) for steps in (100, 200))
    warning = check_length(section, 10, (100, 200), 90)
    if all(float(same(jnp.int32(step))) == float(longer(jnp.int32(step))) for step in range(100)):
        assert warning is None
    else:
        assert warning is not None
        assert f"goes from {float(same(jnp.int32(89))):.3g} to {float(longer(jnp.int32(90))):.3g}; a run" in warning
    assert check_length(section, 10, (100, 200), 10) is None  # The warm-up is the same in both.


def test_a_schedule_of_its_own_length_does_not_change_with_the_runs() -> None:
    assert check_length(dict(name="cosine", steps=50), 0, (100, 200), 90) is None


@pytest.mark.parametrize(
    ("section", "warmup_steps"),
    [
        *((name, 10) for name in ("constant", "linear", "cosine", "polynomial", "one_cycle")),
        (dict(name="linear", steps=90), 10),
        (dict(name="step", boundaries=(90,)), 10),
        (dict(name="cosine_restarts", period=90), 10),
        (dict(name="exponential", steps=1000), 10),  # Its steps are no end, nor is a timescale.
        (dict(name="inverse_sqrt", timescale=1000), 10),
    ],
    ids=str,
)
def test_schedule_within_the_run_is_no_warning(section: Any, warmup_steps: int) -> None:
    assert check_schedule(section, warmup_steps, 100) is None


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("step", {"boundaries": ()}, r"schedule\.boundaries: empty; expected a list, each an int.*, and at least one"),
        ("step", {}, r"schedule\.boundaries: missing; expected a list"),
        ("cosine_restarts", {"period": 0}, r"schedule\.period: 0 is out of range; it must be at least 1"),
        ("cosine_restarts", {"decay": 1.5}, r"schedule\.decay: 1\.5 is out of range"),
        ("one_cycle", {"peak_at": 1.0}, r"schedule\.peak_at: 1\.0 is out of range; it must be above 0 and below 1"),
        ("polynomial", {"power": 0.0}, r"schedule\.power: 0\.0 is out of range"),
        ("inverse_sqrt", {"timescale": 0}, r"schedule\.timescale: 0 is out of range"),
    ],
    ids=str,
)
def test_empty_or_impossible_schedule_is_refused(name: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(SCHEDULES[name], fields, "schedule")


def test_a_new_schedule_spans_the_run_if_its_steps_are_none_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    def ramp(steps: int | None = None) -> Any:
        return lambda step: step / steps

    def sawtooth(steps: int = 4) -> Any:
        return lambda step: step % steps

    monkeypatch.setitem(SCHEDULES, "ramp", ramp)
    monkeypatch.setitem(SCHEDULES, "sawtooth", sawtooth)
    assert float(make_schedule("ramp", 5, 25)(jnp.int32(15))) == 0.5
    assert float(make_schedule(dict(name="ramp", steps=None), 0, 25)(jnp.int32(5))) == pytest.approx(0.2)
    assert float(make_schedule(dict(name="ramp", steps=10), 0, 25)(jnp.int32(5))) == 0.5
    assert float(make_schedule("sawtooth", 0, 25)(jnp.int32(5))) == 1.0
