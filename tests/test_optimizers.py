"""Optimisers, clipping, decay and schedules, each against its formula, NumPy or torch.optim.

Everything is written over `make_optimizer`, the way a run meets them; what a section admits is in test_config.py.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from rnnlab.build import ConfigError, merge_numbers, resolve, split_numbers
from rnnlab.network import Network
from rnnlab.optimizers import (
    OPTIMIZERS,
    SCHEDULES,
    clip_by_global_norm,
    common_options,
    decayed,
    global_norm,
    make_optimizer,
    make_schedule,
)
from tests.helpers import float64

START = {"kernel": np.array([[1.0, -2.0], [0.5, 3.0]]), "bias": np.array([-1.0, 0.25])}


def gradient(params: dict, step: int) -> dict:
    """Of a bowl whose centre moves, so that no two steps are alike; works on NumPy, JAX and torch arrays."""
    return {name: {"kernel": 1.0, "bias": 2.0}[name] * (p - 0.1 * step) for name, p in params.items()}


def follow(section: dict[str, Any], steps: int) -> list[dict[str, np.ndarray]]:
    """The parameters after each of the steps, from START in double precision."""
    with float64():
        optimizer = make_optimizer(section, run_steps=steps)
        params = jax.tree.map(jnp.asarray, START)
        state, path = optimizer.init(params), []
        for step in range(steps):
            updates, state = optimizer.update(gradient(params, step), state, params)
            params = optax.apply_updates(params, updates)
            path.append(jax.tree.map(np.asarray, params))
    return path


def one_update(section: dict[str, Any], gradients: Any, params: Any = None) -> Any:
    """The first update."""
    optimizer = make_optimizer(section, run_steps=10)
    params = jax.tree.map(jnp.zeros_like, gradients) if params is None else params
    return optimizer.update(gradients, optimizer.init(params), params)[0]


def every_field(name: str, **fields: Any) -> dict[str, Any]:
    """A section as `resolve_config` leaves it."""
    return {"name": name} | resolve(OPTIMIZERS[name], fields, "optimizer", common_options)


# --- optimisers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "fields"),
    [(name, {}) for name in OPTIMIZERS]
    + [
        ("sgd", {"momentum": 0.9}),
        ("sgd", {"momentum": 0.9, "nesterov": True}),
        ("rmsprop", {"momentum": 0.5}),
        ("adam", {"clip_norm": 1.0, "clip_value": 0.5, "schedule": "cosine", "warmup_steps": 5}),
    ],
)
def test_hundred_steps_reduce_a_quadratic(name: str, fields: dict[str, Any]) -> None:
    curvature = jnp.array([0.3, 1.0, 2.0])
    section = every_field(name, learning_rate=0.05, **fields)

    def loss(params: dict[str, jax.Array]) -> jax.Array:
        return jnp.sum(curvature * params["kernel"] ** 2)

    @jax.jit
    def descend(params: dict[str, jax.Array]) -> dict[str, jax.Array]:
        optimizer = make_optimizer(section, run_steps=100)

        def body(_: int, carry: tuple) -> tuple:
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params), state, params)
            return optax.apply_updates(params, updates), state

        return jax.lax.fori_loop(0, 100, body, (params, optimizer.init(params)))[0]

    start = {"kernel": jnp.array([1.0, -1.0, 0.5])}
    assert loss(descend(start)) < 0.02 * loss(start)


def torch_groups(torch: Any, name: str) -> tuple[dict[str, Any], Any]:
    """START as torch parameters, and torch's optimiser for a row of TORCH."""
    params = {key: torch.nn.Parameter(torch.tensor(value)) for key, value in START.items()}
    kernel, bias = [params["kernel"]], [params["bias"]]
    match name:
        case "sgd":
            return params, torch.optim.SGD(kernel + bias, lr=0.1)
        case "momentum":
            return params, torch.optim.SGD(kernel + bias, lr=0.1, momentum=0.8)
        case "nesterov":
            return params, torch.optim.SGD(kernel + bias, lr=0.1, momentum=0.8, nesterov=True)
        case "adam":
            return params, torch.optim.Adam(kernel + bias, lr=0.1, betas=(0.8, 0.95), eps=1e-3)
        case "adam_defaults":
            return params, torch.optim.Adam(kernel + bias, lr=0.1)
        case "adamw":
            groups = [{"params": kernel, "weight_decay": 0.3}, {"params": bias, "weight_decay": 0.0}]
            return params, torch.optim.AdamW(groups, lr=0.1)
        case "adamw_defaults":
            return params, torch.optim.AdamW([{"params": kernel}, {"params": bias, "weight_decay": 0.0}], lr=0.1)
    raise ValueError(name)


