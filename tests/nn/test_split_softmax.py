"""Runs whose softmax is split over devices, against the same runs on one: updates, memory, resume, checkpoints.

What a split distribution computes by itself is tested in test_softmax.py.
"""

import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from rnnlab.config.errors import ConfigError
from rnnlab.diagnostics import DIAGNOSTICS
from rnnlab.nn.network import Network
from rnnlab.parallel import sharding as splitting
from rnnlab.parallel.devices import make_mesh
from rnnlab.records.run_config import TRACED_SECTIONS, resolve_config
from rnnlab.tasks import Batch, Example, Split, Task
from rnnlab.training.checkpoints import Checkpoints
from rnnlab.training.programs import Programs
from rnnlab.training.setup import make_run
from rnnlab.training.state import TrainState
from rnnlab.training.structure import Structure
from tests.helpers import assert_close, float64

pytestmark = pytest.mark.slow  # Each trains or compiles several programs.

T, B, V, H = 3, 4, 11, 5
STEPS = 20
ROOT = Path(__file__).parents[2]


class Words(Task):
    """Say the word before the last, of words that are not equally frequent; rows have 1 to T steps."""

    in_features = out_features = vocabulary = V
    readout = "every"

    def size(self, split: Split) -> int | None:
        return None if split == "train" else 6

    def example(self, data: Any, key: jax.Array, split: Split, index: jax.Array) -> Example:
        word_key, length_key = jax.random.split(key)
        words = jax.random.randint(word_key, (T + 1,), 0, V) ** 2 // V
        return Example(words[1:], words[:-1], jax.random.randint(length_key, (), 1, T + 1))

    def score(self, outputs: Any, batch: Batch) -> tuple[dict[str, jax.Array], jax.Array]:
        assert batch.lengths is not None
        inside = jnp.arange(T)[:, None] < batch.lengths
        nats = outputs.cross_entropy(batch.targets)
        return {"loss": jnp.where(inside, nats, 0).sum(0)}, batch.lengths.astype(nats.dtype)


MODEL: dict[str, Any] = {"cell": {"name": "vanilla", "features": H}, "embedding": 4}
EVERY_CLIPPING = {"clip_value": 0.2, "clip_layer_norm": 0.3, "clip_adaptive": 0.1, "clip_norm": 0.4}
PENALTIES: dict[str, Any] = {
    "l1": {"readout": 0.01, "bias": 0.02, "embedding": 0.03},
    "l2": {"readout": 0.04, "bias": 0.05, "embedding": 0.06},
    "orthogonality": 0.07,
}
RUNS: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": {"name": "sgd", "learning_rate": 0.3}},
    "momentum, clip_norm, weight decay, averages": {
        "optimizer": {
            "name": "sgd",
            "learning_rate": 0.1,
            "momentum": 0.9,
            "nesterov": True,
            "clip_norm": 0.3,
            "weight_decay": 0.1,
        },
        "averaging": {"decay": 0.9},
    },
    "adam, every clipping, projection, chunks": {
        "optimizer": {"name": "adam", "learning_rate": 0.05, **EVERY_CLIPPING},
        "softmax": {"projection": 3, "chunk": 2},
        "dropout": {"embedding": 0.3},
    },
    "adamw, noise, max_norm, groups": {
        "optimizer": {
            "name": "adamw",
            "learning_rate": 0.05,
            "gradient_noise": 0.1,
            "max_norm": 0.8,
            "groups": {
                "embedding": {"learning_rate_factor": 0.5, "weight_decay": 0.1},
                "readout": {"learning_rate_factor": 2.0},
                "bias": {"learning_rate_factor": 0.3, "weight_decay": 0.2},
            },
        },
    },
    "adagrad, clip_norm, tied, samples, dropout": {
        "optimizer": {"name": "adagrad", "learning_rate": 0.1, "clip_norm": 0.3},
        "softmax": {"tied": True, "projection": 4, "samples": 5},
        "dropout": {"embedding": 0.3, "output": 0.2},
    },
    "rmsprop, every clipping, noise, penalties, tied": {
        "optimizer": {
            "name": "rmsprop",
            "learning_rate": 0.02,
            "momentum": 0.5,
            "gradient_noise": 0.1,
            **EVERY_CLIPPING,
        },
        "softmax": {"tied": True, "projection": 4},
        "penalties": PENALTIES,
    },
}


@functools.cache
def programs(split: int, devices: int, name: str) -> Programs:
    """A run of RUNS; compiled once."""
    fields = RUNS[name]
    config = resolve_config(
        {
            "task": "adding",  # Only for its defaults: the programs get another.
            "model": MODEL
            | {"softmax": fields.get("softmax", {}) | {"split": split}, "dropout": fields.get("dropout", {})},
            "steps": STEPS,
            **{key: fields[key] for key in ("optimizer", "averaging", "penalties") if key in fields},
        }
    )
    mesh = make_mesh(B, devices, split)
    sections = {name: config[name] for name in TRACED_SECTIONS}
    structure = Structure(Words(), **sections, run_steps=STEPS, word_parts=mesh.shape[splitting.MODEL_AXIS])
    run: Any = Programs(structure, mesh, batch_size=B, log_every=STEPS)
    run.train = jax.jit(run.train.__wrapped__)  # Its state is kept.
    return run


