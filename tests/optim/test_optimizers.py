"""Optimisers, clipping, noise, decay and max-norm, each against its formula, NumPy, optax or torch.optim.

Everything is written over `make_optimizer`, the way a run meets them; what a section admits is in test_config.py.
"""

import functools
import inspect
import math
import re
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from rnnlab.cells import Vanilla
from rnnlab.config.errors import ConfigError
from rnnlab.config.numbers import merge_numbers, split_numbers
from rnnlab.config.schema import resolve
from rnnlab.nn.network import Network
from rnnlab.ops.safe_norms import global_norm, unit_norms
from rnnlab.optim.chain import OptimizerOptions, OptimizerSpec, make_optimizer, scale_by_learning_rate
from rnnlab.optim.clipping import clip_by_global_norm
from rnnlab.optim.monitors import count_clipped, detect_spikes
from rnnlab.optim.optimizers import OPTIMIZERS
from rnnlab.optim.parameters import kernels, layer_of
from rnnlab.records.run_config import resolve_config
from tests.helpers import SMALL_RUN, float64
from tests.tiers import slow_tests

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


def one_update(section: dict[str, Any], gradients: Any, params: Any = None, **others: Any) -> Any:
    """The first update."""
    optimizer = make_optimizer(section, run_steps=10)
    params = jax.tree.map(jnp.zeros_like, gradients) if params is None else params
    update = jax.jit(lambda g, params, others: optimizer.update(g, optimizer.init(params), params, **others)[0])
    return update(gradients, params, others)


def every_field(name: str, **fields: Any) -> dict[str, Any]:
    """A section as `resolve_config` leaves it."""
    return {"name": name} | resolve(OPTIMIZERS[name], fields, "optimizer", OptimizerOptions)


# --- optimisers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "fields"),
    [(name, {"learning_rate": 0.5} if name == "adagrad" else {}) for name in OPTIMIZERS]
    + [
        ("sgd", {"momentum": 0.9}),
        ("sgd", {"momentum": 0.9, "nesterov": True}),
        ("rmsprop", {"momentum": 0.5}),
        ("adam", {"clip_norm": 1.0, "clip_value": 0.5, "schedule": "cosine", "warmup_steps": 5}),
        ("sgd", {"clip_layer_norm": 1.0, "clip_adaptive": 10.0, "max_norm": 1.5}),
        ("adam", {"schedule": "one_cycle", "max_norm": 1.5}),
    ],
)
def test_hundred_steps_reduce_a_quadratic(name: str, fields: dict[str, Any]) -> None:
    curvature = jnp.array([0.3, 1.0, 2.0])
    section = every_field(name, **{"learning_rate": 0.05} | fields)

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
        case "adagrad":  # eps, which torch adds outside of the root, is too small to matter.
            return params, torch.optim.Adagrad(kernel + bias, lr=0.1, initial_accumulator_value=0.3, eps=1e-20)
    raise ValueError(name)


