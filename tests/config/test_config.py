"""Configs: files and presets, overrides, checks with their messages, the round trip through JSON, differences."""

import copy
import os
import re
import runpy
import types
import typing
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from rnnlab.cells import CELLS
from rnnlab.config.errors import ConfigError
from rnnlab.config.fields import fields_of, is_traced
from rnnlab.config.help import render
from rnnlab.config.numbers import merge_numbers, split_numbers
from rnnlab.config.overrides import differences, to_json
from rnnlab.config.reading import load_file
from rnnlab.config.texts import literal
from rnnlab.nn.options import CotangentOptions, DropoutOptions, ModelOptions, NormalizationOptions
from rnnlab.ops.activations import ACTIVATIONS
from rnnlab.ops.initializers import INITIALIZERS
from rnnlab.optim.averaging import AveragingOptions
from rnnlab.optim.chain import OptimizerOptions
from rnnlab.optim.optimizers import OPTIMIZERS
from rnnlab.optim.penalties import PenaltyOptions
from rnnlab.optim.schedules import SCHEDULES
from rnnlab.optim.terms import GroupStrengths
from rnnlab.records.run_config import RunOptions, apply_overrides, resolve_config, set_fields
from rnnlab.records.workdir import open_workdir, read_config

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))
REFERENCES = [
    str(file) + suffix
    for file in CONFIGS
    for suffix in ["", *(f":{preset}" for preset in runpy.run_path(str(file)).get("PRESETS", {}))]
]

BASE: dict[str, Any] = {
    "task": {"name": "adding", "length": 10},
    "model": {"cell": {"name": "lstm", "features": 8, "forget_bias": 2.0}},
    "optimizer": {"name": "adam", "learning_rate": 1e-3, "clip_norm": 1.0, "b1": 0.5, "schedule": {"name": "cosine"}},
    "steps": 100,
}


def resolved(**overrides: str) -> dict[str, Any]:
    """BASE with overrides, `a__b="1"` for a.b=1, resolved."""
    return resolve_config(overridden(**overrides))


def overridden(**overrides: str) -> dict[str, Any]:
    """BASE with overrides, not resolved."""
    return apply_overrides(ConfigDict(BASE), {path.replace("__", "."): text for path, text in overrides.items()})


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reference", REFERENCES, ids=lambda reference: Path(reference).name)
def test_every_preset_of_every_file_resolves(reference: str) -> None:
    config = resolve_config(load_file(reference))
    assert config["steps"] >= 1
    assert f"--config.model.cell.features={config['model']['cell']['features']}" in render(config, RunOptions)


FILE = """
from ml_collections import ConfigDict
PRESETS = {"small": 4, "large": 400}
def get_config(preset="small"):
    return ConfigDict(dict(steps=PRESETS[preset]))
"""


@pytest.mark.parametrize(("suffix", "steps"), [("", 4), (":small", 4), (":large", 400)])
def test_a_preset_is_named_behind_a_colon(tmp_path: Path, suffix: str, steps: int) -> None:
    (tmp_path / "mine.py").write_text(FILE)
    assert load_file(f"{tmp_path / 'mine.py'}{suffix}").steps == steps


