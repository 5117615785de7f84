"""The lines that a page has about a run's config: a summary in a few lines, and the levels that its task has.

Only tasks of the project that draw their examples are made: data and code of others are left alone.
"""

import functools
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from rnnlab.config.errors import ConfigError
from rnnlab.config.fields import takes


class Facts(NamedTuple):
    """The levels of a task."""

    baselines: dict[str, float]
    """Split -> the loss of an answer that ignores the input."""
    solved: tuple[str, float] | None
    """(Metric, value) of a validation that counts as solved."""
    larger_is_better: frozenset[str]
    reads_every_step: bool
    """Whether each step has an answer of its own, so that the decay of the gradient says little of the recurrence."""


NOTHING = Facts({}, None, frozenset(), False)


def facts_of(task: Any) -> Facts:
    """Those of the task of a config, as JSON has it."""
    try:
        return _facts(json.dumps(task, sort_keys=True))
    except (TypeError, ValueError):
        return NOTHING


@functools.cache
def _facts(text: str) -> Facts:
    from rnnlab.tasks import TASKS, make_task

    section = json.loads(text)
    if not isinstance(section, dict) or not isinstance(section.get("name"), str) or section["name"] not in TASKS:
        return NOTHING
    factory = TASKS[section["name"]]
    try:
        reads = takes(factory, "data_dir")
        task: Any = factory if reads else make_task({k: _tuple(v) for k, v in section.items()})
    except ConfigError:  # The run is of another version of rnnlab.
        return NOTHING
    baselines = task.baselines if isinstance(task.baselines, Mapping) else {}
    solved = None if reads else task.solved
    levels = {split: float(value) for split, value in baselines.items()}
    return Facts(levels, solved, task.larger_is_better, task.readout == "every")


def _tuple(value: Any) -> Any:
    """JSON has lists where a config has tuples."""
    return tuple(value) if isinstance(value, list) else value


def config_rows(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(Name, text) of the parts of a config that a reader asks for first."""
    task, model, optimizer = (_section(config, name) for name in ("task", "model", "optimizer"))
    cell = _section(model, "cell")
    layers = [f"{model['layers']} layers"] if model.get("layers", 1) != 1 else []
    sizes = [f"{cell['features']} units"] if "features" in cell else []
    both = ["both directions"] if model.get("bidirectional") else []
    clips = [f"{name.replace('_', ' ')} {optimizer[name]:g}" for name in _CLIPS if _is_number(optimizer.get(name))]
    rate, diagnostics = optimizer.get("learning_rate"), config.get("diagnostics")
    rows = [
        ("task", [task.get("name"), *_plain(task)]),
        ("network", [cell.get("name"), *sizes, *layers, *both]),
        ("optimiser", [optimizer.get("name"), *([f"rate {rate:g}"] if _is_number(rate) else []), *clips]),
        ("batch", [config.get("batch_size")]),
        ("seed", [config.get("seed")]),
        ("diagnostics", diagnostics if isinstance(diagnostics, list) and diagnostics else ["none"]),
    ]
    return [(name, ", ".join(str(each) for each in parts if each is not None)) for name, parts in rows]


_CLIPS = ("clip_norm", "clip_value", "clip_layer_norm", "clip_adaptive")


def _plain(section: Mapping[str, Any]) -> list[str]:
    """The first few numbers and words of a section, without the sizes of its splits."""
    pairs = [(name, value) for name, value in section.items() if name not in _NOT_FIRST and not isinstance(value, bool)]
    return [f"{name.replace('_', ' ')} {value}" for name, value in pairs if isinstance(value, int | float | str)][:4]


_NOT_FIRST = ("name", "train_size", "validation_size", "test_size", "data_seed", "data_dir")


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = config.get(name)
    return section if isinstance(section, Mapping) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
