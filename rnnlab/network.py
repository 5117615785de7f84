"""Networks: embed or project the input, stacked recurrent layers in one or both directions, and a readout.

What happens in one step is a cell's (`cells/`), what happens over time the engine's (`recurrence.py`).
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from rnnlab.build import ConfigError, PositiveInt, build
from rnnlab.cells import CELLS, CellSpec
from rnnlab.initializers import InitializerSpec, as_initializer
from rnnlab.linear import ComputeType, affine
from rnnlab.recurrence import Backend, Store, Taps, make_taps, resolve_backend, unroll
from rnnlab.typing import Array, Float, Int, Num

Readout = Literal["last", "every"]


def recurrence_options(
    *, backend: Backend = "auto", chunk: PositiveInt | None = None, unroll_steps: PositiveInt = 1, store: Store = "auto"
) -> dict[str, Any]:
    """How the engine runs every layer; the meanings are those of `rnnlab.unroll`."""
    return {"backend": backend, "chunk": chunk, "unroll_steps": unroll_steps, "store": store}


RecurrenceSpec = Annotated[Mapping[str, Any], recurrence_options]


class Linear(nnx.Module):
    """x W + b, W [D, O]."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        kernel_init: InitializerSpec = "glorot_uniform",
        bias_init: InitializerSpec = "zeros",
        rngs: nnx.Rngs,
    ):
        self.kernel = nnx.Param(as_initializer(kernel_init)(rngs.params(), (in_features, out_features), jnp.float32))
        self.bias = nnx.Param(as_initializer(bias_init)(rngs.params(), (out_features,), jnp.float32))
        self.compute: ComputeType = "float32"

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... O"]:
        return affine(x, self.kernel[...], self.bias[...], self.compute)


class RecurrentLayer(nnx.Module):
    """One layer: a cell over time, or one cell in each direction with their outputs side by side."""

    def __init__(
        self,
        in_features: int,
        *,
        cell: CellSpec,
        bidirectional: bool = False,
        learned_carry: bool = False,
        recurrence: RecurrenceSpec | None = None,
        rngs: nnx.Rngs,
    ):
        """D, the cell's section, and whether the initial carry is trained (zeros at initialisation)."""
        directions = 2 if bidirectional else 1
        self.cells = nnx.List(
            [build(CELLS, cell, "cell", in_features=in_features, rngs=rngs) for _ in range(directions)]
        )
        self.out_features = directions * self.cells[0].features
        options = recurrence_options(**(recurrence or {}))
        self.options = tuple(options.items())  # Hashable, as what is static in a module should be.
        for each in self.cells:
            resolve_backend(each, options["backend"])
        carries = [[nnx.Param(row[0]) for row in each.initial_carry(1)] for each in self.cells]
        self.carries = nnx.List([nnx.List(carry) for carry in carries]) if learned_carry else None

    def __call__(
        self,
        x: Float[Array, "T B D"],
        lengths: Int[Array, " B"] | None = None,
        taps: list[Taps] | None = None,
    ) -> tuple[Float[Array, "T B O"], Float[Array, "B O"]]:
        """Outputs at every step, and the state after the last valid step (in reverse: after the first)."""
        outputs, states = [], []
        for direction, cell in enumerate(self.cells):
            carry = None
            if self.carries is not None:
                rows = self.carries[direction]
                carry = tuple(jnp.broadcast_to(row[...], (x.shape[1], *row.shape)) for row in rows)
            h, last = unroll(
                cell,
                x,
                lengths=lengths,
                reverse=direction == 1,
                initial_carry=carry,
                taps=None if taps is None else taps[direction],
                **dict(self.options),
            )
            outputs.append(h)
            states.append(last[0])
        if len(outputs) == 1:
            return outputs[0], states[0]
        return jnp.concatenate(outputs, -1), jnp.concatenate(states, -1)


class FixedEmbedding(nnx.Variable):
    """A table that is looked up and not trained."""


