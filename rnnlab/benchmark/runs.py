"""Whole runs of the adding problem by `rnnlab.train`, and by a plain loop of PyTorch that draws the same problem.

Each is a command of its own, timed from start to end: rnnlab's with its evaluation, checkpoint, numbers and figures,
PyTorch's with nothing but the steps and their losses.
"""

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rnnlab.benchmark import race
from rnnlab.benchmark.tables import without
from rnnlab.config.errors import ConfigError
from rnnlab.files.markdown import markdown_table
from rnnlab.records.workdir import Workdir

RATE, CLIP = 1e-3, 1.0
"""The learning rate of Adam, and the largest norm of a gradient."""
LOGS = 20
"""How often losses and times are logged in a run."""
LONGEST = 120
"""Seconds after which PyTorch's loop ends: where denormals are not flushed, some take ten times as long."""
TRAINS = 1 / 3
"""A loss in the second half of a run that is above this, twice that of always answering the mean, is void."""


class Case(NamedTuple):
    """One row."""

    cell: str
    """"lstm" or "gru"."""
    length: int
    """T"""
    batch: int
    """B"""
    features: int
    """H"""
    steps: int
    """Updates."""

    def shape(self) -> str:
        return f"{self.cell}, ({self.length}, {self.batch}, {self.features}), {self.steps} steps"

    @property
    def log_every(self) -> int:
        return max(1, self.steps // LOGS)


CASES = [
    Case("lstm", 784, 16, 100, 800),
    Case("lstm", 783, 128, 128, 100),
    Case("lstm", 35, 20, 650, 400),
    Case("gru", 35, 20, 650, 400),
]


def config_of(case: Case, backend: str = "auto") -> dict[str, Any]:
    """The config of a case."""
    return {
        "batch_size": case.batch,
        "steps": case.steps,
        "log_every": case.log_every,
        "eval_every": case.steps,
        "checkpoint_every": case.steps,
        "task": {"name": "adding", "length": case.length},
        "model": {
            "cell": {"name": case.cell, "features": case.features},
            "recurrence": {"backend": backend},
        },
        "optimizer": {"name": "adam", "learning_rate": RATE, "clip_norm": CLIP},
    }


class TorchLoop:
    """nn.LSTM or nn.GRU, nn.Linear, mse_loss, clip_grad_norm_ and Adam."""

    def __init__(self, case: Case):
        import torch

        self.case, self.device = case, "cuda" if torch.cuda.is_available() else "cpu"
        self.layer: Any = getattr(torch.nn, case.cell.upper())(2, case.features).to(self.device)
        self.readout = torch.nn.Linear(case.features, 1).to(self.device)
        self.parameters = [*self.layer.parameters(), *self.readout.parameters()]
        self.optimizer = torch.optim.Adam(self.parameters, lr=RATE)

    def batch(self) -> tuple[Any, Any]:
        """x [T, B, 2]: numbers from [0, 1) and marks, one in each half; the sum [B, 1] of the marked."""
        import torch

        steps, rows = self.case.length, self.case.batch
        x = torch.zeros(steps, rows, 2, device=self.device)
        values = x[:, :, 0].uniform_()
        marked = torch.stack([torch.randint(0, steps // 2, (rows,)), torch.randint(steps // 2, steps, (rows,))])
        marked = marked.to(self.device)
        x[:, :, 1].scatter_(0, marked, 1.0)
        return x, values.gather(0, marked).sum(0)[:, None]

    def loss(self, x: Any, target: Any) -> Any:
        import torch

        return torch.nn.functional.mse_loss(self.readout(self.layer(x)[0][-1]), target)

    def update(self) -> Any:
        """One step; returns its loss."""
        import torch

        self.optimizer.zero_grad()
        loss = self.loss(*self.batch())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, CLIP)
        self.optimizer.step()
        return loss.detach()

    def logged(self, longest: float = LONGEST) -> list[dict[str, float]]:
        """Trains; as rnnlab's metrics.jsonl has it, each `log_every` steps the step, the mean loss since the last and
        the seconds. Ends early after so many seconds."""
        began, lines, total = time.monotonic(), [], 0.0
        for step in range(1, self.case.steps + 1):
            total += self.update()
            if step % self.case.log_every == 0:
                loss, total = float(total) / self.case.log_every, 0.0
                lines.append({"step": step, "loss": loss, "seconds": time.monotonic() - began})
                if len(lines) > 1 and lines[-1]["seconds"] > longest:
                    break
        return lines


def torch_process(name: str, values: Sequence[Any]) -> None:
    """The command of PyTorch's loop: prints its lines in JSON."""
    from rnnlab.benchmark import torch_contestants as t

    t.limit_threads()
    if name.endswith("flushed"):
        t.flush_denormals()
    print(json.dumps(TorchLoop(Case(*values)).logged()))


def measure(case: Case, asked: race.Asked) -> list[dict[str, Any]]:
    """One row a contestant: turn by turn its seconds from start to end and its steps a second over the second half of
    its steps; and the ratio of either (above 1: the first is faster).

    Raises:
        ConfigError: a command that fails.
    """
    names = asked.ours() + ["torch.nn", "torch.nn, flushed"] * asked.with_torch
    rows: list[dict[str, Any]] = [
        {"contestant": name, "shape": case.shape(), "seconds": [], "rate": [], "loss": []} for name in names
    ]
    for _ in range(asked.turns):
        for row in rows:
            began = time.monotonic()
            lines = run(case, row["contestant"])
            row["seconds"].append(time.monotonic() - began)
            half = lines[(len(lines) - 1) // 2 :]
            row["rate"].append((half[-1]["step"] - half[0]["step"]) / (half[-1]["seconds"] - half[0]["seconds"]))
            row["loss"].append(statistics.mean(line["loss"] for line in half))
            row["finished"] = lines[-1]["step"] == case.steps
    return summarize(rows)


def run(case: Case, name: str) -> list[dict[str, Any]]:
    """Runs a contestant's command to its end; returns what it has logged.

    Raises:
        ConfigError: it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        if name.startswith("torch"):
            words = [__name__, name, json.dumps(case)]
        else:
            config = Path(folder) / "config.py"
            content = f"def get_config():\n    return {config_of(case, race.backend_of(name))!r}\n"
            config.write_text(content, encoding="utf-8")
            words = ["rnnlab.train", f"--config={config}", f"--workdir={folder}/run"]
        command = [sys.executable, "-m", *words]
        done = subprocess.run(command, capture_output=True, check=False, encoding="utf-8")
        if done.returncode:
            messages = (done.stderr or done.stdout).strip().splitlines()
            raise ConfigError(f"{' '.join(command[1:])} failed: {messages[-1] if messages else done.returncode}")
        if name.startswith("torch"):
            return json.loads(done.stdout)
        text = Workdir(Path(folder) / "run").metrics.read_text(encoding="utf-8")
        return [line for line in map(json.loads, text.splitlines()) if line["split"] == "train"]


def summarize(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with medians and ratios; see `measure`."""
    ours = rows[0]
    for row in rows:
        worst = max(row["loss"], key=lambda loss: loss if math.isfinite(loss) else math.inf)
        if not worst <= TRAINS:
            row["error"] = f"void: its mean loss in the second half is {worst:.3g}"
            continue
        row["rate_median"] = statistics.median(row["rate"])
        pairs = zip(ours["rate"], row["rate"], strict=True)
        row["rate_ratio"] = statistics.median(mine / theirs for mine, theirs in pairs)
        if row["finished"]:
            row["seconds_median"] = statistics.median(row["seconds"])
            pairs = zip(row["seconds"], ours["seconds"], strict=True)
            row["seconds_ratio"] = statistics.median(theirs / mine for theirs, mine in pairs)
    return rows


def markdown(results: list[dict[str, Any]]) -> str:
    """A line per contestant and case."""
    lines = []
    for row in results:
        rate, whole = [without(row), ""], ["", ""]
        if "error" not in row:
            rate = [f"{row['rate_median']:.3g}", f"{row['rate_ratio']:.2f}"]
            whole = [f"over {LONGEST}", ""]
        if "seconds_median" in row:
            whole = [f"{row['seconds_median']:.1f}", f"{row['seconds_ratio']:.2f}"]
        lines.append([row["shape"], row["contestant"], *rate, *whole])
    head = ["cell, (T, B, H)", "by", "steps/s, second half", "rnnlab's over it", "start to end, s", "over rnnlab's"]
    return markdown_table(head, lines)


if __name__ == "__main__":
    torch_process(sys.argv[1], json.loads(sys.argv[2]))
