"""Matrix products and the affine map of layers and cells: their rounding, and the form that differentiates fastest."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from rnnlab.parallel.sharding import explicit_mesh, on_explicit_mesh
from rnnlab.typing import Array, Float

ComputeType = Literal["float32", "bfloat16"]
"""The type that operands of products are rounded to; "float32" leaves them as they are, double precision too."""


def matmul(a: Float[Array, "R K"], b: Float[Array, "K O"], compute: ComputeType = "float32") -> Float[Array, "R O"]:
    """a b. With "bfloat16" the operands of this product, and of those of its gradient, are rounded to bfloat16, and the
    sums and results are float32; reverse mode only."""
    return a @ b if compute == "float32" else _rounded(a, b)


def rounded(a: jax.Array, compute: ComputeType) -> jax.Array:
    """An operand as `matmul` rounds it, for one that many products share."""
    return a if compute == "float32" else a.astype(compute)


@jax.custom_vjp
def _rounded(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a.astype(jnp.bfloat16), b.astype(jnp.bfloat16), preferred_element_type=jnp.float32)


def _rounded_forward(a: jax.Array, b: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _rounded(a, b), (a, b)


def _rounded_backward(operands: tuple[jax.Array, jax.Array], d: jax.Array) -> tuple[jax.Array, jax.Array]:
    a, b = operands
    return _rounded(d, b.T).astype(a.dtype), _rounded(a.T, d).astype(b.dtype)


_rounded.defvjp(_rounded_forward, _rounded_backward)


def check_width(x: jax.Array, width: int, taker: str) -> None:
    """Raises a ValueError if the last axis of x [..., D] is not so wide. taker: what takes it, for the message."""
    if x.ndim == 0 or x.shape[-1] != width:
        raise ValueError(f"the input has shape {x.shape}; {taker} takes {width} features: [..., {width}]")


def affine(
    x: Float[Array, "... D"],
    kernel: Float[Array, "D O"],
    bias: Float[Array, " O"],
    compute: ComputeType = "float32",
) -> Float[Array, "... O"]:
    """x W + b, for any leading axes; of integers and truth values as numbers of the type of W.

    As a product of two matrices: with more leading axes XLA transposes the gradient of z for that of W. For narrow
    x of [x, 1] and W above b, so that the gradients of W and b are one product too (both gradients per time step on one
    core of an x86 CPU, B=8 O=400: D=1 0.5 µs, 1.2 without the one, 2.7 as x @ W + b; D=120 5.1, 6.0 and 11.2). For a
    few inputs it is multiplied out, so that XLA computes each gate's part where it is used and stores none of it.

    Raises:
        ValueError: x of another width.
    """
    check_width(x, kernel.shape[0], f"a kernel of shape {kernel.shape}")
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        x = x.astype(kernel.dtype)
    mesh = explicit_mesh((x, kernel))
    if mesh is not None:
        spec = PartitionSpec(*jax.typeof(x).sharding.spec[:-1], None)
        return on_explicit_mesh(mesh, functools.partial(_affine, compute=compute), spec, x, kernel, bias)
    return _affine(x, kernel, bias, compute)


def _affine(x: jax.Array, kernel: jax.Array, bias: jax.Array, compute: ComputeType) -> jax.Array:
    if x.shape[-1] <= _POINTWISE and compute == "float32":
        return _pointwise(x, kernel, bias)
    rows = x.reshape(-1, x.shape[-1])
    if compute == "float32" and rows.shape[1] <= _NARROW:
        one = jnp.ones((rows.shape[0], 1), x.dtype)
        z = jnp.concatenate([rows, one], 1) @ jnp.concatenate([kernel, bias[None]])
    else:  # The bias is never rounded.
        z = matmul(rows, kernel, compute) + bias
    return z.reshape(*x.shape[:-1], kernel.shape[1])


_NARROW = 32
"""Up to this D the copy of W costs less than the sum over the rows that it saves."""


_POINTWISE = 4


@jax.custom_jvp
def _pointwise(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """x W + b as a sum over the rows of W; its derivative is a product, for the gradient of W."""
    z = bias
    for column in range(x.shape[-1]):
        z = z + x[..., column : column + 1] * kernel[column]
    return z


@_pointwise.defjvp
def _pointwise_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    (x, kernel, _), (dx, dkernel, dbias) = primals, tangents
    rows = x.reshape(-1, x.shape[-1])
    rows = jnp.concatenate([rows, jnp.ones((rows.shape[0], 1), x.dtype)], 1)
    dz = rows @ jnp.concatenate([dkernel, dbias[None]])
    return _pointwise(*primals), dz.reshape(*x.shape[:-1], kernel.shape[1]) + dx @ kernel
