"""train_and_evaluate: the only place that knows the order of things. The config ends here.

A config is made ready in `training/setup.py`; what an evaluation leads to (a new best, the end, the next stage,
a lower rate) in `training/host_state.py`.
"""

import contextlib
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from rnnlab import plots
from rnnlab.config.errors import ConfigError
from rnnlab.files import write_text
from rnnlab.optim.schedules import check_length, check_schedule
from rnnlab.parallel import devices, processes
from rnnlab.parallel.environment import single_precision
from rnnlab.parallel.memory import allocation_failures
from rnnlab.records.metrics import MetricsWriter, NoMetrics, ProgressLine, plain
from rnnlab.records.provenance import git_commit, versions
from rnnlab.records.run_config import resolve_config
from rnnlab.records.workdir import Workdir, held, is_done, open_workdir, planned_steps, unless_too_large
from rnnlab.training.checkpoints import Checkpoints
from rnnlab.training.evaluation import SECONDS_PER_DISPATCH, Halt, Halted
from rnnlab.training.flight_recorder import FlightRecorder
from rnnlab.training.host_state import HostState
from rnnlab.training.rerun import repeat, summary_of
from rnnlab.training.setup import Run
from rnnlab.training.state import TrainState, logged, means


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
        workdir: the run's folder; see README for what it holds.
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
    speaks = processes.is_first()
    if (over := summary_of(workdir, config)) is not None:
        said = repeat(over, workdir, config, data_dir)
        ProgressLine(config["steps"], over["steps"], quiet=not speaks).say(said)
        return over
    run = Run(config, data_dir)
    memory = HostState(config, run.task.solved, run.sign)
    stopping, curriculum, plateau = memory.stopping, memory.curriculum, memory.plateau
    seconds = memory.clock.seconds
    planned = planned_steps(workdir, config)
    steps = config["steps"]
    last = steps if stop_at is None else min(steps, stop_at)

    run.check_training()

    with contextlib.ExitStack() as stack:
        if speaks:
            stack.enter_context(unless_too_large(workdir))
        stack.enter_context(disk_errors(workdir))
        stack.enter_context(processes.partners())
        stack.enter_context(allocation_failures())
        if speaks:
            stack.enter_context(held(workdir))
        for turn in (True, False):
            if turn == speaks:
                open_workdir(workdir, config, run.task.words, speaks)
            processes.barrier(f"workdir {turn}")
        run.enter(0)
        state = jax.block_until_ready(run.programs.start(config["seed"]))
        progress = ProgressLine(steps, 0, quiet=not speaks)
        checkpoints = Checkpoints(Workdir(workdir).checkpoints, progress.say)
        stack.push(closing_together(checkpoints))

        def exhausted() -> bool:
            """Whether early stopping ends the run here; a stage that begins here begins with all patience."""
            return stopping.exhausted and not curriculum.due(step)

        def ended() -> str:
            """The status of a run that stops here; `paused` where it has not ended."""
            if exhausted():
                return "stopped_early"
            return "finished" if step >= steps else "pruned" if prune and step >= last else "paused"

        restored = checkpoints.restore_latest(state, run.programs.word_leaves)
        if restored is None:
            progress.say(f"a new run in {workdir}")
        else:
            state = restored.state
            memory.load(restored.host)
            run.enter(curriculum.stage)
            progress.say(f"resuming {workdir} at step {restored.step}")
        step = int(state.step)
        progress = ProgressLine(steps, step, quiet=not speaks)
        progress.say(
            f"{config['task']['name']}, {config['model']['cell']['name']}, "
            f"{run.programs.word_leaves.count(state.params):,} parameters, {run.programs.backend} backend, "
            f"{devices.describe(run.mesh)}, steps {step} to {steps}"
        )
        here = run.mesh.local_devices
        idle = devices.idle_cores(config["batch_size"], len(here)) if config["devices"] is None else None
        if idle is not None and here[0].platform == "cpu":
            progress.say(idle)
        if run.embeddings is not None:
            coverage = run.embeddings.coverage
            progress.say(
                f"{config['model']['embedding_file']} has {coverage.found:,} of the task's "
                f"{coverage.found + coverage.missing:,} words ({coverage.share:.1%}); the others are drawn"
            )
        optimizer = config["optimizer"]
        warning = check_schedule(optimizer["schedule"], optimizer["warmup_steps"], steps)
        if warning is not None:
            progress.say(f"warning: {warning}")
        if planned != steps and restored is not None:
            schedule = check_length(optimizer["schedule"], optimizer["warmup_steps"], (planned, steps), step)
            for warning in filter(None, [schedule, memory.check_length(planned, step)]):
                progress.say(f"warning: {warning}")
        if run.label:
            progress.say(run.described_stage())
        if never := curriculum.never(steps):
            listed = ", ".join(map(str, never))
            progress.say(f"curriculum.steps: no stage begins at step {listed}: the run ends at step {steps}")
        writer = MetricsWriter(workdir, step) if speaks else NoMetrics()
        stack.callback(writer.close)
        status = ended()
        if speaks and is_done(workdir):  # The summary of a shorter run: this one is not over until it has its own.
            Workdir(workdir).summary.unlink()
        saved = step if restored is not None else None
        budget, first, compiled = 1, step, False
        recorder = FlightRecorder(run, workdir)
        every = [*_EVERY, *(["diagnostics_every"] if config["diagnostics"] else [])]

        interrupted, measured = stack.enter_context(interruptions(progress.say)), False
        halts = Halt(interrupted)
        with progress.running(), memory.clock.running():
            while step < last and not exhausted():
                if curriculum.due(step):
                    curriculum.advance(step)
                    run.enter(curriculum.stage)
                    stopping.restart()
                    if plateau is not None:
                        plateau.restart()
                    memory.validation = {}
                    state = run.at_stage(state)
                    recorder.forget()
                    progress.say(f"step {step}  {run.described_stage()}")
                    budget, compiled = 1, False
                if config["diagnostics"] and step % config["diagnostics_every"] == 0:
                    found = jax.block_until_ready(run.observe(state))
                    writer.observe(step, found, seconds())
                recorder.keep(step, state)
                mark = time.monotonic()
                target = min(step + budget, last, curriculum.ends, *(following(step, config[k]) for k in every))
                state = jax.block_until_ready(run.train(state, target))
                if step == first:
                    progress.say(f"first step after {time.monotonic() - began:.1f} s")
                if compiled:
                    per_step = (time.monotonic() - mark) / max(1, int(state.step) - step)
                    budget = max(1, min(int(SECONDS_PER_DISPATCH / per_step), 4 * budget))
                step, compiled = int(state.step), True
                if recorded := recorder.see(state):
                    progress.say(recorded)
                if not bool(state.finite):
                    status = "diverged"
                    break
                progress.advance(step, memory.train.get("loss"))
                if memory.logs(step):
                    memory.train = run.described(run.label | logged(state.sums, state.learning_rate))
                    writer.write(step, "train", memory.train, seconds())
                    progress.log(step, memory.train)
                improved = False
                if memory.evaluates(step):
                    try:
                        found = run.evaluate(state, "validation", halts)
                    except Halted:
                        status = "interrupted"
                        break
                    writer.write(step, "validation", found, seconds())
                    progress.evaluated(step, "validation", found)
                    improved, lowered = memory.see(step, found, seconds())
                    if plateau is not None and lowered:
                        state = run.with_rate_scale(state, plateau.scale)
                        recorder.forget()
                        progress.say(f"step {step}  learning rate times {plateau.scale:g}: {plateau.reason}")
                # The next dispatch is as long in all processes, and they stop at the same step.
                asked = stop is not None and stop(step)
                told, budget = processes.agree(bool(interrupted) or asked, budget)
                measured = told and processes.agree(asked, 0)[0]
                ends = told or exhausted() or step == last
                if improved or ends or step % config["checkpoint_every"] == 0:
                    score = stopping.score(memory.validation) if improved else None
                    checkpoints.save(step, state, memory.dump(seconds()), score, curriculum.stage)
                    saved = step
                status = ended()
                if told and status == "paused":
                    status = "interrupted"
                    break

        if status == "diverged" and saved != step:
            checkpoints.save(step, state, memory.dump(seconds()), stage=curriculum.stage)
        checkpoints.wait()
        rate = progress.overall_rate() or step / seconds()  # Of a run that had made its last step before.
        summary = summarize(run, memory, state, status, seconds(), rate)
        over = status != "paused" and (status != "interrupted" or measured)
        if over and status != "diverged":
            best = state
            if stopping.best_step is not None and stopping.best_step != step:
                best = checkpoints.restore(stopping.best_step, state, run.programs.word_leaves).state
            try:
                tested = run.evaluate(best, "test", halts)
            except Halted:
                summary["status"], over = "interrupted", False
            else:
                summary["best"]["test"] = tested
                writer.write(stopping.best_step or step, "test", tested, seconds())
                progress.evaluated(stopping.best_step or step, "test", tested)
        if over:
            flow = run.gradient_flow({"untrained": run.programs.start(config["seed"]), "trained": state})
            summary["memory_horizon"] = run.memory_horizon(flow["trained"])
            if speaks:
                write_text(Workdir(workdir).gradient_flow, json.dumps(flow) + "\n")
                plots.gradient_flow(workdir)
        if isinstance(writer, MetricsWriter):
            write_text(Workdir(workdir).summary, json.dumps(plain(summary), indent=2) + "\n")
            if step > 0 and Workdir(workdir).metrics.stat().st_size:
                plots.learning_curve(workdir, run.task.baselines)
            plots.observed(workdir)
            writer.figures(step, sorted(Workdir(workdir).plots.glob("*.png")))
        progress.say(_last_words(summary, state, config, workdir, time.monotonic() - began))
    return summary


