"""A diagnostic: what it measures of a training step, the figures that show it over training, and their captions.

A figure is drawn by matplotlib, from numbers as diagnostics.jsonl has them; how figures look is said by the module
`rnnlab.plots.style`, which whoever draws is given.
"""

import dataclasses
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import numpy as np

from rnnlab.diagnostics.probe import Probe

Lines = list[dict[str, Any]]
"""The results of one diagnostic, an entry for each training step that was looked at."""


@dataclasses.dataclass(frozen=True)
class DiagnosticFigure:
    """One figure of a diagnostic."""

    name: str
    """The file's: plots/NAME.png."""
    draw: Callable[[list[int], Lines, ModuleType], Any]
    """(training steps, lines, style) -> a matplotlib figure; None where the lines lack what it shows."""
    caption: str
    of_one_answer: bool = False
    """Whether it says nothing of a task that is read at every step."""


@dataclasses.dataclass(frozen=True)
class Diagnostic:
    """A measure of a training step, taken inside the compiled step, and how it is shown."""

    measure: Callable[[Probe], dict[str, jax.Array]]
    figures: tuple[DiagnosticFigure, ...] = ()

    def __call__(self, probe: Probe) -> dict[str, jax.Array]:
        return self.measure(probe)


def as_diagnostic(measure: Callable[..., Any]) -> Diagnostic:
    """A function of a `Probe` as a diagnostic without figures; a `Diagnostic` as it is."""
    return measure if isinstance(measure, Diagnostic) else Diagnostic(measure)


# --- what several figures share --------------------------------------------------------------------------------------


def maps(
    steps: list[int],
    lines: Lines,
    style: ModuleType,
    quantities: tuple[str, ...],
    words: Callable[[str], tuple[str, str]],
    time: str,
) -> Any:
    """Heat maps over training step and time step of the values, lists over time, whose names end in one of quantities.

    words: name -> (layer, symbol). time: the label of the axis of time steps.
    """
    names = [name for name in lines[0] if name.split("/")[-1] in quantities]
    if not names:
        return None
    layers = list(dict.fromkeys(name.split("/")[0] for name in names))
    groups = [[name for name in names if name.split("/")[0] == layer] for layer in layers]
    figure, axes = style.make_grid(len(groups), max(map(len, groups)), 5.6, 3.6)
    for row, group in zip(axes, groups, strict=True):
        for axis in row[len(group) :]:
            axis.set_visible(False)
        for axis, name in zip(row, group, strict=False):
            layer, symbol = words(name)
            style.heat_map(
                figure, axis, steps, [style.numbers(line[name]) for line in lines], 1, rf"$\log_{{10}}$ {symbol}"
            )
            axis.set(xlabel="training step", ylabel=time, title=f"{layer}: {symbol}")
    return figure


def over(style: ModuleType, lines: Lines, name: str) -> np.ndarray:
    """A scalar over training."""
    return style.numbers(line.get(name) for line in lines)


def dots(steps: list[int]) -> dict[str, Any]:
    """Few points are marked: between gaps a line alone would not show them."""
    return {"marker": ".", "markersize": 4} if len(steps) < 40 else {}
