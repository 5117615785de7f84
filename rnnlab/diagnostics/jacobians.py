"""The Jacobians of a layer's steps: one by one, their products over many steps, their spectra.

Everything looks at a `Trajectory`, which has run already. S is the width of the whole carry, its elements side by side
(H for the vanilla cell and the GRU, 2H for the LSTM: h, then c). Growth over a whole run is `lyapunov.py`'s.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnnlab.cells.batch_normalized import BatchNormalizedCell
from rnnlab.config.errors import ConfigError
from rnnlab.diagnostics.names import carry_names, inner_cell
from rnnlab.nn.trajectory import Trajectory
from rnnlab.typing import Array, Bool, Carry, Float, Int, Parts

MEMORY_LIMIT = 4e9
"""Bytes that Jacobians may take where the caller sets no other limit."""

Step = Callable[[Carry, Parts], Carry]


def step_jacobians(
    trajectory: Trajectory, times: Int[Array, " K"], which: str = "carry", limit: float = MEMORY_LIMIT
) -> Float[Array, "K B S S"]:
    """J_t = ∂carry_t / ∂(the carry that step t began from), row i the gradient of output i; the identity past an end.

    For h' = f(x W + h R + b) it is J_t = diag(f') Rᵀ. NaN where a step's derivative is not a number.

    Args:
        times: the steps t looked at, 0 to T - 1, in any order.
        which: "carry" for all of it, or one of its elements, "h" or the LSTM's "c", for the block of that element with
            itself (H in place of S).
        limit: bytes that the result may take.

    Raises:
        ConfigError: they would take more, an element that the carry does not have, or rows that see each other.
    """
    check_memory(trajectory, times.shape[0], limit)
    step, part, parts = independent_step(trajectory), element(trajectory, which), trajectory.parts()
    before, inside = trajectory.before, trajectory.inside
    seeds = _basis(before, part)

    def one(t: jax.Array) -> jax.Array:
        now, z, valid = jax.tree.map(lambda a: a[t], (before, parts, inside))
        rows = pulled(step, now, z, valid, seeds)[..., part]
        return jnp.moveaxis(rows, 0, 1)

    with jax.default_matmul_precision("highest"):
        return lax.map(one, times)


def jacobian_products(
    trajectory: Trajectory, counts: Sequence[int] | None = None, start: int = 0, which: str = "carry"
) -> Float[Array, "K B S"]:
    """log10 of the singular values, largest first, of ∂carry after k steps / ∂carry before them, for each k of counts.

    Steps are counted in the order of processing, each row from its own first one: in reverse from its last valid step
    on. Past a row's end J is the identity, so a row with fewer steps has the product of those it has.

    The product is rescaled at every step and the logarithm of its scale kept, so its size neither over- nor underflows.
    Singular values below S · eps · the largest are rounding errors and set to that bound; `lyapunov_exponents` resolves
    them. A product that is exactly 0 gives -inf, one that is not finite NaN.

    Args:
        counts: numbers k of steps, ascending; `powers_of_two` of the steps behind start if not given.
        start: steps of a row before the first of the product.
        which: "carry", or an element of it, for the block of the product that leads from that element to itself.

    Raises:
        ConfigError: no such steps, an element that the carry does not have, rows that see each other, or a carry whose
            products take too much memory.
    """
    total = trajectory.x.shape[0]
    if not 0 <= start < total:
        raise ConfigError(f"start is {start}; the {total} steps of {trajectory.name} are numbered 0 to {total - 1}")
    counts = powers_of_two(total - start) if counts is None else list(counts)
    if not counts or counts[0] < 1 or counts != sorted(set(counts)) or counts[-1] > total - start:
        raise ConfigError(f"counts are {counts}; they must ascend from at least 1 to at most {total - start} steps")
    check_memory(trajectory, 1)
    step, part, (before, parts, inside) = independent_step(trajectory), element(trajectory, which), in_order(trajectory)

    def multiply(j: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        product, log_scale = state
        now, z, valid = jax.tree.map(lambda a: a[j], (before, parts, inside))
        product = pushed(step, now, z, valid, product)
        largest = jnp.max(jnp.abs(product), axis=(0, 2))
        scale = jnp.where(largest > 0, largest, 1)
        return product / scale[:, None], log_scale + jnp.log10(scale)

    def measure(state: tuple[jax.Array, jax.Array], bounds: jax.Array) -> tuple[Any, jax.Array]:
        product, log_scale = state = lax.fori_loop(bounds[0], bounds[1], multiply, state)
        return state, _log10_singular_values(jnp.moveaxis(product, 0, 2)[:, part]) + log_scale[:, None]

    first = _basis(before, part)
    ends = start + np.array([0, *counts])
    bounds = jnp.asarray(np.stack([ends[:-1], ends[1:]], 1))
    with jax.default_matmul_precision("highest"):  # A GPU would round the operands of float32 products to 10 bits.
        return lax.scan(measure, (first, jnp.zeros(first.shape[1], first.dtype)), bounds)[1]


def powers_of_two(steps: int) -> list[int]:
    """1, 2, 4, ... up to steps."""
    return [1 << n for n in range(steps.bit_length())]


def eigenvalues(jacobians: Float[Array, "*K S S"]) -> np.ndarray:
    """Complex eigenvalues [*K, S] of each matrix, largest modulus first; NaN where it is not finite. On the host."""
    matrices = np.asarray(jacobians, np.float64)
    ordered = np.full(matrices.shape[:-1], complex(np.nan, np.nan))
    for index in np.ndindex(matrices.shape[:-2]):
        if np.isfinite(matrices[index]).all():
            values = np.linalg.eigvals(matrices[index])
            ordered[index] = values[np.argsort(-np.abs(values), kind="stable")]
    return ordered


# --- what one row's Jacobian does to vectors -------------------------------------------------------------------------


def pushed(
    step: Step, before: Carry, parts: Parts, inside: Bool[Array, " B"], vectors: Float[Array, "N B S"]
) -> Float[Array, "N B S"]:
    """J v for each row's N vectors, without J where the step has a forward mode; v itself past a row's end."""
    try:
        products = jax.vmap(
            lambda v: joined(jax.jvp(lambda carry: step(carry, parts), (before,), (apart(v, before),))[1])
        )(vectors)
    except TypeError:  # Products in bfloat16, or a user's `custom_vjp`: reverse mode only.
        products = jnp.einsum("ibj,nbj->nbi", pulled(step, before, parts, inside, _basis(before)), vectors)
    return jnp.where(inside[:, None], products, vectors)


def pulled(
    step: Step, before: Carry, parts: Parts, inside: Bool[Array, " B"], vectors: Float[Array, "N B S"]
) -> Float[Array, "N B S"]:
    """vᵀ J for each row's N vectors; v itself past a row's end."""
    _, pull = jax.vjp(lambda carry: step(carry, parts), before)
    products = jax.vmap(lambda v: joined(pull(apart(v, before))[0]))(vectors)
    return jnp.where(inside[:, None], products, vectors)


def independent_step(trajectory: Trajectory) -> Step:
    """The trajectory's step, of which no row sees another: one pass for all rows gives each its own Jacobian.

    Raises:
        ConfigError: rows that see each other.
    """
    cell = trajectory.cell
    if isinstance(cell, BatchNormalizedCell) and cell.weights is not None:
        raise ConfigError(
            f"{trajectory.name}: with batch normalisation inside the cell the rows of a training step see each other, "
            "so none has a Jacobian of its own; look at the network as it is evaluated"
        )
    return trajectory.step()


def in_order(trajectory: Trajectory) -> tuple[Carry, Parts, Bool[Array, "T B"]]:
    """(carries before, parts, whether inside) of all steps in the order of processing, a row's own first step at 0."""
    before, parts, inside = trajectory.before, trajectory.parts(), trajectory.inside
    if not trajectory.reverse:
        return before, parts, inside
    steps, lengths = inside.shape[0], trajectory.lengths
    last = jnp.full(inside.shape[1], steps) if lengths is None else lengths
    order = (last - 1 - jnp.arange(steps)[:, None]) % steps
    before, parts = jax.tree.map(
        lambda a: jnp.take_along_axis(a, order.reshape(*order.shape, *(1,) * (a.ndim - 2)), axis=0), (before, parts)
    )
    return before, parts, jnp.arange(steps)[:, None] < last


