"""From a config to objects: how many devices a run asks for."""

from typing import Any

import pytest

from rnnlab.records.run_config import resolve_config
from rnnlab.training.opening import opening_lines
from rnnlab.training.setup import WIDE_LAYER, device_count, make_host_state, make_run

NATIVE = {"recurrence": {"backend": "native"}}


def config(features: int, **model: Any) -> dict[str, Any]:
    model = {"cell": {"name": "lstm", "features": features}, **model}
    return {"task": {"name": "adding"}, "model": model, "optimizer": {"name": "sgd", "learning_rate": 0.1}, "steps": 1}


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        (config(WIDE_LAYER, **NATIVE), 1),
        (config(WIDE_LAYER - 1, **NATIVE), None),
        (config(WIDE_LAYER), None),
        (config(WIDE_LAYER, **NATIVE) | {"devices": 2}, 2),
    ],
)
def test_wide_layers_by_the_backend_native_have_one_device_with_threads(changes, count):
    assert device_count(resolve_config(changes)) == count


def test_a_run_on_one_device_with_threads_says_of_no_core_that_it_is_idle():
    resolved = resolve_config(config(WIDE_LAYER, **NATIVE) | {"batch_size": 4})
    run = make_run(resolved)
    assert run.mesh.size == 1
    host = make_host_state(resolved, run.task.solved, run.sign)
    lines = list(opening_lines(run, host, run.programs.start(0), None))
    assert not [line for line in lines if "cores" in line]
