"""What the tests of sweeps share: the command, its table, a stand-in put in place of training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from rnnlab import sweep
from rnnlab.sweeps import runner
from rnnlab.sweeps.replicas import group_run
from rnnlab.sweeps.report.table import make_rows
from rnnlab.sweeps.spec.manifest import read_sweep
from rnnlab.training import loop

RATE, CELL = "optimizer.learning_rate", "model.cell"

StandIn = TypeVar("StandIn")


def put_in_place(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Of `loop.train_and_evaluate`, its call, and of `group_run.run_group`, its method `group`."""
    monkeypatch.setattr(loop, "train_and_evaluate", stand_in)
    monkeypatch.setattr(group_run, "run_group", stand_in.group)  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setattr(runner, "_use_all_cores", lambda: None)
    return stand_in


def run_file(folder: Path, fields: Mapping[str, Any], words: Sequence[str] = (), into: str = "w") -> int:
    """Runs a sweep of these fields in folder / into; words are further flags. Returns the exit status."""
    (folder / "mine.py").write_text(f"def get_config():\n    return {dict(fields)!r}\n")
    return sweep.main([f"--config={folder / 'mine.py'}", f"--workdir={folder / into}", *words])


def rows(workdir: Path) -> list[dict[str, Any]]:
    """What the sweep's table holds."""
    return make_rows(workdir, read_sweep(workdir))
