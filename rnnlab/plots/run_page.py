"""A run as one HTML page that opens without a network and without scripts, from the files in its workdir; what such
pages are made of.

What is measured and drawn is not decided here: the page holds the figures that lie in plots/.
"""

import base64
import html
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rnnlab.config.outside import is_outside, look_in
from rnnlab.config.schema import lookup
from rnnlab.diagnostics import DIAGNOSTICS
from rnnlab.diagnostics.diagnosis import DIAGNOSE_AGAIN, notes, read_diagnosis, table_rows
from rnnlab.files import interpreting, read_json, write_text
from rnnlab.records.workdir import SUMMARY_AGAIN, Workdir

CAPTIONS = {
    "learning_curve": "Loss, metrics of the task and the gradient's norm over training.",
    "gradient_flow": "The gradient of the loss that reaches each time step, before and after training.",
    **{figure.name: figure.caption for each in DIAGNOSTICS.values() for figure in each.figures},
    "horizon": "The gradient that reaches each time step, on the rows of the diagnosis.",
    "jacobians": "Eigenvalues and singular values of step Jacobians, and singular values of their products.",
    "lyapunov": "Finite-time Lyapunov exponents: above 0 small differences grow, below they die out.",
    "lags": "The gradient of the recurrent kernel by the number of steps that it travelled back, and by gate.",
    "truncation": "The gradient of truncated backpropagation beside the full one.",
    "values": "What gates, activations and states hold at the step of the diagnosis.",
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
    diagnosis = {} if measured is None else read_diagnosis(measured)
    title = f"{workdir.name}: {config['task']['name']}, {config['model']['cell']['name']}"
    parts = [f"<h1>{escaped(title)}</h1>"]
    if summary:
        with interpreting(path, SUMMARY_AGAIN):
            parts += ["<h2>Summary</h2>", table([], summary_rows(summary))]
    if measured is not None:
        with interpreting(Workdir(measured).diagnosis, DIAGNOSE_AGAIN):
            parts += _diagnosis(diagnosis)
    captions = CAPTIONS | _captions_from_outside(config)
    figures = _figures(captions, Workdir(directory).plots, Workdir(workdir).plots)
    parts += ["<h2>Figures</h2>"] if figures else []
    parts += [figure(path, captions.get(path.stem, _words(path.stem))) for path in figures]
    lines = "\n".join(_commands(workdir, summary, diagnosis, commands))
    parts += ["<h2>Commands</h2>", f"<pre>{escaped(lines)}</pre>"] if lines else []
    text = json.dumps(config, indent=2, ensure_ascii=False)
    parts += ["<h2>Config</h2>", f"<details open><summary>every field</summary><pre>{escaped(text)}</pre></details>"]
    return write_page(Workdir(directory).page, title, parts)


def _diagnosis(diagnosis: Mapping[str, Any]) -> list[str]:
    where = f"step {diagnosis['step']}, {diagnosis['rows']} rows of the validation split, in double precision"
    columns, rows = table_rows(diagnosis)
    remarks = [*notes(diagnosis), *(f"left out: {problem}" for problem in diagnosis["problems"])]
    parts = ["<h2>Diagnosis</h2>", f"<p>{escaped(where)}</p>", table(["", *columns], rows)]
    return [*parts, *(f"<p class=note>{escaped(remark)}</p>" for remark in remarks)]


def write_page(path: Path, title: str, parts: Iterable[str]) -> Path:
    """An HTML file that stands alone.

    Args:
        path: of the file.
        title: as text.
        parts: of the body, as HTML.

    Raises:
        ConfigError: it cannot be written.
    """
    head, end = _PAGE.split("{body}")
    write_text(path, head.replace("{title}", escaped(title)) + "\n".join(parts) + end)
    return path


def summary_rows(summary: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """What a reader of summary.json asks first, as (name, [text])."""
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
    known = {"finite", "clipped", "spikes"}
    rows += [(f"stability: {_words(name)}", value) for name, value in stability.items() if name not in known]
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
    return [(name, [_number(value)]) for name, value in rows if value not in (None, "")]


def _commands(
    directory: Path, summary: Mapping[str, Any], diagnosis: Mapping[str, Any], given: Sequence[str]
) -> list[str]:
    recorded = [each["command"] for each in (summary, diagnosis) if "command" in each]
    lines = list(dict.fromkeys([*recorded, *given]))
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
    found = {path.stem: path for folder in reversed(folders) for path in sorted(folder.glob("*.png"))}
    return [found[name] for name in dict.fromkeys([*order, *found]) if name in found]


def figure(path: Path, caption: str) -> str:
    """A PNG file inside the page, and what stands under it."""
    data = base64.b64encode(path.read_bytes()).decode()
    caption = escaped(caption)
    image = f'<img alt="{caption}" src="data:image/png;base64,{data}">'
    return f'<figure id="{escaped(path.stem)}">{image}<figcaption>{caption}</figcaption></figure>'


def table(head: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    """Rows of a name and its cells, below a head if there is one.

    A cell is one line, a sentence several; a table that is wider than the page is scrolled.
    """
    lines = []
    if head:
        lines.append(f"<thead><tr>{''.join(f'<th>{escaped(cell)}</th>' for cell in head)}</tr></thead>")
    for name, cells in rows:
        cells_text = "".join(f"<td{_wraps(cell)}>{escaped(cell)}</td>" for cell in cells)
        lines.append(f"<tr><th scope=row>{escaped(name)}</th>{cells_text}</tr>")
    return f"<div class=wide><table>{''.join(lines)}</table></div>"


def _wraps(cell: str) -> str:
    return " class=text" if len(str(cell)) > _LINE else ""


def escaped(value: Any) -> str:
    """Text as HTML."""
    return html.escape(str(value), quote=True)


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

_LINE = 50
"""Characters of a cell that are one line: no number, name, interval or list of runs is broken."""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
:root { color-scheme: light dark; --text: #1c1e21; --back: #fbfbfa; --line: #d9d9d6; --soft: #f0f0ee; --quiet: #5c5f63 }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e4e2; --back: #17181a; --line: #3a3c40; --soft: #222427; --quiet: #a5a8ad }
}
body { margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: var(--text); background: var(--back);
  font: 1rem/1.5 system-ui, sans-serif }
h1 { font-size: 1.6rem; overflow-wrap: anywhere }
h2 { font-size: 1.2rem; margin-top: 2.4rem; border-bottom: 1px solid var(--line) }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .9rem .25rem 0; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top;
  white-space: nowrap }
td.text { white-space: normal; min-width: 24rem }
th { font-weight: 500 }
th[scope] { color: var(--quiet) }
/* A table that is wider than the text goes on to the right end of the window before it is scrolled. */
.wide { overflow-x: auto; width: max-content; max-width: calc(100vw - 3rem - max(0rem, 50vw - 32rem)) }
.note, figcaption { color: var(--quiet); font-size: .9rem }
figure { margin: 1.6rem 0 }
img { display: block; max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line);
  border-radius: 4px }
pre { background: var(--soft); padding: .8rem 1rem; border-radius: 4px; white-space: pre-wrap; overflow-wrap: anywhere;
  font-size: .85rem }
</style>
</head>
<body>
{body}
</body>
</html>
"""
