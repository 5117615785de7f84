"""Generates text with a trained language model.

    python -m rnnlab.generate --workdir=runs/shakespeare --prompt="ROMEO:"
    python -m rnnlab.generate --workdir=runs/shakespeare --prompt="ROMEO:" --temperature=0.7 --top_k=20 --samples=3

Prints the prompt and its continuation on stdout, token by token. Names on stderr the words of the prompt that the
vocabulary lacks, which enter as <unk>. Without a prompt the text begins a line. A sample ends after --length tokens,
with the task `sentences` also at the end of the sentence. Sample i of a seed is the same for any number of samples.
Exit status: 0, or 2 for a mistake in the command or the workdir, or where the network's numbers are not finite.
"""

import codecs
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags

from rnnlab import cli
from rnnlab.config.errors import ConfigError
from rnnlab.datasets.vocabulary import END, Vocabulary
from rnnlab.library.generation import Sampling, check_makes_text, read_prompt, texts_of
from rnnlab.records.workdir import check_words, read_config
from rnnlab.tasks import Sentences


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
    names = ("length", "temperature", "top_k", "top_p", "seed", "allow_unknown")
    options: dict[str, Any] = {name: values[name].value for name in names}
    sampling = Sampling(**options, where="--")
    workdir = Path(values.workdir)
    config = read_config(workdir)
    check_makes_text(workdir, config)

    from rnnlab.training.chosen import restore_run
    from rnnlab.training.setup import make_run

    run = make_run(config, values.data_dir)
    task: Any = run.task
    check_words(workdir, task.words)
    vocabulary: Vocabulary = task.corpus.vocabulary
    prompt = read_prompt(values.prompt, vocabulary, isinstance(task, Sentences), "--")
    restored = restore_run(run, workdir, values.checkpoint)
    params, buffers = jax.device_put((restored.state.evaluated, restored.state.buffers), jax.devices()[0])
    network = run.programs.structure.network(params, buffers)
    sample = texts_of(network, task, prompt, sampling)
    try:
        for number in range(values.samples):
            if values.samples > 1:
                print(f"--- sample {number + 1} of {values.samples}")
            _show(vocabulary, sample(number))
    except FloatingPointError as error:
        print()
        raise ConfigError(f"{workdir}: checkpoint {restored.step}: {error}") from None
    return cli.FINISHED


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
