"""Recurrent networks under JAX, where the gates of a cell are written once and everything else is derived from them.

As a library: cells, `unroll`, initialisers, activations and networks for any Flax NNX model.
As a program: `python -m rnnlab.train --help`.
From Python: `load` opens the folder that a run has left, `run_training` and `run_sweep` start one, `compare_gradients`
and `half_life` say how far back a gradient reaches.
"""

from rnnlab.cells import CELLS, GRU, LSTM, BaseCell, Cell, ResetBeforeGRU, Vanilla, irnn
from rnnlab.engine import Iterations, NewtonOptions, Taps, make_taps, unroll
from rnnlab.library import compare_gradients, half_life, load, load_sweep, run_sweep, run_training, table
from rnnlab.nn.network import Network
from rnnlab.nn.recurrent_layer import RecurrentLayer
from rnnlab.nn.torch_weights import from_torch, to_torch
from rnnlab.ops import activations, initializers
from rnnlab.ops.activations import ACTIVATIONS
from rnnlab.ops.initializers import INITIALIZERS
from rnnlab.parallel import compiler

__version__ = "0.2.0"

compiler.repair()  # None of the imports has begun to use JAX.

__all__ = [
    "ACTIVATIONS",
    "CELLS",
    "GRU",
    "INITIALIZERS",
    "LSTM",
    "BaseCell",
    "Cell",
    "Iterations",
    "Network",
    "NewtonOptions",
    "RecurrentLayer",
    "ResetBeforeGRU",
    "Taps",
    "Vanilla",
    "activations",
    "compare_gradients",
    "from_torch",
    "half_life",
    "initializers",
    "irnn",
    "load",
    "load_sweep",
    "make_taps",
    "run_sweep",
    "run_training",
    "table",
    "to_torch",
    "unroll",
]