def test_a_file_may_have_no_presets(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def get_config():\n    return {'steps': 3}\n")
    assert load_file(str(tmp_path / "mine.py")) == ConfigDict({"steps": 3, "import_from": (str(tmp_path),)})
    with pytest.raises(ConfigError, match=r"unknown preset of .*mine\.py 'lstm'; known: none"):
        load_file(f"{tmp_path / 'mine.py'}:lstm")


@pytest.mark.parametrize(
    ("signature", "suffix", "size"),
    [
        ("size='large'", "", "large"),
        ("size='large'", ":small", "small"),
        ("size", ":small", "small"),
        ("size='large', depth=2", "", "large"),
        ("*, size='large'", "", "large"),
        ("", "", "none"),
    ],
)
def test_a_file_without_presets_decides_for_itself(tmp_path: Path, signature: str, suffix: str, size: str) -> None:
    text = f"size = 'none'\ndef get_config({signature}):\n    return {{'size': size}}\n"
    (tmp_path / "mine.py").write_text(text)
    assert load_file(f"{tmp_path / 'mine.py'}{suffix}").size == size


@pytest.mark.parametrize(("presets", "known"), [("", ""), ("PRESETS = ['b', 'a']\n", "; known: a, b")])
def test_a_file_that_needs_a_preset_says_so(tmp_path: Path, presets: str, known: str) -> None:
    (tmp_path / "mine.py").write_text(f"{presets}def get_config(size):\n    return {{}}\n")
    with pytest.raises(ConfigError, match=rf"names no preset; get_config needs one, as in .*mine\.py:NAME{known}$"):
        load_file(str(tmp_path / "mine.py"))


REFERRING = """
from ml_collections import ConfigDict, FieldReference, config_dict
def get_config():
    rate, features = FieldReference(0.1), FieldReference(8)
    config = ConfigDict(dict(steps=40, a=dict(rate=rate), b=dict(rate=rate, double=2 * rate), also=features + 1))
    config.c = ConfigDict(dict(name=config_dict.required_placeholder(str), features=features))
    return config
"""


@pytest.mark.parametrize(
    ("overrides", "a", "b", "double"),
    [
        ({}, 0.1, 0.1, 0.2),
        ({"a.rate": "3"}, 3, 3, 6),
        ({"b.rate": "3"}, 3, 3, 6),
        ({"b.double": "3"}, 0.1, 0.1, 3),
        ({"b.double": "3", "a.rate": "5"}, 5, 5, 3),
        ({"a.rate": "none", "b.double": "1"}, None, None, 1),
    ],
)
def test_a_reference_is_live_until_what_is_set_is_set(
    tmp_path: Path, overrides: dict[str, str], a: Any, b: Any, double: Any
) -> None:
    (tmp_path / "mine.py").write_text(REFERRING)
    config = load_file(str(tmp_path / "mine.py"))
    for _ in range(2):  # What is set in one copy is not set in the next.
        changed = apply_overrides(config, overrides | {"c.name": "lstm"})
        assert (changed["a"]["rate"], changed["b"]["rate"], changed["b"]["double"]) == (a, b, pytest.approx(double))
    assert changed["c"] == {"name": "lstm"}  # A new name begins the section anew.
    assert changed["also"] == 9


def test_references_that_have_no_value_are_named(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(REFERRING)
    config = load_file(str(tmp_path / "mine.py"))
    with pytest.raises(ConfigError, match=r"^c\.name: a required placeholder without a value$"):
        apply_overrides(config, {})
    with pytest.raises(ConfigError, match=r"^also: cannot be computed: TypeError: "):
        apply_overrides(config, {"c.features": "'x'"})


def test_unknown_preset_names_the_nearest_and_all(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FILE)
    with pytest.raises(ConfigError, match=r"mine\.py 'smal'; did you mean small\? known: large, small"):
        load_file(f"{tmp_path / 'mine.py'}:smal")


def test_unknown_file_names_those_beside_it(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FILE)
    with pytest.raises(ConfigError) as caught:
        load_file(f"{tmp_path / 'mime.py'}:small")
    assert f"unknown config '{tmp_path / 'mime.py'}'; did you mean {tmp_path / 'mine.py'}?" in str(caught.value)


def test_unknown_folder_names_the_projects_configs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CONFIGS[0].parents[1])
    with pytest.raises(ConfigError, match=r"known: .*configs/adding\.py"):
        load_file("nowhere/adding.py")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def get_config(:", "SyntaxError"),
        ("import nothing_of_that_name", "nothing_of_that_name"),
        ("", "get_config"),
        ("def get_config():\n    raise KeyError('a')", "KeyError: 'a'"),
    ],
)
def test_an_error_in_a_file_is_one_line_with_its_name(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "broken.py"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_file(str(file))
    assert str(caught.value).startswith(f"{file}: ")
    assert message in str(caught.value)


# --- overrides -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("1e4", 1e4),
        ("0.5", 0.5),
        ("True", True),
        ("false", False),
        ("None", None),
        ("none", None),
        ("inf", float("inf")),
        ("(1, 2)", (1, 2)),
        ("[1, 2]", [1, 2]),
        ("'3'", "3"),
        ("lstm", "lstm"),
        ("two words", "two words"),
        ("", ""),
        ("1+x", "1+x"),
    ],
)
def test_values_are_literals_or_else_strings(text: str, value: Any) -> None:
    changed = overridden(new=text)["new"]
    assert changed == value
    assert type(changed) is type(value)


