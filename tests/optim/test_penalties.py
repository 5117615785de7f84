"""Penalties: their section, which weights they touch, closed forms, and Ω against the Jacobian of every single step."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rnnlab.cells import Vanilla
from rnnlab.config.errors import ConfigError
from rnnlab.config.numbers import merge_numbers, split_numbers
from rnnlab.config.schema import resolve
from rnnlab.engine import make_taps, unroll
from rnnlab.nn.network import Network
from rnnlab.nn.trajectory import carries_of
from rnnlab.optim import penalties
from rnnlab.optim.parameters import group_of
from rnnlab.optim.penalties import PENALTIES, PenaltyOptions
from rnnlab.optim.terms import (
    Weights,
    activation_penalty,
    gradient_norm_penalty,
    temporal_activation_penalty,
)
from rnnlab.records.metrics import read_metrics
from rnnlab.training.loop import train_and_evaluate
from tests.helpers import (
    SMALL_RUN,
    assert_close,
    compiled_carries,
    dot,
    float64,
    in_double,
    loop,
    make_cell,
    random_array,
    random_carry,
    random_cell,
    random_like,
    with_bad_padding,
)
from tests.tiers import exhaustive_tests

# --- section ---------------------------------------------------------------------------------------------------------

GROUPS = ("input", "recurrent", "readout", "embedding", "bias")


@dataclasses.dataclass(frozen=True)
class Config:
    """A config with a section of penalties."""

    penalties: PenaltyOptions = PenaltyOptions()


def options(**section: Any) -> dict[str, Any]:
    """The resolved section."""
    return resolve(Config, {"penalties": section}, "")["penalties"]


def test_a_penalty_that_is_not_named_is_off() -> None:
    fields = ("l1", "l2", "orthogonality", "activation", "temporal_activation", "gradient_norm")
    assert resolve(Config, {}, "")["penalties"] == dict.fromkeys(fields)
    assert options(l2={"readout": 1})["l2"] == dict.fromkeys(GROUPS) | {"readout": 1.0}
    assert split_numbers(options(l2={"readout": 1}, activation=2), PenaltyOptions)[1] == {
        "l2.readout": 1.0,
        "activation": 2.0,
    }
    assert set(resolve(PenaltyOptions, {}, "")) == set(fields)


def test_a_resolved_section_resolves_to_itself() -> None:
    once = options(l1={"input": 0.1, "bias": 0}, orthogonality=1e-2, gradient_norm=3)
    assert options(**once) == once


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"l1": {"recurrent": -0.1}}, r"^penalties\.l1\.recurrent: -0\.1 is out of range; it must be at least 0$"),
        ({"l2": {"bias": -1}}, r"^penalties\.l2\.bias: -1\.0 is out of range; it must be at least 0$"),
        ({"orthogonality": -1.0}, r"^penalties\.orthogonality: -1\.0 is out of range; it must be at least 0$"),
        ({"activation": -1.0}, r"^penalties\.activation: -1\.0 is out of range"),
        ({"temporal_activation": -1.0}, r"^penalties\.temporal_activation: -1\.0 is out of range"),
        ({"gradient_norm": -1.0}, r"^penalties\.gradient_norm: -1\.0 is out of range"),
        ({"gradient_norm": float("nan")}, r"^penalties\.gradient_norm: not a number"),
        (
            {"l1": {"recurent": 0.1}},
            r"^unknown field 'penalties\.l1\.recurent'; did you mean penalties\.l1\.recurrent\? "
            r"known: penalties\.l1\.bias, penalties\.l1\.embedding, penalties\.l1\.input, penalties\.l1\.readout, "
            r"penalties\.l1\.recurrent$",
        ),
        ({"l3": {"recurrent": 0.1}}, r"^unknown field 'penalties\.l3'; known: penalties\.activation, "),
        ({"l2": 0.1}, r"^penalties\.l2: 0\.1 is a float; expected"),
        ({"l1": {"input": "much"}}, r"^penalties\.l1\.input: 'much' is a str; expected a float$"),
    ],
    ids=str,
)
def test_a_mistake_is_named_in_one_line(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        options(**section)
    assert "\n" not in str(caught.value)


def test_numbers_come_back_as_they_went_and_may_be_traced() -> None:
    section = options(l1={"input": 0.5, "bias": 0.25}, l2={"recurrent": 2.0}, orthogonality=0.5, activation=1.0)
    structure, numbers = split_numbers(section, PenaltyOptions)
    assert numbers.keys() == {"l1.input", "l1.bias", "l2.recurrent", "orthogonality", "activation"}
    assert merge_numbers(structure, numbers) == section
    params = random_params()
    compiled = jax.jit(lambda numbers: weight_penalty(params, merge_numbers(structure, numbers)))
    for factor in (1.0, 3.0):
        scaled = {path: factor * number for path, number in numbers.items()}
        expected = factor * float(weight_penalty(params, section))
        assert float(compiled(jax.tree.map(jnp.float32, scaled))) == pytest.approx(expected, rel=1e-5)
    assert compiled._cache_size() == 1


# --- groups ----------------------------------------------------------------------------------------------------------


@functools.cache
def split_network() -> Any:
    """A network that has one of each kind of parameters: (graph, shapes of the parameters, the rest)."""
    cell = {"name": "lstm", "features": 3, "peepholes": True}
    more = dict(layers=2, bidirectional=True, learned_carry=True, embedding=4, input_projection=2)
    network = nnx.eval_shape(lambda: Network(1, 2, vocabulary=5, cell=cell, **more, rngs=nnx.Rngs(0)))
    return nnx.split(network, nnx.Param, ...)


def shapes() -> Any:
    """The parameters of that network."""
    return nnx.to_pure_dict(split_network()[1])


def weight_penalty(params: Any, section: dict[str, Any]) -> Any:
    """That of a network of these parameters, be it `split_network` or none."""
    cells = {}
    if "layers" in params:
        graphdef, _, rest = split_network()
        cells = nnx.merge(graphdef, params, rest).cells()
    return penalties.weight_penalty(Weights(params, cells), penalties.terms(section))[0]


def random_params() -> Any:
    """Standard normal, in double precision where that is on."""
    return jax.tree.map(lambda a: jnp.asarray(a, float), random_like(shapes(), 0))


def by_path(tree: Any) -> dict[tuple[str | int, ...], Any]:
    return {tuple(key.key for key in keys): leaf for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def test_every_parameter_of_a_network_has_its_group() -> None:
    graphdef, _, rest = split_network()
    owners = nnx.merge(graphdef, shapes(), rest).cells()
    found = {".".join(map(str, path)): group_of(path, owners) for path in by_path(shapes())}
    cells = [f"layers.{layer}.cells.{direction}." for layer in (0, 1) for direction in (0, 1)]
    expected = {
        "embedding": "embedding",
        "input_projection.kernel": "input",
        "input_projection.bias": "bias",
        "readout.kernel": "readout",
        "readout.bias": "bias",
    }
    for cell in cells:
        expected |= {cell + "input_kernel": "input", cell + "recurrent_kernel": "recurrent", cell + "bias": "bias"}
        expected |= {cell + "peephole_kernel": "recurrent"}
        expected |= {cell.replace("cells", "carries") + part: "other" for part in "01"}
    assert found == expected


@pytest.mark.parametrize(
    ("path", "group"),
    [
        (("layers", 0, "cells", 0, "recurrent_bias"), "bias"),
        (("projections", 1, "kernel"), "input"),
        (("projections", 1, "bias"), "bias"),
        (("highway_gates", 0, "kernel"), "input"),
        (("attention", "query_kernel"), "readout"),
        (("norms", 0, "gain"), "other"),
        (("norms", 0, "bias"), "bias"),
        (("layers", 0, "gains", 1, "recurrent_gain"), "other"),
    ],
)
def test_a_parameter_s_group_is_said_by_its_path(path: tuple[str | int, ...], group: str | None) -> None:
    assert group_of(path) == group


# --- weights ---------------------------------------------------------------------------------------------------------

FORMS = {
    "l1": (lambda w: np.abs(w).sum(), np.sign),
    "l2": (lambda w: (w**2).sum(), lambda w: 2 * w),
}


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("norm", FORMS)
def test_norm_of_a_group_and_its_gradient_are_the_closed_form_and_touch_nothing_else(norm: str, group: str) -> None:
    value, slope = FORMS[norm]
    with float64():
        params = random_params()
        section = options(**{norm: {group: 0.3}})
        found, gradients = jax.jit(jax.value_and_grad(lambda params: weight_penalty(params, section)))(params)
        leaves = {path: np.asarray(leaf) for path, leaf in by_path(params).items()}
        owners = nnx.merge(*split_network()).cells()
        own = {path for path in leaves if group_of(path, owners) == group}
        assert len(own) >= 1
        np.testing.assert_allclose(found, 0.3 * sum(value(leaves[path]) for path in own), rtol=1e-14)
        for path, gradient in by_path(gradients).items():
            np.testing.assert_allclose(gradient, 0.3 * slope(leaves[path]) * (path in own), rtol=1e-15)


def test_penalties_of_the_weights_add_up() -> None:
    sections = [{"l1": {"input": 0.3, "readout": 2.0}}, {"l2": {"input": 0.7}}, {"orthogonality": 0.1}]
    with float64():
        params = random_params()
        parts = [float(weight_penalty(params, options(**section))) for section in sections]
        together = float(weight_penalty(params, options(**sections[0] | sections[1] | sections[2])))
        assert together == pytest.approx(sum(parts), rel=1e-14)
        assert float(weight_penalty(params, options())) == 0


def test_gradient_of_l1_is_zero_at_zero() -> None:
    """Of `jnp.abs` it is 1."""
    params = {"readout": {"kernel": jnp.zeros((2, 2))}}
    gradient = jax.grad(weight_penalty)(params, options(l1={"readout": 1.0}))
    np.testing.assert_array_equal(gradient["readout"]["kernel"], 0)


def test_l1_drives_weights_of_useless_inputs_to_zero_and_l2_does_not() -> None:
    """Linear regression on 3 useful inputs and 7 that correlate with the targets by chance, all uncorrelated with one
    another, so that the minimum is known: least squares less λ / 2 towards zero with L1, over 1 + λ with L2."""
    rate, strength = 0.01, 0.6
    rng = np.random.default_rng(0)
    least_squares = np.concatenate([[2.0, -1.5, 1.0], rng.uniform(-0.25, 0.25, 7)])
    x = np.sqrt(25) * np.linalg.qr(rng.standard_normal((25, 10)))[0]
    y = x @ least_squares

    def fitted(section: dict[str, Any]) -> np.ndarray:
        def loss(params: Any) -> jax.Array:
            return jnp.mean((x @ params["readout"]["kernel"] - y) ** 2) + weight_penalty(params, section)

        @jax.jit
        def step(params: Any) -> Any:
            return jax.tree.map(lambda w, g: w - rate * g, params, jax.grad(loss)(params))

        params = {"readout": {"kernel": jnp.zeros(10)}}
        for _ in range(1000):
            params = step(params)
        return np.asarray(params["readout"]["kernel"])

    with float64():
        l1, l2 = (fitted(options(**{norm: {"readout": strength}})) for norm in ("l1", "l2"))
    across = rate * strength  # A weight at zero steps back and forth over it by at most about that.
    assert np.abs(l1[3:]).max() < 2 * across
    np.testing.assert_allclose(l1[:3], least_squares[:3] - strength / 2 * np.sign(least_squares[:3]), rtol=1e-6)
    np.testing.assert_allclose(l2, least_squares / (1 + strength), rtol=1e-6)


# --- orthogonality ---------------------------------------------------------------------------------------------------

H = 4


def orthogonal(seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((H, H)))[0]


def orthogonality(*gates: np.ndarray) -> Any:
    """The penalty of one recurrent kernel and its gradient."""
    name = {1: "vanilla", 3: "gru", 4: "lstm"}[len(gates)]
    graphdef, state = nnx.split(make_cell(name, in_features=D, features=H))
    state = nnx.to_pure_dict(in_double(state))
    state["recurrent_kernel"] = jnp.asarray(np.concatenate(gates, axis=1))

    def charge(state: Any) -> jax.Array:
        cells = {("layers", 0, "cells", 0): nnx.merge(graphdef, state)}
        return penalties.weight_penalty(Weights({}, cells), penalties.terms(options(orthogonality=0.5)))[0]

    found, gradients = jax.jit(jax.value_and_grad(charge))(state)
    np.testing.assert_array_equal(gradients["input_kernel"], 0)
    np.testing.assert_array_equal(gradients["bias"], 0)
    return float(found), np.asarray(gradients["recurrent_kernel"])


@pytest.mark.parametrize("gates", [1, 3, 4])
def test_orthogonality_is_zero_for_a_kernel_whose_gates_are_orthogonal(gates: int) -> None:
    with float64():
        found, gradient = orthogonality(*map(orthogonal, range(gates)))
        assert found < 1e-28
        assert np.abs(gradient).max() < 1e-14


@pytest.mark.parametrize("gates", [1, 3, 4])
@pytest.mark.parametrize("scale", [0.0, 0.5, 1.5])
def test_orthogonality_of_a_scaled_gate_is_that_of_its_singular_values(gates: int, scale: float) -> None:
    with float64():
        kernels = [orthogonal(seed) for seed in range(gates)]
        kernels[gates // 2] = scale * kernels[gates // 2]
        found, gradient = orthogonality(*kernels)
        assert found == pytest.approx(0.5 * H * (scale**2 - 1) ** 2, rel=1e-14)
        expected = [np.zeros((H, H))] * gates
        expected[gates // 2] = 0.5 * 4 * (scale**2 - 1) * kernels[gates // 2]  # 4 λ R (RᵀR − I)
        np.testing.assert_allclose(gradient, np.concatenate(expected, axis=1), atol=1e-14)


def test_orthogonality_equals_the_norm_of_each_gate_alone() -> None:
    gates = [np.random.default_rng(seed).standard_normal((H, H)) for seed in range(3)]
    with float64():
        expected = sum(np.linalg.norm(gate.T @ gate - np.eye(H)) ** 2 for gate in gates)
        assert orthogonality(*gates)[0] == pytest.approx(0.5 * expected, rel=1e-14)


def test_orthogonality_runs_over_every_layer_and_direction() -> None:
    with float64():
        params = random_params()
        kernels = [np.asarray(leaf) for path, leaf in by_path(params).items() if path[-1] == "recurrent_kernel"]
        assert len(kernels) == 4
        expected = sum(
            np.linalg.norm(gate.T @ gate - np.eye(3)) ** 2 for kernel in kernels for gate in np.split(kernel, 4, axis=1)
        )
        np.testing.assert_allclose(weight_penalty(params, options(orthogonality=2.0)), 2 * expected, rtol=1e-14)


# --- outputs ---------------------------------------------------------------------------------------------------------

T, B, D = 5, 4, 2
LENGTHS = (5, 0, 1, 3)


def activation_by_loop(h: np.ndarray, lengths: tuple[int, ...]) -> list[float]:
    return [float(np.mean([h[t, row] ** 2 for t in range(n)])) if n else 0.0 for row, n in enumerate(lengths)]


def temporal_by_loop(h: np.ndarray, lengths: tuple[int, ...]) -> list[float]:
    return [
        float(np.mean([(h[t, row] - h[t + 1, row]) ** 2 for t in range(n - 1)])) if n > 1 else 0.0
        for row, n in enumerate(lengths)
    ]


OUTPUT_PENALTIES = {
    "activation": (activation_penalty, activation_by_loop),
    "temporal_activation": (temporal_activation_penalty, temporal_by_loop),
}


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
@pytest.mark.parametrize("name", OUTPUT_PENALTIES)
def test_penalty_of_outputs_is_the_mean_over_valid_steps_and_units(name: str, lengths: Any) -> None:
    function, by_loop = OUTPUT_PENALTIES[name]
    with float64():
        h = random_array(0, T, B, H)
        rows = None if lengths is None else jnp.array(lengths)
        given = h if rows is None else with_bad_padding(h, rows)
        found = function(given, rows, jnp.asarray(0.7))
        np.testing.assert_allclose(found, 0.7 * np.array(by_loop(np.asarray(h), lengths or B * (T,))), rtol=1e-14)


@pytest.mark.parametrize("name", OUTPUT_PENALTIES)
def test_gradient_of_a_penalty_of_outputs_is_finite_and_stays_out_of_the_padding(name: str) -> None:
    function, _ = OUTPUT_PENALTIES[name]
    with float64():
        rows = jnp.array(LENGTHS)
        h = random_array(0, T, B, H)
        gradient = np.asarray(jax.grad(lambda h: function(h, rows, 1.0).sum())(with_bad_padding(h, rows)))
        inside = np.arange(T)[:, None] < np.array(LENGTHS)
        if name == "temporal_activation":
            inside[0, 2] = False  # A row of one step has no pair.
        assert (gradient[inside] != 0).all()
        np.testing.assert_array_equal(gradient[~inside], 0)
        bump = random_array(1, T, B, H)
        rise = function(h + 1e-6 * bump, rows, 1.0).sum() - function(h - 1e-6 * bump, rows, 1.0).sum()
        np.testing.assert_allclose(np.vdot(gradient, bump), rise / 2e-6, rtol=1e-8)


def test_one_step_has_no_temporal_penalty() -> None:
    np.testing.assert_array_equal(temporal_activation_penalty(jnp.ones((1, 2, 3)), None, 1.0), 0)


# --- gradient norm ---------------------------------------------------------------------------------------------------

VARIANTS = ["gru_reset_before", *exhaustive_tests("lstm_peepholes", "vanilla", "lstm", "gru")]
DIRECTIONS = [False, True]

Problem = tuple[nnx.GraphDef, Any, jax.Array, Any]


def problem(variant: str) -> Problem:
    """A cell's graph and parameters, inputs [T, B, D] and an initial carry."""
    graphdef, state = random_cell(variant, in_features=D, features=H)
    carry = random_carry(nnx.merge(graphdef, state), B, float, 2)
    return graphdef, state, random_array(1, T, B, D), carry


