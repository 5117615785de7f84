"""A tracker that remembers what it is asked: `tests.records.recorder:Recorder`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from rnnlab.records.trackers import RunIdentity

NAME = "tests.records.recorder:Recorder"


class Recorder:
    """Remembers, in one list for each workdir, what all of them were asked."""

    calls: ClassVar[dict[Path, list[tuple[Any, ...]]]] = {}
    fails: ClassVar[set[str]] = set()
    """The names of methods that raise."""

    def _asked(self, method: str, *words: Any) -> None:
        if method in Recorder.fails:
            raise ConnectionError("the network\nis gone")
        Recorder.calls.setdefault(self.workdir, []).append((method, *words))

    def start(self, run: RunIdentity) -> str:
        self.workdir = run.workdir
        self._asked("start", run)
        return run.id or f"id of {run.name}"

    def scalars(self, step: int, split: str, values: Mapping[str, float]) -> None:
        self._asked("scalars", step, split, dict(values))

    def figures(self, step: int, paths: Sequence[Path]) -> None:
        self._asked("figures", step, [path.name for path in paths])

    def finish(self, status: str, summary: Mapping[str, Any]) -> None:
        self._asked("finish", status, dict(summary))

    @classmethod
    def asked(cls, workdir: Path, method: str) -> list[tuple[Any, ...]]:
        """The arguments of each call of a method."""
        return [words for name, *words in cls.calls.get(workdir, []) if name == method]  # pyright: ignore

    @classmethod
    def lines(cls, workdir: Path) -> list[dict[str, Any]]:
        """The lines that were sent, as metrics.jsonl has them."""
        return [{"step": step, "split": split, **values} for step, split, values in cls.asked(workdir, "scalars")]
