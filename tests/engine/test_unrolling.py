"""The engine: masks, directions, carries, taps, chunk lengths, memory and refusals, on three cells that differ in kind.

Most tests compare with the loop in helpers.py, which goes row by row and step by step over valid inputs only. What must
hold for every cell is in test_cells.py.
"""

import functools
import inspect
import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rnnlab.cells import CELLS
from rnnlab.engine import default_chunk, make_taps, products, resolve_backend, unroll
from rnnlab.engine.chain import kept_bytes
from rnnlab.engine.plan import Plan
from rnnlab.ops.safe_norms import global_norm
from tests.helpers import (
    assert_close,
    dot,
    float64,
    jaxtyping_disabled,
    loop,
    make_cell,
    random_array,
    random_carry,
    random_cell,
    random_like,
    shape_of_cell,
    with_bad_padding,
)
from tests.tiers import exhaustive_tests, slow_tests

T, B, D, H = 4, 3, 2, 3
LENGTHS = [2, 0, 4]

# A carry of two, and two products in sequence; with the slow tests a product that is not simply added to the input.
# Where both backends run a cell, test_cells.py compares them: it is enough to compare one with the loop.
FUSED = [("lstm", "fused"), *slow_tests(("gru_reset_before", "fused"))]
FURTHER = [("gru", "fused"), *((name, "reference") for name in ("lstm", "gru", "gru_reset_before"))]
RUNS = [*FUSED, *slow_tests(*FURTHER)]
# (cell, backend, reverse, lengths)
CASES = [
    ("lstm", "fused", False, False),
    ("lstm", "fused", True, True),
    *slow_tests(("lstm", "fused", False, True), ("lstm", "fused", True, False)),
    *slow_tests(*(("gru_reset_before", "fused", *rows) for rows in itertools.product((False, True), repeat=2))),
    *slow_tests(*((*run, True, True) for run in FURTHER)),
    *exhaustive_tests(*((*run, *rows) for run in FURTHER for rows in [(False, False), (False, True), (True, False)])),
]


@functools.cache
def point(variant: str) -> tuple[nnx.GraphDef, tuple[Any, ...]]:
    """A cell, and (parameters, x, initial carry, taps)."""
    graphdef, state = random_cell(variant, in_features=D, features=H)
    cell = nnx.merge(graphdef, state)
    x = random_array(1, T, B, D)
    carry = random_carry(cell, B, x.dtype, 2)
    return graphdef, (state, x, carry, make_taps(cell, x))


def weighed(result: Any) -> tuple[jax.Array, Any]:
    """A loss with a random weight on every output and on the final carry, and what it was made of."""
    return dot(result, random_like(result, 3)), result


@functools.cache
def gradients(variant: str, backend: str, with_lengths: bool = False, reverse: bool = False) -> Any:
    """x -> (loss, outputs), gradients, by `unroll`, of rows of all steps or of LENGTHS."""
    graphdef, (state, _, carry, taps) = point(variant)
    lengths = jnp.array(LENGTHS) if with_lengths else None

    def loss(state: nnx.State, x: jax.Array, carry: Any, taps: Any) -> Any:
        cell = nnx.merge(graphdef, state)
        options = {"lengths": lengths, "reverse": reverse, "initial_carry": carry, "taps": taps}
        return weighed(unroll(cell, x, backend=backend, chunk=3, **options))

    run = jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3), has_aux=True))
    return lambda x: run(state, x, carry, taps)


@functools.cache
def loop_gradients(variant: str, reverse: bool, lengths: bool) -> Any:
    graphdef, (state, x, carry, taps) = point(variant)

    def loss(state: nnx.State, x: jax.Array, carry: Any, taps: Any) -> Any:
        cell = nnx.merge(graphdef, state)
        return weighed(loop(cell, x, carry, lengths=LENGTHS if lengths else None, reverse=reverse, taps=taps))

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3), has_aux=True))(state, x, carry, taps)


