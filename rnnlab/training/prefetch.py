"""Training batches that the host reads while the devices train, for a corpus that does not fit on a device.

Which examples a step takes is the task's (`Task.order`), how one is read, too (`Task.reader`); here is when, and how
they get to the devices. A block, the batches of some consecutive steps, is a pure function of (seed, its number): so a
run that is resumed at any step reads exactly what is missing, and nothing of it is in a checkpoint.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rnnlab.config.errors import ConfigError
from rnnlab.parallel.devices import BATCHES
from rnnlab.tasks import Block, Example, Task
from rnnlab.typing import PyTree

BLOCK_BYTES = 4 << 20
"""About how much a block holds; two or three of them are on their way or at work."""
AHEAD = 2
"""Blocks read before they are asked for."""


def data_shapes(task: Task, batch_size: int) -> PyTree:
    """The shapes of what a training program is given as a task's data; of a block one step."""
    shapes = jax.eval_shape(lambda: task.data)
    if task.reader is None:
        return shapes
    read = task.reader(np.zeros((1, batch_size), np.int64))
    examples: Example = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), read)
    first: Any = jax.ShapeDtypeStruct((), jnp.uint32)
    return task.with_block(shapes, Block(first, examples, batch_size))


def data_specs(data: PyTree) -> PyTree:
    """How a training program's data lie on the mesh: whole on every device, but of a block each device's rows."""

    def spec(leaf: Any) -> Any:
        lies: Any = BATCHES
        whole: Any = PartitionSpec()
        return Block(whole, lies, leaf.batch_size) if isinstance(leaf, Block) else whole

    return jax.tree.map(spec, data, is_leaf=lambda leaf: isinstance(leaf, Block))


class Feed:
    """The blocks of a run's training data, read ahead by grain in a thread.

    Args:
        task: with a `reader`.
        mesh: the devices that the batch is split over; each process reads the rows of its own devices.
        batch_size: of all devices together.
        seed: of the run.
        block_steps: steps of a block; by default as many as hold about `BLOCK_BYTES`.
    """

    def __init__(self, task: Task, mesh: Mesh, batch_size: int, seed: int, block_steps: int | None = None):
        self.task, self.batch_size = task, batch_size
        assert task.reader is not None
        self._reader = task.reader
        step_bytes = sum(a.nbytes for a in jax.tree.leaves(self._reader(np.zeros(batch_size, np.int64))))
        self.block_steps = block_steps or max(1, min(1000, BLOCK_BYTES // step_bytes))
        self._sharding = NamedSharding(mesh, BATCHES)
        indices = self._sharding.addressable_devices_indices_map((self.block_steps, batch_size))
        # In the order of the batch: one slice a device, several where a process has several.
        rows = sorted({index[1].indices(batch_size)[:2] for index in indices.values() if index is not None})
        self._rows = np.concatenate([np.arange(*each) for each in rows])
        order = lambda positions: task.order(None, jnp.int32(seed), positions)  # noqa: E731
        self._order = jax.jit(order)
        self._number: int | None = None
        self._block: Block | None = None
        self._blocks: Any = None

    def at(self, step: int) -> Block:
        """The block that holds the batch of this step."""
        number = step // self.block_steps
        if self._block is None or number != self._number:
            if self._blocks is None or self._number is None or number != self._number + 1:
                self._blocks = self._read_from(number)
            self._number, self._block = number, self._to_devices(next(self._blocks), number)
        return self._block

    def end(self, step: int) -> int:
        """The first step after the block of this one."""
        return (step // self.block_steps + 1) * self.block_steps

    def close(self) -> None:
        """Ends the reading."""
        if self._blocks is not None:
            self._blocks.close()
        self._blocks = self._block = None

    def read(self, number: int) -> Example:
        """This process's part of a block: arrays [block_steps, rows, ...]."""
        steps = np.arange(number * self.block_steps, (number + 1) * self.block_steps)
        positions = (steps[:, None] * self.batch_size + self._rows).astype(np.uint32)
        index = np.asarray(self._order(positions.reshape(-1))).astype(np.int64)
        return self._reader(index.reshape(positions.shape))

    def _read_from(self, number: int) -> Any:
        try:
            import grain  # Here: it is needed where data are large alone, and not to be had everywhere.
        except ImportError:
            raise ConfigError(
                "task.on_device: reading a corpus piece by piece needs grain, which is not installed: pip install "
                "grain; or task.on_device=True"
            ) from None
        self.close()
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=AHEAD)
        source: Any = _Numbered(self.read)
        return iter(grain.MapDataset.source(source)[number:].to_iter_dataset(options))

    def _to_devices(self, examples: Example, number: int) -> Block:
        def put(a: np.ndarray) -> jax.Array:
            shape = (self.block_steps, self.batch_size, *a.shape[2:])
            return jax.make_array_from_process_local_data(self._sharding, a, shape)

        first: Any = np.uint32(number * self.block_steps * self.batch_size % 2**32)
        return Block(first, jax.tree.map(put, examples), self.batch_size)


class _Numbered:
    """A source for grain: read(i) for every i."""

    def __init__(self, read: Callable[[int], Example]):
        self._read = read

    def __len__(self) -> int:
        return 1 << 40

    def __getitem__(self, number: int) -> Example:
        return self._read(number)
