"""The folder of a run: names its files, says who may write there, reads config.json and summary.json."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rnnlab.config.errors import CannotImport, ConfigError
from rnnlab.config.overrides import differences, to_json
from rnnlab.files import Unwritable, check_objects, damaged, interpreting, is_number, read_json, write_text
from rnnlab.files.locks import GRACE, claimed, holder
from rnnlab.files.output import complain
from rnnlab.parallel.memory import OutOfMemory
from rnnlab.records.folders import ReportDir, SweepDir
from rnnlab.records.run_config import resolve_config, without_trackers

DONE = ("finished", "stopped_early", "diverged", "pruned")
"""The statuses of a run that is over: the same command does not start it again."""
SUMMARY_AGAIN = "remove it, and the run's command writes it again"


class Workdir:
    """The files of a run's folder: what training leaves, and what the other commands add to it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.lock = folder / "run.lock"
        """Who writes to the folder."""

        self.config = folder / "config.json"
        """Every field of the run, as resolved."""
        self.vocabulary = folder / "vocabulary.json"
        """How many words a task with words has, and a hash of them: with other words the run is refused."""
        self.metrics = folder / "metrics.jsonl"
        """One object a line: `step`, `split`, `loss`, the task's metrics, `seconds`. In training also the gradient norm
        before clipping and the learning rate of that step, of each group of parameters, too."""
        self.diagnostics = folder / "diagnostics.jsonl"
        """With the field `diagnostics`: what each of them measured, one object a line."""
        self.tensorboard = folder / "tensorboard"
        """The same numbers as events for TensorBoard."""
        self.trackers = folder / "trackers.json"
        """With the field `trackers`: the run's id in each, and the last step of each split that was sent."""
        self.checkpoints = folder / "checkpoints"
        """The last two states and the best one."""
        self.recordings = folder / "recordings"
        """With the field `flight_recorder`: a folder for each spike, which `rnnlab.diagnose --replay` runs again."""
        self.summary = folder / "summary.json"
        """Written at the end: status, steps, final and best metrics (with a curriculum those of one stage, which it
        names), stability (share of steps clipped, spikes), convergence (steps and seconds until the task was solved),
        memory horizon (the gradient's half-life and reach beside the task's longest dependency), `seconds`, versions,
        device, commit."""
        self.gradient_flow = folder / "gradient_flow.json"
        """The norm of the gradient at every time step, untrained and trained."""
        self.plots = ReportDir(folder).plots
        """Figures: `learning_curve.png`, `gradient_flow.png`, those of the diagnostics and of the other commands."""

        self.parameters = folder / "parameters.npz"
        """The weights, in the place of checkpoints/, of the networks that were published."""
        self.tensors = folder / "model.safetensors"
        """After `rnnlab.export`: the weights, in the place of checkpoints/; other programs read them, too."""
        self.card = folder / "README.md"
        """After `rnnlab.export`: what the model is, for people."""
        self.evaluation = folder / "evaluation.json"
        """After `rnnlab.evaluate`: the metrics."""
        self.evaluation_by_length = folder / "evaluation_by_length.json"
        """After `rnnlab.evaluate --test_lengths`: the metrics at each length."""
        self.confusion = folder / "confusion.json"
        """After `rnnlab.evaluate`, of a task that names its classes: which are taken for which."""
        self.forecast_arrays = folder / "forecast.npz"
        """After `rnnlab.evaluate`, of the task `forecast`: the series and its forecasts."""
        self.recognition = folder / "recognition.json"
        """After `rnnlab.evaluate --decode`: every transcript."""
        self.recognition_arrays = folder / "recognition.npz"
        """The same: one utterance and the counts of confused phones, which the figures show."""
        self.diagnosis = folder / "diagnosis.json"
        """After `rnnlab.diagnose`: what it measured."""
        self.replay = folder / "replay.json"
        """After `rnnlab.diagnose --replay`: the updates before a spike with each intervention."""
        self.page = ReportDir(folder).page
        """After `rnnlab.diagnose --html`: all that is known of the run, with its figures, on one page."""
        self.learning_rates = folder / "find_learning_rate.json"
        """After `rnnlab.find_learning_rate`: the loss at each rate, and the rate that it names."""

    def figure(self, name: str) -> Path:
        """The figure of this name."""
        return self.plots / f"{name}.png"


