"""Configs, workdirs and sweeps of versions that had a field under another name are read as those of today."""

import json
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict, FieldReference

from rnnlab.config.errors import ConfigError
from rnnlab.records.run_config import apply_overrides, resolve_config, set_fields
from rnnlab.records.workdir import Workdir, check_config, read_config
from rnnlab.sweeps.spec.space import expand, resolve_sweep
from tests.helpers import SMALL_RUN

MODEL: dict[str, Any] = SMALL_RUN["model"]


def of(**model: Any) -> dict[str, Any]:
    return SMALL_RUN | {"model": {**MODEL, **model}}


@pytest.mark.parametrize(("compute", "precision"), [("float32", "highest"), ("bfloat16", "bfloat16")])
def test_a_config_with_the_former_name_is_that_of_today(compute: str, precision: str, tmp_path: Path) -> None:
    today = resolve_config(of(precision=precision))
    assert resolve_config(of(compute=compute)) == today
    assert resolve_config(ConfigDict(of(compute=compute))) == today
    assert resolve_config(apply_overrides(SMALL_RUN, {"model.compute": compute})) == today
    assert resolve_config(set_fields(of(compute="float32"), {"model.precision": precision})) == today
    reference = FieldReference(compute)
    assert resolve_config(set_fields(ConfigDict(of(compute=reference)), {"steps": SMALL_RUN["steps"]})) == today
    former = {**today, "model": {k: v for k, v in today["model"].items() if k != "precision"} | {"compute": compute}}
    Workdir(tmp_path).config.write_text(json.dumps(former), encoding="utf-8")
    assert read_config(tmp_path) == today
    check_config(tmp_path, today)


@pytest.mark.parametrize(
    "config",
    [
        lambda: of(compute="float32", precision="tf32"),
        lambda: set_fields(SMALL_RUN, {"model.compute": "bfloat16", "model.precision": "bfloat16"}),
    ],
)
def test_a_field_that_is_set_under_both_names_is_one_line(config: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_config(config())
    expected = "model.compute: the former name of model.precision, which is set, too; leave model.compute out"
    assert str(caught.value) == expected


def test_an_axis_of_a_sweep_with_the_former_name_is_that_of_today() -> None:
    words = {"base": SMALL_RUN, "baseline": {"model.compute": "float32"}}
    values = ["float32", "bfloat16"]
    settings = expand(resolve_sweep(words | {"product": {"model.compute": values}}, "sweep.py"))
    assert [setting.overrides for setting in settings] == [
        {"model.precision": precision} for precision in ("highest", "bfloat16")
    ]
    assert [setting.config["model"]["precision"] for setting in settings] == ["highest", "bfloat16"]
