"""The backend that `auto` takes follows a table of what was measured, and asks no device while that is empty."""

import json
from pathlib import Path
from typing import Any

import jax
import pytest
from flax import nnx

from rnnlab.cells import LSTM
from rnnlab.engine import measured, resolve_backend
from rnnlab.ops.linear import Precision


def lstm(features: int, precision: Precision = "highest") -> LSTM:
    cell = nnx.eval_shape(lambda: LSTM(2, features, rngs=nnx.Rngs(0)))
    cell.precision = precision
    return cell


@pytest.fixture
def use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def table(*lines: dict[str, Any]) -> None:
        path = tmp_path / "measured_backends.json"
        path.write_text(json.dumps({"entries": lines}), encoding="utf-8")
        monkeypatch.setattr(measured, "TABLE", path)
        measured.table.cache_clear()

    yield table
    measured.table.cache_clear()


def test_auto_is_the_backend_that_was_measured_for_a_cell_of_about_this_width(use: Any) -> None:
    line = {"device": jax.devices()[0].device_kind, "cell": "LSTM", "precision": "highest"}
    use(line | {"features": 100, "backend": "reference"}, line | {"features": 650, "backend": "fused"})
    widths = {10: "fused", 70: "reference", 100: "reference", 149: "reference", 300: "fused", 650: "fused"}
    assert {width: resolve_backend(lstm(width), "auto") for width in widths} == widths
    assert resolve_backend(lstm(100, "tf32"), "auto") == "fused"
    assert resolve_backend(lstm(100), "fused") == "fused"
    use(line | {"features": 100, "backend": "reference", "device": "another"})
    assert resolve_backend(lstm(100), "auto") == "fused"


def test_the_table_of_the_project_is_read_and_while_it_is_empty_no_device_is_asked(monkeypatch: Any) -> None:
    for line in json.loads(measured.TABLE.read_text(encoding="utf-8"))["entries"]:
        assert set(line) == {"device", "cell", "precision", "features", "backend"}
    monkeypatch.setattr(measured, "table", dict)
    monkeypatch.setattr(jax, "devices", lambda: pytest.fail("asks for devices"))
    assert resolve_backend(lstm(100), "auto") == "fused"
