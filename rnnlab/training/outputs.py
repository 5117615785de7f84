"""The outputs of a trained network over a whole split, for what needs more of them than their score."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnnlab.tasks import Batch, Split
from rnnlab.training.run import Run
from rnnlab.training.state import TrainState


def batches_of(
    run: Run, state: TrainState, split: Split, look: Callable[[Any, Batch], Any]
) -> Iterator[tuple[Any, int]]:
    """(look(outputs, batch) as arrays of the host, how many rows of the batch are examples) of every batch of a split;
    the rows behind them repeat the last example. Of a task whose rows do not go on from batch to batch."""
    size = run.task.size(split)
    assert size is not None
    width = min(run.eval_batch_size, size)

    @jax.jit
    def of_rows(params: Any, buffers: Any, data: Any, rows: jax.Array) -> Any:
        batch = run.task.batch(data, jnp.int32(0), split, rows)
        network = run.programs.structure.network(params, buffers)
        return look(network(batch.inputs, batch.lengths, resets=batch.resets), batch)

    for start in range(0, size, width):
        rows = jnp.minimum(jnp.arange(start, start + width, dtype=jnp.uint32), size - 1)
        values = of_rows(state.evaluated, state.buffers, run.data, rows)
        yield jax.tree.map(np.asarray, values), min(width, size - start)


def confusion(run: Run, state: TrainState, split: Split) -> np.ndarray:
    """How many examples of each class (row) are taken for each (column), int64 [C, C]; of a task with `classes`."""
    counts = np.zeros((len(run.task.classes or ()),) * 2, np.int64)
    for (true, guessed), rows in batches_of(run, state, split, run.task.decided):
        np.add.at(counts, (true[:rows], guessed[:rows]), 1)
    return counts
