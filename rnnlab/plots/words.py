"""Words of a figure: the names of curves at their ends, and titles and labels that are broken to fit their panel."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.text import Text

from rnnlab.plots.palette import marker_of

TEXT, SMALL = 8.0, 7.0
"""Points, of labels and of everything smaller: what a paper prints in a column of 3.4 inches."""
WIDEST = 0.4
"""A name at the end of a curve takes at most so much of its panel's width."""
_FURTHEST = 1.2
"""A name stands at most so many lines above or below the end of its curve: further away it would name any of them."""
_NEAR = 0.08
"""A curve ends at the right edge where it ends within so much of its panel's width of it."""


_MARK = 3.2
_NO_LINE = ("None", "", " ")

# --- marks -----------------------------------------------------------------------------------------------------------


def mark_curves(figure: Figure) -> set[Any]:
    """Gives curves of several colours in one panel the marks of their colours, a few along a curve of many points;
    returns these colours."""
    marked: set[Any] = set()
    for axis in figure.axes:
        curves = [line for line in axis.lines if marker_of(line.get_color()) and _is_curve(axis, line)]
        if len({line.get_color() for line in curves}) < 2:
            continue
        for line in curves:
            line.set_marker(marker_of(line.get_color()) or "")
            line.set_markersize(_MARK)
            if np.size(line.get_xdata()) > 8:
                line.set_markevery((0.04 + 0.03 * (list(axis.lines).index(line) % 6), 0.22))
            marked.add(line.get_color())
    return marked


def mark_handles(legend: Legend, colours: set[Any]) -> None:
    """Gives the lines of a legend the marks of their curves."""
    for handle in legend.legend_handles:
        if isinstance(handle, Line2D) and handle.get_color() in colours and handle.get_linestyle() not in _NO_LINE:
            handle.set_marker(marker_of(handle.get_color()) or "")
            handle.set_markersize(_MARK)


def _is_curve(axis: Axes, line: Line2D) -> bool:
    pale = line.get_alpha() is not None
    return not pale and line.get_transform() == axis.transData and line.get_linestyle() not in _NO_LINE


# --- names at the ends of curves -------------------------------------------------------------------------------------


class _End(NamedTuple):
    name: str
    line: Line2D
    x: float
    """Pixels."""
    height: float
    """Share of the panel's height."""


def name_curves(figure: Figure, renderer: RendererBase) -> bool:
    """Puts the names of curves at their ends, in place of a legend, where all of them end at the right edge and the
    names fit there; returns whether there are any."""
    is_named = False
    for axis in figure.axes:
        legend = axis.get_legend()
        if legend is None or not axis.get_visible():
            continue
        ends = _ends(axis)
        if not ends:
            continue
        texts = [Text(0, 0, end.name, fontsize=SMALL, figure=figure) for end in ends]
        boxes = [text.get_window_extent(renderer) for text in texts]
        gap = 1.05 * max(box.height for box in boxes) / axis.bbox.height
        if gap * (len(ends) - 1) > 1 or max(box.width for box in boxes) > WIDEST * axis.bbox.width:
            continue
        heights = spread_out([end.height for end in ends], gap)
        furthest = max(abs(height - end.height) for end, height in zip(ends, heights, strict=True))
        if furthest > _FURTHEST * gap:
            continue
        is_named, moved = True, furthest > 0.3 * gap
        legend.remove()
        for end, height in zip(ends, heights, strict=True):
            colour = end.line.get_color()
            axis.annotate(
                end.name,
                ((end.x - axis.bbox.x0) / axis.bbox.width, end.height),
                xycoords="axes fraction",
                xytext=(1.06 if moved else 1.02, height),
                textcoords="axes fraction",
                ha="left",
                va="center_baseline",
                fontsize=SMALL,
                color=colour,
                annotation_clip=False,
                arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": colour, "shrinkA": 0, "shrinkB": 2}
                if moved
                else None,
            )
    return is_named


def _ends(axis: Axes) -> list[_End]:
    """The last point of every curve that a panel's legend names; none where one of them does not end at the right."""
    box = axis.bbox
    legend = axis.get_legend()
    handles, names = axis.get_legend_handles_labels()
    if legend is None or [text.get_text() for text in legend.get_texts()] != names:
        return []
    ends = []
    for line, name in zip(handles, names, strict=True):
        if not isinstance(line, Line2D) or line.get_transform() == axis.get_xaxis_transform("grid"):
            return []
        points = line.get_transform().transform(np.column_stack(line.get_data()).astype(float))
        points = points[np.isfinite(points).all(axis=1)]
        inside = points[[box.padded(1).contains(x, y) for x, y in points]] if len(points) else points
        if not len(inside):
            return []
        x, y = inside[np.argmax(inside[:, 0])]
        if x < box.x1 - _NEAR * box.width:
            return []
        ends.append(_End(name, line, float(x), float((y - box.y0) / box.height)))
    return ends


def spread_out(heights: Sequence[float], gap: float) -> list[float]:
    """Heights in [0, 1], each as near as may be to the one that is wanted, no two nearer than `gap`."""
    order = np.argsort(heights, kind="stable")
    wanted = np.asarray(heights, float)[order]
    upwards, downwards = wanted.copy(), wanted.copy()
    for i in range(1, len(wanted)):
        upwards[i] = max(upwards[i], upwards[i - 1] + gap)
        downwards[-i - 1] = min(downwards[-i - 1], downwards[-i] - gap)
    between = (upwards + downwards) / 2
    between += max(0.0, -between[0]) - max(0.0, between[-1] - 1)
    placed = np.empty(len(wanted))
    placed[order] = between
    return placed.tolist()


# --- titles and labels -----------------------------------------------------------------------------------------------


def fit_words(figure: Figure, renderer: RendererBase) -> bool:
    """Breaks titles and labels of axes that are longer than their panel, between words; returns whether there were
    any."""
    before = [text.get_text() for text in figure.findobj(Text)]
    for axis in figure.axes:
        if not axis.get_visible():
            continue
        box = axis.bbox

        def width(text: Text) -> float:
            return text.get_window_extent(renderer).width

        def height(text: Text) -> float:
            return text.get_window_extent(renderer).height

        for text, size, room in (
            (axis.title, width, box.width),
            (axis.xaxis.label, width, box.width),
            (axis.yaxis.label, height, box.height),
        ):
            if text.get_text() and "\n" not in text.get_text():
                _broken(text, size, room * 1.04)
    return before != [text.get_text() for text in figure.findobj(Text)]


def _broken(text: Text, size: Callable[[Text], float], room: float) -> None:
    """Sets a text over as few lines as it needs, of about equal length; mathematics is not broken."""
    whole = text.get_text()
    words = _words(whole)
    for count in range(1, len(words) + 1):
        lines = _lines(words, count)
        text.set_text("\n".join(lines))
        if size(text) <= room:
            return


def _words(text: str) -> list[str]:
    words: list[str] = []
    for word in text.split(" "):
        if words and words[-1].count("$") % 2:
            words[-1] += f" {word}"
        else:
            words.append(word)
    return words


def _lines(words: Sequence[str], count: int) -> list[str]:
    """The words in so many lines, of which the longest is as short as it can be."""
    low, high = max(map(len, words)), len(" ".join(words))
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(_filled(words, middle)) <= count else (middle + 1, high)
    return _filled(words, low)


def _filled(words: Sequence[str], length: int) -> list[str]:
    lines = [words[0]]
    for word in words[1:]:
        if len(lines[-1]) + 1 + len(word) <= length:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
