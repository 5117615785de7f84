"""Trains small recurrent and frame-wise networks on TIMIT's features, over several seeds, into a JSON file.

    RNNLAB_DATA=DATA python scripts/compare_speech.py --output=docs/results/speech.json --page=docs/speech.md
    python scripts/compare_speech.py --folder=/corpora/TIMIT --seeds=5 --output=runs/speech.json

Made for NLTK's sample of the corpus, where a run takes a minute or two on 2 cores. A network that the file holds is not
trained again, so the same command goes on where it was ended; every run is written when it is done. A figure lies
beside the file. Beside the recurrent networks stand two that look at a frame alone (softmax regression) and at a frame
with five on each side.
"""

import itertools
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags

from rnnlab import cli
from rnnlab.files import AGAIN, check_fields, read_json, write_text
from rnnlab.files.markdown import markdown_table, write_between_marks
from rnnlab.sweeps.statistics import SHARE, mean_interval
from rnnlab.tasks import Speech
from scripts.irnn.results import json_text, read_flow
from scripts.irnn.rows import percent_text

UNITS = 100
RECURRENT: dict[str, dict[str, Any]] = {
    "IRNN, R = I": {"cell": {"name": "irnn", "recurrent_init": "identity"}},
    "IRNN, R = 0.01·I": {"cell": {"name": "irnn", "recurrent_init": {"name": "scaled_identity", "scale": 0.01}}},
    "LSTM": {"cell": {"name": "lstm"}},
    "GRU": {"cell": {"name": "gru"}},
}
"""Model sections, of two layers each."""
LEARNING_RATE, OF_IDENTITY = 3e-3, 1e-3
"""Adam's; R = I by itself: seed 0, forwards, validation error 64 % at 1e-3, 77 % at 3e-4."""
TASK = {"name": "speech", "targets": "phones61", "bucket": 16, "max_frames": 150}
STEPS = 360
"""Updates of 16 pieces of 1.5 s at most: 26 epochs of the sample."""
NOISE, DROPOUT = 0.3, 0.2
"""Added to the features, and between layers and before the readout, of all networks alike."""
FRAMEWISE: dict[str, dict[str, Any]] = {
    "softmax regression, one frame": {"context": 0, "hidden": ()},
    "feed-forward 2 × 100, ±5 frames": {"context": 5, "hidden": (100, 100)},
    "feed-forward 2 × 500, ±5 frames": {"context": 5, "hidden": (500, 500)},
}
EPOCHS, FRAMES = 26, 256
"""Epochs of the frame-wise networks, and the frames in one of their batches."""
NETWORKS = (
    *list(FRAMEWISE)[:2],
    *(f"{direction}, {name}" for direction in ("forwards", "both directions") for name in RECURRENT),
    *list(FRAMEWISE)[2:],  # The slowest of all.
)


def config_of(network: str, seed: int, folder: str, steps: int) -> dict[str, Any]:
    """The config of a recurrent network's run."""
    direction, _, name = network.partition(", ")
    section = RECURRENT[name]
    cell = section["cell"] | {"features": UNITS}
    rate = OF_IDENTITY if cell.get("recurrent_init") == "identity" else LEARNING_RATE
    if cell["name"] == "irnn":
        cell["input_init"] = "glorot_uniform"
    return {
        "seed": seed,
        "steps": steps,
        "batch_size": 16,
        "eval_batch_size": 16,
        "log_every": 50,
        "eval_every": min(60, steps),
        "checkpoint_every": 10_000,
        "task": TASK | {"folder": folder},
        "augmentation": {"noise": NOISE},
        "model": {
            "cell": cell,
            "layers": 2,
            "bidirectional": direction == "both directions",
            "dropout": {"between": DROPOUT, "output": DROPOUT},
        },
        "optimizer": {
            "name": "adam",
            "learning_rate": rate,
            "clip_norm": 1.0,
            "schedule": {"name": "cosine"},
        },
        "early_stopping": {"metric": "frame_error"},
    }


def train_recurrent(network: str, seed: int, folder: str, steps: int, data_dir: str | None) -> dict[str, Any]:
    """Validation and test of the checkpoint that is best on validation; of seed 0 the gradient's reach as well."""
    from rnnlab.training.loop import train_and_evaluate

    with tempfile.TemporaryDirectory() as workdir:
        config = config_of(network, seed, folder, steps)
        summary = train_and_evaluate(config, Path(workdir) / "run", data_dir)
        flow = read_flow(Path(workdir) / "run", seed) if seed == 0 else None
    best = summary["best"]
    result = {"status": summary["status"], "step": best["step"], "validation": best["validation"], "test": best["test"]}
    return result if flow is None else result | {"gradient_flow": flow}


# --- networks that see no more than a few frames ---------------------------------------------------------------------


def frames_in_context(task: Speech, split: Any, context: int) -> tuple[np.ndarray, np.ndarray]:
    """Each frame that has a class with `context` neighbours on each side, the ends repeated, and the classes."""
    utterances = task.corpus.splits[split]
    rows = []
    for number in range(len(utterances)):
        features = utterances.features[utterances.rows(number)]
        padded = np.pad(features, ((context, context), (0, 0)), "edge")
        rows.append(np.concatenate([padded[i : i + len(features)] for i in range(2 * context + 1)], -1))
    scored = utterances.targets >= 0
    return np.concatenate(rows)[scored], utterances.targets[scored]


