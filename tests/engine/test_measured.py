"""The backend that `auto` takes follows a table of what was measured, and asks no device while that is empty."""

import json
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rnnlab.cells import LSTM
from rnnlab.config.errors import ConfigError
from rnnlab.engine import Cotangent, measured, resolve_backend, restarting, unroll
from rnnlab.ops.linear import Precision
from tests.helpers import make_cell, random_array


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
    use(line(), line(features=650, backend="fused"))
    widths = {10: "fused", 70: "reference", 100: "reference", 149: "reference", 300: "fused", 650: "fused"}
    assert {width: resolve_backend(lstm(width), "auto") for width in widths} == widths
    assert resolve_backend(lstm(100, "tf32"), "auto") == "fused"
    assert resolve_backend(lstm(100), "fused") == "fused"
    use(line(device="another"))
    assert resolve_backend(lstm(100), "auto") == "fused"


def test_the_table_of_the_project_is_read_and_while_it_is_empty_no_device_is_asked(monkeypatch: Any) -> None:
    for entry in json.loads(measured.TABLE.read_text(encoding="utf-8"))["entries"]:
        assert set(entry) == {"device", "cell", "precision", "features", "backend"}
    monkeypatch.setattr(measured, "table", dict)
    monkeypatch.setattr(jax, "devices", lambda: pytest.fail("asks for devices"))
    assert resolve_backend(lstm(100), "auto") == "fused"


def line(**words: Any) -> dict[str, Any]:
    """A line for an LSTM of 100 units on the device at hand."""
    kind = jax.devices()[0].device_kind
    return {"device": kind, "cell": "LSTM", "precision": "highest", "features": 100, "backend": "reference"} | words


def test_a_cell_with_something_around_it_is_measured_as_itself(use: Any) -> None:
    use(line())
    cell, _ = restarting(lstm(100), (), jnp.zeros((2, 3), bool), False)
    assert resolve_backend(cell, "auto") == "reference"


@pytest.mark.parametrize(
    ("variant", "backend", "beside"),
    [
        ("mingru", "scan", {"cotangent": Cotangent(scale=jnp.float32(0.5))}),
        ("lstm", "scan", {}),
        ("lstm", "kernel", {}),
        ("hippo_legs", "kernel", {"interpret": True}),
    ],
    ids=["scan with a cotangent", "scan of a cell that is not linear", "kernel on a CPU", "kernel that refuses a step"],
)
def test_where_the_measured_backend_cannot_run_auto_is_fused(use: Any, variant: str, backend: str, beside: Any) -> None:
    cell: Any = make_cell(variant)
    use(line(cell=type(cell).__name__, features=4, backend=backend))
    x, lengths = random_array(1, 5, 2, 3), jnp.array([5, 3])
    h, last = unroll(cell, x, lengths=lengths, **beside)
    expected, expected_last = unroll(cell, x, lengths=lengths, backend="fused", **beside)
    np.testing.assert_array_equal(h, expected)
    jax.tree.map(np.testing.assert_array_equal, last, expected_last)


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ([line(backend="quick")], "has backend 'quick' in entries[0], which is none of fused, kernel, reference, scan"),
        ([line(backend="auto")], "has backend 'auto' in entries[0], which is none of"),
        ([line(), line(precision="double")], "has precision 'double' in entries[1], which is none of highest, tf32"),
        ([line(features=0)], "has 0 features in entries[0]"),
        ([line(features="100")], "holds text as 'entries[0].features', not a whole number"),
        ([{"backend": "fused"}], "lacks 'entries[0].device'"),
        (["fused"], "holds text in entries[0], not an object"),
        ([line(), line(backend="fused")], "has two backends for the cell, device and width of entries[1]"),
    ],
)
def test_lines_of_the_table_that_mean_nothing_are_one_line(use: Any, lines: Any, problem: str) -> None:
    use(*lines)
    message = re.escape(f"{measured.TABLE} {problem}") + ".*; restore it, or copy the lines of a check's backends.json"
    with pytest.raises(ConfigError, match=message):
        resolve_backend(lstm(100), "auto")


def test_a_table_that_is_no_table_is_one_line(use: Any) -> None:
    use()
    for text, problem in {"{": "is cut short", "": "is empty", "{}": "lacks 'entries'"}.items():
        measured.TABLE.write_text(text)
        with pytest.raises(ConfigError, match=f"{re.escape(str(measured.TABLE))} {problem}; restore it"):
            resolve_backend(lstm(100), "auto")
