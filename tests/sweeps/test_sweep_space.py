"""A sweep's file becomes settings: factors, draws, seeds, checks; groups of them are tested in test_sweep_groups.py."""

import itertools
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from absl import flags

from rnnlab import cli
from rnnlab.config.errors import ConfigError
from rnnlab.config.reading import load_file
from rnnlab.config.schema import resolve
from rnnlab.records.run_config import apply_overrides, resolve_config
from rnnlab.sweeps.spec.groups import split_groups
from rnnlab.sweeps.spec.space import Setting, SweepOptions, axis_paths, axis_value, command, expand, load_sweep

ROOT = Path(__file__).parents[2]
READY = sorted((ROOT / "configs" / "sweeps").glob("*.py"))
BASE: dict[str, Any] = dict(
    steps=60,
    task=dict(name="adding", length=6),
    model=dict(cell=dict(name="irnn", features=8)),
    optimizer=dict(name="adam", learning_rate=1e-2),
)
RATE, CELL, CLIP = "optimizer.learning_rate", "model.cell", "optimizer.clip_norm"


def settings(**fields: Any) -> list[Setting]:
    return expand(resolve(SweepOptions, {"base": BASE} | fields, ""))


def points(**fields: Any) -> list[dict[str, Any]]:
    return [setting.overrides for setting in settings(**fields)]


def test_product_has_every_value_with_every_other_and_the_seed_changes_fastest():
    point_list = points(product={RATE: [0.1, 0.2], CLIP: [None, 1.0]}, seeds=2)
    wanted = itertools.product([0.1, 0.2], [None, 1.0], [0, 1])
    assert [tuple(point.values()) for point in point_list] == list(wanted)
    assert [setting.name for setting in settings(product={RATE: [0.1, 0.2]})] == ["0000", "0001"]


def test_values_that_are_zipped_go_together_and_are_one_factor():
    point_list = points(product={CLIP: [1.0, 2.0]}, zip=[{CELL: ["lstm", "gru"], RATE: [0.1, 0.2]}])
    assert [(p[CLIP], p[CELL], p[RATE]) for p in point_list] == [
        (1.0, "lstm", 0.1),
        (1.0, "gru", 0.2),
        (2.0, "lstm", 0.1),
        (2.0, "gru", 0.2),
    ]


def test_listed_runs_stand_beside_a_product_or_are_all():
    assert points(runs=[{RATE: 0.1}, {CLIP: 2.0}]) == [{RATE: 0.1}, {CLIP: 2.0}]
    assert points(product={RATE: [0.5]}, runs=[{CLIP: 2.0}]) == [{RATE: 0.5}, {CLIP: 2.0}]


def test_a_listed_run_that_names_its_seed_is_run_with_that_one():
    assert points(runs=[{RATE: 0.1}, {RATE: 0.1, "seed": 7}], seeds=[3, 4]) == [
        {RATE: 0.1, "seed": 3},
        {RATE: 0.1, "seed": 4},
        {RATE: 0.1, "seed": 7},
    ]


def test_seeds_alone_are_a_sweep():
    assert [setting.config["seed"] for setting in settings(seeds=[5, 2])] == [5, 2]


def test_every_config_is_the_base_with_overrides_and_axes():
    (first, second) = settings(overrides={"steps": 7, CLIP: 3.0}, product={CELL: ["lstm", "irnn"]})
    assert first.config == resolve_config(apply_overrides(BASE, {"steps": "7", CLIP: "3.0", CELL: "lstm"}))
    assert second.config["model"]["cell"]["features"] == 8
    assert first.overrides == {CELL: "lstm"}


def test_a_section_as_a_value_is_not_changed_by_an_axis_within_it():
    section = dict(name="vanilla", features=8)
    expanded = settings(product={CELL: [section], "model.cell.features": [3, 4]})
    assert [setting.config["model"]["cell"]["features"] for setting in expanded] == [3, 4]
    assert section == dict(name="vanilla", features=8)


# --- draws -----------------------------------------------------------------------------------------------------------

OF = {RATE: dict(low=1e-4, high=1e-1, log=True), "model.dropout.output": dict(low=0.0, high=0.5), CELL: ["lstm", "gru"]}


def drawn(**fields: Any) -> list[dict[str, Any]]:
    return points(draws=dict(of=OF) | fields)


def test_draws_come_from_the_seed_and_more_of_them_begin_alike():
    assert drawn(count=9) == drawn(count=9)
    assert drawn(count=9)[:4] == drawn(count=4)
    assert drawn(count=9, seed=1) != drawn(count=9)


