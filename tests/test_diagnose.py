"""`python -m rnnlab.diagnose`: what it leaves, on a trained and on an untrained network, and its bad inputs."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab import diagnose, evaluate
from rnnlab.config.errors import ConfigError
from rnnlab.diagnostics import diagnosed as as_read
from rnnlab.diagnostics import diagnosis, jacobians
from rnnlab.diagnostics.diagnosis import MEASURES, ONE_ANSWER, measures_of
from rnnlab.records.run_config import resolve_config
from rnnlab.records.workdir import read_config
from rnnlab.tasks import TASKS, Adding
from rnnlab.training.checkpoints import Checkpoints
from rnnlab.training.chosen import restore_chosen
from rnnlab.training.loop import train_and_evaluate
from rnnlab.training.setup import make_run
from tests.generated_tasks import small_task
from tests.helpers import event_file_loader
from tests.tiers import exhaustive_tests

OF_EVERY_TASK = measures_of(Adding())
PUBLISHED = Path(__file__).parent.parent / "docs" / "results" / "checkpoints"

CONFIG = """
def get_config():
    return dict(
        task=dict(name="adding", length=6, validation_size=8, test_size=8),
        model=dict(cell=dict(name={cell!r}, features=4)),
        optimizer=dict(name="adam", learning_rate=0.01),
        steps=2, batch_size=4, eval_every=2, log_every=1,
    )
