"""Figures of what was measured during training, from WORKDIR/diagnostics.jsonl; each diagnostic brings its own."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rnnlab.config.outside import is_outside
from rnnlab.config.schema import lookup
from rnnlab.diagnostics import DIAGNOSTICS, Diagnostic
from rnnlab.files import interpreting
from rnnlab.plots import style
from rnnlab.plots.runs import last_forward, reads_every_step
from rnnlab.plots.style import NOTHING, TIME_STEP, edges, make_axes, numbers, save, shown
from rnnlab.records.metrics import LINES_AGAIN, read_diagnostics
from rnnlab.records.workdir import Workdir


def observed(workdir: Path, output: Path | None = None) -> list[Path]:
    """OUTPUT/plots/NAME.png for every figure that WORKDIR/diagnostics.jsonl is enough for; no half-life for a task with
    a readout at every step, where it says nothing.

    output: WORKDIR if not given.
    """
    lines = read_diagnostics(workdir)
    paths = []
    for name, diagnostic in diagnostics_of(key for line in lines for key in line).items():
        those = [line for line in lines if name in line]
        for figure in diagnostic.figures:
            if figure.of_one_answer and reads_every_step(workdir):
                continue
            with interpreting(Workdir(workdir).diagnostics, LINES_AGAIN):
                drawn = figure.draw([line["step"] for line in those], [line[name] for line in those], style)
                if drawn is not None:
                    paths.append(save(drawn, Workdir(output or workdir).figure(figure.name)))
    return paths


def diagnostics_of(names: Iterable[str]) -> dict[str, Diagnostic]:
    """The names that are diagnostics, the project's first."""
    names = dict.fromkeys(names)
    ours = {name: diagnostic for name, diagnostic in DIAGNOSTICS.items() if name in names}
    return ours | {name: lookup(DIAGNOSTICS, name, "diagnostics") for name in names if is_outside(name)}


def compare_training(workdirs: Mapping[str, Path], path: Path) -> Path:
    """log10 of ‖∂L/∂h_t‖ over that of the last time step, over training step and time step, a panel for each run's last
    layer: red where the gradient has grown on its way back, blue where it has vanished.

    workdirs: label -> a workdir whose diagnostics.jsonl has gradient_flow.
    """
    figure, axes = make_axes(len(workdirs))
    mesh: Any = None
    for axis, (label, workdir) in zip(axes, workdirs.items(), strict=True):
        lines = [line for line in read_diagnostics(workdir) if "gradient_flow" in line]
        with interpreting(Workdir(workdir).diagnostics, LINES_AGAIN):
            name = last_forward(name for name in lines[-1]["gradient_flow"] if name.endswith("/h"))
            norms = np.array([numbers(line["gradient_flow"][name]) for line in lines])
        logs = np.log10(shown(norms, positive=True)) - np.log10(shown(norms[:, -1:], positive=True))
        rows = np.arange(norms.shape[1] + 1) + 0.5
        mesh = axis.pcolormesh(
            edges([line["step"] for line in lines]), rows, logs.T, cmap="RdBu_r", vmin=-10, vmax=10, rasterized=True
        )
        axis.set_facecolor(NOTHING)
        axis.grid(False)
        axis.set(xlabel="training step", ylabel=TIME_STEP, title=label)
    figure.colorbar(mesh, ax=axes, extend="both", label=r"$\log_{10}$ of the gradient at t over the last step's")
    return save(figure, path)
