"""`rnnlab.evaluate --test_lengths`: a trained network at other lengths of its task, in one command."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import pytest

from rnnlab import evaluate
from rnnlab.config.errors import ConfigError
from rnnlab.plots import lengths as figure_of_lengths
from rnnlab.records.run_config import resolve_config
from rnnlab.tasks import TASKS, Adding
from rnnlab.training.chosen import restore_chosen
from rnnlab.training.loop import train_and_evaluate
from rnnlab.training.other_lengths import judged_by, read_lengths
from rnnlab.training.setup import make_run
from tests.helpers import SMALL_RUN, without_figures

pytestmark = pytest.mark.usefixtures("shared_programs")

RUN = SMALL_RUN | {"steps": 4, "eval_every": 2, "checkpoint_every": 2, "log_every": 2}
CHECKPOINTS = Path(__file__).parent.parent / "docs" / "results" / "checkpoints"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("runs") / "adding"
    with without_figures():
        train_and_evaluate(resolve_config(RUN), workdir)
    return workdir


def written(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "evaluation_by_length.json").read_text())


def test_each_length_has_the_numbers_of_the_task_at_that_length(trained: Path, capsys: pytest.CaptureFixture) -> None:
    best = json.loads((trained / "summary.json").read_text())["best"]
    capsys.readouterr()
    assert evaluate.main([f"--workdir={trained}", "--test_lengths=9, 6"]) == 0
    by_length = written(trained)
    rows = by_length.pop("evaluations")
    judged = {"metric": "loss", "solved": 0.01, "shares": ["within_0.04"]}
    assert by_length == {"step": best["step"], "trained_length": 6, **judged}
    assert rows[0] == {"length": 6, "split": "test", **best["test"], "baseline": 1 / 6}
    assert (rows[1]["length"], rows[1]["baseline"]) == (9, 1 / 6)
    run = make_run(resolve_config(RUN | {"task": RUN["task"] | {"length": 9}}))
    assert rows[1]["loss"] == pytest.approx(loss_by_hand(run, trained), rel=1e-5)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:4] for line in lines[:2]] == [["length", f"{n}", "split", "test"] for n in (6, 9)]
    assert lines[2] == f"figure: {trained / 'plots' / 'evaluation_by_length.png'}"
    assert (trained / "plots" / "evaluation_by_length.png").stat().st_size > 0


def loss_by_hand(run: Any, workdir: Path) -> float:
    """The mean squared error of the best checkpoint over the run's test split, in one batch."""
    state = restore_chosen(workdir, "best", run.programs.start(0)).state
    network = run.programs.structure.network(state.evaluated, state.buffers)

    @jax.jit
    def loss() -> jax.Array:
        batch = run.task.batch(run.data, 0, "test", jnp.arange(run.task.size("test")))
        return ((network(batch.inputs, batch.lengths) - batch.targets) ** 2).mean()

    return float(loss())


@pytest.mark.slow
def test_all_splits_go_beside_each_other_and_elsewhere_if_wanted(trained: Path, tmp_path: Path) -> None:
    words = [f"--workdir={trained}", "--test_lengths=3,4", "--split=all", f"--output={tmp_path}"]
    assert evaluate.main(words) == 0
    rows = written(tmp_path)["evaluations"]
    assert [(row["length"], row["split"]) for row in rows] == [
        (length, split) for length in (3, 4) for split in ("validation", "test")
    ]


MISTAKES = [
    ("0", "'0' is not a whole number above 0"),
    ("-3", "'-3' is not a whole number above 0"),
    ("1.5", "'1.5' is not a whole number above 0"),
    ("5,many", "'many' is not a whole number above 0"),
    ("5,,6", "'' is not a whole number above 0"),
    ("²", "'²' is not a whole number above 0"),
    ("99999999999", "'99999999999' is not a whole number above 0"),
    ("", "no length"),
    ("6,8,6", "6 stands there 2 times"),
    ("6,1", "task.length: 1 is out of range; it must be at least 2"),
]


@pytest.mark.parametrize(("lengths", "message"), MISTAKES)
def test_a_bad_length_is_one_line_and_nothing_is_written(
    trained: Path, tmp_path: Path, lengths: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=r"^--test_lengths: ") as error:
        evaluate.main([f"--workdir={trained}", f"--test_lengths={lengths}", f"--output={tmp_path / 'there'}"])
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "there").exists()


def test_a_task_without_lengths_is_one_line_with_its_options() -> None:
    with pytest.raises(ConfigError, match=r"the task pixels has no option length; its options are: order, white$"):
        read_lengths(["5"], {"name": "pixels", "order": "rows", "white": 1.0})


def test_decoding_and_lengths_do_not_go_together(trained: Path) -> None:
    with pytest.raises(ConfigError, match="--decode does nothing with --test_lengths"):
        evaluate.main([f"--workdir={trained}", "--test_lengths=5", "--decode"])