@functools.cache
def flows(variant: str, reverse: bool, lengths: tuple[int, ...] | None) -> tuple[Any, Any]:
    """The carries after every step and ∂L/∂carry there, by the engine, for a loss of outputs and last carry."""
    graphdef, state, x, carry = problem(variant)
    cell = nnx.merge(graphdef, state)
    rows = None if lengths is None else jnp.array(lengths)

    def loss(taps: Any) -> jax.Array:
        result = unroll(cell, x, lengths=rows, reverse=reverse, initial_carry=carry, taps=taps, backend="reference")
        return dot(result, random_like(result, 3))

    dcarries = jax.jit(jax.grad(loss))(make_taps(cell, x)).carry
    return compiled_carries(cell, x, rows, reverse, carry)[1], dcarries


def by_jacobians(cell: Any, x: Any, carry0: Any, carries: Any, dcarries: Any, lengths: Any, reverse: bool) -> list:
    """Ω by the Jacobian of one step of one row at a time."""

    def joined(carry: Any, t: int | None, row: int) -> np.ndarray:
        return np.concatenate([np.asarray(part[row] if t is None else part[t, row]) for part in carry])

    @jax.jit
    @jax.jacrev
    def jacobian(flat: jax.Array, x_t: jax.Array) -> jax.Array:
        carry = tuple(part[None] for part in jnp.split(flat, len(carry0)))
        return jnp.concatenate(loop(cell, x_t[None, None], carry)[1], -1)[0]

    # [to, from], turned so that a row vector times it goes one step back in time.
    found = []
    for row, length in enumerate(lengths):
        order = list(range(length))[::-1] if reverse else list(range(length))
        total = 0.0
        for before, t in zip([None, *order], order, strict=False):
            start = joined(carry0 if before is None else carries, before, row)
            gradient = joined(dcarries, t, row)
            passed = gradient @ np.asarray(jacobian(jnp.asarray(start), x[t, row]))
            total += (np.linalg.norm(passed) / np.linalg.norm(gradient) - 1) ** 2
        found.append(total / max(length, 1))
    return found


