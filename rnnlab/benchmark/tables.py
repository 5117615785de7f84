"""The table of the contestants' steps, on the console and in Markdown."""

from typing import Any

from rich.console import Console
from rich.table import Table

from rnnlab.benchmark.cases import DEFAULT
from rnnlab.files.markdown import markdown_table


def show(results: list[dict[str, Any]], console: Console) -> None:
    """The table on the screen."""
    table = Table(title="one training step, and a forward pass")
    for column in ("cell", "(T, B, D, H)", "contestant"):
        table.add_column(column, no_wrap=True)
    for column in ("step ms", "±", "ratio", "share", "forward ms", "ratio", "memory MiB", "compile s"):
        table.add_column(column, justify="right", no_wrap=True)
    last = None
    for row in results:
        if last is not None and last != (row["cell"], row["shape"]):
            table.add_section()
        first, last = last != (row["cell"], row["shape"]), (row["cell"], row["shape"])
        names = [row["cell"] if first else "", row["shape"] if first else "", row["contestant"]]
        if "error" in row:
            table.add_row(*names, "void")
            continue
        memory = row["temporary_bytes"]
        table.add_row(
            *names,
            f"{row['step_median'] * 1e3:.3g}",
            f"{row['step_spread']:.0%}",
            f"{row.get('step_ratio', float('nan')):.2f}",
            f"{row['step_share']:.0%}",
            f"{row['forward_median'] * 1e3:.3g}",
            f"{row.get('forward_ratio', float('nan')):.2f}",
            "" if memory is None else f"{memory / 2**20:.1f}",
            "" if row["compile_seconds"] is None else f"{row['compile_seconds']:.1f}",
        )
    console.print(table)
    for row in results:
        if "error" in row:
            console.print(f"{row['cell']} {row['shape']} {row['contestant']}: {row['error']}", markup=False)


def markdown(results: list[dict[str, Any]]) -> str:
    """A line per case: rnnlab's own numbers, and how many times as long each of the others takes for a step."""
    peers = list(dict.fromkeys(row["contestant"] for row in results if row["contestant"] != DEFAULT))
    lines = []
    cases: dict[tuple[str, str], dict[str, Any]] = {}
    for row in results:
        cases.setdefault((row["cell"], row["shape"]), {})[row["contestant"]] = row
    for (cell, shape), rows in cases.items():
        ours = rows.get(DEFAULT, {"error": ""})
        if "error" in ours:
            mine = ["void"] * 3
        else:
            memory = ours["temporary_bytes"]
            size = "" if memory is None else f"{memory / 2**20:.0f}"
            mine = [f"{ours['step_median'] * 1e3:.3g}", f"{ours['step_share']:.0%}", size]
        ratios = [_ratio(rows[p]) if p in rows else "" for p in peers]
        lines.append([cell, shape, *mine, *ratios])
    return markdown_table(["cell", "(T, B, D, H)", "step, ms", "share of peak", "memory, MiB", *peers], lines)


def _ratio(row: dict[str, Any]) -> str:
    return f"{row['step_ratio']:.2f}" if "step_ratio" in row else "void"
