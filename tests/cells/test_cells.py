"""Conformance of every cell: what holds for one entry of CELLS holds for all, in both backends.

Which steps a mask lets through and what the taps mean is in test_unrolling.py; agreement with the papers' equations in
test_equations.py, with other libraries in test_peers.py; how parameters are drawn in test_initializers.py.
"""

import copy
import functools
import pickle
from collections.abc import Callable
from dataclasses import InitVar
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from rnnlab.cells import CELLS, Cell, Vanilla
from rnnlab.config.bounds import Traced
from rnnlab.config.errors import ConfigError
from rnnlab.engine import Cotangent, make_taps, unroll
from rnnlab.ops.activations import ACTIVATIONS, ModReLU, PerUnit, as_activation, hyperparameter
from tests.helpers import (
    assert_close,
    dot,
    float64,
    in_double,
    is_count,
    make_cell,
    random_array,
    random_carry,
    random_cell,
    random_direction,
    random_like,
    with_bad_padding,
)
from tests.tiers import CELL_VARIANTS, PLAIN_FUNCTIONS, in_tier, in_tiers

T, B, D = 7, 4, 3
LENGTHS = (7, 0, 4, 2)

BACKENDS = ("fused", "reference")


# The reference backend loops over the same step.
OF_CELLS = [in_tier(name, backend, further=backend == "reference") for name in CELLS for backend in BACKENDS]
OF_VARIANTS = [in_tier(name, backend, further=backend == "reference") for name in CELL_VARIANTS for backend in BACKENDS]

MESH = Mesh(np.array(jax.devices()), ("data",), axis_types=(AxisType.Auto,))
"""Two devices, as training has them."""

# With the chunk that leaves a remainder, every pair of reverse, lengths and store occurs.
# (chunk, reverse, lengths, store, unroll_steps, place): the arrays lie on one device, on a mesh, or their rows are
# split by `shard_map`.
SWITCHES = [
    (3, False, False, "gates", 1, "device"),
    (3, False, True, "ends", 3, "device"),
    (3, True, False, "ends", 1, "mesh"),
    (3, True, True, "gates", 2, "rows"),
    (3, False, False, "carries", 1, "rows"),
    (3, True, True, "carries", 1, "mesh"),
    (1, False, True, "carries", 2, "device"),
    (1, True, False, "ends", 1, "rows"),
    (T, True, True, "ends", 3, "device"),
    (None, False, False, "auto", 2, "mesh"),
]
MAIN_SWITCHES = SWITCHES[3:4]
VARIANT_SWITCHES = [(3, True, True, "ends", 2, "mesh"), (3, False, False, "gates", 1, "rows")]
TURNS = ("gru_reset_before", "gru", "vanilla", "lstm", "cornn")
PLAIN_SWITCHES = [(3, False, True, "gates", 1, "mesh"), (3, True, False, "carries", 1, "rows")]


def problem(variant: str, lengths: bool, seed: int = 0) -> tuple[nnx.GraphDef, tuple[Any, ...], jax.Array | None]:
    """A cell, the point (parameters, x, initial carry, taps) to differentiate at, and the rows' lengths or None."""
    graphdef, state = random_cell(variant, seed)
    cell = nnx.merge(graphdef, state)
    x = random_array(seed + 1, T, B, D)
    carry = random_carry(cell, B, x.dtype, seed + 2)
    taps = make_taps(cell, x)
    if not lengths:
        return graphdef, (state, x, carry, taps), None
    return graphdef, (state, with_bad_padding(x, jnp.array(LENGTHS)), carry, taps), jnp.array(LENGTHS)


def loss_of(graphdef: nnx.GraphDef, lengths: jax.Array | None, **options: Any) -> Any:
    """A loss of the point, by random weights on every output and on the final carry; returns the outputs too."""

    def loss(state: nnx.State, x: jax.Array, carry: Any, taps: Any) -> tuple[jax.Array, Any]:
        cell = nnx.merge(graphdef, state)
        result = unroll(cell, x, lengths=lengths, initial_carry=carry, taps=taps, **options)
        return dot(result, random_like(result, 7)), result

    return loss


