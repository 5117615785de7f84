"""The report of a sweep: what it says, draws and leaves out, from run folders that a fixture writes."""

import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np
import pytest
from absl import flags
from matplotlib.backends.backend_agg import FigureCanvasAgg
from scipy import stats

import rnnlab
from rnnlab import cli, report
from rnnlab.config.errors import ConfigError
from rnnlab.plots.legends import covers, finish, renderer_of
from rnnlab.plots.style import without_spikes
from rnnlab.sweeps.report import figures
from rnnlab.sweeps.report.document import write_report
from rnnlab.sweeps.spec.manifest import open_sweep
from rnnlab.sweeps.spec.question import short_names
from rnnlab.sweeps.spec.space import SweepOptions, expand
from rnnlab.sweeps.statistics import LOGARITHMS, NOT_NEGATIVE, SHARE, Scale, mean_interval

BASE: dict[str, Any] = dict(
    steps=60,
    task=dict(name="adding", length=6, validation_size=50, test_size=40),
    model=dict(cell=dict(name="irnn", features=8, input_init="glorot_uniform")),
    optimizer=dict(name="adam", learning_rate=1e-2, clip_norm=1.0),
)
RATE, CELL, INIT = "optimizer.learning_rate", "model.cell", "model.cell.recurrent_init"
WHOLE_PICTURES = True  # As tests/conftest.py has it.
LOSS = {"irnn": 0.1, "gru": 0.02, "lstm": 0.04}


class Sweep:
    """A sweep's folder that no training has made."""

    def __init__(self, workdir: Path, **fields: Any):
        self.workdir = workdir
        sweep = vars(SweepOptions(base=BASE, **fields))
        self.settings = open_sweep(workdir, sweep, expand(sweep)).settings
        for setting in self.settings:
            self.write(setting.name, self.loss(setting.config))

    @staticmethod
    def loss(config: dict[str, Any]) -> float:
        """A number that depends on the cell, the rate and the seed."""
        cell, rate = config["model"]["cell"]["name"], config["optimizer"]["learning_rate"]
        level = LOSS.get(cell, 0.1)
        return level * (1 + 0.1 * np.log10(rate)) * (1 + 0.05 * np.sin(config["seed"] * 7.0 + rate + 20 * level))

    def write(
        self, name: str, loss: float, status: str = "finished", steps: int = 60, reached: int | None = 40
    ) -> None:
        """A run's summary.json and metrics.jsonl: a loss that halves every 20 steps and ends here."""
        folder = self.workdir / "runs" / name
        folder.mkdir(parents=True, exist_ok=True)
        lines = [
            {"step": step, "split": split, "loss": loss * 2.0 ** ((60 - step) / 20), "seconds": step / 10}
            for step in range(20, steps + 1, 20)
            for split in ("train", "validation")
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        best = {"loss": loss, "within_0.04": 1 - loss}
        summary = {
            "status": status,
            "steps": steps,
            "final": {"train": {"loss": loss}, "validation": best},
            "best": {"step": steps, "validation": best, "test": {"loss": 2 * loss}},
            "convergence": {
                "metric": "loss",
                "threshold": 0.01,
                "steps": reached,
                "seconds": None if reached is None else reached / 10,
            },
            "seconds": steps / 10,
        }
        if status == "diverged":
            del summary["best"]["test"]
        (folder / "summary.json").write_text(json.dumps(summary))

    def remove(self, name: str) -> None:
        for file in ("summary.json", "metrics.jsonl"):
            (self.workdir / "runs" / name / file).unlink()

    def report(self, **fields: Any) -> str:
        """The report's Markdown."""
        write_report(self.workdir, self.workdir / "out", **fields)
        return (self.workdir / "out" / "report.md").read_text()


def table(text: str, below: str) -> list[dict[str, str]]:
    """The first table of a Markdown text after a line that begins so."""
    rest = text[text.index(f"\n{below}") :]
    lines = re.findall(r"^\|(.*)\|$", rest[: rest.index("\n\n", rest.index("\n|"))], re.M)
    head, _, *rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)] for line in lines]
    return [dict(zip(head, row, strict=True)) for row in rows]


