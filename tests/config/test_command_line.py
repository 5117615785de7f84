"""Forms of a command line: ml_collections' own config_flags and rnnlab's read them to the same values."""

import dataclasses
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags

from rnnlab import cli, diagnose, evaluate, find_learning_rate, generate, sweep, train
from rnnlab.config.errors import ConfigError

FIELDS = """
import dataclasses
from typing import Optional
import numpy as np
from ml_collections import ConfigDict, FieldReference, FrozenConfigDict, config_dict
FIELDS = dict(
    steps=100,
    diagnostics=("saturation",),
    task=dict(name="adding", length=10),
    model=dict(cell=dict(name="lstm", features=8, peepholes=False, forget_bias=1.0), bidirectional=False),
    optimizer=dict(name="adam", learning_rate=1e-3, schedule=dict(name="step", boundaries=(3, 5))),
    curriculum=dict(field="length", values=[5, 8], steps=[10, 20]),
)
LIST = FIELDS["optimizer"] | dict(schedule=dict(name="step", boundaries=[3, 5]))
TEXT = FIELDS | dict(task=dict(name="language_model", dataset="tinyshakespeare"), curriculum=None)
"""


def returning(expression: str, signature: str = "", before: str = "") -> str:
    """The text of a file whose `get_config` returns an expression."""
    return f"{FIELDS}{before}\ndef get_config({signature}):\n    return {expression}\n"


REFERENCES = """
def get_config():
    steps, features = FieldReference(100), config_dict.placeholder(int)
    config = ConfigDict(FIELDS | dict(steps=steps, log_every=steps, eval_every=steps // 2, seed=steps + 1))
    config.model.cell.features = features
    config.task.length = features * 2
    config.batch_size = config.get_ref("seed") - 1
    config.curriculum = None
    return config
"""
OPTIONS = """
from rnnlab.nn.options import ModelOptions
from rnnlab.records.run_config import EarlyStoppingOptions
CELL = FIELDS["model"]["cell"]
OPTIONS = FIELDS | dict(early_stopping=EarlyStoppingOptions(patience=3), model=ModelOptions(cell=CELL))
"""
UNBUILT = """
@dataclasses.dataclass
class Needs:
    decay: float
fields = [(name, object) for name in FIELDS]
Whole = dataclasses.make_dataclass("Whole", [*fields, ("averaging", Optional[Needs], None)])
"""
LISTED = """
STEPS = FieldReference(100)
LISTED = dict(field="length", values=[5, 8], steps=[STEPS // 4, STEPS // 2])
"""
SHARED = """
UNIFORM = dict(name="uniform", scale=0.1)
SHARED = ConfigDict(FIELDS | dict(model=dict(FIELDS["model"], embedding_init=UNIFORM, readout_init=UNIFORM)))
SHARED.model.readout_bias_init = dict(name="normal", stddev=0.2)
SHARED.model.cell.bias_init = SHARED.model.get_ref("readout_bias_init")
"""
DATACLASSES = """
@dataclasses.dataclass{arguments}
class Cell:
    name: str = "gru"
    features: int = 8
@dataclasses.dataclass{arguments}
class Model:
    cell: Cell
    layers: int = 1
    bidirectional: bool = False
@dataclasses.dataclass{arguments}
class Averaging:
    decay: float = 0.9
    start: int = 20
@dataclasses.dataclass{arguments}
class Run:
    steps: int
    task: ConfigDict
    model: Model
    optimizer: dict
    averaging: Optional[Averaging] = None
"""
PLAIN, FROZEN = DATACLASSES.format(arguments=""), DATACLASSES.format(arguments="(frozen=True)")
SECTION = "ConfigDict(FIELDS | dict(model=Model(Cell())))"
WHOLE = "Run(9, ConfigDict(FIELDS['task']), Model(Cell()), FIELDS['optimizer'])"
NUMPY = """ConfigDict(FIELDS | dict(
    steps=np.int64(9), task=dict(name="adding", length=np.array(12)), model=dict(FIELDS["model"]),
    optimizer=dict(name=np.str_("adam"), learning_rate=np.float32(0.1), clip_norm=np.float64(0.5))))"""
