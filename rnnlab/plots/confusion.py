"""The figure of which classes are taken for which, from WORKDIR/confusion.json."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from rnnlab.files import AGAIN, interpreting, read_json
from rnnlab.plots.style import COLUMN, PAGE, make_panels, save
from rnnlab.plots.words import SMALL
from rnnlab.records.workdir import Workdir


def confusion(workdir: Path) -> Path:
    """WORKDIR/plots/confusion.png: of the examples of each class of the last split, the share taken for each other."""
    path = Workdir(workdir).confusion
    splits = read_json(path, AGAIN)
    with interpreting(path, AGAIN):
        split, measured = list(splits.items())[-1]
        figure = draw_confusion(measured["counts"], measured["classes"], f"{split} examples", "class")
    return save(figure, Workdir(workdir).figure("confusion"))


def draw_confusion(counts: np.ndarray, names: Sequence[str], what: str, truth: str) -> Figure:
    """The share of each row of the counts [C, C], as a picture.

    Args:
        names: of the C classes.
        what: is counted, for the title.
        truth: the label of the rows.
    """
    counts = np.asarray(counts, float)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    few = len(names) <= 12
    figure, ((axis,),) = make_panels(1, 1, (COLUMN, 3.0) if few else (PAGE, 6.2))
    axis.grid(False)
    image = axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for set_ticks in (axis.set_xticks, axis.set_yticks):
        set_ticks(range(len(names)), names, fontsize=SMALL if few else 5.5)
    if few:
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if share[row, column] > 0.6 else "black"
            if count:
                axis.text(
                    column,
                    row,
                    f"{count:g}",
                    ha="center",
                    va="center",
                    fontsize=6 if len(names) <= 8 else 5.5,
                    color=colour,
                )
    axis.tick_params("x", rotation=90)
    axis.set_xlabel("taken for")
    axis.set_ylabel(truth)
    axis.set_title(f"{what}, {np.trace(counts) / max(counts.sum(), 1):.1%} right")
    figure.colorbar(image, ax=axis, label="share of the row")
    return figure
