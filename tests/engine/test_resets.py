"""Rows that begin anew in mid-sequence equal the same steps as rows of their own."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rnnlab.engine import unroll
from tests.helpers import (
    assert_close,
    dot,
    float64,
    jaxtyping_disabled,
    make_cell,
    random_array,
    random_carry,
    random_cell,
    random_like,
    with_bad_padding,
)
from tests.tiers import exhaustive_tests, slow_tests

T, B, D, H = 7, 3, 2, 4
BEGINS = np.zeros((T, B), bool)
BEGINS[[0, 3, 1, 2, 4, 6], [0, 0, 1, 1, 1, 1]] = True
"""Rows of two and four beginnings beside the first step's, and one of none; a first step that is a reset itself."""
LENGTHS = [7, 5, 6]
RUNS = [
    ("lstm", "fused", False),
    *slow_tests(("gru_reset_before", "fused", True), ("lstm", "reference", True)),
    *exhaustive_tests(
        ("lstm", "fused", True),
        ("lstm", "reference", False),
        ("gru_reset_before", "fused", False),
        *(("gru_reset_before", "reference", reverse) for reverse in (False, True)),
    ),
]


def segments(row: int, lengths: list[int] | None) -> list[tuple[int, int]]:
    """First step and end of each stretch of a row."""
    end = T if lengths is None else lengths[row]
    firsts = [t for t in range(end) if t == 0 or BEGINS[t, row]]
    return list(zip(firsts, [*firsts[1:], end], strict=True))


def alone(cell: Any, x: jax.Array, first: Any, anew: Any, lengths: list[int] | None, reverse: bool) -> jax.Array:
    """h of every step, each stretch run by itself."""
    h = jnp.zeros((T, B, H), x.dtype)
    for row in range(B):
        stretches = segments(row, lengths)
        for number, (start, end) in enumerate(stretches):
            begins_row = number == len(stretches) - 1 if reverse else number == 0 and not BEGINS[0, row]
            carry = tuple(a[row : row + 1] for a in (first if begins_row else anew))
            part, _ = unroll(
                cell, x[start:end, row : row + 1], initial_carry=carry, reverse=reverse, backend="reference"
            )
            h = h.at[start:end, row].set(part[:, 0])
    return h


@pytest.mark.parametrize("lengths", [LENGTHS, *slow_tests(None)])
@pytest.mark.parametrize(("variant", "backend", "reverse"), RUNS)
def test_rows_with_resets_equal_their_stretches_run_alone(variant, backend, reverse, lengths):
    with float64():
        graphdef, state = random_cell(variant, in_features=D, features=H)
        cell = nnx.merge(graphdef, state)
        x = random_array(1, T, B, D)
        first, anew = (random_carry(cell, B, x.dtype, seed) for seed in (2, 3))
        bad = x if lengths is None else with_bad_padding(x, jnp.array(lengths))
        rows = None if lengths is None else jnp.array(lengths)

        def at_once(cell: Any, x: jax.Array, first: Any, anew: Any) -> jax.Array:
            options = {"resets": jnp.array(BEGINS), "reset_carry": anew, "initial_carry": first, "lengths": rows}
            return unroll(cell, x, reverse=reverse, backend=backend, chunk=3, **options)[0]

        def one_by_one(cell: Any, x: jax.Array, first: Any, anew: Any) -> jax.Array:
            return alone(cell, x, first, anew, lengths, reverse)

        def differentiated(run: Any, x: jax.Array) -> Any:
            def loss(state: nnx.State, *rest: Any) -> Any:
                h = run(nnx.merge(graphdef, state), *rest)
                return dot(h, random_like(h, 5)), h

            return jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3), has_aux=True))(state, x, first, anew)

        assert_close(differentiated(at_once, bad), differentiated(one_by_one, x), 1e-12)


def test_rows_begin_anew_with_the_cells_zeros_where_no_carry_is_given():
    cell, x, first = make_cell("lstm", D, H), random_array(1, T, B, D), random_array(2, B, H)
    resets = jnp.array(BEGINS)
    zeros = cell.initial_carry(B)
    h, last = unroll(cell, x, resets=resets, initial_carry=(first, first))
    expected = unroll(cell, x, resets=resets, initial_carry=(first, first), reset_carry=zeros)
    assert_close((h, last), expected, 0)
    assert_close(h[0, 0], unroll(cell, x[:1])[0][0, 0], 1e-6)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "shape": ({"resets": np.zeros((T, B + 1), bool)}, r"resets has shape (7, 4); x (7, 3, 2) needs (7, 3)"),
    "order": ({"resets": np.zeros((B, T), bool)}, r"needs (7, 3): is x [B, T, D]?"),
    "type": ({"resets": np.zeros((T, B), int)}, "resets holds int32; they are truth values [T, B]"),
    "a carry alone": ({"reset_carry": (np.zeros((B, H), np.float32),)}, "it needs resets"),
    "another carry": (
        {"resets": BEGINS, "reset_carry": (np.zeros((B, 1), np.float32),)},
        "reset_carry is float32[3, 1]; this Vanilla with x (7, 3, 2) needs a tuple of float32[3, 4]",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_resets_of_another_shape_or_type_are_refused_in_one_line(case):
    options, message = REFUSED[case]
    with jaxtyping_disabled(), pytest.raises(ValueError, match=re.escape(message)) as error:
        unroll(make_cell("vanilla", D, H), random_array(1, T, B, D), **options)
    assert "\n" not in str(error.value)
