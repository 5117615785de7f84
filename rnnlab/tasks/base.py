"""A task gives examples by index, and a score. Everything here is pure and runs inside the compiled step.

An example is a function of (key, split, index), a batch of (seed, step): so a resumed run, a run on more devices and a
longer run see the same data.
"""

import abc
import dataclasses
import functools
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnnlab.config.declared import attributes, declare_options
from rnnlab.config.schema import resolve
from rnnlab.ops.random_streams import stream
from rnnlab.tasks.augmentation import Augmentation, AugmentationOptions, Augmented
from rnnlab.typing import Array, Bool, Float, Int, Num, PRNGKeyArray, PyTree

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


BLOCK = "block"
"""Where the `data` of a task with a `reader` has its `Block`."""


class Example(NamedTuple):
    """One sequence."""

    inputs: Num[Array, " T *D"]
    targets: Any
    length: Int[Array, ""] | None = None
    """Valid steps, if not all T of them."""
    resets: Bool[Array, " T"] | None = None
    """The steps at which the row begins anew, with the network's own first carry; None: nowhere after the first."""


class Batch(NamedTuple):
    """Sequences side by side, time first."""

    inputs: Num[Array, "T B *D"]
    targets: Any
    """[B, ...] for a readout at the last step, [T, B, ...] for one at every step."""
    lengths: Int[Array, " B"] | None
    resets: Bool[Array, "T B"] | None = None
    """The steps at which rows begin anew."""


class Weighted(NamedTuple):
    """A metric that is not averaged over what the loss is averaged over, as one over ten of seventy steps."""

    sums: Float[Array, " B"]
    """Per row, over what counts."""
    weights: Float[Array, " B"] | float
    """Per row, or one for every row, how much counts. Where it is 0 for all rows, there is no such metric."""


@functools.partial(jax.tree_util.register_dataclass, data_fields=["first", "examples"], meta_fields=["batch_size"])
@dataclasses.dataclass(frozen=True)
class Block:
    """The training examples of some consecutive steps, read on the host: see `rnnlab.training.prefetch`."""

    first: Int[Array, ""]
    """The position of the first in the endless stream of examples."""
    examples: Example
    """Arrays [steps, rows of the batch, ...]; a device has its own rows."""
    batch_size: int

    def at(self, positions: Int[Array, " B"]) -> Example:
        """The rows of the step that these positions, one for each row, are of."""
        number = (positions[0].astype(jnp.uint32) - self.first) // self.batch_size
        return jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, number, keepdims=False), self.examples)


