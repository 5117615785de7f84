"""A run that is over and is started again: nothing is trained, evaluated or written anew; what it has lost is made."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rnnlab import plots
from rnnlab.parallel import processes
from rnnlab.records.metrics import described
from rnnlab.records.workdir import DONE, check_config, held, read_config, read_summary, write_file
from rnnlab.training.checkpoints import SavedCheckpoints
from rnnlab.training.setup import Run

_ENDED_BY_ITSELF = ("stopped_early", "diverged")
"""The statuses of a run that more steps would not change."""
FLOW, FLOW_FIGURE, CURVE = "gradient_flow.json", "plots/gradient_flow.png", "plots/learning_curve.png"


def summary_of(workdir: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """What summary.json says of the run in a workdir, where it is over and this resolved config trains it no further.

    Raises:
        ConfigError: it is of another config, or longer.
    """
    summary = read_summary(workdir)
    if summary is None or summary["status"] not in DONE or not (workdir / "config.json").exists():
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
    """Makes the figures that a run that is over has lost, and gradient_flow.json while there is a checkpoint; returns
    what there is to say.

    Raises:
        ConfigError: another process writes there, or the disk cannot be written.
    """
    lacking = _lacking(workdir)
    if lacking:
        if processes.is_first():
            with held(workdir):
                _make(lacking, workdir, config, data_dir)
        else:
            _make(lacking, workdir, config, data_dir)
    best = summary["best"]
    values = summary["final"] | {"test": best.get("test")}
    numbers = "; ".join(f"{split} {described(each)}" for split, each in values.items() if each)
    of = f" (test of step {best['step']})" if best.get("test") and best["step"] not in (None, summary["steps"]) else ""
    done = f"; made again: {', '.join(lacking)}" if lacking else "; nothing to do"
    before = f"{workdir}: {summary['status'].replace('_', ' ')} at step {summary['steps']} before{done}"
    ended = summary["status"] in _ENDED_BY_ITSELF
    more = "More steps would not change it" if ended else "More steps go on: --config.steps=…"
    return ". ".join(filter(None, [before, numbers + of, more]))


def _lacking(workdir: Path) -> list[str]:
    """What is not there and can be made."""
    lacking = []
    flow = (workdir / FLOW).exists()
    if not flow and SavedCheckpoints(workdir / "checkpoints").steps():
        lacking.append(FLOW)
        flow = True
    if flow and not (workdir / FLOW_FIGURE).exists():
        lacking.append(FLOW_FIGURE)
    lines = workdir / "metrics.jsonl"
    if lines.exists() and lines.stat().st_size and not (workdir / CURVE).exists():
        lacking.append(CURVE)
    return lacking


def _make(names: list[str], workdir: Path, config: Mapping[str, Any], data_dir: str | None) -> None:
    """Of several processes all measure, and the first writes."""
    run, writes = Run(config, data_dir), processes.is_first()
    if FLOW in names:
        run.enter(0)
        untrained = run.programs.start(config["seed"])
        saved = SavedCheckpoints(workdir / "checkpoints")
        restored = saved.restore(saved.steps()[-1], untrained, run.programs.word_leaves)
        run.enter(restored.host["curriculum"]["stage"])
        flow = run.gradient_flow({"untrained": run.programs.start(config["seed"]), "trained": restored.state})
        if writes:
            write_file(workdir / FLOW, json.dumps(flow) + "\n")
    if writes and FLOW_FIGURE in names:
        plots.gradient_flow(workdir)
    if writes and CURVE in names:
        plots.learning_curve(workdir, run.task.baselines)
        plots.observed(workdir)