def joined(carry: Carry) -> Float[Array, "B S"]:
    """The elements of a carry side by side."""
    return jnp.concatenate(carry, axis=-1)


def apart(vector: Float[Array, "B S"], like: Carry) -> Carry:
    """Undoes `joined`."""
    ends = np.cumsum([a.shape[-1] for a in like])[:-1]
    return tuple(part.astype(a.dtype) for part, a in zip(jnp.split(vector, ends, axis=-1), like, strict=True))


def element(trajectory: Trajectory, which: str) -> slice:
    """Where an element stands in the joined carry; "carry" is all of it.

    Raises:
        ConfigError: the carry has none of this name.
    """
    widths = [a.shape[-1] for a in trajectory.first]
    if which == "carry":
        return slice(0, sum(widths))
    cell, names = inner_cell(trajectory.cell), carry_names(trajectory.cell, len(widths))
    if which not in names:
        listed = ", ".join(["carry", *names])
        raise ConfigError(f"{trajectory.name}: the carry of {type(cell).__name__} has no {which!r}; known: {listed}")
    at = names.index(which)
    return slice(sum(widths[:at]), sum(widths[: at + 1]))


# --- memory ----------------------------------------------------------------------------------------------------------


def jacobian_bytes(trajectory: Trajectory, count: int) -> int:
    """Bytes that the full Jacobians of count steps, of all rows, take."""
    size = sum(a.shape[-1] for a in trajectory.first)
    return count * trajectory.first[0].shape[0] * size**2 * trajectory.first[0].dtype.itemsize


