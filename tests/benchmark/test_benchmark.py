"""The benchmark: all contestants compute the same, and one that does not is void."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from rnnlab.benchmark import __main__ as benchmark
from rnnlab.benchmark import contestants, diagnostics, language_model, race, speech, sweeps
from rnnlab.benchmark.cases import OF_PEERS, Case, make_problem
from rnnlab.benchmark.of_table import backends_of, multiply_adds
from rnnlab.benchmark.worker import takes_part
from rnnlab.cells import CELLS
from rnnlab.config.errors import ConfigError
from rnnlab.config.reading import load_file
from rnnlab.engine import default_chunk
from rnnlab.records.run_config import resolve_config
from rnnlab.tasks import TASKS
from tests.tiers import in_tiers

ROOT = Path(__file__).parents[2]

MAKERS = {
    "fused": lambda *a: contestants.rnnlab(*a, backend="fused"),
    "reference": lambda *a: contestants.rnnlab(*a, backend="reference"),
    "plain scan": contestants.plain_scan,
    "flax": contestants.flax_rnn,
    "torch": contestants.torch_nn,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "cell", [pytest.param(cell, marks=pytest.mark.exhaustive if cell in ("irnn", "gru") else ()) for cell in OF_PEERS]
)
def test_all_contestants_compute_the_same(cell, monkeypatch):
    monkeypatch.setattr("rnnlab.engine.unrolling._CACHED_ELEMENTS", 1)
    monkeypatch.setattr("rnnlab.engine.unrolling._ROWS", 1)
    case = Case(cell, 19, 4, 3, 5, bidirectional=True)
    assert 19 % default_chunk(19, 4, case.gates * 5) == 5  # Chunks of 7 steps, and a remainder.
    problem = make_problem(case)
    collected = {}
    for name, make in MAKERS.items():
        if name != "torch" or importlib.util.find_spec("torch"):
            collected[name] = make(case, problem)
            collected[name].step(2)
            collected[name].forward()
    first = collected["plain scan"]
    for name, created in collected.items():
        assert created.loss == pytest.approx(first.loss, rel=1e-5), name
        assert created.gradient == pytest.approx(first.gradient, rel=1e-5), name


@pytest.mark.parametrize("cell", in_tiers([cell for cell in CELLS if cell not in OF_PEERS], costly=True))
def test_contestants_of_any_cell_compute_the_same(cell):
    case = Case(cell, 6, 4, 3, 8)
    problem = make_problem(case)
    scan = contestants.plain_scan(case, problem)
    for backend in backends_of(cell):
        ours = contestants.rnnlab(case, problem, backend=backend)
        ours.step(1)
        ours.forward()
        assert ours.loss == pytest.approx(scan.loss, rel=1e-5), backend
        assert ours.gradient == pytest.approx(scan.gradient, rel=1e-5), backend


@pytest.mark.parametrize("cell", OF_PEERS)
def test_multiplications_are_those_of_the_cells_products(cell):
    case = Case(cell, 6, 4, 3, 8)
    assert multiply_adds(case) == (case.gates * 8 * 3, case.gates * 8 * 8)


def test_of_a_cell_that_others_lack_only_ours_takes_part():
    names = ("rnnlab fused", "rnnlab reference", "rnnlab scan", "plain scan", "flax.nnx.RNN", "torch.nn")
    taking = {cell: [name for name in names if takes_part(name, Case(cell, 6, 4, 3, 8))] for cell in CELLS}
    assert taking["lstm"] == [name for name in names if name != "rnnlab scan"]
    assert taking["gru_reset_before"] == ["rnnlab fused", "plain scan"]
    assert taking["mingru"] == ["rnnlab fused", "rnnlab scan", "plain scan"]
    assert all({"rnnlab fused", "plain scan"} <= {*each} for each in taking.values())


@pytest.mark.parametrize("quantity", ["loss", "gradient"])
@pytest.mark.parametrize("wrong", [2.1, 1.9, float("inf"), float("nan")])
@pytest.mark.parametrize("position", [0, 1, 2])
def test_row_that_disagrees_is_void(quantity, wrong, position):
    numbers = [2.0, 2.0001]
    numbers.insert(position, wrong)
    rows = [{"loss": 2.0, "gradient": 2.0} | {quantity: number} for number in numbers]
    benchmark.judge(rows)
    assert ["error" in row for row in rows] == [index == position for index in range(3)]
    assert f"void: its {quantity} is" in rows[position]["error"]


class FakeWorker:
    """Answers as a worker does: each contestant has a loss, and every call takes half a second."""

    def __init__(self, losses: dict[str, float]):
        self.losses, self.names = losses, list(losses)

    def ask(self, do: str, name: str = "", **_) -> dict | float | None:
        created = {"loss": self.losses.get(name), "gradient": 1.0}
        return {"prepare": created, "time": 0.5, "rate": 4.0, "forget": None}[do]


def test_measuring_voids_who_computes_something_else():
    workers = [FakeWorker({"a": 2.0, "b": 2.0}), FakeWorker({"wrong": 3.0})]
    rows = {row["contestant"]: row for row in benchmark.measure(Case("lstm", 7, 4, 3, 5), workers, 2, 0.0)}
    assert [name for name, row in rows.items() if "void" in row.get("error", "")] == ["wrong"]
    assert rows["a"]["step"] == rows["b"]["forward"] == [0.5, 0.5]
    assert rows["a"]["rates"] == [4.0, 4.0]


def test_ratio_is_the_peer_over_rnnlab_turn_by_turn():
    def row(name: str, times: list[float]) -> dict:
        return {"contestant": name, "step": times, "forward": times, "rates": rates}

    case = Case("lstm", 10, 2, 3, 4)
    rates = [case.step_products() * factor for factor in (1.0, 1.0, 0.25)]
    rows = [row("rnnlab fused", [1.0, 2.0, 4.0]), row("peer", [3.0, 6.0, 4.0])]
    ours, peer = benchmark.summarize(case, rows)
    assert (ours["step_ratio"], peer["step_ratio"]) == (1.0, 3.0)
    assert ours["step_share"] == pytest.approx(1.0), "1, 1/2 and 1 turn by turn"
    assert "step_ratio" not in benchmark.summarize(case, [{"contestant": "peer", "error": "void"}])[0]


def test_unknown_cell_or_shape_is_named():
    with pytest.raises(ConfigError, match="did you mean lstm"):
        benchmark.main(["--cells=lsmt"])
    with pytest.raises(ConfigError, match="unknown value of --shapes '9'"):
        benchmark.main(["--shapes=9"])


@pytest.mark.slow
def test_command_writes_a_table_a_file_and_a_figure(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "SHAPES", [(6, 4, 2, 3, False)])
    output = tmp_path / "benchmark.json"
    flags = ["--cells=irnn", "--shapes=0", "--turns=1", "--seconds=0.01", f"--output={output}"]
    assert benchmark.main(flags) == 0
    rows = json.loads(output.read_text())["results"]
    assert {"rnnlab fused", "rnnlab reference", "plain scan", "flax.nnx.RNN"} <= {row["contestant"] for row in rows}
    assert all(row["step_ratio"] > 0 for row in rows)
    assert output.with_suffix(".png").stat().st_size > 0
    table = output.with_suffix(".md").read_text().splitlines()
    assert len(table) == 3
    assert table[0].count("|") == table[1].count("|") == table[2].count("|")
    assert "(6, 4, 2, 3)" in table[2]
    assert "rnnlab fused" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("run", "file"),
    [
        ("adding, irnn", "adding.py"),
        ("adding, lstm", "adding.py:lstm"),
        ("adding, gru", "adding.py:gru"),
        ("pixels, irnn", "pixels.py"),
    ],
)
def test_runs_that_are_watched_are_those_of_the_configs(run, file):
    ours, theirs = resolve_config(diagnostics.RUNS[run]), resolve_config(load_file(f"{ROOT}/configs/{file}"))
    for section in ("task", "model", "batch_size"):
        assert ours[section] == theirs[section]
    assert ours["optimizer"] | {"learning_rate": 0} == theirs["optimizer"] | {"learning_rate": 0}


def test_cost_of_watching_is_what_all_and_writing_take_every_hundred_steps():
    times = {"step": [1.0, 2.0, 4.0], "norms": [2.0, 2.0, 4.0], "all": [1.5, 3.0, 6.0], "write": [0.5, 1.0, 2.0]}
    result = diagnostics.summarize(times)
    assert result == {"step_median": 2.0, "in_steps": {"norms": 1.0, "all": 1.5, "write": 0.5}, "share": 0.02}
    table = diagnostics.markdown([{"run": "a", **result}, {"run": "b", "error": "no data"}]).splitlines()
    assert table[2] == "| a | 2e+03 | 1.00 | 1.50 | 0.50 | 2.0% |"
    assert table[3].count("|") == table[2].count("|")


@pytest.mark.slow
def test_watching_is_measured_and_written_down(tmp_path, monkeypatch, capsys):
    small = {"task": {"name": "adding", "length": 5}, "model": {"cell": {"name": "lstm", "features": 3}}}
    monkeypatch.setattr(diagnostics, "RUNS", {"small": diagnostics.ADDING | small})
    output = tmp_path / "cost.json"
    assert benchmark.main(["--diagnostics", "--turns=1", "--seconds=0", f"--output={output}"]) == 0
    (row,) = json.loads(output.read_text())["results"]
    assert set(row["times"]) == {"step", "gradient_flow", "norms", "saturation", "spectrum", "all", "write"}
    assert row["share"] > 0
    assert "small" in output.with_suffix(".md").read_text()
    assert "small" in capsys.readouterr().out


# --- language models -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_language_models_train_alike_on_a_corpus_with_every_word(tmp_path):
    case = language_model.Case(5, 4, 6, 50)
    language_model.write_corpus(tmp_path, case.vocabulary)
    ours = language_model.rnnlab(case, tmp_path)
    assert np.load(tmp_path / "weights.npz")["embedding"].shape == (50, 6)
    assert len(set(np.load(tmp_path / "tokens.npy"))) == 49, "all but <unk>"
    theirs = language_model.torch_nn(case, tmp_path)
    np.testing.assert_allclose(ours.losses, theirs.losses, rtol=1e-5)
    for contestant in (ours, theirs):
        contestant.step(2)
        assert contestant.device_bytes() is None or contestant.device_bytes() > 0
    assert race.peak_bytes() > 1 << 20


def test_language_model_with_other_losses_is_void_and_ratios_are_turn_by_turn():
    case = language_model.Case(5, 4, 6, 50)
    rows = [
        {"contestant": "rnnlab", "step": [1.0, 2.0, 4.0], "losses": [3.0, 2.0], "peak_bytes": 1 << 30},
        {"contestant": "torch.nn", "step": [3.0, 6.0, 4.0], "losses": [3.0, 2.001], "peak_bytes": 3 << 29},
        {"contestant": "wrong", "step": [1.0, 1.0, 1.0], "losses": [3.0, 2.1], "peak_bytes": 1 << 30},
    ]
    ours, peer, wrong = (language_model.described(case, row) for row in race.summarize(rows))
    assert (ours["step_ratio"], peer["step_ratio"]) == (1.0, 3.0)
    assert ours["words_per_second"] == 10.0
    assert "void: its losses" in wrong["error"]
    table = language_model.markdown([ours, peer, wrong]).splitlines()
    assert [line.split("|")[3:] for line in table[2:]] == [
        [" rnnlab ", " 2e+03 ", " 10 ", " 1.00 ", " 1.00 ", ""],
        [" torch.nn ", " 4e+03 ", " 5 ", " 3.00 ", " 1.50 ", ""],
        [" wrong ", " void ", "  ", "  ", "  ", ""],
    ]


@pytest.mark.exhaustive
def test_command_measures_language_models(tmp_path, monkeypatch):
    monkeypatch.setattr(language_model, "CASES", [language_model.Case(5, 4, 6, 50, "adagrad", 8, peers=False)])
    output = tmp_path / "found.json"
    assert benchmark.main(["--language_model", "--turns=2", "--seconds=0", f"--output={output}"]) == 0
    (row,) = json.loads(output.read_text())["results"]
    assert len(row["step"]) == 2
    assert row["peak_bytes"] > 1 << 20
    assert "| adagrad, 8 samples | rnnlab |" in output.with_suffix(".md").read_text()


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
@pytest.mark.slow
def test_utterances_are_trained_on_alike_packed_and_padded(tmp_path, monkeypatch):
    """Deep, in both directions, of lengths that differ; three updates of Adam."""
    monkeypatch.setitem(TASKS, "invented_utterances", None)  # So that it is gone afterwards.
    case = speech.Case(steps=9, shortest=3, batch=4, features=5, layers=2)
    speech.write_utterances(case, tmp_path)
    with np.load(tmp_path / "utterances.npz") as arrays:
        assert len(set(arrays["lengths"])) > 1
    ours = speech.rnnlab(case, tmp_path)
    np.testing.assert_allclose(ours.losses, speech.torch_nn(case, tmp_path).losses, rtol=1e-5)


@pytest.mark.exhaustive
def test_command_measures_utterances(tmp_path, monkeypatch):
    monkeypatch.setattr(speech, "CASES", [speech.Case(9, 9, 4, 5, 2)])
    output = tmp_path / "found.json"
    assert benchmark.main(["--speech", "--turns=2", "--seconds=0", f"--output={output}"]) == 0
    ours = json.loads(output.read_text())["results"][0]
    assert len(ours["step"]) == 2
    assert ours["step_ratio"] == 1.0
    assert (
        "| 4 utterances of 9 frames, 2 × 5 LSTM in each direction | rnnlab |" in output.with_suffix(".md").read_text()
    )


def test_language_models_and_utterances_are_not_measured_at_once(capsys):
    with pytest.raises(ConfigError, match="one at a time"):
        benchmark.main(["--language_model", "--speech"])


@pytest.mark.exhaustive
def test_a_sweep_is_timed_beside_the_same_runs_alone():
    case = sweeps.Case("irnn", steps=100, length=6, features=4, rates=2, seeds=2)
    [row] = sweeps.measure(case, alone=2)
    assert "error" not in row
    assert row["timed_alone"] == len(row["alone_seconds"]) == 2
    assert row["alone_all_seconds"] == pytest.approx(2 * sum(row["alone_seconds"]))
    assert row["share"] == pytest.approx(row["sweep_seconds"] / row["alone_all_seconds"])
    assert f"| 2 of 4 | {row['sweep_seconds']:.0f} | {row['share']:.2f} |" in sweeps.markdown([row])


def test_a_sweep_that_trains_other_runs_is_void(monkeypatch):
    monkeypatch.setattr(sweeps, "_seconds", lambda *_: 1.0)
    losses = iter([0.5, 0.5, 0.5, 0.6])
    monkeypatch.setattr(sweeps, "_first_loss", lambda _: next(losses))
    [row] = sweeps.measure(sweeps.Case("gru", rates=2, seeds=1), alone=2)
    assert "void: mean losses of the first 100 steps" in row["error"]
    assert sweeps.markdown([row]).endswith("| void |\n")


@pytest.mark.slow
def test_a_timed_command_that_fails_says_what_it_said(tmp_path):
    with pytest.raises(ConfigError, match=r"-m rnnlab\.train --config=.*none\.py .* failed: .*none\.py"):
        sweeps._seconds("train", tmp_path / "none.py", tmp_path / "run")
