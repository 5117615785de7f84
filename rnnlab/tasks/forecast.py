"""Forecasts: the values of a series some steps ahead, from those up to now.

Systems that make series are in `datasets/systems.py`, tables of a user in `datasets/tables.py`; a network that runs on
its own forecasts is in `diagnostics/closed_loop.py`.
"""

import os
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnnlab.config.bounds import Bound, NonNegativeInt, Positive, PositiveInt
from rnnlab.config.errors import ConfigError
from rnnlab.datasets.locations import find_given
from rnnlab.datasets.systems import DYSTS, SYSTEMS, System, of_dysts
from rnnlab.datasets.tables import SUFFIXES, read_table, repeated
from rnnlab.tasks.base import SPLITS, Batch, Example, Split, Task, Weighted
from rnnlab.typing import Array, Bool, Float, Int, PRNGKeyArray, PyTree

Part = Annotated[float, Bound(0, 1, low_excluded=True, high_excluded=True)]


class Forecast(Task):
    """Input [T, D]: T = `context` values of a series of D columns; target [T, D]: the values `horizon` steps later.

    Every column has mean 0 and deviation 1 over the training part, and all errors are in these units. The series is cut
    in time: training first, then validation, then test. Training takes every window of its part; the windows of the
    others follow each other, so that each value is forecast once.

    Loss: squared error, a mean over columns and forecasts. Metrics: `absolute_error`; `over_naive` and
    `absolute_over_naive`, the two errors over those of the naive forecast, which is the last value. Its loss is the
    baseline.
    """

    causal = True
    readout = "every"
    solved = ("over_naive", 1.0)

    series: str = "lorenz"
    """"lorenz" or "mackey_glass"; "dysts:NAME", a system of that package; or a file: .csv, .parquet or .npz, with a row
    for each time step and a column for each channel."""
    columns: tuple[str, ...] = ()
    """Of a file: the columns that are read and forecast; none: all."""
    context: PositiveInt = 100
    """T, values that a window has."""
    horizon: PositiveInt = 1
    """How many steps ahead."""
    burn_in: NonNegativeInt = 0
    """Forecasts at a window's beginning that do not count; context - 1: only that of the last value does."""
    predicts: Literal["value", "change"] = "value"
    """What the network puts out: the value, or what is added to the last one."""
    validation: Part = 0.15
    """The share of the series that is held out behind training."""
    test: Part = 0.15
    """The share at its end."""
    points: PositiveInt = 20_000
    """Of a system: how many values."""
    interval: Positive | None = None
    """Units of time from one value to the next; None: 0.02 of lorenz, 1 of mackey_glass and files, of dysts its own."""
    data_seed: NonNegativeInt = 0
    """Of a system: seed of where it begins."""
    data_dir: str | os.PathLike[str] | None = None
    """The data folder."""

    def initialize(self, options: Any) -> None:
        """Makes or reads the series.

        Raises:
            ConfigError: a file is missing or damaged, a column constant, or the series too short.
        """
        if self.burn_in >= self.context:
            raise ConfigError(f"task.burn_in: {self.burn_in} of {self.context} forecasts leaves none that counts")
        source, self.system = self._read()
        values = self.system.values
        count, held_out = len(values), self.validation + self.test
        if held_out >= 1:
            raise ConfigError(f"task.validation and task.test: {held_out:g} of the series leaves nothing to train on")
        ends = [count - round(held_out * count), count - round(self.test * count)]
        parts = dict(zip(SPLITS, np.split(values, ends), strict=True))
        needed = self.context + self.horizon
        for split, part in parts.items():
            if len(part) < needed:
                raise ConfigError(
                    f"{source}: {len(part)} of its {count} values are for {split}, and a window needs {needed} "
                    f"(task.context={self.context} + task.horizon={self.horizon})"
                )
        self.mean, self.deviation = parts["train"].mean(0), parts["train"].std(0)
        for name, mean, deviation in zip(self.system.names, self.mean, self.deviation, strict=True):
            if deviation <= 1e-12 * abs(mean):
                what = f"column {name!r} is {mean:g} throughout the {len(parts['train'])} values of training"
                raise ConfigError(f"{source}: {what}; task.columns leaves it out")
        self.data = {split: ((part - self.mean) / self.deviation).astype(np.float32) for split, part in parts.items()}
        self.in_features = self.out_features = values.shape[1]
        self.stride = self.context - self.burn_in
        self.baselines = {split: self._naive(self.data[split], self.size(split)) for split in ("validation", "test")}
        if self.baselines["validation"] == 0:
            self.solved = None  # A series that stands still there: no error to be divided by.
        self.longest_dependency = self.context - 1

    def _read(self) -> tuple[str, System]:
        """(What the series is called in messages, the series)."""
        if self.series in SYSTEMS or self.series.startswith(DYSTS):
            if self.columns:
                raise ConfigError(f"task.columns: for a file; task.series={self.series} has columns of its own")
            if self.series in SYSTEMS:
                options = {} if self.interval is None else {"interval": self.interval}
                return f"task.series={self.series}", SYSTEMS[self.series](self.points, self.data_seed, **options)
            system = of_dysts(self.series.removeprefix(DYSTS), self.points, self.data_seed)
            if self.interval is not None:
                raise ConfigError(f"task.interval: {self.series} has its own, {system.interval:g}")
            return f"task.series={self.series}", system
        systems = ", ".join([*SYSTEMS, f"{DYSTS}NAME"])
        if not self.series.endswith(SUFFIXES):
            files = f"a file that ends in {', '.join(SUFFIXES)}"
            raise ConfigError(f"task.series: {self.series!r} is neither a system ({systems}) nor {files}")
        table = read_table(find_given("task.series", self.series, self.data_dir))
        names = self.columns or table.names
        if len(set(names)) < len(names):
            raise ConfigError(f"{table.path}: task.columns names {repeated(names)!r} twice; each column is one channel")
        values = table.numbers(names, f"task.columns chooses columns, of {', '.join(table.names)}")
        if np.isnan(values).any():
            row, column = np.argwhere(np.isnan(values))[0].tolist()
            raise ConfigError(f"{table.where(row)}: no value in column {names[column]!r}; each needs one")
        return str(table.path), System(values, tuple(names), self.interval or 1.0, None)

    def _naive(self, values: np.ndarray, windows: int) -> float:
        """The mean squared error of the last value, over the forecasts that count."""
        first = np.arange(windows)[:, None] * self.stride + np.arange(self.burn_in, self.context)
        last, later = values[first].astype(np.float64), values[first + self.horizon].astype(np.float64)
        return float(((last - later) ** 2).mean())

    def size(self, split: Split) -> int:
        windows = len(self.own_data[split]) - self.context - self.horizon
        return 1 + (windows if split == "train" else windows // self.stride)

    def example(self, data: PyTree, key: PRNGKeyArray, split: Split, index: Int[Array, ""]) -> Example:
        start = index.astype(jnp.int32) * (1 if split == "train" else self.stride)
        values = lax.dynamic_slice_in_dim(data[split], start, self.context + self.horizon)
        return Example(values[: self.context], values[self.horizon :])

    def answers(self, inputs: Float[Array, "T B D"], outputs: Float[Array, "T B D"]) -> Float[Array, "T B D"]:
        """The forecasts that a network's outputs stand for."""
        return outputs + inputs if self.predicts == "change" else outputs

    def score(self, outputs: Float[Array, "T B D"], batch: Batch) -> tuple[dict[str, Any], jax.Array]:
        counted: Bool[Array, "T 1"] = jnp.arange(self.context)[:, None] >= self.burn_in
        errors = self.answers(batch.inputs, outputs) - batch.targets
        naive = batch.inputs - batch.targets
        squared, absolute, naive_squared, naive_absolute = (
            jnp.where(counted, each.mean(-1), 0).sum(0)
            for each in (errors**2, jnp.abs(errors), naive**2, jnp.abs(naive))
        )
        return {
            "loss": squared,
            "absolute_error": absolute,
            "over_naive": Weighted(squared, naive_squared),
            "absolute_over_naive": Weighted(absolute, naive_absolute),
        }, jnp.full_like(squared, self.stride)
