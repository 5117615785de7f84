"""Writes docs/records.md: published numbers of recurrent networks, and ours beside them.

    RNNLAB_DATA=DATA python -m scripts.records

Published numbers are those of docs/results/records.toml, ours those of the files that it names; networks are built, not
trained, to count their parameters, for which MNIST and WikiText-2 have to be at hand.
"""

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import flags

from rnnlab import cli
from rnnlab.config.errors import ConfigError
from rnnlab.config.reading import read_file
from rnnlab.files import read_json, read_text
from rnnlab.files.markdown import markdown_table, write_between_marks
from rnnlab.records.run_config import resolve_config
from scripts.irnn.experiments import called
from scripts.study.entries import parameters

RESULTS, PAGE = Path("docs/results"), Path("docs/records.md")
AGAIN = "restore it"


@dataclass(frozen=True)
class Result:
    """A number of a network on a task."""

    name: str
    value: float
    parameters: str
    seeds: str
    where: str
    """The source, or our command."""
    kind: str
    """nonlinear, other, or ours."""


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    values = flags.FlagValues()
    cli.path_flag(values, "results", str(RESULTS), "folder of records.toml and of our results")
    cli.path_flag(values, "page", str(PAGE), "what is written between its marks")
    cli.data_flags(values)
    cli.parse(values, argv, __doc__)
    results = Path(values.results)
    write_between_marks(Path(values.page), page_text(read_tasks(results), results, values.data_dir))
    print(values.page)
    return cli.FINISHED


def read_tasks(results: Path) -> list[dict[str, Any]]:
    """The tasks of records.toml."""
    path = results / "records.toml"
    try:
        return tomllib.loads(read_text(path, AGAIN))["task"]
    except (tomllib.TOMLDecodeError, KeyError) as error:
        raise ConfigError(f"{path} is not as it should be: {error}; {AGAIN}") from None


def page_text(tasks: Sequence[Mapping[str, Any]], results: Path, data_dir: str | None) -> str:
    """The page between its marks: a summary, then a table for each task."""
    rows, parts = [], []
    for task in tasks:
        best_first = sorted(results_of(task, results, data_dir), key=lambda one: -task["better"] * one.value)
        ours, theirs, others = (_best(best_first, kind) for kind in ("ours", "nonlinear", "other"))
        rows.append([task["title"], task["unit"], theirs, others, ours])
        parts += [f"## {task['title']}", "", _table(task["unit"], best_first)]
        parts += [f"Published: {task['sources']}.", ""]
        if task.get("says"):
            parts += [task["says"], ""]
    head = ["task", "unit", "best published, one nonlinear recurrent network", "best published, any other", "ours"]
    return "\n".join([markdown_table(head, rows), *parts]).rstrip() + "\n"


def _best(best_first: Sequence[Result], kind: str) -> str:
    """The first one of a kind, in words."""
    one = next((one for one in best_first if one.kind == kind), None)
    if one is None:
        return "not run" if kind == "ours" else "–"
    return f"{one.value:.4g} ({one.name})"


def _table(unit: str, best_first: Sequence[Result]) -> str:
    rows = []
    for one in best_first:
        mark = "**" if one.kind == "ours" else ""
        rows.append(
            [f"{mark}{one.name}{mark}", one.parameters or "not stated", f"{one.value:.4g}", one.seeds, one.where]
        )
    return markdown_table(["network", "parameters", unit, "seeds", "from"], rows)


def results_of(task: Mapping[str, Any], results: Path, data_dir: str | None) -> list[Result]:
    """The published results of a task, and ours."""
    published = [
        Result(row["name"], row["value"], row["parameters"], "not stated", "published", row["kind"])
        for row in task["published"]
    ]
    return published + [_ours(row, results, data_dir) for row in task["ours"]]


def _ours(row: Mapping[str, Any], results: Path, data_dir: str | None) -> Result:
    """A result of a file of ours: of runs.json the one run of a config, else of all seeds of a network."""
    path, network, scale = results / row["file"], row["network"], row.get("scale", 1)
    if row["file"] == "runs.json":
        run = read_json(path, AGAIN, {network: {"best": {"test": {}}, "command": str}})[network]
        value = run["best"]["test"][row.get("metric", "perplexity")]
        size = f"{parameters(resolve_config(read_file(row['config'])), data_dir):,}" if "config" in row else ""
        return Result(row["name"], value, size, "1", f"`{run['command']}`", "ours")
    content = read_json(path, AGAIN, {"experiment": str, "variant": str, "metric": str, "networks": {network: {}}})
    entry = content["networks"][network]
    values = [run["test"] * scale for run in entry["runs"]]
    errors = content["metric"] == "loss"
    mean = math.exp(sum(map(math.log, values)) / len(values)) if errors else sum(values) / len(values)
    length = f" --length={content['length']}" if content.get("length") else ""
    command = (
        f"python -m scripts.irnn --experiment={content['experiment']}{length} --variant={content['variant']} "
        f"--networks={network} --seeds={len(values)}"
    )
    config = resolve_config({**entry["config"], "seed": 0})
    return Result(called(network), mean, f"{parameters(config, data_dir):,}", str(len(values)), f"`{command}`", "ours")


if __name__ == "__main__":
    cli.run(main)