def begun(run: Programs) -> TrainState:
    """The state before the first step in double precision, its words' biases, zero at first, at random."""
    state = jax.tree.map(lambda a: a.astype(float) if a.dtype == jnp.float32 else a, run.start(0))
    bias = state.params["readout"]["bias"]
    drawn = jnp.asarray(np.random.default_rng(1).standard_normal(V))
    state.params["readout"]["bias"] = jax.device_put(jnp.pad(drawn, (0, bias.size - V)), bias.sharding)
    return state


def train(run: Programs, state: TrainState, until: int = STEPS) -> TrainState:
    return run.train(state, None, jnp.int32(until), jnp.arange(B, dtype=jnp.uint32))


def evaluate(run: Programs, state: TrainState) -> dict[str, jax.Array]:
    return run.evaluate("validation", 6, state.evaluated, state.buffers, None, jnp.arange(B, dtype=jnp.int32))


def unfilled(run: Programs, tree: Any) -> Any:
    """On the host, without the rows that are no words, which must be as they were."""

    def cut(path: tuple, leaf: jax.Array) -> np.ndarray:
        found = np.asarray(leaf)
        return found[:V] if path in run.structure.split else found

    return jax.tree_util.tree_map_with_path(cut, tree)


def outcome(split: int, devices: int, name: str) -> Any:
    """What a run comes to."""
    run = programs(split, devices, name)
    state = train(run, begun(run))
    states = (state.params, state.average, state.optimizer)
    return unfilled(run, states), state.sums, evaluate(run, state)


QUICK = "adagrad, clip_norm, tied, samples, dropout"


@pytest.mark.parametrize(
    "name", [name if name == QUICK else pytest.param(name, marks=pytest.mark.exhaustive) for name in RUNS]
)
def test_a_split_run_is_the_run_on_one_device(name: str) -> None:
    with float64():
        assert_close(outcome(2, 2, name), outcome(1, 1, name), 1e-12)


@pytest.mark.slow
def test_runs_split_over_pairs_of_four_devices_are_the_run_on_one() -> None:
    """In a process of its own, since here are two devices."""
    name = "adam, every clipping, projection, chunks"
    code = (
        "import jax; jax.config.update('jax_num_cpu_devices', 4); jax.config.update('jax_enable_x64', True)\n"
        "from tests.nn.test_split_softmax import assert_close, outcome\n"
        f"assert_close(outcome(2, 4, {name!r}), outcome(1, 1, {name!r}), 1e-12)"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


def test_a_checkpoint_of_a_split_run_is_restored_to_where_a_first_state_lies() -> None:
    run = programs(2, 2, QUICK)
    places = lambda tree: jax.tree.map(lambda a: (a.shape, a.dtype, a.sharding), tree)  # noqa: E731
    assert places(run.like) == places(run.start(0))


@pytest.mark.parametrize(
    "name", ["adam, every clipping, projection, chunks", "adagrad, clip_norm, tied, samples, dropout"]
)
def test_each_device_holds_its_part_of_words_and_of_their_optimiser_state_alone(name: str) -> None:
    run = programs(2, 2, name)
    state = run.start(0)
    found = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path((state.params, state.optimizer)):
        parts = {shard.data.nbytes for shard in leaf.addressable_shards}
        assert parts == {leaf.nbytes // 2 if path in run.structure.split else leaf.nbytes}, path
        found += path in run.structure.split
    tables, moments = (3, 2) if name.startswith("adam") else (2, 1)  # Biases, vectors, and the embedding if not tied.
    assert found == tables * (1 + moments)


@pytest.mark.parametrize("name", ["sgd", QUICK])
def test_rows_that_fill_up_the_words_are_no_parameters(name: str) -> None:
    whole, split = (programs(n, n, name) for n in (1, 2))
    shapes = [jax.eval_shape(run.initialize, run.numbers, jnp.int32(0), None).params for run in (whole, split)]
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(params)) for params in shapes]
    assert (
        split.structure.word_leaves.count(shapes[1])
        == whole.structure.word_leaves.count(shapes[0])
        == sizes[0]
        < sizes[1]
    )


@pytest.mark.slow
def test_a_split_run_begins_with_the_parameters_of_the_run_on_one_device() -> None:
    for name in ("sgd", "adagrad, clip_norm, tied, samples, dropout"):
        split, one = programs(2, 2, name), programs(1, 1, name)
        found, expected = unfilled(split, split.start(0).params), unfilled(one, one.start(0).params)
        jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("splits", [(2, 1), (2, 2), (1, 2)])
