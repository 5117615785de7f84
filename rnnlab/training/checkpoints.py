"""Checkpoints of a run, through Orbax: written in the background, the last two and the best kept.

The only importer of orbax. A checkpoint is a step directory in `WORKDIR/checkpoints` that appears whole or not at all.
A workdir to hand on has `parameters.npz` in its place: what evaluation needs of the best one.
"""

import contextlib
import gc
import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import tensorstore
from orbax.checkpoint import v1 as ocp

from rnnlab.config.errors import ConfigError
from rnnlab.files import check_fields, damaged, interpreting, read_json
from rnnlab.files.checksums import altered, checksums
from rnnlab.parallel import processes
from rnnlab.parallel.sharding import UNSPLIT, SplitLeaves
from rnnlab.training.leaves import flat_names, match_leaves, on_every_device
from rnnlab.training.orbax_limits import others_silent, readable_name
from rnnlab.typing import PyTree

# Orbax counts with it, for a log that nobody reads, the bytes of every save, and tensorstore 0.1.86 never frees what it
# answers: 20 of the 42 KB that a saved checkpoint of 40 arrays cost for good. The rest is tensorstore's too: Orbax
# asks for `KvStore.Spec.to_json` of every array, which keeps 0.5 KB each.
tensorstore.experimental_collect_matching_metrics = lambda *_, **__: []

_training: Any = ocp.training  # Its types are narrower than what it takes.
_policies = _training.preservation_policies


class Restored(NamedTuple):
    """The contents of a checkpoint."""

    step: int
    state: PyTree
    host: dict[str, Any]
    """The host's memory beside the state, as JSON."""


class SavedCheckpoints:
    """The checkpoints that lie in a folder, to be read: nothing is written, and what a run writes there is left alone.

    Args:
        directory: WORKDIR/checkpoints.
    """

    def __init__(self, directory: Path):
        # Orbax tells through absl's log of every save and of every file that it looks for; its errors are raised.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        self.directory = directory

    def steps(self) -> list[int]:
        """The steps of the checkpoints on disk, ascending."""
        if not self.directory.is_dir():
            return []
        return sorted(int(path.name) for path in self.directory.iterdir() if _STEP.fullmatch(path.name))

    def best_step(self) -> int | None:
        """The step of the checkpoint with the best score, None if none has one."""
        scored = [(rank, -step) for step in self.steps() if (rank := self._rank(step)) is not None]
        return -max(scored)[1] if scored else None

    def _rank(self, step: int) -> Any:
        """The `_rank` of a checkpoint; None where it has no score.

        Raises:
            ConfigError: its file is damaged.
        """
        path = self.directory / str(step) / "metrics" / "metrics"
        remedy = f"remove {self.directory / str(step)}, or name another step"
        try:
            metrics = read_json(path, remedy) if path.exists() else None
        except ConfigError:
            if not path.exists():  # It was removed meanwhile.
                return None
            raise
        if not metrics:
            return None
        check_fields(path, metrics, {"score": float}, remedy)
        with interpreting(path, remedy):
            return int(metrics.get("stage", 0)), float(metrics["score"])

    def _check_metadata(self, step: int) -> None:
        """Raises a ConfigError where Orbax's own file of a checkpoint is JSON, but not an object. One that is no JSON
        Orbax passes over; `restore` finds it."""
        path = self.directory / str(step) / "_CHECKPOINT_METADATA"
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError):
            return
        if not isinstance(content, dict):
            remedy = f"remove {self.directory / str(step)}: the run goes on from the checkpoint before it"
            raise damaged(path, f"holds {content!r:.40}, not an object", remedy)

    def restore(
        self, step: int, like: PyTree | Callable[[dict[str, Any]], PyTree], words: SplitLeaves = UNSPLIT
    ) -> Restored:
        """The checkpoint of a step, placed as the arrays of `like` are; that, or a function of what the host remembered
        that returns it. words: leaves whose rows past their number of words may be more or fewer, since another
        `model.softmax.split` fills them up otherwise.

        Raises:
            ConfigError: it is not there, cannot be read, or holds another tree.
        """
        if step not in (steps := self.steps()):
            there = ", ".join(map(str, steps)) or "none"
            raise ConfigError(f"{self.directory}: no checkpoint of step {step}; there are: {there}")
        with readable_name(self.directory.absolute()) as folder, others_silent():
            try:
                return self._restored(folder / str(step), step, like, words)
            except (ConfigError, MemoryError):
                raise
            except Exception:  # Orbax and tensorstore have dozens of types for a file that is not what it was.
                pass
            gc.collect()  # After the handler, whose frames hold Orbax's tasks.
        folder = self.directory / str(step)
        closed = [path for path in (folder, *folder.rglob("*")) if not os.access(path, os.R_OK)]
        why = f"{closed[0]}: permission denied" if closed else "a file in it is missing or damaged"
        others = ", ".join(str(each) for each in steps if each != step)
        others = f"other checkpoints are of step {others}" if others else "there is no other checkpoint"
        raise ConfigError(f"checkpoint {step} in {self.directory} cannot be read: {why}; {others}")

    def _restored(self, path: Path, step: int, like: PyTree | Callable[..., PyTree], words: SplitLeaves) -> Restored:
        metadata: Any = ocp.metadata(str(path))
        stored, host = metadata.metadata, dict(metadata.custom_metadata or {})
        if not host:
            raise ValueError("what the host remembered is lost")
        sums = host.pop(_CHECKSUMS, None)
        if sums is not None and altered(sums, {}, host):
            raise ValueError("what the host remembered is not what it was")
        like = like(host) if callable(like) else like
        wanted = flat_names(like)
        match = match_leaves(like, stored, words, f"checkpoint {step}")
        # Orbax reads all arrays or none.
        whole = on_every_device(next(iter(wanted.values())).sharding)
        unused = {
            name: jax.ShapeDtypeStruct(stored[name].shape, stored[name].dtype, sharding=whole) for name in match.unused
        }
        options = ocp.options.ArrayOptions.Loading(enable_padding_and_truncation=bool(match.resized))
        with ocp.Context(array_options=ocp.options.ArrayOptions(loading=options)):
            loaded = ocp.load(str(path), {former: wanted[name] for name, former in match.names.items()} | unused)
        if sums is not None:
            cast = [name for name, former in match.names.items() if stored[former].dtype != wanted[name].dtype]
            without = [match.names[name] for name in (*match.resized, *cast)]
            if changed := altered(sums, loaded, host, without):
                raise ValueError(f"{changed[0]} is not what it was")
        leaves = []
        for name, leaf in wanted.items():
            if name in match.names:
                # The loader's buffers may be shared with its own: the state is donated, so it must own what it holds.
                leaves.append(jnp.copy(loaded[match.names[name]]))
            else:
                leaves.append(jnp.zeros(leaf.shape, leaf.dtype, device=leaf.sharding))
        return Restored(step, jax.tree.unflatten(jax.tree.structure(like), leaves), host)