FILES: dict[str, str] = {
    "plain": returning("ConfigDict(FIELDS)"),
    "dict": returning("FIELDS"),
    "locked": returning("ConfigDict(FIELDS).lock()"),
    "frozen": returning("FrozenConfigDict(FIELDS)"),
    "list": returning("ConfigDict(FIELDS | dict(optimizer=LIST))"),
    "text": returning("ConfigDict(TEXT)"),
    "presets": returning(
        "ConfigDict(FIELDS | dict(steps=PRESETS[size] if size in PRESETS else int(size)))",
        "size='small', seed=3",
        "PRESETS = {'small': 4, 'large': 400}\n",
    ),
    "argument": returning("ConfigDict(FIELDS | dict(steps=len(size) + 1, seed=seed))", "size='large', seed=3"),
    "needed": returning("ConfigDict(FIELDS | dict(steps=len(size) + 1))", "size"),
    "any": returning("ConfigDict(FIELDS | dict(steps=len(sizes) + 1))", "*sizes"),
    "keyword": returning("ConfigDict(FIELDS | dict(steps=size))", "*, size=7"),
    "references": FIELDS + REFERENCES,
    "nothing": returning("None"),
    "unbuilt": returning("Whole(**FIELDS)", "", UNBUILT),
    "options": returning("ConfigDict(OPTIONS)", "", OPTIONS),
    "listed": returning("ConfigDict(FIELDS | dict(steps=STEPS, curriculum=LISTED))", "", LISTED),
    "shared": returning("SHARED", "", SHARED),
    "required": returning("ConfigDict(FIELDS | dict(steps=config_dict.required_placeholder(int)))"),
    "numpy": returning(NUMPY),
    "section": returning(SECTION, "", PLAIN),
    "frozen section": returning(SECTION, "", FROZEN),
    "whole": returning(WHOLE, "", PLAIN),
    "frozen whole": returning(WHOLE, "", FROZEN),
    "annotations": "from __future__ import annotations\n" + returning(WHOLE, "", PLAIN),
}


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], str]:
    """The path of a file of FILES, and of what its flagfiles name."""

    def write(name: str) -> str:
        path = tmp_path / f"{name.replace(' ', '_')}.py"
        path.write_text(FILES[name])
        (tmp_path / "flags").write_text(
            f"# A comment\n--config.steps=7\n\n// Another\n-noconfig.{BOTH}\n--flagfile={tmp_path / 'more'}\n"
        )
        (tmp_path / "more").write_text("--config.task.length=12\n--config.model.cell.peepholes\n")
        (tmp_path / "all").write_text(f"--config={path}\n--config.steps=7\n")
        return str(path)

    return write


def theirs(words: Sequence[str]) -> Any:
    """The config that config_flags makes of a command line."""
    values, argv = flags.FlagValues(), ["program", *words]
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*load_module\(\) method is deprecated", DeprecationWarning)
        values(argv)
    return values["config"].value


def ours(words: Sequence[str]) -> dict[str, Any]:
    """The config that rnnlab makes of it."""
    config = cli.parse_run(flags.FlagValues(), words, None).config
    assert config is not None
    return config


def leaves(config: Any, path: str = "") -> dict[str, Any]:
    """{path: value} of all fields; lists are tuples, as in a resolved config."""
    if dataclasses.is_dataclass(config):
        config = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    if not isinstance(config, ConfigDict | Mapping):
        return {path: tuple(config) if isinstance(config, list) else config}
    collected = {}
    for key, value in config.items():
        collected |= leaves(value, f"{path}.{key}" if path else key)
    return collected


F, FEATURES = "--config={plain}", "model.cell.features"
STEPS, LENGTH, RATE = "steps", "task.length", "optimizer.learning_rate"
BOTH, PEEPHOLES, FORGET = "model.bidirectional", "model.cell.peepholes", "model.cell.forget_bias"
AT, DIAGNOSTICS, DATASET = "optimizer.schedule.boundaries", "diagnostics", "task.dataset"
TUPLE = f"--config.{AT}="
TEXT = "--config={text}"

