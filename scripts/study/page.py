"""Writes what stands between the marks of docs/study.md and docs/mitigations.md, and a table that can be sorted, from
the entries' files."""

import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from rnnlab.config.errors import ConfigError
from rnnlab.files import write_text
from rnnlab.files.markdown import markdown_table, write_between_marks
from rnnlab.sweeps.spec.question import larger_is_better
from rnnlab.sweeps.statistics import LOGARITHMS, scale_of
from scripts.study.comparison import Comparison, Numbers, baseline_of, compared, has_threshold, median_words, numbers_of
from scripts.study.costs import Cost, read_costs
from scripts.study.cure_table import cure_tables, value_words
from scripts.study.cures import CURES
from scripts.study.entries import PARTS, RATE
from scripts.study.findings import FEWEST, FINDINGS, Figures
from scripts.study.in_short import in_short
from scripts.study.protocol import LENGTH_RATES, RATES, TASKS
from scripts.study.training import read_entries

EDGE, ARITHMETIC = "*", " ‡"
"""Marks of a rate or strength at an end of its grid, and of a mean that is arithmetic in a column of geometric ones."""
HEAD = [
    "method",
    "rate",
    "strength",
    "solved",
    "median steps",
    "seconds",
    "test",
    "δ",
    "p error",
    "p solved",
    "p steps",
]
HEAD += ["clipped", "half-life before", "after", "λ₁", "cost"]
TITLES = {"cells": "Cells on", "cures": "Cures on", "initialisation": "Initialisations on", "lengths": "Lengths:"}
"""The words before a task over a part's table."""


def write_pages(results: Path, page: Path, cures_page: Path) -> str:
    """Writes the pages, their figures and table.html; returns what it did, in words.

    Raises:
        ConfigError: there are no results.
    """
    entries = [numbers_of(entry) for entry in read_entries(results)]
    if not entries:
        raise ConfigError(f"{results} has no results; python -m scripts.study trains them")
    trained = {part: [n for n in entries if n.entry["part"] == part] for part in PARTS}
    costs = read_costs(results)
    planned = {part: len(list(PARTS[part]("small"))) for part in PARTS}
    done = ", ".join(f"{part} {len(trained[part])} of {planned[part]}" for part in PARTS)
    parts = {part: _by_task(trained[part]) for part in PARTS}
    at_edge = [n for n in entries if _rate(n).endswith(EDGE)]
    lowest = sum(n.entry["chosen"][RATE] == RATES[0] for n in at_edge)
    findings = [
        f"Trained so far, each with 8 seeds of its own beside those that chose: {done}. The chosen rate is the "
        f"smallest of its grid in {lowest} and the largest in {len(at_edge) - lowest} of these {len(entries)} entries "
        f"(“{EDGE}” in the tables): a rate beyond it may be better.",
        "",
        *in_short(parts, FEWEST),
        "",
    ]
    tables: list[str] = []
    for part, by_task in parts.items():
        if not by_task:
            continue
        findings += FINDINGS[part](by_task, Figures(results, page))
        for task, of in by_task.items():
            tables += [f"### {TITLES[part]} {task.replace('_', ' ')}", "", _table(part, of, costs), ""]
    write_between_marks(page, "\n".join([*findings, "## Tables", "", *tables]).rstrip() + "\n")
    write_between_marks(cures_page, cure_tables(parts["cures"]))
    write_text(results / "table.html", _html(parts, costs))
    return f"{len(entries)} entries in {page}, {cures_page} and {results / 'table.html'}"


def _by_task(entries: Sequence[Numbers]) -> dict[str, dict[str, Numbers]]:
    by_task: dict[str, dict[str, Numbers]] = {}
    for one in entries:
        by_task.setdefault(one.entry["task"], {})[one.entry["method"]] = one
    order = list(TASKS)
    return dict(sorted(by_task.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)))


def _table(part: str, of: Mapping[str, Numbers], costs: Mapping[str, Cost]) -> str:
    """A row for each method of a task; the better ones first."""
    beside = {n.entry["method"]: comparison for n, _, comparison in compared(part, of)}
    sign = -1 if next(iter(of.values())).entry["metric"] in larger_is_better() else 1
    ordered = sorted(of.values(), key=lambda n: (-n.solved, n.steps[0], sign * n.mean.value))
    return markdown_table(HEAD, [_row(n, beside.get(n.entry["method"]), costs) for n in ordered])


