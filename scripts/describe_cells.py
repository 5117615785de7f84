"""The page docs/cells.md: every cell of the table, by its docstring, its code, and what was measured of it.

    python -m scripts.describe_cells              # the page, with the numbers of docs/results/cells.json
    python -m scripts.describe_cells --measure    # measures all of them first

The half-life is that of the gradient at initialisation, as in the atlas (`rnnlab/diagnostics/atlas.py`), but of the
whole carry, and of each cell with its own initialisers; the cost is the time of a training step (`rnnlab/benchmark`),
in turns with the LSTM's.
"""

import ast
import functools
import importlib
import inspect
import itertools
import json
import pkgutil
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import nnx

from rnnlab import cells as cells_room
from rnnlab import cli
from rnnlab.benchmark import contestants
from rnnlab.benchmark.cases import Case, make_problem
from rnnlab.benchmark.of_table import backends_of
from rnnlab.benchmark.worker import time_steps
from rnnlab.cells import CELLS, BaseCell
from rnnlab.config.docs import docs_of
from rnnlab.config.fields import fields_of
from rnnlab.diagnostics.atlas import short, times
from rnnlab.diagnostics.gradient_flow import decay_per_step
from rnnlab.engine import make_taps, products_of, unroll
from rnnlab.engine.contract import eval_shape
from rnnlab.files import read_json, write_text
from rnnlab.files.markdown import markdown_table, write_between_marks
from rnnlab.ops.safe_norms import row_norms
from rnnlab.parallel import devices

ROOT = Path(__file__).parents[1]
PAGE, MEASURED = ROOT / "docs" / "cells.md", ROOT / "docs" / "results" / "cells.json"
WIDTH = 100
"""D and H of the table."""
SHAPE = (784, 16, 1, WIDTH)
"""T, B, D and H of the training step."""
HEAD = ["cell", "parameters", "products a step", "backends", "half-life", "cost", "source"]


# --- from the code ---------------------------------------------------------------------------------------------------


def docstring(name: str) -> str:
    """That of a cell's class, or the string below a preset."""
    factory = CELLS[name]
    if isinstance(factory, functools.partial):
        return inspect.cleandoc(next(_below(factory), ""))
    return inspect.getdoc(factory) or ""


def _below(preset: Any) -> Iterator[str]:
    """The strings that follow the names of a preset in the modules of the cells."""
    for found in pkgutil.iter_modules(cells_room.__path__, f"{cells_room.__name__}."):
        module = importlib.import_module(found.name)
        names = {name for name, value in vars(module).items() if value is preset}
        body = ast.parse(inspect.getsource(module)).body
        for statement, below in itertools.pairwise(body):
            if isinstance(statement, ast.Assign) and any(getattr(t, "id", "") in names for t in statement.targets):
                yield getattr(getattr(below, "value", None), "value", "")


def source(name: str) -> str:
    """The first brackets of a cell's docstring with a year in them, up to what is explained there."""
    text = " ".join(docstring(name).split())
    match = re.search(r"\(([^():;]*\b(?:19|20)\d\d[a-z]?\b[^():;]*)", text)
    return "" if match is None else match[1].rstrip(". ")


def parameters(name: str) -> int:
    """How many numbers of a cell are trained at D = H = `WIDTH`."""
    params = nnx.state(_shapes(name), nnx.Param)
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def products(name: str) -> str:
    """How many products with a matrix a step has, and the names of several in its order."""
    kernels = {n: matrix.kernel for n, matrix in eval_shape(lambda cell: cell.matrices(), _shapes(name)).items()}
    met = products_of(_shapes(name), jax.ShapeDtypeStruct((1, 1, WIDTH), jnp.float32))
    full = [product.name for product in met if kernels[product.name].ndim > 1]
    if len(full) > 1:
        return f"{len(full)}: {', '.join(full)}"
    return "a diagonal" if met and not full else str(len(full))


@functools.cache
def _shapes(name: str) -> BaseCell:
    return nnx.eval_shape(lambda: CELLS[name](WIDTH, WIDTH, rngs=nnx.Rngs(0)))


def options(name: str) -> str:
    """The options that a cell has beside those of every cell, and their defaults."""
    factory = CELLS[name]
    docs, fields = docs_of(factory), fields_of(factory)
    further = [field for field in fields if field not in fields_of(BaseCell)]
    return "".join(f"- `{field}={_plain(fields[field].default)}`: {docs.get(field, '')}\n" for field in further)


