"""Recurrent batch normalisation: a loop in NumPy, gradients, devices, running statistics, whole runs.

The loop below knows nothing of scans, masks or weights: it takes the rows that are valid at a step and normalises them.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from flax import nnx

from rnnlab.cells import LSTM
from rnnlab.cells.batch_normalized import RecurrentBatchNorm
from rnnlab.config.errors import ConfigError
from rnnlab.diagnostics import gradient_flow
from rnnlab.engine import unroll
from rnnlab.nn.network import Network
from rnnlab.nn.recurrent_layer import RecurrentLayer
from rnnlab.ops.normalization import EPSILON
from rnnlab.ops.random_streams import Training
from rnnlab.records.run_config import resolve_config
from rnnlab.tasks import make_task
from rnnlab.training.checkpoints import Checkpoints
from rnnlab.training.loop import train_and_evaluate
from rnnlab.training.setup import make_run
from tests.helpers import assert_close, float64, in_double, random_array, random_like

pytestmark = pytest.mark.slow

T, B, D, H, S = 5, 6, 3, 4, 7
TRAINING = Training(jax.random.key(0), jnp.arange(B))
LENGTHS = [5, 0, 3, 1, 5, 2]
DECAY = 0.9


def layer(cell: str = "lstm", steps: int = S, seed: int = 0, **fields: Any) -> RecurrentLayer:
    """A layer with N(0, 0.4²) on top of every parameter."""
    made = RecurrentLayer(
        D,
        cell={"name": cell, "features": H, **fields.pop("of_cell", {})},
        normalization={"cell": "batch", "steps": steps, "decay": DECAY},
        rngs=nnx.Rngs(seed),
        **fields,
    )
    graphdef, params, rest = nnx.split(made, nnx.Param, ...)
    params, rest = in_double(params), in_double(rest)
    params = jax.tree.map(lambda a, noise: a + 0.4 * noise, params, random_like(params, seed + 1))
    return nnx.merge(graphdef, params, rest)


def normalized(a: np.ndarray, gain: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    return (a - mean) / np.sqrt(variance + EPSILON) * gain


def sigmoid(a: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-a))


def norm_of(made: RecurrentLayer, direction: int = 0) -> RecurrentBatchNorm:
    assert made.batch_norms is not None
    return made.batch_norms[direction]


def numpy_loop(
    made: RecurrentLayer, inputs: jax.Array, lengths: list[int] | None, direction: int = 0
) -> tuple[np.ndarray, dict[str, list[Any]]]:
    """(h [T, B, H], mean and variance of every step, the rows' order being what it is)."""
    cell, norm = made.cells[direction], norm_of(made, direction)
    w, r, b = (np.asarray(p[...]) for p in (cell.input_kernel, cell.recurrent_kernel, cell.bias))
    bias = 0 if norm.cell_bias is None else np.asarray(norm.cell_bias[...])
    x, (steps, batch) = np.asarray(inputs), inputs.shape[:2]
    out, h, c = np.zeros((steps, batch, H)), np.zeros((batch, H)), np.zeros((batch, H))
    seen: dict[str, list[Any]] = {name: [None] * steps for name in ("input", "recurrent", "cell")}
    for t in reversed(range(steps)) if direction else range(steps):
        rows = np.array([n for n in range(batch) if lengths is None or t < lengths[n]])
        if not len(rows):
            continue

        def bn(name: str, a: Any, t: int = t) -> np.ndarray:
            seen[name][t] = (a.mean(0), a.var(0))
            return normalized(a, np.asarray(getattr(norm, name).gain[...]), *seen[name][t])

        z, u = bn("input", x[t, rows] @ w) + b, bn("recurrent", h[rows] @ r)
        if type(cell).__name__ == "LSTM":
            i, f, g, o = np.split(z + u, 4, -1)
            c[rows] = sigmoid(f) * c[rows] + sigmoid(i) * np.tanh(g)
            h[rows] = sigmoid(o) * np.tanh(bn("cell", c[rows]) + bias)
        elif type(cell).__name__ == "GRU":
            (x_r, x_z, x_n), (h_r, h_z, h_n) = np.split(z, 3, -1), np.split(u, 3, -1)
            n = np.tanh(x_n + sigmoid(x_r + h_r) * (h_n + np.asarray(cell.recurrent_bias[...])))
            h[rows] = n + sigmoid(x_z + h_z) * (h[rows] - n)
        else:
            h[rows] = np.tanh(z + u)
        out[t, rows] = h[rows]
    return out, seen


@pytest.mark.parametrize(
    ("cell", "lengths"), [("lstm", None), ("lstm", LENGTHS), ("gru", LENGTHS), ("vanilla", LENGTHS)]
)
def test_both_directions_equal_a_loop_in_numpy(cell, lengths):
    with float64():
        made, x = layer(cell, bidirectional=True), random_array(1, T, B, D)
        rows = None if lengths is None else jnp.array(lengths)
        expected = [numpy_loop(made, x, lengths, direction)[0] for direction in (0, 1)]
        h, _ = made(x, rows, training=TRAINING)
        np.testing.assert_allclose(h, np.concatenate(expected, -1), rtol=1e-10, atol=1e-12)


def test_gains_start_at_a_tenth_and_the_offset_at_zero():
    made = RecurrentLayer(
        D, cell={"name": "lstm", "features": H}, normalization={"cell": "batch", "steps": S}, rngs=nnx.Rngs(0)
    )
    norm = norm_of(made)
    assert norm.cell is not None
    assert norm.cell_bias is not None
    for statistics, width in ((norm.input, 4 * H), (norm.recurrent, 4 * H), (norm.cell, H)):
        np.testing.assert_array_equal(statistics.gain[...], np.full(width, np.float32(0.1)))
    np.testing.assert_array_equal(norm.cell_bias[...], np.zeros(H))


def test_what_is_normalised_has_mean_0_and_variance_1_over_the_valid_rows():
    with float64():
        made, x, lengths = layer(), random_array(1, T, B, D), jnp.array(LENGTHS)
        norm_of(made).recurrent.gain[...] = jnp.ones(4 * H)
        norm_of(made).input.gain[...] = jnp.ones(4 * H)
        cell, noise, _ = made.modified(0, (T, B), TRAINING, lengths)
        z = cell.project(x) - cell.cell.bias[...]
        h, _ = made(x, lengths, training=TRAINING)
        for t in range(1, T):
            rows = np.array(LENGTHS) > t
            u = cell.products(h[t - 1])
            bn = np.asarray(cell._normalized(u, cell.norm.recurrent, noise[-1][t]))[rows]
            for values, before in (
                (bn, np.asarray(u)[rows]),
                (z[t][rows], np.asarray(x[t] @ cell.cell.input_kernel[...])[rows]),
            ):
                np.testing.assert_allclose(values.mean(0), 0, atol=1e-12)
                variance = before.var(0)
                np.testing.assert_allclose(values.var(0), variance / (variance + EPSILON), rtol=1e-9)


@pytest.mark.parametrize(("cell", "lengths"), [("lstm", None), ("lstm", LENGTHS), ("gru", LENGTHS)])
def test_gradients_equal_finite_differences(cell, lengths):
    with float64():
        made, x = layer(cell, learned_carry=True), random_array(1, T, B, D)
        rows, weights = None if lengths is None else jnp.array(lengths), random_array(2, T, B, H)
        graphdef, params, rest = nnx.split(made, nnx.Param, ...)

        def loss(params: Any, x: jax.Array) -> jax.Array:
            return (nnx.merge(graphdef, params, nnx.to_pure_dict(rest))(x, rows, training=TRAINING)[0] * weights).sum()

        gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, x)
        loss_of = jax.jit(loss)
        for seed in range(3):
            direction = random_like((params, x), seed)
            step = 3e-7  # Where two rows are left, 1/√ε bends the loss a lot.
            plus, minus = (
                loss_of(*jax.tree.map(lambda a, d, by=by: a + by * d, (params, x), direction)) for by in (step, -step)
            )
            slope = sum(
                jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(gradients), jax.tree.leaves(direction), strict=True)
            )
            np.testing.assert_allclose(slope, (plus - minus) / (2 * step), rtol=1e-6)


