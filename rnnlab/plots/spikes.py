"""Spikes: the ends of axes without them, and marks at the edge for what lies beyond."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from rnnlab.plots.words import SMALL

_OVER_CURVES = {"zorder": 4, "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 0.5}}
"""The look of a text beside the mark of a spike, to and from which curves run."""


def shown(values: np.ndarray, positive: bool = False) -> np.ndarray:
    """NaN for what has no place on an axis: what is not finite, and for a logarithmic one what is not positive."""
    values = np.asarray(values, float)
    return np.where(np.isfinite(values) & (values > 0 if positive else True), values, np.nan)


def without_spikes(values: Any, logarithmic: bool) -> tuple[float, float]:
    """The lowest and the highest value that a figure shows, of those that have a place on its axis: all but spikes,
    which would press the others onto a line.

    A spike is further from the middle half of the values than ten times what that spans, and than six decades on a
    logarithmic axis; where the middle half is one number, on a plain axis, none is. On a logarithmic axis a
    value that others lead up to, with at most three decades from one to the next, is a decay or a growth, not a spike.
    """
    flat = np.asarray(values, float).ravel()
    flat = flat[~np.isnan(shown(flat, positive=logarithmic))]
    if not flat.size:
        return 0.0, 1.0
    places = np.log10(flat) if logarithmic else flat
    low, high = sorted((np.quantile(places, 0.25, method="higher"), np.quantile(places, 0.75, method="lower")))
    reach = max(10 * (high - low), 6.0) if logarithmic else 10 * (high - low) or np.inf
    order = np.argsort(places)
    places = places[order]
    first = int(np.searchsorted(places, low - reach))
    last = int(np.searchsorted(places, high + reach, side="right")) - 1
    if logarithmic:
        leaps = np.flatnonzero(np.diff(places) > 3)  # Between a place of this number and the next.
        first = int(max(leaps[leaps < first], default=-1)) + 1
        last = int(min(leaps[leaps >= last], default=len(places) - 1))
    return float(flat[order[first]]), float(flat[order[last]])


def hold_spikes(axis: Axes) -> None:
    """Ends the y axis where its curves do without their spikes (`without_spikes`); marks each spike at the edge, in the
    colour of its curve, and names the furthest. Horizontal lines are not curves, and stay in sight."""
    curves = [line for line in axis.lines if line.get_transform() == axis.transData]
    logarithmic = axis.get_yscale() == "log"
    drawn = [shown(np.asarray(line.get_ydata(), float), positive=logarithmic) for line in curves]
    low, high = unflattened(np.concatenate(drawn or [np.zeros(0)]), logarithmic)
    bottom, top = _with_levels(axis, low, high, logarithmic)
    for edge, beyond, mark, where in (
        (1, [values > top for values in drawn], "^", "top"),
        (0, [values < bottom for values in drawn], "v", "bottom"),
    ):
        if not any(spikes.any() for spikes in beyond):
            continue
        _end_axis(axis, bottom, top, logarithmic)
        far = None
        for line, values, spikes in zip(curves, drawn, beyond, strict=True):
            x = np.asarray(line.get_xdata(), float)[spikes]
            if x.size:
                look = {"color": line.get_color(), "markersize": 4, "clip_on": False, "zorder": 5}
                axis.plot(x, np.full(x.size, edge), mark, transform=axis.get_xaxis_transform(), **look)
                worst = (np.argmax if edge else np.argmin)(values[spikes])
                point = (values[spikes][worst], x[worst], line.get_color())
                far = point if far is None else (max if edge else min)(far, point, key=lambda each: each[0])
        if far is not None:
            _name_spike(axis, far, edge, where)


def unflattened(values: np.ndarray, logarithmic: bool) -> tuple[float, float]:
    """`without_spikes` where spikes would leave the rest a tenth of a plain axis or a third of a logarithmic one; else
    the lowest and the highest of all: the tail of a curve is not a spike."""
    low, high = without_spikes(values, logarithmic)
    values = values[~np.isnan(shown(values, positive=logarithmic))]
    if not values.size:
        return low, high
    ends = np.array([low, high, values.min(), values.max()])
    kept, whole = np.diff((np.log10(ends) if logarithmic else ends).reshape(2, 2))[:, 0]
    return (low, high) if whole > (3 if logarithmic else 10) * kept else (float(ends[2]), float(ends[3]))


def _with_levels(axis: Axes, low: float, high: float, logarithmic: bool) -> tuple[float, float]:
    """These ends, moved so far that they hold the horizontal lines, too."""
    levels = [line.get_ydata() for line in axis.lines if line.get_transform() == axis.get_yaxis_transform("grid")]
    values = shown(np.concatenate([np.asarray(level, float) for level in levels] or [np.zeros(0)]), logarithmic)
    values = values[~np.isnan(values)]
    return min([low, *values]), max([high, *values])


def _end_axis(axis: Axes, low: float, high: float, logarithmic: bool) -> None:
    """Limits with the margin that a plain axis has; zero width becomes a little."""
    if logarithmic:
        margin = max((high / low) ** 0.05, 1.1)
        axis.set_ylim(low / margin, high * margin)
    else:
        margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        axis.set_ylim(low - margin, high + margin)


def _name_spike(axis: Axes, spike: tuple[float, float, Any], edge: int, where: str) -> None:
    value, x, colour = spike
    # On the side of the spike where the panel has more room.
    left, right = axis.transData.inverted().transform(axis.transAxes.transform([(0, 0), (1, 0)]))[:, 0]
    begins = abs(x - left) < abs(right - x)
    axis.annotate(
        f"{value:.3g}",
        (x, edge),
        xycoords=axis.get_xaxis_transform(),
        xytext=(6 if begins else -6, -2 if edge else 2),
        textcoords="offset points",
        ha="left" if begins else "right",
        va=where,
        fontsize=SMALL,
        color=colour,
        **_OVER_CURVES,
    )
