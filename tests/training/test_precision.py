"""model.precision reaches every product of a training step, on every backend; what platforms lack is refused."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.extend.core import Jaxpr

from rnnlab.config.errors import ConfigError
from rnnlab.nn.network import Network
from rnnlab.ops.linear import Precision, check_precision
from rnnlab.training.setup import make_run
from tests.helpers import equations, products
from tests.tiers import slow_tests

HIGHEST, DEFAULT = (jax.lax.Precision.HIGHEST,) * 2, (jax.lax.Precision.DEFAULT,) * 2
PRODUCTS = {
    "highest": (HIGHEST, "float32"),
    "tf32": (DEFAULT, "float32"),
    "tf32x3": (DEFAULT, "float32"),
    "bfloat16": (DEFAULT, "bfloat16"),
}
"""What a product asks for and the type of its operands. One without a precision of its own has None."""


def check(jaxpr: Jaxpr, precision: Precision, at_least: int) -> None:
    each = products(jaxpr)
    assert len(each) >= at_least
    assert set(each) == {PRODUCTS[precision]}
    roundings = sum(equation.primitive.name == "reduce_precision" for equation in equations(jaxpr))
    if precision in ("tf32", "tf32x3"):
        assert roundings >= 4 * len(each) / 3  # tf32x3: of four halves three products.


def config(precision: Precision, backend: str, **model: Any) -> dict[str, Any]:
    model = {"cell": {"name": "lstm", "features": 8}, "input_projection": 6} | model
    return dict(
        steps=4,
        batch_size=8,
        eval_batch_size=4,
        devices=1,
        task=dict(name="adding", length=6, validation_size=4, test_size=4),
        model={**model, "precision": precision, "recurrence": dict(backend=backend)},
        optimizer=dict(name="adam", learning_rate=0.1, clip_norm=1.0),
    )


def training_step(**words: Any) -> Jaxpr:
    run = make_run(config(**words))
    return run.programs.train.trace(run.programs.shapes, run.data, jnp.int32(1), run.rows).jaxpr.jaxpr


@pytest.mark.parametrize("precision", ["highest", "tf32", *slow_tests("tf32x3", "bfloat16")])
def test_every_product_of_a_training_step_is_as_exact_as_the_config_says(precision):
    step = training_step(precision=precision, backend="fused", attention="additive")
    check(step, precision, at_least=20)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["highest", "bfloat16"])
@pytest.mark.parametrize(("backend", "cell"), [("reference", "gru"), ("scan", "mingru"), ("reference", "lmu")])
def test_every_product_of_other_backends_is_as_exact_as_the_config_says(precision, backend, cell):
    words = {"cell": {"name": cell, "features": 8}, "attention": "dot"}
    check(training_step(precision=precision, backend=backend, **words), precision, at_least=10)


@pytest.mark.parametrize("precision", ["highest", "tf32"])
@pytest.mark.parametrize("samples", [None, 3])
def test_every_product_of_a_softmax_is_as_exact_as_the_network(precision, samples):
    softmax = {"chunk": 4, "samples": samples}
    net = Network(
        0,
        9,
        vocabulary=9,
        readout="every",
        cell={"name": "vanilla", "features": 8},
        softmax=softmax,
        precision=precision,
        rngs=nnx.Rngs(0),
    )
    graphdef, state = nnx.split(net)

    def loss(state: Any, tokens: jax.Array) -> jax.Array:
        return nnx.merge(graphdef, state)(tokens).cross_entropy(tokens).sum()

    check(jax.make_jaxpr(jax.grad(loss))(state, jnp.zeros((5, 2), jnp.int32)).jaxpr, precision, at_least=8)


def test_tf32_is_refused_on_a_tpu_in_one_line_with_the_way_out():
    class Tpu:
        platform = "tpu"

    with pytest.raises(ConfigError) as caught:
        check_precision(Tpu(), "tf32")
    assert str(caught.value) == "model.precision: a TPU has no TF32, as 'tf32' asks for; use 'highest' or 'bfloat16'"
