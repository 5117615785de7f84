"""Search: a sweep whose points Optuna asks for, batch by batch, from what the runs of those before have come to.

Which points there are stands in WORKDIR/optuna.json, and what they came to in their runs' own files; the study is built
from these each time, so nothing can be lost between the two. It is left in WORKDIR/optuna.journal for Optuna's tools.
"""

import contextlib
import importlib
import itertools
import json
import logging
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rnnlab.config.errors import ConfigError
from rnnlab.files import check_objects, read_json, whole_file
from rnnlab.files.locks import alone
from rnnlab.records.folders import SweepDir
from rnnlab.records.workdir import DONE, read_summary
from rnnlab.sweeps.spec.manifest import make_plan
from rnnlab.sweeps.spec.question import larger_is_better, watched_metric
from rnnlab.sweeps.spec.sections import check_range
from rnnlab.sweeps.spec.space import Setting, described, expand
from rnnlab.sweeps.statistics import Result, aggregate, number

_TRIES = 100
"""Points asked for that there are already, after which no more are expected."""


class Search:
    """The points of a sweep with the section `optuna`.

    A trial is a point; its value is the mean over the seeds of the best validation value of the metric that early
    stopping watches. A diverged run counts as the worst value of any other run; where all have diverged, trials fail.

    Args:
        sweep: what `space.load_sweep` returns.
        workdir: of the sweep.

    Raises:
        ConfigError: a mistake in the section, another space than the points in the workdir are of, or no Optuna.
    """

    def __init__(self, sweep: Mapping[str, Any], workdir: Path):
        self.section, self.workdir = sweep["optuna"], workdir
        others = [name for name in ("product", "zip", "draws", "runs", "baseline", "halving") if sweep[name]]
        if others:
            raise ConfigError(f"optuna: stands beside base, overrides and seeds only, not {', '.join(others)}")
        self.sweep = dict(sweep)
        self.seeds = sweep["seeds"] if isinstance(sweep["seeds"], int) else len(sweep["seeds"] or [None])
        self.space = {path: _checked(path, spec, sweep["overrides"]) for path, spec in self.section["of"].items()}
        if not self.space:
            raise ConfigError("optuna.of: empty; it says of each path what is searched")
        self.metric = watched_metric(self._expanded(_corners(self.space)), "optuna")
        self.sign = 1.0 if self.metric in larger_is_better() else -1.0
        try:
            self.optuna = importlib.import_module("optuna")
        except ImportError as error:
            raise ConfigError(f"a search needs optuna ({error}): pip install 'rnnlab[optuna]'") from None
        self.optuna.logging.set_verbosity(logging.WARNING)
        self._settings: list[Setting] = []
        self._read()

    @property
    def runs(self) -> int:
        """How many there will be."""
        return self.seeds * max(len(self.points), self.section["trials"])

    def described(self) -> str:
        """For people: what is searched, and how far it is."""
        trials, batch, sampler = (self.section[name] for name in ("trials", "batch", "sampler"))
        words = f"optuna: {trials} trials, {batch} at a time, by {sampler} over {', '.join(self.space)}"
        return f"{words}; {len(self.points)} points are known"

    def settings(self) -> list[Setting]:
        """The settings of the points so far."""
        if len(self._settings) != self.seeds * len(self.points):
            self._settings = self._expanded(self.points)
        return self._settings

    def left(self) -> bool:
        """Whether runs of these points are not over."""
        return any(summary.get("status") not in DONE for _, summary in self._summaries())

    def ask(self, say: Callable[[str], None]) -> bool:
        """Asks for the next batch where all runs are over; False where there is no more to train.

        Raises:
            ConfigError: a point that is not a config.
        """
        with alone(SweepDir(self.workdir).points_lock):
            self._read()  # Another process may have asked.
            if self.left():
                return True
            trials = self._trials()
            self._leave(trials)
            before = len(self.points)
            new = self._asked(trials, min(self.section["batch"], self.section["trials"] - before))
            best = self._best(trials)
            if not new:
                enough = before >= self.section["trials"]
                say(f"{best}{'' if enough else f'; none but these {before} points are proposed'}")
                return False
            self._expanded([*self.points, *new])
            with whole_file(SweepDir(self.workdir).points) as file:
                content = {"of": self.section["of"], "points": [*self.points, *new]}
                file.write((json.dumps(content, indent=1) + "\n").encode())
            self._read()
            say(f"{best}{'; ' if best else ''}trials {before} to {before + len(new) - 1} of {self.section['trials']}")
            return True

    # --- the workdir -------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        path = SweepDir(self.workdir).points
        self.points: list[dict[str, Any]] = []
        if not path.exists():
            return
        remedy = "restore it; without it the search would begin again"
        content = read_json(path, remedy, {"of": {}, "points": list})
        space, self.points = content["of"], content["points"]
        if space != json.loads(json.dumps(self.section["of"])):
            raise ConfigError(
                f"optuna.of: {path} has {len(self.points)} points of another space; take another --workdir, or change "
                "the file back"
            )
        check_objects(path, self.points, dict.fromkeys(space, object), remedy, "points")

    def _expanded(self, points: list[dict[str, Any]]) -> list[Setting]:
        return expand(self.sweep | {"runs": points, "optuna": None})

    def _summaries(self) -> list[tuple[Setting, Mapping[str, Any]]]:
        """Every run and what its summary.json says, point by point."""
        named = make_plan(self.workdir, self.settings()).settings
        return [(s, read_summary(SweepDir(self.workdir).run(s.name)) or {}) for s in named]

    # --- the study ---------------------------------------------------------------------------------------------------

    def _trials(self) -> list[Any]:
        """A trial of Optuna's for every point; all runs are over."""
        rows = [
            {
                "name": setting.name,
                "status": summary["status"],
                "axes": {"trial": index // self.seeds, "seed": setting.config["seed"]},
                "score": number(((summary.get("best") or {}).get("validation") or {}).get(self.metric), math.nan),
            }
            for index, (setting, summary) in enumerate(self._summaries())
        ]
        results = aggregate(rows, ["trial"], "score", self.sign).settings
        return [self._trial(point, result) for point, result in zip(self.points, results, strict=True)]

    def _trial(self, point: Mapping[str, Any], result: Result) -> Any:
        value = result.score
        return self.optuna.trial.create_trial(
            params={path: _key(value) for path, value in point.items()},
            distributions=self._distributions(),
            user_attrs={"runs": [row["name"] for row in result.rows], "diverged": result.diverged},
            **({"value": value} if math.isfinite(value) else {"state": self.optuna.trial.TrialState.FAIL}),
        )

    def _distributions(self) -> dict[str, Any]:
        kinds, distributions = self.optuna.distributions, {}
        for path, spec in self.space.items():
            if isinstance(spec, list):
                distributions[path] = kinds.CategoricalDistribution([_key(value) for value in spec])
            elif spec["integer"]:
                distributions[path] = kinds.IntDistribution(int(spec["low"]), int(spec["high"]), log=spec["log"])
            else:
                distributions[path] = kinds.FloatDistribution(spec["low"], spec["high"], log=spec["log"])
        return distributions

    def _asked(self, trials: list[Any], count: int) -> list[dict[str, Any]]:
        """Points that there are not yet. The sampler is drawn anew for every batch, so that a resumed search asks for
        what one that was not interrupted would have."""
        samplers = {"tpe": self.optuna.samplers.TPESampler, "random": self.optuna.samplers.RandomSampler}
        seed = np.random.SeedSequence([self.section["seed"], len(self.points)]).generate_state(1)
        study = self._study(samplers[self.section["sampler"]](seed=int(seed[0])), trials)
        seen, new = {json.dumps(point) for point in self.points}, []
        for _ in range(_TRIES):
            while len(new) < count:
                point = self._point(study.ask(self._distributions()).params)
                if json.dumps(point) in seen:
                    break
                seen.add(json.dumps(point))
                new.append(point)
        return new

    def _study(self, sampler: Any, trials: list[Any], storage: Any = None) -> Any:
        direction = "maximize" if self.sign > 0 else "minimize"
        study = self.optuna.create_study(
            study_name=self.workdir.resolve().name, storage=storage, sampler=sampler, direction=direction
        )
        study.add_trials(trials)
        return study

    def _point(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """A trial's parameters as a config has them: numbers to four digits, as drawn ones."""
        point = {}
        for path, spec in self.space.items():
            value = params[path]
            if isinstance(spec, list):
                value = next(choice for choice in spec if _key(choice) == value)
            elif not spec["integer"]:
                value = min(max(float(f"{value:.4g}"), spec["low"]), spec["high"])
            point[path] = value
        return point

    def _leave(self, trials: list[Any]) -> None:
        """optuna.journal, whole or not at all. Optuna opens the file by its path, so `whole_file` cannot write it."""
        if not trials:
            return
        journal_path = SweepDir(self.workdir).journal
        partial = journal_path.with_name(f"{journal_path.name}.partial")
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()
        journal = self.optuna.storages.journal
        storage = self.optuna.storages.JournalStorage(journal.JournalFileBackend(str(partial)))
        self._study(None, trials, storage)
        os.replace(partial, journal_path)

    def _best(self, trials: list[Any]) -> str:
        """For people: the best point so far."""
        valued = [(trial.value, point) for trial, point in zip(trials, self.points, strict=True) if trial.values]
        if not valued:
            return "all runs have diverged" if trials else ""
        value, point = max(valued, key=lambda pair: self.sign * pair[0])
        return f"best so far: {described(point)}: {self.metric} {value:.4g}"


def _key(value: Any) -> Any:
    """The stand-in for a value in a study, which knows no sections."""
    return value if value is None or isinstance(value, bool | int | float | str) else json.dumps(value)


def _checked(path: str, spec: Any, overrides: Mapping[str, Any]) -> Any:
    """A complete range, or a list of choices."""
    where = f"optuna.of.{path}"
    if path == "seed":
        raise ConfigError(f"{where}: a seed is not searched; seeds says how many runs a point has")
    if path in overrides:
        raise ConfigError(f"{where}: is set by overrides already")
    if isinstance(spec, Mapping):
        return check_range(where, spec)
    if not isinstance(spec, list | tuple) or not spec:
        raise ConfigError(f"{where}: {spec!r} is neither a range, as dict(low=0.1, high=1.0), nor a list of choices")
    return list(spec)


def _corners(space: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Points that show a mistake before anything is trained: every choice, and both ends of all ranges."""
    ends = {path: spec if isinstance(spec, list) else _ends(spec) for path, spec in space.items()}
    longest = max(len(values) for values in ends.values())
    points = [{path: values[min(i, len(values) - 1)] for path, values in ends.items()} for i in range(longest)]
    return [point for point, _ in itertools.groupby(points)]


def _ends(spec: Mapping[str, Any]) -> list[float | int]:
    ends = [spec["low"], spec["high"]]
    return [int(end) for end in ends] if spec["integer"] else ends
