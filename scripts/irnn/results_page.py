"""Shows the results: tables, figures, and docs/REPRODUCTION.md from all of them."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rnnlab.config.errors import ConfigError, unknown
from rnnlab.files import interpreting, read_toml, write_text
from rnnlab.files.figure_files import figure_files
from rnnlab.files.markdown import markdown_table
from scripts.irnn.experiments import EXPERIMENTS, NAMES, Case, all_cases, called, paper_curve
from scripts.irnn.figures import Panel, gradients_over_time, published_and_ours
from scripts.irnn.publication import together
from scripts.irnn.rows import Row, duration, rows
from scripts.irnn.stand_ins import MEASURE_AGAIN, STAND_INS

COLUMNS = (
    "network",
    "paper",
    "ours",
    "difference",
    "wanted",
    "seeds, 95 % interval",
    "steps",
    "solved at step",
    "wall time",
    "hardware",
    "commit",
)
OVERVIEW = "irnn_overview.png"
NOTES = "irnn_notes.toml"
"""Beside the results, written by hand: [EXPERIMENT] explains = "…", [CASE] tried = "…"."""


# --- tables ----------------------------------------------------------------------------------------------------------


def table(table_rows: Sequence[Row]) -> str:
    """A case's rows in Markdown."""
    return markdown_table(COLUMNS, map(_cells, table_rows))


def _cells(row: Row) -> list[str]:
    ours = "diverged" if math.isnan(row.ours.value) else _number(row.ours.value)
    seeds = str(row.seeds) + (f", {row.diverged} diverged" if row.diverged else "")
    if not math.isnan(row.ours.low):
        seeds += f"; {_number(row.ours.low)} to {_number(row.ours.high)}"
    verdict = "reached" if row.reached else "short of it" if row.learned else "no better than ignoring the input"
    wanted = "–" if row.target is None else f"{_number(row.target)}: {verdict}"
    few, most = row.steps
    steps = f"{few:,}" + (f" to {most:,}" if most != few else "") + (f" of {row.whole:,}" if few < row.whole else "")
    solved = [step for step in row.solved_at if step is not None]
    solved_at = f"{min(solved):,}" + (f" to {max(solved):,}" if max(solved) > min(solved) else "") if solved else "–"
    if solved and len(solved) < row.seeds:
        solved_at += f" ({len(solved)} of {row.seeds})"
    return [
        called(row.network),
        _number(row.paper),
        ours,
        _number(row.difference, sign="+"),
        wanted,
        seeds,
        steps.replace(",", " "),
        solved_at.replace(",", " "),
        duration(row.seconds),
        ", ".join(row.hardware),
        ", ".join(commit[:8] + ("+" if commit.endswith("+") else "") for commit in row.commits),
    ]


def _number(value: float | None, sign: str = "") -> str:
    if value is None or math.isnan(value):
        return "–"
    return f"{value:{sign}.4g}" if abs(value) < 1 else f"{value:{sign}.1f}"


def commands(case: Case, results: Mapping[str, Any], table_rows: Sequence[Row]) -> list[str]:
    """The lines for a shell that make the rows: one, unless they have unequally many seeds or steps."""
    overrides = [f"--config.{path}={value}" for path, value in results["overrides"].items()]
    networks_by_flags: dict[tuple[str, ...], list[str]] = {}
    for row in table_rows:
        steps = [f"--steps={row.steps[0]}"] if row.steps[0] < row.whole and not row.diverged else []
        networks_by_flags.setdefault((f"--seeds={row.seeds}", *steps), []).append(row.network)
    lines = []
    for flags, networks in networks_by_flags.items():
        chosen = [] if len(networks) == len(case.networks) else [f"--networks={','.join(networks)}"]
        lines.append(" ".join(["python -m scripts.irnn", *case.flags, *chosen, *flags, *overrides]))
    return lines


# --- figures ---------------------------------------------------------------------------------------------------------


