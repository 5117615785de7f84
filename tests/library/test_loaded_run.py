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
from rnnlab.library.start import by_names, folder_of
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
    np.testing.assert_array_equal(trained.gradient_flow["trained"]["layer 1"], expected["layer 1"])
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


def test_gradients_of_several_runs_are_one_figure_of_panels_untrained_and_trained(trained: Any) -> None:
    before = files(trained.workdir)
    figure = rnnlab.compare_gradients({"one": trained, "the same": str(trained.workdir)})
    assert [axis.get_title() for axis in figure.axes] == ["untrained", "trained"]
    for axis, norms in zip(figure.axes, trained.gradient_flow.values(), strict=True):
        for line in axis.lines:
            share = np.array(norms["layer 1"]) / norms["layer 1"][-1]  # Losses differ from run to run.
            np.testing.assert_allclose(line.get_ydata(), share)
    assert files(trained.workdir) == before
    with pytest.raises(ConfigError, match="compare_gradients: no runs; give them by their labels"):
        rnnlab.compare_gradients({})


def test_a_half_life_is_the_steps_over_which_a_gradient_halves() -> None:
    assert rnnlab.half_life(0.5 ** (np.arange(12)[::-1] / 3)) == pytest.approx(3, rel=1e-5)
    assert rnnlab.half_life([2.0, 1.0, 0.5]) == np.inf
    with pytest.raises(ConfigError, match=r"half_life: norms of shape \(2, 1\); expected \[T\]"):
        rnnlab.half_life([[1.0], [2.0]])


def test_the_same_call_again_trains_nothing_and_says_so_unless_quiet(
    trained: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for quiet, lines in {False: 1, True: 0}.items():
        run = rnnlab.run_training(RUN, str(trained.workdir), overrides={"seed": 3}, quiet=quiet)
        assert run.summary == trained.summary
        assert len(capsys.readouterr().out.splitlines()) == lines


def test_without_a_name_a_folder_is_a_new_one_that_goes_when_python_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[Callable[[], None]] = []
    monkeypatch.setattr("atexit.register", lambda call, *args, **named: ends.append(lambda: call(*args, **named)))
    folders = [folder_of(None) for _ in range(2)]
    assert [folder.is_dir() for folder in folders] == [True, True]
    assert folders[0] != folders[1]
    for end in ends:
        end()
    assert [folder.exists() for folder in folders] == [False, False]


class Cell(rnnlab.GRU):
    """One that a config names by its class."""


def test_a_class_in_a_config_stands_for_its_name() -> None:
    name = f"{__name__}:Cell"
    assert by_names({"model.cell": Cell, "rest": [("a", Cell), 1.5, None]}) == {
        "model.cell": name,
        "rest": [("a", name), 1.5, None],
    }

    class Inner(rnnlab.GRU):
        """One that no name leads to."""

    for value in (Inner, lambda x: x):
        with pytest.raises(ConfigError, match=r"cannot be named in a config: define it at the top of .*, by def or cl"):
            by_names({"model.cell": value})


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
    "texts": (lambda run: run.predict([[["a", "b"]]]), "predict: the input holds .*; it is numbers"),
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


ADDING = "configs/adding.py"
NO_PATH: dict[str, tuple[Callable[[], Any], str]] = {
    "none": (lambda: rnnlab.load(None), "None is no path"),  # pyright: ignore
    "number": (lambda: rnnlab.load_sweep(5), "5 is no path"),  # pyright: ignore
    "bytes": (lambda: rnnlab.load(b"runs/a"), "b'runs/a' is no path"),  # pyright: ignore
    "empty": (lambda: rnnlab.load(""), "an empty path; . is the current folder"),
    "empty workdir": (lambda: rnnlab.run_training(ADDING, ""), "an empty path; . is the current folder"),
    "config": (lambda: rnnlab.run_training(5), "config: 5 is neither a path nor a mapping"),  # pyright: ignore
    "nothing": (lambda: rnnlab.run_training(None), "config: None is neither a path nor"),  # pyright: ignore
    "sweep": (lambda: rnnlab.run_sweep(5), "sweep: 5 is neither a path nor a mapping"),  # pyright: ignore
    "no replicas": (lambda: rnnlab.run_sweep({}, replicas=0), "replicas: 0 is below 1"),
    "half a replica": (lambda: rnnlab.run_sweep({}, replicas=0.5), "replicas: 0.5 is no whole"),  # pyright: ignore
    "address": (lambda: rnnlab.run_training("gs://b/adding.py"), "'gs://b/adding.py' is an address"),
    "of a sweep": (lambda: rnnlab.run_sweep("s3://b/sweep.py"), "'s3://b/sweep.py' is an address"),
    "list": (
        lambda: rnnlab.run_training(ADDING, overrides=["steps=3"]),  # pyright: ignore
        r"overrides: \['steps=3'\] is no mapping, as {'task.length': 200}",
    ),
    "key": (
        lambda: rnnlab.run_training(ADDING, overrides={3: 3}),  # pyright: ignore
        "overrides: 3 is no path of a field",
    ),
    "weights": (lambda: rnnlab.from_torch(5), "weights: 5 is neither a state_dict nor a path"),  # pyright: ignore
    "address of weights": (lambda: rnnlab.from_torch("s3://b/x"), "'s3://b/x' is an address"),
}


@pytest.mark.parametrize("case", NO_PATH)
def test_what_is_no_path_and_no_mapping_is_one_line(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.setattr("rnnlab.library.start.train_and_evaluate", lambda *_: pytest.fail("it trains"))
    call, said = NO_PATH[case]
    with pytest.raises(ConfigError, match=said) as error:
        call()
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
