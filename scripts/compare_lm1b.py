"""Trains the five language models of configs/lm1b.py for the same number of updates and sets their order beside the
paper's (Le, Jaitly and Hinton, 2015, section 4.3).

    RNNLAB_DATA=DATA python scripts/compare_lm1b.py --output=docs/results/lm1b_standin.json
    python scripts/compare_lm1b.py --only=lstm,irnn1024 --steps=500 --rates=1e-3,3e-3 --output=runs/lm1b.json

Made for the benchmark's held-out shards alone, a small stand-in of which the perplexities say nothing about those of
the full corpus. All get the same batches, vocabulary and updates; with several --rates the best by validation counts,
as in the paper, which reports the best of a grid. Started again, the command goes on where it was.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from rnnlab import cli
from rnnlab.config.errors import ConfigError, unknown
from rnnlab.config.reading import load_file
from rnnlab.datasets.tokens import load_tokens
from rnnlab.files import write_text
from rnnlab.files.markdown import markdown_table
from rnnlab.records.metrics import read_metrics
from rnnlab.records.provenance import git_commit, versions
from rnnlab.records.run_config import apply_overrides, resolve_config
from scripts.irnn.results import best_rates, json_text, read_flow

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "lm1b.py"
PAPER = {"lstm": 68.8, "irnn4": 69.4, "irnn1024": 70.2, "tanh4": 71.8, "tanh1024": 72.5}
"""Test perplexities on the whole benchmark with 1 000 000 words."""
NAMES = {
    "lstm": "LSTM, 512 units",
    "irnn4": "IRNN, 4 layers of 512",
    "irnn1024": "IRNN, 1024 units, projection to 512",
    "tanh4": "tanh, 4 layers of 512",
    "tanh1024": "tanh, 1024 units, projection to 512",
}


def config_of(preset: str, seed: int, steps: int, rate: float | None, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The config of one run; rate: None for the preset's own learning rate."""
    every = max(1, steps // 5)
    overrides: dict[str, Any] = {
        "seed": seed,
        "steps": steps,
        "batch_size": 32,
        "model.softmax.samples": 2048,
        "log_every": max(1, every // 4),
        "eval_every": every,
        "checkpoint_every": every,
        "optimizer.warmup_steps": min(200, steps // 10),
    }
    if rate is not None:
        overrides["optimizer.learning_rate"] = rate
    return apply_overrides(
        load_file(f"{CONFIG}:{preset}"), {k: repr(v) for k, v in (overrides | dict(changes)).items()}
    )


def train(preset: str, config: dict[str, Any], workdir: Path, data_dir: str | None) -> dict[str, Any]:
    """The result of one run; perplexities are those of its best checkpoint by validation."""
    from rnnlab.training.loop import train_and_evaluate

    summary = train_and_evaluate(config, workdir, data_dir)
    curve = [(line["step"], line["perplexity"]) for line in read_metrics(workdir) if line["split"] == "validation"]
    best = summary["best"]
    return {
        "model": preset,
        "seed": config["seed"],
        "learning_rate": config["optimizer"]["learning_rate"],
        "status": summary["status"],
        "steps": summary["steps"],
        "best_step": best["step"],
        "validation": (best["validation"] or {}).get("perplexity"),
        "test": best.get("test", {}).get("perplexity"),
        "seconds": summary["seconds"],
        "curves": {preset: curve},
        "gradient_flow": read_flow(workdir, config["seed"]),
    }


def ranking(runs: Sequence[Mapping[str, Any]]) -> list[tuple[str, float]]:
    """Models and their test perplexities, best first: the mean over seeds, each at its best rate by validation."""
    means = {
        model: math.exp(sum(math.log(run["test"]) for run in seeds.values()) / len(seeds))
        for model, seeds in best_rates(runs).items()
    }
    return sorted(means.items(), key=lambda pair: pair[1])


def table(runs: Sequence[Mapping[str, Any]], note: str) -> str:
    """The order beside the paper's, in Markdown."""
    ranked, order = ranking(runs), list(PAPER)
    steps = " / ".join(str(n) for n in sorted({run["steps"] for run in runs}))
    head = ["model", "paper: place", "paper: test perplexity", "here: place", "here: test perplexity"]
    title = f"Not the paper's experiment: {note}; {steps} updates."
    rows = []
    places = {model: (rank, perplexity) for rank, (model, perplexity) in enumerate(ranked, 1)}
    for model in order:
        of_model = [run for run in runs if run["model"] == model]
        if not of_model:
            continue
        rank, perplexity = places.get(model, ("–", math.nan))
        sound = [run for run in of_model if run["test"] is not None]
        value = f"{perplexity:.1f}" if sound else "diverged"
        steps = min(sound, key=lambda run: run["validation"])["best_step"] if sound else "–"
        rows.append([NAMES[model], *map(str, (order.index(model) + 1, PAPER[model], rank, value, steps))])
    return f"{title}\n\n{markdown_table([*head, 'updates to the best'], rows)}"


def main(argv: Sequence[str], **changes: Any) -> int:
    """Runs the command; returns the exit status. changes: further overrides of every config."""
    values = flags.FlagValues()
    cli.path_flag(values, "output", "runs/lm1b_standin.json", "JSON file; the table and the figure are put beside it")
    cli.path_flag(values, "workdir", "runs/lm1b_standin", "folder of the runs")
    flags.DEFINE_string("only", "", "models, with commas between; all if empty", flag_values=values)
    flags.DEFINE_integer("steps", 2000, "updates of each", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("seeds", 1, "how many seeds, from 0", lower_bound=1, flag_values=values)
    flags.DEFINE_list("rates", [], "learning rates; those of the config if empty", flag_values=values)
    cli.data_flags(values)
    cli.figure_flag(values)
    cli.parse(values, argv, __doc__)
    models = values.only.split(",") if values.only else list(PAPER)
    for model in models:
        if model not in PAPER:
            raise ConfigError(unknown("value of --only", model, PAPER))
    try:
        rates = [float(text) for text in values.rates] or [None]
    except ValueError:
        raise ConfigError(f"--rates={','.join(values.rates)}: learning rates are numbers with commas between") from None
    path, runs, config = Path(values.output), [], {}
    for seed in range(values.seeds):
        for rate in rates:
            for model in models:
                config = resolve_config(config_of(model, seed, values.steps, rate, changes))
                name = f"{model}-{values.steps}-{config['optimizer']['learning_rate']:g}-{seed}"
                runs.append(train(model, config, Path(values.workdir) / name, values.data_dir))
                if runs[-1]["status"] == "interrupted":
                    return cli.INTERRUPTED
    # At the end: a file that is there is of all runs, and the runs themselves are kept in the workdir.
    print(save(path, runs, config, values.rates, values.data_dir))
    from rnnlab.plots import validation_curves

    print(path, path.with_suffix(".md"), validation_curves(path))
    return cli.FINISHED


def save(
    path: Path,
    runs: Sequence[Mapping[str, Any]],
    config: Mapping[str, Any],
    rates: Sequence[str],
    data_dir: str | None,
) -> str:
    """Writes the JSON file, and the table beside it, which is returned.

    rates: as given, empty for those of the config.
    """
    task = {k: v for k, v in config["task"].items() if k in ("dataset", "min_count", "vocabulary_size", "source")}
    corpus = load_tokens(**task, data_dir=data_dir)
    tokens = len(corpus.splits["train"].tokens)
    note = f"{corpus.meta['split']}; {tokens:,} training tokens, {len(corpus.vocabulary.words):,} words"
    results = {
        "corpus": note,
        "paper": PAPER,
        "config": {k: config[k] for k in ("steps", "batch_size", "task", "optimizer")},
        "rates": list(rates),
        "versions": versions(),
        "git_commit": git_commit(),
        "order": ranking(runs),
        "runs": list(runs),
    }
    write_text(path, json_text(results))
    text = table(runs, note)
    write_text(path.with_suffix(".md"), text)
    return text


if __name__ == "__main__":
    cli.run(main)