@pytest.fixture
def nothing_drawn(monkeypatch) -> None:
    """For tests of words: figures take seconds."""
    for name in ("draw_solved", "draw_dots", "draw_heat_maps", "draw_curves", "draw_coordinates"):
        monkeypatch.setattr(f"rnnlab.sweeps.report.document.{name}", lambda view, folder: [])


def of_logarithms(values: list[float]) -> list[float]:
    """The geometric mean and the ends of its 95 % interval, by scipy."""
    logs = np.log(values)
    ends = stats.t.interval(0.95, len(values) - 1, loc=logs.mean(), scale=stats.sem(logs))
    return np.exp([logs.mean(), *ends]).tolist()


# --- one report, whole -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> Sweep:
    """12 runs of 2 cells × 2 rates × 3 seeds, one of which diverged, and one that is not over."""
    product = {CELL: ["irnn", "gru"], RATE: [0.01, 0.1]}
    sweep = Sweep(tmp_path_factory.mktemp("made") / "a <b>", product=product, seeds=3, baseline={CELL: "irnn"})
    sweep.write("0001", 1e-9, "diverged", 20)
    sweep.remove("0011")
    argv = [f"--workdir={sweep.workdir}", f"--output={sweep.workdir / 'out'}"]
    assert report.main(argv) == 0
    return sweep


def read(full: Sweep, name: str = "report.md") -> str:
    return (full.workdir / "out" / name).read_text()


