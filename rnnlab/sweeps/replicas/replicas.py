"""The compiled programs of a group of runs over a replica axis: the state of run n is slice n of every array.

`training/update.py` says how a run makes a step; when which runs step, and what their host does, is `group_run.py`.
"""

import dataclasses
import functools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import psutil
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from rnnlab.parallel import memory
from rnnlab.parallel.sharding import ALL_AXES
from rnnlab.tasks import Split
from rnnlab.training import footprint
from rnnlab.training.evaluation import Pace, Sums, in_parts
from rnnlab.training.metric_sums import on_host
from rnnlab.training.run import Run
from rnnlab.training.state import TrainState
from rnnlab.typing import Bool, Float, Int, PyTree

REPLICA_AXIS = "replica"
_SHARE_OF_MEMORY = 0.8
"""The share of free memory that replicas take: the rest is for whatever else a process and its checkpoints need."""
_COPIES = 3
"""Copies of every state, beside the one that trains: the best, and either while a checkpoint or a gather copies it."""


def make_replica_mesh(replicas: int) -> Mesh:
    """A mesh over all devices at hand, or as many as there are replicas; each batch is whole on its device."""
    count = min(replicas, len(jax.devices()))
    devices = np.asarray(jax.devices()[:count])[:, None, None]
    return Mesh(devices, (REPLICA_AXIS, *ALL_AXES), axis_types=(AxisType.Auto,) * 3)


