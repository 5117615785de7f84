"""The checkpoint of a run that a user names, and what evaluation needs of one in a single file, to be handed on."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rnnlab.config.errors import ConfigError
from rnnlab.files import interpreting, read_arrays, read_tensors, write_arrays, write_tensors
from rnnlab.parallel.sharding import UNSPLIT, SplitLeaves
from rnnlab.records.workdir import Workdir, check_words
from rnnlab.training.checkpoints import Restored, SavedCheckpoints
from rnnlab.training.leaves import flat_names
from rnnlab.training.run import Run
from rnnlab.training.state import TrainState
from rnnlab.typing import PyTree


def restore_run(run: Run, workdir: Path, which: str) -> Restored:
    """`restore_chosen` for the run of a workdir, which enters the stage of its curriculum that the checkpoint is of.

    Raises:
        ConfigError: as `restore_chosen`, or the workdir's words are others.
    """
    check_words(workdir, run.task.words)
    programs = run.programs
    like = programs.start(run.seed) if is_exported(workdir) else programs.like  # An export has no optimiser's state.
    restored = restore_chosen(workdir, which, like, programs.structure.word_leaves)
    enter_stage(run, restored)
    return restored


def enter_stage(run: Run, restored: Restored) -> None:
    """The run goes to the stage of its curriculum that a checkpoint is of."""
    if len(run.stages) > 1:
        run.enter(restored.host["curriculum"]["stage"])


def restore_chosen(workdir: Path, which: str, like: PyTree, words: SplitLeaves = UNSPLIT) -> Restored:
    """The checkpoint of a run that a user names: "best" (the last where none has a score), "last", or a step; that of
    `export_parameters` where it is all that a workdir has.

    Raises:
        ConfigError: there is none, or it cannot be read.
    """
    if is_exported(workdir):
        return _import_parameters(_exported_file(workdir), which, like)
    if not Workdir(workdir).checkpoints.is_dir():
        raise ConfigError(f"{workdir} has no checkpoint yet")
    saved = SavedCheckpoints(Workdir(workdir).checkpoints)
    for attempt in range(_ATTEMPTS):
        step = _chosen_step(saved, workdir, which)
        try:
            return saved.restore(step, like, words)
        except ConfigError:
            # A run in progress removes old checkpoints, and makes new ones.
            if which.isdigit() or step in saved.steps() or attempt + 1 == _ATTEMPTS:
                raise
    raise AssertionError


_ATTEMPTS = 5


def _chosen_step(saved: SavedCheckpoints, workdir: Path, which: str) -> int:
    steps = saved.steps()
    if not steps:
        raise ConfigError(f"{workdir} has no checkpoint yet")
    if which == "best":
        best = saved.best_step()
        return steps[-1] if best is None else best
    if which == "last":
        return steps[-1]
    if which.isdigit():
        return int(which)
    raise ConfigError(f"--checkpoint: {which!r} is neither best nor last nor a step")


def is_exported(workdir: Path) -> bool:
    """Whether a workdir has no more of a run than `export_parameters` leaves, as those in docs/results/checkpoints."""
    return _exported_file(workdir).exists() and not Workdir(workdir).checkpoints.is_dir()


def _exported_file(workdir: Path) -> Path:
    files = Workdir(workdir)
    return files.tensors if files.tensors.exists() else files.parameters


def export_parameters(restored: Restored, path: Path) -> None:
    """Writes what evaluation needs of a checkpoint to one file, as float32 a few bytes more than they are: the
    parameters that it uses under their paths ("params/layers/0/cells/0/bias"), the buffers, the step, and as JSON what
    the host remembered.

    path: of a NumPy archive, or, by its name, of a safetensors file, which has step and host in its header.
    """
    state: TrainState = restored.state
    arrays = {name: np.asarray(leaf) for name, leaf in flat_names(_exported(state)).items()}
    beside = {"step": restored.step, "host": json.dumps(restored.host)}
    if path.suffix == _TENSORS:
        write_tensors(path, arrays, {"format": "rnnlab"} | {name: str(value) for name, value in beside.items()})
    else:
        write_arrays(path, {**beside, **arrays})


_TENSORS = ".safetensors"


def _exported(state: TrainState) -> dict[str, PyTree]:
    return {"params": state.evaluated, "buffers": state.buffers}


def _import_parameters(path: Path, which: str, like: TrainState) -> Restored:
    """`like` with what `export_parameters` wrote; its optimiser is as it was, so it can be evaluated, not resumed."""
    remedy = "restore it: nothing else has these parameters"
    beside: dict[str, Any]
    if path.suffix == _TENSORS:
        arrays, beside = read_tensors(path, remedy)
    else:
        arrays = read_arrays(path, remedy, ["step", "host"])
        beside = {name: arrays.pop(name) for name in ("step", "host")}
    with interpreting(path, remedy):
        step, host = int(beside["step"]), dict(json.loads(str(beside["host"])))
    if which not in ("best", "last", str(step)):
        raise ConfigError(f"--checkpoint: {path} holds that of step {step} alone, not {which}")
    tree = _exported(like)
    wanted = flat_names(tree)
    others = sorted({*wanted} ^ {*arrays}) or [n for n, leaf in wanted.items() if arrays[n].shape != leaf.shape]
    if others:
        raise ConfigError(f"{path} is of another network: {', '.join(others)}")
    leaves = [jax.device_put(arrays[name].astype(leaf.dtype), leaf.sharding) for name, leaf in wanted.items()]
    tree = jax.tree.unflatten(jax.tree.structure(tree), leaves)
    average = None if like.average is None else tree["params"]
    return Restored(step, dataclasses.replace(like, **tree, average=average), host)
