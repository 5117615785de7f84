"""What several test files share: double precision, cells at random points, comparisons, and an oracle for `unroll`.

The oracle is a Python loop over rows and steps; it knows neither masks nor scans.
"""

import contextlib
import functools
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from flax import nnx
from jax.extend.core import ClosedJaxpr, Jaxpr

from rnnlab import plots
from rnnlab.cells import CELLS, BaseCell
from rnnlab.engine import Matrix, Multiply, RecurrentCell, Taps
from rnnlab.engine.contract import eval_shape
from rnnlab.nn.network import Network
from rnnlab.nn.trajectory import Trajectory, carries_of
from rnnlab.ops.random_streams import Training
from rnnlab.training.run import Run
from tests.tiers import CELL_VARIANTS, PLAIN_FUNCTIONS

float64 = functools.partial(jax.enable_x64, True)
"""A context in which arrays have double precision."""


@contextlib.contextmanager
def jaxtyping_disabled() -> Iterator[None]:
    """As outside the tests, where no types are checked at run time."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


@contextlib.contextmanager
def without_figures() -> Iterator[None]:
    """Draws no figures of a run and does not measure what they show: a second a run. test_loop.py looks at them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "gradient_flow", lambda run, states: {when: {} for when in states})
        patch.setattr(plots, "gradient_flow", lambda workdir: None)
        patch.setattr(plots, "learning_curve", lambda *words: None)
        yield


SMALL_RUN: dict[str, Any] = dict(
    steps=60,
    batch_size=4,
    log_every=10,
    eval_every=20,
    checkpoint_every=20,
    eval_batch_size=32,
    task=dict(name="adding", length=6, validation_size=50, test_size=40),
    model=dict(cell=dict(name="irnn", features=8, input_init="glorot_uniform")),
    optimizer=dict(name="adam", learning_rate=1e-2, clip_norm=1.0),
)
"""A config that trains in a second."""


def without_cache_lines(said: str) -> str:
    """What a process said on standard error, without what jax 0.10.1 says of programs that it finds in its cache."""
    return "".join(line for line in said.splitlines(keepends=True) if "cpu_aot_loader" not in line)


def make_cell(variant: str, in_features: int = 3, features: int = 4, seed: int = 0, **parameters: Any) -> nnx.Module:
    """A cell of CELL_VARIANTS or PLAIN_FUNCTIONS as it is initialised."""
    if parameters:
        return _new_cell(variant, in_features, features, seed, **parameters)
    graphdef, state = _initialised(variant, in_features, features, seed, jax.config.jax_enable_x64)
    return nnx.merge(graphdef, jax.tree.map(jnp.asarray, state))


@functools.cache
def shape_of_cell(variant: str) -> nnx.Module:
    """A cell of which nothing is drawn: shapes in place of its parameters."""
    return nnx.eval_shape(lambda: _new_cell(variant, 3, 4, 0))


def shapes_of_matrices(variant: str) -> dict[str, Matrix]:
    """What a cell's step multiplies by, shapes in place of the arrays."""
    return eval_shape(lambda cell: cell.matrices(), shape_of_cell(variant))


def all_around(variant: str) -> dict[str, Any]:
    """The fields of a network with all that can stand around a cell, with numbers of their own."""
    cell, matrices = shape_of_cell(variant), shapes_of_matrices(variant).values()
    rates = {"input": 0.5, "output": 0.5, "zoneout": 0.3, "candidate": 0.4, "state": 0.5, "recurrent_kernel": 0.5}
    missing = set() if cell.has_candidate else {"candidate"}
    missing |= set() if any(matrix.of_state for matrix in matrices) else {"state", "recurrent_kernel"}
    return {
        "dropout": {name: rate for name, rate in rates.items() if name not in missing},
        "cotangent": {"scale": 0.9, "clip_value": 2.0, "clip_norm": 3.0},
        "normalization": {"cell": "layer"} if type(cell).project is BaseCell.project else {},
    }


