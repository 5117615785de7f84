"""The engine: the only loops over time in the project, derived from a cell's few pieces. What the parts say of
themselves stands in `unrolling.py`."""

from rnnlab.engine.checks import check_lengths, check_range, check_resets
from rnnlab.engine.contract import (
    Backend,
    Cotangent,
    Linear,
    Matrix,
    Multiply,
    RecurrentCell,
    Store,
    Taps,
    make_taps,
    products_of,
)
from rnnlab.engine.newton.options import Iterations, NewtonOptions, check_newton
from rnnlab.engine.resets import restarting
from rnnlab.engine.unrolling import default_chunk, resolve_backend, unroll

__all__ = [
    "Backend",
    "Cotangent",
    "Iterations",
    "Linear",
    "Matrix",
    "Multiply",
    "NewtonOptions",
    "RecurrentCell",
    "Store",
    "Taps",
    "check_lengths",
    "check_newton",
    "check_range",
    "check_resets",
    "default_chunk",
    "make_taps",
    "products_of",
    "resolve_backend",
    "restarting",
    "unroll",
]
