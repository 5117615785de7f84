"""The flight recorder: what a run did in the steps before its gradient spiked, or was no number any more.

A recording is a folder WORKDIR/recordings/STEP. Its replay, and what would have held the gradient, is in
`training/replay.py`.
"""

import collections
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnnlab.config.errors import ConfigError
from rnnlab.diagnostics.diagnosed import plain_arrays
from rnnlab.diagnostics.flight import flight
from rnnlab.files import check_fields, damaged, is_number, read_json, write_arrays, write_text
from rnnlab.parallel import devices, processes
from rnnlab.records.folders import RecordingDir
from rnnlab.records.run_config import FlightRecorderOptions
from rnnlab.records.workdir import Workdir
from rnnlab.training.checkpoints import Checkpoints
from rnnlab.training.run import Run
from rnnlab.training.state import TrainState


class FlightRecorder:
    """Keeps what it takes to make the last steps of a run once more; does nothing if its section is off.

    Args:
        run: what is recorded.
        folder: of the recordings.
        options: None where it is off.

    Raises:
        ConfigError: it is on, and the run has several processes.
    """

    def __init__(self, run: Run, folder: Path, options: FlightRecorderOptions | None):
        self.run, self.folder, self.on = run, folder, options is not None
        self.steps, self.at_most = (options.steps, options.at_most) if options is not None else (0, 0)
        self._kept: collections.deque[tuple[int, TrainState]] = collections.deque()
        self._observers: dict[int, Any] = {}
        if self.on and processes.processes() > 1:
            raise ConfigError("flight_recorder: is for a run in one process; take the default, off")

    def keep(self, step: int, state: TrainState) -> None:
        """The state that a dispatch begins with."""
        if not self.on:
            return
        self._kept.append((step, jax.tree.map(jnp.copy, state)))
        while len(self._kept) > 1 and self._kept[1][0] <= step - self.steps:
            self._kept.popleft()

    def forget(self) -> None:
        """After the host has changed the state or the task: earlier states do not lead to this one any more."""
        self._kept.clear()

    def see(self, state: TrainState) -> str | None:
        """Records the steps before this state if its last step was a spike or was not finite; what there is to say."""
        if not self.on:
            return None
        spiked = int(state.spikes.total) != int(self._kept[-1][1].spikes.total)
        finite = bool(state.finite)
        if finite and not spiked:
            return None
        update = int(state.step) if finite else int(state.step) + 1
        before = [int(each.folder.name) for each in RecordingDir.all_in(self.folder)]
        if finite and any(update - self.steps < each < update for each in before):
            return None  # The same event goes on.
        folder = self._record(update, "spike" if finite else "not finite")
        what = "a spike" if finite else "its gradient is not finite"
        return f"update {update}: {what}; recorded in {folder}, rnnlab.diagnose --replay looks at it"

    def _record(self, update: int, reason: str) -> Path:
        """Makes the updates up to this one once more, one by one, and writes what is measured on the way."""
        event = update - 1
        wanted = max(event - self.steps, self._kept[0][0])
        state = jax.tree.map(jnp.copy, next(kept for step, kept in reversed(self._kept) if step <= wanted))
        state = advance(self.run, state, wanted)
        first, lines, measured = jax.tree.map(jnp.copy, state), [], {}
        if self.run.stage not in self._observers:
            self._observers[self.run.stage] = self.run.programs.observer({"flight": flight})
        for step in range(wanted, event + 1):
            measured = self._observers[self.run.stage](state, self.run.data_at(step), self.run.rows)["flight"]
            lines.append(line_of(state, measured))
            if step < event:
                state = advance(self.run, state, step + 1)
        files = RecordingDir(self.folder / f"{update:08}")
        shutil.rmtree(files.folder, ignore_errors=True)
        files.folder.mkdir(parents=True)
        checkpoints = Checkpoints(files.state)
        checkpoints.save(wanted, first, {"stage": self.run.stage})
        checkpoints.close()
        write_arrays(files.carries, jax.device_get(measured["carries"]), compressed=True)
        record = {
            "reason": reason,
            "update": update,
            "start": wanted,
            "stage": self.run.stage,
            "seed": int(first.seed),
            "device": devices.describe(self.run.mesh),
            "updates": lines,
        }
        write_text(files.record, json.dumps(record) + "\n")
        for old in RecordingDir.all_in(self.folder)[: -self.at_most]:
            shutil.rmtree(old.folder)
        return files.folder


class Recording(NamedTuple):
    """One that was read."""

    files: RecordingDir
    record: dict[str, Any]
    """recording.json: reason ("spike", "not finite"), update (its number, from 1), start (updates made before the
    recording), stage, seed, device, and `updates`, a `line_of` each."""


def read_recording(workdir: Path, update: int | None) -> Recording:
    """A run's recording of this update, the last if none is given.

    Raises:
        ConfigError: there is none.
    """
    by_update = {int(each.folder.name): each for each in RecordingDir.all_in(Workdir(workdir).recordings)}
    if not by_update:
        raise ConfigError(
            f"{workdir} has no recording: nothing spiked, or the run had no flight recorder "
            "(--config.flight_recorder.steps=10)"
        )
    if update is not None and update not in by_update:
        raise ConfigError(f"--recording: no recording of update {update}; there are: {', '.join(map(str, by_update))}")
    files = by_update[max(by_update) if update is None else update]
    path = files.record
    record = read_json(path, _LOST, _RECORD)
    for number, line in enumerate(record["updates"], record["start"] + 1):
        check_fields(path, line, _LINE, _LOST, f"updates[{number}]")
        norms = [line["grad_norm"], line["usual_norm"], line["loss"]]
        norms += [norm for what in ("gradient", "state") for each in line[what].values() for norm in [*each, 0.0]]
        if line["update"] != number or not all(map(is_number, norms)) or {*line["gradient"]} != {*line["state"]}:
            raise damaged(path, f"does not hold what was recorded of update {number}", _LOST)
    last, number = record["update"], int(files.folder.name)
    if not 0 <= record["start"] < last == record["start"] + len(record["updates"]) == number:
        raise damaged(path, f"is not of the updates up to {number}", _LOST)
    return Recording(files, record)


_LOST = "remove its folder; --recording names another"
"""The remedy for a damaged recording: the run does not make it again."""
_RECORD = {"reason": str, "update": int, "start": int, "stage": int, "seed": int, "device": str, "updates": list}
_LINE = {"update": int, "usual_norm": (float, str), "loss": (float, str), "grad_norm": (float, str)}
_LINE |= {"gradient": {}, "state": {}}


def advance(run: Run, state: TrainState, until: int) -> TrainState:
    """The state at this step, past spikes; sooner where one is not finite. The given one's arrays are used up."""
    while bool(state.finite) and int(state.step) < until:
        state = jax.block_until_ready(run.train(state, until))
    return state


def line_of(state: TrainState, measured: dict[str, Any]) -> dict[str, Any]:
    """The update that follows this state: its number, the usual norm, and what `diagnostics.flight.flight` measured,
    without the carries."""
    kept = {name: value for name, value in measured.items() if name != "carries"}
    return {"update": int(state.step) + 1, "usual_norm": float(state.spikes.usual_norm), **plain_arrays(kept)}
