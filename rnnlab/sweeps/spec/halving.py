"""Successive halving: which settings of a sweep go on past a rung, decided from the runs' own files, over all groups.

Training to a rung is `group_run.py`'s and `training/loop.py`'s, the order of rounds `runner.py`'s.
"""

import contextlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rnnlab.config.errors import ConfigError, unknown
from rnnlab.files import check_objects, read_json, whole_file, write_text
from rnnlab.files.locks import alone
from rnnlab.records.folders import SweepDir
from rnnlab.records.metrics import read_metrics
from rnnlab.records.workdir import is_done, read_summary
from rnnlab.sweeps.spec.groups import Group
from rnnlab.sweeps.spec.question import larger_is_better, watched_metric
from rnnlab.sweeps.spec.space import Setting, axis_paths, axis_value
from rnnlab.sweeps.statistics import aggregate, number, ranked


class Halving:
    """The rungs of a sweep, and who has been pruned at them.

    A setting's score at a rung is the mean over its seeds of the best value that the metric had until then, in the
    curriculum's present stage; a diverged run counts as the worst value that any other run of the rung has. The
    best max(1, ⌊n / eta⌋) of n settings go on, with all their seeds; among equals those with fewer diverged runs, then
    the first ones. A decision stands in WORKDIR/rungs/0.json, …, and is not made again.

    Args:
        section: of `sections.HalvingOptions`.
        settings: of the whole sweep, under the names that they keep.
        workdir: of the sweep.

    Raises:
        ConfigError: rungs that these settings cannot have, settings that cannot be compared, or decisions on other
            ones.
    """

    def __init__(self, section: Mapping[str, Any], settings: Sequence[Setting], workdir: Path):
        self.first, self.eta, metric = section["first"], section["eta"], section["metric"]
        self.settings, self.workdir = settings, workdir
        paths = axis_paths(settings)
        self.axes = {s.name: {path: axis_value(s, path) for path in paths} for s in settings}
        self.paths = paths[:-1]
        self.metric = metric or watched_metric(settings, "halving.metric: name one")
        self.sign = 1.0 if self.metric in larger_is_better() else -1.0
        _check(self.first, settings)
        self.counts = [len({repr([axes[path] for path in self.paths]) for axes in self.axes.values()})]
        self.rungs: list[int] = []
        """The steps at which it is decided who goes on; none where one setting is left."""
        step = self.first
        while self.counts[-1] > 1 and step < max(s.config["steps"] for s in settings):
            self.rungs.append(step)
            self.counts.append(max(1, self.counts[-1] // self.eta))
            step *= self.eta
        self.pruned()

    def described(self) -> str:
        """For people: "halving at steps 500, 1500: 9 settings, then 3, then 1"."""
        counts = ", then ".join(map(str, self.counts))
        return f"halving at step{'s'[: len(self.rungs) > 1]} {', '.join(map(str, self.rungs))}: {counts} settings"

    def pruned(self, below: int | None = None) -> dict[str, int]:
        """{name: step} of the runs that end at a rung, by what has been decided; below: at those before this one."""
        ends: dict[str, int] = {}
        for index, step in enumerate(self.rungs[:below]):
            decision = self._read(index, {s.name for s in self.settings if s.name not in ends})
            if decision is None:
                break
            over = (setting for setting in decision["settings"] if not setting["goes_on"])
            ends |= {name: step for setting in over for name in setting["runs"]}
        return ends

    def decide(self, index: int, groups: Mapping[str, Group]) -> str | None:
        """Decides a rung, or learns what another process has decided.

        Args:
            index: of the rung.
            groups: all of the sweep.

        Returns:
            For people, what was decided; None where runs have not come to the rung yet.

        Raises:
            ConfigError: a metric that the runs do not have.
        """
        step, pruned = self.rungs[index], self.pruned(index)
        runs = [s for s in self.settings if s.name not in pruned]
        with alone(SweepDir(self.workdir).rungs_lock):
            decision = self._read(index, {s.name for s in runs})
            if decision is None:
                if any(left_before(self.workdir, name, group, step) for name, group in groups.items()):
                    return None
                decision = self._decided(step, runs)
                with whole_file(SweepDir(self.workdir).rung(index)) as file:
                    file.write((json.dumps(decision, indent=1) + "\n").encode())
        on = [setting["score"] for setting in decision["settings"] if setting["goes_on"]]
        words = f"step {step}: {len(on)} of {len(decision['settings'])} settings go on, {self.metric}"
        return f"{words} {on[0]:.4g} to {on[-1]:.4g}" if None not in on else words

    def _decided(self, step: int, runs: Iterable[Setting]) -> dict[str, Any]:
        """The content of the file of a rung."""
        rows = [self._row(setting, step) for setting in runs]
        results = aggregate(rows, self.paths, "score", self.sign)
        order = ranked(results.settings, self.sign)
        count = max(1, len(order) // self.eta)
        settings = [
            {
                "runs": [row["name"] for row in result.rows],
                "score": result.score if math.isfinite(result.score) else None,
                "diverged": result.diverged,
                "goes_on": rank < count,
            }
            for rank, result in enumerate(order)
        ]
        return {"step": step, "eta": self.eta, "metric": self.metric, "settings": settings}

    def _row(self, setting: Setting, step: int) -> dict[str, Any]:
        """A run at a rung, as `statistics.aggregate` wants it."""
        folder = SweepDir(self.workdir).run(setting.name)
        lines = [each for each in read_metrics(folder) if each["split"] == "validation" and each["step"] <= step]
        if lines and self.metric not in lines[-1]:
            metrics = [name for name in lines[-1] if name not in ("step", "split", "seconds")]
            raise ConfigError(f"halving.metric: {unknown('metric', self.metric, metrics)}")
        if setting.config["curriculum"] is not None:
            field = setting.config["curriculum"]["field"]
            lines = [each for each in lines if each[field] == lines[-1][field]]
        values = [number(each[self.metric], math.nan) for each in lines]
        finite = [value for value in values if math.isfinite(value)]
        summary = read_summary(folder) or {}
        diverged = summary.get("status") == "diverged" and summary["steps"] < step
        return {
            "name": setting.name,
            "status": "diverged" if diverged else "finished",
            "axes": self.axes[setting.name],
            "score": max(finite, key=lambda value: self.sign * value) if finite else math.nan,
        }

    def _read(self, index: int, names: set[str]) -> dict[str, Any] | None:
        """The decision at a rung; names: those of the runs that came to it."""
        path = SweepDir(self.workdir).rung(index)
        if not path.exists():
            return None
        remedy = "remove it, and it is decided again from what the runs have left"
        decision = read_json(path, remedy, {"step": int, "eta": int, "metric": str, "settings": list})
        fields = {"runs": list, "score": (float, type(None)), "goes_on": bool}
        check_objects(path, decision["settings"], fields, remedy, "settings")
        of = {str(name) for setting in decision["settings"] for name in setting["runs"]}
        same = (decision["step"], decision["eta"], decision["metric"]) == (self.rungs[index], self.eta, self.metric)
        if of != names or not same:
            what = "halving" if of == names else "the runs"
            raise ConfigError(
                f"{path} says who goes on, and {what} of the sweep changed since; take another --workdir, or change "
                "the file back"
            )
        return decision


def left_before(workdir: Path, name: str, group: Group, step: int | None) -> list[Setting]:
    """The settings of a group whose runs are not over and have not come to a step either; None: to the end.

    Args:
        name: of the group.
    """
    left = [s for s in group.settings if not is_done(SweepDir(workdir).run(s.name))]
    if not left or step is None:
        return left
    come: set[str] = set()
    path = SweepDir(workdir).group(name).reached
    if path.exists():
        # Damaged, it is as if it were not there: the group is taken up at its checkpoint, and the file written again.
        with contextlib.suppress(ConfigError):
            reached = read_json(path, "", {"step": int, "runs": list})
            come = set(map(str, reached["runs"])) if reached["step"] >= step else set()
    return [setting for setting in left if setting.name not in come]


def mark_reached(workdir: Path, name: str, group: Group, step: int) -> None:
    """Notes that all runs of a group that are not over have come to a step, and their checkpoints are on the disk."""
    reached = {"step": step, "runs": [setting.name for setting in group.settings]}
    write_text(SweepDir(workdir).group(name).reached, json.dumps(reached) + "\n")


def _check(first: int, settings: Sequence[Setting]) -> None:
    """The first rung lies within every run and after its first evaluation, and at a rung all are in the same stage."""
    curriculum = settings[0].config["curriculum"]
    for setting in settings:
        config = setting.config
        if first >= config["steps"]:
            raise ConfigError(f"halving.first: {first} is not below steps={config['steps']} of run {setting.name}")
        if first < config["eval_every"]:
            raise ConfigError(
                f"halving.first: at step {first} run {setting.name} has not been evaluated: "
                f"eval_every={config['eval_every']}"
            )
        if config["curriculum"] != curriculum or (curriculum or {}).get("metric") is not None:
            raise ConfigError(
                f"halving: run {setting.name} has a curriculum of its own, so runs at one rung could be in stages that "
                "do not compare; give all runs the same one, with steps instead of a metric"
            )
