"""Starts a run or a sweep from Python; `rnnlab.library` has the doors."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rnnlab.config.reading import load_file
from rnnlab.library.loaded_run import LoadedRun, one_line
from rnnlab.library.loaded_sweep import LoadedSweep
from rnnlab.records.run_config import resolve_config, set_fields
from rnnlab.sweeps.runner import run_sweep
from rnnlab.sweeps.spec.space import load_sweep, resolve_sweep
from rnnlab.training.loop import train_and_evaluate


def start_training(
    config: str | Path | Mapping[str, Any], workdir: str | Path, data_dir: str | None, overrides: Mapping[str, Any]
) -> LoadedRun:
    """See `rnnlab.run_training`."""
    folder = Path(os.path.expanduser(workdir))
    with one_line():
        section = load_file(str(config)) if isinstance(config, str | Path) else config
        train_and_evaluate(resolve_config(set_fields(section, overrides)), folder, data_dir)
    return LoadedRun(folder, data_dir=data_dir)


def start_sweep(
    sweep: str | Path | Mapping[str, Any],
    workdir: str | Path,
    data_dir: str | None,
    overrides: Mapping[str, Any],
    replicas: int | None,
) -> LoadedSweep:
    """See `rnnlab.run_sweep`."""
    folder = Path(os.path.expanduser(workdir))
    with one_line():
        section = load_sweep(str(sweep), {}) if isinstance(sweep, str | Path) else resolve_sweep(sweep, "the sweep")
        section |= {"overrides": {**section["overrides"], **overrides}}
        run_sweep(section, folder, data_dir, at_most=replicas)
    return LoadedSweep(folder, data_dir)
