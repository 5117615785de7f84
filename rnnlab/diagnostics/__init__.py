"""What is measured on a network before, while and after it trains."""

from rnnlab.diagnostics.atlas import atlas_table, measure_atlas
from rnnlab.diagnostics.gradient_flow import Decay, decay_per_step, gradient_flow

__all__ = ["Decay", "atlas_table", "decay_per_step", "gradient_flow", "measure_atlas"]
