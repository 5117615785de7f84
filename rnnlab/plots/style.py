"""The common parts of all figures: colours, axes, symbols, numbers from JSON, and how a file is written."""

import contextlib
import io
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import matplotlib

if "ipykernel" not in sys.modules:  # A notebook shows figures through a backend of its own.
    matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator, NullFormatter

from rnnlab.files import write_bytes
from rnnlab.files.figure_files import figure_files
from rnnlab.plots.legends import finish
from rnnlab.plots.palette import COLOURS as COLOURS
from rnnlab.plots.palette import GREY as GREY
from rnnlab.plots.palette import MARKERS as MARKERS
from rnnlab.plots.palette import NOTHING as NOTHING
from rnnlab.plots.words import SMALL, TEXT

COLUMN, PAGE = 3.4, 7.0
"""Inches: the width of a column and of a page of a paper."""
_PANEL = 1.75
"""Inches: a panel is at least so wide; a figure of many is wider than a page."""
LOOK: Any = {
    "font.family": "DejaVu Sans",
    "font.size": TEXT,
    "axes.titlesize": TEXT,
    "axes.labelsize": TEXT,
    "axes.linewidth": 0.7,
    "axes.titlepad": 4.0,
    "axes.labelpad": 2.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "figure.titlesize": TEXT + 1,
}
"""The look of all figures, as matplotlib has it."""
_FILES: Any = {"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "rnnlab", "savefig.dpi": 300}
_NO_DATE = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
"""How they are written: PDF with its fonts, SVG with its words as words, and the same bytes each time."""
TIME_STEP = "time step t (shorter rows end at the last)"
"""The axis of what is averaged over rows that are aligned at their ends."""
_OVER_CURVES = {"zorder": 4, "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 0.5}}
"""The look of a text beside the mark of a spike, to and from which curves run."""


def make_axes(count: int) -> tuple[Figure, list]:
    """A figure of so many panels: one as wide as a column of a paper, two or three side by side as wide as a page, more
    in rows."""
    columns = {1: 1, 2: 2, 4: 2}.get(count, 3)
    figure, axes = make_grid(-(-count // columns), columns, 5.6, {1: 4.1, 2: 4.1}.get(columns, 5.4))
    flat = [axis for row in axes for axis in row]
    for axis in flat[count:]:
        axis.set_visible(False)
    return figure, flat[:count]


def make_grid(rows: int, columns: int, width: float, height: float) -> tuple[Figure, list[list[Axes]]]:
    """A figure of rows × columns panels of about this shape, as wide as a column or a page of a paper.

    A single panel that is wider than 6.4 has a page; panels of a row that has no room for them have a wider figure.
    """
    whole = COLUMN if columns == 1 and width <= 6.4 else max(PAGE, _PANEL * columns)
    size = (whole, rows * height * whole / (columns * width))
    figure, axes = make_panels(rows, columns, size)
    return figure, [list(row) for row in axes]


def make_panels(rows: int, columns: int, size: tuple[float, float], **words: Any) -> tuple[Figure, np.ndarray]:
    """A figure of this size in inches, and its axes [rows, columns], in the look of all; words: of `plt.subplots`."""
    with matplotlib.rc_context(LOOK):
        layout = ConstrainedLayoutEngine(w_pad=0.05, h_pad=0.04, wspace=0.03)
        figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout=layout, **words)
    for axis in axes.flat:  # Ticks and grid are made as they are drawn, and so after the look is over.
        axis.tick_params(labelsize=SMALL, width=0.7, length=2.5)
        axis.tick_params(which="minor", width=0.5, length=1.5)
        axis.grid(alpha=0.25, linewidth=0.5)
    return figure, axes


def gradient_symbol(what: str) -> str:
    """‖∂L/∂h_t‖ for "h", ‖δ_t‖ for "delta", as matplotlib's mathematics."""
    return r"$\Vert\delta_t\Vert$" if what == "delta" else rf"$\Vert\partial L/\partial {what}_t\Vert$"


OVER_THE_LAST = rf"{gradient_symbol('h')} over the last step's"
"""The axis of gradients of networks whose losses differ."""


def over_the_last(norms: Any) -> np.ndarray:
    """Norms over time steps, over that of the last step; NaN where that is 0 or is not finite."""
    norms = shown(numbers(norms), positive=True)
    return norms / norms[-1]


def numbers(values: Any) -> np.ndarray:
    """Nested lists of numbers from JSON, in which strings stand for what is not finite and None for what is not."""
    return np.array(list(values) if isinstance(values, Iterable) else values, dtype=object).astype(float)


def shown(values: np.ndarray, positive: bool = False) -> np.ndarray:
    """NaN for what has no place on an axis: what is not finite, and for a logarithmic one what is not positive."""
    values = np.asarray(values, float)
    return np.where(np.isfinite(values) & (values > 0 if positive else True), values, np.nan)


def without_spikes(values: Any, logarithmic: bool) -> tuple[float, float]:
    """The lowest and the highest value that a figure shows, of those that have a place on its axis: all but spikes,
    which would press the others onto a line.

    A spike is further from the middle half of the values than ten times what that spans, and than six decades on a
    logarithmic axis; where the middle half is one number, on a plain axis, none is. On a logarithmic axis a
    value that others lead up to, with at most three decades from one to the next, is a decay or a growth, not a spike.
    """
    flat = np.asarray(values, float).ravel()
    flat = flat[~np.isnan(shown(flat, positive=logarithmic))]
    if not flat.size:
        return 0.0, 1.0
    places = np.log10(flat) if logarithmic else flat
    low, high = sorted((np.quantile(places, 0.25, method="higher"), np.quantile(places, 0.75, method="lower")))
    reach = max(10 * (high - low), 6.0) if logarithmic else 10 * (high - low) or np.inf
    order = np.argsort(places)
    places = places[order]
    first = int(np.searchsorted(places, low - reach))
    last = int(np.searchsorted(places, high + reach, side="right")) - 1
    if logarithmic:
        leaps = np.flatnonzero(np.diff(places) > 3)  # Between a place of this number and the next.
        first = int(max(leaps[leaps < first], default=-1)) + 1
        last = int(min(leaps[leaps >= last], default=len(places) - 1))
    return float(flat[order[first]]), float(flat[order[last]])


def hold_spikes(axis: Axes) -> None:
    """Ends the y axis where its curves do without their spikes (`without_spikes`); marks each spike at the edge, in the
    colour of its curve, and names the furthest. Horizontal lines are not curves, and stay in sight."""
    curves = [line for line in axis.lines if line.get_transform() == axis.transData]
    logarithmic = axis.get_yscale() == "log"
    drawn = [shown(np.asarray(line.get_ydata(), float), positive=logarithmic) for line in curves]
    low, high = unflattened(np.concatenate(drawn or [np.zeros(0)]), logarithmic)
    bottom, top = _with_levels(axis, low, high, logarithmic)
    for edge, beyond, mark, where in (
        (1, [values > top for values in drawn], "^", "top"),
        (0, [values < bottom for values in drawn], "v", "bottom"),
    ):
        if not any(spikes.any() for spikes in beyond):
            continue
        _end_axis(axis, bottom, top, logarithmic)
        far = None
        for line, values, spikes in zip(curves, drawn, beyond, strict=True):
            x = np.asarray(line.get_xdata(), float)[spikes]
            if x.size:
                look = {"color": line.get_color(), "markersize": 4, "clip_on": False, "zorder": 5}
                axis.plot(x, np.full(x.size, edge), mark, transform=axis.get_xaxis_transform(), **look)
                worst = (np.argmax if edge else np.argmin)(values[spikes])
                point = (values[spikes][worst], x[worst], line.get_color())
                far = point if far is None else (max if edge else min)(far, point, key=lambda each: each[0])
        if far is not None:
            _name_spike(axis, far, edge, where)


def unflattened(values: np.ndarray, logarithmic: bool) -> tuple[float, float]:
    """`without_spikes` where spikes would leave the rest a tenth of a plain axis or a third of a logarithmic one; else
    the lowest and the highest of all: the tail of a curve is not a spike."""
    low, high = without_spikes(values, logarithmic)
    values = values[~np.isnan(shown(values, positive=logarithmic))]
    if not values.size:
        return low, high
    ends = np.array([low, high, values.min(), values.max()])
    kept, whole = np.diff((np.log10(ends) if logarithmic else ends).reshape(2, 2))[:, 0]
    return (low, high) if whole > (3 if logarithmic else 10) * kept else (float(ends[2]), float(ends[3]))


def hold_points(axis: Axes) -> None:
    """The same along x, of points in rows: ends the x axis without the spikes of all of them."""
    logarithmic = axis.get_xscale() == "log"
    points = [np.ma.filled(np.ma.asarray(each.get_offsets(), float), np.nan) for each in axis.collections]
    drawn = np.concatenate(points or [np.zeros((0, 2))])
    low, high = unflattened(drawn[:, 0], logarithmic)
    x, at = shown(drawn[:, 0], positive=logarithmic), axis.get_yaxis_transform()
    for edge, beyond, mark, side in ((1, x > high, ">", "right"), (0, x < low, "<", "left")):
        if not beyond.any():
            continue
        factor, margin = (max(high / low, 2) ** 0.05, 0.0) if logarithmic else (1.0, 0.05 * (high - low) or 1.0)
        axis.set_xlim(low / factor - margin, high * factor + margin)
        for position in np.unique(drawn[beyond, 1]):
            values = ", ".join(f"{value:.3g}" for value in np.sort(drawn[beyond & (drawn[:, 1] == position), 0]))
            axis.plot([edge], [position], mark, transform=at, color=COLOURS[1], markersize=4, clip_on=False, zorder=5)
            text = {"xytext": (-6 if edge else 6, 0), "textcoords": "offset points", "ha": side, "va": "center"}
            axis.annotate(values, (edge, position), xycoords=at, fontsize=SMALL, **text, **_OVER_CURVES)


def _with_levels(axis: Axes, low: float, high: float, logarithmic: bool) -> tuple[float, float]:
    """These ends, moved so far that they hold the horizontal lines, too."""
    levels = [line.get_ydata() for line in axis.lines if line.get_transform() == axis.get_yaxis_transform("grid")]
    values = shown(np.concatenate([np.asarray(level, float) for level in levels] or [np.zeros(0)]), logarithmic)
    values = values[~np.isnan(values)]
    return min([low, *values]), max([high, *values])


def _end_axis(axis: Axes, low: float, high: float, logarithmic: bool) -> None:
    """Limits with the margin that a plain axis has; zero width becomes a little."""
    if logarithmic:
        margin = max((high / low) ** 0.05, 1.1)
        axis.set_ylim(low / margin, high * margin)
    else:
        margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        axis.set_ylim(low - margin, high + margin)


def _name_spike(axis: Axes, spike: tuple[float, float, Any], edge: int, where: str) -> None:
    value, x, colour = spike
    # On the side of the spike where the panel has more room.
    left, right = axis.transData.inverted().transform(axis.transAxes.transform([(0, 0), (1, 0)]))[:, 0]
    begins = abs(x - left) < abs(right - x)
    axis.annotate(
        f"{value:.3g}",
        (x, edge),
        xycoords=axis.get_xaxis_transform(),
        xytext=(6 if begins else -6, -2 if edge else 2),
        textcoords="offset points",
        ha="left" if begins else "right",
        va=where,
        fontsize=SMALL,
        color=colour,
        **_OVER_CURVES,
    )


def log_scale(axis: Axes) -> None:
    """A logarithmic y axis, unless nothing drawn is positive; with plain numbers where it has few decades."""
    drawn = [np.asarray(line.get_ydata(), float) for line in axis.lines]
    positive = np.concatenate([values[np.isfinite(values) & (values > 0)] for values in drawn] or [np.zeros(0)])
    if not positive.size:
        return
    axis.set_yscale("log")
    name_few_decades(axis.yaxis, positive)


def name_few_decades(scale: Axis, values: Any) -> None:
    """Plain numbers between the powers of ten of a logarithmic axis, where these values (but for spikes) span few."""
    low, high = without_spikes(values, logarithmic=True)
    if high < 30 * low:
        few = high < 3 * low
        scale.set_major_locator(LogLocator(10, (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0) if few else (1.0, 2.0, 5.0)))
        scale.set_major_formatter("{x:g}")
        scale.set_minor_formatter(NullFormatter())


def powers_of_two(axis: Axes, values: Sequence[float]) -> None:
    """A logarithmic x axis over these values with the numbers themselves: 1, 2, 4, …"""
    axis.set_xlim(min(values) / 1.15, max(values) * 1.15)  # Drawn or not: a scale without any point has no limits.
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:g}")


def heat_map(figure: Figure, axis: Axes, steps: list[int], lines: list[np.ndarray], offset: float, label: str) -> None:
    """log10 of a positive quantity over training step (x) and time step, grey where there is none.

    lines: [T] for each training step; a curriculum's may differ in length. offset: of the first row's centre. At most
    twelve decades below the largest have colours of their own; spikes have the last colour, and the largest is named.
    """
    longest = max(len(line) for line in lines)
    values = np.array([np.pad(line, (0, longest - len(line)), constant_values=np.nan) for line in lines])
    logs = np.log10(shown(values, positive=True))
    finite = logs[np.isfinite(logs)]
    low, high = np.log10(without_spikes(10.0**finite, logarithmic=True)) if finite.size else (0, 1)
    low, high = max(low, high - 12), max(high, low + 0.1)
    rows = np.arange(longest + 1) + offset - 0.5
    mesh = axis.pcolormesh(edges(steps), rows, logs.T, cmap="viridis", vmin=low, vmax=high, rasterized=True)
    axis.set_facecolor(NOTHING)
    axis.grid(False)
    below, above = bool((finite < low).any()), bool((finite > high + 1e-9).any())
    extend = {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[below, above]
    label += f", up to {finite.max():.3g}" if above else ""
    figure.colorbar(mesh, ax=axis, extend=extend, label=label)


def edges(steps: list[int]) -> list[float]:
    """Where the columns of a heat map begin, and where the last one ends: a column lasts until the next step."""
    return [*steps, steps[-1] + (steps[-1] - steps[-2] if len(steps) > 1 else 1)]


@contextlib.contextmanager
def kept() -> Iterator[dict[str, Figure]]:
    """Figures that are saved in this block go to a dict, by the name of their file, and nothing is written."""
    figures: dict[str, Figure] = {}
    token = _figures.set(figures)
    try:
        yield figures
    finally:
        _figures.reset(token)


_figures: ContextVar[dict[str, Figure] | None] = ContextVar("figures", default=None)
"""The figures of a block of `kept`."""


def save(figure: Figure, path: Path) -> Path:
    """Writes the figure, its words where they cover nothing, and closes it; in a block of `kept` it is kept instead.
    Beside the path come the other formats that --format asks for; each file is written whole or not at all.

    Raises:
        ConfigError: a format is unknown.
        Unwritable: a file cannot be written.
    """
    pictures: dict[Path, bytes] = {}
    with warnings.catch_warnings():
        # A panel of which nothing can be drawn has no limits of its own: the default ones will do.
        warnings.filterwarnings("ignore", "Attempt to set non-positive", UserWarning)
        finish(figure)
        if (figures := _figures.get()) is not None:
            figures[path.stem] = figure
            plt.close(figure)
            return path
        with matplotlib.rc_context(_FILES):
            for file in figure_files(path):
                picture, kind = io.BytesIO(), file.suffix[1:] or "png"
                figure.savefig(picture, format=kind, metadata=_NO_DATE.get(kind))
                pictures[file] = picture.getvalue()
    plt.close(figure)
    for file, content in pictures.items():
        write_bytes(file, content)
    return path
