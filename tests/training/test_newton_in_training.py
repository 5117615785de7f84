"""A run with the backend newton, and a line where rows do not converge."""

import json
from pathlib import Path
from typing import Any

import pytest

from rnnlab.training.loop import train_and_evaluate
from tests.helpers import SMALL_RUN, without_figures


def run(workdir: Path, recurrence: dict[str, Any]) -> tuple[float, list[dict[str, Any]]]:
    """The test loss, and the lines of metrics of training."""
    model = {"cell": {"name": "lstm", "features": 4}, "recurrence": recurrence}
    config = SMALL_RUN | {"devices": 1, "steps": 4, "log_every": 1, "eval_every": 4, "model": model}
    with without_figures():
        train_and_evaluate(config, workdir)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    (test,) = (line["loss"] for line in lines if line["split"] == "test")
    return test, [line for line in lines if line["split"] == "train"]


@pytest.mark.slow
def test_it_ends_where_a_run_step_by_step_does_and_says_how_often_it_iterated(tmp_path, capsys):
    expected, lines = run(tmp_path / "newton", {"backend": "newton", "newton": {"jacobian": "block"}})
    assert all(line["newton/iterations"] >= 1 and line["newton/step_by_step"] == 0 for line in lines)
    assert "did not converge" not in capsys.readouterr().out
    tight = {"max_iterations": 1, "warm_up": 0, "tolerance": 1e-9}
    loss, lines = run(tmp_path / "tight", {"backend": "newton", "newton": tight})
    assert loss == pytest.approx(expected, rel=1e-4)
    assert all(line["newton/step_by_step"] == 1 for line in lines)
    assert capsys.readouterr().out.count("100 % of rows did not converge in the iterations that") == 1
