"""The parameters of a network as an optimiser sees them: their groups, which of them decay, which layer a leaf is of,
units and their weights.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, get_args

import jax

from rnnlab.cells import BaseCell
from rnnlab.ops.safe_norms import unit_norms
from rnnlab.parallel.sharding import UNSPLIT, SplitLeaves
from rnnlab.typing import PyTree

Path = tuple[str | int, ...]
"""That of a leaf in a network's parameters, nested dicts: ("layers", 0, "cells", 1, "bias")."""
Cells = Mapping[Path, BaseCell]
"""`Network.cells`, the cells by their paths; shapes may stand for their parameters."""
NO_CELLS: Cells = MappingProxyType({})

Group = Literal["input", "recurrent", "readout", "embedding", "bias", "other"]
"""The groups of a network's parameters; every leaf is in exactly one.

    bias       every bias, those of the readout, of activations and of normalisation included
    embedding  the table of vectors, be it tied to the softmax or not
    recurrent  what meets the state within a cell, its `recurrent_parameters`: recurrent kernels, or what they are made
               of, and peepholes, which are diagonal ones
    readout    every kernel of the readout and of the attention before it
    input      every other kernel: of the cells' inputs, of the input projection, of projections between layers
    other      all else: gains of normalisation, learned initial carries, what else a cell learns
"""
GROUPS: tuple[Group, ...] = get_args(Group)


def path_of(keys: tuple[Any, ...]) -> Path:
    """The path of a leaf, from its keys as `jax.tree_util` has them."""
    return tuple(key.idx if hasattr(key, "idx") else key.key for key in keys)


def group_of(path: Path, cells: Cells = NO_CELLS) -> Group:
    """The group that a leaf is in."""
    name = str(path[-1])
    if name.endswith("bias"):
        return "bias"
    if path[0] == "embedding":
        return "embedding"
    if _meets_state(path, cells):
        return "recurrent"
    if not name.endswith("kernel"):
        return "other"
    return "readout" if path[0] in ("readout", "attention") else "input"


def is_built_upon(path: Path, cells: Cells = NO_CELLS) -> bool:
    """Whether a cell makes its recurrent matrix of this leaf, whose size then says nothing of R."""
    cell, rest = _owner(path, cells)
    return cell is not None and rest[0] in cell.built_parameters


def _meets_state(path: Path, cells: Cells) -> bool:
    cell, rest = _owner(path, cells)
    return cell is not None and rest[0] in cell.recurrent_parameters


def _owner(path: Path, cells: Cells) -> tuple[BaseCell | None, Path]:
    """The cell that has a leaf, and the leaf's path within it."""
    for of_cell, cell in cells.items():
        if path[: len(of_cell)] == of_cell:
            return cell, path[len(of_cell) :]
    return None, path


def kernels(params: PyTree, cells: Cells = NO_CELLS) -> PyTree:
    """True for the leaves that weight decay and max-norm touch: kernels, by their names, but for what cells make their
    recurrent matrices of."""

    def is_kernel(keys: tuple, _: Any) -> bool:
        path = path_of(keys)
        return str(path[-1]).endswith("kernel") and not is_built_upon(path, cells)

    return jax.tree_util.tree_map_with_path(is_kernel, params)


def layer_of(keys: tuple) -> Path:
    """The part of a leaf's path that names its layer: ("layers", 0) or ("readout",)."""
    path = path_of(keys)
    return path[:2] if len(path) > 2 and isinstance(path[1], int) else path[:1]


def norms_of_units(keys: tuple, leaf: jax.Array, split: SplitLeaves = UNSPLIT) -> jax.Array:
    """`unit_norms`; of the softmax, whose `word_kernel` has a unit's weights in a row, of rows."""
    by_row = bool(keys) and getattr(keys[-1], "key", None) == "word_kernel"
    return unit_norms(leaf.T).T if by_row else unit_norms(leaf, split if keys in split else UNSPLIT)
