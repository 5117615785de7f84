"""The derivatives of all steps by the carries before them, from a cell's own `step`.

Full ones are exact. Those of blocks and of diagonals are of each unit alone: a product counts with the numbers of its
matrix by which a unit acts on itself, and everything between products is taken to act unit by unit. Where it does not,
as in a norm over units, a pattern of signs keeps what units do to each other from adding up (Hutchinson, 1989). They
need not be exact: the iterations end at the same carries whatever these are.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnnlab.engine.contract import Matrix, Multiply, dropped
from rnnlab.engine.matrices import Square
from rnnlab.engine.newton.system import Sequence, System, all_steps
from rnnlab.typing import Carry, Parts


class Group(NamedTuple):
    """Elements of the carry whose derivatives by each other are kept."""

    elements: tuple[int, ...]
    matrices: Square | jax.Array
    """By the rows of the new carry: [T, B, S, S], or for each unit of elements of one width."""

    def vectors(self, carry: Carry) -> Any:
        parts = [carry[element] for element in self.elements]
        return parts if isinstance(self.matrices, list) else jnp.concatenate(parts, -1)

    def parts(self, vectors: Any) -> dict[int, jax.Array]:
        return dict(zip(self.elements, vectors, strict=True))


def joined(groups: list[Group], vectors: list[Any], like: Carry) -> Carry:
    """The carry of what the groups have."""
    whole: dict[int, jax.Array] = {}
    for group, of_group in zip(groups, vectors, strict=True):
        if not isinstance(group.matrices, list):
            ends = np.cumsum([like[element].shape[-1] for element in group.elements])[:-1]
            of_group = jnp.split(of_group, ends, axis=-1)
        whole |= group.parts(of_group)
    return tuple(whole[element].astype(a.dtype) for element, a in enumerate(like))


def jacobians(system: System, sequence: Sequence, before: Carry, counters: tuple[int, ...] = ()) -> list[Group]:
    """Those that the options ask for. counters: elements that count steps: they have no gradient, though each count is
    the one before and 1."""
    if system.options.jacobian == "full":
        return [_full(system, sequence, before, counters)]
    return _of_units(system, sequence, before, counters)


def _full(system: System, sequence: Sequence, before: Carry, counters: tuple[int, ...]) -> Group:
    widths = [a.shape[-1] for a in before]
    total, ends = sum(widths), np.cumsum(widths)
    new, pull = jax.vjp(lambda carry: all_steps(system, sequence, carry), before)

    def row(number: jax.Array) -> jax.Array:
        one = jnp.zeros(total).at[number].set(1)
        parts = jnp.split(one, ends[:-1])
        d = tuple(jnp.broadcast_to(part.astype(a.dtype), a.shape) for part, a in zip(parts, new, strict=True))
        return jnp.concatenate(pull(d)[0], -1)

    matrices = jnp.moveaxis(lax.map(row, jnp.arange(total), batch_size=min(total, 16)), 0, -2)
    for element in counters:
        at = ends[element] - widths[element] + np.arange(widths[element])
        matrices = matrices.at[..., at, at].set(of_counter(system, sequence, before, new, element))
    return Group(tuple(range(len(before))), matrices)


def _of_units(system: System, sequence: Sequence, before: Carry, counters: tuple[int, ...]) -> list[Group]:
    around = _local(sequence.matrices, sequence.state_mask)
    new, pull = jax.vjp(lambda carry: all_steps(system, sequence, carry, around), before)
    draw = np.random.default_rng(0)
    signs = [jnp.asarray(draw.choice([-1, 1], a.shape[-1]), a.dtype) for a in new]
    zeros = [jnp.zeros_like(a) for a in new]
    rows = []
    for element, sign in enumerate(signs):
        d = (*zeros[:element], jnp.broadcast_to(sign, new[element].shape), *zeros[element + 1 :])
        rows.append(pull(d)[0])
    groups = []
    for elements in _groups(before, system.options.jacobian == "block"):
        square = [[signs[p] * rows[p][q] for q in elements] for p in elements]
        for at, element in enumerate(elements):
            if element in counters:
                square[at][at] = of_counter(system, sequence, before, new, element)
        groups.append(Group(elements, square))
    return groups


def _groups(carry: Carry, by_width: bool) -> list[tuple[int, ...]]:
    """The elements of one width together, or each alone."""
    if not by_width:
        return [(element,) for element in range(len(carry))]
    widths = dict.fromkeys(a.shape[-1] for a in carry)
    return [tuple(e for e, a in enumerate(carry) if a.shape[-1] == width) for width in widths]


def of_counter(system: System, sequence: Sequence, before: Carry, new: Carry, element: int) -> jax.Array:
    """1 where a count goes on, 0 where it begins anew."""
    moved = (*before[:element], before[element] + 1, *before[element + 1 :])
    return all_steps(system, sequence, moved)[element] - new[element]


def _local(matrices: Mapping[str, Matrix], state_mask: jax.Array | None) -> Any:
    """multiply -> the same products, whose derivatives are those of each unit by itself alone."""
    diagonals = {name: _diagonals(matrix) for name, matrix in matrices.items()}

    def around(multiply: Multiply) -> Multiply:
        def local(name: str, value: jax.Array) -> Parts:
            parts = lax.stop_gradient(multiply(name, value))
            factors = diagonals.get(name)
            if factors is None:
                return parts
            change = dropped(value - lax.stop_gradient(value), matrices[name], state_mask)
            pieces = jnp.split(change, factors.shape[1], axis=-1)
            return [
                part + sum(factor * piece for factor, piece in zip(of_part, pieces, strict=True))
                for part, of_part in zip(parts, factors, strict=True)
            ]

        return local

    return around


def _diagonals(matrix: Matrix) -> jax.Array | None:
    """[parts, K / W, W], W the width of a part: by which factor a unit of a value enters the same unit of each part. A
    value may have several numbers of a unit, one for each W; None where its units are others."""
    width, rows = matrix.columns // matrix.parts, matrix.rows
    if rows % width:
        return None
    if matrix.kernel.ndim == 1:
        return jnp.eye(matrix.parts)[:, :, None] * matrix.kernel.reshape(matrix.parts, 1, width)
    if matrix.kernel.ndim == 3:
        heads = matrix.kernel.shape[0]
        if rows != width:
            return None
        blocks = matrix.kernel.reshape(heads, width // heads, matrix.parts, width // heads)
        return jnp.einsum("hipi->phi", blocks).reshape(matrix.parts, 1, width)
    blocks = matrix.kernel.reshape(rows // width, width, matrix.parts, width)
    return jnp.einsum("mipi->pmi", blocks)
