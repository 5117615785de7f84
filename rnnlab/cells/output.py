"""The map from a cell's state and input to the outputs of its layer."""

import jax.numpy as jnp
from flax import nnx

from rnnlab.ops.activations import ActivationSpec, PerUnit, as_activation
from rnnlab.ops.initializers import InitializerSpec, as_initializer
from rnnlab.ops.linear import Precision, affine, matmul
from rnnlab.typing import Array, Float


class OutputMap(nnx.Module):
    """y = f(h C + x D + b). A state that is linear in the inputs has its first nonlinearity here."""

    def __init__(
        self,
        in_features: int,
        features: int,
        out_features: int,
        *,
        activation: ActivationSpec = "linear",
        kernel_init: InitializerSpec = "glorot_uniform",
        rngs: nnx.Rngs,
    ):
        """D, H, O; f; how C [H, O] and D [D, O] are drawn."""
        draw = as_initializer(kernel_init)
        self.kernel = nnx.Param(draw(rngs.params(), (features, out_features), jnp.float32))
        self.skip_kernel = nnx.Param(draw(rngs.params(), (in_features, out_features), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(out_features))
        f = as_activation(activation)
        self.activation = f.for_units(out_features, rngs) if isinstance(f, PerUnit) else f
        self.precision: Precision = "highest"

    def __call__(self, h: Float[Array, "... H"], x: Float[Array, "... D"]) -> Float[Array, "... O"]:
        y = affine(h, self.kernel[...], self.bias[...], self.precision)
        return self.activation(y + matmul(x, self.skip_kernel[...], self.precision))