@typing.dataclass_transform(kw_only_default=True, field_specifiers=(dataclasses.field,))
class Task(abc.ABC):
    """A source of examples and their score.

    A subclass declares its options as annotated attributes, as a dataclass does: they are arguments of its constructor,
    fields of `task` in a config, and attributes. An annotation of a name below is not an option. In `initialize`
    it sets `in_features` (D; of tokens: the vocabulary's size, also as `vocabulary`), `out_features` and whatever else
    follows from the options, and it writes `size`, `example` and `score`. Large arrays go to `data`: they are put on
    the devices once and come back as an argument.
    """

    Options: ClassVar[type] = dataclasses.make_dataclass("Task", (), frozen=True)
    """The frozen dataclass of the options."""
    in_features: int
    out_features: int
    vocabulary: int | None = None
    causal: bool = False
    """Whether later inputs give an answer away, so that no layer may read backwards."""
    readout: Literal["last", "every"] = "last"
    by_length: ClassVar[bool] = False
    """Whether validation and test go from the shortest example to the longest."""
    larger_is_better: ClassVar[frozenset[str]] = frozenset()
    """The metrics of which more is better; of a loss or an error less is."""
    shares: ClassVar[frozenset[str]] = frozenset()
    """The metrics that lie between 0 and 1."""
    data: PyTree = None
    baselines: Mapping[Split, float] = {}
    """The loss on validation and test of the best answer that ignores the input, as training shows it; for figures."""
    solved: tuple[str, float] | None = None
    """(Metric, value) of a validation that counts as having solved the task, for how fast a run converges."""
    longest_dependency: int | None = None
    """How many steps back an answer may depend on the input."""
    data_seed = 0  # Not annotated, so that a task may have it as an option, and so is the next.
    """Seed of what is fixed across runs: validation, test, and a fixed training set."""
    packed = False
    """Whether a training example is several short ones in a row, told apart by `resets`."""
    classes: tuple[str, ...] | None = None
    """The name of each class, where each row is of one: `rnnlab.evaluate` then shows which are taken for which."""
    words: tuple[str, ...] | None = None
    """The name of each token of the vocabulary, for pretrained embeddings."""
    image_shape: tuple[int, int] | None = None
    """(Height, width), where every example is one image, of one channel or several."""
    reading_order: np.ndarray | None = None
    """With `image_shape`: which value of the image, counted channel by channel and in each row by row from the top,
    each of the T · D inputs is. Inputs behind them, such as noise, are no part of the image."""
    augmentation: Augmentation | None = None
    reader: Callable[[np.ndarray], Example] | None = None
    """Where the training set stays on the host: reads the examples at these indices, arrays [*indices.shape, ...].
    Then `data`, a dict, has none of the training set but the `Block` that `with_block` puts there."""

    def __init_subclass__(cls, without: Iterable[str] = (), **keywords: Any) -> None:
        """without: options of its base that a task does not have."""
        super().__init_subclass__(**keywords)
        declare_options(cls, without)

    def __init__(self, *values: Any, **options: Any):
        """The options, by name; values: those of fields that are marked `kw_only=False`."""
        chosen = self.Options(*values, **options)
        for name, (value, _) in attributes(chosen).items():
            setattr(self, name, value)
        self.initialize(chosen)

    def initialize(self, options: Any) -> None:  # noqa: B027
        """Sets what follows from the options, which are attributes already.

        options: all of them, those marked `InitVar` too, which are not attributes.

        Raises:
            ConfigError: options that do not go together, or data that is missing or corrupt.
        """

    @property
    def own_data(self) -> PyTree:
        """`data` without the numbers of an augmentation."""
        return self.data.data if isinstance(self.data, Augmented) else self.data

    @abc.abstractmethod
    def size(self, split: Split) -> int | None:
        """How many examples a split has; None for a training split that never repeats."""

    @abc.abstractmethod
    def example(self, data: PyTree, key: PRNGKeyArray, split: Split, index: Int[Array, ""]) -> Example:
        """Example `index` of a split; all randomness comes from `key`, which is its own for (seed, split, index)."""

    @abc.abstractmethod
    def score(self, outputs: Any, batch: Batch) -> tuple[dict[str, Any], jax.Array]:
        """Per-row sums [B] of "loss" and of any metrics, and the per-row weights [B] that they are divided by; a metric
        that is averaged over something else is `Weighted`.

        outputs: [B, O] or [T, B, O], or with `model.softmax` a `rnnlab.nn.cross_entropy.Distribution`.
        """

    def decided(self, outputs: Any, batch: Batch) -> tuple[Int[Array, " B"], Int[Array, " B"]]:
        """The class that each row has, and the one that the outputs [B, C] take it for; of a task with `classes`."""
        return batch.targets, outputs.argmax(-1)

    def sample(self, count: int) -> np.ndarray:
        """Positions of at most so many validation examples for a closer look: the first or, where they go by length, as
        many from the shortest to the longest."""
        size = self.size("validation") or count
        count = min(count, size)
        last = size - 1 if self.by_length else count - 1
        return np.linspace(0, last, count).round().astype(np.uint32)

    def derived(self, values: dict[str, float]) -> dict[str, float]:
        """Metrics that follow from the means of the others. A `Weighted` one without any weight is not among them."""
        return {}

    def batch(self, data: PyTree, seed: jax.Array, split: Split, positions: Int[Array, " B"]) -> Batch:
        """The examples at these positions of the split's stream.

        Training: position p is example p of an endless stream, or, of a split of n examples, example p mod n of a
        shuffle that is new every epoch. Positions are counted modulo 2^32: a longer run draws an endless stream from
        another seed after each 2^32 examples (`training.update.Update`), and a fixed set begins its first
        epochs' shuffles again there. Validation and test: example p. Augmentation, in training alone, is drawn from
        (seed, p): anew in every epoch of a fixed set, too.
        """
        numbers: dict[str, Any] = {}
        if self.augmentation is not None:
            data, numbers = data
        if split == "train" and self.reader is not None:
            rows: Example = data[BLOCK].at(positions)
        else:
            rows = self._examples(data, seed, split, positions)
        if self.augmentation is not None and split == "train":
            change = self.augmentation

            def augmented(x: jax.Array, length: jax.Array | None, position: jax.Array) -> jax.Array:
                # A stream for each transformation, so that one more leaves the others as they are.
                keys = lambda name: jax.random.fold_in(stream(seed, f"augmentation/{name}"), position)  # noqa: E731
                return change(numbers, keys, x, length)

            rows = rows._replace(inputs=jax.vmap(augmented)(rows.inputs, rows.length, positions.astype(jnp.uint32)))
        time_first = jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), rows.inputs)
        targets = rows.targets
        if self.readout == "every":
            targets = jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), targets)
        return Batch(time_first, targets, rows.length, None if rows.resets is None else rows.resets.T)

    def _examples(self, data: PyTree, seed: jax.Array, split: Split, positions: Int[Array, " B"]) -> Example:
        n = self.size(split)
        fixed = jnp.int32(self.data_seed)
        source = stream(fixed if split != "train" or n is not None else seed, f"examples/{split}")
        index = positions.astype(jnp.uint32)
        if split == "train" and n is not None:
            index = self.order(data, seed, index)
        keys = jax.vmap(lambda i: jax.random.fold_in(source, i))(index)
        return jax.vmap(lambda k, i: self.example(data, k, split, i))(keys, index)

    def order(self, data: PyTree, seed: jax.Array, positions: Int[Array, " B"]) -> Int[Array, " B"]:
        """Which examples stand at these positions of a fixed training set's endless stream."""
        size = self.size("train")
        assert size is not None
        return shuffled(stream(seed, "order"), positions, size)

    def with_block(self, data: PyTree, block: Block) -> PyTree:
        """The data of a task with a `reader`, with the batches of a block."""
        if isinstance(data, Augmented):
            return data._replace(data={**data.data, BLOCK: block})
        return {**data, BLOCK: block}

    def augment(self, section: Mapping[str, Any]) -> None:
        """Turns on what an `augmentation` section asks for; `data` then holds its numbers, too.

        Raises:
            ConfigError: a value out of bounds, or a transformation that this task's inputs do not have.
        """
        section = resolve(AugmentationOptions, section, "augmentation")
        if all(value is None for value in section.values()):
            return
        key = jax.random.key(0)
        if self.reader is not None:
            read = self.reader(np.zeros((), np.int64))
            example: Any = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), read)
        else:
            example = jax.eval_shape(lambda data: self.example(data, key, "train", jnp.uint32(0)), self.data)
        self.augmentation = Augmentation(
            section,
            inputs=example.inputs,
            vocabulary=self.vocabulary,
            readout=self.readout,
            image_shape=self.image_shape,
            reading_order=self.reading_order,
        )
        self.data = Augmented(self.data, self.augmentation.numbers)