def test_the_page_stands_alone_and_is_well_formed(full):
    class Reader(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []
            self.sources: list[str] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag not in ("script", "link", "iframe")
            self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
            self.open += [] if tag in ("meta", "img") else [tag]

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    reader = Reader()
    reader.feed(read(full, "report.html"))
    assert reader.open == []
    assert len(reader.sources) == len(list((full.workdir / "out" / "plots").iterdir())) == 5
    assert all(source.startswith("data:image/png;base64,") for source in reader.sources)
    assert "a <b>" not in read(full, "report.html")


def test_every_figure_of_the_markdown_is_a_picture_beside_it(full):
    links = re.findall(r"^!\[.*\]\(<(.*)>\)$", read(full), re.M)
    assert len(links) == 5
    for link in links:
        image = matplotlib.image.imread(full.workdir / "out" / link)
        assert min(image.shape[:2]) > 300
        assert float(image.std()) > 0.01


def test_the_command_of_every_run_makes_its_config_in_a_folder_of_its_own(full):
    lines = re.findall(r"^python -m rnnlab.train .*$", read(full), re.M)
    assert len(lines) == len(full.settings) == 12
    for setting, line in zip(full.settings, lines, strict=True):
        values = flags.FlagValues()
        cli.path_flag(values, "workdir", None, "")
        parsed = cli.parse_run(values, shlex.split(line)[3:], None)
        assert parsed.config == setting.config
        assert values.workdir == f"{full.workdir}-alone/{setting.name}"


def test_python_has_the_texts_and_figures_of_the_command_and_writes_nothing(full):
    before = sorted(full.workdir.rglob("*"))
    made = rnnlab.load_sweep(full.workdir).report()
    assert sorted(full.workdir.rglob("*")) == before
    assert {f"{name}.png" for name in made.figures} == {path.name for path in (full.workdir / "out/plots").iterdir()}
    text = read(full)
    headings = re.findall(r"^## (.*)$", text, re.M)
    assert list(made.sections) == [each for each in headings if each not in ("Figures", "Commands")]
    for heading, section in made.sections.items():
        whole = text.partition(f"## {heading}\n\n")[2].partition("\n\n## ")[0]
        assert section == re.sub(r"^\| made by .*\n", "", whole, flags=re.M)
        assert section._repr_markdown_() in made._repr_markdown_()
    assert made.best.startswith("best: gru, learning_rate 0.01: best.validation.loss ")


def test_a_diverged_run_is_said_and_has_no_value(full):
    worst = max(full.loss(s.config) for s in full.settings if s.name not in ("0001", "0011"))
    assert "1 of 12 runs diverged. They have no best.validation.loss, whatever they reached before" in read(full)
    assert f"In the order of settings, and in nothing else, each counts as {worst:.4g}" in read(full)
    mean, low, high = of_logarithms([full.loss(full.settings[i].config) for i in (0, 2)])
    (row,) = [r for r in table(read(full), "## All settings") if (r["cell"], r["learning_rate"]) == ("irnn", "0.01")]
    assert row["geometric mean"] == f"{mean:.4g}"
    assert row["95 % interval"] == f"{low:.4g} to {high:.4g}"
    assert (row["seeds"], row["diverged"]) == ("2", "1 of 3")
    assert "Student's t of the logarithms, which does not reach below 0" in read(full)
    assert row["runs"] == "0000–0002"


def test_a_run_that_is_not_over_is_named(full):
    assert "Not over, and so in no number here: 1 of 12 runs: 0011 (started)." in read(full)
    (row,) = [r for r in table(read(full), "## All settings") if (r["cell"], r["learning_rate"]) == ("gru", "0.1")]
    assert (row["seeds"], row["runs"]) == ("2", "0009, 0010")


def test_the_sweeps_baseline_is_compared_with_by_seed(full):
    rows = table(read(full), "## Compared with model.cell=irnn")
    rows = {row["learning_rate"]: row for row in rows}
    # One run of the first pair diverged, one of the second is not over.
    assert {rate: (row["cell"], row["pairs"]) for rate, row in rows.items()} == {
        "0.01": ("gru", "2"),
        "0.1": ("gru", "2"),
    }
    pairs = [full.loss(full.settings[9 + i].config) / full.loss(full.settings[3 + i].config) for i in range(2)]
    mean, low, high = of_logarithms(pairs)
    assert rows["0.1"]["ratio"] == f"{mean:.4g}"
    assert rows["0.1"]["95 % interval"] == f"{low:.4g} to {high:.4g}"
    assert rows["0.1"][""] in ("better", "no difference shown")


def test_how_many_diverged_is_compared_by_itself(full):
    (row,) = table(read(full), "Runs that diverged, or ended without a finite best.validation.loss")
    p = stats.fisher_exact([[0, 3], [1, 2]])[1]
    assert (row["cell"], row["learning_rate"]) == ("gru", "0.01")
    assert (row["diverged"], row["baseline"], row["p"]) == ("0 of 3", "1 of 3", f"{p:.2g}")
    assert row[""] == "no difference shown"


def test_the_test_of_the_best_stands_beside_its_validation(full):
    (row,) = [r for r in table(read(full), "The best for every model.cell") if r["cell"] == "gru"]
    rates = {rate: stats.gmean([full.loss(s.config) for s in full.settings[a:b]]) for rate, a, b in
             (("0.01", 6, 9), ("0.1", 9, 11))}  # fmt: skip
    best = min(rates, key=lambda rate: rates[rate])
    assert (row["learning_rate"], row["geometric mean"]) == (best, f"{rates[best]:.4g}")
    assert row["test"] == f"{2 * rates[best]:.4g}"


# --- what is said ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("nothing_drawn")
class TestWords:
    def test_more_is_better_for_a_metric_of_which_it_is(self, tmp_path):
        sweep = Sweep(tmp_path, product={CELL: ["irnn", "gru"]})
        text = sweep.report(metric="best.validation.within_0.04")
        assert "best.validation.within_0.04, more is better" in text
        assert [r["cell"] for r in table(text, "## All settings")] == ["gru", "irnn"]

    def test_steps_and_seconds_to_the_threshold_are_medians_over_all(self, tmp_path):
        sweep = Sweep(tmp_path, product={CELL: ["irnn", "gru"]}, seeds=3)
        for name, reached in {"0000": 20, "0001": None, "0002": 60, "0003": None, "0004": None}.items():
            sweep.write(name, 0.1 if name < "0003" else 0.2, reached=reached)
        irnn, gru = sorted(table(sweep.report(), "## All settings"), key=lambda r: r["runs"])
        assert (irnn["solved"], irnn["steps"], irnn["seconds"]) == ("2 of 3", "60", "6")
        assert (gru["solved"], gru["steps"], gru["seconds"]) == ("1 of 3", "–", "–")

    def test_holm_is_over_all_comparisons_of_the_report(self, tmp_path):
        sweep = Sweep(tmp_path, product={CELL: ["irnn", "gru", "lstm"]}, seeds=5)
        for i, loss in enumerate([1.0, 1.1, 1.2, 1.0, 1.1, 1.2, 1.5, 1.2, 1.6, 1.2, 1.3, 0.9, 1.5, 1.1, 1.0]):
            sweep.write(f"{i:04}", loss)
        text = sweep.report(baseline="model.cell=irnn")
        assert "corrected by Holm for 2 comparisons" in text
        rows = {r["cell"]: r for r in table(text, "## Compared with")}
        values = {
            cell: stats.ttest_rel(np.log(others), np.log([1.0, 1.1, 1.2, 1.0, 1.1])).pvalue
            for cell, others in {"gru": [1.2, 1.5, 1.2, 1.6, 1.2], "lstm": [1.3, 0.9, 1.5, 1.1, 1.0]}.items()
        }
        assert {cell: r["p"] for cell, r in rows.items()} == {cell: f"{p:.2g}" for cell, p in values.items()}
        assert rows["gru"]["p, Holm"] == f"{2 * values['gru']:.2g}"
        assert rows["lstm"]["p, Holm"] == f"{max(values['lstm'], 2 * values['gru']):.2g}"
        assert rows["lstm"][""] == "no difference shown"

    @pytest.mark.parametrize(("sign", "verdict"), [(1, "worse"), (-1, "better")])
    def test_a_verdict_is_by_what_is_better(self, tmp_path, sign, verdict):
        sweep = Sweep(tmp_path, product={CELL: ["irnn", "gru"]}, seeds=3)
        for i, loss in enumerate([1.0, 1.1, 1.2, 1.0 + sign * 0.5, 1.1 + sign * 0.51, 1.2 + sign * 0.5]):
            sweep.write(f"{i:04}", loss)
        (row,) = table(sweep.report(baseline="model.cell=irnn"), "## Compared with")
        assert row[""] == verdict
        (row,) = table(
            sweep.report(baseline="model.cell=irnn", metric="best.validation.within_0.04"), "## Compared with"
        )
        assert row[""] == verdict

    def test_another_baseline_can_be_named(self, tmp_path):
        sweep = Sweep(tmp_path, product={CELL: ["irnn", "gru"], RATE: [0.01, 0.1]}, seeds=2, baseline={CELL: "irnn"})
        rows = table(sweep.report(baseline=f"{CELL}=gru,{RATE}=0.1"), f"## Compared with {CELL}=gru, {RATE}=0.1")
        assert len(rows) == 3
        assert {r["baseline"] for r in rows} == {f"{np.mean([sweep.loss(s.config) for s in sweep.settings[6:]]):.4g}"}

    def test_shares_have_intervals_within_0_and_1_and_differences(self, tmp_path):
        sweep = Sweep(tmp_path, product={CELL: ["irnn", "gru"]}, seeds=3)
        for i, loss in enumerate([0.01, 0.4, 0.02, 0.03, 0.01, 0.05]):
            sweep.write(f"{i:04}", loss)
        text = sweep.report(baseline="model.cell=irnn", metric="best.validation.within_0.04")
        assert "Student's t, cut at 0 and 1" in text
        rows = {row["cell"]: row for row in table(text, "## All settings")}
        values = 1 - np.array([0.01, 0.4, 0.02])
        low, high = stats.t.interval(0.95, 2, loc=values.mean(), scale=stats.sem(values))
        assert high > 1
        assert rows["irnn"]["mean"] == f"{values.mean():.4g}"
        assert rows["irnn"]["95 % interval"] == f"{low:.4g} to 1"
        (compared_row,) = table(text, "## Compared with")
        assert compared_row["difference"] == f"{np.mean([-0.02, 0.39, -0.03]):+.4g}"

    @pytest.mark.parametrize("reached", [40, None])
    def test_how_many_solved_the_task_is_compared_by_itself(self, tmp_path, reached):
        sweep = Sweep(tmp_path, product={CELL: ["irnn", "gru", "lstm"]}, seeds=5)
        for i in range(15):
            sweep.write(f"{i:04}", 0.1, reached=40 if i < 5 else None if i < 10 else reached)
        rows = {
            r["cell"]: r
            for r in table(
                sweep.report(baseline="model.cell=irnn"),
                "Runs that solved the task, a validation loss of 0.01, of all runs",
            )
        }
        assert rows["gru"]["solved"] == "0 of 5"
        assert rows["gru"]["baseline"] == "5 of 5"
        p = 2 / 252  # Of all ways to hand out five, that one and its mirror image.
        assert (rows["gru"]["p"], rows["gru"]["p, Holm"]) == (f"{p:.2g}", f"{2 * p:.2g}")
        assert rows["gru"][""] == "fewer"
        assert ("lstm" in rows) == (reached is None)

    def test_groups_of_two_axes_have_a_best_each(self, tmp_path):
        sweep = Sweep(tmp_path, product={CELL: ["irnn", "gru"], RATE: [0.01, 0.1], "steps": [60, 70]})
        rows = table(sweep.report(group=[CELL, RATE]), f"The best for every {CELL} × {RATE}")
        assert [(r["cell"], r["learning_rate"], r["of settings"]) for r in rows] == [
            ("irnn", "0.01", "2"),
            ("irnn", "0.1", "2"),
            ("gru", "0.01", "2"),
            ("gru", "0.1", "2"),
        ]

    def test_a_setting_that_only_diverged_has_no_mean_and_is_the_last(self, tmp_path):
        sweep = Sweep(tmp_path, product={CELL: ["irnn", "gru"]}, seeds=2)
        for name, loss, status in (("0000", 0.25, "finished"), ("0002", 0.1, "diverged"), ("0003", 0.1, "diverged")):
            sweep.write(name, loss, status)
        gru = table(sweep.report(), "## All settings")[1]
        assert (gru["cell"], gru["geometric mean"], gru["95 % interval"]) == ("gru", "–", "–")
        assert (gru["seeds"], gru["diverged"]) == ("0", "2 of 2")

    def test_where_all_diverge_that_is_the_report(self, tmp_path):
        sweep = Sweep(tmp_path, product={CELL: ["irnn", "gru"]}, seeds=2)
        for setting in sweep.settings:
            sweep.write(setting.name, 0.1, "diverged", 20)
        text = sweep.report()
        assert "4 of 4 runs diverged; no run has a finite best.validation.loss" in text
        assert [r["mean"] for r in table(text, "## All settings")] == ["–", "–"]

    def test_runs_that_the_file_has_no_longer_are_not_reported(self, tmp_path):
        Sweep(tmp_path, product={CELL: ["lstm", "gru"]})
        text = Sweep(tmp_path, product={CELL: ["gru"]}, seeds=[0]).report()
        assert "not reported: runs 0000." in text
        assert [r["runs"] for r in table(text, "## All settings")] == ["0001"]

    def test_many_missing_runs_are_named_as_ranges(self, tmp_path):
        sweep = Sweep(tmp_path, seeds=9)
        for number in (0, 1, 3, 4, 5, 8):
            sweep.remove(f"{number:04}")
        assert "6 of 9 runs: 0000, 0001, 0003–0005, 0008 (started)" in sweep.report()

    def test_text_of_the_user_is_no_markup(self, tmp_path):
        sweep = Sweep(tmp_path, product={CELL: [{"name": "irnn", "features": 8, "activation": "tanh"}, "gru"]})
        path = tmp_path / "sweep.json"
        path.write_text(path.read_text().replace('"gru"', '"<i>|`x`"'))
        text = sweep.report()
        assert "&lt;i>\\|\\`x\\`" in text
        assert "<i>" not in text[: text.index("## Commands")]
        assert "<i>" not in (tmp_path / "out" / "report.html").read_text()


def test_axes_are_called_by_the_shortest_end_that_no_other_has():
    paths = [
        "model.cell",
        "model.cell.recurrent_init",
        "model.cell.input_init.gain",
        "x.gain",
        "optimizer.name",
        "seed",
    ]
    assert list(short_names(paths).values()) == [
        "cell", "recurrent_init", "input_init.gain", "x.gain", "optimizer.name", "seed"]  # fmt: skip


# --- what is drawn ---------------------------------------------------------------------------------------------------


@pytest.fixture
def drawn(monkeypatch) -> dict[str, Any]:
    """What the figures are made of, instead of the figures: name of the function -> its first argument."""
    by_name: dict[str, Any] = {}

    def stand_in(name: str) -> Any:
        def draw(data: Any, *rest: Any) -> Path:
            by_name.setdefault(name, []).append(data)
            rest[-1].parent.mkdir(parents=True, exist_ok=True)
            rest[-1].write_bytes(b"png")
            return rest[-1]

        return draw

    for name in ("dots", "ribbons", "solved"):
        monkeypatch.setattr(figures.plots, name, stand_in(name))
    for name in ("heat_map", "parallel_coordinates"):
        monkeypatch.setattr(figures.sweep_axes, name, stand_in(name))
    return by_name


def test_a_ribbon_is_mean_and_interval_over_seeds(tmp_path, drawn):
    sweep = Sweep(tmp_path, seeds=3)
    for name, loss in {"0000": 0.1, "0001": 0.2, "0002": 0.3}.items():
        sweep.write(name, loss)
    sweep.write("0001", 0.2, "diverged", 40)
    sweep.write("0002", 0.3, "stopped_early", 40)
    sweep.report()
    ((panel,),) = drawn["ribbons"]
    (curve,) = panel[1]
    np.testing.assert_array_equal(curve.steps, [20, 40, 60])
    expected = [of_logarithms(v) for v in ([0.4, 0.8, 1.2], [0.2, 0.4, 0.6], [0.1, 0.6])]
    np.testing.assert_allclose(np.stack([curve.mean, curve.low, curve.high], 1), expected, rtol=1e-12)
    assert curve.ends == [40]
    assert curve.label.endswith("(1 of 3 diverged)")


def test_curves_follow_the_metric(tmp_path, drawn):
    sweep = Sweep(tmp_path)
    sweep.report(metric="best.validation.within_0.04")  # Which metrics.jsonl has not.
    assert "ribbons" not in drawn
    for metric in ("final.train.loss", "best.test.loss", "seconds"):
        assert f"{'Training' if 'train' in metric else 'Validation'} loss over training" in sweep.report(metric=metric)


def test_a_heat_map_has_the_mean_of_every_pair_and_says_what_diverged(tmp_path, drawn):
    sweep = Sweep(tmp_path, product={CELL: ["irnn", "gru"], RATE: [0.1, 0.01]}, seeds=2)
    for name in ("0000", "0002", "0003"):
        sweep.write(name, 0.1, "diverged", 20)
    sweep.report()
    (grid,) = drawn["heat_map"]
    assert (grid.columns, grid.rows) == (["0.01", "0.1"], ["gru", "irnn"])
    assert grid.notes == [["", ""], ["all\ndiverged", "1/2 div."]]
    assert np.isnan(grid.values).tolist() == [[False, False], [True, False]]
    assert grid.best == (0, 0)
    mean = stats.gmean([sweep.loss(s.config) for s in sweep.settings[6:]])
    np.testing.assert_allclose(grid.values[0, 0], mean, rtol=1e-12)


def test_axes_that_go_together_have_no_heat_map(tmp_path, drawn):
    sweep = Sweep(tmp_path, zip=[{CELL: ["irnn", "gru", "lstm"], RATE: [0.1, 0.01, 0.1]}], product={"steps": [60, 70]})
    sweep.report()
    assert [(grid.y, grid.x) for grid in drawn["heat_map"]] == [("steps", "cell")]


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({}, {"dots", "ribbons"}),
        ({"seeds": 2}, {"dots", "ribbons"}),
        ({"product": {CELL: ["irnn", "gru"]}}, {"dots", "ribbons"}),
        ({"runs": [{CELL: "gru"}, {RATE: 0.5}, {INIT: "zeros"}]}, {"dots", "ribbons", "parallel_coordinates"}),
    ],
)
def test_figures_that_have_nothing_to_show_are_left_out(tmp_path, drawn, fields, names):
    Sweep(tmp_path, **fields).report()
    assert set(drawn) - {"heat_map"} == names


