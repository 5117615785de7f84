"""Figures of a run and of comparisons between runs."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

from rnnlab.files import AGAIN, read_json
from rnnlab.plots.legends import COMPACT
from rnnlab.plots.style import (
    COLOURS,
    GREY,
    MARKERS,
    OVER_THE_LAST,
    PAGE,
    TIME_STEP,
    gradient_symbol,
    hold_spikes,
    log_scale,
    make_axes,
    make_panels,
    numbers,
    over_the_last,
    save,
    shown,
    span_steps,
)
from rnnlab.records.metrics import read_metrics
from rnnlab.records.workdir import Workdir, read_config, read_gradient_flow
from rnnlab.tasks import Split, find_task

_SPLITS = {"train": COLOURS[5], "validation": COLOURS[0], "test": COLOURS[1]}


def learning_curve(workdir: Path, baselines: Mapping[Split, float] | None = None) -> Path:
    """WORKDIR/plots/learning_curve.png: the loss, every metric of the task, the gradient norm before clipping, and the
    learning rates of the logged steps.

    baselines: the loss on each split of an answer that ignores the input; drawn for the splits that are shown.
    """
    lines = read_metrics(workdir)
    losses = [line for line in lines if line["split"] in _SPLITS]
    skip = {"step", "split", "seconds", "loss", "grad_norm", "largest_grad_norm", "clipped", "learning_rate"}
    names = {name for line in losses for name in line} - skip
    of_groups = sorted(name for name in names if name.startswith(_RATE_OF))
    names = sorted(names.difference(of_groups))
    panels = ["loss", *names, "grad_norm"]
    gradient = len(names) + 1
    if any("learning_rate" in line for line in losses):  # Earlier versions did not write it.
        panels.append("learning_rate")
    figure, axes = make_axes(len(panels))
    for axis, name in zip(axes, panels, strict=True):
        for split, colour in _SPLITS.items():
            points = _points(losses, split, name)
            if not points:
                continue
            few = len(points) < (60 if split != "train" else 4)  # A line through a single point is not seen.
            style = {"marker": "o", "markersize": 4} if few else {}
            values = shown(numbers(value for _, value in points))
            axis.plot([step for step, _ in points], values, color=colour, label=split, linewidth=1.6, **style)
        axis.set_xlabel("training step")
        axis.set_title(name.replace("_", " "))
    if of_groups:
        _draw_rates(axes[-1], {name.removeprefix(_RATE_OF): _points(losses, "train", name) for name in of_groups})
    splits = {each["split"] for each in losses}
    # The axis is logarithmic and has no 0, the error of the last value where a series stands still.
    _draw_baselines(axes[0], {s: v for s, v in (baselines or {}).items() if s in splits and v > 0})
    for axis in (axes[0], *axes[gradient:]):
        values = [v for line in axis.lines for v in line.get_ydata() if v > 0]
        falls_to_zero = axis in axes[gradient + 1 :] and max(values, default=0) > 1e4 * min(values, default=0)
        if values and max(values) > 20 * min(values) and not falls_to_zero:
            axis.set_yscale("log")
    for axis in axes[: gradient + 1]:
        hold_spikes(axis)
    axes[0].legend()
    axes[gradient].set_title("gradient norm before clipping, mean")
    return save(figure, Workdir(workdir).figure("learning_curve"))


_RATE_OF = "learning_rate/"
"""Stands before a group's name in the name of its learning rate."""


def _points(lines: Iterable[Mapping[str, Any]], split: str, name: str) -> list[tuple[int, float]]:
    """(step, value) of the lines of a split that have this name."""
    return [(line["step"], float(line[name])) for line in lines if line["split"] == split and name in line]


def _draw_rates(axis: Axes, of_groups: Mapping[str, Sequence[tuple[int, float]]]) -> None:
    """The learning rate of each group of parameters beside the optimizer's, which is drawn already."""
    axis.lines[0].set_label("optimizer")
    for number, (group, points) in enumerate(of_groups.items()):
        steps, rates = zip(*points, strict=True)
        axis.plot(steps, rates, color=COLOURS[number % len(COLOURS)], label=group, linewidth=1.2, linestyle="--")
    axis.legend()


def _draw_baselines(axis: Axes, baselines: Mapping[Split, float]) -> None:
    """A line for each; one for all splits where it is the same for them."""
    same = len(set(baselines.values())) == 1 < len(baselines) or len(baselines) == 1
    for split, value in list(baselines.items())[: 1 if same else None]:
        label = f"baseline {value:.4g}" if same else f"baseline, {split} {value:.4g}"
        axis.axhline(value, color=GREY if same else _SPLITS[split], linestyle="--", linewidth=1, label=label)


def reads_every_step(workdir: Path) -> bool:
    """Whether the task of a run has a readout at every step; not where nothing says what the task is."""
    if not Workdir(workdir).config.exists():
        return False
    return getattr(find_task(read_config(workdir)), "readout", "last") == "every"


def gradient_flow(workdir: Path) -> Path:
    """WORKDIR/plots/gradient_flow.png from WORKDIR/gradient_flow.json: ‖∂L/∂h_t‖ over t, untrained and trained."""
    measured = read_gradient_flow(workdir)
    curves = {
        (f"{when}, {layer}" if len(layers) > 1 else when): norms
        for when, layers in measured.items()
        for layer, norms in layers.items()
    }
    figure, (axis,) = make_axes(1)
    _draw_gradient(axis, curves, COLOURS)
    axis.legend()
    of = "each row's last answer" if reads_every_step(workdir) else "the loss"
    axis.set_title(f"gradient of {of} that reaches each time step")
    return save(figure, Workdir(workdir).figure("gradient_flow"))