@functools.cache
def reference_gradients(variant: str, reverse: bool, lengths: bool) -> Any:
    graphdef, point, rows = problem(variant, lengths)
    loss = loss_of(graphdef, rows, backend="reference", reverse=reverse)
    return jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3), has_aux=True))(*point)


def switches(variant: str) -> list[Any]:
    """Those of a cell, each with its tier: five cells have every fifth by default, any other its main ones. An
    activation has one switch by turns."""
    if variant in TURNS:
        turn = TURNS.index(variant)
        return [in_tier(variant, *each, central=True, further=n % 5 != turn) for n, each in enumerate(SWITCHES)]
    if variant in CELLS:
        return [in_tier(variant, *each, central=True, further=each not in MAIN_SWITCHES) for each in SWITCHES]
    both = PLAIN_SWITCHES if variant in PLAIN_FUNCTIONS else VARIANT_SWITCHES
    later = (*CELL_VARIANTS, *PLAIN_FUNCTIONS).index(variant) % 2 if variant.startswith("vanilla_") else None
    return [in_tier(variant, *each, central=True, further=number == later) for number, each in enumerate(both)]


def with_rows_split(graphdef: nnx.GraphDef, point: Any, lengths: jax.Array | None, weights: Any, options: Any) -> Any:
    """The value, outputs and gradients of `loss_of`, each device having its own rows, as in training."""
    replicated, rows, steps_of_rows = PartitionSpec(), PartitionSpec("data"), PartitionSpec(None, "data")
    outputs = (steps_of_rows, rows)

    def of_device(point: Any, lengths: jax.Array | None, weights: Any) -> Any:
        def loss(state: nnx.State, x: jax.Array, carry: Any, taps: Any) -> tuple[jax.Array, Any]:
            result = unroll(nnx.merge(graphdef, state), x, lengths=lengths, initial_carry=carry, taps=taps, **options)
            return dot(result, weights), result

        (value, result), (dstate, *others) = jax.value_and_grad(loss, (0, 1, 2, 3), has_aux=True)(*point)
        value, dstate = jax.lax.psum((value, dstate), "data")
        return (value, result), (dstate, *others)

    places = (replicated, steps_of_rows, rows, steps_of_rows)
    spread = jax.shard_map(
        of_device,
        mesh=MESH,
        in_specs=(places, rows, outputs),
        out_specs=((replicated, outputs), places),
        check_vma=False,
    )
    return jax.jit(spread)(point, lengths, weights)


@pytest.mark.parametrize(
    ("variant", "chunk", "reverse", "lengths", "store", "unroll_steps", "place"),
    [case for variant in (*CELL_VARIANTS, *PLAIN_FUNCTIONS) for case in switches(variant)],
)
def test_fused_outputs_and_gradients_equal_reference(variant, chunk, reverse, lengths, store, unroll_steps, place):
    with float64():
        graphdef, point, rows = problem(variant, lengths)
        options = {"chunk": chunk, "reverse": reverse, "store": store, "unroll_steps": unroll_steps}
        options["backend"] = "fused"
        expected = reference_gradients(variant, reverse, lengths)
        if place == "rows":
            actual = with_rows_split(graphdef, point, rows, random_like(expected[0][1], 7), options)
        else:
            point = point if place == "device" else jax.device_put(point, NamedSharding(MESH, PartitionSpec()))
            loss = loss_of(graphdef, rows, **options)
            actual = jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3), has_aux=True))(*point)
        assert_close(actual, expected, 1e-10)


def explicit_mesh() -> Mesh:
    """As `jax.make_mesh` makes it where nothing is said of its axes."""
    return jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,))