FORMS: list[tuple[list[str], dict[str, Any]]] = [
    # Dashes, blanks, order.
    ([F, "--config.steps=7"], {STEPS: 7}),
    ([F, "-config.steps=7"], {STEPS: 7}),
    ([F, "--config.steps", "7"], {STEPS: 7}),
    ([F, "-config.steps", "7"], {STEPS: 7}),
    ([F, f"--config.{FORGET}", "-1.5"], {FORGET: -1.5}),
    (["--config", "{plain}", "--config.steps=7"], {STEPS: 7}),
    (["-config", "{plain}", "-config.steps=7"], {STEPS: 7}),
    (["-config={plain}", "--config.task.length=7"], {LENGTH: 7}),
    ([F, "--config.steps=7", "--config.steps=8"], {STEPS: 8}),
    ([F, "--config.steps", "7", "--config.task.length", "12"], {STEPS: 7, LENGTH: 12}),
    # Booleans.
    ([F, f"--config.{BOTH}"], {BOTH: True}),
    ([F, f"-config.{BOTH}"], {BOTH: True}),
    ([F, f"--config.{BOTH}", "--config.steps=7"], {BOTH: True, STEPS: 7}),
    ([F, f"--config.{BOTH}", f"--noconfig.{BOTH}"], {BOTH: False}),
    ([F, f"-noconfig.{BOTH}", f"--config.{PEEPHOLES}"], {BOTH: False, PEEPHOLES: True}),
    *(([F, f"--config.{BOTH}={text}"], {BOTH: True}) for text in ("true", "True", "TRUE", "t", "1")),
    *(
        ([F, f"--config.{PEEPHOLES}", f"--config.{PEEPHOLES}={text}"], {PEEPHOLES: False})
        for text in ("false", "f", "0")
    ),
    # Numbers.
    *(([F, f"--config.steps={text}"], {STEPS: value}) for text, value in [("+7", 7), ("0x10", 16), ("1_0", 10)]),
    ([F, "--config.steps=007"], {STEPS: 7}),
    *(([F, f"--config.{RATE}={text}"], {RATE: float(text)}) for text in ("1", "1e-2", ".5", "1.", "+0.25")),
    # Texts.
    *(([TEXT, f"--config.{DATASET}={text}"], {DATASET: text}) for text in ("x y", "a=b", "/a/b", "a,b", "", "~/a")),
    *(([TEXT, f"--config.{DATASET}={text}"], {DATASET: text}) for text in ("2024", "1e3", "None", "True", "(1, 2)")),
    # Tuples.
    *(([F, f"{TUPLE}{text}"], {AT: (4, 6)}) for text in ("(4, 6)", "4,6", "[4, 6]")),
    ([F, f"{TUPLE}4"], {AT: (4,)}),
    ([F, f"{TUPLE}4", f"{TUPLE}6"], {AT: (4, 6)}),
    ([F, f"--config.{AT}", "4", f"--config.{AT}", "(6, 8)"], {AT: (4, 6, 8)}),
    ([F, f"--config.{DIAGNOSTICS}=norms"], {DIAGNOSTICS: ("norms",)}),
    ([F, f"--config.{DIAGNOSTICS}=norms", f"--config.{DIAGNOSTICS}=spectrum"], {DIAGNOSTICS: ("norms", "spectrum")}),
    ([F, f"--config.{DIAGNOSTICS}=('norms', 'spectrum')"], {DIAGNOSTICS: ("norms", "spectrum")}),
    # Sections, keys and elements.
    ([F, "--config.task={{'name': 'adding', 'length': 12}}"], {LENGTH: 12}),
    ([F, "--config.task['length']=12"], {LENGTH: 12}),
    (["--config={list}", f"--config.{AT}[0]=4"], {AT: (4, 5)}),
    (["--config={list}", f"--config.{AT}[-1]", "9"], {AT: (3, 9)}),
    # Flagfiles.
    ([F, "--flagfile={flags}"], {STEPS: 7, BOTH: False, LENGTH: 12, PEEPHOLES: True}),
    ([F, "--config.steps=5", "-flagfile", "{flags}"], {STEPS: 7}),
    ([F, "--flagfile={flags}", "--config.steps=8"], {STEPS: 8, LENGTH: 12}),
    (["--flagfile={all}", "--config.task.length=12"], {STEPS: 7, LENGTH: 12}),
    # What stands behind the colon.
    (["--config={presets}"], {STEPS: 4}),
    (["--config={presets}:large"], {STEPS: 400}),
    (["--config={presets}:1234"], {STEPS: 1234}),
    (["--config={argument}"], {STEPS: 6, "seed": 3}),
    (["--config={argument}:abc"], {STEPS: 4, "seed": 3}),
    (["--config={argument}:a:b/c=d"], {STEPS: 8}),
    (["--config={argument}:"], {STEPS: 1}),
    (["--config={needed}:abc", "--config.task.length=12"], {STEPS: 4, LENGTH: 12}),
    (["--config={any}"], {STEPS: 1}),
    (["--config={any}:a"], {STEPS: 2}),
    (["--config={keyword}"], {STEPS: 7}),
    # References and placeholders.
    (
        ["--config={references}", "--config.steps=60", "--config.model.cell.features=6"],
        {STEPS: 60, "log_every": 60, "eval_every": 30, "seed": 61, "batch_size": 60, LENGTH: 12},
    ),
    (["--config={references}", "--config.log_every=60", "--config.model.cell.features=6"], {STEPS: 60, "seed": 61}),
    (
        ["--config={references}", "--config.seed=5", "--config.steps=60", "--config.model.cell.features=6"],
        {STEPS: 60, "seed": 5, "batch_size": 4},
    ),
    (
        ["--config={shared}", "--config.model.readout_init.scale=0.3", "--config.model.cell.bias_init.stddev=0.4"],
        {"model.embedding_init.scale": 0.3, "model.readout_bias_init.stddev": 0.4},
    ),
    # What a file may return.
    *(([f"--config={{{name}}}"], {STEPS: 100}) for name in ("dict", "locked")),
    *(([f"--config={{{name}}}", "--config.task.length=12"], {LENGTH: 12}) for name in ("dict", "locked")),
    (["--config={numpy}", f"--config.{BOTH}"], {STEPS: 9, LENGTH: 12, "optimizer.clip_norm": 0.5, BOTH: True}),
    (["--config={section}"], {"model.cell.name": "gru"}),
    (
        ["--config={section}", "--config.model.cell.features=3", f"--config.{BOTH}"],
        {"model.cell.features": 3, BOTH: True},
    ),
    (["--config={frozen section}"], {"model.cell.name": "gru"}),
    (["--config={whole}", "--config.steps=7", "--config.model.layers=2"], {STEPS: 7, "model.layers": 2}),
    (["--config={whole}", "--config.averaging=build"], {"averaging.decay": 0.9, "averaging.start": 20}),
    (
        ["--config={whole}", "--config.averaging=build", "--config.averaging.decay=0.5"],
        {"averaging.decay": 0.5, "averaging.start": 20},
    ),
    (["--config={whole}", "--config.averaging=none"], {"averaging": None}),
    (["--config={frozen whole}"], {STEPS: 9}),
    (["--config={annotations}"], {STEPS: 9}),
]
"""Words, where {name} stands for the path of a file, and fields with the values that they get."""


