"""The replica axis of a group: the mesh that it is an axis of, where states lie on it, and one replica's programs as
programs of N.

What the programs compute is in `training/programs.py`; who calls them is `replicas.py`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from rnnlab.parallel import devices
from rnnlab.parallel.sharding import ALL_AXES, placed_shapes, row_parts
from rnnlab.training.evaluation import Sums
from rnnlab.training.programs import Programs
from rnnlab.training.state import TrainState
from rnnlab.typing import PyTree

REPLICA_AXIS = "replica"
EACH, WHOLE, ROWS = PartitionSpec(REPLICA_AXIS), PartitionSpec(), PartitionSpec(ALL_AXES)
"""Where an array lies that has a slice for every replica, that all share, and whose rows are those of a batch."""


def make_replica_mesh(replicas: int, batch_size: int, available: Sequence[Any] | None = None) -> Mesh:
    """A mesh over all devices of all processes. Where there are fewer replicas than devices, several devices share a
    replica's batch, of one process where they can.

    Args:
        available: the devices; all that are at hand if not given.

    Raises:
        ConfigError: no devices, or processes that have not equally many.
    """
    available = devices.all_devices() if available is None else available
    ordered = sorted(available, key=lambda device: (device.process_index, device.id))
    count = len(ordered)
    share = max(n for n in range(1, max(1, count // replicas) + 1) if count % n == 0 and batch_size % n == 0)
    grid = np.asarray(ordered).reshape(count // share, share, 1)
    return Mesh(grid, (REPLICA_AXIS, *ALL_AXES), axis_types=(AxisType.Auto,) * 3)


class ReplicaAxis:
    """The axis as a mesh of `make_replica_mesh` has it.

    The replicas are split over the axis' places, each of which is one device or several that share the rows of a batch.
    On a CPU a place runs its own one after the other: a finished one then costs nothing, and the products of one fill a
    core (7.0 ms a member against 14.6 side by side, IRNN, B = 16). Any other device runs them side by side.

    Args:
        programs: of one replica, on that mesh.
        side_by_side: whether a place's replicas run so (`jax.vmap`), or else one after the other; None: by platform.
    """

    def __init__(self, programs: Programs, side_by_side: bool | None = None):
        self.programs, self.mesh = programs, programs.mesh
        platform = self.mesh.devices.flat[0].platform
        self.side_by_side = platform != "cpu" if side_by_side is None else side_by_side
        self.places = self.mesh.shape[REPLICA_AXIS]
        self.states: TrainState = jax.tree.map(lambda spec: PartitionSpec(REPLICA_AXIS, *spec), programs.lies)
        """Where the parts of states lie: a stream's carries have rows, which the devices of a place share."""
        of_rows: Any = PartitionSpec(REPLICA_AXIS, ALL_AXES)
        self.sums = Sums(of_rows, of_rows)

    def spread(
        self, function: Callable[..., PyTree], each: int, in_specs: tuple[Any, ...], out_specs: Any
    ) -> Callable[..., PyTree]:
        """A function of one replica as one of N.

        Args:
            each: how many of its arguments, the first ones, every replica has of its own.
            in_specs: where the arguments of all lie.
            out_specs: where the results do.
        """

        def of_device(*args: PyTree) -> PyTree:
            replicas, shared = args[:each], args[each:]
            one = lambda replicas: function(*replicas, *shared)  # noqa: E731
            return jax.vmap(one)(replicas) if self.side_by_side else lax.map(one, replicas)

        return self.of_places(of_device, in_specs, out_specs)

    def of_places(self, function: Callable[..., PyTree], in_specs: tuple[Any, ...], out_specs: Any) -> Any:
        """A function of what a device holds, as one of the whole arrays."""
        return jax.shard_map(function, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)

    def train_program(self) -> Any:
        """`Programs.train_shard` of N replicas, to be compiled: (states, until [N], data, rows) -> states; the given
        states' arrays are used up."""

        def train(state: TrainState, until: jax.Array, data: PyTree, rows: jax.Array) -> TrainState:
            return self.programs.train_shard(state, data, until, rows)

        in_specs = (self.states, EACH, WHOLE, ROWS)
        return jax.jit(self.spread(train, 2, in_specs, self.states), donate_argnums=0)

    def initialize_program(self) -> Any:
        """`Programs.initialize_shard` of N replicas: (numbers, seeds [N], embedding) -> states."""
        programs = self.programs
        rows = programs.batch_size // row_parts(self.mesh)

        def initialize(numbers: PyTree, seed: jax.Array, embedding: PyTree) -> TrainState:
            return programs.initialize_shard(numbers, seed, embedding, batch=rows)

        return jax.jit(self.spread(initialize, 2, (EACH, EACH, WHOLE), self.states))

    def arguments(self, slots: int) -> tuple[PyTree, ...]:
        """Shapes and places of what `train_program` takes for so many slots."""
        programs = self.programs
        rows = jax.ShapeDtypeStruct((programs.batch_size,), np.uint32, sharding=self.placed(ROWS))
        until = jax.ShapeDtypeStruct((slots,), np.int32, sharding=self.placed(EACH))
        on_all = lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=self.placed(WHOLE))  # noqa: E731
        return self.like(slots), until, jax.tree.map(on_all, programs.data_shapes), rows

    def like(self, slots: int) -> TrainState:
        """Shapes and places of the states of so many slots, on each place its own where they can be split."""
        specs: Any = self.states
        if slots % self.places:
            specs = jax.tree.map(lambda spec: PartitionSpec(None, *spec[1:]), specs)
        shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct((slots, *a.shape), a.dtype), self.programs.shapes)
        return placed_shapes(self.mesh, shapes, specs)

    def placed(self, specs: PyTree) -> Any:
        """The same places for arrays that are passed from program to program."""
        return jax.tree.map(lambda spec: NamedSharding(self.mesh, spec), specs)