def test_overrides_leave_the_config_itself_alone() -> None:
    config = ConfigDict(copy.deepcopy(BASE))
    apply_overrides(config, {"model.cell": "gru", "steps": "7", "optimizer.schedule.final": "0.1"})
    assert config.to_dict() == BASE


@pytest.mark.parametrize("override", ["model__cell", "model__cell__name"])
def test_another_cell_keeps_features_alone(override: str) -> None:
    assert overridden(**{override: "gru"})["model"] == {"cell": {"name": "gru", "features": 8}}
    assert overridden(**{override: "lstm"})["model"] == BASE["model"]


@pytest.mark.parametrize("override", ["optimizer", "optimizer__name"])
def test_another_optimizer_keeps_what_all_share(override: str) -> None:
    kept = {k: v for k, v in BASE["optimizer"].items() if k != "b1"}
    assert overridden(**{override: "sgd"})["optimizer"] == kept | {"name": "sgd"}


def test_another_schedule_starts_anew() -> None:
    config = apply_overrides(BASE | {"optimizer": {"schedule": {"name": "cosine", "final": 0.1}}}, {})
    changed = apply_overrides(config, {"optimizer.schedule": "exponential"})
    assert changed["optimizer"]["schedule"] == {"name": "exponential"}


def test_a_field_of_a_section_written_as_a_name_keeps_the_name() -> None:
    config = BASE | {"model": {"cell": {"name": "vanilla", "features": 8, "activation": "leaky_relu"}}}
    changed = apply_overrides(config, {"model.cell.activation.slope": "0.1"})
    assert changed["model"]["cell"]["activation"] == {"name": "leaky_relu", "slope": 0.1}


def test_a_field_of_a_section_that_is_absent_makes_it() -> None:
    changed = overridden(early_stopping__patience="3")
    assert changed["early_stopping"] == {"patience": 3}


def test_help_names_the_fields_of_a_section_that_is_off() -> None:
    names = re.findall(r"--config\.(\S+)=None\n      a section: ([^;]*);", render(resolve_config(BASE), RunOptions))
    assert {"penalties.l1", "averaging", "curriculum"} <= {path for path, _ in names}
    for path, fields in names:
        listed = ", ".join(sorted(f"{path}.{field}" for field in fields.split(", ")))
        with pytest.raises(ConfigError, match=f"known: {re.escape(listed)}$"):
            resolved(**{path.replace(".", "__") + "__nosuch": "1"})


def test_a_path_through_a_value_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"steps: 100 is not a section; cannot set steps\.more\.still"):
        overridden(steps__more__still="1")


ORDERS = {
    "name": ({"model.cell.name": "vanilla", "model.cell.activation": "relu", "model.cell.features": "5"}),
    "section": ({"model.cell": "vanilla", "model.cell.activation": "relu", "model.cell.features": "5"}),
    "names": {
        "model.cell.name": "vanilla",
        "model.cell.activation.name": "leaky_relu",
        "model.cell.activation.slope": "0.2",
    },
    "section and name": {
        "model.cell": "vanilla",
        "model.cell.activation.name": "leaky_relu",
        "model.cell.activation.slope": "0.2",
    },
    "sections": {"optimizer": "sgd", "optimizer.schedule": "linear", "optimizer.schedule.final": "0.5"},
}


