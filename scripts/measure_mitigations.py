"""Trains with and without each cure, over several seeds, and writes what it did to a JSON file, with a figure beside.

    RNNLAB_DATA=DATA python scripts/measure_mitigations.py --output=docs/results/mitigations.json
    python scripts/measure_mitigations.py --only=clip_norm,residual --seeds=5 --output=runs/some.json
    python scripts/measure_mitigations.py --costs --output=docs/results/mitigations.json

Each cure is measured on a setting where it should matter (SETTINGS); everything that a cure changes stands in CURES.
--costs adds what a training step costs with it, over the step without it: run that on a quiet machine.
"""

import json
import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict

from rnnlab import entry
from rnnlab.build import ConfigError, unknown
from rnnlab.config import apply_overrides

# Few images of MNIST by rows, a network that can learn them by heart.
SMALL = {
    "task": dict(name="pixels", order="rows", white=1.0, validation_size=59_000),
    "model": dict(cell=dict(name="lstm", features=64), layers=2),
    "optimizer": dict(name="adam", learning_rate=2e-3, clip_norm=1.0),
    "steps": 1000,
    "batch_size": 32,
}
SETTINGS: dict[str, dict[str, Any]] = {
    # R = I, ReLU, no clipping: the gradient explodes in the first hundreds of steps.
    "exploding": {
        "task": dict(name="adding", length=150, validation_size=1000, test_size=2000),
        "model": dict(cell=dict(name="irnn", features=64, input_init="glorot_uniform")),
        "optimizer": dict(name="adam", learning_rate=1e-3),
        "steps": 2000,
        "batch_size": 16,
    },
    # Glorot weights and tanh: the gradient fades over 60 steps.
    "vanishing": {
        "task": dict(name="adding", length=60, validation_size=1000, test_size=2000),
        "model": dict(cell=dict(name="vanilla", features=64, recurrent_init="glorot_uniform")),
        "optimizer": dict(name="adam", learning_rate=1e-3, clip_norm=1.0),
        "steps": 2000,
        "batch_size": 16,
    },
    # A gated network on a sequence that it takes long to find the answer of.
    "long": {
        "task": dict(name="adding", length=200, validation_size=1000, test_size=2000),
        "model": dict(cell=dict(name="gru", features=48)),
        "optimizer": dict(name="adam", learning_rate=2e-3, clip_norm=1.0),
        "steps": 1200,
        "batch_size": 16,
    },
    "overfitting": SMALL,
    # Eight layers on the same images, all of them.
    "deep": SMALL
    | {
        "task": dict(name="pixels", order="rows", white=1.0, validation_size=5000),
        "model": dict(cell=dict(name="vanilla", features=32), layers=8, input_projection=32),
        "steps": 800,
    },
}

