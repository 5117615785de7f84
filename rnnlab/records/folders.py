"""Names the files of a sweep, of its groups, of a report and of a recording; those of a run are `Workdir`'s."""

from pathlib import Path


class ReportDir:
    """The files of a report: of a sweep, or of a run."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.markdown = folder / "report.md"
        """The report; its figures are in plots/."""
        self.page = folder / "report.html"
        """The same on one page, which holds its figures and opens without a network."""
        self.plots = folder / "plots"
        """The figures."""
        self.lock = folder / "report.lock"
        """Who writes the report."""


class RecordingDir:
    """The files of a recording of the flight recorder, in a folder that has the number of its update."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.record = folder / "recording.json"
        """Written last: a folder that has it is whole."""
        self.carries = folder / "carries.npz"
        """The carries of the last recorded update, at every time step."""
        self.state = folder / "state"
        """The state of training before the first recorded update."""

    @classmethod
    def all_in(cls, folder: Path) -> "list[RecordingDir]":
        """The whole recordings below a folder, by their updates."""
        numbered = [cls(path) for path in folder.glob("*") if path.name.isdecimal()]
        return sorted((each for each in numbered if each.record.exists()), key=lambda each: int(each.folder.name))


class GroupDir:
    """The files of a group of a sweep."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.lock = folder / "group.lock"
        """Who trains its runs."""
        self.reached = folder / "reached.json"
        """The rung that its runs have come to, with halving."""

    def checkpoints(self, part: int = 0) -> Path:
        """The checkpoints of the group; of one that is split for memory and stops half way, one folder a part."""
        return self.folder / ("checkpoints" if part == 0 else f"checkpoints-{part}")


class SweepDir:
    """The files of a sweep's folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.manifest = folder / "sweep.json"
        """Its axes, every run with its values and its command, and the groups of runs that are one program."""
        self.manifest_lock = folder / "sweep.lock"
        """Who writes sweep.json."""
        self.base = folder / "base.py"
        """The base config, where it is not a file by itself."""
        self.runs = folder / "runs"
        """The workdir of each run, `0000` and so on."""
        self.groups = folder / "groups"
        """A folder for each group: what its runs share while they train."""
        self.csv = folder / "runs.csv"
        """A row for each run: its values, status, final and best metrics."""
        self.parquet = folder / "runs.parquet"
        """The same with types."""
        self.table_lock = folder / "table.lock"
        """Who writes the table."""
        self.rungs_lock = folder / "rungs.lock"
        """Who decides at a rung."""
        self.points = folder / "optuna.json"
        """With Optuna: the settings that it asked for."""
        self.points_lock = folder / "optuna.lock"
        """Who asks it."""
        self.journal = folder / "optuna.journal"
        """The same for Optuna's own tools."""
        self.slurm = folder / "slurm"
        """Logs of the jobs."""

    def run(self, name: str) -> Path:
        """The workdir of a run."""
        return self.runs / name

    def group(self, name: str) -> GroupDir:
        """The folder of a group."""
        return GroupDir(self.groups / name)

    def rung(self, index: int) -> Path:
        """The file that says which settings go on past a rung."""
        return self.folder / "rungs" / f"{index}.json"

    @classmethod
    def of_run(cls, workdir: Path) -> "SweepDir | None":
        """The sweep that a run is one of, by where its workdir lies."""
        run = workdir.absolute()
        sweep = cls(run.parent.parent)
        return sweep if sweep.runs == run.parent and sweep.manifest.is_file() else None
