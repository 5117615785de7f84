"""Tests and times this machine's GPU or TPU: one command for the day there is one.

    python -m rnnlab.accelerator_check --minutes=8 --output=check
    python -m rnnlab.accelerator_check --minutes=3 --output=check --cells=lstm,gru
    python -m rnnlab.accelerator_check --minutes=1 --output=/tmp/check --small      # to try the command

Four stages share the time, each taking what those before it leave:
    correctness  every cell on every backend, loss and all gradients, against double precision on the host
    timing       a training step at (1024, 16, 768, 768) and the shapes of rnnlab.benchmark: rnnlab's backends, torch.nn
                 (cuDNN), jax.experimental.rnn, flax.nnx.RNN and the plain scan, in float32, TF32 and bfloat16
    sweeps       `rnnlab.sweep` of 1, 64 and 512 runs of the adding problem, whole commands
    training     permuted MNIST, where that is at hand, for what time is left

After every part check.json, check.md and backends.json are written anew, figures after every stage: being cut off loses
the part that was running. The same command goes on with what is left. backends.json has lines for the engine's table of
measured backends, rnnlab/engine/measured_backends.json, from which backend `auto` is chosen.
Exit status: 0 all that ran is right, 2 a mistake in the command, 6 the device computes something wrongly.
"""

import importlib.util
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from rnnlab import cli
from rnnlab.accelerator_check import parts
from rnnlab.accelerator_check.correctness import refused
from rnnlab.accelerator_check.record import Record
from rnnlab.accelerator_check.worker import LimitedWorker, nvidia_driver
from rnnlab.benchmark.__main__ import parse_list
from rnnlab.benchmark.layers import measure, summarize
from rnnlab.cells import CELLS
from rnnlab.config.errors import ConfigError
from rnnlab.files.output import make_console
from rnnlab.records import statuses

UNTIL = {"correctness": 0.3, "timing": 0.65, "sweeps": 0.85, "training": 1.0}
"""The share of the time after which no part of a stage begins."""
LONGEST = 150.0
"""Seconds after which an answer is given up."""

Part = tuple[str, Callable[[float], Any]]
"""Its name, and what does it within so many seconds: the result, or None where they did not suffice."""


class Check:
    """One command's work."""

    def __init__(self, folder: Path, plan: parts.Plan, cells: Sequence[str], more: Sequence[str]):
        """more: further words of `rnnlab.train`."""
        self.plan, self.cells, self.more = plan, cells, more
        self.folder = folder
        self.jax = LimitedWorker("jax", LONGEST)
        self.torch: LimitedWorker | None = None
        device = self.jax.ask(do="device")
        if "error" in device:
            self.jax.end()
            raise ConfigError(f"JAX does not run here: {device['error']}")
        try:
            self.record = Record(folder, device | {"driver": nvidia_driver()})
            self.record.write()  # Now: what cannot be written later would cost the device's time.
        except ConfigError:
            self.jax.end()
            raise

    def stage(self, name: str) -> list[Part]:
        """The parts of a stage that are not done."""
        return [part for part in getattr(self, f"_{name}")() if not self._is_done(name, part[0])]

    def _is_done(self, stage: str, part: str) -> bool:
        result = self.record.content[stage].get(part)
        return result is not None and (stage != "training" or result.get("status") not in (None, "unfinished"))

    def _correctness(self) -> Iterator[Part]:
        for cell in parts.check_cases(self.cells):
            yield cell, lambda seconds, cell=cell: self._correct(cell, seconds)

    def _correct(self, cell: str, seconds: float) -> Any:
        self.jax.limit = min(LONGEST, seconds)
        rows = self.jax.ask(**parts.correctness_request(self.plan, cell))
        if not isinstance(rows, dict):
            if any("error" in row and not refused(row) for row in rows):
                self.jax.end()  # A fault in a kernel spoils all that a process computes after it.
            return rows
        if self.jax.limit < LONGEST and rows["error"].startswith("took longer"):
            return None
        return [{"cell": cell, "backend": "all", "precision": "all", **rows}]

    def _timing(self) -> Iterator[Part]:
        for name, case in parts.timing_cases(self.plan, self.cells).items():
            yield name, lambda seconds, case=case: self._time(case, seconds)

    def _time(self, case: Any, seconds: float) -> Any:
        if self.torch is None and importlib.util.find_spec("torch") is not None:
            self.torch = LimitedWorker("torch", LONGEST)
        workers = [worker for worker in (self.jax, self.torch) if worker is not None]
        for worker in workers:
            worker.limit = min(LONGEST, seconds)
        rows = measure(case, workers, self.plan.turns, self.plan.seconds)
        if seconds < LONGEST and any(row.get("error", "").startswith("took longer") for row in rows):
            return None
        kind = {"class": parts.class_of(case.cell), "features": case.features}
        return [row | kind for row in summarize(case, rows)]

    def _sweeps(self) -> Iterator[Part]:
        for rates, seeds in self.plan.replicas:
            yield str(rates * seeds), lambda seconds, rates=rates, seeds=seeds: self._sweep(rates, seeds, seconds)

    def _sweep(self, rates: int, seeds: int, seconds: float) -> Any:
        self.release()
        try:
            return parts.run_sweep(self.plan, rates, seeds, seconds)
        except subprocess.TimeoutExpired:
            return None
        except ConfigError as error:
            return {"error": str(error)}

    def _training(self) -> Iterator[Part]:
        name = self.plan.training[0].removeprefix("--config=rnnlab:")
        yield name, self._train

    def _train(self, seconds: float) -> Any:
        self.release()
        return parts.train(self.plan, self.folder / "training", seconds, self.more)

    def release(self) -> None:
        """Gives the device to other processes."""
        for worker in (self.jax, self.torch):
            if worker is not None:
                worker.end()