def test_figures_say_what_they_leave_out_and_keep_the_baseline(tmp_path, drawn):
    rates = np.logspace(-4, -1, 45).tolist()
    sweep = Sweep(tmp_path, product={RATE: rates}, baseline={RATE: rates[0]})
    text = sweep.report()
    assert "Settings left out: 5; shown are the best and the baseline." in text
    assert "Settings left out: 39; shown are the best 6, the baseline among them." in text
    assert sum(dot.baseline for dot in drawn["dots"][0]) == 1
    (((_, curves),),) = drawn["ribbons"]
    assert len(curves) == 6
    assert f"learning_rate {rates[0]:g}" in [curve.label for curve in curves]


def test_no_metrics_file_is_read_twice(tmp_path, drawn, monkeypatch):
    read_metrics, folders = figures.read_metrics, []
    monkeypatch.setattr(figures, "read_metrics", lambda folder: folders.append(folder) or read_metrics(folder))
    Sweep(tmp_path, product={CELL: ["irnn", "gru", "lstm"], RATE: [0.01, 0.1, 0.5]}, seeds=2).report()
    assert len(folders) == len(set(folders)) == 18


def test_a_run_without_a_metrics_file_has_no_curve_and_the_report_is_made(tmp_path, drawn):
    sweep = Sweep(tmp_path, product={CELL: ["irnn", "gru"]})
    (tmp_path / "runs" / "0000" / "metrics.jsonl").unlink()
    assert "Settings that ended before there was anything to draw: 1." in sweep.report()
    (((_, curves),),) = drawn["ribbons"]
    assert [curve.label for curve in curves] == ["gru"]


