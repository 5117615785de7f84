"""What is measured on a network before, while and after it trains.

DIAGNOSTICS is the table by which configs name what is measured during training, inside the compiled step: pure
functions of a `Probe` that return named arrays.
"""

from collections.abc import Callable

import jax

from rnnlab.config.outside import Table
from rnnlab.diagnostics.atlas import atlas_table, measure_atlas
from rnnlab.diagnostics.gradient_flow import Decay, decay_per_step, flow, gradient_flow, gradient_reach, memory_horizon
from rnnlab.diagnostics.norms import norms
from rnnlab.diagnostics.probe import Probe
from rnnlab.diagnostics.saturation import saturation
from rnnlab.diagnostics.spectrum import spectrum

DIAGNOSTICS: Table[Callable[[Probe], dict[str, jax.Array]]] = Table(
    {
        "gradient_flow": flow,
        "norms": norms,
        "saturation": saturation,
        "spectrum": spectrum,
    },
    "a function of a Probe",
)

__all__ = [
    "DIAGNOSTICS",
    "Decay",
    "Probe",
    "atlas_table",
    "decay_per_step",
    "gradient_flow",
    "gradient_reach",
    "measure_atlas",
    "memory_horizon",
]
