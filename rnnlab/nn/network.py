"""Networks: embed or project the input, stacked recurrent layers and what connects them, and a readout.

What the layers are made of is in `nn/recurrent_layer.py`.
"""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from rnnlab.cells import BaseCell, CellSpec
from rnnlab.config.bounds import PositiveInt
from rnnlab.config.errors import ConfigError
from rnnlab.config.schema import as_options
from rnnlab.engine import Taps, check_lengths, check_range, make_taps
from rnnlab.nn.cross_entropy import Distribution
from rnnlab.nn.recurrent_layer import (
    Attention,
    CotangentOptions,
    DropoutOptions,
    Linear,
    NormalizationOptions,
    Rates,
    RecurrenceOptions,
    RecurrentLayer,
)
from rnnlab.nn.softmax import Softmax, SoftmaxOptions, check_softmax, embed, parts_of_embedding
from rnnlab.ops.initializers import InitializerSpec, as_initializer
from rnnlab.ops.linear import ComputeType, check_width
from rnnlab.ops.normalization import BatchNormalization, LayerNormalization
from rnnlab.ops.random_streams import Training
from rnnlab.parallel.sharding import MODEL_AXIS, UNSPLIT, SplitLeaves, filled, local_rows
from rnnlab.typing import Array, Carry, Float, Int, Shaped

Readout = Literal["last", "every"]
Connections = Literal["plain", "residual", "highway", "skip", "dense"]


class Hidden(NamedTuple):
    """What the stack hands to the readout."""

    h: Float[Array, "T B O"]
    state: Float[Array, "B O"]
    """After the last valid step, of a second direction after the first."""


Carries = list[list[Carry]]
"""Of every layer, of each of its directions."""


class LayerRun(NamedTuple):
    """One layer's input and what ran on it, for diagnostics and penalties that look into the layers."""

    layer: RecurrentLayer
    x: Float[Array, "T B D"]
    first: list[Carry] | None = None
    """What its directions began with, if not with their own initial carries."""
    h: Float[Array, "T B O"] | None = None
    """What it put out."""


class FixedEmbedding(nnx.Variable):
    """A table that is looked up and not trained."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The network of a run."""

    cell: CellSpec
    """The recurrent cell."""
    layers: PositiveInt = 1
    """How many recurrent layers stand on each other."""
    bidirectional: bool = False
    """Whether each layer also reads from the last step to the first."""
    connections: Connections = "plain"
    """How layers are connected, with x_l what layer l sees and f_l the layer:

        plain      x_{l+1} = f_l(x_l)
        residual   x_{l+1} = s(x_l) + f_l(x_l)                              (He et al., 2016)
        highway    x_{l+1} = g ∘ f_l(x_l) + (1 - g) ∘ s(x_l), g = σ(x_l W + b), b = -1 at first
                                                                            (Srivastava et al., 2015)
        skip       x_{l+1} = [x_1, f_l(x_l)]; the readout sees all f_l(x_l) side by side       (Graves, 2013)
        dense      x_{l+1} = [x_l, f_l(x_l)], for the readout too           (Huang et al., 2017)

    where s is the identity, or, between different widths, a linear map (project_shortcuts)."""
    project_shortcuts: bool = True
    """Whether a linear map joins layers of different widths (connections residual and highway)."""
    attention: Literal["dot", "additive"] | None = None
    """The readout sees the weighted mean of h at all steps beside the last state."""
    learned_carry: bool = False
    """Whether what each layer begins with is trained; else it is zero."""
    embedding: PositiveInt | None = None
    """The dimension in which tokens are embedded; None: they are one-hot."""
    embedding_init: InitializerSpec = "small_normal"
    """How the table is drawn."""
    embedding_file: str | None = None
    """Where the table of a run comes from (`Programs` puts it in place of the initial one)."""
    embedding_trained: bool = True
    """Whether steps change the table."""
    input_projection: PositiveInt | None = None
    """The width of a linear layer before the first cell."""
    input_projection_init: InitializerSpec = "glorot_uniform"
    """How its kernel is drawn."""
    readout_init: InitializerSpec = "glorot_uniform"
    """How the readout's kernel is drawn."""
    readout_bias_init: InitializerSpec = "zeros"
    """How the readout's bias is drawn."""
    softmax: SoftmaxOptions | None = None
    """The readout is a distribution over the task's words, whose logits are never held all at once; None: it is
    linear."""
    normalization: NormalizationOptions = NormalizationOptions()
    """Normalisation in the cell and between layers."""
    dropout: DropoutOptions = DropoutOptions()
    """What is dropped in training."""
    cotangent: CotangentOptions = CotangentOptions()
    """What is done to the gradient at each time step of the backward pass."""
    compute: ComputeType = "float32"
    """What the operands of all matrix products are rounded to; parameters, carries and sums stay in float32."""
    recurrence: RecurrenceOptions = RecurrenceOptions()
    """How the engine runs every layer."""


