"""The scripts that train language models side by side: the PyTorch twin is the same model, those of the paper run."""

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from rnnlab.training.setup import make_run
from rnnlab.training.state import means
from scripts import compare_lm1b
from tests.tiers import exhaustive_tests

pytestmark = pytest.mark.slow

WORDS = [f"w{n}" for n in range(30)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder of sentences in which a word says much about the next."""
    generator, folder = np.random.default_rng(0), tmp_path / "text"
    folder.mkdir()
    for name, sentences in (("train", 60), ("valid", 12), ("test", 12)):
        lines = []
        for _ in range(sentences):
            first, length = generator.integers(30), generator.integers(3, 12)
            lines.append(" ".join(WORDS[(first + 7 * n) % 30] for n in range(length)))
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return folder


def small(source: Path, optimizer: str, steps: int) -> dict[str, Any]:
    """The config of the twins in small, without dropout."""
    from scripts import compare_with_torch_lm

    config = compare_with_torch_lm.config_of(optimizer, steps, 3, features=6, dropout=0.0)
    task = dict(name="language_model", dataset="text", source=str(source), window=5)
    sizes = dict(batch_size=4, eval_batch_size=4, log_every=1, eval_every=10, checkpoint_every=10)
    return config | sizes | dict(task=task)


needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")


@needs_torch
@pytest.mark.parametrize("optimizer", ["sgd", *exhaustive_tests("adam")])
def test_without_dropout_the_twin_makes_the_very_steps_of_rnnlab(tmp_path: Path, source: Path, optimizer: str) -> None:
    from scripts.compare_with_torch_lm import train_twin

    config = small(source, optimizer, 40)
    run = make_run(config, str(tmp_path))
    size = run.task.size("train")
    assert size is not None
    assert size // 4 < 40, "the streams begin anew on the way"
    state, losses = run.programs.start(3), []
    for step in range(40):
        state = run.programs.train(state, run.data, jnp.int32(step + 1), run.rows)
        losses.append(means(state.sums)["loss"])
    twin = train_twin(config, str(tmp_path), tmp_path)
    np.testing.assert_allclose(losses, twin["losses"], rtol=RTOL[optimizer])
    assert twin["curve"][-1] == (40, pytest.approx(run.evaluate(state, "validation")["perplexity"], rel=RTOL["sgd"]))
    assert losses[-1] < losses[0] - 0.01, "they learn"


RTOL = {"sgd": 2e-5, "adam": 2e-5}


@needs_torch
def test_twin_goes_on_where_it_was_saved(tmp_path: Path, source: Path) -> None:
    from scripts.compare_with_torch_lm import train_twin

    config = small(source, "adam", 20)
    config["model"] = config["model"] | dict(dropout=dict(input=0.3, output=0.3))
    config["optimizer"] = config["optimizer"] | dict(schedule=dict(name="linear", steps=20))
    whole = train_twin(config, str(tmp_path), tmp_path / "whole")
    train_twin(config | dict(steps=10), str(tmp_path), tmp_path / "parts")
    parts = train_twin(config, str(tmp_path), tmp_path / "parts")
    assert parts["losses"] == whole["losses"]
    assert parts["curve"] == whole["curve"]


def test_a_model_of_the_config_is_trained_and_set_beside_the_paper(tmp_path: Path, source: Path, capsys: Any) -> None:
    tiny = {
        "task.dataset": "text",
        "task.source": str(source),
        "task.min_count": 1,
        "batch_size": 4,
        "eval_batch_size": 12,
        "model.cell.features": 8,
        "model.embedding": 8,
        "model.softmax.projection": 8,
    }
    output = tmp_path / "found.json"
    argv = ["--only=irnn1024", f"--output={output}", f"--workdir={tmp_path / 'runs'}", "--steps=2"]
    assert compare_lm1b.main([*argv, f"--data_dir={tmp_path}"], **tiny) == 0
    (run,) = json.loads(output.read_text())["runs"]
    assert (run["status"], run["steps"]) == ("finished", 2)
    flow = run["gradient_flow"]  # Of one answer: before any training it fades on its way back.
    assert len(flow["t"]) == len(flow["untrained"]) == len(flow["trained"])
    assert 0 < flow["untrained"][0] <= flow["untrained"][-1]
    expected = f"| IRNN, 1024 units, projection to 512 | 3 | 70.2 | 1 | {run['test']:.1f} |"
    assert expected in output.with_suffix(".md").read_text()
    assert output.with_suffix(".png").stat().st_size > 0
    assert "Not the paper's experiment: the folder's own; " in capsys.readouterr().out


def test_best_rate_by_validation_counts_and_what_diverged_has_no_place() -> None:
    def run(model: str, seed: int, validation: float | None, test: float | None) -> dict[str, Any]:
        status = "diverged" if test is None else "finished"
        return {"model": model, "seed": seed, "validation": validation, "test": test, "status": status}

    runs = [run("lstm", 0, 90.0, 80.0), run("lstm", 0, 85.0, 84.0), run("lstm", 1, 70.0, 63.0)]
    runs += [run("tanh4", 0, 60.0, 50.0), run("irnn4", 0, None, None)]
    (first, second) = compare_lm1b.ranking(runs)
    assert first == ("tanh4", pytest.approx(50.0))
    assert second == ("lstm", pytest.approx(math.sqrt(84 * 63)))
