"""Prepares a corpus once: turns its text into token ids in memory-mapped files.

    python -m rnnlab.prepare --dataset=lm1b --vocabulary_size=1000000
    python -m rnnlab.prepare --dataset=wikitext-2
    python -m rnnlab.prepare --dataset=tinyshakespeare --level=character
    python -m rnnlab.prepare --dataset=enwik8 --level=byte
    python -m rnnlab.prepare --dataset=text --source=books --min_count=3

Downloads the files that the data folder lacks, and verifies their checksums. --dataset=text takes any folder of text
files (.txt, .tokens, .raw) instead: one file or folder for each split, named after it in any letter case (train.txt,
ptb.valid.txt, wiki.test.tokens; dev is validation), else all of its files split 90/5/5. Files that may be the same
split, and a split without its file, are refused. Words stand between blanks. A line is a sentence and ends with <eos>;
at the character and the byte level it ends with the line feed. The vocabulary is that of the training text: all of it,
the --vocabulary_size most frequent words (<unk> and <eos> among them), those that occur --min_count times, or the words
of the file --vocabulary, one a line, with or without counts. Other words become <unk>.
Writes train.npy, validation.npy, test.npy, the offsets of their sentences, the vocabulary and meta.json to
DATA/DATASET/prepared/KEY, where KEY names level and vocabulary; if nothing may be written there, to the user's cache
folder. With --cache_dir (or RNNLAB_CACHE) it writes there.
ptb is Mikolov's Penn Treebank, words or characters; text8 and enwik8 have 90, 5 and 5 MB, enwik8 by bytes.
lm1b has the training shards 1 to 99, held-out shard 1 for validation and 0 for test. --min_count=3 yields the
benchmark's vocabulary of 793 471 words.
An interrupted run goes on where it stopped; one that has nothing left to do says so.
Exit status: 0, 2 for a mistake in the command or the data, 130 interrupted.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import flags

from rnnlab import cli
from rnnlab.config.errors import ConfigError
from rnnlab.datasets.text import DATASETS
from rnnlab.datasets.tokens import Request, check_unknown, find_prepared, prepare, read_tokens
from rnnlab.datasets.vocabulary import END
from rnnlab.files.output import make_console


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    values = flags.FlagValues()
    flags.DEFINE_enum("dataset", None, DATASETS, "the corpus", flag_values=values)
    flags.DEFINE_enum("level", "word", list(END), "what a token is", flag_values=values)
    cli.path_flag(values, "source", None, "folder of the files, for --dataset=text")
    flags.DEFINE_integer("vocabulary_size", None, "entries at most", lower_bound=3, flag_values=values)
    flags.DEFINE_integer("min_count", None, "occurrences of a word at least", lower_bound=1, flag_values=values)
    cli.path_flag(values, "vocabulary", None, "file of the words to take, one a line, with or without counts")
    flags.DEFINE_integer("processes", None, "at work at once; else one a core", lower_bound=1, flag_values=values)
    cli.data_flags(values)
    cli.parse(values, argv, __doc__)
    if values.dataset is None:
        raise ConfigError(f"--dataset is needed: {', '.join(DATASETS)}")
    request = Request(**{name: getattr(values, name) for name in Request._fields})
    return _run(request, values.processes)


def _run(request: Request, processes: int | None) -> int:
    console = make_console()

    def say(text: str) -> None:
        console.print(text, markup=False)

    if (folder := find_prepared(request)) is not None:
        say(f"{folder} is there already; nothing to do")
        return cli.FINISHED
    with _bar(console) as progress:
        folder = prepare(request, processes, say, progress)
    tokens = read_tokens(folder)
    unknown, count = (tokens.meta["splits"]["train"][name] for name in ("unknown", "tokens"))
    say(f"vocabulary: {len(tokens.vocabulary)} entries; {unknown / count:.2%} of the training tokens are <unk>")
    if warning := check_unknown(tokens):
        say(f"warning: {warning}")
    for split, sizes in tokens.meta["splits"].items():
        say(f"{split}: {sizes['tokens']} tokens, {sizes['sentences']} sentences")
    return cli.FINISHED


@contextlib.contextmanager
def _bar(console: Any) -> Iterator[Callable[[int, int], None]]:
    """Shows bytes, bytes a second and the time left: in a bar on a terminal, elsewhere in a line every ten seconds."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    if sys.stdout.isatty():
        columns = ("reading", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as bar:
            task = bar.add_task("")
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return
    begin = last = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > 10:
            last = now
            console.print(f"read {done / 1e6:.0f} of {total / 1e6:.0f} MB, {now - begin:.0f} s")

    yield show


if __name__ == "__main__":
    cli.run(main)
