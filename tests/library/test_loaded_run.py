"""`rnnlab.load`: a run's folder as an object, whose numbers are those of the commands."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

import rnnlab
from rnnlab.config.errors import ConfigError
from tests.helpers import SMALL_RUN

pytestmark = pytest.mark.usefixtures("shared_programs")

RUN = SMALL_RUN | {"steps": 4, "eval_every": 2, "checkpoint_every": 2, "log_every": 2}
CHECKPOINTS = Path(__file__).parents[2] / "docs" / "results" / "checkpoints"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return rnnlab.run_training(RUN, tmp_path_factory.mktemp("runs") / "adding", overrides={"seed": 3})


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_loaded_run_evaluates_to_the_numbers_of_its_summary(trained: Any) -> None:
    before, run = files(trained.workdir), rnnlab.load(trained.workdir)
    assert run.summary["status"] == "finished"
    assert (run.config["seed"], run.step) == (3, run.summary["best"]["step"])
    assert run.evaluate("test") == run.summary["best"]["test"]
    assert run.evaluate("validation") == run.summary["best"]["validation"]
    assert files(trained.workdir) == before


def test_a_prediction_is_what_the_evaluation_scores(trained: Any) -> None:
    size = trained.task.size("validation")
    batch = trained.batch(size)
    outputs = trained.predict(batch.inputs)
    assert (outputs.shape, outputs.dtype) == ((size, 1), np.float32)
    assert ((outputs - batch.targets) ** 2).mean() == pytest.approx(trained.evaluate("validation")["loss"], rel=1e-5)
    x = np.asarray(batch.inputs)
    np.testing.assert_allclose(trained.predict(x, [4] * size), trained.predict(x[:4]), rtol=1e-5)
    np.testing.assert_array_equal(trained.model(jnp.asarray(x)).shape, outputs.shape)


def test_gradients_are_those_of_the_file_of_the_last_checkpoint(trained: Any) -> None:
    expected = json.loads((trained.workdir / "gradient_flow.json").read_text())["trained"]
    gradients = trained.checkpoint("last").gradients()
    assert {layer: norms.shape for layer, norms in gradients.items()} == {"layer 1": (6,)}
    np.testing.assert_allclose(gradients["layer 1"], expected["layer 1"], rtol=1e-5)
    batch = trained.batch(2)
    assert not np.allclose(trained.gradients(batch)["layer 1"], trained.gradients()["layer 1"])


def test_each_checkpoint_has_its_own_weights(trained: Any) -> None:
    assert trained.checkpoints == [2, 4]
    kernels = {}
    for step in trained.checkpoints:
        run = trained.checkpoint(step)
        assert run.step == step
        kernels[step] = np.asarray(run.model.layers[0].cells[0].recurrent_kernel[...])
    assert np.abs(kernels[2] - kernels[4]).max() > 1e-4


def test_metrics_are_a_table_of_the_lines_of_the_file(trained: Any) -> None:
    lines = [json.loads(line) for line in (trained.workdir / "metrics.jsonl").read_text().splitlines()]
    assert trained.metrics.rows() == lines
    validation = trained.metrics.where(split="validation")
    assert validation["step"] == [2, 4]
    assert trained.table("dict")["loss"] == [line["loss"] for line in lines]


def test_figures_are_those_of_matplotlib_and_nothing_is_written(trained: Any) -> None:
    before = files(trained.workdir)
    for name, panels in {"learning_curve": 4, "gradient_flow": 1}.items():
        figure = trained.figure(name)
        assert isinstance(figure, Figure)
        assert len(figure.axes) == panels
    assert files(trained.workdir) == before


def test_the_same_call_again_trains_nothing(trained: Any) -> None:
    run = rnnlab.run_training(RUN, str(trained.workdir), overrides={"seed": 3})
    assert run.summary == trained.summary


def test_what_is_printed_says_what_it_is(trained: Any) -> None:
    assert re.fullmatch(
        r"LoadedRun of .*adding: adding, irnn of 8 units, finished at step 4, checkpoint best", repr(trained)
    )
    lines = str(trained.model).splitlines()
    assert [re.split(r"  +", line.strip()) for line in lines] == [
        ["Network"],
        ["parameters", "2 features, answered at the last step", "97"],
        ["layer 1", "2 → Vanilla of 8", "88"],
        ["readout", "Linear", "9"],
    ]


WRONG: dict[str, tuple[Callable[[Any], Any], str]] = {
    "split": (lambda run: run.evaluate("train"), "unknown split 'train'; known: test, validation"),
    "checkpoint": (lambda run: run.checkpoint(3), "no checkpoint of step 3; there are: 2, 4"),
    "word": (lambda run: run.checkpoint("first"), "'first' is neither best nor last nor a step"),
    "shape": (lambda run: run.predict(np.zeros((6, 2))), r"predict: .* \(6, 2\); this network takes \[T, B, 2\]"),
    "width": (lambda run: run.predict(np.zeros((6, 2, 3))), "predict: .*3"),
    "lengths": (lambda run: run.predict(np.zeros((6, 2, 2)), [7, 1]), "predict: .*lengths of x"),
    "rows": (lambda run: run.batch(0), "rows: 0 is below 1"),
    "batch": (lambda run: run.gradients(np.zeros((6, 2, 2))), "gradients: the batch does not go with the network"),
    "figure": (lambda run: run.figure("learning_curves"), "unknown figure 'learning_curves'; did you mean"),
    "column": (lambda run: run.metrics.where(spilt="test"), "unknown column 'spilt'; did you mean split?"),
    "library": (lambda run: run.table("panda"), "unknown library 'panda'; did you mean pandas?"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_one_line(trained: Any, case: str) -> None:
    call, said = WRONG[case]
    with pytest.raises(ConfigError, match=said) as error:
        call(trained)
    assert "\n" not in str(error.value)


def test_a_folder_that_is_not_a_runs_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "sweep.json").write_text("{}")
    for path, said in {
        "missing": "is missing",
        "file": "is not a folder",
        ".": "is the workdir of a sweep; rnnlab.load_sweep opens it",
    }.items():
        with pytest.raises(ConfigError, match=said):
            rnnlab.load(tmp_path / path)
    (tmp_path / "sweep.json").unlink()
    with pytest.raises(ConfigError, match=r"is not the workdir of a run: it has no config.json"):
        rnnlab.load(tmp_path)
    with pytest.raises(ConfigError, match=r"is not the workdir of a sweep"):
        rnnlab.load_sweep(tmp_path)
    with pytest.raises(ConfigError, match="unknown config"):
        rnnlab.run_training(tmp_path / "no.py", tmp_path / "run")


def test_a_published_network_is_loaded() -> None:
    run = rnnlab.load(CHECKPOINTS / "adding150-irnn")
    assert (run.checkpoints, len(run.metrics)) == ([run.summary["best"]["step"]], 0)
    x = np.zeros((4, 2, 2), np.float32)
    x[0, :, 0], x[2:, :, 1] = 0.3, 1.0
    assert run.predict(x).shape == (2, 1)


@pytest.mark.slow
def test_a_published_network_evaluates_to_its_numbers() -> None:
    run = rnnlab.load(CHECKPOINTS / "adding150-irnn")
    assert run.evaluate("test")["loss"] == pytest.approx(run.summary["best"]["test"]["loss"], rel=1e-4)


def test_double_precision_of_the_program_changes_nothing(trained: Any) -> None:
    x = np.asarray(trained.batch(2).inputs)
    expected = trained.predict(x)
    with jax.enable_x64(True):
        np.testing.assert_array_equal(trained.predict(x.astype(np.float64)), expected)
