"""Measures what a training step of an entry costs: its time over that of its baseline, in turns."""

import json
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from rnnlab.files import read_json, write_text
from rnnlab.records.run_config import resolve_config, set_fields
from rnnlab.training.setup import make_run
from scripts.irnn.runs import hardware
from scripts.study.entries import Entry

FILE = "costs.json"
"""In the folder of results: {"hardware", "entries": {entry's name: cost}}."""
STEPS, TURNS = 60, 5


def measure_costs(pairs: Sequence[tuple[Entry, Entry]], data_dir: str | None) -> Iterator[tuple[Entry, float | None]]:
    """The cost of a step of each entry over its baseline's: of one replica on one device, as in the study's groups;
    None where one diverged."""
    for entry, baseline in pairs:
        yield entry, 1.0 if entry is baseline else step_ratio(_config(entry), _config(baseline), data_dir)
        jax.clear_caches()


def _config(entry: Entry) -> dict[str, Any]:
    """That of a run with the first value of all that is tuned."""
    return set_fields(entry.config, {"devices": 1, **{path: values[0] for path, values in entry.grid.items()}})


def step_ratio(config: Mapping[str, Any], baseline: Mapping[str, Any], data_dir: str | None) -> float | None:
    """The time of a training step by a config over that by another, of a curriculum in its last stage: the median over
    turns, rounded to three digits; None where one diverged."""
    runs = [make_run(resolve_config(each), data_dir) for each in (config, baseline)]
    states = [run.programs.start(0) for run in runs]
    ratios = []
    for turn in range(TURNS + 1):  # The first one compiles.
        seconds = []
        for number, run in enumerate(runs):
            run.enter(len(run.stages) - 1)
            target = int(states[number].step) + (STEPS if turn else 1)
            began = time.perf_counter()
            states[number] = jax.block_until_ready(run.train(states[number], target))
            seconds.append(time.perf_counter() - began)
            if not bool(states[number].finite):
                return None
        ratios.append(seconds[0] / seconds[1])
    return float(f"{statistics.median(ratios[1:]):.3g}")


def write_cost(results: Path, entry: Entry, cost: float) -> None:
    """Adds an entry's cost to the file."""
    costs = read_costs(results) | {entry.name: cost}
    content = {"hardware": hardware(), "entries": dict(sorted(costs.items()))}
    write_text(results / FILE, json.dumps(content, indent=1) + "\n")


def read_costs(results: Path) -> dict[str, float]:
    """{entry's name: the time of a training step over its baseline's}, of those that were measured."""
    if not (results / FILE).exists():
        return {}
    return read_json(results / FILE, "measure it again: python -m scripts.study --costs", {"entries": dict})["entries"]
