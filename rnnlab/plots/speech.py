"""Figures of what a network recognised, from WORKDIR/recognition.npz, and of the comparison on the sample."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from rnnlab.datasets.features import BINS, SHIFT
from rnnlab.datasets.phones import PHONES
from rnnlab.files import AGAIN, read_arrays, read_json
from rnnlab.plots.confusion import draw_confusion
from rnnlab.plots.style import COLOURS, COLUMN, PAGE, make_panels, save
from rnnlab.records.workdir import Workdir

FRAME = SHIFT / 16_000
"""Seconds from one frame to the next."""


def utterance(workdir: Path) -> Path:
    """WORKDIR/plots/utterance.png: filter banks, true and recognised phones, and posteriors of one utterance."""
    arrays = read_arrays(
        Workdir(workdir).recognition_arrays, AGAIN, ["features", "posteriors", "id", "spoken", "decoded"]
    )
    features, posteriors = arrays["features"], arrays["posteriors"]
    name, tracks = str(arrays["id"]), {"spoken": arrays["spoken"], "decoded": arrays["decoded"]}
    tracks["largest posterior"] = posteriors.argmax(-1)
    seconds = FRAME * len(features)
    figure, axes = make_panels(3, 1, (PAGE, 6.4), sharex=True, height_ratios=[2, 1.2, 5])
    banks, phones, chances = axes[:, 0]
    for axis in axes.flat:
        axis.grid(False)
    banks.imshow(features[:, :BINS].T, origin="lower", aspect="auto", extent=(0, seconds, 0, BINS), cmap="magma")
    banks.set_ylabel("filter bank")
    banks.set_title(name)
    for row, track in enumerate(tracks.values()):
        _draw_track(phones, track, -row)
    phones.set_yticks([-row for row in range(len(tracks))], list(tracks))
    phones.set_ylim(0.5 - len(tracks), 0.5)
    image = chances.imshow(
        posteriors.T, origin="lower", aspect="auto", extent=(0, seconds, -0.5, 38.5), cmap="Blues", vmin=0, vmax=1
    )
    spoken = tracks["spoken"].astype(float)
    spoken[spoken < 0] = np.nan
    chances.step(FRAME * np.arange(len(spoken)), spoken, where="post", color=COLOURS[1], linewidth=1, label="spoken")
    chances.set_yticks(range(39), PHONES[39], fontsize=5.5)
    chances.set_xlabel("seconds")
    chances.set_title("posteriors of the 39 phones")
    chances.legend()
    figure.colorbar(image, ax=chances, pad=0.01)
    return save(figure, Workdir(workdir).figure("utterance"))


def _draw_track(axis: Axes, phones: np.ndarray, height: float) -> None:
    """Every phone as a box with its name; no box where there is none."""
    ends = np.flatnonzero(np.diff(phones, append=-2)) + 1
    for start, end in zip(np.r_[0, ends[:-1]], ends, strict=True):
        phone = int(phones[start])
        if phone < 0:
            continue
        axis.barh(height, FRAME * (end - start), 0.8, FRAME * start, color=plt.get_cmap("tab20")(phone % 20), alpha=0.6)
        if end - start > 3:
            axis.text(FRAME * (start + end) / 2, height, PHONES[39][phone], ha="center", va="center", fontsize=5.5)


def phone_confusion(workdir: Path) -> Path:
    """WORKDIR/plots/confusion.png: of the frames of each of the 39 phones, the share taken for each other."""
    counts = read_arrays(Workdir(workdir).recognition_arrays, AGAIN, ["confusion"])["confusion"]
    figure = draw_confusion(counts, PHONES[39], "frames of the 39 phones", "spoken")
    return save(figure, Workdir(workdir).figure("confusion"))


def speech_comparison(results: Path) -> Path:
    """The figure of a file of scripts/compare_speech.py, beside it: every seed's frame error, mean and interval."""
    rows = read_json(results, AGAIN, {"networks": dict})["networks"]
    figure, ((axis,),) = make_panels(1, 1, (COLUMN, 0.6 + 0.16 * len(rows)))
    for y, row in enumerate(rows.values()):
        errors = [100 * run["test"]["frame_error"] for run in row["runs"]]
        axis.scatter(errors, [y] * len(errors), s=8, color=COLOURS[0], zorder=3)
        if row.get("interval") is not None:
            low, mean, high = (100 * value for value in (row["interval"][0], row["mean"], row["interval"][1]))
            wide = [[mean - low], [high - mean]]
            axis.errorbar(mean, y, xerr=wide, color=COLOURS[1], marker="|", markersize=7, capsize=2, linewidth=1)
    axis.set_yticks(range(len(rows)), list(rows))
    axis.invert_yaxis()
    axis.set_xlabel("frame error of the test speakers, %: every seed, mean and 95 % interval")
    return save(figure, results.with_suffix(".png"))
