"""Every figure of the project: its words meet nothing, are within it, and can be read; colours are told apart."""

import itertools
import re
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.text import Text

from rnnlab.plots import style, sweep
from rnnlab.plots.legends import covers, finish, lies_over, renderer_of
from rnnlab.plots.palette import COLOURS, MARKERS
from rnnlab.plots.style import kept
from rnnlab.plots.words import spread_out
from tests.plots import examples
from tests.tiers import slow_tests

DEFAULT = ("learning_curve", "compare_gradient_flow", "cures", "validation_curves")
ALL = [*DEFAULT, *slow_tests(*(name for name in examples.FIGURES if name not in DEFAULT))]


def hidden_ticks(figure: Figure) -> set[int]:
    """The ids of tick labels that are not drawn, since they lie beyond the ends of their axis."""
    hidden = set()
    for axis in figure.axes:
        for scale in (axis.xaxis, axis.yaxis):
            low, high = sorted(scale.get_view_interval())
            for tick in (*scale.get_major_ticks(), *scale.get_minor_ticks()):
                if not axis.axison or not low <= tick.get_loc() <= high:
                    hidden |= {id(tick.label1), id(tick.label2)}
    return hidden


@pytest.mark.parametrize("name", ALL)
def test_no_word_of_a_figure_meets_another_or_a_curve_and_none_is_cut(name: str, tmp_path: Path) -> None:
    figures = examples.drawn(name, tmp_path)
    assert figures
    for figure in figures.values():
        FigureCanvasAgg(figure)  # They are closed, and have none.
        figure.draw_without_rendering()
        assert_words_are_clear(figure)
        assert min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text()) >= 5.5
        assert figure.get_figwidth() == style.COLUMN or figure.get_figwidth() >= style.PAGE


def assert_words_are_clear(figure: Figure) -> None:
    """No two boxes of words overlap, none is cut by the figure's edge, and none beside a curve lies over one."""
    renderer, hidden = renderer_of(figure), hidden_ticks(figure)
    boxes = [
        (text.get_text(), Text.get_window_extent(text, renderer))
        for text in figure.findobj(Text)
        if text.get_text().strip() and text.get_visible() and id(text) not in hidden and _is_drawn(text)
    ]
    whole = figure.bbox.padded(1)
    cut = [
        text for text, box in boxes if box.x0 < whole.x0 or box.x1 > whole.x1 or box.y0 < whole.y0 or box.y1 > whole.y1
    ]
    assert not cut
    meeting = [
        (one, other)
        for (one, first), (other, second) in itertools.combinations(boxes, 2)
        if first.padded(-1).overlaps(second.padded(-1))
    ]
    assert not meeting
    for axis in figure.axes:
        legends = [legend for legend in (axis.get_legend(), *figure.legends) if legend is not None]
        assert not any(covers(axis, legend, renderer) for legend in legends if axis.get_visible() and axis.axison)
        over_a_picture = axis.images or any(isinstance(each, QuadMesh) for each in axis.collections)
        in_bars = any(isinstance(each, BarContainer) for each in axis.containers)
        for text in axis.texts if axis.get_visible() and not over_a_picture and not in_bars else ():
            if text.get_bbox_patch() is None and not text.get_path_effects():  # Else it has a ground of its own.
                box = Text.get_window_extent(text, renderer).padded(-1)
                assert not lies_over(axis, box, renderer, text), text.get_text()


def _is_drawn(text: Text) -> bool:
    return text.axes is None or text.axes.get_visible()


@pytest.mark.parametrize("heights", [[0.5], [0.5, 0.5, 0.5], [0, 0, 0.01], [1, 1, 0.2], [0.3, 0.1, 0.2]])
def test_names_at_the_ends_of_curves_keep_their_order_and_a_gap(heights: list[float]) -> None:
    placed = np.array(spread_out(heights, 0.1))
    assert (np.diff(np.sort(placed)) > 0.1 - 1e-12).all()
    assert placed.min() > -1e-12
    assert placed.max() < 1 + 1e-12
    order = np.argsort(heights, kind="stable")
    assert (np.diff(placed[order]) > 0).all()


def test_names_stand_at_the_ends_of_curves_where_they_fit_and_else_in_a_legend() -> None:
    t = np.linspace(0, 1, 50)
    for ends, named in (((1.0, 2.0), True), ((1.0, 1.0, 1.0, 1.0, 1.0), False)):
        figure, (axis,) = style.make_axes(1)
        for number, end in enumerate(ends):
            axis.plot(t, end * t, color=COLOURS[number], label=f"curve {number}")
        axis.legend()
        finish(figure)
        assert (axis.get_legend() is None) == named
        assert [text.get_text() for text in axis.texts] == (["curve 0", "curve 1"] if named else [])
        plt.close(figure)