@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_one_and_two_devices_agree(lengths):
    with float64():
        made = layer(bidirectional=True)
        x, weights = random_array(1, T, B, D), random_array(2, T, B, 2 * H)
        rows = jnp.array(lengths or [T] * B)
        graphdef, params, rest = nnx.split(made, nnx.Param, ...)

        def run(axis: str | None, x: jax.Array, weights: jax.Array, rows: jax.Array) -> Any:
            def loss(params: Any, x: jax.Array) -> Any:
                net = nnx.merge(graphdef, params, nnx.to_pure_dict(rest))
                h, last = net(x, None if lengths is None else rows, training=TRAINING._replace(axis=axis))
                return (h * weights).sum(), (h, last, nnx.split(net, nnx.Param, ...)[2])

            (of_params, of_x), (h, last, left) = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x)
            of_params = of_params if axis is None else jax.lax.psum(of_params, axis)
            return (h, of_x), last, (of_params, left)

        mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        columns, first, whole = (jax.sharding.PartitionSpec(*axes) for axes in ((None, "data"), ("data",), ()))
        two = jax.shard_map(
            lambda *args: run("data", *args),
            mesh=mesh,
            in_specs=(columns, columns, first),
            out_specs=(columns, first, whole),
            check_vma=False,
        )
        expected = jax.jit(lambda *args: run(None, *args))(x, weights, rows)
        assert_close(jax.jit(two)(x, weights, rows), expected, 1e-10)