@pytest.mark.parametrize(("variant", "backend", "reverse", "lengths"), CASES)
def test_outputs_carries_and_gradients_equal_a_loop_over_valid_steps(variant, backend, reverse, lengths):
    with float64():
        x = point(variant)[1][1]
        if lengths:
            x = with_bad_padding(x, jnp.array(LENGTHS))
        actual = gradients(variant, backend, lengths, reverse)(x)
        assert_close(actual, loop_gradients(variant, reverse, lengths), 1e-12)


@pytest.mark.parametrize(("variant", "backend"), RUNS)
def test_padding_changes_nothing_and_gets_no_gradient(variant, backend):
    with float64():
        rows = jnp.array(LENGTHS)
        x = point(variant)[1][1]
        run = gradients(variant, backend, True)
        clean, bad = run(x), run(with_bad_padding(x, rows))
        padding = np.arange(T)[:, None] >= np.array(LENGTHS)
        for a, b in zip(jax.tree.leaves(clean), jax.tree.leaves(bad), strict=True):
            np.testing.assert_array_equal(a, b)
        (_, (h, _)), (_, dx, _, dtaps) = bad
        for array in (h, dx, *jax.tree.leaves(dtaps)):
            assert (np.asarray(array)[padding] == 0).all()
            assert (np.asarray(array)[~padding] != 0).all()


@pytest.mark.parametrize(("variant", "backend"), [*FUSED, *slow_tests(("lstm", "reference"))])
@pytest.mark.parametrize("reverse", [False, True])
def test_final_carry_is_that_of_the_truncated_row(variant, backend, reverse):
    with float64():
        graphdef, (state, x, carry, _) = point(variant)
        cell = nnx.merge(graphdef, state)
        run = jax.jit(functools.partial(unroll, cell, backend=backend, reverse=reverse))
        _, last = run(x, lengths=jnp.array(LENGTHS), initial_carry=carry)
        for row, length in enumerate(LENGTHS):
            start = tuple(c[row : row + 1] for c in carry)
            expected = run(x[:length, row : row + 1], initial_carry=start)[1] if length else start
            assert_close(tuple(c[row : row + 1] for c in last), expected, 1e-14 if length else 0)


@pytest.mark.parametrize(("variant", "backend"), RUNS)
def test_reverse_equals_flipping_each_row_by_hand(variant, backend):
    def flipped(a: jax.Array) -> jax.Array:
        rows = [jnp.concatenate([a[:n, row][::-1], a[n:, row]]) for row, n in enumerate(LENGTHS)]
        return jnp.stack(rows, axis=1)

    with float64():
        graphdef, (state, x, carry, _) = point(variant)
        run = functools.partial(
            unroll, nnx.merge(graphdef, state), lengths=jnp.array(LENGTHS), initial_carry=carry, backend=backend
        )
        h, last = run(x, reverse=True)
        h_forward, last_forward = run(flipped(x))
        assert_close((h, last), (flipped(h_forward), last_forward), 1e-14)


@pytest.mark.parametrize("variant", ["lstm", *slow_tests("gru")])
@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_of_taps_equal_finite_differences(variant, reverse):
    # The fused backend never reads the taps' values, so their gradients are compared with the reference's response.
    with float64():
        rows = jnp.array(LENGTHS)
        graphdef, (state, x, carry, taps) = point(variant)
        (_, _), (*_, dtaps) = gradients(variant, "fused", True, reverse)(x)

        @jax.jit
        @jax.vmap
        def loss(taps: Any) -> jax.Array:
            cell, options = nnx.merge(graphdef, state), {"lengths": rows, "reverse": reverse, "initial_carry": carry}
            return weighed(unroll(cell, x, taps=taps, backend="reference", **options))[0]

        flat, restore = jax.flatten_util.ravel_pytree(taps)
        step = 1e-5
        bumps = jax.vmap(restore)(step * jnp.eye(flat.size))
        slopes = (loss(bumps) - loss(jax.tree.map(jnp.negative, bumps))) / (2 * step)
        assert_close(dtaps, restore(slopes), 1e-8)


