"""Every figure of the project, drawn from small data of the kind that runs leave: one table for all tests."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from rnnlab import plots
from rnnlab.diagnostics import DIAGNOSTICS
from rnnlab.files import write_arrays
from rnnlab.plots import style, sweep, sweep_axes
from rnnlab.plots.atlas import atlas
from rnnlab.plots.lengths import evaluation_by_length
from rnnlab.plots.replayed import replay
from rnnlab.plots.sweep import Claim, Curve, Dots, Solved
from scripts.irnn import figures as irnn
from scripts.study.comparison import numbers_of
from scripts.study.figures import draw_cures, draw_growth, draw_prediction, draw_ranks
from scripts.study.relations import common_slope, families_of, growth
from tests.scripts.study_results import content_of

T = 60
NOISE = np.random.default_rng(0)
STEPS = np.arange(0, 2000, 100)


def decay(factor: float, length: int = T) -> list[float]:
    """A gradient that goes back in time."""
    return (3 * factor ** np.arange(length)[::-1]).tolist()


def falling(number: int, points: int) -> np.ndarray:
    """A loss over training."""
    return 0.17 * np.exp(-np.linspace(0, 2 + number, points)) * np.exp(0.1 * NOISE.normal(size=points))


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    """A file of JSON lines."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def learning_curve(folder: Path) -> Any:
    """Three splits, a metric, two groups of parameters."""
    lines = []
    for number, step in enumerate(STEPS):
        rates = {"learning_rate": 1e-3, "learning_rate/bias": 2e-3 - 1e-6 * step}
        loss = falling(2, len(STEPS))[number]
        norm = {"grad_norm": 30 * loss}
        lines.append({"step": int(step), "split": "train", "loss": loss, "within_0.04": 1 - loss, **rates, **norm})
        if number % 4 == 3:
            lines.append({"step": int(step), "split": "validation", "loss": 1.1 * loss, "within_0.04": 0.9 - loss})
    lines.append({**lines[-1], "split": "test"})
    write_lines(folder / "metrics.jsonl", lines)
    return plots.learning_curve(folder, {"train": 1 / 6, "validation": 1 / 6})


def gradient_flow(folder: Path) -> Any:
    """Two layers before and after training."""
    layers = {"untrained": (0.7, 0.8), "trained": (0.99, 0.985)}
    flow = {when: {f"layer {n + 1}": decay(f) for n, f in enumerate(each)} for when, each in layers.items()}
    (folder / "gradient_flow.json").write_text(json.dumps(flow), encoding="utf-8")
    return plots.gradient_flow(folder)


def compare_gradient_flow(folder: Path) -> Any:
    """Four runs: three hold their gradient when trained."""
    workdirs = {}
    for label, factors in {"IRNN": (1, 1.0), "LSTM": (0.96, 0.999), "GRU": (0.74, 0.998), "tanh": (0.06, 0.3)}.items():
        workdirs[label] = folder / label
        workdirs[label].mkdir()
        flow = {when: {"layer 1": decay(f)} for when, f in zip(("untrained", "trained"), factors, strict=True)}
        (workdirs[label] / "gradient_flow.json").write_text(json.dumps(flow), encoding="utf-8")
    return plots.compare_gradient_flow(workdirs, folder / "compare.png")


def observed_line(step: int, number: Any, flow: list[float]) -> dict[str, Any]:
    """A line of diagnostics.jsonl of an LSTM and a ReLU layer above it."""
    kinds = ("gradient", "clipped", "weight", "update", "update / weight")
    names = [f"layer 1/{part}" for part in ("input_kernel", "recurrent_kernel", "bias")] + ["readout/kernel"]
    block = ("largest singular value", "smallest singular value", "spectral radius", "distance from orthogonality")
    units = {f"layer 1/{gate}/{end}": number / 9 for gate in "ifo" for end in ("above 0.99", "below 0.01")}
    units |= {f"layer 1/{gate}/histogram": [number / 20] * 20 for gate in "ifog"}
    return {
        "step": step,
        "seconds": 1.0,
        "gradient_flow": {f"layer {n}/h": flow for n in (1, 2)}
        | {"layer 1/c": flow}
        | {f"layer {n}/{what}": number * n for n in (1, 2) for what in ("factor", "half_life", "horizon")},
        "norms": {f"{name}/{kind}": number * (2 + n) for n, name in enumerate(names) for kind in kinds},
        "saturation": units
        | {"layer 1/g/beyond 0.99": number / 7, "layer 1/g/histogram": [number / 20] * 20}
        | {"layer 1/h/norm": flow, "layer 1/c/norm": flow, "layer 2/h/dead": number / 3, "layer 2/h/norm": flow},
        "spectrum": {f"layer 1/{g}/{key}": number * (n + 1) for n, g in enumerate("ifog") for key in block}
        | {f"layer 1/{g}/singular values": [number * (n + 1)] * 3 for n, g in enumerate("ifog")},
    }


