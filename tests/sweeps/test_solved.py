"""The figure of how many runs of a sweep solved their task: counts, intervals, lines and claims."""

import itertools
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy import stats

from rnnlab.config.errors import ConfigError
from rnnlab.plots import sweep as plots
from rnnlab.sweeps.report import solved
from rnnlab.sweeps.spec.space import load_sweep
from rnnlab.sweeps.statistics import share_interval
from tests.sweeps.test_report import CELL, RATE, Sweep

LENGTH, CLIP = "task.length", "optimizer.clip_norm"
CLAIMS = ({"axis": LENGTH, "value": 7.0, "says": "nothing is learned above"},)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The arguments of the figure, which is not drawn, nor are the others."""
    seen: list[Any] = []

    def keep(*words: Any) -> Path:
        seen.append(words)
        words[-1].parent.mkdir(parents=True, exist_ok=True)
        words[-1].write_bytes(b"png")
        return words[-1]

    monkeypatch.setattr(solved.plots, "solved", keep)
    for name in ("draw_dots", "draw_heat_maps", "draw_curves", "draw_coordinates"):
        monkeypatch.setattr(f"rnnlab.sweeps.report.document.{name}", lambda view, folder: [])
    return seen


def lengths_by_clip(folder: Path, **fields: Any) -> Sweep:
    """2 clips × 3 lengths × 4 seeds: without a clip only the shortest is solved, with one as many seeds as it has."""
    sweep = Sweep(folder, product={CLIP: [None, 1.0], LENGTH: [6, 8, 10]}, seeds=4, **fields)
    for setting in sweep.settings:
        length, seed = setting.config["task"]["length"], setting.config["seed"]
        clipped = setting.config["optimizer"]["clip_norm"] is not None
        reached = seed >= (length - 6) / 2 if clipped else length == 6
        status = "diverged" if not reached and seed == 0 else "finished"
        sweep.write(setting.name, 0.1, status, reached=40 if reached else None)
    return sweep


def test_the_share_of_runs_that_solved_the_task_is_of_all_runs(tmp_path: Path, drawn: list[Any]) -> None:
    text = lengths_by_clip(tmp_path, claims=CLAIMS).report()
    ((lines, label, claims, path),) = drawn
    assert label == "length"
    assert path.name == "solved_length.png"
    assert [(line.label, line.x) for line in lines] == [("clip_norm –", [6, 8, 10]), ("clip_norm 1", [6, 8, 10])]
    shares = [[share for share, _, _ in line.shares] for line in lines]
    assert shares == [[1.0, 0.0, 0.0], [1.0, 0.75, 0.5]]
    assert lines[1].shares[1][1:] == share_interval(3, 4)
    assert [(claim.value, claim.text) for claim in claims] == [(7.0, "nothing is learned above")]
    assert "came to a validation loss of 0.01, by length" in text
    assert "nothing is learned above (7)" in text


def test_a_number_of_the_task_goes_across_unless_runs_are_grouped_by_it(tmp_path: Path, drawn: list[Any]) -> None:
    sweep = Sweep(tmp_path, product={RATE: [0.1, 0.2, 0.3], LENGTH: [6, 8]})
    sweep.report()
    sweep.report(group=[LENGTH])
    assert [(label, len(lines)) for lines, label, _, _ in drawn] == [("length", 3), ("learning_rate", 2)]


def test_an_axis_that_goes_with_the_number_has_no_line_of_its_own(tmp_path: Path, drawn: list[Any]) -> None:
    Sweep(tmp_path, zip=({LENGTH: [6, 8], RATE: [0.1, 0.2]},), product={CELL: ["irnn", "gru"]}).report()
    ((lines, label, _, _),) = drawn
    assert (label, [line.label for line in lines]) == ("length", ["irnn", "gru"])


def test_more_settings_than_colours_are_counted_together(tmp_path: Path, drawn: list[Any]) -> None:
    product = {CELL: ["irnn", "gru"], LENGTH: [6, 8], RATE: [0.1, 0.2, 0.3, 0.4]}
    text = Sweep(tmp_path, product=product).report()
    ((lines, _, _, _),) = drawn
    assert [line.label for line in lines] == ["irnn", "gru"]
    assert "Runs of all values of learning_rate are counted together." in text


@pytest.mark.parametrize("fields", [{"product": {CELL: ["irnn", "gru"]}}, {"seeds": 2}], ids=["names", "one setting"])
def test_without_a_number_that_was_swept_there_is_no_figure(fields: Any, tmp_path: Path, drawn: list[Any]) -> None:
    Sweep(tmp_path, **fields).report()
    assert drawn == []


@pytest.mark.parametrize(("count", "of"), [(0, 5), (1, 5), (3, 5), (5, 5), (1, 1)])
def test_the_interval_is_the_exact_one(count: int, of: int) -> None:
    expected = stats.binomtest(count, of).proportion_ci(0.95, method="exact")
    np.testing.assert_allclose(share_interval(count, of), [expected.low, expected.high], rtol=1e-10)


def test_lines_at_the_same_share_lie_beside_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(plots, "save", lambda figure, path: kept.append(figure))
    lines = [plots.Solved(str(i), i, [50, 100, 200], [(1.0, 0.5, 1.0)] * 3) for i in range(3)]
    plots.solved(lines, "length", [plots.Claim(20, "plain SGD fails above")], Path("unused"))
    (axis,) = kept[0].axes
    places = [line.get_xdata() for line in axis.lines[:3]]
    assert all((a < b).all() for a, b in itertools.pairwise(places))
    np.testing.assert_allclose(places[1], [50, 100, 200])
    assert [text.get_text().strip() for text in axis.texts] == ["plain SGD fails above"]
    plt.close(kept[0])


def test_a_claim_without_a_place_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "wrong.py"
    file.write_text("def get_config():\n    return dict(base='configs/adding.py', claims=[dict(axis='task.length')])\n")
    with pytest.raises(ConfigError, match=r"claims\[0\]\.(says|value)"):
        load_sweep(str(file), {})
