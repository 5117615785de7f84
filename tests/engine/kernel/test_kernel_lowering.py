"""Both kernels of every cell lower for NVIDIA, AMD and TPU on a machine that has none, and what a launch refuses is one
line."""

from typing import Any, get_args

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from rnnlab.cells import CELLS, LSTM
from rnnlab.config.errors import ConfigError
from rnnlab.engine import unroll
from rnnlab.engine.kernel.settings import launching, lowering_for
from rnnlab.nn.recurrent_layer import RecurrentLayer
from rnnlab.ops.linear import Precision
from tests.engine.comparing import many_functions
from tests.engine.kernel.test_kernel_equals_reference import ALL_CELLS, SUMS_ALONG_UNITS
from tests.helpers import equations, make_cell, products
from tests.tiers import in_tier, slow_tests

T, B, D = 16, 8, 3
CALLS = {"cuda": "@__gpu$xla.gpu.triton(", "rocm": "@__gpu$xla.gpu.triton(", "tpu": "@tpu_custom_call("}


def lowered(
    variant: str, platform: str, features: int, steps: int = T, precision: Precision = "highest", **options: Any
) -> str:
    """A training step's program for a platform."""
    with lowering_for(platform):
        return traced(variant, features, steps, precision, **options).lower(lowering_platforms=(platform,)).as_text()


def traced(variant: str, features: int, steps: int, precision: Precision, **options: Any) -> Any:
    cell = make_cell(variant, D, features)
    cell.precision = precision
    return traced_cell(cell, steps, **options)


def traced_cell(cell: Any, steps: int, **options: Any) -> Any:
    graphdef, state = nnx.split(cell)
    lengths = jax.ShapeDtypeStruct((B,), jnp.int32)

    def loss(state: nnx.State, x: jax.Array, lengths: jax.Array) -> jax.Array:
        return (unroll(nnx.merge(graphdef, state), x, lengths=lengths, backend="kernel", **options)[0] ** 2).sum()

    x = jax.ShapeDtypeStruct((steps, B, D), jnp.float32)
    return jax.jit(jax.grad(loss)).trace(state, x, lengths)


@pytest.mark.parametrize("variant", [in_tier(v) for v in ALL_CELLS if v not in SUMS_ALONG_UNITS])
def test_two_kernels_a_training_step_lower_for_every_platform(variant):
    for platform, call in CALLS.items():
        assert lowered(variant, platform, 20).count(call) == 2, platform


def test_an_activation_of_many_operations_lowers_for_every_compiler():
    cell = CELLS["vanilla"](D, 16, activation=many_functions, rngs=nnx.Rngs(0))
    for platform in ("cuda", "tpu"):
        with lowering_for(platform):
            text = traced_cell(cell, 20).lower(lowering_platforms=(platform,)).as_text()
        assert text.count(CALLS[platform]) == 2, platform


@pytest.mark.parametrize(
    "variant", ["lstm", *(in_tier(v, further=True) for v in ALL_CELLS if v not in (*SUMS_ALONG_UNITS, "lstm"))]
)
def test_the_kernels_of_a_team_lower_for_every_gpu(variant):
    for platform in ("cuda", "rocm"):
        with launching(programs=2):
            assert lowered(variant, platform, 20).count(CALLS[platform]) == 2, platform


@pytest.mark.parametrize(("platform", "features"), [("cuda", 16), *slow_tests(("tpu", 16), ("cuda", 512))])
def test_a_training_steps_program_does_not_grow_with_the_steps(platform, features):
    """Of one program a block of rows, and of a team."""
    short, long = (lowered("lstm", platform, features, steps) for steps in (16, 64))
    assert "stablehlo.while" not in long
    assert short.count("stablehlo.") == long.count("stablehlo.")


