"""Training steps with short examples packed into rows (task.packed=True) beside the same with padding, in turns.

    RNNLAB_DATA=DATA python scripts/compare_packing.py
    RNNLAB_DATA=DATA python scripts/compare_packing.py --cases=wikitext2 --steps=20 --turns=7

Packed batches have so many rows that they hold about as many tokens (frames) as the padded ones. Each time is the least
processor time of all turns, so that other work on the machine counts little; on an accelerator it says nothing. Prints
a table for docs.
"""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from rnnlab import cli
from rnnlab.config.errors import ConfigError, unknown
from rnnlab.config.reading import load_file
from rnnlab.files.markdown import markdown_table
from rnnlab.records.run_config import apply_overrides
from rnnlab.tasks import Task
from rnnlab.training.run import Run
from rnnlab.training.setup import make_run

ADAM = {"name": "adam", "learning_rate": 1e-3, "clip_norm": 1.0}
LAYERS = {"cell": {"name": "lstm", "features": 100}, "layers": 2, "bidirectional": True}


class Case(NamedTuple):
    """A task and a network."""

    name: str
    config: Any
    rows: int
    """Of a packed batch."""


def cases() -> dict[str, Case]:
    """By the names that --cases takes."""
    text = {"name": "sentences", "dataset": "wikitext-2", "longest": 50}
    words = {"cell": {"name": "lstm", "features": 200}, "embedding": 200, "softmax": {"tied": True, "samples": 2048}}
    speech = {"name": "speech", "bucket": 32}
    shared = {"steps": 100, "optimizer": ADAM}
    lm1b = apply_overrides(load_file("configs/lm1b.py"), {"steps": "1000"})
    return {
        "wikitext2": Case(
            "lines of WikiText-2, LSTM 200, 2048 samples", shared | {"batch_size": 64, "task": text, "model": words}, 30
        ),
        "lm1b": Case("configs/lm1b.py, LSTM 512, 8192 samples", lm1b, 66),
        "timit": Case(
            "TIMIT's sample, LSTM 2 × 100 in each direction",
            shared | {"batch_size": 32, "task": speech, "model": LAYERS},
            19,
        ),
    }


class Measured(NamedTuple):
    """One of two runs."""

    run: Run
    valid: float
    """Tokens or frames of a step, without padding."""
    share: float
    """Of the time steps that the rows take: a batch ends with its longest."""


def prepared(config: dict[str, Any], packed: bool, rows: int) -> Measured:
    """The run with padding or packed; rows: of a packed batch."""
    task = config["task"] | {"packed": packed}
    run = make_run(config | {"task": task} | ({"batch_size": rows} if packed else {}))
    lengths = _lengths(run.task, run.data, run.batch_size)
    return Measured(run, lengths.sum(1).mean(), lengths.sum() / (lengths.max(1).sum() * run.batch_size))


def _lengths(task: Task, data: Any, rows: int, batches: int = 20) -> np.ndarray:
    """Those of the rows of the first batches [batches, rows]."""
    positions = jnp.arange(batches * rows, dtype=jnp.uint32)
    lengths = jax.jit(lambda data: task.batch(data, jnp.int32(0), "train", positions).lengths)(data)
    return np.asarray(lengths).reshape(batches, rows)


def compare(case: Case, steps: int, turns: int) -> list[str]:
    """A row of the table."""
    pair = [prepared(case.config, packed, case.rows) for packed in (False, True)]
    states = [each.run.train(each.run.programs.start(0), 1) for each in pair]
    best = [float("inf"), float("inf")]
    for turn in range(turns):
        for number, each in enumerate(pair):
            jax.block_until_ready(states[number].step)
            began = time.process_time()
            states[number] = each.run.train(states[number], 1 + (turn + 1) * steps)
            jax.block_until_ready(states[number].step)
            best[number] = min(best[number], (time.process_time() - began) / steps)
    rates = [each.valid / seconds for each, seconds in zip(pair, best, strict=True)]
    of_each = [
        (str(each.run.batch_size), f"{each.share:.0%}", f"{rate:.0f}") for each, rate in zip(pair, rates, strict=True)
    ]
    return [case.name, *of_each[0], *of_each[1], f"{rates[1] / rates[0]:.2f}"]


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    values = flags.FlagValues()
    flags.DEFINE_list("cases", [], "which of wikitext2, lm1b, timit; all by default", flag_values=values)
    flags.DEFINE_integer("steps", 10, "training steps of a turn", flag_values=values)
    flags.DEFINE_integer("turns", 5, "how many turns", flag_values=values)
    cli.parse(values, argv, __doc__)
    table = cases()
    for name in values.cases:
        if name not in table:
            raise ConfigError(unknown("case", name, table))
    rows = [compare(table[name], values.steps, values.turns) for name in values.cases or table]
    header = [
        "",
        "rows, padded",
        "of them valid",
        "a processor second",
        "rows, packed",
        "of them valid",
        "a processor second",
        "ratio",
    ]
    print(markdown_table(header, rows), end="")
    return cli.FINISHED


if __name__ == "__main__":
    cli.run(main)