class StreamTask(Task):
    """A task in which row r of a batch goes on where row r of the batch before ended: the network's carry is kept."""

    causal = True

    def __init__(self, *values: Any, streams: tuple[int, int] = (1, 1), **options: Any):
        """streams: rows of a batch in training, and in evaluation."""
        self.rows: dict[Split, int] = {"train": streams[0], "validation": streams[1], "test": streams[1]}
        super().__init__(*values, **options)

    def streams(self, split: Split) -> int:
        """How many rows go on side by side: those of every batch."""
        return self.rows[split]

    @abc.abstractmethod
    def begins(self, split: Split, positions: Int[Array, " B"]) -> Bool[Array, " B"]:
        """Which of these positions of the split's stream begin a sequence."""


def shuffled(key: PRNGKeyArray, positions: Int[Array, " B"], size: int) -> Int[Array, " B"]:
    """Positions of an endless stream -> indices below size; every epoch is a permutation, each one another.

    A keyed Feistel network over the smallest even number of bits that holds size, walked along its cycle until it
    falls below size (Black and Rogaway, 2002): the permutation is never stored, so that a batch costs the same
    whatever the size.
    """
    half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    mask = jnp.uint32((1 << half) - 1)
    epoch, offset = positions // size, positions % size

    def one(epoch: jax.Array, offset: jax.Array) -> jax.Array:
        round_keys = jax.random.bits(jax.random.fold_in(key, epoch), (6,), jnp.uint32)

        def encipher(value: jax.Array) -> jax.Array:
            left, right = value >> half, value & mask
            for i in range(6):
                left, right = right, left ^ (_mix(right ^ round_keys[i]) & mask)
            return (left << half) | right

        return jax.lax.while_loop(lambda v: v >= size, encipher, encipher(offset))

    return jax.vmap(one)(epoch.astype(jnp.uint32), offset.astype(jnp.uint32))


def _mix(x: jax.Array) -> jax.Array:
    """MurmurHash3's 32-bit finaliser."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def frequency_loss(training: np.ndarray, shown: np.ndarray) -> float:
    """The cross-entropy, in nats, of answering each of V classes by its share of the training split.

    Args:
        training: how often each occurs there [V]; one that does not counts once where it is shown.
        shown: how often each occurs in the split that is scored [V].
    """
    counts = np.where(shown > 0, np.maximum(training, 1), training).astype(np.float64)
    logarithms = np.log(counts / counts.sum(), where=shown > 0, out=np.zeros(len(counts)))
    return float(-(shown * logarithms).sum() / shown.sum())