@pytest.mark.parametrize(
    ("reverse", "lengths"), [*exhaustive_tests((False, None)), (True, LENGTHS)], ids=["full", "reverse-lengths"]
)
@pytest.mark.parametrize("variant", VARIANTS)
def test_omega_equals_that_of_every_steps_jacobian(variant: str, reverse: bool, lengths: Any) -> None:
    with float64():
        graphdef, state, x, carry = problem(variant)
        cell = nnx.merge(graphdef, state)
        carries, dcarries = flows(variant, reverse, lengths)
        rows = None if lengths is None else jnp.array(lengths)
        given = x if rows is None else with_bad_padding(x, rows)
        found = jax.jit(functools.partial(gradient_norm_penalty, cell, reverse=reverse))(
            given, carry, carries, dcarries, rows
        )
        expected = by_jacobians(cell, x, carry, carries, dcarries, lengths or B * (T,), reverse)
        np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("reverse", DIRECTIONS, ids=["forward", "reverse"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_carries_are_one_step_after_those_before_and_stay_past_a_rows_end(variant: str, reverse: bool) -> None:
    with float64():
        graphdef, state, x, carry = problem(variant)
        cell, rows = nnx.merge(graphdef, state), jnp.array(LENGTHS)
        start, carries = compiled_carries(cell, with_bad_padding(x, rows), rows, reverse, carry)
        assert_close(start, carry, 0)
        step = jax.jit(lambda x_t, before: loop(cell, x_t[None], before)[1])
        before = carry
        for t in reversed(range(T)) if reverse else range(T):
            inside, after = t < rows[:, None], tuple(a[t] for a in carries)
            expected = tuple(jnp.where(inside, n, o) for n, o in zip(step(x[t], before), before, strict=True))
            assert_close(after, expected, 1e-14)
            before = after


def test_carries_begin_at_zero_and_pass_no_gradient_on() -> None:
    with float64():
        graphdef, state, x, _ = problem("lstm")
        start, _ = carries_of(nnx.merge(graphdef, state), x)
        assert_close(start, tuple(jnp.zeros((B, H)) for _ in range(2)), 0)

        def total(state: Any, x: jax.Array) -> jax.Array:
            return sum(jnp.sum(a) for a in jax.tree.leaves(carries_of(nnx.merge(graphdef, state), x)))

        gradients = jax.jit(jax.grad(total, (0, 1)))(state, x)
        assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(gradients))


def linear_cell(cell: Any, scale: float) -> Any:
    """The cell with R = scale Q, in double precision."""
    graphdef, state = nnx.split(cell)
    state["recurrent_kernel"] = state["recurrent_kernel"].replace(scale * orthogonal(0))
    return nnx.merge(graphdef, in_double(state))


@pytest.mark.parametrize(
    ("scale", "steps", "reverse"), [(1.0, 5, False), (0.25, 5, True), (1.5, 5, False), (1.5, 1, True)]
)
def test_omega_of_a_linear_cell_with_a_scaled_orthogonal_kernel(scale: float, steps: int, reverse: bool) -> None:
    """(ρ − 1)² for R = ρQ, whatever the inputs, the gradient and T; 0 for ρ = 1."""
    with float64():
        cell = linear_cell(make_cell("vanilla_linear", in_features=D, features=H), scale)
        lengths = np.minimum(LENGTHS, steps)
        x = random_array(1, steps, B, D)
        carry0, carries = carries_of(cell, x, jnp.array(lengths), reverse)
        dcarries = (random_array(5, steps, B, H),)
        omega = jax.jit(functools.partial(gradient_norm_penalty, cell, reverse=reverse))
        found = omega(x, carry0, carries, dcarries, jnp.array(lengths))
        np.testing.assert_allclose(found, (lengths > 0) * (scale - 1) ** 2, rtol=1e-14, atol=1e-29)


@pytest.mark.slow
@pytest.mark.parametrize("reverse", DIRECTIONS, ids=["forward", "reverse"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradient_of_omega_equals_finite_differences_with_carries_and_their_gradients_held(
    variant: str, reverse: bool
) -> None:
    with float64():
        graphdef, state, x, carry = problem(variant)
        carries, dcarries = flows(variant, reverse, LENGTHS)
        rows = jnp.array(LENGTHS)
        weights = jnp.array([1.0, -1.0, 2.0, 0.5])

        def loss(state: Any, x: Any) -> jax.Array:
            cell = nnx.merge(graphdef, state)
            return jnp.vdot(weights, gradient_norm_penalty(cell, x, carry, carries, dcarries, rows, reverse))

        slopes, loss = jax.jit(jax.grad(loss)), jax.jit(loss)
        gradient = slopes(state, x)
        assert_close(slopes(state, with_bad_padding(x, rows)), gradient, 0)  # Nothing leaves the padding.
        largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient))
        for seed in range(3):
            bump = random_like(state, seed)
            up, down = (jax.tree.map(lambda a, d, s=s: a + s * d, state, bump) for s in (1e-5, -1e-5))
            slope = (loss(up, x) - loss(down, x)) / 2e-5
            np.testing.assert_allclose(dot(gradient, bump), slope, atol=1e-8 * largest)
        assert all((np.asarray(leaf) != 0).any() for leaf in jax.tree.leaves(gradient))


def test_inputs_carries_and_their_gradients_are_constants_of_omega() -> None:
    with float64():
        graphdef, state, x, carry = problem("lstm")
        cell = nnx.merge(graphdef, state)
        carries, dcarries = flows("lstm", False, None)
        slopes = jax.jit(jax.grad(lambda args: gradient_norm_penalty(cell, *args).sum()))
        gradients = slopes((x, carry, carries, dcarries))
        assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(gradients))


