"""`rnnlab.export`: a network as a folder to be handed on, which is opened as a run is."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import rnnlab
from rnnlab import evaluate, export
from rnnlab.config.errors import ConfigError

CHECKPOINTS = Path(__file__).parents[2] / "docs" / "results" / "checkpoints"
PUBLISHED = CHECKPOINTS / "adding150-irnn"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "irnn"
    assert export.main([f"--workdir={PUBLISHED}", f"--output={folder}"]) == 0
    return folder


@pytest.fixture(scope="module")
def published() -> Any:
    return rnnlab.load(PUBLISHED)


def test_a_folder_that_is_handed_on_holds_the_same_network(exported: Path, published: Any) -> None:
    names = {path.name for path in exported.iterdir()}
    assert names == {"model.safetensors", "config.json", "summary.json", "README.md"}
    run = rnnlab.load(exported)
    assert (run.step, run.summary) == (published.step, published.summary)
    assert run.config == published.config
    x = np.random.default_rng(0).random((6, 2, 2), np.float32)
    np.testing.assert_array_equal(run.predict(x), published.predict(x))
    arrays = safetensors.numpy.load_file(exported / "model.safetensors")
    kernel = published.model.layers[0].cells[0].recurrent_kernel[...]
    np.testing.assert_array_equal(arrays["params/layers/0/cells/0/recurrent_kernel"], kernel)


def test_the_card_says_what_it_is_from_the_runs_numbers(exported: Path, published: Any) -> None:
    card = (exported / "README.md").read_text(encoding="utf-8")
    test = published.summary["best"]["test"]["loss"]
    for line in (
        "# irnn on adding",
        "Input [T, B, 2] numbers, time first; output [B, 1].",
        f"| test | loss | {test:.6g} |",
        f"| batch | 16 rows, seed {published.config['seed']} |",
        f"step {published.step} of {published.config['steps']}",
    ):
        assert line in card
    assert str(published.model) in card


@pytest.mark.slow
def test_the_commands_take_the_folder(exported: Path, published: Any, tmp_path: Path) -> None:
    assert evaluate.main([f"--workdir={exported}", f"--output={tmp_path}"]) == 0
    evaluated = json.loads((tmp_path / "evaluation.json").read_text())
    assert evaluated["loss"] == pytest.approx(published.summary["best"]["test"]["loss"], rel=1e-4)


def damaged(folder: Path, exported: Path, change: Any) -> Path:
    """A copy of the folder whose file of weights is changed."""
    for path in exported.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    path = folder / "model.safetensors"
    change(path)
    return folder


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def rename(path: Path) -> None:
    with safetensors.safe_open(path, "np") as file:
        texts = file.metadata()
    arrays = safetensors.numpy.load_file(path)
    arrays["params/readout/kernel2"] = arrays.pop("params/readout/kernel")
    safetensors.numpy.save_file(arrays, path, texts)


def reshape(path: Path) -> None:
    with safetensors.safe_open(path, "np") as file:
        texts = file.metadata()
    arrays = safetensors.numpy.load_file(path)
    arrays["params/readout/kernel"] = np.zeros((3, 1), np.float32)
    safetensors.numpy.save_file(arrays, path, texts)


def forget(path: Path) -> None:
    safetensors.numpy.save_file(safetensors.numpy.load_file(path), path)


DAMAGES = {
    cut: "model.safetensors is not a whole safetensors file (",
    rename: "model.safetensors is of another network: params/readout/kernel, params/readout/kernel2",
    reshape: "model.safetensors is of another network: params/readout/kernel",
    forget: "model.safetensors lacks 'step'; restore it",
}


@pytest.mark.parametrize("change", DAMAGES, ids=lambda change: change.__name__)
def test_a_damaged_file_of_weights_is_one_line(exported: Path, tmp_path: Path, change: Any) -> None:
    with pytest.raises(ConfigError, match=re.escape(DAMAGES[change])) as error:
        _ = rnnlab.load(damaged(tmp_path, exported, change)).model
    assert "\n" not in str(error.value)


def test_a_mistake_in_the_command_is_one_line(exported: Path, published: Any, tmp_path: Path) -> None:
    for words, said in {
        (): "--workdir is missing, as in --workdir=runs/adding",
        (f"--workdir={PUBLISHED}",): "--output is missing",
        (f"--workdir={tmp_path / 'no'}", "--output=x"): "no is missing; name the folder of a run",
    }.items():
        with pytest.raises(ConfigError, match=said):
            export.main(list(words))
    (tmp_path / "file").write_text("")
    for output, said in {PUBLISHED: "holds a run; take another folder", tmp_path / "file": "is not a folder"}.items():
        with pytest.raises(ConfigError, match=said):
            published.export(output)
    assert not (PUBLISHED / "model.safetensors").exists()
