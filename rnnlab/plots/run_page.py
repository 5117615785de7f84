"""A run as one HTML page that opens without a network and without scripts, from the files in its workdir.

The page decides nothing about measurements and figures: it holds the figures that lie in plots/.
"""

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rnnlab.config.outside import is_outside, look_in
from rnnlab.config.schema import lookup
from rnnlab.diagnostics import DIAGNOSTICS
from rnnlab.diagnostics.diagnosed import DIAGNOSE_AGAIN, notes, read_diagnosis, table_rows
from rnnlab.files import interpreting, read_json
from rnnlab.plots.blocks import Block, Heading, Lines, Paragraph, Picture, Table, write_page
from rnnlab.records.workdir import SUMMARY_AGAIN, Workdir

CAPTIONS = {
    "learning_curve": "Loss, metrics of the task and the gradient's norm over training.",
    "evaluation_by_length": "The trained network at other lengths of its task than the one that it was trained at.",
    "gradient_flow": "The gradient of the loss that reaches each time step, before and after training.",
    **{figure.name: figure.caption for each in DIAGNOSTICS.values() for figure in each.figures},
    "confusion": "Of the examples of each class, the share taken for each other.",
    "horizon": "The gradient that reaches each time step, on the rows of the diagnosis.",
    "jacobians": "Eigenvalues and singular values of step Jacobians, and singular values of their products.",
    "lyapunov": "Finite-time Lyapunov exponents: above 0 small differences grow, below they die out.",
    "lags": "The gradient of the recurrent kernel by the number of steps that it travelled back, and by gate.",
    "truncation": "The gradient of truncated backpropagation beside the full one.",
    "values": "The values of gates, activations and states at the step of the diagnosis.",
    "closed_loop": "Lyapunov exponents of the network whose answers are its inputs, beside the system's largest.",
    "newton": "How far all steps are from being right, over Newton's iterations, for each kind of Jacobian.",
    "forecast": "The series beside its forecasts, and beside the network that goes on alone, its forecasts as inputs.",
}
"""Name of a figure -> what stands under it; they come in this order, others behind them."""


def page(directory: Path, config: Mapping[str, Any], commands: Sequence[str] = (), workdir: Path | None = None) -> Path:
    """DIRECTORY/report.html: summary.json, diagnosis.json, the figures in plots/, the config and command lines.

    Args:
        directory: a workdir, or the folder of a diagnosis; what it lacks the page lacks.
        config: the run's.
        commands: command lines to be shown, as they would be typed; behind them come those that repeat the run.
        workdir: the run's, where it is not that folder: the page has from there what the folder lacks.

    Raises:
        ConfigError: it cannot be written.
    """
    workdir = workdir or directory
    path = Workdir(workdir).summary
    summary = read_json(path, SUMMARY_AGAIN, {"status": str, "steps": int}) if path.exists() else {}
    measured = next((each for each in (directory, workdir) if Workdir(each).diagnosis.exists()), None)
    diagnosis = {} if measured is None else read_diagnosis(Workdir(measured).diagnosis)
    title = f"{workdir.name}: {config['task']['name']}, {config['model']['cell']['name']}"
    blocks: list[Block] = []
    if summary:
        with interpreting(path, SUMMARY_AGAIN):
            blocks += [Heading("Summary"), Table([], summary_rows(summary))]
    if measured is not None:
        with interpreting(Workdir(measured).diagnosis, DIAGNOSE_AGAIN):
            blocks += _diagnosis(diagnosis)
    captions = CAPTIONS | _captions_from_outside(config)
    figures = _figures(captions, Workdir(directory).plots, Workdir(workdir).plots)
    blocks += [Heading("Figures")] if figures else []
    blocks += [Picture(path, captions.get(path.stem, _words(path.stem))) for path in figures]
    lines = _commands(workdir, summary, diagnosis, commands)
    blocks += [Heading("Commands"), Lines("", lines)] if lines else []
    text = json.dumps(config, indent=2, ensure_ascii=False)
    blocks += [Heading("Config"), Lines("every field", text.splitlines(), is_open=True)]
    return write_page(Workdir(directory).page, title, blocks)


