"""Recurrent matrices that are made of parameters: in cells of every kind of chain, as they are drawn, and what each
entry of PARAMETRISATIONS promises."""

import functools
import re
from types import SimpleNamespace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from rnnlab.cells import CELLS, BaseCell, Cell, Vanilla
from rnnlab.cells.recurrent_matrices import PARAMETRISATIONS, Parametrisation
from rnnlab.config.errors import ConfigError
from rnnlab.diagnostics.norms import norms
from rnnlab.engine import unroll
from rnnlab.nn.network import Network
from rnnlab.optim.parameters import kernels
from rnnlab.optim.terms import Weights, l2, orthogonality
from tests.helpers import assert_close, at_once, dot, float64, random_array, random_like
from tests.tiers import exhaustive_tests, in_tier, slow_tests

T, B, D, H = 4, 2, 3, 6
MADE = [name for name in PARAMETRISATIONS if name != "free"]
ORTHOGONAL = ["exponential", "cayley", "householder"]


class Both(BaseCell):
    """h and c side by side meet R."""

    gate_names = ("a", "b")
    products: ClassVar = {"both": ("a", "b")}
    meets = 2
    carry_names = ("h", "c")

    def step(self, carry: Any, z: Any, multiply: Any) -> Any:
        a, b = multiply("both", jnp.concatenate(carry, -1))
        return jnp.tanh(z[0] + a), jnp.tanh(z[1] + b)


class InSequence(BaseCell):
    """Two products, one after the other."""

    gate_names = ("a", "b")
    products: ClassVar = {"first": ("a",), "second": ("b",)}

    def step(self, carry: Any, z: Any, multiply: Any) -> Any:
        inner = jnp.tanh(z[0] + multiply("first", carry[0])[0])
        return (jnp.tanh(z[1] + multiply("second", inner)[0]),)


KINDS = {"vanilla": Vanilla, "both": Both, "in_sequence": InSequence}


def new_cell(kind: str, name: str, features: int = H, **options: Any) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    """A cell, split: its parameters, and what is not trained."""
    graphdefs = []

    def draw() -> Any:
        cell = KINDS[kind](D, features, recurrent=name, rngs=nnx.Rngs(0), **options)
        graphdef, *states = nnx.split(cell, nnx.Param, ...)
        graphdefs.append(graphdef)
        return states

    params, others = at_once(draw)
    return graphdefs[0], params, others


@functools.cache
def moved_cell(kind: str, name: str) -> Any:
    """Parameters away from where they begin, in double precision."""
    graphdef, params, others = new_cell(kind, name)
    params, others = jax.tree.map(lambda a: jnp.asarray(a, float), (params, others))
    return graphdef, jax.tree.map(lambda a, noise: a + 0.3 * noise, params, random_like(params, 3)), others


# --- in a cell -------------------------------------------------------------------------------------------------------


SLOW = ("exponential", "spectral", "householder", "diagonal")
OTHERS = [(kind, name) for kind in ("both", "in_sequence") for name in MADE if name != "non_normal"]
for each in [("both", "cayley"), ("both", "spectral"), ("in_sequence", "cayley")]:
    OTHERS.remove(each)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("both", "cayley"),
        *slow_tests(*(("vanilla", name) for name in SLOW)),
        *exhaustive_tests(*(("vanilla", name) for name in MADE if name not in SLOW)),
        *exhaustive_tests(("both", "spectral"), ("in_sequence", "cayley"), *OTHERS),
    ],
)
def test_gradients_through_the_construction_equal_reference_and_finite_differences(kind, name):
    with float64():
        graphdef, params, others = moved_cell(kind, name)
        x, direction = random_array(1, T, B, D), random_like(params, 5)
        weights = random_array(7, T, B, H)

        def loss(params: nnx.State, backend: Any) -> jax.Array:
            h, _ = unroll(nnx.merge(graphdef, params, others), x, backend=backend)
            return dot(h, weights)

        value = jax.jit(loss, static_argnums=1)
        gradients = [jax.jit(jax.grad(loss), static_argnums=1)(params, each) for each in ("fused", "reference")]
        assert_close(gradients[0], gradients[1], 1e-10)
        along = lambda s: value(jax.tree.map(lambda p, d: p + s * 1e-4 * d, params, direction), "fused")  # noqa: E731
        slope = (8 * (along(1) - along(-1)) - (along(2) - along(-2))) / 12e-4
        scale = dot(jax.tree.map(jnp.abs, gradients[0]), jax.tree.map(jnp.abs, direction))
        np.testing.assert_allclose(dot(gradients[0], direction), slope, rtol=0, atol=1e-10 * scale)