class ReplicaPrograms:
    """The programs of a `Run`, for N replicas of it at once.

    The replicas are split over the devices. On a CPU a device runs its own one after the other: a finished one then
    costs nothing, and the products of one fill a core (7.0 ms a member against 14.6 side by side, IRNN, B = 16). Any
    other device runs them side by side.

    Args:
        run: on the mesh of `make_replica_mesh`.
        side_by_side: whether a device's replicas run so (`jax.vmap`), or else one after the other; None: by platform.
    """

    def __init__(self, run: Run, side_by_side: bool | None = None):
        self.run, self.mesh = run, run.mesh
        platform = run.mesh.devices.flat[0].platform
        self.side_by_side = platform != "cpu" if side_by_side is None else side_by_side
        self.count = run.mesh.shape[REPLICA_AXIS]
        self.split = NamedSharding(self.mesh, PartitionSpec(REPLICA_AXIS))
        self.rows = self._everywhere(run.rows)
        self._compiled: dict[int, Any] = {}
        programs = run.programs

        def train(state: TrainState, until: jax.Array, data: PyTree, rows: jax.Array) -> TrainState:
            return programs.train_shard(state, data, until, rows)

        self._train = jax.jit(self._replicated(train, each=2), donate_argnums=0)
        self._initialize = jax.jit(self._replicated(programs.initialize_shard, each=2), out_shardings=self.split)
        self._begin_sums = jax.jit(self._begun, static_argnums=0)
        self._evaluate = jax.jit(self._evaluated, static_argnums=0)
        self._paces: defaultdict[Split, Pace] = defaultdict(Pace)
        self._flows = jax.jit(self._replicated(self._where(run.flow_norms), each=2))
        self._keep = jax.jit(_keep, donate_argnums=2, out_shardings=self.split)
        self._take = jax.jit(_take, out_shardings=self.split)

    def _replicated(self, function: Callable[..., PyTree], each: int) -> Callable[..., PyTree]:
        """A function of one replica as one of N; each: how many of its arguments, the first ones, it has of its own."""

        def of_device(*args: PyTree) -> PyTree:
            replicas, shared = args[:each], args[each:]
            one = lambda replicas: function(*replicas, *shared)  # noqa: E731
            return jax.vmap(one)(replicas) if self.side_by_side else lax.map(one, replicas)

        def of_all(*args: PyTree) -> PyTree:
            specs = tuple(PartitionSpec(REPLICA_AXIS) if i < each else PartitionSpec() for i in range(len(args)))
            spread = jax.shard_map(
                of_device, mesh=self.mesh, in_specs=specs, out_specs=PartitionSpec(REPLICA_AXIS), check_vma=False
            )
            return spread(*args)

        return of_all

    @staticmethod
    def _where(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
        """The function of those replicas that are wanted, its first argument; zeros for the others."""

        def one(wanted: jax.Array, *args: PyTree) -> PyTree:
            shapes = jax.eval_shape(function, *args)
            return lax.cond(
                wanted,
                lambda: function(*args),
                lambda: jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes),
            )

        return one

    def _begun(self, split: Split, state: TrainState, data: PyTree, rows: jax.Array) -> Sums:
        def one(state: TrainState, data: PyTree, rows: jax.Array) -> Sums:
            return self.run.programs.evaluation.begin(split, state.evaluated, state.buffers, data, rows)

        return self._replicated(one, each=1)(state, data, rows)

    def _evaluated(
        self,
        where: tuple[Split, int],
        wanted: jax.Array,
        state: TrainState,
        data: PyTree,
        rows: jax.Array,
        sums: Sums,
        first: jax.Array,
        until: jax.Array,
    ) -> tuple[Sums, PyTree]:
        def one(
            state: TrainState, sums: Sums, data: PyTree, rows: jax.Array, first: jax.Array, until: jax.Array
        ) -> tuple[Sums, PyTree]:
            whole = state.evaluated, state.buffers, data, rows
            return self.run.programs.evaluation.add(*where, *whole, sums, first, until)

        return self._replicated(self._where(one), each=3)(wanted, state, sums, data, rows, first, until)

    def _everywhere(self, tree: PyTree) -> PyTree:
        return jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec()))

    def _placed(self, values: Sequence[Any] | np.ndarray, dtype: Any) -> jax.Array:
        """A number for each slot."""
        return jax.device_put(np.asarray(values, dtype), self.split)

    def slots(self, replicas: int) -> int:
        """How long the axis is for so many replicas: every device has as many slots."""
        return -(-replicas // self.count) * self.count

    def ready(self, slots: int) -> bool:
        """Whether `train` is compiled for so many slots, and empty ones cost nothing."""
        return slots in self._compiled and not self.side_by_side

    # --- programs; N slots each --------------------------------------------------------------------------------------

    def start(self, seeds: Sequence[int], numbers: Sequence[Mapping[str, float]]) -> TrainState:
        """The states [N, ...] before the first step, of these seeds and numbers (`run_config.traced_numbers`)."""
        stacked = {name: self._placed([each[name] for each in numbers], np.float32) for name in numbers[0]}
        return self._initialize(stacked, self._placed(seeds, np.int32), self._everywhere(self.run.programs.embedding))

    def train(self, state: TrainState, until: Int[np.ndarray, " N"]) -> TrainState:
        """`Programs.train` of every replica, to a step of its own; donates the state."""
        program = self._program(until.shape[0])
        return program(state, self._placed(until, np.int32), self.run.data, self.rows)

    def evaluate(
        self,
        state: TrainState,
        split: Split,
        wanted: Bool[np.ndarray, " N"],
        halts: Callable[[], bool] | None = None,
    ) -> list[dict[str, float]]:
        """`Run.evaluate` of the wanted replicas; what stands for the others means nothing."""
        size, rows = self.run.evaluated_rows(split)
        data, everywhere = self.run.data, self._everywhere(rows)
        part = functools.partial(self._evaluate, (split, size), self._placed(wanted, bool), state, data, everywhere)
        sums, count = self._begin_sums(split, state, data, everywhere), -(-size // rows.shape[0])
        means = jax.device_get(in_parts(part, sums, count, self._paces[split], halts))
        each = (jax.tree.map(lambda values: values[n], means) for n in range(len(wanted)))  # noqa: B023
        return [self.run.described(on_host(values)) for values in each]

    def flows(self, state: TrainState, wanted: Bool[np.ndarray, " N"]) -> list[dict[str, dict[str, list[float]]]]:
        """`Run.gradient_flow` of the wanted replicas, untrained and trained; see `evaluate`."""
        untrained = self._initialize(state.numbers, state.seed, self._everywhere(self.run.programs.embedding))
        chosen = self._placed(wanted, bool)
        each = {
            when: self._flows(chosen, s, self.run.data) for when, s in (("untrained", untrained), ("trained", state))
        }
        flows = jax.device_get(each)
        return [jax.tree.map(lambda a: a[n].tolist(), flows) for n in range(len(wanted))]  # noqa: B023

    def keep(self, better: Bool[np.ndarray, " N"], state: TrainState, best: TrainState) -> TrainState:
        """The best states with those replaced that are better; donates best."""
        return self._keep(self._placed(better, bool), state, best)

    def take(self, tree: PyTree, slots: Int[np.ndarray, " M"]) -> PyTree:
        """The replicas of these slots, as slots 0 to M - 1; M: of `slots`."""
        return self._take(tree, np.asarray(slots, np.int32))

    def with_rate_scales(self, state: TrainState, scales: Float[np.ndarray, " N"]) -> TrainState:
        """The states with other factors of the learning rate."""
        return dataclasses.replace(state, rate_scale=self._placed(scales, np.float32))

    def like(self, slots: int) -> TrainState:
        """Shapes and places of the states of so many slots, on each device its own where they can be split."""
        sharding = self.split if slots % self.count == 0 else NamedSharding(self.mesh, PartitionSpec())
        one = jax.eval_shape(lambda: self.run.programs.start(0))
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct((slots, *a.shape), a.dtype, sharding=sharding), one)

    # --- memory ------------------------------------------------------------------------------------------------------

    def _program(self, slots: int) -> Any:
        """`train` compiled for so many slots."""
        if slots not in self._compiled:
            until = jax.ShapeDtypeStruct((slots,), np.int32, sharding=self.split)
            lowered = self._train.lower(self.like(slots), until, self.run.data, self.rows)
            self._compiled[slots] = lowered.compile()
        return self._compiled[slots]

    def needed(self, slots: int) -> int:
        """Bytes on all devices of so many slots: their states, and the activations of a step."""
        analysis = self._program(slots).memory_analysis()
        step = 0 if analysis is None else analysis.temp_size_in_bytes
        return (1 + _COPIES) * self._state_bytes(slots) + self.count * step

    def _state_bytes(self, slots: int) -> int:
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self.like(slots)))

    def fitting(self, replicas: int) -> int:
        """How many of so many replicas fit into memory at once; at least one a device.

        Raises:
            OutOfMemory: not even these do.
        """
        for split in ("validation", "test"):
            self.run.check_evaluation(split)
        room, size = _SHARE_OF_MEMORY * self.available(), replicas
        while size > self.count and (needed := self.needed(self.slots(size))) > room:
            size = max(self.count, min(size - 1, int(size * room / needed)))
        slots = self.slots(size)
        footprint.check_replicas(self.run.programs, self.run.sizes, self._state_bytes(slots), self._program(slots))
        return size

    def available(self) -> int:
        """Free bytes on all devices."""
        return memory.at_hand(list(self.mesh.devices.flat)) or psutil.virtual_memory().available


def _keep(better: jax.Array, state: PyTree, best: PyTree) -> PyTree:
    def one(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return jax.tree.map(one, state, best)


def _take(tree: PyTree, slots: jax.Array) -> PyTree:
    return jax.tree.map(lambda a: a[slots], tree)
