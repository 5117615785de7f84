"""docs/tasks.md is true: it names the whole interface, and every example of it trains."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rnnlab.config import outside
from rnnlab.config.errors import ConfigError
from rnnlab.config.reading import load_file
from rnnlab.records.metrics import read_metrics
from rnnlab.records.run_config import apply_overrides, resolve_config
from rnnlab.tasks import GeneratedTask, StreamTask, Task, make_task
from rnnlab.training.loop import train_and_evaluate
from rnnlab.training.setup import make_run
from tests.tiers import exhaustive_tests

PAGE = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text()
EXAMPLES = dict(re.findall(r'```python title="study/(\w+\.py)"\n(.*?)```', PAGE, re.S))
SMALL = {"steps": "4", "eval_every": "4", "batch_size": "4", "model.cell.features": "3", "eval_batch_size": "4"}


@pytest.mark.parametrize("cls", [Task, StreamTask, GeneratedTask])
def test_the_page_names_all_of_the_interface(cls: type) -> None:
    names = {name for name in (*vars(cls), *vars(cls).get("__annotations__", {})) if not name.startswith("_")}
    assert {name for name in names - {"Options"} if not re.search(rf"`{name}(\(.*?\))?`", PAGE)} == set()


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the examples, and data for them in `data` beside it."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for folder in ("study", "data/series"):
        (tmp_path / folder).mkdir(parents=True)
    for name, text in EXAMPLES.items():
        (tmp_path / "study" / name).write_text(text)
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (20, 5, 4), np.uint8), rng.integers(0, 10, 20)
    np.savez(tmp_path / "data" / "pictures.npz", images=images, labels=labels)
    for split, count in {"train": 13, "validation": 6, "test": 5}.items():
        np.save(tmp_path / "data" / "series" / f"{split}.npy", rng.standard_normal((count, 7)))
        np.save(tmp_path / "data" / "series" / f"{split}_lengths.npy", rng.integers(1, 8, count))
    yield tmp_path / "study"
    outside.look_in([])


def config(study: Path, **changes: str) -> dict[str, Any]:
    fields = SMALL | {path.replace("__", "."): text for path, text in changes.items()}
    return resolve_config(apply_overrides(load_file(str(study / "config.py")), fields))


CHANGES = {
    "recall": {"task__silence": "3"},
    "pictures": {"task": "pictures:Pictures", "augmentation__pixel_shift": "2"},
    "series": {"task": "series:Series"},
    "waves": {"task": "waves:Waves", "task__window": "50"},
}


def test_every_example_is_trained_with() -> None:
    assert {f"{name}.py" for name in CHANGES} == EXAMPLES.keys() - {"config.py"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["series", *exhaustive_tests(*(name for name in CHANGES if name != "series"))])
def test_the_examples_train(name: str, study: Path, tmp_path: Path) -> None:
    summary = train_and_evaluate(config(study, **CHANGES[name]), tmp_path / "run", str(tmp_path / "data"))
    assert summary["status"] == "finished"
    assert all(np.isfinite(line["loss"]) for line in read_metrics(tmp_path / "run"))
    if name == "recall":
        assert 0 <= summary["final"]["validation"]["recalled"] <= 1


@pytest.mark.parametrize("name", ["series", "waves"])
def test_what_the_host_reads_and_what_goes_on_is_what_the_examples_say(name: str, study: Path, tmp_path: Path) -> None:
    run = make_run(config(study, **CHANGES[name], devices="1"), str(tmp_path / "data"))
    first, second = (run.task.batch(run.data_at(step), 0, "train", 4 * step + np.arange(4)) for step in (0, 1))
    if name == "waves":
        np.testing.assert_array_equal(first.targets[-1], second.inputs[0])
        return
    for batch in (first, second):
        for row, length in enumerate(batch.lengths):
            assert batch.targets[row] == pytest.approx(float(batch.inputs[:length, row].mean()), rel=1e-5)
    lengths = run.task.batch(run.data, 0, "validation", np.arange(6)).lengths
    assert sorted(lengths) == list(lengths)


def test_a_file_without_what_a_task_needs_is_one_line(study: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "data" / "other.npz", pictures=np.zeros(3))
    section = config(study, task="pictures:Pictures", task__file="other.npz")["task"]
    with pytest.raises(ConfigError, match=r"task\.file: .*other\.npz has pictures; it needs images and labels"):
        make_task(section, str(tmp_path / "data"))
    with pytest.raises(ConfigError, match=r"task\.file 'none\.npz' not found; looked for "):
        make_task(section | {"file": "none.npz"}, str(tmp_path / "data"))