class Network(nnx.Module):
    """embed or project -> layers of cells -> readout.

    Outputs are [B, O] from the state after the last valid step (readout "last") or [T, B, O] ("every"); with `softmax`
    a `Distribution` over the O words there.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        vocabulary: int | None = None,
        readout: Readout = "last",
        rngs: nnx.Rngs,
        **fields: Any,
    ):
        """Inputs are [T, B, D] numbers, or [T, B] tokens below `vocabulary`. The fields are those of `ModelOptions`;
        its sections may be mappings.

        Raises:
            ConfigError: an embedding for inputs that are not tokens, widths that cannot be joined, or a cell that
                cannot run as it is asked to.
        """
        options = as_options(ModelOptions, fields)
        embedding, connections = options.embedding, options.connections
        self.vocabulary = vocabulary
        self.readout_at = readout
        self.connections = connections
        if vocabulary is None and embedding is not None:
            raise ConfigError("model.embedding: this task's inputs are numbers, not tokens; use input_projection")
        self.rates = Rates(
            **{name: getattr(options.dropout, name) for name in ("input", "between", "output", "embedding")}
        )
        self.same_over_time = options.dropout.same_over_time
        if "embedding" in self.rates and embedding is None:
            raise ConfigError("model.dropout.embedding: this network has no embedding; use model.dropout.input")
        if options.attention is not None and readout != "last":
            raise ConfigError(
                "model.attention: this task wants an answer at every step; attention gives one at the end"
            )
        if embedding is None and (options.embedding_file is not None or not options.embedding_trained):
            field = "embedding_trained=False" if options.embedding_file is None else "embedding_file"
            raise ConfigError(f"model.{field}: needs model.embedding, the vectors' dimension")
        self.in_features = in_features = vocabulary or in_features
        self.parts, table = parts_of_embedding(options.softmax, options.embedding_trained), None
        if vocabulary is not None and embedding is not None:
            kind = nnx.Param if options.embedding_trained else FixedEmbedding
            drawn = as_initializer(options.embedding_init)(rngs.params(), (vocabulary, embedding), jnp.float32)
            table = kind(filled(drawn, self.parts))
            in_features = embedding
        self.embedding = table
        self.axis_name: str | None = None
        """Set where this device has a part of the embedding."""
        projection = None
        if options.input_projection is not None:
            inits = {"kernel_init": options.input_projection_init}
            projection = Linear(in_features, options.input_projection, **inits, rngs=rngs)
            in_features = options.input_projection
        self.input_projection = projection

        normalize = options.normalization
        stack, shortcuts, carry_gates, norms = [], [], [], []
        first, out, seen = in_features, 0, 0
        for number in range(options.layers):
            norms.append(_norm(normalize.between if number else normalize.input, in_features, normalize.decay))
            try:
                layer = RecurrentLayer(
                    in_features,
                    cell=options.cell,
                    bidirectional=options.bidirectional,
                    learned_carry=options.learned_carry,
                    recurrence=options.recurrence,
                    cotangent=options.cotangent,
                    dropout=options.dropout,
                    normalization=normalize,
                    name=f"layers/{number}",
                    rngs=rngs,
                )
            except ConfigError:
                raise
            except ValueError as error:
                raise ConfigError(f"model: {error}") from None
            stack.append(layer)
            out = layer.out_features
            shortcut = None
            if connections in ("residual", "highway") and in_features != out:
                if not options.project_shortcuts:
                    raise ConfigError(
                        f"model.connections: a {connections} connection cannot join {in_features} features and {out}; "
                        "make the widths agree (model.input_projection) or set model.project_shortcuts"
                    )
                shortcut = Linear(in_features, out, rngs=rngs)
            shortcuts.append(shortcut)
            if connections == "highway":
                bias = {"name": "constant", "value": -1.0}
                carry_gates.append(Linear(in_features, out, bias_init=bias, rngs=rngs))
            seen += out
            in_features = {"skip": first + out, "dense": in_features + out}.get(connections, out)
        self.layers = nnx.List(stack)
        self.norms = nnx.List(norms)
        self.shortcuts = nnx.List(shortcuts)
        self.highway_gates = nnx.List(carry_gates)
        width = {"skip": seen, "dense": in_features}.get(connections, out)
        self.attention = None if options.attention is None else Attention(width, options.attention, rngs=rngs)
        width *= 1 if options.attention is None else 2
        inits: dict[str, Any] = {"kernel_init": options.readout_init, "bias_init": options.readout_bias_init}
        if options.softmax is None:
            self.readout = Linear(width, out_features, **inits, rngs=rngs)
        else:
            check_softmax(options.softmax, width, out_features, vocabulary, embedding)
            self.readout = Softmax(width, out_features, options.softmax, **inits, rngs=rngs)
        for _, module in nnx.iter_modules(self):
            if hasattr(module, "compute"):
                module.compute = options.compute  # pyright: ignore[reportAttributeAccessIssue]

    def cells(self) -> dict[tuple[str | int, ...], BaseCell]:
        """Every cell by its path in a tree of parameters: ("layers", 0, "cells", 1)."""
        return {
            ("layers", index, "cells", direction): cell
            for index, layer in enumerate(self.layers)
            for direction, cell in enumerate(layer.cells)
        }

    def built_parameters(self) -> frozenset[tuple[str | int, ...]]:
        """The paths of the parameters that cells make their recurrent matrices of: their size says nothing of R."""
        built = {path: cell for path, cell in self.cells().items() if cell.builds_recurrent_matrix}
        return frozenset((*path, name) for path, cell in built.items() for name in cell.recurrent_parameters)

    def word_leaves(self) -> SplitLeaves:
        """The parameters that a softmax over split words has parts of."""
        if not isinstance(self.readout, Softmax):
            return UNSPLIT
        of_embedding = [("embedding",)] if isinstance(self.embedding, nnx.Param) else []
        ends = frozenset([("readout", "word_kernel"), ("readout", "bias"), *of_embedding])
        return SplitLeaves(ends, self.readout.vocabulary)

    def take_part(self) -> None:
        """Makes this the network of one device along `MODEL_AXIS`, which has its part of the words alone."""
        assert isinstance(self.readout, Softmax)
        self.readout.axis_name = MODEL_AXIS
        if isinstance(self.embedding, nnx.Param):
            self.axis_name = MODEL_AXIS

    def embed(self, x: Shaped[Array, "T B *D"], training: Training | None = None) -> Float[Array, "T B D"]:
        """What the first recurrent layer sees, before normalisation."""
        if self.vocabulary is not None:
            if self.embedding is None:
                x = jax.nn.one_hot(x, self.vocabulary, dtype=jnp.float32)  # As the parameters, also where x64 is on.
            else:
                table = self.embedding[...]
                if training is not None and "embedding" in self.rates:
                    mask = training.shared_mask("embedding", self.rates["embedding"], (self.vocabulary, 1))
                    mask = filled(mask, self.parts)
                    mask = mask if self.axis_name is None else local_rows(mask, self.axis_name)
                    table = table * mask
                x = embed(table, x, self.axis_name)
        return x if self.input_projection is None else self.input_projection(x)

    def hidden(
        self,
        x: Shaped[Array, "T B *D"],
        lengths: Int[Array, " B"] | None = None,
        taps: list[list[Taps]] | None = None,
        training: Training | None = None,
        runs: list[LayerRun] | None = None,
        beside: list[Hidden] | None = None,
        first: Carries | None = None,
        last: Carries | None = None,
    ) -> Hidden:
        """What the readout sees, before dropout.

        runs: a list that gets an entry for each layer. beside: zeros that are added to what each layer puts out, its h
        and its last state; their gradients are what reaches a layer from outside of its own recurrence. first: what
        every layer's directions begin with, as `first_carries` has it, which are taken if not given. last: a list that
        gets what they end with.

        Raises:
            ValueError: inputs or lengths that are not this network's, or another number of first carries.
        """
        self._check(x, lengths, first)
        if self.vocabulary is None and not jnp.issubdtype(x.dtype, jnp.inexact):
            x = x.astype(self.layers[0].cells[0].bias[...].dtype)
        inside = None
        if lengths is not None:  # Padding may hold anything, and 0 * NaN in the projection's gradient is NaN.
            inside = jnp.arange(x.shape[0])[:, None] < lengths
            x = jnp.where(inside.reshape(*inside.shape, *[1] * (x.ndim - 2)), x, 0)
        if self.vocabulary is not None:
            check_range(x, 0, self.vocabulary - 1, "tokens of this network")
        x = self.embed(x, training)
        state = x[-1] if lengths is None else _last(x, lengths)
        below, seen = Hidden(x, state), []
        for index, layer in enumerate(self.layers):
            norm = self.norms[index]
            y = x if norm is None else norm(x, lengths, training)
            y = self._drop("between" if index else "input", y, training, f"{index}/")
            ends: list[Carry] = []
            begins = None if first is None else first[index]
            h, end = layer(y, lengths, None if taps is None else taps[index], training, begins, ends)
            if runs is not None:
                runs.append(LayerRun(layer, y, begins, h))
            if last is not None:
                last.append(ends)
            if beside is not None:
                h, end = (jnp.add(*pair) for pair in zip((h, end), beside[index], strict=True))
            seen.append(Hidden(h, end))
            x, state = self._connect(index, below, Hidden(x, state), Hidden(h, end))
        if self.connections == "skip":
            x, state = (jnp.concatenate(parts, -1) for parts in zip(*seen, strict=True))
        return Hidden(x, state)

    def _check(self, x: jax.Array, lengths: jax.Array | None, first: Carries | None) -> None:
        """Raises a ValueError for inputs that are not this network's."""
        tokens = jnp.issubdtype(x.dtype, jnp.integer)
        if self.vocabulary is not None and (x.ndim != 2 or not tokens):
            taken = f"tokens below {self.vocabulary}, integers [T, B]"
            raise ValueError(f"the input is {x.dtype}{list(x.shape)}; this network takes {taken}")
        if self.vocabulary is None and x.ndim != 3:
            taken = f"[T, B, {self.in_features}] (time first)"
            raise ValueError(f"the input has shape {x.shape}; this network takes {taken}")
        if 0 in x.shape[:2]:
            raise ValueError(f"the input has shape {x.shape}: no time steps or no rows")
        if self.vocabulary is None:
            check_width(x, self.in_features, "this network")
        if lengths is not None:
            check_lengths(lengths, x)
        directions = [len(layer.cells) for layer in self.layers]
        if first is not None and list(map(len, first)) != directions:
            raise ValueError(f"first has carries for {list(map(len, first))} directions; the layers have {directions}")

    def first_carries(self, batch: int) -> Carries:
        """What every layer's directions begin with: per layer and direction the carry, [B, H] each."""
        return [layer.first_carry(batch) for layer in self.layers]

    def _connect(self, index: int, first: Hidden, below: Hidden, out: Hidden) -> Hidden:
        """What the next layer sees: `connections`, for the outputs and for the state alike."""
        if self.connections == "plain":
            return out
        if self.connections in ("skip", "dense"):
            beside = first if self.connections == "skip" else below
            return Hidden(*(jnp.concatenate(parts, -1) for parts in zip(beside, out, strict=True)))
        shortcut = self.shortcuts[index] or (lambda a: a)
        if self.connections == "residual":
            return Hidden(*(shortcut(x) + y for x, y in zip(below, out, strict=True)))
        gates = (jax.nn.sigmoid(self.highway_gates[index](x)) for x in below)
        return Hidden(*(g * y + (1 - g) * shortcut(x) for g, x, y in zip(gates, below, out, strict=True)))

    def _drop(self, name: str, x: jax.Array, training: Training | None, prefix: str = "") -> jax.Array:
        """x [T, B, ·] or [B, ·] with its dropout mask."""
        if training is None or name not in self.rates:
            return x
        steps = () if self.same_over_time or x.ndim == 2 else x.shape[:1]
        return x * training.mask(prefix + name, self.rates[name], *steps, x.shape[-1])

    def seen_by_readout(self, hidden: Hidden, training: Training | None = None) -> Float[Array, "*TB O"]:
        """The last state [B, O], or h at every step [T, B, O], after dropout."""
        return self._drop("output", hidden.state if self.readout_at == "last" else hidden.h, training)

    def dropped_output(self, h: Float[Array, "T B O"], training: Training | None = None) -> Float[Array, "T B O"]:
        """h at every step after the dropout before the readout."""
        return self._drop("output", h, training)

    def read(
        self, hidden: Hidden, lengths: Int[Array, " B"] | None = None, training: Training | None = None
    ) -> Float[Array, "*TB O"] | Distribution:
        """Outputs from what `hidden` returned."""
        seen = self.seen_by_readout(hidden, training)
        if self.attention is not None:
            seen = jnp.concatenate([seen, self.attention(*hidden, lengths)], -1)
        if isinstance(self.readout, Softmax):
            return self.readout(seen, None if self.embedding is None else self.embedding[...], training)
        return self.readout(seen)

    def __call__(
        self,
        x: Shaped[Array, "T B *D"],
        lengths: Int[Array, " B"] | None = None,
        taps: list[list[Taps]] | None = None,
        training: Training | None = None,
    ) -> Float[Array, "*TB O"] | Distribution:
        """Outputs for a batch; taps as `make_taps` gives them; training: None for evaluation."""
        return self.read(self.hidden(x, lengths, taps, training), lengths, training)

    def attention_weights(
        self, x: Shaped[Array, "T B *D"], lengths: Int[Array, " B"] | None = None
    ) -> Float[Array, "T B"]:
        """How much each step counts for each row's answer.

        Raises:
            ValueError: a network without attention.
        """
        if self.attention is None:
            raise ValueError("this network has no attention (model.attention)")
        return self.attention.weights(*self.hidden(x, lengths), lengths)

    def make_taps(self, x: Shaped[Array, "T B *D"]) -> list[list[Taps]]:
        """Zeros to differentiate with respect to: one `Taps` per layer and direction."""
        runs: list[LayerRun] = []
        jax.eval_shape(lambda: self.hidden(x, runs=runs).h)
        shapes = [jax.ShapeDtypeStruct(run.x.shape, run.x.dtype) for run in runs]
        return [
            [make_taps(cell, jnp.zeros(shape.shape, shape.dtype)) for cell in layer.cells]
            for layer, shape in zip(self.layers, shapes, strict=True)
        ]


def _norm(kind: str | None, features: int, decay: Any) -> nnx.Module | None:
    if kind == "batch":
        return BatchNormalization(features, decay)
    return LayerNormalization(features) if kind == "layer" else None


def _last(x: Float[Array, "T B D"], lengths: Int[Array, " B"]) -> Float[Array, "B D"]:
    """x at each row's last valid step; its first where it has none."""
    return jnp.take_along_axis(x, jnp.maximum(lengths - 1, 0)[None, :, None], axis=0)[0]
