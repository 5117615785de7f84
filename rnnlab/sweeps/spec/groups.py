"""Settings -> groups, each of which is one compiled program over a replica axis, or a run by itself.

`rnnlab.training.programs` says what the program computes, `run_config.traced_numbers` which fields are numbers.
"""

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rnnlab.records.run_config import TRACED_SECTIONS, traced_numbers, without_trackers
from rnnlab.sweeps.spec.space import Setting


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that are trained together."""

    settings: tuple[Setting, ...]
    alone: str | None = None
    """Why its run, there is but one, is trained as by `rnnlab.train`; None: they are replicas of one program."""


def split_groups(settings: Sequence[Setting], at_most: int | None = None) -> list[Group]:
    """Groups of the same compiled structure, in the order of their first settings.

    Args:
        at_most: replicas in a group; a larger one becomes several of about the same size.
    """
    by_structure: dict[str, list[Setting]] = {}
    for setting in settings:
        reason = not_replicable(setting.config)
        # A run by itself has a group by itself: several processes share them out.
        by_structure.setdefault(structure(setting.config) if reason is None else setting.key, []).append(setting)
    groups = []
    for members in by_structure.values():
        parts = 1 if at_most is None else math.ceil(len(members) / at_most)
        bounds = [round(i * len(members) / parts) for i in range(parts + 1)]
        for low, high in itertools.pairwise(bounds):
            part = tuple(members[low:high])
            alone = not_replicable(part[0].config) or (None if len(part) > 1 else "no other run has its program")
            groups.append(Group(part, alone))
    return groups


def structure(config: Mapping[str, Any]) -> str:
    """A text that is the same for configs which differ in nothing but the seed, trackers and traced numbers."""
    counted = without_trackers(config)
    rest = {key: value for key, value in counted.items() if key != "seed" and key not in TRACED_SECTIONS}
    traced, _ = traced_numbers(config)
    return json.dumps([rest, traced], sort_keys=True, default=lambda number: {"number": ""})


def not_replicable(config: Mapping[str, Any]) -> str | None:
    """Why runs of a config cannot share a program with others, in words; None where they can."""
    if config["curriculum"] is not None:
        return "curriculum: each run changes its task when its own metric says so"
    if config["flight_recorder"] is not None:
        return "flight_recorder: the program stops at each run's own spikes"
    if config["diagnostics"]:
        return "diagnostics: measured run by run"
    if config["model"]["embedding_file"] is not None:
        return "model.embedding_file: words that it lacks are drawn for each run on the host"
    if ((config["model"]["softmax"] or {}).get("split") or 1) > 1:
        return "model.softmax.split: all devices share one network"
    if config["task"].get("on_device") is False:
        return "task.on_device: the host reads each run's batches"
    return None
