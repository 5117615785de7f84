"""Times a training step (forward, backward, update) and a forward pass, by rnnlab and by what one would use instead.

    python -m rnnlab.benchmark
    python -m rnnlab.benchmark --cells=lstm,gru --shapes=0,2 --output=benchmark.json
    python -m rnnlab.benchmark --one_core --output=one_core.json
    python -m rnnlab.benchmark --cells=all --shapes=0,2
    python -m rnnlab.benchmark --diagnostics --output=diagnostics_cost.json
    python -m rnnlab.benchmark --language_model --backend=auto,fused --output=language_model.json
    python -m rnnlab.benchmark --speech --output=speech_steps.json
    python -m rnnlab.benchmark --generation --output=generation.json
    python -m rnnlab.benchmark --runs --turns=3 --output=runs.json
    python -m rnnlab.benchmark --sweeps --alone=8 --output=sweeps.json

The contestants take turns within one run; the tables show each one's median, the spread between turns, the ratio to
rnnlab's default backend, the share of the matrix-product rate measured in the same turn, and the temporary memory of
the compiled program. All get the same weights and inputs; a row whose losses or gradients disagree is void.

A last table says how many devices, threads and dispatches a step each contestant uses. rnnlab splits the batch over one
device per core, as `rnnlab.train` does. The plain scan and Flax have one device, and once more, as "split", one per
core, with the batch split and the gradient averaged by hand. torch.nn takes part as it comes and, as "flushed", with
`torch.set_flush_denormal(True)`, which JAX always does. torch.compile runs a loop written by hand, denormals flushed;
it is left out where it does not compile, or not within five minutes a case. PyTorch needs the extra `benchmark`. A
cell that the other libraries lack is compared, in the fused backend, with the plain scan of its own step, and with the
backend `scan` where that runs the cell.

--one_core, which goes with every other flag, gives each contestant one core and one thread (Linux only).

--diagnostics measures instead what watching a run costs: every diagnostic alone, all of them, and writing down what
they find, in training steps, for the adding problem (IRNN, LSTM, GRU) and pixel-by-pixel MNIST, where that is at hand.

The others, one at a time, measure whole steps, runs or texts. --shapes then counts the CASES of
`rnnlab/benchmark/NAME.py`, and --backend lists backends of rnnlab, each of which is a contestant:

--language_model: a whole step of a word-level language model: words per second and peak memory, with the vocabulary of
WikiText-2 beside torch.nn, and with that of 1 Billion Word.

--speech: a whole step of a deep bidirectional LSTM over utterances of different lengths beside torch.nn with packed
sequences.

--generation: a text token by token, one at a time, by LSTM and GRU of 200 and 650 units and 10 000 words: tokens per
second by `rnnlab.generate`, a plain loop in one program, Flax, torch.nn and torch.compile.

--runs: `rnnlab.train` on the adding problem beside a plain loop of PyTorch, from start to end. The latter as it comes
is stopped after two minutes.

--sweeps: 64 runs of the adding problem by one `rnnlab.sweep` and by 64 times `rnnlab.train`, whole commands. That takes
an hour or so on 2 cores; --alone=8 times so many of the 64 alone.
"""

import contextlib
import importlib.util
import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from absl import flags
from rich.console import Console
from rich.progress import Progress

from rnnlab import cli
from rnnlab.benchmark import diagnostics, generation, language_model, race, runs, speech, sweeps
from rnnlab.benchmark.cases import OF_PEERS, SHAPES, Case
from rnnlab.benchmark.layers import measure, summarize
from rnnlab.benchmark.tables import markdown, show
from rnnlab.benchmark.worker import KINDS, Worker
from rnnlab.cells import CELLS
from rnnlab.config.errors import ConfigError, unknown
from rnnlab.engine import Backend
from rnnlab.files import remove, write_text
from rnnlab.files.output import make_console
from rnnlab.ops.linear import Precision
from rnnlab.parallel.devices import cores
from rnnlab.records.provenance import git_commit, versions

WHOLE = {
    "language_model": (language_model, "steps of language models, and nothing else"),
    "speech": (speech, "steps of deep networks over utterances, and nothing else"),
    "generation": (generation, "texts token by token, and nothing else"),
    "runs": (runs, "runs of the adding problem beside PyTorch's, and nothing else"),
    "sweeps": (sweeps, "a sweep beside the same runs alone, and nothing else"),
}
"""Flag -> module with `CASES`, `measure` and `markdown`, and the flag's text."""


