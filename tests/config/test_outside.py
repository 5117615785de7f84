"""Names `package.module:Name`: what lives outside the project is completed, checked and found like what is in it."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from flax import nnx

from rnnlab.config import outside
from rnnlab.config.errors import ConfigError
from rnnlab.config.overrides import differences, to_json
from rnnlab.config.reading import load_file
from rnnlab.nn.network import Network
from rnnlab.ops.initializers import as_initializer
from rnnlab.optim.chain import make_optimizer
from rnnlab.records.run_config import apply_overrides, resolve_config
from rnnlab.records.workdir import check_config, open_workdir, read_config
from rnnlab.sweeps.spec.space import expand, load_sweep
from rnnlab.tasks import find_task, make_task

STUDY = {
    "pieces.py": """
import jax
import jax.numpy as jnp
import optax
from numbers_of_the_study import HALF
from rnnlab.cells import Cell
from rnnlab.config.bounds import PositiveInt, Rate
from rnnlab.tasks import Adding

class Leaky(Cell):
    def __init__(self, in_features, features: PositiveInt, *, rate: Rate = HALF, rngs):
        super().__init__(in_features, features, rngs=rngs)
        self.rate = rate

    def gates(self, carry, z, u):
        (h,) = carry
        return (h + self.rate * (jnp.tanh(z[0] + u[0]) - h),)

class Longer(Adding):
    larger_is_better = frozenset({"glory"})

def halves(scale: float = HALF):
    return lambda key, shape, dtype=jnp.float32: jnp.full(shape, scale, dtype)

def cube():
    return lambda x: x**3

def signs(scale: float = 1.0):
    return optax.stateless(lambda updates, params: optax.tree.scale(scale, jax.tree.map(jnp.sign, updates)))

def lifted(end: float = HALF):
    return lambda step: 1 + 0 * step * end

def largest(probe):
    return {"largest": probe.grad_norm}

def none():
    return None

NUMBER = 3
""",
    "numbers_of_the_study.py": "HALF = 0.5\n",
    "broken.py": "import numbers_of_the_study\nx = 1 / 0\n",
    "lacks.py": "import nothing_of_the_kind\n",
    "wrong.py": "def f(:\n",
    "config.py": """
from numbers_of_the_study import HALF

def get_config():
    return dict(
        steps=4, batch_size=4, eval_batch_size=8,
        task=dict(name="adding", length=5, validation_size=8, test_size=8),
        model=dict(cell=dict(name="pieces:Leaky", features=4, rate=HALF / 2)),
        optimizer=dict(name="sgd", learning_rate=0.1),
    )
""",
    "sweep.py": """
def get_config():
    return dict(base="BASE", product={"model.cell": ["lstm", "pieces:Leaky"]})
""",
}


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A folder with a config and what it names; afterwards nothing of it is imported any more."""
    folder = tmp_path / "study"
    folder.mkdir()
    for name, text in STUDY.items():
        (folder / name).write_text(text)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield folder
    outside.look_in([])


def resolved(study: Path, **overrides: str) -> dict:
    config = load_file(str(study / "config.py"))
    return resolve_config(apply_overrides(config, {path.replace("__", "."): v for path, v in overrides.items()}))


def test_a_name_is_one_of_a_module_and_no_other_text() -> None:
    names = ["a:B", "a.b_1:c", "optax:lion", "lstm", "a:", ":B", "a.b", "a:b.c", "1:B", "C:\\x", "a b:c", 3, None]
    assert [outside.is_outside(name) for name in names] == [True] * 3 + [False] * 10


def test_what_is_outside_is_completed_and_checked_wherever_a_name_stands(study) -> None:
    config = resolved(
        study,
        task="pieces:Longer",
        model__cell__recurrent_init="pieces:halves",
        model__readout_init="pieces:halves",
        optimizer="pieces:signs",
        optimizer__learning_rate="0.1",
        optimizer__schedule="pieces:lifted",
        diagnostics="pieces:largest,norms",
        **{"model__cell": "vanilla", "model__cell__features": "4", "model__cell__activation": "pieces:cube"},
    )
    assert (config["task"]["name"], config["task"]["length"]) == ("pieces:Longer", 150)
    assert config["model"]["cell"]["recurrent_init"] == {"name": "pieces:halves", "scale": 0.5}
    assert config["model"]["cell"]["activation"] == {"name": "pieces:cube"}
    assert config["optimizer"]["schedule"] == {"name": "pieces:lifted", "end": 0.5}
    assert config["optimizer"]["scale"] == 1.0
    assert config["diagnostics"] == ("pieces:largest", "norms")
    assert resolved(study)["model"]["cell"] == {"name": "pieces:Leaky", "features": 4, "rate": 0.25}
    assert find_task(config).larger_is_better == {"glory"}
    assert as_initializer(config["model"]["cell"]["recurrent_init"])(None, (1, 1)) == 0.5
    assert make_task(config["task"]).length == 150
    make_optimizer(config["optimizer"], 10)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model.cell.rate", "2", "model.cell.rate: 2.0 is out of range; it must be at least 0 and below 1"),
        ("model.cell.rat", "2", "unknown field 'model.cell.rat'; did you mean model.cell.rate? "),
        ("model.cell", "piece:Leaky", "model.cell: piece:Leaky: no module 'piece'; looked for on PYTHONPATH and in "),
        ("model.cell", "a.b:Leaky", "model.cell: a.b:Leaky: no module 'a'; looked for on PYTHONPATH and in "),
        ("model.cell", "pieces:Leeky", "pieces.py: 'Leeky'; did you mean Leaky? known: Adding, Cell, "),
        ("model.cell", "pieces:NUMBER", "model.cell: pieces:NUMBER is 3; it must be a class or a function"),
        ("model.cell", "broken:A", "broken:A: ZeroDivisionError: division by zero ("),
        ("model.cell", "lacks:A", "lacks:A: ModuleNotFoundError: No module named 'nothing_of_the_kind' ("),
        ("model.cell", "wrong:A", "wrong:A: SyntaxError: invalid syntax ("),
        ("diagnostics", "pieces:no", "diagnostics[0]: unknown name in "),
        ("optimizer", "optax:lyon", "optimizer: unknown name in "),
    ],
)
def test_a_mistake_in_such_a_name_is_one_line_that_says_where(study, field, value, message) -> None:
    with pytest.raises(ConfigError) as error:
        resolved(study, **{field.replace(".", "__"): value})
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    if "no module" in message:
        assert f" and in {study} (import_from); put the folder that has it on PYTHONPATH" in str(error.value)


