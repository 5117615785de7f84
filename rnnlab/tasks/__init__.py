"""Tasks: where batches come from, the loss and the metrics. TASKS is the table by which configs name them."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from rnnlab.tasks.adding import Adding
from rnnlab.tasks.base import Batch, Example, Split, Task
from rnnlab.tasks.pixels import Pixels

TASKS: dict[str, Callable[..., Task]] = {
    "adding": Adding,
    "pixels": Pixels,
}

TaskSpec = Annotated[str | Mapping[str, Any], TASKS]
"""A name in `TASKS`, or a section with that name and the task's parameters."""

__all__ = ["TASKS", "Adding", "Batch", "Example", "Pixels", "Split", "Task", "TaskSpec"]
