"""The best run of a network as a workdir of a few kilobytes, for `rnnlab.evaluate`: config, summary and parameters."""

import contextlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rnnlab.config.errors import ConfigError
from rnnlab.files import read_json, write_bytes
from rnnlab.records.folders import SweepDir
from rnnlab.records.workdir import SUMMARY_AGAIN, Workdir, read_config
from rnnlab.sweeps.spec.manifest import read_sweep
from rnnlab.training.chosen import export_parameters, restore_run
from scripts.irnn.experiments import Case
from scripts.irnn.rows import Row, best_seed


def wins(case: Case, row: Row) -> bool:
    """Whether a network trained by our recipe is where it should be, or is better than the paper's (one that the paper
    has not: than all of its) and has half the error, or less, of an answer that ignores the input."""
    experiment = case.experiment
    if case.variant != "modern" or not experiment.curves:
        return False
    beaten = row.rival is not None and experiment.better * (row.ours.value - row.rival) > 0
    progress = experiment.progress(row.ours.value)
    return bool(row.reached) or (beaten and (progress is None or progress >= 0.5))


def winner_of(
    case: Case, network: Mapping[str, Any], measured: Mapping[str, Any], folder: Path, published: Path
) -> Path | None:
    """The workdir of the run that is best on validation, if that is one of this folder's runs and better than the one
    that is published.

    Args:
        network: what the results' file is going to hold of it.
        measured: what `results.collect` found in the folder.
        folder: the network's sweep's.
        published: the workdir that `export` left; there may be none.
    """
    seed = best_seed(case, network)
    best = next((run for run in network["runs"] if run["seed"] == seed), None)
    if best is None or not any(run is best for run in measured["runs"]):
        return None
    if Workdir(published).parameters.exists():
        with contextlib.suppress(ConfigError):  # One that is damaged is replaced.
            path, metric = Workdir(published).summary, case.experiment.metric
            summary = read_json(path, SUMMARY_AGAIN, {"best": {"validation": {metric: (float, str)}}})
            value = case.experiment.better * float(summary["best"]["validation"][metric])
            if math.isfinite(value) and case.experiment.better * best["validation"] <= value:
                return None
    names = [run["name"] for run in read_sweep(folder)["runs"] if run["in_sweep"] and run["axes"]["seed"] == seed]
    return SweepDir(folder).run(names[0]) if names else None


def export(workdir: Path, target: Path, data_dir: str | None) -> None:
    """Leaves of a run what evaluating its best checkpoint takes, in a new workdir."""
    from rnnlab.training.setup import make_run

    run = make_run(read_config(workdir), data_dir)
    restored = restore_run(run, workdir, "best")
    export_parameters(restored, Workdir(target).parameters)
    source, copy = Workdir(workdir), Workdir(target)
    for path, copied in ((source.config, copy.config), (source.summary, copy.summary)):
        write_bytes(copied, path.read_bytes())