def _plain(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else getattr(value, "__name__", str(value))


def section(name: str) -> str:
    """A cell's docstring in Markdown, its indented lines as they stand."""
    lines, inside = [], False
    for line in docstring(name).splitlines():
        indented = line.startswith("    ") or (inside and not line)
        if indented != inside and (indented or line):
            lines.append("```text" if indented else "```")
            inside = indented
        lines.append(line.removeprefix("    "))
    text = re.sub(r"\n+```\n", "\n```\n\n", "\n".join([*lines, *["```"] * inside, ""])).rstrip("\n") + "\n"
    given = getattr(CELLS[name], "keywords", {})
    preset = ", ".join(f"`{field}={_plain(value)}`" for field, value in given.items())
    preset = f"\nThe same cell as `{CELLS[name].func.__name__}` with {preset}.\n" if preset else ""  # pyright: ignore
    listed = options(name)
    return f"## {name}\n\n{text}{preset}" + (f"\n{listed}" if listed else "")


def page(measured: Mapping[str, Mapping[str, Any]]) -> str:
    """All that stands between the marks of the page."""
    rows = []
    for name in CELLS:
        numbers = measured.get(name, {})
        half_life = short(_times(numbers["factor"])) if "factor" in numbers else "–"
        cost = f"{numbers['cost']:.2f}" if "cost" in numbers else "–"
        code = [f"{parameters(name):,}", products(name), ", ".join(backends_of(name))]
        rows.append([f"[{name}](#{name})", *code, half_life, cost, source(name).replace("|", "\\|")])
    sections = "\n".join(section(name) for name in CELLS)
    return f"\n{markdown_table(HEAD, rows)}\n{sections}"


def _times(factor: float) -> dict[str, str]:
    half_life, doubling_time = times(float(factor))
    return {"half_life": str(half_life), "doubling_time": str(doubling_time)}


# --- measured --------------------------------------------------------------------------------------------------------


def gradient_factor(name: str, length: int = 200, batch: int = 16, draws: int = 5) -> float:
    """The factor of ‖∂L/∂carry_t‖ per step back in time, of a cell as it is initialised by default: the median over
    rows and draws, for N(0, 1) inputs of as many features as units, and a random unit vector sent back from h_T."""

    @jax.jit
    def new(key: jax.Array) -> nnx.State:
        return nnx.state(CELLS[name](WIDTH, WIDTH, rngs=nnx.Rngs(key)))

    graphdef = nnx.graphdef(_shapes(name))
    states = [new(jax.random.key(seed)) for seed in range(draws)]

    @jax.jit
    def factors(state: nnx.State, x: jax.Array, cotangent: jax.Array) -> jax.Array:
        cell = nnx.merge(graphdef, state)
        taps = make_taps(cell, x)
        gradient = jax.grad(lambda taps: (unroll(cell, x, taps=taps)[0][-1] * cotangent).sum())(taps).carry
        norms = row_norms(jnp.concatenate(gradient, -1))
        return jax.vmap(decay_per_step, in_axes=1)(norms).factor

    measured = []
    with jax.enable_x64(True):
        for seed, state in enumerate(states):
            draw = np.random.default_rng(seed)
            x, cotangent = draw.standard_normal((length, batch, WIDTH)), draw.standard_normal((batch, WIDTH))
            cotangent /= np.linalg.norm(cotangent, axis=1, keepdims=True)
            state = jax.tree.map(lambda a: jnp.asarray(a, float), state)
            measured.append(factors(state, jnp.asarray(x), jnp.asarray(cotangent)))
    return float(f"{np.median(measured):.6g}")


def measure_costs(names: Sequence[str], turns: int = 5, seconds: float = 0.3) -> Iterator[tuple[str, float]]:
    """Each cell's time of a training step over the LSTM's, the median over turns."""

    def ready(name: str) -> Any:
        case = Case(name, *SHAPE)
        return contestants.rnnlab(case, make_problem(case), "fused")

    lstm = ready("lstm")
    for name in names:
        cell = ready(name)
        ratios = [time_steps(cell.step, seconds) / time_steps(lstm.step, seconds) for _ in range(turns)]
        yield name, float(f"{statistics.median(ratios):.4g}")


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    values = flags.FlagValues()
    flags.DEFINE_bool("measure", False, "measure half-lives and costs first", flag_values=values)
    cli.path_flag(values, "output", str(PAGE), "the page, whose part between the marks is written")
    cli.path_flag(values, "measured", str(MEASURED), "the file of the measured numbers")
    cli.parse(values, argv, __doc__)
    file = Path(values.measured)
    if values.measure:
        devices.tune_host(SHAPE[1])
        measured: dict[str, dict[str, Any]] = {name: {"factor": gradient_factor(name)} for name in CELLS}
        for name, cost in measure_costs(list(CELLS)):
            measured[name]["cost"] = cost
            print(f"{name}: gradient × {measured[name]['factor']:.3g} a step, cost {cost:.2f}", flush=True)
        write_text(file, json.dumps({"cells": measured}, indent=1) + "\n")
    measured = read_json(file, "measure it again: --measure", {"cells": dict})["cells"] if file.exists() else {}
    write_between_marks(Path(values.output), page(measured))
    return cli.FINISHED


if __name__ == "__main__":
    cli.run(main)