@pytest.fixture
def figure(monkeypatch) -> Any:
    """Draws with a function of plots.sweep or plots.sweep_axes and returns the figure, laid out."""

    def laid_out(draw: Any, *words: Any) -> Any:
        figures_drawn: list[Any] = []
        for module in (figures.plots, figures.sweep_axes):
            monkeypatch.setattr(module, "save", lambda figure, path: figures_drawn.append(figure))
        draw(*words, Path("unused"))
        finish(figures_drawn[0])
        figures_drawn[0].canvas.draw()
        plt.close(figures_drawn[0])
        return figures_drawn[0]

    return laid_out


def dots_of(samples: list[list[float]], scale: Scale) -> list[Any]:
    means = [mean_interval(values, scale) for values in samples]
    return [figures.plots.Dots("a", m.value, m.low, m.high, v, 1) for m, v in zip(means, samples, strict=True)]


@pytest.mark.parametrize(
    ("samples", "scale"),
    [
        ([[1e-4, 2e-4, 1.5e-4], [0.2, 0.3, 0.4], [0.17, 0.16, 0.17]], LOGARITHMS),
        ([[0.9, 0.91, 0.93], [0.97, 1.0, 0.99]], SHARE),
        ([[0.01, 0.0, 0.02], [0.04, 0.05, 0.06]], NOT_NEGATIVE),
    ],
    ids=["logarithms", "share", "not negative"],
)
def test_a_bar_is_the_whole_interval_of_the_table(figure, samples, scale):
    settings = dots_of(samples, scale)
    (axis,) = figure(figures.plots.dots, settings, "m", -1.0).axes
    bars = [line.get_xdata() for line in axis.lines if line.get_linewidth() == 3.5]
    np.testing.assert_allclose(bars, [[each.low, each.high] for each in settings], rtol=1e-12)
    assert [line.get_marker() for line in axis.lines].count("x") == len(settings)  # Those that have no value.


