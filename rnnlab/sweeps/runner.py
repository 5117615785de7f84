"""run_sweep: the order of things in a sweep. `space.py` says what its file means, `groups.py` who trains with whom.

Several commands may work in one folder: each takes groups that no other holds. One command may have several processes,
of which the first does what is written here (`orders.py`).
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnnlab.parallel import processes
from rnnlab.parallel.environment import single_precision
from rnnlab.parallel.memory import allocation_failures
from rnnlab.records.folders import SweepDir
from rnnlab.records.trackers import make_trackers
from rnnlab.records.workdir import is_done, unless_too_large
from rnnlab.sweeps.orders import Orders
from rnnlab.sweeps.progress import SweepProgress
from rnnlab.sweeps.spec.halving import Halving, left_before
from rnnlab.sweeps.spec.manifest import Plan, make_plan, open_sweep
from rnnlab.sweeps.spec.search import Search
from rnnlab.sweeps.spec.space import Setting, described, expand
from rnnlab.sweeps.worker import TableFile, Worker, shared_axes

if TYPE_CHECKING:
    from rnnlab.sweeps.replicas.group_run import KeptPrograms


@processes.partners()
@single_precision()
def run_sweep(
    sweep: Mapping[str, Any],
    workdir: Path,
    data_dir: str | None = None,
    *,
    dry_run: bool = False,
    shard: tuple[int, int] = (0, 1),
    at_most: int | None = None,
    stop: Callable[[int], bool] | None = None,
    kept: "KeptPrograms | None" = None,
) -> str:
    """Trains what is not over yet of a sweep.

    Args:
        sweep: what `space.load_sweep` returns.
        workdir: the sweep's folder; docs/how_to/sweep_and_report.md says what it holds.
        dry_run: only says what would be done.
        shard: (i, n): of every n groups the one numbered i, from 0.
        at_most: replicas in a group.
        stop: asked with the step after every dispatch; where it says True the sweep is interrupted, and the runs under
            way are measured as if they ended there.
        kept: where compiled programs are looked for and left, for another sweep of the same structure.

    Returns:
        "finished", "interrupted" after saving, or "incomplete" where other commands still have groups. Diverged runs
        are results.

    Raises:
        ConfigError: a mistake in the sweep; or in single runs, after all others have been trained.
        LostProcess: another process of the sweep has ended.
    """
    with allocation_failures():
        if not dry_run:
            from rnnlab.parallel import devices

            if idle := devices.use_all_cores():  # Before anything is written: there may be no such devices.
                print(f"warning: {idle}")
        orders = Orders(workdir, data_dir, stop, kept)
        if not processes.is_first():
            return orders.follow()
        with unless_too_large(workdir):
            return orders.lead(lambda: _lead(sweep, workdir, orders, dry_run, shard, at_most))


def _lead(
    sweep: Mapping[str, Any], workdir: Path, orders: Orders, dry_run: bool, shard: tuple[int, int], at_most: int | None
) -> str:
    """`run_sweep`, in the first process of the command."""
    search = None if sweep["optuna"] is None else Search(sweep, workdir)
    if search is not None and not dry_run and not search.left():
        search.ask(print)

    def settings() -> list[Setting]:
        return expand(sweep) if search is None else search.settings()

    plan = make_plan(workdir, settings(), at_most)
    halving = None if sweep["halving"] is None else Halving(sweep["halving"], plan.settings, workdir)
    if dry_run:
        _say_plan(plan, workdir)
        for driver in filter(None, (halving, search)):
            print(driver.described())
        return "finished"
    for config in {each.config["trackers"]: each.config for each in plan.settings}.values():
        make_trackers(config)  # Their packages are there.
    plan = open_sweep(workdir, sweep, settings(), at_most)
    orders.opened()
    table = TableFile(workdir)
    runs = len(plan.settings) if search is None else search.runs
    progress = SweepProgress(runs, table.done, even=halving is None)
    orders.say = progress.say
    progress.say(_first_words(plan, workdir, table.done))
    from rnnlab.training.interruptions import (
        interruptions,  # Here: it takes seconds to import, and a dry run needs none of it.
    )

    try:
        with interruptions(progress.say) as interrupted:
            worker = Worker(plan, workdir, orders, shard, progress, table, interrupted)
            if halving is not None:
                over = _train_by_rungs(worker, halving)
            elif search is not None:
                over = _train_by_batches(worker, search, lambda: open_sweep(workdir, sweep, settings(), at_most))
            else:
                over = worker.train()
    finally:
        table.write()
    if not over:
        progress.say(f"interrupted after {table.done} of {runs} runs; the same command resumes")
        return "interrupted"
    worker.complain()
    progress.say(_last_words(table.rows, workdir))
    if left := worker.left_elsewhere():
        names = ", ".join(worker.elsewhere)
        progress.say(
            f"not complete: {left} runs of the groups {names} are in the hands of other commands; should these "
            "end early, the same command trains what they leave"
        )
        return "incomplete"
    return "finished"


def _train_by_rungs(worker: Worker, halving: Halving) -> bool:
    """Every group to the first rung, those that go on to the next, and so on; as `Worker.train`."""
    worker.progress.say(halving.described())
    for index, step in enumerate(halving.rungs):
        if not worker.train(step, halving.pruned(), waits=True):
            return False
        decided = halving.decide(index, worker.plan.groups)
        if decided is None:  # They failed, or belong to a shard that has not come so far.
            worker.progress.say(f"not all runs have come to step {step}; when they have, the same command goes on")
            return True
        worker.progress.say(decided)
    return worker.train(None, halving.pruned())


def _train_by_batches(worker: Worker, search: Search, reopen: Callable[[], Plan]) -> bool:
    """The runs of a batch, and of the next that is asked for after them, to the last trial; as `Worker.train`."""
    worker.progress.say(search.described())
    while search.left() or search.ask(worker.progress.say):
        worker.plan = reopen()
        worker.table.write()
        if not worker.train(waits=True):
            return False
        worker.complain()
        if search.left():  # They belong to another shard.
            worker.progress.say("not all runs of the batch are over; when they are, the same command goes on")
            break
    return True


# --- words -----------------------------------------------------------------------------------------------------------


def _say_plan(plan: Plan, workdir: Path) -> None:
    """A line for every group, and what they are together."""
    for name, group in plan.groups.items():
        same = shared_axes(group)
        over = ", ".join(path for path in group.settings[0].overrides if path not in same)
        kind = f"{len(group.settings)} replicas over {over}" if group.alone is None else f"1 run alone ({group.alone})"
        done = len(group.settings) - len(left_before(workdir, name, group, None))
        words = (f"group {name}", kind, described(same) if same else "", f"({done} done)" if done else "")
        print("  ".join(word for word in words if word))
    done = sum(is_done(SweepDir(workdir).run(setting.name)) for setting in plan.settings)
    print(f"{_counted(plan)}; {done} runs are done")


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
    return f"{counts}; table in {SweepDir(workdir).csv}"