def panel(case: Case, results: Mapping[str, Any], paper: Mapping[str, Any]) -> Panel:
    """A case's curves, the paper's and ours, in the paper's unit."""
    scale = case.experiment.scale
    ours = {
        name: [[(step, scale * float(value)) for step, value in run["curve"]] for run in entry["runs"] if run["curve"]]
        for name, entry in results["networks"].items()
    }
    published = {name: points for name in case.networks if (points := paper_curve(case, name, paper))}
    return Panel(
        f"{case.title}: {'our recipe' if case.variant == 'modern' else 'the protocol of the paper'}",
        f"{case.experiment.unit.removeprefix('test ')}: ours of validation",
        published,
        ours,
        _colours(case),
        NAMES,
        equal_steps=case.variant == "paper",
        logarithmic=case.experiment.better < 0,
        baseline=case.experiment.baseline,
    )


def draw(case: Case, results: Mapping[str, Any], paper: Mapping[str, Any], folder: Path) -> list[Path]:
    """The figures of a case: learning curves, and gradients before and after training."""
    figures = [published_and_ours([panel(case, results, paper)], folder / f"irnn_{case.key}.png")]
    flows = {n: flow for n, entry in results["networks"].items() if (flow := entry["gradient_flow"])}
    if flows:
        flows = {called(name): flow for name, flow in flows.items()}
        colours = {called(name): number for name, number in _colours(case).items()}
        figures.append(gradients_over_time(flows, colours, folder / f"irnn_{case.key}_gradients.png"))
    return figures


def _colours(case: Case) -> dict[str, int]:
    """The number of each network's colour, in all figures of an experiment."""
    return {name: number for number, name in enumerate(case.experiment.networks["modern"])}


# --- the page --------------------------------------------------------------------------------------------------------

INTRODUCTION = """\
# The IRNN paper, reproduced

Le, Jaitly and Hinton, *A Simple Way to Initialize Recurrent Networks of Rectified Linear Units* (arXiv 1504.00941v2,
2015), experiment by experiment: by the paper's protocol (`paper`) and with our recipe (`modern`). The configs are in
configs/irnn; what the paper does not state is marked there as our choice.

This page is written by `python -m scripts.irnn --all --budget_minutes=0 --update`; without the budget the
command trains what is missing first, without `--update` it leaves what is published as it is. Numbers are in
`docs/results/irnn_*.json`, text in `docs/results/irnn_notes.toml`.

- *paper*: the best value of its curve; beside `paper` of as many steps as ours, on the line between two of its points.
- *ours*: on the test set, the mean over seeds, each at its best checkpoint by validation; of errors and perplexities
  the geometric mean. A run that diverged has no value, and is counted beside.
- *wanted*: beside `modern` what we set out for, beside `paper` the paper's own. *Reached*: by every seed, and never
  said of a network that is no better than ignoring the input: one that has come less than a tenth of the way from what
  that has to a perfect answer.
- *95 % interval*: Student's t; of errors and perplexities that of the logarithms, which does not reach below 0; of
  accuracies cut at 0 and 100.
- *solved at step*: the first evaluation with an error of 0.01 (adding) or an accuracy of 90 % (pixels).
- *wall time*: of all seeds of the row together; those of one network run side by side in one program.
"""


def read_notes(folder: Path) -> dict[str, dict[str, str]]:
    """The text that was written by hand, by experiment and case.

    Raises:
        ConfigError: the file is not TOML, or has a section or a field of another name.
    """
    path = folder / NOTES
    if not path.exists():
        return {}
    notes = read_toml(path, "mend it by hand, or move it away: it was written so")
    allowed = dict.fromkeys(EXPERIMENTS, "explains") | {case.key: "tried" for case in all_cases()}
    for section, fields in notes.items():
        if section not in allowed:
            raise ConfigError(f"{path}: {unknown('section', section, allowed)}")
        for name in fields if isinstance(fields, dict) else [str(fields)]:
            if name != allowed[section]:
                raise ConfigError(f"{path}: {unknown(f'field of [{section}]', name, [allowed[section]])}")
    return notes


