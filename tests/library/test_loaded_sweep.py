"""`rnnlab.run_sweep` and `rnnlab.load_sweep`: a sweep's folder as a table, and its runs."""

import csv
from pathlib import Path

import pytest

import rnnlab
from rnnlab.config.errors import ConfigError
from rnnlab.sweeps.spec.manifest import open_sweep
from rnnlab.sweeps.spec.space import expand, resolve_sweep
from tests.helpers import SMALL_RUN, without_figures

RUN = SMALL_RUN | {"steps": 2, "eval_every": 2, "checkpoint_every": 2, "log_every": 2}


@pytest.mark.slow
def test_a_sweep_is_a_table_of_runs_that_are_loaded_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    with without_figures():
        sweep = rnnlab.run_sweep({"base": RUN, "seeds": [5, 7]}, folder, overrides={"task.length": 5})
    assert sweep.runs["seed"] == [5, 7]
    assert sweep.runs["status"] == ["finished", "finished"]
    with (folder / "runs.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    losses = sweep.table("dict")["best.validation.loss"]
    assert losses == [float(row["best.validation.loss"]) for row in rows]
    run = rnnlab.load_sweep(folder).run(1)
    assert (run.config["seed"], run.config["task"]["length"], run.workdir) == (7, 5, folder / "runs" / "0001")
    assert run.evaluate("validation")["loss"] == pytest.approx(losses[1], rel=1e-5)
    with pytest.raises(ConfigError, match=r"is the workdir of a run, not of a sweep; rnnlab\.load opens it"):
        rnnlab.load_sweep(run.workdir)


def test_a_sweep_that_has_not_begun_is_a_table_of_what_its_axes_set(tmp_path: Path) -> None:
    section = resolve_sweep({"base": RUN, "product": {"task.length": [4, 5]}}, "the sweep")
    open_sweep(tmp_path, section, expand(section))
    sweep = rnnlab.load_sweep(tmp_path)
    assert (sweep.names, len(sweep.runs["seed"])) == (["0000", "0001"], 2)
    assert sweep.runs.where(status="waiting")["task.length"] == [4, 5]
    with pytest.raises(ConfigError, match="unknown run '2'; known: 0000, 0001"):
        sweep.run("2")
    with pytest.raises(ConfigError, match="0001 is missing"):
        sweep.run("0001")


def test_a_run_is_not_a_sweep(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the sweep: the config of a run, not of a sweep"):
        rnnlab.run_sweep(RUN, tmp_path / "sweep")
