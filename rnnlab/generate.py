"""Generates text with a trained language model.

    python -m rnnlab.generate --workdir=runs/shakespeare --prompt="ROMEO:"
    python -m rnnlab.generate --workdir=runs/shakespeare --prompt="ROMEO:" --temperature=0.7 --top_k=20 --samples=3

Prints the prompt and its continuation on stdout, token by token. Names on stderr the words of the prompt that the
vocabulary lacks, which enter as <unk>. Without a prompt the text begins a line. A sample ends after --length tokens,
with the task `sentences` also at the end of the sentence. Sample i of a seed is the same for any number of samples.
Exit status: 0, or 2 for a mistake in the command or the workdir, or where the network's numbers are not finite.
"""

import codecs
import itertools
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from absl import flags
from flax import nnx
from jax import lax

from rnnlab import cli
from rnnlab.config.bounds import check_float32
from rnnlab.config.errors import ConfigError
from rnnlab.datasets.vocabulary import END, Vocabulary
from rnnlab.nn.connections import Carries, Hidden
from rnnlab.nn.cross_entropy import Distribution
from rnnlab.nn.network import Network
from rnnlab.ops.random_streams import stream
from rnnlab.records.workdir import check_words, read_config
from rnnlab.tasks import TASKS, LanguageModel, Sentences, find_task
from rnnlab.typing import Array, Float, Int, PRNGKeyArray


class Position(NamedTuple):
    """A network's position in a text."""

    carries: Carries
    logits: Float[Array, " V"]
    """The logits of the next token."""


class Generator:
    """Continues texts with a network: a compiled call for the prompt, and one for each token after it.

    Args:
        network: one direction, an answer at every step.
        vocabulary: V.
        without: tokens that are never generated.
        top_k, top_p: see `draw`.
    """

    def __init__(
        self,
        network: Network,
        vocabulary: int,
        without: Sequence[int] = (),
        top_k: int | None = None,
        top_p: float | None = None,
    ):
        self._graphdef, self._state = nnx.split(network)
        self._vocabulary, self._without = vocabulary, jnp.array(without, jnp.int32)
        self._top_k, self._top_p = top_k, top_p
        self._reads, self._steps = jax.jit(self._read), jax.jit(self._step)

    def read(self, tokens: Sequence[int]) -> Position:
        """After these tokens, of which there is at least one, from the network's own first carry."""
        return self._reads(self._state, jnp.array(tokens, jnp.int32), None)

    def follow(self, position: Position, key: PRNGKeyArray, temperature: float = 1.0) -> Iterator[int]:
        """Tokens without end; token i is drawn with fold_in(key, i).

        Raises:
            FloatingPointError: the network's logits are not finite.
        """
        for number in itertools.count():
            token, finite, position = self._steps(self._state, position, jax.random.fold_in(key, number), temperature)
            if not finite:
                raise FloatingPointError(f"the network's logits are not finite after {number} generated tokens")
            yield int(token)

    def _read(self, state: nnx.State, tokens: Int[Array, " T"], carries: Carries | None) -> Position:
        network: Network = nnx.merge(self._graphdef, state)
        last: Carries = []
        hidden = network.hidden(tokens[:, None], first=carries, last=last)
        outputs: Any = network.read(Hidden(hidden.h[-1:], hidden.state))  # [1, 1, V]: of the last step alone.
        outputs = outputs.logits() if isinstance(outputs, Distribution) else outputs
        return Position(last, outputs[0, 0, : self._vocabulary])

    def _step(
        self, state: nnx.State, position: Position, key: PRNGKeyArray, temperature: Float[Array, ""]
    ) -> tuple[Int[Array, ""], Array, Position]:
        finite = jnp.isfinite(position.logits).all()
        logits = position.logits.at[self._without].set(-jnp.inf)
        token = draw(logits, key, temperature, self._top_k, self._top_p)
        return token, finite, self._read(state, token[None], position.carries)