TORCH = {
    "sgd": dict(name="sgd"),
    "momentum": dict(name="sgd", momentum=0.8),
    "nesterov": dict(name="sgd", momentum=0.8, nesterov=True),
    "adam": dict(name="adam", b1=0.8, b2=0.95, eps=1e-3),
    "adam_defaults": dict(name="adam"),
    "adamw": dict(name="adamw", weight_decay=0.3),
    "adamw_defaults": dict(name="adamw"),
    "adagrad": dict(name="adagrad", initial_accumulator=0.3, eps=1e-20),
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


def test_adagrad_equals_its_formula_with_eps_under_the_root() -> None:
    params, square = dict(START), dict.fromkeys(START, 0.2)
    section = dict(name="adagrad", learning_rate=0.1, initial_accumulator=0.2, eps=0.05)
    for step, ours in enumerate(follow(section, steps=5)):
        for key, g in gradient(params, step).items():
            square[key] = square[key] + g**2
            params[key] = params[key] - 0.1 * g / np.sqrt(square[key] + 0.05)
            np.testing.assert_allclose(ours[key], params[key], rtol=1e-12, atol=1e-12)


def rms(a: np.ndarray) -> float:
    return np.sqrt(np.mean(a**2))


@pytest.mark.parametrize("bound", [None, 0.3])
@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("shape", [(130, 129), (129, 3)], ids=["factored", "whole"])
def test_adafactor_equals_its_algorithm(shape: tuple[int, int], relative: bool, bound: float | None) -> None:
    rng, rate = np.random.default_rng(0), 0.1
    p = rng.standard_normal(shape)
    gradients = [rng.standard_normal(shape) * rng.exponential(size=shape[1]) for _ in range(3)]
    section = dict(name="adafactor", learning_rate=rate, clip_update=bound, scale_by_parameter=relative)
    with float64():
        optimizer = make_optimizer(section, run_steps=3)
        params = {"kernel": jnp.asarray(p)}
        state = optimizer.init(params)
        v = rows = columns = 0.0
        for step, g in enumerate(gradients):
            updates, state = optimizer.update({"kernel": jnp.asarray(g)}, state, params)
            params = optax.apply_updates(params, updates)
            decay = float(1 - np.float32(step + 1) ** np.float32(-0.8))  # optax holds it in single precision.
            v = decay * v + (1 - decay) * (g**2 + 1e-30)
            rows = decay * rows + (1 - decay) * (g**2 + 1e-30).mean(1)
            columns = decay * columns + (1 - decay) * (g**2 + 1e-30).mean(0)
            u = g / np.sqrt(np.outer(rows, columns) / rows.mean() if min(shape) >= 128 else v)
            u = u / max(1.0, rms(u) / bound) if bound else u
            p = p - rate * u * (max(rms(p), 1e-3) if relative else 1)
            np.testing.assert_allclose(params["kernel"], p, rtol=1e-7, atol=1e-8)


def test_adafactor_holds_no_square_of_a_large_kernel() -> None:
    optimizer = make_optimizer(every_field("adafactor", learning_rate=0.1), run_steps=1)
    state = jax.eval_shape(optimizer.init, {"kernel": jax.ShapeDtypeStruct((1000, 256), jnp.float32)})
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) < 1300


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
    marked = {jax.tree_util.keystr(path, simple=True, separator="."): mark for path, mark in _paths(kernels(params))}
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
    assert split_numbers(every_field("adamw", learning_rate=0.1), OptimizerSpec)[1]["weight_decay"] == 0.01
    assert every_field("adam", learning_rate=0.1)["weight_decay"] is None
    with pytest.raises(ConfigError, match=r"optimizer\.weight_decay: None is None; expected a float"):
        every_field("adamw", learning_rate=0.1, weight_decay=None)


# --- clipping by layer and by unit -----------------------------------------------------------------------------------

LAYERS = {
    "layers": {0: {"cells": {0: {"kernel": 3.0, "bias": 4.0}}, "carries": {0: {0: 0.0}}}, 1: {"kernel": 0.6}},
    "readout": {"kernel": 0.3, "bias": 0.4},
    "embedding": 1e30,
}


def test_a_layer_is_what_stands_below_one_module() -> None:
    found = {jax.tree_util.keystr(path, simple=True, separator="."): layer_of(path) for path, _ in _paths(LAYERS)}
    assert found == {
        "embedding": ("embedding",),
        "layers.0.carries.0.0": ("layers", 0),
        "layers.0.cells.0.bias": ("layers", 0),
        "layers.0.cells.0.kernel": ("layers", 0),
        "layers.1.kernel": ("layers", 1),
        "readout.bias": ("readout",),
        "readout.kernel": ("readout",),
    }


def test_clipping_by_layer_leaves_layers_of_small_gradient_bit_for_bit() -> None:
    gradients = jax.tree.map(lambda size: jnp.full(1, size, jnp.float32), LAYERS)
    clipped = jax.tree.map(jnp.negative, one_update(SGD | {"clip_layer_norm": 1.0}, gradients))
    jax.tree.map(np.testing.assert_array_equal, clipped["readout"], gradients["readout"])
    np.testing.assert_array_equal(clipped["layers"][1]["kernel"], gradients["layers"][1]["kernel"])
    first = clipped["layers"][0]
    np.testing.assert_allclose(first["cells"][0]["kernel"], [0.6], rtol=1e-6)
    np.testing.assert_allclose(first["cells"][0]["bias"], [0.8], rtol=1e-6)
    np.testing.assert_allclose(clipped["embedding"], [1.0], rtol=1e-6)


