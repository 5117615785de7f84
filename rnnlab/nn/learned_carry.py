"""The carry that a layer begins with, where it is trained."""

from flax import nnx

from rnnlab.cells.base import BaseCell


class FirstCount(nnx.Variable):
    """A count of steps in a learned carry, which is not trained: it has no gradient."""


def learned_carry_of(cell: BaseCell) -> nnx.List:
    """The carry that a layer of this cell begins with, trained from the cell's own on."""
    kinds = [FirstCount if name == "steps" else nnx.Param for name in cell.carry_names]
    rows = [row[0] for row in cell.initial_carry(1)]
    kinds += [nnx.Param] * (len(rows) - len(kinds))
    return nnx.List([kind(row) for kind, row in zip(kinds, rows, strict=True)])
