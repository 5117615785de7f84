"""64 runs of the adding problem as a sweep, beside the same runs by `rnnlab.train` one after another.

Whole commands are timed, with the start of their processes, their evaluations, checkpoints and figures.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rnnlab.benchmark import race
from rnnlab.benchmark.diagnostics import ADDING
from rnnlab.config.errors import ConfigError
from rnnlab.files.markdown import markdown_table
from rnnlab.records.folders import SweepDir
from rnnlab.records.workdir import Workdir

AGREE = 1e-3
"""Largest relative difference of the first 100 steps' mean loss between a run in the sweep and the same alone, in the
median over runs: one that explodes in these steps multiplies what rounding there is."""


class Case(NamedTuple):
    """One row: a cell's runs over learning rates and seeds."""

    cell: str
    steps: int = 3000
    length: int = 150
    features: int = 100
    rates: int = 8
    """Learning rates, as many as these, from 1e-4 to 1e-2 in equal ratios."""
    seeds: int = 8

    def shape(self) -> str:
        return f"{self.cell}, T = {self.length}, {self.steps} steps, {self.rates} rates × {self.seeds} seeds"

    def runs(self) -> list[dict[str, Any]]:
        """The overrides of each run, in the order of the sweep."""
        rates = np.geomspace(1e-4, 1e-2, self.rates).tolist()
        return [{"optimizer.learning_rate": rate, "seed": seed} for rate in rates for seed in range(self.seeds)]


CASES = [Case("irnn"), Case("gru")]


def config_of(case: Case, backend: str = "auto") -> dict[str, Any]:
    """The config of a case, as in configs/adding.py."""
    return ADDING | {
        "steps": case.steps,
        "log_every": 100,
        "eval_every": 500,
        "checkpoint_every": 500,
        "task": {"name": "adding", "length": case.length},
        "model": {
            "cell": {"name": case.cell, "features": case.features, "input_init": "glorot_uniform"},
            "recurrence": {"backend": backend},
        },
    }


def measure(case: Case, asked: race.Asked) -> list[dict[str, Any]]:
    """One row for each backend; see `measure_sweep`."""
    return [measure_sweep(case, asked.alone, backend) for backend in asked.backends]


def measure_sweep(case: Case, alone: int, backend: str = "auto") -> dict[str, Any]:
    """One row: the wall time of the sweep, and of every run that was timed alone, half of them before it, half after.

    Args:
        alone: how many runs are timed alone, spread evenly over all; the time of all is reckoned from their mean.

    Raises:
        ConfigError: a command that fails.
    """
    runs = case.runs()
    chosen = sorted({len(runs) * i // alone for i in range(min(alone, len(runs)))})
    half = len(chosen) // 2
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_files(case, root, backend)

        def by_itself(number: int) -> float:
            fields = [f"--config.{path}={value}" for path, value in runs[number].items()]
            return _seconds("train", root / "base.py", root / "alone" / f"{number:04}", *fields)

        before = [by_itself(number) for number in chosen[:half]]
        spent = _seconds("sweep", root / "sweep.py", root / "together")
        times = before + [by_itself(number) for number in chosen[half:]]
        pairs = [
            (_first_loss(root / "alone" / f"{number:04}"), _first_loss(SweepDir(root / "together").run(f"{number:04}")))
            for number in chosen
        ]
    row = {
        "shape": case.shape(),
        "contestant": race.name_of(backend),
        "runs": len(runs),
        "timed_alone": len(chosen),
        "alone_seconds": times,
        "alone_all_seconds": statistics.mean(times) * len(runs),
        "sweep_seconds": spent,
        "first_losses": pairs,
    }
    return judged(row)


def write_files(case: Case, root: Path, backend: str = "auto") -> None:
    """The config and the sweep's file of a case."""
    config = config_of(case, backend)
    (root / "base.py").write_text(f"def get_config():\n    return {config!r}\n", encoding="utf-8")
    sweep = {"base": str(root / "base.py"), "runs": case.runs()}
    (root / "sweep.py").write_text(f"def get_config():\n    return {sweep!r}\n", encoding="utf-8")


def together(case: Case, root: Path, timeout: float | None = None) -> float:
    """The seconds of the sweep alone, in an empty folder.

    Raises:
        ConfigError: the command fails.
        subprocess.TimeoutExpired: it takes longer.
    """
    write_files(case, root)
    return _seconds("sweep", root / "sweep.py", root / "together", timeout=timeout)


def judged(row: dict[str, Any]) -> dict[str, Any]:
    """The row with the sweep's share of the time, or void where its runs are not those alone."""
    alone, together = np.array(row["first_losses"]).T
    difference = np.median(np.abs(alone - together) / np.abs(alone))
    if not difference <= AGREE:
        losses = row["first_losses"]
        return row | {"error": f"void: mean losses of the first 100 steps alone and in the sweep are {losses}"}
    return row | {"share": row["sweep_seconds"] / row["alone_all_seconds"]}


def _seconds(entry: str, config: Path, workdir: Path, *words: str, timeout: float | None = None) -> float:
    """How long `python -m rnnlab.ENTRY` takes."""
    command = [sys.executable, "-m", f"rnnlab.{entry}", f"--config={config}", f"--workdir={workdir}", *words]
    began = time.monotonic()
    anew = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}  # Compiling is part of what is compared.
    words_of_run: dict[str, Any] = {"capture_output": True, "check": False, "encoding": "utf-8", "env": anew}
    result = subprocess.run(command, timeout=timeout, **words_of_run)
    if result.returncode:
        messages = (result.stderr or result.stdout).strip().splitlines()
        raise ConfigError(f"{' '.join(command[1:])} failed: {messages[-1] if messages else result.returncode}")
    return time.monotonic() - began


def _first_loss(workdir: Path) -> float:
    """The mean loss of the first steps that were logged."""

    def losses() -> Iterator[float]:
        for line in Workdir(workdir).metrics.read_text(encoding="utf-8").splitlines():
            values = json.loads(line)
            if values["split"] == "train":
                yield values["loss"]

    return next(losses(), float("nan"))


def markdown(results: list[dict[str, Any]]) -> str:
    """A line per case."""
    rows = [
        [
            row["shape"],
            row["contestant"],
            f"{row['alone_all_seconds']:.0f}",
            f"{row['timed_alone']} of {row['runs']}",
            f"{row['sweep_seconds']:.0f}",
            "void" if "error" in row else f"{row['share']:.2f}",
        ]
        for row in results
    ]
    return markdown_table(["runs", "by", "one after another, s", "timed of them", "as a sweep, s", "share"], rows)