@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_matrix_is_built_once_a_sequence(backend):
    with float64():
        graphdef, params, others = moved_cell("vanilla", "cayley")
        loss = lambda params: unroll(nnx.merge(graphdef, params, others), jnp.ones((T, B, D)), backend=backend)[0].sum()  # noqa: E731
        compiled = jax.jit(jax.grad(loss)).lower(params).compile().as_text()
    assert compiled.count("getrf") == 1


class Drawn(nnx.Module):
    """A draw that stays as it is."""

    def __init__(self, matrix: np.ndarray):
        self.matrix = matrix

    def __call__(self, key: Any, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
        return jnp.asarray(self.matrix, dtype)


def turned(seed: int, size: int = H) -> np.ndarray:
    """An orthogonal matrix of determinant 1."""
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))
    q = q * np.sign(np.diag(r))
    return q * np.where(np.arange(size) == 0, np.sign(np.linalg.det(q)), 1)


SKEW = np.tril(turned(5), -1) - np.tril(turned(5), -1).T
RING = np.array([[(j - i) % H for j in range(H)] for i in range(H)]) / 10
PAIRS = np.kron(np.eye(3), [[0.5, 0.8], [-0.3, 0.5]]) + np.triu(RING, 2)
"""Of complex eigenvalues, and not normal."""
EXACT = [
    *((name, {}, turned(1), 0) for name in [*ORTHOGONAL, "spectral"]),
    *((name, {}, np.diag([-1.0, 1, 1, 1, 1, 1]), 0) for name in ORTHOGONAL),
    ("householder", {"reflections": 2}, turned(1), 0),
    ("spectral", {"epsilon": 0.0}, turned(1), 0),
    ("spectral", {"epsilon": 0.2}, (turned(1) * np.linspace(0.9, 1.1, H)) @ turned(2), 1e-6),
    ("non_normal", {}, turned(1), 1e-6),
    ("non_normal", {}, np.eye(H), 0),
    (
        "non_normal",
        {},
        turned(2) @ (np.kron(np.eye(3), [[0.5, 0.8], [-0.3, 0.5]]) + np.triu(RING, 2)) @ turned(2).T,
        1e-6,
    ),
    ("skew", {"gamma": 0.5}, SKEW - 0.5 * np.eye(H), 1e-7),
    ("diagonal", {}, np.diag(np.arange(6.0)), 0),
    ("circulant", {}, RING, 1e-7),
    ("scaled", {"bound": 1.5}, turned(1), 0),
    ("scaled", {"bound": 0.5}, 0.5 * turned(1), 1e-6),
]


@pytest.mark.parametrize(("name", "options", "drawn", "tolerance"), EXACT)
def test_what_a_parametrisation_can_be_it_is_at_first(name, options, drawn, tolerance):
    cell = Vanilla(D, H, recurrent={"name": name, **options}, recurrent_init=Drawn(drawn), rngs=nnx.Rngs(0))
    np.testing.assert_allclose(cell.recurrent_matrix(), drawn.astype(np.float32), rtol=0, atol=tolerance)
    assert cell.builds_recurrent_matrix


