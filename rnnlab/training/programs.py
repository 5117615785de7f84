"""The pure, compiled programs of a run: make a state, train many steps, evaluate a split, over pytrees.

The order in which a run calls them is in `training/loop.py`.
"""

import contextlib
import dataclasses
import functools
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr
from jax.sharding import Mesh, PartitionSpec

from rnnlab.config.errors import ConfigError
from rnnlab.config.numbers import merge_numbers
from rnnlab.config.schema import lookup
from rnnlab.diagnostics import DIAGNOSTICS
from rnnlab.diagnostics.probe import Probe
from rnnlab.engine import Taps
from rnnlab.nn.network import Carries, LayerRun, Network
from rnnlab.nn.softmax import SoftmaxOptions
from rnnlab.nn.trajectory import of_runs
from rnnlab.ops.random_streams import Training, high_word, seed_of_span, stream
from rnnlab.ops.safe_norms import global_norm
from rnnlab.optim.optimizers import make_clipping, make_optimizer, waits_for_plateau
from rnnlab.optim.penalties import terms, weight_penalty
from rnnlab.optim.terms import Weights
from rnnlab.parallel.devices import check_compute
from rnnlab.parallel.sharding import ALL_AXES, MODEL_AXIS, UNSPLIT, row_parts, sum_over_devices
from rnnlab.records.run_config import traced_numbers
from rnnlab.tasks import Batch, Split, StreamTask, Task
from rnnlab.training.evaluation import Pace, Sums, in_parts
from rnnlab.training.loss import batch_loss
from rnnlab.training.metric_sums import is_weight, of_split, of_step
from rnnlab.training.prefetch import data_shapes, data_specs
from rnnlab.training.state import TrainState
from rnnlab.training.update import RUNNING, BatchGradients, updated
from rnnlab.typing import Array, Float, Int, PyTree