@pytest.mark.parametrize("steps", [3, T, S])
def test_running_statistics_follow_the_decay(steps):
    with float64():
        made = layer(steps=steps, bidirectional=True)
        mean = {(d, name): np.zeros(1) for d in (0, 1) for name in ("input", "recurrent", "cell")}
        mean = {key: [np.zeros(1)] * steps for key in mean}
        variance = {key: [np.ones(1)] * steps for key in mean}
        for seed, lengths in enumerate([None, LENGTHS, [2, 1, 0, 0, 0, 0]]):  # The last: one row at its second step.
            x = random_array(seed, T, B, D)
            decay = np.float32(DECAY)
            for direction in (0, 1):
                for name, found in numpy_loop(made, x, lengths, direction)[1].items():
                    for t in range(min(steps, T)):
                        if lengths is None or sum(length > t for length in lengths) > 1:
                            for kept, new in zip((mean, variance), found[t], strict=True):
                                of = kept[direction, name]
                                of[t] = decay * of[t] + (1 - np.float64(decay)) * new
            made(x, None if lengths is None else jnp.array(lengths), training=TRAINING)
        for direction in (0, 1):
            norm = norm_of(made, direction)
            assert norm.seen[...] == min(steps, T)
            for name in ("input", "recurrent", "cell"):
                found = getattr(norm, name)
                shape = found.mean.shape
                assert shape == (steps, H if name == "cell" else 4 * H)
                for values, expected in ((found.mean, mean), (found.variance, variance)):
                    rows = np.stack([np.broadcast_to(row, shape[1]) for row in expected[direction, name]])
                    np.testing.assert_allclose(values[...], rows, rtol=1e-6, atol=1e-9)


