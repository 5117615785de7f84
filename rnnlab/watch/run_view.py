"""A run as its page is sent it: a head, where that has changed, and those of its numbers that are new."""

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rnnlab.plots.run_page import summary_rows
from rnnlab.records.folders import SweepDir
from rnnlab.records.workdir import DONE, Workdir
from rnnlab.watch.facts import config_rows, facts_of
from rnnlab.watch.panels import panels_of
from rnnlab.watch.run_files import BUCKETS, RunFiles, Ticks
from rnnlab.watch.status import Status, modified, owner_of, read_object, status_of


class Changing:
    """An object in a file of JSON that is written anew now and then; the last whole one stands until the next."""

    def __init__(self, path: Path):
        self.path = path
        self.content: dict[str, Any] | None = None
        self._modified: tuple[int, int] | None = None

    def read(self) -> dict[str, Any] | None:
        """The content of the file now; None where there is none."""
        now = modified(self.path)
        if now is None:
            self.content = None
        elif now != self._modified and (content := read_object(self.path)) is not None:
            self.content = content
        else:
            return self.content
        self._modified = now
        return self.content


class RunView:
    """A run in its folder, as a page sees it.

    Args:
        folder: the run's.
        ticks: counts what is new.
        buckets: of a curve.
        details: whether diagnostics are read, too.
        locks: further lock files of whoever trains it: of a sweep's run that of its group.
    """

    def __init__(
        self, folder: Path, ticks: Ticks, buckets: int = BUCKETS, details: bool = True, locks: tuple[Path, ...] = ()
    ):
        self.folder, self.ticks = folder, ticks
        self.files = RunFiles(folder, ticks, buckets, details)
        self._locks = (Workdir(folder).lock, *locks)
        self._config, self._summary = Changing(Workdir(folder).config), Changing(Workdir(folder).summary)

    @property
    def config(self) -> dict[str, Any]:
        """The run's config, as it stands in its file; empty before that is there."""
        return self._config.content or {}

    @property
    def summary(self) -> dict[str, Any]:
        """summary.json; empty before the run is over or left."""
        return self._summary.content or {}

    @property
    def more(self) -> bool:
        """Whether there are lines that were not read yet."""
        return self.files.more

    def read(self, deadline: float) -> None:
        """Takes in what is new, until nothing is or a moment of `time.monotonic` has come."""
        self._config.read()
        self._summary.read()
        self.files.read()
        while self.files.more and time.monotonic() < deadline:
            self.files.read()

    def status(self) -> Status:
        """How the run is doing."""
        ends = self._summary.content
        owner = None if ends is not None and ends.get("status") in DONE else owner_of(*self._locks)
        return status_of(ends, owner, self.files.changed, self.files.gap, self._config.content is not None)

    def progress(self) -> dict[str, Any]:
        """Steps, of how many, steps per second, seconds of training, and those left if it makes all its steps."""
        files, rate = self.files, self.files.rate
        total, step = (_count(each.get("steps")) for each in (self.config, self.summary))
        step = step or files.step
        left = (total - step) / rate if rate and total is not None else None
        return {"step": step, "steps": total, "rate": rate, "seconds": files.seconds, "left": left}

    def answer(self, since: int, head: str) -> dict[str, Any]:
        """All that is new after a tick; the head, if its hash is another than `head`."""
        status, files = self.status(), self.files
        content = self._head()
        text = json.dumps(content)
        now = hashlib.sha256(text.encode()).hexdigest()[:16]
        answer: dict[str, Any] = {
            "kind": "run",
            "tick": self.ticks.now,
            "more": files.more,
            "share": round(files.share, 3),
            "status": status._asdict(),
            "progress": self.progress(),
            "problems": files.problems,
            "curves": {name: new for name, curve in files.curves.items() if (new := curve.since(since)) is not None},
            "maps": {name: new for name, heat in files.maps.items() if (new := heat.since(since)) is not None},
        }
        return answer | ({"head": content, "hash": now} if now != head else {"hash": now})

    def _head(self) -> dict[str, Any]:
        config = self.config
        names = [_name_of(config, section) for section in (("task",), ("model", "cell"))]
        panels = panels_of(self.files.curves, self.files.maps, config, facts_of(config.get("task"))) if config else []
        return {
            "title": self.folder.absolute().name,
            "subtitle": ", ".join(name for name in names if name),
            "folder": str(self.folder),
            "config": config_rows(config) if config else [],
            "text": json.dumps(config, indent=2, ensure_ascii=False) if config else "",
            "summary": _rows_of(self.summary),
            "panels": panels,
        }


def _count(value: Any) -> int | None:
    return value if type(value) is int else None


def _rows_of(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """As report.html has them; none of a summary that is of another make."""
    try:
        return summary_rows(summary) if summary else []
    except (LookupError, TypeError, ValueError, AttributeError):
        return []


def _name_of(config: Mapping[str, Any], path: tuple[str, ...]) -> str:
    section: Any = config
    for part in path:
        section = section.get(part) if isinstance(section, Mapping) else None
    return str(section.get("name", "")) if isinstance(section, Mapping) else ""


def locks_of_group(run: Path) -> tuple[Path, ...]:
    """The lock file of the group that a sweep's run is trained in, if it is one of a sweep."""
    sweep = SweepDir.of_run(run)
    if sweep is None:
        return ()
    groups = members_of(read_object(sweep.manifest) or {})
    return tuple(sweep.group(name).lock for name, members in groups.items() if run.absolute().name in members)


def members_of(manifest: Mapping[str, Any]) -> dict[str, list[str]]:
    """The runs of every group that sweep.json names."""
    groups = manifest.get("groups")
    groups = groups if isinstance(groups, dict) else {}
    return {
        name: [member for member in group["runs"] if isinstance(member, str)]
        for name, group in groups.items()
        if name.isdecimal() and isinstance(group, dict) and isinstance(group.get("runs"), list)
    }
