"""Errors of each precision against double precision, as docs/performance.md has them."""

import jax
import pytest

from scripts.measure_precision import initialised


@pytest.mark.slow
def test_errors_of_a_gradient_grow_as_operands_lose_bits() -> None:
    with jax.enable_x64(True):
        errors = {precision: pair[1] for precision, pair in initialised("gru", 8, 1).items()}
    assert errors["highest"] < 1e-6
    assert errors["tf32x3"] < 2e-6
    assert 1e-5 < errors["tf32"] < 2e-3
    assert 3 < errors["bfloat16"] / errors["tf32"] < 20  # Three bits fewer.