def test_omega_with_a_state_mask_is_that_of_a_kernel_with_masked_rows() -> None:
    with float64():
        graphdef, state, x, carry = problem("lstm")
        carries, dcarries = flows("lstm", False, None)
        mask = jnp.array([2.0, 0.0, 1.0, 2.0])

        def omega(scale: jax.Array, **options: Any) -> jax.Array:
            kernel = state["recurrent_kernel"]
            scaled = state | {"recurrent_kernel": kernel.replace(scale[:, None] * kernel[...])}
            return gradient_norm_penalty(nnx.merge(graphdef, scaled), x, carry, carries, dcarries, **options)

        found = jax.jit(omega)(jnp.ones(H), state_mask=jnp.broadcast_to(mask, (B, H)))
        scaled = jax.jit(omega)
        np.testing.assert_allclose(found, scaled(mask), rtol=1e-13)
        assert (np.abs(found - scaled(jnp.ones(H))) > 1e-3).all()


class Damped(Vanilla):
    """h_t = n_t f(x_t W + h_{t-1} R + b) with the noise n_t."""

    def gates(self, carry: Any, z: Any, u: Any) -> Any:
        return (z[1] * self.activation(z[0] + u[0]),)


def test_omega_gives_the_gates_the_noise_of_their_step() -> None:
    """(n ρ − 1)² for a linear cell with R = ρQ, n being the step's noise."""
    with float64():
        cell = linear_cell(Damped(D, H, activation="linear", rngs=nnx.Rngs(0)), 1.5)
        x, noise = random_array(1, T, B, D), random_array(2, T, B, 1)
        states = (random_array(3, T, B, H),)
        found = gradient_norm_penalty(cell, x, (states[0][0],), states, (random_array(4, T, B, H),), noise=(noise,))
        np.testing.assert_allclose(found, ((np.abs(noise[..., 0]) * 1.5 - 1) ** 2).mean(0), rtol=1e-13)