@pytest.mark.parametrize(("variant", "backend"), OF_CELLS)
def test_rows_on_a_mesh_with_explicit_axes_give_the_gradients_of_one_device(variant, backend):
    with float64():
        graphdef, (state, x, carry, _), lengths = problem(variant, lengths=True)
        weights = random_like((jnp.zeros((T, B, 4)), carry), 7)

        def loss(state: nnx.State, x: jax.Array, carry: Any, lengths: jax.Array, weights: Any) -> Any:
            cell = nnx.merge(graphdef, state)
            result = unroll(cell, x, lengths=lengths, initial_carry=carry, backend=backend, chunk=3, reverse=True)
            return sum((a * w).sum() for a, w in zip(*map(jax.tree.leaves, (result, weights)), strict=True)), result

        gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))
        expected = gradients(state, x, carry, lengths, weights)
        over_time, rows = PartitionSpec(None, "data"), PartitionSpec("data")
        with jax.set_mesh(explicit_mesh()):
            places = PartitionSpec(), over_time, rows, rows, (over_time, rows)
            arguments = state, x, carry, lengths, weights
            put = [
                jax.device_put(a, jax.tree.map(lambda _, p=p: p, a))
                for a, p in zip(arguments[:4], places[:4], strict=True)
            ]
            actual = gradients(*put, (jax.device_put(weights[0], over_time), jax.device_put(weights[1], rows)))
        assert_close(actual, expected, 1e-13)
        (_, (h, last)), (_, dx, _) = actual
        assert {a.sharding.spec for a in (h, dx)} == {PartitionSpec(None, "data", None)}
        assert {a.sharding.spec for a in last} == {PartitionSpec("data", None)}


def sides(graphdef: nnx.GraphDef, state: nnx.State, x: jax.Array, carry: Any, h: jax.Array) -> jax.Array | None:
    """On which side of each of its kinks is what enters the activation, [kinks, T, B, H]; None without a kink."""
    cell: Any = nnx.merge(graphdef, state)
    if not isinstance(cell, Vanilla) or cell.activation in SMOOTH:
        return None
    kinks: Any = KINKS.get(cell.activation, (0,))
    if isinstance(cell.activation, ModReLU):
        kinks = 0, cell.activation.bias[...], -cell.activation.bias[...]
    entering = jax.vmap(cell.project)(x) + jnp.concatenate([carry[0][None], h[:-1]]) @ cell.recurrent_matrix()
    return jnp.stack([jnp.sign(entering - kink) for kink in kinks])


SMOOTH = [as_activation(name) for name in ("tanh", "sigmoid", "swish", "gelu", "linear")]
KINKS = {as_activation("hard_tanh"): (-1, 1), as_activation("hard_sigmoid"): (-3, 3)}
"""Those of others are at 0."""


# Those of the papers' equations are in test_equations.py, for every cell.
@pytest.mark.parametrize("variant", in_tiers())
def test_reference_gradients_equal_finite_differences(variant):
    # Four points leave out terms of order step⁴ only: with 1e-4 both these and rounding are below 3e-12 of the scale,
    # with 2e-4 these are 8e-12. The scale is the sum of the sizes of what the slope adds up, which may cancel.
    with float64():
        graphdef, (state, x, carry, _), _ = problem(variant, lengths=False)
        (_, (h, _)), (*gradients, _) = reference_gradients(variant, False, False)
        loss = jax.jit(loss_of(graphdef, None, backend="reference"))
        point, gradients = (state, x, carry), tuple(gradients)
        direction, step = random_direction(point, 11), 1e-4
        here = sides(graphdef, *point, h)

        def along(steps: int) -> jax.Array:
            moved = jax.tree.map(lambda p, d: p + steps * step * d, point, direction)
            value, (h, _) = loss(*moved, None)
            np.testing.assert_array_equal(sides(graphdef, *moved, h), here)
            return value

        slope = (8 * (along(1) - along(-1)) - (along(2) - along(-2))) / (12 * step)
        scale = dot(jax.tree.map(jnp.abs, gradients), jax.tree.map(jnp.abs, direction))
        np.testing.assert_allclose(dot(gradients, direction), slope, rtol=0, atol=1e-11 * scale)


@functools.cache
def influence(variant: str, backend: str, reverse: bool = False) -> np.ndarray:
    """[T, B, T, B]: the largest |∂h[t, i] / ∂x[s, j]| at (t, i, s, j)."""
    graphdef, (state, x, carry, _), _ = problem(variant, lengths=False)

    @jax.jit
    def jacobian(state: nnx.State, x: jax.Array) -> jax.Array:
        def summed(x: jax.Array) -> jax.Array:
            h = unroll(nnx.merge(graphdef, state), x, initial_carry=carry, backend=backend, reverse=reverse, chunk=3)[0]
            return (h * random_like(h[0, 0], 5)).sum(-1)

        return jax.jacrev(summed)(x)

    return np.asarray(jnp.abs(jacobian(state, x)).max(-1))