def compare_gradient_flow(workdirs: Mapping[str, Path], path: Path) -> Path:
    """One panel untrained, one trained: ‖∂L/∂h_t‖ of the last layer of several runs, forwards, over that of the last
    step, since losses differ from run to run.

    workdirs: label -> a workdir with a gradient_flow.json.
    """
    measured = {label: read_gradient_flow(w) for label, w in workdirs.items()}
    moments = list(dict.fromkeys(when for each in measured.values() for when in each))
    figure, axes = make_axes(len(moments))
    for axis, when in zip(axes, moments, strict=True):
        curves = {label: each[when][last_forward(each[when])] for label, each in measured.items() if when in each}
        _draw_gradient(axis, {label: over_the_last(norms) for label, norms in curves.items()}, COLOURS)
        axis.set_ylabel(OVER_THE_LAST)
        axis.set_title(when)
    axes[0].legend()
    return save(figure, path)


def last_forward(names: Iterable[str]) -> str:
    """The last layer's name that is not of a reverse direction: that ends at the last step, as time runs."""
    return [name for name in names if " reverse" not in name][-1]


def _draw_gradient(axis: Axes, curves: Mapping[str, Any], colours: Sequence[str]) -> None:
    for number, (label, norms) in enumerate(curves.items()):
        values = shown(numbers(norms), positive=True)
        axis.plot(range(1, len(values) + 1), values, color=colours[number % len(colours)], label=label, linewidth=1.6)
        span_steps(axis, len(values))
    log_scale(axis)
    hold_spikes(axis)
    axis.set_xlabel(TIME_STEP)
    axis.set_ylabel(f"{gradient_symbol('h')}, root mean square over rows")


def learning_rate_range(workdir: Path) -> Path:
    """WORKDIR/plots/find_learning_rate.png from WORKDIR/find_learning_rate.json: the loss over the learning rate."""
    rates = read_json(Workdir(workdir).learning_rates, AGAIN)
    figure, (axis,) = make_axes(1)
    axis.plot(rates["learning_rates"], rates["losses"], color=_SPLITS["train"], label="loss of the batch", linewidth=1)
    axis.plot(rates["learning_rates"], rates["smoothed"], color=COLOURS[0], label="smoothed", linewidth=1.6)
    rate = rates["learning_rate"]
    if rate is not None:
        axis.axvline(rate, color=COLOURS[1], linestyle="--", linewidth=1.2, label=f"learning rate {rate:.2g}")
    axis.set_xscale("log")
    # One exploded loss would press all others onto the axis.
    top = 1.5 * max(rates["smoothed"][0], min(rates["smoothed"]))
    positive = min(rates["losses"]) > 0
    if positive and top > 20 * min(rates["smoothed"]):
        axis.set_yscale("log")
    low = min(rates["losses"])
    axis.set_ylim(0.8 * low if positive else low - 0.05 * abs(top - low), top)
    axis.set_xlabel("learning rate")
    axis.set_ylabel("loss")
    axis.legend()
    return save(figure, Workdir(workdir).figure("find_learning_rate"))


def benchmark_ratios(results: Path) -> Path:
    """The figure of a file that `rnnlab.benchmark` wrote, beside it: each peer's time over rnnlab's, of a training step
    and of a forward pass."""
    rows = [row for row in read_json(results, AGAIN, {"results": list})["results"] if "step_ratio" in row]
    peers = [p for p in dict.fromkeys(row["contestant"] for row in rows) if p != "rnnlab fused"]
    cases = list(dict.fromkeys((row["shape"], row["cell"]) for row in rows))
    figure, (axes,) = make_panels(1, 2, (PAGE, max(2.0, 1.3 + 0.17 * len(cases))), sharey=True)
    for axis, what, title in zip(axes, ("step", "forward"), ("a training step", "a forward pass"), strict=True):
        for number, peer in enumerate(peers):
            points = [
                (row[f"{what}_ratio"], cases.index((row["shape"], row["cell"])))
                for row in rows
                if row["contestant"] == peer
            ]
            colour, hollow = COLOURS[number % 6], number >= 6  # Six marks are told apart, twelve when half are hollow.
            marks: dict[str, Any] = {
                "facecolors": "none" if hollow else colour,
                "edgecolors": colour,
                "marker": MARKERS[number % 6],
            }
            axis.scatter(
                *zip(*points, strict=True), s=16, linewidths=0.8, **marks, label=peer if what == "step" else ""
            )
        axis.axvline(1, color=GREY, linewidth=1)
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_locator(LogLocator(base=2, numticks=7))
        axis.xaxis.set_major_formatter(lambda x, _: f"{x:g}×" if x >= 1 else f"1/{1 / x:g}×")
        axis.set_title(title)
        axis.set_xlabel("time over that of rnnlab fused")
    axes[0].set_yticks(range(len(cases)), [f"{cell}  {shape}" for shape, cell in cases])
    axes[0].invert_yaxis()
    axes[0].set_ylabel("cell  (T, B, D, H)")
    if peers:
        figure.legend(loc="outside lower center", ncols=5, **COMPACT)
    return save(figure, results.with_suffix(".png"))
