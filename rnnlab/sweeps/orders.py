"""A sweep in several processes: the first one decides, from the workdir's files, what is trained next and says it; the
others train it with it. Each group, and each run by itself, is spread over the devices of all.

What there is to decide is in `runner.py` and `worker.py`, which run in the first process alone.
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnnlab.config.errors import ConfigError
from rnnlab.parallel import messages, processes
from rnnlab.records.folders import SweepDir
from rnnlab.records.run_config import resolve_config
from rnnlab.records.workdir import with_tuples
from rnnlab.sweeps.spec.space import Setting

if TYPE_CHECKING:
    from rnnlab.sweeps.replicas.group_run import KeptPrograms

SEEN_SECONDS = 15.0
"""How long a file of the first process may need to be seen by the others."""


class Orders:
    """What is trained, in this process and, where it is the first of several, in the others.

    Args:
        workdir: of the sweep.
        data_dir: the data folder.
        stop, kept: as of `runner.run_sweep`.
    """

    def __init__(
        self,
        workdir: Path,
        data_dir: str | None,
        stop: Callable[[int], bool] | None = None,
        kept: "KeptPrograms | None" = None,
    ):
        self.workdir, self.data_dir, self.stop = workdir, data_dir, stop
        self.say: Callable[[str], None] = lambda text: None
        """Where a line for the user goes, from the first process."""
        self._kept = kept
        self._count = 0
        """Orders so far."""

    # --- in the first process ----------------------------------------------------------------------------------------

    def lead(self, main: Callable[[], str]) -> str:
        """The sweep's status, which main returns; the others end with it, or with the error that main raises."""
        try:
            status = main()
        except ConfigError as error:
            self._order("end", error=str(error))
            raise
        self._order("end", status=status)
        return status

    def opened(self) -> None:
        """sweep.json is written: all processes have to see it.

        Raises:
            ConfigError: one does not, in all of them.
        """
        if processes.processes() > 1:
            self._order("look", manifest=_digest(self.workdir))
            self._check_seen(seen=True)

    def group(
        self,
        settings: Sequence[Setting],
        name: str,
        progress: Callable[..., None],
        *,
        stop_at: int | None,
        pruned: Mapping[str, int],
    ) -> bool:
        """Trains the runs of a group as `run_group` does."""
        self._order("group", settings, name=name, stop_at=stop_at, pruned={**pruned})
        return self._train_group(settings, name, progress, stop_at, pruned)

    def run(self, setting: Setting, *, stop_at: int | None, prune: bool) -> str:
        """Trains one run; its status."""
        self._order("run", [setting], stop_at=stop_at, prune=prune)
        return self._train_run(setting, stop_at, prune)

    @contextlib.contextmanager
    def failing_alike(self) -> Iterator[None]:
        """Encloses what is trained. A ConfigError passes where all processes have one, and they go on together.

        Raises:
            LoneFailure: not all have one; the others wait for this one in a program of all devices.
        """
        try:
            yield
        except ConfigError as error:
            if messages.all_fail(f"order {self._count}"):
                raise
            raise processes.LoneFailure(str(error)) from error

    def _order(self, kind: str, settings: Sequence[Setting] = (), **words: Any) -> None:
        self._count += 1
        if processes.processes() > 1:
            messages.from_first(lambda: {"kind": kind, "settings": _as_json(settings), **words})

    # --- in all of them ----------------------------------------------------------------------------------------------

    def _train_group(
        self,
        settings: Sequence[Setting],
        name: str,
        progress: Callable[..., None],
        stop_at: int | None,
        pruned: Mapping[str, int],
    ) -> bool:
        from rnnlab.sweeps.replicas.group_run import KeptPrograms, run_group

        self._kept = self._kept or KeptPrograms()
        return run_group(
            settings,
            self.workdir,
            SweepDir(self.workdir).group(name).folder,
            self.data_dir,
            self.say,
            progress,
            stop_at=stop_at,
            pruned=pruned,
            kept=self._kept,
            stop=self.stop,
        )

    def _train_run(self, setting: Setting, stop_at: int | None, prune: bool) -> str:
        from rnnlab.training.loop import train_and_evaluate

        folder = SweepDir(self.workdir).run(setting.name)
        summary = train_and_evaluate(
            setting.config, folder, self.data_dir, stop_at=stop_at, prune=prune, stop=self.stop
        )
        return summary["status"]

    def _check_seen(self, *, seen: bool) -> None:
        if blind := processes.which(not seen):
            raise ConfigError(
                f"--workdir: {self.workdir.absolute()} has to be a folder that all processes share; process {blind[0]} "
                f"of {processes.processes()} does not see the sweep.json that process 0 wrote there"
            )

    # --- in the others -----------------------------------------------------------------------------------------------

    def follow(self) -> str:
        """Trains what the first process says, until it says how the sweep ends.

        Raises:
            ConfigError: the one that the first process has.
        """
        from rnnlab.training.interruptions import interruptions

        with interruptions(self.say):
            while True:
                order = messages.from_first(lambda: None)
                self._count += 1
                kind, settings = order.pop("kind"), _from_json(order.pop("settings"))
                if kind == "end":
                    if "error" in order:
                        raise ConfigError(order["error"])
                    return order["status"]
                if kind == "look":
                    self._check_seen(seen=_is_seen(self.workdir, order["manifest"]))
                    continue
                with contextlib.suppress(ConfigError), self.failing_alike():
                    if kind == "run":
                        self._train_run(settings[0], **order)
                    else:
                        self._train_group(settings, progress=lambda **_: None, **order)


def _as_json(settings: Sequence[Setting]) -> list[dict[str, Any]]:
    return [{"name": s.name, "overrides": s.overrides, "config": s.config, "key": s.key} for s in settings]


def _from_json(settings: list[dict[str, Any]]) -> list[Setting]:
    """The settings of `_as_json`, once they were a text."""
    there = []
    for each in settings:
        config = json.loads(json.dumps(each["config"]), object_pairs_hook=with_tuples)
        setting = Setting(each["name"], each["overrides"], resolve_config(config))
        assert setting.key == each["key"], f"the config of run {setting.name} is not what it was in process 0"
        there.append(setting)
    return there


def _digest(workdir: Path) -> str:
    return hashlib.sha256(SweepDir(workdir).manifest.read_bytes()).hexdigest()


def _is_seen(workdir: Path, digest: str) -> bool:
    """Whether this process sees the sweep.json that the first one wrote, soon."""
    ends = time.monotonic() + SEEN_SECONDS
    while time.monotonic() < ends:
        with contextlib.suppress(OSError):
            if _digest(workdir) == digest:
                return True
        time.sleep(0.2)
    return False
