"""Checks what a report or a search asks for: the metric and its direction, the baseline, the names of axes."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rnnlab.config.errors import ConfigError, unknown
from rnnlab.config.texts import literal
from rnnlab.sweeps.spec.space import Setting
from rnnlab.sweeps.statistics import number, same
from rnnlab.tasks import TASKS


def check_metric(metric: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Checks that a metric is a column of numbers.

    Raises:
        ConfigError: it is not.
    """
    sections = ("final.", "best.validation.", "best.test.", "stability.")
    metrics = [
        column
        for column in rows[0]
        if (column.startswith(sections) or column in ("steps", "seconds", "steps_per_second"))
        and any(number(row[column]) is not None for row in rows)
    ]
    if metric not in metrics:
        raise ConfigError(f"--metric: {unknown('metric', metric, metrics)}")


def watched_metric(settings: Sequence[Setting], where: str) -> str:
    """The metric that early stopping watches in all runs.

    Raises:
        ConfigError: it is not one; where: what says so.
    """
    first = settings[0]
    for setting in settings:
        names = [each.config["early_stopping"]["metric"] for each in (first, setting)]
        if names[0] != names[1]:
            raise ConfigError(
                f"{where}: early_stopping.metric of runs {first.name} and {setting.name} is {names[0]} and {names[1]}"
            )
    return first.config["early_stopping"]["metric"]


def larger_is_better() -> set[str]:
    """The metrics of any task of which more is better."""
    return {"steps_per_second"}.union(*(getattr(task, "larger_is_better", ()) for task in TASKS.every()))


def shares() -> set[str]:
    """The metrics of any task that lie between 0 and 1."""
    return {"clipped"}.union(*(getattr(task, "shares", ()) for task in TASKS.every()))


def read_baseline(
    sweep: Mapping[str, Any], typed: str | None, axes: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """{axis: value} that the user or the sweep's file names; empty for none.

    Args:
        sweep: what sweep.json says.
        given: "axis=value" or several with commas between them; None for the file's.
        axes: paths without the seed.
        rows: with their `axes`.

    Raises:
        ConfigError: no such axis, or no run with such a value.
    """
    if typed is None:
        named = (sweep.get("sweep") or {}).get("baseline") or {}
        return {k: json.dumps(v) if isinstance(v, Mapping | list) else v for k, v in named.items() if k in axes}
    baseline = {}
    for part in re.split(r",(?=[\w.]+=)", typed):
        path, equals, text = part.partition("=")
        if not equals:
            raise ConfigError(f"--baseline: {part!r} is not axis=value, as in model.cell=lstm")
        if path not in axes:
            raise ConfigError(f"--baseline: {unknown('axis', path, axes)}")
        values = list({repr(row["axes"].get(path)): row["axes"].get(path) for row in rows}.values())
        matching = [v for v in values if same(v, literal(text)) or same(v, text)]
        if not matching:
            raise ConfigError(f"--baseline: {unknown('value', text, map(str, values), f'{path}=')}")
        baseline[path] = matching[0]
    return baseline


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """Path -> the shortest end of it, in whole fields, that no other path has: "model.cell.features" -> "features",
    "optimizer.name" -> itself."""
    names = {}
    for path in paths:
        fields = path.split(".")
        ends = [".".join(fields[-n:]) for n in range(1 + (fields[-1] == "name"), len(fields) + 1)]
        others = [other for other in paths if other != path]
        names[path] = next((e for e in ends if not any(f".{o}".endswith(f".{e}") for o in others)), path)
    return names