@pytest.mark.parametrize("name", ["a label of many words " * 10, "a_label_without_spaces" * 10])
@pytest.mark.parametrize("panels", [1, 2])
def test_names_longer_than_a_panel_are_broken_and_leave_it_its_width(panels: int, name: str) -> None:
    figure, axes = style.make_axes(panels)
    for number in range(3):
        for axis in axes:
            axis.plot([0, 1], [number, 0], label=f"{name}{number}")
    axes[0].legend()
    finish(figure)
    figure.draw_without_rendering()
    assert_words_are_clear(figure)
    assert axes[0].bbox.width > 0.5 * figure.bbox.width / panels
    shown = [text.get_text() for text in axes[0].get_legend().get_texts()]
    assert ["".join(text.split()) for text in shown] == ["".join(f"{name}{number}".split()) for number in range(3)]


def test_curves_of_two_colours_have_the_marks_of_their_colours_in_the_legend_too() -> None:
    figure, (axis,) = style.make_axes(1)
    for number in range(6):
        axis.plot(
            np.linspace(0, 1, 50), np.full(50, number / 1000), color=COLOURS[number], label="a name that is long " * 3
        )
    axis.legend()
    finish(figure)
    assert [line.get_marker() for line in axis.lines] == MARKERS
    assert [handle.get_marker() for handle in axis.get_legend().legend_handles] == MARKERS
    plt.close(figure)


# --- colours ---------------------------------------------------------------------------------------------------------

# Machado, Oliveira and Fernandes (2009), table 1, severity 1.
SIGHTS = {
    "all cones": np.eye(3),
    "no red cones": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green cones": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "no blue cones": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def linear(colours: list[str]) -> np.ndarray:
    """Linear light of sRGB colours."""
    rgb = np.array([[int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)] for colour in colours])
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(light: np.ndarray) -> np.ndarray:
    """CIELAB of linear light, with the white of sRGB."""
    xyz = light @ TO_XYZ.T / TO_XYZ.sum(1)
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)


@pytest.mark.parametrize("sight", SIGHTS)
def test_colours_are_told_apart_with_any_cones(sight: str) -> None:
    seen = lab(np.clip(linear(COLOURS) @ np.array(SIGHTS[sight]).T, 0, 1))
    apart = [np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)]
    assert min(apart) > 18


def test_colours_are_told_apart_in_grey_and_seen_on_white() -> None:
    lightness = lab(linear(COLOURS))[:, 0]
    assert min(abs(a - b) for a, b in itertools.combinations(lightness, 2)) > 5
    luminance = linear(COLOURS) @ TO_XYZ[1]
    assert (1.05 / (luminance + 0.05)).min() > 3
    assert len(set(MARKERS)) == len(COLOURS)


def test_no_colour_of_a_curve_is_written_but_in_the_palette() -> None:
    top = Path(style.__file__).parent.parent
    allowed = {"palette.py": None, "atlas.py": None}
    files = [path for folder in ("plots", "diagnostics", "sweeps") for path in (top / folder).rglob("*.py")]
    wrong: Any = {
        p.name: m for p in files if p.name not in allowed and (m := re.findall(r'"#[0-9a-f]{6}"', p.read_text()))
    }
    assert wrong == {}


def test_a_share_that_falls_to_0_stays_in_sight_of_those_that_learn_nothing(tmp_path: Path) -> None:
    steps = np.arange(20.0)
    flat = 0.75 + 0.01 * np.cos(steps)
    means = [flat, flat, np.where(steps < 15, flat, 0.0)]
    curves = [sweep.Curve(f"{number}", number, steps, mean, mean, mean) for number, mean in enumerate(means)]
    with kept() as figures:
        sweep.ribbons([("", curves)], "validation wrong", False, tmp_path / "curves.png")
    low, high = figures["curves"].axes[0].get_ylim()
    assert low < 0 < 0.75 < high


def test_words_of_claims_at_the_ends_of_an_axis_go_inwards(tmp_path: Path) -> None:
    shares = [(1.0, 0.5, 1.0), (0.5, 0.2, 0.8), (0.0, 0.0, 0.5)]
    lines = [sweep.Solved("SGD", 0, [20, 100, 200], shares)]
    claims = [sweep.Claim(value, "words of a publication") for value in (20, 100, 200)]
    with kept() as figures:
        sweep.solved(lines, "length", claims, tmp_path / "solved.png")
    figure = figures["solved"]
    figure.canvas.draw()
    axis = figure.axes[0]
    inside = axis.get_window_extent()
    boxes = [text.get_window_extent() for text in axis.texts if text.get_text() == claims[0].text]
    assert len(boxes) == 3
    assert all(inside.x0 - 1 <= box.x0 < box.x1 <= inside.x1 + 1 for box in boxes)
