"""Rows of a case's tables: a network's runs summed up beside the paper's number, in the paper's unit."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rnnlab.sweeps.spec.question import shares
from rnnlab.sweeps.statistics import Mean, mean_interval, number, scale_of
from scripts.irnn.experiments import Case, paper_number


@dataclass(frozen=True)
class Row:
    """A network of a case beside the paper's, in the paper's unit."""

    network: str
    paper: float | None
    """The best of the paper's curve; with the paper's protocol, of as many steps as ours."""
    rival: float | None
    """The same; of a network that the paper has not the best of those that it has."""
    ours: Mean
    """Test, over seeds, each at its best checkpoint by validation; NaN where all diverged."""
    target: float | None
    reached: bool | None
    """Whether every seed is at the target or better, and has learned; None where there is none."""
    learned: bool
    """False where every seed that has a value is no better than ignoring the input; see `Experiment.learned`."""
    seeds: int
    diverged: int
    steps: tuple[int, int]
    """Fewest and most, of the seeds."""
    whole: int
    """The steps of the config."""
    solved_at: list[int | None]
    seconds: float
    """The seconds of all seeds together."""
    hardware: list[str]
    commits: list[str]

    @property
    def difference(self) -> float | None:
        """Ours less the paper's."""
        return None if self.paper is None else self.ours.value - self.paper


def rows(case: Case, results: Mapping[str, Any], paper: Mapping[str, Any]) -> list[Row]:
    """A row of every network that has a run, in the order of the experiment."""
    rows_of_case = []
    others = [value for network in case.networks if (value := paper_number(case, network, paper)) is not None]
    best = max(others, key=lambda value: case.experiment.better * value, default=None)
    for network in case.networks:
        runs = results["networks"].get(network, {"runs": []})["runs"]
        if not runs:
            continue
        experiment, steps = case.experiment, [run["steps"] for run in runs]
        tested = [number(run["test"], math.nan) for run in runs if run["status"] != "diverged"]
        values = [experiment.scale * value for value in tested]
        equal = min(steps) if case.variant == "paper" else None
        theirs = paper_number(case, network, paper, equal)
        target = theirs if case.variant == "paper" else experiment.targets.get(network)
        diverged = len(runs) - len(values)
        learned = [math.isfinite(v) and experiment.learned(v) for v in values]
        sound = not diverged and all(
            experiment.better * v >= experiment.better * (target or 0) and well
            for v, well in zip(values, learned, strict=True)
        )
        scale = scale_of(tested, experiment.metric in shares())
        rows_of_case.append(
            Row(
                network=network,
                paper=theirs,
                rival=best if theirs is None else theirs,
                ours=mean_interval(tested, scale).times(experiment.scale),
                target=target,
                reached=None if target is None else sound,
                learned=not values or any(learned),
                seeds=len(runs),
                diverged=diverged,
                steps=(min(steps), max(steps)),
                whole=results["networks"][network]["config"]["steps"],
                solved_at=[run["solved_at"] for run in runs],
                seconds=sum(run["seconds"] / run["replicas"] for run in runs),
                hardware=list(dict.fromkeys(run["hardware"] for run in runs)),
                commits=list(dict.fromkeys(run["git_commit"] or "?" for run in runs)),
            )
        )
    return rows_of_case


def best_seed(case: Case, network: Mapping[str, Any]) -> int | None:
    """The seed of the run that is best on validation; None where none is sound."""
    runs = [run for run in network["runs"] if run["status"] != "diverged" and run["validation"] is not None]
    sound = [run for run in runs if math.isfinite(float(run["validation"]))]
    return max(sound, key=lambda run: case.experiment.better * run["validation"])["seed"] if sound else None


def duration(seconds: float) -> str:
    """ "48 s", "12 min", "3.4 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def percent_text(row: Mapping[str, Any]) -> str:
    """ "36.5 (35.1 to 37.9)": the mean of a row with its interval, if it has one, in percent."""
    if row["interval"] is None:
        return f"{100 * row['mean']:.1f}"
    low, high = (100 * end for end in row["interval"])
    return f"{100 * row['mean']:.1f} ({low:.1f} to {high:.1f})"