"""


def write_config(folder: Path, cell: str = "lstm") -> Path:
    path = folder / "little.py"
    path.write_text(CONFIG.format(cell=cell))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    from rnnlab.config.reading import load_file

    train_and_evaluate(load_file(str(write_config(folder))), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def diagnosed(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("diagnosed") / "run"
    shutil.copytree(trained, folder)
    assert diagnose.main([f"--workdir={folder}"]) == 0
    return folder


@pytest.mark.slow
def test_a_run_gets_every_measure_and_its_figure(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert diagnose.main([f"--workdir={trained}"]) == 0
    found = json.loads((trained / "diagnosis.json").read_text())
    assert found["step"] == 2
    assert found["problems"] == []
    for name in OF_EVERY_TASK:
        assert found[name]
        assert (trained / "plots" / f"{name}.png").stat().st_size > 0
    assert len(found["lyapunov"]["layer 1"]["mean"]) == 8
    assert sum(map(float, found["lags"]["layer 1"]["shares"])) == pytest.approx(1, abs=1e-5)  # Written to six digits.
    assert found["truncation"]["all"]["cosine"][-1] == 1
    assert "of 5" in capsys.readouterr().out


def of_task(name: str, folder: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    return resolve_config(
        dict(
            task=small_task(name, folder, patch),
            model=dict(cell=dict(name="gru", features=3)),
            optimizer=dict(name="adam", learning_rate=0.01),
            steps=1,
            batch_size=2,
            eval_batch_size=2,
            eval_every=1,
        )
    )


@pytest.mark.parametrize(
    "name", ["adding", "speech", *exhaustive_tests(*(name for name in TASKS if name not in ("adding", "speech")))]
)
def test_a_diagnosis_looks_at_the_validation_rows_of_every_task(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(of_task(name, tmp_path, monkeypatch), str(tmp_path))
    batch = run.sample(3)
    positions = run.task.sample(3)
    for row, position in enumerate(positions):
        one = jax.jit(run.task.batch, static_argnums=2)(run.data, 0, "validation", position[None])
        np.testing.assert_array_equal(batch.inputs[:, row], one.inputs[:, 0])


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name == "adding" else pytest.mark.exhaustive) for name in sorted(TASKS)],
)
def test_every_measure_runs_on_every_task_fresh_and_from_a_checkpoint(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = of_task(name, tmp_path, monkeypatch)
    (tmp_path / "little.py").write_text(f"def get_config():\n    return {config!r}\n")
    train_and_evaluate(config, tmp_path / "run", str(tmp_path))
    untrained = [f"--config={tmp_path / 'little.py'}", f"--output={tmp_path / 'fresh'}"]
    for words, output in ((untrained, tmp_path / "fresh"), ([f"--workdir={tmp_path / 'run'}"], tmp_path / "run")):
        assert diagnose.main([*words, f"--data_dir={tmp_path}", "--rows=3", "--jacobians=2", "--lags=2"]) == 0
        found = json.loads((output / "diagnosis.json").read_text())
        assert found["problems"] == []
        expected = set(MEASURES) - {"newton"} if name == "forecast" else set(OF_EVERY_TASK)
        assert set(found) & set(MEASURES) == expected
        assert {path.stem for path in (output / "plots").glob("*.png")} >= expected


@pytest.mark.parametrize(("steps", "lags"), [(1, 1), (784, 784), (1000, 1000), (1001, 999), (10_000, 100), (10**7, 1)])
def test_lags_are_as_many_as_a_time_that_grows_with_the_steps_allows(steps: int, lags: int) -> None:
    assert diagnosis.default_lags(steps) == lags


def test_one_large_state_does_not_put_all_others_into_one_bin() -> None:
    values = np.random.default_rng(0).normal(size=1000)
    assert diagnosis._most(values) == (values.min(), values.max())
    assert diagnosis._most(np.append(values, [1e21, -1e21])) == (values.min(), values.max())
    assert diagnosis._most(np.ones(3)) == (1, 1)
    assert diagnosis._most(np.zeros(0)) is None


@pytest.mark.slow
def test_what_lags_leave_out_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"--config={write_config(tmp_path)}", f"--output={tmp_path / 'out'}", "--measure=lags", "--rows=2"]
    assert diagnose.main([*words, "--lags=2"]) == 0
    found = json.loads((tmp_path / "out" / "diagnosis.json").read_text())
    note = "lags: what came back 2 steps and more is one part together; --lags=6 splits all 6"
    assert found["lags"]["note"] == note
    assert note in capsys.readouterr().out
    assert len(found["lags"]["layer 1"]["norms"]) == 3
    assert as_read._needed([0.1, 0.5, 1.0]) == "2 or more"
    assert as_read._needed([0.1, 0.95, 1.0]) == "1"
    assert as_read._needed(["nan"]) == "none"


def published() -> dict[str, Path]:
    """One published checkpoint of every task that has any."""
    found: dict[str, Path] = {}
    for config in sorted(PUBLISHED.glob("*/config.json")):
        found.setdefault(json.loads(config.read_text())["task"]["name"], config.parent)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("task", ["adding", *exhaustive_tests(*(task for task in published() if task != "adding"))])
def test_published_checkpoints_can_be_diagnosed(task: str, tmp_path: Path, real_data: Path) -> None:
    words = [f"--workdir={published()[task]}", f"--output={tmp_path}", f"--data_dir={real_data}"]
    assert diagnose.main([*words, "--measure=horizon,values", "--rows=2"]) == 0
    found = json.loads((tmp_path / "diagnosis.json").read_text())
    assert found["problems"] == []
    assert found["horizon"]["layer 1"]["horizon"] <= found["horizon"]["longest_dependency"]


@pytest.mark.slow
def test_what_is_not_defined_for_a_cell_is_left_out_and_the_rest_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, "lstm")
    words = [f"--config={config}", f"--output={tmp_path / 'out'}"]
    words += ["--config.model.normalization.cell=batch", "--config.model.normalization.steps=6"]
    assert diagnose.main([*words, "--measure=lags,horizon", "--rows=2"]) == 0
    found = json.loads((tmp_path / "out" / "diagnosis.json").read_text())
    assert "horizon" in found
    assert "lags" not in found
    assert found["problems"][0].startswith("lags: ")
    assert "left out: lags" in capsys.readouterr().out
    assert diagnose.main([*words, "--measure=lags"]) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "one of --workdir, --config and --atlas says what to diagnose; given: none"),
        (["--atlas", "--workdir=x"], "given: --workdir and --atlas"),
        (["--workdir=nowhere"], "nowhere is not the workdir of a run"),
    ],
)
def test_nothing_or_too_much_to_diagnose_is_one_clear_line(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        diagnose.main(words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--atlas", "--lags=4"], "--lags does nothing with --atlas; it goes with --workdir, --config"),
        (["--atlas", "--html"], "--html does nothing with --atlas; it goes with --html without --measure, --workdir"),
        (["--workdir=x", "--recording=7"], "--recording does nothing with --workdir; it goes with --replay"),
        (["--config=CONFIG", "--checkpoint=last"], "--checkpoint does nothing with --config"),
        (["--workdir=x", "--replay", "--rows=2"], "--rows does nothing with --replay"),
        (["--workdir=x", "--html", "--rows=2"], "--rows does nothing with --html without --measure"),
    ],
)
def test_a_flag_that_would_be_ignored_is_refused(words: list[str], message: str, tmp_path: Path) -> None:
    words = [word.replace("CONFIG", str(write_config(tmp_path))) for word in words]
    with pytest.raises(ConfigError, match=message):
        diagnose.main(words)


@pytest.mark.parametrize(("words", "rows"), [(["--rows=3"], 3), ([], 16)])
def test_the_atlas_heeds_its_rows(words: list[str], rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []

    def measure(batch: int, **given: Any) -> Any:
        batches.append(batch)
        raise ConfigError("enough")

    monkeypatch.setattr("rnnlab.diagnostics.atlas.measure_atlas", measure)
    with pytest.raises(ConfigError, match="enough"):
        diagnose.main(["--atlas", f"--output={tmp_path}", *words])
    assert batches == [rows]


def test_unknown_measure_is_one_clear_line(trained: Path) -> None:
    with pytest.raises(ConfigError, match=r"--measure: unknown measure 'lag'; did you mean lags"):
        diagnose.main([f"--workdir={trained}", "--measure=lag"])


def test_a_workdir_without_a_checkpoint_is_one_clear_line(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((trained / "config.json").read_text())
    with pytest.raises(ConfigError, match="has no checkpoint yet"):
        diagnose.main([f"--workdir={tmp_path}"])


def poisoned(trained: Path, folder: Path, part: str) -> Path:
    """The run's last checkpoint with NaN in every parameter whose path holds `part`."""
    shutil.copytree(trained, folder, ignore=shutil.ignore_patterns("diagnosis.json", "tensorboard"))
    run = make_run(read_config(trained))
    restored = restore_chosen(trained, "last", run.programs.start(0))
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.full_like(leaf, jnp.nan) if part in str(path) else leaf, restored.state.params
    )
    checkpoints = Checkpoints(folder / "checkpoints")
    checkpoints.save(3, dataclasses.replace(restored.state, params=params), restored.host)
    checkpoints.close()
    return folder


