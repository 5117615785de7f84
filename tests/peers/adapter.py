"""What rnnlab needs to run a case that was written for another library: rows first, masks with holes, constants."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from rnnlab.cells import CELLS, BaseCell
from rnnlab.engine import unroll
from rnnlab.typing import Carry


def run(
    cell: BaseCell,
    x: Any,
    *,
    mask: Any = None,
    initial: Carry | None = None,
    backwards: bool = False,
    **options: Any,
) -> tuple[np.ndarray, Carry]:
    """(h [B, T, H], the last carry) of x [B, T, D].

    mask [B, T]: the steps that count. rnnlab has lengths in its place: those that do not count are left out of the
    rows, and there h is 0.
    """
    x = np.asarray(x)
    lengths, order = None, np.tile(np.arange(x.shape[1]), (x.shape[0], 1))
    if mask is not None:
        order = np.argsort(~np.asarray(mask), axis=1, kind="stable")
        lengths = jnp.asarray(np.asarray(mask).sum(1))
    steps = jnp.asarray(np.take_along_axis(x, order[..., None], 1)).swapaxes(0, 1)
    initial = None if initial is None else tuple(map(jnp.asarray, initial))
    h, last = unroll(cell, steps, lengths=lengths, initial_carry=initial, reverse=backwards, **options)
    back = np.argsort(order, axis=1)
    return np.take_along_axis(np.asarray(h).swapaxes(0, 1), back[..., None], 1), last


def constant_cell(kind: str, in_features: int, features: int, values: Mapping[str, float], **options: Any) -> BaseCell:
    """A cell of CELLS whose parameters are constants, by their names; 0 where there is none."""
    cell = CELLS[kind](in_features, features, **options, rngs=nnx.Rngs(0))
    for name, parameter in nnx.state(cell, nnx.Param).items():
        getattr(cell, name)[...] = jnp.full(parameter.shape, values.get(name, 0.0))
    return cell
