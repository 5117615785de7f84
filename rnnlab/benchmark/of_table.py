"""Cells of the table that other libraries do not have: their weights as initialised, and the plain scan of their step.

The contestants are in `contestants.py`, what the libraries have too in `cases.py`.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from rnnlab.benchmark.cases import Case
from rnnlab.cells import CELLS, BaseCell
from rnnlab.engine.contract import eval_shape, multiplication, products_of
from rnnlab.nn.recurrent_layer import RecurrentLayer


def make_layer(case: Case, backend: str = "auto", **recurrence: Any) -> RecurrentLayer:
    """The layer of a case, the same numbers each time."""
    return RecurrentLayer(
        case.inputs,
        cell=case.section,
        bidirectional=case.bidirectional,
        recurrence={"backend": backend, **recurrence},
        precision=case.precision,
        rngs=nnx.Rngs(0),
    )


def backends_of(name: str) -> list[str]:
    """Those that run a cell, the default first."""
    cell = nnx.eval_shape(lambda: CELLS[name](4, 8, rngs=nnx.Rngs(0)))
    return ["fused", "reference", *["scan"] * (cell.linear is not None)]


def multiply_adds(case: Case) -> tuple[int, int]:
    """Multiplications of one row at one step in one direction: those of the products of the input, and those that need
    the gradient of both factors, within the loop and in the map of the outputs."""
    cell = _shapes_of(case)
    matrices = eval_shape(lambda cell: cell.matrices(), cell)
    x = jax.ShapeDtypeStruct((1, 1, case.inputs), jnp.float32)
    within = sum(matrices[product.name].kernel.size for product in products_of(cell, x))
    # Counted of wide inputs: the product of a narrow one is written as a sum.
    wide, wider = (_of_maps(case._replace(inputs=inputs)) for inputs in (_WIDE, 2 * _WIDE))
    slopes = [(b - a) // _WIDE for a, b in zip(wide, wider, strict=True)]
    project, output = (a + slope * (case.inputs - _WIDE) for a, slope in zip(wide, slopes, strict=True))
    return project, within + output


_WIDE = 512


def _shapes_of(case: Case) -> BaseCell:
    section = {name: value for name, value in case.section.items() if name != "name"}
    return nnx.eval_shape(lambda: CELLS[case.section["name"]](case.inputs, **section, rngs=nnx.Rngs(0)))


def _of_maps(case: Case) -> tuple[int, int]:
    """The multiplications of the matrix products in `project` and in `output_map`."""
    graphdef, state = nnx.split(_shapes_of(case))
    x, h = (jax.ShapeDtypeStruct((1, 1, width), jnp.float32) for width in (case.inputs, case.features))

    def count(function: Any) -> int:
        program = jax.make_jaxpr(lambda state, x, h: function(nnx.merge(graphdef, state), x, h))(state, x, h)
        return _within(program.jaxpr)

    of_output = lambda cell, x, h: h if cell.output_map is None else cell.output_map(h, x)  # noqa: E731
    return count(lambda cell, x, h: cell.project(x)), count(of_output)


def _within(program: Any) -> int:
    count = 0
    for equation in program.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            count += equation.outvars[0].aval.size * math.prod(left[axis] for axis in contracted)
        for inner in equation.params.values():
            inner = getattr(inner, "jaxpr", inner)
            count += _within(inner) if hasattr(inner, "eqns") else 0
    return count


def make_plain_scan(case: Case) -> tuple[Any, Any]:
    """(function of parameters and x, parameters): `step` of the case's cell under `lax.scan` with ordinary products,
    everything of a step inside, to be differentiated by JAX."""
    graphdef, params, rest = nnx.split(nnx.List(make_layer(case).cells), nnx.Param, ...)

    def forward(params: Any, x: jax.Array) -> jax.Array:
        outputs = []
        for direction, cell in enumerate(nnx.merge(graphdef, params, rest)):
            matrices = cell.matrices()

            def body(carry: Any, x: jax.Array, cell: Any = cell, matrices: Any = matrices) -> Any:
                new = cell.step(carry, cell.split(cell.project(x)), multiplication(matrices, cell.precision))
                return new, new[0]

            h = lax.scan(body, cell.initial_carry(x.shape[1], x.dtype), x, reverse=direction == 1)[1]
            outputs.append(h if cell.output_map is None else cell.output_map(h, x))
        return jnp.concatenate(outputs, -1)

    return forward, nnx.to_pure_dict(params)