def test_evaluation_takes_the_running_statistics_of_each_step_and_leaves_them():
    with float64():
        made = layer()
        for seed in range(3):
            made(random_array(seed, T, B, D), training=TRAINING)
        before = nnx.split(made, nnx.Param, ...)[2]
        x = random_array(9, T + 4, 1, D)  # One row, and more steps than training saw: S = 7 of them are kept, 5 seen.
        h, _ = made(x)
        cell, norm = made.cells[0], norm_of(made)
        assert norm.cell is not None
        assert norm.cell_bias is not None
        state, c = np.zeros((1, H)), np.zeros((1, H))

        def bn(a: Any, statistics: Any, t: int) -> np.ndarray:
            t = min(t, T - 1)
            return normalized(
                np.asarray(a), *(np.asarray(v) for v in (statistics.gain, statistics.mean[t], statistics.variance[t]))
            )

        for t in range(T + 4):
            z = bn(x[t] @ cell.input_kernel[...], norm.input, t) + cell.bias[...]
            i, f, g, o = np.split(np.asarray(z + bn(state @ cell.recurrent_kernel[...], norm.recurrent, t)), 4, -1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            state = sigmoid(o) * np.tanh(bn(c, norm.cell, t) + norm.cell_bias[...])
            np.testing.assert_allclose(h[t], state, rtol=1e-9)
        assert_close(nnx.split(made, nnx.Param, ...)[2], before, 0.0)
        made(x)
        together, _ = made(jnp.concatenate([x, random_array(10, T + 4, 2, D)], 1))
        assert_close(together[:, :1], h, 1e-12)


def test_padding_does_not_reach_anything():
    with float64():
        lengths, x = jnp.array(LENGTHS), random_array(1, T, B, D)
        bad = jnp.where(jnp.arange(T)[:, None, None] < lengths[:, None], x, jnp.nan)

        def run(x: jax.Array) -> Any:
            made = layer()
            out = made(x, lengths, training=TRAINING)
            return out, nnx.split(made, nnx.Param, ...)[2], made(x, lengths)

        assert_close(run(bad), run(x), 0.0)


def test_dropout_inside_the_cell_works_beside_it():
    cell = "gru"
    with float64():
        x = random_array(1, T, B, D)
        rates = {"state": 0.3, "recurrent_kernel": 0.3, "candidate": 0.3, "zoneout": 0.3}
        plain, _ = layer(cell)(x, training=TRAINING)
        for name, rate in rates.items():
            made = layer(cell, dropout={name: rate})
            dropped, _ = made(x, training=TRAINING)
            assert jnp.abs(dropped - plain).max() > 1e-3, name
            # The running statistics are those of the u that the gates saw.
            cell_, _, state_mask = made.modified(0, (T, B), TRAINING)
            assert state_mask is None
            u = np.asarray(cell_.products(dropped[1]))
            found = norm_of(made).recurrent
            np.testing.assert_allclose(found.mean[2], (1 - np.float32(DECAY)) * u.mean(0), rtol=1e-5, atol=1e-9)
        none, _ = layer(cell, dropout=dict.fromkeys(rates, 0.0))(x, training=TRAINING)
        assert_close(none, plain, 1e-12)


def test_gradient_flow_is_that_of_evaluation():
    task = make_task({"name": "adding", "length": T, "validation_size": 8, "test_size": 8})
    net = Network(
        2, 1, cell={"name": "lstm", "features": H}, normalization={"cell": "batch", "steps": T}, rngs=nnx.Rngs(0)
    )
    batch = task.batch(task.data, jnp.int32(0), "validation", jnp.arange(4, dtype=jnp.uint32))
    norms = jax.jit(lambda: gradient_flow(net, task, batch))()["layer 1"]
    assert norms.shape == (T,)
    assert (norms > 0).all()


def test_only_the_reference_backend_hands_out_carries():
    cell, x = LSTM(D, H, rngs=nnx.Rngs(0)), jnp.ones((T, B, D))
    carries: list[jax.Array] = []
    h, last = unroll(cell, x, backend="reference", carries=carries)
    assert_close((carries[0], tuple(c[-1] for c in carries)), (h, last), 0.0)
    with pytest.raises(ValueError, match="carries needs backend='reference'"):
        unroll(cell, x, carries=[])


# --- whole runs ------------------------------------------------------------------------------------------------------


def config(**changes: Any) -> dict[str, Any]:
    """A config that trains in a second."""
    model = {"cell": {"name": "lstm", "features": 8}, "normalization": {"cell": "batch", "steps": 6, "decay": 0.9}}
    return {
        "steps": 40,
        "batch_size": 8,
        "log_every": 10,
        "eval_every": 20,
        "checkpoint_every": 20,
        "eval_batch_size": 25,
        "devices": 1,
        "task": {"name": "adding", "length": 6, "validation_size": 50, "test_size": 40},
        "model": model,
        "optimizer": {"name": "adam", "learning_rate": 1e-2, "clip_norm": 1.0},
        **changes,
    }


def last_state(settings: dict[str, Any], workdir: Path) -> Any:
    """The parameters and the buffers in the last checkpoint."""
    run = make_run(settings)
    checkpoints = Checkpoints(workdir / "checkpoints")
    state = checkpoints.restore(checkpoints.steps()[-1], run.programs.start(0)).state
    checkpoints.close()
    return jax.tree.map(np.asarray, (state.params, state.buffers))


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the check of types at run time, by which a traced forget_bias is no float."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.usefixtures("unchecked")
def test_a_run_learns_on_the_reference_backend_and_resumes_exactly(tmp_path, capsys):
    long = train_and_evaluate(config(), tmp_path / "long")
    assert "reference backend" in capsys.readouterr().out
    first, last = long["final"]["train"]["loss"], long["final"]["validation"]["loss"]
    assert first < 0.5, "starts near 1: the mean of the squared sum"
    assert last < 0.5
    train_and_evaluate(config(steps=20), tmp_path / "short")
    train_and_evaluate(config(), tmp_path / "short")
    expected = last_state(config(), tmp_path / "long")
    jax.tree.map(np.testing.assert_array_equal, last_state(config(), tmp_path / "short"), expected)
    norm = expected[1]["layers"][0]["batch_norms"][0]
    assert norm["seen"] == 6
    assert (norm["recurrent"]["variance"][1:] < 0.5).all(), "the running statistics have left 1"


@pytest.mark.usefixtures("unchecked")
def test_a_training_step_is_the_same_on_two_devices():
    found = []
    for devices in (1, 2):
        run = make_run(config(devices=devices, penalties={"gradient_norm": 0.1}))
        state = run.programs.train(run.programs.start(0), run.data, jnp.int32(3), run.rows)
        assert bool(state.finite)
        found.append(jax.tree.map(np.asarray, (state.params, state.buffers)))
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalization": {"cell": "batch"}}, r"model.normalization.steps: missing; .* the task's longest sequence"),
        ({"recurrence": {"backend": "fused"}}, "model.recurrence.backend: 'fused' cannot run .*cell='batch'"),
        ({"cell": {"name": "gru_reset_before", "features": H}}, "model.normalization.cell: .* no one recurrent matrix"),
        (
            {"cell": {"name": "lstm", "features": H, "normalize_cell": True}},
            "model.cell.normalize_cell: .*one of the two",
        ),
        ({"dropout": {"zoneout_cell": 0.1}}, "model.dropout.zoneout_cell: not with model.normalization.cell='batch'"),
    ],
)
def test_what_cannot_be_combined_is_refused(changes, message):
    fields = {"cell": {"name": "lstm", "features": H}, "normalization": {"cell": "batch", "steps": S}} | changes
    with pytest.raises(ConfigError, match=message) as caught:
        Network(D, 1, rngs=nnx.Rngs(0), **fields)
    assert "\n" not in str(caught.value)


def test_a_batch_of_one_row_is_refused():
    with pytest.raises(ConfigError, match=r"batch_size: 1 row has no variance; .* needs at least 2"):
        resolve_config(config(batch_size=1))
