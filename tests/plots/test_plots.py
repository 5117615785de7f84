"""Figures: every one of what training measured, limits with infinities and zeros, and what is left out."""

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection

from rnnlab import plots
from rnnlab.diagnostics import DIAGNOSTICS
from rnnlab.plots import runs, style
from rnnlab.plots.diagnosis import FIGURES as DIAGNOSED
from rnnlab.plots.legends import clear_legends
from rnnlab.records.run_config import resolve_config
from tests.helpers import SMALL_RUN
from tests.tiers import exhaustive_tests

STEPS, LENGTH = 4, 5
OBSERVED = [figure.name for diagnostic in DIAGNOSTICS.values() for figure in diagnostic.figures]


def observed_line(step: int, number: Any) -> dict[str, Any]:
    """A line of diagnostics.jsonl of an LSTM and a ReLU layer above it, `number` wherever one stands."""
    each = [number] * LENGTH
    flow = {f"layer 1/{what}": each for what in ("h", "c", "delta")} | {"layer 2/h": each}
    flow |= {f"layer {n}/{what}": number for n in (1, 2) for what in ("factor", "half_life", "horizon")}
    kinds = ("gradient", "clipped", "weight", "update", "update / weight")
    names = ("layer 1/recurrent_kernel", "layer 1/recurrent_kernel/f", "layer 2/bias", "readout/kernel")
    block = ("largest singular value", "smallest singular value", "spectral radius", "distance from orthogonality")
    return {
        "step": step,
        "seconds": 1.0,
        "gradient_flow": flow,
        "norms": {f"{name}/{kind}": number for name in names for kind in kinds},
        "saturation": {
            "layer 1/f/above 0.99": number,
            "layer 1/f/below 0.01": number,
            "layer 1/f/histogram": [number] * 20,
            "layer 1/g/beyond 0.99": number,
            "layer 1/g/histogram": [number] * 20,
            "layer 1/h/norm": each,
            "layer 1/c/norm": each,
            "layer 2/h/dead": number,
            "layer 2/h/norm": each,
        },
        "spectrum": {f"layer 1/{gate}/{key}": number for gate in "if" for key in block}
        | {f"layer 1/{gate}/singular values": [number] * 3 for gate in "if"},
    }