def _diagnosis(diagnosis: Mapping[str, Any]) -> list[Block]:
    where = f"step {diagnosis['step']}, {diagnosis['rows']} rows of the validation split, in double precision"
    columns, rows = table_rows(diagnosis)
    remarks = [*notes(diagnosis), *(f"left out: {problem}" for problem in diagnosis["problems"])]
    table = Table(["", *columns], [[name, *cells] for name, cells in rows])
    return [Heading("Diagnosis"), Paragraph(where), table, *(Paragraph(remark, note=True) for remark in remarks)]


def summary_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The answers to what a reader of summary.json asks first, as (name, text)."""
    best, stability, convergence = (summary.get(name) or {} for name in ("best", "stability", "convergence"))
    rows = [
        ("status", f"{summary['status']} at step {summary['steps']}"),
        ("best step", best.get("step")),
        *((f"test {name}, of the best step", value) for name, value in (best.get("test") or {}).items()),
        *((f"validation {name}, of the best step", value) for name, value in (best.get("validation") or {}).items()),
        *((f"training {name}, last", value) for name, value in summary.get("final", {}).get("train", {}).items()),
        ("stability: all finite", _yes(stability.get("finite"))),
        ("stability: steps clipped", _share(stability.get("clipped"))),
        ("stability: spikes, 10 × the usual gradient norm", stability.get("spikes")),
    ]
    shown = {"finite", "clipped", "spikes"}
    rows += [(f"stability: {_words(name)}", value) for name, value in stability.items() if name not in shown]
    if convergence:
        goal = f"{convergence['metric']} of {convergence['threshold']:g}"
        reached = convergence.get("steps")
        after = "not reached" if reached is None else f"{reached} steps, {convergence['seconds']:.4g} s"
        rows.append((f"convergence to a validation {goal}", after))
    horizon = summary.get("memory_horizon") or {}
    longest = horizon.get("longest_dependency")
    rows += [("longest dependency of the task, steps", longest)]
    if "note" in horizon:
        rows.append(("half-life and memory horizon", horizon["note"]))
    for layer, values in horizon.items():
        if isinstance(values, Mapping):
            rows += [(f"{layer}: {_HORIZON.get(name, _words(name))}", value) for name, value in values.items()]
    rows += [(_words(name), summary.get(name)) for name in ("seconds", "steps_per_second", "seed", "device")]
    rows += [("commit", summary.get("git_commit")), ("versions", _listed(summary.get("versions") or {}))]
    return [(name, _number(value)) for name, value in rows if value not in (None, "")]


def _commands(
    directory: Path, summary: Mapping[str, Any], diagnosis: Mapping[str, Any], further: Sequence[str]
) -> list[str]:
    recorded = [each["command"] for each in (summary, diagnosis) if "command" in each]
    lines = list(dict.fromkeys([*recorded, *further]))
    if Workdir(directory).config.exists():
        workdir = str(directory)
        here, there = json.dumps(workdir), json.dumps(workdir + "-again")
        again = (
            "from pathlib import Path; from rnnlab.training.loop import train_and_evaluate; "
            f"from rnnlab.records.workdir import read_config; train_and_evaluate(read_config(Path({here})), {there})"
        )
        lines += [
            "# the same run once more, from its config",
            shlex.join(["python", "-c", again]),
            "# its test",
            shlex.join(["python", "-m", "rnnlab.evaluate", f"--workdir={workdir}"]),
        ]
    return lines


def _captions_from_outside(config: Mapping[str, Any]) -> dict[str, str]:
    """Name of a figure -> caption, of the diagnostics of a run that live outside the project."""
    look_in(config.get("import_from", ()))
    names = [name for name in config.get("diagnostics", ()) if is_outside(name)]
    diagnostics = [lookup(DIAGNOSTICS, name, "diagnostics") for name in names]
    return {figure.name: figure.caption for each in diagnostics for figure in each.figures}


def _figures(order: Iterable[str], *folders: Path) -> list[Path]:
    """Each name once, from the first of the folders that has it."""
    by_name = {path.stem: path for folder in reversed(folders) for path in sorted(folder.glob("*.png"))}
    return [by_name[name] for name in dict.fromkeys([*order, *by_name]) if name in by_name]


def _words(name: str) -> str:
    return name.replace("_", " ")


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _yes(value: bool | None) -> str | None:
    return None if value is None else "yes" if value else "no"


def _share(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.3g} %"


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


_HORIZON = {
    "factor": "gradient's factor per step back",
    "half_life": "gradient's half-life, steps",
    "horizon": "gradient's horizon, steps",
}
