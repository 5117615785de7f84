"""Trains an entry: the sweep that chooses, the sweep that counts, a diagnosis; and one JSON file of what came of it."""

import json
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rnnlab.config.errors import ConfigError
from rnnlab.config.schema import resolve
from rnnlab.diagnostics.diagnosis import MEASURES, in_double, subject_of
from rnnlab.diagnostics.gradient_flow import decay_per_step
from rnnlab.files import read_json, write_text
from rnnlab.library import load
from rnnlab.plots.style import kept
from rnnlab.records.folders import SweepDir
from rnnlab.records.metrics import read_metrics
from rnnlab.records.provenance import git_commit, versions
from rnnlab.records.workdir import Workdir, is_done, read_config, read_gradient_flow, read_summary
from rnnlab.sweeps.replicas.group_run import KeptPrograms
from rnnlab.sweeps.report.table import make_rows
from rnnlab.sweeps.runner import run_sweep
from rnnlab.sweeps.spec.manifest import read_sweep
from rnnlab.sweeps.spec.question import larger_is_better
from rnnlab.sweeps.spec.sections import SweepOptions
from rnnlab.sweeps.statistics import PLAIN, aggregate, ranked
from scripts.irnn.runs import hardware
from scripts.study.entries import Entry, parameters
from scripts.study.protocol import TUNING_SEEDS

SOLVED_AT = "convergence.steps"
"""The column of a sweep's table that has the step at which a run solved its task."""
LYAPUNOV_ROWS = 8
"""Rows of the validation split on which the largest Lyapunov exponent is measured."""


def train_entry(entry: Entry, runs: Path, data_dir: str | None, stop: Callable[[int], bool]) -> dict[str, Any] | None:
    """Trains an entry and returns its record; None where it was stopped, and the same call goes on there.

    Args:
        runs: the folder of the study's runs.
        stop: asked after every dispatch.

    Raises:
        KeyboardInterrupt: a signal came; all is saved.
    """
    folder, programs = runs / entry.name, KeptPrograms()
    chosen, scores = {path: values[0] for path, values in entry.grid.items()}, []
    if any(len(values) > 1 for values in entry.grid.values()):
        tuning = folder / "tuning"

        def decided() -> bool:
            return entry.timed and race_is_over(tuning, entry)

        if not _over(entry.tuning(), tuning, data_dir, stop, programs, decided):
            return None
        chosen, scores = chosen_in(tuning, entry)
    if not _over(entry.final(chosen), folder / "final", data_dir, stop, programs):
        return None
    return record(entry, folder, chosen, scores, data_dir)


def _over(
    sweep: Mapping[str, Any],
    folder: Path,
    data_dir: str | None,
    stop: Callable[[int], bool],
    programs: KeptPrograms,
    decided: Callable[[], bool] = lambda: False,
) -> bool:
    """Trains what is left of a sweep; False where it was stopped. decided: whether what is left can change nothing."""
    if decided():
        return True

    def ends(step: int) -> bool:
        return stop(step) or decided()

    with kept():  # Figures of thousands of runs, which nobody looks at, would take as long as some of the entries.
        status = run_sweep(resolve(SweepOptions, sweep, ""), folder, data_dir, stop=ends, kept=programs)
    if status != "interrupted" or decided():
        return True
    if not stop(0):
        raise KeyboardInterrupt
    return False


def chosen_in(folder: Path, entry: Entry) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """{path: value} of the best setting of those that a sweep trained longest, as reports rank settings; where the
    entry is timed, of that which was solved first by all of its seeds, if there is one. And for each setting its
    values, the last step that it trained to, its mean over the tuning seeds, how many were lost and, where the entry is
    timed, the step at which the last seed solved it."""
    sweep, sign = read_sweep(folder), 1.0 if entry.metric in larger_is_better() else -1.0
    rows = [row | {"axes": run["axes"]} for row, run in zip(make_rows(folder, sweep), sweep["runs"], strict=True)]
    rows = [row for row in rows if row["in_sweep"]]
    # A race interrupts those that have lost it; they count as far as they came.
    rows = [row | {"status": "pruned"} if row["status"] == "interrupted" else row for row in rows]
    settings = aggregate(rows, list(entry.grid), f"best.validation.{entry.metric}", sign).settings
    last = [max(row["steps"] for row in setting.rows) for setting in settings]
    longest = [setting for setting, steps in zip(settings, last, strict=True) if steps == max(last)]
    tuning = [
        {"values": setting.axes, "steps": steps, "mean": _finite(setting.mean(PLAIN).value), "lost": len(setting.lost)}
        for setting, steps in zip(settings, last, strict=True)
    ]
    best = ranked(longest, sign)[0]
    if entry.timed:
        solved = [_last_solved(setting.rows) for setting in settings]
        tuning = [row | {"solved_at": at} for row, at in zip(tuning, solved, strict=True)]
        whole = [len(setting.rows) == len(TUNING_SEEDS) for setting in settings]  # A run may be under way.
        winners = [
            (at, setting)
            for at, setting, all_of in zip(solved, settings, whole, strict=True)
            if all_of and at is not None
        ]
        if winners:
            # Of those solved at the same evaluation the one whose seeds solved it sooner together.
            best = min(winners, key=lambda one: (one[0], sum(row[SOLVED_AT] for row in one[1].rows)))[1]
    return dict(best.axes), tuning


