"""The figure of a trained network at other lengths of its task."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from rnnlab.files import AGAIN, read_json
from rnnlab.plots.style import COLOURS, GREY, hold_spikes, log_scale, make_axes, numbers, powers_of_two, save, shown
from rnnlab.records.workdir import Workdir

_NAMED = 10
"""So many lengths have a number each below the axis."""


def evaluation_by_length(workdir: Path) -> Path:
    """WORKDIR/plots/evaluation_by_length.png from WORKDIR/evaluation_by_length.json over the length: the metric
    that the task is judged by, all shares, the loss beside the baseline; the length of training is marked."""
    measured = read_json(
        Workdir(workdir).evaluation_by_length, AGAIN, {"metric": str, "shares": list, "evaluations": list}
    )
    panels = list(dict.fromkeys([measured["metric"], *measured["shares"], "loss"]))
    figure, axes = make_axes(len(panels))
    for axis, name in zip(axes, panels, strict=True):
        _draw(axis, name, measured)
    return save(figure, Workdir(workdir).figure("evaluation_by_length"))


def _draw(axis: Axes, name: str, measured: dict[str, Any]) -> None:
    rows, trained = measured["evaluations"], measured["trained_length"]
    lengths = sorted({row["length"] for row in rows} | {trained})
    splits = list(dict.fromkeys(row["split"] for row in rows))
    for number, split in enumerate(splits):
        of_split = [row for row in rows if row["split"] == split]
        x, colour = [row["length"] for row in of_split], COLOURS[number]
        axis.plot(x, shown(numbers(row[name] for row in of_split)), "o-", color=colour, label=split, linewidth=1.6)
        baselines = numbers(row["baseline"] for row in of_split)
        if name == "loss" and (baselines == baselines).any():
            label = "baseline" if number == 0 else None  # One entry of the legend for all splits.
            look = {"color": GREY, "linestyle": "--", "linewidth": 1.2}
            axis.plot(x, shown(baselines), marker="_", label=label, **look)
    if name == measured["metric"] and measured["solved"] is not None:
        axis.axhline(measured["solved"], color=GREY, linestyle=":", linewidth=1.2, label="solved")
    if name in measured["shares"]:
        axis.set_ylim(-0.02, 1.02)
    elif name == "loss":
        log_scale(axis)
        hold_spikes(axis)
    axis.axvline(trained, color=GREY, linewidth=1.2, label=f"trained at {trained}", zorder=1)
    powers_of_two(axis, lengths)
    if len(lengths) <= _NAMED:
        axis.set_xticks(lengths, [str(length) for length in lengths])
        axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlabel("length of the sequences, steps")
    axis.set_ylabel(name.replace("_", " "))
    axis.legend()