def test_a_checkpoint_restores_bit_for_bit_into_any_split(tmp_path: Path, splits: tuple[int, int]) -> None:
    name = "adagrad, clip_norm, tied, samples, dropout"
    writer, reader = (programs(split, 2, name) for split in splits)
    state = train(writer, writer.start(0), 3)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, state, {})
    checkpoints.wait()
    like = reader.start(0)
    found = checkpoints.restore(3, like, reader.structure.word_leaves).state
    if splits[0] != splits[1]:
        with pytest.raises(ConfigError, match=r"checkpoint 3 is of another network: .*embedding is \(1[12], 4\), not"):
            checkpoints.restore(3, like)
    checkpoints.close()
    assert [leaf.sharding for leaf in jax.tree.leaves(found)] == [leaf.sharding for leaf in jax.tree.leaves(like)]
    for part in ("params", "optimizer"):
        read, written = unfilled(reader, getattr(found, part)), unfilled(writer, getattr(state, part))
        jax.tree.map(np.testing.assert_array_equal, read, written)
    resumed, gone_on = train(reader, found, 6), train(writer, state, 6)
    if splits[0] == splits[1]:
        jax.tree.map(np.testing.assert_array_equal, resumed, gone_on)
    else:
        assert_close(unfilled(reader, resumed.params), unfilled(writer, gone_on.params), 1e-5)


@pytest.mark.slow
def test_watching_a_split_run_finds_what_watching_the_run_on_one_device_finds() -> None:
    def found(split: int, devices: int) -> Any:
        run = programs(split, devices, "sgd")
        rows = jnp.arange(B, dtype=jnp.uint32)
        norms = run.observer({"norms": DIAGNOSTICS["norms"]})(begun(run), None, rows)["norms"]
        return {name: norm for name, norm in norms.items() if jnp.isfinite(norm)}  # Not of a weight of 0.

    with float64():
        assert_close(found(2, 2), found(1, 1), 1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4, None, 3), r"model\.softmax\.split: 3 devices asked for, 2 at hand \(cpu\)"),
        ((4, 1, 2), r"model\.softmax\.split: 2 devices asked for, devices=1"),
        ((3, None, 2), r"batch_size 3 is not divisible by the 2 devices of model\.softmax\.split"),
    ],
)
def test_devices_that_cannot_be_split_are_one_clear_line(arguments: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_mesh(*arguments)


@pytest.mark.parametrize(
    ("softmax", "others", "parts"),
    [
        ({}, {}, 2),
        ({"split": 1}, {}, 1),
        ({}, {"optimizer": {"name": "adafactor", "learning_rate": 0.1}}, 1),
        (None, {}, 1),
    ],
)
def test_the_cpus_of_a_process_share_the_words_unless_the_config_says_otherwise_or_they_cannot(
    tmp_path: Path, softmax: Any, others: dict[str, Any], parts: int
) -> None:
    for name in ("train", "valid", "test"):
        (tmp_path / f"{name}.txt").write_text("a b c d\n" * 9)
    task = {"name": "language_model", "dataset": "text", "source": str(tmp_path), "window": 3}
    config = {"task": task, "model": MODEL | {"softmax": softmax}, "batch_size": 2, "eval_batch_size": 2, "steps": 1}
    config |= {"optimizer": {"name": "sgd", "learning_rate": 0.1}} | others
    run = make_run(config, str(tmp_path))
    assert dict(run.mesh.shape) == {splitting.DATA_AXIS: 2 // parts, splitting.MODEL_AXIS: parts}
    assert bool(run.programs.structure.split) == (parts > 1)


def test_adafactor_and_fixed_tied_vectors_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RUNS, "adafactor", {"optimizer": {"name": "adafactor", "learning_rate": 0.1}})
    with pytest.raises(
        ConfigError, match=r"optimizer: adafactor .* model\.softmax\.split .*: adagrad, adam, adamw, rmsprop"
    ):
        programs(2, 2, "adafactor")
    softmax = {"tied": True, "projection": 4, "split": 2}
    fields: dict[str, Any] = MODEL | {"softmax": softmax, "embedding_trained": False}
    with pytest.raises(ConfigError, match=r"model\.softmax\.split: a tied embedding that is not trained"):
        Network(V, V, vocabulary=V, readout="every", **fields, rngs=nnx.Rngs(0))


def test_sums_are_those_of_every_leaf_whether_it_is_reduced_by_itself_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves of three shapes and two types, one of them large; in as many reductions as are said."""
    monkeypatch.setattr(splitting, "LARGE", 5)
    each = {"a": jnp.arange(4.0), "table": jnp.arange(6.0).reshape(2, 3), "b": jnp.float32(2.5)}
    halves = jax.tree.map(lambda leaf: jnp.stack([leaf, 10 * leaf + 1]), each)
    mesh, rows = make_mesh(2, 2), PartitionSpec(splitting.ALL_AXES)
    summed = jax.jit(
        jax.shard_map(
            lambda tree: splitting.sum_over_devices(jax.tree.map(lambda leaf: leaf[0], tree)),
            mesh=mesh,
            in_specs=rows,
            out_specs=PartitionSpec(),
            check_vma=False,
        )
    )
    jax.tree.map(np.testing.assert_array_equal, summed(halves), jax.tree.map(lambda leaf: leaf.sum(0), halves))
    assert str(jax.make_jaxpr(summed)(halves)).count(" psum") == 2