class Checkpoints(SavedCheckpoints):
    """The checkpoints of a run that writes them; one process at a time, or the processes of one run.

    Args:
        directory: WORKDIR/checkpoints; what a killed run left half written there is removed.
        say: where a line for the user goes.
    """

    def __init__(self, directory: Path, say: Callable[[str], None] = print):
        super().__init__(directory)
        self.say = say
        best = _policies.BestN(get_metric_fn=_rank, n=1, keep_checkpoints_without_metrics=False)
        directory.mkdir(parents=True, exist_ok=True)
        for step in self.steps():  # Orbax reads all scores and dates, and has no line for one that is damaged.
            self._rank(step)
            self._check_metadata(step)
        self._stack = contextlib.ExitStack()
        self._checkpointer = _training.Checkpointer(
            self._stack.enter_context(readable_name(directory.absolute())),
            preservation_policy=_policies.AnyPreservationPolicy([_policies.LatestN(2), best]),
            cleanup_tmp_directories=True,
        )
        self._pending: Any = None

    def save(
        self, step: int, state: PyTree, host: Mapping[str, Any], score: float | None = None, stage: int = 0
    ) -> None:
        """Starts writing a checkpoint; the run goes on meanwhile.

        Args:
            step: its number.
            state: a pytree of arrays; copied first, so its buffers may be donated to the next step.
            host: JSON that belongs to it.
            score: what "best" compares, larger is better; None where nothing was evaluated.
            stage: of the curriculum; any score of a later stage is better than all of an earlier one.

        Raises:
            OSError: the previous checkpoint could not be written.
        """
        self.wait()
        if step in self.steps():
            self._checkpointer.delete(step)
        flat = flat_names(jax.tree.map(jnp.copy, state))
        self._pending = self._checkpointer.save_async(
            step,
            flat,
            metrics=None if score is None else {"score": score, "stage": stage},
            custom_metadata={**host, _CHECKSUMS: checksums(flat, host)},
        )

    def wait(self) -> None:
        """Until the checkpoint under way is on disk.

        Raises:
            OSError: it could not be written.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            try:
                pending.result()
            except OSError:
                raise
            except Exception as error:  # Orbax wraps what the disk said in errors of its own and of tensorstore's.
                raise OSError(f"cannot write a checkpoint to {self.directory}: {_first_line(error)}") from error
            processes.barrier("checkpoint")  # Process 0 gives it its name: none may look before.

    def restore_latest(
        self, like: PyTree | Callable[[dict[str, Any]], PyTree], words: SplitLeaves = UNSPLIT
    ) -> Restored | None:
        """The last checkpoint that can be read; None if there is none.

        One that cannot be read (cut short by a full disk, say) is removed, and the one before it is taken. like: as of
        `restore`.

        Raises:
            ConfigError: there are checkpoints, and none can be read.
        """
        broken = []
        for step in reversed(self.steps()):
            try:
                restored = self.restore(step, like, words)
            except ConfigError as error:
                broken.append(step)
                self.say(f"{error}; falling back to the checkpoint before it")
                continue
            for unreadable in broken:
                self._checkpointer.delete(unreadable)
            return restored
        if broken:
            raise ConfigError(
                f"{self.directory}: none of the checkpoints {', '.join(map(str, sorted(broken)))} can be read; "
                "remove the folder to start again"
            )
        return None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        """Closes, but not where one of several processes fails: it would wait for the others."""
        if kind is None or processes.processes() == 1:
            self.close()

    def close(self) -> None:
        """Waits, and frees what Orbax holds; of several processes all have to call it."""
        self.wait()
        self._checkpointer.close()
        self._stack.close()


_CHECKSUMS = "checksums"
"""The place of `checksums` in what Orbax keeps for the host."""
_STEP = re.compile("[0-9]+")
"""The name of a whole checkpoint's folder; of one that is being written it has a suffix."""


def _rank(metrics: Mapping[str, Any]) -> Any:
    """A number that is larger for the better checkpoint."""
    return metrics.get("stage", 0), metrics["score"]


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