def random_tree(seed: int, size: float) -> dict[str, jax.Array]:
    """A kernel whose columns span seven decades around size, one of one row, and a bias."""
    draw = np.random.default_rng(seed).standard_normal
    decades = 10.0 ** np.arange(-3, 4)
    tree = {"recurrent_kernel": draw((5, 7)) * decades, "input_kernel": draw((1, 7)) * decades, "bias": draw(7)}
    return jax.tree.map(lambda leaf: jnp.asarray(size * leaf), tree)


@pytest.mark.parametrize("shape", [(5, 7), (1, 7), (2, 3, 4), (6,), ()])
def test_unit_norms_equal_numpy_over_incoming_weights(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).standard_normal(shape)
    rows = x.reshape(-1, shape[-1] if len(shape) > 1 else 1)
    with float64():
        found = unit_norms(jnp.asarray(x))
    assert found.ndim == x.ndim
    np.testing.assert_allclose(found.ravel(), np.linalg.norm(rows, axis=0), rtol=1e-14)


@pytest.mark.parametrize("size", [1e-30, 1e30, 1e37])
def test_unit_norms_survive_squares_out_of_range(size: float) -> None:
    np.testing.assert_allclose(unit_norms(jnp.full((4, 2), size)), [[2 * size] * 2], rtol=1e-6)


@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4, 1e150])
def test_ratio_of_each_unit_never_exceeds_the_bound_after_adaptive_clipping(size: float) -> None:
    with float64():
        params, gradients = random_tree(0, 0.1), random_tree(1, size)
        clipped = one_update(SGD | {"clip_adaptive": 0.02}, gradients, params)
        for name, g in gradients.items():
            before, after, weights = (np.asarray(unit_norms(x)) for x in (g, clipped[name], params[name]))
            bound = 0.02 * np.maximum(weights, 1e-3)
            assert (after <= bound * (1 + 1e-14)).all()
            np.testing.assert_allclose(after, np.minimum(before, bound), rtol=1e-13)
            np.testing.assert_allclose(-clipped[name] / after, np.asarray(g) / before, rtol=1e-12)  # The direction.
            small = np.broadcast_to(before <= bound, g.shape)
            np.testing.assert_array_equal(-np.asarray(clipped[name])[small], np.asarray(g)[small])


def test_adaptive_clipping_equals_optax_where_that_knows_units() -> None:
    with float64():
        params, gradients = random_tree(0, 0.1), random_tree(1, 0.01)
        clipped = one_update(SGD | {"clip_adaptive": 0.02}, gradients, params)
        theirs, _ = optax.adaptive_grad_clip(0.02, axis=0).update(gradients, optax.EmptyState(), params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(-a, b, rtol=1e-12), clipped, theirs)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"clip_value": 1.0, "clip_layer_norm": 0.5}, 0.5),  # Value before layer.
        ({"clip_layer_norm": 0.5, "clip_adaptive": 0.1}, 0.2),  # Layer before unit.
        ({"clip_adaptive": 0.1, "clip_norm": 0.15}, 0.15),
        ({"clip_adaptive": 0.1, "clip_norm": 10.0}, 0.2),
        ({"clip_norm": 0.5, "max_norm": 1.0}, 1.0),  # From 2 to 1.5, and down to 1.
        ({"clip_norm": 0.5, "weight_decay": 1.0, "max_norm": 0.1}, 2.1),  # To -0.5, and on to -0.1.
    ],
    ids=str,
)
def test_every_clip_is_in_the_chain(fields: dict[str, Any], expected: float) -> None:
    updates = one_update(SGD | fields, {"kernel": jnp.array([[3.0]])}, {"kernel": jnp.array([[2.0]])})
    np.testing.assert_allclose(-updates["kernel"], [[expected]], rtol=1e-6)


def test_order_is_layer_unit_global_noise() -> None:
    params = {"a": {"kernel": jnp.array([[2.0]])}, "b": {"kernel": jnp.array([[10.0]])}}
    gradients = {"a": {"kernel": jnp.array([[9.0]])}, "b": {"kernel": jnp.array([[8.0]])}}
    fields = {"clip_layer_norm": 0.5, "clip_adaptive": 0.1, "clip_norm": 0.1}
    # By layer to 0.5 and 0.5; by unit to 0.2 and 0.5; by norm to 0.1 in that direction.
    updates = one_update(SGD | fields, gradients, params)
    norm = math.hypot(0.2, 0.5)
    np.testing.assert_allclose(-updates["a"]["kernel"], [[0.1 * 0.2 / norm]], rtol=1e-6)
    np.testing.assert_allclose(-updates["b"]["kernel"], [[0.1 * 0.5 / norm]], rtol=1e-6)
    noisy = one_update(SGD | fields | {"gradient_noise": 1e4}, gradients, params, key=jax.random.key(0))
    assert float(global_norm(noisy)) > 1, "the noise is not clipped"


