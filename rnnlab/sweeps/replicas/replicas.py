"""The compiled programs of a group of runs over a replica axis: the state of run n is slice n of every array.

`training/update.py` says how a run makes a step; when which runs step, and what their host does, is `group_run.py`.
"""

import dataclasses
import functools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import psutil
from jax import lax

from rnnlab.parallel import memory, processes
from rnnlab.sweeps.replicas.replica_axis import EACH, REPLICA_AXIS, ROWS, WHOLE, ReplicaAxis
from rnnlab.tasks import Split
from rnnlab.training import footprint
from rnnlab.training.evaluation import Pace, Sums, in_parts
from rnnlab.training.metric_sums import on_host
from rnnlab.training.run import Run
from rnnlab.training.state import TrainState
from rnnlab.typing import Bool, Float, Int, PyTree

_SHARE_OF_MEMORY = 0.8
"""The share of free memory that replicas take: the rest is for whatever else a process and its checkpoints need."""
_COPIES = 3
"""Copies of every state, beside the one that trains: the best, and either while a checkpoint or a gather copies it."""


class ReplicaPrograms:
    """The programs of a `Run`, for N replicas of it at once.

    Args:
        run: on the mesh of `make_replica_mesh`.
        side_by_side: as of `ReplicaAxis`.
    """

    def __init__(self, run: Run, side_by_side: bool | None = None):
        self.run, self.mesh = run, run.mesh
        self.axis = axis = ReplicaAxis(run.programs, side_by_side)
        self.side_by_side, self.count = axis.side_by_side, axis.places
        self.split = axis.placed(EACH)
        self.rows = run.rows  # Here: a batch that does not fit into memory says so before anything is traced.
        self._compiled: dict[int, Any] = {}
        states = axis.states
        self._train, self._initialize = axis.train_program(), axis.initialize_program()
        self._begin_sums = jax.jit(self._begun, static_argnums=0)
        self._evaluate = jax.jit(self._evaluated, static_argnums=0)
        self._paces: defaultdict[Split, Pace] = defaultdict(Pace)
        self._flows = jax.jit(axis.spread(self._where(run.flow_norms), 2, (EACH, states, WHOLE), EACH))
        self._keep = jax.jit(_keep, donate_argnums=2, out_shardings=axis.placed(states))
        self._take = jax.jit(_take, out_shardings=axis.placed(states))
        self._gather = jax.jit(lambda tree: tree, out_shardings=axis.placed(WHOLE))
        pick = axis.of_places(_pick, (states, WHOLE), run.programs.lies)
        self._pick = jax.jit(pick, out_shardings=axis.placed(WHOLE))

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

        axis = self.axis
        return axis.spread(one, 1, (axis.states, WHOLE, ROWS), axis.sums)(state, data, rows)

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

        axis = self.axis
        in_specs = (EACH, axis.states, axis.sums, WHOLE, ROWS, WHOLE, WHOLE)
        spread = axis.spread(self._where(one), 3, in_specs, (axis.sums, EACH))
        return spread(wanted, state, sums, data, rows, first, until)

    def _placed(self, values: Sequence[Any] | np.ndarray, dtype: Any) -> jax.Array:
        """A number for each slot."""
        each = np.asarray(values, dtype)
        return jax.make_array_from_callback(each.shape, self.split, lambda where: each[where])

    def fetched(self, tree: PyTree) -> PyTree:
        """Arrays [N, ...] in NumPy, all of them in every process."""
        return jax.device_get(tree if processes.processes() == 1 else self._gather(tree))

    def slots(self, replicas: int) -> int:
        """How long the axis is for so many replicas: every device has as many slots."""
        return -(-replicas // self.count) * self.count

    def slots_for(self, replicas: int) -> int:
        """The slots of a new group: those of a program that is compiled and has room, or else as few as can be."""
        fewest = self.slots(replicas)
        if processes.processes() > 1:  # All have to choose alike, and each has another's memory.
            return fewest
        return min((slots for slots in self._compiled if slots >= fewest and self.ready(slots)), default=fewest)

    def ready(self, slots: int) -> bool:
        """Whether `train` is compiled for so many slots, and empty ones cost nothing."""
        return slots in self._compiled and not self.side_by_side

    # --- programs; N slots each --------------------------------------------------------------------------------------

    def start(self, seeds: Sequence[int], numbers: Sequence[Mapping[str, float]]) -> TrainState:
        """The states [N, ...] before the first step, of these seeds and numbers (`run_config.traced_numbers`)."""
        stacked = {name: self._placed([each[name] for each in numbers], np.float32) for name in numbers[0]}
        return self._initialize(stacked, self._placed(seeds, np.int32), self.run.programs.embedding)

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
        data = self.run.data
        part = functools.partial(self._evaluate, (split, size), self._placed(wanted, bool), state, data, rows)
        sums, count = self._begin_sums(split, state, data, rows), -(-size // rows.shape[0])
        means = self.fetched(in_parts(part, sums, count, self._paces[split], halts))
        each = (jax.tree.map(lambda values: values[n], means) for n in range(len(wanted)))  # noqa: B023
        return [self.run.described(on_host(values)) for values in each]

    def flows(self, state: TrainState, wanted: Bool[np.ndarray, " N"]) -> list[dict[str, dict[str, list[float]]]]:
        """`Run.gradient_flow` of the wanted replicas, untrained and trained; see `evaluate`."""
        untrained = self._initialize(state.numbers, state.seed, self.run.programs.embedding)
        chosen = self._placed(wanted, bool)
        each = {
            when: self._flows(chosen, s, self.run.data) for when, s in (("untrained", untrained), ("trained", state))
        }
        flows = self.fetched(each)
        return [jax.tree.map(lambda a: a[n].tolist(), flows) for n in range(len(wanted))]  # noqa: B023

    def keep(self, better: Bool[np.ndarray, " N"], state: TrainState, best: TrainState) -> TrainState:
        """The best states with those replaced that are better; donates best."""
        return self._keep(self._placed(better, bool), state, best)

    def take(self, state: TrainState, slots: Int[np.ndarray, " M"]) -> TrainState:
        """The replicas of these slots, as slots 0 to M - 1; M: of `slots`."""
        return self._take(state, np.asarray(slots, np.int32))

    def each(self, states: Sequence[TrainState], slots: Sequence[int]) -> Iterator[list[TrainState]]:
        """Of each slot its replica of these states, in every process."""
        held = jax.device_get(states) if processes.processes() == 1 else None
        for slot in slots:
            if held is None:
                yield [self.pick(state, slot) for state in states]
            else:
                yield [jax.tree.map(lambda a: a[slot], state) for state in held]  # noqa: B023

    def pick(self, state: TrainState, slot: int) -> TrainState:
        """The replica of a slot, on every device of every process."""
        return self._pick(state, np.int32(slot))

    def with_rate_scales(self, state: TrainState, scales: Float[np.ndarray, " N"]) -> TrainState:
        """The states with other factors of the learning rate."""
        return dataclasses.replace(state, rate_scale=self._placed(scales, np.float32))

    def like(self, slots: int) -> TrainState:
        """Shapes and places of the states of so many slots."""
        return self.axis.like(slots)

    # --- memory ------------------------------------------------------------------------------------------------------

    def _program(self, slots: int) -> Any:
        """`train` compiled for so many slots."""
        if slots not in self._compiled:
            shapes, until, _, _ = self.axis.arguments(slots)
            self._compiled[slots] = self._train.lower(shapes, until, self.run.data, self.rows).compile()
        return self._compiled[slots]

    def needed(self, slots: int) -> int:
        """Bytes on the devices of this process of so many slots: their states, and the activations of a step."""
        analysis = self._program(slots).memory_analysis()
        step = 0 if analysis is None else analysis.temp_size_in_bytes
        return (1 + _COPIES) * self._state_bytes(slots) + len(self.mesh.local_devices) * step

    def _state_bytes(self, slots: int) -> int:
        """Of their states on the devices of this process."""
        shares = ((leaf.sharding.shard_shape(leaf.shape), leaf.dtype) for leaf in jax.tree.leaves(self.like(slots)))
        return len(self.mesh.local_devices) * sum(math.prod(shape) * dtype.itemsize for shape, dtype in shares)

    def fitting(self, replicas: int) -> int:
        """How many of so many replicas fit into memory at once, in every process; at least one a place.

        Raises:
            OutOfMemory: not even these do.
        """
        for split in ("validation", "test"):
            self.run.check_evaluation(split)
        room, size = _SHARE_OF_MEMORY * self.available(), replicas
        while size > self.count and (needed := self.needed(slots := self.slots_for(size))) > room:
            if slots > self.slots(size):
                del self._compiled[slots]
            else:
                size = max(self.count, min(size - 1, int(size * room / needed)))
        slots = self.slots_for(size)
        footprint.check_replicas(self.run.programs, self.run.sizes, self._state_bytes(slots), self._program(slots))
        return processes.fewest(size)

    def available(self) -> int:
        """Free bytes on the devices of this process."""
        return memory.at_hand(list(self.mesh.local_devices)) or psutil.virtual_memory().available


def _keep(better: jax.Array, state: PyTree, best: PyTree) -> PyTree:
    def one(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return jax.tree.map(one, state, best)


def _take(tree: PyTree, slots: jax.Array) -> PyTree:
    return jax.tree.map(lambda a: a[slots], tree)


def _pick(tree: PyTree, slot: jax.Array) -> PyTree:
    """One slot of all places' slots. To index the whole arrays would be to gather them whole on every device; a sum of
    bits moves one slot, and keeps a zero's sign."""

    def one(held: jax.Array) -> jax.Array:
        at = slot - held.shape[0] * lax.axis_index(REPLICA_AXIS)
        value = held[jnp.clip(at, 0, held.shape[0] - 1)]
        kind = jnp.dtype(f"uint{8 * value.dtype.itemsize}")
        bits = value.astype(kind) if value.dtype == bool else lax.bitcast_convert_type(value, kind)
        bits = lax.psum(jnp.where((at >= 0) & (at < held.shape[0]), bits, 0), REPLICA_AXIS)
        return bits.astype(bool) if value.dtype == bool else lax.bitcast_convert_type(bits, value.dtype)

    return jax.tree.map(one, tree)