Cure = tuple[str, dict[str, Any]]
CURES: dict[str, Cure] = {
    "clip_norm": ("exploding", {"optimizer.clip_norm": 1.0}),
    "clip_value": ("exploding", {"optimizer.clip_value": 0.1}),
    "clip_layer_norm": ("exploding", {"optimizer.clip_layer_norm": 1.0}),
    "clip_adaptive": ("exploding", {"optimizer.clip_adaptive": 0.05}),
    "cotangent.clip_norm": ("exploding", {"model.cotangent.clip_norm": 1.0}),
    "cotangent.clip_value": ("exploding", {"model.cotangent.clip_value": 0.1}),
    "cotangent.scale": ("exploding", {"model.cotangent.scale": 0.98}),
    "cotangent.cut_every": ("exploding", {"model.cotangent.cut_every": 50}),
    "orthogonality": ("exploding", {"penalties.orthogonality": 1e-2}),
    "averaging": ("exploding", {"averaging.decay": 0.99, "optimizer.clip_norm": 1.0}),
    "gradient_norm (Ω)": ("vanishing", {"penalties.gradient_norm": 1.0}),
    "gradient_noise": ("vanishing", {"optimizer.gradient_noise": 0.01}),
    "layer norm in the cell": ("vanishing", {"model.normalization.cell": "layer"}),
    "attention dot": ("long", {"model.attention": "dot"}),
    "attention additive": ("long", {"model.attention": "additive"}),
    "curriculum by step": (
        "long",
        {"curriculum": {"field": "length", "values": (25, 50, 100), "steps": (250, 500, 800)}},
    ),
    "curriculum by threshold": (
        "long",
        {"curriculum": {"field": "length", "values": (25, 50, 100), "metric": "loss", "threshold": 0.02}},
    ),
    "schedule cosine": ("long", {"optimizer.schedule": "cosine"}),
    "schedule one_cycle": ("long", {"optimizer.schedule": "one_cycle"}),
    "schedule cosine_restarts": ("long", {"optimizer.schedule": {"name": "cosine_restarts", "period": 400}}),
    "schedule plateau": ("long", {"optimizer.schedule": {"name": "plateau", "patience": 1}}),
    "warm-up": ("long", {"optimizer.warmup_steps": 200}),
    "residual": ("deep", {"model.connections": "residual"}),
    "highway": ("deep", {"model.connections": "highway"}),
    "skip": ("deep", {"model.connections": "skip"}),
    "dense": ("deep", {"model.connections": "dense"}),
    "layer norm between": ("deep", {"model.normalization.between": "layer"}),
    "batch norm between": ("deep", {"model.normalization.between": "batch"}),
    "batch norm of the input": ("overfitting", {"model.normalization.input": "batch"}),
    "normalize_cell": ("overfitting", {"model.cell.normalize_cell": True, "model.normalization.cell": "layer"}),
    "dropout.input": ("overfitting", {"model.dropout.input": 0.2}),
    "dropout.between": ("overfitting", {"model.dropout.between": 0.5}),
    "dropout.output": ("overfitting", {"model.dropout.output": 0.5}),
    "variational dropout": (
        "overfitting",
        {"model.dropout": {"input": 0.2, "between": 0.3, "state": 0.3, "same_over_time": True}},
    ),
    "dropout.state": ("overfitting", {"model.dropout.state": 0.3}),
    "dropout.candidate": ("overfitting", {"model.dropout.candidate": 0.3}),
    "zoneout": ("overfitting", {"model.dropout.zoneout": 0.1, "model.dropout.zoneout_cell": 0.3}),
    "weight drop": ("overfitting", {"model.dropout.recurrent_kernel": 0.5}),
    "l1": ("overfitting", {"penalties.l1": {"input": 1e-4, "recurrent": 1e-4, "readout": 1e-4}}),
    "l2": ("overfitting", {"penalties.l2": {"input": 1e-3, "recurrent": 1e-3, "readout": 1e-3}}),
    "weight_decay": ("overfitting", {"optimizer.weight_decay": 0.1}),
    "max_norm": ("overfitting", {"optimizer.max_norm": 2.0}),
    "AR and TAR": ("overfitting", {"penalties.activation": 2.0, "penalties.temporal_activation": 1.0}),
    "augmentation.noise": ("overfitting", {"augmentation.noise": 0.3}),
    "augmentation.time_shift": ("overfitting", {"augmentation.time_shift": 2}),
    "augmentation.time_mask": ("overfitting", {"augmentation.time_mask": 8}),
    "augmentation.pixel_shift": ("overfitting", {"augmentation.pixel_shift": 2}),
    "early_stopping": ("overfitting", {"early_stopping.patience": 2, "eval_every": 100}),
}


