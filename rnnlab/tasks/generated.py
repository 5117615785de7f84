"""The common part of tasks whose examples are drawn, and not read from files."""

from rnnlab.config.bounds import NonNegativeInt, PositiveInt
from rnnlab.tasks.base import Split, Task


class GeneratedTask(Task):
    """A task with as many examples as its options say. A subclass adds its own options, `example` and `score`."""

    train_size: PositiveInt | None = None
    """Training examples; None: fresh ones without end."""
    validation_size: PositiveInt = 2000
    """Validation examples."""
    test_size: PositiveInt = 10_000
    """Test examples."""
    data_seed: NonNegativeInt = 0
    """Seed of the fixed examples, so that every run is tested on the same ones."""

    def size(self, split: Split) -> int | None:
        return {"train": self.train_size, "validation": self.validation_size, "test": self.test_size}[split]
