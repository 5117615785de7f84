"""Worker: what one command does with the groups of a sweep. `runner.py` says which rounds there are.

Several commands may work in one folder: each takes groups that no other holds.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rnnlab.config.errors import ConfigError
from rnnlab.files.locks import claimed
from rnnlab.parallel.memory import OutOfMemory
from rnnlab.records.folders import SweepDir
from rnnlab.records.workdir import DONE
from rnnlab.sweeps.orders import Orders
from rnnlab.sweeps.progress import SweepProgress
from rnnlab.sweeps.report.table import write_table
from rnnlab.sweeps.spec.groups import Group
from rnnlab.sweeps.spec.halving import left_before, mark_reached
from rnnlab.sweeps.spec.manifest import Plan, read_sweep
from rnnlab.sweeps.spec.space import described

TABLE_EVERY = 100.0
"""The table is written again after so many times the seconds that it takes, and at the end."""
WAIT = 5.0
"""Seconds after which a process that waits for others looks at their groups again."""


class Worker:
    """Trains groups that no other process holds.

    Args:
        plan, workdir: of the sweep.
        orders: by which groups are trained, in all processes of this command.
        shard: as of `runner.run_sweep`.
        progress: what the user sees.
        table: written now and then.
        interrupted: the signals that have come (`loop.interruptions`).
    """

    def __init__(
        self,
        plan: Plan,
        workdir: Path,
        orders: Orders,
        shard: tuple[int, int],
        progress: SweepProgress,
        table: "TableFile",
        interrupted: Sequence[str],
    ):
        self.plan, self.workdir, self.orders, self.shard = plan, workdir, orders, shard
        self.progress, self.table, self.interrupted = progress, table, interrupted
        self.elsewhere: list[str] = []
        """Groups that were in the hands of other commands when this one was done."""
        self._taken = 0
        self._failures: dict[str, ConfigError] = {}

    def train(self, stop_at: int | None = None, pruned: Mapping[str, int] = {}, *, waits: bool = False) -> bool:
        """Trains what is left of the groups that no other process holds; False after an interruption. Asks again after
        every round in which it had something to do: a process that died meanwhile has left its groups.

        Args:
            stop_at: to this step; None: to the end.
            pruned: {name: step} of runs that end before.
            waits: until the others have done theirs; where they die, theirs are this process's.
        """
        while True:
            self.elsewhere, taken = [], self._taken
            if not all(self._take(name, stop_at, pruned) for name in self._mine()):
                return False
            if not self.elsewhere or not (waits or self._taken > taken):
                return True
            if self._taken > taken:
                continue
            self.progress.advance(self.table.done, f"waiting for {len(self.elsewhere)} groups of other commands")
            time.sleep(WAIT)
            if self.interrupted:
                return False
            self.table.refresh()

    def complain(self) -> None:
        """Raises what went wrong in single groups; OutOfMemory where all are too large and no other process works
        here."""
        if self._failures:
            first, *others = self._failures.values()
            more = f"; {len(others)} more groups failed" if others else ""
            alone = self.shard[1] == 1 and len(self._failures) == len(self.plan.groups)
            if alone and all(isinstance(each, OutOfMemory) for each in self._failures.values()):
                raise OutOfMemory(f"{first}{more}")
            raise ConfigError(f"{first}{more}; all others are kept, the same command goes on")

    def left_elsewhere(self) -> int:
        """How many runs of the groups that others hold are not over."""
        left = (left_before(self.workdir, name, self.plan.groups[name], None) for name in self.elsewhere)
        return sum(len(settings) for settings in left)

    def _mine(self) -> list[str]:
        """The groups of this process's shard that have not failed in it."""
        index, count = self.shard
        return [name for name in list(self.plan.groups)[index::count] if name not in self._failures]

    def _take(self, name: str, stop_at: int | None, pruned: Mapping[str, int]) -> bool:
        """Trains a group if something is left and nobody holds it; False after an interruption."""
        group, folder = self.plan.groups[name], SweepDir(self.workdir).group(name)
        if not left_before(self.workdir, name, group, stop_at):
            return True
        if self.interrupted:  # A signal came as the last group ended.
            return False
        with claimed(folder.lock) as mine:
            if not mine:
                self.elsewhere.append(name)
                return True
            if not left_before(self.workdir, name, group, stop_at):  # Another process has just finished it.
                return True
            self._taken += 1
            try:
                with self.orders.failing_alike():
                    over = self._train(group, name, stop_at, pruned)
            except ConfigError as error:
                kind = OutOfMemory if isinstance(error, OutOfMemory) else ConfigError
                self._failures[name] = kind(f"group {name} ({described(group.settings[0].overrides)}): {error}")
                self.progress.say(f"error: {self._failures[name]}")
                return True
            if over and stop_at is not None:
                mark_reached(self.workdir, name, group, stop_at)
        self.table.refresh()
        self.progress.advance(self.table.done)
        return over

    def _train(self, group: Group, name: str, stop_at: int | None, pruned: Mapping[str, int]) -> bool:
        """Trains the runs of a group that are not over yet; False, after saving, where it is interrupted."""
        workdir, progress, table = self.workdir, self.progress, self.table
        if group.alone is None:
            table.write()
            others = table.done - (len(group.settings) - len(left_before(workdir, name, group, None)))

            def shown(*, step: int, steps: int, running: int, ended: int) -> None:
                words = f"{running} replica{'' if running == 1 else 's'} at step {step}"
                progress.advance(others + ended + running * step / steps, words)
                table.refresh()

            same = shared_axes(group)
            progress.report(f"next: {len(group.settings)} replicas{f', {described(same)}' if same else ''}")
            with progress.running():
                return self.orders.group(group.settings, name, shown, stop_at=stop_at, pruned=pruned)
        for setting in left_before(workdir, name, group, None):
            progress.report(f"next: run {setting.name}, {described(setting.overrides)}")
            ends = pruned.get(setting.name)
            last = stop_at if ends is None else ends
            if self.orders.run(setting, stop_at=last, prune=ends is not None) == "interrupted":
                return False
            table.refresh()
            progress.advance(table.done)
        return True


def shared_axes(group: Group) -> dict[str, Any]:
    """The values that the axes set alike in all runs of a group."""
    first, *others = (setting.overrides for setting in group.settings)
    return {path: value for path, value in first.items() if all(o.get(path, o) == value for o in others)}


class TableFile:
    """runs.csv and runs.parquet, kept up to date at a small share of the time.

    Args:
        workdir: the sweep's folder, with its sweep.json.
    """

    def __init__(self, workdir: Path):
        self.workdir = workdir
        self.write()

    def write(self) -> None:
        began = time.monotonic()
        self.rows = write_table(self.workdir, read_sweep(self.workdir))
        self.written = time.monotonic()
        self.seconds = self.written - began

    def refresh(self) -> None:
        """Writes the table unless it is a new one."""
        if time.monotonic() - self.written > TABLE_EVERY * self.seconds:
            self.write()

    @property
    def done(self) -> int:
        """How many runs of the sweep were over when the table was written."""
        return sum(row["status"] in DONE for row in self.rows if row["in_sweep"])
