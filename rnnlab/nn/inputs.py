"""A network's inputs before its first layer: their checks, and the table of tokens.

The readout of words, which may share the table, is in `nn/softmax.py`.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.sharding import PartitionSpec

from rnnlab.config.errors import ConfigError
from rnnlab.nn.options import ModelOptions, SoftmaxOptions
from rnnlab.ops.initializers import as_initializer
from rnnlab.ops.linear import check_width
from rnnlab.parallel.sharding import explicit_mesh, filled, held_rows, on_explicit_mesh
from rnnlab.typing import Array, Float, Int, Shaped


class FixedEmbedding(nnx.Variable):
    """A table that is looked up and not trained."""


def parts_of_embedding(softmax: SoftmaxOptions | None, trained: bool) -> int:
    """How many devices share the embedding: those that share the words of the softmax, if it is trained.

    Raises:
        ConfigError: it is not, and tied.
    """
    parts = 1 if softmax is None else softmax.split or 1
    if softmax is None or trained or parts == 1:
        return parts
    if softmax.tied:
        raise ConfigError("model.softmax.split: a tied embedding that is not trained cannot be split; set one of them")
    return 1


def make_table(options: ModelOptions, vocabulary: int | None, parts: int, rngs: nnx.Rngs) -> nnx.Variable | None:
    """The embedding [V, E], whose rows so many devices share; None where tokens are one-hot or inputs are numbers."""
    if vocabulary is None or options.embedding is None:
        return None
    kind = nnx.Param if options.embedding_trained else FixedEmbedding
    drawn = as_initializer(options.embedding_init)(rngs.params(), (vocabulary, options.embedding), jnp.float32)
    return kind(filled(drawn, parts))


def embed(table: Float[Array, "V E"], words: Int[Array, "*TB"], axis_name: str | None = None) -> Float[Array, "*TB E"]:
    """The words' vectors. With a table that is split over `axis_name`, each device has words of its own, all of them as
    many, and the gradient of its part of the table is that of the words of all."""
    if axis_name is None:
        mesh = explicit_mesh((table, words))
        if mesh is None:
            return table[words]
        lies = PartitionSpec(*jax.typeof(words).sharding.spec, None)
        return on_explicit_mesh(mesh, lambda table, words: table[words], lies, table, words)
    rows, here = held_rows(lax.all_gather(words, axis_name), table.shape[0], axis_name)
    return lax.psum_scatter(jnp.where(here[..., None], table[rows], 0), axis_name)


def check_inputs(x: jax.Array, vocabulary: int | None, in_features: int) -> None:
    """Refuses inputs that are neither tokens [T, B], where there is a vocabulary, nor numbers [T, B, in_features].

    Raises:
        ValueError: they are not, or have no time steps or no rows.
    """
    tokens = jnp.issubdtype(x.dtype, jnp.integer)
    if vocabulary is not None and (x.ndim != 2 or not tokens):
        admitted = f"tokens below {vocabulary}, integers [T, B]"
        raise ValueError(f"the input is {x.dtype}{list(x.shape)}; this network takes {admitted}")
    if vocabulary is None and x.ndim != 3:
        admitted = f"[T, B, {in_features}] (time first)"
        raise ValueError(f"the input has shape {x.shape}; this network takes {admitted}")
    if 0 in x.shape[:2]:
        raise ValueError(f"the input has shape {x.shape}: no time steps or no rows")
    if vocabulary is None:
        check_width(x, in_features, "this network")


def without_padding(x: Shaped[Array, "T B *D"], lengths: Int[Array, " B"] | None) -> Shaped[Array, "T B *D"]:
    """Zeros past each row's end: padding may hold anything, and 0 * NaN in the projection's gradient is NaN."""
    if lengths is None:
        return x
    inside = jnp.arange(x.shape[0])[:, None] < lengths
    return jnp.where(inside.reshape(*inside.shape, *[1] * (x.ndim - 2)), x, 0)


def last_valid(x: Float[Array, "T B D"], lengths: Int[Array, " B"]) -> Float[Array, "B D"]:
    """x at each row's last valid step; its first where it has none."""
    return jnp.take_along_axis(x, jnp.maximum(lengths - 1, 0)[None, :, None], axis=0)[0]
