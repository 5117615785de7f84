"""The update of a trust region: what a dense least-squares solve has, and what rounding makes of it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab.engine.newton.trust_region import trusted_steps
from tests.helpers import float64

B, UNITS = 3, 2
NUMBERS = {"full": 2, "block": 2, "block_of_3": 3, "diagonal": 1}
"""How many a unit has; a whole matrix is of all units'."""


def problem(kind: str, steps: int, growth: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matrices of the kind [T, B, S, S], what is lacking and the weights [T, B, S], some of which are 0."""
    draw, size = np.random.default_rng(0), UNITS * NUMBERS[kind]
    matrices = growth * draw.normal(size=(steps, B, size, size)) / np.sqrt(NUMBERS[kind])
    if kind != "full":
        units = np.arange(size) % UNITS
        matrices *= units[:, None] == units
    weights = draw.random((steps, B, size)) * (draw.random((steps, B, size)) < 0.8)
    return matrices, draw.normal(size=(steps, B, size)), weights


def update(kind: str, *arrays: np.ndarray, dtype: Any = float) -> np.ndarray:
    """`trusted_steps`, of lists of elements but for full matrices."""
    matrices, lack, weights = (jnp.asarray(a, dtype) for a in arrays)
    if kind == "full":
        return np.asarray(jax.jit(trusted_steps)(matrices, lack, weights))
    ways = [slice(start, start + UNITS) for start in range(0, lack.shape[-1], UNITS)]
    square: Any = [[jnp.diagonal(matrices[..., p, q], axis1=-2, axis2=-1) for q in ways] for p in ways]
    parts = jax.jit(trusted_steps)(square, *([a[..., way] for way in ways] for a in (lack, weights)))
    return np.concatenate(parts, -1)


def by_least_squares(matrices: np.ndarray, lack: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The same by one dense system of a row's whole sequence."""
    steps, rows, size = lack.shape
    result = np.empty_like(lack)
    for row in range(rows):
        recurrence = np.eye(steps * size)
        for t in range(1, steps):
            recurrence[t * size : (t + 1) * size, (t - 1) * size : t * size] = -matrices[t, row]
        system = np.vstack([recurrence, np.diag(np.sqrt(weights[:, row].ravel()))])
        right = np.concatenate([lack[:, row].ravel(), np.zeros(steps * size)])
        result[:, row] = np.linalg.lstsq(system, right)[0].reshape(steps, size)
    return result


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("kind", NUMBERS)
def test_it_is_the_least_squares_solution_of_the_whole_system(kind, steps):
    with float64():
        matrices, lack, weights = problem(kind, steps)
        np.testing.assert_allclose(
            update(kind, matrices, lack, weights), by_least_squares(matrices, lack, weights), rtol=0, atol=1e-12
        )


def test_without_weights_it_is_newtons():
    """The recurrence itself, step by step."""
    with float64():
        matrices, lack, _ = problem("full", 7)
        added, expected = np.zeros_like(lack[0]), []
        for jacobian, short in zip(matrices, lack, strict=True):
            added = np.einsum("bij,bj->bi", jacobian, added) + short
            expected.append(added)
        np.testing.assert_allclose(update("full", matrices, lack, 0 * lack), expected, rtol=1e-12)
