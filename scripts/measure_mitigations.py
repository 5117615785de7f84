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
from typing import Any, NamedTuple

import jax
from absl import flags
from ml_collections import ConfigDict

from rnnlab import cli
from rnnlab.config.errors import ConfigError, unknown
from rnnlab.files import AGAIN, check_fields, read_json, write_text
from rnnlab.files.markdown import markdown_table, write_between_marks
from rnnlab.parallel import compiler
from rnnlab.records.run_config import apply_overrides

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


class Cure(NamedTuple):
    """One technique, and where it is measured."""

    setting: str
    overrides: dict[str, Any]
    against: str
    """The trouble that it cures."""
    formula: str
    """The equation, and where it is from."""


CURES: dict[str, Cure] = {
    "clip_norm": Cure(
        "exploding",
        {"optimizer.clip_norm": 1.0},
        "explosion",
        "g ← g min(1, c / ‖g‖) over all parameters; Pascanu et al., 2013, algorithm 1",
    ),
    "clip_value": Cure(
        "exploding", {"optimizer.clip_value": 0.1}, "explosion", "g_i ← max(-c, min(g_i, c)); Mikolov, 2012"
    ),
    "clip_layer_norm": Cure(
        "exploding",
        {"optimizer.clip_layer_norm": 1.0},
        "explosion in one layer that drowns the others",
        "g_l ← g_l min(1, c / ‖g_l‖) for each layer l",
    ),
    "clip_adaptive": Cure(
        "exploding",
        {"optimizer.clip_adaptive": 0.05},
        "explosion, whatever the scale of the weights",
        "unit by unit g ← g min(1, λ max(‖w‖, 10⁻³) / ‖g‖); Brock et al., 2021, eq. 3",
    ),
    "cotangent.clip_norm": Cure(
        "exploding",
        {"model.cotangent.clip_norm": 0.005},
        "explosion, before it reaches the weights",
        "δ_t ← δ_t min(1, c / ‖δ_t‖) at every step and row of the backward pass, δ_t = ∂L/∂(h_t, c_t)",
    ),
    "cotangent.clip_value": Cure(
        "exploding",
        {"model.cotangent.clip_value": 0.1},
        "explosion, before it reaches the weights",
        "δ_t,i ← max(-c, min(δ_t,i, c)) at every step; Graves, 2013, section 2.1",
    ),
    "cotangent.scale": Cure(
        "exploding",
        {"model.cotangent.scale": 0.98},
        "explosion with distance",
        "∂L/∂h_t ← s ∂L/∂h_t where it comes from step t + 1",
    ),
    "cotangent.cut_every": Cure(
        "exploding",
        {"model.cotangent.cut_every": 50},
        "explosion with distance, and memory",
        "∂L/∂h_t ← 0 from one window of k steps to the one before, counted back from each row's end; Williams "
        "and Peng, 1990",
    ),
    "penalties.orthogonality": Cure(
        "exploding",
        {"penalties.orthogonality": 1e-2},
        "explosion and fading",
        "L + λ Σ ‖RᵀR − I‖²_F over gates; Vorontsov et al., 2017",
    ),
    "averaging": Cure(
        "held",
        {"averaging.decay": 0.99},
        "noise of the last steps",
        "a ← a + max(1 − β, 1/n) (θ − a), evaluated in place of θ; Polyak and Juditsky, 1992",
    ),
    "penalties.gradient_norm": Cure(
        "vanishing",
        {"penalties.gradient_norm": 1.0},
        "fading",
        "L + λ Ω, Ω = mean_t (‖∂L/∂h_{t+1} ∂h_{t+1}/∂h_t‖ / ‖∂L/∂h_{t+1}‖ − 1)²; Pascanu et al., 2013, eq. 9",
    ),
    "gradient_noise": Cure(
        "vanishing",
        {"optimizer.gradient_noise": 0.01},
        "plateaus",
        "g + N(0, η / (1 + t)^0.55); Neelakantan et al., 2015, eq. 1",
    ),
    "normalization.cell=layer": Cure(
        "vanishing",
        {"model.normalization.cell": "layer"},
        "saturation, scale of weights",
        "LN(x W) + LN(h R) + b in place of x W + h R + b; Ba et al., 2016, eq. 20",
    ),
    "cell.chrono": Cure(
        "long",
        {"model.cell.chrono": 200},
        "fading: gates that forget within a few steps",
        "GRU: b_z + log U[1, n - 1]; LSTM: b_f + log U[1, n - 1] and b_i less that; Tallec and Ollivier, 2018, eq. 16",
    ),
    "attention=dot": Cure(
        "long",
        {"model.attention": "dot"},
        "distance: a path of one step to every h_t",
        "Σ_t softmax_t(s W_q · h_t W_k / √H) h_t; Vaswani et al., 2017, eq. 1",
    ),
    "attention=additive": Cure(
        "long",
        {"model.attention": "additive"},
        "the same",
        "scores vᵀ tanh(s W_q + h_t W_k); Bahdanau et al., 2015",
    ),
    "curriculum by step": Cure(
        "long",
        {"curriculum": {"field": "length", "values": (25, 50, 100), "steps": (250, 500, 800)}},
        "distance: short sequences first",
        "T = 25, 50, 100, 200 from steps 0, 250, 500, 800; Bengio et al., 2009",
    ),
    "curriculum by threshold": Cure(
        "long",
        {"curriculum": {"field": "length", "values": (25, 50, 100), "metric": "loss", "threshold": 0.02}},
        "the same",
        "the next T at the first evaluation below 0.02",
    ),
    "schedule=cosine": Cure(
        "held",
        {"optimizer.schedule": "cosine"},
        "noise at the end",
        "η (1 + cos(π t / T)) / 2; Loshchilov and Hutter, 2017",
    ),
    "schedule=one_cycle": Cure(
        "held", {"optimizer.schedule": "one_cycle"}, "slow start, noise at the end", "up, then down; Smith, 2018"
    ),
    "schedule=cosine_restarts": Cure(
        "held",
        {"optimizer.schedule": {"name": "cosine_restarts", "period": 400}},
        "poor minima",
        "the cosine again every 400 steps; Loshchilov and Hutter, 2017, eq. 5",
    ),
    "schedule=plateau": Cure(
        "held",
        {"optimizer.schedule": {"name": "plateau", "patience": 1, "factor": 0.3}, "eval_every": 200},
        "noise at the end",
        "η ← 0.3 η after an evaluation without improvement",
    ),
    "warmup_steps": Cure(
        "held", {"optimizer.warmup_steps": 200}, "the first steps' spikes", "η t / 200 in the first 200 steps"
    ),
    "connections=residual": Cure(
        "deep",
        {"model.connections": "residual"},
        "fading with depth",
        "x_{l+1} = x_l + f_l(x_l); He et al., 2016",
    ),
    "connections=highway": Cure(
        "deep",
        {"model.connections": "highway"},
        "fading with depth",
        "g ∘ f_l(x_l) + (1 − g) ∘ x_l; Srivastava et al., 2015, eq. 3",
    ),
    "connections=skip": Cure(
        "deep",
        {"model.connections": "skip"},
        "fading with depth",
        "every layer sees the input, the readout every layer; Graves, 2013",
    ),
    "connections=dense": Cure(
        "deep",
        {"model.connections": "dense"},
        "fading with depth",
        "x_{l+1} = [x_l, f_l(x_l)]; Huang et al., 2017",
    ),
    "normalization.between=layer": Cure(
        "deep",
        {"model.normalization.between": "layer"},
        "scale drifting with depth",
        "(x − mean) / √(var + ε) over units; Ba et al., 2016",
    ),
    "normalization.between=batch": Cure(
        "deep",
        {"model.normalization.between": "batch"},
        "scale drifting with depth",
        "the same over steps and rows; Ioffe and Szegedy, 2015; Laurent et al., 2016",
    ),
    "normalization.input=batch": Cure(
        "overfitting",
        {"model.normalization.input": "batch"},
        "inputs of unlike scale",
        "the same, of the inputs",
    ),
    "normalization.cell=batch": Cure(
        "overfitting",
        {"model.normalization.cell": "batch", "model.normalization.steps": 28},
        "saturation, scale of weights",
        "BN_t(x W) + BN_t(h R) + b, statistics of each time step over rows; Cooijmans et al., 2016, eq. 6 to 8",
    ),
    "cell.normalize_cell": Cure(
        "overfitting",
        {"model.cell.normalize_cell": True, "model.normalization.cell": "layer"},
        "saturation of the LSTM's output",
        "h' = σ(o) ∘ tanh(LN(c')), beside layer norm of the gates; Ba et al., 2016, eq. 22",
    ),
    "dropout.input": Cure(
        "overfitting", {"model.dropout.input": 0.2}, "overfitting", "x ∘ m / (1 − p); Srivastava et al., 2014"
    ),
    "dropout.between": Cure(
        "overfitting", {"model.dropout.between": 0.5}, "overfitting", "between layers; Zaremba et al., 2014"
    ),
    "dropout.output": Cure(
        "overfitting", {"model.dropout.output": 0.5}, "overfitting", "before the readout; Zaremba et al., 2014"
    ),
    "dropout.same_over_time": Cure(
        "overfitting",
        {"model.dropout": {"input": 0.2, "between": 0.3, "state": 0.3, "same_over_time": True}},
        "overfitting, and noise that adds up over time",
        "one mask a sequence, on inputs and state; Gal and Ghahramani, 2016, eq. 7",
    ),
    "dropout.state": Cure(
        "overfitting",
        {"model.dropout.state": 0.3},
        "overfitting of R",
        "(h_{t-1} ∘ m) R, one m a sequence; Gal and Ghahramani, 2016",
    ),
    "dropout.candidate": Cure(
        "overfitting",
        {"model.dropout.candidate": 0.3},
        "overfitting, without loss of memory",
        "c' = f ∘ c + i ∘ (m_t ∘ g); Semeniuta et al., 2016, eq. 11",
    ),
    "dropout.zoneout": Cure(
        "overfitting",
        {"model.dropout.zoneout": 0.1, "model.dropout.zoneout_cell": 0.3},
        "overfitting, without loss of gradient",
        "h_t = d ∘ h_{t-1} + (1 − d) ∘ h̃_t; Krueger et al., 2017",
    ),
    "dropout.recurrent_kernel": Cure(
        "overfitting",
        {"model.dropout.recurrent_kernel": 0.5},
        "overfitting of R",
        "h (R ∘ M), one M a step of training; Merity et al., 2018",
    ),
    "penalties.l1": Cure(
        "overfitting",
        {"penalties.l1": {"input": 1e-4, "recurrent": 1e-4, "readout": 1e-4}},
        "overfitting, useless inputs",
        "L + λ Σ |w|; Tibshirani, 1996",
    ),
    "penalties.l2": Cure(
        "overfitting",
        {"penalties.l2": {"input": 1e-3, "recurrent": 1e-3, "readout": 1e-3}},
        "overfitting",
        "L + λ Σ w²; Krogh and Hertz, 1992",
    ),
    "weight_decay": Cure(
        "overfitting",
        {"optimizer.weight_decay": 0.1},
        "overfitting",
        "w ← w − η λ w beside the update; Loshchilov and Hutter, 2019",
    ),
    "max_norm": Cure(
        "overfitting",
        {"optimizer.max_norm": 2.0},
        "overfitting, growth of weights",
        "w ← w min(1, c / ‖w‖) for each unit's incoming weights; Srivastava et al., 2014",
    ),
    "penalties.activation and temporal_activation": Cure(
        "overfitting",
        {"penalties.activation": 2.0, "penalties.temporal_activation": 1.0},
        "overfitting, restless states",
        "L + α mean(h²) + β mean((h_t − h_{t+1})²); Merity et al., 2018",
    ),
    "augmentation.noise": Cure("overfitting", {"augmentation.noise": 0.3}, "overfitting", "x + N(0, σ²); Bishop, 1995"),
    "augmentation.time_shift": Cure(
        "overfitting", {"augmentation.time_shift": 2}, "overfitting", "x_{t+s}, s uniform in −n to n"
    ),
    "augmentation.time_mask": Cure(
        "overfitting",
        {"augmentation.time_mask": 8},
        "overfitting",
        "x = 0 over a span of at most n steps; Park et al., 2019",
    ),
    "augmentation.pixel_shift": Cure(
        "overfitting", {"augmentation.pixel_shift": 2}, "overfitting", "the image moved by up to n pixels"
    ),
    "early_stopping": Cure(
        "overfitting",
        {"early_stopping.patience": 2, "eval_every": 100},
        "overfitting, needless steps",
        "the best checkpoint, once p evaluations bring no better; Prechelt, 1998",
    ),
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


def cost(setting: str, overrides: dict[str, Any], data_dir: str | None, turns: int = 5) -> float | None:
    """The time of a training step with the cure over that without, by turns: the median; None where one diverged."""
    from rnnlab.training.setup import make_run

    runs = [make_run(config_of(setting, each, 0), data_dir) for each in ({}, overrides)]
    states = [run.programs.start(0) for run in runs]
    ratios = []
    for turn in range(turns + 1):
        times = []
        for index, run in enumerate(runs):
            run.enter(len(run.stages) - 1)
            count = 60 if turn else 1
            began = time.perf_counter()
            target = int(states[index].step) + count
            states[index] = jax.block_until_ready(run.train(states[index], target))
            times.append(time.perf_counter() - began)
            if not bool(states[index].finite):
                return None
        if turn:
            ratios.append(times[1] / times[0])
    return statistics.median(ratios)


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    values = flags.FlagValues()
    cli.path_flag(values, "output", "runs/mitigations.json", "JSON file; what it holds already is kept")
    flags.DEFINE_string("only", "", "names from CURES, with commas between; all if empty", flag_values=values)
    flags.DEFINE_integer("seeds", 3, "how many seeds, from 0", lower_bound=1, flag_values=values)
    cli.path_flag(values, "page", None, "Markdown file whose table is written anew")
    flags.DEFINE_bool("costs", False, "measure the cost of a step instead of training", flag_values=values)
    cli.data_flags(values)
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
    compiler.keep_programs(Path("runs/.programs"))
    for name in names:
        setting, overrides, *_ = CURES[name]
        row = results["cures"].setdefault(name, {"setting": setting, "overrides": overrides, "runs": []})
        if values.costs:
            row["cost"] = cost(setting, overrides, values.data_dir)
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
        from rnnlab.plots import mitigations

        print(mitigations(path))
    if values.page:
        write_between_marks(Path(values.page), table(results))
    return cli.FINISHED


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
    tests = [run["test"] for run in owner["runs"]]
    metric, worst = ("accuracy", -math.inf) if any("accuracy" in test for test in tests) else ("loss", math.inf)
    values = [float(test.get(metric, math.nan)) for test in tests]
    sound = [value for value in values if math.isfinite(value)]
    lost = len(values) - len(sound)
    median = statistics.median([*sound, *[worst] * lost])
    text = f"{median:.4g}" if math.isfinite(median) else "–"
    if sound:
        text += f" ({min(sound):.4g} to {max(sound):.4g})" if len(sound) > 1 else f" ({sound[0]:.4g})"
    return text + (f", {lost} of {len(values)} diverged" if lost else "")


if __name__ == "__main__":
    cli.run(main)