def check_memory(trajectory: Trajectory, count: int, limit: float = MEMORY_LIMIT) -> None:
    """Nothing, where the full Jacobians of count steps take at most limit bytes.

    Raises:
        ConfigError: they take more; says how much, and the options that sample.
    """
    size = jacobian_bytes(trajectory, count)
    if size > limit:
        rows, width = trajectory.first[0].shape[0], sum(a.shape[-1] for a in trajectory.first)
        raise ConfigError(
            f"full Jacobians of {_number(count, 'step')}, {_number(rows, 'row')} and a carry of {width} take "
            f"{_in_words(size)}, more than {_in_words(limit)}; sample fewer with --jacobians (time steps) or --rows"
        )


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _in_words(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"


# --- within this file ------------------------------------------------------------------------------------------------


def _basis(carry: Carry, part: slice = slice(None)) -> Float[Array, "N B S"]:
    """For every row the basis vectors of the joined carry, or those of a part of it; carry [..., B, H] each."""
    size, dtype = sum(a.shape[-1] for a in carry), jnp.result_type(*carry)
    vectors = jnp.eye(size, dtype=dtype)[part]
    return jnp.broadcast_to(vectors[:, None], (vectors.shape[0], carry[0].shape[-2], size))


def _log10_singular_values(matrices: Float[Array, "B I J"]) -> Float[Array, "B N"]:
    """As `jacobian_products` returns them."""
    finite = jnp.isfinite(matrices).all((1, 2))
    # Without what is not finite: a singular value decomposition need not end on it.
    values = jnp.linalg.svd(jnp.where(finite[:, None, None], matrices, 0), compute_uv=False)
    values = jnp.maximum(values, matrices.shape[-1] * jnp.finfo(values.dtype).eps * values[:, :1])
    return jnp.where(finite[:, None], jnp.log10(values), jnp.nan)