def draw(
    logits: Float[Array, " V"],
    key: PRNGKeyArray,
    temperature: Float[Array, ""] | float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Int[Array, ""]:
    """A token from softmax(logits / temperature); temperature 0 takes the most likely one.

    top_k: from the k most likely tokens only. top_p: from the fewest most likely ones that together have a probability
    of p (nucleus sampling: Holtzman et al., 2020, eq. 2), after top_k.
    """
    z = (logits - logits.max()) / jnp.where(temperature > 0, temperature, 1.0)
    most_likely = jnp.argmax(logits)
    if top_k is None and top_p is None:
        token = jax.random.categorical(key, z)
    else:
        z, tokens = lax.top_k(z, min(top_k or len(z), len(z)))
        if top_p is not None:
            shares = jax.nn.softmax(z)
            z = jnp.where(jnp.cumsum(shares) - shares < top_p, z, -jnp.inf)
        token = tokens[jax.random.categorical(key, z)]
    return jnp.where(temperature > 0, token, most_likely).astype(jnp.int32)


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    values = flags.FlagValues()
    cli.path_flag(values, "workdir", None, "folder of a run of rnnlab.train")
    flags.DEFINE_string("prompt", "", "the beginning of the text", flag_values=values)
    flags.DEFINE_float("temperature", 1.0, "of the softmax; 0: always the most likely token", flag_values=values)
    flags.DEFINE_integer("top_k", None, "from the k most likely tokens only", lower_bound=1, flag_values=values)
    flags.DEFINE_float("top_p", None, "from the most likely tokens, up to this probability", flag_values=values)
    flags.DEFINE_integer("seed", 0, "the seed of all draws", 0, 2**31 - 1, flag_values=values)
    flags.DEFINE_integer("samples", 1, "how many texts", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("length", 200, "tokens of a text after the prompt", lower_bound=1, flag_values=values)
    flags.DEFINE_bool("allow_unknown", False, "whether <unk> may be generated", flag_values=values)
    flags.DEFINE_string("checkpoint", "best", "best, last, or a step", flag_values=values)
    cli.data_flags(values)
    cli.parse(values, argv, __doc__)
    if values.workdir is None:
        raise ConfigError("--workdir is missing, as in --workdir=runs/shakespeare (--help says more)")
    temperature, top_p = values.temperature, values.top_p
    if not 0 <= temperature < math.inf:
        raise ConfigError(f"--temperature: {temperature} is not a number from 0 up")
    check_float32(temperature, "--temperature")
    if top_p is not None and not 0 < top_p <= 1:
        raise ConfigError(f"--top_p: {top_p} is not a probability above 0 and up to 1")
    if top_p is not None:
        check_float32(top_p, "--top_p")
    workdir = Path(values.workdir)
    config = read_config(workdir)
    _check_makes_text(workdir, config)

    from rnnlab.training.chosen import restore_chosen
    from rnnlab.training.setup import make_run

    run = make_run(config, values.data_dir)
    task: Any = run.task
    check_words(workdir, task.words)
    vocabulary: Vocabulary = task.corpus.vocabulary
    single = isinstance(task, Sentences)
    prompt = _prompt(values.prompt, vocabulary, single)
    start = run.programs.start(run.seed)
    restored = restore_chosen(workdir, values.checkpoint, start, run.programs.structure.word_leaves)
    params, buffers = jax.device_put((restored.state.evaluated, restored.state.buffers), jax.devices()[0])
    without = () if values.allow_unknown else (vocabulary.unknown,)
    network = run.programs.structure.network(params, buffers)
    generator = Generator(network, len(vocabulary), without, values.top_k, top_p)
    key = stream(jnp.int32(values.seed), "generate")
    try:
        position = generator.read([vocabulary.end, *prompt] if single or not prompt else prompt)
        for number in range(values.samples):
            if values.samples > 1:
                print(f"--- sample {number + 1} of {values.samples}")
            tokens = generator.follow(position, jax.random.fold_in(key, number), temperature)
            tokens = itertools.islice(tokens, values.length)
            if single:
                tokens = itertools.takewhile(lambda token: token != vocabulary.end, tokens)
            _show(vocabulary, itertools.chain(prompt, tokens))
    except FloatingPointError as error:
        print()
        raise ConfigError(f"{workdir}: checkpoint {restored.step}: {error}") from None
    return cli.FINISHED


def _check_makes_text(workdir: Path, config: Mapping[str, Any]) -> None:
    """Raises ConfigError unless the run has trained a language model that can go on token by token."""
    name = config["task"]["name"]
    makes_text = [each for each, task in TASKS.items() if task in (LanguageModel, Sentences)]
    task = find_task(config)
    if not (isinstance(task, type) and issubclass(task, LanguageModel | Sentences)):
        raise ConfigError(f"{workdir} is a run of the task {name!r}; text is generated by: {', '.join(makes_text)}")
    if config["model"]["normalization"]["cell"] == "batch":
        raise ConfigError(
            f"{workdir}: model.normalization.cell='batch' has statistics for the time steps of a batch, which a text "
            "that grows token by token does not have"
        )


def _prompt(text: str, vocabulary: Vocabulary, single: bool) -> list[int]:
    """The prompt as tokens; a line on stderr names the words that the vocabulary lacks.

    Args:
        text: the prompt.
        vocabulary: the run's.
        single: whether the run's texts are single sentences.

    Raises:
        ConfigError: the vocabulary has none of its words, or the prompt ends a sentence where texts are single ones.
    """
    try:
        # Where the locale has no UTF-8, Python keeps the typed bytes as surrogates.
        text = text.encode("utf-8", "surrogateescape").decode()
    except UnicodeError:
        raise ConfigError("--prompt: not UTF-8") from None
    words = vocabulary.split(text)
    if single and END[vocabulary.level] in words:
        raise ConfigError("--prompt: this run knows single sentences, and the prompt has the end of one in it")
    tokens = [int(token) for token in vocabulary.encode(words)]
    unknown = list(dict.fromkeys(word for word in words if word not in vocabulary))
    what = {"word": "words", "character": "characters", "byte": "bytes"}[vocabulary.level]
    if words and all(token == vocabulary.unknown for token in tokens):
        listed = _listed(list(dict.fromkeys(words)))
        raise ConfigError(f"--prompt: none of its {what} ({listed}) is in the run's vocabulary")
    if unknown:
        print(f"{what} of the prompt that the vocabulary lacks, read as <unk>: {_listed(unknown)}", file=sys.stderr)
    return tokens


def _listed(words: Sequence[str]) -> str:
    """Up to ten words, and how many more there are."""
    more = f" and {len(words) - 10} more" if len(words) > 10 else ""
    return ", ".join(repr(word) for word in words[:10]) + more


def _show(vocabulary: Vocabulary, tokens: Iterable[int]) -> None:
    """Prints the words of tokens as they come, as `Vocabulary.join` puts them together, and ends the line."""
    before = end = END[vocabulary.level]
    decoder = codecs.getincrementaldecoder("utf-8")("replace")  # A character may be several bytes.
    for word in map(vocabulary.words.__getitem__, tokens):
        between = " " if vocabulary.level == "word" and end not in (before, word) else ""
        shown = decoder.decode(word.encode("latin-1")) if vocabulary.level == "byte" else word
        print(between, "\n" if word == end else shown, sep="", end="", flush=True)
        before = word
    print(decoder.decode(b"", final=True), end="")
    if before != end:
        print(flush=True)


if __name__ == "__main__":
    cli.run(main)