TORCH = {
    "sgd": dict(name="sgd"),
    "momentum": dict(name="sgd", momentum=0.8),
    "nesterov": dict(name="sgd", momentum=0.8, nesterov=True),
    "adam": dict(name="adam", b1=0.8, b2=0.95, eps=1e-3),
    "adam_defaults": dict(name="adam"),
    "adamw": dict(name="adamw", weight_decay=0.3),
    "adamw_defaults": dict(name="adamw"),
}


@pytest.mark.parametrize("name", TORCH)
def test_five_steps_equal_torch(name: str) -> None:
    torch = pytest.importorskip("torch")
    params, optimizer = torch_groups(torch, name)
    for step, ours in enumerate(follow({"learning_rate": 0.1, **TORCH[name]}, steps=5)):
        for key, value in gradient(params, step).items():
            params[key].grad = value.detach().clone()
        optimizer.step()
        for key, value in params.items():
            np.testing.assert_allclose(ours[key], value.detach().numpy(), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("momentum", [None, 0.7])
def test_rmsprop_equals_its_formula_with_eps_under_the_root(momentum: float | None) -> None:
    rate, decay, eps = 0.1, 0.8, 0.05
    params, square, velocity = dict(START), dict.fromkeys(START, 0.0), dict.fromkeys(START, 0.0)
    section = dict(name="rmsprop", learning_rate=rate, decay=decay, eps=eps, momentum=momentum)
    for step, ours in enumerate(follow(section, steps=5)):
        for key, g in gradient(params, step).items():
            square[key] = decay * square[key] + (1 - decay) * g**2
            velocity[key] = (momentum or 0.0) * velocity[key] + g / np.sqrt(square[key] + eps)
            params[key] = params[key] - rate * velocity[key]
            np.testing.assert_allclose(ours[key], params[key], rtol=1e-12, atol=1e-12)


def test_nesterov_without_momentum_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.nesterov: needs optimizer\.momentum"):
        make_optimizer({"name": "sgd", "learning_rate": 0.1, "nesterov": True}, run_steps=1)


# --- norm, clipping, decay -------------------------------------------------------------------------------------------


def test_global_norm_equals_numpy_over_all_leaves() -> None:
    tree = {"a": np.arange(6.0).reshape(2, 3), "b": [np.array(-4.0), np.zeros((0, 2))]}
    with float64():
        expected = np.linalg.norm([*range(6), -4])
        assert float(global_norm(jax.tree.map(jnp.asarray, tree))) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("size", [1e-30, 1e-3, 1e30, 1e37, 1e38])
def test_global_norm_survives_squares_out_of_range(size: float) -> None:
    tree = {"a": jnp.full(3, size, jnp.float32), "b": jnp.full((), -size, jnp.float32)}
    assert float(global_norm(tree)) == pytest.approx(2 * size, rel=1e-6)


def test_global_norm_of_half_precision_is_accumulated_in_single() -> None:
    tree = [jnp.full(4096, 0.25, jnp.bfloat16), jnp.full(1, 100, jnp.bfloat16)]
    assert global_norm(tree).dtype == jnp.float32
    assert float(global_norm(tree)) == pytest.approx(math.sqrt(4096 / 16 + 100**2), rel=1e-6)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("leaf", [0, 1])
def test_global_norm_of_anything_not_finite_is_not_finite(bad: float, leaf: int) -> None:
    leaves = [jnp.ones(3), jnp.ones(2)]
    leaves[leaf] = leaves[leaf].at[0].set(bad)
    assert not bool(jnp.isfinite(global_norm(leaves)))


def test_global_norm_of_zeros_is_zero() -> None:
    assert float(global_norm({"a": jnp.zeros(3), "b": jnp.zeros(())})) == 0.0


@pytest.mark.parametrize("size", [0.7, 10.0, 1e30])
def test_clipping_bounds_the_norm_and_keeps_the_direction(size: float) -> None:
    gradients = {"a": size * jnp.array([0.6, 0.0]), "b": size * jnp.array(0.8)}
    clipped, _ = clip_by_global_norm(0.5).update(gradients, optax.EmptyState())
    np.testing.assert_allclose(clipped["a"], [0.3, 0.0], rtol=1e-6)
    np.testing.assert_allclose(clipped["b"], 0.4, rtol=1e-6)


def test_clipping_leaves_small_gradients_bit_for_bit() -> None:
    gradients = [jnp.asarray(np.random.default_rng(0).standard_normal(50), jnp.float32), jnp.float32(1e-20)]
    clipped, _ = clip_by_global_norm(100.0).update(gradients, optax.EmptyState())
    for before, after in zip(gradients, clipped, strict=True):
        np.testing.assert_array_equal(before, after)


def test_clipping_leaves_zeros_and_dtypes() -> None:
    gradients = [jnp.zeros(2, jnp.bfloat16), jnp.zeros(())]
    clipped, _ = clip_by_global_norm(1.0).update(gradients, optax.EmptyState())
    assert [(g.dtype, float(g.sum())) for g in clipped] == [(jnp.bfloat16, 0.0), (jnp.float32, 0.0)]


SGD = dict(name="sgd", learning_rate=1.0)
NORM = math.hypot(1.0, 0.4)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [-3.0, 0.4]),
        ({"clip_value": 1.0}, [-1.0, 0.4]),
        ({"clip_norm": 0.5}, [-3.0 * 0.5 / math.hypot(3, 0.4), 0.4 * 0.5 / math.hypot(3, 0.4)]),
        ({"clip_value": 1.0, "clip_norm": 0.5}, [-0.5 / NORM, 0.4 * 0.5 / NORM]),  # By value first.
        ({"clip_value": 1.0, "weight_decay": 0.1}, [-1.0 + 0.1 * 50, 0.4 + 0.1 * 60]),  # Decay is not clipped.
        ({"learning_rate": 0.01, "weight_decay": 0.1}, [0.01 * (-3.0 + 5.0), 0.01 * (0.4 + 6.0)]),
        ({"name": "rmsprop", "decay": 0.0, "weight_decay": 0.1}, [-1.0 + 5.0, 1.0 + 6.0]),  # Decay is decoupled.
    ],
    ids=str,
)
def test_order_is_value_norm_optimiser_decay_rate(fields: dict[str, Any], expected: list[float]) -> None:
    updates = one_update(SGD | fields, {"kernel": jnp.array([-3.0, 0.4])}, {"kernel": jnp.array([50.0, 60.0])})
    np.testing.assert_allclose(-updates["kernel"], expected, rtol=1e-5)


