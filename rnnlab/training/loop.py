"""train_and_evaluate: the only place that knows the order of things.

A config is made ready in `training/setup.py`. The hooks between updates are in `training/hooks.py`, the end of a run in
`training/conclusion.py`.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from rnnlab.files import interpreting
from rnnlab.parallel import processes
from rnnlab.parallel.environment import single_precision
from rnnlab.parallel.memory import allocation_failures
from rnnlab.records.metrics import MetricsWriter, NoMetrics
from rnnlab.records.progress_line import ProgressLine
from rnnlab.records.run_config import resolve_config
from rnnlab.records.trackers.sending import Sending
from rnnlab.records.workdir import Workdir, held, is_done, open_workdir, planned_steps, unless_too_large
from rnnlab.training.checkpoints import Checkpoints
from rnnlab.training.conclusion import conclude, last_words
from rnnlab.training.evaluation import Halted
from rnnlab.training.hooks import ask, hooks_of
from rnnlab.training.host_state import HostState
from rnnlab.training.interruptions import disk_errors, interruptions
from rnnlab.training.opening import opening_lines
from rnnlab.training.rerun import repeat, summary_of
from rnnlab.training.run import Run
from rnnlab.training.session import Session
from rnnlab.training.setup import make_host_state, make_run


@processes.partners()
@single_precision()
def train_and_evaluate(
    config: ConfigDict | Mapping[str, Any],
    workdir: str | Path,
    data_dir: str | None = None,
    *,
    stop_at: int | None = None,
    prune: bool = False,
    stop: Callable[[int], bool] | None = None,
) -> dict[str, Any]:
    """Trains from the last checkpoint in workdir, or from the beginning, and evaluates.

    Args:
        config: what `get_config` of a file in configs/ returns, or a resolved one.
        workdir: the run's folder; docs/concepts/runs.md says what it holds.
        data_dir: the data folder.
        stop_at: a step at which the run is saved and left, `paused`; a later call goes on from there. None: none.
        prune: the run ends at `stop_at`, `pruned`, and leaves what one leaves that stops early.
        stop: asked with the step after every dispatch (half a second or so); where it says True the run is interrupted,
            and measured as if it ended there.

    Returns:
        What is written to summary.json: `status` is finished, stopped_early, diverged, interrupted, paused or pruned.

    Raises:
        ConfigError: a mistake in the config, the data or the workdir, or a disk that cannot be written.
        LostProcess: another process of the run has ended.
    """
    began = time.monotonic()
    config, workdir = resolve_config(config), Path(workdir)
    if (summary := summary_of(workdir, config)) is not None:
        line = repeat(summary, workdir, config, data_dir)
        ProgressLine(config["steps"], summary["steps"], quiet=not processes.is_first()).say(line)
        return summary
    sending = Sending(config, workdir) if processes.is_first() else None
    run = make_run(config, data_dir)
    host = make_host_state(config, run.task.solved, run.sign)
    planned = planned_steps(workdir, config)
    run.check_training()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_opened(workdir, config, run.task.words))
        last = run.intervals.steps if stop_at is None else min(run.intervals.steps, stop_at)
        session = _begin(stack, workdir, run, host, planned, sending, last=last, prune=prune, began=began)
        with session.progress.running(), host.clock.running():
            train(session, stop)
        session.checkpoints.wait()
        summary = conclude(session)
        passed = time.monotonic() - began
        session.progress.say(last_words(summary, session.state, workdir, passed, run.mentioned))
    return summary


def train(session: Session, stop: Callable[[int], bool] | None = None) -> None:
    """The order of events until a run ends or is left; stop: as of `train_and_evaluate`."""
    before, after = hooks_of(session, stop)
    try:
        while session.goes_on:
            if session.host.curriculum.due(session.step):
                session.enter_next_stage()
            ask(before, session)
            session.advance(min(hook.following(session.step) for hook in [*before, *after]))
            ask(after, session)
    except Halted:
        session.cut = "interrupted"


@contextlib.contextmanager
def _opened(workdir: Path, config: Mapping[str, Any], words: Any) -> Iterator[None]:
    """The workdir of a run, which nobody else writes to meanwhile; errors of the disk, the memory and the other
    processes are one line.

    Raises:
        ConfigError: the folder is another run's, or in use.
    """
    is_main = processes.is_first()
    with contextlib.ExitStack() as stack:
        if is_main:
            stack.enter_context(unless_too_large(workdir))
        stack.enter_context(disk_errors(workdir))
        stack.enter_context(processes.partners())
        stack.enter_context(allocation_failures())
        if is_main:
            stack.enter_context(held(workdir))
        for turn in (True, False):
            if turn == is_main:
                open_workdir(workdir, config, words, is_main)
            processes.barrier(f"workdir {turn}")
        yield


def _begin(
    stack: contextlib.ExitStack,
    workdir: Path,
    run: Run,
    host: HostState,
    planned: int,
    sending: Sending | None,
    *,
    last: int,
    prune: bool,
    began: float,
) -> Session:
    """Begins from the last checkpoint, or anew. The stack closes the writers."""
    is_main, steps, files = processes.is_first(), run.intervals.steps, Workdir(workdir)
    run.enter(0)
    progress = ProgressLine(steps, 0, quiet=not is_main)
    checkpoints = stack.enter_context(Checkpoints(files.checkpoints, progress.say))
    restored = checkpoints.restore_latest(run.programs.like, run.programs.structure.word_leaves)
    if restored is None:
        state = jax.block_until_ready(run.programs.start(run.seed))
        progress.say(f"a new run in {workdir}")
    else:
        state = restored.state
        with interpreting(files.checkpoints / str(restored.step), "remove it, or take another --workdir"):
            host.load(restored.host)
        run.enter(host.curriculum.stage)
        progress.say(f"resuming {workdir} at step {restored.step}")
    step = int(state.step)
    progress = ProgressLine(steps, step, quiet=not is_main)
    for line in opening_lines(run, host, state, None if restored is None else planned):
        progress.say(line)
    writer = MetricsWriter(workdir, step, sending) if is_main else NoMetrics()
    stack.push(_closing(writer))
    if is_main and is_done(workdir):  # The summary of a shorter run: this one is not over until it has its own.
        files.summary.unlink()
    interrupted = stack.enter_context(interruptions(progress.say))
    return Session(
        run,
        host,
        state,
        files,
        checkpoints,
        writer,
        progress,
        last=last,
        prune=prune,
        saved=None if restored is None else step,
        interrupted=interrupted,
        began=began,
    )


def _closing(writer: MetricsWriter | NoMetrics) -> Callable[..., None]:
    """An exit for an ExitStack: the trackers of a run that did not come to its end are told so."""

    def leave(kind: type[BaseException] | None, *_: Any) -> None:
        writer.finish("interrupted" if kind is KeyboardInterrupt else "crashed")
        writer.close()

    return leave