@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_taps_carry_holds_the_gradient_by_each_hidden_state(backend):
    # ∂L/∂h_t: cut the run after step t and differentiate what follows by the carry it starts from, plus what the loss
    # takes from h_t itself.
    with float64():
        graphdef, (state, x, carry, _) = point("lstm")
        cell = nnx.merge(graphdef, state)
        (_, (h, last)), (*_, dtaps) = gradients("lstm", backend)(x)
        weights_h, weights_last = random_like((h, last), 3)
        middle = carry
        for t in range(T):
            _, middle = loop(cell, x[t : t + 1], middle)

            def rest(middle, t=t):
                later = loop(cell, x[t + 1 :], middle) if t + 1 < T else (jnp.zeros((0, B, H)), middle)
                return jnp.vdot(weights_h[t], middle[0]) + dot(later, (weights_h[t + 1 :], weights_last))

            expected = jax.grad(rest)(middle)
            assert_close(tuple(tap[t] for tap in dtaps.carry), expected, 1e-12)


def test_lengths_that_a_compiled_function_closes_over_are_read_and_checked():
    graphdef, state = random_cell("vanilla", in_features=D, features=H)
    x = random_array(0, T, B, D)

    def outputs(lengths: jax.Array) -> jax.Array:
        return jax.jit(lambda x: unroll(nnx.merge(graphdef, state), x, lengths=lengths)[0])(x)

    assert not outputs(jnp.array([1] * B))[1:].any()
    with pytest.raises(ValueError, match=f"go from {T + 1} to {T + 1}; they may go from 0 to {T}"):
        outputs(jnp.array([T + 1] * B))


def test_no_lengths_equal_full_lengths():
    with float64():
        graphdef, (state, x, carry, _) = point("lstm")
        cell = nnx.merge(graphdef, state)
        full = unroll(cell, x, initial_carry=carry, lengths=jnp.full(B, T))
        assert_close(unroll(cell, x, initial_carry=carry), full, 1e-14)


def test_carry_begins_at_zero_and_continues_where_it_ended():
    with float64():
        graphdef, (state, x, _, _) = point("lstm")
        cell = nnx.merge(graphdef, state)
        whole, last = unroll(cell, x)
        first, middle = unroll(cell, x[:2], initial_carry=cell.initial_carry(B, x.dtype))
        second, end = unroll(cell, x[2:], initial_carry=middle)
        assert_close((whole, last), (jnp.concatenate([first, second]), end), 1e-14)


def test_make_taps_are_zeros_of_the_steps_shapes():
    taps = make_taps(make_cell("lstm", D, H), jnp.ones((T, B, D)))
    assert [a.shape for a in taps.carry] == [(T, B, H)] * 2
    assert taps.u.shape == (T, B, 4 * H)
    assert not any(a.any() for a in jax.tree.leaves(taps))


def test_a_loss_of_the_last_state_alone_makes_no_gradient_of_h() -> None:
    """XLA would put zeros [T, B, H] into the loop over chunks, a third of a training step."""

    def gradient(read: int) -> str:
        def loss(x: jax.Array) -> jax.Array:
            return jax.tree.leaves(unroll(make_cell("vanilla", features=H), x, chunk=2)[read])[0].sum()

        return str(jax.make_jaxpr(jax.grad(loss))(jnp.ones((T, B, 3))))

    whole = f"f32[{T},{B},{H}] = broadcast_in_dim"
    assert gradient(0).count(whole) == gradient(1).count(whole) + 1


@pytest.mark.parametrize("variant", ["lstm", *slow_tests("gru")])
@pytest.mark.parametrize("read", [0, 1], ids=["outputs", "last"])
def test_gradients_of_the_outputs_or_the_last_state_alone(variant: str, read: int) -> None:
    def gradient(backend: Any) -> Any:
        def loss(state: nnx.State, x: jax.Array, carry: Any) -> jax.Array:
            result = unroll(nnx.merge(graphdef, state), x, initial_carry=carry, backend=backend)[read]
            return dot(result, random_like(result, 3))

        return jax.grad(loss, (0, 1, 2))

    with float64():
        graphdef, (*primals, _) = point(variant)
        assert_close(jax.jit(gradient("fused"))(*primals), jax.jit(gradient("reference"))(*primals), 1e-13)