@pytest.mark.parametrize("fields", [{"clip_adaptive": 0.1}, {"max_norm": 0.5}], ids=str)
def test_units_of_a_softmax_are_rows(fields: dict[str, Any]) -> None:
    gradients, params = (np.random.default_rng(seed).standard_normal((3, 5)) for seed in (0, 1))
    columns = one_update(SGD | fields, {"kernel": jnp.asarray(gradients)}, {"kernel": jnp.asarray(params)})
    rows = one_update(SGD | fields, {"word_kernel": jnp.asarray(gradients.T)}, {"word_kernel": jnp.asarray(params.T)})
    np.testing.assert_array_equal(rows["word_kernel"].T, columns["kernel"])


# --- gradient noise --------------------------------------------------------------------------------------------------

NOISY = SGD | {"gradient_noise": 0.3}


def noise_of(section: dict[str, Any], steps: int, key: jax.Array, size: int = 1) -> list[np.ndarray]:
    """What is added to the gradient at each step, each with the key folded with the step."""
    params = {"kernel": jnp.zeros((size, 1)), "bias": jnp.zeros(size)}
    gradients = jax.tree.map(jnp.ones_like, params)
    optimizer = make_optimizer(section, run_steps=steps)
    state, drawn = optimizer.init(params), []
    for step in range(steps):
        updates, state = optimizer.update(gradients, state, params, key=jax.random.fold_in(key, step))
        drawn.append(np.concatenate([-np.ravel(updates[name]) - 1 for name in params]))
    return drawn


@pytest.mark.parametrize(("fields", "decay"), [({}, 0.55), ({"gradient_noise_decay": 1.5}, 1.5)])
def test_variance_of_the_noise_follows_its_formula(fields: dict[str, Any], decay: float) -> None:
    size = 50_000
    for step, noise in enumerate(noise_of(NOISY | fields, 4, jax.random.key(0), size)):
        expected = 0.3 / (1 + step) ** decay
        # Of n draws the variance is off by a share of √(2 / n), the mean by √(variance / n); four of these.
        assert noise.var() == pytest.approx(expected, rel=4 * math.sqrt(2 / noise.size))
        assert abs(noise.mean()) < 4 * math.sqrt(expected / noise.size)
        assert abs(np.corrcoef(noise[:size], noise[size:])[0, 1]) < 4 / math.sqrt(size), "leaves draw for themselves"


