"""Writes the results of docs/study.md between its marks, and a table that can be sorted, from the entries' files."""

import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from rnnlab.config.errors import ConfigError
from rnnlab.files import write_text
from rnnlab.files.markdown import markdown_table, write_between_marks
from scripts.study.comparison import Comparison, Numbers, average_ranks, compare, numbers_of, rank_correlation
from scripts.study.protocol import BASELINE, CELLS, TASKS
from scripts.study.training import read_entries

HEAD = ["method", "solved", "median steps", "test", "δ", "p", "clipped", "half-life before", "after", "λ₁", "ms a step"]


def write_page(results: Path, page: Path) -> str:
    """Writes the page and table.html; returns what it did, in words.

    Raises:
        ConfigError: there are no results.
    """
    entries = [numbers_of(entry) for entry in read_entries(results)]
    if not entries:
        raise ConfigError(f"{results} has no results; python -m scripts.study trains them")
    parts = {part: [n for n in entries if n.entry["part"] == part] for part in ("cells", "cures")}
    lines = _cells(_by_task(parts["cells"])) + _cures(_by_task(parts["cures"]))
    write_between_marks(page, "\n".join(lines).rstrip() + "\n")
    write_text(results / "table.html", _html(entries))
    return f"{len(entries)} entries in {page} and {results / 'table.html'}"


def _by_task(entries: Sequence[Numbers]) -> dict[str, dict[str, Numbers]]:
    by_task: dict[str, dict[str, Numbers]] = {}
    for one in entries:
        by_task.setdefault(one.entry["task"], {})[one.entry["method"]] = one
    order = list(TASKS)
    return dict(sorted(by_task.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)))


# --- cells -----------------------------------------------------------------------------------------------------------


def _cells(by_task: Mapping[str, Mapping[str, Numbers]]) -> list[str]:
    lines = ["## Which cell for which kind of memory", ""]
    for task, of in by_task.items():
        lines.append(f"- **{task.replace('_', ' ')}** ({TASKS[task].memory}): {_winners(of)}.")
    lines += ["", *_prediction(by_task), ""]
    complete = {task: of for task, of in by_task.items() if set(CELLS) <= set(of)}
    ranks, critical = average_ranks(complete)
    if len(complete) > 1:
        words = ", ".join(f"{method} {rank:.1f}" for method, rank in ranks.items())
        lines += [
            f"Mean ranks over {len(complete)} tasks, by share solved, then by the median error: {words}. Two cells "
            f"whose ranks differ by less than {critical:.1f} are not shown to differ (Nemenyi, 5 %).",
            "",
        ]
    for task, of in by_task.items():
        lines += [f"### Cells on {task.replace('_', ' ')}", "", _table(of, {m: of.get(BASELINE) for m in of}), ""]
    return lines


def _winners(of: Mapping[str, Numbers]) -> str:
    """Who solved a task, and how fast."""
    always = sorted((n for n in of.values() if n.solved == n.count), key=lambda n: n.steps[0])
    sometimes = sorted((n for n in of.values() if 0 < n.solved < n.count), key=lambda n: -n.solved)
    never = [name for name, n in of.items() if n.solved == 0]
    words = []
    if always:
        first = ", ".join(f"{n.entry['method']} ({_steps(n)} steps)" for n in always[:3])
        more = ", ".join(n.entry["method"] for n in always[3:])
        words.append(f"every seed solves it with {first}" + (f", then {more}" if more else ""))
    if sometimes:
        words.append(
            "some seeds with " + ", ".join(f"{n.entry['method']} ({n.solved} of {n.count})" for n in sometimes)
        )
    if never:
        words.append(f"none with {', '.join(never)}")
    return "; ".join(words)


