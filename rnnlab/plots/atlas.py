"""The figure of the atlas of initialisations (`rnnlab.diagnostics.atlas`)."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, NullLocator

from rnnlab.diagnostics.atlas import FOREVER, INITIALIZATIONS, short
from rnnlab.files import AGAIN, read_json
from rnnlab.plots.style import COLOURS, PAGE, gradient_symbol, make_panels, save
from rnnlab.plots.words import SMALL

_COLUMNS = 3
_SHADES = LinearSegmentedColormap.from_list("vanish, keep, explode", [COLOURS[0], "#f6f6f4", COLOURS[1]])
_FULL = math.log10(2)
_RANGE = Normalize(-_FULL, _FULL)
"""The range of log10 of the factor per step: what halves in one step and what doubles in one have the full colours."""

_TEXTBOOK: dict[str, tuple[str, ...]] = {
    "linear": ("glorot_uniform", "orthogonal", "identity"),
    "tanh, inputs × 0.01": ("glorot_uniform", "orthogonal"),
    "tanh": ("glorot_uniform", "orthogonal"),
    "relu": ("he_normal", "identity"),
    "relu, no input": ("he_normal", "identity"),
}
"""Where, at scale 1, a gradient is said to keep its size: Glorot and Bengio (2010), He et al. (2015), Saxe et al.
(2014), Le, Jaitly and Hinton (2015)."""


def atlas(results: Path) -> Path:
    """The figure of a file of `measure_atlas`, beside it: one panel a network, one cell an initialiser and scale.

    The colour is the factor of ‖∂L/∂h_t‖ per step back in time, the text its half-life or doubling time in steps.
    """
    measured = read_json(results, AGAIN, {"networks": dict, "initializers": list, "scales": list, "results": list})
    networks, initializers, scales = list(measured["networks"]), measured["initializers"], measured["scales"]
    rows = {(row["network"], row["initializer"], row["scale"]): row for row in measured["results"]}
    columns = min(_COLUMNS, len(networks))
    lines = math.ceil(len(networks) / columns)
    size = (PAGE, 1.1 + lines * (0.165 * len(initializers) + 0.38))
    figure, axes = make_panels(lines, columns, size, sharey=True)
    for axis, network in zip(axes.flat, networks, strict=False):
        _draw(axis, [[rows[network, name, scale] for scale in scales] for name in initializers])
        for name in _TEXTBOOK.get(network, ()):
            if name in initializers and 1.0 in scales:
                corner = (scales.index(1.0) - 0.5, initializers.index(name) - 0.5)
                axis.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="#222222", linewidth=1.1, zorder=3))
        axis.set_title(network)
        axis.set_xticks(range(len(scales)), [f"× {_number(scale)}" for scale in scales], fontsize=6)
        axis.set_yticks(range(len(initializers)), [INITIALIZATIONS.get(n, n) for n in initializers])
    for axis in axes.flat[len(networks) :]:
        axis.set_visible(False)
    bar = figure.colorbar(
        ScalarMappable(_RANGE, _SHADES), ax=axes, location="bottom", aspect=70, pad=0.02, fraction=0.06, extend="both"
    )
    ticks = (0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 1.75, 2)
    bar.ax.xaxis.set_major_locator(FixedLocator([math.log10(tick) for tick in ticks]))
    bar.ax.xaxis.set_minor_locator(NullLocator())
    bar.ax.set_xticklabels([f"{tick:g}" for tick in ticks])
    bar.outline.set_visible(False)
    bar.set_label(f"factor of {gradient_symbol('h')} per step back in time")
    figure.supxlabel(
        f"↓3 halves in 3 steps, ↑3 doubles in 3 steps, ∞ neither in {FOREVER}, 0 gone at once. Framed: where textbooks "
        f"let it keep its size.\n{measured['features']} units, {measured['length']} steps, medians of "
        f"{measured['draws']} draws.",
        fontsize=SMALL,
    )
    return save(figure, results.with_suffix(".png"))


def _draw(axis: Axes, rows: list[list[Mapping[str, Any]]]) -> None:
    factors = np.array([[float(row["factor"]) for row in line] for line in rows])
    with np.errstate(divide="ignore"):
        shades = np.clip(np.log10(factors), -9, 9)  # A factor 0 has one, too; NaN stays and is drawn in grey.
    axis.imshow(shades, cmap=_SHADES.with_extremes(bad="#c8c8c8"), norm=_RANGE, aspect="auto")
    for y, line in enumerate(rows):
        for x, row in enumerate(line):
            strong = abs(shades[y, x]) > 0.6 * _FULL
            colour = "white" if strong else "#222222"
            axis.text(x, y, short(row), ha="center", va="center", fontsize=5.5, color=colour)
    axis.set_xticks(np.arange(len(rows[0])) - 0.5, minor=True)
    axis.set_yticks(np.arange(len(rows)) - 0.5, minor=True)
    axis.grid(False, which="major")
    axis.grid(which="minor", color="white", linewidth=1.2)
    axis.tick_params(which="both", length=0, pad=2)
    axis.spines[:].set_visible(False)


def _number(scale: float) -> str:
    return "√2" if math.isclose(scale, math.sqrt(2)) else f"{scale:g}"
