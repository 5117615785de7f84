"""How a figure is finished: marks, sizes and names of curves; legends stand where they cover nothing that is drawn."""

import textwrap
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.path import Path
from matplotlib.text import Text
from matplotlib.transforms import Bbox, BboxBase, ScaledTranslation

from rnnlab.plots.words import SMALL, TEXT, fit_words, mark_curves, mark_handles, name_curves

PLACES: tuple[Any, ...] = (
    *("upper right", "upper left", "lower right", "lower left"),
    *("center right", "center left", "upper center", "lower center", "center"),
)
MARGIN = 4.0
"""Pixels between a legend and what is drawn."""


COMPACT: dict[str, Any] = {
    **{"frameon": False, "fontsize": SMALL, "handlelength": 1.8, "handletextpad": 0.5, "columnspacing": 1.2},
    **{"labelspacing": 0.3, "borderaxespad": 0.4},
}
"""The look of a legend."""


def finish(figure: Figure) -> None:
    """Marks curves, sets all words in the sizes of the style, names curves at their ends where that fits, breaks what
    is longer than its panel, and clears the legends that are left."""
    marked = mark_curves(figure)
    for axis in figure.axes:
        for title in (axis.title, axis.xaxis.label, axis.yaxis.label):
            title.set_fontsize(TEXT)
        if axis.get_label() == "<colorbar>":
            axis.tick_params(labelsize=SMALL, width=0.7, length=2.5)
        if (legend := axis.get_legend()) is not None:
            _break_names(_set_legend(axis, legend), figure.get_figwidth() / _columns(axis))
    for legend in (*(axis.get_legend() for axis in figure.axes), *figure.legends):
        if legend is not None:
            mark_handles(legend, marked)
    figure.draw_without_rendering()
    renderer = renderer_of(figure)
    if fit_words(figure, renderer):
        figure.draw_without_rendering()
    if name_curves(figure, renderer):  # Which makes panels narrower.
        figure.draw_without_rendering()
        fit_words(figure, renderer)
    clear_legends(figure)


def _set_legend(axis: Axes, legend: Legend, **place: Any) -> Legend:
    """The legend once more, compact."""
    handles, names = axis.get_legend_handles_labels()
    shown = [text.get_text() for text in legend.get_texts()]
    others: list[Any] = legend.legend_handles
    return axis.legend(handles if names == shown else others, shown, **(COMPACT | place))


def _columns(axis: Axes) -> float:
    """So many panels as wide as this one fill a row."""
    spec = axis.get_subplotspec()
    return 1 if spec is None else spec.get_gridspec().ncols / len(spec.colspan)


def _break_names(legend: Legend, width: float) -> None:
    """Sets names that are longer than a panel of so many inches over several lines: else they leave it no room."""
    length = max(8, int(72 * (width - _BESIDE_NAMES) / (_CHARACTER * SMALL)))
    for text in legend.get_texts():
        name = text.get_text()
        if len(name) > length and "$" not in name:
            text.set_text("\n".join(line for part in name.split("\n") for line in textwrap.wrap(part, length)))


_BESIDE_NAMES = 0.9
"""Inches of a panel's column that its numbers, its label and the lines in the legend take."""
_CHARACTER = 0.6
"""The width of one, over the size of the letters."""


def clear_legends(figure: Figure) -> None:
    """Moves every legend that covers a curve, a point, a bar, a picture or a text to a place in its panel where it
    covers nothing, or, where there is none, below it; the figure grows by what that takes."""
    for _ in range(3):  # Growing moves what is drawn.
        if all(axis.get_legend() is None for axis in figure.axes) or not _moved(figure):
            return


def _moved(figure: Figure) -> bool:
    """Whether a legend had to be moved."""
    figure.draw_without_rendering()
    renderer = renderer_of(figure)
    heights: dict[int, float] = {}
    moved = False
    for axis in figure.axes:
        legend = axis.get_legend()
        if legend is None or not axis.get_visible() or not covers(axis, legend, renderer):
            continue
        moved = True
        for location in PLACES:
            legend.set_loc(location)
            if not covers(axis, legend, renderer):
                break
        else:
            height = _put_below(axis, legend, renderer)
            spec = axis.get_subplotspec()
            row = 0 if spec is None else spec.rowspan.start
            heights[row] = max(heights.get(row, 0.0), height)
    if heights:
        figure.set_figheight(figure.get_figheight() + sum(heights.values()))
    return moved


