"""The linear map that stands before, between and behind recurrent layers."""

import jax.numpy as jnp
from flax import nnx

from rnnlab.ops.initializers import InitializerSpec, as_initializer
from rnnlab.ops.linear import Precision, affine
from rnnlab.typing import Array, Float


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
        self.precision: Precision = "highest"

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... O"]:
        return affine(x, self.kernel[...], self.bias[...], self.precision)
