"""Which panels the page of a run has: what each draws, on what scale, beside which levels, and what to set where one is
empty. The page draws what is listed here."""

from collections.abc import Iterable, Mapping
from typing import Any

from rnnlab.diagnostics import DIAGNOSTICS
from rnnlab.watch.facts import Facts
from rnnlab.watch.run_files import RATE

SPLITS = ("train", "validation", "test")
_OTHERS = {"loss", "grad_norm", "largest_grad_norm", "clipped", "learning_rate", "steps_per_second"}
_GRADIENT = {"h": "‖∂L/∂hₜ‖", "c": "‖∂L/∂cₜ‖"}
_CARRY = {"h": "‖hₜ‖", "c": "‖cₜ‖"}
_SHARES = {"above 0.99": "> 0.99", "below 0.01": "< 0.01", "beyond 0.99": "|·| > 0.99", "dead": "dead"}


def panels_of(
    curves: Iterable[str], maps: Iterable[str], config: Mapping[str, Any], facts: Facts
) -> list[dict[str, Any]]:
    """The panels in their order.

    Args:
        curves, maps: the names of those that there are.
        config: the run's.
        facts: of its task.

    Returns:
        Each with "section" and "title", and with "hint", what is missing. One of curves has "curves", each {"name",
        "label", "colour", "dashed"}; "scale", log or linear; "levels", pairs of a value and its words; "whole", whether
        the axis reaches to every spike. One of a heat map has "map", "unit", and "axis", the ends of what goes up where
        it is not time.
    """
    names, heat = list(curves), list(maps)
    return [
        *_training(names, facts),
        *_steps(names, config),
        *_gradient_flow(names, heat, facts),
        *_norms(names),
        *_saturation(names, heat),
        *_spectrum(names),
        *_outside(names),
        *_missing(names, heat, config),
    ]


def _panel(
    section: str, title: str, curves: list[dict[str, Any]], scale: str = "linear", **more: Any
) -> dict[str, Any]:
    both = {"section": section, "title": title, "curves": curves, "scale": scale}
    return both | {"levels": [], "hint": "", "whole": False} | more


def _curve(name: str, label: str, colour: int | str, dashed: bool = False) -> dict[str, Any]:
    return {"name": name, "label": label, "colour": colour, "dashed": dashed}


def _of_splits(names: list[str], metric: str) -> list[dict[str, Any]]:
    return [_curve(f"{split}/{metric}", split, split) for split in SPLITS if f"{split}/{metric}" in names]


def _training(names: list[str], facts: Facts) -> list[dict[str, Any]]:
    """The loss and the metrics of the task."""
    metrics = {name.partition("/")[2] for name in names if name.partition("/")[0] in SPLITS}
    metrics = sorted(each for each in metrics - _OTHERS if "/" not in each)
    baselines = dict.fromkeys(facts.baselines.values())
    panels = []
    for metric in ["loss", *metrics]:
        levels = [[value, f"baseline {value:.4g}"] for value in baselines] if metric == "loss" else []
        if facts.solved is not None and facts.solved[0] == metric:
            levels.append([facts.solved[1], f"solved {facts.solved[1]:g}"])
        share = metric in facts.larger_is_better
        scale = "linear" if share else "log"
        panel = _panel("Training", metric.replace("_", " "), _of_splits(names, metric), scale, whole=share)
        panels.append(panel | {"levels": levels})
    if not any(panel["curves"] for panel in panels):
        panels[0]["hint"] = "No line of metrics.jsonl yet: the first comes after log_every steps."
    return panels