def test_momentum_accumulates_clipped_gradients() -> None:
    optimizer = make_optimizer(SGD | {"momentum": 0.5, "clip_norm": 1.0}, run_steps=2)
    params = {"kernel": jnp.zeros(1)}
    _, state = optimizer.update({"kernel": jnp.array([1000.0])}, optimizer.init(params), params)
    updates, _ = optimizer.update({"kernel": jnp.zeros(1)}, state, params)
    np.testing.assert_allclose(updates["kernel"], [-0.5], rtol=1e-6)


def test_decay_touches_kernels_alone() -> None:
    network = nnx.eval_shape(
        lambda: Network(
            1,
            2,
            vocabulary=5,
            cell={"name": "lstm", "features": 3, "peepholes": True},
            learned_carry=True,
            embedding=4,
            input_projection=4,
            rngs=nnx.Rngs(0),
        )
    )
    params = nnx.to_pure_dict(nnx.split(network, nnx.Param, ...)[1])
    marked = {jax.tree_util.keystr(path, simple=True, separator="."): mark for path, mark in _paths(decayed(params))}
    assert {path for path, mark in marked.items() if mark} == {
        "input_projection.kernel",
        "layers.0.cells.0.input_kernel",
        "layers.0.cells.0.recurrent_kernel",
        "layers.0.cells.0.peephole_kernel",
        "readout.kernel",
    }
    assert {path for path, mark in marked.items() if not mark} == {
        "embedding",
        "input_projection.bias",
        "layers.0.carries.0.0",
        "layers.0.carries.0.1",
        "layers.0.cells.0.bias",
        "readout.bias",
    }


