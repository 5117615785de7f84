"""The backend kernel, interpreted on a CPU in double precision, equals the reference backend: outputs, carries and
every gradient, with all that may stand around a step at once."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rnnlab.cells import CELLS
from rnnlab.engine import unroll
from rnnlab.engine.kernel import rules
from rnnlab.engine.kernel.settings import launching
from tests.engine.comparing import (
    LENGTHS,
    B,
    D,
    H,
    T,
    around,
    compare,
    has_state_matrix,
    many_functions,
    two_diagonals,
    zoned_with_norms,
)
from tests.helpers import (
    assert_close,
    dot,
    float64,
    random_array,
    random_cell,
    random_like,
)
from tests.tiers import CELL_VARIANTS, PLAIN_FUNCTIONS, exhaustive_tests, in_tier, slow_tests

ALL_CELLS = [*CELL_VARIANTS, *PLAIN_FUNCTIONS]

LAUNCHES: dict[str, dict[str, Any]] = {
    "triton": {"target": "triton", "rows": 2},
    "mosaic": {"target": "mosaic", "rows": 2, "chunk": 2},
    "streamed": {"target": "triton", "rows": 2, "streamed": True, "tile": 8, "widest": 2},
    "team": {"target": "triton", "rows": 2, "programs": 3, "least": 2, "tile": 4},
}
"""Rows and steps are no multiples of what a program holds: both are filled up."""

SUMS_ALONG_UNITS = ("hippo_legs",)
"""Cells that no kernel can run: running sums along the units."""


def compare_kernel(cell: Any, launch: str, **beside: Any) -> None:
    with launching(**LAUNCHES[launch]):
        compare(cell, {"backend": "kernel", "interpret": True}, **beside)


@pytest.mark.parametrize("variant", [in_tier(v) for v in ALL_CELLS if v not in SUMS_ALONG_UNITS])
def test_outputs_and_gradients_equal_the_reference(variant):
    """One launch a cell, by turns, with all that stands around it."""
    compare_with_all_around(variant, list(LAUNCHES)[ALL_CELLS.index(variant) % len(LAUNCHES)])


@pytest.mark.parametrize("variant", [in_tier(v, further=True) for v in ALL_CELLS if v not in SUMS_ALONG_UNITS])
def test_teams_of_programs_equal_the_reference(variant):
    compare_with_all_around(variant, "team")


def test_an_activation_of_many_operations_equals_the_reference():
    with float64():
        cell = CELLS["vanilla"](D, H, activation=many_functions, rngs=nnx.Rngs(0))
        graphdef, state = nnx.split(cell)
        compare_kernel(nnx.merge(graphdef, jax.tree.map(lambda a: jnp.asarray(a, float), state)), "triton")


IN_NUMPY = {name: name.replace("a", "arc", 1) for name in ("asin", "acos", "atan", "asinh", "acosh", "atanh")}


@pytest.mark.parametrize("name", sorted({*rules._WRITTEN} - {"one_minus_square"}))
def test_operations_that_a_compiler_lacks_are_right_to_the_last_digits(name):
    """Also where they are 0, infinite, or not a number."""
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-30, -1e-30, 1e30, -1e30, 1.0, -1.0, 1e-4, 50.0, -50.0, 88.0]
    x = np.concatenate([special, np.linspace(-3, 3, 1001)]).astype(np.float32)
    with np.errstate(all="ignore"):
        expected = getattr(np, IN_NUMPY.get(name) or name)(x.astype(float)).astype(np.float32)
    np.testing.assert_allclose(rules._WRITTEN[name](jnp.asarray(x)), expected, rtol=3e-7, atol=0)


def compare_with_all_around(variant: str, launch: str) -> None:
    number = ALL_CELLS.index(variant)
    with float64():
        cell = nnx.merge(*random_cell(variant, in_features=D, features=H))
        options = around(T, B, cell.initial_carry(1)[0].shape[1], True, has_state_matrix(variant))
        compare_kernel(cell, launch, reverse=number % 2 == 1, store="carries" if number % 5 == 0 else "auto", **options)


@pytest.mark.parametrize("launch", ["streamed", *slow_tests("triton", "mosaic", "team")])
def test_a_diagonal_in_parts_equals_the_reference(launch):
    with float64():
        compare_kernel(two_diagonals(), launch, **around(T, B, H, True, True))


CASES = [(variant, launch) for variant in ("cornn", "lstm_peepholes") for launch in LAUNCHES]
CASES.remove(("lstm_peepholes", "team"))  # As the next test has an LSTM in one.


@pytest.mark.parametrize(("variant", "launch"), slow_tests(*CASES))
@pytest.mark.parametrize(
    ("reverse", "store", "lengths"), [(False, "carries", True), *exhaustive_tests((True, "auto", False))]
)
def test_every_launch_direction_and_store_equals_the_reference(variant, launch, reverse, store, lengths):
    with float64():
        cell = nnx.merge(*random_cell(variant, in_features=D, features=H))
        compare_kernel(cell, launch, reverse=reverse, store=store, **around(T, B, H, lengths, True))


@pytest.mark.parametrize(
    ("variant", "launch", "reverse"),
    [
        ("lstm", "triton", True),
        *slow_tests(("lstm", "team", False)),
        *exhaustive_tests(("lstm", "mosaic", False), ("gru_reset_before", "streamed", True)),
    ],
)
def test_resets_zoneout_and_norms_equal_the_reference(variant, launch, reverse):
    """Rows that begin anew, with a carry that gets a gradient; noise; sums over units, of which some are padding."""
    with float64():
        zoned, noise = zoned_with_norms(variant)
        compare_kernel(zoned, launch, reverse=reverse, resets=True, noise=noise, lengths=jnp.array(LENGTHS))


@pytest.mark.parametrize("read", slow_tests(0, 1))
def test_gradients_of_the_outputs_or_the_last_state_alone(read):
    def gradients(**options: Any) -> Any:
        def loss(state: nnx.State, x: jax.Array) -> jax.Array:
            result = unroll(nnx.merge(graphdef, state), x, **options)[read]
            return dot(result, random_like(result, 3))

        return jax.jit(jax.grad(loss, (0, 1)))(state, x)

    with float64():
        graphdef, state = random_cell("lstm", in_features=D, features=H)
        x = random_array(1, T, B, D)
        with launching(**LAUNCHES["mosaic"]):
            actual = gradients(backend="kernel", interpret=True)
        assert_close(actual, gradients(backend="reference"), 1e-12)


@pytest.mark.parametrize("launch", ["triton", "team"])
def test_second_derivatives_are_refused_in_one_line(launch):
    graphdef, state = random_cell("vanilla", in_features=D, features=H)

    def gradient(x: jax.Array) -> jax.Array:
        cell = nnx.merge(graphdef, state)
        return jax.grad(lambda x: (unroll(cell, x, backend="kernel", interpret=True)[0] ** 2).sum())(x).sum()

    message = "the backend kernel has no second derivatives; use backend='reference'"
    with launching(**LAUNCHES[launch]), pytest.raises(TypeError, match=message):
        jax.eval_shape(jax.grad(gradient), random_array(1, T, B, D))


@pytest.mark.slow
@pytest.mark.parametrize("launch", ["triton", "team"])
def test_replicas_by_vmap_equal_the_reference(launch):
    def gradients(**options: Any) -> Any:
        def loss(state: nnx.State, x: jax.Array) -> jax.Array:
            return (unroll(nnx.merge(graphdef, state), x, lengths=jnp.array(LENGTHS), **options)[0] ** 2).sum()

        return jax.jit(jax.vmap(jax.grad(loss, (0, 1))))(states, x)

    with float64():
        cells = [random_cell("gru", seed, in_features=D, features=H) for seed in range(2)]
        graphdef = cells[0][0]
        states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[state for _, state in cells])
        x = random_array(1, 2, T, B, D)
        with launching(**LAUNCHES[launch]):
            actual = gradients(backend="kernel", interpret=True)
        assert_close(actual, gradients(backend="reference"), 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launch", "precision"), [*((launch, "bfloat16") for launch in LAUNCHES), ("triton", "tf32"), ("triton", "tf32x3")]
)
def test_rounded_products_are_those_of_the_reference(launch, precision):
    def outputs(**options: Any) -> Any:
        def run(state: nnx.State, x: jax.Array) -> jax.Array:
            cell = nnx.merge(graphdef, state)
            cell.precision = precision
            return unroll(cell, x, **options)[0]

        return jax.jit(run)(state, x)

    graphdef, state = random_cell("lstm", in_features=D, features=H)
    x = random_array(1, T, B, D)
    with launching(**LAUNCHES[launch]):
        actual = outputs(backend="kernel", interpret=True)
    assert_close(actual, outputs(backend="reference"), 1e-6)