@pytest.mark.parametrize("name", ORDERS)
def test_the_order_of_overrides_does_not_matter(name: str) -> None:
    overrides = ORDERS[name]
    changed = apply_overrides(BASE, overrides)
    assert apply_overrides(BASE, dict(reversed(overrides.items()))) == changed
    for path, text in overrides.items():
        node = resolve_config(changed)
        for part in path.split("."):
            node = node[part]
        node = node["name"] if isinstance(node, dict) else node
        assert str(node) == text, path


# --- resolving -------------------------------------------------------------------------------------------------------


def test_resolving_fills_in_every_default() -> None:
    config = resolved()
    assert config["batch_size"] == 16
    assert config["early_stopping"] == {"metric": "loss", "patience": None, "min_change": 0.0, "when_solved": False}
    off = dict.fromkeys(("noise", "time_shift", "time_mask", "token_replacement", "pixel_shift"))
    assert config["augmentation"] == off
    newton = {"jacobian": "full", "max_iterations": 100, "tolerance": None, "damping": 1.0, "trust_region": None}
    newton["warm_up"] = 3
    recurrence = {"backend": "auto", "chunk": None, "unroll_steps": 1, "store": "auto", "interpret": False}
    assert config["model"]["recurrence"] == recurrence | {"newton": newton}
    assert config["model"]["cell"]["input_init"] == {"name": "glorot_uniform", "gain": 1.0, "joint_fan": False}
    assert config["optimizer"]["schedule"] == {"name": "cosine", "final": 0.0, "steps": None}
    assert (config["optimizer"]["b1"], config["optimizer"]["b2"]) == (0.5, 0.999)


@pytest.mark.parametrize(
    ("override", "path", "expected"),
    [
        ({"steps": "1e4"}, "steps", 10_000),
        ({"task__length": "12.0"}, "task.length", 12),
        ({"optimizer__learning_rate": "1"}, "optimizer.learning_rate", 1.0),
        ({"optimizer__clip_norm": "none"}, "optimizer.clip_norm", None),
        ({"model__cell__peepholes": "true"}, "model.cell.peepholes", True),
        (
            {"optimizer__schedule": "step", "optimizer__schedule__boundaries": "[3, 1e1]"},
            "optimizer.schedule.boundaries",
            (3, 10),
        ),
    ],
    ids=str,
)
def test_values_take_their_declared_type(override: dict[str, str], path: str, expected: Any) -> None:
    node = resolved(**override)
    for part in path.split("."):
        node = node[part]
    assert node == expected
    assert type(node) is type(expected)


VARIED = dict(
    optimizer__schedule="step",
    optimizer__schedule__boundaries="(3, 5)",
    model__cell__recurrent_init__name="identity",
    model__cell__recurrent_init__scale="0.5",
    early_stopping__patience="3",
)


@pytest.mark.parametrize("overrides", [{}, VARIED], ids=["plain", "varied"])
def test_a_resolved_config_resolves_to_itself_and_survives_json(tmp_path: Path, overrides: dict[str, str]) -> None:
    config = resolved(**overrides)
    assert resolve_config(config) == config
    assert resolve_config(ConfigDict(config)) == config
    open_workdir(tmp_path / "run", config)
    read = read_config(tmp_path / "run")
    assert read == config
    assert resolve_config(read) == config
    assert to_json(resolve_config(read)) == to_json(config)
    open_workdir(tmp_path / "run", read)


def test_a_workdir_takes_more_steps_and_no_other_change(tmp_path: Path) -> None:
    open_workdir(tmp_path, resolved())
    open_workdir(tmp_path, resolved(steps="200"))
    assert read_config(tmp_path)["steps"] == 200
    with pytest.raises(ConfigError, match=r"another config \(task\.length: 10 -> 11; seed: 0 -> 1\); take another"):
        open_workdir(tmp_path, resolved(seed="1", task__length="11", steps="200"))
    assert read_config(tmp_path) == resolved(steps="200")


def test_differences_list_every_changed_field() -> None:
    old, new = resolved(), resolved(task__length="11", model__cell="gru", optimizer__clip_norm="none")
    assert differences(old, old) == []
    assert differences(old, new)[:3] == [
        "task.length: 10 -> 11",
        "model.cell.name: lstm -> gru",
        "model.cell.forget_bias: 2.0 -> (absent)",
    ]
    assert differences(old, new)[-1] == "optimizer.clip_norm: 1.0 -> None"
    assert differences({"a": {"b": 1}}, {"a": 2, "c": None}) == ["a: {'b': 1} -> 2", "c: (absent) -> None"]