@pytest.mark.slow
def test_what_is_finite_is_measured_where_parameters_are_not(
    diagnosed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = poisoned(diagnosed, tmp_path / "run", "readout")
    assert diagnose.main([f"--workdir={folder}", "--checkpoint=last"]) == 0
    found = json.loads((folder / "diagnosis.json").read_text())
    whole = json.loads((diagnosed / "diagnosis.json").read_text())
    for name in ("jacobians", "lyapunov", "values"):
        assert found[name] == whole[name]
        assert (folder / "plots" / f"{name}.png").exists()
    for name in ("horizon", "lags", "truncation"):
        assert name not in found
        assert not (folder / "plots" / f"{name}.png").exists()  # Those of the run that was copied are gone.
    first, *others = found["problems"]
    assert first == "parameters of step 3 are not finite: readout/bias, readout/kernel"
    assert [line.partition(":")[0] for line in others] == ["horizon", "lags", "truncation"]
    assert all(first in line for line in others)
    assert f"left out: {others[0]}" in capsys.readouterr().out


@pytest.mark.slow
def test_a_network_of_nan_is_exit_status_2_with_every_reason(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = poisoned(trained, tmp_path / "run", "layers")
    assert diagnose.main([f"--workdir={folder}", "--checkpoint=last", "--html"]) == 0  # A page measures nothing.
    assert diagnose.main([f"--workdir={folder}", "--checkpoint=last"]) == 2
    problems = json.loads((folder / "diagnosis.json").read_text())["problems"]
    assert "the state of layer 1 is not finite from time step 1 on" in problems
    assert sum(line.partition(":")[0] in OF_EVERY_TASK for line in problems) == len(OF_EVERY_TASK)
    assert capsys.readouterr().err == "error: nothing could be measured\n"


@pytest.mark.slow
def test_a_second_diagnosis_keeps_what_the_first_one_measured(diagnosed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(diagnosed, folder)
    before = json.loads((folder / "diagnosis.json").read_text())
    assert diagnose.main([f"--workdir={folder}", "--measure=values"]) == 0
    after = json.loads((folder / "diagnosis.json").read_text())
    assert after["command"].endswith("--measure=values")
    assert {**after, "command": before["command"]} == before
    known = {name: before[name] for name in ("step", "rows", "seed", "problems", "command")}
    assert set(diagnose._measured_before(folder, known, ["values"])) == set(OF_EVERY_TASK) - {"values"}
    assert diagnose._measured_before(folder, known | {"rows": 7}, ["values"]) == {}


@pytest.mark.slow
def test_figures_go_to_the_run_s_events(diagnosed: Path) -> None:
    folder = diagnosed / "tensorboard"
    tags = {
        value.tag
        for path in folder.iterdir()
        for event in event_file_loader(path)
        for value in event.summary.value
        if value.HasField("image")
    }
    assert {f"figures/{name}" for name in OF_EVERY_TASK} <= tags


@pytest.mark.slow
def test_jacobians_too_large_for_memory_say_how_large_and_what_samples(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(diagnosis, "MEMORY_LIMIT", 1e3)
    monkeypatch.setattr(jacobians.check_memory, "__defaults__", (1e3,))
    monkeypatch.setattr(jacobians.step_jacobians, "__defaults__", ("carry", 1e3))
    words = [f"--workdir={trained}", f"--output={tmp_path}", "--measure=jacobians,lyapunov,horizon"]
    assert diagnose.main(words) == 0
    first, second = json.loads((tmp_path / "diagnosis.json").read_text())["problems"]
    assert "full Jacobians of 6 steps, 8 rows and a carry of 8 take 0.0246 MB" in first
    assert "--jacobians (time steps) or --rows" in first
    assert second.startswith("lyapunov: all 8 exponents of 8 rows take")
    assert "--exponents" in second
    assert "left out: lyapunov" in capsys.readouterr().out


@pytest.mark.slow
def test_where_every_step_is_read_the_horizon_is_one_answers(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    flow = {"layer 1": 0.5 ** jnp.arange(6.0)[::-1]}
    monkeypatch.setattr("rnnlab.tasks.adding.Adding.readout", "every")
    score = lambda _, outputs, batch: ({"loss": outputs.sum((0, 2)), "within_0.04": jnp.ones(4)}, jnp.ones(4))  # noqa: E731
    monkeypatch.setattr("rnnlab.tasks.adding.Adding.score", score)
    monkeypatch.setattr(diagnosis, "gradient_reach", lambda *_: flow)
    assert diagnose.main([f"--workdir={trained}", f"--output={tmp_path}", "--measure=horizon"]) == 0
    found = json.loads((tmp_path / "diagnosis.json").read_text())["horizon"]
    assert (found["layer 1"]["half_life"], found["layer 1"]["horizon"], found["note"]) == (1, 5, ONE_ANSWER)
    assert ONE_ANSWER in capsys.readouterr().out


@pytest.mark.slow
def test_histograms_of_the_state_count_every_value_once(diagnosed: Path) -> None:
    units = json.loads((diagnosed / "diagnosis.json").read_text())["values"]["layer 1"]
    assert set(units) == {"i", "f", "g", "o", "output", "state h", "state c"}
    for unit in units.values():
        assert len(unit["edges"]) == len(unit["shares"]) + 1
        assert sum(unit["shares"]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("rows", [5, *exhaustive_tests(1000)])
@pytest.mark.slow
def test_more_rows_than_there_are_is_said(
    rows: int, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    size = read_config(trained)["task"]["validation_size"]
    assert 5 < size < 1000
    diagnose.main([f"--workdir={trained}", f"--output={tmp_path}", f"--rows={rows}", "--measure=horizon"])
    said = capsys.readouterr().out
    assert (f"--rows={rows}: the validation split has {size} rows, and all of them are taken\n" in said) == (
        rows > size
    )
    assert json.loads((tmp_path / "diagnosis.json").read_text())["rows"] == min(rows, size)


@pytest.mark.parametrize("name", ["rows", "jacobians", "exponents", "lags"])
def test_a_number_that_no_array_counts_to_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"--{name}.*2147483648"):
        diagnose.main(["--atlas", f"--{name}=2147483648", f"--output={tmp_path}"])


LOOKS = {
    "evaluate": (evaluate.main, [], ["evaluation.json"]),
    "diagnose": (diagnose.main, ["--measure=horizon", "--rows=2"], ["diagnosis.json", "plots"]),
    "page": (diagnose.main, ["--html"], ["report.html"]),
}


@pytest.mark.parametrize("what", LOOKS)
@pytest.mark.parametrize("named", [False, *exhaustive_tests(True)], ids=["default", "output"])
@pytest.mark.slow
def test_a_published_network_stays_as_it_is_unless_its_folder_is_named(
    what: str, named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main, words, left = LOOKS[what]
    published = tmp_path / "net"
    shutil.copytree(next(folder for folder in PUBLISHED.iterdir() if folder.name == "adding150-irnn"), published)
    before = sorted(path.name for path in published.iterdir())
    monkeypatch.chdir(tmp_path)
    assert main([f"--workdir={published}", *words, *([f"--output={published}"] if named else [])]) == 0
    if named:
        assert {*before, *left} <= {path.name for path in published.iterdir()}
        assert not (tmp_path / "runs").exists()
    else:
        assert sorted(path.name for path in published.iterdir()) == before
        assert {path.name for path in (tmp_path / "runs" / "net-published").iterdir()} >= {*left}


@pytest.mark.slow
def test_newton_iterations_are_measured_where_they_are_asked_for(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert diagnose.main([f"--workdir={trained}", f"--output={tmp_path}", "--measure=newton", "--rows=2"]) == 0
    layer = json.loads((tmp_path / "diagnosis.json").read_text())["newton"]["layer 1"]
    assert set(layer["kinds"]) == {"full", "block", "diagonal"}
    assert all(0 < each["iterations"] <= 6 for each in layer["kinds"].values())
    assert all(len(each["course"]) == each["iterations"] + 1 for each in layer["kinds"].values())
    assert (tmp_path / "plots" / "newton.png").stat().st_size > 0
    printed = capsys.readouterr().out
    assert "Newton iterations, of the steps" in printed
    assert "largest Lyapunov exponent" in printed
