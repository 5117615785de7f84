"""Figures of language models that were trained side by side, from the results of scripts."""

from pathlib import Path

from rnnlab.files import AGAIN, read_json
from rnnlab.plots.style import COLOURS, hold_spikes, log_scale, make_axes, save


def validation_curves(results: Path) -> Path:
    """The figure of a file with `runs`, each with `curves`: label -> pairs of steps and validation perplexities; beside
    the file. A label has one colour over all runs."""
    runs = read_json(results, AGAIN, {"runs": list})["runs"]
    labels = list(dict.fromkeys(label for run in runs for label in run["curves"]))
    figure, (axis,) = make_axes(1)
    for number, label in enumerate(labels):
        named = {"label": label}
        for run in (run for run in runs if run["curves"].get(label)):
            steps, values = zip(*run["curves"][label], strict=True)
            axis.plot(steps, values, color=COLOURS[number % len(COLOURS)], linewidth=1.4, marker=".", **named)
            named = {}
    log_scale(axis)
    hold_spikes(axis)
    axis.set_xlabel("updates")
    axis.set_ylabel("validation perplexity")
    axis.legend()
    return save(figure, results.with_suffix(".png"))