_paths = jax.tree_util.tree_leaves_with_path


@pytest.mark.parametrize(
    ("name", "decay", "expected"),
    [("sgd", 0.2, 0.2), ("adamw", None, 0.01), ("adamw", 0.2, 0.2), ("adamw", 0.0, 0.0), ("adam", None, 0.0)],
)
def test_decay_shrinks_weights_by_rate_times_decay(name: str, decay: float | None, expected: float) -> None:
    """decay: None leaves the field to its default."""
    params = {"recurrent_kernel": jnp.array([2.0, -4.0]), "bias": jnp.array([8.0])}
    section = {"name": name, "learning_rate": 0.5} | ({} if decay is None else {"weight_decay": decay})
    for fields in (section, every_field(**section)):
        updates = one_update(fields, jax.tree.map(jnp.zeros_like, params), params)
        np.testing.assert_allclose(updates["recurrent_kernel"], [-expected, 2 * expected], rtol=1e-6)
        np.testing.assert_array_equal(updates["bias"], [0.0])


def test_the_decay_of_adamw_is_a_number_of_its_section_by_default() -> None:
    assert every_field("adamw", learning_rate=0.1)["weight_decay"] == 0.01
    assert split_numbers(every_field("adamw", learning_rate=0.1))[1]["weight_decay"] == 0.01
    assert every_field("adam", learning_rate=0.1)["weight_decay"] is None
    with pytest.raises(ConfigError, match=r"optimizer\.weight_decay: None is None; expected a float"):
        every_field("adamw", learning_rate=0.1, weight_decay=None)


# --- schedules -------------------------------------------------------------------------------------------------------


def cosine(share: float, final: float = 0.0) -> float:
    """Half a cosine at this share of its way."""
    return final + (1 - final) * (1 + math.cos(math.pi * share)) / 2


@pytest.mark.parametrize(
    ("section", "warmup_steps", "run_steps", "expected"),
    [
        ("constant", 0, 10, {0: 1, 9: 1, 99: 1}),
        ("linear", 0, 20, {0: 1, 5: 0.75, 19: 0.05, 20: 0, 21: 0}),
        (dict(name="linear", final=0.1, steps=10), 0, 99, {0: 1, 5: 0.55, 10: 0.1, 98: 0.1}),
        ("linear", 5, 25, {0: 0.2, 3: 0.8, 4: 1, 5: 1, 15: 0.5, 25: 0}),  # The run less the warm-up.
        ("cosine", 0, 20, {0: 1, 5: cosine(0.25), 10: 0.5, 19: cosine(0.95), 20: 0, 30: 0}),
        (dict(name="cosine", final=0.1, steps=10), 0, 99, {0: 1, 3: cosine(0.3, 0.1), 10: 0.1, 50: 0.1}),
        (dict(name="cosine", steps=10), 10, 99, {0: 0.1, 9: 1, 10: 1, 15: 0.5, 20: 0, 21: 0}),
        (dict(name="exponential", rate=0.25, steps=4), 0, 10, {0: 1, 1: 0.25**0.25, 2: 0.5, 4: 0.25, 8: 0.0625}),
        (dict(name="exponential", rate=0.25, steps=4), 2, 10, {0: 0.5, 1: 1, 2: 1, 4: 0.5}),
        (dict(name="step", factor=0.1, boundaries=(3, 6)), 0, 10, {0: 1, 2: 1, 3: 0.1, 5: 0.1, 6: 0.01, 99: 0.01}),
        (dict(name="step", factor=0.1), 0, 10, {0: 1, 9: 1}),
        ("constant", 4, 10, {0: 0.25, 1: 0.5, 3: 1, 4: 1}),
        ("cosine", 1, 11, {0: 1, 1: 1, 6: 0.5}),
        ("linear", 10, 5, {0: 0.1, 4: 0.5}),  # A run that ends within its warm-up.
    ],
    ids=str,
)
def test_schedule_equals_its_formula(
    section: str | dict[str, Any], warmup_steps: int, run_steps: int, expected: dict[int, float]
) -> None:
    schedule = make_schedule(section, warmup_steps, run_steps)
    found = [float(schedule(jnp.int32(step))) for step in expected]
    np.testing.assert_allclose(found, list(expected.values()), rtol=2e-6, atol=1e-7)


