"""W&B. Which account and server, and whether it is offline, say its own settings: WANDB_MODE, WANDB_ENTITY, …"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rnnlab.records.statuses import CRASHED, DIVERGED, FINISHED, INTERRUPTED
from rnnlab.records.trackers.tracker import RunIdentity, import_package, numbers

EXIT_CODES = {"diverged": DIVERGED, "interrupted": INTERRUPTED, "crashed": CRASHED}
"""Status of a run -> the exit code that W&B is told; others end with 0."""


class Wandb:
    """A run of W&B. Its files are in WORKDIR/wandb, or where WANDB_DIR says."""

    def __init__(self) -> None:
        self._wandb: Any = import_package("wandb", "wandb")

    def start(self, run: RunIdentity) -> str:
        wandb = self._wandb
        settings: dict[str, Any] = {"console": "off"}  # What a run prints it prints to a stream of its own.
        if run.in_sweep:
            settings["silent"] = True  # Else twenty lines for each run.
        self._run = wandb.init(
            project=run.project or wandb.setup().settings.project or "rnnlab",
            name=run.name,
            group=run.group,
            tags=run.tags or None,
            config=dict(run.config),
            id=run.id,
            resume="allow",
            dir=os.environ.get("WANDB_DIR") or str(run.workdir),
            reinit="create_new",  # Replicas are tracked side by side, and beside a run of the caller's.
            settings=wandb.Settings(**settings),
        )
        # W&B's own step counts lines and must not descend.
        self._run.define_metric("step")
        for split in ("train", "validation", "test", "diagnostics"):
            self._run.define_metric(f"{split}/*", step_metric="step")
        return self._run.id

    def scalars(self, step: int, split: str, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **{f"{split}/{name}": value for name, value in values.items()}})

    def figures(self, step: int, paths: Sequence[Path]) -> None:
        self._run.log({"step": step, **{f"figures/{path.stem}": self._wandb.Image(str(path)) for path in paths}})

    def finish(self, status: str, summary: Mapping[str, Any]) -> None:
        self._run.summary.update({"status": status, **numbers(summary)})
        if status == "interrupted":
            self._run.mark_preempting()
        self._run.finish(exit_code=EXIT_CODES.get(status, FINISHED))
