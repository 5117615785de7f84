"""A draw: a cell from the table, shapes, switches of the engine, values; and the program that it makes.

Everything follows from (seed, number), by NumPy. How a program is judged is in `judge.py`.
"""

import contextlib
import dataclasses
import typing
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rnnlab.cells import CELLS, BaseCell
from rnnlab.cells.wrappers import GateGains, ModifiedCell
from rnnlab.config.errors import ConfigError
from rnnlab.config.fields import fields_of
from rnnlab.engine import products_of, unroll
from rnnlab.engine.contract import eval_shape
from rnnlab.ops.activations import ACTIVATIONS
from rnnlab.ops.initializers import INITIALIZERS
from rnnlab.ops.linear import Precision
from rnnlab.typing import PyTree

LARGEST = {"T": 9, "B": 6, "D": 4, "H": 8}
"""Small arrays, whose loops end within a vector or two: there jaxlib 0.10 is wrong, for few shapes of many."""
WIDE = {"B": 40, "H": 130}
"""In one draw of eight."""
KNOWN: tuple[dict[str, Any], ...] = (
    {"cell": "gru"},
    {"cell": "gru", "second": True},
    {"cell": "gru", "replicas": 2},
    {"cell": "lstm", "replicas": 3},
)
"""Programs that jaxlib 0.10.2 computes wrongly with T=7 B=4 D=3 H=5, on the reference backend in double precision,
0.10.1 those with replicas: the first draws of every seed."""


@dataclasses.dataclass(frozen=True)
class Draw:
    """One program to be checked, without its values."""

    seed: int
    number: int
    cell: str
    """A name in `CELLS`."""
    parameters: dict[str, Any]
    """Its switches."""
    around: tuple[str, ...]
    """The wrappers around it: some of `gains`, `kernel_mask`, `candidate`, `zoneout`."""
    double: bool
    shape: tuple[int, int, int, int]
    """T, B, D, H."""
    lengths: tuple[int, ...] | None
    options: dict[str, Any]
    """The arguments of `unroll`."""
    state_mask: bool
    replicas: int | None
    """How many cells run side by side by `vmap`; None: one, without it."""
    second: bool
    """Whether a derivative of the gradient is computed, along a direction."""
    precision: Precision = "highest"
    """That of the cell."""

    def __str__(self) -> str:
        """For people, in one line."""
        cell = ", ".join([self.cell, *(f"{k}={v}" for k, v in self.parameters.items()), *self.around])
        sizes = " ".join(f"{name}={size}" for name, size in zip("TBDH", self.shape, strict=True))
        options = {k: v for k, v in self.options.items() if v != _USUAL[k]} | {
            "lengths": self.lengths,
            "state_mask": self.state_mask or None,
            "vmap": self.replicas,
            "second order": self.second or None,
        }
        rest = ", ".join(f"{k}={v}" for k, v in options.items() if v is not None)
        return f"{cell}; {sizes}; {'float64' if self.double else 'float32'}{'; ' * bool(rest)}{rest}"


_USUAL = {"backend": "auto", "reverse": False, "chunk": None, "store": "auto", "unroll_steps": 1, "interpret": False}


def make_draw(seed: int, number: int, double: bool = True) -> Draw:
    """The draw of this number. double: whether the device has double precision; else all draws are float32."""
    if number < len(KNOWN):
        usual: dict[str, Any] = {"parameters": {}, "around": (), "lengths": None, "state_mask": False}
        usual |= {"options": _USUAL | {"backend": "reference"}, "replicas": None, "second": False}
        return Draw(**(usual | KNOWN[number]), seed=seed, number=number, double=double, shape=(7, 4, 3, 5))
    rng = np.random.default_rng([seed, number])

    def choice(*values: Any) -> Any:
        return values[rng.integers(len(values))]

    def happens(probability: float) -> bool:
        return bool(rng.random() < probability)

    name = cell_of(seed, number)
    shape = {axis: int(rng.integers(1, largest + 1)) for axis, largest in LARGEST.items()}
    if happens(1 / 8):
        shape |= {axis: int(rng.integers(1, largest + 1)) for axis, largest in WIDE.items()}
    steps, batch = shape["T"], shape["B"]
    parameters = {field: choose(choice) for field, choose in _switches(name).items()}
    shape["H"], cell = _of_size(name, parameters, shape["D"], shape["H"])
    meets = any(matrix.of_state for matrix in eval_shape(lambda cell: cell.matrices(), cell).values())
    second = happens(0.15)
    backends = ["auto", "fused", "reference", "reference", *["scan"] * (cell.linear is not None)]
    backend = "reference" if second else choice(*backends)
    fused = backend in ("auto", "fused")
    possible = ["zoneout", "candidate" if cell.has_candidate else "kernel_mask"]
    if shape["H"] > 2 and type(cell).project is BaseCell.project:  # The variance of two units may be anything.
        possible += ["gains"]
    return Draw(
        seed=seed,
        number=number,
        cell=name,
        parameters={field: value for field, value in parameters.items() if value},
        around=tuple(part for part in possible if happens(0.15)),
        double=happens(0.6) and double,
        shape=(steps, batch, shape["D"], shape["H"]),
        lengths=tuple(int(n) for n in rng.integers(0, steps + 1, batch)) if happens(0.3) else None,
        options={
            "backend": backend,
            "reverse": happens(0.3),
            "chunk": choice(*range(1, steps + 1)) if fused and happens(0.3) else None,
            "store": choice("auto", "gates", "carries", "ends") if fused else "auto",
            "unroll_steps": choice(2, 3) if happens(0.1) else 1,
            "interpret": False,
        },
        state_mask=happens(0.1) and meets,
        replicas=choice(2, 3) if happens(0.25) else None,
        second=second,
    )