@pytest.mark.parametrize("steps", [1, 2, 15, 16, 17, 37, 100, 784, 1009])
@pytest.mark.parametrize(("batch", "width"), [(1, 1), (16, 128), (64, 512), (1024, 4096)])
def test_default_chunk_cuts_the_sequence_into_equal_parts_that_fit(steps, batch, width):
    chunk = default_chunk(steps, batch, width)
    parts = -(-steps // chunk)
    assert 1 <= chunk <= steps
    assert parts * chunk - steps < parts, "no part but the last is shorter, and that by less than a step for each"
    assert chunk <= 8 or (chunk - 1) * batch < 512 or chunk * batch * width <= 1 << 17


@pytest.mark.slow
def test_default_chunk_that_leaves_a_remainder_gives_the_gradients_of_one_chunk():
    steps, batch, features = 37, 64, 64
    assert steps % default_chunk(steps, batch, 4 * features) != 0
    graphdef, state = nnx.split(make_cell("lstm", D, features))
    x = random_array(0, steps, batch, D)

    def run(chunk: int | None) -> Any:
        return jax.jit(jax.grad(lambda s: (unroll(nnx.merge(graphdef, s), x, chunk=chunk)[0] ** 2).sum()))(state)

    assert_close(run(None), run(steps), 1e-5)


# name -> (shapes; a type in front of one, options, message)
BAD_ARGUMENTS = {
    "x without a batch": ({"x": (T, D)}, {}, "time first"),
    "x without steps": ({"x": (0, B, D)}, {}, "no time steps"),
    "lengths of another batch": ({"x": (T, B, D), "lengths": (B + 1,)}, {}, rf"lengths has shape \({B + 1},\)"),
    "lengths of every step": ({"x": (T, B, D), "lengths": (T, B)}, {}, "lengths has shape"),
    "lengths of rows first": (
        {"x": (B + 4, B, D), "lengths": (B + 4,)},
        {},
        rf"lengths has shape \({B + 4},\).*\({B},\): is x \[B, T, D\]",
    ),
    "lengths that are not counts": ({"x": (T, B, D), "lengths": ("float32", B)}, {}, "lengths holds float32"),
    "lengths that are a mask": ({"x": (T, B, D), "lengths": ("bool", B)}, {}, "lengths holds bool"),
    "x of complex numbers": ({"x": ("complex64", T, B, D)}, {}, "x holds complex64"),
    "x without rows": ({"x": (T, 0, D)}, {}, "no rows"),
    **{
        f"x of width {width}": ({"x": (T, B, width)}, {}, rf"\({T}, {B}, {width}\); this Vanilla takes {D} features")
        for width in (1, D - 1, D + 1, 40)
    },
    "x of integers and another width": ({"x": ("int32", T, B, D + 1)}, {}, f"takes {D} features"),
    "a carry that is not a tuple": ({"x": (T, B, D), "carry": (B, H)}, {}, "initial_carry is not a tuple"),
    "no carry": (
        {"x": (T, B, D), "carry": []},
        {},
        rf"initial_carry is nothing; .* needs a tuple of float32\[{B}, {H}\]",
    ),
    "two carries": ({"x": (T, B, D), "carry": [(B, H), (B, H)]}, {}, "initial_carry is float32.*, float32"),
    "a carry of another width": ({"x": (T, B, D), "carry": [(B, H + 1)]}, {}, rf"\[{B}, {H + 1}\]; .*\[{B}, {H}\]"),
    "a carry of one row": ({"x": (T, B, D), "carry": [(1, H)]}, {}, rf"\[1, {H}\]; .*\[{B}, {H}\]"),
    "a carry of rows first": ({"x": (B + 4, B, D), "carry": [(B + 4, H)]}, {}, r"is x \[B, T, D\]"),
    "a carry of integers": ({"x": (T, B, D), "carry": [("int32", B, H)]}, {}, "initial_carry is int32.*float32"),
    "a carry of half precision": ({"x": (T, B, D), "carry": [("bfloat16", B, H)]}, {}, "initial_carry is bfloat16"),
    "noise of other rows": ({"x": (T, B, D), "noise": [(T, B + 1, H)]}, {}, "noise has shape"),
    "a state mask of one row": ({"x": (T, B, D), "state_mask": (1, H)}, {}, rf"state_mask has shape \(1, {H}\)"),
    "no chunk": ({"x": (T, B, D)}, {"chunk": 0}, "chunk is 0"),
    "no unrolled steps": ({"x": (T, B, D)}, {"unroll_steps": 0}, "unroll_steps is 0"),
    "another store": ({"x": (T, B, D)}, {"store": "all"}, "known: auto, gates, carries, ends"),
    "another backend": ({"x": (T, B, D)}, {"backend": "cudnn"}, "known: auto, fused, reference"),
}


@pytest.fixture
def without_type_checks() -> Iterator[None]:
    """As outside the tests: what the engine checks itself is all that is checked."""
    with jaxtyping_disabled():
        yield


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_bad_arguments_are_refused_by_name(case):
    shapes, options, message = BAD_ARGUMENTS[case]

    def array(shape: Any, dtype: Any = "float32") -> Any:
        if isinstance(shape, list):
            return tuple(map(array, shape))
        dtype, shape = (shape[0], shape[1:]) if isinstance(shape[0], str) else (dtype, shape)
        return jnp.ones(shape, dtype)

    arguments = {name: array(shape, "int32" if name == "lengths" else "float32") for name, shape in shapes.items()}
    x = arguments.pop("x")
    if "carry" in arguments:
        arguments["initial_carry"] = arguments.pop("carry")
    cell = make_cell("vanilla", D, H)
    for run in (unroll, jax.jit(lambda x, **arguments: unroll(cell, x, **arguments, **options))):
        with pytest.raises(ValueError, match=message):
            run(*((cell, x) if run is unroll else (x,)), **arguments, **(options if run is unroll else {}))


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("carry", [{"h": jnp.ones((B, H))}, (None,), "zeros", 0, (0.0,), [[0.0] * H] * B])
def test_carry_of_something_else_is_one_line_with_what_is_needed(carry):
    cell = make_cell("vanilla", D, H)
    with pytest.raises(ValueError, match=rf"^initial_carry is [^\n]*; [^\n]* float32\[{B}, {H}\]$"):
        unroll(cell, jnp.ones((T, B, D)), initial_carry=carry)


def no_cells():
    """By what they are called in the message."""
    torch = pytest.importorskip("torch")
    flax_cell = nnx.LSTMCell(D, H, rngs=nnx.Rngs(0))
    found = {"'lstm'": "lstm", "None": None, "a torch.nn.modules.rnn.LSTM, ": torch.nn.LSTM(D, H)}
    found |= {f"a {nnx.LSTMCell.__module__}.LSTMCell, which lacks project": flax_cell, "a builtins.dict, ": {}}
    return found | {
        f"the class {each.__name__}, not an instance": each for each in set(CELLS.values()) if isinstance(each, type)
    }


@pytest.mark.parametrize("function", [unroll, make_taps, lambda cell, _: inspect.unwrap(resolve_backend)(cell, "auto")])
def test_what_is_no_cell_is_one_line_with_how_to_make_one(function):
    function = inspect.unwrap(function)  # Without the tests' own check of types.
    for what, cell in no_cells().items():
        with jaxtyping_disabled(), pytest.raises(TypeError) as caught:
            function(cell, jnp.ones((T, B, D)))
        said = str(caught.value)
        assert said.startswith(f"cell is {what}"), said
        assert "rnnlab.LSTM(in_features, features, rngs=flax.nnx.Rngs(0))" in said
        assert "\n" not in said


@pytest.mark.parametrize("length", [-1, T + 1])
def test_lengths_beyond_the_steps_are_refused_where_they_are_known(length):
    cell, x, lengths = make_cell("vanilla", D, H), jnp.ones((T, B, D)), jnp.full(B, T).at[1].set(length)
    with pytest.raises(ValueError, match=rf"lengths of x .* from 0 to {T}$"):
        unroll(cell, x, lengths=lengths)
    with pytest.raises(ValueError, match="lengths of x"):
        jax.jit(lambda x: unroll(cell, x, lengths=lengths))(x)
    jax.jit(lambda lengths: unroll(cell, x, lengths=lengths))(lengths)


@pytest.mark.usefixtures("without_type_checks")
def test_taps_of_another_sequence_are_refused():
    cell = make_cell("vanilla", D, H)
    taps = make_taps(cell, jnp.zeros((T, B, D)))
    with pytest.raises(ValueError, match="taps have shapes"):
        unroll(cell, jnp.zeros((T + 1, B, D)), taps=taps)


INTEGERS = {
    "default": [("lstm", "bool", 40), ("lstm", "int32", 1)],
    "slow": [("lstm", "uint8", 4), ("gru_reset_before", "bool", 5), ("gru_reset_before", "int32", 40)],
}


@pytest.mark.parametrize(
    ("variant", "dtype", "width"),
    [
        *INTEGERS["default"],
        *slow_tests(*INTEGERS["slow"]),
        *exhaustive_tests(
            *(
                case
                for case in itertools.product(("lstm", "gru_reset_before"), ("bool", "uint8", "int32"), (1, 4, 5, 40))
                if case not in [*INTEGERS["default"], *INTEGERS["slow"]]
            )
        ),
    ],
)
def test_integers_are_numbers_and_the_parameters_get_their_gradients(variant, dtype, width):
    _, state = random_cell(variant, in_features=width)
    x = jnp.asarray(np.random.default_rng(0).integers(0, 2, (T, B, width)), dtype)
    gradients = gradients_of_the_outputs(variant, width)
    assert_close(gradients(state, x), gradients(state, x.astype("float32")), 0)


@functools.cache
def gradients_of_the_outputs(variant: str, width: int) -> Any:
    """(parameters, x) -> loss, gradients by the parameters."""
    graphdef, _ = random_cell(variant, in_features=width)
    return jax.jit(jax.value_and_grad(lambda s, x: weighed(unroll(nnx.merge(graphdef, s), x))[0]))


def test_auto_is_fused_where_the_cell_allows_it():
    assert {name: resolve_backend(shape_of_cell(name), "auto") for name in CELLS} == dict.fromkeys(CELLS, "fused")


def test_fused_needs_a_fraction_of_the_memory_of_reference():
    # Compiled temporaries over those of the reference.
    graphdef, state = nnx.split(make_cell("lstm", 4, 16))
    x = jnp.zeros((2000, 8, 4))

    def temporaries(**options: Any) -> int:
        def loss(state: nnx.State) -> jax.Array:
            return (unroll(nnx.merge(graphdef, state), x, **options)[0] ** 2).sum()

        return jax.jit(jax.grad(loss)).lower(state).compile().memory_analysis().temp_size_in_bytes

    reference = temporaries(backend="reference")
    assert reference > 5 * temporaries(backend="fused", chunk=50, store="carries") > 0
    assert reference > 9 * temporaries(backend="fused", chunk=50, store="ends") > 0


@pytest.mark.parametrize(
    ("variant", "arrays"), [("vanilla", 0), ("irnn", 0), ("gru", 4), ("lstm", 5), ("gru_reset_before", 4)]
)
def test_gates_that_follow_from_the_carries_are_not_kept(variant, arrays):
    # LSTM: the outputs of its four gates and tanh(c'); GRU: of its three, and h R_n + c_n,
    # or, with the reset gate before the product, r ∘ h.
    cell = make_cell(variant, D, H)
    graphdef, params = nnx.split(cell)
    plan = Plan(graphdef, T, False, 1, keep_carries=True, keep_gates=True, precision="highest")
    x = jnp.zeros((T, B, D))
    assert (
        kept_bytes(plan, params, cell.matrices(), cell.initial_carry(B, x.dtype), x, ())
        == arrays * T * B * H * x.dtype.itemsize
    )


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["lstm", *exhaustive_tests("gru", "irnn")])
@pytest.mark.parametrize(("of_params", "of_x"), [("bfloat16", "float32"), ("float32", "bfloat16")])
def test_gradients_have_the_type_of_what_they_belong_to(variant, of_params, of_x):
    graphdef, state = random_cell(variant)
    state = jax.tree.map(lambda a: a.astype(of_params), state)
    x = random_array(1, 6, 2, 3).astype(of_x)

    def gradients(backend: str) -> tuple[nnx.State, jax.Array]:
        def loss(state: nnx.State, x: jax.Array) -> jax.Array:
            return unroll(nnx.merge(graphdef, state), x, backend=backend)[0].astype(jnp.float32).sum()

        return jax.grad(loss, (0, 1))(state, x)

    fused, reference = gradients("fused"), gradients("reference")
    for a, b, like in zip(*map(jax.tree.leaves, (fused, reference, (state, x))), strict=True):
        assert a.dtype == like.dtype
        # Two units in the last place of bfloat16.
        assert jnp.abs(a - b).max() <= 2**-6 * jnp.abs(b).max()


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["lstm", *exhaustive_tests("gru", "irnn")])
def test_bfloat16_products_change_gradients_by_their_rounding_and_no_more(variant):
    # The error is what the recurrence makes of that of the operands, 2^-9 each; the IRNN, which forgets nothing, makes
    # more of it with every step (docs/performance.md).
    graphdef, state = nnx.split(make_cell(variant, in_features=4, features=16))
    x = random_array(1, 20, 8, 4)

    def gradients(precision: str, backend: str) -> tuple[nnx.State, jax.Array]:
        def loss(state: nnx.State, x: jax.Array) -> jax.Array:
            cell = nnx.merge(graphdef, state)
            cell.precision = precision
            h, _ = unroll(cell, x, backend=backend, chunk=8)
            assert h.dtype == jnp.float32
            return jnp.mean((h - 0.5) ** 2)

        return jax.grad(loss, (0, 1))(state, x)

    exact = gradients("highest", "fused")
    for backend in ("fused", "reference"):
        found = gradients("bfloat16", backend)
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(found))
        difference = jax.tree.map(jnp.subtract, found, exact)
        error = float(global_norm(difference) / global_norm(exact))
        assert 1e-4 < error < 2**-5


