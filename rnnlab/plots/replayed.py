"""The figure of a replay, from WORKDIR/replay.json."""

from pathlib import Path

from rnnlab.diagnostics.flight import SPIKE
from rnnlab.files import AGAIN, read_json
from rnnlab.plots.style import (
    COLOURS,
    GREY,
    TIME_STEP,
    gradient_symbol,
    heat_map,
    hold_spikes,
    log_scale,
    make_axes,
    numbers,
    save,
)
from rnnlab.records.workdir import Workdir


def replay(workdir: Path) -> Path:
    """WORKDIR/plots/replay.png: gradient norms and losses of every intervention over the updates, and the recorded
    gradient over update and time step in the layer that blew up."""
    replay = read_json(Workdir(workdir).replay, AGAIN)
    figure, (norms, losses, flow, names) = make_axes(4)
    for number, (label, each) in enumerate(replay["interventions"].items()):
        updates = [line["update"] for line in each["updates"]]
        style = {"color": "black", "linewidth": 1.8} if number == 0 else {"color": COLOURS[(number - 1) % len(COLOURS)]}
        name = label + ("" if number == 0 else ": held" if each["held"] else ": not held")
        for axis, quantity in ((norms, "grad_norm"), (losses, "loss")):
            axis.plot(updates, numbers(line[quantity] for line in each["updates"]), label=name, **style)
    norms.axhline(SPIKE * replay["calm_norm"], color=GREY, linestyle="--", linewidth=1)
    norms.set_title(f"gradient norm before clipping (dashed: {SPIKE:g} × what was calm)")
    losses.set_title("loss")
    names.set_axis_off()
    names.legend(*losses.get_legend_handles_labels(), loc="center left")
    for axis in (norms, losses):
        axis.axvline(replay["update"], color=GREY, linestyle=":", linewidth=1)
        axis.set_xlabel("update")
        axis.xaxis.get_major_locator().set_params(integer=True)
        log_scale(axis)
        hold_spikes(axis)
    layer = replay["blame"][0]["layer"]
    lines = [line for line in replay["interventions"]["as it was"]["updates"] if line["update"] <= replay["update"]]
    flow.set_title(f"{layer}, as it was")
    flow.set_xlabel("update")
    flow.set_ylabel(TIME_STEP)
    flow.xaxis.get_major_locator().set_params(integer=True)
    grid = [numbers(line["gradient"][layer]) for line in lines]
    label = rf"$\log_{{10}}$ {gradient_symbol('h')}"
    heat_map(figure, flow, [line["update"] for line in lines], grid, 0, label)
    return save(figure, Workdir(workdir).figure("replay"))
