"""The page of a run: that it stands alone, escapes what it shows, and holds what the workdir holds."""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

from rnnlab import diagnose, plots
from rnnlab.plots.blocks import Table, write_page
from rnnlab.plots.run_page import summary_rows
from rnnlab.plots.style import make_axes, save
from rnnlab.records.run_config import resolve_config
from tests.helpers import SMALL_RUN

CONFIG: dict[str, Any] = {
    "task": {"name": "adding", "note": "<script>alert('&')</script>"},
    "model": {"cell": {"name": "gru"}},
}
SUMMARY = {
    "status": "finished",
    "steps": 7,
    "final": {"train": {"loss": 0.5}, "validation": {}},
    "best": {"step": 5, "validation": {"loss": 0.25}, "test": {"loss": 0.125}},
    "stability": {"finite": True, "clipped": 0.5, "spikes": 3},
    "convergence": {"metric": "loss", "threshold": 0.01, "steps": None, "seconds": None},
    "memory_horizon": {"longest_dependency": 149, "layer 1": {"factor": 0.5, "half_life": "inf", "horizon": 12}},
    "versions": {"jax": "0.10"},
}


class Reader(HTMLParser):
    """What a browser would load, the tags in order, and the text."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    folder = tmp_path / "a <b> & 'c'"
    (folder / "plots").mkdir(parents=True)
    for name in ("lags", "learning_curve", "of_my_own"):
        figure, _ = make_axes(1)
        save(figure, folder / "plots" / f"{name}.png")
    plt.close("all")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "summary.json").write_text(json.dumps(SUMMARY))
    return folder


def read(path: Path) -> Reader:
    return Reader(path.read_text())


def test_a_page_loads_nothing_and_runs_nothing(workdir: Path) -> None:
    text = plots.page(workdir, CONFIG).read_text()
    page = Reader(text)
    assert page.open == []
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    assert all(each.startswith("data:image/png;base64,") for each in page.loaded)
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme: dark" in style


def test_figures_are_whole_and_in_their_order_with_others_behind(workdir: Path) -> None:
    page = read(plots.page(workdir, CONFIG))
    images = [base64.b64decode(each.partition(",")[2]) for each in page.loaded]
    order = ("learning_curve", "lags", "of_my_own")
    assert images == [(workdir / "plots" / f"{name}.png").read_bytes() for name in order]


def test_what_a_run_says_is_text_and_never_markup(workdir: Path) -> None:
    text = plots.page(workdir, CONFIG, ["python -m rnnlab.diagnose --workdir='<img src=x>'"]).read_text()
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    shown = "".join(Reader(text).texts)
    assert CONFIG["task"]["note"] in shown
    assert "--workdir='<img src=x>'" in shown
    assert "a <b> & 'c': adding, gru" in shown


def test_braces_in_names_are_left_as_they_are(workdir: Path) -> None:
    page = read(plots.page(workdir, {**CONFIG, "task": {"name": "{{ title }}{% endfor %}"}}))
    assert page.tags.count("body") == 1
    assert "{{ title }}{% endfor %}, gru" in "".join(page.texts)


def test_summary_has_stability_convergence_horizon_and_metrics() -> None:
    rows = dict(summary_rows(SUMMARY))
    assert rows["stability: steps clipped"] == "50 %"
    assert rows["convergence to a validation loss of 0.01"] == "not reached"
    assert rows["test loss, of the best step"] == "0.125"
    assert rows["layer 1: gradient's half-life, steps"] == "inf"
    assert rows["longest dependency of the task, steps"] == "149"
    solved = SUMMARY | {"convergence": {"metric": "loss", "threshold": 0.01, "steps": 5, "seconds": 2.5}}
    assert dict(summary_rows(solved))["convergence to a validation loss of 0.01"] == "5 steps, 2.5 s"
    noted = SUMMARY | {"memory_horizon": SUMMARY["memory_horizon"] | {"note": "of one answer"}}
    assert dict(summary_rows(noted))["half-life and memory horizon"] == "of one answer"


def test_diagnosis_is_a_table_and_its_problems_are_named(workdir: Path) -> None:
    measured = {
        "step": 5,
        "rows": 8,
        "command": "python -m rnnlab.diagnose --workdir=x",
        "problems": ["lags: not defined for this cell"],
        "horizon": {
            "longest_dependency": 149,
            "note": "read at every step",
            "layer 1": {"norms": [1.0], "factor": 0.5, "half_life": 1.0, "horizon": 6},
        },
    }
    (workdir / "diagnosis.json").write_text(json.dumps(measured))
    shown = "\n".join(read(plots.page(workdir, CONFIG)).texts)
    for text in ("6 of 149", "read at every step", "left out: lags: not defined for this cell", measured["command"]):
        assert text in shown


def test_a_run_without_a_checkpoint_has_a_page(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workdir / "summary.json").unlink()
    (workdir / "config.json").write_text(json.dumps(resolve_config(SMALL_RUN)))
    assert diagnose.main([f"--workdir={workdir}", "--html"]) == 0
    assert "it holds no diagnosis" in capsys.readouterr().out
    assert "Summary" not in "".join(read(workdir / "report.html").texts)


@pytest.mark.parametrize(
    ("cell", "wraps"),
    [
        ("2.098e-05 to 0.0004038", False),
        ("naive_uniform, leaky_relu", False),
        ("0000–0004, 0010–0014, 0020, 0022", False),
        ("three sentences. " * 10, True),
    ],
)
def test_a_table_breaks_no_number_and_no_name(cell: str, wraps: bool, tmp_path: Path) -> None:
    page = write_page(tmp_path / "page.html", "a table", [Table(["a", "b"], [["x", cell]])]).read_text()
    assert page.count('<td class="text">') == wraps
    rules = dict(re.findall(r"^([^{}\n]+) \{([^}]*)\}", page, re.M))
    assert "white-space: nowrap" in rules["th, td"]
    assert not any("overflow-wrap" in rule for cells, rule in rules.items() if "td" in cells)  # Wraps at spaces alone.
    assert "overflow-x: auto" in rules[".wide"]
    assert "100vw" in rules[".wide"]  # Not scrolled before it is as wide as the window.