def plain_draw(cell: str, shape: tuple[int, int, int, int], precision: Precision, **options: Any) -> Draw:
    """A cell as it is without switches, in single precision, with these arguments of `unroll`; rows have all lengths.

    shape: T, B, D, H; of a cell that does not take H units the next number that it takes.
    """
    steps, batch, inputs, features = shape
    return Draw(
        seed=0,
        number=0,
        cell=cell,
        parameters={},
        around=(),
        double=False,
        shape=(steps, batch, inputs, _of_size(cell, {}, inputs, features)[0]),
        lengths=tuple(steps - row * steps // max(batch - 1, 1) for row in range(batch)),
        options=_USUAL | options,
        state_mask=False,
        replicas=None,
        second=False,
        precision=precision,
    )


def cell_of(seed: int, number: int) -> str:
    """The cell of a draw: as many draws as there are cells, one after the other, have all of them."""
    turn, place = divmod(number, len(CELLS))
    return list(CELLS)[np.random.default_rng([seed, turn, 2]).permutation(len(CELLS))[place]]


def _of_size(name: str, parameters: dict[str, Any], in_features: int, features: int) -> tuple[int, BaseCell]:
    """A cell of H units, or of the next number that it takes, such as an even one; and the number."""
    for more in range(8):
        with contextlib.suppress(ConfigError):
            return features + more, _abstract_cell(name, parameters, in_features, features + more)
    raise ValueError(f"{name} takes none of {features} to {features + 7} units")


def _switches(name: str) -> dict[str, Callable[[Callable[..., Any]], Any]]:
    """How a value is chosen for every parameter of a cell that changes its equations: what is on or off, and what names
    an activation."""
    switches: dict[str, Any] = {}
    for field, (hint, default) in fields_of(CELLS[name]).items():
        if hint is bool:
            switches[field] = lambda choice: choice(False, False, True)
        elif _named_by(hint, ACTIVATIONS):
            switches[field] = lambda choice, usual=default: choice(usual, *ACTIVATIONS)
    return switches


def _abstract_cell(name: str, parameters: dict[str, Any], in_features: int, features: int) -> BaseCell:
    """Shapes alone: to draw its values would compile more than is checked."""
    return nnx.eval_shape(lambda: _new_cell(name, parameters, in_features, features))


def _new_cell(name: str, parameters: dict[str, Any], in_features: int, features: int) -> BaseCell:
    zeros = {field: "zeros" for field, (hint, _) in fields_of(CELLS[name]).items() if _named_by(hint, INITIALIZERS)}
    return CELLS[name](in_features, features, **parameters, **zeros, rngs=nnx.Rngs(0))


def _values_of_others(draw: Draw, dtype: Any) -> nnx.State:
    """What a cell holds beside its parameters: numbers of its options, matrices that are not trained."""
    _, _, in_features, features = draw.shape

    @jax.jit
    def others() -> nnx.State:
        cell = _new_cell(draw.cell, draw.parameters, in_features, features)
        return nnx.state(cell, nnx.Not(nnx.Param))

    return jax.tree.map(lambda a: np.asarray(a, dtype), others())


def _named_by(hint: Any, table: Any) -> bool:
    """Whether values of this annotation are named by a table."""
    return any(mark is table for mark in typing.get_args(hint)[1:])


# --- its program -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Problem:
    """A draw's loss, and where it is differentiated."""

    loss: Callable[[PyTree], jax.Array]
    """point -> loss; of replicas their sum."""
    point: dict[str, Any]
    """`params`, `x` [T, B, D] and `carry`, all with a first axis of replicas where there are some."""
    direction: dict[str, Any]
    """A unit vector in the space of points, along which a gradient is looked at or differentiated."""
    graphdef: Any
    weights: tuple[Any, ...]
    """The weights of every output and of the last carry in the loss."""

    def computed(self, second: bool) -> Callable[[PyTree, PyTree], dict[str, Any]]:
        """(point, direction) -> the loss and its gradient, or the derivative of the gradient along the direction."""

        def first_order(point: PyTree, direction: PyTree) -> dict[str, Any]:
            loss, gradient = jax.value_and_grad(self.loss)(point)
            return {"loss": loss, **gradient}

        def second_order(point: PyTree, direction: PyTree) -> dict[str, Any]:
            return jax.jvp(jax.grad(self.loss), (point,), (direction,))[1]

        return second_order if second else first_order


def make_problem(draw: Draw, double: bool | None = None) -> Problem:
    """The values of a draw, in its precision or another, and its loss; where it is in double precision, that must be on
    (`jax.enable_x64`)."""
    rng = np.random.default_rng([draw.seed, draw.number, 1])
    dtype = np.float64 if (draw.double if double is None else double) else np.float32
    steps, batch, in_features, features = draw.shape
    graphdef, abstract = nnx.split(_abstract_cell(draw.cell, draw.parameters, in_features, features))
    replicated = () if draw.replicas is None else (draw.replicas,)

    def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
        return np.asarray(scale * rng.standard_normal(shape), dtype)

    def like(leaf: Any) -> np.ndarray:
        return normal(*replicated, *leaf.shape, scale=0.8 / np.sqrt(leaf.shape[0] if leaf.ndim > 1 else 2))

    cell: Any = nnx.merge(graphdef, abstract)
    carries = [a.shape for a in jax.eval_shape(lambda: cell.initial_carry(batch))]
    x = jax.ShapeDtypeStruct((steps, batch, in_features), dtype)
    widths = len(cell.gate_names) * features, sum(product.columns for product in products_of(cell, x))
    params, others = nnx.split_state(abstract, nnx.Param, ...)
    params = jax.tree.map(like, params)
    if jax.tree.leaves(others):
        others = jax.tree.map(lambda a: np.broadcast_to(a, (*replicated, *a.shape)), _values_of_others(draw, dtype))
    point = {
        "params": nnx.merge_state(params, others),
        "x": normal(*replicated, steps, batch, in_features),
        "carry": tuple(normal(*replicated, *shape, scale=0.5) for shape in carries),
    }
    if "gains" in draw.around:
        gains = [normal(*replicated, width, scale=0.2) for width in widths if width]
        point["gains"] = tuple(np.asarray(1 + gain, dtype) for gain in gains)
    direction = jax.tree.map(lambda leaf: normal(*leaf.shape), point)
    for number, name in enumerate(cell.carry_names):
        if name == "steps":  # So many until now: a whole number, which no gradient passes.
            point["carry"][number][...] = np.round(np.abs(point["carry"][number]))
            direction["carry"][number][...] = 0
    length = np.sqrt(sum(float((leaf.astype(np.float64) ** 2).sum()) for leaf in jax.tree.leaves(direction)))
    direction = jax.tree.map(lambda leaf: np.asarray(leaf / length, dtype), direction)
    weights = normal(steps, batch, features), tuple(normal(*shape) for shape in carries)
    keep = lambda *shape: np.asarray(rng.random(shape) < 0.7, dtype) / dtype(0.7)  # noqa: E731
    matrices = eval_shape(lambda cell: cell.matrices(), cell)
    shapes = {name: matrix.kernel.shape for name, matrix in matrices.items()}
    kernel_masks = {name: keep(*shape) for name, shape in shapes.items() if "kernel_mask" in draw.around}
    noise = [keep(steps, batch, features)] if "candidate" in draw.around else []
    noise += [np.asarray(rng.random((steps, batch, features)) < 0.7, dtype)] if "zoneout" in draw.around else []
    state_mask = keep(batch, features) if draw.state_mask else None
    lengths = None if draw.lengths is None else np.asarray(draw.lengths, np.int32)

    def of_one(point: dict[str, Any]) -> jax.Array:
        cell: Any = nnx.merge(graphdef, point["params"])
        cell.precision = draw.precision
        modified = {"candidate": "candidate" in draw.around, "zoneout": (0,) * ("zoneout" in draw.around)}
        if draw.around:
            gains = None
            if "gains" in draw.around:
                gains = GateGains(*widths)
                gains.input_gain[...], *of_products = point["gains"]
                for gain in of_products:
                    gains.recurrent_gain[...] = gain
            cell = ModifiedCell(cell, gains=gains, kernel_masks=kernel_masks, **modified)  # pyright: ignore
        result = unroll(
            cell,
            point["x"],
            lengths=None if lengths is None else jnp.asarray(lengths),
            initial_carry=point["carry"],
            noise=tuple(map(jnp.asarray, noise)),
            state_mask=None if state_mask is None else jnp.asarray(state_mask),
            **draw.options,
        )
        pairs = zip(jax.tree.leaves(weights), jax.tree.leaves(result), strict=True)
        parts = [jnp.vdot(w, a) + (0.5 * jnp.vdot(a, a) if draw.second else 0) for w, a in pairs]
        return jnp.stack(parts).sum()

    def loss(point: dict[str, Any]) -> jax.Array:
        return of_one(point) if draw.replicas is None else jax.vmap(of_one)(point).sum()

    return Problem(loss, point, direction, graphdef, weights)