def gradients_with_all_around(
    variant: str, x: jax.Array, lengths: jax.Array, features: int, recurrence: dict[str, Any], **model: Any
) -> Any:
    """Loss and gradients, in training, of a network of two outputs at a random point, with `all_around` its cell."""
    fields = all_around(variant) | {"recurrence": recurrence, "rngs": nnx.Rngs(0)} | model
    net = Network(x.shape[2], 2, cell={"name": variant, "features": features}, **fields)
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)
    params = jax.tree.map(lambda a, n: a + 0.3 * n, in_double(params), random_like(in_double(params), 7))

    def loss(params: Any) -> jax.Array:
        training = Training(jax.random.key(0), jnp.arange(x.shape[1]))
        return (nnx.merge(graphdef, params, in_double(rest))(x, lengths, training=training) ** 2).sum()

    return jax.jit(jax.value_and_grad(loss))(params)


def _new_cell(variant: str, in_features: int, features: int, seed: int, **parameters: Any) -> nnx.Module:
    name, fields = (CELL_VARIANTS | PLAIN_FUNCTIONS)[variant]
    return CELLS[name](in_features, features, **fields, **parameters, rngs=nnx.Rngs(seed))


@functools.cache
def _initialised(variant: str, in_features: int, features: int, seed: int, x64: bool) -> tuple[nnx.GraphDef, nnx.State]:
    """A cell, split, in NumPy: one program draws all of it; op by op each draw is several."""
    graphdefs = []

    def draw() -> nnx.State:
        graphdef, state = nnx.split(_new_cell(variant, in_features, features, seed))
        graphdefs.append(graphdef)
        return state

    state = jax.tree.map(np.asarray, at_once(draw))
    return graphdefs[0], state


def at_once(draw: Callable[[], Any]) -> Any:
    """What a function without arguments makes, in one program, also while another is traced."""
    return jax.jit(draw).lower().compile()()


def random_cell(variant: str, seed: int = 0, in_features: int = 3, features: int = 4) -> tuple[nnx.GraphDef, nnx.State]:
    """A cell, split, whose parameters are from N(0, 0.6²), those of one axis from N(0, 0.4²); in double precision
    where that is on.

    Initial values would test little: biases are zero, the IRNN's input weights 0.001. None are drawn here.
    """
    graphdef, state = _undrawn(variant, in_features, features, jax.config.jax_enable_x64)
    rng = np.random.default_rng(seed + 100)

    def drawn(leaf: jax.ShapeDtypeStruct | np.ndarray) -> jax.Array:
        if isinstance(leaf, np.ndarray):
            return as_array(leaf)
        return as_array((0.6 if len(leaf.shape) > 1 else 0.4) * rng.standard_normal(leaf.shape), leaf.dtype)

    return graphdef, in_double(jax.tree.map(drawn, state))


@functools.cache
def _undrawn(variant: str, in_features: int, features: int, x64: bool) -> tuple[nnx.GraphDef, nnx.State]:
    """A cell, split: shapes in place of its parameters, in NumPy what else it holds."""
    graphdefs = []

    def new(which: Any) -> nnx.State:
        graphdef, state = nnx.split(_new_cell(variant, in_features, features, 0))
        graphdefs.append(graphdef)
        return nnx.filter_state(state, which)

    params = jax.eval_shape(lambda: new(nnx.Param))
    others = jax.eval_shape(lambda: new(nnx.Not(nnx.Param)))
    if jax.tree.leaves(others):
        others = jax.tree.map(np.asarray, at_once(lambda: new(nnx.Not(nnx.Param))))
    return graphdefs[0], nnx.merge_state(params, others)


def as_array(a: np.ndarray, dtype: Any = float) -> jax.Array:
    """In this type, or in double precision where that is on and in single where it is not; nothing is compiled."""
    return jnp.asarray(a.astype(jnp.result_type(dtype)))