def test_a_new_schedule_spans_the_run_if_its_steps_are_none_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    def ramp(steps: int | None = None) -> Any:
        return lambda step: step / steps

    def sawtooth(steps: int = 4) -> Any:
        return lambda step: step % steps

    monkeypatch.setitem(SCHEDULES, "ramp", ramp)
    monkeypatch.setitem(SCHEDULES, "sawtooth", sawtooth)
    assert float(make_schedule("ramp", 5, 25)(jnp.int32(15))) == 0.5
    assert float(make_schedule(dict(name="ramp", steps=None), 0, 25)(jnp.int32(5))) == pytest.approx(0.2)
    assert float(make_schedule(dict(name="ramp", steps=10), 0, 25)(jnp.int32(5))) == 0.5
    assert float(make_schedule("sawtooth", 0, 25)(jnp.int32(5))) == 1.0


def test_step_k_takes_the_rate_times_the_factor_at_k() -> None:
    optimizer = make_optimizer(dict(name="sgd", learning_rate=0.5, schedule="linear", warmup_steps=2), run_steps=6)
    params = {"kernel": jnp.zeros(1)}
    state, taken = optimizer.init(params), []
    for _ in range(7):
        updates, state = optimizer.update({"kernel": jnp.ones(1)}, state, params)
        taken.append(float(-updates["kernel"][0]))
    np.testing.assert_allclose(taken, 0.5 * np.array([0.5, 1, 1, 0.75, 0.5, 0.25, 0]), rtol=1e-6)


# --- numbers as arrays -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("sgd", dict(momentum=0.9, nesterov=True, clip_norm=1.0, schedule=dict(name="linear", final=0.1))),
        ("rmsprop", dict(momentum=0.9, clip_value=0.5, schedule=dict(name="exponential", rate=0.5, steps=3))),
        ("adam", dict(clip_norm=1.0, schedule=dict(name="cosine", final=0.1), warmup_steps=1)),
        ("adamw", dict(schedule=dict(name="step", factor=0.1, boundaries=(1,)))),
    ],
)
def test_other_numbers_do_not_recompile(name: str, fields: dict[str, Any]) -> None:
    structure, numbers = split_numbers(every_field(name, learning_rate=0.1, **fields))
    gradients = {"kernel": jnp.array([3.0, -0.2]), "bias": jnp.array([0.5])}
    params = jax.tree.map(lambda g: g + 1, gradients)

    def two_updates(numbers: dict[str, Any]) -> Any:
        optimizer = make_optimizer(merge_numbers(structure, numbers), run_steps=10)
        _, state = optimizer.update(gradients, optimizer.init(params), params)
        return optimizer.update(gradients, state, params)[0]

    compiled = jax.jit(two_updates)
    results = []
    # All numbers stay in the range of their fields: decays below 1, the others above 0.
    for factor in (1.0, 0.7):
        scaled = {path: factor * value for path, value in numbers.items()}
        results.append(compiled(jax.tree.map(jnp.float32, scaled)))
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-5), results[-1], two_updates(scaled))
    assert compiled._cache_size() == 1
    assert not np.allclose(results[0]["kernel"], results[1]["kernel"])
