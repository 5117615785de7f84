"""From a config to objects: how many devices a run asks for."""

from typing import Any

import pytest

from rnnlab.records.run_config import resolve_config
from rnnlab.training.setup import WIDE_LAYER, device_count

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