def observed(folder: Path) -> Any:
    """What training measured at eight steps."""
    numbers = np.linspace(0.3, 1, 8)
    write_lines(folder / "diagnostics.jsonl", [observed_line(50 * n, x, decay(x)) for n, x in enumerate(numbers)])
    return plots.observed(folder)


def compare_training(folder: Path) -> Any:
    """Three runs over the whole training."""
    workdirs = {}
    for label, end in {"tanh, small R": 0.4, "tanh, large R": 0.8, "IRNN, 784 pixels of MNIST": 1.0}.items():
        workdirs[label] = folder / label
        workdirs[label].mkdir()
        lines = [observed_line(50 * n, 0.5, decay(x)) for n, x in enumerate(np.linspace(0.6, end, 8))]
        write_lines(workdirs[label] / "diagnostics.jsonl", lines)
    return plots.compare_training(workdirs, folder / "training.png")


def diagnosis(folder: Path) -> Any:
    """All that a diagnosis measures of two layers of ten units."""
    counts, lags = [2**n for n in range(7)], np.arange(40)
    singular = np.linspace(1.3, 0.2, 10)
    points = NOISE.normal(size=(3, 10, 2)) / 2
    products = np.log10(singular)[None] * np.array(counts)[:, None] / 3
    jacobians = {
        "times": [0, 30, 59],
        "singular_values": [(singular * s).tolist() for s in (1, 0.9, 0.8)],
        "eigenvalues": points.tolist(),
        "counts": counts,
        "log10_products": products.tolist(),
    }
    parts = {"gates": list("ifgo"), "norms": [[0.9**k * (1 + n) for n in range(4)] for k in range(41)]}
    parts |= {name: (1 - 0.8 ** np.r_[lags, 40]).tolist() for name in ("cosine", "ratio")}
    gate = {"edges": np.linspace(0, 1, 21).tolist(), "shares": [0.05] * 20, "notes": {"above 0.99": 0.1}}
    exponents = {"mean": (-np.linspace(0.01, 1, 10)).tolist(), "error": [0.02] * 10}
    measured = {
        "step": 0,
        "rows": 8,
        "problems": [],
        "horizon": {f"layer {n}": {"norms": decay(0.9 + 0.05 * n), "factor": 0.9 + 0.05 * n} for n in (1, 2)},
        "jacobians": {"layer 1": jacobians},
        "lyapunov": {"layer 1": exponents, "layer 2": exponents | {"mean": (-np.linspace(0.2, 2, 10)).tolist()}},
        "lags": {"layer 1": parts},
        "truncation": {
            "windows": counts,
            "all": {"cosine": (1 - 0.7 ** np.array(counts)).tolist(), "ratio": (1 - 0.9 ** np.array(counts)).tolist()},
            "recurrent": {name: (1 - 0.95 ** np.array(counts)).tolist() for name in ("cosine", "ratio")},
        },
        "values": {"layer 1": dict.fromkeys(("i", "f", "g", "o", "h"), gate)},
        "closed_loop": {"time": lags.tolist(), "course": (0.9 + 0.5 * 0.9**lags).tolist(), "mean": [0.9, 0, -14.0]}
        | {"error": [0.05, 0.02, 0.3], "system": 0.906},
    }
    (folder / "diagnosis.json").write_text(json.dumps(measured), encoding="utf-8")
    return plots.diagnosis(folder)


def replayed(folder: Path) -> Any:
    """A spike, and five interventions of which two hold it."""
    labels = ["as it was", "clip_norm 0.5", "cotangent.clip_norm 0.672", "learning_rate 0.0001"]
    labels += ["recurrent kernels × 0.9", "spectral norms ≤ 1"]
    updates, interventions = np.arange(251, 268), {}
    for number, label in enumerate(labels):
        spikes = np.where(np.isin(updates, [259, 261]), 10.0 ** (7 - 1.5 * number) if number < 4 else 3, 1)
        norms = np.abs(20 + 8 * NOISE.normal(size=len(updates))) * spikes
        lines = [
            {"update": int(u), "grad_norm": n, "loss": 0.01 * n, "gradient": {"layer 1": decay(1 - 1e-3 * n)}}
            for u, n in zip(updates, np.minimum(norms, 900), strict=True)
        ]
        interventions[label] = {"held": number >= 4, "updates": lines}
    told = {"interventions": interventions, "calm_norm": 10.0, "update": 259, "blame": [{"layer": "layer 1"}]}
    (folder / "replay.json").write_text(json.dumps(told), encoding="utf-8")
    return replay(folder)