def parse_list(text: str, allowed: Sequence[str], flag: str) -> list[str]:
    """The members of a comma-separated flag, checked; all of them if it is empty."""
    chosen = [part.strip() for part in text.split(",") if part.strip()]
    for part in chosen:
        if part not in allowed:
            raise ConfigError(unknown(f"value of --{flag}", part, allowed))
    return chosen or list(allowed)


def watch(turns: int, seconds: float, data_dir: str | None, output: Path | None, console: Console) -> int:
    """--diagnostics; returns the exit status."""
    results: list[dict[str, Any]] = []
    for name, config in diagnostics.RUNS.items():
        console.print(f"measuring {name}")
        try:
            results.append({"run": name} | diagnostics.measure(config, turns, seconds, data_dir))
        except ConfigError as error:  # No data: the other runs are measured.
            console.print(f"{name}: {error}", markup=False)
            results.append({"run": name, "error": str(error)})
        if output is not None:
            save(output, results, turns, diagnostics.markdown(results))
    if output is not None:
        save(output, results, turns, diagnostics.markdown(results), over=True)
    console.print(diagnostics.markdown(results), markup=False)
    return cli.FINISHED if any("error" not in row for row in results) else cli.MISTAKE


def measure_whole(kind: Any, cases: Sequence[Any], asked: race.Asked, output: Path | None, console: Console) -> int:
    """One of `WHOLE`, whose module is `kind`; returns the exit status."""
    results: list[dict[str, Any]] = []
    for case in cases:
        console.print(f"measuring {case.shape()}", highlight=False)
        results += kind.measure(case, asked)
        if output is not None:
            save(output, results, asked.turns, kind.markdown(results))
    if output is not None:
        save(output, results, asked.turns, kind.markdown(results), over=True)
    console.print(kind.markdown(results), markup=False, soft_wrap=True)
    for row in (row for row in results if "error" in row):
        console.print(f"{row['shape']} {row.get('contestant', '')}: {row['error']}", markup=False)
    return cli.FINISHED if any("error" not in row for row in results) else cli.MISTAKE


def measure_layers(
    cases: Sequence[Case], turns: int, seconds: float, kinds: Sequence[str], output: Path | None, console: Console
) -> int:
    """Steps and forward passes of layers alone; returns the exit status. kinds: of `worker.KINDS`."""
    workers = [Worker(kind) for kind in kinds]
    from rnnlab.plots import benchmark_ratios  # After the check of the words: it takes a second to import.

    rate = workers[kinds.index("jax")].ask(do="rate", seconds=3.0)
    if isinstance(rate, dict):
        raise ConfigError(f"JAX does not run here: {rate['error']}")
    console.print(f"matrix product rate: {rate / 1e9:.0f} GFLOP/s (float32, 2048 x 2048)")
    results: list[dict[str, Any]] = []
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("", total=len(cases))
        for case in cases:
            progress.update(task, description=f"{case.cell} {case.shape()}")
            results += summarize(case, measure(case, workers, turns, seconds))
            if output is not None:  # After every case: a run takes a while.
                save(output, results, turns, markdown(results))
            progress.advance(task)
    if output is not None:
        save(output, results, turns, markdown(results), over=True)
    for worker in workers:
        worker.close()
    show(results, console)
    if output is not None:
        console.print(f"{output}, {output.with_suffix('.md')}, {benchmark_ratios(output)}")
    return cli.FINISHED if any("error" not in row for row in results) else cli.MISTAKE


