"""Dynamic evaluation: against a plain loop over windows and steps, and as a command."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnlab
from rnnlab import evaluate
from rnnlab.config.errors import ConfigError
from rnnlab.parallel.devices import replicate
from rnnlab.records.run_config import resolve_config
from rnnlab.training.dynamic import (
    Adaptation,
    evaluate_dynamically,
    gradient_statistics,
    make_adaptation,
    make_dynamic_run,
)
from rnnlab.training.loop import train_and_evaluate
from rnnlab.training.run import Run
from rnnlab.training.state import TrainState
from tests.helpers import SMALL_RUN, assert_close, float64, random_like, without_figures
from tests.tiers import exhaustive_tests

pytestmark = pytest.mark.slow  # Each trains or compiles several programs.

WINDOW = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with text/: training and validation mostly of a, b and c, the test of d, which is rare there."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "text").mkdir()
    rng = np.random.default_rng(0)
    usual, other = [0.3, 0.3, 0.3, 0.04, 0.03, 0.03], [0.02, 0.02, 0.02, 0.84, 0.05, 0.05]
    for split, lines in {"train": 40, "valid": 6, "test": 30}.items():
        chances = other if split == "test" else usual
        words = [rng.choice(list("abcdef"), 7, p=chances) for _ in range(lines)]
        (folder / "text" / f"{split}.txt").write_text("".join(f"{' '.join(line)}\n" for line in words))
    return folder


def config(folder: Path, **changed: Any) -> dict[str, Any]:
    task = {"name": "language_model", "dataset": "text", "source": str(folder / "text"), "window": WINDOW}
    model = {"cell": {"name": "vanilla", "features": 3}, "embedding": 4}
    sizes = {"steps": 30, "batch_size": 2, "eval_batch_size": 2, "eval_every": 30, "checkpoint_every": 30}
    return resolve_config(SMALL_RUN | sizes | {"task": task, "model": model} | changed)


def begun(run: Run) -> TrainState:
    """The state before the first step, its parameters at a random point in double precision."""
    state = jax.tree.map(lambda a: a.astype(float) if a.dtype == jnp.float32 else a, run.programs.start(0))
    params = jax.tree.map(lambda a, b: np.asarray(a) + 0.6 * np.asarray(b), state.params, random_like(state.params, 1))
    return dataclasses.replace(state, params=replicate(run.mesh, params))


# --- by hand ---------------------------------------------------------------------------------------------------------


def window_loss(params: Any, tokens: Any, h: Any) -> tuple[Any, Any]:
    """(The summed nats of a window of a tanh network, its last state); tokens [T + 1], one stream."""
    (cell,), total = params["layers"][0]["cells"].values(), 0.0
    for step in range(len(tokens) - 1):
        x = params["embedding"][tokens[step]]
        h = jnp.tanh(x @ cell["input_kernel"] + cell["bias"] + h @ cell["recurrent_kernel"])
        logits = h @ params["readout"]["kernel"] + params["readout"]["bias"]
        total = total + jax.nn.logsumexp(logits) - logits[tokens[step + 1]]
    return total, h


@jax.jit
def mean_gradient(params: Any, windows: list[Any], states: list[Any]) -> tuple[Any, Any, Any]:
    """(The gradient of the mean over all tokens of a window of several streams, their summed nats, the last states)."""

    def loss(params: Any) -> Any:
        ends = [window_loss(params, window, h) for window, h in zip(windows, states, strict=True)]
        nats = sum(total for total, _ in ends)
        return nats / sum(len(window) - 1 for window in windows), (nats, [h for _, h in ends])

    gradient, (nats, last) = jax.grad(loss, has_aux=True)(params)
    return gradient, nats, last


def statistics_by_hand(params: Any, text: np.ndarray, rows: int, batches: int) -> Any:
    length = (len(text) - 1) // rows
    texts = [text[row * length :][: length + 1] for row in range(rows)]
    states: list[Any] = [jnp.zeros(3)] * rows
    squares = []
    for number in range(batches):
        windows = [each[number * WINDOW : (number + 1) * WINDOW + 1] for each in texts]
        gradient, _, states = mean_gradient(params, windows, states)
        squares.append(jax.tree.map(jnp.square, gradient))
    return jax.tree.map(lambda *each: jnp.sqrt(sum(each) / batches), *squares)


def loss_by_hand(trained: Any, text: np.ndarray, adaptation: Adaptation, root: Any) -> float:
    """The mean nats of a text in one stream, each window scored before the step on it."""
    params, h, total = trained, jnp.zeros(3), 0.0
    mean = np.mean([np.mean(each) for each in jax.tree.leaves(root)])

    def step(p: Any, g: Any, s: Any, first: Any) -> Any:
        if not adaptation.rms:
            return p - adaptation.learning_rate * g + adaptation.decay * (first - p)
        back = np.minimum(adaptation.decay * s / mean, 1) * (first - p)
        return p - adaptation.learning_rate * g / (s + adaptation.epsilon) + back

    for start in range(0, len(text) - 1, WINDOW):
        gradient, nats, (h,) = mean_gradient(params, [text[start : start + WINDOW + 1]], [h])
        total += float(nats)
        params = jax.tree.map(step, params, gradient, root, trained)
    return total / (len(text) - 1)


ADAPTATIONS = {
    "rms": Adaptation(learning_rate=0.02, decay=0.05),
    "rms, decay cut": Adaptation(learning_rate=0.02, decay=0.9, epsilon=0.1),
    "sgd": Adaptation(learning_rate=0.5, decay=0.01, rms=False),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rms", *exhaustive_tests("rms, decay cut", "sgd")])
def test_a_text_is_scored_and_learned_window_by_window(folder: Path, name: str) -> None:
    adaptation = ADAPTATIONS[name]
    with float64():
        run = make_dynamic_run(config(folder), None)
        state = begun(run)
        texts = {split: np.asarray(each.tokens, np.int32) for split, each in run.task.corpus.splits.items()}  # pyright: ignore[reportAttributeAccessIssue]
        statistics = gradient_statistics(run, state, 3)
        expected = statistics_by_hand(state.params, texts["train"], 2, 3)
        assert_close(statistics, expected, 1e-12)
        by_hand = loss_by_hand(state.params, texts["validation"], adaptation, expected)
        dynamic = evaluate_dynamically(run, state, "validation", adaptation, statistics)
        static = run.evaluate(state, "validation")
    assert (len(texts["validation"]) - 1) % WINDOW != 0  # The last window is short.
    assert dynamic["loss"] == pytest.approx(by_hand, rel=1e-12)
    assert dynamic["perplexity"] == pytest.approx(np.exp(by_hand), rel=1e-12)
    assert abs(dynamic["loss"] - static["loss"]) > 1e-3


@pytest.mark.parametrize(("rms", "streams"), [(True, 1), *exhaustive_tests((True, 3), (False, 1))])
def test_a_learning_rate_of_zero_gives_the_static_numbers_to_the_bit(folder: Path, rms: bool, streams: int) -> None:
    run = make_dynamic_run(config(folder), None, streams=streams)
    state = run.programs.start(0)
    statistics = gradient_statistics(run, state, 2) if rms else None
    adaptation = Adaptation(learning_rate=0.0, decay=0.1, rms=rms)
    assert evaluate_dynamically(run, state, "validation", adaptation, statistics) == run.evaluate(state, "validation")


@pytest.mark.slow
def test_all_batches_of_an_epoch_are_its_whole_windows(folder: Path) -> None:
    run = make_dynamic_run(config(folder), None)
    state, count = run.programs.start(0), run.task.size("train") // 2  # pyright: ignore[reportOptionalOperand]
    every = gradient_statistics(run, state)
    jax.tree.map(np.testing.assert_array_equal, every, gradient_statistics(run, state, count))
    jax.tree.map(np.testing.assert_array_equal, every, gradient_statistics(run, state, count + 9))


def test_rate_and_decay_that_are_not_chosen_grow_with_the_window() -> None:
    assert make_adaptation(5, None, None, True, 1.0) == Adaptation(learning_rate=5 * 2e-6, decay=5 * 1e-4, epsilon=1.0)
    assert make_adaptation(20_000, None, None, False, 1.0).decay == 1.0
    assert make_adaptation(5, 0.0, 0.0, True, 1.0) == Adaptation(learning_rate=0.0, decay=0.0, epsilon=1.0)


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("runs") / "text"
    with without_figures():
        train_and_evaluate(config(folder), workdir)
    return workdir


@pytest.mark.slow
def test_a_network_learns_a_style_that_it_was_not_trained_on(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"--workdir={trained}", "--dynamic", "--dynamic_learning_rate=0.01", "--dynamic_batches=4"]
    assert evaluate.main(words) == 0
    test = json.loads((trained / "evaluation.json").read_text())
    assert test["dynamic_loss"] < test["loss"] - 0.2
    assert test["dynamic_perplexity"] == pytest.approx(np.exp(test["dynamic_loss"]))
    options = {"learning_rate": 0.01, "decay": 1e-4 * WINDOW, "rms": True, "epsilon": 2e-5}
    assert test["dynamic"] == options | {"window": WINDOW, "streams": 1, "batches": 4}
    assert f"dynamic_loss {test['dynamic_loss']:.6g}" in capsys.readouterr().out


@pytest.mark.slow
def test_python_has_the_numbers_of_the_command(trained: Path, tmp_path: Path) -> None:
    words = [f"--workdir={trained}", "--dynamic", "--dynamic_learning_rate=0.01", "--dynamic_batches=4"]
    assert evaluate.main([*words, f"--output={tmp_path}"]) == 0
    numbers = rnnlab.load(trained).evaluate_dynamically("test", learning_rate=0.01, batches=4)
    written = json.loads((tmp_path / "evaluation.json").read_text())
    assert numbers == pytest.approx({name: written[name] for name in numbers}, rel=1e-6)
    assert set(numbers) == {"loss", "perplexity", "dynamic_loss", "dynamic_perplexity"}


@pytest.mark.slow
def test_a_window_of_another_length_leaves_the_static_numbers(trained: Path) -> None:
    written = {}
    for window in (3, WINDOW):
        assert (
            evaluate.main([f"--workdir={trained}", "--dynamic", "--nodynamic_rms", f"--dynamic_window={window}"]) == 0
        )
        written[window] = json.loads((trained / "evaluation.json").read_text())
        assert (written[window]["dynamic"]["rms"], written[window]["dynamic"]["window"]) == (False, window)
        assert written[window]["dynamic_loss"] < written[window]["loss"]
    assert written[3]["loss"] == pytest.approx(written[WINDOW]["loss"], rel=1e-5)  # The carry goes on across windows.


MISTAKES = [
    (["--dynamic_decay=0.1"], "--dynamic_decay does nothing without --dynamic"),
    (["--nodynamic_rms"], "--dynamic_rms does nothing without --dynamic"),
    (["--dynamic", "--decode"], "--dynamic is for language models, which --decode is not for"),
    (["--dynamic", "--test_lengths=3"], "--dynamic is for language models, which --test_lengths is not for"),
    (["--dynamic", "--nodynamic_rms", "--dynamic_batches=2"], "--dynamic_batches does nothing with --nodynamic_rms"),
    (["--dynamic", "--dynamic_learning_rate=nan"], "--dynamic_learning_rate: nan is not a non-negative number"),
    (["--dynamic", "--dynamic_learning_rate=inf"], "--dynamic_learning_rate: inf is not a finite number"),
    (["--dynamic", "--dynamic_learning_rate=-1"], "dynamic_learning_rate"),
    (["--dynamic", "--dynamic_decay=1.5"], "dynamic_decay"),
    (["--dynamic", "--dynamic_window=0"], "dynamic_window"),
    (["--dynamic", "--dynamic_streams=400"], "too few for 400 streams"),
    *exhaustive_tests(
        (["--dynamic", "--nodynamic_rms", "--dynamic_learning_rate=1e30"], "--dynamic: the loss on test is .*; take a")
    ),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES)
def test_mistakes_are_one_line(trained: Path, words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        evaluate.main([f"--workdir={trained}", *words])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["adding", "sentences"])
def test_tasks_that_are_no_streams_are_refused(folder: Path, name: str) -> None:
    of_text = {"name": "sentences", "dataset": "text", "source": str(folder / "text")}
    task = of_text if name == "sentences" else {"name": "adding", "length": 6}
    model = {"cell": {"name": "irnn", "features": 3}}
    with pytest.raises(
        ConfigError, match=f"^--dynamic: the task {name} has no windows of a text that follow each other"
    ):
        make_dynamic_run(resolve_config(SMALL_RUN | {"task": task, "model": model}), None)
