"""Activations whose units have trained parameters, in a cell: `PerUnit` in `ops/activations.py`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rnnlab.cells import Cell, Vanilla
from rnnlab.engine import unroll
from rnnlab.nn.network import Network
from rnnlab.ops.activations import ActivationSpec, PerUnit
from rnnlab.optim.parameters import kernels
from rnnlab.optim.terms import group_of
from tests.helpers import random_array

H = 4


class Slopes(nnx.Module):
    """max(a x, x), a slope for each unit."""

    def __init__(self, slope: jax.Array):
        self.slope_kernel = nnx.Param(slope)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.maximum(self.slope_kernel[...] * x, x)


def slopes() -> PerUnit:
    return PerUnit(lambda features, rngs: Slopes(jax.random.uniform(rngs.params(), (features,))))


class Pair(Cell):
    """A cell with two activations."""

    gate_names = ("a", "b")
    first: ActivationSpec = "modrelu"
    second: ActivationSpec = "tanh"

    def gates(self, carry: Any, z: Any, u: Any) -> Any:
        first: Any = self.first
        second: Any = self.second
        return (first(z[0] + u[0]) + second(z[1] + u[1]),)


def test_every_activation_of_a_cell_has_parameters_of_its_own_for_each_unit() -> None:
    cell: Any = Pair(3, H, second=slopes(), rngs=nnx.Rngs(0))
    assert cell.first.bias.shape == cell.second.slope_kernel.shape == (H,)
    graphdef, state = nnx.split(cell)
    gradient = jax.grad(lambda state: unroll(nnx.merge(graphdef, state), random_array(0, 3, 2, 3))[0].sum())(state)
    assert np.all(nnx.to_pure_dict(gradient)["first"]["bias"] != 0)
    assert np.any(nnx.to_pure_dict(gradient)["second"]["slope_kernel"] != 0)


def test_directions_and_layers_do_not_share_parameters_of_activations() -> None:
    cell = {"name": "vanilla", "features": H, "activation": "modrelu"}
    network = Network(3, 2, cell=cell, layers=2, bidirectional=True, rngs=nnx.Rngs(0))
    biases = [np.asarray(each.activation.bias[...]) for each in network.cells().values()]
    assert len({bias.tobytes() for bias in biases}) == 4


def test_bias_of_modrelu_is_not_decayed_and_is_penalised_as_a_bias() -> None:
    network = Network(3, 2, cell={"name": "vanilla", "features": H, "activation": "modrelu"}, rngs=nnx.Rngs(0))
    decayed = kernels(nnx.to_pure_dict(nnx.state(network, nnx.Param)))
    assert decayed["layers"][0]["cells"][0]["activation"] == {"bias": False}
    (path,) = network.cells()
    assert group_of((*path, "activation", "bias"), network.cells()[path]) == "bias"


@pytest.mark.slow
def test_state_of_zeros_passes_gradients_through_modrelu() -> None:
    init = {"activation": {"name": "modrelu", "bias_init": "zeros"}, "recurrent_init": "identity"}
    cell = Vanilla(3, H, rngs=nnx.Rngs(0), **init)

    def last(carry: jax.Array) -> jax.Array:
        return unroll(cell, jnp.zeros((5, 1, 3)), initial_carry=(carry,))[0][-1].sum()

    np.testing.assert_array_equal(jax.grad(last)(jnp.zeros((1, H))), np.ones((1, H)))
