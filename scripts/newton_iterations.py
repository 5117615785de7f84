"""The tables of docs/concepts/parallel_in_time.md: how many Newton iterations run all steps of a network at once.

    python -m scripts.newton_iterations --write

Takes the published networks of the adding problem as they are trained and as they were initialised, and layers of 32
units at initialisation on inputs from N(0, 1); in double precision, converged at 8e-6, as in float32.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags
from flax import nnx

from rnnlab import cli
from rnnlab.cells import CELLS
from rnnlab.diagnostics.diagnosis import in_double, subject_of
from rnnlab.diagnostics.lyapunov import lyapunov_exponents, summary
from rnnlab.diagnostics.parallel import MOST, kinds_of, newton_iterations
from rnnlab.engine import NewtonOptions
from rnnlab.files.markdown import markdown_table, write_between_marks
from rnnlab.nn.trajectory import Trajectory, carries_of
from rnnlab.records.workdir import read_config
from rnnlab.training.chosen import restore_run
from rnnlab.training.setup import make_run

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "concepts" / "parallel_in_time.md"
CHECKPOINTS = ROOT / "docs" / "results" / "checkpoints"
NETWORKS = [f"adding{steps}-{cell}" for steps in (150, 400, 1000) for cell in ("gru", "lstm", "irnn")]
LAYERS: dict[str, tuple[str, dict[str, Any]]] = {
    "GRU": ("gru", {}),
    "LSTM": ("lstm", {}),
    "LSTM, forget bias 2": ("lstm", {"forget_bias": 2.0}),
    "tanh, R from N(0, 0.1²)": ("vanilla", {"recurrent_init": {"name": "normal", "stddev": 0.1}}),
    "tanh, R from N(0, 0.35²)": ("vanilla", {"recurrent_init": {"name": "normal", "stddev": 0.35}}),
}
ROWS, STEPS, UNITS = 4, 784, 32
VARIANTS = [("full", 0.0, 0), ("full", 0.0, 3), ("full", 1.0, 3), ("full", 5.0, 3), ("block", 1.0, 3)]
VARIANTS += [("diagonal", 1.0, 3)]
"""Kind of Jacobian, damping, warm-up."""
HEAD = ["network", "T", "λ₁"]
HEAD += [f"{kind}, damping {damping:g}" + ("" if warm_up else ", no warm-up") for kind, damping, warm_up in VARIANTS]


@functools.cache
def _program(graphdef: Any, name: str, kind: str) -> Any:
    """(state, arrays, damping, warm-up) -> iterations; kind "exponent": -> the largest exponent."""

    def measure(state: Any, arrays: dict[str, Any], damping: jax.Array, warm_up: jax.Array) -> Any:
        run = Trajectory(name=name, cell=nnx.merge(graphdef, state), lengths=None, reverse=False, **arrays)
        if kind == "exponent":
            return summary(lyapunov_exponents(run, 1)).mean[0]
        numbers: dict[str, Any] = {"damping": damping, "warm_up": warm_up, "max_iterations": min(MOST, run.x.shape[0])}
        return newton_iterations(run, NewtonOptions(jacobian=kind, **numbers))[0]  # pyright: ignore

    return jax.jit(measure)


def row_of(label: str, run: Trajectory) -> list[str]:
    """A row of the table; "200+" where a row had not converged."""
    graphdef, state = nnx.split(run.cell)
    arrays = {name: getattr(run, name) for name in ("x", "first", "carries", "noise", "state_mask")}
    exponent = _program(graphdef, run.name, "exponent")(state, arrays, 0.0, 0)
    cells = [label, str(run.x.shape[0]), f"{float(exponent):.3f}"]
    for kind, damping, warm_up in VARIANTS:
        if kind not in kinds_of(run):
            cells.append("")
            continue
        iterations = _program(graphdef, run.name, kind)(state, arrays, damping, warm_up)
        cells.append(f"{int(iterations.number.max())}{'' if bool(iterations.converged.all()) else '+'}")
    print(" | ".join(cells), flush=True)
    return cells


def of_published(name: str) -> list[list[str]]:
    """Rows of a published network as it was initialised and as it is trained."""
    workdir = CHECKPOINTS / name
    run = make_run(read_config(workdir) | {"diagnostics": ()}, None)
    trained, batch, rows = restore_run(run, workdir, "best").state, run.sample(ROWS), []
    for when, state in {"untrained": run.programs.start(run.seed), "trained": trained}.items():
        network = run.programs.structure.network(*in_double((state.evaluated, state.buffers)))
        subject = subject_of(network, run.task, in_double(batch), 1, 1, 1)
        rows.append(row_of(f"{name}, {when}", subject.trajectories[0]))
    return rows


def of_layer(label: str) -> list[str]:
    """A row of a layer at initialisation."""
    name, fields = LAYERS[label]
    graphdef, state = nnx.split(CELLS[name](1, UNITS, **fields, rngs=nnx.Rngs(0)))
    cell: Any = nnx.merge(graphdef, in_double(state))
    x = jax.random.normal(jax.random.key(0), (STEPS, ROWS, 1), float)
    first, carries = carries_of(cell, x)
    return row_of(label, Trajectory("layer 1", cell, x, None, False, first, carries))


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    values = flags.FlagValues()
    flags.DEFINE_bool("write", False, "write the table into docs/concepts/parallel_in_time.md", flag_values=values)
    cli.parse(values, argv, __doc__)
    with jax.enable_x64(True):
        rows = [of_layer(label) for label in LAYERS]
        rows += [row for name in NETWORKS for row in of_published(name)]
    table = markdown_table(HEAD, rows)
    if values.write:
        write_between_marks(PAGE, table)
    return cli.FINISHED


if __name__ == "__main__":
    cli.run(main)
