"""The backend native, C++ that is made from a cell's step, equals the reference backend, in double precision with all
that may stand around a step at once, and in single precision with its own functions."""

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rnnlab.cells import CELLS
from rnnlab.config.errors import ConfigError
from rnnlab.engine import unroll
from rnnlab.engine.native import chunks, library
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
    zoned_with_norms,
)
from tests.helpers import assert_close, dot, float64, random_array, random_cell, random_like
from tests.tiers import CELL_VARIANTS, PLAIN_FUNCTIONS, in_tier, slow_tests

pytestmark = pytest.mark.skipif(library.compiler() is None, reason="no compiler of C++ works here")
ALL_CELLS = [v for v in (*CELL_VARIANTS, *PLAIN_FUNCTIONS) if v != "hippo_legs"]
"""All but the one that shifts columns by turns, in its scan along the units."""
NATIVE = {"backend": "native", "chunk": 2}


@pytest.mark.parametrize("variant", [in_tier(v) for v in ALL_CELLS])
def test_outputs_and_gradients_equal_the_reference(variant):
    """A cell with all that stands around it; the direction and what is kept change from cell to cell."""
    number = ALL_CELLS.index(variant)
    with float64():
        cell = nnx.merge(*random_cell(variant, in_features=D, features=H))
        options = around(T, B, cell.initial_carry(1)[0].shape[1], True, has_state_matrix(variant))
        store = ("auto", "carries", "ends")[number % 3]
        compare(cell, NATIVE, reverse=number % 2 == 1, store=store, **options)


@pytest.mark.parametrize("variant", slow_tests("cornn", "lstm_peepholes", "gru_reset_before"))
@pytest.mark.parametrize(("reverse", "store"), [(False, "ends"), (True, "carries"), (True, "auto")])
def test_both_directions_and_every_store_equal_the_reference(variant, reverse, store):
    with float64():
        cell = nnx.merge(*random_cell(variant, in_features=D, features=H))
        compare(cell, NATIVE, reverse=reverse, store=store)


@pytest.mark.parametrize(("variant", "reverse"), slow_tests(("lstm", True), ("gru_reset_before", False)))
def test_resets_zoneout_and_norms_equal_the_reference(variant, reverse):
    """Rows that begin anew, with a carry that gets a gradient; noise; sums over units."""
    with float64():
        zoned, noise = zoned_with_norms(variant)
        compare(zoned, NATIVE, reverse=reverse, resets=True, noise=noise, lengths=jnp.array(LENGTHS))


@pytest.mark.parametrize(
    ("variant", "threads", "wide"),
    [("lstm", 2, True), *slow_tests(("lstm", 2, False), ("lstm", 5, True), ("cornn", 3, False), ("rhn", 2, True))],
)
def test_rows_on_several_threads_equal_the_reference(monkeypatch, variant, threads, wide):
    """Also where matrices are so wide that threads share their packing, and that XLA multiplies for their gradients."""
    monkeypatch.setattr(chunks, "threads_of_device", lambda: threads)
    monkeypatch.setattr(chunks, "WIDE", 1 if wide else chunks.WIDE)
    with float64():
        cell = nnx.merge(*random_cell(variant, in_features=D, features=H))
        compare(cell, NATIVE, **around(T, B, H, True, False))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: jnp.cumsum(x, -1) / 4,
        many_functions,
        *slow_tests(
            lambda x: jnp.cumsum(x, -1, dtype=x.dtype)[..., ::1] * jnp.arange(H),
            lambda x: jax.nn.softmax(x, -1) * x.max(-1, keepdims=True),
            lambda x: jnp.concatenate([x[..., 1:], jnp.tanh(x[..., :1])], -1),
        ),
    ],
)
def test_other_activations_equal_the_reference(function):
    """Sums, parts and numbers of columns within a row; many operations of JAX."""
    with float64():
        cell = CELLS["vanilla"](D, H, activation=function, rngs=nnx.Rngs(0))
        graphdef, state = nnx.split(cell)
        state = jax.tree.map(lambda a: jnp.asarray(a, float), state)
        compare(nnx.merge(graphdef, state), NATIVE, **around(T, B, H, True, True))


def differentiated(graphdef: Any, state: nnx.State, x: jax.Array, precision: str = "highest", **options: Any) -> Any:
    def loss(state: nnx.State, x: jax.Array) -> Any:
        cell = nnx.merge(graphdef, state)
        cell.precision = precision
        result = unroll(cell, x, **options)
        return dot(result, random_like(result, 3)), result

    return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(state, x)


