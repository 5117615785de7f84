"""Every figure, drawn from files in a workdir, and the page that holds them."""

import os
import sys

# Before matplotlib reads them: figures are files, and alike whatever a user's shell and matplotlibrc say. A notebook
# shows figures through a backend of its own.
if "ipykernel" not in sys.modules:
    os.environ["MPLBACKEND"] = "agg"
os.environ["MATPLOTLIBRC"] = os.devnull
from rnnlab.plots.confusion import confusion
from rnnlab.plots.diagnosis import diagnosis
from rnnlab.plots.forecast import forecast
from rnnlab.plots.language_models import validation_curves
from rnnlab.plots.observed import compare_training, observed
from rnnlab.plots.run_page import page
from rnnlab.plots.runs import (
    benchmark_ratios,
    compare_gradient_flow,
    gradient_flow,
    learning_curve,
    learning_rate_range,
)
from rnnlab.plots.speech import phone_confusion, speech_comparison, utterance

__all__ = [
    "benchmark_ratios",
    "compare_gradient_flow",
    "compare_training",
    "confusion",
    "diagnosis",
    "forecast",
    "gradient_flow",
    "learning_curve",
    "learning_rate_range",
    "observed",
    "page",
    "phone_confusion",
    "speech_comparison",
    "utterance",
    "validation_curves",
]
