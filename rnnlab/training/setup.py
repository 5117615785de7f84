"""A configuration made ready to run: tasks, mesh and compiled programs of every stage, and what is asked of them.

Nothing here writes to the workdir; the order in which a run uses this is in `training/loop.py`.
"""

import dataclasses
import functools
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from rnnlab.config.errors import ConfigError
from rnnlab.diagnostics import Decay, decay_per_step, gradient_reach, memory_horizon
from rnnlab.diagnostics.diagnosis import ONE_ANSWER
from rnnlab.optim.optimizers import waits_for_plateau
from rnnlab.parallel import devices, processes
from rnnlab.parallel.sharding import ALL_AXES, row_parts
from rnnlab.records.run_config import resolve_config, task_stages
from rnnlab.tasks import Batch, Split, StreamTask
from rnnlab.training import footprint
from rnnlab.training.curriculum import Curriculum
from rnnlab.training.early_stopping import EarlyStopping
from rnnlab.training.evaluation import Pace
from rnnlab.training.host_state import Convergence, HostState, Intervals
from rnnlab.training.metric_sums import on_host
from rnnlab.training.plateau import Plateau
from rnnlab.training.prefetch import Feed
from rnnlab.training.programs import quiet_about_length
from rnnlab.training.stages import make_stages, words_split
from rnnlab.training.state import TrainState
from rnnlab.typing import Array, Float, Int, PyTree