@pytest.mark.parametrize(("variant", "backend"), OF_VARIANTS)
def test_rows_do_not_mix(variant, backend):
    with float64():
        between = influence(variant, backend).max(axis=(0, 2))
    assert (between[~np.eye(B, dtype=bool)] == 0).all()
    assert (np.diag(between) > 0).all()


@pytest.mark.parametrize(
    ("variant", "backend", "reverse"),
    [
        in_tier(variant, backend, reverse, further=backend == "reference")
        for variant in CELL_VARIANTS
        for backend in BACKENDS
        for reverse in ((False, True) if variant in CELLS else (False,))
    ],
)
def test_output_depends_on_no_later_input(variant, backend, reverse):
    with float64():
        steps = influence(variant, backend, reverse).max(axis=(1, 3))
    later = np.triu(np.ones((T, T), bool), 1)
    if reverse:
        later = later.T
    assert (steps[later] == 0).all()
    assert (np.diag(steps) > 0).all()


@pytest.mark.parametrize(("variant", "backend"), OF_VARIANTS)
def test_changing_one_row_leaves_the_others_as_they_are_to_the_bit(variant, backend):
    graphdef, state = random_cell(variant)
    x = random_array(1, T, B, D)

    @jax.jit
    def run(x: jax.Array) -> Any:
        return unroll(nnx.merge(graphdef, state), x, backend=backend, chunk=3)

    h, last = run(x)
    h_changed, last_changed = run(x.at[:, 1].multiply(-3))
    for before, after in zip((h, *last), (h_changed, *last_changed), strict=True):
        before, after = np.moveaxis(np.asarray(before), -2, 0), np.moveaxis(np.asarray(after), -2, 0)
        np.testing.assert_array_equal(before[[0, 2, 3]], after[[0, 2, 3]])
        assert (before[1] != after[1]).any() != is_count(before)


SLOPES = {"vanilla_sigmoid": 1 / 4, "vanilla_hard_sigmoid": 1 / 6, "indrnn_hard_sigmoid": 1 / 6}
"""The largest slope of an activation that loses the most of a gradient at every step."""


@pytest.mark.parametrize("variant", in_tiers())
def test_last_output_remembers_the_first_input(variant):
    # Zeros after the first input, or the IRNN's rectifiers would die of negative ones. A logistic cell loses a factor
    # of 4 or more a step, hence the low bound.
    steps = 10
    with float64():
        graphdef, state = nnx.split(make_cell(variant, features=16))
        state = in_double(state)
        later = 0.1 if variant == "tlstm" else 0.0  # What it puts out is 0 where its input and the one before are.
        x = random_array(1, steps, 2, D).at[1:].set(later)
        gradient = jax.grad(lambda x: jnp.abs(unroll(nnx.merge(graphdef, state), x)[0][-1]).sum())
        sizes = np.linalg.norm(jax.jit(gradient)(x), axis=-1)
    lowest = 0.1 * SLOPES[variant] ** (steps - 1) if variant in SLOPES else 1e-7
    assert (sizes[0] > lowest * sizes[-1]).all()


@pytest.mark.parametrize(("variant", "backend"), OF_CELLS)
def test_mapping_over_replicas_equals_single_runs(variant, backend):
    with float64():
        replicas = [problem(variant, lengths=False, seed=seed) for seed in (0, 10, 20)]
        graphdef = replicas[0][0]
        points = [point[:3] for _, point, _ in replicas]
        loss = loss_of(graphdef, None, backend=backend, chunk=3)
        run = jax.value_and_grad(lambda *point: loss(*point, None), (0, 1, 2), has_aux=True)
        stacked = jax.tree.map(lambda *a: jnp.stack(a), *points)
        together = jax.jit(jax.vmap(run))(*stacked)
        run = jax.jit(run)
        for n, point in enumerate(points):
            assert_close(jax.tree.map(lambda a, n=n: a[n], together), run(*point), 1e-12)


@pytest.mark.parametrize(("variant", "backend"), OF_CELLS)
def test_second_cell_of_a_kind_does_not_recompile(variant, backend):
    traces = []

    @functools.partial(jax.jit, static_argnums=0)
    def run(graphdef: nnx.GraphDef, state: nnx.State, x: jax.Array) -> Any:
        traces.append(None)
        return jax.grad(lambda s: unroll(nnx.merge(graphdef, s), x, backend=backend)[0].sum())(state)

    for seed in (0, 1):
        run(*nnx.split(make_cell(variant, seed=seed)), jnp.full((2, 1, D), float(seed)))
    assert len(traces) == 1
    assert run._cache_size() == 1