def run(check: Check, minutes: float, console: Any) -> None:
    """Does what fits into the time."""
    began = time.monotonic()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("")
        for stage, share in UNTIL.items():
            todo, longest = check.stage(stage), 0.0
            total = len(todo) + len(check.record.content[stage])
            for number, (name, work) in enumerate(todo):
                now = time.monotonic()
                left, whole = (began + 60 * minutes * part - now for part in (share, 1.0))
                if left <= 0 or whole < longest:
                    console.print(f"{stage}: time is over, {len(todo) - number} of {total} left", highlight=False)
                    break
                words = f"{stage}: {name} ({whole / 60:.0f} min left)"
                progress.update(bar, description=words, total=len(todo), completed=number)
                result = work(whole)
                spent = time.monotonic() - now
                longest = max(longest, spent)
                if result is None:
                    console.print(f"{stage}: {name} did not fit into the time", highlight=False)
                    break
                check.record.put(stage, name, result, spent)
                if not console.is_terminal:
                    console.print(f"{stage}: {name}, {spent:.0f} s", highlight=False)
            check.record.draw()


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    values = flags.FlagValues()
    flags.DEFINE_float("minutes", 8.0, "how long it may take", lower_bound=0.1, flag_values=values)
    cli.path_flag(values, "output", None, "folder of the results; one that has some is gone on with")
    flags.DEFINE_string("cells", "", f"of {', '.join(CELLS)}; all if empty", flag_values=values)
    flags.DEFINE_bool("small", False, "arrays of a few numbers, to try the command itself", flag_values=values)
    cli.data_flags(values)
    cli.figure_flag(values)
    cli.parse(values, argv, __doc__)
    if values.output is None:
        raise ConfigError("--output: missing; the folder of the results, as --output=check")
    cells = parse_list(values.cells, list(CELLS), "cells")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX's and PyTorch's processes share the device.
    folder, console = Path(values.output), make_console()
    more = [f"--data_dir={values.data_dir}"] if values.data_dir else []
    check = Check(folder, parts.SMALL if values.small else parts.WHOLE, cells, more)
    try:
        run(check, values.minutes, console)
    finally:
        check.release()
    wrong = check.record.wrong()
    for row in wrong:
        words = row.get("error") or f"{row['where']} is {row['apart']:.2g} of its size apart"
        console.print(f"WRONG: {row['cell']}, {row['backend']}, {row['precision']}: {words}", markup=False)
    left = {stage: len(check.stage(stage)) for stage in UNTIL}
    rest = ", ".join(f"{count} of {stage}" for stage, count in left.items() if count)
    console.print(f"{folder / 'check.md'}; " + (f"left for the same command: {rest}" if rest else "all is done"))
    return statuses.WRONG if wrong else cli.FINISHED


if __name__ == "__main__":
    cli.run(main)