def closing_together(checkpoints: Checkpoints) -> Callable[..., None]:
    """An exit for an ExitStack: closing waits for the other processes, which one that failed must not."""

    def leave(kind: type[BaseException] | None, *_: Any) -> None:
        if kind is None or processes.processes() == 1:
            checkpoints.close()

    return leave


_EVERY = ("log_every", "eval_every", "checkpoint_every")


def following(step: int, every: int) -> int:
    """The first multiple of `every` after step."""
    return (step // every + 1) * every


def summarize(
    run: Run, memory: HostState, state: TrainState, status: str, seconds: float, rate: float
) -> dict[str, Any]:
    """What summary.json says of a run before anything is measured after its end.

    Args:
        state: its last.
        seconds: of training; see `clock.TrainingClock`.
        rate: updates per second.
    """
    step, stopping = int(state.step), memory.stopping
    summary: dict[str, Any] = {
        "status": status,
        "steps": step,
        "final": {"train": memory.train, "validation": memory.validation},
        "best": {"step": stopping.best_step, "validation": stopping.best_values},
        "stability": {
            "finite": status != "diverged",
            "clipped": None if state.clipped is None else int(state.clipped.total) / max(1, step),
            "spikes": int(state.spikes.total),
        },
        "convergence": memory.convergence.summary(),
        "seconds": round(seconds, 3),
        "steps_per_second": round(rate, 3),
        "seed": int(state.seed),
        "device": devices.describe(run.mesh),
        "versions": versions(),
        "git_commit": git_commit(),
    }
    if run.label:
        summary["stage"] = {"number": run.stage + 1, "of": len(run.stages), **run.label}
    return summary


_seen: list[str] | None = None
"""Of the `interruptions` that this process is in."""


@contextlib.contextmanager
def interruptions(say: Callable[[str], None]) -> Iterator[list[str]]:
    """A list that a first SIGINT, SIGTERM or SIGHUP appends to; a second one acts as it always does. A SIGHUP that is
    ignored, as under nohup, stays so.

    Within another such context it is that one's: a signal that comes as a run of a sweep ends is not lost to the next.
    """
    global _seen
    if _seen is not None:
        yield _seen
        return
    seen: list[str] = []
    if threading.current_thread() is not threading.main_thread():
        yield seen
        return
    numbers = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    before = {number: signal.getsignal(number) for number in numbers}
    before = {n: handler for n, handler in before.items() if n == signal.SIGINT or handler != signal.SIG_IGN}

    def note(number: int, frame: Any) -> None:
        seen.append(signal.Signals(number).name)
        for each, handler in before.items():
            signal.signal(each, handler)
        say(f"{seen[0]}: saving after this step; once more stops at once")

    for number in before:
        signal.signal(number, note)
    _seen = seen
    try:
        yield seen
    finally:
        _seen = None
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def disk_errors(workdir: Path) -> Iterator[None]:
    """A disk that is full or gone is the user's to mend: one line, whichever of the writers met it first."""
    hook = before = threading.excepthook

    def quiet(failure: threading.ExceptHookArgs) -> None:
        """The writers' threads fail as the main one does, which says it."""
        if not isinstance(failure.exc_value, OSError):
            before(failure)

    threading.excepthook = quiet
    try:
        yield
    except (ConfigError, processes.LostProcess):
        raise
    except Exception as error:
        found: BaseException | None = error
        while found is not None and not isinstance(found, OSError):
            found = found.__cause__ or found.__context__
        if found is None:
            raise
        hook = quiet  # The threads close after this, as the process ends.
        raise ConfigError(f"cannot write to {workdir}: {found.strerror or found}") from error
    finally:
        threading.excepthook = hook


def _last_words(
    summary: Mapping[str, Any], state: TrainState, config: Mapping[str, Any], workdir: Path, passed: float
) -> str:
    """What the user reads last; passed: seconds since the command began."""
    status, step = summary["status"], summary["steps"]
    if status == "diverged":
        # Right after a log step the sums are empty: what was logged then is the last.
        last = means(state.sums) if state.sums["count"] else summary["final"]["train"]
        numbers = "  ".join(f"{k} {v:.4g}" for k, v in last.items()) or "none"
        clip = config["optimizer"]["clip_norm"]
        advice = [
            f"a lower optimizer.learning_rate (now {config['optimizer']['learning_rate']:g})",
            f"optimizer.clip_norm={'1.0' if clip is None else format(clip / 10, 'g')} (now {clip})",
            "a smaller model.cell.recurrent_init",
        ]
        return (
            f"diverged at step {step + 1}: the loss or its gradient is not finite. Last finite means: {numbers}. "
            f"Try {', '.join(advice)}."
        )
    if status == "interrupted":
        return f"interrupted at step {step}; the same command resumes"
    if status == "paused":
        return f"paused at step {step}"
    done = status.replace("_", " ")
    stage = summary.get("stage")
    if stage is not None and stage["number"] < stage["of"]:
        done += f" in stage {stage['number']} of {stage['of']}, which best and test are of,"
    return (
        f"{done} at step {step} after {summary['seconds']:.0f} s; this command took {passed:.0f} s, test and figures "
        f"included; figures in {workdir / 'plots'}"
    )