@pytest.mark.parametrize(
    ("field", "name", "message"),
    [
        ("task", "pieces:none", "task: pieces:none makes None; it must make a rnnlab.tasks.Task"),
        ("task", "pieces:Leaky", "task: pieces:Leaky does not make a rnnlab.tasks.Task: missing a required argument"),
    ],
)
def test_what_makes_something_else_is_refused(study, field, name, message) -> None:
    resolved(study)
    with pytest.raises(ConfigError, match=message):
        make_task({"name": name})


def test_config_json_finds_it_again_without_the_config_and_from_elsewhere(study, tmp_path, monkeypatch) -> None:
    config = resolved(study)
    assert config["import_from"] == (str(study),)
    open_workdir(tmp_path / "run", config)
    outside.look_in([])
    assert "pieces" not in sys.modules
    monkeypatch.chdir("/")
    again = resolve_config(json.loads(to_json(config)))
    assert again == config
    network = nnx.eval_shape(lambda: Network(2, 1, **again["model"], rngs=nnx.Rngs(0)))
    assert type(network.layers[0].cells[0]).__module__ == "pieces"


def test_a_run_whose_study_was_moved_says_where_it_looked_and_goes_on_with_the_config(study, tmp_path) -> None:
    config = resolved(study)
    open_workdir(tmp_path / "run", config)
    outside.look_in([])
    moved = shutil.move(study, tmp_path / "moved")
    with pytest.raises(ConfigError, match=f"no module 'pieces'.* in {study} .import_from.; put the folder"):
        resolve_config(json.loads(to_json(config)))
    with pytest.raises(ConfigError, match=f"^{tmp_path}/run/config.json: model.cell: pieces:Leaky: no module 'pieces'"):
        read_config(tmp_path / "run")
    here = resolved(moved)
    check_config(tmp_path / "run", here)
    assert [line.split(":")[0] for line in differences(config, here)] == ["import_from"]


def test_two_studies_may_have_modules_of_one_name(study, tmp_path) -> None:
    other = Path(shutil.copytree(study, tmp_path / "other"))
    (other / "numbers_of_the_study.py").write_text("HALF = 0.25\n")
    shares = [resolved(folder)["model"]["cell"]["rate"] for folder in (study, other, study)]
    assert shares == [0.25, 0.125, 0.25]


def test_a_config_without_such_names_keeps_no_folder(study) -> None:
    assert resolved(study, model__cell="lstm", model__cell__features="4")["import_from"] == ()
    assert (
        resolved(
            study,
            optimizer="optax:lion",
            optimizer__learning_rate="0.1",
            model__cell="lstm",
            **{"model__cell__features": "4"},
        )["import_from"]
        == ()
    )


def test_an_installed_module_is_not_shadowed_by_one_beside_the_config(study) -> None:
    (study / "optax.py").write_text("")
    assert resolved(study, optimizer="optax:lion", optimizer__learning_rate="0.1")["optimizer"]["b1"] == 0.9


def test_a_sweep_finds_what_is_beside_its_own_file(study, tmp_path) -> None:
    (tmp_path / "base.py").write_text(
        (study / "config.py")
        .read_text()
        .replace("HALF / 2", "0.1")
        .replace("from numbers_of_the_study import HALF", "")
        .replace("pieces:Leaky", "lstm")
        .replace(", rate=0.1", "")
    )
    (study / "sweep.py").write_text(STUDY["sweep.py"].replace("BASE", str(tmp_path / "base.py")))
    lstm, leaky = expand(load_sweep(str(study / "sweep.py"), {}))
    assert (lstm.config["import_from"], leaky.config["import_from"]) == ((), (str(study),))
    assert leaky.config["model"]["cell"]["rate"] == 0.5
