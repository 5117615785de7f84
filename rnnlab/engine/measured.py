"""The backends that `auto` takes where somebody has measured which is the fastest, from measured_backends.json.

The file is empty until then. `python -m rnnlab.accelerator_check` writes its lines.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import jax

from rnnlab.engine.checks import innermost
from rnnlab.engine.contract import Backend
from rnnlab.files.reading import check_objects, damaged, read_json
from rnnlab.ops.linear import Precision

TABLE = Path(__file__).with_name("measured_backends.json")
MEASURED: tuple[Backend, ...] = ("fused", "kernel", "reference", "scan")
"""The backends that are timed."""
NEAR = 1.5
"""Up to this factor between its number of units and a measured one a cell takes what was measured."""
FASTER = 1.05
"""By how much a backend has to be faster than "fused", at every shape of a number of units."""


_FIELDS = {"device": str, "cell": str, "precision": str, "features": int, "backend": str}
_REMEDY = "restore it, or copy the lines of a check's backends.json into it"


@functools.cache
def table() -> dict[tuple[str, str, str], dict[int, Backend]]:
    """{(kind of device, cell's class, precision): {units: backend}}.

    Raises:
        ConfigError: the file is damaged, or a line of it names what there is not.
    """
    lines = read_json(TABLE, _REMEDY, {"entries": list})["entries"]
    check_objects(TABLE, lines, _FIELDS, _REMEDY, "entries")
    kinds = {"backend": MEASURED, "precision": get_args(Precision)}
    places: dict[tuple[str, str, str], dict[int, Backend]] = {}
    for number, line in enumerate(lines):
        for name, allowed in kinds.items():
            if line[name] not in allowed:
                problem = f"has {name} {line[name]!r} in entries[{number}], which is none of {', '.join(allowed)}"
                raise damaged(TABLE, problem, _REMEDY)
        if line["features"] < 1:
            raise damaged(TABLE, f"has {line['features']} features in entries[{number}]", _REMEDY)
        widths = places.setdefault((line["device"], line["cell"], line["precision"]), {})
        if widths.setdefault(line["features"], line["backend"]) != line["backend"]:
            raise damaged(TABLE, f"has two backends for the cell, device and width of entries[{number}]", _REMEDY)
    return places


def measured_backend(cell: Any) -> Backend | None:
    """The fastest for this cell on the default device; None where that is not known. A cell around another is taken for
    that one."""
    measured = table()
    if not measured:  # Devices are not made only to ask for their kind.
        return None
    cell = innermost(cell)
    precision: Precision = cell.precision
    here = measured.get((jax.devices()[0].device_kind, type(cell).__name__, precision), {})
    units = getattr(cell, "features", None)
    if not here or not isinstance(units, int):
        return None
    nearest = min(here, key=lambda each: abs(math.log(each / units)))
    return here[nearest] if max(nearest / units, units / nearest) <= NEAR else None


def entries_of(device: str, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The lines of the file that rows of `rnnlab.benchmark` give: for each cell, precision and number of units a
    backend, also "fused", where one is the fastest at all of its shapes.

    Vanilla networks of all activations are one cell: where they disagree there is no line.
    """
    best: dict[tuple[str, str, int], list[str]] = {}
    cases: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        if "step_median" in row and row["contestant"].startswith("rnnlab "):
            cases.setdefault((row["cell"], row["precision"], row["shape"]), []).append(row)
    for (_, precision, _), each in cases.items():
        times = {row["contestant"].removeprefix("rnnlab "): row["step_median"] for row in each}
        if "fused" not in times or len(times) < 2:
            continue
        first = min(times, key=lambda backend: times[backend])
        winner = first if times["fused"] > FASTER * times[first] else "fused"
        best.setdefault((each[0]["class"], precision, each[0]["features"]), []).append(winner)
    return [
        {"device": device, "cell": cell, "precision": precision, "features": units, "backend": winners[0]}
        for (cell, precision, units), winners in sorted(best.items())
        if len(set(winners)) == 1
    ]
