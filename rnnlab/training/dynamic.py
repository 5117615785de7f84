"""Dynamic evaluation (Krause et al., 2018): a trained network goes on learning from the text that it is scored on.

Each window is scored before the network adapts on it, by the program that scores it in an evaluation without, so that a
learning rate of 0 gives the same numbers to the bit.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from rnnlab.config.errors import ConfigError
from rnnlab.nn.connections import Carries
from rnnlab.parallel import devices
from rnnlab.tasks import Split, StreamTask, find_task
from rnnlab.training.loss import batch_loss
from rnnlab.training.metric_sums import on_host
from rnnlab.training.run import Run
from rnnlab.training.setup import make_run
from rnnlab.training.state import TrainState
from rnnlab.training.structure import Structure
from rnnlab.typing import Int, PyTree

FLAG = "--dynamic"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adaptation:
    """How the network adapts, θ ← θ − η g / s + λ r (θ₀ − θ) after each window, with its gradient g and the trained θ₀.

    With `rms`, s = √MS + ε, where MS is the mean over training batches of each parameter's squared gradient at θ₀, and
    r = √MS / (its mean), at most 1 / λ; the mean is that over all arrays of each one's mean, as in their code. Without,
    s = r = 1.
    """

    learning_rate: float
    """η, of the gradient of a window's mean loss."""
    decay: float
    """λ, of a step back towards the trained parameters."""
    rms: bool = True
    """Whether each parameter has its own rate and decay, by its gradients on the training text."""
    epsilon: float = 2e-5
    """ε."""


RATES = {True: 2e-6, False: 1.5e-3}
"""The learning rate for each step of a window, with RMS and without, where none is chosen: of those tried for a GRU on
tiny Shakespeare in windows of 64, near the best on validation."""
DECAY = 1e-4
"""The decay for each step of a window, likewise."""


def make_adaptation(
    window: int, learning_rate: float | None, decay: float | None, rms: bool, epsilon: float
) -> Adaptation:
    """How a network adapts in windows of so many steps; a rate and a decay that are None follow from it."""
    if learning_rate is None:
        learning_rate = RATES[rms] * window
    if decay is None:
        decay = min(DECAY * window, 1.0)
    return Adaptation(learning_rate=learning_rate, decay=decay, rms=rms, epsilon=epsilon)


def make_dynamic_run(
    config: Mapping[str, Any], data_dir: str | None, window: int | None = None, streams: int = 1
) -> Run:
    """A config made ready for dynamic evaluation: on one device, without augmentation or curriculum.

    Args:
        config: of the trained network, resolved.
        data_dir: the data folder.
        window: steps between adaptations; the task's own if not given.
        streams: rows side by side; with one all text before a token is its context.

    Raises:
        ConfigError: a task that is not a stream, or that has no window to change.
    """
    task, model = config["task"], config["model"]
    factory = find_task(config)
    if isinstance(factory, type) and not issubclass(factory, StreamTask):
        raise ConfigError(_not_a_stream(task["name"]))
    if window is not None and "window" not in task:
        raise ConfigError(f"{FLAG}_window: the task {task['name']} has no option window")
    if window is not None:
        task = {**task, "window": window}
    if model["softmax"] is not None:
        model = {**model, "softmax": {**model["softmax"], "split": None}}
    devices.tune_host(1, 1)
    changed = {"task": task, "model": model, "eval_batch_size": streams, "augmentation": {}, "curriculum": None}
    run = make_run({**config, **changed}, data_dir, devices.make_mesh(1, 1))
    if not isinstance(run.task, StreamTask):
        raise ConfigError(_not_a_stream(task["name"]))
    return run


def _not_a_stream(name: str) -> str:
    return f"{FLAG}: the task {name} has no windows of a text that follow each other; language_model has"


