"""What is measured on a network while and after it trains."""

from rnnlab.diagnostics.gradient_flow import decay_per_step, gradient_flow

__all__ = ["decay_per_step", "gradient_flow"]
