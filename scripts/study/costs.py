"""Measures what a training step of an entry costs: its time, and that over the time of its baseline, in turns."""

import json
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax

from rnnlab.config.errors import ConfigError
from rnnlab.files import check_fields, read_json, write_text
from rnnlab.records.run_config import resolve_config, set_fields
from rnnlab.training.setup import make_run
from scripts.irnn.runs import hardware
from scripts.study.entries import Entry

FILE = "costs.json"
"""In the folder of results: {"entries": {entry's name: the fields of `Cost`}}."""
STEPS, TURNS = 60, 5
AGAIN = "remove it, and measure again: python -m scripts.study --costs"


@dataclass(frozen=True)
class Cost:
    """The time of a training step of one replica on one device, as in the study's groups."""

    ratio: float
    """Its time over that of the baseline: the median over turns."""
    milliseconds: float
    """Its time: the median over turns."""
    hardware: str
    """For people."""


def measure_costs(pairs: Sequence[tuple[Entry, Entry]], data_dir: str | None) -> Iterator[tuple[Entry, Cost | None]]:
    """The cost of each entry beside its baseline, those of one baseline together; None where one diverged."""
    shared: tuple[str, _Steps] | None = None
    for entry, baseline in sorted(pairs, key=lambda pair: pair[1].name):
        try:
            if shared is None or shared[0] != baseline.name:
                jax.clear_caches()
                shared = baseline.name, _Steps(_config(baseline), data_dir)
            own = shared[1] if entry.name == baseline.name else _Steps(_config(entry), data_dir)
        except ConfigError as error:  # A task's files are missing.
            print(f"{entry.name} is left out: {error}", flush=True)
            continue
        yield entry, cost_of(own, shared[1])


def _config(entry: Entry) -> dict[str, Any]:
    """That of a run with the first value of all that is tuned."""
    return set_fields(entry.config, {"devices": 1, **{path: values[0] for path, values in entry.grid.items()}})


class _Steps:
    """Training steps of a config, of a curriculum in its last stage; the first one has compiled."""

    def __init__(self, config: Mapping[str, Any], data_dir: str | None):
        self._run = make_run(resolve_config(config), data_dir)
        self._run.enter(len(self._run.stages) - 1)
        self._state = self._run.programs.start(0)
        self.finite = True
        """Whether nothing has diverged so far."""
        self.seconds(1)

    def seconds(self, steps: int) -> float:
        """The seconds that so many steps take."""
        target = int(self._state.step) + steps
        began = time.perf_counter()
        self._state = jax.block_until_ready(self._run.train(self._state, target))
        taken = time.perf_counter() - began
        self.finite = self.finite and bool(self._state.finite)
        return taken


def cost_of(own: _Steps, baseline: _Steps) -> Cost | None:
    """The cost of a step beside a baseline's, to three digits; None where one diverged."""
    pairs = []
    for _ in range(TURNS):
        mine = own.seconds(STEPS)
        pairs.append((mine, mine if own is baseline else baseline.seconds(STEPS)))
    if not (own.finite and baseline.finite):
        return None
    ratio = statistics.median(mine / other for mine, other in pairs)
    seconds = statistics.median(mine for mine, _ in pairs) / STEPS
    return Cost(float(f"{ratio:.3g}"), float(f"{1000 * seconds:.3g}"), hardware())


def write_cost(results: Path, entry: Entry, cost: Cost) -> None:
    """Adds an entry's cost to the file."""
    costs = read_costs(results) | {entry.name: cost}
    content = {"entries": {name: asdict(costs[name]) for name in sorted(costs)}}
    write_text(results / FILE, json.dumps(content, indent=1) + "\n")


def read_costs(results: Path) -> dict[str, Cost]:
    """{entry's name: cost} of those that were measured."""
    path = results / FILE
    if not path.exists():
        return {}
    costs = read_json(path, AGAIN, {"entries": {}})["entries"]
    for name, cost in costs.items():
        check_fields(path, cost, {"ratio": float, "milliseconds": float, "hardware": str}, AGAIN, f"entries.{name}")
    return {name: Cost(**cost) for name, cost in costs.items()}
