"""How many Newton iterations run all steps of a network at once.

    python -m scripts.newton_iterations --write                   the table of docs/concepts/parallel_in_time.md
    python -m scripts.newton_iterations --trust_region --write    those of docs/concepts/trust_region.md

Takes the published networks of the adding problem as they are trained and as they were initialised, and layers of 32
units at initialisation on inputs from N(0, 1); in double precision, converged at 8e-6, as in float32. The second takes
shorter sequences, and shows what rounding in float32 makes of one update.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import nnx

from rnnlab import cli
from rnnlab.cells import CELLS
from rnnlab.diagnostics.diagnosis import in_double, subject_of
from rnnlab.diagnostics.lyapunov import lyapunov_exponents, summary
from rnnlab.diagnostics.parallel import MOST, kinds_of, newton_iterations
from rnnlab.engine import NewtonOptions
from rnnlab.engine.newton.options import JacobianKind
from rnnlab.engine.newton.trust_region import trusted_steps
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
HEAD = ["network", "T", "λ₁"]


class Variant(NamedTuple):
    kind: JacobianKind
    damping: float = 0.0
    warm_up: int = 3
    trust_region: float | None = None

    @property
    def words(self) -> str:
        size = f"damping {self.damping:g}" if self.trust_region is None else f"λ {self.trust_region:g}"
        return f"{self.kind}, {size}" + ("" if self.warm_up else ", no warm-up")


VARIANTS = [Variant("full", 0.0, 0), *(Variant("full", damping) for damping in (0.0, 1.0, 5.0)), Variant("block", 1.0)]
VARIANTS += [Variant("diagonal", 1.0)]
TRUST_REGION = ROOT / "docs" / "concepts" / "trust_region.md"
SHORT, FEW = 200, 50
"""Steps and iterations of the trust region's table, at most."""
SIZES = (1e-6, 1e-4, 1e-2)
HARD = ("GRU", "LSTM, forget bias 2", "tanh, R from N(0, 0.35²)")
OF_TRUST_REGION = [*(Variant("full", damping) for damping in (0.0, 1.0)), *(Variant("full", 0, 3, a) for a in SIZES)]
OF_TRUST_REGION += [Variant("diagonal", 1.0), *(Variant("diagonal", 0, 3, a) for a in SIZES)]


@functools.cache
def _program(graphdef: Any, name: str, kind: str, trusted: bool = False, most: int = MOST) -> Any:
    """(state, arrays, damping or λ, warm-up) -> iterations; kind "exponent": -> the largest exponent."""

    def measure(state: Any, arrays: dict[str, Any], size: jax.Array, warm_up: jax.Array) -> Any:
        run = Trajectory(name=name, cell=nnx.merge(graphdef, state), lengths=None, reverse=False, **arrays)
        if kind == "exponent":
            return summary(lyapunov_exponents(run, 1)).mean[0]
        numbers: dict[str, Any] = {"warm_up": warm_up, "max_iterations": min(most, run.x.shape[0])}
        numbers["trust_region" if trusted else "damping"] = size
        return newton_iterations(run, NewtonOptions(jacobian=kind, **numbers))[0]  # pyright: ignore

    return jax.jit(measure)


def row_of(label: str, run: Trajectory, variants: Sequence[Variant] = VARIANTS, most: int = MOST) -> list[str]:
    """A row of the table; "200+" where a row had not converged."""
    graphdef, state = nnx.split(run.cell)
    arrays = {name: getattr(run, name) for name in ("x", "first", "carries", "noise", "state_mask")}
    exponent = _program(graphdef, run.name, "exponent")(state, arrays, 0.0, 0)
    cells = [label, str(run.x.shape[0]), f"{float(exponent):.3f}"]
    for each in variants:
        if each.kind not in kinds_of(run):
            cells.append("")
            continue
        trusted = each.trust_region is not None
        program = _program(graphdef, run.name, each.kind, trusted, most)
        iterations = program(state, arrays, each.trust_region if trusted else each.damping, each.warm_up)
        cells.append(f"{int(iterations.number.max())}{'' if bool(iterations.converged.all()) else '+'}")
    print(" | ".join(cells), flush=True)
    return cells


