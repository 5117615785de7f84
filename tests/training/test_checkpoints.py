"""Checkpoints read beside the run that writes them, and folders of any name."""

import contextlib
import gc
import itertools
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import psutil
import pytest

from rnnlab import evaluate
from rnnlab.config.errors import ConfigError
from rnnlab.training.checkpoints import Checkpoints, SavedCheckpoints
from tests.helpers import SMALL_RUN

LIKE = {"a": jnp.zeros(3)}


def save(directory: Path, scores: dict[int, float | None]) -> None:
    """A checkpoint of each of these steps, whose array holds the step."""
    checkpoints = Checkpoints(directory)
    for step, score in scores.items():
        checkpoints.save(step, {"a": jnp.full(3, float(step))}, {"of": step}, score)
    checkpoints.close()


def test_reader_sees_what_the_writer_keeps(tmp_path: Path) -> None:
    save(tmp_path, {10: 1.0, 20: 3.0, 30: 2.0, 40: None})
    saved = SavedCheckpoints(tmp_path)
    assert saved.steps() == [20, 30, 40]
    assert saved.best_step() == 20
    restored = saved.restore(20, LIKE)
    assert (restored.step, restored.host) == (20, {"of": 20})
    np.testing.assert_array_equal(restored.state["a"], [20.0, 20.0, 20.0])
    with pytest.raises(ConfigError, match="no checkpoint of step 10; there are: 20, 30, 40"):
        saved.restore(10, LIKE)


def test_reader_leaves_a_checkpoint_that_is_being_written_alone(tmp_path: Path) -> None:
    save(tmp_path, {10: 1.0})
    unfinished = tmp_path / "20.orbax-checkpoint-tmp" / "state"
    unfinished.mkdir(parents=True)
    (unfinished / "d").write_text("half")
    before = sorted(tmp_path.rglob("*"))
    saved = SavedCheckpoints(tmp_path)
    assert saved.steps() == [10]
    saved.restore(10, LIKE)
    assert sorted(tmp_path.rglob("*")) == before
    save(tmp_path, {30: None})  # The next run removes it.
    assert not unfinished.exists()


def test_a_checkpoint_without_the_sums_of_single_penalties_is_read(tmp_path: Path) -> None:
    """They are newer; nothing else may be missing."""
    save(tmp_path, {10: 1.0})
    like = LIKE | {"sums": {"penalty/l2": jnp.zeros(())}}
    restored = SavedCheckpoints(tmp_path).restore(10, like).state
    np.testing.assert_array_equal(restored["a"], [10.0, 10.0, 10.0])
    assert restored["sums"]["penalty/l2"] == 0
    with pytest.raises(ConfigError, match="is of another network: - sums/loss"):
        SavedCheckpoints(tmp_path).restore(10, LIKE | {"sums": {"loss": jnp.zeros(())}})


def test_reader_makes_no_folder(tmp_path: Path) -> None:
    saved = SavedCheckpoints(tmp_path / "none")
    assert saved.steps() == []
    assert saved.best_step() is None
    assert list(tmp_path.iterdir()) == []


ODD_NAMES = ["a[b]", "a[0-9]*", "a?b", "a\\b", "a b#c%20&", "a\nb", "ü", "a\udcff", "~"]


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
def test_folder_of_any_name_holds_checkpoints(tmp_path: Path, name: str) -> None:
    directory = tmp_path / name / "checkpoints"
    save(directory, {10: 1.0})
    save(directory, {20: 2.0})
    assert sorted(path.name for path in directory.iterdir()) == ["10", "20"]
    np.testing.assert_array_equal(SavedCheckpoints(directory).restore(20, LIKE).state["a"], [20.0, 20.0, 20.0])
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.slow
def test_evaluating_a_run_while_it_saves_disturbs_neither(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    config = SMALL_RUN | dict(steps=10**6, eval_every=10, checkpoint_every=2, log_every=50)
    (tmp_path / "mine.py").write_text(f"def get_config():\n    return {config!r}\n")
    words = [f"--config={tmp_path / 'mine.py'}", f"--workdir={tmp_path / 'run'}"]
    training = subprocess.Popen([sys.executable, "-m", "rnnlab.train", *words], stdout=subprocess.PIPE, text=True)
    try:
        while not SavedCheckpoints(tmp_path / "run" / "checkpoints").steps():
            assert training.poll() is None
            time.sleep(0.05)
        for which in ("best", "last", "best", "last"):
            assert evaluate.main([f"--workdir={tmp_path / 'run'}", f"--checkpoint={which}"]) == 0
            assert f"process {training.pid} on" in capsys.readouterr().err
            assert training.poll() is None
        assert not (tmp_path / "run" / "evaluation.json").exists()
        training.send_signal(signal.SIGTERM)
        said, _ = training.communicate(timeout=60)
    finally:
        training.kill()
    assert training.returncode == 130, said
    assert evaluate.main([f"--workdir={tmp_path / 'run'}"]) == 0
    assert (tmp_path / "run" / "evaluation.json").exists()


@pytest.mark.exhaustive
def test_saving_does_not_eat_the_memory(tmp_path: Path) -> None:
    checkpoints, state = Checkpoints(tmp_path), {f"layers/{i}": jnp.ones((4, 4)) for i in range(10)}

    def after(saves: range) -> tuple[int, int]:
        """(Bytes of the process, lists in it) when these steps have been saved."""
        for step in saves:
            checkpoints.save(step, state, {"of": step}, -float(step))
        checkpoints.wait()
        gc.collect()
        return psutil.Process().memory_info().rss, sum(type(each) is list for each in gc.get_objects())

    count = 150
    counted = [after(range(start, start + count)) for start in range(0, 4 * count, count)]
    checkpoints.close()
    (_, lists), (_, lists_later) = counted[0], counted[-1]
    assert lists_later - lists < count / 10  # 20 a save, where tensorstore's counts are asked for.
    # 17 KB, in the long run 5; 37 with these counts. The allocator takes some megabytes at a time: not in every span.
    assert min(later - before for (before, _), (later, _) in itertools.pairwise(counted)) / count < 30_000


@pytest.mark.parametrize("content", ["[]", "3", '"text"', "null"])
def test_a_checkpoint_whose_metadata_are_no_object_is_one_line(content: str, tmp_path: Path) -> None:
    with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
        checkpoints.save(1, {"x": jnp.ones(2)}, {"of": 1})
        checkpoints.wait()
    (tmp_path / "1" / "_CHECKPOINT_METADATA").write_text(content)
    with pytest.raises(ConfigError, match=r"_CHECKPOINT_METADATA holds [^\n]*, not an object; remove [^\n]*1: the run"):
        Checkpoints(tmp_path)
