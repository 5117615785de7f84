"""The names that the leaves of a state had in checkpoints of earlier versions.

There the parts of the optimiser's chain had numbers in place of names, and what `optim/monitors.py` counts stood beside
its state.
"""

from collections.abc import Collection, Iterable

_MOVED = {
    "spikes/count": "step",
    "spikes/usual_norm": "usual_norm",
    "spikes/total": "totals/spikes",
    "clipping/total": "totals/clipped",
}
_NEW = ("spikes/norm", "clipping/last", "learning_rate/rate")
"""Leaves that the next update sets, whatever they were."""
_STATES = ("", "state/", "best/")
"""The first part of the names of a state's leaves; the latter two in a group of runs."""


def former_names(wanted: Collection[str], stored: Collection[str]) -> tuple[dict[str, str | None], set[str]]:
    """(Of each leaf of a state its name in a checkpoint that has these names, None for one that needs none; those names
    in the checkpoint that mean nothing any more)."""
    names: dict[str, str | None] = {name: name for name in wanted}
    over = set()
    for state in _STATES:
        # The sums of single penalties and of weights: the first line after a resume has them of fewer steps.
        new = (f"{state}sums/penalty/", f"{state}sums/weight/")
        names |= {name: None for name in wanted if name.startswith(new) and name not in stored}
        if f"{state}usual_norm" in stored:
            start = f"{state}optimizer/"
            parts = [name.removeprefix(start) for name in wanted if name.startswith(start)]
            numbers = _numbers(parts, [name.removeprefix(start) for name in stored if name.startswith(start)])
            for part in parts:
                first, _, rest = part.partition("/")
                former = f"{start}{numbers[first]}/{rest}" if first in numbers else start + part
                moved = f"{state}{_MOVED[part]}" if part in _MOVED else former
                names[start + part] = None if part in _NEW else moved
            over.add(f"{state}totals/clipped")  # Also if nothing was clipped.
    return names, over


def _numbers(parts: Iterable[str], stored: Iterable[str]) -> dict[str, str]:
    """The number that each part of the chain had: of those that keep something, noise is the first, the learning rate
    the last."""
    numbers = sorted({part.split("/")[0] for part in stored}, key=int)
    kept = [name for name in ("noise", "rule") if any(part.startswith(f"{name}/") for part in parts)]
    return dict(zip([*kept, "learning_rate"], numbers, strict=False))