@pytest.mark.parametrize("factor", [1e-200, 1e30, 1e-2])
def test_omega_does_not_see_how_large_the_gradient_is(factor: float) -> None:
    """1e-200 squared is zero in double precision."""
    with float64():
        graphdef, state, x, carry = problem("lstm")
        cell = nnx.merge(graphdef, state)
        carries, dcarries = flows("lstm", False, None)
        scaled = jax.tree.map(lambda a: factor * a, dcarries)
        omega = jax.jit(lambda dcarries: gradient_norm_penalty(cell, x, carry, carries, dcarries))
        found, expected = omega(scaled), omega(dcarries)
        np.testing.assert_allclose(found, expected, rtol=1e-13)


@pytest.mark.parametrize("bad", [0.0, 1e-320, np.inf, np.nan], ids=str)
def test_a_step_without_a_gradient_adds_nothing_and_its_slope_is_finite(bad: float) -> None:
    """Rows of LENGTHS; of row 0 the gradient ends after two of five steps, of row 3 there is none."""
    with float64():
        graphdef, state, x, carry = problem("gru")
        carries, dcarries = flows("gru", False, None)
        rows = jnp.array(LENGTHS)
        cut = tuple(d.at[2:, 0].set(bad).at[:, 3].set(bad) for d in dcarries)

        @jax.jit
        @functools.partial(jax.value_and_grad, has_aux=True)
        def omega(state: Any, dcarries: Any, lengths: Any, weights: Any) -> Any:
            found = gradient_norm_penalty(nnx.merge(graphdef, state), x, carry, carries, dcarries, lengths)
            return jnp.vdot(weights, found), found

        (_, found), gradient = omega(state, cut, rows, jnp.ones(B))
        assert all(np.isfinite(np.asarray(g)).all() for g in jax.tree.leaves(gradient))
        (_, first_two), _ = omega(state, dcarries, jnp.minimum(rows, 2), jnp.ones(B))
        np.testing.assert_allclose(found[0], first_two[0] * 2 / 5, rtol=1e-14)
        np.testing.assert_array_equal(found[jnp.array([1, 3])], 0)
        _, gradient = omega(state, cut, rows, jnp.array([0.0, 1.0, 0.0, 1.0]))
        assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(gradient))