def test_noise_is_the_same_for_the_same_key_and_step_and_no_other() -> None:
    first, again, other = (noise_of(NOISY, 3, jax.random.key(seed), size=20) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert len({float(noise[0]) for noise in (*first, *other)}) == 6


def test_noise_without_a_key_is_an_error() -> None:
    with pytest.raises(TypeError, match="key"):
        one_update(NOISY, {"kernel": jnp.zeros(1)})


# --- max-norm --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_unit_stays_within_max_norm_and_others_are_untouched(name: str) -> None:
    bound = 1.0
    sections = [every_field(name, learning_rate=0.5, max_norm=limit) for limit in (bound, None)]
    with float64():
        bounded, free = (make_optimizer(section, run_steps=8) for section in sections)
        params = random_tree(0, 1.0)
        state, touched = bounded.init(params), 0
        for step in range(8):
            gradients = random_tree(step + 1, 1.0)
            expected, _ = free.update(gradients, {k: v for k, v in state.items() if k != "max_norm"}, params)
            expected = optax.apply_updates(params, expected)
            updates, state = bounded.update(gradients, state, params)
            params = optax.apply_updates(params, updates)
            np.testing.assert_array_equal(params["bias"], expected["bias"])
            for kernel in ("recurrent_kernel", "input_kernel"):
                before, after = np.asarray(unit_norms(expected[kernel])), np.asarray(unit_norms(params[kernel]))
                assert (after <= bound * (1 + 1e-12)).all()
                below = np.broadcast_to(before <= bound, params[kernel].shape)
                np.testing.assert_array_equal(np.asarray(params[kernel])[below], np.asarray(expected[kernel])[below])
                np.testing.assert_allclose(
                    params[kernel] / after, np.asarray(expected[kernel]) / before, rtol=1e-9, atol=1e-12
                )
                touched += int((before > bound).sum()) * int(below.any())
    assert touched > 0


# --- off -------------------------------------------------------------------------------------------------------------


def test_a_key_that_no_noise_asks_for_leaves_the_program_as_it_is() -> None:
    params = random_tree(0, 1.0)
    optimizer = make_optimizer(every_field("adam", learning_rate=0.1, clip_norm=1.0), run_steps=10)
    plain = optax.named_chain(
        ("spikes", detect_spikes()),
        ("clipping", count_clipped([clip_by_global_norm(1.0)], bound=1.0)),
        ("rule", optax.scale_by_adam()),
        ("learning_rate", scale_by_learning_rate(0.1, lambda _: jnp.ones(()))),
    )

    def ours(gradients: Any, state: Any, params: Any) -> Any:
        key = jax.random.fold_in(jax.random.key(0), state["learning_rate"].count)
        return optimizer.update(gradients, state, params, key=key)

    def theirs(gradients: Any, state: Any, params: Any) -> Any:
        return plain.update(gradients, state, params)

    theirs.__name__ = ours.__name__  # It stands in the text.
    texts = [
        re.sub(r", metadata=\{[^}]*\}|, stack_frame_id=\d+", "", text)
        for text in (
            jax.jit(update).lower(params, optimizer.init(params), params).compile().as_text()
            for update in (ours, theirs)
        )
    ]
    assert _program(texts[0]) == _program(texts[1])


def _program(text: str) -> list[str]:
    """The operations of a compiled program's text, without what says where they come from."""
    return [line for line in text.splitlines() if line.startswith(" ") and "=" in line]


# --- the rate ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [None, 0.5])
def test_step_k_takes_the_rate_times_the_factor_at_k_and_keeps_it(scale: float | None) -> None:
    optimizer = make_optimizer(dict(name="sgd", learning_rate=0.5, schedule="linear", warmup_steps=2), run_steps=6)
    params = {"kernel": jnp.zeros(1)}
    state: Any = optimizer.init(params)
    taken, kept = [], []
    for _ in range(7):
        updates, state = optimizer.update({"kernel": jnp.ones(1)}, state, params, rate_scale=scale)
        taken.append(float(-updates["kernel"][0]))
        kept.append(float(state["learning_rate"].rate))
    np.testing.assert_allclose(taken, (scale or 1) * 0.5 * np.array([0.5, 1, 1, 0.75, 0.5, 0.25, 0]), rtol=1e-6)
    np.testing.assert_allclose(kept, taken, rtol=1e-6)


# --- numbers as arrays -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("sgd", dict(momentum=0.9, nesterov=True, clip_norm=1.0, schedule=dict(name="linear", final=0.1))),
        ("rmsprop", dict(momentum=0.9, clip_value=0.5, schedule=dict(name="exponential", rate=0.5, steps=3))),
        ("adam", dict(clip_norm=1.0, schedule=dict(name="cosine", final=0.1), warmup_steps=1)),
        ("adamw", dict(schedule=dict(name="step", factor=0.1, boundaries=(1,)))),
        ("sgd", dict(clip_layer_norm=1.0, clip_adaptive=0.1, schedule=dict(name="one_cycle", start=0.5))),
        ("sgd", dict(gradient_noise=0.1, max_norm=0.5, schedule=dict(name="polynomial", power=1.5))),
        ("adam", dict(gradient_noise=0.1, clip_adaptive=0.1, schedule=dict(name="cosine_restarts", decay=0.9))),
    ],
)
def test_other_numbers_do_not_recompile(name: str, fields: dict[str, Any]) -> None:
    structure, numbers = split_numbers(every_field(name, learning_rate=0.1, **fields), OptimizerSpec)
    gradients = {"kernel": jnp.array([3.0, -0.2]), "bias": jnp.array([0.5])}
    params = jax.tree.map(lambda g: g + 1, gradients)

    def two_updates(numbers: dict[str, Any]) -> Any:
        optimizer = make_optimizer(merge_numbers(structure, numbers), run_steps=10)
        key = jax.random.key(0)
        _, state = optimizer.update(gradients, optimizer.init(params), params, key=key)
        return optimizer.update(gradients, state, params, key=key)[0]

    compiled = jax.jit(two_updates)
    results = []
    # All numbers stay in the range of their fields: decays below 1, the others above 0.
    for factor in (1.0, 0.7):
        scaled = {path: factor * value for path, value in numbers.items()}
        results.append(compiled(jax.tree.map(jnp.float32, scaled)))
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-5), results[-1], two_updates(scaled))
    assert compiled._cache_size() == 1
    assert not np.allclose(results[0]["kernel"], results[1]["kernel"])


