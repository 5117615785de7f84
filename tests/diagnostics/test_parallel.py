"""How many Newton iterations a layer needs: those of the backend, and what they go by."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rnnlab.cells import Vanilla
from rnnlab.diagnostics.parallel import newton_iterations
from rnnlab.engine import Iterations, NewtonOptions, unroll
from rnnlab.nn.trajectory import Trajectory
from tests.helpers import compiled_carries, float64, measured, random_array, random_cell
from tests.tiers import slow_tests

T, B, D, H = 30, 3, 2, 4
LENGTHS = (30, 0, 11)
CASES = slow_tests(("lstm", "full"), ("lstm", "block"))
CASES += [pytest.param("hippo_legs", "full", marks=pytest.mark.exhaustive)]  # Its carry counts steps.


@pytest.mark.parametrize(("variant", "kind"), CASES)
def test_they_are_those_of_the_backend(variant, kind):
    options = NewtonOptions(jacobian=kind, warm_up=1, damping=0.5, tolerance=1e-9)
    with float64():
        cell: Any = nnx.merge(*random_cell(variant, in_features=D, features=H))
        x, lengths = random_array(1, T, B, D), jnp.array(LENGTHS)
        first, carries = compiled_carries(cell, x, lengths, True, None)
        run = Trajectory("layer 1", cell, x, lengths, True, first, carries)
        iterations, course = measured(newton_iterations, run, options=options)
        of_backend: list[Iterations] = []
        unroll(cell, x, lengths=lengths, reverse=True, backend="newton", newton=options, iterations=of_backend)
    np.testing.assert_array_equal(iterations.number, of_backend[0].number)
    assert int(iterations.number.max()) > 1
    last = np.asarray(course)[int(iterations.number.max())]
    np.testing.assert_array_equal(last, iterations.residual)
    assert not np.asarray(course)[int(iterations.number.max()) + 1 :].any()


@pytest.mark.slow
def test_a_network_that_explodes_takes_about_as_many_as_it_has_steps_and_one_that_contracts_few():
    """A tanh network whose R is a tenth and four times an orthogonal matrix."""
    numbers = []
    with float64():
        for size in (0.1, 4.0):
            cell = Vanilla(D, 16, rngs=nnx.Rngs(0))
            cell.recurrent_kernel[...] *= size
            cell = jax.tree.map(lambda a: a.astype(float), cell)
            x = random_array(1, 60, 1, D)
            first, carries = compiled_carries(cell, x, None, False, None)
            run = Trajectory("layer 1", cell, x, None, False, first, carries)
            numbers.append(int(measured(newton_iterations, run, options=NewtonOptions())[0].number.max()))
    assert numbers[0] <= 3
    assert numbers[1] > 30
