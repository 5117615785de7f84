"""The arguments that `unroll` refuses, with both shapes in one line. All of it holds under `jax.jit`."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer

from rnnlab.engine.contract import RecurrentCell, Taps, make_taps
from rnnlab.ops.linear import check_width
from rnnlab.typing import Carry

_TIME_FIRST = "the order is [T, B, D] (time first)"


def innermost(cell: Any) -> Any:
    """The cell that others stand around; of most the cell itself."""
    while isinstance(inner := getattr(cell, "cell", None), nnx.Module):
        cell = inner
    return cell


def check_sequence(cell: RecurrentCell, x: jax.Array) -> jax.Array:
    """x [T, B, D]; integers and truth values as the numbers that the cell computes with.

    Raises:
        ValueError: no time steps, no rows, complex numbers, or another shape than the cell takes.
    """
    x = jnp.asarray(x)
    if x.ndim != 3:
        raise ValueError(f"x has shape {x.shape}; {_TIME_FIRST}")
    for size, name in zip(x.shape, ("time steps", "rows"), strict=False):
        if size == 0:
            raise ValueError(f"x has no {name}: its shape is {x.shape}; {_TIME_FIRST}")
    if jnp.iscomplexobj(x):
        raise ValueError(f"x holds {x.dtype}; a cell takes real numbers")
    in_features = getattr(cell, "in_features", None)
    if in_features is not None:
        check_width(x, in_features, f"this {type(cell).__name__}")
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        x = x.astype(jax.eval_shape(cell.project, jax.ShapeDtypeStruct(x.shape[1:], jnp.float32)).dtype)
    return x


def check_lengths(lengths: jax.Array, x: jax.Array) -> jax.Array:
    """lengths [B] of x [T, B, ...].

    Raises:
        ValueError: another shape, no integers, or, where their values are known, one below 0 or above T.
    """
    lengths, (steps, batch) = jnp.asarray(lengths), x.shape[:2]
    if lengths.shape != (batch,):
        order = _of_other_order(x) if lengths.shape == (steps,) else ""
        raise ValueError(f"lengths has shape {lengths.shape}; x {x.shape} needs ({batch},){order}")
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise ValueError(f"lengths holds {lengths.dtype}; they are counts of steps, integers [B]")
    check_range(lengths, 0, steps, f"lengths of x {x.shape}")
    return lengths


def check_range(a: jax.Array, low: int, high: int, what: str) -> None:
    """Raises a ValueError for integers below low or above high, unless they are traced; what: they are, for the
    message."""
    if isinstance(a, Tracer) or not getattr(a, "is_fully_addressable", True):
        return
    values = np.asarray(a)  # Within a trace a.min() would be traced, though a is not.
    least, most = int(values.min()), int(values.max())
    if least < low or most > high:
        raise ValueError(f"{what} go from {least} to {most}; they may go from {low} to {high}")


def check_resets(resets: jax.Array, x: jax.Array) -> jax.Array:
    """resets [T, B] of x [T, B, ...].

    Raises:
        ValueError: another shape, or no truth values.
    """
    resets, shape = jnp.asarray(resets), x.shape[:2]
    if resets.shape != shape:
        order = _of_other_order(x) if resets.shape == shape[::-1] else ""
        raise ValueError(f"resets has shape {resets.shape}; x {x.shape} needs {shape}{order}")
    if resets.dtype != bool:
        raise ValueError(f"resets holds {resets.dtype}; they are truth values [T, B], true where a row begins anew")
    return resets


def check_carry(cell: RecurrentCell, carry: Any, x: jax.Array, name: str = "initial_carry") -> Carry:
    """A carry of the cell for x; name: of the argument.

    Raises:
        ValueError: another number of arrays than the cell has, or another shape or type.
    """
    z = jax.eval_shape(cell.project, jax.ShapeDtypeStruct(x.shape[1:], x.dtype))
    own = jax.eval_shape(lambda: cell.initial_carry(x.shape[1], z.dtype))
    needed = f"this {type(cell).__name__} with x {x.shape} needs a tuple of {_described(own)}"
    if not isinstance(carry, Sequence) or isinstance(carry, str):
        raise ValueError(f"{name} is not a tuple, but {_described([carry])}; {needed}")
    if not all(isinstance(a, jax.Array | np.ndarray) for a in carry):
        raise ValueError(f"{name} is {_described(carry)}; {needed}")
    carry = tuple(map(jnp.asarray, carry))
    if [(a.shape, a.dtype) for a in carry] != [(a.shape, a.dtype) for a in own]:
        swapped = [a.shape for a in carry] == [(x.shape[0], *a.shape[1:]) for a in own]
        raise ValueError(f"{name} is {_described(carry)}; {needed}{_of_other_order(x) if swapped else ''}")
    return carry


def check_beside(
    cell: RecurrentCell,
    x: jax.Array,
    noise: tuple[jax.Array, ...],
    state_mask: jax.Array | None,
    taps: Taps | None,
) -> None:
    """Raises a ValueError for what stands beside the steps of x in another shape."""
    for array in noise:
        if array.shape[:2] != x.shape[:2]:
            raise ValueError(f"noise has shape {array.shape}; x {x.shape} needs {x.shape[:2]} in front")
    if state_mask is not None:
        h = jax.eval_shape(lambda: cell.initial_carry(x.shape[1], x.dtype))[0]
        if state_mask.shape != h.shape:
            raise ValueError(f"state_mask has shape {state_mask.shape}; x {x.shape} and h need {h.shape}")
        matrices = jax.eval_shape(cell.matrices)
        for name, matrix in matrices.items():
            if matrix.of_state and matrix.rows % h.shape[1]:
                raise ValueError(
                    f"state_mask is of {h.shape[1]} units; the matrix {name!r} of {type(cell).__name__} has "
                    f"{matrix.rows} rows; give it of_state=False"
                )
        if not any(matrix.of_state for matrix in matrices.values()):
            raise ValueError(f"the state of {type(cell).__name__} meets no matrix; state_mask needs one")
    if taps is not None:
        expected = jax.eval_shape(lambda: make_taps(cell, x, noise))
        shapes, needed = ([a.shape for a in jax.tree.leaves(tree)] for tree in (taps, expected))
        if shapes != needed:
            raise ValueError(f"taps have shapes {shapes}; make_taps for x {x.shape} gives {needed}")


def _described(arrays: Sequence[Any]) -> str:
    """As "float32[2, 4], float32[2, 4]"."""
    each = (f"{a.dtype}{list(a.shape)}" if hasattr(a, "dtype") else type(a).__name__ for a in arrays)
    return ", ".join(each) or "nothing"


def _of_other_order(x: jax.Array) -> str:
    return f": is x [B, T, D]? {_TIME_FIRST}" if x.shape[0] != x.shape[1] else ""
