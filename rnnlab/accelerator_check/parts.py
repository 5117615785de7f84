"""The parts of a check, each done whole or not at all, in the order in which they are worth most."""

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rnnlab.accelerator_check.correctness import BACKENDS, names
from rnnlab.benchmark import sweeps
from rnnlab.benchmark.cases import OF_PEERS, SHAPES, Case
from rnnlab.cells import CELLS
from rnnlab.ops.linear import Precision
from rnnlab.records.metrics import read_metrics
from rnnlab.records.workdir import Workdir, read_summary

PRECISIONS: tuple[Precision, ...] = ("highest", "tf32", "bfloat16")


class Plan(NamedTuple):
    """What is checked."""

    correctness: tuple[int, int, int, int]
    """T, B, D, H."""
    shapes: Sequence[tuple[int, int, int, int, bool]]
    """T, B, D, H and whether in both directions."""
    sweep: sweeps.Case
    """The spec of one run; others have more rates and seeds."""
    replicas: Sequence[tuple[int, int]]
    """Learning rates and seeds."""
    training: tuple[str, ...]
    """The words of `rnnlab.train`."""
    turns: int
    """How often every contestant is timed."""
    seconds: float
    """How long, at least, each time."""


WHOLE = Plan(
    correctness=(25, 6, 5, 24),
    shapes=((1024, 16, 768, 768, False), *SHAPES),
    sweep=sweeps.Case("lstm", steps=300),
    replicas=((1, 1), (8, 8), (8, 64)),
    training=("--config=rnnlab:pixels:permuted",),
    turns=3,
    seconds=0.2,
)
SMALL = Plan(
    correctness=(4, 3, 2, 4),
    shapes=((6, 4, 3, 8, False),),
    sweep=sweeps.Case("vanilla", steps=4, length=6, features=8),
    replicas=((1, 2),),
    training=(
        "--config=rnnlab:adding",
        *("--config.steps=4", "--config.task.length=6", "--config.model.cell.features=8"),
        *("--config.task.validation_size=8", "--config.task.test_size=8", "--config.eval_batch_size=8"),
    ),
    turns=1,
    seconds=0.0,
)


def check_cases(cells: Sequence[str]) -> list[str]:
    """The parts of the first stage: a cell each."""
    return names(cells)


def timing_cases(plan: Plan, cells: Sequence[str]) -> dict[str, Case]:
    """Those of the second by their names: cells that the other libraries have first, exact products before rounded."""
    ordered = [name for name in ("lstm", "gru", "irnn", "vanilla") if name in cells]
    groups = [ordered, [name for name in CELLS if name in cells and name not in OF_PEERS]]
    cases = [
        Case(cell, *shape, precision)
        for group in groups
        for precision in PRECISIONS
        for shape in plan.shapes
        for cell in group
    ]
    return {f"{case.cell} {case.shape()} {case.precision}": case for case in cases}


def class_of(cell: str) -> str:
    """The class of a cell of the table, which the engine knows it by."""
    from flax import nnx

    return type(nnx.eval_shape(lambda: CELLS[cell](2, 8, rngs=nnx.Rngs(0)))).__name__


def correctness_request(plan: Plan, cell: str) -> dict[str, Any]:
    """Requests to a worker about a cell."""
    words = {"shape": plan.correctness, "backends": BACKENDS, "precisions": PRECISIONS}
    return {"do": "correct", "cell": cell, **words}


def run_sweep(plan: Plan, rates: int, seeds: int, seconds: float) -> dict[str, Any]:
    """A whole `rnnlab.sweep` of so many runs.

    Raises:
        subprocess.TimeoutExpired: after so many seconds.
    """
    case = plan.sweep._replace(rates=rates, seeds=seeds)
    with tempfile.TemporaryDirectory() as folder:
        spent = sweeps.together(case, Path(folder), timeout=seconds)
    return {"runs": rates * seeds, "steps": case.steps, "cell": case.cell, "length": case.length, "seconds": spent}


def train(plan: Plan, workdir: Path, seconds: float, more: Sequence[str]) -> dict[str, Any]:
    """Trains on for so long; the run goes on from there with the next call."""
    words = [*plan.training, f"--workdir={workdir}", *more]
    process = subprocess.Popen(
        [sys.executable, "-m", "rnnlab.train", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    late = False
    try:
        answer = process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        late = True
        process.send_signal(signal.SIGTERM)  # It saves where it is.
        try:
            answer = process.communicate(timeout=60)[0]
        except subprocess.TimeoutExpired:
            process.kill()
            answer = process.communicate()[0]
    if (row := trained(workdir)) is not None:
        return row
    if late:
        return {"error": f"did not come to its first numbers within the {seconds:.0f} s that were left"}
    return {"error": (answer.strip().splitlines() or ["it said nothing"])[-1][:300]}


def trained(workdir: Path) -> dict[str, Any] | None:
    """How far a run is, by its own files; None where it has not begun."""
    if not Workdir(workdir).metrics.exists():
        return None
    lines = [json.loads(json.dumps(line)) for line in read_metrics(workdir)]
    row: dict[str, Any] = {}
    for line in lines:
        split = line["split"]
        row |= {"step": line["step"]}
        for name in ("loss", "accuracy", "error"):
            if isinstance(line.get(name), float):
                row[f"{split} {name}"] = round(line[name], 4)
    summary = read_summary(workdir)
    return row | {"status": "unfinished" if summary is None else summary["status"]}
