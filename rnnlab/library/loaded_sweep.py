"""A sweep's folder as an object: the table of its runs, and each of them as a `LoadedRun`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from rnnlab.config.errors import ConfigError, unknown
from rnnlab.library.folders import existing_folder
from rnnlab.library.loaded_run import LoadedRun
from rnnlab.library.table import Table
from rnnlab.plots.blocks import Heading, Lines, Picture, markdown_of
from rnnlab.plots.style import kept
from rnnlab.records.folders import SweepDir
from rnnlab.records.workdir import Workdir
from rnnlab.sweeps.report.document import METRIC, Report, make_report
from rnnlab.sweeps.report.table import make_rows
from rnnlab.sweeps.spec.manifest import read_sweep


class LoadedSweep:
    """A sweep's folder, opened; `rnnlab.load_sweep` makes it."""

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

    def report(self, metric: str = METRIC, *, baseline: str | None = None, group: Sequence[str] = ()) -> "SweepReport":
        """The findings of the sweep so far, as `python -m rnnlab.report` writes it: texts and matplotlib figures.
        Nothing is written.

        Args:
            metric: a column of `runs` that is a number.
            baseline: the setting to compare with, as "model.cell=lstm", several with commas; else the sweep's own.
            group: axes; the best setting is named for each combination of their values, else for each axis by itself.

        Raises:
            ConfigError: an unknown metric, axis or value, or no run that is over.
        """
        with kept() as figures:
            report = make_report(self.workdir, Path(), metric, baseline, group)
        return SweepReport(report, figures)

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


class Text(str):
    """A text in Markdown, which a notebook shows as such."""

    def _repr_markdown_(self) -> str:
        return str(self)


class SweepReport:
    """The findings of a sweep; a notebook shows its sections."""

    def __init__(self, report: Report, figures: dict[str, Figure]):
        self.figures = figures
        """By the names that their files have, as "settings"."""
        self.best = report.best
        """The line that names the best setting."""
        self.sections: dict[str, Text] = {}
        """The sections but for the figures and the commands, by their headings."""
        title = ""
        for block in report.blocks:
            if isinstance(block, Heading):
                title = block.text
            elif not isinstance(block, Picture | Lines):
                text = self.sections.get(title, "")
                self.sections[title] = Text(f"{text}\n\n{markdown_of(block, Path())}".strip())

    def _repr_markdown_(self) -> str:
        return "\n\n".join(f"## {title}\n\n{text}" for title, text in self.sections.items())

    def __repr__(self) -> str:
        return f"SweepReport: {self.best}; sections: {', '.join(self.sections)}; figures: {', '.join(self.figures)}"
