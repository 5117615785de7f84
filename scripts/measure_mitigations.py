"""Trains with and without each cure, over several seeds, and writes what it did to a JSON file, with a figure beside.

    RNNLAB_DATA=DATA python scripts/measure_mitigations.py --output=docs/results/mitigations.json
    python scripts/measure_mitigations.py --only=clip_norm,residual --seeds=5 --output=runs/some.json
    python scripts/measure_mitigations.py --costs --output=docs/results/mitigations.json

Each cure is measured on a setting where it should matter (SETTINGS); everything that a cure changes stands in
scripts/cures.py.
--costs adds what a training step costs with it, over the step without it: run that on a quiet machine.
"""

import json
import math
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from absl import flags
from ml_collections import ConfigDict

from rnnlab import cli
from rnnlab.config.errors import ConfigError, unknown
from rnnlab.files import AGAIN, check_fields, read_json, write_text
from rnnlab.files.markdown import markdown_table, write_between_marks
from rnnlab.records.run_config import apply_overrides
from rnnlab.sweeps.statistics import LOGARITHMS, PLAIN, mean_interval
from scripts.cures import CURES
from scripts.study.costs import step_ratio

# Few images of MNIST by rows, a network that can learn them by heart.
SMALL = {
    "task": dict(name="pixels", order="rows", white=1.0, validation_size=59_000),
    "model": dict(cell=dict(name="lstm", features=64), layers=2),
    "optimizer": dict(name="adam", learning_rate=2e-3, clip_norm=1.0),
    "steps": 1000,
    "batch_size": 32,
}
EXPLODING = {
    "task": dict(name="adding", length=150, validation_size=1000, test_size=2000),
    "model": dict(cell=dict(name="irnn", features=64, input_init="glorot_uniform")),
    "optimizer": dict(name="adam", learning_rate=1e-3),
    "steps": 2000,
    "batch_size": 16,
}
SETTINGS: dict[str, dict[str, Any]] = {
    # R = I, ReLU, no clipping: the gradient explodes in the first hundreds of steps.
    "exploding": EXPLODING,
    # The same, held by clipping: it is solved, and the last steps are noisy.
    "held": EXPLODING | {"optimizer": dict(name="adam", learning_rate=1e-3, clip_norm=1.0)},
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


def config_of(setting: str, overrides: dict[str, Any], seed: int) -> dict[str, Any]:
    """The whole config of a run, on one device."""
    base = {"log_every": 100, "eval_every": SETTINGS[setting]["steps"] // 2, "devices": 1, "seed": seed}
    config = ConfigDict({**base, "checkpoint_every": 100_000, **SETTINGS[setting]})
    return apply_overrides(config, {path: repr(value) for path, value in overrides.items()})


def train(setting: str, overrides: dict[str, Any], seed: int, data_dir: str | None) -> dict[str, Any]:
    """The result of one run: its end, and the metric on the test set (NaN where it diverged)."""
    from rnnlab.training.loop import train_and_evaluate

    with tempfile.TemporaryDirectory() as workdir:
        summary = train_and_evaluate(config_of(setting, overrides, seed), Path(workdir) / "run", data_dir)
    test = summary["best"].get("test", {})
    result = {"status": summary["status"], "steps": summary["steps"], "seed": seed, "test": test}
    return result | {"train": summary["final"]["train"], "validation": summary["final"]["validation"]}


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    values = flags.FlagValues()
    cli.path_flag(values, "output", "runs/mitigations.json", "JSON file; what it holds already is kept")
    flags.DEFINE_string("only", "", "names from CURES, with commas between; all if empty", flag_values=values)
    flags.DEFINE_integer("seeds", 3, "how many seeds, from 0", lower_bound=1, flag_values=values)
    cli.path_flag(values, "page", None, "Markdown file whose table is written anew")
    flags.DEFINE_bool("costs", False, "measure the cost of a step instead of training", flag_values=values)
    cli.data_flags(values)
    cli.figure_flag(values)
    cli.parse(values, argv, __doc__)
    names = values.only.split(",") if values.only else list(CURES)
    for name in names:
        if name not in CURES:
            raise ConfigError(unknown("cure", name, CURES))
    path = Path(values.output)
    results = {"settings": {}, "cures": {}}
    if path.exists():
        results = read_json(path, AGAIN, {"settings": {}, "cures": {}})
        for kind in ("settings", "cures"):
            for name, row in results[kind].items():
                check_fields(path, row, {"runs": list}, AGAIN, f"{kind}.{name}")
    for name in names:
        setting, overrides, *_ = CURES[name]
        row = results["cures"].setdefault(name, {"setting": setting, "overrides": overrides, "runs": []})
        if values.costs:
            row["cost"] = step_ratio(config_of(setting, overrides, 0), config_of(setting, {}, 0), values.data_dir)
            print(f"{name}: {_rounded(row['cost'])} times the step without it")
        else:
            base = results["settings"].setdefault(setting, {"config": SETTINGS[setting], "runs": []})
            for owner, changes in ((base, {}), (row, overrides)):
                done = {run["seed"] for run in owner["runs"]}
                for seed in (s for s in range(values.seeds) if s not in done):
                    owner["runs"].append(train(setting, changes, seed, values.data_dir))
            print(f"{name}: {describe(base)} -> {describe(row)}")
        write_text(path, json.dumps(results, indent=1) + "\n")
    if not values.costs:
        print(draw(results, path.with_suffix(".png")))
    if values.page:
        write_between_marks(Path(values.page), table(results))
    return cli.FINISHED


def draw(results: Mapping[str, Any], path: Path) -> Path:
    """The forest plot of all cures: the effect of each beside its setting without it, paired by seed, with the 95 %
    interval of a paired t test. Errors are compared by their ratio, accuracies by their difference."""
    from rnnlab.plots.forest import Column, Effect, forest

    columns: dict[str, list[Any]] = {"loss": [], "accuracy": []}
    for setting, base in results["settings"].items():
        metric = metric_of(base)
        effects = []
        for name, row in results["cures"].items():
            if row["setting"] != setting:
                continue
            values, lost = effects_by_seed(base, row, metric)
            mean = mean_interval(values, LOGARITHMS if metric == "loss" else PLAIN)
            note = f" ({lost} of {len(row['runs'])} diverged)" if lost else ""
            effects.append(Effect(name.replace(" and ", "\nand "), values, mean.value, mean.low, mean.high, note))
        if effects:
            columns[metric].append((f"{setting}, {len(base['runs'])} seeds", effects))
    scales = {
        "loss": ("test error with the cure over that without (better: left)", True, 1.0),
        "accuracy": ("test accuracy with the cure less that without, percentage points (better: right)", False, 0.0),
    }
    return forest([Column(*scales[metric], groups) for metric, groups in columns.items() if groups], path)


def effects_by_seed(
    base: Mapping[str, Any], row: Mapping[str, Any], metric: Literal["loss", "accuracy"]
) -> tuple[list[float], int]:
    """With over without of each seed that has both errors, or their difference in per cent; how many runs have none."""
    with_cure, without = ({run["seed"]: value_of(run, metric) for run in each["runs"]} for each in (row, base))
    pairs = [(value, without.get(seed, math.nan)) for seed, value in with_cure.items()]
    values = [a / b if metric == "loss" else 100 * (a - b) for a, b in pairs if math.isfinite(a) and math.isfinite(b)]
    return values, sum(not math.isfinite(value) for value in with_cure.values())


def metric_of(owner: Mapping[str, Any]) -> Literal["loss", "accuracy"]:
    """What a setting's runs are judged by."""
    return "accuracy" if any("accuracy" in run["test"] for run in owner["runs"]) else "loss"


def value_of(run: Mapping[str, Any], metric: str) -> float:
    """NaN of a run that diverged."""
    return float(run["test"].get(metric, math.nan))


def _rounded(ratio: float | None) -> str:
    return "diverged" if ratio is None else f"{ratio:.2f}"


def table(results: dict[str, Any]) -> str:
    """All that was measured, as a Markdown table."""
    columns = ["cure", "against", "what it does", "measured on", "without", "with", "cost of a step"]
    rows = []
    for name, cure in CURES.items():
        if name in results["cures"]:
            row = results["cures"][name]
            flag = " ".join(f"`{path}={value}`" for path, value in cure.overrides.items())
            without, with_cure = describe(results["settings"][cure.setting]), describe(row)
            spent = _rounded(row["cost"]) if "cost" in row else ""
            cells = (f"{name}<br>{flag}", cure.against, cure.formula, cure.setting, without, with_cure, spent)
            rows.append([cell.replace("|", "\\|") for cell in cells])
    return markdown_table(columns, rows)


def describe(owner: dict[str, Any]) -> str:
    """The runs' test metric: median and range. A run that diverged is worse than any number in the median, and counted
    beside."""
    metric = metric_of(owner)
    worst = -math.inf if metric == "accuracy" else math.inf
    values = [value_of(run, metric) for run in owner["runs"]]
    sound = [value for value in values if math.isfinite(value)]
    lost = len(values) - len(sound)
    median = statistics.median([*sound, *[worst] * lost])
    text = f"{median:.4g}" if math.isfinite(median) else "–"
    if sound:
        text += f" ({min(sound):.4g} to {max(sound):.4g})" if len(sound) > 1 else f" ({sound[0]:.4g})"
    return text + (f", {lost} of {len(values)} diverged" if lost else "")


if __name__ == "__main__":
    cli.run(main)