class Run:
    """One configuration made ready: task, mesh and programs, of the curriculum's last stage. Nothing is written yet.

    `task`, `programs` and `data` are those of the stage that was entered last.

    Args:
        config: see `config.resolve_config`.
        data_dir: the data folder.
        mesh: the devices, two axes of them those of `split.ALL_AXES`; if not given, those that the config asks for.

    Raises:
        ConfigError: a mistake in the config or the data.
    """

    def __init__(self, config: ConfigDict | Mapping[str, Any], data_dir: str | None = None, mesh: Mesh | None = None):
        self.config = config = resolve_config(config)
        self.sizes, self.seed, self.flight_recorder = sizes_of(config), config["seed"], config["flight_recorder"]
        if mesh is None:
            devices.tune_host(config["batch_size"], config["devices"])
            mesh = devices.make_mesh(config["batch_size"], config["devices"], words_split(config))
        self.mesh = mesh
        with quiet_about_length():
            eval_rows = self._whole_width(config["eval_batch_size"])
            self.stages, self.embeddings = make_stages(config, data_dir, mesh, eval_rows)
        self.feed: Feed | None = None
        self.stage = -1
        self._fitting: set[tuple[int, Split]] = set()
        """(Stage, split) of the programs that are known to fit into memory."""
        self._paces: defaultdict[tuple[int, Split], Pace] = defaultdict(Pace)
        for programs in self.stages:
            footprint.check_state(programs, self.sizes)
        self.enter(len(self.stages) - 1)

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
            footprint.check_batch(programs, self.sizes, "train", self.config["batch_size"])
        return self._placed(np.arange(self.config["batch_size"], dtype=np.uint32))

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
        config = self.config
        self.feed = Feed(self.task, self.mesh, config["batch_size"], config["seed"]) if reads else None
        curriculum = self.config["curriculum"]
        self.label: dict[str, Any] = {}
        """The stage's value under its field's name; empty without a curriculum."""
        if curriculum is not None:
            self.label = {curriculum["field"]: task_stages(self.config)[stage][curriculum["field"]]}

    @property
    def brakes(self) -> dict[str, Any]:
        """The two numbers of the optimiser that a diverged run may need lower."""
        return {name: self.config["optimizer"][name] for name in ("learning_rate", "clip_norm")}

    @property
    def intervals(self) -> Intervals:
        """When something is due."""
        return intervals_of(self.config)

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
            known = ", ".join(self.programs.metric_names)
            raise ConfigError(f"{path}: unknown metric {metric!r}; this task has: {known}")
        return 1.0 if metric in self.task.larger_is_better else -1.0

    def data_at(self, step: int) -> PyTree:
        """What a training program is given as the data of the batch of this step."""
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
        """What the config's diagnostics find in the step after this state: `Programs.observe`."""
        return processes.on_host(self.programs.observe(state, self.data_at(int(state.step)), self.rows))

    def with_rate_scale(self, state: TrainState, scale: float) -> TrainState:
        """The state with another factor of the learning rate."""
        return dataclasses.replace(state, rate_scale=devices.replicate(self.mesh, jnp.float32(scale)))

    def at_stage(self, state: TrainState) -> TrainState:
        """The state as it enters a stage: its means are of the stage alone, and so is what a stream goes on from."""
        carry = None if state.carry is None else self.programs.start(self.config["seed"]).carry
        return dataclasses.replace(self.with_empty_sums(state), carry=carry)

    def with_empty_sums(self, state: TrainState) -> TrainState:
        """The state as right after a log step."""
        zeros = {name: jnp.zeros_like(total) for name, total in state.sums.items()}
        return dataclasses.replace(state, sums=devices.replicate(self.mesh, zeros))

    def _whole_width(self, rows: int) -> int:
        """So many rows, or fewer, that every device has as many."""
        count = row_parts(self.mesh)
        return max(1, rows // count) * count

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
        return self._whole_width(streams or min(self.config["eval_batch_size"], self._size(split)))

    def _size(self, split: Split) -> int:
        size = self.task.size(split)
        if size is None:
            raise ConfigError(f"the {split} split of this task has no end; evaluate validation or test")
        return size

    def _placed(self, rows: np.ndarray) -> jax.Array:
        """Rows [B], every device's own on it: where the programs want them, else they go there at every dispatch."""
        own = NamedSharding(self.mesh, PartitionSpec(ALL_AXES))
        return jax.make_array_from_callback(rows.shape, own, lambda where: rows[where])

    def described(self, values: dict[str, Any]) -> dict[str, Any]:
        """The means of a split with the metrics that follow from them."""
        return values | self.task.derived(values)

    def gradient_flow(self, states: Mapping[str, TrainState]) -> dict[str, dict[str, list[float]]]:
        """`flow_norms` of each state, as lists."""
        measure = jax.jit(self.flow_norms, out_shardings=NamedSharding(self.mesh, PartitionSpec()))
        found = {when: measure(state, self.data) for when, state in states.items()}
        return {
            when: {layer: np.asarray(norms).tolist() for layer, norms in layers.items()}
            for when, layers in found.items()
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
        return gradient_reach(self.programs.network(state.evaluated, state.buffers), self.task, batch)

    def memory_horizon(self, flow: Mapping[str, list[float]]) -> dict[str, Any]:
        """For summary.json, from a `gradient_flow`: of every layer the gradient's factor per step back in time, its
        half-life and its horizon in steps (`diagnostics.memory_horizon`), beside the task's longest dependency."""
        found: dict[str, Any] = {"longest_dependency": self.task.longest_dependency}
        if self.task.readout == "every":
            found["note"] = ONE_ANSWER
        for layer, norms in flow.items():
            forward = np.array(norms[::-1] if layer.endswith(" reverse") else norms)
            decay, horizon = _decay_and_horizon(forward, self.task.longest_dependency)
            found[layer] = {
                "factor": float(decay.factor),
                "half_life": float(decay.half_life),
                "horizon": int(horizon),
            }
        return found


@functools.partial(jax.jit, static_argnums=1)
def _decay_and_horizon(norms: Float[Array, " T"], longest_dependency: int | None) -> tuple[Decay, Int[Array, ""]]:
    return decay_per_step(norms), memory_horizon(norms, longest_dependency)


def intervals_of(config: Mapping[str, Any]) -> Intervals:
    """When a resolved config wants what."""
    every = config["diagnostics_every"] if config["diagnostics"] else None
    return Intervals(config["steps"], config["log_every"], config["eval_every"], config["checkpoint_every"], every)


def sizes_of(config: Mapping[str, Any]) -> footprint.Sizes:
    """The fields of a resolved config that a line about memory names."""
    model, features = config["model"], config["model"]["cell"].get("features")
    return footprint.Sizes(
        batch={name: config[name] for name in ("batch_size", "eval_batch_size")},
        lengths={f"task.{n}": config["task"][n] for n in ("length", "window", "longest") if n in config["task"]},
        network=({} if features is None else {"model.cell.features": features})
        | ({} if model["layers"] == 1 else {"model.layers": model["layers"]}),
        embedding={} if model["embedding"] is None else {"model.embedding": model["embedding"]},
    )


def make_host_state(
    config: Mapping[str, Any], solved: tuple[str, float] | None, sign: Callable[[str, str], float]
) -> HostState:
    """What the host of a run with this resolved config remembers as it begins.

    Args:
        solved: of the task; see `Convergence`.
        sign: (metric, path of the field that names it) -> 1 for a metric of which more is better, else -1.

    Raises:
        ConfigError: a metric that the task does not have.
    """
    watched, curriculum, metric = config["early_stopping"], config["curriculum"], config["early_stopping"]["metric"]
    better = sign(metric, "early_stopping.metric")
    stopping = EarlyStopping(metric, better, watched["patience"], watched["min_change"])
    named = (curriculum or {}).get("metric")
    stages = Curriculum(curriculum, 1.0 if named is None else sign(named, "curriculum.metric"))
    schedule = config["optimizer"]["schedule"] if waits_for_plateau(config["optimizer"]) else None
    plateau = None if schedule is None else Plateau(schedule, metric, better)
    convergence = Convergence(solved, 1.0 if solved is None else sign(solved[0], "task"))
    return HostState(intervals_of(config), stopping, stages, convergence, plateau)
