"""Tasks: where batches come from, the loss and the metrics. TASKS is the table by which configs name them."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from rnnlab.config.fields import takes
from rnnlab.config.outside import Table, look_in
from rnnlab.config.schema import build, find, lookup
from rnnlab.tasks.adding import Adding
from rnnlab.tasks.augmentation import AugmentationOptions
from rnnlab.tasks.base import Batch, Block, Example, Split, StreamTask, Task, Weighted
from rnnlab.tasks.copying import Copying, Denoising, Memorization
from rnnlab.tasks.forecast import Forecast
from rnnlab.tasks.generated import GeneratedTask
from rnnlab.tasks.language_model import LanguageModel, Sentences
from rnnlab.tasks.multiplication import Multiplication
from rnnlab.tasks.pixels import Pixels
from rnnlab.tasks.random_permutation import RandomPermutation
from rnnlab.tasks.speech import Speech
from rnnlab.tasks.state_tracking import Dyck, Parity
from rnnlab.tasks.temporal_order import TemporalOrder
from rnnlab.tasks.time_series import TimeSeries
from rnnlab.tasks.xor import Xor

TASKS: Table[Callable[..., Task]] = Table(
    {
        "adding": Adding,
        "multiplication": Multiplication,
        "xor": Xor,
        "copying": Copying,
        "denoising": Denoising,
        "memorization": Memorization,
        "temporal_order": TemporalOrder,
        "random_permutation": RandomPermutation,
        "parity": Parity,
        "dyck": Dyck,
        "language_model": LanguageModel,
        "sentences": Sentences,
        "pixels": Pixels,
        "speech": Speech,
        "time_series": TimeSeries,
        "forecast": Forecast,
    },
    "a rnnlab.tasks.Task",
    lambda product: isinstance(product, Task),
)

TaskSpec = Annotated[str | Mapping[str, Any], TASKS]
"""A name in `TASKS`, or a section with that name and the task's parameters."""


def make_task(
    section: str | Mapping[str, Any],
    data_dir: str | None = None,
    augmentation: Mapping[str, Any] | None = None,
    streams: tuple[int, int] = (1, 1),
) -> Task:
    """The task of a section. One with an option or parameter `data_dir` has the data folder, one with `streams` the
    rows of a batch.

    augmentation: the section of that name; None changes no example. streams: rows of a batch in training, and in
    evaluation.

    Raises:
        ConfigError: an unknown name or field, data that is missing or corrupt, or an augmentation that the task's
            inputs do not have.
    """
    factory, _ = find(TASKS, section, "task")
    others = {"data_dir": data_dir, "streams": streams}
    task: Task = build(TASKS, section, "task", **{k: v for k, v in others.items() if takes(factory, k)})
    task.augment(augmentation or {})
    return task


def find_task(config: Mapping[str, Any]) -> Callable[..., Task]:
    """The task's class, or what makes it, of a resolved config, be it read as JSON.

    Raises:
        ConfigError: it lives outside the project, and cannot be imported any more.
    """
    look_in(config.get("import_from", ()))
    return lookup(TASKS, config["task"]["name"], "task")


__all__ = [
    "TASKS",
    "Adding",
    "AugmentationOptions",
    "Batch",
    "Block",
    "Copying",
    "Denoising",
    "Dyck",
    "Example",
    "Forecast",
    "GeneratedTask",
    "LanguageModel",
    "Memorization",
    "Multiplication",
    "Parity",
    "Pixels",
    "RandomPermutation",
    "Sentences",
    "Speech",
    "Split",
    "StreamTask",
    "Task",
    "TaskSpec",
    "TemporalOrder",
    "TimeSeries",
    "Weighted",
    "Xor",
    "find_task",
    "make_task",
]
