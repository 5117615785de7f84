"""Finds a learning rate: the range test of Smith (2017, section 3.3).

    python -m rnnlab.find_learning_rate --config=configs/adding.py
    python -m rnnlab.find_learning_rate --config=configs/adding.py:lstm --lowest=1e-5 --highest=1 --steps=400

Trains from the beginning while the learning rate rises from --lowest to --highest, by the same factor at every step,
and stops where the smoothed loss exceeds four times its minimum or is not finite. All else of the config is kept, but
for its schedule and warm-up. Prints the rate at which the loss falls fastest and a tenth of the rate at which it is
lowest, and writes WORKDIR/find_learning_rate.json and WORKDIR/plots/find_learning_rate.png.
Without --workdir it writes to runs/FILE-find_learning_rate or runs/FILE-PRESET-find_learning_rate.
Exit status: 0, 2 for a mistake in the command, config or data, 3 if the loss is not finite from the start.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from rnnlab import entry
from rnnlab.build import ConfigError
from rnnlab.files import remove
from rnnlab.surroundings import single_precision
from rnnlab.workdir import held, unless_too_large, write_file

SMOOTHING = 0.9
"""Decay of the running mean of the loss."""
TOO_HIGH = 4.0
"""The test ends where the smoothed loss is this many times its minimum."""


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    values = flags.FlagValues()
    flags.DEFINE_float("lowest", 1e-7, "the learning rate of the first step", flag_values=values)
    flags.DEFINE_float("highest", 10.0, "the learning rate of the last step", flag_values=values)
    flags.DEFINE_integer("steps", 200, "how many steps there are from the one to the other", flag_values=values)
    told = "folder to write to; else runs/FILE-find_learning_rate or runs/FILE-PRESET-find_learning_rate"
    entry.path_flag(values, "workdir", None, told)
    entry.data_flags(values)
    given, reference, config = entry.parse(values, argv, __doc__, accept_config=True)
    if reference is None or config is None:
        raise ConfigError("--config is missing, as in --config=configs/adding.py (--help says more)")
    lowest, highest, steps = given["lowest"], given["highest"], given["steps"]
    check_range(lowest, highest, steps)
    default = entry.default_workdir(reference)
    workdir = Path(given["workdir"] or default.with_name(f"{default.name}-find_learning_rate"))
    with unless_too_large(workdir), held(workdir):
        path = workdir / "find_learning_rate.json"
        remove(path)
        found = range_test(config, lowest, highest, steps, given["data_dir"])
        write_file(path, json.dumps(found, indent=2) + "\n")
        if not found["losses"]:
            print(f"the loss or its gradient is not finite at the first step, with a learning rate of {lowest:g}")
            return entry.DIVERGED
        from rnnlab import plots

        figure = plots.learning_rate_range(workdir)
    print(f"{conclusion(found)}; figure: {figure}")
    return entry.FINISHED


def check_range(lowest: float, highest: float, steps: int) -> None:
    """Raises ConfigError unless the numbers of a range test are such as it can run with."""
    for name, rate in {"lowest": lowest, "highest": highest}.items():
        if not 1e-30 <= rate <= 1e30:  # Rates are in single precision.
            raise ConfigError(f"--{name}: {rate!r} is out of range; a learning rate is at least 1e-30 and at most 1e30")
    if highest <= lowest:
        raise ConfigError(f"--highest: {highest:g} is not above --lowest={lowest:g}")
    if highest / lowest > 1e30:
        raise ConfigError(f"--highest: {highest:g} is more than 1e30 times --lowest={lowest:g}")
    if steps < 10:
        raise ConfigError(f"--steps: {steps} is too few; it must be at least 10")


@single_precision()
def range_test(
    config: Mapping[str, Any], lowest: float, highest: float, steps: int, data_dir: str | None = None
) -> dict[str, Any]:
    """Trains with a learning rate of lowest (highest / lowest)^(k / (steps - 1)) at step k, from 0.

    Args:
        config: a resolved one.
        data_dir: the data folder.

    Returns:
        What is written to find_learning_rate.json: `learning_rates`, `losses` and `smoothed` for every step that was
        made; `stopped`, the learning rate at which it was too high, or None; `steepest` and `tenth_of_minimum` as
        `suggestions` gives them; `config`.
    """
    from rnnlab.run import Run  # After the checks: these take seconds to import.
    from rnnlab.state import means

    rising = {"learning_rate": lowest, "schedule": _rise(lowest, highest, steps), "warmup_steps": 0}
    run = Run(
        {**config, "optimizer": {**config["optimizer"], **rising}, "steps": steps, "log_every": 1}, data_dir=data_dir
    )
    state = run.programs.start(run.config["seed"])
    rates: list[float] = []
    losses: list[float] = []
    smoothed: list[float] = []
    stopped, mean = None, 0.0
    for step in range(steps):
        rate = lowest * (highest / lowest) ** (step / (steps - 1))
        state = run.train(state, step + 1)
        loss = means(state)["loss"] if bool(state.finite) else math.inf
        if not math.isfinite(loss):
            stopped = rate
            break
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        rates.append(rate)
        losses.append(loss)
        smoothed.append(mean / (1 - SMOOTHING ** (step + 1)))
        if too_high(smoothed):
            stopped = rate
            break
    steepest, tenth = suggestions(rates, smoothed)
    return {
        "steepest": steepest,
        "tenth_of_minimum": tenth,
        "stopped": stopped,
        "learning_rates": rates,
        "losses": losses,
        "smoothed": smoothed,
        "config": run.config,
    }


def _rise(lowest: float, highest: float, steps: int) -> dict[str, Any]:
    return {"name": "exponential", "rate": highest / lowest, "steps": steps - 1}


def too_high(smoothed: Sequence[float]) -> bool:
    """Whether the last smoothed loss exceeds four times the lowest."""
    return smoothed[-1] > TOO_HIGH * min(smoothed)


def suggestions(rates: Sequence[float], smoothed: Sequence[float]) -> tuple[float | None, float | None]:
    """The rate at which the smoothed loss falls fastest over the logarithm of the rate, and a tenth of the rate at its
    minimum; None, None if it never falls."""
    lowest = min(range(len(smoothed)), key=smoothed.__getitem__, default=0)
    if lowest == 0:
        return None, None
    # Over a tenth of the steps, by default 0.8 decades, and not where the running mean is of a few batches only: else
    # the noise of one batch is steepest (adding, LSTM: at the first step, instead of 2e-4).
    reach = max(1, len(rates) // 20)
    settled = reach + round(1 / (1 - SMOOTHING))

    def slope(k: int) -> float:
        a, b = max(0, k - reach), min(len(rates) - 1, k + reach)
        return (smoothed[b] - smoothed[a]) / math.log(rates[b] / rates[a])

    return rates[min(range(settled, lowest + 1) or range(lowest + 1), key=slope)], rates[lowest] / 10


def conclusion(found: Mapping[str, Any]) -> str:
    """The line for the user."""
    rates, stopped = found["learning_rates"], found["stopped"]
    if found["steepest"] is None:
        return f"the loss never fell between learning rates of {rates[0]:.2g} and {rates[-1]:.2g}"
    end = "" if stopped is None else f"; stopped at {stopped:.2g}, where the loss is not finite or four times as high"
    return (
        f"learning rate {found['steepest']:.2g} (the loss falls fastest), "
        f"or {found['tenth_of_minimum']:.2g} (a tenth of that at the lowest loss){end}"
    )


if __name__ == "__main__":
    entry.run(main)
