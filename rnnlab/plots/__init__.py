"""Every figure, drawn from files in a workdir."""

from rnnlab.plots.diagnosis import diagnosis
from rnnlab.plots.observed import observed
from rnnlab.plots.runs import (
    benchmark_ratios,
    compare_gradient_flow,
    gradient_flow,
    learning_curve,
    learning_rate_range,
    mitigations,
)
from rnnlab.plots.speech import confusion, speech_comparison, utterance

__all__ = [
    "benchmark_ratios",
    "compare_gradient_flow",
    "confusion",
    "diagnosis",
    "gradient_flow",
    "learning_curve",
    "learning_rate_range",
    "mitigations",
    "observed",
    "speech_comparison",
    "utterance",
]
