"""One configuration made ready: its tasks and programs, stage by stage, and all that a command asks of them.

It is made from a config in `training/setup.py`; the order in which a run uses it is in `training/loop.py`. Nothing
here writes to the workdir.
"""

import dataclasses
import functools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rnnlab.config.errors import ConfigError
from rnnlab.datasets.embeddings import Embeddings
from rnnlab.diagnostics import Decay, decay_per_step, gradient_reach, memory_horizon
from rnnlab.diagnostics.diagnosis import ONE_ANSWER
from rnnlab.parallel import devices, processes
from rnnlab.parallel.sharding import ALL_AXES, row_parts
from rnnlab.records.run_config import FlightRecorderOptions
from rnnlab.tasks import Batch, Split, StreamTask
from rnnlab.training import footprint
from rnnlab.training.evaluation import Pace
from rnnlab.training.host_state import Intervals
from rnnlab.training.metric_sums import on_host
from rnnlab.training.prefetch import Feed
from rnnlab.training.programs import Programs
from rnnlab.training.state import TrainState
from rnnlab.typing import Array, Float, Int, PyTree


class Mentioned(NamedTuple):
    """Fields of the config that lines for people mention."""

    task: str
    cell: str
    devices: int | None
    embedding_file: str | None
    learning_rate: float
    clip_norm: float | None
    schedule: str | Mapping[str, Any]
    warmup_steps: int


