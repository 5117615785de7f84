"""Evaluates a trained network at other lengths of its task than the one that it was trained at."""

from collections.abc import Mapping, Sequence
from typing import Any

from rnnlab.config.bounds import LARGEST_INT
from rnnlab.config.errors import ConfigError
from rnnlab.parallel.memory import OutOfMemory
from rnnlab.tasks import Split, Task
from rnnlab.training.run import Run
from rnnlab.training.setup import make_run, state_difference
from rnnlab.training.state import TrainState

FLAG = "--test_lengths"


def read_lengths(texts: Sequence[str], task: Mapping[str, Any]) -> list[int]:
    """The lengths in a list of texts, the shortest first.

    Args:
        task: the section of a resolved config.

    Raises:
        ConfigError: no length, one that is not a whole number above 0 or stands there twice, or a task without an
            option `length`.
    """
    if "length" not in task:
        options = ", ".join(name for name in task if name != "name") or "none"
        raise ConfigError(f"{FLAG}: the task {task['name']} has no option length; its options are: {options}")
    lengths = [_length(text.strip()) for text in texts]
    if not lengths:
        raise ConfigError(f"{FLAG}: no length; there is at least one, as in {FLAG}=50,100,200")
    if twice := [length for length in lengths if lengths.count(length) > 1]:
        raise ConfigError(f"{FLAG}: {twice[0]} stands there {lengths.count(twice[0])} times; every length stands once")
    return sorted(lengths)


def _length(text: str) -> int:
    length = int(text) if text.isascii() and text.isdecimal() else 0
    if not 0 < length <= LARGEST_INT:
        raise ConfigError(f"{FLAG}: {text!r} is not a whole number above 0, as in {FLAG}=50,100,200")
    return length


def evaluate_at_lengths(
    run: Run,
    state: TrainState,
    config: Mapping[str, Any],
    data_dir: str | None,
    lengths: Sequence[int],
    splits: Sequence[Split],
) -> list[dict[str, Any]]:
    """The means of every length and split, with the task's baseline there; all lengths are checked before the first.

    Args:
        run: of the trained network, at its own length.
        state: the network's.
        config: the run's, resolved.
        data_dir: the data folder.
        lengths, splits: what to evaluate at and on.

    Raises:
        ConfigError: a length that the task does not have, at which a batch does not fit into memory, or that changes
            what is trained.
    """
    runs = {length: _run_at(length, run, config, data_dir, splits) for length in lengths}
    return [
        {"length": length, "split": split, **there.evaluate(state, split), "baseline": there.task.baselines.get(split)}
        for length, there in runs.items()
        for split in splits
    ]


def _run_at(length: int, run: Run, config: Mapping[str, Any], data_dir: str | None, splits: Sequence[Split]) -> Run:
    """The run at another length, without a curriculum, whose stages it is none of."""
    task = {**config["task"], "length": length}
    try:
        there = make_run({**config, "task": task, "curriculum": None}, data_dir, run.mesh)
        for split in splits:
            there.check_evaluation(split)
    except OutOfMemory:
        raise
    except ConfigError as error:
        raise ConfigError(f"{FLAG}: {error}") from None
    if difference := state_difference(there.programs, run.programs):
        name, changed, trained = difference
        raise ConfigError(
            f"{FLAG}: task.length changes what is trained: {name} is {changed} at {length}, not {trained}"
        )
    return there


def judged_by(task: Task) -> dict[str, Any]:
    """For the figure: the metric by which the task is solved, the loss where none is named, the value that counts as
    solved, and the metrics that lie between 0 and 1."""
    metric, threshold = task.solved or ("loss", None)
    return {"metric": metric, "solved": threshold, "shares": sorted(task.shares)}
