"""Every figure, drawn from files in a workdir, and the page that holds them."""

from rnnlab.plots.diagnosis import diagnosis
from rnnlab.plots.language_models import validation_curves
from rnnlab.plots.observed import observed
from rnnlab.plots.page import page
from rnnlab.plots.runs import (
    benchmark_ratios,
    compare_gradient_flow,
    gradient_flow,
    learning_curve,
    learning_rate_range,
    mitigations,
)

__all__ = [
    "benchmark_ratios",
    "compare_gradient_flow",
    "diagnosis",
    "gradient_flow",
    "learning_curve",
    "learning_rate_range",
    "mitigations",
    "observed",
    "page",
    "validation_curves",
]
