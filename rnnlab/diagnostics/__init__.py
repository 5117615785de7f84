"""Measures of a network before, while and after it trains.

DIAGNOSTICS is the table by which configs name what is measured during training, inside the compiled step: pure
functions of a `Probe` that return named arrays, with the figures that show them.
"""

from rnnlab.config.outside import Table
from rnnlab.diagnostics.atlas import atlas_table, measure_atlas
from rnnlab.diagnostics.diagnostic import Diagnostic, DiagnosticFigure, as_diagnostic
from rnnlab.diagnostics.gradient_flow import (
    GRADIENT_FLOW,
    Decay,
    decay_per_step,
    gradient_flow,
    gradient_reach,
    memory_horizon,
)
from rnnlab.diagnostics.norms import NORMS
from rnnlab.diagnostics.probe import Probe
from rnnlab.diagnostics.saturation import SATURATION
from rnnlab.diagnostics.spectrum import SPECTRUM

DIAGNOSTICS: Table[Diagnostic] = Table(
    {
        "gradient_flow": GRADIENT_FLOW,
        "norms": NORMS,
        "saturation": SATURATION,
        "spectrum": SPECTRUM,
    },
    "a function of a Probe",
    adapt=lambda measure, name: as_diagnostic(measure),
)

__all__ = [
    "DIAGNOSTICS",
    "Decay",
    "Diagnostic",
    "DiagnosticFigure",
    "Probe",
    "atlas_table",
    "decay_per_step",
    "gradient_flow",
    "gradient_reach",
    "measure_atlas",
    "memory_horizon",
]
