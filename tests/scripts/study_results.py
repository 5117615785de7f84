"""Results of the study as its files have them, made up."""

import math
from typing import Any


def content_of(
    part: str,
    task: str,
    method: str,
    values: list[float],
    solved: list[int | None],
    factor: float = 0.5,
    metric: str = "loss",
    length: int = 100,
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
    config = {"task": {"length": length}, "steps": 1000}
    fields = {"part": part, "task": task, "method": method, "metric": metric, "config": config, "runs": runs}
    return fields | {"lyapunov": {"mean": -0.01, "error": 0.001}}
