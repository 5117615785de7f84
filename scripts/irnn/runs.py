"""Trains a network of an experiment over seeds, as a sweep of its own, until it is done, far enough or out of time."""

import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rnnlab.config.schema import resolve
from rnnlab.files import write_text
from rnnlab.records.folders import SweepDir
from rnnlab.records.workdir import DONE, read_summary
from rnnlab.sweeps.runner import run_sweep
from rnnlab.sweeps.spec.space import Setting, SweepOptions, expand
from scripts.irnn.experiments import Case

HARDWARE = "hardware.txt"
"""Beside a sweep's runs: what they were trained on, for people."""


class Stop:
    """Asked after every dispatch whether to stop there.

    Args:
        deadline: on time.monotonic's clock; None: as long as it takes.
        steps: each run stops after so many; None: as its config says.
    """

    def __init__(self, deadline: float | None = None, steps: int | None = None):
        self.deadline, self.steps = deadline, steps
        self.asked = False
        """Whether it has stopped anything."""

    @property
    def late(self) -> bool:
        """Whether the time is over."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    def __call__(self, step: int) -> bool:
        self.asked = self.late or (self.steps is not None and step >= self.steps)
        return self.asked


def sweep_of(case: Case, network: str, seeds: int, configs: Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The sweep of one network over its seeds."""
    fields = {"base": case.reference(network, configs), "overrides": overrides, "seeds": seeds}
    return resolve(SweepOptions, fields, "")


def config_of(case: Case, network: str, configs: Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The resolved config of a network, of seed 0."""
    return expand(sweep_of(case, network, 1, configs, overrides))[0].config


def train(sweep: Mapping[str, Any], folder: Path, data_dir: str | None, stop: Stop) -> bool:
    """Trains what is left of a sweep; returns whether it has come as far as it should.

    Args:
        folder: the sweep's.

    Raises:
        KeyboardInterrupt: a signal came; all is saved.
    """
    stop.asked, status = False, "finished"
    if not (done := far_enough(expand(sweep), folder, stop.steps)):
        status = run_sweep(sweep, folder, data_dir, stop=stop)
    if not done or not (folder / HARDWARE).exists():  # After it: a look at the devices settles how many there are.
        write_text(folder / HARDWARE, hardware() + "\n")
    if status == "interrupted" and not stop.asked:
        raise KeyboardInterrupt
    return done or far_enough(expand(sweep), folder, stop.steps)


def far_enough(settings: list[Setting], folder: Path, steps: int | None) -> bool:
    """Whether all runs of a sweep are over, or at this step."""
    from rnnlab.sweeps.spec.manifest import make_plan

    summaries = [read_summary(SweepDir(folder).run(s.name)) for s in make_plan(folder, settings).settings]
    return all(s is not None and (s["status"] in DONE or s["steps"] >= (steps or s["steps"] + 1)) for s in summaries)


def hardware() -> str:
    """The hardware, for people: "2 cores, Intel Xeon …", or the accelerators."""
    import jax

    devices = jax.devices()
    if devices[0].platform != "cpu":
        return f"{len(devices)} × {devices[0].device_kind}"
    from rnnlab.parallel.devices import cores

    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    count = cores()
    return f"{count} core{'s' if count != 1 else ''}, {name}"
