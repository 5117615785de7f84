"""What a caller of the backend `newton` may choose, and what its iterations came to."""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from rnnlab.config.bounds import NonNegative, NonNegativeInt, Positive, PositiveInt
from rnnlab.config.errors import ConfigError
from rnnlab.engine.contract import Cotangent
from rnnlab.typing import Array, Bool, Carry, Float, Int

JacobianKind = Literal["full", "block", "diagonal"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class NewtonOptions:
    """How the backend newton solves for all steps of a layer at once; other backends do not read it."""

    jacobian: JacobianKind = "full"
    """The derivatives of a step by the carry before it: "full", S x S numbers a row and step, S the width of the carry;
    "block": of each unit alone, between the elements of its carry; "diagonal": of each number by itself. The last two
    take memory like the carry, and more iterations where units act on each other."""
    max_iterations: PositiveInt = 100
    """Rows that have not converged by then are run step by step."""
    tolerance: Positive | None = None
    """A row has converged where no number of its carries differs from what the step makes of the one before by more
    than this, relative to 1 + its size; None: 64 times the rounding of its type, 8e-6 in float32."""
    damping: NonNegative = 1.0
    """How far derivatives are shrunk where they are not to be trusted: by 1 / (1 + damping r), r how far that number is
    from what its step makes of the carry before; 0: never."""
    trust_region: NonNegative | None = None
    """λ of a penalty λ ‖d‖² on what an iteration adds, d, which is then Levenberg and Marquardt's for all steps, by a
    Kalman smoother (ELK), without damping; None: no such penalty."""
    warm_up: NonNegativeInt = 3
    """How often the step is applied to all carries side by side before the first iteration."""


class Iterations(NamedTuple):
    """What the iterations of one run came to, row by row."""

    number: Int[Array, " B"]
    """Newton iterations until the row had converged, or all that were allowed."""
    residual: Float[Array, " B"]
    """The largest distance of a carry from what its step makes of the one before, relative to 1 + its size."""
    converged: Bool[Array, " B"]
    """False: the row was run step by step."""


MOST_BYTES = 1 << 32
"""That full Jacobians may take, and what a trust region has beside them: two more matrices a step. The scans hold about
three times as much (2.6 and 7.1 times the Jacobians, of T = 256, B = 4, 64 units)."""


def check_newton(options: Any, cotangent: Cotangent | None, where: str = "newton") -> None:
    """Refuses options that are none, or numbers out of range, and what no linear recurrence can do.

    Raises:
        ValueError: as said, in one line.
    """
    if not isinstance(options, NewtonOptions):
        raise ValueError(f"{where} is {options!r}; it takes rnnlab.NewtonOptions(jacobian=…, max_iterations=…)")
    if options.jacobian not in ("full", "block", "diagonal"):
        raise ValueError(f"{where}.jacobian is {options.jacobian!r}; known: full, block, diagonal")
    if options.max_iterations < 1:
        raise ValueError(f"{where}.max_iterations is {options.max_iterations}; it must be at least 1")
    for name in ("damping", "trust_region", "warm_up"):
        if (getattr(options, name) or 0) < 0:
            raise ValueError(f"{where}.{name} is {getattr(options, name)}; it must be at least 0")
    if options.tolerance is not None and not options.tolerance > 0:
        raise ValueError(f"{where}.tolerance is {options.tolerance}; it must be above 0")
    if cotangent is not None and (cotangent.clip_value is not None or cotangent.clip_norm is not None):
        raise ValueError(
            "backend='newton' has a gradient that is linear in what comes from later steps, so it cannot be clipped "
            "between steps; leave clip_value and clip_norm of the cotangent out, or use 'fused', 'reference' or 'auto'"
        )


def check_bytes(first: Carry, steps: int, options: NewtonOptions) -> None:
    """Raises a ConfigError where full Jacobians of so many steps take too much memory; first: the carry [B, N] each."""
    if options.jacobian != "full":
        return
    rows, width = first[0].shape[0], sum(a.shape[-1] for a in first)
    kept = 1 if options.trust_region is None else 3
    size = kept * steps * rows * width**2 * jnp.result_type(*first).itemsize
    if size > MOST_BYTES:
        beside = "" if options.trust_region is None else " with their covariances"
        raise ConfigError(
            f"model.recurrence.newton.jacobian: full ones of {steps} steps, {rows} rows and a carry of {width} take "
            f"{size / 1e9:.1f} GB{beside}, more than {MOST_BYTES / 1e9:.1f}; use block or diagonal, or fewer rows"
        )


def tolerance_of(options: NewtonOptions, dtype: jax.typing.DTypeLike) -> float:
    return 64 * float(jnp.finfo(dtype).eps) if options.tolerance is None else options.tolerance
