"""How far back in time the gradients of runs reach: a figure of several, and the half-life of one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from rnnlab import plots
from rnnlab.config.errors import ConfigError
from rnnlab.diagnostics import decay_per_step
from rnnlab.library.folders import existing_folder
from rnnlab.library.loaded_run import LoadedRun
from rnnlab.plots.style import kept


def draw_gradients(runs: Mapping[str, LoadedRun | str | Path]) -> Figure:
    """See `rnnlab.compare_gradients`."""
    if not runs:
        raise ConfigError("compare_gradients: no runs; give them by their labels, as {'lstm': run}")
    folders = {
        label: run.workdir if isinstance(run, LoadedRun) else existing_folder(run) for label, run in runs.items()
    }
    with kept() as figures:
        plots.compare_gradient_flow(folders, Path("gradients.png"))
    return figures["gradients"]


def fitted_half_life(norms: Any) -> float:
    """See `rnnlab.half_life`."""
    norms = np.asarray(norms, np.float32)
    if norms.ndim != 1 or not norms.size:
        raise ConfigError(f"half_life: norms of shape {norms.shape}; expected [T], one number a time step")
    return float(decay_per_step(norms).half_life)