class Programs:
    """The compiled programs of one configuration, for any seed and any numbers.

    Args:
        model, optimizer: resolved config sections.
        task: where batches and the loss come from.
        mesh: the devices that the batch is split over, those along `MODEL_AXIS` as many as share the softmax's words.
        batch_size: of all devices together.
        run_steps: length of the run, for schedules.
        log_every: how many steps `sums` run over.
        averaging: resolved section, None for no averaged weights.
        penalties: resolved section.
        diagnostics: names in `DIAGNOSTICS`, of what `observe` measures.
        stops_at_spikes: whether `train` returns right after a step that was a spike.
        embedding: the table [V, E] that a run starts from instead of an initialised one.
    """

    def __init__(
        self,
        model: dict[str, Any],
        optimizer: dict[str, Any],
        task: Task,
        mesh: Mesh,
        batch_size: int,
        run_steps: int,
        log_every: int,
        averaging: dict[str, Any] | None = None,
        penalties: dict[str, Any] | None = None,
        diagnostics: tuple[str, ...] = (),
        stops_at_spikes: bool = False,
        embedding: np.ndarray | None = None,
    ):
        self.embedding, self.stops_at_spikes = embedding, stops_at_spikes
        self.task, self.mesh, self.batch_size = task, mesh, batch_size
        self.data_shapes = data_shapes(task, batch_size)
        self.run_steps, self.log_every = run_steps, log_every
        if model.get("bidirectional") and task.causal:
            raise ConfigError("model.bidirectional: this task needs False; a second direction reads what is to come")
        model = _with_words_split(model, mesh.shape[MODEL_AXIS])
        self.structure, self.numbers = traced_numbers(
            {"model": model, "optimizer": optimizer, "averaging": averaging, "penalties": penalties}
        )
        network = nnx.eval_shape(lambda: self._network(self.numbers, jnp.int32(0)))
        self.graphdef = nnx.graphdef(network)
        self.word_leaves, self.split = network.word_leaves(), UNSPLIT
        self.built = network.built_parameters()
        if mesh.shape[MODEL_AXIS] > 1:
            self.split = self.word_leaves
            network.take_part()
        self._own_graphdef = nnx.graphdef(network)
        if model.get("compute", "float32") != "float32":
            check_compute(mesh, model["compute"])
        self.backend = network.layers[0].backend
        state = jax.eval_shape(self.initialize_shard, self.numbers, jnp.int32(0), embedding)
        self.shapes = state
        """Of a state's leaves, each of them whole; of a carry one for all rows."""
        others = (*RUNNING, "clipped")
        names = (name for name in state.sums if name not in others and not is_weight(name))
        self.metric_names = tuple(name for name in names if not _is_penalty(name))

        replicated, rows, data = PartitionSpec(), PartitionSpec(ALL_AXES), data_specs(self.data_shapes)
        spread = functools.partial(jax.shard_map, mesh=mesh, check_vma=False)
        params = self.split.specs(state.params)
        places = dataclasses.replace(
            TrainState(*[replicated] * (len(dataclasses.fields(TrainState)) - 1), carry=rows),  # pyright: ignore
            params=params,
            average=self.split.specs(state.average),
            optimizer=self.split.specs(state.optimizer),
        )
        self._spread_step = functools.partial(spread, in_specs=(places, data, rows), out_specs=replicated)
        first = functools.partial(self.initialize_shard, batch=batch_size // row_parts(mesh), own=self.split.local)
        self.initialize = jax.jit(spread(first, in_specs=replicated, out_specs=places))
        in_specs = (places, data, replicated, rows)
        self.train = jax.jit(spread(self.train_shard, in_specs=in_specs, out_specs=places), donate_argnums=0)
        self.observe = self.observer({name: lookup(DIAGNOSTICS, name, "diagnostics") for name in diagnostics})
        if diagnostics:  # One that is not defined for this network says so here.
            jax.eval_shape(self.observe, state, self.data_shapes, jax.ShapeDtypeStruct((batch_size,), jnp.uint32))
        whole, sums = (params, replicated, replicated, rows), Sums(rows, rows)  # pyright: ignore
        self._begin_sums = jax.jit(
            lambda split, *args: spread(
                functools.partial(self.begin_sums_shard, split), in_specs=whole, out_specs=sums
            )(*args),
            static_argnums=0,
        )
        self._evaluate = jax.jit(
            lambda split, size, *args: spread(
                functools.partial(self.evaluate_shard, split, size),
                in_specs=(*whole, sums, replicated, replicated),
                out_specs=(sums, replicated),
            )(*args),
            static_argnums=(0, 1),
        )

    # --- pieces ------------------------------------------------------------------------------------------------------

    def _network(self, numbers: dict[str, Any], seed: jax.Array) -> Network:
        return Network(
            self.task.in_features,
            self.task.out_features,
            vocabulary=self.task.vocabulary,
            readout=self.task.readout,
            rngs=nnx.Rngs(params=stream(seed, "params")),
            **self._section("model", numbers),
        )

    def network(self, params: PyTree, buffers: PyTree) -> Network:
        """The network with these parameters, all of them whole."""
        return nnx.merge(self.graphdef, params, buffers)

    def _own_network(self, params: PyTree, buffers: PyTree) -> Network:
        """The network of one device, with its part of what is split."""
        return nnx.merge(self._own_graphdef, params, buffers)

    def optimizer(self, numbers: dict[str, Any]) -> optax.GradientTransformationExtraArgs:
        """The optax chain with these numbers."""
        return make_optimizer(self._section("optimizer", numbers), self.run_steps, self.split, self.built)

    def constants(self, others: Mapping[str, float]) -> list[str]:
        """Those of the numbers of the model, the values of `others` beside their own, that stand in the program as
        constants: a function or an attribute of a module holds them as they were when it was built."""

        def text(numbers: Mapping[str, float]) -> str:
            graphdef = nnx.graphdef(nnx.eval_shape(lambda: self._network(dict(numbers), jnp.int32(0))))
            program = functools.partial(self._metrics, graphdef=graphdef)
            closed = jax.make_jaxpr(program)(state.params, state.buffers, self.data_shapes, state.seed)
            _check_constants(closed)
            held = b"".join(np.asarray(const).tobytes() for const in closed.consts)
            return re.sub(r" at 0x[0-9a-f]+", "", str(closed)) + held.hex()

        others = {name: value for name, value in others.items() if value != self.numbers[name]}
        state = jax.eval_shape(self.initialize_shard, self.numbers, jnp.int32(0), self.embedding)
        own = text(self.numbers)
        if not others or text({**self.numbers, **others}) == own:
            return []
        return [name for name, value in others.items() if text({**self.numbers, name: value}) != own]

    def _section(self, name: str, numbers: dict[str, Any]) -> Any:
        """A resolved section with these numbers."""
        return merge_numbers(self.structure, numbers)[name]

    def _loss(
        self,
        params: PyTree,
        taps: list[list[Taps]] | None,
        buffers: PyTree,
        numbers: dict[str, Any],
        batch: Batch,
        training: Training,
        first: Carries | None = None,
        graphdef: Any = None,
    ) -> Any:
        penalties = self._section("penalties", numbers)
        graphdef = graphdef or self._own_graphdef
        return batch_loss(graphdef, self.task, penalties, params, buffers, batch, training, taps, first)

    def _first_carries(
        self, network: Network, split: Split, positions: Int[Array, " B"], carry: Carries | None
    ) -> Carries | None:
        """What the rows at these positions begin with: where they ended before, or what the network begins with."""
        if not isinstance(self.task, StreamTask) or carry is None:
            return None
        begins = self.task.begins(split, positions)[:, None]
        return jax.tree.map(
            lambda new, old: jnp.where(begins, new, old), network.first_carries(positions.shape[0]), carry
        )

    def _metrics(
        self, params: PyTree, buffers: PyTree, data: PyTree, seed: jax.Array, graphdef: Any = None
    ) -> dict[str, jax.Array]:
        """What a training step sums up: for the names."""
        rows = jnp.zeros(self.batch_size, jnp.uint32)
        batch = self.task.batch(data, seed, "train", rows)
        training = Training(jax.random.key(seed), rows)
        sums = self._loss(params, None, buffers, self.numbers, batch, training, graphdef=graphdef or self.graphdef)[1][
            0
        ]
        of_weights = [term.label for term in terms(self.structure["penalties"]) if term.of_weights]
        sums |= dict.fromkeys(["penalty"] if of_weights else [], sums["loss"])
        sums |= {f"penalty/{label}": sums["loss"] for label in of_weights}
        if make_clipping(self.structure["optimizer"]) is not None:
            sums["clipped"] = sums["loss"]
        return sums

    # --- programs, each device's share: `ALL_AXES` are mapped ---------------------------------------------------------

    def initialize_shard(
        self,
        numbers: dict[str, Any],
        seed: jax.Array,
        embedding: Array | None,
        batch: int | None = None,
        own: Callable[[PyTree], PyTree] = lambda params: params,
    ) -> TrainState:
        """The state before the first step. batch: this device's rows of a carry; all of the batch if not given. own:
        what takes a device's part of the parameters."""
        network = self._network(numbers, seed)
        if embedding is not None and network.embedding is not None:
            more = network.embedding[...].shape[0] - embedding.shape[0]
            network.embedding[...] = jnp.pad(embedding, ((0, more), (0, 0))) if more else embedding
        _, params, buffers = nnx.split(network, nnx.Param, ...)
        params, buffers = nnx.to_pure_dict(params), nnx.to_pure_dict(buffers)
        zero = jnp.zeros((), jnp.float32)
        program, names = jax.make_jaxpr(self._metrics, return_shape=True)(params, buffers, self.data_shapes, seed)
        _check_constants(program)
        carry = network.first_carries(batch or self.batch_size) if isinstance(self.task, StreamTask) else None
        params = own(params)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            seed=seed,
            finite=jnp.ones((), bool),
            params=params,
            buffers=buffers,
            average=None if self.structure["averaging"] is None else params,
            optimizer=self.optimizer(numbers).init(params),  # pyright: ignore[reportArgumentType]
            numbers=numbers,
            sums=dict.fromkeys((*names, *RUNNING), zero),
            rate_scale=jnp.ones((), jnp.float32) if waits_for_plateau(self.structure["optimizer"]) else None,
            carry=carry,
        )

    def train_shard(self, state: TrainState, data: PyTree, until: jax.Array, rows: jax.Array) -> TrainState:
        """Steps until state.step is `until`, or a loss or gradient is not finite; see also `stops_at_spikes`.

        rows: this device's rows of the batch [B / devices].
        """

        def goes_on(s: TrainState) -> jax.Array:
            calm = s.spikes.total == state.spikes.total if self.stops_at_spikes else True
            return (s.step < until) & s.finite & calm

        return lax.while_loop(goes_on, lambda s: self._step(s, data, rows)[0], state)

    def seed_of_examples(self, state: TrainState) -> jax.Array:
        """The seed that the next step's examples are drawn from: the run's, but in an endless stream, whose positions
        have 32 bits, another after every 2^32 examples."""
        if self.task.size("train") is not None or self.run_steps * self.batch_size <= 2**32:
            return state.seed
        return seed_of_span(state.seed, high_word(state.step, self.batch_size))

    def _step(
        self, state: TrainState, data: PyTree, rows: jax.Array, observed: bool = False
    ) -> tuple[TrainState, Probe | None]:
        """The state after one update, and, of an observed step, what diagnostics look at."""
        made = self._gradients(state, data, rows, observed)
        key = jax.random.fold_in(stream(state.seed, "gradient_noise"), state.step)
        updates, optimizer = self.optimizer(state.numbers).update(
            made.gradients, state.optimizer, state.params, key=key, rate_scale=state.rate_scale
        )
        averaging = self._section("averaging", state.numbers)
        after = updated(state, made, updates, optimizer, averaging, self.log_every)  # pyright: ignore[reportArgumentType]
        return after, self._probe(state, made, updates) if observed else None

    def _gradients(self, state: TrainState, data: PyTree, rows: jax.Array, observed: bool) -> BatchGradients:
        """The loss of the next batch with all penalties, its gradients, and what else comes of it."""
        positions = state.step.astype(jnp.uint32) * self.batch_size + rows
        batch = self.task.batch(data, self.seed_of_examples(state), "train", positions)
        key = jax.random.fold_in(stream(state.seed, "network"), state.step)
        training = Training(key, rows, ALL_AXES)
        taps = self._own_network(state.params, state.buffers).make_taps(batch.inputs) if observed else None

        def loss(params: PyTree, taps: list[list[Taps]] | None) -> Any:
            # In here, so that what a stream begins with is trained where it is learned.
            first = self._first_carries(self._own_network(params, state.buffers), "train", positions, state.carry)
            return self._loss(params, taps, state.buffers, state.numbers, batch, training, first)

        (_, (values, weights, buffers, last, seen)), (gradients, flows) = jax.value_and_grad(
            loss, (0, 1), has_aux=True
        )(state.params, taps)
        gradients, values, weight = sum_over_devices((gradients, values, weights.sum()), self.split)
        gradients = jax.tree.map(lambda g: g / weight, gradients)
        values = of_step(values, weight)
        penalties = self._section("penalties", state.numbers)
        if any(term.of_weights for term in terms(penalties)):
            charges, slopes = self._charged_weights(state, penalties)
            gradients = jax.tree.map(jnp.add, gradients, slopes)
            values["penalty"] = values.get("penalty", 0.0) + charges.pop("penalty")
            values |= charges
        return BatchGradients(batch, training, positions, gradients, values, weights, buffers, last, seen, flows)

    def _probe(self, state: TrainState, made: BatchGradients, updates: PyTree) -> Probe:
        """What diagnostics look at in a step, before its update."""
        network = self._own_network(state.params, state.buffers)
        first = self._first_carries(network, "train", made.positions, state.carry)
        runs = [
            LayerRun(layer, x, None if first is None else first[index], h)
            for index, (layer, (x, h)) in enumerate(zip(network.layers, made.seen, strict=True))
        ]
        clipping = make_clipping(self._section("optimizer", state.numbers), self.split)
        clipped = made.gradients
        if clipping is not None:
            clipped, _ = clipping.update(clipped, state.optimizer["clipping"], state.params)
        return Probe(
            of_runs(runs, made.batch.lengths, made.training),
            [_of_rows(tap, made.weights) for layer in made.flows or [] for tap in layer],
            self.split.whole(state.params),
            self.split.whole(made.gradients),
            self.split.whole(clipped),
            self.split.whole(updates),
            ALL_AXES,
            made.values["loss"],
            global_norm(made.gradients, self.split),
            self.task.longest_dependency,
        )

    def begin_sums_shard(self, split: Split, params: PyTree, buffers: PyTree, data: PyTree, rows: jax.Array) -> Sums:
        """Of an evaluation before its first batch; arguments are those of `evaluate_shard`."""
        network = self._own_network(params, buffers)
        carry = network.first_carries(rows.shape[0]) if isinstance(self.task, StreamTask) else None
        of_batch = functools.partial(self._batch_sums, network, split, 1, data, rows)
        totals = jax.eval_shape(of_batch, carry, jnp.int32(0))[1]
        return Sums(carry, jax.tree.map(lambda a: jnp.zeros((1, *a.shape), a.dtype), totals))

    def _charged_weights(self, state: TrainState, penalties: Mapping[str, Any]) -> tuple[dict[str, jax.Array], PyTree]:
        """The penalties of the weights, their sum and each by its name in the metrics, and the sum's gradient."""

        def charge(params: PyTree) -> tuple[jax.Array, dict[str, jax.Array]]:
            return weight_penalty(Weights(params, self._own_network(params, state.buffers).cells()), penalties)

        (total, each), slopes = jax.value_and_grad(charge, has_aux=True)(state.params)
        if self.split:
            rest, words = self.split.parted(state.params)
            cells = self._own_network(state.params, state.buffers).cells()
            whole, parts = weight_penalty(Weights(rest, cells), penalties), weight_penalty(Weights(words), penalties)
            total, each = jax.tree.map(lambda a, b: a + self.split.total(b), whole, parts)
        return {"penalty": total} | {f"penalty/{label}": value for label, value in each.items()}, slopes

    def evaluate_shard(
        self,
        split: Split,
        size: int,
        params: PyTree,
        buffers: PyTree,
        data: PyTree,
        rows: jax.Array,
        sums: Sums,
        first: jax.Array,
        until: jax.Array,
    ) -> tuple[Sums, dict[str, Any]]:
        """The sums with those of the batches from `first` to before `until`, and the means so far, over the first
        `size` examples of a split.

        rows: this device's rows of an evaluation batch.
        """
        network = self._own_network(params, buffers)

        def add(number: jax.Array, sums: Sums) -> Sums:
            carry, found = self._batch_sums(network, split, size, data, rows, sums.carry, number)
            return Sums(carry, jax.tree.map(jnp.add, sums.totals, jax.tree.map(lambda a: a[None], found)))

        sums = lax.fori_loop(first, until, add, sums)
        values, weight = sum_over_devices(jax.tree.map(lambda a: a[0], sums.totals))
        return sums, of_split(values, weight)

    def _batch_sums(
        self,
        network: Network,
        split: Split,
        size: int,
        data: PyTree,
        rows: jax.Array,
        carry: Carries | None,
        number: jax.Array,
    ) -> tuple[Carries | None, PyTree]:
        """Of batch `number`, from 0: what its rows end with, and the sums of their metrics and weights."""
        width = rows.shape[0] * row_parts(self.mesh)
        places = number.astype(jnp.uint32) * width + rows.astype(jnp.uint32)  # Beyond 2^31 where a split ends there.
        inside, positions = places < size, places.astype(jnp.int32)
        batch = self.task.batch(data, jnp.int32(0), split, jnp.minimum(places, size - 1).astype(jnp.int32))
        last: Carries = []
        first = self._first_carries(network, split, positions, carry)
        hidden = network.hidden(batch.inputs, batch.lengths, first=first, last=last)
        values, weights = self.task.score(network.read(hidden, batch.lengths), batch)
        sums = jax.tree.map(lambda v: jnp.where(inside, v, 0).sum(), (values, weights))
        return (None if carry is None else last), sums

    # --- conveniences for the host -----------------------------------------------------------------------------------

    def observer(self, measures: Mapping[str, Callable[[Probe], PyTree]]) -> Callable[..., dict[str, Any]]:
        """(state, data, rows) -> what these measures find in the step that `train` will make next, {name: found}.

        A program of its own: what is watched stays, bit for bit, what it is unwatched, which rounding alone would
        change after the first explosion.
        """

        def observe(state: TrainState, data: PyTree, rows: jax.Array) -> dict[str, Any]:
            _, probe = self._step(state, data, rows, observed=True)
            assert probe is not None
            return {name: measure(probe) for name, measure in measures.items()}

        return jax.jit(self._spread_step(observe))

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
        part = functools.partial(self._evaluate, split, size, *whole)
        return in_parts(part, self._begin_sums(split, *whole), -(-size // rows.shape[0]), pace or Pace(), halts)

    def start(self, seed: int) -> TrainState:
        """The state before the first step, for a seed and the config's numbers."""
        with quiet_about_length():
            return self.initialize(
                {k: jnp.float32(v) for k, v in self.numbers.items()}, jnp.int32(seed), self.embedding
            )


@contextlib.contextmanager
def quiet_about_length() -> Iterator[None]:
    """JAX warns where it traces sequences that are longer than an int32 counts, before anybody can refuse them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Explicitly requested dtype int64")
        yield


def _check_constants(program: ClosedJaxpr) -> None:
    """Raises a ConfigError if a program holds an array from outside that has no value: one that a module made as it was
    built and keeps where nothing finds it."""
    if any(isinstance(const, Tracer) for const in program.consts):
        raise ConfigError(
            "model: a module of the network keeps an array in a function's closure or the like, where no program finds "
            f"it; {KEEP_NUMBERS}"
        )


KEEP_NUMBERS = (
    "keep it as an attribute of the cell (self.name = name), of another module as "
    "rnnlab.ops.activations.hyperparameter(name)"
)
"""What to do about one that is a constant."""


def _is_penalty(name: str) -> bool:
    return name.split("/")[0] == "penalty"


def _with_words_split(model: dict[str, Any], devices: int) -> dict[str, Any]:
    """The section for a softmax whose words so many devices share."""
    softmax = model.get("softmax")
    asked = 1 if softmax is None else SoftmaxOptions(**softmax).split or devices
    if asked != devices:
        raise ValueError(f"a mesh with {devices} devices along {MODEL_AXIS} is not one for model.softmax={softmax}")
    return model if softmax is None else model | {"softmax": {**softmax, "split": devices}}


def _of_rows(tap: Taps, weights: Float[Array, " B"]) -> Taps:
    """Gradients of each row's own mean loss, from those of the sum of all losses."""
    each = 1 / jnp.maximum(weights, 1)
    return jax.tree.map(lambda a: a * each[:, None].astype(a.dtype), tap)
