"""Checks that the gradients which this machine's compiler makes are right.

    python -m rnnlab.selfcheck                            # a hundred draws, or as many as fit into 50 s
    python -m rnnlab.selfcheck --draws=1000 --seconds=0   # as long as it takes
    python -m rnnlab.selfcheck --seed=20261128 --draw=17  # one draw again

Draws programs at random: a cell, shapes, precision, lengths, masks, direction, backend, chunks, several cells by
`vmap`, first or second derivatives. Each is compiled as always and once more with other settings of the compiler (on a
GPU or TPU: for the CPU), and run by PyTorch where that is installed and has the cell. Where two disagree, finite
differences in double precision decide. Every draw follows from --seed, the day's date if not given, and its number.

jaxlib 0.10 is wrong in this way on CPUs with AVX-512 where rnnlab does not repair it, and no training says so: run this
after an update of jax or on a new kind of machine.
Exit status: 0 all right, 2 a mistake in the command, 6 wrong gradients were found; the last line says what to do.
"""

import datetime
import importlib.metadata
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import jax
from absl import flags
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from rnnlab import cli
from rnnlab.files.output import make_console
from rnnlab.parallel import devices
from rnnlab.records import statuses
from rnnlab.selfcheck.judge import Verdict, judge


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    values = flags.FlagValues()
    flags.DEFINE_integer("draws", 100, "at most so many", lower_bound=1, flag_values=values)
    flags.DEFINE_float("seconds", 50.0, "no draw begins after so long; 0: no limit", lower_bound=0, flag_values=values)
    flags.DEFINE_integer("seed", None, "what is drawn; the date if not given", lower_bound=0, flag_values=values)
    flags.DEFINE_integer("draw", None, "this one alone, by its number", lower_bound=0, flag_values=values)
    cli.parse(values, argv, __doc__)
    seed = int(f"{datetime.date.today():%Y%m%d}") if values.seed is None else values.seed
    jax.config.update("jax_enable_compilation_cache", False)  # Today's compiler is asked, not an earlier one.
    began = time.monotonic()
    numbers = range(values.draws) if values.draw is None else [values.draw]
    verdicts = []
    columns = TextColumn("checking gradients"), BarColumn(), MofNCompleteColumn()
    console = make_console()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=len(numbers))
        for verdict in judged(seed, numbers, values.seconds or None):
            verdicts.append(verdict)
            progress.advance(bar)
            if verdict.wrong is not None or values.draw is not None:
                progress.console.print(described(verdict), markup=False, highlight=False, soft_wrap=True)
    print(last_line(verdicts, seed, time.monotonic() - began))
    return statuses.WRONG if any(verdict.wrong for verdict in verdicts) else cli.FINISHED


def judged(seed: int, numbers: Sequence[int], seconds: float | None) -> Iterator[Verdict]:
    """The verdicts, as they come; several draws at once, as most of the time is the compiler's."""
    began, left = time.monotonic(), iter(numbers)
    workers = max(1, devices.cores())
    pool = ThreadPoolExecutor(workers)
    try:
        running: set[Future[Verdict]] = set()
        while True:
            if seconds is None or time.monotonic() - began < seconds:
                more = itertools.islice(left, workers + 1 - len(running))
                running |= {pool.submit(judge, seed, number) for number in more}
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    finally:
        pool.shutdown(cancel_futures=True)


def described(verdict: Verdict) -> str:
    """A line, with the command that computes this draw again."""
    draw = verdict.draw
    command = f"python -m rnnlab.selfcheck --seed={draw.seed} --draw={draw.number}"
    verdict_text = f"right, to {verdict.apart:.1g} of an array's size" if verdict.wrong is None else verdict.wrong
    return f"{command}  # {draw}: {verdict_text}"


def last_line(verdicts: Sequence[Verdict], seed: int, seconds: float) -> str:
    """The summary of all verdicts."""
    version, platform = importlib.metadata.version("jaxlib"), jax.devices()[0].platform
    wrong = sum(verdict.wrong is not None for verdict in verdicts)
    by_torch = sum(verdict.torch for verdict in verdicts)
    peer = f", {by_torch} of them by PyTorch too" if by_torch else ""
    set_by_user = os.environ.get("XLA_FLAGS")
    how = f"jaxlib {version} ({platform}{f', XLA_FLAGS={set_by_user}' if set_by_user else ''})"
    draws = f"{len(verdicts)} draw{'s' * (len(verdicts) != 1)}"
    if not wrong:
        return f"right gradients in {draws} by {how}{peer}; seed {seed}, {seconds:.0f} s"
    return (
        f"WRONG gradients in {wrong} of {draws} by {how}; seed {seed}, {seconds:.0f} s: trust no result of it; "
        f'another version: pip install "jax!={version}" "jaxlib!={version}"'
    )


if __name__ == "__main__":
    cli.run(main)
