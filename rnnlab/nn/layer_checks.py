"""What a recurrent layer refuses: options that its cell, its backend or its normalisation has no place for."""

from rnnlab.cells.base import BaseCell
from rnnlab.cells.lstm import LSTM
from rnnlab.config.errors import ConfigError
from rnnlab.engine import Backend, check_newton
from rnnlab.nn.options import CotangentOptions, DropoutOptions, RecurrenceOptions


def check_between_steps(recurrence: RecurrenceOptions, cotangent: CotangentOptions, dropout: DropoutOptions) -> None:
    """Raises a ConfigError for what acts between the steps of a layer, where a backend that runs all steps at once has
    no place for it, and for options of the backend newton that are out of range."""
    changes = {name for name, value in vars(cotangent).items() if value is not None}
    between: list[str] = []
    if recurrence.backend == "scan":
        between = [f"dropout.{name}" for name in ("zoneout", "zoneout_cell") if getattr(dropout, name) is not None]
        between += ["cotangent"] if changes else []
    elif recurrence.backend == "newton":
        try:
            check_newton(recurrence.newton, None, "model.recurrence.newton")
        except ValueError as error:
            raise ConfigError(str(error)) from None
        between = [f"cotangent.{name}" for name in ("clip_value", "clip_norm") if name in changes]
    if between:
        raise ConfigError(
            f"model.{between[0]}: acts between steps, and model.recurrence.backend={recurrence.backend!r} runs all "
            "steps at once; use auto"
        )


def check_batch_normalization(cell: BaseCell, steps: int | None, backend: Backend, dropout: DropoutOptions) -> None:
    """Raises a ConfigError for what recurrent batch normalisation cannot be combined with."""
    if steps is None:
        raise ConfigError(
            "model.normalization.steps: missing; cell='batch' keeps statistics of every time step, and this is how "
            "many: as a rule the length of the task's longest sequence"
        )
    if backend in ("fused", "kernel", "native", "newton"):
        raise ConfigError(
            f"model.recurrence.backend: {backend!r} cannot run model.normalization.cell='batch', whose rows see each "
            "other; use reference or auto"
        )
    if isinstance(cell, LSTM) and cell.cell_gain is not None:
        raise ConfigError(
            "model.cell.normalize_cell: model.normalization.cell='batch' normalises c already; set one of the two"
        )
    if dropout.zoneout_cell is not None:
        raise ConfigError(
            "model.dropout.zoneout_cell: not with model.normalization.cell='batch', whose statistics of c are those "
            "before zoneout; use zoneout"
        )
