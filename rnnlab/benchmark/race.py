"""Whole training steps, as one trains, by rnnlab and by torch.nn, each in a process of its own and in turns.

`language_model.py` and `speech.py` say what is trained; layers alone are in `cases.py` and `contestants.py`.
"""

import functools
import resource
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rnnlab.benchmark.tables import without
from rnnlab.benchmark.worker import Worker, answer_requests, time_steps

STEPS = 3
"""How many updates' losses are compared."""
WEIGHTS = "weights.npz"
"""The file that the first contestant leaves for the others in their folder: the weights that all begin with."""
AGREE = 1e-3
"""Largest relative difference between two contestants' losses of the first updates."""


class Asked(NamedTuple):
    """What the command's flags ask of a measurement."""

    turns: int = 5
    """How often each contestant is timed."""
    seconds: float = 0.5
    """How long, at least, each is timed in a turn."""
    with_torch: bool = True
    backends: Sequence[str] = ("auto",)
    """Those of `model.recurrence.backend`; each is a contestant."""
    alone: int = 64
    """Of a sweep's runs, how many are timed alone."""

    def ours(self) -> list[str]:
        """The names of rnnlab's contestants: "rnnlab", "rnnlab native"."""
        return [name_of(backend) for backend in self.backends]


def name_of(backend: str) -> str:
    """The contestant that is rnnlab with this backend."""
    return "rnnlab" if backend == "auto" else f"rnnlab {backend}"


def backend_of(name: str) -> str:
    """The reverse of `name_of`."""
    return name.removeprefix("rnnlab").strip() or "auto"


class Contestant(NamedTuple):
    """One case made ready."""

    step: Callable[[int], object]
    """Makes so many updates."""
    losses: list[float]
    """Losses of the first updates."""
    device_bytes: Callable[[], int | None]
    """Peak memory on an accelerator; None on a CPU, where it is the process's."""


def measure(module: str, names: Sequence[str], case: Sequence[Any], folder: str, asked: Asked) -> list[dict[str, Any]]:
    """One row a contestant: turn by turn its seconds a step, the losses of its first updates, its peak memory; and the
    median, and the ratio of step times turn by turn (above 1: the first is faster). One with other losses than the
    first is void.

    Args:
        module: whose `python -m` process calls `serve`.
        case: what `serve`'s functions make a case of; goes through JSON.
        folder: where the first leaves for the others what all begin with.
    """
    rows: list[dict[str, Any]] = []
    workers = [Worker(name, module=module) for name in names]
    for worker, name in zip(workers, names, strict=True):
        prepared = worker.ask(do="prepare", case=list(case), folder=folder)
        rows.append({"contestant": name, "step": []} | prepared)
    for _ in range(asked.turns):
        for worker, row in zip(workers, rows, strict=True):
            if "error" not in row:
                answer = worker.ask(do="time", seconds=asked.seconds)
                row["step"].append(answer) if isinstance(answer, float) else row.update(answer)
    for worker, row in zip(workers, rows, strict=True):
        row["peak_bytes"] = None if "error" in row else worker.ask(do="peak")
        worker.close()
    return summarize(rows)


def summarize(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with medians and ratios; see `measure`."""
    ours = rows[0]
    for row in rows:
        if "error" in row or "error" in ours:
            continue
        if not np.allclose(row["losses"], ours["losses"], rtol=AGREE, atol=0):
            row["error"] = f"void: its losses are {row['losses']}, rnnlab's {ours['losses']}"
            continue
        row["step_median"] = statistics.median(row["step"])
        row["step_ratio"] = statistics.median(
            theirs / mine for theirs, mine in zip(row["step"], ours["step"], strict=True)
        )
    return rows


def measured_cells(row: Mapping[str, Any]) -> list[str]:
    """The cells of a contestant in a table: step in ms, ratio of step times, peak memory in GiB; "void" or
    "–" where there is none."""
    if "error" in row or "step_median" not in row:
        return [without(row), "", ""]
    return [f"{row['step_median'] * 1e3:.3g}", f"{row['step_ratio']:.2f}", f"{row['peak_bytes'] / 2**30:.2f}"]


def peak_bytes() -> int:
    """The largest memory that this process has had, libraries and all."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def as_rnnlab_trains(run: Any, state: Any) -> Contestant:
    """A run from this state, as `rnnlab.train` makes its updates."""
    import jax

    from rnnlab.training.state import means

    held, losses = {"state": state}, []

    def train(count: int) -> None:
        held["state"] = jax.block_until_ready(run.train(held["state"], int(held["state"].step) + count))

    for _ in range(STEPS):
        held["state"] = run.with_empty_sums(held["state"])
        train(1)
        losses.append(means(held["state"].sums)["loss"])

    def peak() -> int | None:
        if jax.default_backend() == "cpu":
            return None
        return jax.local_devices()[0].memory_stats()["peak_bytes_in_use"]  # pyright: ignore

    return Contestant(train, losses, peak)


def as_torch_trains(step: Callable[[], Any]) -> Contestant:
    """step: makes one update, returns its loss."""
    import torch

    gpu = torch.cuda.is_available()

    def train(count: int) -> None:
        for _ in range(count):
            step()
        if gpu:
            torch.cuda.synchronize()

    losses = [float(step()) for _ in range(STEPS)]
    return Contestant(train, losses, lambda: torch.cuda.max_memory_allocated() if gpu else None)


def serve(name: str, contestants: Mapping[str, Callable[..., Contestant]]) -> None:
    """The process of one contestant: answers requests on standard input until it ends.

    contestants: functions of a case and a folder; "rnnlab" also gets the backend that a name such as "rnnlab native"
        ends with.
    """
    make = contestants.get(name) or functools.partial(contestants["rnnlab"], backend=backend_of(name))
    held: dict[str, Contestant] = {}

    def answer(request: Mapping[str, Any]) -> Any:
        if request["do"] == "describe":
            return [name]
        if request["do"] == "prepare":
            held["made"] = make(request["case"], Path(request["folder"]))
            return {"losses": held["made"].losses}
        if request["do"] == "time":
            return time_steps(held["made"].step, request["seconds"])
        return held["made"].device_bytes() or peak_bytes()

    answer_requests(answer)
