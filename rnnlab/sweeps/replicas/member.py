"""Member: one run of a group, on the host, its numbers, and the checkpoints that it leaves."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rnnlab.config.errors import ConfigError
from rnnlab.files.locks import holder
from rnnlab.parallel import processes
from rnnlab.records.metrics import MetricsFile
from rnnlab.records.trackers.sending import Sending
from rnnlab.records.workdir import Workdir, open_workdir
from rnnlab.sweeps.spec.space import Setting
from rnnlab.training.checkpoints import Checkpoints
from rnnlab.training.run import Run
from rnnlab.training.setup import make_host_state
from rnnlab.training.state import TrainState


class Member:
    """One run of a group, on the host."""

    def __init__(self, setting: Setting, numbers: dict[str, float], workdir: Path, run: Run):
        self.setting, self.numbers, self.workdir = setting, numbers, workdir
        self.writer: MetricsFile | None = None
        """None before `begin`, and but in the first process."""
        self.memory = make_host_state(setting.config, run.task.solved, run.sign)
        self.best: dict[str, Any] | None = None
        """The memory at the best evaluation, for its checkpoint."""
        self.status = "running"
        if not processes.is_first():
            return
        if who := holder(Workdir(workdir).lock):
            raise ConfigError(f"{workdir} is in use: {who} writes there")
        open_workdir(workdir, setting.config, run.task.words)

    @property
    def runs(self) -> bool:
        return self.status == "running"

    def begin(self, step: int) -> None:
        """Its numbers begin, or go on, at a step."""
        if processes.is_first():
            self.writer = MetricsFile(self.workdir, step, Sending(self.setting.config, self.workdir))

    def write(self, step: int, split: str, values: Mapping[str, float], seconds: float) -> None:
        """A line of its numbers."""
        if self.writer is not None:
            self.writer.write(step, split, values, seconds)

    def leave(self, status: str, summary: Mapping[str, Any] = {}) -> None:
        """It stops here; its trackers are told, once."""
        if self.writer is not None:
            self.writer.finish(status, summary)

    def save(self, last: TrainState, best: TrainState, seconds: float, say: Callable[[str], None]) -> None:
        """Writes the run's own checkpoints: its best state and its last. All processes call it; the first writes."""
        step, stopping = int(last.step), self.memory.stopping
        score = None if stopping.best_step is None else stopping.score(stopping.best_values)
        folder = Workdir(self.workdir).checkpoints
        if processes.is_first():  # Those of an earlier stop: steps are saved in their order alone.
            shutil.rmtree(folder, ignore_errors=True)
        processes.barrier("checkpoints of a run")
        with Checkpoints(folder, say) as checkpoints:
            if stopping.best_step is not None and stopping.best_step != step:
                checkpoints.save(stopping.best_step, best, self.best or {}, score)
            final = score if stopping.best_step == step else None
            checkpoints.save(step, last, self.memory.dump(seconds), final)
