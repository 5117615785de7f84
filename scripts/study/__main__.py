"""Trains the study of docs/study.md, and makes its page.

    python -m scripts.study --part=cells --budget_minutes=120            # goes on where it was
    python -m scripts.study --part=cells --only='adding_200/*'           # a task, or METHOD on one: copying_50/lem
    python -m scripts.study --part=cells --shard=0/4                     # on one of four machines
    python -m scripts.study --part=cells --only='adding_200/*' --costs   # the cost of a step, on a quiet machine
    python -m scripts.study --plan                                       # what all of it costs
    python -m scripts.study --page         # docs/study.md and docs/mitigations.md from docs/results/study

An entry is a method on a task: learning rate and strength are chosen by successive halving on three validation seeds,
then eight other seeds are trained and tested, and a JSON file of them is written to --results. Runs lie in --workdir,
which several machines may share; an entry that another process trains, or whose file is there, is passed over. A budget
that is over stops at the next dispatch, and the same command goes on there. On a CPU with a C++ compiler at hand
--backend=native is faster.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import jax
from absl import flags

from rnnlab import cli
from rnnlab.config.errors import ConfigError
from rnnlab.engine import Backend
from rnnlab.files.locks import claimed
from rnnlab.parallel import devices
from rnnlab.parallel.environment import single_precision
from scripts.study.comparison import baseline_of
from scripts.study.costs import measure_costs, write_cost
from scripts.study.entries import PARTS, Entry, entries
from scripts.study.planning import plan_table, seconds_of
from scripts.study.protocol import SIZES
from scripts.study.training import entry_file, failed_before, train_entry, write_entry

RESULTS, PAGE, CURES_PAGE = "docs/results/study", "docs/study.md", "docs/mitigations.md"


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    values = flags.FlagValues()
    flags.DEFINE_enum("part", "cells", list(PARTS), "what is trained", flag_values=values)
    flags.DEFINE_enum("size", "small", list(SIZES), "how many parameters a network has at most", flag_values=values)
    flags.DEFINE_string("only", "", "TASK/METHOD patterns, with commas between; all if empty", flag_values=values)
    flags.DEFINE_enum(
        "backend", "auto", list(get_args(Backend)), "what runs the layers: equal up to rounding", flag_values=values
    )
    flags.DEFINE_float("budget_minutes", None, "stops after so long; else at the end", 0.0, flag_values=values)
    flags.DEFINE_string("shard", "0/1", "i/n: of every n entries the one numbered i, from 0", flag_values=values)
    cli.path_flag(values, "workdir", "runs/study", "folder of the runs")
    cli.path_flag(values, "results", RESULTS, "folder of the JSON files")
    flags.DEFINE_bool("plan", False, "says what each part costs, and trains nothing", flag_values=values)
    flags.DEFINE_bool("costs", False, "measures steps beside the baseline's, and trains nothing", flag_values=values)
    flags.DEFINE_bool("page", False, f"writes {PAGE} and {CURES_PAGE}, and trains nothing", flag_values=values)
    cli.data_flags(values)
    cli.figure_flag(values)
    cli.parse(values, argv, __doc__)
    if values.plan:
        print(plan_table({part: entries(part, values.size) for part in PARTS}))
        return cli.FINISHED
    if values.page:
        from scripts.study.page import write_pages

        print(write_pages(Path(values.results), Path(PAGE), Path(CURES_PAGE)))
        return cli.FINISHED
    index, count = _shard(values.shard)
    folder = "" if values.size == "small" else values.size
    results, workdir = Path(values.results) / folder, Path(values.workdir) / folder
    devices.use_all_cores()  # To count parameters is to use JAX.
    with single_precision():

        def here(every: list[Entry]) -> list[Entry]:
            return [entry.run_by(values.backend, values.data_dir) for entry in every]

        chosen = here(entries(values.part, values.size, values.only)[index::count])
        if values.costs:
            _measure(chosen, here(entries(values.part, values.size)), results, values.data_dir)
            return cli.FINISHED
        over = _train(chosen, workdir, results, values.data_dir, values.budget_minutes)
    print("finished" if over else "the budget is over; the same command goes on")
    return cli.FINISHED


def _shard(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ConfigError(f"--shard: {text!r} is not i/n with i from 0 to n - 1, as 0/4")
    return int(index), int(count)


def _measure(chosen: Sequence[Entry], every: Sequence[Entry], results: Path, data_dir: str | None) -> None:
    """Writes the costs of entries that have a baseline."""
    by_name = {entry.name: entry for entry in [*every, *chosen]}
    if not chosen:
        return
    pairs = []
    for entry in chosen:
        if (baseline := baseline_of(entry.part, entry.method)) is not None:
            pairs.append((entry, by_name[f"{entry.part}/{entry.task}/{baseline}"]))
    if not pairs:
        raise ConfigError(f"--costs: nothing of --part={chosen[0].part} has a baseline; cells and cures have")
    for entry, cost in measure_costs(pairs, data_dir):
        words = "diverged"
        if cost is not None:
            words = f"{cost.ratio:.2f} of its baseline's, {cost.milliseconds:.3g} ms"
        print(f"{entry.name}: {words}", flush=True)
        if cost is not None:
            write_cost(results, entry, cost)


def _train(chosen: Sequence[Entry], runs: Path, results: Path, data_dir: str | None, minutes: float | None) -> bool:
    """Trains the entries that have no file yet; False where the budget was over first.

    Raises:
        ConfigError: files of a task are missing; all other entries are trained.
    """
    deadline = None if minutes is None else time.monotonic() + 60 * minutes

    def late(step: int = 0) -> bool:
        return deadline is not None and time.monotonic() >= deadline

    left_out = 0
    for number, entry in enumerate(chosen, 1):
        if late():
            return False
        with claimed(runs / entry.name / "entry.lock") as mine:
            if not mine or entry_file(results, entry).exists():
                continue
            if (failed := failed_before(entry, results)) is not None:
                print(f"{entry.name} is not trained: not every seed of {failed} solves its task", flush=True)
                continue
            print(f"{number} of {len(chosen)}: {entry.name}, about {seconds_of(entry) / 60:.1f} minutes", flush=True)
            try:
                result = train_entry(entry, runs, data_dir, late)
            except ConfigError as error:  # A task's files are missing.
                print(f"{entry.name} is left out: {error}", flush=True)
                left_out += 1
                continue
            if result is None:
                return False
            write_entry(results, entry, result)
        jax.clear_caches()
    if left_out:
        raise ConfigError(f"{left_out} of {len(chosen)} entries were left out; their lines say why")
    return True


if __name__ == "__main__":
    cli.run(main)
