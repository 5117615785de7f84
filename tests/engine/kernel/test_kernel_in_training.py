"""The kernel backend within a network and a run: all that stands around a cell, and whole training steps lowered for
devices that are not at hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from rnnlab.config.errors import ConfigError
from rnnlab.config.reading import read_file
from rnnlab.config.references import ready_configs
from rnnlab.engine.kernel.settings import launching, lowering_for
from rnnlab.parallel.sharding import ALL_AXES
from rnnlab.sweeps.replicas.replicas import REPLICA_AXIS
from rnnlab.training.setup import make_run
from tests.engine.kernel.test_kernel_lowering import CALLS
from tests.helpers import (
    assert_close,
    float64,
    gradients_with_all_around,
    random_array,
    with_bad_padding,
)
from tests.tiers import exhaustive_tests

T, B, D, H = 4, 3, 2, 4
LENGTHS = (4, 0, 2)


@pytest.mark.slow
@pytest.mark.parametrize(("cell", "target"), [("gru", "triton"), *exhaustive_tests(("gru_reset_before", "mosaic"))])
def test_a_bidirectional_network_with_all_that_can_stand_around_a_cell_equals_fused(cell, target):
    with float64():
        lengths = jnp.array(LENGTHS)
        x = with_bad_padding(random_array(1, T, B, D), lengths)

        def gradients(**recurrence: Any) -> Any:
            return gradients_with_all_around(cell, x, lengths, H, recurrence, bidirectional=True)

        with launching(target=target, rows=2):
            actual = gradients(backend="kernel", interpret=True)
        assert_close(jax.tree.leaves(actual), jax.tree.leaves(gradients(backend="fused")), 1e-10)


def lowered_step(config: Any, platform: str) -> str:
    """The program of a config's training steps on one device of a platform."""
    device = np.asarray(jax.devices()[:1])[:, None, None]
    with lowering_for(platform):
        run = make_run(config, mesh=Mesh(device, (REPLICA_AXIS, *ALL_AXES)))
        traced = run.programs.train.trace(run.programs.shapes, run.data, jnp.int32(1), run.rows)
        return traced.lower(lowering_platforms=(platform,)).as_text()


SMALL = dict(
    steps=4,
    batch_size=8,
    eval_batch_size=4,
    task=dict(name="adding", length=6, validation_size=4, test_size=4),
    model=dict(cell=dict(name="lstm", features=16), recurrence=dict(backend="kernel")),
    optimizer=dict(name="sgd", learning_rate=0.1),
)


@pytest.mark.slow
@pytest.mark.parametrize("platform", CALLS)
def test_a_training_step_has_one_kernel_forward_and_one_back(platform):
    assert lowered_step(SMALL, platform).count(CALLS[platform]) == 2


NAMES = [name for name in ready_configs() if not name.startswith("sweeps/")]


@pytest.fixture
def no_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(url: str, *_: Any, **__: Any) -> None:
        raise OSError("no downloads in tests")

    monkeypatch.setattr("rnnlab.datasets.locations.pooch.retrieve", refused)


@pytest.mark.exhaustive
@pytest.mark.usefixtures("no_downloads")
@pytest.mark.parametrize("name", NAMES)
def test_the_training_step_of_every_ready_config_lowers(name):
    config = read_file(f"rnnlab:{name}")
    config["model"] = {**config["model"], "recurrence": {"backend": "kernel"}}
    try:
        texts = {platform: lowered_step(config, platform) for platform in CALLS}
    except ConfigError as error:
        if not any(word in str(error) for word in ("could not be downloaded", "looked at")):
            raise
        pytest.skip(f"needs data: {error}")
    for platform, text in texts.items():
        assert text.count(CALLS[platform]) >= 2