def curvature_problem(variant: str, backend: str) -> tuple[Any, tuple[nnx.State, jax.Array]]:
    """A loss of (parameters, x), quadratic in the outputs, and a point."""
    graphdef, (state, x, carry, _), _ = problem(variant, lengths=False)

    def loss(state: nnx.State, x: jax.Array) -> jax.Array:
        h, last = unroll(nnx.merge(graphdef, state), x, initial_carry=carry, backend=backend, chunk=3)
        return dot(h, h) + dot(last, last)

    return loss, (state, x)


@pytest.mark.parametrize("variant", in_tiers(CELLS))
def test_forward_mode_and_second_derivatives_work_on_reference(variant):
    with float64():
        loss, point = curvature_problem(variant, "reference")
        direction = random_like(point, 3)
        gradient = jax.jit(jax.grad(loss, (0, 1)))

        @jax.jit
        def forward(point: Any, direction: Any) -> Any:
            value = jax.jvp(loss, point, direction)[1]
            return value, jax.jvp(jax.grad(loss, (0, 1)), point, direction)[1]

        slope, hessian_product = forward(point, direction)
        step = 1e-6
        ahead, behind = (gradient(*jax.tree.map(lambda p, d, s=s: p + s * step * d, point, direction)) for s in (1, -1))
        np.testing.assert_allclose(slope, dot(gradient(*point), direction), rtol=1e-12)
        assert_close(hessian_product, jax.tree.map(lambda a, b: (a - b) / (2 * step), ahead, behind), 1e-6)


@pytest.mark.parametrize("variant", ["vanilla", "gru_reset_before"])
def test_hessian_of_the_bias_is_symmetric_and_equals_reverse_over_reverse(variant):
    with float64():
        loss, (state, x) = curvature_problem(variant, "reference")

        def of_bias(bias: jax.Array) -> jax.Array:
            moved = jax.tree.map(lambda a: a, state)
            moved["bias"].set_value(bias)
            return loss(moved, x)

        bias = state["bias"].get_value()
        hessian = jax.jit(jax.hessian(of_bias))(bias)
        assert_close(hessian, hessian.T, 1e-12)
        assert_close(hessian, jax.jit(jax.jacrev(jax.grad(of_bias)))(bias), 1e-12)


@pytest.mark.parametrize("variant", in_tiers(CELLS, costly=True))
def test_gradient_of_the_gradient_norm_is_that_of_reference(variant):
    with float64():
        results = []
        for backend in ("fused", "reference"):
            loss, point = curvature_problem(variant, backend)

            def penalty(*point, loss=loss):
                gradient = jax.grad(loss, (0, 1))(*point)
                return dot(gradient, gradient)

            results.append(jax.jit(jax.grad(penalty, (0, 1)))(*point))
        assert_close(*results, 1e-10)


@pytest.mark.parametrize("width", [0, -1])
@pytest.mark.parametrize("variant", CELLS)
def test_a_width_below_one_is_one_line(variant, width):
    for name, sizes in (("in_features", (width, 4)), ("features", (3, width))):
        with pytest.raises(ConfigError, match=rf"^\w+'s {name}: {width} is out of range"):
            CELLS[variant](*sizes, rngs=nnx.Rngs(0))


COPIES: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda a: pickle.loads(pickle.dumps(a)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "cloudpickle": lambda a: pickle.loads(pytest.importorskip("cloudpickle").dumps(a)),
}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("variant", in_tiers([*CELL_VARIANTS, *PLAIN_FUNCTIONS]))
def test_copies_of_a_cell_put_out_the_same(variant, way):
    if variant == "vanilla_where" and way == "pickle":
        pytest.skip("pickle takes no lambda")
    cell, x = make_cell(variant), random_array(0, 2, 1, D)
    copied = COPIES[way](cell)
    assert_close(outputs_of(*nnx.split(copied), x), outputs_of(*nnx.split(cell), x), 0)


