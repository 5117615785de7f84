"""How weights are drawn: name -> factory -> (key, shape, dtype) -> array.

A matrix has shape [fan_in, fan_out]. Cells draw every gate's block by itself (`rnnlab.cells.base`), so nothing here
knows about gates. Scales may be traced arrays: a sweep over gains is one compiled program.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax.nn import initializers as jax_initializers

from rnnlab.config.bounds import NonNegative, Share, Traced
from rnnlab.config.errors import ConfigError
from rnnlab.config.outside import Table
from rnnlab.config.schema import build
from rnnlab.typing import Initializer


def zeros() -> Initializer:
    """All zeros."""
    return lambda key, shape, dtype=jnp.float32: jnp.zeros(shape, dtype)


def constant(value: Traced[float] = 0.0) -> Initializer:
    """All equal to value."""
    return lambda key, shape, dtype=jnp.float32: jnp.full(shape, value, dtype)


def uniform(scale: Traced[NonNegative] = 0.01) -> Initializer:
    """U[-scale, scale]; the default is the naive choice that vanishes."""
    return lambda key, shape, dtype=jnp.float32: scale * jax.random.uniform(key, shape, dtype, -1.0, 1.0)


def normal(stddev: Traced[NonNegative] = 0.01) -> Initializer:
    """N(0, stddev²)."""
    return lambda key, shape, dtype=jnp.float32: stddev * jax.random.normal(key, shape, dtype)


def _variance_scaling(scale: float, mode: Any, distribution: Any, gain: NonNegative, joint_fan: bool) -> Initializer:
    unit = jax_initializers.variance_scaling(scale, mode, distribution)

    def draw(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return gain * unit(key, shape, dtype)

    return _JointFan(draw) if joint_fan else draw


class _JointFan:
    """Marks an initialiser whose fan-in counts input and hidden units together (see `draw_block`)."""

    def __init__(self, draw: Initializer):
        self.draw = draw

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return self.draw(key, shape, dtype)


def draw_block(
    init: Initializer, key: jax.Array, shape: tuple[int, int], joint_fan_in: int, dtype: Any = jnp.float32
) -> jax.Array:
    """One gate's block [fan_in, H]; with `joint_fan` it is cut from a draw of [D + H, H], whose fan-in is D + H."""
    if isinstance(init, _JointFan):
        return init(key, (joint_fan_in, shape[1]), dtype)[: shape[0]]
    return init(key, shape, dtype)


def glorot_uniform(gain: Traced[NonNegative] = 1.0, joint_fan: bool = False) -> Initializer:
    """U[±gain √(6 / (fan_in + fan_out))] (Glorot and Bengio, 2010, eq. 16).

    joint_fan: on a recurrent layer, take fan_in = D + H for the input and the recurrent kernel alike.
    """
    return _variance_scaling(1.0, "fan_avg", "uniform", gain, joint_fan)


def glorot_normal(gain: Traced[NonNegative] = 1.0, joint_fan: bool = False) -> Initializer:
    """N(0, gain² · 2 / (fan_in + fan_out)) (Glorot and Bengio, 2010, eq. 12); joint_fan as in `glorot_uniform`."""
    return _variance_scaling(1.0, "fan_avg", "normal", gain, joint_fan)


def he_uniform(gain: Traced[NonNegative] = 1.0, joint_fan: bool = False) -> Initializer:
    """U[±gain √(6 / fan_in)] (He et al., 2015, eq. 10); joint_fan as in `glorot_uniform`."""
    return _variance_scaling(2.0, "fan_in", "uniform", gain, joint_fan)


def he_normal(gain: Traced[NonNegative] = 1.0, joint_fan: bool = False) -> Initializer:
    """N(0, gain² · 2 / fan_in) (He et al., 2015, eq. 10); joint_fan as in `glorot_uniform`."""
    return _variance_scaling(2.0, "fan_in", "normal", gain, joint_fan)


def orthogonal(gain: Traced[NonNegative] = 1.0) -> Initializer:
    """gain times a (semi-)orthogonal matrix, uniform over them (Saxe et al., 2014): every singular value is gain."""
    unit = jax_initializers.orthogonal()
    return lambda key, shape, dtype=jnp.float32: gain * unit(key, shape, dtype)


def identity(scale: Traced[float] = 1.0) -> Initializer:
    """scale · I (Le, Jaitly and Hinton, 2015: 1 for the IRNN, 0.01 for speech); ones on the diagonal if not square."""
    return lambda key, shape, dtype=jnp.float32: scale * jnp.eye(*shape, dtype=dtype)


def _rotations(name: str, low: float, high: float, negative: Any) -> Initializer:
    """Rotations by U[low, high], two units at a time; the rows of the first share of units change their sign."""

    def draw(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        if len(shape) != 2 or shape[0] != shape[1]:
            raise ConfigError(f"{name} draws square kernels, recurrent ones; not {list(shape)}")
        size = shape[0]
        angles = jax.random.uniform(key, (size // 2,), dtype, low, high)
        cosines, sines = jnp.repeat(jnp.cos(angles), 2), jnp.sin(angles)
        even = 2 * jnp.arange(size // 2)
        drawn = jnp.diag(jnp.concatenate([cosines, jnp.ones(size % 2, dtype)]))
        drawn = drawn.at[even, even + 1].set(-sines).at[even + 1, even].set(sines)
        return jnp.where(jnp.arange(size)[:, None] < jnp.round(negative * size), -drawn, drawn)

    return draw


def henaff() -> Initializer:
    """Rotations of two units at a time by U[-π, π] (Henaff, Szlam and LeCun, 2016, section 4), an odd unit as it is:
    eigenvalues around the whole circle, which suit copying. Square matrices alone."""
    return _rotations("henaff", -jnp.pi, jnp.pi, 0.0)


def cayley(negative: Traced[Share] = 0.0) -> Initializer:
    """Rotations of two units at a time by U[0, π/2], an odd unit as it is: the Cayley transform of the matrix that
    Helfrich, Willmott and Ye (2018, section 4) draw. Square matrices alone.

    negative: the share ρ/n of rows that change their sign, -1 on the diagonal of their D; in their code a tenth for
    pixels in order, half for permuted ones and for copying.
    """
    return _rotations("cayley", 0.0, jnp.pi / 2, negative)


INITIALIZERS: Table[Callable[..., Initializer]] = Table(
    {
        "zeros": zeros,
        "constant": constant,
        "uniform": uniform,
        "naive_uniform": functools.partial(uniform, scale=0.01),
        "normal": normal,
        "small_normal": functools.partial(normal, stddev=1e-3),
        "large_normal": functools.partial(normal, stddev=1.0),
        "glorot_uniform": glorot_uniform,
        "glorot_normal": glorot_normal,
        "he_uniform": he_uniform,
        "he_normal": he_normal,
        "orthogonal": orthogonal,
        "identity": identity,
        "henaff": henaff,
        "cayley": cayley,
        "scaled_identity": functools.partial(identity, scale=0.01),
    },
    "a function of (key, shape, dtype)",
)

InitializerSpec = Annotated[str | Mapping[str, Any] | Initializer, INITIALIZERS]
"""A name in `INITIALIZERS`, a section with that name and its parameters, or the function itself."""


def as_initializer(spec: str | Mapping[str, Any] | Initializer) -> Initializer:
    """The initialiser that an `InitializerSpec` stands for."""
    return spec if callable(spec) else build(INITIALIZERS, spec, "initialiser")
