"""The best run of a network as a workdir of a few kilobytes, for `rnnlab.evaluate`: config, summary and parameters."""

import shutil
from pathlib import Path
from typing import Any

from rnnlab.checkpoints import PARAMETERS, export_parameters, restore_chosen
from rnnlab.reproduction.experiments import Case
from rnnlab.reproduction.results import Row, best_seed
from rnnlab.sweeps.manifest import read_sweep
from rnnlab.workdir import read_config


def wins(case: Case, row: Row) -> bool:
    """Whether a network trained by our recipe is where it should be, or is better than the paper's (one that the paper
    has not: than all of its) and has half the error, or less, of an answer that ignores the input."""
    experiment = case.experiment
    if case.variant != "modern" or not experiment.curves:
        return False
    beaten = row.rival is not None and experiment.better * (row.ours.value - row.rival) > 0
    progress = experiment.progress(row.ours.value)
    return bool(row.reached) or (beaten and (progress is None or progress >= 0.5))


def export_best(case: Case, network: dict[str, Any], folder: Path, target: Path, data_dir: str | None) -> bool:
    """Exports the run that is best on validation, where it is one of this folder's; returns whether it is.

    Args:
        network: what the results' file holds of it.
        folder: its sweep's.
        target: the new workdir, made anew.
    """
    from rnnlab.run import Run

    seed = best_seed(case, network)
    names = [run["name"] for run in read_sweep(folder)["runs"] if run["in_sweep"] and run["axes"]["seed"] == seed]
    if not names:
        return False
    workdir = folder / "runs" / names[0]
    run = Run(read_config(workdir), data_dir)
    restored = restore_chosen(workdir, "best", run.programs.start(run.config["seed"]), run.programs.word_leaves)
    shutil.rmtree(target, ignore_errors=True)
    export_parameters(restored, target / PARAMETERS)
    for name in ("config.json", "summary.json"):
        shutil.copyfile(workdir / name, target / name)
    return True
