"""The end of a run: the test, measures of the trained network, summary.json, the figures and the last words."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rnnlab.files import write_text
from rnnlab.parallel import devices
from rnnlab.records.metrics import MetricsWriter, plain
from rnnlab.records.provenance import git_commit, versions
from rnnlab.records.workdir import Workdir
from rnnlab.training.evaluation import Halted
from rnnlab.training.host_state import HostState
from rnnlab.training.run import Mentioned, Run
from rnnlab.training.session import Session
from rnnlab.training.state import TrainState, means


def conclude(session: Session) -> dict[str, Any]:
    """Measures a run that stops here, writes its files and returns the contents of summary.json.

    A run that goes on later, `paused` or `interrupted`, leaves its summary and the figures so far.
    """
    from rnnlab import plots  # After the first step: it takes half a second to import.

    run, host, state, writer = session.run, session.host, session.state, session.writer
    step, seconds, stopping = session.step, host.clock.seconds(), host.stopping
    rate = session.progress.overall_rate() or step / seconds  # A run may have made its last step before.
    summary = summarize(run, host, state, session.status, seconds, rate)
    over = session.status != "paused" and (session.status != "interrupted" or session.measured)
    if over and session.status != "diverged":
        try:
            tested = run.evaluate(session.best_state(), "test", session.halts)
        except Halted:
            summary["status"], over = "interrupted", False
        else:
            summary["best"]["test"] = tested
            writer.write(stopping.best_step or step, "test", tested, seconds)
            session.progress.evaluated(stopping.best_step or step, "test", tested)
    if over:
        untrained = run.programs.start(run.seed)
        flow = run.gradient_flow({"untrained": untrained, "trained": state})
        summary["memory_horizon"] = run.memory_horizon(flow["trained"])
        if isinstance(writer, MetricsWriter):
            write_text(session.files.gradient_flow, json.dumps(flow) + "\n")
            plots.gradient_flow(session.files.folder)
    if isinstance(writer, MetricsWriter):
        _write(summary, session.files, writer, run)
    return summary


def _write(summary: Mapping[str, Any], files: Workdir, writer: MetricsWriter, run: Run) -> None:
    """summary.json and the figures."""
    from rnnlab import plots

    write_text(files.summary, json.dumps(plain(summary), indent=2) + "\n")
    if summary["steps"] > 0 and files.metrics.stat().st_size:
        plots.learning_curve(files.folder, run.task.baselines)
    plots.observed(files.folder)
    writer.figures(summary["steps"], sorted(files.plots.glob("*.png")))
    writer.finish(summary["status"], summary)


def summarize(run: Run, host: HostState, state: TrainState, status: str, seconds: float, rate: float) -> dict[str, Any]:
    """The contents of summary.json before anything is measured after the run's end.

    Args:
        state: its last.
        seconds: of training; see `clock.TrainingClock`.
        rate: updates per second.
    """
    step, stopping = int(state.step), host.stopping
    summary: dict[str, Any] = {
        "status": status,
        "steps": step,
        "final": {"train": host.train, "validation": host.validation},
        "best": {"step": stopping.best_step, "validation": stopping.best_values},
        "stability": {
            "finite": status != "diverged",
            "clipped": None if state.clipped is None else int(state.clipped.total) / max(1, step),
            "spikes": int(state.spikes.total),
        },
        "convergence": host.convergence.summary(),
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


def last_words(
    summary: Mapping[str, Any],
    state: TrainState,
    workdir: Path,
    passed: float,
    mentioned: Mentioned,
) -> str:
    """The line that the user reads last; passed: seconds since the command began."""
    status, step = summary["status"], summary["steps"]
    if status == "diverged":
        # Right after a log step the sums are empty: what was logged then is the last.
        last = means(state.sums) if state.sums["count"] else summary["final"]["train"]
        numbers = "  ".join(f"{k} {v:.4g}" for k, v in last.items()) or "none"
        clip = "1.0" if mentioned.clip_norm is None else format(mentioned.clip_norm / 10, "g")
        advice = [
            f"a lower optimizer.learning_rate (now {mentioned.learning_rate:g})",
            f"optimizer.clip_norm={clip} (now {mentioned.clip_norm})",
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
    done, measured = status.replace("_", " "), ""
    stage = summary.get("stage")
    if stage is not None and stage["number"] < stage["of"]:
        done += f" in stage {stage['number']} of {stage['of']}"
        measured = f"; best and test are of stage {stage['number']}"
    return (
        f"{done} at step {step} after {summary['seconds']:.0f} s; this command took {passed:.0f} s, test and figures "
        f"included{measured}; figures in {workdir / 'plots'}"
    )