@pytest.mark.parametrize(("store", "reverse"), [("gates", True), *slow_tests(("gates", False), ("carries", False))])
def test_wide_inputs_give_the_gradients_of_the_reference(store, reverse):
    with float64():
        graphdef, state = random_cell("lstm", in_features=64, features=2)
        x = random_array(1, 7, 2, 64)

        def gradients(**options: Any) -> Any:
            def loss(state: nnx.State, x: jax.Array) -> Any:
                return weighed(unroll(nnx.merge(graphdef, state), x, reverse=reverse, **options))

            return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(state, x)

        assert_close(gradients(store=store, chunk=3), gradients(backend="reference"), 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["lstm", *slow_tests("gru")])
def test_kernel_in_blocks_of_columns_gives_the_gradients_of_the_reference(variant, monkeypatch):
    monkeypatch.setattr(products, "_CACHED_KERNEL", 1)
    monkeypatch.setattr(products, "COLUMNS", 4)
    with float64():
        graphdef, (state, x, carry, _) = point(variant)

        def run(backend: str) -> Any:
            def loss(state: nnx.State, x: jax.Array, carry: Any) -> Any:
                return weighed(unroll(nnx.merge(graphdef, state), x, initial_carry=carry, backend=backend, chunk=3))

            return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(state, x, carry)

        assert_close(run("fused"), run("reference"), 1e-12)