class Built(Vanilla):
    """R = -R, so that it is none of the parameters."""

    def recurrent_matrix(self) -> jax.Array:
        return -self.recurrent_kernel[...]


@pytest.mark.parametrize(
    "section",
    [
        dict(name="sgd", max_norm=0.1),
        dict(name="sgd", weight_decay=0.5),
        dict(name="adamw", weight_decay=0.5),
        dict(name="optax:adamw", weight_decay=0.5),
        dict(name="optax:lion", weight_decay=0.5),
    ],
    ids=lambda section: " ".join(map(str, section.values())),
)
@pytest.mark.parametrize("cell", [Vanilla, Built])
def test_decay_and_max_norm_leave_what_a_recurrent_matrix_is_made_of(cell: Any, section: dict[str, Any]) -> None:
    """Of zero gradients nothing else changes a weight."""
    network = Network(2, 1, cell=dict(name="vanilla", features=3), rngs=nnx.Rngs(0))
    network.layers[0].cells[0] = cell(2, 3, rngs=nnx.Rngs(0))
    params = nnx.to_pure_dict(nnx.state(network, nnx.Param))
    whole = resolve_config(SMALL_RUN | {"optimizer": section | {"learning_rate": 0.1}})["optimizer"]
    optimizer = make_optimizer(whole, 10, cells=network.cells())
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = jax.jit(lambda params: optimizer.update(zeros, optimizer.init(params), params))(params)
    updates = updates["layers"][0]["cells"][0]
    assert (np.asarray(updates["input_kernel"]) != 0).any()
    assert (np.asarray(updates["recurrent_kernel"]) != 0).any() == (cell is Vanilla)
    np.testing.assert_array_equal(updates["bias"], 0)


PARAMS = {"a": {"kernel": jnp.arange(6.0).reshape(3, 2) / 5, "bias": jnp.ones(2)}}


def of_optax(name: str, **fields: Any) -> optax.GradientTransformation:
    """The chain of a config that names an optimiser of optax, alone in it."""
    section = {"name": name, "learning_rate": 0.1} | fields
    return make_optimizer(resolve_config(SMALL_RUN | {"optimizer": section})["optimizer"], 10)


@pytest.mark.parametrize("name", ["adam", "lion", "sgd", *slow_tests("lamb")])
def test_an_optimiser_of_optax_by_its_name_makes_optaxs_updates(name: str) -> None:
    options = {"mask": kernels} if name in ("lion", "lamb") else {}
    with float64():
        params = jax.tree.map(lambda a: jnp.asarray(a, float), PARAMS)
        ours, theirs = of_optax(f"optax:{name}"), getattr(optax, name)(0.1, **options)
        states = ours.init(params), theirs.init(params)
        for step in range(3):
            gradients = jax.tree.map(lambda a, step=step: jnp.cos(a + step), params)
            (mine, first), (expected, second) = (
                each.update(gradients, state, params) for each, state in zip((ours, theirs), states, strict=True)
            )
            states = first, second
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), mine, expected)


@pytest.mark.slow
def test_every_optimiser_of_optax_is_a_name_or_refused_in_one_line() -> None:
    refused = {}
    for name, factory in vars(optax).items():
        if inspect.isfunction(factory) and "learning_rate" in inspect.signature(factory).parameters:
            try:
                with warnings.catch_warnings(action="ignore"):
                    optimizer = of_optax(f"optax:{name}")
                    jax.eval_shape(lambda p, each=optimizer: each.update(p, each.init(p), p), PARAMS)
            except ConfigError as error:
                refused[name] = str(error)
    assert "optimizer.name: optax:lbfgs needs more than gradients and weights" in refused.pop("lbfgs")
    assert all(line.endswith("missing; expected a float") for line in refused.values())
    assert len(refused) <= 2
