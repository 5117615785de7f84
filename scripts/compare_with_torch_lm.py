"""Trains the same LSTM language model with rnnlab and with PyTorch, and compares their validation perplexities.

    RNNLAB_DATA=DATA python scripts/compare_with_torch_lm.py --output=docs/results/wikitext2_twin.json
    python scripts/compare_with_torch_lm.py --steps=500 --seeds=3 --optimizer=adam --output=runs/twin.json

The twin is nn.Embedding, nn.LSTM, nn.Linear and cross_entropy. Both get the same sizes, first weights, batches, window,
optimiser, schedule and number of updates; only the masks of dropout are their own. Started again, the command goes on
where it was: rnnlab at its last checkpoint, the twin at its last evaluation.
"""

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from absl import flags

from rnnlab import cli
from rnnlab.files import whole_file, write_text
from rnnlab.files.markdown import markdown_table
from rnnlab.optim.schedules import make_schedule
from rnnlab.records.metrics import read_metrics
from rnnlab.records.provenance import git_commit, versions
from rnnlab.records.run_config import resolve_config
from rnnlab.tasks import Split, StreamTask
from rnnlab.training.run import Run
from rnnlab.training.setup import make_run

# As in PyTorch's own example of a word-level language model, whose rate and clipping these are; the rate goes to 0.
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": dict(name="sgd", learning_rate=20.0, clip_norm=0.25, schedule="linear"),
    "adam": dict(name="adam", learning_rate=2e-3, clip_norm=0.25, schedule="linear"),
}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def config_of(
    optimizer: str, steps: int, seed: int, dataset: str = "wikitext-2", features: int = 200, dropout: float = 0.2
) -> dict[str, Any]:
    """The config that both train by; first weights as in PyTorch's example, where a forget gate has no bias of 1."""
    start, bound = dict(name="uniform", scale=0.1), dict(name="uniform", scale=1 / math.sqrt(features))
    cell = dict(name="lstm", features=features, forget_bias=0.0, input_init=bound, recurrent_init=bound)
    every = max(1, min(1000, steps // 4))
    return dict(
        seed=seed,
        steps=steps,
        batch_size=20,
        eval_batch_size=10,
        log_every=max(1, every // 4),
        eval_every=every,
        checkpoint_every=every,
        task=dict(name="language_model", dataset=dataset, window=35),
        model=dict(
            cell=cell,
            embedding=features,
            embedding_init=start,
            readout_init=start,
            softmax={},
            dropout=dict(input=dropout or None, output=dropout or None),
        ),
        optimizer=OPTIMIZERS[optimizer],
    )


class Twin(torch.nn.Module):
    """The model as one writes it with torch.nn, with the weights of an rnnlab network."""

    def __init__(self, params: Mapping[str, Any], dropout: float):
        super().__init__()
        cell, readout = params["layers"][0]["cells"][0], params["readout"]
        (vocabulary, width), features = params["embedding"].shape, cell["recurrent_kernel"].shape[0]
        self.embedding = torch.nn.Embedding(vocabulary, width)
        self.lstm: Any = torch.nn.LSTM(width, features)
        self.linear = torch.nn.Linear(features, vocabulary)
        self.dropout = torch.nn.Dropout(dropout)
        arguments: dict[Any, Any] = {
            self.embedding.weight: params["embedding"],
            self.lstm.weight_ih_l0: cell["input_kernel"].T,
            self.lstm.weight_hh_l0: cell["recurrent_kernel"].T,
            self.lstm.bias_ih_l0: cell["bias"],
            self.linear.weight: readout["word_kernel"],
            self.linear.bias: readout["bias"],
        }
        with torch.no_grad():
            for parameter, value in arguments.items():
                parameter.copy_(torch.tensor(np.array(value)))
            self.lstm.bias_hh_l0.zero_()
        # The second bias of nn.LSTM is added to the first; trained too, it would double the rate of their sum.
        self.lstm.bias_hh_l0.requires_grad_(False)

    def forward(self, words: torch.Tensor, hidden: Any) -> tuple[torch.Tensor, Any]:
        """[T, B] tokens and (h, c), or None for zeros -> [T, B, V] logits, (h, c)."""
        h, hidden = self.lstm(self.dropout(self.embedding(words)), hidden)
        return self.linear(self.dropout(h)), tuple(part.detach() for part in hidden)


class Batches:
    """The task's batches as tensors."""

    def __init__(self, run: Run):
        assert isinstance(run.task, StreamTask)
        self.run, self.task, self.seed = run, run.task, jnp.int32(run.seed)
        self._take = jax.jit(self._batch, static_argnums=(1, 3))

    def _batch(self, data: Any, split: Split, start: jax.Array, rows: int) -> tuple[Any, ...]:
        positions = start.astype(jnp.uint32) + jnp.arange(rows, dtype=jnp.uint32)
        batch = self.task.batch(data, self.seed, split, positions)
        whole = jnp.full(rows, batch.targets.shape[0], jnp.int32)
        lengths = whole if batch.lengths is None else batch.lengths
        return batch.inputs, batch.targets, lengths, self.task.begins(split, positions).all()

    def at(self, split: Split, number: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, bool]:
        """Inputs, targets [T, B], lengths [B] of batch `number` of a split, and whether it begins at the beginning."""
        rows = self.task.streams(split)
        inputs, targets, lengths, begins = self._take(self.run.data, split, jnp.int32(number * rows), rows)
        x, y, n = (torch.tensor(np.asarray(a), dtype=torch.long, device=DEVICE) for a in (inputs, targets, lengths))
        return x, y, n, bool(begins)

    def whole(self, split: Split) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor, bool]]:
        """All of a split."""
        size = self.task.size(split)
        assert size is not None
        for number in range(size // self.task.streams(split)):
            yield self.at(split, number)


def evaluate(model: Twin, batches: Batches, split: Split) -> float:
    """The perplexity of a split: over the same streams as rnnlab's, to the last token."""
    model.eval()
    total, count, hidden = 0.0, 0, None
    with torch.no_grad():
        for inputs, targets, lengths, begins in batches.whole(split):
            logits, hidden = model(inputs, None if begins else hidden)
            nats = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
            inside = torch.arange(len(inputs), device=DEVICE)[:, None] < lengths
            total += float(nats.double()[inside.flatten()].sum())
            count += int(lengths.sum())
    model.train()
    return math.exp(total / count)


def make_torch_optimizer(model: Twin, section: Mapping[str, Any]) -> torch.optim.Optimizer:
    """That of torch.optim with the numbers of a resolved optimizer section."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if section["name"] == "sgd":
        return torch.optim.SGD(trained, lr=section["learning_rate"])
    betas = section["b1"], section["b2"]
    return torch.optim.Adam(trained, lr=section["learning_rate"], betas=betas, eps=section["eps"])


def train_twin(config: dict[str, Any], data_dir: str | None, folder: Path) -> dict[str, Any]:
    """Trains the twin from its last evaluation in folder, or from the beginning.

    Returns:
        curve, pairs of steps and validation perplexities; losses, of every training step; seconds, spent on steps.
    """
    config = resolve_config(config)
    run, section = make_run(config, data_dir), config["optimizer"]
    params = jax.tree.map(np.asarray, run.programs.start(config["seed"]).params)
    model = Twin(params, config["model"]["dropout"].get("output") or 0.0).to(DEVICE)
    optimizer, batches = make_torch_optimizer(model, section), Batches(run)
    factor = jax.jit(make_schedule(section["schedule"], section["warmup_steps"], config["steps"]))
    torch.manual_seed(config["seed"])
    record: dict[str, Any] = {"step": 0, "hidden": None, "curve": [], "losses": [], "seconds": 0.0}
    saved = folder / "torch.pt"
    if saved.exists():
        held = torch.load(saved, map_location=DEVICE, weights_only=False)
        record = held["record"]
        model.load_state_dict(held["model"])
        optimizer.load_state_dict(held["optimizer"])
        torch.set_rng_state(held["random"].cpu())
    began = time.perf_counter()
    while record["step"] < config["steps"]:
        inputs, targets, _, begins = batches.at("train", record["step"])
        for group in optimizer.param_groups:
            group["lr"] = section["learning_rate"] * float(factor(jnp.int32(record["step"])))
        optimizer.zero_grad()
        logits, record["hidden"] = model(inputs, None if begins else record["hidden"])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), section["clip_norm"])
        optimizer.step()
        record["step"] += 1
        record["losses"].append(float(loss.detach()))
        if record["step"] % config["eval_every"] == 0 or record["step"] == config["steps"]:
            record["seconds"] += time.perf_counter() - began
            record["curve"].append((record["step"], evaluate(model, batches, "validation")))
            print(f"torch  step {record['step']}  validation perplexity {record['curve'][-1][1]:.2f}", flush=True)
            held = {"record": record, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
            with whole_file(saved) as file:
                torch.save(held | {"random": torch.get_rng_state()}, file)
            began = time.perf_counter()
    return {name: record[name] for name in ("curve", "losses", "seconds")}


def compare(config: dict[str, Any], folder: Path, data_dir: str | None) -> dict[str, Any] | None:
    """Both runs of one seed; None where the first was interrupted."""
    from rnnlab.training.loop import train_and_evaluate

    summary = train_and_evaluate(config, folder / "rnnlab", data_dir)
    if summary["status"] == "interrupted":
        return None
    lines = read_metrics(folder / "rnnlab")
    ours = [(line["step"], line["perplexity"]) for line in lines if line["split"] == "validation"]
    theirs = train_twin(config, data_dir, folder)
    return {
        "seed": config["seed"],
        "steps": config["steps"],
        "rnnlab": ours[-1][1],
        "torch": theirs["curve"][-1][1],
        "ratio": ours[-1][1] / theirs["curve"][-1][1],
        "seconds": {"rnnlab": summary["seconds"], "torch": theirs["seconds"]},
        "curves": {"rnnlab": ours, "torch": theirs["curve"]},
    }


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    values = flags.FlagValues()
    cli.path_flag(values, "output", "runs/twin.json", "JSON file; the figure is put beside it")
    cli.path_flag(values, "workdir", "runs/twin", "folder of the runs")
    flags.DEFINE_enum("optimizer", "sgd", list(OPTIMIZERS), "what both train with", flag_values=values)
    flags.DEFINE_integer("steps", 6000, "updates of each; an epoch has 2983", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("seeds", 1, "how many seeds, from 0", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("features", 200, "units, and dimensions of a word", lower_bound=1, flag_values=values)
    flags.DEFINE_float("dropout", 0.2, "on words and before the readout", 0.0, 0.99, flag_values=values)
    cli.data_flags(values)
    cli.figure_flag(values)
    cli.parse(values, argv, __doc__)
    runs, path, config = [], Path(values.output), {}
    for seed in range(values.seeds):
        config = config_of(values.optimizer, values.steps, seed, features=values.features, dropout=values.dropout)
        name = f"{values.optimizer}-{values.features}-{values.dropout:g}-{values.steps}-{seed}"
        result = compare(config, Path(values.workdir) / name, values.data_dir)
        if result is None:
            return cli.INTERRUPTED
        runs.append(result)
    # At the end: a file that is there is of all seeds, and the runs themselves are kept in the workdir.
    results = {
        "config": {k: v for k, v in config.items() if k != "seed"},
        "versions": versions() | {"torch": torch.__version__},
        "git_commit": git_commit(),
        "runs": runs,
    }
    write_text(path, json.dumps(results, indent=1) + "\n")
    from rnnlab.plots import validation_curves

    print(table(runs), end="")
    print(path, validation_curves(path))
    return cli.FINISHED


def table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Validation perplexities in Markdown."""
    rows = [
        [str(run["seed"]), str(run["steps"]), f"{run['rnnlab']:.2f}", f"{run['torch']:.2f}", f"{run['ratio']:.4f}"]
        for run in runs
    ]
    return markdown_table(["seed", "updates", "rnnlab", "PyTorch", "ratio"], rows)


if __name__ == "__main__":
    cli.run(main)
