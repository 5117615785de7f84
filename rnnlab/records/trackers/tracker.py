"""The interface of a tracker, and what all of them share."""

import dataclasses
import importlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

from rnnlab.config.errors import ConfigError
from rnnlab.files import is_number


@dataclasses.dataclass(frozen=True)
class RunIdentity:
    """The identity of a run, for a tracker."""

    workdir: Path
    """Its folder, which is there."""
    project: str | None
    """The config's `tracking.project`."""
    name: str
    """The name of the run."""
    group: str | None
    """The group that it belongs to: the config's `tracking.group`; else, in a sweep, the name of the sweep's folder."""
    tags: tuple[str, ...]
    config: Mapping[str, Any]
    """The resolved config."""
    git_commit: str | None
    """The commit of the code that trains it."""
    in_sweep: bool
    """Whether it is one of a sweep."""
    id: str | None = None
    """The answer of `Tracker.start` when the run was last tracked; None: it is a new one."""


@runtime_checkable
class Tracker(Protocol):
    """Receives a run's numbers. It is made without arguments, before anything is compiled, and asked in this order:
    `start` once, `scalars` line by line, `figures` and `finish` once. After an exception it is asked no more."""

    def start(self, run: RunIdentity) -> str | None:
        """Begins, or goes on with `run.id`. The answer is the run's name in the tool, kept in the workdir."""
        ...

    def scalars(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """A line of metrics.jsonl: the split, `train`, `validation` or `test`, and its values, `seconds` among them; or
        the scalars of the diagnostics, with the split `diagnostics`. Each comes once, also of a run that resumes; steps
        do not always ascend: a test is of the best step."""
        ...

    def figures(self, step: int, paths: Sequence[Path]) -> None:
        """The PNG files of a run that stops."""
        ...

    def finish(self, status: str, summary: Mapping[str, Any]) -> None:
        """The run stops. status: that of summary.json, or `crashed`, with an empty summary, after an exception."""
        ...


def import_package(name: str, extra: str) -> ModuleType:
    """The package of a tool.

    Raises:
        ConfigError: it is not installed.
    """
    missing = f"trackers: {extra} is not installed: pip install 'rnnlab[{extra}]'"
    try:
        package = importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"{missing} ({error})") from None
    if package.__file__ is None:  # Only a folder of this name is there, as ./wandb, which the tool itself leaves.
        raise ConfigError(missing)
    return package


def flat(section: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested sections under their paths, as "model.cell.features"."""
    if not isinstance(section, Mapping):
        yield path, section
        return
    for key, value in section.items():
        yield from flat(value, f"{path}.{key}" if path else str(key))


def numbers(summary: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a summary under the names that they have in a sweep's runs.csv, as "best.validation.loss"."""
    left_out = ("steps", "seed", "versions")
    sections = {name: value for name, value in summary.items() if name not in left_out}
    return {path: float(value) for path, value in flat(sections) if is_number(value)}