def test_a_bar_that_leaves_the_picture_has_an_arrow_at_its_edge(figure):
    settings = dots_of([[1e-3, 2e-2], [1e-3, 1.1e-3, 1.2e-3], [2e-2, 2.1e-2, 2.2e-2]], LOGARITHMS)
    assert settings[0].low < 1e-8 < 1e2 < settings[0].high
    (axis,) = figure(figures.plots.dots, settings, "m", -1.0).axes
    left, right = axis.get_xlim()
    assert 1e-6 < left < 1e-3
    assert 2e-2 < right < 10
    arrows = {(line.get_marker(), line.get_ydata()[0]) for line in axis.lines if line.get_marker() in ("<", ">")}
    assert arrows == {("<", 0), (">", 0)}


SPIKES = {
    "one of 1e21 among losses": ([0.1, 0.2, 0.3, 1e21], True, (0.1, 0.3)),
    "eight decades of losses are none": ([1e-8, 1e-3, 0.1, 1.0], True, (1e-8, 1.0)),
    "a tiny one": ([1e-30, 0.1, 0.2, 0.3], True, (0.1, 0.3)),
    "plain numbers": ([-1.0, 0.0, 1.0, 2.0, 1e6], False, (-1.0, 2.0)),
    "plain numbers near each other": ([0.9, 0.92, 0.95, 0.99], False, (0.9, 0.99)),
    "most are one number": ([0.5, 0.5, 0.5, 0.5, 0.9], False, (0.5, 0.9)),
    "what has no place": ([np.nan, -1.0, 0.0, 2.0, np.inf], True, (2.0, 2.0)),
}