@pytest.mark.parametrize(
    ("features", "platform"),
    slow_tests((100, "cuda"), (512, "cuda"), (650, "tpu")),
)
def test_kernels_of_any_width_lower(features, platform):
    for store in ("gates", "carries"):
        assert lowered("gru_reset_before", platform, features, store=store).count(CALLS[platform]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("precision", get_args(Precision))
def test_the_precision_of_the_cell_is_that_of_its_kernels(precision):
    assert lowered("lstm", "cuda", 32, precision=precision).count(CALLS["cuda"]) == 2
    with lowering_for("cuda"):
        program = traced("lstm", 32, T, precision).jaxpr.jaxpr
    inside = [each for call in equations(program) if call.primitive.name == "pallas_call" for each in of_call(call)]
    assert len(inside) >= 2
    assert set(inside) == {AS_EXACT[precision]}


def of_call(call: Any) -> list[Any]:
    """(precision, type of the operands) of every product of a kernel."""
    return products(call.params["jaxpr"])


AS_EXACT = {
    "highest": ((jax.lax.Precision.HIGHEST,) * 2, "float32"),
    "tf32": ((jax.lax.Precision.DEFAULT,) * 2, "float32"),
    "tf32x3": (jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3, "float32"),
    "bfloat16": ((jax.lax.Precision.DEFAULT,) * 2, "bfloat16"),
}
"""In Triton DEFAULT is TF32."""


def refusal(features: int = 4, variant: str = "lstm", **options: Any) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        unroll(make_cell(variant, D, features), jnp.zeros((T, B, D)), backend="kernel", **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_cpu_is_refused_in_one_line_with_the_way_out():
    expected = "model.recurrence.backend: 'kernel' needs a GPU or TPU, and the platform here is cpu; use 'auto', or "
    assert refusal().startswith(expected)
    with pytest.raises(ConfigError) as caught:
        RecurrentLayer(D, cell={"name": "lstm", "features": 4}, recurrence={"backend": "kernel"}, rngs=nnx.Rngs(0))
    assert str(caught.value).startswith(expected)


@pytest.mark.parametrize(("target", "chip"), [("triton", 3000), ("mosaic", 100_000)])
def test_a_cell_that_no_program_holds_is_one_line_with_its_bytes(target, chip):
    with launching(target=target, chip=chip):
        text = refusal(64)
    assert text.startswith("the backend kernel cannot hold LSTM: it takes ")
    assert f"bytes on chip, of which a program has {chip:,}; " in text
    assert text.endswith("% of its units would fit; use backend='auto'")


def test_a_layer_too_wide_for_a_team_is_one_line_with_its_bytes():
    with launching(target="triton", cores=4, least=64):
        text = refusal(520)
    assert text == (
        "the backend kernel cannot hold LSTM: it takes 33,280 bytes of registers for an array, of which 2 programs "
        "have 16,384; 49 % of its units would fit; use backend='auto'"
    )


@pytest.mark.parametrize(
    ("features", "precision", "cores", "programs"),
    [
        *((128, "highest", 132, 1), (129, "highest", 132, 9), (256, "bfloat16", 132, 1)),
        *((768, "bfloat16", 132, 48), (1024, "highest", 80, 32)),
    ],
)
def test_a_wide_layer_has_a_team_of_half_a_devices_programs_at_most(features, precision, cores, programs):
    cell = nnx.eval_shape(lambda: LSTM(D, features, rngs=nnx.Rngs(0)))
    cell.precision = precision
    graphdef, state = nnx.split(cell)
    with launching(target="triton", cores=cores):
        traced = jax.make_jaxpr(lambda s, x: unroll(nnx.merge(graphdef, s), x, backend="kernel")[0])(
            state, jax.ShapeDtypeStruct((2, 16, D), jnp.float32)
        )
    grid = "grid=(1, 1)" if programs == 1 else f"grid=({programs},)"
    assert f"GridMapping({grid}" in str(traced)


def test_matrices_that_do_not_fit_are_read_by_tiles():
    def loops(chip: int) -> int:
        graphdef, state = nnx.split(make_cell("vanilla", D, 64))
        with launching(target="triton", chip=chip):
            run = jax.make_jaxpr(lambda s, x: unroll(nnx.merge(graphdef, s), x, backend="kernel")[0])
            return str(run(state, jnp.zeros((T, B, D)))).count("scan[")

    assert (loops(232_448), loops(10_000)) == (1, 2)


@pytest.mark.parametrize("variant", SUMS_ALONG_UNITS)
def test_a_step_with_what_a_kernel_has_no_rule_for_is_one_line(variant):
    text = refusal(variant=variant, interpret=True)
    assert text == (
        "no kernel can run a step of HiPPOLegS: it has `cumsum` of [B, 64], and within a kernel columns cannot be "
        "shifted; use backend='auto'"
    )


def test_all_carries_are_refused():
    text = refusal(interpret=True, carries=[])
    assert text.startswith("the kernel backend does not keep all carries")


def test_a_step_with_a_loop_is_one_line():
    class Loop(LSTM):
        def gates(self, carry, z, u):
            h, c = super().gates(carry, z, u)
            return h, jax.lax.fori_loop(0, 2, lambda _, c: jnp.tanh(c), c)

    with pytest.raises(ValueError, match=r"^no kernel can run a step of Loop: it has `\w+` of .*; use backend='auto'$"):
        unroll(Loop(D, 4, rngs=nnx.Rngs(0)), jnp.zeros((T, B, D)), backend="kernel", interpret=True)
