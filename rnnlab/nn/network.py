"""Networks: embed or project the input, stacked recurrent layers and what connects them, and a readout.

A layer is in `nn/recurrent_layer.py`, the fields of a network in a config in `nn/options.py`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rnnlab.cells import BaseCell
from rnnlab.config.errors import ConfigError
from rnnlab.config.schema import as_options
from rnnlab.engine import Iterations, Taps, check_lengths, check_range, check_resets, make_taps
from rnnlab.nn.attention import Attention
from rnnlab.nn.connections import (
    Carries,
    Hidden,
    LayerRun,
    check_carries,
    connect,
    make_highway_gate,
    make_norm,
    make_shortcut,
    width_after,
)
from rnnlab.nn.cross_entropy import Distribution
from rnnlab.nn.inputs import check_inputs, embed, last_valid, make_table, parts_of_embedding, without_padding
from rnnlab.nn.linear import Linear
from rnnlab.nn.options import Connections, ModelOptions, Readout, check_options
from rnnlab.nn.printing import described
from rnnlab.nn.rates import Rates
from rnnlab.nn.recurrent_layer import RecurrentLayer
from rnnlab.nn.softmax import Softmax, check_softmax
from rnnlab.ops.random_streams import Training
from rnnlab.ops.trees import ShownAsTree
from rnnlab.parallel.sharding import MODEL_AXIS, UNSPLIT, SplitLeaves, filled, local_rows
from rnnlab.typing import Array, Bool, Float, Int, Shaped


class Network(ShownAsTree, nnx.Module):
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
        check_options(options, vocabulary, readout)
        self.vocabulary = vocabulary
        self.readout_at = readout
        self.connections: Connections = options.connections
        self.rates = Rates(
            **{name: getattr(options.dropout, name) for name in ("input", "between", "output", "embedding")}
        )
        self.same_over_time = options.dropout.same_over_time
        self.in_features = in_features = vocabulary or in_features
        self.parts = parts_of_embedding(options.softmax, options.embedding_trained)
        self.embedding = make_table(options, vocabulary, self.parts, rngs)
        self.axis_name: str | None = None
        """Set where this device has a part of the embedding."""
        if self.embedding is not None and options.embedding is not None:
            in_features = options.embedding
        projection = None
        if options.input_projection is not None:
            width, init = options.input_projection, options.input_projection_init
            projection, in_features = Linear(in_features, width, kernel_init=init, rngs=rngs), width
        self.input_projection = projection
        width = self._make_layers(options, in_features, rngs)
        self.attention = None if options.attention is None else Attention(width, options.attention, rngs=rngs)
        width *= 1 if options.attention is None else 2
        inits: dict[str, Any] = {"kernel_init": options.readout_init, "bias_init": options.readout_bias_init}
        if options.softmax is None:
            self.readout = Linear(width, out_features, **inits, rngs=rngs)
        else:
            check_softmax(options.softmax, width, out_features, vocabulary, options.embedding)
            self.readout = Softmax(width, out_features, options.softmax, **inits, rngs=rngs)
        for _, module in nnx.iter_modules(self):
            if hasattr(module, "precision"):
                module.precision = options.precision  # pyright: ignore[reportAttributeAccessIssue]

    def _make_layers(self, options: ModelOptions, in_features: int, rngs: nnx.Rngs) -> int:
        """Makes all layers and what connects them; returns how many features the readout sees."""
        normalize, connections = options.normalization, options.connections
        layers, shortcuts, carry_gates, norms = [], [], [], []
        first, outs = in_features, []
        for number in range(options.layers):
            norms.append(make_norm(normalize.between if number else normalize.input, in_features, normalize.decay))
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
                    precision=options.precision,
                    name=f"layers/{number}",
                    rngs=rngs,
                )
            except ConfigError:
                raise
            except ValueError as error:
                raise ConfigError(f"model: {error}") from None
            layers.append(layer)
            outs.append(layer.out_features)
            shortcuts.append(make_shortcut(options, in_features, layer.out_features, rngs))
            if connections == "highway":
                carry_gates.append(make_highway_gate(in_features, layer.out_features, rngs))
            in_features = width_after(connections, first, in_features, layer.out_features)
        self.layers = nnx.List(layers)
        self.norms = nnx.List(norms)
        self.shortcuts = nnx.List(shortcuts)
        self.highway_gates = nnx.List(carry_gates)
        return sum(outs) if connections == "skip" else in_features

    def __str__(self) -> str:
        return described(self)

    def cells(self) -> dict[tuple[str | int, ...], BaseCell]:
        """Every cell by its path in a tree of parameters: ("layers", 0, "cells", 1)."""
        return {
            ("layers", index, "cells", direction): cell
            for index, layer in enumerate(self.layers)
            for direction, cell in enumerate(layer.cells)
        }

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
        """The input of the first recurrent layer, before normalisation."""
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
        resets: Bool[Array, "T B"] | None = None,
        iterations: list[Iterations] | None = None,
    ) -> Hidden:
        """The readout's input, before dropout.

        runs: a list that gets an entry for each layer. beside: zeros that are added to what each layer puts out, its h
        and its last state; their gradients are what reaches a layer from outside of its own recurrence. first: what
        every layer's directions begin with, else `first_carries`. last, iterations: lists that get what they end with,
        and what the iterations of the backend newton came to. resets: steps at which rows begin anew. taps: zeros.

        Raises:
            ValueError: inputs, lengths or resets that are not this network's, or another number of first carries.
        """
        check_inputs(x, self.vocabulary, self.in_features)
        if lengths is not None:
            check_lengths(lengths, x)
        if resets is not None:
            check_resets(resets, x)
        check_carries(first, self.layers)
        if self.vocabulary is None and not jnp.issubdtype(x.dtype, jnp.inexact):
            x = x.astype(self.layers[0].cells[0].bias[...].dtype)
        x = without_padding(x, lengths)
        if self.vocabulary is not None:
            check_range(x, 0, self.vocabulary - 1, "tokens of this network")
        x = self.embed(x, training)
        state = x[-1] if lengths is None else last_valid(x, lengths)
        below, seen = Hidden(x, state), []
        for index, layer in enumerate(self.layers):
            y = x if (norm := self.norms[index]) is None else norm(x, lengths, training)
            y = self._drop("between" if index else "input", y, training, f"{index}/")
            begins, tap = None if first is None else first[index], None if taps is None else taps[index]
            h, end = layer(y, lengths, tap, training, begins, ends := [], resets, iterations)
            if runs is not None:
                runs.append(LayerRun(layer, y, begins, h, resets))
            if last is not None:
                last.append(ends)
            if beside is not None:
                h, end = (jnp.add(*pair) for pair in zip((h, end), beside[index], strict=True))
            seen.append(Hidden(h, end))
            x, state = self._connect(index, below, Hidden(x, state), Hidden(h, end))
        if self.connections == "skip":
            x, state = (jnp.concatenate(parts, -1) for parts in zip(*seen, strict=True))
        return Hidden(x, state)

    def first_carries(self, batch: int) -> Carries:
        """The carries that every layer's directions begin with, [B, H] each."""
        return [layer.first_carry(batch) for layer in self.layers]

    def _connect(self, index: int, first: Hidden, below: Hidden, out: Hidden) -> Hidden:
        """The next layer's input."""
        if self.connections == "plain":
            return out
        gate = self.highway_gates[index] if self.connections == "highway" else None
        return connect(self.connections, first, below, out, shortcut=self.shortcuts[index], gate=gate)

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
        resets: Bool[Array, "T B"] | None = None,
    ) -> Float[Array, "*TB O"] | Distribution:
        """Outputs for a batch; training: None for evaluation; the others as `hidden` takes them."""
        return self.read(self.hidden(x, lengths, taps, training, resets=resets), lengths, training)

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