@contextlib.contextmanager
def held(workdir: Path, lock: Path | None = None) -> Iterator[None]:
    """This process alone writes to the folder, which is made, from here to the end of the block; one that is made and
    stays empty is removed. Where the file system has no locks, one warning says so.

    Args:
        lock: the lock file, where it is not the run's: several processes may train in a sweep's folder, but only one
            at a time writes its report.

    Raises:
        ConfigError: another process writes there, or nobody can.
    """
    is_new = not workdir.exists()
    with contextlib.ExitStack() as stack:
        if is_new:
            stack.callback(_remove_if_empty, workdir)
        who = _holder_of_group(workdir) if lock is None else None
        lock = lock or Workdir(workdir).lock
        if who is None and not stack.enter_context(claimed(lock, patience=GRACE)):
            who = holder(lock) or "another process"
        if who is not None:
            raise ConfigError(f"{workdir} is in use: {who} writes there; wait for its end, or take another folder")
        yield


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def trainer_of(workdir: Path) -> str | None:
    """Who trains in a run's folder, for people; None where nobody does. Commands that read a run write nothing to it
    meanwhile."""
    return holder(Workdir(workdir).lock) or _holder_of_group(workdir)


def check_idle(workdir: Path) -> None:
    """Raises Unwritable where a run is in progress."""
    if (trainer := trainer_of(workdir)) is not None:
        raise Unwritable(f"nothing is written to {workdir}: {trainer} trains there")


def _holder_of_group(workdir: Path) -> str | None:
    """Who trains the replicas that a sweep's run is one of."""
    sweep = SweepDir.of_run(workdir)
    if sweep is None:
        return None
    try:
        groups = read_json(sweep.manifest, "", {"groups": {}})["groups"]
        check_objects(sweep.manifest, groups.values(), {"runs": list}, "", "groups")
    except ConfigError:
        return None
    names = [name for name, group in groups.items() if workdir.absolute().name in group["runs"]]
    return next(filter(None, (holder(sweep.group(name).lock) for name in names)), None)


def read_summary(workdir: Path) -> dict[str, Any] | None:
    """summary.json of a run's folder; None where there is none. One that is damaged counts as none, so that the run
    makes it again, and a line on stderr says so, once."""
    path = Workdir(workdir).summary
    if not path.exists():
        return None
    try:
        return read_json(path, SUMMARY_AGAIN, {"status": str})
    except ConfigError as error:
        if path not in _complained:
            _complained.add(path)
            complain(f"warning: {error}")
        return None


_complained: set[Path] = set()


def is_done(workdir: Path) -> bool:
    """Whether the run of a folder is over."""
    summary = read_summary(workdir)
    return summary is not None and summary["status"] in DONE


@contextlib.contextmanager
def unless_too_large(workdir: Path) -> Iterator[None]:
    """Removes what a run or a sweep has begun in its folder where it turns out that nothing of it fits into memory,
    unless a checkpoint or a summary is there: the next try has another config."""
    existed = workdir.exists()
    before = _entries(workdir)
    try:
        yield
    except OutOfMemory:
        with contextlib.suppress(OSError):
            if not any(map(_was_trained, workdir.rglob("*"))):
                for path in _entries(workdir) - before:
                    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
                if not existed:
                    workdir.rmdir()
        raise


def _was_trained(path: Path) -> bool:
    """Whether a path in a run's or a sweep's folder is left by training: a summary, a run's or a group's checkpoint."""
    return path == Workdir(path.parent).summary or (path.name.isdigit() and path.parent.name.startswith("checkpoints"))


def _entries(folder: Path) -> set[Path]:
    """The content of a folder; empty where the path is not a folder or cannot be read."""
    try:
        return set(folder.iterdir())
    except OSError:
        return set()


def open_workdir(
    workdir: Path, config: Mapping[str, Any], words: Sequence[str] | None = None, first: bool = True
) -> None:
    """Makes the folder and writes config.json and, of a task that names its words, vocabulary.json, or checks that the
    ones there say the same.

    Only `steps` may differ, a run may be made longer, how many devices share the words of a softmax, and the trackers.
    The first of several processes writes, and the others check after it.

    Raises:
        ConfigError: the folder holds a run of another config or vocabulary, a longer one that is over, or cannot be
            written.
    """
    path = Workdir(workdir).config
    if path.exists():
        check_config(workdir, config)
        check_words(workdir, words)
    elif not first:
        raise ConfigError(f"--workdir: {workdir} has to be a folder that all processes share: not each has {path.name}")
    if not first:
        return
    write_text(path, to_json(config))
    if words is not None:
        write_text(Workdir(workdir).vocabulary, json.dumps(_fingerprint(words), indent=2) + "\n")