def _prediction(by_task: Mapping[str, Mapping[str, Numbers]]) -> list[str]:
    """Whether the half-life before training says who solves a task."""
    words = []
    for task, of in by_task.items():
        pairs = [(n.untrained, n.steps[0]) for n in of.values() if not math.isnan(n.untrained)]
        rho, p = rank_correlation([life for life, _ in pairs], [-steps for _, steps in pairs])
        if not math.isnan(rho):
            words.append(f"{task.replace('_', ' ')} {rho:.2f} (p = {p:.2g}, {len(pairs)} cells)")
    if not words:
        return []
    return [
        "The gradient's half-life before training beside how soon a cell solves the task, Spearman's ρ: "
        + ", ".join(words)
        + "."
    ]


# --- cures -----------------------------------------------------------------------------------------------------------


def _cures(by_task: Mapping[str, Mapping[str, Numbers]]) -> list[str]:
    if not by_task:
        return []
    lines = ["## Which cure helps whom", ""]
    for task, of in by_task.items():
        lines += [f"### Cures on {task.replace('_', ' ')}", ""]
        lines += [_table(of, {method: of.get(method.partition("+")[0]) for method in of}), ""]
    return lines


# --- tables ----------------------------------------------------------------------------------------------------------


def _table(of: Mapping[str, Numbers], baselines: Mapping[str, Numbers | None]) -> str:
    """A row for each method of a task; the better ones first."""
    pairs = [(n, b) for m, n in of.items() if (b := baselines[m]) is not None and b is not n]
    comparisons = compare([n for n, _ in pairs], [b for _, b in pairs])
    beside = {n.entry["method"]: c for (n, _), c in zip(pairs, comparisons, strict=True)}
    ordered = sorted(of.values(), key=lambda n: (-n.solved, n.steps[0], n.mean.value))
    return markdown_table(HEAD, [_row(n, beside.get(n.entry["method"])) for n in ordered])


def _row(n: Numbers, beside: Comparison | None) -> list[str]:
    lyapunov = n.entry["lyapunov"]
    diverged = f", {n.diverged} diverged" if n.diverged else ""
    return [
        n.entry["method"],
        f"{n.solved} of {n.count}{diverged}",
        _steps(n),
        f"{n.mean.value:.3g} ({n.mean.low:.3g} to {n.mean.high:.3g})",
        "" if beside is None else f"{beside.delta:+.2f}",
        "" if beside is None else f"{beside.p_error:.2g}; {beside.p_solved:.2g}",
        f"{100 * n.clipped:.0f} %",
        _life(n.untrained),
        _life(n.trained),
        "–" if lyapunov is None else f"{lyapunov['mean']:.3f}",
        f"{1000 * n.entry['seconds_a_step']:.2f}",
    ]


def _steps(n: Numbers) -> str:
    middle, low, high = n.steps
    if not math.isfinite(middle):
        return "–"
    return f"{middle:.0f} ({low:.0f} to {f'{high:.0f}' if math.isfinite(high) else '∞'})"


def _life(value: float) -> str:
    if math.isnan(value):
        return "–"
    return "∞" if math.isinf(value) else f"{value:.3g}"


SCRIPT = """
for (const head of document.querySelectorAll('th')) head.onclick = () => {
  const body = head.closest('table').tBodies[0], at = [...head.parentNode.children].indexOf(head);
  const down = head.dataset.down = head.dataset.down === '1' ? '' : '1';
  const value = row => { const text = row.children[at].textContent, n = parseFloat(text); return isNaN(n) ? text : n; };
  [...body.rows].sort((a, b) => (value(a) > value(b) ? 1 : -1) * (down ? 1 : -1)).forEach(row => body.append(row));
};
"""


def _html(entries: Sequence[Numbers]) -> str:
    """All entries as one table; a click on a column's head sorts by it."""
    heads = "".join(f"<th>{html.escape(head)}</th>" for head in ["part", "task", *HEAD])
    rows = []
    for n in entries:
        cells = [n.entry["part"], n.entry["task"], *_row(n, None)]
        rows.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    style = "body{font:14px sans-serif}td,th{padding:2px 8px;text-align:left}th{cursor:pointer}"
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>The study</title><style>{style}</style>"
        f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table><script>{SCRIPT}</script></html>\n"
    )