def test_numbers_split_off_and_merged_again_are_the_section() -> None:
    section = resolved(**VARIED)["model"]
    structure, numbers = split_numbers(section, ModelOptions)
    assert numbers["cell.forget_bias"] == 2.0
    assert numbers["cell.recurrent_init.scale"] == 0.5
    assert all(isinstance(value, float) for value in numbers.values())
    assert merge_numbers(structure, numbers) == section
    assert merge_numbers(structure, numbers | {"cell.forget_bias": 7})["cell"]["forget_bias"] == 7


COMPILED = [ModelOptions, AveragingOptions, PenaltyOptions, GroupStrengths, OptimizerOptions, DropoutOptions]
COMPILED += [CotangentOptions, NormalizationOptions]
COMPILED += [each for table in (CELLS, INITIALIZERS, ACTIVATIONS, OPTIMIZERS, SCHEDULES) for each in table.values()]


@pytest.mark.parametrize("factory", COMPILED)
def test_every_fraction_of_what_is_compiled_enters_the_program_as_an_array(factory) -> None:
    for name, (hint, _) in fields_of(factory).items():
        union = typing.get_origin(hint) in (typing.Union, types.UnionType)
        members = typing.get_args(hint) if union else (hint,)
        assert is_traced(hint) == any(float in (each, getattr(each, "__origin__", None)) for each in members), name


# --- mistakes --------------------------------------------------------------------------------------------------------