def of_published(name: str) -> dict[str, Trajectory]:
    """The first layer of a published network as it was initialised and as it is trained."""
    workdir = CHECKPOINTS / name
    run = make_run(read_config(workdir) | {"diagnostics": ()}, None)
    trained, batch, layers = restore_run(run, workdir, "best").state, run.sample(ROWS), {}
    for when, state in {"untrained": run.programs.start(run.seed), "trained": trained}.items():
        network = run.programs.structure.network(*in_double((state.evaluated, state.buffers)))
        subject = subject_of(network, run.task, in_double(batch), 1, 1, 1)
        layers[f"{name}, {when}"] = subject.trajectories[0]
    return layers


def of_layer(label: str, steps: int = STEPS) -> Trajectory:
    """A layer at initialisation."""
    name, fields = LAYERS[label]
    graphdef, state = nnx.split(CELLS[name](1, UNITS, **fields, rngs=nnx.Rngs(0)))
    cell: Any = nnx.merge(graphdef, in_double(state))
    x = jax.random.normal(jax.random.key(0), (steps, ROWS, 1), float)
    return of_inputs(cell, x)


def of_inputs(cell: Any, x: jax.Array) -> Trajectory:
    first, carries = carries_of(cell, x)
    return Trajectory("layer 1", cell, x, None, False, first, carries)


def of_trust_region() -> str:
    """Its two tables: iterations, and rounding."""
    layers = {label: of_layer(label, SHORT) for label in HARD}
    layers |= {label: of_inputs(run.cell, run.x[:SHORT]) for label, run in of_published("permuted-tanh").items()}
    rows = [row_of(label, run, OF_TRUST_REGION, FEW) for label, run in layers.items()]
    errors = [[f"{size:g}", *(f"{rounding(size, radius):.0e}" for radius in (0.9, 1.0, 1.1))] for size in SIZES]
    head = ["λ", "R of radius 0.9", "1", "1.1"]
    iterations = markdown_table([*HEAD, *(each.words for each in OF_TRUST_REGION)], rows)
    return f"{iterations}\n{markdown_table(head, errors)}"


def rounding(size: float, radius: float) -> float:
    """The error of an update in float32, relative to its norm, of SHORT steps of orthogonal matrices times a radius."""
    draw = np.random.default_rng(0)
    matrices = radius * np.linalg.qr(draw.normal(size=(SHORT, 1, UNITS, UNITS)))[0]
    lack = draw.normal(size=(SHORT, 1, UNITS))
    update = jax.jit(trusted_steps)
    exact, rounded = (
        np.asarray(update(*(jnp.asarray(a, dtype) for a in (matrices, lack, np.full_like(lack, size)))), float)
        for dtype in (jnp.float64, jnp.float32)
    )
    return float(np.linalg.norm(exact - rounded) / np.linalg.norm(exact))


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    values = flags.FlagValues()
    flags.DEFINE_bool("write", False, "write what was measured into the page", flag_values=values)
    flags.DEFINE_bool("trust_region", False, "measure trust regions, on shorter sequences", flag_values=values)
    cli.parse(values, argv, __doc__)
    with jax.enable_x64(True):
        if values.trust_region:
            page, text = TRUST_REGION, of_trust_region()
        else:
            rows = [row_of(label, of_layer(label)) for label in LAYERS]
            rows += [row_of(label, run) for name in NETWORKS for label, run in of_published(name).items()]
            page, text = PAGE, markdown_table([*HEAD, *(each.words for each in VARIANTS)], rows)
    if values.write:
        write_between_marks(page, text)
    return cli.FINISHED


if __name__ == "__main__":
    cli.run(main)