def test_a_path_is_drawn_alike_whatever_else_is_drawn():
    alone = points(draws=dict(count=5, of={RATE: OF[RATE]}))
    assert [point[RATE] for point in alone] == [point[RATE] for point in drawn(count=5)]


def test_draws_are_uniform_in_their_range_or_in_its_logarithm():
    draws = drawn(count=400)
    rates = np.log10([point[RATE] for point in draws])
    outputs = np.array([point["model.dropout.output"] for point in draws])
    for share, value in ((rates + 4) / 3, "log"), (outputs / 0.5, "linear"):
        assert (share >= 0).all(), value
        assert (share <= 1).all(), value
        # The largest distance of 400 uniform numbers from their distribution exceeds 0.1 once in 1600.
        assert np.abs(np.sort(share) - (np.arange(400) + 0.5) / 400).max() < 0.1, value
    assert 100 < sum(point[CELL] == "gru" for point in draws) < 300


@pytest.mark.parametrize("log", [False, True])
def test_integers_are_drawn_with_both_ends(log):
    of = {"task.length": dict(low=5, high=8, integer=True, log=log), RATE: OF[RATE]}  # Rates keep the runs apart.
    assert {point["task.length"] for point in points(draws=dict(count=60, of=of))} == {5, 6, 7, 8}


# --- what the command line makes of a run ---------------------------------------------------------------------------