def _steps(names: list[str], config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The gradient before clipping, the learning rates, penalties, the throughput."""
    section, optimizer = "Training", config.get("optimizer")

    def short(name: str) -> str:
        return name.split("/", 2)[2]

    clip = optimizer.get("clip_norm") if isinstance(optimizer, Mapping) else None
    gradient = [("train/grad_norm", "mean", 0), ("train/largest_grad_norm", "largest", 1)]
    rates = [name for name in names if name.startswith("train/learning_rate/")]
    penalties = [name for name in names if name.startswith("train/penalty/")]
    has_clip = isinstance(clip, int | float)
    panels = [
        _panel(section, "gradient norm before clipping", _those(names, gradient), "log")
        | {
            "levels": [[clip, f"clip {clip:g}"]] if has_clip else [],
            "hint": "" if has_clip else "Nothing clips by norm: --config.optimizer.clip_norm=1 would.",
        },
        _panel(section, "share of steps clipped", _those(names, [("train/clipped", "clipped", 0)]), whole=True),
        _panel(
            section,
            "learning rate",
            _those(names, [("train/learning_rate", "optimiser", 0)])
            + [_curve(name, short(name), number + 1, True) for number, name in enumerate(rates)],
        ),
        _panel(section, "penalties", [_curve(name, short(name), i) for i, name in enumerate(penalties)], "log"),
        _panel(section, "steps per second", _those(names, [(RATE, "training", 2)])),
    ]
    return [panel for panel in panels if panel["curves"]]


def _those(names: list[str], wanted: list[tuple[str, str, int]]) -> list[dict[str, Any]]:
    return [_curve(*each) for each in wanted if each[0] in names]


def _gradient_flow(names: list[str], maps: list[str], facts: Facts) -> list[dict[str, Any]]:
    section = "Gradient through time"
    order = list(_GRADIENT)
    heat = sorted(_of(maps, "gradient_flow", *_GRADIENT), key=lambda name: (_layer(name), order.index(_last(name))))
    panels = [_map(section, name, _GRADIENT[_last(name)]) for name in heat]
    quantities = {
        "half_life": ("half-life in time steps (▲: no decay)", "log", []),
        "factor": ("factor of ‖∂L/∂hₜ‖ per step back in time", "linear", [[1, "1: kept"]]),
        "horizon": ("reach of 1 % of the gradient, time steps", "linear", []),
    }
    for quantity, (title, scale, levels) in quantities.items():
        mine = _of(names, "gradient_flow", quantity)
        if mine and facts.reads_every_step:
            hint = "Not drawn: the task is read at every step, and what each answer adds hides the decay of a gradient."
            panels.append(_panel("Not shown", title, [], hint=hint))
        elif mine:
            curves = [_curve(name, _layer(name), number) for number, name in enumerate(mine)]
            panels.append(_panel(section, title, curves, scale, levels=levels, whole=True))
    return panels


def _norms(names: list[str]) -> list[dict[str, Any]]:
    section = "Norms"

    def words(name: str) -> str:
        return _below(name).replace("_", " ")

    weights = [name.removesuffix("/weight") for name in _of(names, "norms", "weight")]
    whole = [name for name in weights if name.rpartition("/")[0] not in weights]  # Without single gates of a kernel.
    panels = []
    for layer in dict.fromkeys(_layer(name) for name in whole):
        mine = [name for name in whole if _layer(name) == layer]
        for title, kinds in (
            ("gradient (dashed: after clipping)", ("gradient", "clipped")),
            ("weight", ("weight",)),
            ("update / weight", ("update / weight",)),
        ):
            curves = [
                _curve(f"{name}/{kind}", "" if kind == "clipped" else words(name), at, kind == "clipped")
                for at, name in enumerate(mine)
                for kind in kinds
                if f"{name}/{kind}" in names
            ]
            panels.append(_panel(section, f"{layer}: {title}", curves, "log"))
    return panels


def _saturation(names: list[str], maps: list[str]) -> list[dict[str, Any]]:
    section = "Saturation"
    mine, panels = _of(names, "saturation", *_SHARES), []
    for layer in dict.fromkeys(map(_layer, mine)):
        of_layer = [name for name in mine if _layer(name) == layer]
        units = list(dict.fromkeys(name.split("/")[2] for name in of_layer))
        curves = [
            _curve(name, f"{unit} {_SHARES[_last(name)]}", units.index(unit), _last(name) == "below 0.01")
            for name in of_layer
            for unit in [name.split("/")[2]]
        ]
        panels.append(_panel(section, f"{layer}: saturated or dead, share", curves, whole=True))
    for name in _of(maps, "saturation", "histogram"):
        unit = name.split("/")[2]
        low = -1 if f"saturation/{_layer(name)}/{unit}/beyond 0.99" in names else 0
        panels.append(_map(section, name, f"values of {unit}") | {"unit": "√share", "axis": [low, 1]})
    for name in _of(maps, "saturation", "norm"):
        element = name.split("/")[2]
        panels.append(_map(section, name, _CARRY.get(element, f"norm of {element}")))
    return panels


def _spectrum(names: list[str]) -> list[dict[str, Any]]:
    section, panels = "Spectrum of the recurrent kernels", []
    radii = _of(names, "spectrum", "spectral radius")
    for layer in dict.fromkeys(map(_layer, radii)):
        blocks = [name.removesuffix("/spectral radius") for name in radii if _layer(name) == layer]

        def curves(*quantities: tuple[str, str, bool], blocks: list[str] = blocks) -> list[dict[str, Any]]:
            return [
                _curve(f"{block}/{quantity}", f"{_last(block)}{word}", number, dashed)
                for number, block in enumerate(blocks)
                for quantity, word, dashed in quantities
                if f"{block}/{quantity}" in names
            ]

        values = [("largest singular value", " largest", False), ("median singular value", " median", True)]
        values.append(("smallest singular value", " smallest", False))
        one = [[1, "1"]]
        panels += [
            _panel(section, f"{layer}: spectral radius ρ(R)", curves(("spectral radius", "", False)), levels=one),
            _panel(section, f"{layer}: singular values", curves(*values), levels=one),
            _panel(section, f"{layer}: ‖RᵀR − I‖ / √H", curves(("distance from orthogonality", "", False))),
        ]
    return panels


def _outside(names: list[str]) -> list[dict[str, Any]]:
    """The numbers of diagnostics that are not the project's."""
    groups: dict[str, list[str]] = {}
    for name in names:
        diagnostic = name.partition("/")[0]
        if diagnostic not in DIAGNOSTICS and diagnostic not in SPLITS:
            groups.setdefault(diagnostic, []).append(name)
    return [
        _panel("Other diagnostics", diagnostic, [_curve(name, _below(name, 0), at) for at, name in enumerate(mine)])
        for diagnostic, mine in groups.items()
    ]


def _missing(names: list[str], maps: list[str], config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A line for each diagnostic that has no data: which field turns it on, or that the first line is to come."""
    on = config.get("diagnostics")
    on = [str(name) for name in on] if isinstance(on, list | tuple) else []
    panels = []
    for name in dict.fromkeys([*DIAGNOSTICS, *on]):
        if any(each.startswith(f"{name}/") for each in [*names, *maps]):
            continue
        every = config.get("diagnostics_every", 100)
        hint = f"The first line comes with the first steps, then one every {every} (diagnostics_every)."
        if name not in on:
            hint = f"Not measured. A run with --config.diagnostics={','.join([*on, name])} shows {_SHOWS[name]}."
        panels.append(_panel("Not shown", name.replace("_", " "), [], hint=hint))
    return panels


_SHOWS = {
    "gradient_flow": "the gradient at every time step over training, its half-life and its reach",
    "norms": "norms of gradients, weights and updates, parameter by parameter",
    "saturation": "gates and activations at the ends of their range, and the size of the state",
    "spectrum": "singular values and spectral radius of the recurrent kernels",
}


# --- names -----------------------------------------------------------------------------------------------------------


def _map(section: str, name: str, symbol: str) -> dict[str, Any]:
    title = f"{_layer(name)}: {symbol}"
    return {"section": section, "title": title, "map": name, "unit": "log₁₀", "hint": "", "axis": None}


def _of(names: list[str], diagnostic: str, *quantities: str) -> list[str]:
    return [name for name in names if name.startswith(f"{diagnostic}/") and _last(name) in quantities]


def _last(name: str) -> str:
    """update / weight is one word."""
    return "update / weight" if name.endswith("/update / weight") else name.rpartition("/")[2]


def _layer(name: str) -> str:
    return name.split("/")[1]


def _below(name: str, parts: int = 1) -> str:
    """A name without its diagnostic and, with one part, its layer."""
    return "/".join(name.split("/")[1 + parts :]) or name.split("/")[-1]
