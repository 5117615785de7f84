"""The backends that `auto` takes where somebody has measured which is the fastest, from measured_backends.json.

The file is empty until then. `python -m rnnlab.accelerator_check` writes its lines.
"""

import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from rnnlab.ops.linear import Precision

TABLE = Path(__file__).with_name("measured_backends.json")
NEAR = 1.5
"""Up to this factor between its number of units and a measured one a cell takes what was measured."""
FASTER = 1.05
"""By how much a backend has to be faster than "fused", at every shape of a number of units."""


@functools.cache
def table() -> dict[tuple[str, str, str], dict[int, Any]]:
    """{(kind of device, cell's class, precision): {units: backend}}."""
    lines = json.loads(TABLE.read_text(encoding="utf-8"))["entries"]
    places: dict[tuple[str, str, str], dict[int, Any]] = {}
    for line in lines:
        places.setdefault((line["device"], line["cell"], line["precision"]), {})[line["features"]] = line["backend"]
    return places


def measured_backend(cell: Any) -> Any:
    """The fastest for this cell on the default device; None where that is not known."""
    measured = table()
    if not measured:  # Devices are not made only to ask for their kind.
        return None
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
