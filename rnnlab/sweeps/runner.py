"""run_sweep: the order of things in a sweep. What its file means is in `space.py`, who trains with whom in `groups.py`.

Several processes may work in one folder: each takes groups that no other holds.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rnnlab.build import ConfigError
from rnnlab.datasets.writing import claimed
from rnnlab.sweeps.groups import Group
from rnnlab.sweeps.manifest import Plan, make_plan, open_sweep, read_sweep
from rnnlab.sweeps.progress import SweepProgress
from rnnlab.sweeps.space import described, expand
from rnnlab.sweeps.table import DONE, is_done, write_table

TABLE_EVERY = 100.0
"""The table is written again after so many times the seconds that it takes, and at the end."""


def run_sweep(
    sweep: Mapping[str, Any],
    workdir: Path,
    data_dir: str | None = None,
    *,
    dry_run: bool = False,
    shard: tuple[int, int] = (0, 1),
    at_most: int | None = None,
) -> str:
    """Trains what is not over yet of a sweep.

    Args:
        sweep: what `space.load_sweep` returns.
        workdir: the sweep's folder; see README for what it holds.
        dry_run: only says what would be done.
        shard: (i, n): of every n groups the one numbered i, from 0.
        at_most: replicas in a group.

    Returns:
        "finished", or "interrupted" after saving. Diverged runs are results.

    Raises:
        ConfigError: a mistake in the sweep; or in single runs, after all others have been trained.
    """
    settings = expand(sweep)
    if dry_run:
        _say_plan(make_plan(workdir, settings, at_most), workdir)
        return "finished"
    plan = open_sweep(workdir, sweep, settings, at_most)
    table = _Table(workdir)
    progress = SweepProgress(len(settings), table.done)
    progress.say(_first_words(plan, workdir, table.done))
    _use_all_cores()

    failures: list[str] = []
    elsewhere = 0
    try:
        for number, (name, group) in enumerate(plan.groups.items()):
            if number % shard[1] != shard[0] or not _left(workdir, group):
                continue
            folder = workdir / "groups" / name
            with claimed(folder / "group.lock") as mine:
                if not mine:
                    elsewhere += 1
                    continue
                if not _left(workdir, group):  # Another process has just finished it.
                    continue
                try:
                    _train(group, workdir, folder, data_dir, progress, table)
                except ConfigError as error:
                    failures.append(f"group {name} ({described(group.settings[0].overrides)}): {error}")
                    progress.say(f"error: {failures[-1]}")
                    continue
            table.refresh()
            progress.advance(table.done)
            if _left(workdir, group):
                table.write()
                progress.say(f"interrupted after {table.done} of {len(settings)} runs; the same command resumes")
                return "interrupted"
    finally:
        table.write()
    if failures:
        more = f"; {len(failures) - 1} more groups failed" if len(failures) > 1 else ""
        raise ConfigError(f"{failures[0]}{more}; all others are kept, the same command goes on")
    if elsewhere:
        progress.say(f"{elsewhere} groups are in the hands of other processes")
    progress.say(_last_words(table.rows, workdir))
    return "finished"


def _train(
    group: Group, workdir: Path, folder: Path, data_dir: str | None, progress: SweepProgress, table: "_Table"
) -> None:
    """Trains the runs of a group that are not over yet; returns early, after saving, where it is interrupted."""
    from rnnlab.loop import train_and_evaluate  # Here: they take seconds to import, and a dry run needs none of it.
    from rnnlab.sweeps.group_run import run_group

    if group.alone is None:
        table.write()
        others = table.done - (len(group.settings) - len(_left(workdir, group)))

        def shown(*, step: int, steps: int, running: int, ended: int) -> None:
            progress.advance(others + ended + running * step / steps, f"{running} replicas at step {step}")
            table.refresh()

        progress.report(f"next: {len(group.settings)} replicas, {described(_shared(group))}")
        with progress.running():
            run_group(group.settings, workdir, folder, data_dir, progress.say, shown)
        return
    for setting in _left(workdir, group):
        progress.report(f"next: run {setting.name}, {described(setting.overrides)}")
        summary = train_and_evaluate(setting.config, workdir / "runs" / setting.name, data_dir)
        if summary["status"] == "interrupted":
            return
        table.refresh()
        progress.advance(table.done)


def _left(workdir: Path, group: Group) -> list[Any]:
    """The settings of a group whose runs are not over."""
    return [setting for setting in group.settings if not is_done(workdir / "runs" / setting.name)]


def _use_all_cores() -> None:
    """Makes a CPU device of every core; the first run would make as many as divide its batch, and the later ones, of
    other batches, could have no more."""
    import jax

    from rnnlab import devices

    devices.tune_host(count := devices.cores(), count)
    jax.devices()


class _Table:
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


# --- words -----------------------------------------------------------------------------------------------------------


def _say_plan(plan: Plan, workdir: Path) -> None:
    """A line for every group, and what they are together."""
    for name, group in plan.groups.items():
        same = _shared(group)
        over = ", ".join(path for path in group.settings[0].overrides if path not in same)
        kind = f"{len(group.settings)} replicas over {over}" if group.alone is None else f"1 run alone ({group.alone})"
        done = len(group.settings) - len(_left(workdir, group))
        print(f"group {name}  {kind}  {described(same)}{f'  ({done} done)' if done else ''}")
    done = sum(is_done(workdir / "runs" / setting.name) for setting in plan.settings)
    print(f"{_counted(plan)}; {done} runs are done")


def _shared(group: Group) -> dict[str, Any]:
    """What the axes set alike in all runs of a group."""
    first, *others = (setting.overrides for setting in group.settings)
    return {path: value for path, value in first.items() if all(o.get(path, o) == value for o in others)}


def _counted(plan: Plan) -> str:
    programs = len(plan.groups)
    return f"{len(plan.settings)} runs in {programs} compiled program{'s' if programs != 1 else ''}"


def _first_words(plan: Plan, workdir: Path, done: int) -> str:
    if plan.new:
        return f"a new sweep in {workdir}: {_counted(plan)}"
    words = f"resuming {workdir}: {_counted(plan)}, {done} runs are done"
    if plan.added or plan.gone:
        words += f"; the sweep has changed: {plan.added} runs are new"
        words += f", {plan.gone} are no longer in it and stay in the table (in_sweep false)" if plan.gone else ""
    return words


def _last_words(rows: list[dict[str, Any]], workdir: Path) -> str:
    statuses = [row["status"] for row in rows if row["in_sweep"]]
    counts = ", ".join(f"{statuses.count(status)} {status.replace('_', ' ')}" for status in dict.fromkeys(statuses))
    return f"{counts}; table in {workdir / 'runs.csv'}"
