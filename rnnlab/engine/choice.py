"""Which backend runs a cell: the one that is asked for, where it can, or by "auto" one that can."""

import contextlib
from typing import get_args

from flax import nnx

from rnnlab.engine.contract import Backend, RecurrentCell, check_cell
from rnnlab.engine.kernel.settings import check_platform
from rnnlab.engine.measured import measured_backend
from rnnlab.engine.native.library import check_native
from rnnlab.engine.scan import linear_of


def resolve_backend(cell: RecurrentCell, backend: Backend, interpret: bool = False) -> Backend:
    """The backend that `unroll` will use: "auto" is whichever was measured to be the fastest (`measured.py`) and can
    run the cell, else fused, or reference for a cell whose rows see each other."""
    check_cell(cell)
    if backend not in get_args(Backend):
        raise ValueError(f"unknown backend {backend!r}; known: {', '.join(get_args(Backend))}")
    if backend == "auto" and (measured := measured_backend(cell)) is not None:
        with contextlib.suppress(ValueError):
            return resolve_backend(cell, measured, interpret)
    if backend == "scan":
        linear_of(cell)
        return backend
    if backend == "kernel":
        check_platform(interpret)
    if backend == "native":
        check_native()
    if not isinstance(cell, nnx.Module):
        if backend in ("fused", "kernel", "newton", "native"):
            raise ValueError(f"{type(cell).__name__} is no flax.nnx.Module, as the {backend} backend needs; use 'auto'")
        return "reference"
    if not getattr(cell, "mixes_rows", False):
        return "fused" if backend == "auto" else backend
    if backend in ("fused", "kernel", "newton", "native"):
        raise ValueError(
            f"the rows of {type(cell).__name__} see each other, so the {backend} backend cannot run it; "
            "use backend='reference' or 'auto'"
        )
    return "reference"