class Run:
    """One configuration made ready. `task`, `programs` and `data` are those of the stage that was entered last, at
    first of the curriculum's last one.

    Args:
        stages: the programs of every stage.
        mesh: the devices, two axes of them those of `sharding.ALL_AXES`.
        seed, eval_batch_size: of the run; rows of one batch of an evaluation, of all devices together.
        labels: of every stage its value under its field's name.
        intervals: when something is due.
        sizes: fields that a line about memory names.
        mentioned: fields that other lines name.
        embeddings: the vectors of words that networks begin with, if they come from a file.
        flight_recorder: None where it is off.

    Raises:
        OutOfMemory: the state of a stage and its task's data do not fit.
    """

    def __init__(
        self,
        stages: Sequence[Programs],
        mesh: Mesh,
        *,
        seed: int,
        eval_batch_size: int,
        labels: Sequence[dict[str, Any]],
        intervals: Intervals,
        sizes: footprint.Sizes,
        mentioned: Mentioned,
        embeddings: Embeddings | None = None,
        flight_recorder: FlightRecorderOptions | None = None,
    ):
        self.stages, self.mesh, self.seed = stages, mesh, seed
        self.batch_size, self.eval_batch_size = stages[0].batch_size, eval_batch_size
        self.labels, self.intervals, self.sizes, self.mentioned = labels, intervals, sizes, mentioned
        self.embeddings, self.flight_recorder = embeddings, flight_recorder
        self.feed: Feed | None = None
        self.stage = -1
        self._fitting: set[tuple[int, Split]] = set()
        """(Stage, split) of the programs that are known to fit into memory."""
        self._paces: defaultdict[tuple[int, Split], Pace] = defaultdict(Pace)
        for programs in stages:
            footprint.check_state(programs, sizes)
        self.enter(len(stages) - 1)

    def check_training(self, saves: bool = True) -> None:
        """Whether the state of every stage fits into memory with a batch, as far as shapes tell; before it is made.
        saves: whether checkpoints are.

        Raises:
            OutOfMemory: it does not.
        """
        for programs in self.stages:
            footprint.check_training(programs, self.sizes, saves)
        for split in ("validation", "test"):
            self.check_evaluation(split)

    def check_evaluation(self, split: Split) -> None:
        """Whether a batch of a split fits into memory; before anything is made.

        Raises:
            OutOfMemory: it does not.
        """
        footprint.check_batch(self.programs, self.sizes, split, self._evaluated_at_once(split))

    def check_sample(self, rows: int) -> None:
        """Whether a `sample` fits into memory with all that a diagnosis holds of it; before anything is made.

        Raises:
            OutOfMemory: it does not.
        """
        footprint.check_sample(self.programs, self.sizes, rows)

    @functools.cached_property
    def rows(self) -> jax.Array:
        """The rows [B] of a training batch, every device's own on it."""
        for programs in self.stages:
            footprint.check_batch(programs, self.sizes, "train", self.batch_size)
        return self._placed(np.arange(self.batch_size, dtype=np.uint32))

    def enter(self, stage: int) -> None:
        """Takes the task and the programs of a stage, counted from 0; its data go to the devices."""
        if stage == self.stage:
            return
        self.stage, self.programs = stage, self.stages[stage]
        self.task = self.programs.task
        self.data = devices.replicate(self.mesh, self.task.data)
        if self.feed is not None:
            self.feed.close()
        reads = self.task.reader is not None
        self.feed = Feed(self.task, self.mesh, self.batch_size, self.seed) if reads else None

    @property
    def label(self) -> dict[str, Any]:
        """The stage's value under its field's name; empty without a curriculum."""
        return self.labels[self.stage]

    def described_stage(self) -> str:
        """For people: "stage 2 of 3: length 50"."""
        values = " ".join(f"{name} {value}" for name, value in self.label.items())
        return f"stage {self.stage + 1} of {len(self.stages)}: {values}"

    def sign(self, metric: str, path: str) -> float:
        """1 for a metric of which more is better, else -1.

        Raises:
            ConfigError: the task has no such metric; path: the field that names it.
        """
        if metric not in self.programs.metric_names:
            names = ", ".join(self.programs.metric_names)
            raise ConfigError(f"{path}: unknown metric {metric!r}; this task has: {names}")
        return 1.0 if metric in self.task.larger_is_better else -1.0

    def data_at(self, step: int) -> PyTree:
        """The task's data for the batch of this step, as a training program takes them."""
        if self.feed is None:
            return self.data
        return self.task.with_block(self.data, self.feed.at(step))

    def train(self, state: TrainState, until: int) -> TrainState:
        """The state after the updates up to step `until`, or after fewer: `Programs.train`, block by block where the
        host feeds it. The given one's arrays are used up."""
        if (self.stage, "train") not in self._fitting:
            arguments = state, self.data_at(int(state.step)), np.int32(until), self.rows
            # Compiled once: the call below finds it.
            footprint.check_compiled(self.programs, self.sizes, self.programs.train.lower(*arguments).compile())
            self._fitting.add((self.stage, "train"))
        if self.feed is None:
            return self.programs.train(state, self.data, np.int32(until), self.rows)
        step = int(state.step)
        while step < until:
            target = min(until, self.feed.end(step))
            state = jax.block_until_ready(self.programs.train(state, self.data_at(step), np.int32(target), self.rows))
            step = int(state.step)
            if step < target:
                break
        return state

    def observe(self, state: TrainState) -> dict[str, Any]:
        """The measures of the config's diagnostics on the step after this state: `Programs.observe`."""
        return processes.on_host(self.programs.observe(state, self.data_at(int(state.step)), self.rows))

    def with_rate_scale(self, state: TrainState, scale: float) -> TrainState:
        """The state with another factor of the learning rate."""
        return dataclasses.replace(state, rate_scale=devices.replicate(self.mesh, jnp.float32(scale)))

    def at_stage(self, state: TrainState) -> TrainState:
        """The state as it enters a stage: its means are of the stage alone, and so is what a stream goes on from."""
        carry = None if state.carry is None else self.programs.start(self.seed).carry
        return dataclasses.replace(self.with_empty_sums(state), carry=carry)

    def with_empty_sums(self, state: TrainState) -> TrainState:
        """The state as right after a log step."""
        zeros = {name: jnp.zeros_like(total) for name, total in state.sums.items()}
        return dataclasses.replace(state, sums=devices.replicate(self.mesh, zeros))

    def evaluate(self, state: TrainState, split: Split, halts: Callable[[], bool] | None = None) -> dict[str, float]:
        """Means over a whole split of the stage's task, with the stage's label.

        Raises:
            Halted: halts, which is asked every half second or so, said so.
        """
        if (self.stage, split) not in self._fitting:
            self.check_evaluation(split)
            self._fitting.add((self.stage, split))
        size, rows = self.evaluated_rows(split)
        pace = self._paces[self.stage, split]
        values = self.programs.evaluate(split, size, state.evaluated, state.buffers, self.data, rows, pace, halts)
        return self.described(self.label | on_host(values))

    def evaluated_rows(self, split: Split) -> tuple[int, jax.Array]:
        """(Examples of a split, the rows of one batch of its evaluation).

        Raises:
            ConfigError: the split has no end.
        """
        return self._size(split), self._placed(np.arange(self._evaluated_at_once(split), dtype=np.int32))

    def _evaluated_at_once(self, split: Split) -> int:
        streams = self.task.streams(split) if isinstance(self.task, StreamTask) else None
        return whole_width(streams or min(self.eval_batch_size, self._size(split)), self.mesh)

    def _size(self, split: Split) -> int:
        size = self.task.size(split)
        if size is None:
            raise ConfigError(f"the {split} split of this task has no end; evaluate validation or test")
        return size

    def _placed(self, rows: np.ndarray) -> jax.Array:
        """Rows [B], those of every device on it, so that they need not go there at every dispatch."""
        over_devices = NamedSharding(self.mesh, PartitionSpec(ALL_AXES))
        return jax.make_array_from_callback(rows.shape, over_devices, lambda where: rows[where])

    def described(self, values: dict[str, Any]) -> dict[str, Any]:
        """The means of a split with the metrics that follow from them."""
        return values | self.task.derived(values)

    def gradient_flow(self, states: Mapping[str, TrainState]) -> dict[str, dict[str, list[float]]]:
        """`flow_norms` of each state, as lists."""
        measure = jax.jit(self.flow_norms, out_shardings=NamedSharding(self.mesh, PartitionSpec()))
        norms_of = {when: measure(state, self.data) for when, state in states.items()}
        return {
            when: {layer: np.asarray(norms).tolist() for layer, norms in layers.items()}
            for when, layers in norms_of.items()
        }

    def sampled(self, data: PyTree, rows: int) -> Batch:
        """At most so many rows of the validation split for a closer look; within a compiled program."""
        return self.task.batch(data, jnp.int32(0), "validation", jnp.asarray(self.task.sample(rows)))

    def sample(self, rows: int) -> Batch:
        """`sampled`, by a program of its own: tasks index arrays of the host by numbers that are traced."""
        return jax.jit(self.sampled, static_argnums=1)(self.data, rows)

    def flow_norms(self, state: TrainState, data: PyTree) -> dict[str, Float[Array, " T"]]:
        """`gradient_reach` of every layer, on 32 rows of the validation split."""
        batch = self.sampled(data, 32)
        return gradient_reach(self.programs.structure.network(state.evaluated, state.buffers), self.task, batch)

    def memory_horizon(self, flow: Mapping[str, list[float]]) -> dict[str, Any]:
        """For summary.json, from a `gradient_flow`: of every layer the gradient's factor per step back in time, its
        half-life and its horizon in steps (`diagnostics.memory_horizon`), beside the task's longest dependency."""
        horizons: dict[str, Any] = {"longest_dependency": self.task.longest_dependency}
        if self.task.readout == "every":
            horizons["note"] = ONE_ANSWER
        for layer, norms in flow.items():
            forward = np.array(norms[::-1] if layer.endswith(" reverse") else norms)
            decay, horizon = _decay_and_horizon(forward, self.task.longest_dependency)
            horizons[layer] = {
                "factor": float(decay.factor),
                "half_life": float(decay.half_life),
                "horizon": int(horizon),
            }
        return horizons


@functools.partial(jax.jit, static_argnums=1)
def _decay_and_horizon(norms: Float[Array, " T"], longest_dependency: int | None) -> tuple[Decay, Int[Array, ""]]:
    return decay_per_step(norms), memory_horizon(norms, longest_dependency)


def whole_width(rows: int, mesh: Mesh) -> int:
    """So many rows, or fewer, that every device has as many."""
    count = row_parts(mesh)
    return max(1, rows // count) * count
