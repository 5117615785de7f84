"""A sweep's folder as an object: the table of its runs, and each of them as a `LoadedRun`."""

from pathlib import Path
from typing import Any

from rnnlab.config.errors import ConfigError, unknown
from rnnlab.library.folders import existing_folder
from rnnlab.library.loaded_run import LoadedRun
from rnnlab.library.table import Table
from rnnlab.records.folders import SweepDir
from rnnlab.records.workdir import Workdir
from rnnlab.sweeps.report.table import make_rows
from rnnlab.sweeps.spec.manifest import read_sweep


class LoadedSweep:
    """What a sweep has left in its folder; `rnnlab.load_sweep` makes it."""

    def __init__(self, workdir: str | Path, data_dir: str | None = None):
        """See `rnnlab.load_sweep`."""
        self.workdir = existing_folder(workdir)
        self.data_dir = data_dir
        if not SweepDir(self.workdir).manifest.exists() and Workdir(self.workdir).config.exists():
            raise ConfigError(f"{self.workdir} is the workdir of a run, not of a sweep; rnnlab.load opens it")
        self.names = [run["name"] for run in read_sweep(self.workdir)["runs"]]
        """The names of the runs, "0000" and so on."""

    @property
    def runs(self) -> Table:
        """A row for each run, as in runs.csv: `name`, `status`, the value of every axis, and the numbers of its
        summary under their paths, as `best.validation.loss`. It is read anew each time."""
        return Table(make_rows(self.workdir, read_sweep(self.workdir)))

    def table(self, library: str | None = None) -> Any:
        """`runs` as a DataFrame; see `Table.frame`."""
        return self.runs.frame(library)

    def run(self, name: str | int, checkpoint: str | int = "best") -> LoadedRun:
        """One of the runs, by its name or its number.

        Raises:
            ConfigError: there is no such run, or it has not begun.
        """
        name = f"{name:04}" if isinstance(name, int) else name
        if name not in self.names:
            raise ConfigError(f"{self.workdir}: {unknown('run', name, self.names)}")
        return LoadedRun(SweepDir(self.workdir).run(name), checkpoint, self.data_dir)

    def __repr__(self) -> str:
        return f"LoadedSweep of {len(self.names)} runs in {self.workdir}"