@pytest.mark.parametrize(("values", "logarithmic", "shown"), SPIKES.values(), ids=SPIKES)
def test_a_figure_shows_all_values_but_spikes(values, logarithmic, shown):
    assert without_spikes(values, logarithmic) == shown


def test_one_spike_does_not_flatten_a_figure_of_a_sweep(figure):
    steps = np.arange(5.0)
    curves = [figures.plots.Curve("a", 0, steps, *[np.array([0.3, 0.2, 1e21, 0.1, 0.05])] * 3)]
    curves += [figures.plots.Curve("b", 1, steps, *[np.array([0.3, 0.25, 0.2, 0.15, 0.1])] * 3)]
    (axis,) = figure(figures.plots.ribbons, [("", curves)], "loss", True).axes
    assert axis.get_ylim()[1] < 1.0
    (axis,) = figure(figures.plots.dots, dots_of([[0.1, 0.2, 1e21], [0.1, 0.3]], LOGARITHMS), "m", -1.0).axes
    assert axis.get_xlim()[1] < 10
    values = np.array([[0.1, 0.2, 1e21], [0.3, 0.1, 0.2]])
    grid = figures.sweep_axes.Grid("x", "y", "abc", "de", values, [[""] * 3] * 2, -1.0, (0, 0))
    colour_bar = figure(figures.sweep_axes.heat_map, grid, "m").axes[1]
    assert colour_bar.get_ylim()[1] < 1.0


