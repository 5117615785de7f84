"""The figure of a series beside its forecasts, from WORKDIR/forecast.npz."""

from pathlib import Path

import numpy as np

from rnnlab.files import AGAIN, read_arrays
from rnnlab.plots.style import COLOURS, GREY, make_grid, save, shown
from rnnlab.records.workdir import Workdir

COLUMNS = 6
"""Columns of a series that are drawn at most."""


def forecast(workdir: Path) -> Path:
    """WORKDIR/plots/forecast.png: a row for each column; left the forecasts, right the network that goes on alone."""
    arrays = read_arrays(Workdir(workdir).forecast_arrays, AGAIN, ["truth", "forecast", "names", "interval", "horizon"])
    names = arrays["names"].tolist()[:COLUMNS]
    interval, horizon = float(arrays["interval"]), int(arrays["horizon"])
    pairs = {f"forecast {horizon} step{'s' if horizon > 1 else ''} ahead": ("truth", "forecast")}
    if "free" in arrays:
        pairs["in the closed loop, its forecasts as inputs"] = ("free_truth", "free")
    figure, axes = make_grid(len(names), len(pairs), 6.4, 2.4)
    for column, (row, name) in enumerate(zip(axes, names, strict=True)):
        for axis, (title, (truth, answer)) in zip(row, pairs.items(), strict=True):
            time = interval * np.arange(len(arrays[truth]))
            axis.plot(time, arrays[truth][:, column], color=GREY, linewidth=2.4, alpha=0.5, label="series")
            axis.plot(time, shown(arrays[answer][:, column]), color=COLOURS[1], linewidth=1, label="network")
            low, high = arrays[truth][:, column].min(), arrays[truth][:, column].max()
            margin = 0.3 * (high - low) or 1.0
            axis.set_ylim(low - margin, high + margin)  # A loop that diverges leaves the panel.
            axis.set_ylabel(name)
            if column == 0:
                axis.set_title(f"{arrays['split']}: {title}")
                axis.legend()
            if column == len(names) - 1:
                axis.set_xlabel("time")
    return save(figure, Workdir(workdir).figure("forecast"))