def train_framewise(
    task: Speech, context: int, hidden: Sequence[int], seed: int, epochs: int = EPOCHS
) -> dict[str, Any]:
    """The same for linear layers with ReLU and dropout between them, and Adam."""
    x, y = (jnp.asarray(a) for a in frames_in_context(task, "train", context))
    widths = [x.shape[1], *hidden, task.out_features]
    keys = jax.random.split(jax.random.key(seed), len(widths) + 1)
    glorot = jax.nn.initializers.glorot_uniform()
    params = [
        (glorot(key, shape), jnp.zeros(shape[1])) for key, shape in zip(keys, itertools.pairwise(widths), strict=False)
    ]
    steps = len(y) // FRAMES
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-3, epochs * steps))

    def outputs(params: list, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        if key is not None:
            x += NOISE * jax.random.normal(jax.random.fold_in(key, 0), x.shape)
        for number, (kernel, bias) in enumerate(params):
            if number:
                x = jax.nn.relu(x)
                if key is not None:
                    keep = jax.random.bernoulli(jax.random.fold_in(key, number), 1 - DROPOUT, x.shape)
                    x = jnp.where(keep, x / (1 - DROPOUT), 0)
            x = x @ kernel + bias
        return x

    def loss(params: list, x: jax.Array, y: jax.Array, key: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(outputs(params, x, key), y).mean()

    @jax.jit
    def epoch(params: list, state: Any, key: jax.Array) -> tuple[list, Any]:
        order = jax.random.permutation(key, len(y))[: steps * FRAMES].reshape(steps, FRAMES)

        def step(number: jax.Array, both: tuple) -> tuple:
            params, state = both
            rows = order[number]
            gradients = jax.grad(loss)(params, x[rows], y[rows], jax.random.fold_in(key, number))
            updates, state = optimizer.update(gradients, state)
            return optax.apply_updates(params, updates), state

        return jax.lax.fori_loop(0, steps, step, (params, state))

    @jax.jit
    def score(params: list, x: jax.Array, y: jax.Array) -> dict[str, jax.Array]:
        logits = outputs(params, x)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        return {"loss": losses.mean(), "frame_error": (logits.argmax(-1) != y).mean()}

    sets = {split: frames_in_context(task, split, context) for split in ("validation", "test")}
    state, best = optimizer.init(params), {}
    for number in range(epochs):
        params, state = epoch(params, state, jax.random.fold_in(keys[-1], number))
        metrics = {split: {k: float(v) for k, v in score(params, *both).items()} for split, both in sets.items()}
        if not best or metrics["validation"]["frame_error"] < best["validation"]["frame_error"]:
            best = {"status": "finished", "step": (number + 1) * steps, **metrics}
    return best


# --- all of them -----------------------------------------------------------------------------------------------------


def summarize(row: dict[str, Any]) -> None:
    """Adds the mean test error over seeds and the ends of its 95 % interval (Student's t, cut at 0 and 1), if it has
    one."""
    mean = mean_interval([run["test"]["frame_error"] for run in row["runs"]], SHARE)
    row["mean"] = mean.value
    row["interval"] = [mean.low, mean.high] if mean.count > 1 else None


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    values = flags.FlagValues()
    cli.path_flag(values, "output", "runs/speech.json", "JSON file; what it holds already is kept")
    flags.DEFINE_string("folder", "timit", "of the corpus, as task.folder", flag_values=values)
    flags.DEFINE_integer("seeds", 3, "how many seeds, from 0", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("steps", STEPS, "of a recurrent network", lower_bound=1, flag_values=values)
    cli.path_flag(values, "page", None, "Markdown file whose table is written anew")
    cli.data_flags(values)
    cli.figure_flag(values)
    cli.parse(values, argv, __doc__)
    path, folder, data_dir = Path(values.output), values.folder, values.data_dir
    results = {"networks": {}}
    if path.exists():
        results = read_json(path, AGAIN, {"networks": {}})
        for name, row in results["networks"].items():
            check_fields(path, row, {"runs": list}, AGAIN, f"networks.{name}")
    results["networks"] = {name: results["networks"].get(name, {"runs": []}) for name in NETWORKS}
    task = Speech(folder=folder, targets=TASK["targets"], data_dir=data_dir)
    for seed in range(values.seeds):
        for name, row in results["networks"].items():
            if seed in {run["seed"] for run in row["runs"]}:
                continue
            began = time.monotonic()
            if name in FRAMEWISE:
                run = train_framewise(task, **FRAMEWISE[name], seed=seed)
            else:
                run = train_recurrent(name, seed, folder, values.steps, data_dir)
            row["runs"].append({"seed": seed, **run, "seconds": round(time.monotonic() - began, 1)})
            row["runs"].sort(key=lambda run: run["seed"])
            summarize(row)
            write_text(path, json_text(results))
            print(f"{name}, seed {seed}: test frame error {run['test']['frame_error']:.4f}", flush=True)
    from rnnlab.plots import speech_comparison

    print(speech_comparison(path))
    if values.page:
        write_between_marks(Path(values.page), f"{table(results)}\n![frame errors](results/{path.stem}.png)\n")
    return cli.FINISHED


def table(results: dict[str, Any]) -> str:
    """Mean errors and intervals as a Markdown table."""
    rows = []
    for name, row in results["networks"].items():
        if row["runs"]:
            validation = statistics.mean(run["validation"]["frame_error"] for run in row["runs"])
            rows.append([name, percent_text(row), str(len(row["runs"])), f"{100 * validation:.1f}"])
    return markdown_table(["network", "test frame error, %", "seeds", "validation, %"], rows)


if __name__ == "__main__":
    cli.run(main)
