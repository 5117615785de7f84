"""Generating text: what is drawn, what the network sees, what is printed; and what is refused."""

import contextlib
import functools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import rnnlab
from rnnlab import cli, generate
from rnnlab.config.errors import ConfigError
from rnnlab.datasets.tokens import load_tokens
from rnnlab.datasets.vocabulary import Vocabulary
from rnnlab.evaluate import main as evaluate
from rnnlab.library.generation import read_prompt
from rnnlab.nn.generator import Generator, draw
from rnnlab.nn.network import Network
from rnnlab.records.run_config import resolve_config
from rnnlab.records.workdir import open_workdir
from rnnlab.training.checkpoints import Checkpoints
from rnnlab.training.chosen import restore_chosen
from rnnlab.training.loop import train_and_evaluate
from rnnlab.training.run import Run
from rnnlab.training.setup import make_run
from tests.helpers import SMALL_RUN, assert_close, float64, in_double, random_like, without_cache_lines
from tests.tiers import slow_tests

# --- what is drawn ---------------------------------------------------------------------------------------------------

LOGITS = np.log([0.1, 0.4, 0.05, 0.3, 0.15])
DRAWS = 4000


def frequencies(**options: Any) -> np.ndarray:
    """How often each of five tokens is drawn."""
    logits = jnp.asarray(LOGITS, jnp.float32) + 3  # Not normalised.
    keys = jax.random.split(jax.random.key(0), DRAWS)
    tokens = jax.jit(jax.vmap(lambda key: draw(logits, key, **options)))(keys)
    return np.bincount(np.asarray(tokens), minlength=5) / DRAWS


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.1, 0.4, 0.05, 0.3, 0.15]),
        ({"temperature": 0.5}, np.array([1, 16, 0.25, 9, 2.25]) / 28.5),
        ({"temperature": 0.0}, [0, 1, 0, 0, 0]),
        ({"temperature": 1e-30}, [0, 1, 0, 0, 0]),
        ({"top_k": 1}, [0, 1, 0, 0, 0]),
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"top_k": 99}, [0.1, 0.4, 0.05, 0.3, 0.15]),
        ({"top_p": 0.01}, [0, 1, 0, 0, 0]),
        ({"top_p": 0.69}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"top_p": 0.71}, [0, 40 / 85, 0, 30 / 85, 15 / 85]),
        ({"top_p": 1.0}, [0.1, 0.4, 0.05, 0.3, 0.15]),
        ({"top_k": 2, "top_p": 0.56}, [0, 1, 0, 0, 0]),  # 4/7 of what top_k leaves.
        ({"top_p": 0.69, "temperature": 0.5}, [0, 16 / 25, 0, 9 / 25, 0]),
    ],
)
def test_tokens_are_drawn_as_often_as_they_are_likely(options: dict[str, Any], expected: Any) -> None:
    found, expected = frequencies(**options), np.asarray(expected)
    assert (found[expected == 0] == 0).all()
    np.testing.assert_allclose(found, expected, atol=4 * 0.5 / DRAWS**0.5)


# --- what the network sees -------------------------------------------------------------------------------------------

MODELS: dict[str, dict[str, Any]] = {
    "lstm, learned carry": {"cell": {"name": "lstm", "features": 4}, "embedding": 3, "learned_carry": True},
    "gru, skip, one-hot": {"cell": {"name": "gru", "features": 4}, "layers": 2, "connections": "skip"},
    "softmax, tied": {"cell": {"name": "vanilla", "features": 3}, "embedding": 3, "softmax": {"tied": True}},
}


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_token_by_token_is_one_long_pass_and_the_most_likely_token_follows(model: dict[str, Any]) -> None:
    with float64():
        network = Network(7, 7, vocabulary=7, readout="every", **model, rngs=nnx.Rngs(0))
        graphdef, state = nnx.split(network)
        state = in_double(state)
        network = nnx.merge(graphdef, jax.tree.map(lambda a, b: a + 0.5 * b, state, random_like(state, 1)))
        generator = Generator(network, 7, without=[2])
        place = generator.read([3, 1, 4])
        tokens = [3, 1, 4, *generator.follow(place, jax.random.key(0), 6, 0.0)]
        outputs: Any = network(jnp.array(tokens)[:, None])
        logits = np.array(outputs.logits() if "softmax" in model else outputs)[2:, 0]
        assert_close(place.logits, logits[0], 1e-12)
        logits[:, 2] = -np.inf
        assert tokens[3:] == list(logits.argmax(1)[:-1])
        assert len(set(tokens[3:])) > 1
        assert generator._blocks._cache_size() == 1


