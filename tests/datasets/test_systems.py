"""Series of chaotic systems against other integrators, and what is the same for a seed."""

import importlib.util
import sys

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.interpolate import CubicSpline

from rnnlab.config.errors import ConfigError
from rnnlab.datasets.systems import SYSTEMS, lorenz, mackey_glass, of_dysts


@pytest.mark.parametrize("interval", [0.02, 0.013])
def test_lorenz_moves_as_another_integrator_says(interval: float) -> None:
    values = lorenz(6, 0, interval).values

    def flow(_: float, at: np.ndarray) -> list[float]:
        x, y, z = at
        return [10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z]

    times = interval * np.arange(6)
    exact = solve_ivp(flow, (0, times[-1]), values[0], t_eval=times, rtol=1e-12, atol=1e-12).y.T
    np.testing.assert_allclose(values, exact, atol=3e-5)
    assert np.abs(np.diff(values, axis=0)).max() > 0.01


def test_mackey_glass_moves_as_another_integrator_says() -> None:
    values = mackey_glass(340, 0, 0.1).values[:, 0]
    times = 0.1 * np.arange(340)
    past = CubicSpline(times, values)
    slope = lambda t, x: 0.2 * past(t - 17) / (1 + past(t - 17) ** 10) - 0.1 * x  # noqa: E731
    shown = times[times >= 17]
    exact = solve_ivp(slope, (17, shown[-1]), values[170:171], t_eval=shown, rtol=1e-10, atol=1e-10).y[0]
    np.testing.assert_allclose(values[170:], exact, atol=1e-6)
    np.testing.assert_allclose(mackey_glass(34, 0, 1.0).values[:, 0], values[9::10], atol=1e-9)


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_system_is_of_its_seed_and_a_longer_series_goes_on(name: str) -> None:
    first, again, other, longer = (SYSTEMS[name](count, seed) for count, seed in ((20, 0), (20, 0), (20, 1), (30, 0)))
    np.testing.assert_array_equal(first.values, again.values)
    np.testing.assert_array_equal(first.values, longer.values[:20])
    assert not np.isclose(first.values, other.values).any()
    assert first.values.shape == (20, len(first.names))


def test_a_delay_that_is_no_number_of_steps_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"task.interval: 0.03 does not divide the delay of 17"):
        mackey_glass(10, 0, 0.03)


def test_without_dysts_its_systems_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dysts.flows", None)
    with pytest.raises(ConfigError, match=r"^task.series: dysts:Lorenz needs dysts .*pip install 'rnnlab\[dyn"):
        of_dysts("Lorenz", 10, 0)


def test_systems_of_dysts_have_their_own_interval_and_exponent() -> None:
    if importlib.util.find_spec("dysts") is None:
        pytest.skip("dysts, an extra, is not installed")
    system = of_dysts("Lorenz", 40, 0)
    assert system.values.shape == (40, 3)
    assert system.interval == pytest.approx(0.03, rel=0.01)
    assert system.exponent == pytest.approx(0.89, abs=0.02)
    np.testing.assert_array_equal(system.values, of_dysts("Lorenz", 40, 0).values)
    assert not np.isclose(system.values, of_dysts("Lorenz", 40, 1).values).all()
    with pytest.raises(ConfigError, match="unknown system of dysts 'Lorentz'; did you mean Lorenz"):
        of_dysts("Lorentz", 10, 0)
