"""run_group: trains runs that are one compiled program as replicas of it; each leaves what it would have left alone.

The order of events is in `replica_group.py`, the programs are in `replicas.py`.
"""

import itertools
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rnnlab.config.errors import ConfigError
from rnnlab.config.overrides import differences
from rnnlab.parallel import devices, messages, processes
from rnnlab.records.folders import GroupDir, SweepDir
from rnnlab.records.run_config import traced_numbers, without_trackers
from rnnlab.records.workdir import is_done
from rnnlab.sweeps.replicas.member import Member
from rnnlab.sweeps.replicas.replica_axis import make_replica_mesh
from rnnlab.sweeps.replicas.replica_group import ReplicaGroup
from rnnlab.sweeps.replicas.replicas import ReplicaPrograms
from rnnlab.sweeps.spec.groups import structure
from rnnlab.sweeps.spec.space import Setting
from rnnlab.training.checkpoints import Checkpoints
from rnnlab.training.constants import KEEP_NUMBERS
from rnnlab.training.interruptions import disk_errors, interruptions
from rnnlab.training.programs import Programs
from rnnlab.training.setup import make_run


def run_group(
    settings: Sequence[Setting],
    workdir: Path,
    folder: Path,
    data_dir: str | None,
    say: Callable[[str], None],
    progress: Callable[..., None],
    *,
    stop_at: int | None = None,
    pruned: Mapping[str, int] = {},
    kept: "KeptPrograms | None" = None,
    stop: Callable[[int], bool] | None = None,
) -> bool:
    """Trains those of the settings that have not ended, from the group's last checkpoint or from the beginning.

    Every run leaves in workdir/runs/NAME what `loop.train_and_evaluate` would, but for figures and TensorBoard curves;
    its checkpoints (the best and the last) are written as it ends.

    Args:
        settings: of one structure: their configs differ in the seed and in numbers of the model, the optimizer, the
            averaging and the penalties, and have no curriculum, flight recorder or diagnostics.
        workdir: of the sweep.
        folder: where the group keeps its own checkpoints meanwhile.
        data_dir: the data folder.
        say: where a line for the user goes.
        progress: called as progress(step=, steps=, running=, ended=) after every dispatch; the last two count runs.
        stop_at: the step at which those that still run are saved and left; a later call goes on from there. None: none.
        pruned: {name: step} of runs that end at a step, or where they are past it, with the status "pruned" and all
            that a run leaves which stops early.
        kept: where the programs are looked for and left.
        stop: asked with the step after every dispatch; where it says True all are interrupted, and leave what they
            would if they ended there.

    Returns:
        Whether all have ended or come to `stop_at`; False after a SIGINT, a SIGTERM or a stop, when the same call
        resumes.

    Raises:
        ConfigError: settings of more than one structure, a mistake in a config, the data or a workdir, or a disk that
            cannot be written.
    """
    numbers = _numbers(settings)
    devices.tune_host(devices.cores())
    programs = (kept or KeptPrograms()).of(settings, data_dir)
    run = programs.run

    def begun(chosen: Sequence[Setting]) -> list[Member]:
        return [Member(s, numbers[s.name], SweepDir(workdir).run(s.name), run) for s in chosen]

    def waiting() -> list[Setting]:
        over = messages.from_first(lambda: [s.name for s in settings if is_done(SweepDir(workdir).run(s.name))])
        return [s for s in settings if s.name not in stopped and s.name not in over]

    room, stopped = None, set()
    # One folder; of a group that is split for memory and stops half way, one a part.
    named = f"{GroupDir(folder).checkpoints().name}*"
    parts = messages.from_first(lambda: sorted(path.name for path in folder.glob(named)))
    fresh = (part.name for part in map(GroupDir(folder).checkpoints, itertools.count()) if not part.exists())
    with disk_errors(workdir), interruptions(say) as interrupted:
        while left := waiting():
            part = folder / (parts.pop(0) if parts else messages.from_first(lambda: next(fresh)))
            with Checkpoints(part, say) as checkpoints:
                group = ReplicaGroup(programs, checkpoints, say, progress, len(settings) - len(left) - len(stopped))
                restored = checkpoints.restore_latest(
                    lambda host: {"state": programs.like(len(host["slots"])), "best": programs.like(len(host["slots"]))}
                )
                chosen = [] if restored is None else [s for s in left if s.name in restored.host["slots"]]
                if chosen and restored is not None:
                    group.resume(begun(chosen), restored)
                elif restored is None and not parts:
                    with group.clock.running():  # It compiles, as the first step of a run alone does.
                        room = room or _room(programs, len(left), say)
                    group.begin(begun(left[:room]))
                if not group.train(interrupted, stop_at, pruned, stop):
                    return False
            stopped.update(group.names)
            processes.barrier("end of a group")
            if not group.names and processes.is_first():
                shutil.rmtree(part)
    return True


class KeptPrograms:
    """The compiled programs of the last group: they also serve its next rung, and runs that differ in numbers."""

    def __init__(self) -> None:
        self._last: tuple[Any, ReplicaPrograms] | None = None

    def of(self, settings: Sequence[Setting], data_dir: str | None) -> ReplicaPrograms:
        """The programs of settings of one structure.

        Raises:
            ConfigError: a mistake in their config or the data, or a number in which they differ and that does not enter
                the program as an argument.
        """
        mesh = make_replica_mesh(len(settings), settings[0].config["batch_size"])
        key = structure(settings[0].config), mesh, data_dir
        if self._last is None or self._last[0] != key:
            self._last = None  # The new ones need the memory.
            run = make_run(settings[0].config, data_dir, mesh)
            if run.feed is not None:
                raise ConfigError(
                    "task.on_device: what the host reads is read run by run; say so: task.on_device=False"
                )
            self._last = key, ReplicaPrograms(run)
        _check_arguments(self._last[1].run.programs, settings)
        return self._last[1]


def _check_arguments(programs: Programs, settings: Sequence[Setting]) -> None:
    """Raises a ConfigError for a number that the settings vary and the program holds as a constant."""
    each = list(_numbers(settings).values())
    farthest = {
        name: max((numbers[name] for numbers in each), key=lambda value: abs(value - number))
        for name, number in programs.numbers.items()
    }
    if constants := programs.constants(farthest):
        raise ConfigError(
            f"{', '.join(constants)}: the compiled program holds the number of one run as a constant, so that all runs "
            f"would train with it; {KEEP_NUMBERS}, not in a function's closure, a list or a tuple"
        )


def _numbers(settings: Sequence[Setting]) -> dict[str, dict[str, float]]:
    """The numbers of each setting, by its name.

    Raises:
        ConfigError: two settings differ in anything else than these and the seed.
    """
    numbers, first = {}, None
    for setting in settings:
        sections, numbers[setting.name] = traced_numbers(setting.config)
        structure = {**without_trackers(setting.config), **sections, "seed": None}
        first = first or structure
        if structure != first:
            listed = "; ".join(differences(first, structure))
            raise ConfigError(f"runs {settings[0].name} and {setting.name} are not one program: {listed}")
    return numbers


def _room(programs: ReplicaPrograms, replicas: int, say: Callable[[str], None]) -> int:
    """How many replicas are trained at once."""
    fitting = programs.fitting(replicas)
    parts = -(-replicas // fitting)
    size = -(-replicas // parts)
    if parts > 1:
        needed, free = (n / 2**30 for n in (programs.needed(programs.slots(replicas)), programs.available()))
        say(f"{replicas} runs need {needed:.3g} GiB, {free:.3g} are free: split into {parts} groups of at most {size}")
    return size