def test_forbidden_tokens_are_never_drawn_and_others_are() -> None:
    network = Network(5, 5, vocabulary=5, readout="every", cell={"name": "gru", "features": 2}, rngs=nnx.Rngs(0))
    for without in ([], [1, 3]):
        generator = Generator(network, 5, without)
        tokens = generator.follow(generator.read([0]), jax.random.key(1), 60)
        assert set(tokens) == set(range(5)) - set(without)


BLOCKS = [1, 2, 4, 8, 16, 32, 64, 64, 9]


def small_generator(**options: Any) -> Generator:
    wide = {"name": "uniform", "scale": 1.5}
    sizes = {"cell": {"name": "gru", "features": 8}, "embedding": 4, "embedding_init": wide, "readout_init": wide}
    return Generator(Network(9, 9, vocabulary=9, readout="every", **sizes, rngs=nnx.Rngs(0)), 9, **options)


def count_blocks(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that gets how many tokens each call makes."""
    counts, run = [], generator._blocks

    def blocks(*arguments: Any) -> Any:
        counts.append(arguments[4])
        return run(*arguments)

    monkeypatch.setattr(generator, "_blocks", blocks)
    return counts


@pytest.mark.parametrize("options", [{}, {"top_k": 4, "top_p": 0.9}], ids=["all", "top"])
def test_tokens_in_blocks_are_those_drawn_one_by_one(options, monkeypatch) -> None:
    generator, key = small_generator(**options), jax.random.key(3)
    start = generator.read([1])
    monkeypatch.setattr("rnnlab.nn.generator._SECONDS", 3600.0)
    run, counts = generator._blocks, count_blocks(generator, monkeypatch)
    tokens = list(generator.follow(start, key, sum(BLOCKS), 0.8))
    assert counts == BLOCKS
    position, one_by_one = start, []
    drawn = jax.jit(functools.partial(draw, **options))
    for number in range(len(tokens)):
        one_by_one.append(int(drawn(position.logits, jax.random.fold_in(key, number), 0.8)))
        position = generator._reads(generator._state, jnp.array(one_by_one[-1:]), position.carries)
    assert tokens == one_by_one
    assert len(set(tokens)) > 3
    assert run._cache_size() == 1


def test_blocks_that_take_long_grow_no_longer_and_hold_the_same_tokens(monkeypatch) -> None:
    generator = small_generator()
    start = generator.read([1])
    tokens = list(generator.follow(start, jax.random.key(3), 20))
    counts = count_blocks(generator, monkeypatch)
    monkeypatch.setattr("rnnlab.nn.generator._SECONDS", 0.0)
    assert list(generator.follow(start, jax.random.key(3), 20)) == tokens
    assert counts == [1] * 20


def test_tokens_before_logits_that_are_not_finite_are_kept_and_counted() -> None:
    generator, key = small_generator(), jax.random.key(0)
    start = generator.read([1])
    tokens = list(generator.follow(start, key, 60))
    embedding = generator._state["embedding"]
    table = embedding.get_value()
    counts = {tokens.index(token) + 1: token for token in tokens}
    assert {1, 2} < {*counts}
    assert max(counts) > 8
    for count, token in counts.items():
        embedding.set_value(table.at[token].set(jnp.nan))
        follow = generator.follow(start, key, 60)
        assert [next(follow) for _ in range(count)] == tokens[:count]
        with pytest.raises(FloatingPointError, match=f"not finite after {count} generated tokens"):
            next(follow)


# --- the command -----------------------------------------------------------------------------------------------------

TASKS: dict[str, dict[str, Any]] = {
    "words": {"name": "language_model", "window": 5, "vocabulary_size": 8},
    "characters": {"name": "language_model", "window": 5, "level": "character"},
    "sentences": {"name": "sentences", "vocabulary_size": 8},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder, with text/ to train on."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "text").mkdir()
    rng = np.random.default_rng(0)
    for split, lines in {"train": 40, "valid": 9, "test": 7}.items():
        text = "".join(f"{' '.join(rng.choice(list('aaaabbbbcdefghijk'), rng.integers(1, 9)))}\n" for _ in range(lines))
        (folder / "text" / f"{split}.txt").write_text(text)
    return folder


def config_of(data: Path, task: str, **changes: Any) -> dict[str, Any]:
    config = {
        "steps": 1,
        "batch_size": 2,
        "eval_batch_size": 2,
        "devices": 1,
        "task": TASKS[task] | {"dataset": "text", "source": str(data / "text")},
        "model": {"cell": {"name": "gru", "features": 4}, "embedding": 3},
        "optimizer": {"name": "sgd", "learning_rate": 0.1},
    }
    return config | changes


def begin(config: dict[str, Any], workdir: Path, data: Path) -> None:
    """Leaves what training leaves before its first step: a config, a vocabulary and a checkpoint."""
    run = make_run(config, str(data))
    open_workdir(workdir, resolve_config(config), run.task.words)
    checkpoints = Checkpoints(workdir / "checkpoints")
    checkpoints.save(0, run.programs.start(0), {})
    checkpoints.close()


@pytest.fixture(scope="module")
def workdirs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of the three kinds, untrained."""
    folder = tmp_path_factory.mktemp("runs")
    for task in TASKS:
        begin(config_of(data, task), folder / task, data)
    return {task: folder / task for task in TASKS}


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return {}


@pytest.fixture(autouse=True)
def once(made: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a config is made into, and what a checkpoint holds, is made and read once: that is most of a call's time."""

    def run(config: dict[str, Any], data_dir: str) -> Run:
        key = json.dumps([config, data_dir])
        if key not in made:
            made[key] = make_run(config, data_dir)
            start = functools.cache(made[key].programs.start)
            made[key].programs.start = start
        return made[key]

    def restored(workdir: Path, which: str, like: Any, words: Any) -> Any:
        key = f"{workdir} {which}"
        if key not in made:
            made[key] = restore_chosen(workdir, which, like, words)
        return made[key]

    monkeypatch.setattr("rnnlab.training.setup.make_run", run)
    monkeypatch.setattr("rnnlab.training.chosen.restore_chosen", restored)


@pytest.fixture
def say(data: Path, workdirs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[str, str]]:
    """Runs the command on one of the runs; returns what is on stdout and on stderr."""

    def run(task: str, *words: str) -> tuple[str, str]:
        capsys.readouterr()
        assert generate.main([f"--workdir={workdirs[task]}", f"--data_dir={data}", *words]) == 0
        return capsys.readouterr()

    return run


def vocabulary_of(data: Path, task: str) -> Vocabulary:
    fields = {name: TASKS[task][name] for name in ("level", "vocabulary_size") if name in TASKS[task]}
    return load_tokens("text", data, source=data / "text", **fields).vocabulary


@pytest.mark.parametrize("task", ["words", *slow_tests("characters")])
def test_the_text_is_the_prompt_and_as_many_tokens_as_asked_for_the_same_for_a_seed(task, data, say) -> None:
    vocabulary = vocabulary_of(data, task)
    prompt = {"words": "a b", "characters": "ab"}[task]
    text, errors = say(task, f"--prompt={prompt}", "--length=30")
    assert text.startswith(prompt)
    assert errors == ""
    words = vocabulary.split(text[: -1 if len(vocabulary.split(text)) > 32 else None])  # The line was ended at last.
    assert len(words) == 32
    assert set(words) <= set(vocabulary.words) - {"<unk>"}
    assert vocabulary.join(words) == text.removesuffix("\n" if words[-1] != vocabulary.words[vocabulary.end] else "")
    assert say(task, f"--prompt={prompt}", "--length=30")[0] == text
    assert say(task, f"--prompt={prompt}", "--length=30", "--seed=1")[0] != text


def test_python_has_the_text_of_the_command(data, workdirs, say) -> None:
    run = rnnlab.load(workdirs["words"], data_dir=str(data))
    text, _ = say("words", "--prompt=a b", "--length=12", "--seed=2", "--temperature=0.5")
    assert run.generate("a b", length=12, seed=2, temperature=0.5) == text.removesuffix("\n")
    for options, message in {"temperature": -1, "top_k": 0, "length": 0}.items():
        with pytest.raises(ConfigError, match=f"^{options}: "):
            run.generate(**{options: message})


def test_sample_i_of_a_seed_is_the_same_however_many_there_are(say) -> None:
    alone, _ = say("words", "--prompt=a", "--length=12")
    three, _ = say("words", "--prompt=a", "--length=12", "--samples=3")
    parts = re.split(r"^--- sample \d of 3\n", three, flags=re.MULTILINE)
    assert len(parts) == 4
    assert parts[0] == ""
    assert parts[1] == alone
    assert len(set(parts[1:])) == 3


@pytest.mark.slow
def test_greedy_text_does_not_depend_on_the_seed_and_is_what_the_network_finds_most_likely(data, workdirs, say) -> None:
    text, _ = say("words", "--prompt=a b", "--length=8", "--temperature=0", "--allow_unknown")
    assert say("words", "--prompt=a b", "--length=8", "--temperature=0", "--allow_unknown", "--seed=5")[0] == text
    vocabulary = vocabulary_of(data, "words")
    run = make_run(config_of(data, "words"), str(data))
    state = run.programs.start(0)
    tokens = vocabulary.encode(vocabulary.split(text))[:10]
    outputs: Any = run.programs.structure.network(state.params, state.buffers)(jnp.asarray(tokens)[:, None])
    np.testing.assert_array_equal(tokens[2:], outputs[1:-1, 0].argmax(-1))
    assert len(tokens) == 10


@pytest.mark.slow
def test_a_sentence_ends_where_the_network_ends_it(say) -> None:
    texts, _ = say("sentences", "--prompt=a b", "--samples=12", "--length=100", "--seed=3")
    lines = [line for line in texts.splitlines() if not line.startswith("---")]
    assert len(lines) == 12
    assert all(line.startswith("a b") for line in lines)
    assert len({len(line) for line in lines}) > 3
    assert max(len(line.split()) for line in lines) < 102
    assert say("sentences", "--length=1")[0].count("\n") == 1  # Without a prompt, a sentence of its own.


@pytest.mark.slow
def test_unknown_words_are_named_and_enter_as_unknown(say) -> None:
    text, errors = say("words", "--prompt=a zebra b zebra lion", "--length=3")
    assert text.startswith("a <unk> b <unk> <unk>")
    assert errors == "words of the prompt that the vocabulary lacks, read as <unk>: 'zebra', 'lion'\n"
    text, errors = say("characters", "--prompt=aZb", "--length=3")
    assert text.startswith("a<unk>b")
    assert errors == "characters of the prompt that the vocabulary lacks, read as <unk>: 'Z'\n"


def test_unknown_is_generated_only_when_asked_for(say) -> None:
    assert "<unk>" not in say("words", "--prompt=a", "--length=100")[0]
    assert "<unk>" in say("words", "--prompt=a", "--length=100", "--allow_unknown")[0]


def test_text_appears_token_by_token(data, workdirs, monkeypatch) -> None:
    shown: list[str] = []
    told = Generator.follow

    def follow(*arguments: Any) -> Any:
        for number, token in enumerate(told(*arguments)):
            if number:
                assert shown[-1] == "flush"
            shown.append("token")
            yield token

    def show(*words: str, flush: bool = False, **_: Any) -> None:
        shown.append("flush" if flush else "held")

    monkeypatch.setattr(Generator, "follow", follow)
    monkeypatch.setattr("builtins.print", show)
    generate.main([f"--workdir={workdirs['words']}", f"--data_dir={data}", "--prompt=a", "--length=5"])
    monkeypatch.undo()
    assert shown.count("token") == 5


@pytest.mark.slow
def test_who_reads_the_text_may_stop(data, workdirs) -> None:
    command = [sys.executable, "-m", "rnnlab.generate", f"--workdir={workdirs['words']}", f"--data_dir={data}"]
    process = subprocess.Popen([*command, "--length=1000000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read(5)
    process.stdout.close()
    with contextlib.closing(process.stderr):
        assert without_cache_lines(process.stderr.read().decode()) == ""
        assert process.wait(timeout=60) == cli.UNREAD


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "words", "message"),
    [
        ("words", ["--prompt=zebra lion"], r"--prompt: none of its words ('zebra', 'lion') is in the run's vocabulary"),
        ("words", ["--prompt=<unk>"], "--prompt: none of its words ('<unk>') is in the run's vocabulary"),
        ("characters", ["--prompt=ZZ"], "--prompt: none of its characters ('Z') is in the run's vocabulary"),
        ("words", ["--prompt=a \udcff"], "--prompt: not UTF-8"),
        ("sentences", ["--prompt=a\nb"], "--prompt: this run knows single sentences, and the prompt has the end of"),
        ("words", ["--temperature=-1"], "--temperature: -1.0 is not a number from 0 up"),
        ("words", ["--temperature=1e-46"], "--temperature: 1e-46 is too small for float32"),
        ("words", ["--top_p=1e-46"], "--top_p: 1e-46 is too small for float32"),
        ("words", ["--temperature=nan"], "--temperature: nan is not a number from 0 up"),
        ("words", ["--top_p=0"], "--top_p: 0.0 is not a probability above 0 and up to 1"),
        ("words", ["--top_p=nan"], "--top_p: nan is not a probability above 0 and up to 1"),
        ("words", ["--top_k=0"], "top_k"),
        ("words", ["--length=0"], "length"),
        ("words", ["--samples=0"], "samples"),
        ("words", ["--seed=-1"], "seed"),
        ("words", ["--checkpoint=7"], "no checkpoint of step 7; there are: 0"),
    ],
)
def test_mistakes_are_one_line(task, words, message, data, workdirs) -> None:
    with pytest.raises(ConfigError) as caught:
        generate.main([f"--workdir={workdirs[task]}", f"--data_dir={data}", *words])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_prompt_is_the_bytes_that_were_typed_where_the_locale_has_no_utf8() -> None:
    vocabulary = Vocabulary.build({"ü": 2, "×": 1, "\n": 1}, "character")
    typed = "ü×".encode().decode("ascii", "surrogateescape")  # As Python reads the command line there.
    assert read_prompt(typed, vocabulary, False) == read_prompt("ü×", vocabulary, False)


def test_without_a_workdir_the_line_says_so() -> None:
    with pytest.raises(ConfigError, match=r"^--workdir is missing, as in --workdir=runs/shakespeare"):
        generate.main([])


def test_runs_of_other_tasks_are_refused(tmp_path) -> None:
    open_workdir(tmp_path / "run", resolve_config(SMALL_RUN))
    with pytest.raises(ConfigError) as caught:
        generate.main([f"--workdir={tmp_path / 'run'}"])
    assert str(caught.value) == (
        f"{tmp_path / 'run'} is a run of the task 'adding'; text is generated by: language_model, sentences"
    )


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"bidirectional": True}, "model.bidirectional: this task needs False"),
        ({"normalization": {"cell": "batch", "steps": 5}}, "model.normalization.cell='batch' has statistics"),
    ],
)
def test_networks_that_cannot_go_on_token_by_token_are_refused(model, message, data, workdirs, tmp_path) -> None:
    config = json.loads((workdirs["words"] / "config.json").read_text())
    config["model"] |= model
    open_workdir(tmp_path / "run", config)
    with pytest.raises(ConfigError, match=re.escape(message)):
        generate.main([f"--workdir={tmp_path / 'run'}", f"--data_dir={data}"])