def filled(words: Sequence[str], file: Callable[[str], str]) -> list[str]:
    """Words with paths in place of {name}."""
    folder = Path(file("plain")).parent
    paths = {name: file(name) for name in FILES if any(f"{{{name}}}" in word for word in words)}
    paths |= {"plain": file("plain")} | {name: str(folder / name) for name in ("flags", "all")}
    return [word.format(**paths) for word in words]


@pytest.mark.parametrize(("words", "values"), FORMS, ids=[" ".join(words) for words, _ in FORMS])
def test_a_form_means_what_it_means_to_config_flags(
    words: list[str], values: dict[str, Any], file: Callable[[str], str]
) -> None:
    words = filled(words, file)
    expected, ours_leaves = leaves(theirs(words)), leaves(ours(words))
    assert {path: expected[path] for path in values} == values
    assert {path: ours_leaves.get(path) for path in expected} == expected
    assert {path: type(ours_leaves[path]) for path in values} == {path: type(values[path]) for path in values}


REFUSED: list[tuple[list[str], dict[str, Any]]] = [
    ([F, "--config.steps=1e4"], {STEPS: 10_000}),
    ([F, "--config.model.cell=gru"], {"model.cell.name": "gru", "model.cell.features": 8}),
    ([F, "--config.model.cell.recurrent_init.gain=0.5"], {"model.cell.recurrent_init.gain": 0.5}),
    ([F, "--config.early_stopping.patience=3"], {"early_stopping.patience": 3}),
    ([F, "--config.averaging.start=3", "--config.averaging.decay=0.5"], {"averaging.decay": 0.5}),
    ([F, "--noconfig.model.learned_carry"], {"model.learned_carry": False}),
    ([F, "--config.model.cell=vanilla", "--config.model.cell.activation=relu"], {"model.cell.activation.name": "relu"}),
    ([F, "--config.model.cell=gru", "--config.model.cell.chrono=20"], {"model.cell.chrono": 20}),
    ([F, "--config.optimizer.clip_norm=0.5"], {"optimizer.clip_norm": 0.5}),
    ([F, f"--config.{LENGTH}=12", "--config.task={{'name': 'adding', 'length': 14}}"], {LENGTH: 12}),
    (["--config.steps=7", F], {STEPS: 7}),
    (
        ["--config={shared}", "--config.model.readout_init=zeros"],
        {"model.readout_init.name": "zeros", "model.embedding_init.scale": 0.1},
    ),
    ([F, f"--config.{AT}[0]=4"], {AT: (4, 5)}),
    (["--config={keyword}", "--config.seed=3"], {STEPS: 7, "seed": 3}),
    (["--config={required}", "--config.steps=7"], {STEPS: 7}),
    (["--config={options}", "--config.early_stopping.patience=4"], {"early_stopping.patience": 4, FORGET: 1.0}),
    (["--config={options}", f"--config.{BOTH}", f"--config.{FORGET}=2"], {BOTH: True, FORGET: 2.0}),
    (["--config={frozen}"], {STEPS: 100}),
    (["--config={frozen}", "--config.task.length=12"], {LENGTH: 12}),
    (["--config={numpy}", "--config.steps=7"], {STEPS: 7}),
    (["--config={numpy}", f"--config.{RATE}=0.2"], {RATE: 0.2}),
    (["--config={frozen section}", "--config.model.cell.features=3"], {"model.cell.features": 3}),
    (["--config={frozen whole}", "--config.steps=7"], {STEPS: 7}),
    (["--config={frozen whole}", "--config.averaging=build"], {"averaging.decay": 0.9, "averaging.start": 20}),
    (["--config={annotations}", "--config.averaging=build"], {"averaging.decay": 0.9, "averaging.start": 20}),
    (["--config={annotations}", "--config.model.layers=2"], {"model.layers": 2}),
]
"""The same, but config_flags refuses them."""


