"""Where legends stand: in their panel where they cover nothing that is drawn, else beside it."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.path import Path
from matplotlib.transforms import Bbox, BboxBase

PLACES: tuple[Any, ...] = (
    *("upper right", "upper left", "lower right", "lower left"),
    *("center right", "center left", "upper center", "lower center", "center"),
)
MARGIN = 4.0
"""Pixels between a legend and what is drawn."""


def clear_legends(figure: Figure) -> None:
    """Moves every legend that covers a curve, a point, a bar, a picture or a text to a place in its panel where it
    covers nothing, or, where there is none, to the right of it; the figure grows by what that takes."""
    for _ in range(3):  # Growing moves what is drawn.
        if not _moved(figure):
            return


def _moved(figure: Figure) -> bool:
    """Whether a legend had to be moved."""
    figure.draw_without_rendering()
    renderer = _renderer(figure)
    widths: dict[int, float] = {}
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
            legend.set_loc("center left")
            legend.set_bbox_to_anchor((1, 0.5))
            spec = axis.get_subplotspec()
            row = 0 if spec is None else spec.rowspan.start
            widths[row] = widths.get(row, 0.0) + legend.get_window_extent(renderer).width / figure.dpi
    if widths:
        figure.set_figwidth(figure.get_figwidth() + max(widths.values()))
    return moved


def covers(axis: Axes, legend: Legend, renderer: RendererBase) -> bool:
    """Whether a legend lies over anything that its panel shows."""
    box = legend.get_window_extent(renderer).padded(MARGIN)
    box = Bbox.intersection(box, axis.get_window_extent(renderer).padded(MARGIN))
    return box is not None and any(_meet(box, drawn) for drawn in _drawn(axis, renderer))


class _Marks(NamedTuple):
    points: np.ndarray
    """[N, 2]"""
    radius: float


def _meet(box: Bbox, drawn: Path | BboxBase | _Marks) -> bool:
    if isinstance(drawn, _Marks):
        return box.padded(drawn.radius).count_contains(drawn.points) > 0
    return box.overlaps(drawn) if isinstance(drawn, BboxBase) else drawn.intersects_bbox(box, filled=False)


def _drawn(axis: Axes, renderer: RendererBase) -> Iterator[Path | BboxBase | _Marks]:
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
        if text.get_visible() and text.get_text():
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


def _renderer(figure: Figure) -> RendererBase:
    return figure.canvas.get_renderer()  # pyright: ignore[reportAttributeAccessIssue]
