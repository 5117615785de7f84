"""The benchmark: all contestants compute the same, and one that does not is void."""

import importlib.util
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rnnlab.benchmark import __main__ as benchmark
from rnnlab.benchmark import (
    contestants,
    diagnostics,
    generation,
    language_model,
    layers,
    race,
    runs,
    speech,
    sweeps,
    tables,
    torch_contestants,
)
from rnnlab.benchmark.cases import OF_PEERS, Case, make_problem
from rnnlab.benchmark.of_table import backends_of, multiply_adds
from rnnlab.benchmark.worker import KINDS, Worker, answer_requests, takes_part
from rnnlab.cells import CELLS
from rnnlab.config.errors import ConfigError
from rnnlab.config.reading import load_file
from rnnlab.engine import default_chunk
from rnnlab.nn.network import Network
from rnnlab.records.run_config import resolve_config
from rnnlab.tasks import TASKS
from tests.tiers import in_tiers

ROOT = Path(__file__).parents[2]
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")

MAKERS = {
    "fused": lambda *a: contestants.rnnlab(*a, backend="fused"),
    "reference": lambda *a: contestants.rnnlab(*a, backend="reference"),
    "plain scan": contestants.plain_scan,
    "plain scan, split": lambda *a: contestants.plain_scan(*a, split=True),
    "flax": contestants.flax_rnn,
    "flax, split": lambda *a: contestants.flax_rnn(*a, split=True),
    "torch": torch_contestants.torch_nn,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "cell", [pytest.param(cell, marks=pytest.mark.exhaustive if cell != "lstm" else ()) for cell in OF_PEERS]
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
        assert (created.devices > 1) == (name in ("fused", "reference", "plain scan, split", "flax, split")), name


@pytest.mark.exhaustive
@needs_torch
@pytest.mark.parametrize("cell", ["irnn", "lstm", "gru"])
def test_the_compiled_loop_computes_what_torch_nn_does(cell):
    """Over a chunk of steps and a remainder, in both directions, in the benchmark's process for it."""
    case = Case(cell, torch_contestants.COMPILED_STEPS + 1, 4, 3, 5, bidirectional=True)
    worker = Worker("torch compiled")
    compiled = worker.ask(do="prepare", name="torch.compile", case=list(case))
    worker.close()
    eager = torch_contestants.torch_nn(case, make_problem(case))
    assert "error" not in compiled, compiled
    assert compiled["loss"] == pytest.approx(eager.loss, rel=1e-5)
    assert compiled["gradient"] == pytest.approx(eager.gradient, rel=1e-5)


@needs_torch
@pytest.mark.parametrize("cell", OF_PEERS)
def test_the_loop_that_is_compiled_computes_what_torch_nn_does(cell, monkeypatch):
    """The same without the compiler, which takes minutes."""
    monkeypatch.setattr("torch.compile", lambda function, **_: function)
    case = Case(cell, torch_contestants.COMPILED_STEPS + 1, 4, 3, 5, bidirectional=True)
    problem = make_problem(case)
    by_hand, ready = torch_contestants.torch_compiled(case, problem), torch_contestants.torch_nn(case, problem)
    assert by_hand.loss == pytest.approx(ready.loss, rel=1e-5)
    assert by_hand.gradient == pytest.approx(ready.gradient, rel=1e-5)


@needs_torch
@pytest.mark.parametrize(
    ("fails", "limit", "why"), [(True, 60, "torch.compile fails: no compiler"), (False, 1, "not done after 1 s")]
)
def test_what_does_not_compile_is_left_out_with_the_reason(fails, limit, why, monkeypatch):
    def compile(function, **_):
        if fails:
            raise RuntimeError("no\ncompiler")
        return lambda *_: time.sleep(60)

    monkeypatch.setattr("torch.compile", lambda function, **_: lambda *a: compile(function)(*a))
    case = Case("irnn", 3, 2, 1, 2)
    with pytest.raises(contestants.LeftOut, match=why):
        torch_contestants.torch_compiled(case, make_problem(case), limit)


@pytest.mark.exhaustive
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
    names = [name for each in KINDS.values() for name in each]
    taking = {cell: [name for name in names if takes_part(name, Case(cell, 6, 4, 3, 8))] for cell in CELLS}
    assert taking["lstm"] == [name for name in names if name != "rnnlab scan"]
    assert taking["gru_reset_before"] == ["rnnlab fused", "rnnlab native", "rnnlab native, one device", "plain scan"]
    ours = ["rnnlab fused", "rnnlab native", "rnnlab scan", "rnnlab native, one device", "plain scan"]
    assert taking["mingru"] == ours
    assert all({"rnnlab fused", "plain scan"} <= {*each} for each in taking.values())


@pytest.mark.parametrize("quantity", ["loss", "gradient"])
@pytest.mark.parametrize("wrong", [2.1, 1.9, float("inf"), float("nan")])
@pytest.mark.parametrize("position", [0, 1, 2])
def test_row_that_disagrees_is_void(quantity, wrong, position):
    numbers = [2.0, 2.0001]
    numbers.insert(position, wrong)
    rows = [{"loss": 2.0, "gradient": 2.0} | {quantity: number} for number in numbers]
    layers.judge(rows)
    assert ["error" in row for row in rows] == [index == position for index in range(3)]
    assert f"void: its {quantity} is" in rows[position]["error"]


@pytest.mark.parametrize(
    ("error", "reply"),
    [
        (contestants.LeftOut("no compiler"), "left out: no compiler"),
        (ConfigError("model.recurrence.backend: not here"), "left out: model.recurrence.backend: not here"),
        (ValueError("a mistake"), "ValueError: a mistake"),
    ],
)
def test_who_cannot_run_here_is_left_out_and_who_fails_is_not(error, reply, monkeypatch):
    def answer(_):
        raise error

    replies = io.StringIO()
    monkeypatch.setattr(sys, "stdin", io.StringIO("{}\n"))
    monkeypatch.setattr(sys, "stdout", replies)
    answer_requests(answer)
    assert json.loads(replies.getvalue()) == {"error": reply}


class FakeWorker:
    """Answers as a worker does: each contestant has a loss, or is left out, and every call takes half a second."""

    def __init__(self, losses: dict[str, float | str]):
        self.losses, self.names = losses, list(losses)

    def ask(self, do: str, name: str = "", **_) -> dict | float | None:
        created = {"loss": self.losses.get(name), "gradient": 1.0, "temporary_bytes": None, "compile_seconds": None}
        created |= {"devices": 2, "threads": 3, "dispatches": "one a step"}
        if isinstance(self.losses.get(name), str):
            created = {"error": self.losses[name]}
        return {"prepare": created, "time": 0.5, "rate": 4.0, "forget": None}[do]


def test_measuring_voids_who_computes_something_else():
    workers = [FakeWorker({"a": 2.0, "b": 2.0}), FakeWorker({"wrong": 3.0})]
    rows = {row["contestant"]: row for row in layers.measure(Case("lstm", 7, 4, 3, 5), workers, 2, 0.0)}
    assert [name for name, row in rows.items() if "void" in row.get("error", "")] == ["wrong"]
    assert rows["a"]["step"] == rows["b"]["forward"] == [0.5, 0.5]
    assert rows["a"]["rates"] == [4.0, 4.0]


def test_tables_have_every_contestant_and_what_it_uses():
    losses = {"peer": 2.0, "wrong": 3.0, "absent": "left out: no compiler"}
    case = Case("lstm", 7, 4, 3, 5)
    rows = layers.summarize(case, layers.measure(case, [FakeWorker({"rnnlab fused": 2.0}), FakeWorker(losses)], 2, 0.0))
    step, forward, uses = tables.markdown(rows).strip().split("\n\n")
    head = "| cell | (T, B, D, H) | {}, ms | share of peak |{} peer | wrong | absent |"
    for table, what, memory in ((step, "step", " memory, MiB |"), (forward, "forward", "")):
        lines = table.splitlines()
        assert lines[0] == head.format(what, memory)
        assert lines[2].endswith("| 1.00 | void | – |")
    assert uses.splitlines()[2:] == [
        "| rnnlab fused | 2 | 3 | one a step |",
        "| peer | 2 | 3 | one a step |",
        "| wrong | 2 | 3 | one a step |",
        "| absent |  |  | left out: no compiler |",
    ]


def test_ratio_is_the_peer_over_rnnlab_turn_by_turn():
    def row(name: str, times: list[float]) -> dict:
        return {"contestant": name, "step": times, "forward": times, "rates": rates}

    case = Case("lstm", 10, 2, 3, 4)
    rates = [case.step_products() * factor for factor in (1.0, 1.0, 0.25)]
    rows = [row("rnnlab fused", [1.0, 2.0, 4.0]), row("peer", [3.0, 6.0, 4.0])]
    ours, peer = layers.summarize(case, rows)
    assert (ours["step_ratio"], peer["step_ratio"]) == (1.0, 3.0)
    assert ours["step_share"] == pytest.approx(1.0), "1, 1/2 and 1 turn by turn"
    assert "step_ratio" not in layers.summarize(case, [{"contestant": "peer", "error": "void"}])[0]


def test_unknown_cell_or_shape_is_named():
    with pytest.raises(ConfigError, match="did you mean lstm"):
        benchmark.main(["--cells=lsmt"])
    with pytest.raises(ConfigError, match="unknown value of --shapes '9'"):
        benchmark.main(["--shapes=9"])


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--language_model", "--speech"], "--language_model and --speech: one at a time"),
        (["--generation", "--runs"], "--generation and --runs: one at a time"),
        (["--backend=fused"], "--backend goes with --language_model, .*; layers have all backends"),
        (["--runs", "--backend=fsued"], "unknown value of --backend 'fsued'.*did you mean fused"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(flags, why):
    with pytest.raises(ConfigError, match=why):
        benchmark.main(flags)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes have no cores of their own here")
def test_on_one_core_every_process_has_the_same_one():
    before = os.sched_getaffinity(0)
    with benchmark.on_one_core(True):
        command = [sys.executable, "-c", "import os; print(os.sched_getaffinity(0))"]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"{ {max(before)} }\n"
    assert os.sched_getaffinity(0) == before
    with benchmark.on_one_core(False):
        assert os.sched_getaffinity(0) == before


def test_one_core_is_refused_where_processes_have_none_of_their_own(monkeypatch):
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    with pytest.raises(ConfigError, match=r"--one_core: .* measure on Linux"), benchmark.on_one_core(True):
        pass


@pytest.mark.slow
def test_command_writes_a_table_a_file_and_a_figure(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "SHAPES", [(6, 4, 2, 3, False)])
    output = tmp_path / "benchmark.json"
    monkeypatch.delitem(KINDS, "torch compiled")  # It compiles for half a minute.
    flags = ["--cells=irnn", "--shapes=0", "--turns=1", "--seconds=0.01", "--one_core", f"--output={output}"]
    assert benchmark.main(flags) == 0
    rows = json.loads(output.read_text())["results"]
    assert {"rnnlab fused", "rnnlab reference", "plain scan", "flax.nnx.RNN"} <= {row["contestant"] for row in rows}
    assert all(row["step_ratio"] > 0 and row["forward_ratio"] > 0 for row in rows)
    assert all(row["threads"] == 1 == row["devices"] for row in rows)
    assert output.with_suffix(".png").stat().st_size > 0
    table = output.with_suffix(".md").read_text().partition("\n\n")[0].splitlines()
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


@pytest.mark.exhaustive
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
@needs_torch
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


@needs_torch
@pytest.mark.exhaustive
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


@pytest.mark.exhaustive
def test_a_sweep_is_timed_beside_the_same_runs_alone():
    case = sweeps.Case("irnn", steps=100, length=6, features=4, rates=2, seeds=2)
    [row] = sweeps.measure(case, race.Asked(backends=["fused"], alone=2))
    assert row["contestant"] == "rnnlab fused"
    assert "error" not in row
    assert row["timed_alone"] == len(row["alone_seconds"]) == 2
    assert row["alone_all_seconds"] == pytest.approx(2 * sum(row["alone_seconds"]))
    assert row["share"] == pytest.approx(row["sweep_seconds"] / row["alone_all_seconds"])
    assert f"| 2 of 4 | {row['sweep_seconds']:.0f} | {row['share']:.2f} |" in sweeps.markdown([row])


def test_a_sweep_that_trains_other_runs_is_void(monkeypatch):
    monkeypatch.setattr(sweeps, "_seconds", lambda *_: 1.0)
    losses = iter([0.5, 0.5, 0.5, 0.6])
    monkeypatch.setattr(sweeps, "_first_loss", lambda _: next(losses))
    [row] = sweeps.measure(sweeps.Case("gru", rates=2, seeds=1), race.Asked(alone=2))
    assert "void: mean losses of the first 100 steps" in row["error"]
    assert sweeps.markdown([row]).endswith("| void |\n")


@pytest.mark.slow
def test_a_timed_command_that_fails_says_what_it_said(tmp_path):
    with pytest.raises(ConfigError, match=r"-m rnnlab\.train --config=.*none\.py .* failed: .*none\.py"):
        sweeps._seconds("train", tmp_path / "none.py", tmp_path / "run")


# --- texts and whole runs ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_texts_go_on_alike_by_all_contestants(cell, tmp_path):
    case = generation.Case(cell, 6, 30)
    names = [name for name in generation.CONTESTANTS if name != "torch.compile"]
    if importlib.util.find_spec("torch") is None:
        names.remove("torch.nn")
    losses = {}
    for name in names:
        contestant = generation.CONTESTANTS[name](case, tmp_path)
        contestant.step(2)
        losses[name] = contestant.losses
    assert len(losses["rnnlab"]) == generation.TOKENS
    assert np.ptp(losses["rnnlab"]) > 0.1, "or they would agree whatever the cell"
    for name in names:
        np.testing.assert_allclose(losses[name], losses["rnnlab"], rtol=1e-5, err_msg=name)


@needs_torch
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_torch_text_that_is_compiled_goes_on_as_torch_nn_does(cell, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.compile", lambda function, **_: function)
    generator, case = np.random.default_rng(0), generation.Case(cell, 6, 30)
    width = (4 if cell == "lstm" else 3) * 6
    shapes = {"embedding": (30, 6), "word_kernel": (30, 6), "word_bias": (30,), "bias": (width,)}
    shapes |= {"input_kernel": (6, width), "recurrent_kernel": (6, width)}
    shapes |= {"recurrent_bias": (6,)} if cell == "gru" else {}
    np.savez(tmp_path / race.WEIGHTS, **{k: generator.normal(size=v).astype(np.float32) for k, v in shapes.items()})
    both = [generation.torch_loop(case, tmp_path, compiled) for compiled in (False, True)]
    np.testing.assert_allclose(both[0].losses, both[1].losses, rtol=1e-5)
    for each in both:
        assert len(each.step(3)) == 3


@pytest.mark.exhaustive
def test_command_measures_texts(tmp_path, monkeypatch):
    monkeypatch.setattr(generation, "CASES", [generation.Case("gru", 6, 30)])
    output = tmp_path / "found.json"
    flags = ["--generation", "--backend=auto,reference", "--turns=2", "--seconds=0", f"--output={output}"]
    assert benchmark.main(flags) == 0
    rows = {row["contestant"]: row for row in json.loads(output.read_text())["results"]}
    assert {"rnnlab", "rnnlab reference", "plain loop", "flax.nnx"} <= {*rows}
    assert all(row["tokens_per_second"] > 0 for row in rows.values() if "left out" not in row.get("error", ""))
    assert "| gru, H = 6, V = 30 | rnnlab reference |" in output.with_suffix(".md").read_text()


@needs_torch
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_torch_run_trains_on_rnnlabs_problem(cell):
    """From the same weights the same loss and gradient of a batch of PyTorch's, which is one of the adding problem."""
    import torch

    loop = runs.TorchLoop(runs.Case(cell, 9, 4, 3, 10))
    x, target = loop.batch()
    values, marks = x[..., 0].numpy(), x[..., 1].numpy()
    np.testing.assert_array_equal(marks[:4].sum(0), 1)
    np.testing.assert_array_equal(marks[4:].sum(0), 1)
    np.testing.assert_allclose((values * marks).sum(0)[:, None], target, rtol=1e-6)
    network = Network(2, 1, cell={"name": cell, "features": 3}, rngs=nnx.Rngs(0))
    weights = network.layers[0].cells[0]
    named = ("input_kernel", "recurrent_kernel", "bias") + (("recurrent_bias",) if cell == "gru" else ())
    torch_contestants.fill(loop.layer, "l0", {name: np.asarray(getattr(weights, name)[...]) for name in named})
    with torch.no_grad():
        loop.readout.weight.copy_(torch.tensor(np.asarray(network.readout.kernel[...]).T.copy()))
        loop.readout.bias.copy_(torch.tensor(np.asarray(network.readout.bias[...])))
    inputs, wanted = jnp.asarray(x.numpy()), jnp.asarray(target.numpy())
    loss, gradient = nnx.value_and_grad(lambda network: ((network(inputs) - wanted) ** 2).mean())(network)
    theirs = loop.loss(x, target)
    theirs.backward()
    assert theirs.item() == pytest.approx(float(loss), rel=1e-5)
    ours = nnx.to_pure_dict(gradient)["layers"][0]["cells"][0]["recurrent_kernel"]
    np.testing.assert_allclose(loop.layer.weight_hh_l0.grad.numpy().T, ours, rtol=1e-4, atol=1e-7)


@needs_torch
def test_the_torch_run_logs_as_rnnlab_does_and_ends_in_time():
    case = runs.Case("gru", 6, 4, 3, 40)
    lines = runs.TorchLoop(case).logged()
    assert [line["step"] for line in lines] == [*range(2, 41, 2)]
    assert [line["step"] for line in runs.TorchLoop(case).logged(longest=0.0)] == [2, 4]


def test_runs_are_compared_turn_by_turn_and_one_that_does_not_train_is_void():
    def row(name, seconds, rate, loss=0.17, finished=True):
        return {
            "contestant": name,
            "shape": "a",
            "seconds": seconds,
            "rate": rate,
            "loss": [loss],
            "finished": finished,
        }

    rows = [
        row("rnnlab", [2.0, 4.0], [10.0, 20.0]),
        row("torch.nn, flushed", [4.0, 8.0], [4.0, 8.0]),
        row("torch.nn", [9.0, 9.0], [1.0, 2.0], finished=False),
        row("wrong", [1.0, 1.0], [1.0, 1.0], loss=float("nan")),
    ]
    table = runs.markdown(runs.summarize(rows)).splitlines()
    assert [line.split(" | ", 2)[2] for line in table[2:]] == [
        "15 | 1.00 | 3.0 | 1.00 |",
        "6 | 2.50 | 6.0 | 2.00 |",
        f"1.5 | 10.00 | over {runs.LONGEST} |  |",
        "void |  |  |  |",
    ]


@pytest.mark.exhaustive
@needs_torch
def test_command_measures_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "CASES", [runs.Case("gru", 6, 4, 3, 40)])
    monkeypatch.setattr(runs, "TRAINS", 100.0)
    output = tmp_path / "found.json"
    assert benchmark.main(["--runs", "--backend=fused", "--turns=1", f"--output={output}"]) == 0
    rows = json.loads(output.read_text())["results"]
    assert [row["contestant"] for row in rows] == ["rnnlab fused", "torch.nn", "torch.nn, flushed"]
    assert all(row["finished"] and row["seconds_ratio"] > 0 for row in rows)