def write_page(
    path: Path,
    folder: Path,
    output: Path,
    results: Mapping[str, Any],
    problems: Mapping[str, str],
    paper: Mapping[str, Any],
) -> list[Path]:
    """docs/REPRODUCTION.md, and its figures: all of them or none. Returns those that have changed.

    Args:
        folder: of the published results, with the notes and what stands in for experiments.
        output: where figures are drawn.
        results: a case's key -> what its file holds.
        problems: a case's key -> why it is left out, or not trained on.
        paper: the paper's numbers.
    """
    with together() as publication:
        figures = publication.folder(output)
        text = _page(path, folder, figures, output, results, problems, paper)
        for figure in figures.glob("*.png"):
            for file in figure_files(figure):
                publication.staged(output / file.name)
        write_text(publication.staged(path), text)
    return publication.changed


def _page(
    path: Path,
    folder: Path,
    figures: Path,
    output: Path,
    results: Mapping[str, Any],
    problems: Mapping[str, str],
    paper: Mapping[str, Any],
) -> str:
    """The text of the page; its figures are drawn in `figures`, and are going to be in `output`."""
    notes = read_notes(folder)
    beside, where = (Path(os.path.relpath(each, path.parent)).as_posix() for each in (folder, output))
    parts = [INTRODUCTION]
    cases = [case for case in all_cases() if case.key in results]
    if shown := [case for case in cases if case.variant == "modern" and paper_curve(case, "irnn", paper)]:
        published_and_ours([panel(case, results[case.key], paper) for case in shown], figures / OVERVIEW)
        parts.append(f"![our recipe beside the paper's curves]({where}/{OVERVIEW})\n")
    for experiment in EXPERIMENTS.values():
        parts.append(f"## {experiment.title}\n")
        if text := notes.get(experiment.name, {}).get("explains"):
            parts.append(text.strip() + "\n")
        cases_of_experiment = [case for case in all_cases() if case.experiment is experiment]
        for case in cases_of_experiment:
            if case.key in results:
                parts += _section(case, results[case.key], notes, paper, figures, where)
        cases_by_reason: dict[str, list[Case]] = {}
        for case in cases_of_experiment:
            if case.key in problems:
                cases_by_reason.setdefault(problems[case.key], []).append(case)
            elif case.key not in results:
                cases_by_reason.setdefault("not trained yet", []).append(case)
        for problem, of in cases_by_reason.items():
            lines = "\n".join(" ".join(["python -m scripts.irnn", *case.flags]) for case in of)
            parts.append(f"Missing: {problem}.\n\n```sh\n{lines}\n```\n")
        if experiment.name in STAND_INS and not any(case.key in results for case in cases_of_experiment):
            file, write = STAND_INS[experiment.name]
            if (folder / file).exists():
                with interpreting(folder / file, MEASURE_AGAIN):
                    parts += write(folder / file, figures, beside, where, paper)
    return "\n".join(parts)


def _section(
    case: Case, results: Mapping[str, Any], notes: Mapping[str, Any], paper: Mapping[str, Any], folder: Path, where: str
) -> list[str]:
    table_rows = rows(case, results, paper)
    parts = [f"### {case.title}: `{case.variant}`\n", table(table_rows)]
    short = [called(row.network) for row in table_rows if row.reached is False]
    if tried := notes.get(case.key, {}).get("tried"):
        parts.append(f"Tried: {tried.strip()}\n")
    elif short:
        parts.append(f"Short of what was wanted: {', '.join(short)}.\n")
    there = {row.network for row in table_rows}
    if missing := [called(name) for name in case.networks if name not in there]:
        parts.append(f"Not trained yet: {', '.join(missing)}.\n")
    parts.append("```sh\n" + "\n".join(commands(case, results, table_rows)) + "\n```\n")
    captions = ("learning curves", "gradients before and after training")
    parts += [
        f"![{words}]({where}/{figure.name})\n"
        for words, figure in zip(captions, draw(case, results, paper, folder), strict=False)
    ]
    return parts