@pytest.mark.parametrize("file", READY, ids=lambda file: file.stem)
def test_the_command_of_a_run_makes_its_config(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    sweep = load_sweep(str(file), {})
    settings = expand(sweep)
    for setting in (settings[0], settings[len(settings) // 2], settings[-1]):
        line = command(sweep["base"], {**sweep["overrides"], **setting.overrides}, Path("runs/x y"))
        words = shlex.split(line)
        assert words[:3] == ["python", "-m", "rnnlab.train"]
        values = flags.FlagValues()
        cli.path_flag(values, "workdir", None, "")
        parsed = cli.parse_run(values, words[3:], None)
        assert parsed.config == setting.config
        assert values.workdir == "runs/x y"


def test_texts_that_look_like_numbers_or_sections_survive_the_command_line():
    overrides = {"a.b": "1", "c": "none", "d": {"name": "x", "n": None}, "e": float("inf"), "f": (1, 2), "g": "plain"}
    words = shlex.split(command("f.py", overrides, Path("w")))[3:-1]
    texts = cli.parse(flags.FlagValues(), words, None, lambda reference: {}).overrides
    assert apply_overrides({}, texts) == {"a": {"b": "1"}} | {k: v for k, v in overrides.items() if "." not in k}


@pytest.mark.parametrize("file", READY, ids=lambda file: file.stem)
def test_ready_sweeps_have_the_runs_and_programs_that_they_say(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    runs, groups = {
        "cell_by_length": (80, 16),
        "clip_by_learning_rate": (36, 1),
        "forget_bias_by_length": (120, 4),
        "gain_around_one": (135, 3),
        "init_by_activation": (240, 48),
        "learning_rate_halving": (54, 1),
        "memory": (72, 24),
        "pathological": (75, 15),
    }[file.stem]
    expanded = expand(load_sweep(str(file), {}))
    assert len(expanded) == runs
    assert len(split_groups(expanded)) == groups


@pytest.mark.parametrize("preset", ["irnn", "lstm", "tanh", "relu"])
def test_the_papers_grid_is_the_papers(preset, monkeypatch):
    monkeypatch.chdir(ROOT)
    expanded = expand(load_sweep(f"configs/sweeps/clip_by_learning_rate.py:{preset}", {}))
    cells = {(s.config["optimizer"]["learning_rate"], s.config["optimizer"]["clip_norm"]) for s in expanded}
    assert cells == {(float(f"1e-{n}"), clip) for n in range(1, 10) for clip in (1.0, 10.0, 100.0, 1000.0)}
    assert len(split_groups(expanded)) == 1
    for config in (setting.config for setting in expanded):
        assert (config["optimizer"]["name"], config["batch_size"]) == ("sgd", 16)
        assert config["optimizer"]["schedule"]["name"] == "constant"
        assert config["model"]["cell"]["features"] == 100
        assert config["task"]["train_size"] == 100_000
    if preset == "lstm":
        assert {s.config["model"]["cell"]["forget_bias"] for s in expanded} == {1.0, 4.0, 10.0, 20.0}
    if preset == "irnn":
        assert expanded[0].config["model"]["cell"]["input_init"] == {"name": "small_normal", "stddev": 0.001}


# --- columns ---------------------------------------------------------------------------------------------------------


def test_axes_have_a_value_in_runs_that_do_not_set_them():
    expanded = settings(runs=[{CELL: "lstm", "model.cell.forget_bias": 2.0}, {CELL: "gru"}, {RATE: 1}], seeds=1)
    paths = axis_paths(expanded)
    assert paths == [CELL, "model.cell.forget_bias", RATE, "seed"]
    assert [[axis_value(setting, path) for path in paths] for setting in expanded] == [
        ["lstm", 2.0, 0.01, 0],
        ["gru", None, 0.01, 0],
        ["irnn", None, 1.0, 0],
    ]


def test_sections_as_values_are_told_apart():
    path = "model.cell.recurrent_init"
    expanded = settings(product={path: [dict(name="normal", stddev=0.1), dict(name="normal", stddev=0.2), "identity"]})
    values = [axis_value(setting, path) for setting in expanded]
    assert values == ['{"name": "normal", "stddev": 0.1}', '{"name": "normal", "stddev": 0.2}', "identity"]


# --- mistakes --------------------------------------------------------------------------------------------------------

MISTAKES = {
    "no such field": (
        dict(product={"optimizer.learning_rte": [0.1]}),
        r"axis optimizer.learning_rte=0.1: unknown field 'optimizer.learning_rte'; did you mean optimizer",
    ),
    "no such section": (
        dict(product={"modle.cell": ["lstm"]}, seeds=2),
        r"axis modle.cell=lstm: unknown field 'modle'; did you mean model\?",
    ),
    "wrong type": (
        dict(product={RATE: [0.1, "fast"]}, seeds=2),
        r"axis optimizer.learning_rate=fast: optimizer.learning_rate: 'fast' is a str; expected a float",
    ),
    "out of range": (
        dict(zip=[{RATE: [0.1, -1.0], CLIP: [1.0, 2.0]}]),
        r"axis optimizer.learning_rate=-1.0: optimizer.learning_rate: -1.0 is out of range",
    ),
    "values that do not go together": (
        dict(product={CELL: ["lstm", "gru"]}, runs=[{CELL: "gru", "model.cell.forget_bias": 1.0}]),
        r"axis model.cell.forget_bias=1.0: unknown field 'model.cell.forget_bias'",
    ),
    "a base that is wrong": (dict(overrides={"steps": 0}, seeds=2), r"base and overrides: steps: 0 is out of range"),
    "no list": (dict(product={RATE: 0.1}), r"product.optimizer.learning_rate: 0.1 is not a list of values"),
    "a word for a list": (dict(product={CELL: "lstm"}), r"product.model.cell: 'lstm' is not a list of values"),
    "an empty list": (dict(product={RATE: []}), r"product.optimizer.learning_rate: an empty list"),
    "unequal lengths": (
        dict(zip=[{RATE: [0.1, 0.2], CLIP: [1.0]}]),
        r"zip\[0\]: .*; optimizer.learning_rate has 2, optimizer.clip_norm has 1",
    ),
    "an empty zip": (dict(zip=[{}]), r"zip\[0\]: empty"),
    "set twice": (
        dict(product={RATE: [0.1]}, zip=[{RATE: [0.2]}]),
        r"zip\[0\]: optimizer.learning_rate is set by product.optimizer.learning_rate already",
    ),
    "a section and its name": (
        dict(product={CELL: ["lstm"], "model.cell.name": ["gru"]}),
        r"product.model.cell.name: model.cell.name is set by product.model.cell already",
    ),
    "seeds twice": (dict(product={"seed": [1]}, seeds=2), r"seeds: seed is set by product.seed already"),
    "an override that is an axis": (
        dict(overrides={RATE: 0.3}, product={RATE: [0.1]}),
        r"product.optimizer.learning_rate: optimizer.learning_rate is set by overrides already",
    ),
    "the same run twice": (
        dict(product={RATE: [1, 0.5]}, runs=[{RATE: 1.0, CLIP: None}]),
        r"runs 0000 \(optimizer.learning_rate=1\) and 0002 "
        r"\(optimizer.learning_rate=1.0, optimizer.clip_norm=None\) are the same run",
    ),
    "no seeds": (dict(seeds=[]), r"seeds: empty"),
    "a seed below 0": (dict(seeds=[-1]), r"seeds: \[-1\] is a list; expected an int at least 1 .* or a list, each"),
    "no field of a sweep": (dict(prodct={RATE: [0.1]}), r"unknown field 'prodct'; did you mean product\?"),
    "a baseline of no axis": (
        dict(product={RATE: [0.1]}, baseline={"optimizer.learning_rat": 0.1}),
        r"baseline: unknown axis 'optimizer.learning_rat'; did you mean optimizer.learning_rate\?",
    ),
    "a baseline of no run": (
        dict(product={RATE: [0.1, 0.2]}, baseline={RATE: 0.3}),
        r"baseline: no run has optimizer.learning_rate=0.3; there are: optimizer.learning_rate=0.1, optimizer",
    ),
    "nothing drawn": (dict(draws=dict(count=2, of={})), r"draws.of: empty"),
    "no draws": (dict(draws=dict(count=0, of={RATE: [0.1]})), r"draws.count: 0 is out of range"),
    "a range upside down": (
        dict(draws=dict(count=2, of={RATE: dict(low=1.0, high=0.1)})),
        r"draws.of.optimizer.learning_rate.high: 0.1 is not above low=1",
    ),
    "a logarithm of 0": (
        dict(draws=dict(count=2, of={RATE: dict(low=0, high=0.1, log=True)})),
        r"draws.of.optimizer.learning_rate.low: 0 has no logarithm",
    ),
    "integers of fractions": (
        dict(draws=dict(count=2, of={"steps": dict(low=0.5, high=8, integer=True)})),
        r"draws.of.steps: 0.5 to 8 are not whole numbers",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line_that_says_where(mistake):
    fields, message = MISTAKES[mistake]
    with pytest.raises(ConfigError, match=message) as error:
        settings(**fields)
    assert "\n" not in str(error.value)


@pytest.fixture
def file(tmp_path) -> Callable[[str], str]:
    def write(text: str) -> str:
        (tmp_path / "mine.py").write_text(f"import numpy as np\ndef get_config():\n    return {text}\n")
        return str(tmp_path / "mine.py")

    return write


def test_numpy_values_and_ranges_become_plain(file):
    text = f"dict(base={BASE!r}, product={{'optimizer.learning_rate': np.logspace(-3, -1, 3), 'steps': range(1, 3)}})"
    sweep = load_sweep(file(text), {})
    assert sweep["product"] == {RATE: [0.001, 0.01, 0.1], "steps": [1, 2]}
    assert {type(setting.overrides[RATE]) for setting in expand(sweep)} == {float}


def test_fields_on_the_command_line_are_overrides_of_every_run(file):
    sweep = load_sweep(file(f"dict(base={BASE!r}, overrides={{'steps': 9}}, seeds=2)"), {"steps": "11", CLIP: "none"})
    assert sweep["overrides"] == {"steps": 11, CLIP: None}
    texts = {"model.bidirectional": "1", "task": "language_model", "task.dataset": "2024", "diagnostics": "norms"}
    values = load_sweep(file(f"dict(base={BASE!r}, product={{'steps': [3, 4]}})"), texts)["overrides"]
    assert values == texts | {"model.bidirectional": True}


def test_a_run_is_no_sweep_and_a_sweep_no_run(file):
    with pytest.raises(ConfigError, match=r"mine.py: the config of a run, not of a sweep"):
        load_sweep(file(repr(BASE)), {})
    with pytest.raises(ConfigError, match=r"mine.py: the file of a sweep"):
        load_file(file(f"dict(base={BASE!r}, product={{'optimizer.learning_rate': [0.1]}})"))


REFERRING = """
from ml_collections import ConfigDict, FieldReference
def get_config():
    config = ConfigDict({BASE!r})
    config.seed = config.get_ref("steps")
    return config
"""


def test_an_axis_changes_what_refers_to_its_field(tmp_path, file):
    (tmp_path / "base.py").write_text(REFERRING.replace("{BASE!r}", repr(BASE)))
    settings = expand(load_sweep(file(f"dict(base={str(tmp_path / 'base.py')!r}, product={{'steps': [5, 6]}})"), {}))
    assert [(setting.config["steps"], setting.config["seed"]) for setting in settings] == [(5, 5), (6, 6)]


def test_a_base_with_references_is_a_file_of_its_own(tmp_path):
    text = f"{REFERRING.replace('{BASE!r}', repr(BASE)).replace('get_config', 'base')}\n"
    (tmp_path / "mine.py").write_text(f"{text}def get_config():\n    return dict(base=base(), seeds=2)\n")
    with pytest.raises(ConfigError, match=r"mine.py: base: a config with references has to be a file of its own"):
        load_sweep(str(tmp_path / "mine.py"), {})


def test_a_mistake_in_the_file_names_the_file(file):
    with pytest.raises(ConfigError, match=r"mine.py: unknown field 'sedes'; did you mean seeds\?"):
        load_sweep(file(f"dict(base={BASE!r}, sedes=2)"), {})


def test_a_value_that_json_does_not_have_is_refused():
    with pytest.raises(ConfigError, match=r"cannot be written to config\.json"):
        settings(product={"model.cell.recurrent_init": [len]})