@pytest.mark.parametrize(("words", "values"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_a_form_that_config_flags_refuses_sets_the_fields(
    words: list[str], values: dict[str, Any], file: Callable[[str], str]
) -> None:
    words = filled(words, file)
    set_leaves = leaves(ours(words))
    assert {path: set_leaves[path] for path in values} == values
    with pytest.raises(Exception):  # noqa: B017, PT011  (Of ten kinds.)
        leaves(theirs(words))


def test_a_reference_in_a_list_follows(file: Callable[[str], str]) -> None:
    config = ours(filled(["--config={listed}", "--config.steps=200"], file))  # config_flags leaves the reference there.
    assert config["curriculum"]["steps"] == (50, 100)


# --- mistakes --------------------------------------------------------------------------------------------------------

SWEEP = "def get_config():\n    return dict(base={base!r}, product={{'optimizer.learning_rate': [0.1, 0.2]}})\n"
COMMANDS = {"train": train, "find_learning_rate": find_learning_rate, "diagnose": diagnose, "sweep": sweep}
MISTAKES: list[tuple[list[str], str]] = [
    (["--config.stepz=3"], r"unknown field 'stepz'; did you mean steps\? known: "),
    (["--config.stepz"], r"unknown field 'stepz'; did you mean steps\?"),
    (["--noconfig.stepz"], r"unknown field 'stepz'; did you mean steps\?"),
    (["-config.stepz", "3"], r"unknown field 'stepz'; did you mean steps\?"),
    (["--config.features=3"], r"unknown field 'features'; did you mean model\.cell\.features\?"),
    (["--config.task.lenght", "3"], r"unknown field 'task\.lenght'; did you mean task\.length\?"),
    (["--config.model.cell=lstn"], r"unknown model\.cell 'lstn'; did you mean lstm\?"),
    (["--config.steps"], r"--config\.steps needs a value: --config\.steps=…"),
    (["-config.steps"], r"--config\.steps needs a value: --config\.steps=…"),
    (["--config.steps", "--config.seed=3"], r"--config\.steps needs a value: --config\.steps=…"),
    (["--config.task"], r"--config\.task needs a value: --config\.task=…"),
    (["--config"], r"--config needs a value: --config=…"),
    (["--noconfig"], r"--noconfig: --no… stands before a boolean and takes no value; --config=… sets it"),
    (["--noconfig.steps"], r"--noconfig\.steps: config\.steps is not a boolean; --config\.steps=… sets it"),
    ([f"--noconfig.{BOTH}=1"], r"--noconfig\.model\.bidirectional=1: --no… stands before a boolean and takes no value"),
    (["--nohelp=1"], r"--nohelp=1 does not take an argument"),
    ([f"--config.{BOTH}", "False"], r"unexpected argument 'False'; flags are written --name=value"),
    ([f"--config.{BOTH}=2"], r"model\.bidirectional: 2 is an int; expected a bool"),
    ([f"--config.{BOTH}=yes"], r"model\.bidirectional: 'yes' is a str; expected a bool"),
    (["--config.steps=1.5"], r"steps: 1\.5 is a float; expected an int"),
    (["--config.steps=08x"], r"steps: '08x' is a str; expected an int"),
    (["--config.steps="], r"steps: '' is a str; expected an int"),
    (["--config.steps=0", "--config.steps=0"], r"steps: 0 is out of range; it must be at least 1"),
    ([f"--config.{FORGET}=nan"], r"model\.cell\.forget_bias: not a number \(nan\)"),
    ([f"{TUPLE}3", f"{TUPLE}x"], r"optimizer\.schedule\.boundaries\[1\]: 'x' is a str; expected an int"),
    (["--config.steps.more=1"], r"steps: 100 is not a section; cannot set steps\.more"),
    ([f"--config.{AT}[2]=1"], r"boundaries\[2\]: out of range; optimizer\.schedule\.boundaries has 2 elements"),
    (["--config.steps[0]=1"], r"steps\[0\]: steps is 100, not a list"),
    (["--config.steps[=1"], r"steps\[: not the path of a field"),
    (["--config.task[0].length=1"], r"task\[0\]\.length: not the path of a field"),
    (["--flagfile={missing}"], r"[Uu]nable to open flagfile.*No such file"),
    (["--flagfile"], r"--flagfile with no argument"),
    (["--flagfile={binary}"], r"can't decode byte"),
    (["--flagfile={mistaken}"], r"unknown field 'stepz'; did you mean steps\?"),
    (["--sed=3"], r"unknown flag '--sed'"),
    (["--seed=3"], r"unknown flag '--seed'; did you mean --config\.seed\? Fields of a config are flags"),
    (["--length", "3"], r"unknown flag '--length'; did you mean --config\.task\.length\?"),
    (["stray"], r"unexpected argument 'stray'; flags are written --name=value"),
    (["--config={missing}.py"], r"unknown config '.*missing\.py'; did you mean "),
    (["--config={plain}:lstm"], r"unknown preset of .*plain\.py 'lstm'; known: none"),
    (["--config={presets}:smal"], r"unknown preset of .*presets\.py 'smal'; did you mean small\? known: large, small"),
    (["--config={needed}"], r"needed\.py: names no preset; get_config needs one, as in .*needed\.py:NAME"),
    (["--config={nothing}"], r"nothing\.py: get_config returned NoneType; it must return a ConfigDict"),
    (["--config={required}"], r"steps: a required placeholder without a value"),
    (["--config={unbuilt}", "--config.averaging=build"], r"averaging: Needs cannot be built: TypeError: .*decay"),
    (["--config.averaging=build"], r"averaging: 'build' is a str"),
]
"""Words after --config=FILE, and the line that they are answered with."""


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_every_command_answers_a_mistake_with_the_same_line(
    name: str, words: list[str], message: str, file: Callable[[str], str], tmp_path: Path
) -> None:
    (tmp_path / "binary").write_bytes(b"--config.steps=\xff\n")
    (tmp_path / "mistaken").write_text("--config.stepz=3\n")
    words = [word.replace("{missing}", str(tmp_path / "missing")) for word in words]
    words = [re.sub(r"\{(binary|mistaken)\}", rf"{tmp_path}/\1", word) for word in words]
    words = filled(["--config={plain}", *words], file)
    if name == "sweep":
        words = [_in_a_sweep(word, tmp_path) for word in words]
    with pytest.raises(ConfigError, match=message) as caught:
        COMMANDS[name].main(words)
    assert "\n" not in str(caught.value)


def _in_a_sweep(word: str, folder: Path) -> str:
    """The word with the file of a sweep in place of its base."""
    match = re.fullmatch("--config=(.*)", word)
    if match is None or "missing" in word:
        return word
    (folder / "sweep.py").write_text(SWEEP.format(base=match[1]))
    return f"--config={folder / 'sweep.py'}"


@pytest.mark.parametrize("command", [evaluate, generate])
@pytest.mark.parametrize(
    "word", ["--config.steps=3", "-config.steps", "--noconfig.model.bidirectional", "--config=a.py"]
)
def test_a_command_of_a_run_says_that_it_takes_its_config(command: Any, word: str) -> None:
    with pytest.raises(ConfigError, match=r"this command takes the config of the run in --workdir as it is"):
        command.main(["--workdir=runs/adding", word])
