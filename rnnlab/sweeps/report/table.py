"""The results of a sweep's runs: one row a run, in runs.csv and runs.parquet.

The rows are made anew from the runs' own files each time (1000 runs: 0.1 s), so a crash can leave none half written.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rnnlab.files import as_typed, whole_file
from rnnlab.files.locks import alone
from rnnlab.records.folders import SweepDir
from rnnlab.records.workdir import read_summary

MEASURED = ("steps", "seconds", "steps_per_second")
SECTIONS = ("final", "best", "stability", "convergence", "stage")
"""The sections of summary.json whose values become columns."""


def make_rows(workdir: Path, sweep: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row of every run: its name, whether the sweep still has it, its status, the value of every axis, steps and
    seconds, numbers of its summary under their paths ("best.validation.loss"), and the command that makes it alone.

    Args:
        sweep: what sweep.json says.
    """
    paths = list(dict.fromkeys(path for run in sweep["runs"] for path in run["axes"] if path != "seed"))
    rows = []
    for run in sweep["runs"]:
        folder = SweepDir(workdir).run(run["name"])
        summary = read_summary(folder)
        row = {"name": run["name"], "in_sweep": run["in_sweep"]}
        row["status"] = summary["status"] if summary else "started" if folder.is_dir() else "waiting"
        row |= {axis_column(path): run["axes"].get(path) for path in [*paths, "seed"]}
        for key in MEASURED:
            row[key] = (summary or {}).get(key)
        for key in SECTIONS:
            row |= _flat((summary or {}).get(key) or {}, key)
        rows.append(row | {"command": run["command"]})
    columns = dict.fromkeys(key for row in rows for key in row if key != "command")
    return [{column: row.get(column) for column in [*columns, "command"]} for row in rows]


def axis_column(path: str) -> str:
    """The name of an axis's column; what a run did has columns called like fields of the config."""
    return f"config.{path}" if path in MEASURED else path


def write_table(workdir: Path, sweep: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Writes runs.csv and runs.parquet, each whole or not at all, one process at a time; returns the rows.

    Raises:
        ConfigError: they cannot be written.
    """
    import pyarrow
    import pyarrow.parquet

    with alone(SweepDir(workdir).table_lock):
        rows = make_rows(workdir, sweep)
        rows = [{name: as_typed(v) if isinstance(v, str) else v for name, v in row.items()} for row in rows]
        columns = {name: _column([row[name] for row in rows]) for name in (rows[0] if rows else ())}
        text = io.StringIO()
        out = csv.writer(text, lineterminator="\n")
        out.writerow(columns)
        out.writerows(zip(*columns.values(), strict=True))
        with whole_file(SweepDir(workdir).csv) as file:
            file.write(text.getvalue().encode())
        with whole_file(SweepDir(workdir).parquet) as file:
            pyarrow.parquet.write_table(pyarrow.table(columns), file)
    return rows


def _flat(section: Any, path: str) -> dict[str, Any]:
    """The values of nested sections under their paths."""
    if not isinstance(section, Mapping):
        return {path: section}
    return {k: v for key, value in section.items() for k, v in _flat(value, f"{path}.{key}").items()}


def _column(values: Sequence[Any]) -> list[Any]:
    """Values of one type: numbers as they are, "nan" and "inf", which JSON has no numbers for, as numbers beside
    others, all else as text where it is not all of one type."""
    numbers = {str(x): x for x in (math.nan, math.inf, -math.inf)}
    typed = [numbers.get(v, v) if isinstance(v, str) else v for v in values]
    kinds = {type(v) for v in typed if v is not None}
    if kinds <= {int, float}:
        return [None if v is None else float(v) for v in typed] if float in kinds else typed
    if len(kinds) == 1:
        return list(values)
    return [None if v is None else str(v) for v in values]
