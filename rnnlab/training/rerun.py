"""A run that is over and is started again: nothing is trained, evaluated or written anew but files that are lost, and
trackers get what they lack."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rnnlab.files import write_text
from rnnlab.parallel import processes
from rnnlab.records.metrics import read_diagnostics, read_metrics
from rnnlab.records.progress_line import described
from rnnlab.records.trackers.sending import Sending
from rnnlab.records.workdir import DONE, Workdir, check_config, held, read_config, read_summary
from rnnlab.training.checkpoints import SavedCheckpoints
from rnnlab.training.setup import make_run

_ENDED_BY_ITSELF = ("stopped_early", "diverged")
"""The statuses of a run that more steps would not change."""


def summary_of(workdir: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The contents of summary.json, if the run in a workdir is over and this resolved config trains it no further.

    Raises:
        ConfigError: it is of another config, or longer.
    """
    summary = read_summary(workdir)
    if summary is None or summary["status"] not in DONE or not Workdir(workdir).config.exists():
        return None
    kinds = {"steps": int, "final": dict, "best": dict}
    if not all(isinstance(summary.get(name), kind) for name, kind in kinds.items()):
        return None
    check_config(workdir, config)
    if summary["status"] in _ENDED_BY_ITSELF:
        return summary
    if config["steps"] > read_config(workdir, config["import_from"])["steps"]:
        return None
    # A run that is being made longer still has the summary of before.
    return None if summary["status"] == "finished" and summary["steps"] < config["steps"] else summary


def repeat(summary: Mapping[str, Any], workdir: Path, config: Mapping[str, Any], data_dir: str | None) -> str:
    """Makes the figures that a run that is over has lost, and gradient_flow.json while there is a checkpoint; sends to
    its trackers what they lack; returns what there is to say.

    Raises:
        ConfigError: another process writes there, or the disk cannot be written.
    """
    files = Workdir(workdir)
    lacking = _lacking(files)
    if lacking:
        with held(workdir) if processes.is_first() else contextlib.nullcontext():
            _make(lacking, files, config, data_dir)
    receivers = _send(summary, workdir, config) if config["trackers"] and processes.is_first() else []
    best = summary["best"]
    values = summary["final"] | {"test": best.get("test")}
    numbers = "; ".join(f"{split} {described(each)}" for split, each in values.items() if each)
    of = f" (test of step {best['step']})" if best.get("test") and best["step"] not in (None, summary["steps"]) else ""
    names = [path.relative_to(workdir).as_posix() for path in lacking]
    done = [f"made again: {', '.join(names)}"] if lacking else []
    done += [f"sent to {', '.join(receivers)}"] if receivers else []
    done = done or ["nothing to do"]
    before = (
        f"{workdir}: {summary['status'].replace('_', ' ')} at step {summary['steps']} before{'; '.join(['', *done])}"
    )
    ended = summary["status"] in _ENDED_BY_ITSELF
    more = "More steps would not change it" if ended else "More steps go on: --config.steps=…"
    return ". ".join(filter(None, [before, numbers + of, more]))


def _send(summary: Mapping[str, Any], workdir: Path, config: Mapping[str, Any]) -> list[str]:
    """Sends all of a run's numbers to the trackers that do not know its end, but for what they have; their names."""
    sending = Sending(config, workdir)
    if names := sending.drop_told(summary["status"]):
        with held(workdir):
            sending.start()
            for line in read_metrics(workdir):
                sending.line(line)
            for line in read_diagnostics(workdir):
                sending.observation(line)
            sending.figures(summary["steps"], sorted(Workdir(workdir).plots.glob("*.png")))
            sending.finish(summary["status"], summary)
    return names


def _lacking(files: Workdir) -> list[Path]:
    """Files that are not there and can be made."""
    lacking = []
    flow = files.gradient_flow.exists()
    if not flow and SavedCheckpoints(files.checkpoints).steps():
        lacking.append(files.gradient_flow)
        flow = True
    if flow and not files.figure("gradient_flow").exists():
        lacking.append(files.figure("gradient_flow"))
    if files.metrics.exists() and files.metrics.stat().st_size and not files.figure("learning_curve").exists():
        lacking.append(files.figure("learning_curve"))
    return lacking


def _make(lacking: list[Path], files: Workdir, config: Mapping[str, Any], data_dir: str | None) -> None:
    """All processes measure, and the first writes."""
    from rnnlab import plots  # Not at every start: it takes half a second to import.

    run, writes = make_run(config, data_dir), processes.is_first()
    if files.gradient_flow in lacking:
        run.enter(0)
        untrained = run.programs.start(config["seed"])
        saved = SavedCheckpoints(files.checkpoints)
        restored = saved.restore(saved.steps()[-1], untrained, run.programs.structure.word_leaves)
        run.enter(restored.host["curriculum"]["stage"])
        flow = run.gradient_flow({"untrained": run.programs.start(config["seed"]), "trained": restored.state})
        if writes:
            write_text(files.gradient_flow, json.dumps(flow) + "\n")
    if writes and files.figure("gradient_flow") in lacking:
        plots.gradient_flow(files.folder)
    if writes and files.figure("learning_curve") in lacking:
        plots.learning_curve(files.folder, run.task.baselines)
        plots.observed(files.folder)
