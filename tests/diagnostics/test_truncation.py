"""The bias of truncated backpropagation against gradients that are cut by hand, and against the split by lag."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rnnlab.config.errors import ConfigError
from rnnlab.diagnostics.lags import entries, lag_split
from rnnlab.diagnostics.truncation import TruncationBias, default_windows, truncation_bias
from rnnlab.nn.network import Network
from rnnlab.nn.trajectory import trajectories
from rnnlab.tasks import Adding, Batch
from tests.helpers import assert_close, float64, random_array, random_like
from tests.tiers import exhaustive_tests

pytestmark = pytest.mark.slow  # Each trains or compiles several programs.

T, B, D, H = 8, 3, 2, 4
TASK = Adding(length=T)


def random_network(name: str = "lstm", **fields: Any) -> Network:
    """With N(0, 0.4²) for every parameter, in double precision where that is on."""
    network = nnx.eval_shape(lambda: Network(D, 1, cell={"name": name, "features": H}, **fields, rngs=nnx.Rngs(0)))
    graphdef, params, rest = nnx.split(network, nnx.Param, ...)
    rest = jax.tree.map(lambda a: jnp.full(a.shape, 0.5, float), rest)
    return nnx.merge(graphdef, jax.tree.map(lambda a: jnp.asarray(0.4 * a, float), random_like(params, 0)), rest)


def problem(lengths: list[int] | None = None) -> Batch:
    return Batch(random_array(1, T, B, D), random_array(2, B, 1), None if lengths is None else jnp.array(lengths))


def bias_of(network: Network, batch: Batch, windows: list[int] | None = None) -> dict[str, TruncationBias]:
    """`truncation_bias`, compiled, its windows an argument."""
    graphdef, state = nnx.split(network)
    traced = jnp.asarray(default_windows(T) if windows is None else windows)
    measure = jax.jit(lambda state, windows: truncation_bias(nnx.merge(graphdef, state), TASK, batch, windows))
    return jax.tree.map(np.asarray, measure(state, traced))


def gradient_of(network: Network, batch: Batch) -> Any:
    """Of the mean loss, by all parameters."""
    graphdef, params, rest = nnx.split(network, nnx.Param, ...)

    def loss(params: Any) -> jax.Array:
        outputs = nnx.merge(graphdef, params, rest)(batch.inputs, batch.lengths)
        return TASK.score(outputs, batch)[0]["loss"].mean()

    return jax.jit(jax.grad(loss))(params)


def measured(truncated: Any, full: Any) -> tuple[float, float]:
    """Cosine and norm ratio of two trees, in NumPy."""
    a, b = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (truncated, full))
    of_a, of_b = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    return float(a @ b) / of_a / of_b, of_a / of_b


def kernels(gradient: Any) -> list[jax.Array]:
    return [cell["recurrent_kernel"] for layer in gradient["layers"].values() for cell in layer["cells"].values()]


@pytest.mark.parametrize("fields", [{}, {"layers": 2, "bidirectional": True}], ids=["one", "both ways"])
def test_windows_of_the_whole_sequence_have_no_bias(fields: dict[str, Any]) -> None:
    with float64():
        found = bias_of(random_network(**fields), problem([8, 3, 0]), [3, T, T + 1, 1000])
    for bias in found.values():
        np.testing.assert_array_equal(bias.cosine[1:], 1)
        np.testing.assert_array_equal(bias.ratio[1:], 1)
        assert bias.cosine[0] < 1 - 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "lengths"),
    [
        ("lstm", [8, 3, 1]),
        *exhaustive_tests(("lstm", None), ("gru_reset_before", None), ("gru_reset_before", [8, 3, 1])),
    ],
)
def test_every_window_equals_the_networks_own_intervention(name: str, lengths: list[int] | None) -> None:
    fields = {"layers": 2, "bidirectional": True}
    with float64():
        batch = problem(lengths)
        full = gradient_of(random_network(name, **fields), batch)
        cut = gradient_of(random_network(name, **fields, cotangent={"cut_every": 3}), batch)
        found = bias_of(random_network(name, **fields), batch, [3])
    expected = {"all": (cut, full), "recurrent": (kernels(cut), kernels(full))}
    assert found.keys() == expected.keys()
    for group, bias in found.items():
        assert (bias.cosine[0], bias.ratio[0]) == pytest.approx(measured(*expected[group]), rel=1e-12)


def test_windows_of_one_step_have_no_recurrent_path() -> None:
    with float64():
        network, batch = random_network(learned_carry=True), problem()
        graphdef, params, rest = nnx.split(network, nnx.Param, ...)

        def loss(params: Any, stop: Any) -> jax.Array:
            network = nnx.merge(graphdef, params, rest)
            layer: Any = network.layers[0]
            cell, carry = layer.cells[0], layer.initial_carry(0, B)
            for t in range(T):
                carry = stop(carry) if t else carry  # A trained first carry is the first step's own.
                z, u = cell.project(batch.inputs[t]), carry[0] @ cell.recurrent_kernel[...]
                carry = cell.gates(carry, cell.split(z), cell.split(u))
            return ((network.readout(carry[0]) - batch.targets) ** 2).mean()

        cut, full = (
            jax.jit(jax.grad(partial(loss, stop=stop)))(params) for stop in (jax.lax.stop_gradient, lambda carry: carry)
        )
        found = bias_of(network, batch, [1])
    assert (found["all"].cosine[0], found["all"].ratio[0]) == pytest.approx(measured(cut, full), rel=1e-12)
    assert found["all"].cosine[0] < 1 - 1e-3


@pytest.mark.parametrize("lengths", [[8, 5, 2], *exhaustive_tests(None)])
def test_the_loss_of_a_last_step_sees_what_so_many_lags_bring(lengths: list[int] | None) -> None:
    windows = list(range(1, T + 1))  # Whether they divide a row's length or not.
    with float64():
        network, batch = random_network(), problem(lengths)
        found = bias_of(network, batch, windows)["recurrent"]
        graphdef, state = nnx.split(network)

        def by_lag(state: Any) -> Any:
            network = nnx.merge(graphdef, state)
            (run,), (entry,) = trajectories(network, batch.inputs, batch.lengths), entries(network, TASK, batch)
            return lag_split(run, entry)

        split = jax.jit(by_lag)(state)
    last = np.array(windows) - 1
    assert_close(found.cosine, np.asarray(split.cosine)[last], 1e-12)
    assert_close(found.ratio, np.asarray(split.ratio)[last], 1e-12)


def test_where_gradients_vanish_longer_windows_have_less_bias() -> None:
    with float64():
        cell = {"name": "vanilla", "activation": "linear", "features": H}
        recurrent = {"name": "orthogonal", "gain": 0.3}
        network = Network(D, 1, cell=cell | {"recurrent_init": recurrent}, rngs=nnx.Rngs(0))
        found = bias_of(network, problem())
    for bias in found.values():
        off = np.abs(bias.ratio - 1)
        assert (np.diff(off) < 0).all()
        assert (np.diff(bias.cosine) > 0).all()
        assert off[2] < 0.3**3, "what is left out after 4 steps is of the order of 0.3⁴"


def test_other_interventions_are_left_out() -> None:
    cotangent = {"cut_every": 2, "clip_norm": 1e-3, "scale": 0.5}
    with float64():
        batch = problem()
        found, expected = bias_of(random_network(cotangent=cotangent), batch), bias_of(random_network(), batch)
    assert_close(found, expected, 1e-12)


def test_a_network_on_the_scan_backend_has_the_bias_of_any_other() -> None:
    with float64():
        biases = [
            bias_of(random_network("mingru", recurrence={"backend": backend}), problem(), [2])
            for backend in ("scan", "reference")
        ]
    assert_close(*biases, 1e-12)


def test_one_program_serves_all_windows() -> None:
    graphdef, state = nnx.split(random_network("vanilla"))
    batch, traces = problem(), []

    @jax.jit
    def measure(windows: jax.Array) -> dict[str, TruncationBias]:
        traces.append(1)
        return truncation_bias(nnx.merge(graphdef, state), TASK, batch, windows)

    for windows in ([1, 2], [3, 8]):
        measure(jnp.array(windows))
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(1, [1]), (2, [1, 2]), (8, [1, 2, 4, 8]), (9, [1, 2, 4, 8, 9]), (784, [*2 ** np.arange(10), 784])],
)
def test_default_windows_double_up_to_all_steps(steps: int, expected: list[int]) -> None:
    np.testing.assert_array_equal(default_windows(steps), expected)


def test_windows_left_to_the_default_are_all_measured() -> None:
    found = jax.jit(lambda batch: truncation_bias(random_network("vanilla"), TASK, batch))(problem())
    assert found["all"].cosine.shape == default_windows(T).shape


def test_where_parameters_are_not_numbers_neither_are_the_results() -> None:
    graphdef, state = nnx.split(random_network("vanilla"))
    broken = nnx.merge(graphdef, jax.tree.map(lambda a: a * jnp.nan, state))
    for bias in bias_of(broken, problem(), [1, T]).values():
        assert np.isnan([bias.cosine, bias.ratio]).all()


@pytest.mark.parametrize("windows", [[0], [4, -1]])
def test_a_window_of_less_than_a_step_is_one_line(windows: list[int]) -> None:
    with pytest.raises(ConfigError, match=f"^truncation: a window of {min(windows)} steps; it must be at least 1$"):
        truncation_bias(random_network("vanilla"), TASK, problem(), jnp.array(windows))
