"""The check of a GPU or TPU: run in full on the CPU with small arrays, cut off and gone on with; what it writes."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import rnn

from rnnlab import cli
from rnnlab.accelerator_check import __main__ as command
from rnnlab.accelerator_check import parts
from rnnlab.accelerator_check.correctness import TOLERANCE, check_cell, refused
from rnnlab.accelerator_check.record import Record
from rnnlab.accelerator_check.worker import LimitedWorker
from rnnlab.benchmark.cases import OF_PEERS, SHAPES, Case, make_problem
from rnnlab.benchmark.contestants import packed_lstm
from rnnlab.cells import CELLS
from rnnlab.config.errors import ConfigError
from rnnlab.records import statuses

WHOLE_PICTURES = True  # As tests/conftest.py has it.


H100 = {"platform": "gpu", "kind": "NVIDIA H100 80GB HBM3", "count": 1, "bytes": 80 << 30, "driver": "550.1"}


@pytest.mark.slow
def test_a_check_that_is_cut_off_goes_on_with_what_is_left(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(command, "LONGEST", 3000.0)
    monkeypatch.setattr(parts, "PRECISIONS", ("highest", "tf32"))
    words = ["--small", "--cells=mingru", f"--output={tmp_path}"]
    monkeypatch.setattr(command, "UNTIL", {"correctness": 1.0, "timing": 0.0, "sweeps": 0.0, "training": 0.0})
    assert command.main([*words, "--minutes=60"]) == cli.FINISHED
    first = json.loads((tmp_path / "check.json").read_text())
    assert [len(first[stage]) for stage in ("correctness", "timing", "sweeps", "training")] == [1, 0, 0, 0]
    monkeypatch.setattr(command, "UNTIL", dict.fromkeys(command.UNTIL, 1.0))
    assert command.main([*words, "--minutes=60"]) == cli.FINISHED
    content = json.loads((tmp_path / "check.json").read_text())
    assert content["correctness"] == first["correctness"]
    assert list(content["timing"]) == [f"mingru (6, 4, 3, 8) {precision}" for precision in parts.PRECISIONS]
    rows = {row["contestant"]: row for row in content["timing"]["mingru (6, 4, 3, 8) highest"]}
    assert all("step_median" in rows[name] for name in ("rnnlab fused", "rnnlab scan", "plain scan"))
    assert "needs a GPU or TPU" in rows["rnnlab kernel"]["error"]
    assert list(content["sweeps"]) == ["2"]
    assert all(row["seconds"] > 0 for row in content["sweeps"].values())
    assert content["training"]["adding"]["status"] == "finished"
    page = (tmp_path / "check.md").read_text()
    assert all(f"## {title}" in page for title in ("Correctness", "A training step, ms", "Sweeps", "Training"))
    assert (tmp_path / "timing_highest.png").stat().st_size > 1000
    assert json.loads((tmp_path / "backends.json").read_text()) == {"entries": []}


@pytest.mark.parametrize(
    "cell", [pytest.param(c, marks=pytest.mark.exhaustive if c != "lem" else pytest.mark.slow) for c in CELLS]
)
def test_rounded_products_of_any_cell_stay_within_their_tolerance(cell: str) -> None:
    rows = check_cell(cell, (5, 3, 2, 6), ["fused"], list(TOLERANCE))
    assert [row for row in rows if not row.get("right")] == []
    apart = {row["precision"]: row["apart"] for row in rows}
    assert apart["highest"] < apart["tf32"] < apart["bfloat16"]


def test_a_fault_is_wrong_and_the_next_cell_gets_a_new_process(tmp_path: Path, monkeypatch: Any) -> None:
    """Pallas and JAX raise ValueErrors for what they cannot compile, as cells do for what they are not."""

    def unroll_kernel(*words: Any) -> None:
        raise ValueError("Cannot lower this to Triton")

    monkeypatch.setattr("rnnlab.engine.kernel.backend.unroll_kernel", unroll_kernel)
    rows = check_cell("lstm", (2, 1, 1, 2), ["kernel", "scan", "fused"], ["highest"])
    assert [(refused(row), row.get("right", False)) for row in rows] == [(False, False), (True, False), (False, True)]
    assert rows[0]["error"] == "ValueError: Cannot lower this to Triton"

    class Worker:
        ended, limit = 0, 9.0

        def ask(self, **request: Any) -> Any:
            return rows[self.ended :]

        def end(self) -> None:
            self.ended += 1

    check = object.__new__(command.Check)
    check.plan, check.jax = parts.SMALL, Worker()  # pyright: ignore[reportAttributeAccessIssue]
    assert [check._correct("lstm", 9.0) for _ in range(2)] == [rows, rows[1:]]
    assert check.jax.ended == 1


def row(**words: Any) -> dict[str, Any]:
    return {"cell": "lstm", "backend": "fused", "precision": "highest"} | words


def test_what_is_apart_or_fails_is_wrong_and_what_is_refused_is_not(tmp_path: Path) -> None:
    record = Record(tmp_path, H100)
    rows = [
        row(apart=1e-6, where="loss", right=True),
        row(apart=0.1, where="loss", right=False),
        row(error="XlaRuntimeError: INTERNAL"),
        row(error="ValueError: The Pallas Triton lowering currently requires that all operations have"),
        row(error="ConfigError: a step of HiPPOLegS has cumsum", refused=True),
    ]
    record.put("correctness", "lstm", rows, 1.0)
    assert record.wrong() == rows[1:4]
    assert [refused(each) for each in rows] == [False] * 4 + [True]
    again = Record(tmp_path, H100)
    assert again.wrong() == rows[1:4]
    assert again.has("correctness", "lstm")
    with pytest.raises(ConfigError, match=r"--output: .* has a check with gpu, NVIDIA H100 .*; here is tpu, .*; take"):
        Record(tmp_path, H100 | {"platform": "tpu", "kind": "TPU v5 lite"})


def timed(cell: str, shape: str, contestant: str, seconds: float, features: int = 64) -> dict[str, Any]:
    words = {"class": {"lstm": "LSTM"}.get(cell, "Vanilla"), "precision": "highest", "features": features}
    return words | {"cell": cell, "shape": shape, "contestant": contestant, "step_median": seconds}


def test_a_backend_that_is_the_fastest_at_all_shapes_of_a_width_is_an_entry(tmp_path: Path) -> None:
    record = Record(tmp_path, H100)
    rows = [timed("lstm", shape, "rnnlab fused", 1.0) for shape in "ab"]
    rows += [timed("lstm", shape, "rnnlab kernel", seconds) for shape, seconds in (("a", 0.5), ("b", 0.9))]
    rows += [
        timed("lstm", "c", f"rnnlab {backend}", seconds, 768) for backend, seconds in (("fused", 1), ("kernel", 2))
    ]
    rows += [timed(cell, "a", "rnnlab fused", 1.0) for cell in ("irnn", "vanilla")]
    rows += [timed("irnn", "a", "rnnlab kernel", 0.5), timed("vanilla", "a", "rnnlab kernel", 2.0)]
    rows += [timed("lstm", "a", "torch.nn", 0.1)]
    record.put("timing", "all", rows, 1.0)
    line = {"device": H100["kind"], "cell": "LSTM", "precision": "highest"}
    entries = [line | {"features": 64, "backend": "kernel"}, line | {"features": 768, "backend": "fused"}]
    assert json.loads((tmp_path / "backends.json").read_text()) == {"entries": entries}


def test_a_page_says_what_it_shows_and_shows_figures_of_forty_cases_each(tmp_path: Path) -> None:
    record = Record(tmp_path, H100)
    rows = [timed(f"cell{n}", "a", "rnnlab fused", 1.0) | RATIOS for n in range(41)]
    record.put("timing", "all", rows, 1.0)
    record.put("correctness", "lstm", [row(apart=1e-6, where="loss", right=True)], 1.0)
    names = [path.name for path in record.draw()]
    assert names == ["timing_highest.png", "timing_highest_2.png"]
    page = (tmp_path / "check.md").read_text()
    assert page.startswith("# Check of an accelerator\n\n1 × NVIDIA H100")
    assert all(f"]({name})" in page for name in names)
    assert "right up to 0.0002 (highest), 0.03 (tf32), 0.3 (bfloat16)" in page.replace("\n", " ")


RATIOS = {"step_ratio": 1.0, "forward_ratio": 1.0}


def test_a_training_without_time_says_so(tmp_path: Path) -> None:
    answer = parts.train(parts.SMALL, tmp_path, 0.01, [])
    assert answer == {"error": "did not come to its first numbers within the 0 s that were left"}


def test_timing_begins_with_exact_products_of_what_all_libraries_have() -> None:
    cases = list(parts.timing_cases(parts.WHOLE, list(CELLS)).values())
    assert len(cases) == len(CELLS) * 7 * 3 + 7 * 3 * sum(name not in CELLS for name in OF_PEERS)
    assert cases[0] == Case("lstm", 1024, 16, 768, 768)
    first = cases[: 4 * 7]
    assert {case.cell for case in first} == set(OF_PEERS)
    assert {case.precision for case in first} == {"highest"}
    assert {tuple(case[1:6]) for case in first} == {(1024, 16, 768, 768, False), *SHAPES}


@pytest.mark.parametrize("bidirectional", [False, True])
def test_weights_are_packed_as_cudnn_unpacks_them(bidirectional: bool) -> None:
    case = Case("lstm", 2, 2, 3, 5, bidirectional)
    weights = make_problem(case).weights
    flat = packed_lstm(jax.tree.map(jnp.asarray, weights))
    assert flat.shape == (rnn.get_num_params_in_lstm(3, 5, 1, bidirectional),)
    of_input, of_state, bias, other = rnn.unpack_lstm_weights(flat, 3, 5, 1, bidirectional)
    for direction, each in enumerate(weights):
        np.testing.assert_array_equal(of_input[direction].T, each["input_kernel"])
        np.testing.assert_array_equal(of_state[direction].T, each["recurrent_kernel"])
        np.testing.assert_array_equal(bias[direction] + other[direction], each["bias"])


@pytest.mark.slow
def test_a_worker_that_takes_too_long_says_so_and_begins_anew() -> None:
    worker = LimitedWorker("torch", 300.0)
    worker.limit = 0.01
    assert worker.ask(do="prepare", name="torch.nn", case=["lstm", 500, 16, 3, 64]) == {"error": "took longer than 0 s"}
    worker.limit = 300.0
    assert worker.ask(do="describe") == ["torch.nn"]
    worker.end()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"cannot write .*check\.json: .*check is not a folder"),
        ("{", r"check\.json is cut short; restore it, or take another --output"),
        ("{}", r"check\.json lacks 'device'; restore it, or take another --output"),
    ],
)
def test_an_output_that_cannot_be_written_or_is_damaged_ends_before_anything_is_computed(
    text: str | None, message: str, tmp_path: Path, monkeypatch: Any
) -> None:
    class Worker:
        ended = 0

        def __init__(self, *words: Any):
            pass

        def ask(self, **request: Any) -> Any:
            assert request == {"do": "device"}
            return {"platform": "cpu", "kind": "cpu", "count": 1, "bytes": None}

        def end(self) -> None:
            Worker.ended += 1

    monkeypatch.setattr(command, "LimitedWorker", Worker)
    folder = tmp_path / "check"
    if text is None:
        folder.write_text("a file in the place of the folder")
    else:
        folder.mkdir()
        (folder / "check.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        command.main(["--small", f"--output={folder}", "--minutes=1"])
    assert Worker.ended == 1


def test_an_output_is_asked_for_in_one_line() -> None:
    with pytest.raises(ConfigError, match="--output: missing; the folder of the results, as --output=check"):
        command.main(["--minutes=1"])


def test_the_status_of_wrong_numbers_is_that_of_wrong_gradients() -> None:
    assert "accelerator_check" in statuses.MEANINGS[statuses.WRONG]
