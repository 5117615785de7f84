"""Matrix products and the affine map of layers and cells: their rounding, and the form that differentiates fastest."""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from rnnlab.config.errors import ConfigError
from rnnlab.parallel.sharding import explicit_mesh, on_explicit_mesh
from rnnlab.typing import Array, Float

Precision = Literal["highest", "tf32", "tf32x3", "bfloat16"]
"""How exact products are; their sums and results are float32.

    highest   operands as they are, double precision too; a GPU and a TPU by themselves would round them
    tf32      operands rounded to the 10 bits of TF32's mantissa
    tf32x3    the sum of three such products, of operands as large and small parts
    bfloat16  operands rounded to the 7 bits of bfloat16's mantissa

Operands are rounded to nearest before the product, so that numbers are the same on every platform up to the order of
sums; a GPU has tensor cores for all but the first.
"""


def matmul(a: Float[Array, "... K"], b: Float[Array, "K ..."], precision: Precision = "highest") -> Float[Array, "..."]:
    """a b, for a matrix or a vector b. Operands of the products of its gradient are rounded, too; what rounds has a
    reverse mode only."""
    if precision == "highest":
        return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)
    rows, columns = a.reshape(-1, a.shape[-1]), b.reshape(b.shape[0], -1)
    product: Any = _rounded_product(precision, rows, columns)
    return product.reshape(*a.shape[:-1], *b.shape[1:])


def rounded(a: jax.Array, precision: Precision) -> jax.Array:
    """An operand as `matmul` rounds it, for one that many products share."""
    if precision == "bfloat16":
        return a.astype(jnp.bfloat16)
    return _tf32(a) if precision == "tf32" else a


def multiplied(a: Float[Array, "R K"], b: Float[Array, "K O"], precision: Precision, dtype: Any) -> Float[Array, "R O"]:
    """a b, summed in dtype; not to be differentiated where it rounds."""
    times = functools.partial(jnp.matmul, precision=lax.Precision.DEFAULT, preferred_element_type=dtype)
    if precision == "highest":
        return times(a, b, precision=lax.Precision.HIGHEST)
    if precision == "tf32x3":
        (a, small_a), (b, small_b) = _halves(a), _halves(b)
        return times(a, b) + (times(a, small_b) + times(small_a, b))
    return times(rounded(a, precision), rounded(b, precision))


def _tf32(a: jax.Array) -> jax.Array:
    """In float32; what is rounded already stays as it is, on tensor cores, too, whatever they do with further bits."""
    return lax.reduce_precision(a.astype(jnp.float32), exponent_bits=8, mantissa_bits=10)


def _halves(a: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(large, small), whose sum has 21 bits of the array's mantissa."""
    large = _tf32(a)
    return large, _tf32(jnp.where(jnp.isfinite(large), a - large, 0))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _rounded_product(precision: Precision, a: jax.Array, b: jax.Array) -> jax.Array:
    return multiplied(a, b, precision, jnp.float32)


def _rounded_forward(precision: Precision, a: jax.Array, b: jax.Array) -> tuple:
    return _rounded_product(precision, a, b), (a, b)


def _rounded_backward(precision: Precision, operands: tuple, d: jax.Array) -> tuple[jax.Array, jax.Array]:
    a, b = operands
    products: Any = _rounded_product(precision, d, b.T), _rounded_product(precision, a.T, d)
    return products[0].astype(a.dtype), products[1].astype(b.dtype)


_rounded_product.defvjp(_rounded_forward, _rounded_backward)


def check_precision(device: Any, precision: Precision) -> None:
    """Tries a product.

    Raises:
        ConfigError: the device cannot.
    """
    if precision in ("tf32", "tf32x3") and device.platform == "tpu":  # Its products in float32 are of bfloat16.
        raise ConfigError(f"model.precision: a TPU has no TF32, as {precision!r} asks for; use 'highest' or 'bfloat16'")
    try:
        with jax.default_device(device):
            ones = jnp.ones((8, 8))
            jax.block_until_ready(multiplied(ones, ones, precision, jnp.float32))
    except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0][:120]
        raise ConfigError(
            f"model.precision: {device.platform} has no products in {precision!r} ({reason}); use 'highest'"
        ) from error


def check_width(x: jax.Array, width: int, taker: str) -> None:
    """Raises a ValueError if the last axis of x [..., D] is not so wide. taker: what takes it, for the message."""
    if x.ndim == 0 or x.shape[-1] != width:
        raise ValueError(f"the input has shape {x.shape}; {taker} takes {width} features: [..., {width}]")


def affine(
    x: Float[Array, "... D"],
    kernel: Float[Array, "D O"],
    bias: Float[Array, " O"],
    precision: Precision = "highest",
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
        return on_explicit_mesh(mesh, functools.partial(_affine, precision=precision), spec, x, kernel, bias)
    return _affine(x, kernel, bias, precision)


def _affine(x: jax.Array, kernel: jax.Array, bias: jax.Array, precision: Precision) -> jax.Array:
    if x.shape[-1] <= _POINTWISE and precision == "highest":
        return _pointwise(x, kernel, bias)
    rows = x.reshape(-1, x.shape[-1])
    if precision == "highest" and rows.shape[1] <= _NARROW:
        one = jnp.ones((rows.shape[0], 1), x.dtype)
        z = matmul(jnp.concatenate([rows, one], 1), jnp.concatenate([kernel, bias[None]]))
    else:  # The bias is never rounded.
        z = matmul(rows, kernel, precision) + bias
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
    dz = matmul(rows, jnp.concatenate([dkernel, dbias[None]]))
    return _pointwise(*primals), dz.reshape(*x.shape[:-1], kernel.shape[1]) + matmul(dx, kernel)
