"""The common parts of all figures: colours, axes, symbols, numbers from JSON, and how a file is written."""

import contextlib
import io
import math
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
from rnnlab.plots.spikes import hold_spikes as hold_spikes
from rnnlab.plots.spikes import shown, without_spikes
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


def span_steps(axis: Axes, steps: int) -> None:
    """Steps 1 to `steps` on the x axis, those too where a curve has nothing to show: a gradient that has vanished."""
    axis.update_datalim([(1, 1), (steps, 1)], updatey=False)


def log_scale(axis: Axes) -> None:
    """A logarithmic y axis, unless nothing drawn is positive; with plain numbers where it has few decades."""
    drawn = [np.asarray(line.get_ydata(), float) for line in axis.lines]
    positive = np.concatenate([values[np.isfinite(values) & (values > 0)] for values in drawn] or [np.zeros(0)])
    if not positive.size:
        return
    axis.set_yscale("log")
    name_few_decades(axis.yaxis, positive)


_NAMED = {
    2.0: (1.0, 1.1, 1.2, 1.3, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0),
    5.0: (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0),
    math.inf: (1.0, 2.0, 5.0),
}
"""The numbers named of each decade where the largest value is less than so many times the smallest."""


def name_few_decades(scale: Axis, values: Any, few: float = 30.0) -> None:
    """Plain numbers between the powers of ten of a logarithmic axis, where the largest of these values (but for spikes)
    is less than `few` times the smallest."""
    low, high = without_spikes(values, logarithmic=True)
    if high < few * low:
        named = next(numbers for factor, numbers in _NAMED.items() if high < factor * low)
        scale.set_major_locator(LogLocator(10, named))
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