def planned_steps(workdir: Path, config: Mapping[str, Any]) -> int:
    """How long the run in a workdir was to be when it was last trained; the config's steps where there is none."""
    if not Workdir(workdir).config.exists():
        return config["steps"]
    return read_config(workdir, config["import_from"])["steps"]


def check_config(workdir: Path, config: Mapping[str, Any]) -> None:
    """Checks that the run in a workdir is one of this resolved config, which may ask for more steps.

    Raises:
        ConfigError: it is another, or is over and longer.
    """
    old = read_config(workdir, config["import_from"])
    lines = differences(without_trackers(old), without_trackers(config))
    changed = [line for line in lines if line.split(":")[0] not in _MAY_DIFFER]
    if changed:
        raise ConfigError(
            f"{workdir} holds a run of another config ({'; '.join(changed)}); "
            "take another --workdir, or remove this one"
        )
    if config["steps"] < old["steps"] and is_done(workdir):
        raise ConfigError(
            f"steps: {config['steps']} is fewer than the {old['steps']} of the run in {workdir}, which is over; it can "
            "only be made longer"
        )


_MAY_DIFFER = ("steps", "model.softmax.split", "import_from")


def check_words(workdir: Path, words: Sequence[str] | None) -> None:
    """Checks that the words of a task are those that the run in a workdir was trained with.

    A token means nothing else: with another vocabulary of the same size a network would read and answer nonsense.

    Raises:
        ConfigError: they are others, or vocabulary.json is damaged.
    """
    path = Workdir(workdir).vocabulary
    if words is None or not path.exists():
        return
    now = _fingerprint(words)
    then = read_json(path, "restore it; it says which words the run was trained with", {"hash": str, "size": int})
    if then["hash"] != now["hash"]:
        raise ConfigError(
            f"{workdir} was trained with another vocabulary, of {then['size']} words; the data give one of "
            f"{now['size']}: its text, or the vocabulary file, has changed since"
        )


def _fingerprint(words: Sequence[str]) -> dict[str, Any]:
    """The content of vocabulary.json: the number of words, and a hash of them in their order."""
    return {"size": len(words), "hash": hashlib.sha256(json.dumps(list(words)).encode()).hexdigest()}


def read_config(workdir: Path, import_from: Sequence[str] = ()) -> dict[str, Any]:
    """The resolved config of a run. A field that is newer than the run has its default. Trackers are not looked up: a
    run is read without the modules that have them.

    import_from: folders that have the modules which the run names, before those in config.json, which may have been
    moved.

    Raises:
        ConfigError: it is missing or is not JSON, or a field or value in it exists no more.
    """
    path = Workdir(workdir).config
    if not path.exists():
        raise ConfigError(f"{workdir} is not the workdir of a run: it has no config.json")
    content = read_json(path, "restore it, or remove it and start the run's command, which writes it", {}, with_tuples)
    with interpreting(path, "restore it"):
        try:
            folders = [*import_from, *content.get("import_from", ())]
            resolved = resolve_config(content | {"import_from": folders, "trackers": ()})
            return resolved | {"trackers": content.get("trackers", ())}
        except CannotImport as error:
            raise ConfigError(f"{path}: {error}") from None
        except ConfigError as error:
            raise ConfigError(f"{path}, damaged or of a run of another version of rnnlab: {error}") from None


def with_tuples(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON has lists where a resolved config has tuples."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in pairs}


def read_gradient_flow(workdir: Path) -> dict[str, dict[str, list[Any]]]:
    """gradient_flow.json of a run that is over: ‖∂L/∂h_t‖ of every layer, "untrained" and "trained".

    Raises:
        ConfigError: it is not there, or damaged.
    """
    path, remedy = Workdir(workdir).gradient_flow, "remove it and summary.json, and the run's command makes both again"
    flow = read_json(path, remedy, {"untrained": {}, "trained": {}})
    for when, layers in flow.items():
        for layer, norms in layers.items() if isinstance(layers, dict) else [("", None)]:
            if not isinstance(norms, list) or not norms or not all(is_number(norm) for norm in norms):
                raise damaged(path, f"holds no list of numbers as '{when}.{layer}'", remedy)
    return {when: flow[when] for when in ("untrained", "trained")}  # Runs of a sweep have them the other way about.