def test_a_step_that_passes_nothing_on_counts_one_with_a_finite_slope() -> None:
    """Every unit of a ReLU network off: ‖∂L/∂c ∂c/∂c‖ is 0, where the norm has no slope."""
    with float64():
        graphdef, state, x, carry = problem("irnn")
        state["bias"] = state["bias"].replace(jnp.full(H, -100.0))

        def omega(state: Any) -> jax.Array:
            cell = nnx.merge(graphdef, state)
            return gradient_norm_penalty(
                cell, x, carry, carries_of(cell, x, None, False, carry)[1], (jnp.ones((T, B, H)),)
            )

        np.testing.assert_array_equal(omega(state), 1)
        gradient = jax.jit(jax.grad(lambda state: omega(state).sum()))(state)
        assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(gradient))


def test_omega_of_rounded_products_is_near_and_has_a_gradient() -> None:
    graphdef, state, x, carry = problem("lstm")
    found = []
    for precision in ("highest", "bfloat16"):

        def omega(state: Any, precision: str = precision) -> jax.Array:
            cell = nnx.merge(graphdef, state)
            cell.precision = precision
            carries = carries_of(cell, x, None, False, carry)[1]
            return gradient_norm_penalty(cell, x, carry, carries, random_like(carries, 6)).sum()

        found.append(jax.jit(jax.value_and_grad(omega))(state))
    (exact, slope), (rounded, rounded_slope) = found
    assert float(rounded) != float(exact)
    assert float(rounded) == pytest.approx(float(exact), rel=0.05)
    for a, b in zip(jax.tree.leaves(rounded_slope), jax.tree.leaves(slope), strict=True):
        np.testing.assert_allclose(a, b, atol=0.05 * float(jnp.abs(b).max()))


