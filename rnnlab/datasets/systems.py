"""Chaotic systems as series: the Lorenz system, the Mackey-Glass equation, and those of the package dysts.

The two of our own are integrated by the classical Runge-Kutta method with a fixed step, in double precision, so that a
seed gives the same series on every machine. The first steps are left out: they do not lie on the attractor yet.
"""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from rnnlab.config.errors import ConfigError, unknown

SETTLING = 100.0
"""Units of time that are left out; of Mackey-Glass ten times as many."""
DYSTS = "dysts:"
POINTS_PER_PERIOD = 50
"""Values of a system of dysts in the period of its slowest frequency that matters, as dysts gives it."""


class System(NamedTuple):
    """A series of a dynamical system."""

    values: np.ndarray
    """float64 [N, D]."""
    names: tuple[str, ...]
    """Of the columns."""
    interval: float
    """Units of time from one value to the next."""
    exponent: float | None
    """The largest Lyapunov exponent of the system, in nats per unit of time, where one is known."""


def lorenz(count: int, seed: int, interval: float = 0.02) -> System:
    """x' = 10 (y - x), y' = x (28 - z) - y, z' = x y - 8/3 z (Lorenz, 1963), in steps of at most 0.005.

    The largest Lyapunov exponent is 0.9056 (Sprott, 2003).
    """
    sigma, rho, beta = 10.0, 28.0, 8 / 3
    inner = max(1, int(np.ceil(interval / 0.005 - 1e-9)))
    h = interval / inner

    def slope(x: float, y: float, z: float) -> tuple[float, float, float]:
        return sigma * (y - x), x * (rho - z) - y, x * y - beta * z

    x, y, z = np.random.default_rng(seed).uniform(-10, 10, 3).tolist()
    z += 25
    values = np.empty((count, 3))
    skipped = round(SETTLING / interval)
    for number in range(-skipped, count):
        for _ in range(inner):
            a, b, c = slope(x, y, z)
            d, e, f = slope(x + h / 2 * a, y + h / 2 * b, z + h / 2 * c)
            i, j, k = slope(x + h / 2 * d, y + h / 2 * e, z + h / 2 * f)
            p, q, r = slope(x + h * i, y + h * j, z + h * k)
            x += h / 6 * (a + 2 * d + 2 * i + p)
            y += h / 6 * (b + 2 * e + 2 * j + q)
            z += h / 6 * (c + 2 * f + 2 * k + r)
        if number >= 0:
            values[number] = x, y, z
    return System(values, ("x", "y", "z"), interval, 0.9056)


def mackey_glass(count: int, seed: int, interval: float = 1.0) -> System:
    """x' = 0.2 x(t - 17) / (1 + x(t - 17)^10) - 0.1 x (Mackey and Glass, 1977), in steps of at most 0.1.

    The value at half a step, 17 units ago, is that of the cubic through the ends and slopes of its step. The largest
    Lyapunov exponent is 0.0051: by the variational equation over 128 runs of 10 000 units, 0.00514 ± 0.00003.
    """
    delay = 17.0
    inner = max(1, int(np.ceil(interval / 0.1 - 1e-9)))
    # The delay is a whole number of steps.
    steps = int(np.ceil(delay * inner / interval - 1e-9))
    if not np.isclose(steps * interval / inner, delay, rtol=1e-12):
        raise ConfigError(f"task.interval: {interval:g} does not divide the delay of {delay:g} into steps; as 0.5 or 1")
    h = interval / inner

    def slope(x: float, past: float) -> float:
        return 0.2 * past / (1 + past**10) - 0.1 * x

    start = float(np.random.default_rng(seed).uniform(0.9, 1.3))
    settling = round(10 * SETTLING / interval) * inner
    total = settling + count * inner
    x = [start] * (steps + 1)  # Entry i is at time (i - steps) h.
    slopes = [0.0] * (steps + 1)
    slopes[steps] = slope(start, start)
    for number in range(total):
        now, past, after = x[-1], x[number], x[number + 1]
        middle = (past + after) / 2 + h / 8 * (slopes[number] - slopes[number + 1])
        a = slopes[-1]
        b = slope(now + h / 2 * a, middle)
        c = slope(now + h / 2 * b, middle)
        d = slope(now + h * c, after)
        x.append(now + h / 6 * (a + 2 * b + 2 * c + d))
        slopes.append(slope(x[-1], after))
    values = np.array(x[steps + 1 + settling :]).reshape(count, inner)[:, -1:]
    return System(values, ("x",), interval, 0.0051)


def of_dysts(name: str, count: int, seed: int) -> System:
    """A system of the package dysts (Gilpin, 2021) with its parameters and its estimate of the exponent,
    `POINTS_PER_PERIOD` values a period.

    Raises:
        ConfigError: dysts is not installed, or has none of this name.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # That it goes on without numba.
        try:
            import dysts.flows  # pyright: ignore[reportMissingImports]
            from dysts.systems import get_attractor_list  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            needed = f"{DYSTS}{name} needs dysts ({error})"
            raise ConfigError(f"task.series: {needed}: pip install 'rnnlab[dynamics]'") from None
        names = get_attractor_list()
        if name not in names:
            raise ConfigError(f"task.series: {unknown('system of dysts', name, names)}")
        flow = getattr(dysts.flows, name)()
        start = np.asarray(flow.ic, float)
        start = start + 1e-3 * np.abs(start).max() * np.random.default_rng(seed).normal(size=start.shape)
        settling = 10 * POINTS_PER_PERIOD
        # Its own default, Radau to 1e-12, takes twenty times as long.
        times, values = flow.make_trajectory(
            count + settling,
            init_cond=start,
            pts_per_period=POINTS_PER_PERIOD,
            return_times=True,
            method="LSODA",
            rtol=1e-9,
            atol=1e-9,
        )
    if values is None or not np.isfinite(values).all():
        raise ConfigError(
            f"task.series: dysts could not integrate {name} from seed {seed}; take another task.data_seed"
        )
    exponent = getattr(flow, "maximum_lyapunov_estimated", None)
    values = np.asarray(values, float).reshape(count + settling, -1)[settling:]
    columns = tuple(str(number) for number in range(1, values.shape[1] + 1))
    return System(values, columns, float(times[1] - times[0]), None if exponent is None else float(exponent))


SYSTEMS: dict[str, Callable[..., System]] = {"lorenz": lorenz, "mackey_glass": mackey_glass}
"""By the names of `task.series`: functions of (count, seed, interval)."""
