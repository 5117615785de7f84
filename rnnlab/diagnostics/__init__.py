"""What is measured on a network while and after it trains."""

from rnnlab.diagnostics.gradient_flow import Decay, decay_per_step, gradient_flow

__all__ = ["Decay", "decay_per_step", "gradient_flow"]
