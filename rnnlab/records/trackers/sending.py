"""Sends the numbers of a run to its trackers, each line once, whatever becomes of run, tool and network.

WORKDIR/trackers.json remembers, for each tracker, the run's id in the tool, the last step of each split that was sent,
and the status that the tool was told, None while the run trains. A tracker that fails is asked no more; the run goes
on, and the lines that the tracker lacks are in metrics.jsonl: the run's command sends them first when it is started
again, also where the run is over.
"""

import copy
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rnnlab.config.errors import ConfigError
from rnnlab.files import is_number, read_json, write_text
from rnnlab.files.output import complain
from rnnlab.records.folders import SweepDir
from rnnlab.records.provenance import git_commit
from rnnlab.records.trackers import RunIdentity, Tracker, make_trackers
from rnnlab.records.workdir import Workdir


class Sending:
    """The trackers of one run.

    Args:
        config: resolved.
        workdir: of the run.

    Raises:
        ConfigError: the package of a tracker is not installed.
    """

    def __init__(self, config: Mapping[str, Any], workdir: Path):
        self.workdir, self.config = workdir, config
        self._made = make_trackers(config)
        self._working: dict[str, Tracker] = {}
        self._memory: dict[str, dict[str, Any]] = {}

    def start(self) -> None:
        """Begins in each tool, or goes on there; the workdir is there."""
        if self._made:
            self._memory, run = self._read(), _identity(self.config, self.workdir)
            self._working, self._made = self._made, {}
            for name, tracker in list(self._working.items()):
                self._ask(name, self._start, tracker, run)

    def _start(self, name: str, tracker: Tracker, run: RunIdentity) -> None:
        memory = self._memory.setdefault(name, {"id": None, "sent": {}, "status": None})
        answer = tracker.start(dataclasses.replace(run, id=memory["id"], config=copy.deepcopy(run.config)))
        if not isinstance(answer, str | None):
            raise TypeError(f"its start answers {answer!r}, not the text of an id or None")
        memory["id"] = answer
        memory["status"] = None
        self._write()

    def line(self, line: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl."""
        values = {name: float(value) for name, value in line.items() if name not in ("step", "split")}
        self._send(line["step"], line["split"], values)

    def observation(self, line: Mapping[str, Any]) -> None:
        """The scalars in a line of diagnostics.jsonl."""
        diagnostics = {name: section for name, section in line.items() if isinstance(section, Mapping)}
        values = {
            f"{diagnostic}/{name}": float(value)
            for diagnostic, section in diagnostics.items()
            for name, value in section.items()
            if is_number(value)
        }
        self._send(line["step"], "diagnostics", values)

    def _send(self, step: int, split: str, values: Mapping[str, float]) -> None:
        for name, tracker in list(self._working.items()):
            if step > self._memory[name]["sent"].get(split, -1):
                self._ask(name, self._scalars, tracker, step, split, values)

    def _scalars(self, name: str, tracker: Tracker, step: int, split: str, values: Mapping[str, float]) -> None:
        tracker.scalars(step, split, dict(values))  # A copy: what one tracker changes is not what the next gets.
        self._memory[name]["sent"][split] = step
        self._write()

    def figures(self, step: int, paths: Sequence[Path]) -> None:
        """The figures of a run that stops."""
        for name, tracker in list(self._working.items()):
            self._ask(name, lambda _, tracker: tracker.figures(step, paths), tracker)

    def finish(self, status: str, summary: Mapping[str, Any] = {}) -> None:
        """The run stops, with this status; nothing where it has stopped already."""
        for name, tracker in list(self._working.items()):
            self._ask(name, self._finish, tracker, status, summary)
        self._working = {}

    def _finish(self, name: str, tracker: Tracker, status: str, summary: Mapping[str, Any]) -> None:
        tracker.finish(status, copy.deepcopy(summary))
        self._memory[name]["status"] = status
        self._write()

    def drop_told(self, status: str) -> list[str]:
        """Before `start`: leaves out the trackers that were told this status; the names of the others."""
        memory = self._read()
        self._made = {name: each for name, each in self._made.items() if memory.get(name, {}).get("status") != status}
        return list(self._made)

    def _ask(self, name: str, act: Callable[..., None], *arguments: Any) -> None:
        """Calls act(name, ...); an exception ends the tracking, not the run."""
        try:
            act(name, *arguments)
        except Exception as error:  # Whatever a tool, the network or a module of the user's raises.
            del self._working[name]
            words = " ".join([type(error).__name__, *str(error).split()])
            complain(
                f"warning: {self.workdir}: {name} gets nothing more ({words[:_LONGEST]}); the run goes on, and its "
                "command sends the rest when it is started again"
            )

    # --- trackers.json -----------------------------------------------------------------------------------------------

    def _read(self) -> dict[str, dict[str, Any]]:
        path = Workdir(self.workdir).trackers
        if not path.exists():
            return {}
        try:
            content = read_json(path, "remove it: the trackers begin new runs", {})
            for memory in content.values():
                sound = isinstance(memory, dict) and isinstance(memory.get("sent"), dict) and "id" in memory
                if not sound or not all(isinstance(step, int) for step in memory["sent"].values()):
                    raise ConfigError(f"{path} is damaged")
        except ConfigError as error:
            complain(f"warning: {error}; the trackers begin new runs")
            return {}
        return content

    def _write(self) -> None:
        write_text(Workdir(self.workdir).trackers, json.dumps(self._memory, indent=1) + "\n")


_LONGEST = 300
"""Characters of an exception's text that a warning shows."""


def _identity(config: Mapping[str, Any], workdir: Path) -> RunIdentity:
    """The identity of a run, for its trackers."""
    options, folder = config["tracking"], workdir.absolute()
    sweep = SweepDir.of_run(folder)
    if sweep is None:
        name, group = options["name"] or folder.name, options["group"]
    else:
        name, group = f"{options['name'] or sweep.folder.name}/{folder.name}", options["group"] or sweep.folder.name
    return RunIdentity(
        workdir=folder,
        project=options["project"],
        name=name,
        group=group,
        tags=options["tags"],
        config=config,
        git_commit=git_commit(),
        in_sweep=sweep is not None,
    )