MISTAKES = [
    ("learning_rate", "3", "unknown field 'learning_rate'; did you mean optimizer.learning_rate?"),
    ("model.features", "3", "unknown field 'model.features'; did you mean model.cell.features?"),
    ("cell", "lstm", "unknown field 'cell'; did you mean model.cell or model.normalization.cell?"),
    ("clip_norm", "3", "unknown field 'clip_norm'; did you mean optimizer.clip_norm or model.cotangent.clip_norm?"),
    ("task", "ADDING", "unknown task 'ADDING'; did you mean adding?"),
    ("stepz", "3", "unknown field 'stepz'; did you mean steps? known: augmentation, averaging, batch_size, "),
    ("task.lenght", "3", "unknown field 'task.lenght'; did you mean task.length?"),
    ("model.cell.feature", "3", "unknown field 'model.cell.feature'; did you mean model.cell.features"),
    ("model.cell.activation", "relu", "unknown field 'model.cell.activation'"),
    ("model.readout", "every", "unknown field 'model.readout'"),
    ("optimizer.epz", "0.1", "unknown field 'optimizer.epz'; did you mean optimizer.eps"),
    ("optimizer.schedule.rate", "0.1", "unknown field 'optimizer.schedule.rate'"),
    ("early_stopping.patient", "1", "did you mean early_stopping.patience"),
    ("model.recurrence.chunks", "1", "did you mean model.recurrence.chunk"),
    ("model.cell", "lstn", f"unknown model.cell 'lstn'; did you mean lstm? known: {min(CELLS)}, "),
    (
        "model.cell.recurrent_init",
        "ortogonal",
        "unknown model.cell.recurrent_init 'ortogonal'; did you mean orthogonal?",
    ),
    ("model.cell.recurrent_init.name", "ortogonal", "unknown model.cell.recurrent_init 'ortogonal'"),
    ("task", "addition", "unknown task 'addition'; did you mean adding?"),
    ("optimizer", "adamm", "unknown optimizer 'adamm'; did you mean adam or adamw?"),
    ("optimizer.schedule", "cosin", "unknown optimizer.schedule 'cosin'; did you mean cosine?"),
    ("model.cell", "3", f"model.cell: 3 is an int; expected one of {min(CELLS)}, "),
    ("model", "lstm", "model.name"),
    ("early_stopping", "3", "early_stopping: 3 is an int"),
    ("augmentation.nois", "0.1", "unknown field 'augmentation.nois'; did you mean augmentation.noise"),
    (
        "augmentation.token_replacement",
        "1",
        "augmentation.token_replacement: 1.0 is out of range; it must be at least 0",
    ),
    ("augmentation.time_mask", "0", "augmentation.time_mask: 0 is out of range; it must be at least 1"),
    ("steps", "soon", "steps: 'soon' is a str; expected an int"),
    ("steps", "1.5", "steps: 1.5 is a float; expected an int"),
    ("steps", "True", "steps: True is a bool; expected an int"),
    ("steps", "None", "steps: None is None; expected an int"),
    ("steps", "0", "steps: 0 is out of range; it must be at least 1"),
    ("steps", "inf", "steps: inf is a float; expected an int"),
    ("batch_size", "0", "batch_size: 0 is out of range"),
    ("seed", "-1", "seed: -1 is out of range; it must be at least 0"),
    ("devices", "0", "devices: 0 is out of range"),
    ("devices", "two", "devices: 'two' is a str; expected an int"),
    ("task.length", "1", "task.length: 1 is out of range; it must be at least 2"),
    ("task.length", "[3]", "task.length: [3] is a list; expected an int"),
    ("model.cell.features", "0", "model.cell.features: 0 is out of range"),
    ("model.layers", "0", "model.layers: 0 is out of range"),
    ("model.bidirectional", "2", "model.bidirectional: 2 is an int; expected a bool"),
    ("model.recurrence.backend", "fast", "model.recurrence.backend: 'fast'"),
    ("optimizer.learning_rate", "0", "optimizer.learning_rate: 0.0 is out of range; it must be above 0"),
    ("optimizer.learning_rate", "-0.1", "optimizer.learning_rate: -0.1 is out of range; it must be above 0"),
    ("optimizer.learning_rate", "None", "optimizer.learning_rate: None is None; expected a float"),
    ("optimizer.learning_rate", "0,1", "optimizer.learning_rate: (0, 1) is a tuple; expected a float"),
    ("optimizer.clip_norm", "0", "optimizer.clip_norm: 0.0 is out of range"),
    (
        "optimizer.clip_norm",
        "1e-46",
        "optimizer.clip_norm: 1e-46 is too small for float32: it counts as 0; from 1.18e-38",
    ),
    ("optimizer.learning_rate", "1e39", "optimizer.learning_rate: 1e+39 is too large for float32; up to 3.4e+38"),
    ("model.cell.forget_bias", "-1e-39", "model.cell.forget_bias: -1e-39 is too small for float32"),
    ("optimizer.b1", "0.99999999", "optimizer.b1: 0.99999999 is 1 in float32; there, too, it must be at least 0 and"),
    ("optimizer.b1", "1.0", "optimizer.b1: 1.0 is out of range; it must be at least 0 and below 1"),
    ("optimizer.weight_decay", "-1", "optimizer.weight_decay: -1.0 is out of range"),
    ("optimizer.schedule.steps", "0", "optimizer.schedule.steps: 0 is out of range"),
]


