"""The split by lag against the gradient that JAX gives, for every cell, and against closed forms of linear networks."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rnnlab.cells import CELLS, BaseCell
from rnnlab.config.errors import ConfigError
from rnnlab.diagnostics.gradient_flow import over_rows
from rnnlab.diagnostics.lags import LagSplit, entries, lag_split
from rnnlab.diagnostics.names import product_names
from rnnlab.engine import Matrix, products_of
from rnnlab.nn.network import Network
from rnnlab.nn.trajectory import Trajectory, trajectories
from rnnlab.tasks import Adding, Batch, Task
from tests.helpers import (
    assert_close,
    at_once,
    float64,
    in_double,
    jaxtyping_disabled,
    measured,
    random_array,
    random_like,
    shape_of_cell,
    shapes_of_matrices,
)
from tests.tiers import CELL_VARIANTS, exhaustive_tests, in_tiers

T, B, D, H, ANSWERS = 6, 4, 2, 3, 2
LENGTHS = (6, 1, 0, 4)


class EveryStep(Task):
    """An answer at every step, each row with as much weight as it has steps."""

    readout = "every"
    in_features, out_features = D, ANSWERS

    def size(self, split: Any) -> int | None:
        return None

    def example(self, data: Any, key: Any, split: Any, index: Any) -> Any:
        raise NotImplementedError

    def score(self, outputs: jax.Array, batch: Batch) -> tuple[dict[str, jax.Array], jax.Array]:
        valid = jnp.ones((T, B)) if batch.lengths is None else jnp.arange(T)[:, None] < batch.lengths
        errors = jnp.where(valid, ((outputs - batch.targets) ** 2).sum(-1), 0)
        return {"loss": errors.sum(0)}, valid.sum(0).astype(outputs.dtype)


def random_network(cell: Any, out: int = 1, **fields: Any) -> Network:
    """With N(0, 0.4²) for every parameter, in double precision where that is on."""

    def new() -> Any:
        return nnx.split(Network(D, out, cell=cell, **fields, rngs=nnx.Rngs(0)), nnx.Param, ...)

    graphdef, params, rest = nnx.split(nnx.eval_shape(lambda: nnx.merge(*new())), nnx.Param, ...)
    if jax.tree.leaves(rest):
        rest = in_double(at_once(lambda: new()[2]))
    return nnx.merge(graphdef, jax.tree.map(lambda a: jnp.asarray(0.4 * a, float), random_like(params, 0)), rest)


def problem(readout: str, lengths: tuple[int, ...] | None) -> tuple[Task, Batch]:
    rows = None if lengths is None else jnp.array(lengths)
    if readout == "every":
        return EveryStep(), Batch(random_array(1, T, B, D), random_array(2, T, B, ANSWERS), rows)
    return Adding(length=T), Batch(random_array(1, T, B, D), random_array(2, B, 1), rows)


def row_loss(network: Network, task: Task, batch: Batch) -> jax.Array:
    values, weights = task.score(network(batch.inputs, batch.lengths), batch)
    return (values["loss"] / jnp.maximum(weights, 1)).sum()


def split_of(network: Network, task: Task, batch: Batch, longest: int | None) -> tuple[list[LagSplit], list[jax.Array]]:
    """The split of every direction of every layer, and the gradient of its matrices that JAX gives."""
    graphdef, params, rest = nnx.split(network, nnx.Param, ...)

    def both(params: Any) -> Any:
        network = nnx.merge(graphdef, params, rest)
        runs = trajectories(network, batch.inputs, batch.lengths)
        splits = [lag_split(*each, longest) for each in zip(runs, entries(network, task, batch), strict=True)]

        def loss(factors: list[dict[str, jax.Array]]) -> jax.Array:
            moved, each = nnx.merge(graphdef, params, rest), iter(factors)
            for layer in moved.layers:
                layer.cells = nnx.List([MovedMatrices(cell, next(each)) for cell in layer.cells])
            return row_loss(moved, task, batch)

        cells = [cell for layer in network.layers for cell in layer.cells]
        kernels = [{name: matrix.kernel for name, matrix in cell.matrices().items()} for cell in cells]
        return splits, jax.grad(loss)(jax.tree.map(jnp.zeros_like, kernels))

    with jaxtyping_disabled():  # Moved matrices are no cell by their type.
        return jax.jit(both)(params)


class MovedMatrices(nnx.Module):
    """A cell, with something added to its matrices."""

    def __init__(self, cell: BaseCell, added: dict[str, jax.Array]):
        self.cell, self.added = cell, nnx.Dict({name: nnx.Param(a) for name, a in added.items()})

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "cell"), name)

    # What makes it a cell to the engine: from Python 3.12 on, that does not look at __getattr__.
    @property
    def precision(self) -> Any:
        return self.cell.precision

    def project(self, x: jax.Array) -> jax.Array:
        return self.cell.project(x)

    def split(self, a: jax.Array) -> list[jax.Array]:
        return self.cell.split(a)

    def step(self, *arguments: Any) -> Any:
        return self.cell.step(*arguments)

    def initial_carry(self, *arguments: Any) -> Any:
        return self.cell.initial_carry(*arguments)

    def matrices(self) -> dict[str, Matrix]:
        matrices = self.cell.matrices()
        return {n: dataclasses.replace(m, kernel=m.kernel + self.added[n][...]) for n, m in matrices.items()}


def check(splits: list[LagSplit], gradients: list[dict[str, jax.Array]], lags: int, least: float = 1e-3) -> None:
    """Asserts what holds for every split; least: the least size of the largest gradient."""
    assert len(splits) == len(gradients)
    for split, gradient in zip(splits, gradients, strict=True):
        largest = [np.abs(each).max() for each in gradient.values()]
        assert max(largest) > least
        assert min(largest) > 1e-6
        assert_close(split.total, gradient, 1e-10)
        assert split.norms.shape[0] == lags + 1
        assert split.shares.sum() == pytest.approx(1, abs=1e-10)
        assert (split.cosine[-1], split.ratio[-1]) == pytest.approx((1, 1), abs=1e-10)


SLOW = ("cornn", "unicornn", "lru")
"""Cells whose state moves little in three steps."""


@pytest.mark.parametrize("variant", in_tiers())
def test_parts_sum_to_the_gradient_of_every_cell(variant: str) -> None:
    name, fields = CELL_VARIANTS[variant]
    with float64():
        network = random_network({"name": name, "features": 4, **fields})  # Heads divide it.
        if shapes_of_matrices(variant):
            check(*split_of(network, *problem("last", LENGTHS), 3), 3, 1e-6 if name in SLOW else 1e-3)
        else:
            with pytest.raises(ConfigError, match="has no recurrent matrix whose gradient could be split"):
                split_of(network, *problem("last", LENGTHS), 3)


BOTH_WAYS: dict[str, Any] = {"layers": 2, "bidirectional": True}
NORMALIZED: dict[str, Any] = {"layers": 2, "connections": "residual", "normalization": {"cell": "layer"}}
HELD: dict[str, Any] = {"bidirectional": True, "learned_carry": True, "dropout": {"zoneout": 0.2, "zoneout_cell": 0.3}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "lengths", "readout"),
    [
        (BOTH_WAYS, LENGTHS, "every"),
        *exhaustive_tests((BOTH_WAYS, LENGTHS, "last"), (NORMALIZED, LENGTHS, "every"), (HELD, LENGTHS, "last")),
    ],
    ids=["every", "last", "residual", "zoneout"],
)
def test_parts_sum_to_the_gradient_in_every_network(
    fields: dict[str, Any], lengths: tuple[int, ...] | None, readout: str
) -> None:
    with float64():
        cell = {"name": "lstm", "features": H}
        network = random_network(cell, ANSWERS if readout == "every" else 1, readout=readout, **fields)
        check(*split_of(network, *problem(readout, lengths), T), T)


@pytest.mark.slow
def test_attention_and_dense_connections_enter_too() -> None:
    with float64():
        cell = {"name": "gru", "features": H}
        network = random_network(cell, layers=2, attention="dot", connections="dense")
        check(*split_of(network, *problem("last", None), 2), 2)


@pytest.mark.slow
def test_interventions_in_the_backward_pass_are_left_out() -> None:
    with float64():
        task, batch = problem("last", LENGTHS)
        cell, cotangent = {"name": "lstm", "features": H}, {"cut_every": 2, "clip_norm": 1e-3, "scale": 0.5}
        changed = random_network(cell, layers=2, cotangent=cotangent)
        _, gradients = split_of(random_network(cell, layers=2), task, batch, T)
        splits, _ = split_of(changed, task, batch, T)
        check(splits, gradients, T)


@pytest.mark.slow
def test_nothing_enters_past_a_rows_end() -> None:
    task, batch = problem("last", LENGTHS)
    found = entries(random_network({"name": "vanilla", "features": H}, **BOTH_WAYS), task, batch)
    past = np.arange(T)[:, None] >= np.array(LENGTHS)
    assert len(found) == 4
    for entry in found:
        np.testing.assert_array_equal(np.asarray(entry)[past], 0)
        assert np.abs(np.asarray(entry)[:, 0]).max() > 0


def linear(recurrent: np.ndarray, x: np.ndarray, entry: np.ndarray, reverse: bool = False) -> tuple[LagSplit, Any]:
    """The split of h_t = x_t + h_{t-1} R with e at the last step that runs, and h [T, B, H] with h before t = 0."""
    batch, features = x.shape[1:]
    cell = {"name": "vanilla", "features": features, "activation": "linear"}
    network = nnx.eval_shape(lambda: Network(features, 1, cell=cell, rngs=nnx.Rngs(0)))
    of_cell: Any = network.layers[0].cells[0]
    weights = {"input_kernel": np.eye(features), "recurrent_kernel": recurrent, "bias": np.zeros(features)}
    for name, value in weights.items():
        setattr(of_cell, name, nnx.Param(jnp.asarray(value)))
    h = [np.zeros((batch, features))]
    for x_t in x[::-1] if reverse else x:
        h.append(x_t + h[-1] @ recurrent)
    after = np.stack(h[:0:-1] if reverse else h[1:])
    every = np.zeros_like(after)
    every[0 if reverse else -1] = entry
    trajectory = Trajectory("layer 1", of_cell, x, None, reverse, (h[0],), (after,))
    return jax.tree.map(np.asarray, measured(lag_split, trajectory, every)), np.stack(h)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("rho", [1e-12, 0.3, 1.0, 1.2, 1e12])
def test_of_a_scaled_orthogonal_matrix_lag_k_is_rho_to_the_k_times_the_states_norm(rho: float, reverse: bool) -> None:
    # One row: part k is the outer product of h_{T-k-2} and e (Rᵀ)^k.
    with float64():
        steps, rng = 12, np.random.default_rng(0)
        q, _ = np.linalg.qr(rng.standard_normal((H, H)))
        x, entry = rng.standard_normal((steps, 1, H)), rng.standard_normal((1, H))
        split, h = linear(rho * q, x, entry, reverse)
    expected = [rho**k * np.linalg.norm(h[steps - 1 - k]) * np.linalg.norm(entry) for k in range(steps)]
    np.testing.assert_allclose(split.norms[:-1, 0], expected, rtol=1e-12)
    assert split.norms[-1, 0] == 0
    distances = np.arange(steps)[:: 1 if reverse else -1]
    np.testing.assert_allclose(split.delta[:, 0], rho**distances * np.linalg.norm(entry), rtol=1e-12)
    assert np.isfinite(split.shares).all()


def test_of_an_identity_matrix_no_lag_decays() -> None:
    with float64():
        x = np.zeros((8, 1, H))
        x[0] = [1.0, -2.0, 3.0]
        split, _ = linear(np.eye(H), x, np.ones((1, H)))
    np.testing.assert_array_equal(split.norms[:7, 0], split.norms[0, 0])
    np.testing.assert_allclose(split.shares[:7], 1 / 7, rtol=1e-14)
    np.testing.assert_allclose(split.ratio[:7], np.arange(1, 8) / 7, rtol=1e-14)
    np.testing.assert_allclose(split.cosine, 1, rtol=1e-14)


@pytest.mark.parametrize("size", [1e-250, 1e250])
def test_shares_and_angles_do_not_depend_on_the_size_of_the_gradient(size: float) -> None:
    with float64():
        rng = np.random.default_rng(1)
        recurrent, x, entry = rng.standard_normal((H, H)), rng.standard_normal((5, B, H)), rng.standard_normal((B, H))
        one, _ = linear(recurrent, x, entry)
        other, _ = linear(recurrent, x, size * entry)
    for name in ("shares", "cosine", "ratio"):
        np.testing.assert_allclose(getattr(other, name), getattr(one, name), rtol=1e-10)
    np.testing.assert_allclose(other.norms, size * one.norms, rtol=1e-12)


def test_without_a_gradient_there_are_no_shares() -> None:
    split, _ = linear(np.eye(H, dtype=np.float32), np.ones((4, 1, H), np.float32), np.zeros((1, H), np.float32))
    np.testing.assert_array_equal(split.norms, 0)
    for values in (split.shares, split.cosine, split.ratio):
        assert np.isnan(values).all()


def test_states_that_are_not_numbers_make_parts_that_are_not() -> None:
    split, _ = linear(np.eye(H), np.full((4, 1, H), np.nan), np.ones((1, H)))
    for values in (split.norms, split.shares):
        assert np.isnan(values[:3]).all()


@pytest.mark.slow
def test_delta_is_the_gradient_of_the_engines_taps() -> None:
    with float64():
        task, batch = problem("every", LENGTHS)
        network = random_network({"name": "gru", "features": H}, ANSWERS, readout="every")
        (split,), _ = split_of(network, task, batch, 1)

        def loss(taps: Any) -> jax.Array:
            values, weights = task.score(network(batch.inputs, batch.lengths, taps), batch)
            return (values["loss"] / jnp.maximum(weights, 1)).sum()

        delta = jax.jit(jax.grad(loss))(network.make_taps(batch.inputs))[0][0].u.reshape(T, B, 3, H)
        norms = [jnp.asarray(np.linalg.norm(gate, axis=-1)) for gate in np.moveaxis(np.asarray(delta), 2, 0)]
        expected = [over_rows(each, batch.lengths) for each in norms]
        assert_close(split.delta, jnp.stack(expected, -1), 1e-12)


def trace(network: Network, task: Task, batch: Batch, longest: int | None = None) -> None:
    """The split of a network of one layer, of which nothing is computed."""

    def both() -> LagSplit:
        (run,), (entry,) = trajectories(network, batch.inputs), entries(network, task, batch)
        return lag_split(run, entry, longest)

    jax.eval_shape(both)


class Diagonal(BaseCell):
    """A cell whose state meets no matrix."""

    def step(self, carry: Any, z: Any, multiply: Any) -> Any:
        return (jnp.tanh(z[0] + carry[0]),)


def test_a_cell_without_a_recurrent_matrix_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CELLS, "diagonal", Diagonal)
    task, batch = problem("last", None)
    some: list[dict[str, Any]] = [{}, {"dropout": {"zoneout": 0.1}}]
    for fields in some:
        network = random_network({"name": "diagonal", "features": H}, **fields)
        with pytest.raises(ConfigError, match=r"^lags: Diagonal has no recurrent matrix .*gru has \(layer 1"):
            trace(network, task, batch)


def test_recurrent_batch_normalisation_is_refused_in_one_line() -> None:
    task, batch = problem("last", None)
    normalization = {"cell": "batch", "steps": T}
    network = Network(D, 1, cell={"name": "lstm", "features": H}, normalization=normalization, rngs=nnx.Rngs(0))
    with pytest.raises(ConfigError, match=r"^lags: BatchNormalizedCell has statistics between"):
        trace(network, task, batch)


@pytest.mark.parametrize("longest", [0, T + 1])
def test_a_longest_lag_out_of_bounds_is_one_line(longest: int) -> None:
    network, (task, batch) = random_network({"name": "vanilla", "features": H}), problem("last", None)
    with pytest.raises(ConfigError, match=rf"^lags: longest is {longest}; it must be at least 1 and at most {T}"):
        trace(network, task, batch, longest)


def test_gates_are_named_through_what_stands_around_a_cell() -> None:
    cell = {"name": "lstm", "features": H}
    network = Network(D, 1, cell=cell, normalization={"cell": "layer"}, rngs=nnx.Rngs(0))
    names = network.layers[0].cells[0].gate_names

    def named(x: jax.Array) -> jax.Array:
        (run,) = trajectories(network, x)
        assert tuple(product_names(run.cell, products_of(run.cell, run.x))) == names
        return x

    jax.eval_shape(named, random_array(0, T, B, D))


NAMES = {
    "gru_reset_before": ["r", "z", "n"],
    "mlstm": ["m", "i", "f", "g", "o"],
    "mut1": ["r", "h"],
    "lmu": ["state encoder", "memory encoder", "kept", "h", "memory"],
    "hippo_legs": ["state encoder", "memory 1", "memory 2"],
}


@pytest.mark.parametrize("name", NAMES)
def test_columns_of_several_products_are_named_by_their_gates_in_the_order_of_the_step(name: str) -> None:
    cell = shape_of_cell(name)
    assert product_names(cell, products_of(cell, jax.ShapeDtypeStruct((T, B, 3), jnp.float32))) == NAMES[name]
