"""The page of records: published facts as they should be, and our numbers those of the files."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from rnnlab.config.errors import ConfigError
from scripts import records

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"


def test_every_published_number_has_a_source_a_kind_and_a_unit_and_every_file_of_ours_is_there() -> None:
    tasks = records.read_tasks(RESULTS)
    assert len({task["title"] for task in tasks}) == len(tasks) > 10
    for task in tasks:
        assert task["better"] in (1, -1), task["title"]
        assert task["sources"], task["title"]
        assert task["published"], task["title"]
        for row in task["published"]:
            assert set(row) == {"name", "value", "parameters", "kind"}, row
            assert row["kind"] in ("nonlinear", "other"), row
        for row in task["ours"]:
            assert (RESULTS / row["file"]).is_file(), row


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder with one task, and two results of ours."""
    config: dict[str, Any] = dict(task=dict(name="adding", length=20), model=dict(cell=dict(name="irnn", features=10)))
    config |= dict(steps=5, batch_size=2, optimizer=dict(name="adam", learning_rate=1e-3))
    runs = [{"seed": seed, "test": test} for seed, test in enumerate((1e-4, 1e-2))]
    case = {"experiment": "adding", "length": 20, "variant": "modern", "metric": "loss"}
    content = case | {"networks": {"irnn": {"config": config, "runs": runs}}}
    (tmp_path / "irnn_adding20_modern.json").write_text(json.dumps(content))
    run = {"best": {"test": {"perplexity": 119.0}}, "command": "python -m rnnlab.train"}
    (tmp_path / "runs.json").write_text(json.dumps({"hour": run}))
    (tmp_path / "records.toml").write_text(
        """
        [[task]]
        title = "Adding"
        unit = "error"
        better = -1
        sources = "a log"
        published = [
            { name = "LEM", value = 5e-5, parameters = "", kind = "nonlinear" },
            { name = "S4", value = 2e-3, parameters = "1M", kind = "other" },
        ]
        ours = [{ file = "irnn_adding20_modern.json", network = "irnn" }]
        [[task]]
        title = "Words"
        unit = "perplexity"
        better = -1
        sources = "a table"
        published = [{ name = "LSTM", value = 65.8, parameters = "33M", kind = "nonlinear" }]
        ours = [{ file = "runs.json", network = "hour", name = "an hour" }]
        """
    )
    return tmp_path


def test_our_errors_are_geometric_means_with_their_seeds_and_command(results: Path) -> None:
    page = results / "records.md"
    page.write_text("# Title\n<!-- table -->\n<!-- end of table -->\n")
    assert records.main([f"--results={results}", f"--page={page}"]) == 0
    lines = page.read_text().splitlines()
    assert "| Adding | error | 5e-05 (LEM) | 0.002 (S4) | 0.001 (IRNN) |" in lines
    assert "| Words | perplexity | 65.8 (LSTM) | – | 119 (an hour) |" in lines
    command = "python -m scripts.irnn --experiment=adding --length=20 --variant=modern --networks=irnn --seeds=2"
    # 10 units: R, two inputs and a bias each, and a readout of one.
    ours = f"| **IRNN** | {10 * 10 + 10 * 2 + 10 + 11} | 0.001 | 2 | `{command}` |"
    assert [line for line in lines if line.startswith(("| LEM", "| **IRNN", "| S4"))] == [
        "| LEM | not stated | 5e-05 | not stated | published |",
        ours,
        "| S4 | 1M | 0.002 | not stated | published |",
    ]
    assert math.isclose(math.sqrt(1e-4 * 1e-2), 0.001)


def test_a_file_that_is_no_toml_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "records.toml").write_text("[[task]\n")
    with pytest.raises(ConfigError, match=r"records\.toml is not as it should be"):
        records.read_tasks(tmp_path)


def test_the_published_page_is_what_the_files_say(real_data: Path) -> None:
    page = (ROOT / "docs" / "records.md").read_text(encoding="utf-8")
    between = page.partition("<!-- table -->\n")[2].partition("<!-- end of table -->")[0]
    assert between == records.page_text(records.read_tasks(RESULTS), RESULTS, str(real_data))