def write_lines(workdir: Path, lines: list[dict[str, Any]]) -> None:
    (workdir / "diagnostics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The figures that were saved, by name, still open."""
    by_name: dict[str, Any] = {}

    def keep(figure: Any, path: Path) -> Path:
        clear_legends(figure)
        figure.canvas.draw()
        by_name[path.stem] = figure
        return path

    for module in ("observed", "diagnosis"):  # By import: as attributes of the package they are functions.
        monkeypatch.setattr(importlib.import_module(f"rnnlab.plots.{module}"), "save", keep)
    yield by_name
    plt.close("all")


@pytest.mark.slow
@pytest.mark.parametrize("number", ["nan", *exhaustive_tests(0.0, "inf")])
def test_every_figure_of_a_run_is_drawn_whatever_the_numbers_are(
    number: Any, tmp_path: Path, drawn: dict[str, Any]
) -> None:
    write_lines(tmp_path, [observed_line(10 * n, number if n == 2 or number != "inf" else 1.0) for n in range(STEPS)])
    plots.observed(tmp_path)
    assert set(drawn) == set(OBSERVED)
    for figure in drawn.values():
        for axis in figure.axes:
            assert np.isfinite([*axis.get_xlim(), *axis.get_ylim()]).all()


@pytest.mark.slow
def test_a_run_of_one_line_is_drawn(tmp_path: Path) -> None:
    write_lines(tmp_path, [observed_line(0, 0.5)])
    assert len(plots.observed(tmp_path)) == len(OBSERVED)
    assert all(path.stat().st_size > 0 for path in (tmp_path / "plots").iterdir())


def test_a_gradient_that_vanishes_is_drawn_over_all_steps(tmp_path: Path) -> None:
    vanishing = [0.0] * 90 + [1e-3**back for back in range(10)][::-1]
    flow = {"untrained": {"layer 1": vanishing}, "trained": {"layer 1": vanishing}}
    (tmp_path / "gradient_flow.json").write_text(json.dumps(flow))
    with style.kept() as figures:
        plots.gradient_flow(tmp_path)
    left, right = figures["gradient_flow"].axes[0].get_xlim()
    assert left <= 1
    assert right >= 100


def test_untrained_and_trained_keep_their_colours_in_whatever_order_the_file_has_them(tmp_path: Path) -> None:
    flow = {"trained": {"layer 1": [1.0, 2.0]}, "untrained": {"layer 1": [1.0, 3.0]}}
    (tmp_path / "gradient_flow.json").write_text(json.dumps(flow))
    with style.kept() as figures:
        plots.gradient_flow(tmp_path)
    colours = {line.get_label(): line.get_color() for line in figures["gradient_flow"].axes[0].lines}
    assert colours == dict(zip(("untrained", "trained"), style.COLOURS, strict=False))


@pytest.mark.slow
def test_clipping_is_seen_beside_the_gradient_and_gates_are_not(tmp_path: Path, drawn: dict[str, Any]) -> None:
    line = observed_line(0, 1.0)
    line["norms"] |= {"layer 1/recurrent_kernel/gradient": 40.0, "layer 1/recurrent_kernel/f/gradient": 7.0}
    write_lines(tmp_path, [line, line | {"step": 1}])
    plots.observed(tmp_path)
    first = drawn["norms"].axes[0]
    assert sorted(float(line.get_ydata()[0]) for line in first.lines) == [1, 40]
    assert "clipping" in first.get_title()


@pytest.mark.slow
def test_a_heat_map_has_the_longest_length_of_a_curriculum(tmp_path: Path, drawn: dict[str, Any]) -> None:
    short, whole = observed_line(0, 1.0), observed_line(10, 1.0)
    short["gradient_flow"] = {
        name: value[:2] if isinstance(value, list) else value for name, value in short["gradient_flow"].items()
    }
    write_lines(tmp_path, [short, whole])
    plots.observed(tmp_path)
    (mesh,) = drawn["gradient_heat_map"].axes[0].collections
    values = mesh.get_array().reshape(LENGTH, 2)
    assert np.ma.getmaskarray(values)[:, 0].tolist() == [False, False, True, True, True]
    assert not np.ma.getmaskarray(values)[:, 1].any()


@pytest.mark.slow
def test_no_half_life_is_drawn_where_every_step_is_read(
    tmp_path: Path, drawn: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rnnlab.tasks.adding.Adding.readout", "every")
    (tmp_path / "config.json").write_text(json.dumps(resolve_config(SMALL_RUN)))
    write_lines(tmp_path, [observed_line(0, 0.5)])
    plots.observed(tmp_path)
    assert set(drawn) == set(OBSERVED) - {"half_life"}


def diagnosed(number: Any) -> dict[str, Any]:
    """A diagnosis.json of two units."""
    return {
        "horizon": {"layer 1": {"norms": [number] * LENGTH, "factor": number}},
        "jacobians": {
            "layer 1": {
                "times": [0, 4],
                "singular_values": [[number] * 2] * 2,
                "eigenvalues": [[[number, number]] * 2] * 2,
                "counts": [1, 2, 4],
                "log10_products": [[number] * 2] * 3,
            }
        },
        "lyapunov": {"layer 1": {"mean": [number] * 2, "error": [number] * 2}},
        "lags": {"layer 1": {"gates": ["h"], "norms": [[number]] * 4, "cosine": [number] * 4, "ratio": [number] * 4}},
        "closed_loop": {"time": [1, 2], "course": [number] * 2, "mean": [number], "error": [number], "system": number},
        "newton": {
            "layer 1": {
                "steps": 9,
                "exponent": number,
                "tolerance": 8e-6,
                "kinds": {"full": {"course": [number] * 3, "iterations": 2, "converged": number}},
            }
        },
        "truncation": {"windows": [1, 2, 4], "all": {"cosine": [number] * 3, "ratio": [number] * 3}},
        "values": {"layer 1": {"h": {"edges": [0, 0.5, 1], "shares": [number] * 2, "notes": {"are 0": number}}}},
    }


@pytest.mark.parametrize("number", ["nan", *exhaustive_tests(0.0, "-inf")])
def test_every_figure_of_a_diagnosis_is_drawn_whatever_the_numbers_are(
    number: Any, tmp_path: Path, drawn: dict[str, Any]
) -> None:
    (tmp_path / "diagnosis.json").write_text(json.dumps(diagnosed(number)))
    plots.diagnosis(tmp_path)
    assert set(drawn) == set(DIAGNOSED)
    for figure in drawn.values():
        for axis in figure.axes:
            assert np.isfinite([*axis.get_xlim(), *axis.get_ylim()]).all()


@pytest.mark.slow
def test_what_double_precision_cannot_tell_is_not_drawn_as_a_singular_value(
    tmp_path: Path, drawn: dict[str, Any]
) -> None:
    measured = diagnosed(0.5)
    floor = float(np.log10(2 * np.finfo(float).eps))
    measured["jacobians"]["layer 1"]["log10_products"] = [[0, -3], [0, -9], [0, floor]]
    (tmp_path / "diagnosis.json").write_text(json.dumps(measured))
    plots.diagnosis(tmp_path)
    lines = {line.get_label(): line.get_ydata() for line in drawn["jacobians"].axes[2].lines}
    np.testing.assert_array_equal(lines["smallest"], [-3, -9, np.nan])
    np.testing.assert_array_equal(lines["largest"], [0, 0, 0])


def test_a_narrow_logarithmic_axis_has_plain_numbers() -> None:
    _, (axis,) = style.make_axes(1)
    axis.plot([1, 2], [2.0, 7.0])
    style.log_scale(axis)
    axis.figure.canvas.draw()
    texts = [label.get_text() for label in axis.get_yticklabels()]
    assert "5" in texts
    assert not any("10^" in text for text in texts)
    plt.close("all")


@pytest.mark.parametrize(
    ("baselines", "lines", "names"),
    [
        ({"validation": 0.0, "test": 0.0}, [], []),
        ({"validation": 7.0, "test": 6.0}, [7.0], ["baseline 7"]),
        (
            {"validation": 7.0, "train": 6.5, "test": 6.0},
            [7.0, 6.5],
            ["baseline, validation 7", "baseline, train 6.5"],
        ),
        ({"validation": 7.0, "train": 7.0}, [7.0], ["baseline 7"]),
        ({"test": 6.0}, [], []),
        ({}, [], []),
    ],
)
def test_baselines_are_those_of_the_splits_that_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, baselines: Any, lines: list[float], names: list[str]
) -> None:
    rows = [{"step": 1, "split": split, "loss": 5.0, "grad_norm": 1.0} for split in ("train", "validation")]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    figures: list[Any] = []
    monkeypatch.setattr(runs, "save", lambda figure, path: figures.append(figure))
    plots.learning_curve(tmp_path, baselines)
    axis = figures[0].axes[0]
    levels = [line for line in axis.lines if line.get_linestyle() == "--"]
    assert [line.get_ydata()[0] for line in levels] == lines
    assert [line.get_label() for line in levels] == names
    assert set(names) <= set(axis.get_legend_handles_labels()[1])
    plt.close(figures[0])


def test_learning_curve_shows_the_learning_rate_where_a_run_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Any] = []
    monkeypatch.setattr(runs, "save", lambda figure, path: figures.append(figure))
    for number, rates in enumerate(({"learning_rate": 0.1}, {})):
        folder = tmp_path / str(number)
        folder.mkdir()
        rows = [{"step": step, "split": "train", "loss": 5.0, "grad_norm": 1.0} | rates for step in (1, 2)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        plots.learning_curve(folder)
    (shown, without) = ([axis for axis in each.axes if axis.get_title() == "learning rate"] for each in figures)
    assert [list(line.get_ydata()) for line in shown[0].lines] == [[0.1, 0.1]]
    assert without == []
    for figure in figures:
        plt.close(figure)


def test_learning_curve_shows_the_rates_of_groups_beside_the_optimizers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Any] = []
    monkeypatch.setattr(runs, "save", lambda figure, path: figures.append(figure))
    rates = {"learning_rate": 0.1, "learning_rate/recurrent": 0.01, "learning_rate/bias": 0.2}
    rows = [{"step": step, "split": "train", "loss": 5.0, "grad_norm": 1.0} | rates for step in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plots.learning_curve(tmp_path)
    assert [axis.get_title() for axis in figures[0].axes][-1] == "learning rate"
    drawn = {line.get_label(): list(line.get_ydata()) for line in figures[0].axes[-1].lines}
    assert drawn == {"optimizer": [0.1, 0.1], "bias": [0.2, 0.2], "recurrent": [0.01, 0.01]}
    assert len(figures[0].axes) == 3
    plt.close(figures[0])


def test_runs_are_compared_by_their_last_layer_forwards() -> None:
    names = ["layer 1/h", "layer 1 reverse/h", "layer 2/h", "layer 2 reverse/h"]
    assert runs.last_forward(names) == "layer 2/h"
    assert runs.last_forward(["layer 1"]) == "layer 1"


# --- legends ---------------------------------------------------------------------------------------------------------


def assert_legends_cover_nothing(figure: Any) -> None:
    """No point of a curve, a hundred between two that are given, and no marker lies under a legend of its panel."""
    figure.canvas.draw()
    for axis in figure.axes:
        legend = axis.get_legend()
        if legend is None:
            continue
        box = legend.get_window_extent()
        for line in axis.lines:
            points = line.get_transform().transform(np.column_stack(line.get_data()).astype(float))
            between = points[:-1] + np.diff(points, axis=0) * np.linspace(0, 1, 100)[:, None, None]
            x, y = between.reshape(-1, 2).T
            hidden = [(x > b.x0) & (x < b.x1) & (y > b.y0) & (y < b.y1) for b in (axis.bbox, box)]
            assert not (hidden[0] & hidden[1]).any()
        for collection in axis.collections:
            if isinstance(collection, PathCollection):
                assert not box.count_contains(axis.transData.transform(collection.get_offsets()))


CURVES = {
    "one corner is free": lambda t: [t**8, t**9],
    "the middle is free": lambda t: [1 + 0.02 * np.sin(40 * t), -1 + 0.02 * np.sin(40 * t)],
    "nothing is free": lambda t: [np.sin(200 * t + n) for n in range(3)],
    "gaps": lambda t: [np.where((t > 0.4) & (t < 0.6), np.nan, np.sin(99 * t))],
    "a spike": lambda t: [np.where(np.arange(len(t)) == len(t) // 2, 1e21, np.sin(200 * t))],
}


@pytest.mark.parametrize("name", CURVES)
def test_no_legend_covers_a_curve_or_a_point(name: str) -> None:
    figure, axes = style.make_axes(2)
    t = np.linspace(0, 1, 100)
    for axis in axes:
        for number, curve in enumerate(CURVES[name](t)):
            axis.plot(t, curve, label=f"the curve of number {number}")
            axis.scatter(t, curve, s=4)
        style.hold_spikes(axis)
        axis.legend(frameon=False, fontsize=8)
    clear_legends(figure)
    assert_legends_cover_nothing(figure)
    plt.close("all")


def test_a_legend_below_its_panel_is_within_the_picture_and_the_panel_keeps_its_size(tmp_path: Path) -> None:
    figure, (axis,) = style.make_axes(1)
    t = np.linspace(0, 1, 300)
    for number in range(3):
        axis.plot(t, np.sin(200 * t + number), label=f"a long label for curve {number}")
    figure.draw_without_rendering()
    before = axis.get_window_extent()
    axis.legend()
    clear_legends(figure)
    figure.draw_without_rendering()
    box = axis.get_legend().get_window_extent()
    assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
    assert figure.bbox.y0 <= box.y0 < box.y1 <= axis.xaxis.get_tightbbox(figure.canvas.get_renderer()).y0
    assert axis.get_window_extent().width == pytest.approx(before.width, rel=0.1)
    assert axis.get_window_extent().height == pytest.approx(before.height, rel=0.1)
    assert figure.get_figwidth() == style.COLUMN
    plt.close("all")


# --- spikes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spike", "logarithmic"), [(1e21, False), (-1e21, False), (1e21, True), (1e-30, True)])
def test_a_spike_is_marked_at_the_edge_with_its_value_and_flattens_nothing(spike: float, logarithmic: bool) -> None:
    _, (axis,) = style.make_axes(1)
    t = np.arange(60.0)
    values = 1 + 0.3 * np.sin(t)
    calm = values.copy()
    values[20] = spike
    axis.plot(t, values, color="red")
    axis.axhline(3.0)
    axis.set_yscale("log" if logarithmic else "linear")
    style.hold_spikes(axis)
    low, high = axis.get_ylim()
    assert low <= calm.min() < calm.max() <= 3.0 <= high
    assert high - low < 5
    mark = axis.lines[-1]
    assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (20, 1 if spike > calm.max() else 0)
    assert mark.get_color() == "red"
    assert [text.get_text() for text in axis.texts] == [f"{spike:.3g}"]
    plt.close("all")


def picture_of(figure, text) -> np.ndarray:
    """The pixels of a text and of what is drawn there with it."""
    figure.canvas.draw()
    box = text.get_window_extent()
    pixels = np.array(figure.canvas.buffer_rgba())
    return pixels[int(len(pixels) - box.y1) : int(len(pixels) - box.y0), int(box.x0) : int(box.x1)]


@pytest.mark.parametrize("spike", [1e21, 1e-30])
def test_the_value_of_a_spike_is_as_readable_over_curves_as_alone(spike: float) -> None:
    figure, (axis,) = style.make_axes(1)
    axis.grid(False)
    t = np.arange(30.0)
    axis.plot(t, np.where(t == 2, spike, 1 + 0.3 * np.sin(t)))
    axis.set_yscale("log")
    style.hold_spikes(axis)
    (text,) = axis.texts
    assert not text.get_bbox_patch().get_window_extent().overlaps(axis.spines["bottom"].get_window_extent())
    after = picture_of(figure, text)
    axis.lines[0].remove()
    assert np.array_equal(after, picture_of(figure, text))
    assert (after != 255).any()
    plt.close("all")


@pytest.mark.parametrize(
    ("ends", "named"),
    [
        ((0.76, 1.3), ["0.8", "0.9", "1", "1.1", "1.2", "1.3"]),
        ((80, 250), ["100", "150", "200"]),
        ((76, 880), ["100", "200", "500"]),
        ((0.09, 12), []),
    ],
)
def test_a_logarithmic_axis_of_few_decades_names_enough_numbers(ends, named) -> None:
    """What spans more keeps the powers of ten, unless one asks for plain numbers there, too."""
    for few, words in ((30, named), (200, named or ["0.1", "0.2", "0.5", "1", "2", "5", "10"])):
        figure, (axis,) = style.make_axes(1)
        axis.set_xscale("log")
        axis.set_xlim(*ends)
        style.name_few_decades(axis.xaxis, ends, few)
        FigureCanvasAgg(figure).draw()
        low, high = axis.get_xlim()
        ticks = zip(axis.get_xticks(), axis.get_xticklabels(), strict=True)
        texts = [label.get_text() for at, label in ticks if low <= at <= high]
        assert [text for text in texts if text and "$" not in text] == words
        plt.close(figure)


ORDINARY = {
    "a line": (np.linspace(0.1, 1, 50), ("linear", "log")),
    "a decay over a hundred decades": (0.5 ** np.arange(300.0), ("log",)),
    "a decay beside curves that hold": ([*np.ones(300), *0.27 ** np.arange(63.0)], ("log",)),
    "a growth beside curves that hold": ([*np.ones(300), *1e2 ** np.arange(19.0)], ("log",)),
    "a tail, as of Lyapunov exponents": (-1 / (101 - np.arange(100.0)), ("linear",)),
    "one number": (1000 * np.ones(9), ("linear", "log")),
    "no number": (np.array([np.nan, np.inf]), ("linear", "log")),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_curves_without_a_spike_keep_their_axis(name: str) -> None:
    values, scales = ORDINARY[name]
    for scale in scales:
        _, (axis,) = style.make_axes(1)
        axis.plot(style.shown(np.array(values)))
        axis.set_yscale(scale)
        before = axis.get_ylim()
        style.hold_spikes(axis)
        assert axis.get_ylim() == before
        assert not axis.texts
        plt.close("all")


def test_a_spike_leaves_a_heat_map_its_colours(tmp_path: Path) -> None:
    figure, (axis,) = style.make_axes(1)
    lines = [0.9 ** np.arange(10.0) for _ in range(20)]
    lines[7] = lines[7] * 1e21
    style.heat_map(figure, axis, list(range(20)), lines, 1, "gradient")
    (mesh,) = axis.collections
    low, high = mesh.get_clim()
    assert high - low < 2
    assert "up to 21" in figure.axes[-1].get_ylabel()
    plt.close("all")
