"""Results of the study as its files have them, made up."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from scripts.study.page import write_pages


class Pages(NamedTuple):
    """What is made of results."""

    study: str
    cures: str
    words: str
    """What the command says."""


def write_result(results: Path, entry: Mapping[str, Any]) -> None:
    """Writes the file of an entry."""
    path = results / entry["part"] / entry["task"] / f"{entry['method']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entry))


def pages_of(results: Path) -> Pages:
    """Both pages, beside a folder of results; what stands around their marks is "# Title" and "Protocol"."""
    pages = [results.parent / name for name in ("study.md", "mitigations.md")]
    for page in pages:
        page.write_text("# Title\n<!-- table -->\n<!-- end of table -->\nProtocol\n")
    words = write_pages(results, *pages)
    return Pages(*(page.read_text() for page in pages), words)


def content_of(
    part: str,
    task: str,
    method: str,
    values: list[float],
    solved: list[int | None],
    factor: float = 0.5,
    metric: str = "loss",
    length: int = 100,
    eval_every: int = 40,
) -> dict[str, Any]:
    """The content of an entry's file. factor: of the gradient a step, before training."""
    runs = [
        {
            "seed": seed,
            "status": "finished" if math.isfinite(value) else "diverged",
            "steps": 1000,
            "seconds": 2.0,
            "solved_at": at,
            "test": {metric: value} if math.isfinite(value) else {},
            "clipped": 0.5,
            "factor": {"untrained": factor, "trained": 1.0},
        }
        for seed, (value, at) in enumerate(zip(values, solved, strict=True))
    ]
    config = {"task": {"length": length}, "steps": 1000, "eval_every": eval_every}
    fields = {"part": part, "task": task, "method": method, "metric": metric, "config": config, "runs": runs}
    return fields | {"lyapunov": {"mean": -0.01, "error": 0.001}}
