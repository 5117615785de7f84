"""Where numbers of a run go: metrics.jsonl, diagnostics.jsonl, TensorBoard events, and the run's trackers."""

import errno
import functools
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnnlab.config.errors import ConfigError
from rnnlab.files import Fields, check_objects, is_number, read_json, read_json_lines, write_bytes
from rnnlab.files.output import complain
from rnnlab.records.folders import SweepDir
from rnnlab.records.trackers.sending import Sending
from rnnlab.records.trackers.tracker import numbers
from rnnlab.records.workdir import Workdir


class MetricsFile:
    """Appends to WORKDIR/metrics.jsonl, one object a line, and sends each line to the trackers.

    Args:
        workdir: an existing folder.
        step: where the run begins; later lines, written before a crash, are dropped, and so is an earlier test.
        sending: to the trackers, which get the lines that they lack first; None: there are none.
    """

    def __init__(self, workdir: Path, step: int, sending: Sending | None = None):
        self.path = Workdir(workdir).metrics
        lines = _kept(read_metrics, workdir) if step else []
        # One line of each step and split: after a full disk there may be more.
        last = {(line["step"], line["split"]): line for line in lines if line["step"] <= step}
        kept = [line for line in last.values() if line["split"] != "test"]
        _rewrite(self.path, kept)
        self.sending = sending
        if sending is not None:
            sending.start()
            for line in kept:
                sending.line(line)

    def write(self, step: int, split: str, values: Mapping[str, float], seconds: float) -> None:
        """One line: step, split, the values, and the seconds of training until then."""
        line = {"step": step, "split": split, **values, "seconds": round(seconds, 3)}
        _append(self.path, plain(line))
        if self.sending is not None:
            self.sending.line(line)

    def finish(self, status: str, summary: Mapping[str, Any] = {}) -> None:
        """The run stops, with a status; the trackers are told, and TensorBoard's table of a sweep."""
        if summary:
            write_hparams(self.path.parent, summary)
        if self.sending is not None:
            self.sending.finish(status, summary)


class MetricsWriter(MetricsFile):
    """Appends to WORKDIR/diagnostics.jsonl, too, and to TensorBoard events in WORKDIR/tensorboard."""

    def __init__(self, workdir: Path, step: int, sending: Sending | None = None):
        super().__init__(workdir, step, sending)
        self.diagnostics_path = Workdir(workdir).diagnostics
        if self.diagnostics_path.exists():  # A line belongs to the update after its step.
            observed = _kept(read_diagnostics, workdir) if step else []
            last = {line["step"]: line for line in observed if line["step"] < step}
            _rewrite(self.diagnostics_path, list(last.values()))
            for line in last.values():
                if sending is not None:
                    sending.observation(line)
        folder = _events_folder(workdir)
        self._events = import_tensorboard().SummaryWriter(folder, purge_step=step + 1 if step else 0, flush_secs=10)

    def write(self, step: int, split: str, values: Mapping[str, float], seconds: float) -> None:
        super().write(step, split, values, seconds)
        for name, value in values.items():
            self._events.add_scalar(f"{split}/{name}", value, step)

    def observe(self, step: int, observations: Mapping[str, Mapping[str, Any]], seconds: float) -> None:
        """One line of WORKDIR/diagnostics.jsonl: what every diagnostic found in the update after `step`; its scalars go
        to TensorBoard."""
        from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

        observations = _fetched(observations)
        record: dict[str, Any] = {"step": step, "seconds": round(seconds, 3)}
        scalars = []
        for diagnostic, values in observations.items():
            arrays = {name: np.asarray(value) for name, value in values.items()}
            record[diagnostic] = {name: _short(array) for name, array in arrays.items()}
            scalars += [
                Summary.Value(tag=f"{diagnostic}/{name}", simple_value=float(array))
                for name, array in arrays.items()
                if array.ndim == 0 and math.isfinite(array)
            ]
        # One event for all: each waits for a lock between threads (31 of them 0.9 ms, one 0.05).
        assert self._events.file_writer is not None
        self._events.file_writer.add_summary(Summary(value=scalars), step)
        _append(self.diagnostics_path, record)
        if self.sending is not None:
            self.sending.observation(record)

    def figures(self, step: int, paths: Sequence[Path]) -> None:
        """PNG files to TensorBoard, figures/NAME each, and to the trackers."""
        _add_figures(self._events, step, paths)
        if self.sending is not None:
            self.sending.figures(step, paths)

    def close(self) -> None:
        self._events.close()


class NoMetrics:
    """Stands for a `MetricsWriter` where another process writes."""

    def write(self, step: int, split: str, values: Mapping[str, float], seconds: float) -> None:
        """Nothing."""

    def observe(self, step: int, observations: Mapping[str, Mapping[str, Any]], seconds: float) -> None:
        """Nothing."""

    def finish(self, status: str, summary: Mapping[str, Any] = {}) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def write_figures(workdir: Path, step: int, paths: Iterable[Path]) -> None:
    """PNG files to the TensorBoard events of a run that has ended; nothing where it has none."""
    if Workdir(workdir).tensorboard.is_dir():
        with import_tensorboard().SummaryWriter(_events_folder(workdir)) as events:
            _add_figures(events, step, paths)