# --- a cell that builds R, and terms from outside ------------------------------------------------------------------


class Built(Vanilla):
    """R = Q times the kernel."""

    def recurrent_matrix(self) -> jax.Array:
        return orthogonal(0) @ self.recurrent_kernel[...]


def test_of_a_cell_that_builds_its_matrix_this_matrix_is_charged() -> None:
    with float64():
        cell = Built(D, H, recurrent_init="naive_uniform", rngs=nnx.Rngs(0))
        cell = nnx.merge(*nnx.split(cell)[:1], in_double(nnx.state(cell)))
        params = {"layers": {0: {"cells": {0: nnx.to_pure_dict(nnx.state(cell, nnx.Param))}}}}
        weights = Weights(params, {("layers", 0, "cells", 0): cell})
        r = orthogonal(0) @ np.asarray(cell.recurrent_kernel[...])
        section = options(l1={"recurrent": 2.0}, l2={"recurrent": 3.0}, orthogonality=5.0)
        _, found = penalties.weight_penalty(weights, penalties.terms(section))
        expected = {"l1": 2 * np.abs(r).sum(), "l2": 3 * (r**2).sum()}
        expected["orthogonality"] = 5 * np.linalg.norm(r.T @ r - np.eye(H)) ** 2
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-13)


OUTSIDE = """
import jax.numpy as jnp
from rnnlab.config.bounds import NonNegative, Traced

def loudness(forward, strength: Traced[NonNegative], power: int = 2):
    h = jnp.where(forward.inside[:, :, None], forward.h, 0)
    return strength * (jnp.abs(h) ** power).sum((0, 2))

def stray(network, strength: float):
    return 0.0
"""


