"""Every cell against its paper: a loop in NumPy, written from the paper's equations, decides values and gradients.

The steps stand in the folder `equations`, a module a family, with `EQUATIONS = {variant: step}`. A step is a function
of (w, x [B, D], *carry), which gives the new carry; w has the cell's arrays by name. Cells that are compared with
another library have none.
"""

import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rnnlab.cells import CELLS
from rnnlab.engine import unroll
from tests.cells.equations.functions import State, Weights
from tests.engine.test_peers import FLAX_PEERS, TORCH_PEERS
from tests.helpers import (
    assert_close,
    dot,
    float64,
    random_array,
    random_carry,
    random_cell,
    random_direction,
    random_like,
)
from tests.tiers import CELL_VARIANTS, in_tiers

T, B, D = 5, 2, 3

FAMILIES = {
    module.name: importlib.import_module(f"tests.cells.equations.{module.name}")
    for module in pkgutil.iter_modules([str(Path(__file__).parent / "equations")])
    if module.name != "functions"
}
EQUATIONS: dict[str, Callable[..., State]] = {
    variant: step for family in FAMILIES.values() for variant, step in family.EQUATIONS.items()
}


def test_every_cell_has_equations_or_a_peer_and_no_variant_two():
    peers = {variant for variant, *_ in (*TORCH_PEERS.values(), *FLAX_PEERS.values())}
    assert set(CELLS) - set(EQUATIONS) - peers == set()
    assert set(EQUATIONS) - set(CELL_VARIANTS) == set()
    assert len(EQUATIONS) == sum(len(family.EQUATIONS) for family in FAMILIES.values())


def arrays(state: nnx.State) -> Weights:
    """A state's arrays, those of an inner module by both names."""
    leaves = nnx.to_flat_state(state)
    values = {path: leaf.get_value() if isinstance(leaf, nnx.Variable) else leaf for path, leaf in leaves}
    return {".".join(map(str, path)): np.asarray(value) for path, value in values.items()}


def by_equations(step: Callable[..., State], w: Weights, x: np.ndarray, carry: State) -> tuple[np.ndarray, State]:
    """What `unroll` must return."""
    h = []
    for x_t in x:
        carry = step(w, x_t, *carry)
        h.append(carry[0])
    return np.stack(h), carry


@pytest.mark.parametrize("variant", in_tiers(EQUATIONS, central=True))
def test_steps_and_gradients_equal_the_equations_of_the_paper(variant):
    # Four points leave out terms of order step⁴ only: with 1e-4 both these and rounding are below 3e-12 of the scale.
    # The scale is the sum of the sizes of what the slope adds up, which may cancel.
    with float64():
        graphdef, state = random_cell(variant)
        params, others = nnx.split_state(state, nnx.Param, ...)
        cell = nnx.merge(graphdef, state)
        x = random_array(1, T, B, D)
        point = params, x, random_carry(cell, B, x.dtype, 2)
        weights = random_like(jax.eval_shape(lambda: unroll(cell, x)), 7)

        def loss(params: nnx.State, x: jax.Array, carry: Any) -> Any:
            result = unroll(nnx.merge(graphdef, params, others), x, initial_carry=carry)
            return dot(result, weights), result

        (_, actual), gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(*point)
        direction, step = random_direction(point, 11), 1e-4

        def along(steps: int) -> tuple[float, Any]:
            params, x, carry = jax.tree.map(lambda a, d: np.asarray(a + steps * step * d), point, direction)
            result = by_equations(EQUATIONS[variant], arrays(params) | arrays(others), x, carry)
            return float(dot(result, weights)), result

        assert_close(actual, along(0)[1], 1e-13)
        slope = (8 * (along(1)[0] - along(-1)[0]) - (along(2)[0] - along(-2)[0])) / (12 * step)
        scale = dot(jax.tree.map(jnp.abs, gradients), jax.tree.map(jnp.abs, direction))
        np.testing.assert_allclose(dot(gradients, direction), slope, rtol=0, atol=1e-11 * scale)