def _put_below(axis: Axes, legend: Legend, renderer: RendererBase) -> float:
    """Puts a legend below its panel, over as many columns as have room; returns its height in inches."""
    dpi = axis.figure.dpi
    words = axis.xaxis.get_tightbbox(renderer)
    depth = 0.05 + (0.0 if words is None else max(0.0, axis.bbox.y0 - words.y0)) / dpi
    room, box = axis.get_tightbbox(renderer), legend.get_window_extent(renderer)
    wide = axis.bbox.width if room is None else room.width
    columns = int(np.clip(wide // (box.width + SMALL * dpi / 72), 1, len(legend.get_texts())))
    _set_legend(
        axis,
        legend,
        loc="upper left",
        ncols=columns,
        bbox_to_anchor=(0, 0),
        bbox_transform=axis.transAxes + ScaledTranslation(0, -depth, axis.figure.dpi_scale_trans),
        borderaxespad=0,
    )
    return box.height / columns / dpi


def covers(axis: Axes, legend: Legend, renderer: RendererBase) -> bool:
    """Whether a legend lies over anything that its panel shows."""
    return lies_over(axis, legend.get_window_extent(renderer).padded(MARGIN), renderer)


def lies_over(axis: Axes, box: Bbox, renderer: RendererBase, but: Text | None = None) -> bool:
    """Whether a box, in pixels, lies over anything that a panel shows but one text."""
    inside = Bbox.intersection(box, axis.get_window_extent(renderer).padded(MARGIN))
    return inside is not None and any(_meet(inside, drawn) for drawn in _drawn(axis, renderer, but))


class _Marks(NamedTuple):
    points: np.ndarray
    """[N, 2]"""
    radius: float


def _meet(box: Bbox, drawn: Path | BboxBase | _Marks) -> bool:
    if isinstance(drawn, _Marks):
        return box.padded(drawn.radius).count_contains(drawn.points) > 0
    return box.overlaps(drawn) if isinstance(drawn, BboxBase) else drawn.intersects_bbox(box, filled=False)


def _drawn(axis: Axes, renderer: RendererBase, but: Text | None) -> Iterator[Path | BboxBase | _Marks]:
    """All that a panel shows beside its axes, in pixels."""
    panel = axis.get_window_extent(renderer)
    for line in axis.lines:
        points = line.get_transform().transform(np.column_stack(line.get_data()).astype(float))
        if line.get_linestyle() not in ("None", "", " "):
            yield from _segments(points)
        if line.get_marker() not in ("None", "", " ", None):
            yield _marks(points, line.get_markersize() * axis.figure.dpi / 144)
    for collection in axis.collections:
        if isinstance(collection, PathCollection):
            offsets = np.ma.filled(np.ma.asarray(collection.get_offsets(), float), np.nan)
            size = np.sqrt(max(collection.get_sizes(), default=0)) * axis.figure.dpi / 144
            yield _marks(collection.get_offset_transform().transform(offsets), size)
        elif isinstance(collection, QuadMesh):
            yield panel
        else:  # A band, or bars of an interval: its outline.
            for path in collection.get_paths():
                yield from _segments(collection.get_transform().transform(path.vertices))
    for patch in axis.patches:
        yield from _segments(patch.get_transform().transform(patch.get_path().vertices))
        yield patch.get_window_extent(renderer)
    for text in axis.texts:
        if text is not but and text.get_visible() and text.get_text():
            yield text.get_window_extent(renderer)
    if axis.images:
        yield panel


def _segments(points: np.ndarray) -> Iterator[Path]:
    """The pieces of a polyline between its gaps."""
    points = np.asarray(points, float)
    finite = np.asarray(np.isfinite(points).all(axis=1))
    for piece in np.split(np.arange(len(points)), np.flatnonzero(~finite)):
        piece = piece[finite[piece]]
        if len(piece) > 1:
            yield Path(points[piece])


def _marks(points: np.ndarray, radius: float) -> _Marks:
    points = np.asarray(points, float)
    finite = np.asarray(np.isfinite(points).all(axis=1))
    # `count_contains` takes no empty array.
    return _Marks(points[finite] if finite.any() else np.array([[-np.inf, -np.inf]]), radius)


def renderer_of(figure: Figure) -> RendererBase:
    return figure.canvas.get_renderer()  # pyright: ignore[reportAttributeAccessIssue]
