"""Cells, one file a family; CELLS is the table by which configs name them."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from rnnlab.cells.base import BaseCell, Cell
from rnnlab.cells.gru import GRU, ResetBeforeGRU
from rnnlab.cells.independent import IndRNN
from rnnlab.cells.lstm import LSTM
from rnnlab.cells.oscillators import CoRNN, UnICORNN
from rnnlab.cells.slstm import SLSTM
from rnnlab.cells.vanilla import Vanilla, irnn
from rnnlab.config.outside import Table

CELLS: Table[Callable[..., BaseCell]] = Table(
    {
        "vanilla": Vanilla,
        "irnn": irnn,
        "lstm": LSTM,
        "gru": GRU,
        "gru_reset_before": ResetBeforeGRU,
        "indrnn": IndRNN,
        "cornn": CoRNN,
        "unicornn": UnICORNN,
        "slstm": SLSTM,
    },
    "a rnnlab.BaseCell",
    lambda cell: isinstance(cell, BaseCell),
)

CellSpec = Annotated[str | Mapping[str, Any], CELLS]
"""A name in `CELLS`, or a section with that name and the cell's parameters."""

__all__ = ["CELLS", "GRU", "LSTM", "BaseCell", "Cell", "CellSpec", "ResetBeforeGRU", "Vanilla", "irnn"]