@contextlib.contextmanager
def on_one_core(asked: bool) -> Iterator[None]:
    """If asked, this process and all that it starts have one core, the last of those it had.

    Raises:
        ConfigError: this system does not give processes cores of their own.
    """
    if not asked:
        yield
        return
    if not hasattr(os, "sched_setaffinity"):
        raise ConfigError(f"--one_core: {platform.system()} gives no process a core of its own; measure on Linux")
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def save(path: Path, results: list[dict[str, Any]], turns: int, table: str, over: bool = False) -> None:
    """Writes the JSON file, and the table beside it; until all is measured, and where nothing could be, to
    NAME-unfinished: what an earlier measurement has left stays as it was."""
    unfinished = path.with_name(f"{path.stem}-unfinished{path.suffix}")
    over = over and any("error" not in row for row in results)
    path = path if over else unfinished
    record = {
        "machine": {"cores": cores(), "processor": platform.processor() or platform.machine()},
        "versions": versions(),
        "git_commit": git_commit(),
        "turns": turns,
        "results": results,
    }
    write_text(path, json.dumps(record, indent=1) + "\n")
    write_text(path.with_suffix(".md"), table)
    if over:
        remove(unfinished)
        remove(unfinished.with_suffix(".md"))


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    values = flags.FlagValues()
    text = f"of {', '.join(CELLS)}; all, or nothing, for every one of them"
    flags.DEFINE_string("cells", ",".join(OF_PEERS), text, flag_values=values)
    numbered = ", ".join(f"{i} {Case('gru', *shape).shape()}" for i, shape in enumerate(SHAPES))
    flags.DEFINE_string("shapes", "", f"numbers of (T, B, D, H): {numbered}; all if empty", flag_values=values)
    flags.DEFINE_integer("turns", 5, "how often each contestant is timed", lower_bound=1, flag_values=values)
    flags.DEFINE_float("seconds", 0.5, "how long, at least, each time", lower_bound=0.0, flag_values=values)
    flags.DEFINE_bool("diagnostics", False, "what watching a run costs, and nothing else", flag_values=values)
    for name, (_, text) in WHOLE.items():
        flags.DEFINE_bool(name, False, text, flag_values=values)
    flags.DEFINE_bool("one_core", False, "a core and a thread for each contestant", flag_values=values)
    text = "layers alone: how exact products are"
    flags.DEFINE_enum("precision", "highest", get_args(Precision), text, flag_values=values)
    text = "layers alone: torch.compile takes part, which may compile a case for five minutes"
    flags.DEFINE_bool("torch_compile", True, text, flag_values=values)
    text = f"rnnlab's backends in whole steps, runs and texts, each a contestant: {', '.join(get_args(Backend))}"
    flags.DEFINE_string("backend", "auto", text, flag_values=values)
    text = "with --sweeps: how many of a sweep's runs are timed alone"
    flags.DEFINE_integer("alone", 64, text, lower_bound=1, flag_values=values)
    text = "JSON file; a table and (of the layers alone) the figure are put beside it as .md and .png"
    cli.path_flag(values, "output", None, text)
    cli.data_flags(values)
    cli.figure_flag(values)
    cli.parse(values, argv, __doc__)
    cells = parse_list("" if values.cells == "all" else values.cells, list(CELLS), "cells")
    chosen = [name for name in WHOLE if values[name].value]
    if len(chosen) > 1:
        raise ConfigError(f"{' and '.join(f'--{name}' for name in chosen)}: one at a time")
    allowed = WHOLE[chosen[0]][0].CASES if chosen else SHAPES
    shapes: list[Any] = [allowed[int(i)] for i in parse_list(values.shapes, [*map(str, range(len(allowed)))], "shapes")]
    backends = parse_list(values.backend or "auto", get_args(Backend), "backend")
    if backends != ["auto"] and (not chosen or values.diagnostics):
        raise ConfigError(f"--backend goes with {', '.join(f'--{name}' for name in WHOLE)}; layers have all backends")

    # Whole numbers in a file or a pipe too.
    console = make_console(highlight=True, soft_wrap=False, width=None if sys.stdout.isatty() else 150)
    output = Path(values.output) if values.output else None
    has_torch = importlib.util.find_spec("torch") is not None
    with on_one_core(values.one_core):
        if values.diagnostics:
            return watch(values.turns, values.seconds, values.data_dir, output, console)
        if not has_torch and chosen != ["sweeps"]:
            console.print("torch is not installed: it takes no part (pip install 'rnnlab[benchmark]')")
        if chosen:
            asked = race.Asked(values.turns, values.seconds, has_torch, backends, values.alone)
            return measure_whole(WHOLE[chosen[0]][0], shapes, asked, output, console)
        kinds = [kind for kind in KINDS if has_torch or not kind.startswith("torch")]
        kinds = [
            kind for kind in kinds if kind not in ("jax split", "rnnlab one device") or cores() > 1
        ]  # On one core there is nothing to split.
        kinds = [kind for kind in kinds if kind != "torch compiled" or values.torch_compile]
        cases = [Case(cell, *shape, precision=values.precision) for shape in shapes for cell in cells]
        return measure_layers(cases, values.turns, values.seconds, kinds, output, console)


if __name__ == "__main__":
    cli.run(main)