@pytest.fixture
def outside_terms(tmp_path, monkeypatch) -> str:
    """The name of a module of terms that can be imported."""
    (tmp_path / "terms_of_a_study.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(tmp_path)
    return "terms_of_a_study"


def test_a_term_from_outside_has_a_name_of_its_own_its_fields_and_traced_numbers(outside_terms: str) -> None:
    section = options(loud={"name": f"{outside_terms}:loudness", "strength": 1}, l2={"bias": 1})
    assert section["loud"] == {"name": f"{outside_terms}:loudness", "strength": 1.0, "power": 2}
    assert options(**section) == section
    assert split_numbers(section, PenaltyOptions)[1] == {"l2.bias": 1.0, "loud.strength": 1.0}
    assert [(term.label, term.of_weights) for term in penalties.terms(section)] == [("l2", True), ("loud", False)]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"loud": "MODULE:loudness"}, r"^penalties\.loud\.strength: missing; expected a float at least 0$"),
        ({"loud": {"name": "MODULE:loudness", "strength": -1}}, r"^penalties\.loud\.strength: -1\.0 is out of range"),
        (
            {"loud": {"name": "MODULE:stray", "strength": 1}},
            r"its first parameter is network, and must be weights or f",
        ),
        ({"loud": {"name": "l2", "strength": 1}}, r"^unknown field 'penalties\.loud'; known: penalties\.activation, "),
    ],
    ids=str,
)
def test_a_mistake_in_a_term_from_outside_is_named(outside_terms: str, section: Any, message: str) -> None:
    given = json.loads(json.dumps(section).replace("MODULE", outside_terms))
    with pytest.raises(ConfigError, match=message) as caught:
        options(**given)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_every_penalty_is_logged_under_its_own_name_and_their_sum(outside_terms: str, tmp_path: Path) -> None:
    section: dict[str, Any] = dict.fromkeys(PENALTIES, 0.1) | {"l1": {"input": 0.1}, "l2": {"bias": 0.1}}
    section["loud"] = {"name": f"{outside_terms}:loudness", "strength": 0.1}
    train_and_evaluate(SMALL_RUN | {"penalties": section, "steps": 20}, tmp_path)
    lines = [line for line in read_metrics(tmp_path) if line["split"] == "train"]
    assert len(lines) == 2
    for line in lines:
        each = {name: value for name, value in line.items() if name.startswith("penalty/")}
        assert each.keys() == {f"penalty/{name}" for name in section}
        assert all(value > 0 for value in each.values())
        assert line["penalty"] == pytest.approx(sum(each.values()), rel=1e-5)
