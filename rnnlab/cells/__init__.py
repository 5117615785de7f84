"""Cells, one file a family; CELLS is the table by which configs name them."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from rnnlab.cells.additive import ATR, RAN
from rnnlab.cells.antisymmetric import Antisymmetric, GatedAntisymmetric, Lipschitz
from rnnlab.cells.base import BaseCell, Cell
from rnnlab.cells.bistable import BRC, NBRC
from rnnlab.cells.fast import FastGRNN, FastRNN
from rnnlab.cells.gru import GRU, ResetBeforeGRU
from rnnlab.cells.highway import RecurrentHighway
from rnnlab.cells.independent import IndRNN
from rnnlab.cells.lem import LEM
from rnnlab.cells.linear import LRU, QRNN, SRU, MinGRU, MinLSTM
from rnnlab.cells.lstm import LSTM
from rnnlab.cells.memory import LMU, Clockwork, HiPPOLegS
from rnnlab.cells.minimal import CFN, JANET, MGU, STAR, LiGRU, MinimalRNN
from rnnlab.cells.minion import MiRU1, MiRU2
from rnnlab.cells.multiplicative import Mogrifier, MultiplicativeLSTM
from rnnlab.cells.mutated import MUT1, MUT2, MUT3
from rnnlab.cells.nas import NAS
from rnnlab.cells.orthogonal import AsRNN, exprnn, nnrnn, ornn, scornn
from rnnlab.cells.oscillators import CoRNN, UnICORNN
from rnnlab.cells.refined import URGRU, URLSTM
from rnnlab.cells.residual_lstm import ResidualLSTM
from rnnlab.cells.scrn import SCRN
from rnnlab.cells.simple_gated import DSGU, SGRN, SGU, LightRU
from rnnlab.cells.slstm import SLSTM
from rnnlab.cells.strongly_typed import TGRU, TLSTM, TRNN
from rnnlab.cells.update_gate import UGRNN, IntersectionRNN
from rnnlab.cells.vanilla import Vanilla, irnn
from rnnlab.config.outside import Table

CELLS: Table[Callable[..., BaseCell]] = Table(
    {
        # Vanilla networks, and what steadies their gradients.
        "vanilla": Vanilla,
        "irnn": irnn,
        "indrnn": IndRNN,
        "antisymmetric": Antisymmetric,
        "gated_antisymmetric": GatedAntisymmetric,
        "lipschitz": Lipschitz,
        "cornn": CoRNN,
        "unicornn": UnICORNN,
        "fastrnn": FastRNN,
        "exprnn": exprnn,
        "scornn": scornn,
        "ornn": ornn,
        "nnrnn": nnrnn,
        "asrnn": AsRNN,
        # Cells of one state with gates.
        "gru": GRU,
        "gru_reset_before": ResetBeforeGRU,
        "ur_gru": URGRU,
        "mgu": MGU,
        "ligru": LiGRU,
        "janet": JANET,
        "minimal_rnn": MinimalRNN,
        "fastgrnn": FastGRNN,
        "cfn": CFN,
        "star": STAR,
        "rhn": RecurrentHighway,
        # Cells with a state of their own beside h.
        "lstm": LSTM,
        "ur_lstm": URLSTM,
        "mlstm": MultiplicativeLSTM,
        "mogrifier": Mogrifier,
        "slstm": SLSTM,
        "lem": LEM,
        # Further gated cells.
        "residual_lstm": ResidualLSTM,
        "nas": NAS,
        "ran": RAN,
        "atr": ATR,
        "ugrnn": UGRNN,
        "intersection_rnn": IntersectionRNN,
        "mut1": MUT1,
        "mut2": MUT2,
        "mut3": MUT3,
        "brc": BRC,
        "nbrc": NBRC,
        "sgu": SGU,
        "dsgu": DSGU,
        "sgrn": SGRN,
        "lightru": LightRU,
        "miru1": MiRU1,
        "miru2": MiRU2,
        "scrn": SCRN,
        "trnn": TRNN,
        "tgru": TGRU,
        "tlstm": TLSTM,
        # Linear in the state, or nearly so.
        "mingru": MinGRU,
        "minlstm": MinLSTM,
        "lru": LRU,
        "qrnn": QRNN,
        "sru": SRU,
        # Memories of time.
        "lmu": LMU,
        "hippo_legs": HiPPOLegS,
        "clockwork": Clockwork,
    },
    "a rnnlab.BaseCell",
    lambda cell: isinstance(cell, BaseCell),
)

CellSpec = Annotated[str | Mapping[str, Any], CELLS]
"""A name in `CELLS`, or a section with that name and the cell's parameters."""

__all__ = ["CELLS", "GRU", "LSTM", "BaseCell", "Cell", "CellSpec", "ResetBeforeGRU", "Vanilla", "irnn"]
