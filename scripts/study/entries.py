"""The entries of the study: of each pair of a method and a task, the runs that choose its numbers and the runs that
count. An entry is trained by `training.py` and is one file in docs/results/study."""

import dataclasses
import fnmatch
import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rnnlab.config.errors import ConfigError, unknown
from rnnlab.files import read_json
from rnnlab.records.run_config import resolve_config, set_fields
from rnnlab.tasks import Task, make_task
from rnnlab.training.structure import Structure
from scripts.study.cures import CURE_TASKS, CURES
from scripts.study.protocol import (
    ADAM,
    CELLS,
    ETA,
    EVALUATIONS,
    FINE_RATES,
    FIRST_RUNG,
    GAINS,
    LENGTH_RATES,
    LENGTHS,
    RATES,
    SEEDS,
    SIZES,
    SLOW_RECURRENT,
    TASKS,
    TIMED_EVALUATIONS,
    TUNING_SEEDS,
    TWO_LAYERS,
    StudyTask,
)

RATE = "optimizer.learning_rate"
HELD: dict[str, dict[str, Any]] = {"pixels": {"validation_size": 2000, "white": 1.0}, "time_series": {}}
"""Fields of tasks with files, which hold out some of what they have; the others draw what they are asked for."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A method on a task."""

    part: str
    """The part of the study, a key of `PARTS`."""
    task: str
    """As in the study's tables."""
    method: str
    """As in the study's tables."""
    without_width: Mapping[str, Any]
    """The config of its runs, without the width of the cell, what is tuned and the seed."""
    size: int
    """The most parameters."""
    grid: Mapping[str, tuple[Any, ...]]
    """{path: values} that are tuned, every value with every other."""
    halved: bool
    """Whether settings are pruned on the way; not where the rate itself is still on its way at a rung."""
    steps_cost: float
    """Time steps of one run, forward and backward, in units of those of an LSTM of the same size."""
    timed: bool = False
    """Whether its runs are there for the step to solved alone: they are validated more often and end at it, and the
    setting is chosen that is solved first with every seed."""
    after: tuple[str, ...] = ()
    """The names of entries of which no seed must have failed for this one to be trained."""
    data_dir: str | None = None
    """The data folder, from which tasks with files know how wide their inputs are."""

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """The config of its runs, without what is tuned and the seed."""
        return set_fields(
            self.without_width, {"model.cell.features": width_for(self.without_width, self.size, self.data_dir)}
        )

    def run_by(self, backend: str, data_dir: str | None = None) -> "Entry":
        """The same entry, whose layers run by a backend (`model.recurrence.backend`), with the files of a folder."""
        config = set_fields(self.without_width, {"model.recurrence.backend": backend}, complete=False)
        return dataclasses.replace(self, without_width=config, data_dir=data_dir)

    @property
    def name(self) -> str:
        """The entry's place below a folder: "cells/adding_200/lstm"."""
        return f"{self.part}/{self.task}/{self.method}"

    def tuning(self) -> dict[str, Any]:
        """The sweep that chooses; `SweepOptions` has its fields."""
        first = max(self.without_width["eval_every"], round(FIRST_RUNG * self.without_width["steps"]))
        halving = {"halving": {"first": first, "eta": ETA, "metric": self.metric}} if self.halved else {}
        return {"base": self.config, "product": self.grid, "seeds": TUNING_SEEDS, "overrides": self._ends(), **halving}

    def final(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """The sweep that counts. chosen: {path: value} of the grid."""
        return {"base": self.config, "overrides": {**chosen, **self._ends()}, "seeds": SEEDS}

    def _ends(self) -> dict[str, Any]:
        """{path: value} by which the runs end when their task is solved, if they are to."""
        if not self.timed:
            return {}
        often = max(1, self.without_width["steps"] // TIMED_EVALUATIONS)
        return {"early_stopping.when_solved": True, "eval_every": often}

    @property
    def metric(self) -> str:
        """The metric of the validation by which settings are compared, and the best checkpoint is taken."""
        return self.without_width["early_stopping"]["metric"]

    @property
    def runs_cost(self) -> float:
        """All of its runs: in units of one run."""
        settings = math.prod(map(len, self.grid.values()))
        share = halving_share(settings) if self.halved else 1.0
        return len(SEEDS) + len(TUNING_SEEDS) * share * settings


def halving_share(settings: int) -> float:
    """The share of their steps that so many settings train for, with successive halving."""
    if settings == 1:
        return 1.0
    done, step, left, total = 0.0, FIRST_RUNG, settings, 0.0
    while left > 1 and step < 1:
        total += left * (step - done)
        done, left, step = step, max(1, left // ETA), step * ETA
    return (total + left * (1 - done)) / settings


def make_config(task: StudyTask, cell: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """The config of a cell on a task, without the cell's width.

    Args:
        cell: a section without its width; "horizon" in it stands for the task's.
        more: {path: value} with "__" for dots.
    """
    section = {key: task.horizon if value == "horizon" else value for key, value in cell.items()}
    held = HELD.get(task.section["name"], {"validation_size": 400, "test_size": 2000})
    recurrent = dict(groups=dict(recurrent=dict(learning_rate_factor=0.1)))
    config = dict(
        task={**held, **task.section},
        model=dict(cell=section, layers=2 if cell["name"] in TWO_LAYERS else 1),
        optimizer=ADAM | dict(learning_rate=RATES[0]) | (recurrent if cell["name"] in SLOW_RECURRENT else {}),
        steps=task.steps,
        batch_size=task.batch_size,
        eval_every=max(1, task.steps // EVALUATIONS),
        log_every=max(1, task.steps // EVALUATIONS),
        checkpoint_every=10 * task.steps,
        early_stopping=dict(metric=task.metric),
    )
    return set_fields(config, {path.replace("__", "."): value for path, value in more.items()}, complete=False)


def width_for(config: Mapping[str, Any], size: int, data_dir: str | None = None) -> int:
    """The largest even number of units with which a network has at most `size` parameters."""
    task = _task(config, data_dir)
    model = {key: value for key, value in config["model"].items() if key != "cell"}
    cell = {key: value for key, value in config["model"]["cell"].items() if not isinstance(value, float)}
    key = json.dumps([model, cell, task.in_features, task.out_features, size], sort_keys=True)
    if key not in _WIDTHS:
        low, high = 1, 512
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if parameters(config, data_dir, 2 * middle) <= size else (low, middle - 1)
        _WIDTHS[key] = 2 * low
    return _WIDTHS[key]


def parameters(config: Mapping[str, Any], data_dir: str | None = None, features: int | None = None) -> int:
    """How many numbers of a network are trained. features: in place of the config's."""
    widths = {} if features is None else {"model.cell.features": features}
    section = resolve_config(set_fields(config, widths))
    structure = Structure(
        _task(config, data_dir), model=section["model"], optimizer=section["optimizer"], run_steps=section["steps"]
    )
    network = nnx.eval_shape(lambda: structure.initial_network(structure.numbers, jnp.int32(0)))
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.Param)))


_WIDTHS: dict[str, int] = {}
_TASKS: dict[str, Any] = {}


def _task(config: Mapping[str, Any], data_dir: str | None) -> Task:
    """The task of a config; its files are read once."""
    key = json.dumps([config["task"], data_dir], sort_keys=True)
    if key not in _TASKS:
        _TASKS[key] = make_task(resolve_config(set_fields(config, {"model.cell.features": 2}))["task"], data_dir)
    return _TASKS[key]


# --- the parts -------------------------------------------------------------------------------------------------------


@functools.cache
def _costs() -> dict[str, float]:
    """The cost of a step of each cell over the LSTM's, as docs/cells.md has it; its widths are equal, ours are not."""
    cells = read_json(Path(__file__).parents[2] / "docs/results/cells.json", "take it from the project", {"cells": {}})[
        "cells"
    ]
    return {name: cell.get("cost") or 1.0 for name, cell in cells.items()}


def _entry(part: str, task: str, method: str, config: dict[str, Any], size: str, **grid: tuple[Any, ...]) -> Entry:
    paths = {path.replace("__", "."): values for path, values in grid.items()}
    length = config["task"].get("length") or 28
    cost = _costs()[config["model"]["cell"]["name"]] * length * config["steps"] * config["batch_size"] / 32
    halved = (config["optimizer"].get("schedule") or "constant") == "constant"
    return Entry(part, task, method, config, SIZES[size], {RATE: RATES, **paths}, halved, cost)


def cells(size: str) -> Iterator[Entry]:
    """Every cell on every task, in the order of the tasks."""
    for task_name, task in TASKS.items():
        for name, cell in CELLS.items():
            yield _entry("cells", task_name, name, make_config(task, cell), size)


def cures(size: str) -> Iterator[Entry]:
    """Every cure on the task that it is for and on one that it is not for, for each of its cells; and before them the
    cells without any, tuned over as many settings."""
    for task_name in dict.fromkeys(cure.meant_for for cure in CURES.values()):
        for cell in dict.fromkeys(cell for cure in CURES.values() for cell in cure.cells):
            config = make_config(CURE_TASKS[task_name], CELLS[cell])
            yield _entry("cures", task_name, cell, config, size, **{RATE.replace(".", "__"): FINE_RATES})
    for beside in (0, 1):
        for name, cure in CURES.items():
            for task_name in cure.tasks[beside : beside + 1]:
                for cell in cure.cells:
                    yield _cured(task_name, cell, name, size)


def _cured(task_name: str, cell: str, name: str, size: str) -> Entry:
    """The entry of a cure."""
    cure, grid = CURES[name], {}
    config = set_fields(make_config(CURE_TASKS[task_name], CELLS[cell]), cure.more, complete=False)
    if len(cure.strengths) == 1:
        config = set_fields(config, {cure.path: cure.strengths[0]}, complete=False)
    else:
        grid = {cure.path.replace(".", "__"): cure.strengths}
    return _entry("cures", task_name, f"{cell}+{name}", config, size, **grid)


def initialisation(size: str) -> Iterator[Entry]:
    """Gains around the edge of chaos, by length: does what is measured before training say what training will find?"""
    for length in (50, 100, 200):
        task = dataclasses.replace(TASKS["adding_200"], section=dict(name="adding", length=length), horizon=length)
        for name, (cell, path, values) in GAINS.items():
            for value in values:
                config = make_config(task, cell, **{path: value})
                yield _entry("initialisation", f"adding_{length}", f"{name}_{value:g}", config, size)


def lengths(size: str) -> Iterator[Entry]:
    """How the time to solve grows with the length; a cell that fails one is not trained at longer ones."""
    for place, length in enumerate(LENGTHS):
        task = dataclasses.replace(TASKS["adding_200"], section=dict(name="adding", length=length), horizon=length)
        for name in ("lem", "gru_chrono", "lstm_chrono", "irnn", "exprnn"):
            entry = _entry("lengths", f"adding_{length}", name, make_config(task, CELLS[name]), size)
            after = tuple(f"lengths/adding_{shorter}/{name}" for shorter in LENGTHS[:place])
            # Not halved: at a rung all may be on the plateau that the first to leave is asked for.
            yield dataclasses.replace(entry, grid={RATE: LENGTH_RATES}, halved=False, timed=True, after=after)


PARTS: dict[str, Callable[[str], Iterator[Entry]]] = {
    "cells": cells,
    "cures": cures,
    "initialisation": initialisation,
    "lengths": lengths,
}


def entries(part: str, size: str = "small", only: str = "") -> list[Entry]:
    """The entries of a part, in the order in which they are trained.

    Args:
        only: patterns of names "TASK/METHOD", with commas between; all if empty.

    Raises:
        ConfigError: a pattern that no entry has.
    """
    every = list(PARTS[part](size))
    if not only:
        return every
    chosen: list[Entry] = []
    for pattern in only.split(","):
        matches = [e for e in every if fnmatch.fnmatch(f"{e.task}/{e.method}", pattern)]
        if not matches:
            raise ConfigError(f"--only: {unknown('entry', pattern, [f'{e.task}/{e.method}' for e in every])}")
        chosen += (e for e in matches if e not in chosen)
    return sorted(chosen, key=every.index)
