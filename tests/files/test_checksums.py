"""A checkpoint that is not what it was when it was saved is not read, whatever bit has changed."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab.config.errors import ConfigError
from rnnlab.files.checksums import altered, checksums
from rnnlab.parallel import devices
from rnnlab.training.checkpoints import Checkpoints, SavedCheckpoints
from tests.tiers import exhaustive_tests

HOST = {"stopping": {"best_step": 3, "best_values": {"loss": 0.1, "accuracy": float("nan")}}, "window": (1, 2)}


def state_of(values: Callable[[tuple[int, ...]], Any]) -> dict[str, Any]:
    """Larger than what tensorstore keeps beside its own checksums (a kilobyte), and smaller; a count; a bfloat16."""
    shapes = {"kernel": (40, 40), "bias": (40,), "step": ()}
    tree = {name: jnp.asarray(values(shape), jnp.float32) for name, shape in shapes.items()}
    tree |= {"half": jnp.asarray(values((30, 30)), jnp.bfloat16), "number": jnp.int32(3)}
    return devices.replicate(devices.make_mesh(2, 2), tree)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("checkpoints")
    state = state_of(np.random.default_rng(0).standard_normal)
    checkpoints = Checkpoints(folder)
    checkpoints.save(3, state, HOST, score=0.5)
    checkpoints.close()
    return folder, state


def test_what_was_saved_is_read_without_the_checksums(saved):
    restored = SavedCheckpoints(saved[0]).restore(3, state_of(np.zeros))
    jax.tree.map(np.testing.assert_array_equal, restored.state, saved[1])
    assert set(restored.host) == set(HOST)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["state", *exhaustive_tests("d", "_CHECKPOINT_METADATA")])
def test_every_flipped_bit_is_found_or_changes_nothing(saved, tmp_path, capfd, file):
    folder, draw, result = tmp_path / "copy", random.Random(file), 0
    shutil.copytree(saved[0], folder)
    chosen = {"d": "3/state/**/d/*", "state": "3/state/**/*", "_CHECKPOINT_METADATA": "3/_CHECKPOINT_METADATA"}[file]
    files = [path for path in sorted(folder.glob(chosen)) if path.is_file() and path.stat().st_size]
    for _ in range(10):
        path = draw.choice(files)
        content = path.read_bytes()
        position = draw.randrange(8 * len(content))
        path.write_bytes(bytes(b ^ (1 << position % 8) * (i == position // 8) for i, b in enumerate(content)))
        try:
            restored = SavedCheckpoints(folder).restore(3, state_of(np.zeros))
        except ConfigError as error:
            result += "missing or damaged; there is no other checkpoint" in str(error)
        else:
            jax.tree.map(np.testing.assert_array_equal, restored.state, saved[1])
            np.testing.assert_equal(restored.host["stopping"], HOST["stopping"])
        path.write_bytes(content)
    assert result > {"d": 3, "state": 2, "_CHECKPOINT_METADATA": 5}[file]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("content", "problem"), [("", "is empty"), ('{"score": ', "is cut short"), ("[1]", "holds a list"), ("{}", None)]
)
def test_a_damaged_score_is_named(saved, tmp_path, content, problem):
    folder = tmp_path / "copy"
    shutil.copytree(saved[0], folder)
    (folder / "3" / "metrics" / "metrics").write_text(content)
    if problem is None:
        assert SavedCheckpoints(folder).best_step() is None
        return
    for read in (lambda: SavedCheckpoints(folder).best_step(), lambda: Checkpoints(folder)):
        with pytest.raises(ConfigError, match=rf"3/metrics/metrics {problem}.*; remove {folder}/3, or name"):
            read()


def test_each_array_and_what_the_host_remembered_has_a_checksum_of_its_own():
    arrays = {name: jnp.arange(4.0) for name in ("a", "b")}
    kept = checksums(arrays, HOST)
    assert altered(kept, arrays, HOST) == []
    assert altered(kept, arrays, HOST | {"window": [1, 2]}) == [], "JSON has lists for tuples"
    assert altered(kept, arrays | {"b": -arrays["b"]}, HOST) == ["b"], "0 is not -0"
    assert altered(kept, arrays | {"b": -arrays["b"]}, HOST, ["b"]) == []
    assert altered(kept, arrays, HOST | {"window": (1, 3)}) == ["host"]