@pytest.mark.parametrize("panels", [1, 4])
def test_a_legend_of_learning_curves_covers_nothing(figure, panels):
    steps = np.arange(5.0)
    curves = [figures.plots.Curve(f"a long name of a setting {i}", i, steps, *[steps + i] * 3) for i in range(6)]
    drawn = figure(figures.plots.ribbons, [(str(i), curves) for i in range(panels)], "loss", False)
    FigureCanvasAgg(drawn).draw()
    legends = [legend for legend in (*drawn.legends, *(axis.get_legend() for axis in drawn.axes)) if legend is not None]
    assert len(legends) == 1  # All panels have the same curves.
    box = legends[0].get_window_extent()
    for axis in drawn.axes:
        assert not covers(axis, legends[0], renderer_of(drawn))
        assert not box.overlaps(axis.xaxis.label.get_window_extent())
    assert drawn.bbox.x0 <= box.x0 < box.x1 <= drawn.bbox.x1
    assert drawn.bbox.y0 <= box.y0


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ({"metric": "best.validation.los"}, r"--metric: unknown metric .*did you mean best\.validation\.loss"),
        ({"metric": "status"}, r"--metric: unknown metric 'status'"),
        ({"group": ["model.cel"]}, r"--group: unknown axis 'model\.cel'; did you mean model\.cell"),
        ({"baseline": "model.cel=irnn"}, r"--baseline: unknown axis 'model\.cel'; did you mean model\.cell"),
        ({"baseline": "model.cell=gro"}, r"--baseline: unknown value .*; did you mean model\.cell=gru"),
        ({"baseline": "irnn"}, r"--baseline: 'irnn' is not axis=value"),
    ],
)
@pytest.mark.usefixtures("nothing_drawn")
def test_a_mistake_in_a_flag_is_one_line(tmp_path, words, line):
    sweep = Sweep(tmp_path, product={CELL: ["irnn", "gru"]})
    with pytest.raises(ConfigError, match=line) as error:
        sweep.report(**words)
    assert "\n" not in str(error.value)


def test_a_folder_that_is_no_sweep_and_a_sweep_without_a_run_are_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"is not the workdir of a sweep: it has no sweep\.json"):
        report.main([f"--workdir={tmp_path}"])
    sweep = Sweep(tmp_path, seeds=2)
    for name in ("0000", "0001"):
        sweep.remove(name)
    with pytest.raises(ConfigError, match="none of the 2 runs of the sweep is over"):
        report.main([f"--workdir={tmp_path}"])
    with pytest.raises(ConfigError, match="--workdir is missing"):
        report.main([])
    assert not (tmp_path / "report.md").exists()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    Sweep(tmp_path / "w", seeds=1)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot write .*file"):
        report.main([f"--workdir={tmp_path / 'w'}", f"--output={tmp_path / 'file'}"])