def race_is_over(folder: Path, entry: Entry) -> bool:
    """Whether all seeds of a setting have solved the task by a step that every other run has come to as well, or ended
    before: no other setting can be solved sooner."""
    if not SweepDir(folder).manifest.exists():
        return False
    by_setting: dict[str, list[tuple[Path, int | None]]] = {}
    for run in read_sweep(folder)["runs"]:
        if not run["in_sweep"]:
            continue
        values = repr([run["axes"][path] for path in entry.grid])
        workdir = SweepDir(folder).run(run["name"])
        solved_at = ((read_summary(workdir) or {}).get("convergence") or {}).get("steps")
        by_setting.setdefault(values, []).append((workdir, solved_at))
    lasts = [_latest([at for _, at in runs]) for runs in by_setting.values()]
    first = min((last for last in lasts if last is not None), default=None)
    return first is not None and all(
        is_done(workdir) or max((line["step"] for line in read_metrics(workdir)), default=0) >= first
        for runs in by_setting.values()
        for workdir, _ in runs
    )


def _last_solved(rows: Sequence[Mapping[str, Any]]) -> int | None:
    """The step at which the last of a setting's runs solved the task; None where one did not."""
    return _latest([row.get(SOLVED_AT) for row in rows])


def _latest(steps: Sequence[int | None]) -> int | None:
    known = [step for step in steps if step is not None]
    return max(known) if len(known) == len(steps) else None


def _finite(value: float) -> float | None:
    """What JSON can hold."""
    return value if math.isfinite(value) else None


def record(
    entry: Entry, folder: Path, chosen: Mapping[str, Any], scores: list[dict[str, Any]], data_dir: str | None
) -> dict[str, Any]:
    """The record of an entry, for its JSON file."""
    final = SweepDir(folder / "final")
    names = [run["name"] for run in read_sweep(folder / "final")["runs"]]
    config = read_config(final.run(names[0]))
    runs = [_run(final.run(name)) for name in names]
    return {
        "part": entry.part,
        "task": entry.task,
        "method": entry.method,
        "metric": entry.metric,
        "config": {key: value for key, value in config.items() if key != "seed"},
        "parameters": parameters(config, data_dir),
        "chosen": dict(chosen),
        "tuning": scores,
        "runs": runs,
        "lyapunov": _lyapunov(final.run(names[0]), data_dir),
        "hardware": hardware(),
        "machine": platform.machine(),
        "versions": versions(),
        "commit": git_commit(),
    }


def _run(workdir: Path) -> dict[str, Any]:
    """The record of a run."""
    summary, config = read_summary(workdir) or {}, read_config(workdir)
    convergence, stability = summary.get("convergence") or {}, summary.get("stability") or {}
    result = {
        "seed": config["seed"],
        "status": summary["status"],
        "steps": summary["steps"],
        "seconds": summary["seconds"],
        "solved_at": convergence.get("steps"),
        "solved_seconds": convergence.get("seconds"),
        "best_step": summary["best"].get("step"),
        "validation": summary["best"].get("validation", {}),
        "test": summary["best"].get("test", {}),
        "clipped": stability.get("clipped"),
        "spikes": stability.get("spikes"),
    }
    if not Workdir(workdir).gradient_flow.exists():  # The run diverged.
        return result | {"factor": {}}
    flow = read_gradient_flow(workdir)
    factors = {when: decay_per_step(jnp.asarray(of["layer 1"], jnp.float32)).factor for when, of in flow.items()}
    return result | {"factor": {when: float(factor) for when, factor in factors.items()}}


def _lyapunov(workdir: Path, data_dir: str | None) -> dict[str, float | None] | None:
    """The largest Lyapunov exponent of the trained network of a run, per time step: mean over rows and its standard
    error, each None where the mean is minus infinity, since a Jacobian is zero. None for both where the states are not
    finite, or the run has no checkpoint."""
    run = load(workdir, data_dir=data_dir)
    try:
        graphdef, state = nnx.split(run.model)
        batch = run.batch(LYAPUNOV_ROWS)
        with jax.enable_x64(True):
            subject = subject_of(nnx.merge(graphdef, in_double(state)), run.task, in_double(batch), 1, 1, 1)
            exponent = MEASURES["lyapunov"](subject)["layer 1"]
    except ConfigError:
        return None
    return {name: _finite(float(exponent[name][0])) for name in ("mean", "error")}


def entry_file(folder: Path, entry: Entry) -> Path:
    """The JSON file of an entry below a folder of results."""
    return folder / f"{entry.name}.json"


def failed_before(entry: Entry, results: Path) -> str | None:
    """The first of those that come before an entry whose task some seed did not solve, of those that are trained."""
    for name in entry.after:
        path = results / f"{name}.json"
        if path.exists() and any(run["solved_at"] is None for run in read_entry(path)["runs"]):
            return name
    return None


def write_entry(folder: Path, entry: Entry, result: Mapping[str, Any]) -> None:
    """Writes the file of an entry."""
    write_text(entry_file(folder, entry), json.dumps(result, indent=1) + "\n")


def read_entries(folder: Path) -> list[dict[str, Any]]:
    """All results below a folder, in the order of their names."""
    return [read_entry(path) for path in sorted(folder.glob("*/*/*.json"))]


def read_entry(path: Path) -> dict[str, Any]:
    """The results of an entry."""
    fields = {"part": str, "task": str, "method": str, "runs": list, "config": dict}
    return read_json(path, "remove it, and python -m scripts.study makes it again", fields)