@pytest.mark.parametrize("variant", ["gru", *slow_tests("lstm", "vanilla_relu", "slstm")])
def test_single_precision_is_that_close_to_double(variant):
    """More rows than a block has, and widths that are no multiples of a vector's."""
    graphdef, state = random_cell(variant, in_features=3, features=37)
    x = random_array(1, 9, 53, 3)
    actual = differentiated(graphdef, state, x, backend="native", chunk=4)
    with float64():
        wide: Any = jax.tree.map(lambda a: jnp.asarray(a, float), (state, x))
        expected = differentiated(graphdef, *wide, backend="reference")
    assert_close(jax.tree.map(lambda a: np.asarray(a, float), actual), expected, 2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("width", [37, 64])
def test_products_in_bfloat16_are_those_of_the_reference(width):
    graphdef, state = random_cell("lstm", in_features=3, features=width)
    x = random_array(1, 5, 7, 3)
    actual = differentiated(graphdef, state, x, "bfloat16", backend="native", chunk=3)
    expected = differentiated(graphdef, state, x, "bfloat16", backend="reference")
    exact = differentiated(graphdef, state, x, backend="reference")
    assert_close(actual[0], expected[0], 1e-4)
    for a, b, c in zip(*map(jax.tree.leaves, (actual[1], expected[1], exact[1])), strict=True):
        assert jnp.linalg.norm(a - b) < 0.3 * jnp.linalg.norm(b - c) + 1e-5


FUNCTIONS = {
    "tanh": (jnp.tanh, np.tanh),
    "exp": (jnp.exp, np.exp),
    "sigmoid": (jax.nn.sigmoid, lambda x: 1 / (1 + np.exp(-x))),
}


@pytest.mark.parametrize("name", ["tanh", *slow_tests("exp", "sigmoid")])
def test_functions_are_right_to_the_last_digits(name):
    """Also of numbers where they are 0, 1 or infinite, and of what is not a number."""
    function, expected = FUNCTIONS[name]
    cell = CELLS["vanilla"](1, 1, activation=function, rngs=nnx.Rngs(0))
    cell.input_kernel[...], cell.recurrent_kernel[...] = jnp.ones((1, 1)), jnp.zeros((1, 1))
    special = [0.0, -0.0, 1e-30, -1e-30, 200.0, -200.0, np.inf, -np.inf, np.nan]
    x = np.concatenate([np.linspace(-100, 88, 4001), np.linspace(-2, 2, 4001), special]).astype(np.float32)
    h, _ = jax.jit(lambda x: unroll(cell, x, backend="native"))(x[None, :, None])
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(h[0, :, 0], expected(x.astype(float)).astype(np.float32), rtol=4e-7, atol=2e-38)


@pytest.mark.slow
def test_replicas_by_vmap_equal_the_reference():
    with float64():
        cells = [random_cell("gru", seed, in_features=D, features=H) for seed in range(2)]
        states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[state for _, state in cells])
        x = random_array(1, 2, T, B, D)

        def gradients(backend: str) -> Any:
            def loss(state: nnx.State, x: jax.Array) -> jax.Array:
                h, _ = unroll(nnx.merge(cells[0][0], state), x, lengths=jnp.array(LENGTHS), backend=backend)
                return (h**2).sum()

            return jax.jit(jax.vmap(jax.grad(loss, (0, 1))))(states, x)

        assert_close(gradients("native"), gradients("reference"), 1e-12)


@pytest.mark.parametrize("read", slow_tests(0, 1))
def test_gradients_of_the_outputs_or_the_last_state_alone(read):
    def gradients(backend: str) -> Any:
        def loss(state: nnx.State, x: jax.Array) -> jax.Array:
            result = unroll(nnx.merge(graphdef, state), x, backend=backend)[read]
            return dot(result, random_like(result, 3))

        return jax.jit(jax.grad(loss, (0, 1)))(state, x)

    with float64():
        graphdef, state = random_cell("lstm", in_features=D, features=H)
        x = random_array(1, T, B, D)
        assert_close(gradients("native"), gradients("reference"), 1e-12)


# --- what a user may meet --------------------------------------------------------------------------------------------


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """Nothing is compiled yet."""
    monkeypatch.setenv("RNNLAB_CACHE", str(tmp_path))
    for each in (library.compiler, library.load):
        each.cache_clear()
    yield tmp_path
    monkeypatch.undo()
    for each in (library.compiler, library.load):
        each.cache_clear()


def run(precision: str = "highest", **options: Any) -> jax.Array:
    cell = CELLS["vanilla"](1, 2, rngs=nnx.Rngs(0), **options)
    cell.precision = precision
    return unroll(cell, jnp.ones((2, 1, 1)), backend="native")[0]


def test_code_is_compiled_once_and_kept(fresh, monkeypatch):
    run()
    kept = {path: path.stat().st_mtime_ns for path in (fresh / "native").glob("*.so")}
    assert kept
    library.load.cache_clear()
    monkeypatch.setattr(library.subprocess, "run", lambda *_, **__: pytest.fail("compiles again"))
    run()
    assert {path: path.stat().st_mtime_ns for path in (fresh / "native").glob("*.so")} == kept


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_cannot_be_written_is_no_hindrance(fresh):
    fresh.chmod(0o500)
    assert jnp.isfinite(run()).all()


@pytest.mark.parametrize("command", ["no-such-compiler", "false"])
def test_a_compiler_that_does_not_work_is_one_line(fresh, monkeypatch, command):
    monkeypatch.setenv("RNNLAB_CXX", command)
    with pytest.raises(ConfigError, match=rf"'native' needs a compiler of C\+\+; '{command}' \(RNNLAB_CXX or CXX\)"):
        run()


def test_a_step_that_cannot_be_written_is_one_line():
    expected = "a step of Vanilla has `rev`, which backend='native' cannot run; use 'auto'"
    with pytest.raises(ConfigError, match=expected):
        run(activation=lambda x: jnp.flip(x, -1))


def test_a_precision_that_it_lacks_is_one_line():
    with pytest.raises(ConfigError, match="a step of Vanilla has products in tf32, which backend='native' cannot run"):
        run(precision="tf32")
