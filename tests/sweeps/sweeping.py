"""Shared by the tests of sweeps: the command, its table, a stand-in put in place of training."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from rnnlab import sweep
from rnnlab.parallel import devices
from rnnlab.records.workdir import is_done
from rnnlab.sweeps.replicas import group_run
from rnnlab.sweeps.report.table import make_rows
from rnnlab.sweeps.spec.manifest import read_sweep
from rnnlab.sweeps.spec.space import Setting
from rnnlab.training import loop

RATE, CELL = "optimizer.learning_rate", "model.cell"

StandIn = TypeVar("StandIn")


class GroupTrainer:
    """Stands in for `group_run.run_group` by training the runs of a group one after another, as `__call__` does."""

    def __call__(self, config: dict[str, Any], workdir: Path, **_: Any) -> dict[str, Any]:
        """Stands in for `loop.train_and_evaluate`."""
        raise NotImplementedError

    def group(
        self,
        settings: Sequence[Setting],
        workdir: Path,
        folder: Path,
        data_dir: str | None,
        say: Callable[[str], None],
        progress: Callable[..., None],
        *,
        stop_at: int | None = None,
        pruned: Mapping[str, int] = {},
        **_: Any,
    ) -> bool:
        assert folder.parent == workdir / "groups"
        for setting in settings:
            run, ends = workdir / "runs" / setting.name, pruned.get(setting.name)
            if not is_done(run):
                summary = self(setting.config, run, stop_at=ends or stop_at, prune=ends is not None)
                if summary["status"] == "interrupted":
                    return False
                progress(step=1, steps=2, running=1, ended=1)
        return True


def put_in_place(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Puts its call in the place of `loop.train_and_evaluate`, its method `group` in that of `group_run.run_group`."""
    monkeypatch.setattr(loop, "train_and_evaluate", stand_in)
    monkeypatch.setattr(group_run, "run_group", stand_in.group)  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setattr(devices, "use_all_cores", lambda: None)
    return stand_in


def run_file(folder: Path, fields: Mapping[str, Any], words: Sequence[str] = (), into: str = "w") -> int:
    """Runs a sweep of these fields in folder / into; words are further flags. Returns the exit status."""
    (folder / "mine.py").write_text(f"def get_config():\n    return {dict(fields)!r}\n")
    return sweep.main([f"--config={folder / 'mine.py'}", f"--workdir={folder / into}", *words])


def rows(workdir: Path) -> list[dict[str, Any]]:
    """The rows of the sweep's table."""
    return make_rows(workdir, read_sweep(workdir))