class Network(nnx.Module):
    """embed or project -> layers of cells -> readout.

    Outputs are [B, O] from the state after the last valid step (readout "last") or [T, B, O] ("every").
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        vocabulary: int | None = None,
        readout: Readout = "last",
        cell: CellSpec,
        layers: PositiveInt = 1,
        bidirectional: bool = False,
        learned_carry: bool = False,
        embedding: PositiveInt | None = None,
        embedding_init: InitializerSpec = "small_normal",
        embedding_file: str | None = None,
        embedding_trained: bool = True,
        input_projection: PositiveInt | None = None,
        input_projection_init: InitializerSpec = "glorot_uniform",
        readout_init: InitializerSpec = "glorot_uniform",
        readout_bias_init: InitializerSpec = "zeros",
        compute: ComputeType = "float32",
        recurrence: RecurrenceSpec = {},  # noqa: B006  (never changed)
        rngs: nnx.Rngs,
    ):
        """Inputs are [T, B, D] numbers, or [T, B] tokens below `vocabulary`, embedded in `embedding` dimensions
        (one-hot if that is None); `input_projection` puts a linear layer of that width before the first cell. `compute`
        is what the operands of all matrix products are rounded to; parameters, carries and sums stay in float32. With
        `embedding_file` the table of a run comes from there (`Programs` puts it in place of the initial one); without
        `embedding_trained` no step changes it.

        Raises:
            ConfigError: an embedding for inputs that are not tokens, or a cell that the backend cannot run.
        """
        self.vocabulary = vocabulary
        self.readout_at = readout
        if vocabulary is None and embedding is not None:
            raise ConfigError("model.embedding: this task's inputs are numbers, not tokens; use input_projection")
        if embedding is None and (embedding_file is not None or not embedding_trained):
            field = "embedding_trained=False" if embedding_file is None else "embedding_file"
            raise ConfigError(f"model.{field}: needs model.embedding, the vectors' dimension")
        in_features = vocabulary or in_features
        table = None
        if vocabulary is not None and embedding is not None:
            kind = nnx.Param if embedding_trained else FixedEmbedding
            table = kind(as_initializer(embedding_init)(rngs.params(), (vocabulary, embedding), jnp.float32))
            in_features = embedding
        self.embedding = table
        projection = None
        if input_projection is not None:
            projection = Linear(in_features, input_projection, kernel_init=input_projection_init, rngs=rngs)
            in_features = input_projection
        self.input_projection = projection
        stack = []
        for _ in range(layers):
            try:
                layer = RecurrentLayer(
                    in_features,
                    cell=cell,
                    bidirectional=bidirectional,
                    learned_carry=learned_carry,
                    recurrence=recurrence,
                    rngs=rngs,
                )
            except ValueError as error:
                raise ConfigError(f"model: {error}") from None
            stack.append(layer)
            in_features = layer.out_features
        self.layers = nnx.List(stack)
        self.readout = Linear(
            in_features, out_features, kernel_init=readout_init, bias_init=readout_bias_init, rngs=rngs
        )
        projections = [] if projection is None else [projection]
        for module in (*(cell for layer in stack for cell in layer.cells), *projections, self.readout):
            module.compute = compute

    def embed(self, x: Num[Array, "T B *D"]) -> Float[Array, "T B D"]:
        """What the first recurrent layer sees."""
        if self.vocabulary is not None:
            x = jax.nn.one_hot(x, self.vocabulary) if self.embedding is None else self.embedding[...][x]
        return x if self.input_projection is None else self.input_projection(x)

    def __call__(
        self,
        x: Num[Array, "T B *D"],
        lengths: Int[Array, " B"] | None = None,
        taps: list[list[Taps]] | None = None,
    ) -> Float[Array, "*TB O"]:
        """Outputs for a batch; taps as `make_taps` gives them."""
        if lengths is not None:  # Padding may hold anything, and 0 * NaN in the projection's gradient is NaN.
            inside = jnp.arange(x.shape[0])[:, None] < lengths
            x = jnp.where(inside.reshape(*inside.shape, *[1] * (x.ndim - 2)), x, 0)
        x = self.embed(x)
        state = x[-1]
        for index, layer in enumerate(self.layers):
            x, state = layer(x, lengths, None if taps is None else taps[index])
        return self.readout(state if self.readout_at == "last" else x)

    def make_taps(self, x: Num[Array, "T B *D"]) -> list[list[Taps]]:
        """Zeros to differentiate with respect to: one `Taps` per layer and direction."""
        h = self.embed(x)
        taps = []
        for layer in self.layers:
            taps.append([make_taps(cell, h) for cell in layer.cells])
            h = jnp.zeros((*h.shape[:2], layer.out_features), h.dtype)
        return taps


ModelSpec = Annotated[Mapping[str, Any], Network]
"""A section with the fields of `Network` that the task does not give."""