NEAREST = {
    "spectral": lambda u, s, v: (u * np.clip(s, 0.9, 1.1)) @ v,
    **dict.fromkeys(ORTHOGONAL, lambda u, s, v: u @ v),
    "skew": lambda u, s, v: ((u * s) @ v - ((u * s) @ v).T) / 2 - 0.01 * np.eye(H),
    "diagonal": lambda u, s, v: np.diag(np.diag((u * s) @ v)),
    "circulant": lambda u, s, v: sum(
        np.trace((u * s) @ v @ np.roll(np.eye(H), k, 1).T) / H * np.roll(np.eye(H), k, 1) for k in range(H)
    ),
    "scaled": lambda u, s, v: (u * s / max(1, s[0])) @ v,
}


@pytest.mark.parametrize("name", NEAREST)
def test_other_draws_become_the_nearest(name):
    drawn = np.random.default_rng(0).standard_normal((H, H))
    cell = Vanilla(D, H, recurrent=name, recurrent_init=Drawn(drawn), rngs=nnx.Rngs(0))
    # Singular values end at 0.998 of what the sigmoid tends to.
    tolerance = 1e-3 if name == "spectral" else 2e-6
    np.testing.assert_allclose(cell.recurrent_matrix(), NEAREST[name](*np.linalg.svd(drawn)), rtol=0, atol=tolerance)


@pytest.mark.parametrize("size", [5, *exhaustive_tests(4)])
def test_non_normal_keeps_complex_eigenvalues_of_any_draw(size):
    drawn = np.random.default_rng(2).standard_normal((size, size))
    cell = Vanilla(D, size, recurrent="non_normal", recurrent_init=Drawn(drawn), rngs=nnx.Rngs(0))
    wanted, actual = (np.linalg.eigvals(np.asarray(a, float)) for a in (drawn, cell.recurrent_matrix()))
    wanted, actual = (np.sort_complex(values[np.abs(values.imag) > 1e-3]) for values in (wanted, actual))
    assert len(wanted)
    np.testing.assert_allclose(actual, wanted, atol=1e-5)


@pytest.mark.parametrize("name", [in_tier(name, costly=name != "lstm") for name in CELLS])
def test_every_cell_has_its_blocks_orthogonal_in_the_loop_or_says_in_one_line_that_it_cannot(name):
    refusal = None
    try:
        cell = CELLS[name](D, 4, recurrent="cayley", rngs=nnx.Rngs(0))
    except ConfigError as error:
        refusal = str(error)
    if refusal is not None:
        assert re.fullmatch(r"model\.cell\.recurrent: .*; use free", refusal)
        return
    cell.recurrent_kernel[...] += 0.1  # pyright: ignore[reportAttributeAccessIssue]
    blocks = [np.asarray(block) for block in cell.recurrent_matrices().values()]
    for block in blocks:
        np.testing.assert_allclose(block.T @ block, np.eye(4), atol=1e-6)
    met = [np.asarray(matrix.kernel) for matrix in cell.matrices().values() if matrix.of_state]
    columns = np.concatenate([kernel.ravel() for kernel in met])
    assert all(np.isin(block.ravel(), columns).all() for block in blocks)


# --- what each promises ----------------------------------------------------------------------------------------------


def matrix_after_moves(name: str, **options: Any) -> np.ndarray:
    """R of parameters far from where they begin."""
    with float64():
        graphdef, params, others = new_cell("vanilla", {"name": name, **options})
        params = jax.tree.map(lambda a, noise: jnp.asarray(a + 2 * noise, float), params, random_like(params, 3))
        cell = nnx.merge(graphdef, params, jax.tree.map(lambda a: jnp.asarray(a, float), others))
        return np.asarray(cell.recurrent_matrix())


@pytest.mark.parametrize(
    ("name", "options"), [*((name, {}) for name in ORTHOGONAL), ("householder", {"reflections": 2})]
)
def test_orthogonal_ones_stay_so_with_their_determinant(name, options):
    # The base is a draw in single precision.
    before, after = (np.asarray(new_cell("vanilla", name)[2].recurrent_base), matrix_after_moves(name, **options))
    np.testing.assert_allclose(after.T @ after, np.eye(H), atol=1e-6)
    flips = options.get("reflections", H) if name == "householder" else 0
    assert np.linalg.det(after) * np.linalg.det(before[0]) * (-1) ** flips > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ORTHOGONAL)