class OneInputAStep(Adding):
    """A task whose length is the network's number of inputs, too."""

    def initialize(self, options: Any) -> None:
        super().initialize(options)
        self.in_features = 2 * self.length

    def example(self, *drawn: Any) -> Any:
        example = super().example(*drawn)
        return example._replace(inputs=example.inputs.repeat(self.length, 1))


@pytest.mark.slow
def test_a_length_that_changes_what_is_trained_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "wide", OneInputAStep)
    with without_figures():
        train_and_evaluate(resolve_config(RUN | {"task": RUN["task"] | {"name": "wide"}}), tmp_path)
    with pytest.raises(ConfigError, match=r"^--test_lengths: task.length changes what is trained: .* at 5, not "):
        evaluate.main([f"--workdir={tmp_path}", "--test_lengths=5"])


@pytest.mark.slow
def test_with_a_curriculum_the_length_of_training_is_the_stage_of_the_checkpoint(tmp_path: Path) -> None:
    curriculum = {"field": "length", "values": [3], "steps": [3]}
    with without_figures():
        train_and_evaluate(resolve_config(RUN | {"curriculum": curriculum}), tmp_path)
    for checkpoint, length in (("2", 3), ("last", 6)):
        assert evaluate.main([f"--workdir={tmp_path}", "--test_lengths=3,6", f"--checkpoint={checkpoint}"]) == 0
        assert written(tmp_path)["trained_length"] == length


@pytest.mark.slow
def test_a_published_network_is_measured_beside_itself(tmp_path: Path) -> None:
    words = [f"--workdir={CHECKPOINTS / 'adding150-irnn'}", "--test_lengths=20,150", f"--output={tmp_path}"]
    assert evaluate.main(words) == 0
    losses = {row["length"]: row["loss"] for row in written(tmp_path)["evaluations"]}
    assert losses[150] == pytest.approx(0.00027, abs=5e-6)
    assert losses[20] > losses[150]


# --- the figure ------------------------------------------------------------------------------------------------------


@pytest.fixture
def axes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The panels of the figure that is saved next."""
    kept: list[Any] = []
    monkeypatch.setattr(figure_of_lengths, "save", lambda figure, path: kept.extend(figure.axes) or path)
    yield kept
    plt.close("all")


def measured(metric: str, shares: list[str], **row: float) -> dict[str, Any]:
    rows = [{"length": n, "split": "test", "loss": 0.1 * n, "baseline": 0.5 + n / 100, **row} for n in (10, 20, 40)]
    return {"metric": metric, "solved": 0.99, "shares": shares, "trained_length": 20, "evaluations": rows}


def lines_of(axis: Any) -> dict[str, tuple[list, list]]:
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axis.lines}


def test_the_figure_has_the_metric_and_the_loss_with_its_baseline(tmp_path: Path, axes: list[Any]) -> None:
    content = measured("accuracy", ["accuracy"], accuracy=0.75)
    (tmp_path / "evaluation_by_length.json").write_text(json.dumps(content))
    figure_of_lengths.evaluation_by_length(tmp_path)
    accuracy, loss = (lines_of(axis) for axis in axes)
    assert accuracy["test"] == ([10, 20, 40], [0.75] * 3)
    assert accuracy["solved"][1] == [0.99, 0.99]
    assert accuracy["trained at 20"][0] == [20, 20]
    assert "baseline" not in accuracy
    assert loss["test"][1] == pytest.approx([1.0, 2.0, 4.0])
    assert loss["baseline"][1] == pytest.approx([0.6, 0.7, 0.9])
    assert axes[0].get_ylim() == (-0.02, 1.02)
    assert [tick.get_text() for tick in axes[1].get_xticklabels()] == ["10", "20", "40"]


def test_a_task_that_is_judged_by_its_loss_has_one_panel(tmp_path: Path, axes: list[Any]) -> None:
    (tmp_path / "evaluation_by_length.json").write_text(json.dumps(measured("loss", [])))
    figure_of_lengths.evaluation_by_length(tmp_path)
    assert len(axes) == 1
    assert set(lines_of(axes[0])) == {"test", "baseline", "solved", "trained at 20"}


def test_a_loss_that_overflowed_and_a_task_without_baseline_are_drawn(tmp_path: Path) -> None:
    content = measured("loss", []) | {"solved": None}
    for row, loss in zip(content["evaluations"], ("inf", "nan", 0.0), strict=True):
        row |= {"loss": loss, "baseline": None}
    (tmp_path / "evaluation_by_length.json").write_text(json.dumps(content))
    assert figure_of_lengths.evaluation_by_length(tmp_path).stat().st_size > 0


def test_a_task_is_judged_by_what_solves_it_else_by_the_loss() -> None:
    task = Adding(length=6)
    assert judged_by(task) == {"metric": "loss", "solved": 0.01, "shares": ["within_0.04"]}
    task.solved = None
    assert judged_by(task) == {"metric": "loss", "solved": None, "shares": ["within_0.04"]}
