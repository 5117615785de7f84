"""A sweep as its page is sent it: a row for each run, where it has changed, and the runs' curves of one metric."""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

from rnnlab.records.folders import SweepDir
from rnnlab.records.workdir import DONE
from rnnlab.watch.curves import Curve
from rnnlab.watch.facts import facts_of
from rnnlab.watch.run_files import Ticks
from rnnlab.watch.run_view import Changing, RunView, members_of

BUCKETS = 256
"""The size of a curve beside many others."""
RESTING_SECONDS = 20.0
"""A run that is over is looked at so often."""


class _Row:
    """A run of the sweep: its view, its row, and since which tick that is so."""

    def __init__(self, view: RunView):
        self.view = view
        self.content: dict[str, Any] = {}
        self.text, self.tick, self.rests_until = "", 0, 0.0


class SweepView:
    """A sweep in its folder, as a page sees it."""

    def __init__(self, folder: Path, ticks: Ticks):
        self.folder, self.ticks, self.files = folder, ticks, SweepDir(folder)
        self._manifest = Changing(self.files.manifest)
        self._seen: dict[str, Any] | None = None
        self._rows: dict[str, _Row] = {}
        self._next = 0
        self._listed: dict[str, dict[str, Any]] = {}
        self._groups: dict[str, str] = {}

    @property
    def more(self) -> bool:
        """Whether there are lines that were not read yet."""
        return any(not row.content or row.view.more for row in self._rows.values())

    def read(self, deadline: float) -> None:
        """Takes in what is new of all runs, until nothing is or a moment of `time.monotonic` has come."""
        manifest = self._manifest.read() or {}
        if manifest is not self._seen:
            self._seen = manifest
            self._list(manifest)
        rows = list(self._rows.items())
        for name, row in rows[self._next :] + rows[: self._next]:  # From where the last look had to stop.
            now = time.monotonic()
            if now > deadline:
                break
            self._next = (self._next + 1) % len(rows)
            if now < row.rests_until:
                continue
            row.view.read(deadline)
            content = self._content(name, row.view)
            text = json.dumps(content)
            if text != row.text:
                row.content, row.text, row.tick = content, text, self.ticks.next()
            if content["status"] in DONE and not row.view.files.more:
                row.rests_until = now + RESTING_SECONDS

    def _list(self, manifest: dict[str, Any]) -> None:
        """The runs that sweep.json names; a name is a number, so that no path leads out of the folder."""
        runs = manifest.get("runs")
        runs = [run for run in runs if isinstance(run, dict)] if isinstance(runs, list) else []
        runs = [run for run in runs if isinstance(run.get("axes"), dict) and isinstance(run.get("name"), str)]
        self._listed = {run["name"]: run for run in runs if run["name"].isdecimal()}
        groups = members_of(manifest)
        self._groups = {member: name for name, members in groups.items() for member in members}
        self._rows = {name: row for name, row in self._rows.items() if name in self._listed}
        self._next = 0
        for name in self._listed:
            if name not in self._rows:
                self._rows[name] = _Row(RunView(self.files.run(name), self.ticks, BUCKETS, False, self.locks(name)))

    def locks(self, name: str) -> tuple[Path, ...]:
        """The lock file of the group that trains a run."""
        return (self.files.group(self._groups[name]).lock,) if name in self._groups else ()

    def folder_of(self, name: str) -> Path | None:
        """The folder of a run by its name; None where the sweep has no such run."""
        return self.files.run(name) if name in self._listed else None

    def _content(self, name: str, view: RunView) -> dict[str, Any]:
        run, progress = self._listed[name], view.progress()
        curves = view.files.curves
        return {
            "name": name,
            "group": self._groups.get(name, ""),
            "in_sweep": run.get("in_sweep", True),
            "status": view.status().word,
            "axes": run["axes"],
            "step": progress["step"],
            "steps": progress["steps"],
            "seconds": round(progress["seconds"], 1),
            "last": {metric: _number(curve.last) for metric, curve in curves.items()},
            "best": {metric: self._best(metric, curve) for metric, curve in curves.items()},
        }

    def _best(self, metric: str, curve: Curve) -> float | str | None:
        return _number(curve.highest if metric.partition("/")[2] in self._larger() else curve.lowest)

    def _larger(self) -> frozenset[str]:
        config = (self._manifest.content or {}).get("config")
        return facts_of(config.get("task")).larger_is_better if isinstance(config, dict) else frozenset()

    def answer(self, since: int, head: str, metric: str) -> dict[str, Any]:
        """All that is new after a tick: rows, and the curves of a metric, "SPLIT/NAME"; of the loss on validation where
        that is empty. The head, if its hash is another than `head`."""
        metrics = sorted({name for row in self._rows.values() for name in row.view.files.curves})
        metric = metric if metric in metrics else "validation/loss"
        content = self._head(metrics)
        now = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
        behind = [row.view.files for row in self._rows.values()]
        curves = {}
        for name, row in self._rows.items():
            curve = row.view.files.curves.get(metric)
            if curve is not None and (new := curve.since(since)) is not None:
                curves[name] = new
        answer: dict[str, Any] = {
            "kind": "sweep",
            "tick": self.ticks.now,
            "metric": metric,
            "more": self.more,
            "share": round(sum(files.share for files in behind) / max(1, len(behind)), 3),
            "rows": [row.content for row in self._rows.values() if row.tick > since and row.content],
            "curves": curves,
        }
        return answer | ({"head": content, "hash": now} if now != head else {"hash": now})

    def _head(self, metrics: list[str]) -> dict[str, Any]:
        manifest = self._manifest.content or {}
        axes = list(dict.fromkeys(path for run in self._listed.values() for path in run["axes"]))
        config = manifest.get("config")
        larger, programs = self._larger(), len(set(self._groups.values()))
        return {
            "title": self.folder.absolute().name,
            "subtitle": f"{len(self._listed)} runs in {programs} compiled program{'s' if programs != 1 else ''}",
            "folder": str(self.folder),
            "axes": axes,
            "metrics": metrics,
            "larger": [metric for metric in metrics if metric.partition("/")[2] in larger],
            "baselines": facts_of(config.get("task")).baselines if isinstance(config, dict) else {},
        }


def _number(point: tuple[float, float] | None) -> float | str | None:
    """A value for JSON: not finite ones as words."""
    if point is None:
        return None
    value = float(f"{point[1]:.6g}")
    return value if abs(value) < float("inf") else str(value)