def by_length(folder: Path) -> Any:
    """Two splits at five lengths."""
    rows = [
        {"split": split, "length": length, "accuracy": 1 - 0.002 * length * n, "loss": 0.01 * length * n}
        | {"baseline": 0.7}
        for n, split in enumerate(("validation", "test"), 1)
        for length in (10, 20, 50, 100, 200)
    ]
    content = {"metric": "accuracy", "shares": ["accuracy"], "solved": 0.9, "trained_length": 50, "evaluations": rows}
    (folder / "evaluation_by_length.json").write_text(json.dumps(content), encoding="utf-8")
    return evaluation_by_length(folder)


def confusion(folder: Path) -> Any:
    """Ten classes."""
    counts = (90 * np.eye(10) + NOISE.integers(0, 9, (10, 10))).astype(int).tolist()
    content = {"test": {"counts": counts, "classes": [f"class {n}" for n in range(10)]}}
    (folder / "confusion.json").write_text(json.dumps(content), encoding="utf-8")
    return plots.confusion(folder)


def forecast(folder: Path) -> Any:
    """Three columns, with a closed loop."""
    truth = np.sin(np.arange(200)[:, None] / np.array([5, 7, 9]))
    arrays = {"truth": truth, "forecast": truth + 0.1, "free_truth": truth, "free": truth * 0.9}
    arrays |= {
        "split": np.array("test"),
        "names": np.array(["x", "y", "z"]),
        "interval": np.array(0.02),
        "horizon": np.array(1),
    }
    write_arrays(folder / "forecast.npz", arrays)
    return plots.forecast(folder)


def learning_rates(folder: Path) -> Any:
    """A range test that ends where the loss rises."""
    rates = np.logspace(-6, 0, 60)
    losses = 0.2 - 0.02 * np.log10(rates / 1e-6) + 100 * rates**2
    content = {"learning_rates": rates.tolist(), "losses": (losses * np.exp(0.05 * NOISE.normal(size=60))).tolist()}
    content |= {"smoothed": losses.tolist(), "learning_rate": 0.012}
    (folder / "find_learning_rate.json").write_text(json.dumps(content), encoding="utf-8")
    return plots.learning_rate_range(folder)


def benchmark(folder: Path) -> Any:
    """Eight peers in eight cases."""
    peers = ("rnnlab reference", "plain scan", "flax.nnx.RNN", "plain scan, split", "flax.nnx.RNN, split", "torch.nn")
    peers += ("torch.nn, flushed", "torch.compile")
    rows = [
        {"contestant": peer, "shape": shape, "cell": cell, "step_ratio": 2.0 ** (n / 2 - 0.5 + 0.2 * m)}
        | {"forward_ratio": 2.0 ** (n / 3 - 0.5 + 0.2 * m)}
        for n, peer in enumerate(peers)
        for shape in ("(784, 16, 1, 100)", "(300, 32, 120, 250 bidirectional)")
        for m, cell in enumerate(("vanilla", "irnn", "lstm", "gru"))
    ]
    (folder / "benchmark.json").write_text(json.dumps({"results": rows}), encoding="utf-8")
    return plots.benchmark_ratios(folder / "benchmark.json")


def benchmark_far_apart(folder: Path) -> Any:
    """One case, whose peers take from 1/70 to 100 times as long."""
    rows = [
        {"contestant": peer, "shape": "(6, 4, 3, 8)", "cell": "lstm", "step_ratio": ratio, "forward_ratio": ratio / 3}
        for peer, ratio in (("rnnlab kernel", 1 / 23), ("plain scan", 0.5), ("torch.nn", 100.0))
    ]
    (folder / "benchmark.json").write_text(json.dumps({"results": rows}), encoding="utf-8")
    return plots.benchmark_ratios(folder / "benchmark.json")


