"""Attention over time: a mean of all hidden states, weighted by the last one."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from rnnlab.ops.initializers import as_initializer
from rnnlab.ops.linear import Precision, matmul
from rnnlab.typing import Array, Float, Int


class Attention(nnx.Module):
    """A mean of the hidden states of all steps, weighted by how well each fits the last state.

    "dot": softmax over t of (s W_q) · (h_t W_k) / √A (Vaswani et al., 2017, eq. 1, one head);
    "additive": softmax over t of vᵀ tanh(s W_q + h_t W_k) (Bahdanau et al., 2015, appendix A.1.2); A = H.
    """

    def __init__(self, features: int, kind: Literal["dot", "additive"], *, rngs: nnx.Rngs):
        draw = as_initializer("glorot_uniform")
        shape = (features, features)
        self.kind = kind
        self.precision: Precision = "highest"
        self.query_kernel = nnx.Param(draw(rngs.params(), shape, jnp.float32))
        self.key_kernel = nnx.Param(draw(rngs.params(), shape, jnp.float32))
        additive = kind == "additive"
        self.score_kernel = nnx.Param(draw(rngs.params(), (features, 1), jnp.float32)) if additive else None

    def weights(
        self, h: Float[Array, "T B H"], state: Float[Array, "B H"], lengths: Int[Array, " B"] | None
    ) -> Float[Array, "T B"]:
        """Sums to 1 over the valid steps of each row; zero past its end."""
        query, key_kernel = self._product(state, self.query_kernel[...]), self.key_kernel[...]
        if self.score_kernel is None:
            # As a product: jaxlib 0.10.2, which is no longer admitted, computed (q * h).sum(-1) with the softmax behind
            # it wrongly for B = 500.
            scores = self._at_every_step(h, self._product(query, key_kernel.T)) / jnp.sqrt(h.shape[-1])
        else:
            scores = self._product(jnp.tanh(query + self._product(h, key_kernel)), self.score_kernel[...])[..., 0]
        if lengths is None:
            return jax.nn.softmax(scores, axis=0)
        valid = jnp.arange(h.shape[0])[:, None] < lengths
        return jax.nn.softmax(scores, axis=0, where=valid | (lengths == 0)) * valid

    def __call__(
        self, h: Float[Array, "T B H"], state: Float[Array, "B H"], lengths: Int[Array, " B"] | None
    ) -> Float[Array, "B H"]:
        """Σ_t weight_t h_t."""
        weights = self.weights(h, state, lengths)
        return jax.vmap(self._product, in_axes=1)(weights, h)

    def _at_every_step(self, h: Float[Array, "T B H"], query: Float[Array, "B H"]) -> Float[Array, "T B"]:
        """Each row's h times its query."""
        if self.precision == "highest":  # The other form sums in another order.
            return jnp.einsum("tbh,bh->tb", h, query, precision="highest")
        return jax.vmap(self._product, in_axes=(1, 0), out_axes=1)(h, query)

    def _product(self, a: jax.Array, b: jax.Array) -> jax.Array:
        return matmul(a, b, self.precision)