def evaluate_dynamically(
    run: Run, state: TrainState, split: Split, adaptation: Adaptation, statistics: PyTree
) -> dict[str, float]:
    """The means over a split, window by window in its order, each scored before the network adapts on it.

    Args:
        run: of `make_dynamic_run`.
        state: of the trained network.
        split: validation or test.
        adaptation: how it adapts.
        statistics: √MS, of `gradient_statistics`; None without `rms`.

    Raises:
        ConfigError: the loss is not finite.
    """
    structure, trained, buffers = run.programs.structure, state.evaluated, state.buffers
    size, rows = run.evaluated_rows(split)
    width, rate = rows.shape[0], adaptation.learning_rate

    def adapted(params: PyTree, carry: Carries, number: Int[jax.Array, ""], whole: PyTree, data: PyTree) -> PyTree:
        trained, buffers, scales = whole
        positions = number * width + jnp.arange(width, dtype=jnp.int32)
        gradient, _ = _gradient(structure, split, params, buffers, data, positions, carry)
        return jax.tree.map(
            lambda p, g, s, r, first: p - rate * g / s + r * (first - p), params, gradient, *scales, trained
        )

    adapt = jax.jit(adapted, out_shardings=NamedSharding(run.mesh, PartitionSpec()))
    whole = trained, buffers, _scales(trained, adaptation, statistics)
    params, means = trained, {}
    sums = run.programs.begin_sums(split, params, buffers, run.data, rows)
    for number in np.arange(size // width, dtype=np.int32):
        carry = sums.carry
        assert carry is not None
        sums, means = run.programs.add_batches(split, size, params, buffers, run.data, rows, sums, number, number + 1)
        params = adapt(params, carry, number, whole, run.data)
    values = on_host(means)
    if not np.isfinite(values["loss"]):
        raise ConfigError(
            f"{FLAG}: the loss on {split} is {values['loss']}; take a {FLAG}_learning_rate below "
            f"{adaptation.learning_rate:g}"
        )
    return run.described(values)


def gradient_statistics(run: Run, state: TrainState, batches: int | None = None) -> PyTree:
    """√MS of each parameter: MS is the mean of its squared gradient over the first training batches of an epoch, in
    which the network, as it evaluates, stays as it is and goes on from window to window.

    batches: how many; all of an epoch if not given.
    """
    structure, rows = run.programs.structure, run.batch_size
    size = run.task.size("train")
    assert size is not None
    count = size // rows if batches is None else min(batches, size // rows)
    carry = structure.network(state.evaluated, state.buffers).first_carries(rows)

    @jax.jit
    def add(
        total: PyTree, carry: Carries, number: Int[jax.Array, ""], params: PyTree, buffers: PyTree, data: PyTree
    ) -> Any:
        positions = number.astype(jnp.uint32) * rows + jnp.arange(rows, dtype=jnp.uint32)
        gradient, last = _gradient(structure, "train", params, buffers, data, positions, carry)
        return jax.tree.map(lambda ms, g: ms + g * g / count, total, gradient), last

    total = jax.tree.map(jnp.zeros_like, state.evaluated)
    for number in range(count):
        total, carry = add(total, carry, np.int32(number), state.evaluated, state.buffers, run.data_at(number))
    return jax.tree.map(jnp.sqrt, total)


def _gradient(
    structure: Structure,
    split: Split,
    params: PyTree,
    buffers: PyTree,
    data: PyTree,
    positions: Int[jax.Array, " B"],
    carry: Carries,
) -> tuple[PyTree, Carries]:
    """(The gradient of the mean loss of the rows at these positions, the carries that they end with), the
    network as it evaluates."""
    batch = structure.task.batch(data, jnp.int32(0), split, positions)

    def loss(params: PyTree) -> tuple[jax.Array, Carries]:
        network = structure.network(params, buffers)
        first = structure.first_carries(network, split, positions, carry)
        total, (_, weights, _, last, _) = batch_loss(network, structure.task, batch, None, first=first)
        return total / weights.sum(), last

    gradient, last = jax.grad(loss, has_aux=True)(params)
    return gradient, last


def _scales(trained: PyTree, adaptation: Adaptation, statistics: PyTree) -> tuple[PyTree, PyTree]:
    """(s, λ r) of each parameter."""
    if not adaptation.rms:
        return jax.tree.map(jnp.ones_like, trained), jax.tree.map(lambda p: jnp.full_like(p, adaptation.decay), trained)
    means = [jnp.mean(each) for each in jax.tree.leaves(statistics)]
    mean = sum(means) / len(means)
    slowest = jax.tree.map(lambda each: jnp.minimum(adaptation.decay * each / mean, 1.0), statistics)
    return jax.tree.map(lambda each: each + adaptation.epsilon, statistics), slowest