def in_double(tree: Any) -> Any:
    """The arrays of a tree in double precision, where that is on."""
    return jax.tree.map(
        lambda a: jnp.asarray(a, float) if isinstance(a, jax.core.Tracer) else as_array(np.asarray(a)), tree
    )


def random_like(tree: Any, seed: int) -> Any:
    """Standard normal arrays of the shapes in tree, drawn by NumPy."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: as_array(rng.standard_normal(a.shape), a.dtype), tree)


def random_carry(cell: Any, batch: int, dtype: Any, seed: int) -> tuple[jax.Array, ...]:
    """A carry of standard normal numbers; the steps so far, where a cell counts them, go on from 0, 1, 2 and so on."""
    count = as_array(np.arange(batch, dtype=float)[:, None])
    return tuple(count if is_count(a) else a for a in random_like(cell.initial_carry(batch, dtype), seed))


def random_array(seed: int, *shape: int) -> jax.Array:
    """Standard normal, in double precision where that is on."""
    return as_array(np.random.default_rng(seed).standard_normal(shape))


def is_count(a: jax.Array) -> bool:
    """Whether an element of a carry, or what belongs to it, counts steps [B, 1]; no gradient passes it."""
    return a.shape[-1] == 1


def random_direction(point: tuple[Any, ...], seed: int) -> tuple[Any, ...]:
    """Where to move a point whose last part is a carry; counts stay."""
    *others, carry = random_like(point, seed)
    return *others, tuple(jnp.zeros_like(a) if is_count(a) else a for a in carry)


def assert_shares(counts: Any, expected: float) -> None:
    """Things that are equally likely are drawn equally often, to four standard errors.

    Args:
        counts: how often each of them was drawn.
        expected: the probability of each.
    """
    total = np.sum(counts)
    np.testing.assert_allclose(counts, total * expected, atol=4 * np.sqrt(total * expected * (1 - expected)))


def dot(a: Any, b: Any) -> jax.Array:
    """The inner product of two trees."""
    return sum(jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def assert_close(actual: Any, expected: Any, tolerance: float) -> None:
    """Leaf by leaf, the largest difference is at most tolerance times the leaf's largest value; NaN never passes."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for (path, a), e in zip(jax.tree.leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
        name, a, e = jax.tree_util.keystr(path), np.asarray(a), np.asarray(e)
        assert (a.shape, a.dtype) == (e.shape, e.dtype), f"{name}: {a.dtype}{a.shape} against {e.dtype}{e.shape}"
        error, scale = np.abs(a - e).max(initial=0), np.abs(e).max(initial=0)
        assert error <= tolerance * scale, f"{name}: differs by {error:.3g}, largest value {scale:.3g}"


def with_bad_padding(x: jax.Array, lengths: jax.Array) -> jax.Array:
    """x [T, B, D] with NaN and infinity by turns past each row's end."""
    steps = jnp.arange(x.shape[0])[:, None, None]
    bad = jnp.where(steps % 2 == 0, jnp.nan, jnp.inf)
    return jnp.where(steps < lengths[:, None], x, bad)


@functools.partial(jax.jit, static_argnums=(0, 2))
def _carries_of(graphdef: nnx.GraphDef, state: nnx.State, reverse: bool, x: jax.Array, rest: Any, options: Any) -> Any:
    lengths, carry = rest
    return carries_of(nnx.merge(graphdef, state), x, lengths, reverse, carry, **options)


def compiled_carries(
    cell: Any, x: jax.Array, lengths: jax.Array | None, reverse: bool, carry: Any, **options: Any
) -> tuple[Any, Any]:
    """`carries_of`, compiled."""
    graphdef, state = nnx.split(cell)
    return _carries_of(graphdef, state, reverse, x, (lengths, carry), options)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _measured(
    measure: Callable[..., Any],
    name: str,
    graphdef: nnx.GraphDef,
    reverse: bool,
    options: tuple[tuple[str, Any], ...],
    state: nnx.State,
    arrays: dict[str, Any],
    others: tuple[jax.Array, ...],
) -> Any:
    trajectory = Trajectory(name=name, cell=nnx.merge(graphdef, state), reverse=reverse, **arrays)
    return measure(trajectory, *others, **dict(options))