def test_orthogonal_ones_stay_so_in_single_precision_over_steps_of_adam(name):
    # As far as 10 000 steps of rate 1e-4 go at most; scripts/orthogonality.py makes those.
    graphdef, params, others = new_cell("vanilla", name, features=170)
    optimizer = optax.adam(3e-2)
    target = jnp.asarray(turned(3, 170), jnp.float32)

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        loss = lambda params: ((nnx.merge(graphdef, params, others).recurrent_matrix() - target) ** 2).sum()  # noqa: E731
        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(40):
        params, state = step(params, state)
        r = np.asarray(nnx.merge(graphdef, params, others).recurrent_matrix(), float)
        assert np.abs(r.T @ r - np.eye(170)).max() <= 1e-5


def test_singular_values_of_the_spectral_one_stay_within_epsilon():
    values = np.linalg.svd(matrix_after_moves("spectral", epsilon=0.25), compute_uv=False)
    assert 0.75 - 1e-6 < values.min() < 0.9
    assert 1.1 < values.max() < 1.25 + 1e-6


def test_others_keep_their_form():
    np.testing.assert_allclose((r := matrix_after_moves("skew", gamma=0.3)) + r.T, -0.6 * np.eye(H), atol=1e-7)
    np.testing.assert_array_equal(r := matrix_after_moves("diagonal"), np.diag(np.diag(r)))
    np.testing.assert_array_equal(r := matrix_after_moves("circulant"), np.roll(r, (1, 1), (0, 1)))
    np.testing.assert_allclose(np.linalg.norm(matrix_after_moves("scaled", bound=0.7), 2), 0.7, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "map_name", "scale"),
    [("cayley", "cayley", 2), *exhaustive_tests(("householder", "householder", 1), ("exponential", "matrix_exp", 1))],
)
def test_values_and_gradients_equal_those_of_torch(name, map_name, scale):
    # PyTorch's Cayley transform is of A / 2, and its matrices act from the left: its base is the first factor, too.
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.manual_seed(0)
    layer = torch.nn.Linear(H, H, bias=False, dtype=torch.float64)
    torch.nn.utils.parametrizations.orthogonal(layer, "weight", orthogonal_map=map_name)
    made = layer.parametrizations.weight[0]
    lower = np.random.default_rng(1).standard_normal((H, H))
    original = torch.tensor(
        scale * np.tril(lower, -1) + (np.eye(H) if name == "householder" else 0), requires_grad=True
    )
    q = made(original)
    weights = torch.tensor(np.random.default_rng(2).standard_normal((H, H)))
    (q * weights).sum().backward()
    with float64():
        kind = PARAMETRISATIONS[name]()
        assert isinstance(kind, Parametrisation)
        base = jnp.asarray(made.base.numpy())
        kernel = jnp.asarray(lower[np.tril_indices(H, -1)])
        value, pull = jax.vjp(lambda kernel: kind.matrix(kernel=kernel, base=base), kernel)
        np.testing.assert_allclose(value, q.detach().numpy(), rtol=0, atol=1e-13)
        expected = scale * original.grad.numpy()[np.tril_indices(H, -1)]
        np.testing.assert_allclose(pull(jnp.asarray(weights.numpy()))[0], expected, rtol=0, atol=1e-12)


# --- in a network ----------------------------------------------------------------------------------------------------


