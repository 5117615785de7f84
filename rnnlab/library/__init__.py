"""The doors for Python: a run's folder opened as an object, a run or a sweep started from a program or a notebook.

Nothing here imports at its top what takes seconds, so that `import rnnlab` stays fast.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from rnnlab.library.loaded_run import LoadedRun
    from rnnlab.library.loaded_sweep import LoadedSweep
    from rnnlab.library.table import Table


def load(workdir: str | Path, checkpoint: str | int = "best", data_dir: str | None = None) -> "LoadedRun":
    """Opens what a run has left in its folder; writes nothing to it.

    Args:
        workdir: the folder of a run of `rnnlab.train`, one of a sweep's, or a published network.
        checkpoint: "best", "last", or a step.
        data_dir: the data folder, for tasks that read data; else RNNLAB_DATA, else the cache.

    Raises:
        ConfigError: the folder is not a run's, or its config is damaged. A missing or damaged checkpoint is one when it
            is first needed.
    """
    from rnnlab.library.loaded_run import LoadedRun

    return LoadedRun(workdir, checkpoint, data_dir)


def load_sweep(workdir: str | Path, data_dir: str | None = None) -> "LoadedSweep":
    """Opens what a sweep has left in its folder; writes nothing to it.

    Args:
        workdir: the folder of a sweep of `rnnlab.sweep`.
        data_dir: as of `load`.

    Raises:
        ConfigError: the folder is not a sweep's, or its sweep.json is damaged.
    """
    from rnnlab.library.loaded_sweep import LoadedSweep

    return LoadedSweep(workdir, data_dir)


def run_training(
    config: str | Path | Mapping[str, Any],
    workdir: str | Path | None = None,
    data_dir: str | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    quiet: bool = False,
) -> "LoadedRun":
    """Trains a network as `python -m rnnlab.train` does, and opens its folder. The same call again resumes.

    Args:
        config: a file, as "configs/adding.py" or "rnnlab:adding:lstm", or a config as a mapping. A class or function
            stands for its name: `"model.cell": MyCell`.
        workdir: the folder of the run, made if missing; None: a new one that is removed when Python ends.
        data_dir: as of `load`.
        overrides: {"path.to.field": value}, as in {"task.length": 50}.
        quiet: whether no lines say how far it is.

    Returns:
        The run; `summary["status"]` says how it ended.

    Raises:
        ConfigError: a mistake in the config, the data or the folder, in one line.
    """
    from rnnlab.library.start import start_training

    return start_training(config, workdir, data_dir, overrides or {}, quiet)


def run_sweep(
    sweep: str | Path | Mapping[str, Any],
    workdir: str | Path | None = None,
    data_dir: str | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    replicas: int | None = None,
    quiet: bool = False,
) -> "LoadedSweep":
    """Trains the runs of a sweep as `python -m rnnlab.sweep` does, and opens its folder. The same call again resumes.

    Args:
        sweep: a sweep's file, as "configs/sweeps/init_by_activation.py", or its content as a mapping.
        workdir: as of `run_training`.
        data_dir: as of `load`.
        overrides: {"path.to.field": value} for every run.
        replicas: most replicas in a group; None: as many as fit together.
        quiet: as of `run_training`.

    Raises:
        ConfigError: a mistake in the sweep, the data or the folder; one in single runs after the others are trained.
    """
    from rnnlab.library.start import start_sweep

    return start_sweep(sweep, workdir, data_dir, overrides or {}, replicas, quiet)


def compare_gradients(runs: Mapping[str, "LoadedRun | str | Path"]) -> "Figure":
    """How much gradient reaches each time step in several runs, untrained and trained, as a matplotlib figure.

    Args:
        runs: {label: run}, a run of `load` or `run_training`, or its folder.

    Raises:
        ConfigError: no run, or one that has no gradient_flow.json, which a run gets at its end.
    """
    from rnnlab.library.gradients import draw_gradients

    return draw_gradients(runs)


def half_life(norms: Any) -> float:
    """Over how many steps back in time a gradient halves, by a line through its logarithm; infinite where it does not
    decay, NaN where it is not finite.

    Args:
        norms: [T], as of `LoadedRun.gradients()["layer 1"]`.
    """
    from rnnlab.library.gradients import fitted_half_life

    return fitted_half_life(norms)


def table(rows: Iterable[Mapping[str, Any]]) -> "Table":
    """Rows as a table that prints well, in a notebook, too; `.frame()` makes it a DataFrame.

    Args:
        rows: mappings from the names of columns to numbers and texts.
    """
    from rnnlab.library.table import Table

    return Table(rows)


__all__ = ["compare_gradients", "half_life", "load", "load_sweep", "run_sweep", "run_training", "table"]
