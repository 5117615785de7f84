"""What all figures share: colours, axes, and how a file is written."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ["#3b6fb6", "#d1495b", "#2e8b6f", "#e0a030", "#7a5195", "#6b6b6b"]


def make_axes(columns: int) -> tuple[Figure, list]:
    """A figure with this many panels side by side."""
    figure, axes = plt.subplots(1, columns, figsize=(5.6 * columns, 3.8), squeeze=False, layout="constrained")
    for axis in axes[0]:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, linewidth=0.6)
    return figure, list(axes[0])


def log_scale(axis: Axes) -> None:
    """A logarithmic y axis, unless nothing drawn is positive."""
    if any((np.asarray(line.get_ydata(), float) > 0).any() for line in axis.lines):
        axis.set_yscale("log")


def save(figure: Figure, path: Path) -> Path:
    """Writes the figure and closes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path
