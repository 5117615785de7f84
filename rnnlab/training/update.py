"""One update of a run, each device's share of it: the loss of a batch, its gradients, the optimiser's chain, and what
is counted.

The loss is in `training/loss.py`, the chain in `optim/chain.py`; when updates are made is in `training/loop.py`.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from rnnlab.engine import Taps
from rnnlab.nn.connections import Carries
from rnnlab.ops.random_streams import Training, high_word, seed_of_span, stream
from rnnlab.optim.averaging import averaged
from rnnlab.parallel.sharding import ALL_AXES, sum_over_devices
from rnnlab.tasks import Batch
from rnnlab.training.loss import batch_loss, charge_weights
from rnnlab.training.metric_sums import of_step
from rnnlab.training.state import TrainState
from rnnlab.training.structure import Structure
from rnnlab.typing import Array, Float, Int, PyTree

RUNNING = ("grad_norm", "largest_grad_norm", "count")
"""The sums that every run has, beside those of its metrics."""


class BatchGradients(NamedTuple):
    """The gradients of a batch, and what else comes of it before the update; rows are this device's, all else is of the
    whole batch."""

    batch: Batch
    training: Training
    positions: Int[Array, " B"]
    """The rows' positions in the training split."""
    gradients: PyTree
    """Derivatives of the mean loss with all penalties by the parameters."""
    values: dict[str, Float[Array, ""]]
    """Means of the metrics and penalties."""
    weights: Float[Array, " B"]
    buffers: PyTree
    """As the network leaves them."""
    last: Carries
    """The carries that the rows end with."""
    seen: list[tuple]
    """The inputs and outputs of each layer."""
    flows: list[list[Taps]] | None
    """The gradients of the taps of each layer and direction, of an observed update."""


@dataclasses.dataclass(frozen=True)
class Update:
    """One update: `ALL_AXES` are mapped."""

    structure: Structure
    batch_size: int
    """How many rows all devices have together."""
    log_every: int
    """How many updates a state's `sums` run over."""

    def __call__(self, state: TrainState, data: PyTree, rows: Int[Array, " B"]) -> TrainState:
        """The state after one update.

        Args:
            data: of the task.
            rows: this device's rows of the batch.
        """
        return self.apply(state, self.gradients(state, data, rows))[0]

    def gradients(self, state: TrainState, data: PyTree, rows: Int[Array, " B"], taps: bool = False) -> BatchGradients:
        """The loss of the next batch with all penalties, its gradients, and what else comes of it."""
        structure = self.structure
        positions = state.step.astype(jnp.uint32) * self.batch_size + rows
        batch = structure.task.batch(data, self.seed_of_examples(state), "train", positions)
        key = jax.random.fold_in(stream(state.seed, "network"), state.step)
        training = Training(key, rows, ALL_AXES)
        penalties = structure.penalties(state.numbers)
        zeros = structure.network_of_device(state.params, state.buffers).make_taps(batch.inputs) if taps else None

        def loss(params: PyTree, taps: list[list[Taps]] | None) -> Any:
            network = structure.network_of_device(params, state.buffers)
            # In here, so that the carry with which a stream begins is trained where it is learned.
            first = structure.first_carries(network, "train", positions, state.carry)
            return batch_loss(network, structure.task, batch, training, penalties=penalties, taps=taps, first=first)

        (_, of_rows), (gradients, flows) = jax.value_and_grad(loss, (0, 1), has_aux=True)(state.params, zeros)
        values, weights, buffers, last, seen = of_rows
        gradients, values, weight = sum_over_devices((gradients, values, weights.sum()), structure.split)
        gradients = jax.tree.map(lambda g: g / weight, gradients)
        values = of_step(values, weight)
        if any(term.of_weights for term in penalties):
            cells = lambda params: structure.network_of_device(params, state.buffers).cells()  # noqa: E731
            charges, slopes = charge_weights(penalties, state.params, cells, structure.split)
            gradients = jax.tree.map(jnp.add, gradients, slopes)
            values["penalty"] = values.get("penalty", 0.0) + charges.pop("penalty")
            values |= charges
        return BatchGradients(batch, training, positions, gradients, values, weights, buffers, last, seen, flows)

    def apply(self, state: TrainState, of_batch: BatchGradients) -> tuple[TrainState, PyTree]:
        """(The state after the chain's updates, these updates). The state stays as it was, and is marked so, if the
        loss or the gradient is not finite."""
        key = jax.random.fold_in(stream(state.seed, "gradient_noise"), state.step)
        chain: Any = self.structure.optimizer(state.numbers)
        updates, optimizer = chain.update(
            of_batch.gradients, state.optimizer, state.params, key=key, rate_scale=state.rate_scale
        )
        averaging = self.structure.averaging(state.numbers)
        norm = optimizer["spikes"].norm
        finite = jnp.isfinite(of_batch.values["loss"]) & jnp.isfinite(norm)

        def keep(new: PyTree, old: PyTree) -> PyTree:
            return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)

        values = of_batch.values | {"grad_norm": norm, "count": 1.0}
        if "clipping" in optimizer:
            values["clipped"] = optimizer["clipping"].last.astype(jnp.float32)
        before = {name: jnp.where(state.step % self.log_every == 0, 0, total) for name, total in state.sums.items()}
        sums = {name: before[name] + value for name, value in values.items()}
        sums["largest_grad_norm"] = jnp.maximum(before["largest_grad_norm"], norm)
        params, average = optax.apply_updates(state.params, updates), state.average
        if averaging is not None:
            average = keep(averaged(average, params, state.step, averaging), average)
        after = dataclasses.replace(
            state,
            step=state.step + finite,
            finite=finite,
            params=keep(params, state.params),
            buffers=keep(of_batch.buffers, state.buffers),
            average=average,
            optimizer=keep(optimizer, state.optimizer),
            sums=keep(sums, before),
            carry=None if state.carry is None else keep(of_batch.last, state.carry),
        )
        return after, updates

    def seed_of_examples(self, state: TrainState) -> Int[Array, ""]:
        """The seed that the next update's examples are drawn from: the run's, but in an endless stream, whose positions
        have 32 bits, another after every 2^32 examples."""
        if self.structure.task.size("train") is not None or self.structure.run_steps * self.batch_size <= 2**32:
            return state.seed
        return seed_of_span(state.seed, high_word(state.step, self.batch_size))

    def sums(self, params: PyTree, buffers: PyTree, data: PyTree, seed: jax.Array, graphdef: Any) -> dict[str, Any]:
        """The numbers that an update adds to a state's sums, with a network of this graphdef on one device. Callers use
        their names and their program."""
        structure, rows = self.structure, jnp.zeros(self.batch_size, jnp.uint32)
        batch = structure.task.batch(data, seed, "train", rows)
        training, penalties = Training(jax.random.key(seed), rows), structure.penalties(structure.numbers)
        network = nnx.merge(graphdef, params, buffers)
        sums = batch_loss(network, structure.task, batch, training, penalties=penalties)[1][0]
        of_weights = [term.label for term in penalties if term.of_weights]
        sums |= dict.fromkeys(["penalty"] if of_weights else [], sums["loss"])
        sums |= {f"penalty/{label}": sums["loss"] for label in of_weights}
        if structure.clipping(structure.numbers) is not None:
            sums["clipped"] = sums["loss"]
        return sums