def _row(n: Numbers, beside: Comparison | None, costs: Mapping[str, Cost]) -> list[str]:
    part, task, method = (n.entry[key] for key in ("part", "task", "method"))
    lyapunov, cost = n.entry["lyapunov"], costs.get(f"{part}/{task}/{method}")
    base = costs.get(f"{part}/{task}/{baseline_of(part, method)}")
    diverged = f", {n.diverged} diverged" if n.diverged else ""
    # All of a task by one measurement of the baseline: the machine is not as fast on every day.
    seconds = None if cost is None or base is None else cost.ratio * base.milliseconds / 1000
    return [
        n.entry["method"],
        _rate(n),
        _strength(n),
        f"{n.solved} of {n.count}{diverged}" if has_threshold(task) else f"–{diverged}",
        median_words(n),
        "–" if seconds is None else median_words(n, seconds),
        f"{n.mean.value:.3g} ({n.mean.low:.3g} to {n.mean.high:.3g}){'' if _of_logarithms(n) else ARITHMETIC}",
        "" if beside is None else f"{beside.delta:+.2f}",
        *(["", "", ""] if beside is None else (f"{p:.2g}" for p in (beside.p_error, beside.p_solved, beside.p_steps))),
        f"{100 * n.clipped:.0f} %",
        _life(n.untrained),
        _life(n.trained),
        "–" if lyapunov is None else "-∞" if lyapunov["mean"] is None else f"{lyapunov['mean']:.3f}",
        "–" if cost is None else f"{cost.ratio:.2f}",
    ]


def _chosen(n: Numbers) -> float | None:
    """The learning rate that was chosen."""
    return n.entry.get("chosen", {}).get(RATE)


def _rate(n: Numbers) -> str:
    """The learning rate that was chosen; marked where it is an end of the grid."""
    rate, grid = _chosen(n), LENGTH_RATES if n.entry["part"] == "lengths" else RATES
    return "–" if rate is None else f"{rate:.2g}{EDGE if rate in (grid[0], grid[-1]) else ''}"


def _strength(n: Numbers) -> str:
    """The strength of a cure that was chosen; marked where it is an end of its grid."""
    chosen = [value for path, value in n.entry.get("chosen", {}).items() if path != RATE]
    if not chosen:
        return "–"
    grid = CURES[n.entry["method"].partition("+")[2]].strengths
    return "; ".join(value_words(value) + (EDGE if value in (grid[0], grid[-1]) else "") for value in chosen)


def _of_logarithms(n: Numbers) -> bool:
    """Whether a mean is what its column has: geometric, of losses; accuracies are arithmetic on all pages."""
    return n.entry["metric"] in larger_is_better() or scale_of(n.values) is LOGARITHMS


def _life(value: float) -> str:
    if math.isnan(value):
        return "–"
    return "∞" if math.isinf(value) else f"{value:.3g}"


SCRIPT = """
for (const head of document.querySelectorAll('th')) head.onclick = () => {
  const body = head.closest('table').tBodies[0], at = [...head.parentNode.children].indexOf(head);
  const up = head.dataset.up = head.dataset.up === '1' ? '' : '1';
  const key = row => {  // Numbers, then infinite ones, then words, then nothing.
    const text = row.children[at].textContent, n = parseFloat(text);
    if (!isNaN(n)) return [0, n];
    if (text === '∞' || text === '-∞') return [0, text === '∞' ? Infinity : -Infinity];
    return text === '' || text === '–' ? [2, text] : [1, text];
  };
  const order = (a, b) => a[0] !== b[0] ? a[0] - b[0] : a[1] > b[1] ? 1 : a[1] < b[1] ? -1 : 0;
  const rows = [...body.rows].sort((a, b) => order(key(a), key(b)));
  (up ? rows : rows.reverse()).forEach(row => body.append(row));
};
"""


def _html(parts: Mapping[str, Mapping[str, Mapping[str, Numbers]]], costs: Mapping[str, Cost]) -> str:
    """All entries as one table; a click on a column's head sorts by it."""
    heads = "".join(f"<th>{html.escape(head)}</th>" for head in ["part", "task", *HEAD])
    rows = []
    for part, by_task in parts.items():
        for task, of in by_task.items():
            beside = {n.entry["method"]: comparison for n, _, comparison in compared(part, of)}
            for method, n in of.items():
                cells = [part, task, *_row(n, beside.get(method), costs)]
                rows.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    style = "body{font:14px sans-serif}td,th{padding:2px 8px;text-align:left}th{cursor:pointer}"
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>The study</title><style>{style}</style>"
        f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table><script>{SCRIPT}</script></html>\n"
    )