def test_a_network_that_is_not_finite_is_named(data, workdirs, tmp_path, capsys) -> None:
    run = make_run(config_of(data, "words"), str(data))
    state = run.programs.start(0)
    state.params["readout"]["bias"] = state.params["readout"]["bias"].at[1].set(jnp.nan)
    shutil.copytree(workdirs["words"], tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    checkpoints.save(3, state, {})
    checkpoints.close()
    with pytest.raises(ConfigError, match=r"checkpoint 3: the network's logits are not finite after 0 generated"):
        generate.main([f"--workdir={tmp_path / 'run'}", f"--data_dir={data}"])


@pytest.mark.slow
def test_another_vocabulary_than_the_checkpoint_s_is_refused_everywhere(data, tmp_path, monkeypatch) -> None:
    """Of the same size, so that no shape gives it away."""
    monkeypatch.setattr("rnnlab.training.setup.make_run", make_run)
    shutil.copytree(data / "text", tmp_path / "text")
    config = config_of(tmp_path, "words")
    begin(config, tmp_path / "run", tmp_path)
    assert json.loads((tmp_path / "run" / "vocabulary.json").read_text())["size"] == 8
    text = tmp_path / "text" / "train.txt"
    text.write_text(text.read_text().replace("a", "z"))
    os.utime(text, ns=(0, 0))
    arguments = [f"--workdir={tmp_path / 'run'}", f"--data_dir={tmp_path}"]
    resumed = lambda _: train_and_evaluate(config | {"steps": 2}, tmp_path / "run", str(tmp_path))  # noqa: E731
    for command in (generate.main, evaluate, resumed):
        with pytest.raises(
            ConfigError, match=r"was trained with another vocabulary, of 8 words; the data give one of 8"
        ):
            command(arguments)
    (tmp_path / "run" / "vocabulary.json").write_text("{")
    with pytest.raises(ConfigError, match=r"vocabulary\.json is cut short; restore it"):
        generate.main(arguments)
