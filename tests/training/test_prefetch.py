"""Training text that the host reads block by block: the same run, bit for bit, as with the text on the device."""

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from rnnlab.config.errors import ConfigError
from rnnlab.tasks import language_model, make_task
from rnnlab.training import prefetch
from rnnlab.training.checkpoints import Checkpoints
from rnnlab.training.loop import train_and_evaluate
from rnnlab.training.prefetch import Feed
from rnnlab.training.run import Run
from rnnlab.training.setup import make_run
from rnnlab.training.state import TrainState
from tests.tiers import exhaustive_tests

TASKS: dict[str, dict[str, Any]] = {
    "language_model": dict(name="language_model", window=4),
    "sentences": dict(name="sentences", longest=5),
}
AS_FOR_A_USER = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}
BLOCK = 3
"""Steps of a block here: neither the epoch nor what is asked for at a time is a multiple of it."""


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus") / "text"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for split, lines in {"train": 40, "valid": 9, "test": 7}.items():
        sentences = [" ".join(rng.choice(list("abcdefg"), rng.integers(1, 9))) for _ in range(lines)]
        (folder / f"{split}.txt").write_text("\n".join(sentences) + "\n")
    return folder


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of `BLOCK` steps, of a text that would otherwise be one block."""
    init = Feed.__init__
    monkeypatch.setattr(Feed, "__init__", lambda self, *args: init(self, *args, BLOCK))


def config(text: Path, name: str, on_device: bool, steps: int = 20, **sections: Any) -> dict[str, Any]:
    return {
        "seed": 1,
        "steps": steps,
        "batch_size": 4,
        "eval_batch_size": 2,
        "log_every": 7,
        "eval_every": 10,
        "checkpoint_every": 10,
        "devices": 2,
        "task": TASKS[name] | {"dataset": "text", "source": str(text), "on_device": on_device},
        "model": {"cell": {"name": "gru", "features": 3}, "embedding": 4},
        "optimizer": {"name": "adam", "learning_rate": 0.05},
    } | sections


def trained(run: Run, until: int, at_once: int) -> TrainState:
    """The state after `until` updates, asked for a few at a time."""
    state = run.programs.start(run.seed)
    while int(state.step) < until:
        state = jax.block_until_ready(run.train(state, min(until, int(state.step) + at_once)))
    return state


def assert_same(one: Any, other: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["language_model", *exhaustive_tests("sentences")])
def test_a_text_that_the_host_reads_is_trained_on_as_one_on_the_device(text, name, monkeypatch):
    """Over more than an epoch, on two devices, words replaced at random, too; compiled as for a user: the two programs
    read their batches differently, and the hurried compilation of tests rounds what follows differently."""
    monkeypatch.setattr(jax, "jit", functools.partial(jax.jit, compiler_options=AS_FOR_A_USER))
    sections = {"augmentation": {"token_replacement": 0.2}}
    there, here = (make_run(config(text, name, on_device, **sections), str(text)) for on_device in (True, False))
    assert there.feed is None
    assert here.feed is not None
    steps = 4 + (here.task.size("train") or 0) // 4
    assert_same(trained(here, steps, 5), trained(there, steps, steps))


@pytest.mark.parametrize("name", TASKS)
def test_no_device_holds_a_training_text_that_the_host_reads(text, name):
    task = make_task(config(text, name, on_device=False)["task"], str(text), None, (4, 2))
    assert set(task.data) == {"validation", "test"}


def test_blocks_are_the_same_in_whatever_order_they_are_asked_for(text):
    run = make_run(config(text, "sentences", on_device=False), str(text))
    feed = run.feed
    assert feed is not None
    forwards = [jax.device_get(feed.at(step)) for step in range(12)]
    for step in (11, 2, 3, 7, 0):
        assert_same(jax.device_get(feed.at(step)), forwards[step])
    assert [feed.end(step) for step in (0, 2, 3)] == [3, 3, 6]
    assert not np.array_equal(forwards[0].examples.targets, forwards[3].examples.targets)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sentences", *exhaustive_tests("language_model")])
def test_a_run_resumed_within_a_block_ends_bit_for_bit_where_it_would_have(text, name, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train_and_evaluate(config(text, name, on_device=False), whole, str(text))
    train_and_evaluate(config(text, name, on_device=False, steps=10), parts, str(text))
    train_and_evaluate(config(text, name, on_device=False), parts, str(text))
    run = make_run(config(text, name, on_device=False), str(text))
    states = []
    for workdir in (whole, parts):
        checkpoints = Checkpoints(workdir / "checkpoints")
        found = checkpoints.restore_latest(run.programs.start(1))
        checkpoints.close()
        assert found is not None
        assert found.step == 20
        states.append(found.state)
    assert_same(*states)


def test_a_text_of_up_to_a_gibibyte_goes_to_the_device_unless_told_otherwise(text, monkeypatch):
    section = {name: value for name, value in config(text, "sentences", True)["task"].items() if name != "on_device"}
    assert make_task(section, str(text)).reader is None
    assert make_task(section | {"on_device": False}, str(text)).reader is not None
    monkeypatch.setattr(language_model, "ON_DEVICE", 10)
    assert make_task(section, str(text)).reader is not None
    assert make_task(section | {"on_device": True}, str(text)).reader is None


def test_more_tokens_than_a_device_counts_are_refused_there():
    tokens = np.broadcast_to(np.uint16(0), 1 << 31)
    with pytest.raises(ConfigError, match=r"^task.on_device: 2147483648 tokens are more than a device can count"):
        language_model._fits(tokens, True)
    assert not language_model._fits(tokens, None)


def test_a_block_holds_about_its_bytes_and_at_least_a_step(text, monkeypatch):
    monkeypatch.undo()
    run = make_run(config(text, "language_model", on_device=False), str(text))
    step = 2 * 4 * 4 * 4  # Inputs and targets of 4 rows of 4 words, 32 bits each.
    for room, steps in ((10 * step, 10), (step // 2, 1)):
        monkeypatch.setattr(prefetch, "BLOCK_BYTES", room)
        assert Feed(run.task, run.mesh, 4, 0).block_steps == steps


def test_without_grain_one_line_says_what_to_install(text, monkeypatch):
    run = make_run(config(text, "sentences", on_device=False), str(text))
    monkeypatch.setitem(__import__("sys").modules, "grain", None)
    with pytest.raises(ConfigError, match=r"^task.on_device: .* needs grain"):
        run.train(run.programs.start(0), 1)
