"""Workdirs of runs and sweeps that were never trained, as the page of `rnnlab.watch` is to show them."""

import json
import math
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

CONFIG: dict[str, Any] = {
    "task": {"name": "adding", "length": 6, "variant": "sum"},
    "model": {"cell": {"name": "lstm", "features": 8}, "layers": 1},
    "optimizer": {"name": "adam", "learning_rate": 0.01, "clip_norm": 1.0},
    "diagnostics": ["gradient_flow", "norms"],
    "diagnostics_every": 10,
    "steps": 100,
    "batch_size": 4,
    "seed": 0,
}


def train_line(step: int, loss: float | str = 0.5, **more: Any) -> dict[str, Any]:
    numbers = {"loss": loss, "grad_norm": 1.5, "largest_grad_norm": 4.0, "clipped": 0.25, "learning_rate": 0.01}
    return {"step": step, "split": "train", **numbers, "seconds": round(step * 0.01, 3), **more}


def validation_line(step: int, loss: float | str = 0.25) -> dict[str, Any]:
    return {"step": step, "split": "validation", "loss": loss, "within_0.04": 0.5, "seconds": round(step * 0.01, 3)}


def diagnostics_line(step: int, times: int = 6) -> dict[str, Any]:
    flow = [10.0 ** (at - times) for at in range(times)]
    return {
        "step": step,
        "seconds": 1.0,
        "gradient_flow": {"layer 1/h": flow, "layer 1/factor": 0.1, "layer 1/half_life": "inf", "layer 1/horizon": 2},
        "norms": {f"layer 1/recurrent_kernel/{kind}": 1.0 for kind in ("gradient", "clipped", "weight", "update")},
    }


def lines_of(lines: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)


def write_run(folder: Path, lines: Iterable[dict[str, Any]] = (), **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    (folder / "metrics.jsonl").write_text(lines_of(lines))
    return folder


def decay(steps: int, rate: float = 0.05) -> list[dict[str, Any]]:
    """A run that learns: a line of training each step, one of validation every tenth."""
    lines = []
    for step in range(1, steps + 1):
        lines.append(train_line(step, math.exp(-rate * step)))
        if step % 10 == 0:
            lines.append(validation_line(step, math.exp(-rate * step) / 2))
    return lines


def write_summary(folder: Path, status: str, steps: int = 100) -> None:
    (folder / "summary.json").write_text(json.dumps({"status": status, "steps": steps, "seconds": 1.0}))


def write_lock(path: Path, process: int | None = None, host: str | None = None) -> None:
    owner = {"process": process or os.getpid(), "host": host or socket.gethostname(), "since": "today", "command": "x"}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(owner))


def write_sweep(folder: Path, runs: int = 4, lines: int = 20, groups: int = 2) -> Path:
    """Run i learns at a rate of its own; the first is finished, the last has not begun."""
    rates = [0.01 * (at + 1) for at in range(runs)]
    names = [f"{at:04}" for at in range(runs)]
    manifest = {
        "axes": ["optimizer.learning_rate", "seed"],
        "config": CONFIG,
        "runs": [
            {"name": name, "in_sweep": True, "key": name, "command": "x", "overrides": {}}
            | {"axes": {"optimizer.learning_rate": rate, "seed": 0}}
            for name, rate in zip(names, rates, strict=True)
        ],
        "groups": {f"{at:03}": {"runs": names[at::groups], "alone": None} for at in range(groups)},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sweep.json").write_text(json.dumps(manifest))
    for name, rate in zip(names[:-1], rates, strict=False):
        write_run(folder / "runs" / name, decay(lines, rate))
    write_summary(folder / "runs" / names[0], "finished")
    return folder


def snapshot(folder: Path) -> dict[str, Any]:
    """All that can be seen to change in a folder."""
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_size, path.read_bytes() if path.is_file() else None)
        for path in [folder, *folder.rglob("*")]
    }
