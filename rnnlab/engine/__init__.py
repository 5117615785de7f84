"""The engine: the only loops over time in the project, derived from a cell's three pieces. What the parts say of
themselves stands in `unrolling.py`."""

from rnnlab.engine.checks import check_lengths, check_range
from rnnlab.engine.contract import Backend, Cotangent, FusableCell, StepCell, Store, Taps, make_taps
from rnnlab.engine.unrolling import default_chunk, resolve_backend, unroll

__all__ = [
    "Backend",
    "Cotangent",
    "FusableCell",
    "StepCell",
    "Store",
    "Taps",
    "check_lengths",
    "check_range",
    "default_chunk",
    "make_taps",
    "resolve_backend",
    "unroll",
]
