"""The cost of watching a run: the time of an observation beside that of a training step, diagnostic by diagnostic.

Unlike the other contestants, a run is measured as `rnnlab.train` makes it: its own batch, optimiser and devices, and
the observations go to diagnostics.jsonl and TensorBoard.
"""

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rnnlab.files.markdown import markdown_table

EVERY = 100
"""Steps between two observations, the default of `diagnostics_every`."""

ADDING: dict[str, Any] = {
    "batch_size": 16,
    "steps": 4000,
    "task": {"name": "adding", "length": 150},
    "optimizer": {"name": "adam", "learning_rate": 1e-3, "clip_norm": 1.0, "schedule": {"name": "cosine"}},
}
PIXELS: dict[str, Any] = ADDING | {
    "task": {"name": "pixels", "white": 255.0, "validation_size": 5000},
    "optimizer": ADDING["optimizer"] | {"learning_rate": 3e-5},
}
RUNS: dict[str, dict[str, Any]] = {
    "adding, irnn": ADDING | {"model": {"cell": {"name": "irnn", "features": 100, "input_init": "glorot_uniform"}}},
    "adding, lstm": ADDING | {"model": {"cell": {"name": "lstm", "features": 100}}},
    "adding, gru": ADDING | {"model": {"cell": {"name": "gru", "features": 100}}},
    "pixels, irnn": PIXELS | {"model": {"cell": {"name": "irnn", "features": 100}}},
}
"""The configs configs/adding.py, :lstm, :gru and configs/pixels.py."""


def measure(config: Mapping[str, Any], turns: int, seconds: float, data_dir: str | None = None) -> dict[str, Any]:
    """Seconds turn by turn of a training step, of an observation by each diagnostic alone and by all, and of writing
    down what all have found.

    Args:
        config: of a run.
        turns: how often each is timed, one after the other.
        seconds: how long, at least, each time.

    Raises:
        ConfigError: a mistake in the config, or a diagnostic that is not defined for it.
    """
    import jax

    from rnnlab.benchmark.worker import time_calls, time_steps
    from rnnlab.diagnostics import DIAGNOSTICS
    from rnnlab.records.metrics import MetricsWriter
    from rnnlab.training.setup import make_run

    chosen = {name: (name,) for name in DIAGNOSTICS} | {"all": tuple(DIAGNOSTICS)}
    runs = {name: make_run({**config, "diagnostics": names}, data_dir) for name, names in chosen.items()}
    run = runs["all"]
    held = {"state": run.programs.start(0)}

    def train(count: int) -> None:
        held["state"] = jax.block_until_ready(run.train(held["state"], int(held["state"].step) + count))

    def observe(name: str) -> Any:
        return jax.block_until_ready(runs[name].observe(held["state"]))

    train(EVERY)
    with _writer() as folder:
        writer = MetricsWriter(folder, 0)
        contestants: dict[str, Callable[[], Any]] = {name: lambda name=name: observe(name) for name in chosen}
        times: dict[str, list[float]] = {name: [] for name in ("step", *chosen, "write")}
        for call in contestants.values():
            call()  # Compiles.
        for _ in range(turns):
            times["step"].append(time_steps(train, seconds))
            for name, call in contestants.items():
                times[name].append(time_calls(call, seconds))
            times["write"].append(_write_time(writer, observe, seconds))
        writer.close()
    return {"times": times} | summarize(times)


def _write_time(writer: Any, observe: Callable[[str], Any], seconds: float) -> float:
    """The mean seconds of writing one observation, each of which is new: an array is fetched from its device once."""
    spent, calls, began = 0.0, 0, time.perf_counter()
    while not calls or time.perf_counter() - began < seconds:
        observations = observe("all")
        mark = time.perf_counter()
        writer.observe(calls, observations, 0.0)
        spent, calls = spent + time.perf_counter() - mark, calls + 1
    return spent / calls


@contextlib.contextmanager
def _writer() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def summarize(times: Mapping[str, list[float]]) -> dict[str, Any]:
    """Medians over turns of the step in seconds, of everything in training steps (turn by turn: neighbours in time saw
    the same machine), and the share of the training time that goes to observing and writing at every 100 steps."""
    in_steps = {
        name: statistics.median(time / step for time, step in zip(times[name], times["step"], strict=True))
        for name in times
        if name != "step"
    }
    cost = [(a + w) / step for a, w, step in zip(times["all"], times["write"], times["step"], strict=True)]
    return {
        "step_median": statistics.median(times["step"]),
        "in_steps": in_steps,
        "share": statistics.median(cost) / EVERY,
    }


def markdown(results: list[dict[str, Any]]) -> str:
    """A line per run: the training step, every observation in training steps, and the share of the training time."""
    sound = [row for row in results if "error" not in row]
    names = list(sound[0]["in_steps"]) if sound else []
    rows = []
    for row in results:
        if "error" in row:
            rows.append([row["run"], *["void"] * (2 + len(names))])
            continue
        steps = [f"{row['in_steps'][name]:.2f}" for name in names]
        rows.append([row["run"], f"{row['step_median'] * 1e3:.3g}", *steps, f"{row['share']:.1%}"])
    return markdown_table(["run", "training step, ms", *names, f"share, every {EVERY} steps"], rows)