def cures(folder: Path) -> Any:
    """Two tasks: errors of three seeds, one of which diverged and some far beyond the others, and accuracies."""
    entries = [
        content_of("cures", "adding_100", method, values, [None] * 3)
        for method, values in (
            ("irnn", [0.16, 0.17, 0.1]),
            ("irnn+clip_norm", [0.0017, 0.0042, 0.0043]),
            ("irnn+cut_every", [0.16, math.inf, 0.17]),
            ("lstm", [0.01, 0.02, 0.01]),
            ("lstm+dropout_recurrent_kernel", [0.011, 0.02, 0.013]),
            ("lstm+zoneout", [0.012, 0.03, 0.4]),
            ("lstm+gradient_noise", [0.1, 0.9, 60]),
        )
    ]
    entries += [
        content_of("cures", "permuted_rows", method, values, [None] * 3, metric="accuracy")
        for method, values in (("lstm", [0.93, 0.94, 0.935]), ("lstm+dropout_same_over_time", [0.95, 0.951, 0.96]))
    ]
    by_task: dict[str, dict[str, Any]] = {}
    for entry in entries:
        by_task.setdefault(entry["task"], {})[entry["method"]] = numbers_of(entry)
    return draw_cures(by_task, folder / "cures.png")


def ranks(folder: Path) -> Any:
    """Twelve cells, of which several are close."""
    return draw_ranks({f"cell_{n}": 1 + 0.8 * n for n in range(12)}, 4.2, folder / "ranks.png")


def growth_with_length(folder: Path) -> Any:
    """Two cells, one of which does not always solve the longest."""
    by_method = {
        method: {
            length: numbers_of(content_of("lengths", "t", method, [0.001] * 3, solved, length=length))
            for length, solved in (
                (100, [200, 300, 200]),
                (1000, [900, 800, 900]),
                (5000, [None, 2600, 2500] if method == "lstm_chrono" else [2500, 2600, 2500]),
            )
        }
        for method in ("gru_chrono", "lstm_chrono")
    }
    fits = {method: growth(of) for method, of in by_method.items()}
    return draw_growth(by_method, fits, folder / "lengths.png")


def prediction(folder: Path) -> Any:
    """Two families of initialisations, some of which are never solved."""
    entries = [
        content_of("initialisation", "adding_100", f"{family}_{n}", [0.001 * (n + 1)] * 3, [at] * 3, 0.9 + 0.03 * n)
        for family in ("tanh_gain", "relu_gain")
        for n, at in enumerate((None, 2000, 900, 700, 1200))
    ]
    families = families_of([numbers_of(entry) for entry in entries])
    return draw_prediction(families, common_slope(families), 3000, folder / "initialisation.png")


