"""The backends that run a step's operations one by one have a rule for each that JAX makes of usual functions of a unit
and of their derivatives, in the version of JAX at hand."""

import jax
import jax.numpy as jnp
import pytest

from rnnlab.engine.halves import CALLS
from rnnlab.engine.kernel import rules as of_kernels
from rnnlab.engine.native import rules as of_native
from rnnlab.engine.stages import stages

FUNCTIONS = (
    *(
        jnp.tanh,
        jnp.sin,
        jnp.exp,
        jnp.expm1,
        jnp.log1p,
        jnp.sqrt,
        jnp.square,
        jnp.arctan,
        jnp.sinh,
        jnp.arctanh,
        jnp.abs,
    ),
    *(jax.lax.logistic, jax.lax.rsqrt, jax.nn.sigmoid, jax.nn.relu, jax.nn.gelu, jax.nn.silu, jax.nn.softplus),
    *(jnp.abs, jax.nn.elu, jax.nn.selu, jax.nn.mish, jax.nn.hard_tanh, jax.nn.leaky_relu, jax.nn.log_sigmoid),
)


@pytest.mark.parametrize("known", [of_kernels.KNOWN, of_native.KNOWN], ids=["kernel", "native"])
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_usual_functions_and_their_derivatives_have_rules(function, known):
    def both(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        y, pull = jax.vjp(function, x)
        return y, pull(y)[0]

    written_out, _ = stages(jax.make_jaxpr(both)(jnp.full((2, 3), 0.5)), 1, [], [], CALLS)
    assert {equation.primitive.name for equation in written_out.jaxpr.eqns} - known == set()