@pytest.mark.parametrize(("path", "text", "message"), MISTAKES, ids=[f"{path}={text}" for path, text, _ in MISTAKES])
def test_a_mistake_is_one_line_that_says_where(path: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_config(apply_overrides(BASE, {path: text}))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


MISTAKES_IN_A_SECTION = [
    ({"optimizer": "sgd", "optimizer.momentum": "1.0"}, "optimizer.momentum: 1.0 is out of range"),
    ({"optimizer": "sgd", "optimizer.nesterov": "True"}, "optimizer.nesterov: needs optimizer.momentum"),
    (
        {"model.cell": "vanilla", "model.cell.activation": "rely"},
        "unknown model.cell.activation 'rely'; did you mean relu",
    ),
    (
        {"model.cell": "vanilla", "model.cell.activation": "relu", "model.cell.activation.slope": "1"},
        "unknown field 'model.cell.activation.slope'; known: none; those with it: leaky_relu",
    ),
    (
        {"optimizer.schedule": "step", "optimizer.schedule.boundaries": "(3, 'x')"},
        "optimizer.schedule.boundaries[1]: 'x' is a str; expected an int",
    ),
    (
        {"optimizer.schedule": "step", "optimizer.schedule.boundaries": "None"},
        "optimizer.schedule.boundaries: None is None; expected a list, each an int",
    ),
    (
        {"optimizer.schedule": "step", "optimizer.schedule.boundaries": "True"},
        "optimizer.schedule.boundaries[0]: True is a bool; expected an int",
    ),
]


@pytest.mark.parametrize(("overrides", "message"), MISTAKES_IN_A_SECTION, ids=str)
def test_a_mistake_in_another_section_says_where(overrides: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_config(apply_overrides(BASE, overrides))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model.bidirectional": 1}, "model.bidirectional: 1 is an int; expected a bool"),
        (
            {"optimizer.schedule": {"name": "step", "boundaries": 3}},
            "optimizer.schedule.boundaries: 3 is an int; expected a list, each an int",
        ),
        ({"task": {"name": "language_model", "dataset": 7}}, "task.dataset: 7 is an int; expected a str"),
    ],
    ids=str,
)
def test_a_value_of_a_file_has_its_own_type(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        resolve_config(set_fields(BASE, fields))


@pytest.mark.parametrize(
    ("without", "message"),
    [
        (("steps",), "steps: missing; expected an int at least 1"),
        (("task",), "task: missing; expected one of adding, "),
        (("task", "name"), "task: the field 'name' is missing; known: adding, "),
        (("model", "cell", "features"), "model.cell.features: missing; expected an int"),
        (("optimizer", "learning_rate"), "optimizer.learning_rate: missing; expected a float above 0"),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else "",
)
def test_a_missing_field_is_named_with_what_it_takes(without: tuple[str, ...], message: str) -> None:
    config = copy.deepcopy(BASE)
    node = config
    for part in without[:-1]:
        node = node[part]
    del node[without[-1]]
    with pytest.raises(ConfigError) as caught:
        resolve_config(config)
    assert message in str(caught.value)


def test_a_learning_rate_of_nan_is_refused() -> None:
    config = copy.deepcopy(BASE)
    config["optimizer"]["learning_rate"] = float("nan")
    with pytest.raises(ConfigError, match=r"optimizer\.learning_rate: not a number"):
        resolve_config(config)


@pytest.mark.parametrize("text", ["", "{", "[1, 2"])
def test_a_workdir_without_a_readable_config_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"not the workdir of a run: it has no config\.json"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json is (empty|cut short); restore it"):
        read_config(tmp_path)


def test_fields_of_a_section_whose_name_is_the_default_need_no_name() -> None:
    cell = resolve_config(overridden(model__cell="irnn", model__cell__recurrent_init__scale="0.5"))["model"]["cell"]
    assert cell["recurrent_init"] == {"name": "identity", "scale": 0.5}


def test_a_section_may_be_typed_as_configs_write_it() -> None:
    section = "dict(name='gru', features=4, recurrent=dict(name='householder', reflections=2))"
    changed = apply_overrides({"model": {"cell": {"name": "lstm", "features": 8}}}, {"model.cell": section})
    assert changed["model"]["cell"] == {
        "name": "gru",
        "features": 4,
        "recurrent": {"name": "householder", "reflections": 2},
    }


@pytest.mark.parametrize("text", ["dict(1)", "dict(**x)", "list(a=1)", "dict(a=b)"])
def test_only_literals_are_read_of_a_text(text: str) -> None:
    assert literal(text) == text


def test_a_file_that_is_changed_within_a_second_is_read_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its compiled form would be taken for that of the file: the same second, the same size."""
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    file = tmp_path / "mine.py"
    for steps in (1, 2):
        text = f"def get_config():\n    return ConfigDict({{'steps': {steps}}})\n"
        file.write_text(f"from ml_collections import ConfigDict\n{text}")
        os.utime(file, (0, 0))
        assert load_file(str(file)).steps == steps
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]