@functools.partial(jax.jit, static_argnums=0)
def outputs_of(graphdef: nnx.GraphDef, state: nnx.State, x: jax.Array) -> Any:
    return unroll(nnx.merge(graphdef, state), x, backend="reference")


@pytest.mark.parametrize("way", COPIES)
def test_copies_of_what_goes_with_a_cell_are_equal(way):
    cell = make_cell("lstm")
    number = hyperparameter(0.25)
    together = (make_taps(cell, jnp.ones((2, 1, D))), Cotangent(clip_norm=jnp.float32(2.0)), number)
    for one in together:
        assert_close(jax.tree.leaves(COPIES[way](one)), jax.tree.leaves(one), 0)


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_copies_of_an_activation_are_the_same_function(name, way):
    function, x = as_activation(name), jnp.linspace(-2, 2, 9)
    if isinstance(function, PerUnit):
        function = function.for_units(9, nnx.Rngs(0))
    np.testing.assert_array_equal(COPIES[way](function)(x), function(x))


class Leaky(Cell):
    """h' = h + ε (tanh(z + u) - h)."""

    epsilon: Traced[float] = 0.3
    power: float = 2.0
    start: InitVar[Traced[float]] = 0.25

    def initialize(self, options: Any, rngs: nnx.Rngs) -> None:
        super().initialize(options, rngs)
        self.bias[...] += options.start

    def gates(self, carry, z, u):
        return (carry[0] + self.epsilon * (jnp.tanh(z[0] + u[0]) - carry[0]),)


class Named(Cell):
    bias: float = 1.0

    def gates(self, carry, z, u):
        return carry


def test_an_option_with_the_name_of_a_parameter_is_one_line():
    with pytest.raises(ConfigError, match="Named: the option bias has the name of a parameter; take another"):
        Named(2, 3, rngs=nnx.Rngs(0))


class OwnConstructor(Cell):
    def __init__(self, in_features: int, features: int, *, rngs: nnx.Rngs):
        super().__init__(in_features, features, rngs=rngs)
        self.epsilon = 0.3

    def gates(self, carry, z, u):
        return (carry[0] + self.epsilon * (jnp.tanh(z[0] + u[0]) - carry[0]),)


class OwnOptions(OwnConstructor):
    def __init__(self, in_features: int, features: int, *, rate: Traced[float], shift: float, rngs: nnx.Rngs):
        super().__init__(in_features, features, rngs=rngs)
        self.rate, self.shift = rate, shift


def test_of_a_constructors_numbers_the_traced_ones_are_arrays():
    cell = OwnOptions(2, 3, rate=0.5, shift=0.25, rngs=nnx.Rngs(0))
    assert isinstance(cell.rate, jax.Array)
    assert (type(cell.shift), type(cell.epsilon)) == (float, float)


def test_traced_options_are_state_and_others_are_not():
    one, other, third = (Leaky(2, 3, epsilon=e, power=p, rngs=nnx.Rngs(0)) for e, p in ((0.1, 2), (0.2, 2), (0.1, 3)))
    abstract = nnx.eval_shape(lambda: Leaky(2, 3, rngs=nnx.Rngs(0)))
    for cell in (one, abstract):
        assert set(nnx.state(cell)) == {"epsilon", "input_kernel", "recurrent_kernel", "bias"}
    assert isinstance(one.epsilon, jax.Array)
    assert one.power == 2
    assert not hasattr(one, "start")
    np.testing.assert_array_equal(one.bias[...], 0.25)
    assert nnx.graphdef(one) == nnx.graphdef(other) != nnx.graphdef(third)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("backend", "kind"), [("reference", Leaky), ("fused", Leaky), ("fused", OwnConstructor)])
def test_a_number_of_a_cell_has_the_type_of_what_it_meets(backend, kind, dtype):
    """Where double precision is on, too."""
    with jax.enable_x64(True):
        cell = kind(2, 3, rngs=nnx.Rngs(0))
        graphdef, params, rest = nnx.split(cell, nnx.Param, ...)
        cell = nnx.merge(graphdef, jax.tree.map(lambda a: a.astype(dtype), params), rest)
        h, (last,) = unroll(cell, jnp.ones((4, 2, 2), dtype), backend=backend)
    assert (h.dtype, last.dtype) == (dtype, dtype)
