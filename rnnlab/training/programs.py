"""The pure, compiled programs of a run: make a state, make many updates, evaluate a split, over pytrees.

They are made of a `Structure` (`training/structure.py`). One update is in `training/update.py`, the order in which a
run calls them in `training/loop.py`.
"""

import contextlib
import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.extend.core import ClosedJaxpr
from jax.sharding import Mesh, PartitionSpec

from rnnlab.diagnostics.probe import Probe
from rnnlab.ops.linear import check_precision
from rnnlab.parallel.sharding import ALL_AXES, placed_shapes, row_parts
from rnnlab.tasks import Split, StreamTask
from rnnlab.training.constants import check_constants, constant_numbers
from rnnlab.training.evaluation import Evaluation, Pace, Sums, in_parts
from rnnlab.training.metric_sums import is_weight
from rnnlab.training.observation import probe_of
from rnnlab.training.prefetch import data_shapes, data_specs
from rnnlab.training.state import TrainState
from rnnlab.training.structure import Numbers, Structure
from rnnlab.training.update import RUNNING, Update
from rnnlab.typing import Array, Int, PyTree


class Programs:
    """The compiled programs of one structure, for any seed and any numbers.

    Args:
        structure: of what is trained.
        mesh: the devices that the batch is split over, those along `MODEL_AXIS` as many as share the softmax's words.
        batch_size: of all devices together.
        log_every: how many steps `sums` run over.
        measures: the measures of `observe`, by name.
        stops_at_spikes: whether `train` returns right after a step that was a spike.
        embedding: the table [V, E] that a run starts from instead of an initialised one.

    Raises:
        ConfigError: devices that cannot compute as they are asked to, a measure that is not defined for this network,
            or a module that keeps an array where no program looks for it.
    """

    def __init__(
        self,
        structure: Structure,
        mesh: Mesh,
        *,
        batch_size: int,
        log_every: int,
        measures: Mapping[str, Callable[[Probe], PyTree]] | None = None,
        stops_at_spikes: bool = False,
        embedding: np.ndarray | None = None,
    ):
        self.structure, self.task, self.numbers = structure, structure.task, structure.numbers
        self.mesh, self.batch_size = mesh, batch_size
        self.embedding, self.stops_at_spikes = embedding, stops_at_spikes
        self.data_shapes = data_shapes(self.task, batch_size)
        self.update = Update(structure, batch_size, log_every)
        self.evaluation = Evaluation(structure, row_parts(mesh))
        if structure.precision != "highest":
            check_precision(mesh.local_devices[0], structure.precision)
        numbers = dict.fromkeys(self.numbers, jax.ShapeDtypeStruct((), jnp.float32))
        self.shapes = jax.eval_shape(self.initialize_shard, numbers, jnp.int32(0), embedding)
        """Shapes of a state's leaves, each of them whole; a carry has all rows of the batch."""
        others = (*RUNNING, "clipped")
        names = (name for name in self.shapes.sums if name not in others and not is_weight(name))
        self.metric_names = tuple(name for name in names if name.split("/")[0] not in ("penalty", "newton"))
        self._compile()
        self.observe = self.observer(measures or {})
        if measures:  # One that is not defined for this network says so here.
            rows = jax.ShapeDtypeStruct((batch_size,), jnp.uint32)
            jax.eval_shape(self.observe, self.shapes, self.data_shapes, rows)

    def _compile(self) -> None:
        """Spreads each device's share over the mesh. Programs are compiled as they are called first."""
        split, replicated, rows = self.structure.split, PartitionSpec(), PartitionSpec(ALL_AXES)
        data = data_specs(self.data_shapes)
        spread = functools.partial(jax.shard_map, mesh=self.mesh, check_vma=False)
        params = split.specs(self.shapes.params)
        fields = len(dataclasses.fields(TrainState)) - 1
        self.lies = lies = dataclasses.replace(
            TrainState(*[replicated] * fields, carry=rows),  # pyright: ignore
            params=params,
            average=split.specs(self.shapes.average),
            optimizer=split.specs(self.shapes.optimizer),
        )
        """Where the parts of a state lie on the mesh."""
        first = functools.partial(
            self.initialize_shard, batch=self.batch_size // row_parts(self.mesh), part_of=split.local
        )
        self.initialize = jax.jit(spread(first, in_specs=replicated, out_specs=lies))
        in_specs = (lies, data, replicated, rows)
        self.train = jax.jit(spread(self.train_shard, in_specs=in_specs, out_specs=lies), donate_argnums=0)
        self._spread_observer = functools.partial(spread, in_specs=(lies, data, rows), out_specs=replicated)
        whole, sums = (params, replicated, replicated, rows), Sums(rows, rows)  # pyright: ignore
        self.begin_sums: Callable[..., Sums] = jax.jit(
            lambda name, *args: spread(functools.partial(self.evaluation.begin, name), in_specs=whole, out_specs=sums)(
                *args
            ),
            static_argnums=0,
        )
        """(split, params, buffers, data, rows of a batch) -> the sums of an evaluation before its first batch."""
        self.add_batches: Callable[..., tuple[Sums, dict[str, Any]]] = jax.jit(
            lambda name, size, *args: spread(
                functools.partial(self.evaluation.add, name, size),
                in_specs=(*whole, sums, replicated, replicated),
                out_specs=(sums, replicated),
            )(*args),
            static_argnums=(0, 1),
        )
        """(split, size, params, buffers, data, rows, sums, first, until) -> (the sums with the batches from first to
        before until, the means so far); size: how many examples of the split count."""

    # --- each device's share: `ALL_AXES` are mapped ------------------------------------------------------------------

    def initialize_shard(
        self,
        numbers: Numbers,
        seed: Int[jax.Array, ""],
        embedding: Array | None,
        batch: int | None = None,
        part_of: Callable[[PyTree], PyTree] = lambda params: params,
    ) -> TrainState:
        """The state before the first step. batch: this device's rows of a carry, all of the batch if not given;
        part_of: takes a device's part of the parameters."""
        structure = self.structure
        network = structure.initial_network(numbers, seed)
        if embedding is not None and network.embedding is not None:
            more = network.embedding[...].shape[0] - embedding.shape[0]
            network.embedding[...] = jnp.pad(embedding, ((0, more), (0, 0))) if more else embedding
        _, params, buffers = nnx.split(network, nnx.Param, ...)
        params, buffers = nnx.to_pure_dict(params), nnx.to_pure_dict(buffers)
        sums = functools.partial(self.update.sums, graphdef=structure.graphdef)
        program, names = jax.make_jaxpr(sums, return_shape=True)(params, buffers, self.data_shapes, seed)
        check_constants(program)
        carry = network.first_carries(batch or self.batch_size) if isinstance(self.task, StreamTask) else None
        params = part_of(params)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            seed=seed,
            finite=jnp.ones((), bool),
            params=params,
            buffers=buffers,
            average=params if structure.averages else None,
            optimizer=structure.optimizer(numbers).init(params),  # pyright: ignore[reportArgumentType]
            numbers=dict(numbers),
            sums=dict.fromkeys((*names, *RUNNING), jnp.zeros((), jnp.float32)),
            rate_scale=jnp.ones((), jnp.float32) if structure.waits_for_plateau else None,
            carry=carry,
        )

    def train_shard(self, state: TrainState, data: PyTree, until: jax.Array, rows: jax.Array) -> TrainState:
        """Updates until state.step is `until`, or a loss or gradient is not finite; see also `stops_at_spikes`.

        rows: this device's rows of the batch [B / devices].
        """

        def goes_on(s: TrainState) -> jax.Array:
            calm = s.spikes.total == state.spikes.total if self.stops_at_spikes else True
            return (s.step < until) & s.finite & calm

        return lax.while_loop(goes_on, lambda s: self.update(s, data, rows), state)

    # --- for the host ------------------------------------------------------------------------------------------------

    @functools.cached_property
    def like(self) -> TrainState:
        """Shapes and places of a state's leaves, by which a checkpoint is restored; nothing is compiled for it."""
        return placed_shapes(self.mesh, self.shapes, self.lies)

    def start(self, seed: int) -> TrainState:
        """The state before the first step, for a seed and the config's numbers."""
        with quiet_about_length():
            return self.initialize(
                {k: jnp.float32(v) for k, v in self.numbers.items()}, jnp.int32(seed), self.embedding
            )

    def evaluate(
        self,
        split: Split,
        size: int,
        params: PyTree,
        buffers: PyTree,
        data: PyTree,
        rows: jax.Array,
        pace: Pace | None = None,
        halts: Callable[[], bool] | None = None,
    ) -> dict[str, Any]:
        """Means over the first `size` examples of a split, for `metric_sums.on_host`. rows: of an evaluation batch; the
        rest as of `evaluation.in_parts`."""
        whole = params, buffers, data, rows
        part = functools.partial(self.add_batches, split, size, *whole)
        return in_parts(part, self.begin_sums(split, *whole), -(-size // rows.shape[0]), pace or Pace(), halts)

    def observer(self, measures: Mapping[str, Callable[[Probe], PyTree]]) -> Callable[..., dict[str, Any]]:
        """(state, data, rows) -> {name: what this measure says of the update that `train` will make next}.

        A program of its own, so that a watched run stays bit for bit the run that is not watched: otherwise rounding
        alone would part the two after the first explosion.
        """

        def observe(state: TrainState, data: PyTree, rows: jax.Array) -> dict[str, Any]:
            probe = probe_of(self.update, state, data, rows)
            return {name: measure(probe) for name, measure in measures.items()}

        return jax.jit(self._spread_observer(observe))

    def constants(self, others: Mapping[str, float]) -> list[str]:
        """The numbers of the model that stand in the program as constants; see `constants.constant_numbers`."""
        state = self.shapes

        def program(graphdef: Any) -> ClosedJaxpr:
            sums = functools.partial(self.update.sums, graphdef=graphdef)
            return jax.make_jaxpr(sums)(state.params, state.buffers, self.data_shapes, state.seed)

        return constant_numbers(self.structure, program, others)


@contextlib.contextmanager
def quiet_about_length() -> Iterator[None]:
    """JAX warns where it traces sequences that are longer than an int32 counts, before anybody can refuse them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Explicitly requested dtype int64")
        yield