def measured(measure: Callable[..., Any], trajectory: Trajectory, *others: jax.Array, **options: Any) -> Any:
    """A diagnostic of a trajectory; compiled once for all trajectories of a shape."""
    arrays = trajectory._asdict()
    name, cell, reverse = arrays.pop("name"), arrays.pop("cell"), arrays.pop("reverse")
    graphdef, state = nnx.split(cell)
    return _measured(measure, name, graphdef, reverse, tuple(options.items()), state, arrays, others)


def by_hand(cell: RecurrentCell, tap: jax.Array | None = None, mask: jax.Array | None = None) -> Multiply:
    """What a step multiplies with, each product as one of whole matrices; tap [B, U]: added to the products; mask
    [B, H]: a factor of h."""
    matrices, columns = cell.matrices(), iter(range(0 if tap is None else tap.shape[1]))

    def multiply(name: str, value: jax.Array) -> list[jax.Array]:
        matrix = matrices[name]
        kernel = jnp.diag(matrix.kernel) if matrix.kernel.ndim == 1 else matrix.kernel
        if kernel.ndim == 3:  # By heads: all of one head's columns, then the next one's.
            heads, _, width = kernel.shape
            order = np.arange(heads * width).reshape(heads, matrix.parts, -1).swapaxes(0, 1).ravel()
            kernel = jax.scipy.linalg.block_diag(*kernel)[:, order]
        if mask is not None and matrix.of_state:
            value = value * jnp.concatenate([mask] * (value.shape[1] // mask.shape[1]), 1)
        u = value @ kernel
        if matrix.offset is not None:
            u = u + matrix.offset
        if tap is not None:
            u = u + tap[:, np.array([next(columns) for _ in range(u.shape[1])])]
        return jnp.split(u, matrix.parts, axis=1)

    return multiply


def loop(
    cell: RecurrentCell,
    x: jax.Array,
    carry: tuple[jax.Array, ...],
    *,
    lengths: list[int] | None = None,
    reverse: bool = False,
    taps: Taps | None = None,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """What `unroll` must return, one row and one step at a time."""
    steps, batch = x.shape[:2]
    outputs, lasts = [], []
    for row in range(batch):
        valid = range(steps if lengths is None else lengths[row])
        state = tuple(c[row : row + 1] for c in carry)
        h = [jnp.zeros_like(carry[0][0])] * steps
        for t in reversed(valid) if reverse else valid:
            z = cell.project(x[t, row : row + 1])
            multiply = by_hand(cell, None if taps is None else taps.u[t, row : row + 1])
            state = cell.step(state, cell.split(z), multiply)
            if taps is not None:
                state = tuple(s + tap[t, row] for s, tap in zip(state, taps.carry, strict=True))
            h[t] = state[0][0]
        outputs.append(jnp.stack(h))
        lasts.append(state)
    return jnp.stack(outputs, 1), tuple(jnp.concatenate(parts) for parts in zip(*lasts, strict=True))


def event_file_loader(path: Path) -> Iterator[Any]:
    """The events of a file: length, its checksum, the event, its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    data = path.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        yield Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]


def equations(jaxpr: Jaxpr) -> Iterator[Any]:
    """All of a program, those of the programs in it among them."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda a: isinstance(a, Jaxpr)):
            inner = inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner
            if isinstance(inner, Jaxpr):
                yield from equations(inner)


def products(jaxpr: Jaxpr) -> list[tuple[Any, str]]:
    """(precision, type of the operands) of every product of a program."""
    each = []
    for equation in equations(jaxpr):
        if equation.primitive.name == "dot_general":
            (kind,) = {str(operand.aval.dtype) for operand in equation.invars}
            each.append((equation.params["precision"], kind))
    return each
