"""The table of the contestants' steps, on the console and in Markdown."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from rnnlab.benchmark.cases import DEFAULT
from rnnlab.files.markdown import markdown_table

VOID = "void"
USES = ("contestant", "devices", "threads", "dispatches")


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
            table.add_row(*names, without(row))
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
    uses = Table(title="what each contestant uses")
    for column in USES:
        uses.add_column(column)
    for line in _contestants(results):
        uses.add_row(*line)
    console.print(uses)
    for row in results:
        if "error" in row:
            console.print(f"{row['cell']} {row['shape']} {row['contestant']}: {row['error']}", markup=False)


def markdown(results: list[dict[str, Any]]) -> str:
    """Three tables: of a training step and of a forward pass a line per case, rnnlab's own numbers and how many times
    as long each of the others takes; and what each contestant uses."""
    return "\n".join(
        [_of_cases(results, "step"), _of_cases(results, "forward"), markdown_table(USES, _contestants(results))]
    )


def _of_cases(results: list[dict[str, Any]], what: str) -> str:
    """what: "step" or "forward"."""
    peers = list(dict.fromkeys(row["contestant"] for row in results if row["contestant"] != DEFAULT))
    lines = []
    cases: dict[tuple[str, str], dict[str, Any]] = {}
    for row in results:
        cases.setdefault((row["cell"], row["shape"]), {})[row["contestant"]] = row
    for (cell, shape), rows in cases.items():
        ours = rows.get(DEFAULT, {"error": ""})
        if "error" in ours:
            mine = [VOID] * 3
        else:
            memory = ours["temporary_bytes"]
            size = "" if memory is None else f"{memory / 2**20:.0f}"
            mine = [f"{ours[f'{what}_median'] * 1e3:.3g}", f"{ours[f'{what}_share']:.0%}", size]
        ratios = [_ratio(rows[p], what) if p in rows else "" for p in peers]
        lines.append([cell, shape, *(mine if what == "step" else mine[:2]), *ratios])
    memory = ["memory, MiB"] if what == "step" else []
    return markdown_table(["cell", "(T, B, D, H)", f"{what}, ms", "share of peak", *memory, *peers], lines)


def _contestants(results: list[dict[str, Any]]) -> list[list[str]]:
    """A line per contestant; several numbers where it uses more in one case than in another."""
    lines = []
    for name in dict.fromkeys(row["contestant"] for row in results):
        rows = [row for row in results if row["contestant"] == name]
        uses = [[row[column] for row in rows if column in row] for column in USES[1:]]
        if any(uses):
            lines.append([name, *(", ".join(map(str, dict.fromkeys(values))) for values in uses)])
        else:
            lines.append([name, *[""] * 2, rows[0]["error"].replace("|", "/")])
    return lines


def _ratio(row: dict[str, Any], what: str) -> str:
    return f"{row[f'{what}_ratio']:.2f}" if f"{what}_ratio" in row else without(row)


def without(row: Mapping[str, Any]) -> str:
    """What a table shows in the place of a number that a row does not have."""
    return "–" if row.get("error", "").startswith("left out") else VOID