def config_of(setting: str, overrides: dict[str, Any], seed: int) -> dict[str, Any]:
    """The whole config of a run, on one device."""
    base = {"log_every": 100, "eval_every": SETTINGS[setting]["steps"] // 2, "devices": 1, "seed": seed}
    config = ConfigDict({**base, "checkpoint_every": 100_000, **SETTINGS[setting]})
    return apply_overrides(config, {path: repr(value) for path, value in overrides.items()})


def train(setting: str, overrides: dict[str, Any], seed: int, data_dir: str | None) -> dict[str, Any]:
    """What one run came to: its end, and the metric on the test set (NaN where it diverged)."""
    from rnnlab.loop import train_and_evaluate

    with tempfile.TemporaryDirectory() as workdir:
        summary = train_and_evaluate(config_of(setting, overrides, seed), Path(workdir) / "run", data_dir)
    test = summary["best"].get("test", {})
    found = {"status": summary["status"], "steps": summary["steps"], "seed": seed, "test": test}
    return found | {"train": summary["final"]["train"], "validation": summary["final"]["validation"]}


def cost(setting: str, overrides: dict[str, Any], data_dir: str | None, turns: int = 7) -> float:
    """The time of a training step with the cure over that without, by turns: the median."""
    from rnnlab.loop import Run

    runs = [Run(config_of(setting, each, 0), data_dir) for each in ({}, overrides)]
    states = [run.programs.start(0) for run in runs]
    ratios = []
    for turn in range(turns + 1):
        times = []
        for index, run in enumerate(runs):
            run.enter(len(run.stages) - 1)
            count = 60 if turn else 1
            began = time.perf_counter()
            target = jax.numpy.int32(int(states[index].step) + count)
            states[index] = jax.block_until_ready(run.programs.train(states[index], run.data, target, run.rows))
            times.append(time.perf_counter() - began)
        if turn:
            ratios.append(times[1] / times[0])
    return statistics.median(ratios)


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    values = flags.FlagValues()
    flags.DEFINE_string(
        "output", "runs/mitigations.json", "JSON file; what it holds already is kept", flag_values=values
    )
    flags.DEFINE_string("only", "", "names from CURES, with commas between; all if empty", flag_values=values)
    flags.DEFINE_integer("seeds", 3, "how many seeds, from 0", lower_bound=1, flag_values=values)
    flags.DEFINE_bool("costs", False, "measure the cost of a step instead of training", flag_values=values)
    entry.data_dir_flag(values)
    given = entry.parse(values, argv, __doc__).flags
    names = given["only"].split(",") if given["only"] else list(CURES)
    for name in names:
        if name not in CURES:
            raise ConfigError(unknown("cure", name, CURES))
    path = Path(given["output"])
    results = json.loads(path.read_text()) if path.exists() else {"settings": {}, "cures": {}}
    jax.config.update("jax_compilation_cache_dir", str(Path("runs/.programs").absolute()))
    for name in names:
        setting, overrides = CURES[name]
        row = results["cures"].setdefault(name, {"setting": setting, "overrides": overrides, "runs": []})
        if given["costs"]:
            row["cost"] = round(cost(setting, overrides, given["data_dir"]), 3)
            print(f"{name}: {row['cost']:.2f} times the step without it")
        else:
            base = results["settings"].setdefault(setting, {"config": SETTINGS[setting], "runs": []})
            for owner, changes in ((base, {}), (row, overrides)):
                done = {run["seed"] for run in owner["runs"]}
                for seed in (s for s in range(given["seeds"]) if s not in done):
                    owner["runs"].append(train(setting, changes, seed, given["data_dir"]))
            print(f"{name}: {describe(base)} -> {describe(row)}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n")
    if not given["costs"]:
        from rnnlab.plots import mitigations

        print(mitigations(path))
    return entry.FINISHED


def describe(owner: dict[str, Any]) -> str:
    """The runs' test metric: mean and range; a run that diverged counts by its number."""
    values = [float(run["test"].get("accuracy", run["test"].get("loss", math.nan))) for run in owner["runs"]]
    sound = [value for value in values if math.isfinite(value)]
    lost = len(values) - len(sound)
    text = f"{statistics.mean(sound):.4g} ({min(sound):.4g} to {max(sound):.4g})" if sound else "none"
    return text + (f", {lost} diverged" if lost else "")


if __name__ == "__main__":
    entry.run(main)