def utterance(folder: Path) -> Any:
    """Two seconds of speech, and the confusions of its phones."""
    frames = 200
    phones = np.repeat(NOISE.integers(0, 39, frames // 8), 8)
    posteriors = 0.6 * np.eye(39)[phones] + 0.01
    arrays = {"features": NOISE.normal(size=(frames, 123)), "posteriors": posteriors, "id": np.array("dr1-fvmh0/sx26")}
    arrays |= {"spoken": phones, "decoded": np.roll(phones, 2), "confusion": 50 * np.eye(39, dtype=int)}
    write_arrays(folder / "recognition.npz", arrays)
    return plots.utterance(folder), plots.phone_confusion(folder)


def speech_comparison(folder: Path) -> Any:
    """Three networks, three seeds each."""
    rows = {
        name: {"runs": [{"test": {"frame_error": mean + d}} for d in (-0.01, 0, 0.01)], "mean": mean}
        | {"interval": [mean - 0.02, mean + 0.02]}
        for name, mean in {"feed-forward 2 × 500, ±5 frames": 0.5, "forwards, LSTM": 0.55, "both, GRU": 0.46}.items()
    }
    (folder / "speech.json").write_text(json.dumps({"networks": rows}), encoding="utf-8")
    return plots.speech_comparison(folder / "speech.json")


def validation_curves(folder: Path) -> Any:
    """Perplexities of two networks."""
    curves = {name: [[100 * n, 900 / (n + m)] for n in range(1, 9)] for m, name in enumerate(("rnnlab", "torch"))}
    (folder / "twin.json").write_text(json.dumps({"runs": [{"curves": curves}]}), encoding="utf-8")
    return plots.validation_curves(folder / "twin.json")


def atlas_figure(folder: Path) -> Any:
    """Two networks, three initialisers, six scales."""
    names, scales = ["glorot_uniform", "orthogonal", "identity"], [0.5, 0.9, 1.0, 1.1, 2**0.5, 2.0]
    times = {"half_life": 3.0, "doubling_time": 4.0}
    networks = {"linear": {}, "tanh, inputs × 0.01": {}, "tanh": {}}
    results = [
        {"network": network, "initializer": name, "scale": scale, "factor": scale**0.9} | times
        for network in networks
        for name in names
        for scale in scales
    ]
    content = {"networks": networks, "initializers": names, "scales": scales, "results": results}
    content |= {"features": 100, "length": 200, "draws": 5}
    (folder / "atlas.json").write_text(json.dumps(content), encoding="utf-8")
    return atlas(folder / "atlas.json")


def sweeps(folder: Path) -> Any:
    """All figures of a report."""
    names = ["identity", "scaled_identity", "orthogonal", "glorot_uniform", "he_normal", "naive_uniform"]
    means = 0.17 * 0.3 ** np.arange(6)
    rows = [
        Dots(f"{name}, leaky_relu", m, m / 2, 2 * m, [m / 1.3, m, 1.3 * m], int(m < 1e-3), name == "glorot_uniform")
        for name, m in zip(names, means, strict=True)
    ]
    sweep.dots(rows, "best.test.loss", -1.0, folder / "settings.png")
    solved = [Solved(f"clip_norm {n}", n, [20, 50, 100, 200], [(1 - n / 3, 0.4, 1.0)] * 4) for n in range(3)]
    claims = [Claim(20, "plain SGD fails above"), Claim(200, "SGD with a clip and Ω solves up to")]
    sweep.solved(solved, "length", claims, folder / "solved.png")
    steps = np.arange(0, 4001, 200.0)
    curves = [Curve(name, n, steps, *([falling(n, len(steps))] * 3)) for n, name in enumerate(names)]
    curves[0] = dataclasses.replace(curves[0], ends=(400,))
    panels = [(f"activation = {name}", curves) for name in ("tanh", "relu", "leaky_relu", "elu", "sigmoid")]
    sweep.ribbons(panels, "validation loss", True, folder / "learning_curves.png")
    values = np.where(np.eye(6, 5) > 0, np.nan, means[:, None] * (1 + np.arange(5)))
    notes = [["all\ndiverged" if np.isnan(v) else "1/5 div." if v < 1e-3 else "" for v in line] for line in values]
    columns = ["tanh", "relu", "leaky_relu", "sigmoid", "linear"]
    grid = sweep_axes.Grid("activation", "recurrent_init", columns, names, values, notes, -1.0, (4, 0))
    sweep_axes.heat_map(grid, "best.test.loss", folder / "heat_map.png")
    axes = [
        sweep_axes.Coordinate("recurrent_init", np.arange(6.0), names),
        sweep_axes.Coordinate("learning_rate", np.logspace(-4, -1, 6), logarithmic=True),
    ]
    metric = sweep_axes.Coordinate("best.test.loss", means, logarithmic=True)
    return sweep_axes.parallel_coordinates(axes, metric, -1.0, folder / "parallel_coordinates.png")


def reproduction(folder: Path) -> Any:
    """Panels of a reproduction, and gradients of five networks."""
    names = ["IRNN", "LSTM", "GRU", "tanh RNN", "ReLU RNN"]
    steps = np.arange(200, 4001, 200)
    ours = {
        name: [list(zip(steps.tolist(), falling(n, len(steps)), strict=True)) for _ in range(3)]
        for n, name in enumerate(names)
    }
    theirs = {name: [(10**n, 0.17 * 0.7**n) for n in range(3, 8)] for name in names[:3]}
    colours = {name: n for n, name in enumerate(names)}
    words = ("Adding problem, T = 150: our recipe", "mean squared error: ours of validation")
    panel = irnn.Panel(*words, theirs, ours, colours, {}, equal_steps=False, logarithmic=True, baseline=1 / 6)
    irnn.published_and_ours([panel], folder / "curves.png")
    irnn.published_and_ours([panel] * 3, folder / "overview.png")
    flows = {
        name: {"t": list(range(T)), "untrained": decay(1 - 0.1 * n), "trained": decay(1 - 0.01 * n)}
        for n, name in enumerate(names)
    }
    return irnn.gradients_over_time(flows, colours, folder / "gradients.png")


FIGURES: dict[str, Callable[[Path], Any]] = {
    each.__name__: each
    for each in (
        *(learning_curve, gradient_flow, compare_gradient_flow, observed, compare_training, diagnosis, replayed),
        *(
            by_length,
            confusion,
            forecast,
            learning_rates,
            benchmark,
            benchmark_far_apart,
            cures,
            ranks,
            growth_with_length,
            prediction,
            utterance,
        ),
        *(speech_comparison, validation_curves, atlas_figure, sweeps, reproduction),
    )
}
"""What draws -> the figures of a command or a script."""
ALL_DIAGNOSTICS = {figure.name for each in DIAGNOSTICS.values() for figure in each.figures}


def drawn(name: str, folder: Path) -> dict[str, Figure]:
    """The finished figures of an entry of FIGURES, by the names of their files."""
    with style.kept() as figures:
        FIGURES[name](folder)
    return figures
