"""The atlas where the answer is known: exactly (orthogonal, identity), or in the mean over wide random kernels."""

import io
import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rich.console import Console

from rnnlab.cells import CELLS, Vanilla
from rnnlab.config.errors import ConfigError
from rnnlab.diagnostics.atlas import (
    INITIALIZATIONS,
    NETWORKS,
    SCALES,
    Start,
    atlas_table,
    flow,
    measure_atlas,
    short,
    times,
)
from rnnlab.ops.safe_norms import row_norms as norms
from rnnlab.plots.atlas import atlas
from tests.helpers import float64, in_double, random_array
from tests.tiers import slow_tests

T, B, H = 30, 2, 6
TINY: dict[str, Any] = {"features": 4, "length": 6, "batch": 2, "draws": 2}


def flow_of(activation: str, kernel: jax.Array, x: jax.Array, h: float = 0.0) -> dict[str, np.ndarray]:
    """`flow` of a vanilla cell that adds x [T, B, H] as it is."""
    cell = Vanilla(H, H, activation=activation, input_init="identity", rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(cell)
    state = nnx.to_pure_dict(in_double(state)) | {"recurrent_kernel": kernel}
    start = Start(x, jnp.full(x.shape[1:], h), random_array(9, *x.shape[1:]))
    return jax.tree.map(np.asarray, jax.jit(lambda s: flow(nnx.merge(graphdef, s), start))(state))


def factors(network: str, initialization: str, **given: Any) -> list[float]:
    """At each scale."""
    found = measure_atlas(cells=[network], initializations=[initialization], **({"scales": [1.0]} | given))
    return [row["factor"] for row in found["results"]]


@pytest.mark.parametrize("scale", [1e-4, 30.0, *slow_tests(0.5, 1.0, 1.1)])
def test_a_scaled_orthogonal_kernel_changes_a_linear_gradient_by_its_scale(scale: float) -> None:
    with float64():
        kernel = scale * jnp.linalg.qr(random_array(0, H, H))[0]
        found = flow_of("linear", kernel, random_array(1, T, B, H))
    np.testing.assert_allclose(found["factor"], scale, rtol=1e-12)
    np.testing.assert_allclose(found["first_to_last"], scale ** (T - 1), rtol=1e-10)
    assert found["flat"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("initialization", ["orthogonal", "identity"])
def test_the_atlas_scales_what_the_initialiser_drew(initialization: str) -> None:
    found = factors("linear", initialization, scales=SCALES, **TINY)
    np.testing.assert_allclose(found, SCALES, rtol=5e-6)  # Said to six digits.


def test_identity_with_relu_keeps_the_gradient_while_units_are_alive() -> None:
    with float64():
        found = flow_of("relu", jnp.eye(H), jnp.abs(random_array(1, T, B, H)))
    np.testing.assert_allclose(found["factor"], 1, rtol=1e-13)
    np.testing.assert_allclose(found["first_to_last"], 1, rtol=1e-13)


def test_identity_with_relu_keeps_the_state_without_input() -> None:
    with float64():
        found = flow_of("relu", jnp.eye(H), jnp.zeros((T, B, H)), h=0.7)
    np.testing.assert_allclose(found["state"], 0.7, rtol=1e-13)
    np.testing.assert_allclose(found["growth"], 1, rtol=1e-13)


def test_dead_units_get_no_gradient_and_are_flat() -> None:
    with float64():
        found = flow_of("relu", jnp.eye(H), -jnp.abs(random_array(1, T, B, H)))
    np.testing.assert_array_equal(found["factor"], 0)
    np.testing.assert_array_equal(found["first_to_last"], 0)
    assert found["flat"] == 1


def test_gradients_beyond_the_range_of_numbers_are_zero_or_infinite_and_their_factor_is_right() -> None:
    with float64():
        small, large = (flow_of("linear", scale * jnp.eye(H), random_array(1, T, B, H)) for scale in (1e-60, 1e60))
    np.testing.assert_array_equal(small["first_to_last"], 0)
    np.testing.assert_array_equal(large["first_to_last"], np.inf)
    np.testing.assert_allclose(small["factor"], 1e-60, rtol=1e-10)
    np.testing.assert_allclose(large["factor"], 1e60, rtol=1e-10)
    np.testing.assert_array_equal(large["state"], np.inf)
    np.testing.assert_allclose(large["growth"], 1e60, rtol=0.2)  # The first steps still see the inputs.


def test_norms_neither_underflow_nor_overflow() -> None:
    a = jnp.asarray([[3e-30, 4e-30], [3e30, 4e30], [0, 0], [3, 4]])
    np.testing.assert_allclose(norms(a), [5e-30, 5e30, 0, 5], rtol=1e-6)
    with float64():
        np.testing.assert_allclose(norms(jnp.asarray([3e-250, 4e-250])), 5e-250, rtol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["linear", "tanh, inputs × 0.01", "relu"])
def test_small_normal_vanishes_and_large_normal_explodes(network: str) -> None:
    sizes = {"features": 32, "length": 30, "batch": 4, "draws": 2, "scales": [0.5, 1.0, 2.0]}
    # The spectral radius of N(0, σ²) is about σ √H; rectified, half of the units pass it on.
    assert max(factors(network, "small_normal", **sizes)) < 2 * 0.001 * math.sqrt(32) * 1.3
    assert min(factors(network, "large_normal", **sizes)) > (1.2 if "tanh" in network else 0.5 * 4 * 0.8)


@pytest.mark.slow
def test_glorot_keeps_the_gradient_of_a_linear_network_and_he_that_of_relu() -> None:
    sizes = {"features": 128, "length": 25, "batch": 4, "draws": 3}
    # The log of the norm moves by about √(T / 2 H) within T steps, more with one kernel for all of them: ± 5 % a step.
    assert factors("linear", "glorot_uniform", **sizes)[0] == pytest.approx(1, abs=0.05)
    assert factors("tanh, inputs × 0.01", "glorot_uniform", **sizes)[0] == pytest.approx(1, abs=0.05)
    assert factors("relu", "he_normal", **sizes)[0] == pytest.approx(1, abs=0.08)
    assert factors("relu", "glorot_uniform", **sizes)[0] == pytest.approx(math.sqrt(0.5), abs=0.08)


@pytest.mark.slow
def test_a_forget_bias_is_the_lstms_factor_where_the_recurrent_kernel_is_nearly_zero() -> None:
    (factor,) = factors("lstm, forget bias 1", "small_normal", features=32, length=40, batch=4, draws=2)
    assert factor == pytest.approx(1 / (1 + math.exp(-1)), abs=0.06)  # σ(1), less the spread of its inputs.


@pytest.fixture(scope="module")
def tiny() -> dict[str, Any]:
    """One network of each kind, and a cell without `gates`."""
    kinds = ("tanh, inputs × 0.01", "relu, no input", "lstm, forget bias 1", "gru")
    cells = {name: NETWORKS[name] for name in kinds} | {"reset before": {"cell": {"name": "gru_reset_before"}}}
    seen: list[str] = []
    found = measure_atlas(cells=cells, progress=seen.append, **TINY)
    assert seen == list(cells)
    return found


@pytest.mark.slow
def test_every_setting_is_measured_and_survives_json(tiny: dict[str, Any]) -> None:
    settings = [(row["network"], row["initializer"], row["scale"]) for row in tiny["results"]]
    assert settings == [(n, i, s) for n in tiny["networks"] for i in INITIALIZATIONS for s in SCALES]
    text = json.dumps(tiny, allow_nan=False)
    assert json.loads(text) == tiny
    assert "nan" not in text


@pytest.mark.slow
def test_the_same_seed_gives_the_same_atlas_and_another_one_another() -> None:
    first, again, other = (measure_atlas(cells=["tanh"], seed=seed, **TINY) for seed in (3, 3, 4))
    assert first == again
    assert first["results"] != other["results"]


@pytest.mark.slow
def test_a_result_does_not_depend_on_what_else_is_measured(tiny: dict[str, Any]) -> None:
    alone = measure_atlas(cells=["gru"], initializations=["orthogonal"], scales=[1.1], **TINY)["results"]
    assert alone == [
        r for r in tiny["results"] if (r["network"], r["initializer"], r["scale"]) == ("gru", "orthogonal", 1.1)
    ]


@pytest.mark.slow
def test_table_and_figure_show_every_setting(tiny: dict[str, Any], tmp_path: Path) -> None:
    table = atlas_table(tiny)
    assert table.row_count == len(tiny["networks"]) * len(INITIALIZATIONS)
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(table)
    text = console.export_text()
    assert all(name in text for name in [*tiny["networks"], *INITIALIZATIONS])
    file = tmp_path / "atlas.json"
    file.write_text(json.dumps(tiny))
    assert atlas(file) == tmp_path / "atlas.png"
    assert (tmp_path / "atlas.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("factor", "text"),
    [
        (0.5, "↓1.0"),
        (2.0, "↑1.0"),
        (1.0, "∞"),
        (0.0, "0"),
        (0.1, "↓.30"),
        (0.99, "↓69"),
        (1.01, "↑70"),
        (0.9995, "∞"),
        (math.nan, "nan"),
        (math.inf, "↑.00"),
    ],
)
def test_short_form(factor: float, text: str) -> None:
    half_life, doubling_time = times(factor)
    assert short({"half_life": half_life, "doubling_time": str(doubling_time)}) == text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cells": ["tanhh"]}, "unknown network 'tanhh'"),
        ({"initializations": ["helium"]}, "unknown initialiser 'helium'"),
        ({"length": 1}, "length 1"),
    ],
)
def test_mistakes_are_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        measure_atlas(**(TINY | {"cells": ["tanh"]} | given))
    assert "\n" not in str(raised.value)


@pytest.mark.slow
def test_a_carry_of_other_widths_is_measured() -> None:
    row = measure_atlas(cells={"lmu": {"cell": {"name": "lmu"}}}, initializations=["orthogonal"], scales=[1.0], **TINY)
    assert 0 < row["results"][0]["factor"] < 2


def test_a_cell_without_a_recurrent_matrix_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(Vanilla):
        def recurrent_matrices(self) -> dict[str, jax.Array]:
            return {}

    monkeypatch.setitem(CELLS, "other", Other)
    with pytest.raises(ConfigError, match="Other has no recurrent matrix"):
        measure_atlas(cells={"other": {"cell": {"name": "other"}}}, **TINY)
