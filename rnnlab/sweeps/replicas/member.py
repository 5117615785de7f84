"""Member: one run of a group, on the host, and the checkpoints that it leaves."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rnnlab.config.errors import ConfigError
from rnnlab.files.locks import holder
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
        self.memory = make_host_state(setting.config, run.task.solved, run.sign)
        self.best: dict[str, Any] | None = None
        """The memory at the best evaluation, for its checkpoint."""
        self.status = "running"
        if who := holder(Workdir(workdir).lock):
            raise ConfigError(f"{workdir} is in use: {who} writes there")
        open_workdir(workdir, setting.config, run.task.words)

    @property
    def runs(self) -> bool:
        return self.status == "running"

    def save(self, last: TrainState, best: TrainState, seconds: float, say: Callable[[str], None]) -> None:
        """Writes the run's own checkpoints: its best state and its last."""
        step, stopping = int(last.step), self.memory.stopping
        score = None if stopping.best_step is None else stopping.score(stopping.best_values)
        folder = Workdir(self.workdir).checkpoints
        shutil.rmtree(folder, ignore_errors=True)  # Those of an earlier stop: steps are saved in their order alone.
        checkpoints = Checkpoints(folder, say)
        try:
            if stopping.best_step is not None and stopping.best_step != step:
                checkpoints.save(stopping.best_step, best, self.best or {}, score)
            final = score if stopping.best_step == step else None
            checkpoints.save(step, last, self.memory.dump(seconds), final)
        finally:
            checkpoints.close()
