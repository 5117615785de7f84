"""Outputs' loss and all gradients of a cell on the device, beside double precision on the host."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, get_args

import jax
from flax import nnx

from rnnlab.cells import CELLS
from rnnlab.config.errors import ConfigError
from rnnlab.engine import Backend, resolve_backend
from rnnlab.ops.linear import Precision
from rnnlab.parallel.devices import cores
from rnnlab.selfcheck.draws import make_problem, plain_draw
from rnnlab.selfcheck.judge import apart_in

BACKENDS: tuple[Backend, ...] = tuple(name for name in get_args(Backend) if name not in ("auto", "native"))
"""Those that may run on a device."""
TOLERANCE = {"highest": 2e-4, "tf32": 3e-2, "tf32x3": 2e-4, "bfloat16": 0.3}
"""How far a device may be from double precision, in parts of an array's largest element."""


def check_cell(
    name: str, shape: Sequence[int], backends: Sequence[Backend], precisions: Sequence[Precision]
) -> list[dict[str, Any]]:
    """A row for each backend and precision: how far it is apart, and where most; or why it does not run.

    Rounded products are compared on the backends "fused" and "kernel". On a CPU kernels are interpreted.
    """
    steps, batch, inputs, features = shape
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        draw = plain_draw(name, (steps, batch, inputs, features), "highest", backend="reference")
        problem = make_problem(draw, double=True)
        exact = jax.device_get(jax.jit(problem.computed(False))(problem.point, problem.direction))
    cell = nnx.eval_shape(lambda: CELLS[name](inputs, features, rngs=nnx.Rngs(0)))
    asked = [
        (backend, precision)
        for precision in precisions
        for backend in backends
        if precision == "highest" or backend in ("fused", "kernel")
    ]

    def row(pair: tuple[Backend, Precision]) -> dict[str, Any]:
        backend, precision = pair
        words = {"cell": name, "backend": backend, "precision": precision}
        options = {"interpret": True} if backend == "kernel" and jax.default_backend() == "cpu" else {}
        try:
            resolve_backend(cell, backend, bool(options))
        except ValueError as error:
            return words | _failed(error) | {"refused": True}
        try:
            draw = plain_draw(name, (steps, batch, inputs, features), precision, backend=backend, **options)
            problem = make_problem(draw)
            values = jax.device_get(jax.jit(problem.computed(False))(problem.point, problem.direction))
        except Exception as error:  # Refusals are lines of the table, and so are a compiler's faults.
            return words | _failed(error) | {"refused": isinstance(error, ConfigError)}
        where, apart = apart_in(values, exact)
        return words | {"apart": apart, "where": where, "right": bool(apart <= TOLERANCE[precision])}

    with ThreadPoolExecutor(max(1, min(cores(), 8))) as pool:
        return list(pool.map(row, asked))


def _failed(error: Exception) -> dict[str, str]:
    return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}


def refused(row: Mapping[str, Any]) -> bool:
    """Whether a backend says in one line that it does not take the cell, which is no fault; whatever else is raised
    is one."""
    return row.get("refused", False)


def names(cells: Sequence[str]) -> list[str]:
    """The cells in the order in which they are checked: those that most networks have first."""
    first = ("lstm", "gru", "irnn", "vanilla")
    return [name for name in (*first, *(each for each in CELLS if each not in first)) if name in cells]