def network_of(name: str, **cell: Any) -> Network:
    return Network(D, 2, cell={"name": "lstm", "features": H, "recurrent": name, **cell}, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("name", ["cayley", "spectral"])
def test_penalties_and_decay_see_the_matrix_not_its_parameters(name):
    network = network_of(name, peepholes=True)
    params = nnx.to_pure_dict(nnx.state(network, nnx.Param))
    weights = Weights(params, network.cells())
    (cell,) = network.cells().values()
    peepholes = cell.peephole_kernel[...]  # pyright: ignore[reportAttributeAccessIssue]
    expected = sum((block**2).sum() for block in cell.recurrent_matrices().values()) + (peepholes**2).sum()
    np.testing.assert_allclose(l2(weights, {"recurrent": 1.0}), expected, rtol=1e-6)  # pyright: ignore
    assert orthogonality(weights, 1.0) < 1e-8
    decayed = kernels(params, network.cells())["layers"][0]["cells"][0]
    assert {key for key, value in decayed.items() if value} == {"input_kernel", "peephole_kernel"}


def test_norms_of_what_a_matrix_is_made_of_are_not_by_gate():
    # [gates, H (H - 1) / 2] of six units and one gate could be cut in squares, too.
    network = Network(D, 2, cell={"name": "vanilla", "features": H, "recurrent": "cayley"}, rngs=nnx.Rngs(0))
    params = nnx.to_pure_dict(nnx.state(network, nnx.Param))
    (cell,) = network.cells().values()
    trees = dict.fromkeys(("gradients", "clipped", "params", "updates"), params)
    probe: Any = SimpleNamespace(trajectories=[SimpleNamespace(name="layer 1", cell=cell)], **trees)
    names = {name for name in norms(probe) if name.startswith("layer 1/recurrent")}
    assert names == {f"layer 1/recurrent_kernel/{kind}" for kind in NORMS}


NORMS = ("gradient", "clipped", "weight", "update", "update / weight")


def test_free_matrix_has_the_parameters_of_before():
    assert set(nnx.to_pure_dict(nnx.state(network_of("free").cells()["layers", 0, "cells", 0]))) == {
        "input_kernel",
        "recurrent_kernel",
        "bias",
    }


def test_matrix_is_set_where_it_can_be():
    cell = Vanilla(D, H, recurrent="exponential", rngs=nnx.Rngs(0))
    before = cell.recurrent_matrix()
    cell.set_recurrent_matrices(lambda block: -block.T)
    np.testing.assert_allclose(cell.recurrent_matrix(), -before.T, atol=1e-6)
    with pytest.raises(ConfigError, match="the R of Vanilla is Exponential, which cannot be what it is to be set to"):
        cell.set_recurrent_matrices(lambda block: 0.5 * block)
    np.testing.assert_allclose(cell.recurrent_matrix(), -before.T, atol=1e-6)


# --- mistakes --------------------------------------------------------------------------------------------------------


class Without(BaseCell):
    """A cell whose state meets no matrix."""

    def step(self, carry: Any, z: Any, multiply: Any) -> Any:
        return (jnp.tanh(z[0] + carry[0]),)


class ByHand(Cell):
    """A cell that makes its R."""

    def gates(self, carry: Any, z: Any, u: Any) -> Any:
        return (jnp.tanh(z[0] + u[0]),)

    def recurrent_matrix(self) -> jax.Array:
        return self.recurrent_kernel[...] - self.recurrent_kernel[...].T


MISTAKES = [
    (CELLS["slstm"], "cayley", "model.cell.recurrent: SLSTM makes its R in its own way; use free"),
    (CELLS["scrn"], "cayley", "model.cell.recurrent: SCRN has no recurrent matrix of square blocks to make; use free"),
    (Without, "cayley", "model.cell.recurrent: Without has no recurrent matrix of square blocks to make; use free"),
    (ByHand, "cayley", "model.cell.recurrent: ByHand makes its R in its own way; use free"),
    (Vanilla, "caley", "unknown model.cell.recurrent 'caley'; did you mean cayley"),
    (Vanilla, {"name": "householder", "reflections": 7}, "recurrent.reflections: 7 of 6 units; up to 6"),
    (Vanilla, {"name": "spectral", "epsilonn": 1}, "did you mean epsilon"),
]


@pytest.mark.parametrize(("cell", "recurrent", "message"), MISTAKES)
def test_mistakes_are_one_line(cell, recurrent, message):
    with pytest.raises(ConfigError, match=message) as caught:
        cell(D, H, recurrent=recurrent, rngs=nnx.Rngs(0), **({"heads": 2} if cell is CELLS["slstm"] else {}))
    assert "\n" not in str(caught.value)