def write_hparams(workdir: Path, summary: Mapping[str, Any]) -> None:
    """The row of a sweep's run in TensorBoard's table HPARAMS: the values of the sweep's axes, and the best metrics;
    nothing for a run that is not one of a sweep."""
    sweep = SweepDir.of_run(workdir)
    axes = None if sweep is None else _axes_of_runs(sweep.manifest, sweep.manifest.stat().st_mtime_ns).get(workdir.name)
    if axes is None:
        return
    board, best = import_tensorboard(), {f"best/{path}": value for path, value in numbers(summary["best"]).items()}
    axes = {path: value if isinstance(value, bool | int | float | str) else str(value) for path, value in axes.items()}
    with board.SummaryWriter(_events_folder(workdir)) as events:
        for part in board.summary.hparams(axes, best):
            events.file_writer.add_summary(part)
        for name, value in best.items():
            events.add_scalar(name, value, summary["steps"])


@functools.lru_cache(maxsize=1)
def _axes_of_runs(manifest: Path, changed: int) -> dict[str, Any]:
    """The values of the axes of each run in sweep.json, which is large; changed: when it was."""
    try:
        runs = read_json(manifest, "", {"runs": list})["runs"]
        check_objects(manifest, runs, {"name": str, "axes": {}}, "", "runs")
    except ConfigError:
        return {}  # The sweep's own commands say so.
    return {run["name"]: run["axes"] for run in runs}


def import_tensorboard() -> ModuleType:
    """tensorboardX, imported only where it writes, and without torch: where that is installed, tensorboardX imports it,
    for a second or two, and does without it where it is not."""
    if "torch" in sys.modules:
        import tensorboardX
    else:
        sys.modules["torch"] = None  # pyright: ignore[reportArgumentType]  (Its import fails.)
        try:
            import tensorboardX
        finally:
            del sys.modules["torch"]
    return tensorboardX


def _events_folder(workdir: Path) -> str:
    """Absolute, since tensorboardX takes a relative one whose first folder is named gs: or s3: for a bucket."""
    return str(Workdir(workdir.absolute()).tensorboard)


def _add_figures(events: Any, step: int, paths: Iterable[Path]) -> None:
    from matplotlib.image import imread

    for path in paths:
        events.add_image(f"figures/{path.stem}", imread(path)[:, :, :3], step, dataformats="HWC")


def _fetched(tree: Any) -> Any:
    """Arrays of a device as NumPy's, in one transfer: 37 small ones take 0.9 ms, one that holds them all 0.1."""
    leaves, structure = jax.tree.flatten(tree)
    flat = np.asarray(_joined(leaves))
    pieces = np.split(flat, np.cumsum([leaf.size for leaf in leaves])[:-1])
    return structure.unflatten(
        [piece.reshape(leaf.shape).astype(leaf.dtype) for piece, leaf in zip(pieces, leaves, strict=True)]
    )


@jax.jit
def _joined(leaves: list[jax.Array]) -> jax.Array:
    return jnp.concatenate([jnp.ravel(leaf).astype(jnp.result_type(jnp.float32, *leaves)) for leaf in leaves])


def _short(array: np.ndarray) -> Any:
    """Numbers for JSON, as nested lists, to six digits."""
    if array.ndim > 1:
        return [_short(part) for part in array]
    values = array.tolist()
    if array.dtype.kind == "f":
        one = array.ndim == 0
        short = [float(f"{value:.6g}") for value in ([values] if one else values)]
        values = short if np.isfinite(array).all() else [plain(value) for value in short]
        return values[0] if one else values
    return values


def plain(value: Any) -> Any:
    """A value, or nested dicts of values, for JSON, which has no infinity and no nan: strings stand for them."""
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """The lines of WORKDIR/metrics.jsonl. A last line cut short by a crash is left out; so are others that are damaged,
    which a line on stderr says.

    Raises:
        ConfigError: it cannot be read, or none of its lines can.
    """
    path = Workdir(workdir).metrics
    lines = _read_lines(path, {"step": int, "split": str})
    whole = [line for line in lines if all(is_number(value) for name, value in line.items() if name != "split")]
    if len(whole) < len(lines):
        complain(f"warning: {path}: {len(lines) - len(whole)} lines hold other things than numbers; left out")
    return whole


def read_diagnostics(workdir: Path) -> list[dict[str, Any]]:
    """The lines of WORKDIR/diagnostics.jsonl: {"step", "seconds", "gradient_flow": {"layer 1/h": [...], ...}, ...}; see
    `read_metrics`."""
    return _read_lines(Workdir(workdir).diagnostics, {"step": int})


LINES_AGAIN = "remove it, or the lines that are damaged"
"""The remedy for a damaged metrics.jsonl or diagnostics.jsonl."""


def _read_lines(path: Path, fields: Fields) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines, others = read_json_lines(path, LINES_AGAIN, fields)
    if others:
        numbers = ", ".join(map(str, others[:5])) + (", …" if len(others) > 5 else "")
        complain(f"warning: {path}: line {numbers} cannot be read; left out")
    return lines


def _kept(read: Callable[[Path], list[dict[str, Any]]], workdir: Path) -> list[dict[str, Any]]:
    """The lines that a run goes on with: of a file that is damaged all over, none."""
    try:
        return read(workdir)
    except ConfigError as error:
        complain(f"warning: {error}; the run goes on without its lines")
        return []


def _rewrite(path: Path, lines: list[dict[str, Any]]) -> None:
    write_bytes(path, "".join(json.dumps(line) + "\n" for line in lines).encode())


def _append(path: Path, line: Mapping[str, Any]) -> None:
    """Adds a line whole or, where the disk is full, not at all."""
    content = (json.dumps(line) + "\n").encode()
    with path.open("ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            written = file.write(content)
            if written != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            file.truncate(size)
            raise
